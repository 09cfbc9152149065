"""How often prediction intervals and sets contain the reference, and how large they are, as means over subjects.

Intervals are never judged on the rows that they were calibrated on. The test set and an external cohort get those of
the record; without a test set, the rows of each fold get intervals calibrated on the other folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.evaluation.bootstrap import Plan, mean_by_subject
from casewise.evaluation.results import Estimate, PredictionSets, StageCoverage, TargetCoverage
from casewise.predictions.conformal import ROUNDING, Entry, fit_target, interval, members
from casewise.predictions.table import final_rows


def coverage(
    predictions: pd.DataFrame,
    learner: str,
    record: Mapping[str, Any],
    classes: Mapping[str, Sequence[str]],
    plan: Plan,
) -> PredictionSets:
    """The coverage of each target of a learner, averaged within subjects first, with intervals by subject.

    Args:
        record: that of `casewise.predictions.conformal.fit`.
        classes: the names of the classes of each target that has them.
    """
    rows = final_rows(predictions[predictions["model"] == learner])
    rows = rows[rows["y_true"].notna() & rows["y_pred"].notna()]
    targets: dict[str, TargetCoverage] = {}
    for target, entry in record["learners"].get(learner, {}).items():
        own = rows[rows["target"] == target]
        by_stage = {name: own[own["stage"] == name] for name in own["stage"].unique()}
        stages: dict[str, StageCoverage] = {}
        if "test" in by_stage:
            stages["test"] = _figures([(by_stage["test"], entry)], classes.get(target, ()), plan)
        elif "oof" in by_stage and by_stage["oof"]["outer_fold"].notna().all():
            pairs = _of_other_folds(by_stage["oof"], entry, float(record["level"]))
            if pairs:
                stages["oof"] = replace(_figures(pairs, classes.get(target, ()), plan), cross_fitted=True)
        if "external" in by_stage:
            stages["external"] = _figures([(by_stage["external"], entry)], classes.get(target, ()), plan)
        targets[target] = TargetCoverage(dict(entry), stages)
    return PredictionSets(record["level"], learner, record["fewest"], targets)


def _of_other_folds(rows: pd.DataFrame, entry: Entry, level: float) -> list[tuple[pd.DataFrame, Entry]]:
    """The rows of each fold, with the entry of a calibration on the other folds; none for a single fold."""
    limits = entry.get("range", ())  # classes have none
    folds = rows["outer_fold"].unique()
    if len(folds) < 2:
        return []
    return [
        (rows[rows["outer_fold"] == fold], fit_target(rows[rows["outer_fold"] != fold], limits, level))
        for fold in folds
    ]


def _figures(pairs: Sequence[tuple[pd.DataFrame, Entry]], classes: Sequence[str], plan: Plan) -> StageCoverage:
    """The figures of one stage, from rows with the entry that belongs to each."""
    rows = pd.concat([own for own, _ in pairs])
    subjects, truth = rows["subject"].astype(str).to_numpy(), rows["y_true"].to_numpy(dtype=float)
    if classes:
        inside = np.concatenate([members(own, entry) for own, entry in pairs])
        right = inside[np.arange(len(rows)), truth.astype(int)].astype(float)
        size = inside.sum(axis=1).astype(float)
        of_class = {name: truth == number for number, name in enumerate(classes)}
        return StageCoverage(
            coverage=_mean(right, subjects, plan, name="share"),
            without=0,
            cross_fitted=False,
            size=_mean(size, subjects, plan),
            single=_mean((size == 1).astype(float), subjects, plan, name="share"),
            by_class={
                name: _mean(right[mask], subjects[mask], plan, name="share") if mask.any() else None
                for name, mask in of_class.items()
            },
        )
    ends = [interval(own["y_pred"].to_numpy(dtype=float), entry) for own, entry in pairs]
    low, high = (np.concatenate([pair[side] for pair in ends]) for side in (0, 1))
    has = ~np.isnan(low)
    right = ((truth >= low - ROUNDING) & (truth <= high + ROUNDING)).astype(float)
    return StageCoverage(
        coverage=_mean(right[has], subjects[has], plan, name="share") if has.any() else None,
        without=int((~has).sum()),
        cross_fitted=False,
        width=_mean((high - low)[has], subjects[has], plan) if has.any() else None,
    )


def _mean(values: NDArray[np.float64], subjects: NDArray[Any], plan: Plan, *, name: str = "mean") -> Estimate:
    """The mean over subjects of each subject's mean."""
    by_subject = pd.Series(values).groupby(subjects).mean()
    figure = mean_by_subject(by_subject.to_numpy(), by_subject.index.to_numpy(), plan, name=name)
    return replace(figure, n_cases=len(values))
