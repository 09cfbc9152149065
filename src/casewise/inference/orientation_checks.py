"""Checks of images that are upside down or negatives: a linear score of a grid of grey, opposite for altered ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from casewise.inference.image_measures import GRID, Floats, Training, standardised

# A check exists only if it recognises this share of altered held-out images.
DETECTED = 0.8
RIDGE = 0.1


@dataclass(frozen=True)
class Score:
    """A linear score of the grid of an image that has the opposite sign for the altered image."""

    weights: list[float]
    limit: float
    detected: float


def turned_difference(grids: Floats) -> Floats:
    """(N, GRID²): standardised grids minus themselves turned by 180 degrees; turned images have the opposite."""
    centred = standardised(grids)
    return np.asarray((centred - centred[:, ::-1, ::-1]).reshape(len(grids), -1))


def negative_difference(grids: Floats) -> Floats:
    """(N, GRID²): standardised grids plus themselves turned by 180 degrees; negatives have the opposite.

    They do not depend on brightness and contrast, and turned images have the same.
    """
    centred = standardised(grids)
    return np.asarray((centred + centred[:, ::-1, ::-1]).reshape(len(grids), -1))


def fit_score(training: Training, difference: Any, share: float) -> Score | None:
    """The score with its limit; None if too few altered held-out images would be below it."""
    features: Floats = difference(training.measures.grids)
    out_of_fold = np.zeros(len(features))
    for fold in np.unique(training.folds):
        held_out = training.folds == fold
        if held_out.all():
            return None
        out_of_fold[held_out] = features[held_out] @ _ridge(features[~held_out])
    worst = training.worst(-out_of_fold, share)
    if worst is None:
        return None
    # the altered image has the opposite score, so that 0 is between the two
    limit = min(-worst, 0.0)
    detected = float((-out_of_fold < limit).mean())
    return Score(_ridge(features).tolist(), limit, detected) if detected >= DETECTED else None


def _ridge(features: Floats) -> Floats:
    """The weights (F,) of a linear model without intercept that gives rows (N, F) the value 1."""
    products = features.T @ features / len(features)
    penalty = RIDGE * max(float(np.trace(products)) / len(products), 1e-9)
    return np.asarray(np.linalg.solve(products + penalty * np.eye(len(products)), features.mean(axis=0)))


def scores_of(score: Score, grids: Floats, difference: Any) -> Floats:
    """(N,) the scores of grids (N, GRID, GRID)."""
    if len(score.weights) != GRID**2:
        raise ValueError(f"{len(score.weights)} weights instead of {GRID**2}")
    return np.asarray(difference(grids) @ np.array(score.weights))
