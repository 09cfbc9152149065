"""Predictions of unusual images: altered ones, and cases far from the training cases of the networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import Plan, estimates, mean_by_subject
from casewise.evaluation.caveats import caveat
from casewise.evaluation.figures import Estimate
from casewise.evaluation.intervals import ROUGH_BELOW, difference
from casewise.evaluation.results import (
    AlteredAnswers,
    AlteredNumbers,
    ClassChange,
    DriftGap,
    DriftGroup,
    LearnerDrift,
    Note,
)
from casewise.metrics.numbers import sum_by_subject
from casewise.predictions.table import FAR, INTERNAL, SAMPLE_KEY, final_rows, probability_columns
from casewise.targets import kind_named

Altered: TypeAlias = AlteredAnswers | AlteredNumbers
UNALTERED = "unaltered"
# An alteration is a warning if it changes a tenth of the answers or more, and at least three, or a fifth of one class's
# answers; for numbers, if it moves them by more than half of the learner's mean absolute error.
MOST_CHANGED, FEWEST_CHANGED, MOST_MOVED = 0.1, 3, 0.5


def counterfactual_figures(
    table: pd.DataFrame,
    target: str,
    *,
    classes: Sequence[str],
    plan: Plan,
    errors: Mapping[str, float | None] | None = None,
) -> dict[str, dict[str, Altered]]:
    """For each network and alteration, the change of the predictions of `target` from the unaltered images.

    Args:
        table: predictions with the column `alteration`, whose value is `unaltered` for the reference.
        errors: of numbers, the mean absolute error of each learner on all cases; without one, that of the table's.
    """
    rows = table[table["target"] == target].set_index(list(SAMPLE_KEY))
    figures: dict[str, dict[str, Altered]] = {}
    for (model, name), after in rows.groupby(["model", "alteration"], sort=False):
        before = rows[(rows["model"] == model) & (rows["alteration"] == UNALTERED)]
        if name == UNALTERED:
            figures.setdefault(str(model), {})
        else:
            altered, error = after.reindex(before.index), (errors or {}).get(str(model))
            entry = _changed(before, altered, classes, plan) if classes else _moved(before, altered, error, plan)
            figures.setdefault(str(model), {})[str(name)] = entry
    return figures


def _sizes(rows: pd.DataFrame) -> tuple[int, int, int]:
    """The numbers of cases, subjects and answers."""
    return int(rows.index.get_level_values("case").nunique()), int(rows["subject"].nunique()), len(rows)


def _changed(before: pd.DataFrame, after: pd.DataFrame, classes: Sequence[str], plan: Plan) -> AlteredAnswers:
    changed = (before["y_pred"] != after["y_pred"]).to_numpy()
    pairs = pd.DataFrame({"before": before["y_pred"], "after": after["y_pred"]})[changed]
    counts = pairs.groupby(["before", "after"]).size().sort_values(ascending=False, kind="stable")
    columns, answers = probability_columns(before), before["y_pred"].value_counts()
    was, now = (int((rows["y_pred"] == before["y_true"]).sum()) for rows in (before, after))
    return AlteredAnswers(
        *_sizes(before),
        changed=int(changed.sum()),
        share=mean_by_subject(changed, before["subject"], plan, name="share"),
        changes=[ClassChange(classes[int(old)], classes[int(new)], int(n)) for (old, new), n in counts.items()],
        before={name: int(answers.get(number, 0)) for number, name in enumerate(classes)},
        correct={"before": was, "after": now, "of": int(before["y_true"].notna().sum())},
        confidence=float((after[columns].max(axis=1) - before[columns].max(axis=1)).mean()),
    )


def _moved(before: pd.DataFrame, after: pd.DataFrame, error: float | None, plan: Plan) -> AlteredNumbers:
    change = (after["y_pred"] - before["y_pred"]).to_numpy(dtype=float)
    error = float((before["y_pred"] - before["y_true"]).abs().mean()) if error is None else error
    moved = mean_by_subject(np.abs(change), before["subject"], plan, name="mae")
    return AlteredNumbers(
        *_sizes(before),
        moved=moved,
        shift=mean_by_subject(change, before["subject"], plan),
        mae=error if np.isfinite(error) else None,
        relative=moved.value / error if error > 0 and np.isfinite(error) and moved.value is not None else None,
    )


def affects(entry: Altered) -> bool:
    """Whether the effect is larger than an irrelevant alteration may have."""
    if isinstance(entry, AlteredAnswers):
        return entry.effect >= MOST_CHANGED and entry.changed >= FEWEST_CHANGED
    return entry.effect > MOST_MOVED


def commonest(entry: AlteredAnswers) -> tuple[str, int, int]:
    """The class that most changed answers become, how many do, and how many were another class before.

    The class is empty if none changed.
    """
    totals = Counter[str]()
    for change in entry.changes:
        totals[change.after] += change.answers
    ((name, count),) = totals.most_common(1) or [("", 0)]
    return name, count, entry.answers - entry.before.get(name, 0)


# A warning from this share on: four times the expected share of cases like the study's.
MANY_OUTSIDE = 0.2


def drift(predictions: pd.DataFrame, target: str, plan: Plan) -> dict[str, LearnerDrift]:
    """For each learner with distances, how cases inside and outside and how the two cohorts differ.

    The study's cases are the test set, otherwise the cases out of fold. All figures have intervals by subject.
    """
    if "distance" not in predictions:
        return {}
    rows = final_rows(predictions[predictions["target"] == target])
    rows = rows[rows["distance"].notna()]
    inside = next((stage for stage in INTERNAL if (rows["stage"] == stage).any()), None)
    if inside is None:
        return {}
    figures = {}
    for learner, of_learner in rows.groupby("model", sort=False):
        internal, external = (of_learner[of_learner["stage"] == stage] for stage in (inside, "external"))
        if len(internal) and len(external):
            figures[str(learner)] = _compared(internal, external, inside, plan)
    return figures


def _compared(internal: pd.DataFrame, external: pd.DataFrame, stage: str, plan: Plan) -> LearnerDrift:
    metric = "accuracy" if kind_named(str(external["kind"].iloc[0])).form == "classes" else "mae"
    internal, external = (_with_quality(rows, metric) for rows in (internal, external))
    far = external["distance"] > FAR
    rows = {"internal": internal, "external": external, "inside": external[~far], "outside": external[far]}
    groups = {name: _group(own, metric, plan, whole=name in ("internal", "external")) for name, own in rows.items()}
    gaps = {
        name: _gap(external, internal, name, groups["external"][name], groups["internal"][name], plan)
        for name in ("quality", "confidence")
        if name in external
    }
    gap = DriftGap(groups["external"].rough or groups["internal"].rough, **gaps)
    return LearnerDrift(stage, metric, **groups, external_minus_internal=gap)


def _with_quality(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows with the value of the metric for each scored prediction (`quality`), and of classes the `confidence`."""
    scored = rows["y_true"].notna()
    if metric == "mae":
        return rows.assign(quality=(rows["y_pred"] - rows["y_true"]).abs().fillna(0.0).where(scored))
    right = (rows["y_pred"] == rows["y_true"]).astype(float).where(scored)
    return rows.assign(quality=right, confidence=rows[probability_columns(rows)].max(axis=1))


def _group(rows: pd.DataFrame, metric: str, plan: Plan, *, whole: bool) -> DriftGroup:
    """The figures of a group; only a `whole` cohort has the share outside."""
    subjects, scored = rows["subject"], rows["quality"].notna()
    n_subjects = int(subjects.nunique())
    classes = None if metric == "mae" else rows["y_true"][scored]
    return DriftGroup(
        len(rows),
        n_subjects,
        n_subjects < ROUGH_BELOW,
        mean_by_subject(rows["quality"][scored], subjects[scored], plan, name=metric, classes=classes),
        mean_by_subject(rows["confidence"], subjects, plan, name="confidence") if "confidence" in rows else None,
        mean_by_subject(rows["distance"] > FAR, subjects, plan, name="share") if whole else None,
    )


def _gap(
    first: pd.DataFrame, second: pd.DataFrame, name: str, of_first: Estimate, of_second: Estimate, plan: Plan
) -> Estimate | None:
    """The first group's figure minus the second's, with its interval; subjects may be in both groups.

    Where it stays the same without any single subject, such as between accuracies of 0 and 1, the interval is made
    from the intervals of both figures. None if a figure is undefined.
    """
    if of_first.value is None or of_second.value is None:
        return None
    rows = pd.concat([first, second])
    values, in_first = rows[name].to_numpy(dtype=float), np.arange(len(rows)) < len(first)
    scored = ~np.isnan(values)
    sides = [side & scored for side in (in_first, ~in_first)]
    terms = np.stack([column for side in sides for column in (np.where(side, values, 0), side)], axis=1)
    sums = sum_by_subject(terms.astype(float), rows["stage"] + "/" + rows["subject"].astype(str))[:, None, :]
    presence = sums[..., 1::2] > 0

    def gap(totals: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):
            return {"difference": totals[..., 0] / totals[..., 1] - totals[..., 2] / totals[..., 3]}

    rests_on, n_cases = {"difference": presence.sum(axis=0).min(axis=-1)}, int(scored.sum())
    (figures,) = estimates(
        sums, gap, lambda *_: "no cases", plan, n_cases=n_cases, presence=presence, rests_on=rests_on
    )
    low, high = figures["difference"].low, figures["difference"].high
    if low is None:
        low, high = difference(of_first, of_second) or (None, None)
    return Estimate(of_first.value - of_second.value, low, high)


def drift_caveats(figures: Mapping[str, LearnerDrift], learner: str | None) -> list[Note]:
    """Whether many external cases lie outside, and whether a learner is too confident there.

    It is where it is less accurate than inside but no less confident, or more confident than right, beyond intervals.
    """
    entry = figures.get(str(learner))
    if entry is None:
        return []
    caveats, stage = [], entry.internal_stage
    outside, internal = entry.external.outside, entry.internal.outside
    if outside and internal and outside.low is not None and outside.low > MANY_OUTSIDE and not outside.rough:
        shares = {"share": outside.value, "internal": internal.value}
        caveats.append(caveat("external_outside", learner=learner, stage=stage, **shares))
    gap = entry.external_minus_internal
    ends = [figure.high for figure in (gap.quality, gap.confidence) if figure and figure.high is not None]
    kept = not gap.rough and len(ends) == 2 and ends[0] < 0 <= ends[1]
    if entry.quality == "accuracy" and (kept or _surer_than_right(entry.external)):
        groups = {"internal": entry.internal, "external": entry.external}
        accuracy = {side: group.quality.value for side, group in groups.items()}
        confidence = {side: group.confidence.value for side, group in groups.items() if group.confidence}
        facts = {"stage": stage, "accuracy": accuracy, "confidence": confidence}
        caveats.append(caveat("confident_outside", learner=learner, **facts))
    return caveats


def _surer_than_right(group: DriftGroup) -> bool:
    """Whether the interval of the mean confidence lies above the accuracy's, of the same cases; not if rough."""
    right, sure = group.quality, group.confidence
    if right is None or sure is None or right.high is None or sure.low is None or right.n_cases != sure.n_cases:
        return False
    return right.high < sure.low and not right.rough and not sure.rough
