"""Cases far from the training cases of the networks, and how predictions of them and of an external cohort differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import Plan, estimates, mean_by_subject
from casewise.evaluation.caveats import caveat
from casewise.evaluation.intervals import ROUGH_BELOW, difference
from casewise.evaluation.results import DriftGap, DriftGroup, Estimate, Interval, LearnerDrift, Note
from casewise.metrics.numbers import sum_by_subject
from casewise.predictions.table import final_rows, probability_columns
from casewise.targets import by_form

# A case is outside where it lies further from the training cases than 19 of 20 held-out cases.
OUTSIDE = 1.0
# A warning from this share on: four times what is expected of cases like those of the study.
MANY_OUTSIDE = 0.2


def drift(predictions: pd.DataFrame, target: str, plan: Plan) -> dict[str, LearnerDrift]:
    """For each learner with distances, how cases inside and outside and how the two cohorts differ.

    The study's cases are those of the test set, else those out of fold. All figures have intervals by subject.
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
            figures[str(learner)] = _compared(internal, external, inside, plan)
    return figures


def _compared(internal: pd.DataFrame, external: pd.DataFrame, stage: str, plan: Plan) -> LearnerDrift:
    kind = str(external["kind"].iloc[0])
    far = external["distance"] > OUTSIDE
    rows = {"internal": internal, "external": external, "inside": external[~far], "outside": external[far]}
    groups = {
        name: _group(of_group, kind, plan, whole=name in ("internal", "external")) for name, of_group in rows.items()
    }

    def gap(first: str, second: str) -> DriftGap:
        return DriftGap(
            groups[first].rough or groups[second].rough,
            _gap(rows[first], rows[second], "quality", groups[first].quality, groups[second].quality, plan),
            _gap(rows[first], rows[second], "confidence", groups[first].confidence, groups[second].confidence, plan),
        )

    return LearnerDrift(
        stage,
        _quality(external, kind)[0],
        **groups,
        outside_minus_inside=gap("outside", "inside"),
        external_minus_internal=gap("external", "internal"),
    )


def _group(rows: pd.DataFrame, kind: str, plan: Plan, *, whole: bool) -> DriftGroup:
    """The figures of a group; the share outside is that of a `whole` cohort."""
    n_subjects = int(rows["subject"].nunique())
    metric, values, confidence = _quality(rows, kind)
    scored = rows["y_true"].notna().to_numpy()
    outside = rows["distance"] > OUTSIDE
    return DriftGroup(
        len(rows),
        n_subjects,
        n_subjects < ROUGH_BELOW,
        mean_by_subject(values[scored], rows["subject"][scored], plan, name=metric),
        None if confidence is None else mean_by_subject(confidence, rows["subject"], plan),
        mean_by_subject(outside, rows["subject"], plan, name="share") if whole else None,
    )


def _gap(
    first: pd.DataFrame,
    second: pd.DataFrame,
    name: str,
    of_first: Estimate | None,
    of_second: Estimate | None,
    plan: Plan,
) -> Interval | None:
    """The first group's figure minus the second's, with its interval; subjects may be in both groups.

    Where it is the same without any one of the subjects, such as between accuracies of 0 and 1, the interval is made
    from those of both figures. None if a group has no such figure.
    """
    if of_first is None or of_second is None or of_first.value is None or of_second.value is None:
        return None
    measured = [_measured(rows, name) for rows in (first, second)]
    subjects = pd.concat([rows["stage"] + "/" + rows["subject"].astype(str) for rows in (first, second)])
    values, scored = (np.concatenate([columns[number] for columns in measured]) for number in (0, 1))
    in_first = np.arange(len(subjects)) < len(first)
    columns = [
        column for side in (in_first & scored, ~in_first & scored) for column in (np.where(side, values, 0), side)
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
        (estimate.low, estimate.high) if estimate.low is not None else difference(of_first, of_second) or (None, None)
    )
    return Interval(of_first.value - of_second.value, *ends)


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


def drift_caveats(figures: Mapping[str, LearnerDrift], learner: str | None) -> list[Note]:
    """Whether many external cases lie outside, and whether a learner is less accurate there but no less confident."""
    entry = figures.get(str(learner))
    if entry is None:
        return []
    caveats = []
    outside, internal = entry.external.outside, entry.internal.outside
    if outside and internal and outside.low is not None and outside.low > MANY_OUTSIDE and not outside.rough:
        shares = {"share": outside.value, "internal": internal.value, "stage": entry.internal_stage}
        caveats.append(caveat("external_outside", learner=learner, **shares))
    gap = entry.external_minus_internal
    if entry.quality != "accuracy" or gap.rough or not gap.quality or not gap.confidence:
        return caveats
    if gap.quality.high is not None and gap.confidence.high is not None and gap.quality.high < 0 <= gap.confidence.high:
        groups = {"internal": entry.internal, "external": entry.external}
        accuracy = {side: group.quality.value for side, group in groups.items()}
        confidence = {side: group.confidence.value for side, group in groups.items() if group.confidence}
        facts = {"stage": entry.internal_stage, "falls": gap.confidence.value < 0}
        caveats.append(caveat("confident_outside", learner=learner, accuracy=accuracy, confidence=confidence, **facts))
    return caveats
