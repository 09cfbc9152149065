"""Figures as published tables give them: the mean over the outer folds and the standard deviation of single folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from casewise.evaluation.classification import classes_of
from casewise.metrics.classes import Classes, Samples, class_metrics
from casewise.metrics.numbers import moments, number_metrics
from casewise.metrics.registry import columns
from casewise.predictions.table import probability_columns

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
        names = classes_of(its, (classes or {}).get(target), None) if its["kind"].iloc[0] != "regression" else None
        told[target] = {
            str(learner): {name: _summed(values) for name, values in _by_fold(part, names).items()}
            for learner, part in its.groupby("model", sort=False)
        }
    return told


def _by_fold(part: pd.DataFrame, classes: Classes | None) -> dict[str, np.ndarray]:
    """Return each figure of one learner, (F,) by fold."""
    folds = part["outer_fold"].to_numpy(dtype=int)
    numbers = np.unique(folds)
    if classes is None:
        truth, predicted = (part[name].to_numpy(dtype=float) for name in ("y_true", "y_pred"))
        terms = moments(truth, predicted, centre=float(truth.mean()))
        ones = [number_metrics(terms[folds == fold].sum(axis=0)) for fold in numbers]
        return {name: np.array([one[name] for one in ones], dtype=float) for name in columns("folds", "regression")}
    names = probability_columns(part)[: len(classes.names)]
    probabilities = part[names].to_numpy(dtype=float)[:, None]
    # a fold is drawn as a resample would be: each of its subjects once, and nobody else
    samples = Samples(
        truth=part["y_true"].to_numpy(dtype=int),
        decided=part["y_pred"].to_numpy(dtype=int)[:, None],
        probabilities=probabilities,
        calibrated=np.full_like(probabilities, np.nan),
        subjects=np.array([f"{fold} {subject}" for fold, subject in zip(folds, part["subject"], strict=True)]),
    )
    drawn = np.unique(samples.subjects)
    counts = np.array([[float(name.startswith(f"{fold} ")) for name in drawn] for fold in numbers])
    found = class_metrics(samples, classes, counts)
    return {name: found[name][:, 0] for name in columns("folds", classes.kind, len(classes.names))}


def _summed(values: np.ndarray) -> dict[str, Any]:
    there = values[~np.isnan(values)]
    return {
        "mean": float(there.mean()) if len(there) else None,
        "sd": float(there.std(ddof=1)) if len(there) > 1 else None,
        "folds": [None if np.isnan(value) else float(value) for value in values],
    }
