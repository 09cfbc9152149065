"""Caveats on the results of a run, as codes with numbers; the report turns them into sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.evaluation.bootstrap import FEWEST_SUBJECTS, PLAN, Plan, mean_by_subject
from casewise.evaluation.figures import Figures
from casewise.evaluation.results import Note, Response
from casewise.metrics.classes import Classes
from casewise.metrics.registry import metric_of
from casewise.predictions.table import CHOOSING, INTERNAL, probability_columns
from casewise.targets import kind_named

if TYPE_CHECKING:
    import pandas as pd

# a larger difference between the AUROC within the folds and the pooled one is remarked on
POOLED_GAP = 0.05


def caveat(code: str, **facts: Any) -> Note:
    """The caveat with this code and the names and numbers of its sentence."""
    return Note(code, facts)


def stage_caveats(rows: pd.DataFrame, stage: str, targets: Sequence[str], classes: Mapping[str, Classes]) -> list[Note]:
    """Caveats of one stage: missing reference values, missing classes, learners with different cases."""
    caveats = []
    for target in targets:
        target_rows = rows[rows["target"] == target]
        samples = target_rows.drop_duplicates(["case", "region", "image"])["y_true"]
        if missing := int(samples.isna().sum()):
            caveats.append(caveat("without_truth", stage=stage, target=target, missing=missing, total=len(samples)))
        present = set(samples.dropna())
        names = classes[target].names if target in classes else ()
        absent = [name for number, name in enumerate(names) if number not in present]
        if present and absent:
            caveats.append(caveat("class_missing", stage=stage, target=target, classes=absent))
        sizes = target_rows[target_rows["y_true"].notna()].groupby("model").size()
        if len(sizes) and sizes.min() < sizes.max():
            caveats.append(caveat("different_cases", stage=stage, target=target))
    return caveats


def response_caveats(response: Response, stage: str) -> list[Note]:
    """The subjects that the response over time leaves out; for the physician they are the same for every learner."""
    reasons = ("physician_baseline_zero", "baseline_not_scored", "no_baseline")
    left_out = {reason: response.undefined[reason] for reason in reasons}
    return [
        caveat("response_left_out", stage=stage, reason=reason, subjects=subjects)
        for reason, subjects in left_out.items()
        if subjects
    ]


def pooled_caveats(figures: Figures, targets: Sequence[str]) -> list[Note]:
    """Targets whose out-of-fold AUROC differs much between the value within the folds and the pooled one.

    The learner with the largest difference is named.
    """
    caveats = []
    for target in targets:
        gaps: list[tuple[float, str, float, float]] = []
        for learner in figures.names("learner", stage="oof", target=target):
            both = [figures.of("oof", learner, target).get(name) for name in ("auroc", "auroc_pooled")]
            within, pooled = (figure.value if figure else None for figure in both)
            if within is not None and pooled is not None:
                gaps.append((abs(within - pooled), learner, within, pooled))
        if gaps and (widest := max(gaps, key=lambda entry: entry[0]))[0] > POOLED_GAP:
            _, learner, within, pooled = widest
            caveats.append(caveat("auroc_parts", target=target, learner=learner, within=within, pooled=pooled))
    return caveats


def apart_on_test(
    figures: Figures,
    main: str,
    learner: str | None,
    metric: str,
    *,
    worse: bool,
    confidence: float = PLAN.confidence,
    n_metrics: int = 1,
) -> list[Note]:
    """Whether the headline's learner is `worse` (or better) on the test set than out of fold, by more than chance.

    The subjects differ, so the interval of the difference treats the two metrics as independent. The learner may have
    been chosen for its out-of-fold figure. This favours only that it is worse on the test set, so there that half of
    its interval is widened to hold for all learners at once (Bonferroni). The larger half of the test set's interval
    counts, because figures near their bound, such as a high CCC, vary more downwards than their intervals reach
    upwards. Where several metrics are compared, the interval of the difference holds for all of them at once. Nothing
    is stated below ten subjects.
    """
    inside, tested = (figures.of(stage, str(learner), main).get(metric) for stage in ("oof", "test"))
    if not (inside and tested) or min(inside.n_subjects or 0, tested.n_subjects or 0) < FEWEST_SUBJECTS:
        return []
    if inside.value is None or inside.low is None or inside.high is None:
        return []
    if tested.value is None or tested.low is None or tested.high is None:
        return []
    below = worse == metric_of(metric).larger_is_better
    half = inside.value - inside.low if below else inside.high - inside.value
    tested_half = max(tested.high - tested.value, tested.value - tested.low)
    candidates = figures.select(stage="oof", target=main, population="", contrast="").cells.values()
    n_chosen_from = sum(metric in own and own[metric].value is not None for own in candidates) if worse else 1
    widening = [_widening(confidence, count * n_metrics) for count in (n_chosen_from, 1)]
    chance = float(np.hypot(widening[0] * half, widening[1] * tested_half))
    if (inside.value - tested.value if below else tested.value - inside.value) <= chance:
        return []
    both = {stage: {"value": e.value, "low": e.low, "high": e.high} for stage, e in (("oof", inside), ("test", tested))}
    return [caveat("test_below_oof" if worse else "test_above_oof", learner=learner, metric=metric, **both)]


def _widening(confidence: float, count: int) -> float:
    """How many times as wide intervals of a normal estimate are if `count` of them hold at once (Bonferroni)."""
    tail = NormalDist().inv_cdf
    return tail((1 - confidence) / 2 / count) / tail((1 - confidence) / 2)


def guess(predictions: pd.DataFrame, target: str, plan: Plan = PLAN) -> list[Note]:
    """For comparison: the error of always predicting the median of the training subjects' cases; none for classes.

    The median, since no other constant has a smaller mean absolute error. `gaps` has for each learner the interval, by
    subject, of its mean absolute error minus the guess's error on the same cases, and whether it is rough.
    """
    rows = predictions[(predictions["target"] == target) & predictions["y_true"].notna()]
    cases = rows.drop_duplicates(["stage", "case", "region", "image"])
    oof, training = (cases[cases["stage"] == stage] for stage in ("oof", "training"))
    single = oof.empty and len(training)
    if rows.empty or kind_named(str(rows["kind"].iloc[0])).form != "number":
        return []
    if not single and oof["outer_fold"].nunique() < 2:
        return []
    folds = oof["outer_fold"].unique()
    others = {fold: float(oof.loc[oof["outer_fold"] != fold, "y_true"].median()) for fold in folds}
    median = (training if single else oof)["y_true"].median()
    notes = []
    for stage, own in rows.groupby("stage", sort=False):
        if stage not in INTERNAL:
            continue
        medians = own["outer_fold"].map(others).astype(float) if stage == "oof" else median
        own = own.assign(guessed=(own["y_true"] - medians).abs())
        error = own.drop_duplicates(["case", "region", "image"])["guessed"].mean()
        gaps = {}
        for learner, of_learner in own.dropna(subset=["y_pred"]).groupby("model"):
            gap = mean_by_subject(
                (of_learner["y_pred"] - of_learner["y_true"]).abs() - of_learner["guessed"], of_learner["subject"], plan
            )
            gaps[str(learner)] = [gap.low, gap.high, gap.rough]
        notes.append(caveat("guess_median", stage=stage, target=target, error=float(error), gaps=gaps))
    return notes


# smaller differences of probabilities, or of predictions in standard deviations, do not matter
SAME = 0.005


def constant_folds(predictions: pd.DataFrame, target: str, learner: str) -> tuple[int, int]:
    """Numbers of folds with nearly the same prediction for every case, and of all folds examined.

    Probabilities are compared for classes; for numbers, predictions relative to the spread of the recorded values. A
    fold is examined if it has several subjects, more than two cases, and more than one recorded value.
    """
    rows = predictions[(predictions["target"] == target) & predictions["stage"].isin(CHOOSING)]
    rows = rows[rows["model"] == learner]
    rows = rows.assign(outer_fold=rows["outer_fold"].fillna(1))
    if rows.empty:
        return 0, 0
    columns = [name for name in probability_columns(rows) if rows[name].notna().any()]
    values = rows[columns] if columns else rows[["y_pred"]] / (rows["y_true"].std() or 1.0)
    spread = values.groupby(rows["outer_fold"]).std().max(axis=1)
    of_fold = rows.groupby("outer_fold")
    large = (of_fold.size() > 2) & (of_fold["subject"].nunique() > 1) & (of_fold["y_true"].nunique() > 1)
    return int((spread[large] < SAME).sum()), int(large.sum())


# Correlation between features by stored and by a batch's own statistics, below which training begins elsewhere.
SAME_FEATURES = 0.5


def changed_features(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The networks whose features change where batch norms use a batch's own statistics: the lowest correlation.

    >>> changed_features([{"model": "a", "statistics_agreement": 0.2}, {"model": "b", "statistics_agreement": 0.9}])
    {'a': 0.2}
    """
    lowest: dict[str, float] = {}
    for record in records:
        value = record.get("statistics_agreement")
        if value is not None and value < SAME_FEATURES:
            lowest[str(record["model"])] = min(value, lowest.get(str(record["model"]), value))
    return lowest


def changed_features_text(lowest: Mapping[str, float]) -> str:
    """What `changed_features` gives, by name of a network, and what can be done.

    >>> "0.20 (a)" in changed_features_text({"a": 0.2})
    True
    """
    names = ", ".join(f"{value:.2f} ({name})" for name, value in lowest.items())
    return (
        f"`batch_norm: update` trains with a batch's own statistics, by which features correlate {names} with those "
        "by the stored statistics of the first weights. `batch_norm: keep_statistics` begins with the latter"
    )


def no_better(record: Mapping[str, Any]) -> bool | None:
    """Whether a job's network, or its inner networks, did no better than a constant prediction; None if unknown."""
    inner = record.get("inner")
    if inner:
        guessed = inner["chosen"].get("guess_loss")
        return None if guessed is None else bool(inner["chosen"]["loss"] >= guessed)
    losses = [step["stop_loss"] for step in record.get("history") or [] if isinstance(step.get("stop_loss"), float)]
    guessed = record.get("guess_loss")
    return bool(min(losses) >= (1 if guessed is None else guessed)) if losses else None
