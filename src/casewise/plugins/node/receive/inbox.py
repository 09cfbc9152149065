"""What arrives at a node: an image is checked, written durably and added to the queue before its sender is answered.

Objects of other kinds, such as reports, and answers of this software that come back are accepted but not kept, so that
a PACS may send whole studies.

A file is written with a head of its own: the sender's file meta information, which may name stations and differs
between repeats, is left out, and the bytes of the data set stay as they are. Names of
files are hashes, so that nothing that a file states becomes a path.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from casewise.errors import CasewiseError, counted
from casewise.files import checksum, make_folder, replacing
from casewise.modalities.store.dicom_file import quiet_pydicom
from casewise.plugins.node.node_log import log
from casewise.plugins.node.queue.records import RECEIVED, study_folder, study_label
from casewise.plugins.node.receive.data_set import CLASS, INSTANCE, SERIES, STUDY, DataSet, RefusedError, syntax_of

if TYPE_CHECKING:
    from casewise.plugins.node.queue.study_queue import StudyQueue

# Bytes of the disk that images leave free, so that answers of what was received can be written.
RESERVE = 256 * 2**20
# The largest image in bytes, unless the settings state another one.
LARGEST = 512 * 2**20
IMPLEMENTATION = "2.25.312953292074262856701252755063649413041"


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
    """Where images arrive, for a queue.

    Args:
        largest: bytes of an image; larger ones are refused.
    """

    def __init__(self, queue: StudyQueue, largest: int = LARGEST) -> None:
        self._queue, self.folder, self.largest = queue, queue.folder / RECEIVED, largest
        make_folder(self.folder)

    def sweep(self) -> None:
        """Remove what a kill left, and record images again that no study names; called before anything is received.

        What cannot be recorded, such as a damaged file, stays where it is.

        Raises:
            CasewiseError: the queue belongs to another folder.
        """
        recorded, problems = 0, dict[Path, str]()
        for path in self._queue.sweep(self.folder):
            try:
                with path.open("rb") as file:
                    recorded += self.receive_file(file, "the disk").is_new
            except (CasewiseError, OSError) as error:
                problems[path] = str(error)
        if recorded:
            log.warning("%s that no study named received again from %s", counted(recorded, "image"), self.folder)
        for path, problem in list(problems.items())[:1]:
            text = "%s that no study names cannot be received again from %s, such as %s: %s"
            log.error(text, counted(len(problems), "file"), self.folder, path.name, problem)

    def problem(self) -> str:
        """Why nothing can be received at this moment; empty if it can."""
        try:
            if shutil.disk_usage(self.folder).free < RESERVE:
                return f"The disk of {self.folder} is full. Make room on it."
            self._queue.check_writable()
        except (CasewiseError, OSError) as error:
            return str(error)
        return ""

    def receive_file(self, stream: BinaryIO, source: str) -> ReceivedImage:
        """Receive a DICOM file (PS3.10).

        Raises:
            RefusedError, FullError: as `receive`.
        """
        return self.receive(stream, syntax_of(stream), source)

    def receive(
        self, stream: BinaryIO, syntax: str, source: str, stated: tuple[str, str] | None = None
    ) -> ReceivedImage:
        """Check an image, write it durably and add it to the queue.

        Args:
            stream: a file that is read from where it stands: the encoded data set; syntax: the UID of its transfer
                syntax.
            source: by which way it came, such as `dicom PACS`, for events.
            stated: the UIDs of its class and of itself that the sender stated.

        Raises:
            RefusedError: it is no image with the identifiers of a study.
            FullError: it cannot be stored.
        """
        data = DataSet.of(stream, syntax)
        if data.size > self.largest:
            raise RefusedError(f"It is larger than {self.largest / 2**20:,.3g} MiB, the limit `receive.largest`.")
        header = data.header()
        study, series, instance, sop_class = (header.uid(tag) for tag in (STUDY, SERIES, INSTANCE, CLASS))
        image = ReceivedImage(study, series, instance, sop_class)
        if stated not in (None, (sop_class, instance)):
            raise RefusedError("Its identifiers are not those that its sender stated.")
        kind = header.kind()
        if problem := ("" if header.is_whole else "It is cut short.") if kind else header.pixel_problem():
            raise RefusedError(problem, study)
        head = _head(image, syntax)
        try:
            if kind:
                self._queue.note("not kept", f"{kind}, {study_label(instance)}, from {source}", study)
                return image
            sha256 = data.copied(head)
            folder = self.folder / study_folder(study) / _hash(series)
            if self._queue.has_instance(study, instance, sha256) or self._is_recoded(image, data, folder):
                return image
            # the content is in the name, so that no other file of this UID is overwritten
            path = folder / f"{_hash(instance)}-{sha256[:16]}.dcm"
            if not path.is_file() or checksum(path) != sha256:
                self._write(path, data, head, sha256, image)
            is_new = self._queue.add_instance(study, series, instance, path, sha256, source)
        except FullError:
            raise
        except (CasewiseError, OSError) as error:
            raise FullError(str(error), image) from error
        return ReceivedImage(study, series, instance, sop_class, is_new)

    def _write(self, path: Path, data: DataSet, head: bytes, sha256: str, image: ReceivedImage) -> None:
        if shutil.disk_usage(self.folder).free < data.size + RESERVE:
            raise FullError(f"The disk of {self.folder} is full. Make room on it.", image)
        with replacing(path) as temporary, temporary.open("wb") as file:
            if data.copied(head, file) != sha256:
                raise FullError("It changed while it was read.", image)

    def _is_recoded(self, image: ReceivedImage, data: DataSet, folder: Path) -> bool:
        """Whether the image is recorded with the same values in another encoding; `folder` is that of its series."""
        for path in folder.glob(f"{_hash(image.instance)}-*"):
            if self._queue.has_instance(image.study, image.instance, checksum(path)):
                with path.open("rb") as file:
                    if data.states_the_same(DataSet.of(file, syntax_of(file))):
                        return True
        return False


def _hash(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


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
