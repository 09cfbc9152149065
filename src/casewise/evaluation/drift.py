"""Cases far from the training cases of the networks, and how predictions of them and of an external cohort differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.caveats import Caveat
from casewise.evaluation.intervals import ROUGH_BELOW, difference
from casewise.evaluation.shares import interval, mean_by_subject, ratios, subject_sums, with_open_end
from casewise.predictions.table import final_rows, probability_columns
from casewise.targets import by_form

# A case is outside where it lies further from the training cases than 19 of 20 held-out cases.
OUTSIDE = 1.0
# A warning from this share on: four times what is expected of cases like those of the study.
MANY_OUTSIDE = 0.2


def drift(predictions: pd.DataFrame, target: str, plan: Plan) -> dict[str, dict[str, Any]]:
    """For each learner with distances, how cases inside and outside and how the two cohorts differ.

    Returns:
        learner -> `internal_stage` (`test` or `oof`), `quality` (`accuracy`, or `mae` of a number), and four groups of
        cases: `internal`, `external`, and of the latter `inside` and `outside`. Each has `answers` and `subjects`, its
        quality where the reference is known, `confidence` (the mean of the largest probability; classes and grades) and
        the first two the share `outside`. `outside_minus_inside` and `external_minus_internal` are differences. All
        have intervals by subject; the two cohorts are resampled separately.
    """
    if "distance" not in predictions:
        return {}
    rows = final_rows(predictions[predictions["target"] == target])
    rows = rows[rows["distance"].notna()]
    inside = next((stage for stage in ("test", "oof") if (rows["stage"] == stage).any()), None)
    if inside is None:
        return {}
    figures = {}
    for learner, of_learner in rows.groupby("model", sort=False):
        internal, external = (of_learner[of_learner["stage"] == stage] for stage in (inside, "external"))
        if len(internal) and len(external):
            figures[str(learner)] = {"internal_stage": inside, **_compared(internal, external, plan)}
    return figures


def _compared(internal: pd.DataFrame, external: pd.DataFrame, plan: Plan) -> dict[str, Any]:
    far = (external["distance"] > OUTSIDE).to_numpy()
    # other people: drawn independently
    plans = {"internal": plan, "external": Plan(plan.resamples, plan.confidence, plan.seed + 1)}
    whole = {
        name: _figures({"": (rows, np.ones(len(rows), bool))}, plans[name])[""]
        for name, rows in (("internal", internal), ("external", external))
    }
    sides = _figures({"inside": (external, ~far), "outside": (external, far)}, plans["external"])
    groups = {**whole, **sides}
    result: dict[str, Any] = {"quality": _quality(external)[0]}
    for name, (values, _) in groups.items():
        result[name] = values
    for name, rows in (("internal", internal), ("external", external)):
        outside = (rows["distance"] > OUTSIDE).to_numpy()
        result[name]["outside"] = mean_by_subject(outside, rows["subject"], plans[name], share=True)
    for name, first, second in (
        ("outside_minus_inside", "outside", "inside"),
        ("external_minus_internal", "external", "internal"),
    ):
        result[name] = _difference(groups[first], groups[second], plan)
    return result


Group = tuple[dict[str, Any], dict[str, np.ndarray]]


def _figures(groups: Mapping[str, tuple[pd.DataFrame, np.ndarray]], plan: Plan) -> dict[str, Group]:
    """The figures of groups of the same rows, over the same resamples of their subjects; and these resamples."""
    figures: dict[str, Group] = {}
    for name, (rows, members) in groups.items():
        metric, values, confidence = _quality(rows)
        scored = members & rows["y_true"].notna().to_numpy()
        columns = {metric: (np.where(scored, values, 0.0), scored.astype(float))}
        if confidence is not None:
            columns["confidence"] = (np.where(members, confidence, 0.0), members.astype(float))
        # subjects without a member are drawn too, as those of the other group must be
        sums, _ = subject_sums(columns, rows["subject"])
        means = ratios(sums, plan)
        n_subjects = int(rows["subject"][members].nunique())
        counts = {"answers": int(members.sum()), "subjects": n_subjects, "rough": n_subjects < ROUGH_BELOW}
        if metric == "accuracy":
            n_scored = int(rows["subject"][scored].nunique())
            means[metric] = (with_open_end(means[metric][0], n_scored, plan), means[metric][1])
        figures[name] = (
            {**counts, **{key: estimate for key, (estimate, _) in means.items()}},
            {key: samples for key, (_, samples) in means.items()},
        )
    return figures


def _quality(rows: pd.DataFrame) -> tuple[str, np.ndarray, np.ndarray | None]:
    """How good each prediction is, with the name of its mean, and the probability of the most probable class."""
    functions: dict[str, Callable[[pd.DataFrame], tuple[str, np.ndarray, np.ndarray | None]]] = {
        "classes": _right,
        "number": _error,
    }
    return by_form(str(rows["kind"].iloc[0]), functions)(rows)


def _right(rows: pd.DataFrame) -> tuple[str, np.ndarray, np.ndarray | None]:
    right = (rows["y_pred"] == rows["y_true"]).to_numpy(dtype=float)
    return "accuracy", right, rows[probability_columns(rows)].max(axis=1).to_numpy(dtype=float)


def _error(rows: pd.DataFrame) -> tuple[str, np.ndarray, np.ndarray | None]:
    return "mae", (rows["y_pred"] - rows["y_true"]).abs().fillna(0.0).to_numpy(dtype=float), None


def _difference(first: Group, second: Group, plan: Plan) -> dict[str, Any]:
    """The first group's figures minus the second's, with intervals.

    Where the resamples are all the same, such as those of two accuracies of 0 and 1, the interval is made from those of
    both figures.
    """
    differences: dict[str, Any] = {}
    for name, samples in first[1].items():
        values = first[0][name]["value"], second[0][name]["value"]
        if None in values:
            continue
        ends = interval(samples - second[1][name], plan, min(first[0]["subjects"], second[0]["subjects"]))
        if ends["low"] is None:
            of_both = difference(*(SimpleNamespace(**group[0][name]) for group in (first, second)))
            ends = dict(zip(("low", "high"), of_both or (None, None), strict=True))
        differences[name] = {"value": values[0] - values[1], **ends}
    return {**differences, "rough": first[0]["rough"] or second[0]["rough"]}


def drift_caveats(figures: Mapping[str, Mapping[str, Any]], learner: str | None) -> list[Caveat]:
    """Whether many external cases lie outside, and whether a learner is less accurate there but no less confident."""
    entry = figures.get(str(learner))
    if entry is None:
        return []
    caveats = []
    outside = entry["external"]["outside"]
    if outside["low"] is not None and outside["low"] > MANY_OUTSIDE and not outside["rough"]:
        internal = entry["internal"]["outside"]
        values = {"share": outside["value"], "internal": internal["value"], "stage": entry["internal_stage"]}
        caveats.append(Caveat("external_outside", learner=learner, **values))
    gap = entry["external_minus_internal"]
    right, confidence = gap.get("accuracy"), gap.get("confidence")
    defined = right and confidence and not gap["rough"] and None not in (right["high"], confidence["high"])
    if defined and right["high"] < 0 <= confidence["high"]:
        sides = {
            name: {side: entry[side][name]["value"] for side in ("internal", "external")}
            for name in ("accuracy", "confidence")
        }
        values = {"stage": entry["internal_stage"], "falls": confidence["value"] < 0}
        caveats.append(Caveat("confident_outside", learner=learner, **sides, **values))
    return caveats
