"""Whole slides, cut into tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.plugin import Plugin

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.modalities.base import Modality, Start
    from casewise.study.model import StudyModel
    from casewise.study.schema import Study


class _Slides(Plugin):
    name = extra = "slides"
    section = "tiles"
    report = "casewise.plugins.slides.report_section"

    def study_keys(self) -> type[StudyModel]:
        from casewise.plugins.slides.settings import SlidesKeys

        return SlidesKeys

    def modality(self) -> Modality:
        from casewise.plugins.slides.modality import MODALITY

        return MODALITY

    def claim(self, files: Sequence[Path], study: Study) -> Start | None:
        from casewise.plugins.slides.cohort import start_with_slides

        return start_with_slides(files, study)

    def refuse(self, study: Study, cohort: Cohort) -> None:
        from casewise.plugins.slides.cohort import refuse_slides

        refuse_slides(study, cohort)


plugin = _Slides()
