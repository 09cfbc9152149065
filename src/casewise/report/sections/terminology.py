"""The study's own words for its score and its units, and the warnings that stand above everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from casewise.evaluation.run_checks import constant_folds, no_better
from casewise.modalities.registry import modality_of
from casewise.report.caveats import sentences
from casewise.report.context import ReportContext
from casewise.report.formatting import counted, digits_of, display_name, listed, number, shortened

ROUGH_BELOW = 10


@dataclass(frozen=True)
class Words:
    """How this study is spoken of."""

    material: ReportContext

    @cached_property
    def label(self) -> str:
        """The main outcome's name."""
        return display_name(self.material.study, self.material.study.primary_outcome)

    @property
    def heading(self) -> str:
        """The main outcome's name with a capital."""
        return self.label[0].upper() + self.label[1:]

    @cached_property
    def noun(self) -> str:
        """What one prediction of the main outcome is about."""
        level = self.material.study.level_of(self.material.study.primary_outcome)
        return {"region": "region", "image": "image"}.get(level, self.case)

    @property
    def case(self) -> str:
        """A case is a visit where subjects come more than once."""
        return "visit" if self.material.repeated else "case"

    @property
    def picture(self) -> str:
        """What one image of the cohort is called."""
        return modality_of(self.material.study).picture_noun(self.material.study).singular

    @cached_property
    def digits(self) -> int:
        """Decimals of the main outcome."""
        return digits_of(*self.material.range_of(self.material.study.primary_outcome))

    @property
    def side(self) -> str:
        """Whom the page's figures are about."""
        return "on the test set" if self.material.stage == "test" else "out of fold"

    @property
    def confidence(self) -> str:
        """The intervals' confidence."""
        return f"{100 * self.material.study.evaluation.confidence:g} %"

    def points(self, value: float) -> str:
        """A number of points of the main outcome."""
        return f"{number(value, self.digits)} points"


@dataclass(frozen=True)
class Banner:
    """A warning above everything else."""

    head: str
    text: str


def banners(material: ReportContext) -> list[Banner]:
    """What limits everything below, most important first."""
    study, found = material.study, []
    if study.synthetic:
        text = "Nothing here says how well the method works on people."
        found.append(Banner("Synthetic phantom data – not patients.", text))
    if not study.subjects_known:
        text = "Images of one person may stand on both sides of the split, so every figure may be too good."
        found.append(Banner("It is not known which images belong to the same person.", text))
    if study.recipe.early_stopping.monitor == "fold":
        text = (
            "As published, training stopped on the very fold that was then predicted. Out-of-fold figures are too good"
            + (
                ", and the learner was chosen by them; the test set is not touched by this."
                if material.stage == "test"
                else "."
            )
        )
        found.append(Banner("Out-of-fold figures are optimistic.", text))
    if material.audit is None and material.kind != "regression":
        text = "Whether the classes can be told from something else than the disease was not examined."
        found.append(Banner("No audit was made.", text))
    count = material.subjects_of(material.stage)
    if count < ROUGH_BELOW:
        where = "in the test set" if material.stage == "test" else "in the study"
        text = "Intervals from fewer than ten subjects are rough: the truth may well lie outside them."
        found.append(Banner(f"Only {counted(count, 'subject')} {where}.", text))
    return found


@dataclass(frozen=True)
class Unlearned:
    """That networks learned nothing of use: the sentence, and a mark for the figures where it is true of them."""

    sentence: str
    mark: str


def unlearned(material: ReportContext) -> Unlearned | None:
    """That half of the shown learner's networks, or most of all, never beat guessing, or say the same of every case.

    A network is judged by the loss that decides when it stops, or by that of its inner folds, beside that of guessing.
    A combined learner is made of all networks. None where they did better, and where it is not known.
    """
    same, folds = constant_folds(material.predictions, material.study.primary_outcome, material.learner)
    if same:
        note = {"code": "constant_predictions", "network": material.learner, "folds": same, "of": folds}
        return Unlearned(sentences([note])[0], "predicts the same for every case")
    failed: dict[str, list[bool]] = {}
    for job in material.jobs:
        verdict = (
            no_better(job)
            if material.study.nested_cv or material.study.recipe.early_stopping.monitor != "none"
            else None
        )
        if verdict is not None:
            failed.setdefault(str(job["model"]), []).append(verdict)
    every = [bad for each in failed.values() for bad in each]
    own, combined = failed.get(material.learner, []), material.learner not in material.study.networks
    most = 2 * sum(every) > len(every)
    if own and 2 * sum(own) >= len(own):
        whose, counts = f" of {material.learner}, the model shown here,", own
    elif most:
        whose, counts = f", of which {material.learner} is made," if combined else " of this study", every
    else:
        return None
    guessed = "the shares of the classes" if material.kind != "regression" else "the mean"
    they = "it" if sum(counts) == 1 else "they"
    who = "in the inner folds" if material.study.nested_cv else "on the subjects that decide when to stop"
    text = (
        f"{sum(counts)} of {counted(len(counts), 'network')}{whose} never did better {who} than guessing {guessed}: "
        f"{they} learned nothing of use."
    )
    mark = "learned nothing" if all(counts) else f"{sum(counts)} of {len(counts)} networks learned nothing"
    return Unlearned(text, mark if counts is own or combined else "")


def predicted(material: ReportContext) -> str:
    """One sentence on what was predicted from what."""
    words = Words(material)
    images = modality_of(material.study).described(material.study, material.cohort_images)
    subjects = f" of {counted(material.cases['subject'].nunique(), 'subject')}" if material.study.subjects_known else ""
    cases = f" at {counted(len(material.cases), 'visit')}" if material.repeated else ""
    if material.kind != "regression":
        return f"{words.heading}: {classes_listed(material)}, predicted from {images}{subjects}{cases}."
    low, high = material.range_of(material.study.primary_outcome)
    score = f"{words.label} ({low:g} to {high:g} points)"
    return f"{score}, predicted from {images}{subjects}{cases}, beside the physician’s score."


def classes_listed(material: ReportContext) -> str:
    """The classes of the main outcome as a sentence lists them."""
    names = [name.replace("_", " ") for name in material.study.classes_of(material.study.primary_outcome)]
    if material.kind == "ordinal":
        return f"{len(names)} grades from {names[0]} to {names[-1]}"
    return listed(names, "or")


def place_of(row: Mapping[str, Any]) -> str:
    """Which case a row is about, as a reader names it.

    >>> place_of({"subject": "S1", "visit": "2", "region": "trunk"}), place_of({"subject": "S1", "visit": "week 4"})
    ('subject S1, visit 2, trunk', 'subject S1, week 4')
    """
    parts = [f"subject {shortened(row['subject'], 40)}"]
    visit, region = shortened(row.get("visit", ""), 30), str(row.get("region", ""))
    if visit not in ("", "nan"):
        parts.append(f"visit {visit}" if visit[0].isdigit() else visit)
    return ", ".join([*parts, region] if region not in ("", "nan") else parts)


def judged_on(material: ReportContext, words: Words, recorded: str) -> str:
    """Whom the figures are about and who never saw them, as the beginning of a sentence."""
    rows = material.chosen
    where, whose, one = counted(len(rows), words.noun), "", words.noun
    if material.study.subjects_known:
        where, one = f"{where} of {counted(rows['subject'].nunique(), 'subject')}", "subject"
    else:
        whose = "; whose they are is not known, so that the figures may be too good"
    if material.stage == "test":
        return f"On the test set ({where} that no network learned from{whose})"
    unseen = f"networks that never saw the {one}"
    if material.study.recipe.early_stopping.monitor == "fold":
        unseen = f"networks not fitted on the {one}, but stopped at the epoch that suited the predicted fold"
    elif material.study.split.leave_out:
        unseen = f"networks that never saw any {one} of the same {material.study.split.leave_out}"
    none = f"The test set has no recorded {recorded}" if "test" in material.stages else "There is no test set"
    return f"{none}; out of fold ({where}, each predicted by {unseen}{whose})"
