"""DICOM files: listing and recognising them, reading tags as text and numbers, and the errors of damaged files."""

from __future__ import annotations

import logging
import os
import re
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from casewise.cohort.folder_layout import DICOM_SUFFIXES
from casewise.errors import ImageError

DEFLATED = b"1.2.840.10008.1.2.1.99"
# A DICOM file is marked after 128 bytes; its transfer syntax follows within the first thousand.
HEAD = 1024
# Beyond it a number of 32 bits no longer holds the steps of a scale.
LARGEST_SHIFT = 2.0**24
# More files than any scan has.
MOST_FILES = 20_000
# What identifies a patient.
PERSON = ("PatientID", "PatientName", "PatientBirthDate", "IssuerOfPatientID")


def is_dicom(head: bytes) -> bool:
    r"""Whether a file with these first bytes is DICOM.

    >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"path,subject\n")
    (True, False)
    """
    if head[128:132] == b"DICM":
        return True
    # Old software wrote no preamble: the first element is of group 0002 or 0008, with its type or a short length.
    tag, kind, length = head[:4], head[4:6], head[6:8]
    return tag[:2] in (b"\x02\0", b"\x08\0") and tag[3:] == b"\0" and (kind.isupper() or length == b"\0\0")


def scale_problem(slope: float, intercept: float) -> str:
    """What is wrong with a scale of pixels, by which neighbouring values become equal; '' if nothing is.

    >>> scale_problem(1, -1024), scale_problem(0, 0), scale_problem(1, 1e308)
    ('', 'RescaleSlope is 0', 'RescaleIntercept is 1e+308')
    """
    if slope == 0:
        return "RescaleSlope is 0"
    return f"RescaleIntercept is {intercept:g}" if abs(intercept) > LARGEST_SHIFT * abs(slope) else ""


def head_of(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(HEAD)
    except (OSError, ValueError) as error:  # ValueError: no path can have such a character
        raise ImageError(f"{path}: it cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def dicom_files(path: Path) -> tuple[list[Path], list[Path]]:
    """The DICOM files of a folder and of all folders in it, sorted, and the other files; or a file by itself.

    Raises:
        ImageError: the folder contains too many files, or cannot be listed.
    """
    if not path.is_dir():
        return [path], []
    dicom: list[Path] = []
    others: list[Path] = []
    for file in _files(path):
        # A file that has the suffix and is not DICOM is a broken copy: reading it raises the error.
        has_suffix = file.suffix.lower() in DICOM_SUFFIXES
        (dicom if has_suffix or is_dicom(head_of(file)) else others).append(file)
    return sorted(dicom), sorted(others)


def _files(folder: Path) -> list[Path]:
    """All files under a folder except hidden ones."""
    files: list[Path] = []

    def refuse(error: OSError) -> None:
        raise ImageError(f"{error.filename}: the folder cannot be listed: {error.strerror}.") from error

    for parent, _, names in os.walk(folder, onerror=refuse):
        visible = [name for name in names if not name.startswith(".")]
        files += [Path(parent) / name for name in visible if os.path.isfile(f"{parent}/{name}")]
        if len(files) > MOST_FILES:
            raise ImageError(
                f"{folder}: the folder contains more than {MOST_FILES:,} files. Name the folder of one scan of "
                f"one visit."
            )
    return files


def quiet_pydicom() -> ModuleType:
    """The package `pydicom`; its log and its warnings, which quote the values of tags, are no longer passed on.

    Raises:
        ImportError: it is not installed.
    """
    import pydicom

    logging.getLogger("pydicom").propagate = False
    # not in a context, because contexts of several threads end each other's filters
    if not any(getattr(module, "pattern", module) == "pydicom" for _, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module="pydicom")
    module: ModuleType = pydicom
    return module


def name_of(uid: Any) -> str:
    """The name of an identifier of the standard, such as a kind of image; never the text of the file itself."""
    name = str(getattr(uid, "name", ""))
    return name if name and name != str(uid) else "of no known kind"


@cache
def damage() -> tuple[type[Exception], ...]:
    """The errors that pydicom raises on damaged files, determined by damaging files at random."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    plain = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)
    return (*plain, MemoryError, struct.error, BytesLengthException, InvalidDicomError)


class DefectError(ValueError):
    """A defect of a DICOM file in our words: a clause without values of its tags."""


class PixelError(ValueError):
    """The pixels of a DICOM file cannot be used; the message is a clause with a remedy, without the file's name."""


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn an error of pydicom into an `ImageError` that names the file."""
    try:
        with warnings.catch_warnings():
            # Readable values that violate the standard need no warning.
            warnings.simplefilter("ignore")
            yield
    except PixelError as error:
        raise ImageError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ImageError(
            f"{path}: its DICOM sequences are nested too deeply to be read. The file is damaged or malicious; "
            "leave it out, or copy it again from its source."
        ) from error
    except damage() as error:
        raise ImageError(
            f"{path}: the DICOM file is damaged: {defect_of(error)}. Copy it again from its source."
        ) from error


def defect_of(error: Exception) -> str:
    """What an error of pydicom means for the file, without its text, which may quote the values of tags.

    >>> defect_of(EOFError("b'Doe^Jane'")), defect_of(KeyError("Rows"))
    ('it is cut short', 'a tag that describes its pixels is missing or empty')
    """
    from pydicom.errors import InvalidDicomError

    if isinstance(error, DefectError):
        return str(error)
    if re.search(r"could not convert|Invalid value .*must conform|invalid literal", str(error)):
        return "a number in it cannot be read"
    if isinstance(error, EOFError) or re.search(r"less than expected|truncated|end of (the )?(file|data)", str(error)):
        return "it is cut short"
    defects: dict[type[Exception], str] = {
        InvalidDicomError: "it does not begin as a DICOM file does",
        MemoryError: "it states a length that no memory holds",
        LookupError: "a tag that describes its pixels is missing or empty",
        AttributeError: "a tag that describes its pixels is missing or empty",
        RuntimeError: "its pixels cannot be decoded",
        OSError: "it cannot be read to its end",
    }
    unknown = "a value in it has another form than the standard allows"
    return next((defect for kind, defect in defects.items() if isinstance(error, kind)), unknown)


def text_of(header: Any, tag: str) -> str:
    """The value of a tag as text; empty if there is none or it is unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = header.get(tag)
    except damage():
        return ""
    if value is None:
        return ""
    text = "\\".join(map(str, value)) if type(value).__name__ == "MultiValue" else str(value)
    return text.replace("\0", "").strip()


def whole_number(header: Any, tag: str, default: int) -> int:
    """The whole number of a tag; `default` if it is missing or not a number."""
    try:
        return int(float(text_of(header, tag)))
    except (ValueError, OverflowError):
        return default


def same_patient(people: Iterable[Sequence[str]]) -> bool:
    """Whether headers with these values of `PERSON` are of one patient. Empty components at the end of a name do not
    count, and the issuer only where it is stated.

    >>> same_patient([("7", "Doe^Jane", "", "A"), ("7", "Doe^Jane^^", "", "")])
    True
    >>> same_patient([("7", "Doe^Jane", "", "A"), ("7", "Doe^Jane", "", "B")])
    False
    """
    identities, issuers = set(), set()
    for number, name, day, issuer in people:
        groups = "=".join(group.rstrip("^ ") for group in name.split("="))
        identities.add((number, groups.rstrip("="), day))
        issuers |= {issuer} - {""}
    return max(len(identities), len(issuers)) <= 1
