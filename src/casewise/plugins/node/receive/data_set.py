"""An encoded DICOM data set that arrives: what it states, and copies of it; its pixels are never read into memory."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO

from casewise.errors import CasewiseError
from casewise.modalities.store.dicom_file import DEFLATED, damage, quiet_pydicom

# A UID: PS3.5, 9.1. Leading zeros, which the standard forbids, occur.
UID = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)
LONGEST_UID = 64
# Bytes that are copied at a time, and from which on the value of an element is not read into memory.
CHUNK, LONG_VALUE = 2**20, 4096
STUDY, SERIES, INSTANCE, CLASS, MAKER = 0x0020000D, 0x0020000E, 0x00080018, 0x00080016, 0x00080070
ROWS, COLUMNS, SAMPLES, BITS, FRAMES, COLOURS = 0x00280010, 0x00280011, 0x00280002, 0x00280100, 0x00280008, 0x00280004
PIXELS = 0x7FE00010
NUMBERS = (ROWS, COLUMNS, SAMPLES, BITS)
NAMES = {
    STUDY: "Study Instance UID",
    SERIES: "Series Instance UID",
    INSTANCE: "SOP Instance UID",
    CLASS: "SOP Class UID",
}
TAGS = (STUDY, SERIES, INSTANCE, CLASS, MAKER, FRAMES, COLOURS, PIXELS, *NUMBERS)
# Classes of objects with pixels that are results: segmentations, parametric maps, doses.
RESULTS = tuple(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("66.4", "66.7", "30", "481.2"))
OWN, UNDEFINED = b"casewise", 0xFFFFFFFF


class RefusedError(CasewiseError):
    """What arrived is no image that the node can use; its sender is told, and nothing is kept.

    Attributes:
        study: the UID of the study to which it belongs; empty if it states none.
    """

    def __init__(self, message: str, study: str = "") -> None:
        super().__init__(message)
        self.study = study


def kind_of(sop_class: str, *, has_pixels: bool) -> str:
    """What an object is that is no image; empty for an image, also one of a class that the standard does not have.

    >>> kind_of("1.2.840.10008.5.1.4.1.1.88.33", has_pixels=False), kind_of("1.2.3", has_pixels=True)
    ('Comprehensive SR Storage', '')
    """
    name = str(quiet_pydicom().uid.UID(sop_class).name)
    if "Image Storage" in name or (has_pixels and sop_class not in RESULTS):
        return ""
    return "an object of an unknown class" if name == sop_class else name


def _sha256(chunks: Iterable[bytes], file: BinaryIO | None = None) -> str:
    """The SHA-256 of what is in chunks, which are also written to a file if one is stated."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        if file:
            file.write(chunk)
    return digest.hexdigest()


def syntax_of(stream: BinaryIO) -> str:
    """The transfer syntax of a DICOM file, which then stands at its data set.

    Raises:
        RefusedError: it is no such file.
    """
    start = stream.read(132)
    if start[128:] != b"DICM":
        raise RefusedError("It is not a DICOM file." if start else "It is an empty file.")
    try:
        read = quiet_pydicom().filereader.read_dataset
        return str(read(stream, False, True, stop_when=lambda tag, *_: tag.group != 2).TransferSyntaxUID)
    except damage():
        raise RefusedError("Its file meta information is damaged.") from None


@dataclass(frozen=True)
class _Header:
    """What is checked of a data set.

    Attributes:
        values: by tag, as text.
        pixels: bytes of its image; of a compressed one, only whether there are any.
        is_whole: whether it ends where an element ends.
    """

    values: Mapping[int, bytes]
    pixels: int
    is_compressed: bool
    is_whole: bool

    def uid(self, tag: int) -> str:
        """An identifier.

        Raises:
            RefusedError: there is none that the standard allows.
        """
        text = self.values.get(tag, b"").strip(b" \0").decode("ascii", "replace")
        if not text:
            raise RefusedError(f"It has no {NAMES[tag]}.")
        if len(text) > LONGEST_UID or not UID.fullmatch(text):
            raise RefusedError(f"Its {NAMES[tag]} is not a UID of at most {LONGEST_UID} characters.")
        return text

    def kind(self) -> str:
        """What it is that is no image to predict; empty for an image."""
        if self.values.get(MAKER, b"").strip(b" \0") == OWN:
            return "an answer of casewise"
        return kind_of(self.uid(CLASS), has_pixels=self.pixels > 0 and ROWS in self.values)

    def pixel_problem(self) -> str:
        """Why there is no image, or one with fewer pixels than its size states; empty if there is one."""
        values = self.values
        try:
            rows, columns, bits = (int(values.get(tag) or 0) for tag in (ROWS, COLUMNS, BITS))
            samples, frames = (int(values.get(tag) or 1) for tag in (SAMPLES, FRAMES))
        except ValueError:
            return "Its size in pixels is damaged."
        if not self.pixels or min(rows, columns, bits, samples, frames) < 1:
            return "It has no image."
        if values.get(COLOURS, b"").startswith(b"YBR_FULL_422"):  # two pixels share their colour
            samples = 2
        is_cut = not self.is_compressed and self.pixels < rows * columns * bits * samples * frames // 8
        return "Its image is incomplete." if is_cut else ""


@dataclass(frozen=True)
class DataSet:
    """An encoded data set: what a file has from `start` on; its pixels are never in memory as a whole."""

    stream: BinaryIO
    start: int
    size: int
    syntax: Any

    @classmethod
    def of(cls, stream: BinaryIO, syntax: str) -> DataSet:
        """From where the file stands.

        Raises:
            RefusedError: the transfer syntax is not supported.
        """
        uid, start = quiet_pydicom().uid.UID(syntax), stream.tell()
        if syntax == DEFLATED.decode() or not uid.is_transfer_syntax:
            raise RefusedError("Its transfer syntax is not supported.")
        return cls(stream, start, stream.seek(0, os.SEEK_END) - start, uid)

    def _read(self, start: int, **options: Any) -> Any:
        read, syntax = quiet_pydicom().filereader.read_dataset, self.syntax
        self.stream.seek(start)
        return read(self.stream, syntax.is_implicit_VR, syntax.is_little_endian, **options)

    def header(self) -> _Header:
        """What is checked.

        Raises:
            RefusedError: it is damaged.
        """
        values, pixels, end = dict[int, bytes](), 0, self.start + self.size
        try:
            elements = self._read(self.start, specific_tags=list(TAGS), defer_size=LONG_VALUE)
            is_whole = self.stream.tell() == end
            for tag in (tag for tag in TAGS if tag in elements):
                element = elements.get_item(tag, keep_deferred=True)
                value = element.value
                if tag == PIXELS and value is None:
                    pixels = (
                        LONG_VALUE if element.length == UNDEFINED else min(element.length, end - element.value_tell)
                    )
                elif tag == PIXELS:
                    pixels = len(value)
                elif tag in NUMBERS and len(value or b"") == 2:
                    number = int.from_bytes(value, "little" if self.syntax.is_little_endian else "big")
                    values[tag] = str(number).encode()
                elif isinstance(value, (bytes, bytearray)):
                    values[tag] = bytes(value)
        except damage():
            raise RefusedError("Its data set is damaged.") from None
        return _Header(values, pixels, bool(self.syntax.is_encapsulated), is_whole)

    def copied(self, head: bytes, file: BinaryIO | None = None) -> str:
        """The SHA-256 of a head and the data set, which are also written to a file if one is stated."""
        return _sha256(chain([head], self._chunks(self.start, self.size)), file)

    def _chunks(self, start: int, size: int) -> Iterator[bytes]:
        self.stream.seek(start)
        while size > 0 and (chunk := self.stream.read(min(size, CHUNK))):
            size -= len(chunk)
            yield chunk

    def states_the_same(self, other: DataSet) -> bool:
        """Whether both have the same values; False where one is compressed or damaged, which is not compared."""
        if any(each.syntax.is_encapsulated or not each.syntax.is_little_endian for each in (self, other)):
            return False
        try:
            return bool(self._values() == other._values())
        except damage():
            return False

    def _values(self) -> Any:
        """The elements before the pixels as one encoding states them, and the hashes of the others."""
        pydicom = quiet_pydicom()
        elements = self._read(self.start, stop_when=lambda tag, *_: tag >= PIXELS)
        others = self._read(self.stream.tell(), defer_size=LONG_VALUE)
        raw = [others.get_item(tag, keep_deferred=True) for tag in others.keys()]  # noqa: SIM118 (values are not read)
        hashes = {each.tag: _sha256(self._chunks(each.value_tell, each.length)) for each in raw}
        buffer = pydicom.filebase.DicomBytesIO()
        buffer.is_implicit_VR = buffer.is_little_endian = True
        pydicom.filewriter.write_dataset(buffer, elements)
        buffer.seek(0)
        return pydicom.filereader.read_dataset(buffer, True, True), hashes
