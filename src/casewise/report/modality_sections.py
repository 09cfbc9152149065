"""What the report shows of each modality; the default is that of photographs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from casewise.modalities.registry import modality_of

if TYPE_CHECKING:
    from casewise.report.blocks import Section
    from casewise.report.context import ReportContext
    from casewise.study.schema import Study


@dataclass(frozen=True)
class ModalityReport:
    """What the report shows of one modality.

    Attributes:
        module: has `section(context)`, the values of the section on the input of the model, and
            `case_pictures(context, row)`, names and pictures of the input of one prediction.
        template: of that section, an `.html.j2`.
    """

    module: str
    template: str

    def noun(self, study: Study) -> str:
        """The noun for one image."""
        return str(modality_of(study).picture_noun(study).singular)

    def counted(self, context: ReportContext) -> str:
        """The number of images of the cohort in words."""
        return str(modality_of(context.study).described(context.study, context.cohort_images))

    def section(self, context: ReportContext) -> Section | None:
        """The section on the input of the model; None if there is nothing to show."""
        section: Section | None = importlib.import_module(self.module).section(context)
        return section

    def case_pictures(self, context: ReportContext, row: dict[str, Any]) -> list[tuple[str, str]]:
        """Name and picture (a data URI) of each input of this prediction."""
        pictures: list[tuple[str, str]] = importlib.import_module(self.module).case_pictures(context, row)
        return pictures

    def row_noun(self, study: Study) -> str:
        """The noun for a row of the study's table: an image, or that of the modality."""
        noun = self.noun(study)
        return "image" if noun == "photograph" else noun

    def overview(self, context: ReportContext, path: str) -> Any:
        """A picture (h, w, 3) of the whole file if the cohort's images are parts of it; else None."""
        slide = context.slide(path)
        return None if slide is None else slide.read_picture()


REPORTS: dict[str, ModalityReport] = {}


def register_modality_report(name: str, report: ModalityReport) -> None:
    """Register the section of a modality."""
    REPORTS[name] = report


def modality_report(study: Study) -> ModalityReport:
    """What the report shows of the study's modality."""
    return REPORTS.get(study.modality_name, REPORTS["photographs"])


def model_input(context: ReportContext) -> Section | None:
    """The section on the input of the model, by the modality of the study."""
    return modality_report(context.study).section(context)


register_modality_report("photographs", ModalityReport("casewise.report.sections.preparation", "preparation.html.j2"))
register_modality_report("slides", ModalityReport("casewise.report.sections.slides", "slides.html.j2"))
register_modality_report("volumes", ModalityReport("casewise.report.sections.volumes", "volumes.html.j2"))
