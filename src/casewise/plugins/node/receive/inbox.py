"""What arrives at a node: an image is checked, written durably and added to the queue before its sender is answered.

Objects of other kinds, such as reports, and answers of this software that come back are accepted but not kept, so that
a PACS may send whole studies.

A file is written with a head of its own: the sender's file meta information, which may name stations and differs
between repeats, is left out, and the bytes of the data set stay as they are. Names of files are hashes, so that nothing
that a file states becomes a path.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError
from casewise.files import make_folder, write_atomic
from casewise.modalities.store.dicom_file import DEFLATED, damage, quiet_pydicom
from casewise.plugins.node.queue.records import study_folder, study_label

if TYPE_CHECKING:
    from casewise.plugins.node.queue.study_queue import StudyQueue

FOLDER = "received"
# A UID: PS3.5, 9.1. Leading zeros, which the standard forbids, occur.
UID = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)
LONGEST_UID = 64
# Bytes of the disk that images leave free, so that answers of what was received can be written.
RESERVE = 256 * 2**20
STUDY, SERIES, INSTANCE, CLASS, MAKER = 0x0020000D, 0x0020000E, 0x00080018, 0x00080016, 0x00080070
ROWS, COLUMNS, SAMPLES, BITS, FRAMES, COLOURS = 0x00280010, 0x00280011, 0x00280002, 0x00280100, 0x00280008, 0x00280004
PIXELS = 0x7FE00010
TAGS = (STUDY, SERIES, INSTANCE, CLASS, MAKER, ROWS, COLUMNS, SAMPLES, BITS, FRAMES, COLOURS, PIXELS)
OWN = b"casewise"
IMPLEMENTATION = "2.25.312953292074262856701252755063649413041"


class RefusedError(CasewiseError):
    """What arrived is no image that the node can use; its sender is told, and nothing is kept."""


@dataclass(frozen=True)
class ReceivedImage:
    """An image that is in the queue.

    Attributes:
        study, series, instance, sop_class: its UIDs.
        is_new: whether it was not there before, and is kept.
    """

    study: str
    series: str
    instance: str
    sop_class: str
    is_new: bool = False


class FullError(CasewiseError):
    """There is no room for an image, or the disk failed: its sender may try again later; nothing is kept."""

    def __init__(self, message: str, image: ReceivedImage) -> None:
        super().__init__(message)
        self.image = image


class Inbox:
    """Where images arrive, for a queue."""

    def __init__(self, queue: StudyQueue) -> None:
        self._queue, self.folder = queue, queue.folder / FOLDER
        make_folder(self.folder)

    def sweep(self) -> None:
        """Remove files of no study, such as those of a kill or a full disk; called before anything is received."""
        self._queue.sweep(self.folder)

    def problem(self) -> str:
        """Why nothing can be received at this moment; empty if it can."""
        try:
            if shutil.disk_usage(self.folder).free < RESERVE:
                return f"The disk of {self.folder} is full. Make room on it."
            self._queue.check_writable()
        except (CasewiseError, OSError) as error:
            return str(error)
        return ""

    def receive_file(self, data: bytes, source: str) -> ReceivedImage:
        """Receive a DICOM file (PS3.10).

        Raises:
            RefusedError, FullError: as `receive`.
        """
        pydicom = quiet_pydicom()
        if data[128:132] != b"DICM":
            raise RefusedError("It is not a DICOM file." if data else "It is an empty file.")
        stream = io.BytesIO(data)
        stream.seek(132)
        try:
            read = pydicom.filereader.read_dataset
            meta = read(stream, False, True, stop_when=lambda tag, *_: tag.group != 2)
            syntax = str(meta.TransferSyntaxUID)
        except damage():
            raise RefusedError("Its file meta information is damaged.") from None
        return self.receive(data[stream.tell() :], syntax, source)

    def receive(self, dataset: bytes, syntax: str, source: str, stated: tuple[str, str] | None = None) -> ReceivedImage:
        """Check an image, write it durably and add it to the queue.

        Args:
            dataset: the encoded data set; syntax: the UID of its transfer syntax.
            source: by which way it came, such as `dicom PACS`, for events.
            stated: the UIDs of its class and of itself that the sender stated.

        Raises:
            RefusedError: it is no image with the identifiers of a study.
            FullError: it cannot be stored.
        """
        elements = _elements(dataset, syntax)
        study, series, instance, sop_class = (_uid(elements, tag) for tag in (STUDY, SERIES, INSTANCE, CLASS))
        image = ReceivedImage(study, series, instance, sop_class)
        if stated not in (None, (sop_class, instance)):
            raise RefusedError("Its identifiers are not those that its sender stated.")
        kind = "an answer of casewise" if elements.get(MAKER, b"").strip(b" \0") == OWN else kind_of(sop_class)
        if not kind:
            _check_pixels(elements, syntax)
        content = _head(image, syntax) + dataset
        sha256 = hashlib.sha256(content).hexdigest()
        try:
            if kind:
                self._queue.note("not kept", f"{kind}, {study_label(instance)}, from {source}", study)
                return image
            if self._queue.has_instance(study, instance, sha256):
                return image
            if shutil.disk_usage(self.folder).free < len(content) + RESERVE:
                raise FullError(f"The disk of {self.folder} is full. Make room on it.", image)
            # the content is in the name, so that no other file of this UID is overwritten
            name = f"{_hash(instance)}-{sha256[:16]}.dcm"
            path = self.folder / study_folder(study) / _hash(series) / name
            write_atomic(path, content)
            is_new = self._queue.add_instance(study, series, instance, path, sha256, source)
        except FullError:
            raise
        except (CasewiseError, OSError) as error:
            raise FullError(str(error), image) from error
        return ReceivedImage(study, series, instance, sop_class, is_new)


def kind_of(sop_class: str) -> str:
    """What an object is that is no image; empty for an image.

    >>> kind_of("1.2.840.10008.5.1.4.1.1.88.33"), kind_of("1.2.840.10008.5.1.4.1.1.2")
    ('Comprehensive SR Storage', '')
    """
    name = quiet_pydicom().uid.UID(sop_class).name
    return "" if "Image Storage" in name else str(name)


def _hash(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def _elements(dataset: bytes, syntax: str) -> dict[int, bytes]:
    """The encoded values of the elements that are checked; those of compressed images are only not empty."""
    pydicom = quiet_pydicom()
    uid = pydicom.uid.UID(syntax)
    if syntax == DEFLATED.decode() or not uid.is_transfer_syntax:
        raise RefusedError("Its transfer syntax is not supported.")
    try:
        stream = io.BytesIO(dataset)
        little = uid.is_little_endian
        read = pydicom.filereader.read_dataset(stream, uid.is_implicit_VR, little, specific_tags=list(TAGS))
        values = {tag: read.get_item(tag).value for tag in TAGS if tag in read}
        for tag in (ROWS, COLUMNS, SAMPLES, BITS):
            if len(values.get(tag) or b"") == 2:
                values[tag] = str(int.from_bytes(values[tag], "little" if little else "big")).encode()
    except damage():
        raise RefusedError("Its data set is damaged.") from None
    return {tag: bytes(value) if isinstance(value, (bytes, bytearray)) else b"" for tag, value in values.items()}


def _uid(elements: dict[int, bytes], tag: int) -> str:
    names = {STUDY: "Study Instance UID", SERIES: "Series Instance UID", INSTANCE: "SOP Instance UID"}
    text = elements.get(tag, b"").strip(b" \0").decode("ascii", "replace")
    if not text:
        raise RefusedError(f"It has no {names.get(tag, 'SOP Class UID')}.")
    if len(text) > LONGEST_UID or not UID.fullmatch(text):
        raise RefusedError(f"Its {names.get(tag, 'SOP Class UID')} is not a UID of at most {LONGEST_UID} characters.")
    return text


def _check_pixels(elements: dict[int, bytes], syntax: str) -> None:
    """Refuse an image without pixels, or with fewer than its size states."""
    pixels = len(elements.get(PIXELS, b""))
    try:
        rows, columns, bits = (int(elements.get(tag) or 0) for tag in (ROWS, COLUMNS, BITS))
        samples, frames = (int(elements.get(tag) or 1) for tag in (SAMPLES, FRAMES))
    except ValueError:
        raise RefusedError("Its size in pixels is damaged.") from None
    if not pixels or min(rows, columns, bits, samples, frames) < 1:
        raise RefusedError("It has no image.")
    if elements.get(COLOURS, b"").startswith(b"YBR_FULL_422"):  # two pixels share their colour
        samples = 2
    if not quiet_pydicom().uid.UID(syntax).is_encapsulated and pixels < rows * columns * bits * samples * frames // 8:
        raise RefusedError("Its image is incomplete.")


def _head(image: ReceivedImage, syntax: str) -> bytes:
    """What precedes the data set in a file, always the same for an image: an empty preamble and meta information."""
    pydicom = quiet_pydicom()
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = image.sop_class, image.instance
    meta.TransferSyntaxUID, meta.ImplementationClassUID = syntax, IMPLEMENTATION
    meta.ImplementationVersionName = "CASEWISE"
    stream: Any = pydicom.filebase.DicomBytesIO()
    pydicom.filewriter.write_file_meta_info(stream, meta)
    return bytes(128) + b"DICM" + bytes(stream.getvalue())
