"""The report: one self-contained HTML page from the artefacts of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from casewise.files import write_atomic
from casewise.metrics.registry import columns, metric_of
from casewise.report import first_screen, terms
from casewise.report.context import ReportContext
from casewise.report.modality_sections import REPORTS, modality_report
from casewise.report.sections import (
    agreement,
    audit,
    calibration,
    cases,
    classes,
    column_alone,
    counterfactuals,
    drift,
    image_split,
    labels,
    learners,
    participants,
    prediction_sets,
    saliency,
    subgroups,
    training,
    validation,
)
from casewise.report.tables import metric_format
from casewise.report.target_kind_sections import kind_report
from casewise.report.templating import FOLDER, templates

# Sections that only some kinds of targets have.
OF_KINDS: dict[str, Callable[[ReportContext], dict[str, Any] | None]] = {
    "agreement": agreement.agreement,
    "time": agreement.over_time,
    "worst": cases.worst_cases,
    "classes": classes.section,
    "high_confidence": classes.high_confidence_errors,
}


def write_report(context: ReportContext, path: Path) -> Path:
    """Write the page; the same context gives the same bytes.

    Raises:
        RunError: the file cannot be written.
    """
    return write_atomic(Path(path), render(context))


def render(context: ReportContext) -> str:
    """The page as text: it loads no other file and is readable without its script."""
    return templates(html=True).get_template("report.html.j2").render(**values(context))


def values(context: ReportContext) -> dict[str, Any]:
    """The values of the template; empty sections are None."""
    study, kind = context.study, kind_report(context.kind)
    modality = modality_report(study)
    modality_sections = {report.template.partition(".")[0]: None for report in REPORTS.values()}
    write = metric_format(study, context.outcome)
    return {
        "style": Markup((FOLDER / "report.css").read_text()),  # noqa: S704 (our own file)
        "script": Markup((FOLDER / "page.js").read_text()),  # noqa: S704 (our own file)
        "context": context,
        "study": study,
        "site": context.site,
        "write": write,
        "order_by": kind.order_by,
        "terms": terms.terms_of(context),
        "subject_matter": terms.subject_matter(context),
        "screen": first_screen.screen(context),
        **{name: section(context) if name in kind.sections else None for name, section in OF_KINDS.items()},
        "column_alone": column_alone.section(context),
        "detail": agreement.detail(context),
        "learners": learners.section(context),
        "over_folds": validation.over_folds(context),
        "nested": validation.nested(study, context.jobs, context.learners),
        "image_split": image_split.section(context),
        "audit": audit.section(context),
        "counterfactuals": counterfactuals.section(context),
        "external": validation.external(context),
        "drift": drift.section(context),
        "left_out": validation.left_out(context),
        "calibration": calibration.section(context),
        "prediction_sets": prediction_sets.prediction_sets(context.study, context.metrics),
        "subgroups": subgroups.section(context),
        "participants": participants.section(context),
        "labels": labels.section(context),
        **modality_sections,
        modality.template.partition(".")[0]: modality.section(context),
        "saliency": saliency.section(context),
        "training": training.section(context),
        "glossary": [metric_of(name) for name in glossary_names(context)],
        "class_heads": [
            "Class",
            "Support",
            *(write.title(name) for name in context.class_columns),
        ],
        "settings": yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100),
    }


def glossary_names(context: ReportContext) -> list[str]:
    """The metrics that the page explains: those of its tables."""
    tables = ("learners", "external", "targets", "classes") if context.classes else ("learners", "targets")
    stage = "oof" if "oof" in context.stages else context.stage
    names = dict.fromkeys(name for table in tables for name in context.columns(table, stage))
    names |= dict.fromkeys(columns("points", context.kind) if context.classes else [])
    return [name for name in names if name != "bias"]
