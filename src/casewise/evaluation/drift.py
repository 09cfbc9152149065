"""Cases far from the training cases of the networks, and how predictions of them and of an external cohort differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import Plan, estimates, mean_by_subject
from casewise.evaluation.caveats import Caveat
from casewise.evaluation.intervals import ROUGH_BELOW, difference
from casewise.metrics.numbers import sum_by_subject
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
        have intervals by subject.
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
    kind = str(external["kind"].iloc[0])
    far = (external["distance"] > OUTSIDE).to_numpy()
    groups = {"internal": internal, "external": external, "inside": external[~far], "outside": external[far]}
    result: dict[str, Any] = {"quality": _quality(external, kind)[0]}
    result |= {name: _figures(rows, kind, plan) for name, rows in groups.items()}
    for name, rows in (("internal", internal), ("external", external)):
        outside = rows["distance"] > OUTSIDE
        result[name]["outside"] = mean_by_subject(outside, rows["subject"], plan, name="share")
    names = [name for name in (result["quality"], "confidence") if name in result["external"]]
    for gap, first, second in (
        ("outside_minus_inside", "outside", "inside"),
        ("external_minus_internal", "external", "internal"),
    ):
        figures = {name: (result[first][name], result[second][name]) for name in names}
        result[gap] = {
            name: _gap(groups[first], groups[second], name, of_first, of_second, plan)
            for name, (of_first, of_second) in figures.items()
            if of_first.value is not None and of_second.value is not None
        }
        result[gap]["rough"] = result[first]["rough"] or result[second]["rough"]
    return result


def _figures(rows: pd.DataFrame, kind: str, plan: Plan) -> dict[str, Any]:
    """The numbers of predictions and subjects of a group, its quality where the reference is known, and confidence."""
    n_subjects = int(rows["subject"].nunique())
    figures: dict[str, Any] = {"answers": len(rows), "subjects": n_subjects, "rough": n_subjects < ROUGH_BELOW}
    metric, values, confidence = _quality(rows, kind)
    scored = rows["y_true"].notna().to_numpy()
    figures[metric] = mean_by_subject(values[scored], rows["subject"][scored], plan, name=metric)
    if confidence is not None:
        figures["confidence"] = mean_by_subject(confidence, rows["subject"], plan)
    return figures


def _gap(
    first: pd.DataFrame, second: pd.DataFrame, name: str, first_figure: Any, second_figure: Any, plan: Plan
) -> dict[str, Any]:
    """The first group's figure minus the second's, with its interval; subjects may be in both groups.

    Where it is the same without any one of the subjects, such as between accuracies of 0 and 1, the interval is made
    from those of both figures.
    """
    measured = [_measured(rows, name) for rows in (first, second)]
    subjects = pd.concat([rows["stage"] + "/" + rows["subject"].astype(str) for rows in (first, second)])
    values, scored = (np.concatenate([columns[number] for columns in measured]) for number in (0, 1))
    of_first = np.arange(len(subjects)) < len(first)
    columns = [
        column for side in (of_first & scored, ~of_first & scored) for column in (np.where(side, values, 0), side)
    ]
    sums = sum_by_subject(np.stack(columns, axis=1).astype(float), subjects)[:, None, :]
    presence = sums[..., 1::2] > 0

    def gap(totals: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):
            return {"difference": totals[..., 0] / totals[..., 1] - totals[..., 2] / totals[..., 3]}

    estimate = estimates(
        sums,
        gap,
        lambda *_: "no cases",
        plan,
        n_cases=int(scored.sum()),
        presence=presence,
        rests_on={"difference": presence.sum(axis=0).min(axis=-1)},
    )[0]["difference"]
    ends = (
        (estimate.low, estimate.high)
        if estimate.low is not None
        else difference(first_figure, second_figure) or (None, None)
    )
    return {"value": first_figure.value - second_figure.value, "low": ends[0], "high": ends[1]}


def _measured(rows: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The values of which a figure is the mean, (N,), and which of them are scored."""
    _, values, confidence = _quality(rows, str(rows["kind"].iloc[0]))
    if name == "confidence" and confidence is not None:
        return confidence, np.ones(len(rows), dtype=bool)
    return values, rows["y_true"].notna().to_numpy()


def _quality(rows: pd.DataFrame, kind: str) -> tuple[str, np.ndarray, np.ndarray | None]:
    """How good each prediction is, with the name of its mean, and the probability of the most probable class."""
    functions: dict[str, Callable[[pd.DataFrame], tuple[str, np.ndarray, np.ndarray | None]]] = {
        "classes": _right,
        "number": _error,
    }
    return by_form(kind, functions)(rows)


def _right(rows: pd.DataFrame) -> tuple[str, np.ndarray, np.ndarray | None]:
    right = (rows["y_pred"] == rows["y_true"]).to_numpy(dtype=float)
    return "accuracy", right, rows[probability_columns(rows)].max(axis=1).to_numpy(dtype=float)


def _error(rows: pd.DataFrame) -> tuple[str, np.ndarray, np.ndarray | None]:
    return "mae", (rows["y_pred"] - rows["y_true"]).abs().fillna(0.0).to_numpy(dtype=float), None


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
