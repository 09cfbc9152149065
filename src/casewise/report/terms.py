"""The study's terms for its outcome and its images, and the warnings at the top of the report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from casewise.evaluation.caveats import constant_folds, no_better
from casewise.modalities.registry import modality_of
from casewise.report.formatting import capital, class_name, counted, display_name, plain
from casewise.report.tables import metric_format
from casewise.study.learners import learner_name

if TYPE_CHECKING:
    from casewise.report.context import ReportContext
    from casewise.study.schema import Study

# Names of studies that say nothing in a title.
NO_NAMES = ("study", "my study", "test", "test study", "untitled", "default", "config", "cohort", "data", "example")
SHORTEST_NAME = 3
METHODS = {"rollout": "attention rollout", "grad-cam": "Grad-CAM", "contributions": "exact contributions"}
SIDES = {
    "test": "on the test set",
    "oof": "out of fold",
    "validation": "on the validation set",
    "training": "on the training set",
    "external": "on the external cohort",
}
# Of the response over time, which is also that of the subjects out of fold and of the test set together.
RESPONSE_SIDES = {**SIDES, "all": "of all subjects, out of fold and of the test set"}


@dataclass(frozen=True)
class Unlearned:
    """The evidence that the networks behind the figures may have learned nothing.

    Attributes:
        constant: whether the reported learner predicts nearly the same for every case of `count` folds. Else `count`
            networks never performed better than guessing.
        of: all folds, or all networks.
        whose: the networks: the `own` ones of the learner, those that it uses (`combined`), or all of the `study`.
        inner: whether they are the inner networks that chose the settings.
    """

    constant: bool
    count: int
    of: int
    whose: str = "own"
    inner: bool = False


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
    return Terms(label, capital(label), noun, case, modality_of(study).picture_noun(study).singular, digits, confidence)


def report_title(study: Study) -> str:
    """The study's title; without one, what is predicted from which images, after a name that says something."""
    if study.title.strip():
        return study.title.strip()
    images = modality_of(study).picture_noun(study).plural
    what = f"{display_name(study, study.primary_outcome)} predicted from {images}"
    name = plain(study.name).replace("-", " ").strip()
    return f"{capital(name)}: {what}" if len(name) > SHORTEST_NAME and name.lower() not in NO_NAMES else capital(what)


def unlearned(context: ReportContext) -> Unlearned | None:
    """The evidence that the networks behind the figures may have learned nothing; None without any.

    Either the reported learner predicts nearly the same for every case of a fold, or half of its networks, or most of
    all, never performed better than guessing. A network is evaluated by the loss that stops it, or by that of the inner
    networks that chose its settings. A combined learner is made of all networks.
    """
    constant, folds = constant_folds(context.predictions, context.outcome, context.learner)
    if constant:
        return Unlearned(constant=True, count=constant, of=folds)
    inner = context.study.nested_cv is not None
    if not inner and context.stopped_on == "none":
        return None
    judged = [(str(job["model"]), failed) for job in context.jobs if (failed := no_better(job)) is not None]
    own, every = [failed for model, failed in judged if model == context.learner], [failed for _, failed in judged]
    if own and 2 * sum(own) >= len(own):
        return Unlearned(constant=False, count=sum(own), of=len(own), whose="own", inner=inner)
    if 2 * sum(every) > len(every):
        whose = "study" if context.learner in context.study.learners else "combined"
        return Unlearned(constant=False, count=sum(every), of=len(every), whose=whose, inner=inner)
    return None


def positive_and_other(context: ReportContext) -> tuple[str, str] | None:
    """The positive class of two and the other one, within sentences; None if no class is positive."""
    positive = context.study.positive_of(context.outcome)
    if positive is None:
        return None
    other = next(name for name in context.classes if name != positive)
    return class_name(context.study, context.outcome, positive), class_name(context.study, context.outcome, other)


def evaluated_on(context: ReportContext, stage: str) -> str:
    """The cases that figures are of, within a caption; pooled over the sources where each fold leaves one out."""
    pooled = f", pooled over each {context.site}" if context.by_site and stage == "oof" else ""
    fitted = ", where the networks were fitted" if stage == "training" else ""
    stops = stage == "validation" and context.stopped_on == "fold"
    return SIDES[stage] + pooled + (", which stopped the training" if stops else fitted)


def without_folds(context: ReportContext, text: str) -> str:
    """A static note; in a hold-out design, which has no folds, without its sentences about them."""
    sentences = re.split(r"(?<=\.) ", text)
    return " ".join(each for each in sentences if not (context.holdout and "fold" in each.lower()))


def evaluated(context: ReportContext) -> str:
    """The shown learner, where it is evaluated, and on how many cases and subjects; the beginning of a caption."""
    rows = context.headline_rows
    subjects = f" of {counted(rows['subject'].nunique(), 'subject')}" if context.study.subjects_known else ""
    cases = counted(len(rows), terms_of(context).noun)
    return f"{learner_name(context.learner)}, {evaluated_on(context, context.stage)}: {cases}{subjects}."


def brackets(context: ReportContext) -> str:
    """What stands in the brackets of every table."""
    return f"Brackets: {terms_of(context).confidence} intervals by {context.study.unit}."
