"""Formats of plugins in which predictions of new cases are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from casewise.errors import CasewiseError
from casewise.plugin import implementing

if TYPE_CHECKING:
    from casewise.inference.case_chunks import PredictedChunk
    from casewise.inference.model import TrainedModel


class _ResultFolder(Protocol):
    """The files of one format of results.

    Attributes:
        files: how many were written; without: reason by case that has none.
    """

    folder: Path
    files: int
    without: dict[str, str]

    @property
    def title(self) -> str: ...


class ResultFolders(Protocol):
    """What writes the predictions of new cases in the formats of a plugin."""

    @property
    def folders(self) -> Sequence[_ResultFolder]: ...

    def receive(self, chunk: PredictedChunk) -> None: ...


class ResultFormats(Protocol):
    """A plugin with formats in which `casewise predict --also NAME=FOLDER` writes new cases."""

    name: str

    def result_formats(self) -> Sequence[str]:
        """The names of the formats."""
        return ()

    def check_result_format(self, name: str) -> None:
        """Check that a format can be written.

        Raises:
            CasewiseError: a package is missing.
        """

    def result_folders(
        self, model: TrainedModel, folders: Mapping[str, Path], *, names: bool, subject_system: str = ""
    ) -> AbstractContextManager[ResultFolders]:
        """What writes new cases in some of the formats; the files appear when the block ends without an error.

        Args:
            folders: the folder of each format.
            names: whether the files have the names of subjects, visits and images, instead of hashes.
            subject_system: the URI of the system that identifies subjects, for formats that state it.
        """
        raise NotImplementedError


def format_owners() -> dict[str, ResultFormats]:
    """The plugin that writes each format.

    Raises:
        CasewiseError: two plugins have the same format.
    """
    owners: dict[str, ResultFormats] = {}
    for plugin in implementing(ResultFormats):
        for name in plugin.result_formats():
            if name in owners:
                others = f"the plugins {owners[name].name} and {plugin.name}"
                raise CasewiseError(f"{name} is a format of {others}. Remove one of them.")
            owners[name] = plugin
    return owners
