"""The study's terms for its outcome and its images, and the warnings at the top of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from casewise.evaluation.caveats import constant_folds, no_better
from casewise.modalities.registry import modality_of
from casewise.report.context import EXTERNAL, ReportContext
from casewise.report.formatting import capital, class_name, display_name, plain
from casewise.report.modality_sections import modality_report
from casewise.report.tables import metric_format
from casewise.report.target_kind_sections import kind_report

if TYPE_CHECKING:
    from casewise.study.schema import Study

# Names of studies that say nothing in a title.
NO_NAMES = ("study", "my study", "test", "test study", "untitled", "default", "config", "cohort", "data", "example")
SHORTEST_NAME = 3


@dataclass(frozen=True)
class Terms:
    """The terms that the report uses for a study.

    Attributes:
        label: the primary outcome's name; `heading` has a capital.
        noun: for the unit of one prediction of the primary outcome.
        case: the noun for a case; a visit if subjects have several.
        picture: the noun for one image.
        digits: decimals of the primary outcome.
        confidence: of the intervals, such as `95 %`.
    """

    label: str
    heading: str
    noun: str
    case: str
    picture: str
    digits: int
    confidence: str


def terms_of(context: ReportContext) -> Terms:
    """The terms of a study."""
    study = context.study
    label, case = display_name(study, context.outcome), "visit" if context.repeated else "case"
    noun = {"region": "region", "image": "image"}.get(study.level_of(context.outcome), case)
    digits = metric_format(study, context.outcome).digits("mae")
    confidence = f"{100 * study.evaluation.confidence:g} %"
    return Terms(label, capital(label), noun, case, modality_report(study).noun(study), digits, confidence)


def report_title(study: Study) -> str:
    """The study's title; without one, what is predicted from which images, after a name that says something."""
    if study.title.strip():
        return study.title.strip()
    images = modality_of(study).picture_noun(study).plural
    what = f"{display_name(study, study.primary_outcome)} predicted from {images}"
    name = plain(study.name).replace("-", " ").strip()
    return f"{capital(name)}: {what}" if len(name) > SHORTEST_NAME and name.lower() not in NO_NAMES else capital(what)


def unlearned(context: ReportContext) -> dict[str, Any] | None:
    """The evidence that the networks behind the figures may have learned nothing; None without any.

    `code` is `constant` where the shown learner predicts nearly the same for every case of a fold, else `no_better`:
    half of its networks, or most of all, never performed better than guessing. A network is evaluated by the loss that
    stops it, or by that of the inner networks that chose its settings (`inner`). A combined learner is made of all
    networks.
    """
    constant, folds = constant_folds(context.predictions, context.outcome, context.learner)
    if constant:
        return {"code": "constant", "learner": context.learner, "count": constant, "of": folds, "void": True}
    if context.study.nested_cv is None and context.stopped_on == "none":
        return None
    failed: dict[str, list[bool]] = {}
    for job in context.jobs:
        verdict = no_better(job)
        if verdict is not None:
            failed.setdefault(str(job["model"]), []).append(verdict)
    every = [bad for verdicts in failed.values() for bad in verdicts]
    learner_verdicts, combined = failed.get(context.learner, []), context.learner not in context.study.learners
    if learner_verdicts and 2 * sum(learner_verdicts) >= len(learner_verdicts):
        whose, counts = "own", learner_verdicts
    elif 2 * sum(every) > len(every):
        whose, counts = ("combined" if combined else "study"), every
    else:
        return None
    return {
        "code": "no_better",
        "learner": context.learner,
        "whose": whose,
        "count": sum(counts),
        "of": len(counts),
        "inner": bool(context.study.nested_cv),
        "void": whose != "study",
    }


def subject_matter(context: ReportContext) -> dict[str, Any]:
    """The predicted targets and the images, for the sentence below the title."""
    study, names = context.study, [plain(name) for name in context.classes]
    low, high = context.range_of(context.outcome)
    return {
        "pictures": modality_report(study).counted(context),
        "subjects": context.cases["subject"].nunique() if study.subjects_known else 0,
        "visits": len(context.cases) if context.repeated else 0,
        "classes": names,
        "low": low,
        "high": high,
        "ordered": kind_report(context.kind).ordered,
    }


def positive_and_other(context: ReportContext) -> tuple[str, str] | None:
    """The positive class of two and the other one, within sentences; None if no class is positive."""
    positive = context.study.positive_of(context.outcome)
    if positive is None:
        return None
    other = next(name for name in context.classes if name != positive)
    return class_name(context.study, context.outcome, positive), class_name(context.study, context.outcome, other)


def predicted_externally(context: ReportContext) -> bool:
    """Whether there are predictions of an external cohort."""
    return bool((context.predictions["stage"] == EXTERNAL).any())
