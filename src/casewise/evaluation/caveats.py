"""Caveats on the results of a run, as codes with numbers; the report turns them into sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import PLAN
from casewise.evaluation.comparisons import FEWEST_SUBJECTS
from casewise.evaluation.intervals import ROUGH_BELOW
from casewise.evaluation.results import Figures, Metrics, Note, Response
from casewise.metrics.classes import Classes

# a larger difference between the AUROC within the folds and the pooled one is remarked on
POOLED_GAP = 0.05


def caveat(code: str, **facts: Any) -> Note:
    """The caveat with this code and the names and numbers of its sentence."""
    return Note(code, facts)


def stage_caveats(
    rows: pd.DataFrame, scored: pd.DataFrame, stage: str, targets: Sequence[str], classes: Mapping[str, Classes]
) -> list[Note]:
    """Caveats of one stage; `scored` are those of its `rows` that have a reference value."""
    caveats = []
    n_subjects = scored["subject"].nunique()
    if n_subjects < ROUGH_BELOW:
        caveats.append(caveat("few_subjects", stage=stage, subjects=n_subjects))
    for target in targets:
        target_rows = rows[rows["target"] == target].drop_duplicates(["case", "region", "image"])
        n_unscored = int(target_rows["y_true"].isna().sum())
        if n_unscored:
            caveats.append(
                caveat("without_truth", stage=stage, target=target, missing=n_unscored, total=len(target_rows))
            )
        present = set(target_rows["y_true"].dropna())
        names = classes[target].names if target in classes else ()
        missing = [name for number, name in enumerate(names) if number not in present]
        few = _few_subjects(scored[scored["target"] == target], names) if n_subjects >= ROUGH_BELOW else {}
        if few:
            caveats.append(caveat("few_of_class", stage=stage, target=target, subjects=few, rough_below=ROUGH_BELOW))
        if present and missing:
            caveats.append(caveat("class_missing", stage=stage, target=target, classes=missing))
        sizes = scored[scored["target"] == target].groupby("model").size()
        if len(sizes) and sizes.min() < sizes.max():
            caveats.append(caveat("different_cases", stage=stage, target=target))
    return caveats


def _few_subjects(scored: pd.DataFrame, names: Sequence[str]) -> dict[str, int]:
    """The number of subjects of each class that has some, but too few."""
    subjects = scored.groupby("y_true")["subject"].nunique()
    return {names[int(number)]: int(n) for number, n in subjects.items() if names and n < ROUGH_BELOW}


def reader_caveats(compared: bool, shared: bool, stage: str) -> list[Note]:
    """Why readers and learners are not compared at a stage: they share no case, or no level."""
    if not shared:
        return [caveat("no_reader_case", stage=stage)]
    return [] if compared else [caveat("readers_at_other_level", stage=stage)]


def response_caveats(response: Response, stage: str) -> list[Note]:
    """The subjects that the response over time leaves out; for the physician they are the same for every learner."""
    caveats = [caveat("no_later_visit", stage=stage)] if not response.n_visits else []
    for reason in ("physician_baseline_zero", "baseline_not_scored", "no_baseline"):
        if subjects := response.undefined[reason]:
            caveats.append(caveat("response_left_out", stage=stage, reason=reason, subjects=subjects))
    return caveats


def pooled_caveats(metrics: Mapping[str, Mapping[str, Figures]], targets: Sequence[str]) -> list[Note]:
    """Targets whose out-of-fold AUROC differs much between the value within the folds and the pooled one.

    `metrics` are those of the stage, by learner; the learner with the largest difference is named.
    """
    caveats = []
    for target in targets:
        values = {
            learner: (figures["auroc"].value, figures["auroc_pooled"].value)
            for learner, by_target in metrics.items()
            if (figures := by_target.get(target, {})) and "auroc_pooled" in figures
        }
        gaps = {
            learner: abs(within - pooled)
            for learner, (within, pooled) in values.items()
            if within is not None and pooled is not None
        }
        wide = [learner for learner, gap in gaps.items() if gap > POOLED_GAP]
        if wide:
            widest = max(wide, key=lambda learner: gaps[learner])
            within, pooled = values[widest]
            caveats.append(
                caveat(
                    "auroc_parts",
                    target=target,
                    learner=widest,
                    within=within,
                    pooled=pooled,
                    count=len(wide),
                    learners=len(gaps),
                    more_than=POOLED_GAP,
                )
            )
    return caveats


def lower_on_test(
    metrics: Metrics, main: str, learner: str | None, merit: str, *, confidence: float = PLAN.confidence
) -> list[Note]:
    """Whether the learner of the headline is worse on the test set than out of fold by more than chance explains.

    The subjects differ, so the interval of the difference is that of independent metrics. The learner may be chosen for
    its figure out of fold, so the lower half of that interval is widened to hold for all learners at once (Bonferroni).
    Of the test set's interval the larger half counts, because figures near their bound, such as a high CCC, vary more
    downwards than their intervals reach upwards. Nothing is stated below ten subjects.
    """
    inside, tested = (
        metrics.get(stage, {}).get(str(learner), {}).get(main, {}).get(merit) for stage in ("oof", "test")
    )
    if not (inside and tested) or min(inside.n_subjects, tested.n_subjects) < FEWEST_SUBJECTS:
        return []
    if inside.value is None or inside.low is None or tested.value is None or tested.low is None or tested.high is None:
        return []
    candidates = [by_target[main] for by_target in metrics["oof"].values() if main in by_target]
    tail = NormalDist().inv_cdf
    n_chosen_from = sum(figures[merit].value is not None for figures in candidates)
    widening = tail((1 - confidence) / 2 / n_chosen_from) / tail((1 - confidence) / 2)
    tested_half = max(tested.high - tested.value, tested.value - tested.low)
    chance = float(np.hypot(widening * (inside.value - inside.low), tested_half))
    if inside.value - tested.value <= chance:
        return []
    both = {stage: {"value": e.value, "low": e.low, "high": e.high} for stage, e in (("oof", inside), ("test", tested))}
    return [caveat("test_below_oof", learner=learner, metric=merit, **both)]
