"""Figures as published tables give them: the mean over the outer folds and the standard deviation of single folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from casewise.evaluation.judges import judge_of

WHY = (
    "The ± is the standard deviation of single folds and not an interval: folds share most of their training subjects, "
    "so they are no independent repeats, and it says how much single folds differ, not how sure their mean is."
)


def over_folds(
    predictions: pd.DataFrame, targets: Sequence[str], classes: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Return `[target][learner][metric]` = {mean, sd, folds} of the out-of-fold rows, judged fold by fold.

    `folds` are the figures of the folds in order, None where a figure is undefined: precision and recall are plain
    means over the classes, and a fold where a class is nobody's has none. `mean` and `sd` (with n − 1) are over the
    folds that have the figure. A target that is scored in one fold only is left out.

    >>> rows = pd.DataFrame({
    ...     "case": list("abcd"), "subject": list("abcd"), "region": "", "image": "", "model": "net", "stage": "oof",
    ...     "outer_fold": [1, 1, 2, 2], "target": "t", "kind": "classification",
    ...     "y_true": [0, 1, 0, 1], "y_pred": [0, 1, 0, 0], "p0": [1, 0, 1, 1], "p1": [0, 1, 0, 0],
    ... })
    >>> found = over_folds(rows, ["t"])["t"]["net"]
    >>> {name: (float(one["mean"]), round(float(one["sd"]), 3)) for name, one in found.items()}
    {'accuracy': (0.75, 0.354), 'precision': (0.625, 0.53), 'recall': (0.75, 0.354)}
    """
    scored = predictions["y_true"].notna() & predictions["outer_fold"].notna()
    rows = predictions[(predictions["stage"] == "oof") & scored]
    told: dict[str, Any] = {}
    for target in targets:
        its = rows[rows["target"] == target]
        if its["outer_fold"].nunique() < 2:
            continue
        judge = judge_of(its, (classes or {}).get(target))
        told[target] = {
            str(learner): {name: _summed(values) for name, values in judge.by_fold(own).items()}
            for learner, own in its.groupby("model", sort=False)
        }
    return told


def _summed(values: np.ndarray) -> dict[str, Any]:
    there = values[~np.isnan(values)]
    return {
        "mean": float(there.mean()) if len(there) else None,
        "sd": float(there.std(ddof=1)) if len(there) > 1 else None,
        "folds": [None if np.isnan(value) else float(value) for value in values],
    }
