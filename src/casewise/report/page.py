"""The report: one self-contained HTML page from the artefacts of a run."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from markupsafe import Markup

from casewise.plugin import plugins
from casewise.report import first_screen
from casewise.report import sections as package
from casewise.report.blocks import FOLDER, Section, rendered, templates
from casewise.report.context import ReportContext, brackets, report_title
from casewise.report.sections import (
    agreement,
    audit,
    calibration,
    cases,
    classes,
    counterfactuals,
    glossary,
    labels,
    learners,
    participants,
    preparation,
    subgroups,
    training,
)
from casewise.report.sections.designs import covariates, external, trial, validation

SECTIONS: tuple[Callable[[ReportContext], Section | None], ...] = (
    agreement.agreement,
    agreement.over_time,
    trial.section,
    agreement.detail,
    classes.section,
    calibration.section,
    calibration.prediction_sets,
    subgroups.section,
    covariates.section,
    learners.section,
    validation.nested_section,
    audit.section,
    counterfactuals.section,
    validation.left_out_section,
    external.section,
    participants.section,
    labels.section,
    preparation.of_modality,
    cases.section,
    training.section,
    glossary.section,
)


def sections(context: ReportContext) -> list[Section]:
    """The sections below the first screen, in order, without empty ones.

    A section of a plugin without a modality, or of a file in `casewise.report.sections` that `SECTIONS` does not list,
    comes before the single cases, or before the section function that its module names as `BEFORE`.
    """
    makers = list(SECTIONS)
    listed = {make.__module__ for make in SECTIONS}
    modules = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    names = [module.name for module in modules if module.name not in listed and not module.ispkg]
    names += [plugin.report for plugin in plugins() if plugin.report and not plugin.brings_modality]
    for module in map(importlib.import_module, names):
        makers.insert(makers.index(getattr(module, "BEFORE", cases.section)), module.section)
    return [section for make in makers if (section := make(context))]


def render(context: ReportContext) -> str:
    """The page as HTML, which loads no other file and can be read without its script."""
    shown = sections(context)
    template = templates(html=True).get_template("report.html.j2")
    return template.render(
        style=Markup((FOLDER / "report.css").read_text()),  # noqa: S704 (our own file)
        script=Markup((FOLDER / "page.js").read_text()),  # noqa: S704 (our own file)
        study=context.study,
        title=report_title(context.study),
        version=context.environment.get("casewise", ""),
        date=context.environment.get("date", ""),
        screen=first_screen.screen(context),
        brackets=brackets(context),
        contents=[(section.id, section.heading) for section in shown],
        sections=Markup(rendered(shown, html=True)),  # noqa: S704 (escaped by its template)
    )
