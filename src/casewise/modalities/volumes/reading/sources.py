"""The files of a scan: listing them, and recognising DICOM by its first bytes."""

from __future__ import annotations

import os
from pathlib import Path

from casewise.cohort.folder_layout import DICOM_SUFFIXES
from casewise.errors import ImageError
from casewise.modalities.store.dicom_file import is_dicom
from casewise.modalities.store.file_check import size_of

# A DICOM file is marked after 128 bytes; its transfer syntax follows within the first thousand.
HEAD = 1024
# More files than any scan has.
MOST_FILES = 20_000


def checked_size(path: Path) -> int:
    """Return the number of bytes of a file that should be a scan or one of its slices.

    Raises:
        ImageError: it is missing, empty, not a file, or not readable.
    """
    remedy = "this is not a file. Name a .nii or .nii.gz file, or a folder of DICOM files."
    return size_of(path, folder=remedy, other=remedy)


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
        files += [
            Path(parent) / name for name in names if not name.startswith(".") and os.path.isfile(f"{parent}/{name}")
        ]
        if len(files) > MOST_FILES:
            raise ImageError(
                f"{folder}: the folder contains more than {MOST_FILES:,} files. Name the folder of one scan of "
                f"one visit."
            )
    return files
