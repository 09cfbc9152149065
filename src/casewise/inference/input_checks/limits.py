"""The limits of input checks, fitted on training subjects and chosen on subjects that were held out.

At most one in twenty held-out cases of the same source is to be flagged, by all checks together. The checks divide this
share (`SHARES`), and each of them takes its share of the cases of subjects out of fold:

- The numbers of an image may leave the range of the training images by a tolerance, a multiple of that range. The
  tolerance is one for all numbers, a quantile of what held-out cases needed with the ranges of the other folds.
- An image turned by 180 degrees, or its negative, has the opposite score of a linear model that was fitted to give
  training images the score 1 (ridge regression). Whether images have an upright position, or are distinct from
  negatives, is measured on held-out images: the check exists only if it recognises `DETECTED` of them.
- An image of another region than its row states is recognised by scores of regions (`region_score`), if regions differ.
- The distance from the training features has a larger limit than that of the column `beyond`.
- A region, or a sequence of volumes, is missed if nearly all training cases have it. No study has both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from casewise.inference.input_checks.measures import GRID, NAMES, Measures, standardised
from casewise.inference.input_checks.region_score import RegionScore, fit_regions

if TYPE_CHECKING:
    import pandas as pd

Floats: TypeAlias = NDArray[np.float64]
# The shares of held-out cases that each check may flag; together less than one in twenty.
SHARES = {
    "range": 0.015,
    "upright": 0.005,
    "polarity": 0.005,
    "distance": 0.01,
    "regions": 0.005,
    "wrong_region": 0.005,
}
# The range of a number is between these quantiles of the training images, and counts as no smaller than this.
LOWEST, HIGHEST = 0.005, 0.995
LEAST_RANGE = dict(zip(NAMES, (0.2, 0.1, 0.2, 0.2, 2.0, 1.0, 0.1), strict=True))
# A small image is flagged, a large one is not: it is reduced.
ONE_SIDED = {"size": "low", "black": "high", "white": "high"}
LEAST_TOLERANCE = 0.25
# An image with a smaller standard deviation of grey is nearly uniform, whatever the training images are.
UNIFORM = 0.01
DETECTED = 0.8
RIDGE = 0.1
# So many images of a case are examined, both for the limits and in new cases.
MOST_OF_CASE = 16
# Fewer subjects give no limits.
FEWEST_SUBJECTS = 8


@dataclass(frozen=True)
class Score:
    """A linear score of the grid of an image that has the opposite sign for the altered image."""

    weights: list[float]
    limit: float
    detected: float


@dataclass(frozen=True)
class Limits:
    """What new images may be.

    Attributes:
        images, subjects: of the training, that were measured.
        tolerance: by how many of their ranges the numbers may leave them.
        ranges: by name of a number, its lowest and highest value; None where there is no limit.
        upright, polarity: the scores of images turned by 180 degrees, and of negatives; None without such a check.
        regions: those that a case must have.
        wrong_region: the scores by which images of another region are recognised; None without such a check.
        sequences: those of volumes that a case must have.
        distance: by learner and target, the largest distance from the training features.
    """

    images: int
    subjects: int
    tolerance: float
    ranges: dict[str, tuple[float | None, float | None]]
    upright: Score | None = None
    polarity: Score | None = None
    regions: tuple[str, ...] = ()
    distance: dict[str, dict[str, float]] = field(default_factory=dict)
    wrong_region: RegionScore | None = None
    sequences: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The limits as plain values."""
        return asdict(self) | {"shares": SHARES}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Limits:
        """The limits from their plain values; earlier versions wrote neither `wrong_region` nor `sequences`.

        Raises:
            LookupError, TypeError, ValueError: they are not complete.
        """
        upright, polarity = (Score(**values[name]) if values[name] else None for name in ("upright", "polarity"))
        return cls(
            int(values["images"]),
            int(values["subjects"]),
            float(values["tolerance"]),
            {str(name): (pair[0], pair[1]) for name, pair in values["ranges"].items()},
            upright,
            polarity,
            tuple(values["regions"]),
            dict(values["distance"]),
            RegionScore.of(values["wrong_region"]) if values.get("wrong_region") else None,
            tuple(values.get("sequences", ())),
        )


@dataclass(frozen=True, eq=False)
class Training:
    """Measured training images with their cases, subjects, folds and regions (`""`: none): (N,) each."""

    measures: Measures
    cases: NDArray[Any]
    subjects: NDArray[Any]
    folds: NDArray[np.intp]
    regions: NDArray[Any]

    def subset(self, rows: NDArray[np.bool_]) -> Training:
        """Some of the images."""
        columns = (self.cases, self.subjects, self.folds, self.regions)
        return Training(self.measures.subset(rows), *(column[rows] for column in columns))

    def worst(self, values: Floats, share: float) -> float | None:
        """The value that this share of the cases exceeds, the largest of a case counting; None with too few subjects.

        A random case of each subject counts as much as those of the others.
        """
        _, first, numbers = np.unique(self.cases, return_index=True, return_inverse=True)
        largest = np.full(len(first), -np.inf)
        np.maximum.at(largest, numbers, values)
        return upper_quantile(largest, self.subjects[first], share)


def upper_quantile(values: Floats, subjects: NDArray[Any], share: float) -> float | None:
    """The smallest value that at most this share of the cases exceeds, each subject weighing the same.

    With few subjects it is the largest value, and None if there are fewer than `FEWEST_SUBJECTS`.

    >>> upper_quantile(np.arange(100.0), np.arange(100), 0.05), upper_quantile(np.arange(9.0), np.arange(9), 0.05)
    (95.0, 8.0)
    """
    names, numbers, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    if len(names) < FEWEST_SUBJECTS:
        return None
    order = np.argsort(values, kind="stable")
    # as in split conformal prediction, the new subject is one more
    reached = np.cumsum((1 / counts[numbers] / (len(names) + 1))[order]) >= 1 - share - 1e-9
    return float(values[order][reached.argmax() if reached.any() else -1])


def fit_limits(training: Training, regions: Sequence[str] = (), sequences: Sequence[str] = ()) -> Limits:
    """The limits of numbers and scores; those of distances are `distance_limits`.

    Args:
        regions, sequences: those that a case must have (`expected_names`).
    """
    values = training.measures.values
    folds = np.unique(training.folds)
    needed = np.zeros(len(values))
    for fold in folds:
        held_out = training.folds == fold
        if not held_out.all():
            needed[held_out] = excess(values[held_out], *inner_range(values[~held_out])).max(axis=1)
    tolerance = training.worst(needed, SHARES["range"])
    subjects = len(np.unique(training.subjects))
    if tolerance is None or len(folds) < 2:
        return Limits(len(values), subjects, LEAST_TOLERANCE, {})
    tolerance = max(tolerance, LEAST_TOLERANCE)
    low, high = inner_range(values)
    slack = tolerance * spans(low, high)
    ranges: dict[str, tuple[float | None, float | None]] = {}
    for number, name in enumerate(NAMES):
        side = ONE_SIDED.get(name)
        ranges[name] = (
            None if side == "high" else float(low[number] - slack[number]),
            None if side == "low" else float(high[number] + slack[number]),
        )
    contrast = NAMES.index("contrast")
    ranges["contrast"] = (max(float(low[contrast] - slack[contrast]), UNIFORM), ranges["contrast"][1])
    return Limits(
        len(values),
        subjects,
        float(tolerance),
        ranges,
        fit_score(training, turned_difference, SHARES["upright"]),
        fit_score(training, negative_difference, SHARES["polarity"]),
        tuple(regions),
        wrong_region=fit_regions(training, SHARES["wrong_region"], DETECTED, FEWEST_SUBJECTS),
        sequences=tuple(sequences),
    )


def inner_range(values: Floats) -> tuple[Floats, Floats]:
    """The lowest and highest value of each number (N, V), without the few most extreme: (V,), (V,)."""
    low, high = np.quantile(values, [LOWEST, HIGHEST], axis=0)
    return np.asarray(low), np.asarray(high)


def spans(low: Floats, high: Floats) -> Floats:
    """The range of each number, no smaller than `LEAST_RANGE`."""
    return np.maximum(high - low, np.array([LEAST_RANGE[name] for name in NAMES]))


def excess(values: Floats, low: Floats, high: Floats) -> Floats:
    """By how many ranges the numbers (N, V) are outside of theirs; 0 inside, and on a side that has no limit."""
    below, above = low - values, values - high
    for number, name in enumerate(NAMES):
        side = ONE_SIDED.get(name)
        if side == "low":
            above[:, number] = 0
        elif side == "high":
            below[:, number] = 0
    return np.asarray(np.maximum(np.maximum(below, above), 0) / spans(low, high))


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
        out_of_fold[held_out] = features[held_out] @ ridge(features[~held_out])
    worst = training.worst(-out_of_fold, share)
    if worst is None:
        return None
    # the altered image has the opposite score, so that 0 is between the two
    limit = min(-worst, 0.0)
    detected = float((-out_of_fold < limit).mean())
    return Score(ridge(features).tolist(), limit, detected) if detected >= DETECTED else None


def ridge(features: Floats) -> Floats:
    """The weights (F,) of a linear model without intercept that gives rows (N, F) the value 1."""
    products = features.T @ features / len(features)
    penalty = RIDGE * max(float(np.trace(products)) / len(products), 1e-9)
    return np.asarray(np.linalg.solve(products + penalty * np.eye(len(products)), features.mean(axis=0)))


def scores(score: Score, grids: Floats, difference: Any) -> Floats:
    """(N,) the scores of grids (N, GRID, GRID)."""
    if len(score.weights) != GRID**2:
        raise ValueError(f"{len(score.weights)} weights instead of {GRID**2}")
    return np.asarray(difference(grids) @ np.array(score.weights))


def expected_names(names_by_case: Sequence[frozenset[str]]) -> tuple[str, ...]:
    """The regions or sequences that nearly all cases have, so that at most `SHARES` of the cases lack one of them.

    >>> expected_names([frozenset({"face", "hand"})] * 300 + [frozenset({"face"})])
    ('face', 'hand')
    >>> expected_names([frozenset({"face", "hand"})] * 3 + [frozenset({"face"})])
    ('face',)
    """
    names = sorted(set().union(*names_by_case) - {""}) if names_by_case else []
    lacking = {name: sum(name not in present for present in names_by_case) for name in names}
    expected: list[str] = []
    for name in sorted(names, key=lambda name: (lacking[name], name)):
        missed = sum(not {*expected, name} <= present for present in names_by_case)
        if missed <= SHARES["regions"] * len(names_by_case):
            expected.append(name)
    return tuple(sorted(expected))


def distance_limits(predictions: pd.DataFrame) -> dict[str, dict[str, float]]:
    """By learner and target, the distance from the training features that few cases out of fold exceed, at least 1."""
    if "distance" not in predictions:
        return {}
    rows = predictions[(predictions["stage"] == "oof") & predictions["distance"].notna()]
    limits: dict[str, dict[str, float]] = {}
    for (learner, target), group in rows.groupby(["model", "target"], sort=False):
        worst = group.groupby(["subject", "case"], sort=False)["distance"].max().reset_index()
        limit = upper_quantile(worst["distance"].to_numpy(), worst["subject"].to_numpy(), SHARES["distance"])
        if limit is not None and math.isfinite(limit):
            limits.setdefault(str(learner), {})[str(target)] = max(limit, 1.0)
    return limits
