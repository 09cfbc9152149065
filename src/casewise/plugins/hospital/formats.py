"""The formats of results, and writing them: all files of a run of predictions appear when all cases are predicted.

A new format is a class with the members of `ResultFormat`, registered in `FORMATS`.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from casewise.errors import CasewiseError, RunError, cut, nearest
from casewise.files import make_folder, staging_folder, sync_folder, write_atomic
from casewise.plugins.hospital.case_results import CaseResult, ModelFacts, digest, results_of
from casewise.plugins.hospital.dicom_sr import DicomSr
from casewise.plugins.hospital.fhir import Fhir
from casewise.plugins.hospital.summary_objects import SummaryImage, SummaryPdf

if TYPE_CHECKING:
    from casewise.inference.case_chunks import PredictedChunk
    from casewise.inference.model import TrainedModel


class ResultFormat(Protocol):
    """How a case is written.

    Attributes:
        name: on the command line; title: for people; ending: of its files.
        packages: the modules that it needs beyond casewise's own.
    """

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def ending(self) -> str: ...

    @property
    def packages(self) -> tuple[str, ...]: ...

    def files(self, result: CaseResult, facts: ModelFacts) -> Iterator[tuple[str, bytes]]:
        """The files of a case: a name that tells them from the case's others, and their bytes.

        Raises:
            CasewiseError: the case cannot be written in this format; the message is the reason.
        """
        ...


FORMATS: dict[str, ResultFormat] = {
    result_format.name: result_format
    for result_format in (Fhir("fhir", "R5"), Fhir("fhir-r4", "R4"), DicomSr(), SummaryImage(), SummaryPdf())
}


def format_named(name: str) -> ResultFormat:
    """The format of a name, after checking that its packages are installed.

    Raises:
        CasewiseError: there is none of this name, or a package is missing.
    """
    if name not in FORMATS:
        raise CasewiseError(f"--also: {cut(name)} is none of {', '.join(FORMATS)}.{nearest(name, FORMATS)}")
    missing = [package for package in FORMATS[name].packages if not _is_installed(package)]
    if missing:
        raise CasewiseError(f"--also {name} needs {' and '.join(missing)}: pip install 'casewise[hospital]'.")
    return FORMATS[name]


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


LONGEST_STEM = 160  # bytes
NO_SUBJECT = "A row names no subject, so nobody is known whom the result is about."


@dataclass
class _ResultFolder:
    """The files of one format.

    Attributes:
        folder: where they go.
        staged: where they are until all cases are predicted.
        files: how many were written.
        without: by case the reason why there is none.
    """

    format: ResultFormat
    folder: Path
    staged: Path
    files: int = 0
    without: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The title of the format, for people."""
        return self.format.title

    def add(self, result: CaseResult, facts: ModelFacts) -> None:
        """Write the files of a case."""
        try:
            for name, content in self.format.files(result, facts):
                write_atomic(self.staged / f"{file_stem(result.case, name)}{self.format.ending}", content)
                self.files += 1
        except RunError:
            raise
        except CasewiseError as error:
            self.without[result.case] = str(error)

    def publish(self) -> None:
        """Move the files to their folder, replacing files of the same name."""
        try:
            make_folder(self.folder)
            for file in sorted(self.staged.iterdir()):
                os.replace(file, self.folder / file.name)
        except OSError as error:
            raise RunError(f"{self.folder} could not be written: {error.strerror or error}.") from error
        sync_folder(self.folder)


@contextmanager
def result_folders(
    model: TrainedModel, folders: Mapping[str, Path], *, names: bool = False, subject_system: str = ""
) -> Iterator[Results]:
    """Yield a receiver of every chunk's predictions; the files appear when the block ends without an error.

    Args:
        names: whether the files have the names of subjects, visits and images, instead of hashes.
        subject_system: the URI of the system that identifies subjects, for FHIR.

    Raises:
        RunError: the model is not a bundle, or a folder cannot be written.
    """
    with ExitStack() as stack:
        written = []
        facts = ModelFacts.of(model)
        for name, folder in folders.items():
            try:
                staged = stack.enter_context(staging_folder(folder))
            except OSError as error:
                raise RunError(f"{folder} could not be written: {error.strerror or error}.") from error
            written.append(_ResultFolder(format_named(name), folder, staged))
        yield Results(facts, written, names, subject_system)
        for result_folder in written:
            result_folder.publish()


@dataclass(frozen=True)
class Results:
    """The folders of all formats."""

    facts: ModelFacts
    folders: list[_ResultFolder]
    names: bool
    subject_system: str

    def receive(self, chunk: PredictedChunk) -> None:
        """Write the files of a chunk in every format."""
        if (chunk.table["case"] == "").any():
            for folder in self.folders:
                folder.without.setdefault("", NO_SUBJECT)
        for result in results_of(chunk, self.facts, names=self.names, subject_system=self.subject_system):
            for folder in self.folders:
                folder.add(result, self.facts)


def file_stem(case: str, name: str) -> str:
    """A file name made of plain letters, with a hash that tells equal ones from each other.

    >>> file_stem("Müller/1", "grade")
    'Müller_1-grade-6355924a'
    """
    plain = re.sub(r"[^\w.=@-]+", "_", f"{case}-{name}" if name else case).strip("._") or "case"
    return f"{plain.encode()[:LONGEST_STEM].decode(errors='ignore')}-{digest(case, name)[:8]}"
