"""Predictions of new cases in formats that hospitals exchange; a format is one file, registered in `formats`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.plugin import Plugin

if TYPE_CHECKING:
    from casewise.inference.model import TrainedModel
    from casewise.inference.result_formats import ResultFolders


class _Hospital(Plugin):
    name = extra = "hospital"

    def result_formats(self) -> Sequence[str]:
        from casewise.plugins.hospital.formats import FORMATS

        return list(FORMATS)

    def check_result_format(self, name: str) -> None:
        from casewise.plugins.hospital.formats import format_named

        format_named(name)

    def result_folders(
        self, model: TrainedModel, folders: Mapping[str, Path], *, names: bool, subject_system: str = ""
    ) -> AbstractContextManager[ResultFolders]:
        from casewise.plugins.hospital.formats import result_folders

        return result_folders(model, folders, names=names, subject_system=subject_system)


plugin = _Hospital()
