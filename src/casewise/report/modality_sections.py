"""What the report shows of a modality, by default that of photographs, and the sections of other plugins.

The report imports no plugin: `Plugin.report` names a module with `section(context)` and, of a modality, also
`case_pictures(context, row)`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from casewise.modalities.registry import modality_of
from casewise.plugin import plugins

if TYPE_CHECKING:
    from casewise.report.blocks import Section
    from casewise.report.context import ReportContext
    from casewise.study.schema import Study


@dataclass(frozen=True)
class ModalityReport:
    """What the report shows of one modality.

    Attributes:
        module: has `section(context)`, the section on the input of the model, and `case_pictures(context, row)`, names
            and pictures of the input of one prediction.
    """

    module: str

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


PHOTOGRAPHS = ModalityReport("casewise.report.sections.preparation")


def modality_report(study: Study) -> ModalityReport:
    """What the report shows of the study's modality."""
    modules = (plugin.report for plugin in plugins() if plugin.name == study.modality_name and plugin.report)
    module = next(modules, "")
    return ModalityReport(module) if module else PHOTOGRAPHS


def model_input(context: ReportContext) -> Section | None:
    """The section on the input of the model, by the modality of the study."""
    return modality_report(context.study).section(context)


def plugin_sections(context: ReportContext) -> list[Section]:
    """The sections of plugins that bring no modality, such as that on saliency."""
    modules = [plugin.report for plugin in plugins() if plugin.report and not plugin.section]
    made = (importlib.import_module(module).section(context) for module in modules)
    return [section for section in made if section is not None]
