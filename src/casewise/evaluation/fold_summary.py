"""Mean and standard deviation over the outer folds, as in published tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from casewise.evaluation.judges import judge_of
from casewise.evaluation.results import OverFolds


def over_folds(
    predictions: pd.DataFrame, targets: Sequence[str], classes: Mapping[str, Sequence[str]] | None = None
) -> dict[str, dict[str, dict[str, OverFolds]]]:
    """Summarise the out-of-fold rows, evaluated for each fold, by target, learner and metric.

    `folds` are the values of the folds in order, None if undefined: precision and recall are plain means over the
    classes, and undefined in a fold that lacks a class. `mean` and `sd` (with n − 1) are over the folds with a value. A
    target that is scored in only one fold is left out.

    >>> rows = pd.DataFrame({
    ...     "case": list("abcd"), "subject": list("abcd"), "region": "", "image": "", "model": "net", "stage": "oof",
    ...     "outer_fold": [1, 1, 2, 2], "target": "t", "kind": "classification",
    ...     "y_true": [0, 1, 0, 1], "y_pred": [0, 1, 0, 0], "p0": [1, 0, 1, 1], "p1": [0, 1, 0, 0],
    ... })
    >>> summary_of_net = over_folds(rows, ["t"])["t"]["net"]
    >>> {name: (entry.mean, round(entry.sd, 3)) for name, entry in summary_of_net.items()}
    {'accuracy': (0.75, 0.354), 'precision': (0.625, 0.53), 'recall': (0.75, 0.354)}
    """
    scored = predictions["y_true"].notna() & predictions["outer_fold"].notna()
    rows = predictions[(predictions["stage"] == "oof") & scored]
    summary: dict[str, dict[str, dict[str, OverFolds]]] = {}
    for target in targets:
        target_rows = rows[rows["target"] == target]
        if target_rows["outer_fold"].nunique() < 2:
            continue
        judge = judge_of(target_rows, (classes or {}).get(target))
        summary[target] = {
            str(learner): {name: _summed(values) for name, values in judge.by_fold(learner_rows).items()}
            for learner, learner_rows in target_rows.groupby("model", sort=False)
        }
    return summary


def _summed(values: np.ndarray) -> OverFolds:
    defined = values[~np.isnan(values)]
    return OverFolds(
        mean=float(defined.mean()) if len(defined) else None,
        sd=float(defined.std(ddof=1)) if len(defined) > 1 else None,
        folds=[None if np.isnan(value) else float(value) for value in values],
    )
