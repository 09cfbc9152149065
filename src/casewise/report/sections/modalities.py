"""What the report shows of each modality; a modality that registers nothing is shown as photographs are."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from casewise.report.formatting import counted

if TYPE_CHECKING:
    from casewise.report.context import ReportContext
    from casewise.study.schema import Study


@dataclass(frozen=True)
class ModalityReport:
    """What the report shows of one modality.

    Attributes:
        noun: what one image is called.
        counted: the images of the cohort with their number.
        module: has `section(context)`, the values of the section on what the model sees, and
            `case_pictures(context, row)`, names and pictures of what one prediction was made from.
        template: of that section, an `.html.j2`.
    """

    noun: Callable[[Study], str]
    counted: Callable[[ReportContext], str]
    module: str
    template: str

    def section(self, context: ReportContext) -> dict[str, Any] | None:
        """The values of the section on what the model sees; None where there is nothing to show."""
        values: dict[str, Any] | None = importlib.import_module(self.module).section(context)
        return values

    def case_pictures(self, context: ReportContext, row: dict[str, Any]) -> list[tuple[str, str]]:
        """Name and picture (a data URI) of what this prediction was made from."""
        pictures: list[tuple[str, str]] = importlib.import_module(self.module).case_pictures(context, row)
        return pictures


    def overview(self, context: ReportContext, path: str) -> Any:
        """A picture (h, w, 3) of the whole file, where the cohort's images are only parts of it; else None."""
        slide = context.slide(path)
        return None if slide is None else slide.read_picture()


REPORTS: dict[str, ModalityReport] = {}


def register_modality_report(name: str, report: ModalityReport) -> None:
    """Make a modality's own section known to the report."""
    REPORTS[name] = report


def modality_report(study: Study) -> ModalityReport:
    """What the report shows of the study's modality."""
    name = "volumes" if study.volumes else "slides" if study.tiles else "photographs"
    return REPORTS.get(name, REPORTS["photographs"])


def _image_noun(study: Study) -> str:
    return "photograph" if study.images.channels == "rgb" else "image"


def _slice_noun(study: Study) -> str:
    return "slice" if study.volumes and study.volumes.order else "scan"


def _count_images(context: ReportContext) -> str:
    return counted(len(context.cohort_images), _image_noun(context.study))


def _count_slides(context: ReportContext) -> str:
    from casewise.report.sections.slides import count_slides

    return count_slides(context)


def _count_scans(context: ReportContext) -> str:
    from casewise.report.sections.volumes import count_scans

    return count_scans(context, _slice_noun(context.study))


register_modality_report(
    "photographs", ModalityReport(_image_noun, _count_images, "casewise.report.sections.cases", "preparation.html.j2")
)
register_modality_report(
    "slides", ModalityReport(_image_noun, _count_slides, "casewise.report.sections.slides", "slides.html.j2")
)
register_modality_report(
    "volumes", ModalityReport(_slice_noun, _count_scans, "casewise.report.sections.volumes", "volumes.html.j2")
)
