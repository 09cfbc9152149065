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
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from casewise.inference.input_measures import GRID, NAMES, Measures, standardised

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
    """The limits of new images.

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


# The longest side in pixels depends on the camera and not on the region.
COMPARED = tuple(name for name in NAMES if name != "size")
FEATURES = GRID**2 + len(COMPARED)
SHRINKAGE = 0.3
# A number of training images that hardly differs is not made larger than this.
LEAST_DEVIATION = 0.02


@dataclass(frozen=True)
class RegionScore:
    """Scores by which images of another region than their row states are recognised.

    A linear discriminant analysis (Gaussian, one covariance within regions, shrunk, equal priors) gives each image a
    score for each region. An image is flagged if another region has a higher score than the stated one by more than the
    same comparison gave of held-out images that stated their own region.

    Only distinct regions are compared: two of which `DETECTED` of the held-out images would be flagged under the name
    of the other one. Pairs that are not, such as hands photographed alike, are left out, the least distinct first.

    Attributes:
        regions: the R regions.
        centre, scale: of the `COMPARED` numbers of an image: mean and standard deviation over the training images.
        weights: (R, FEATURES) lists; intercepts: (R,).
        distinct: pairs of regions that are compared.
        limit: the lowest difference between the score of the stated region and of another one; at most 0.
        detected: the share of held-out images that are flagged under the name of another region, the mean over the
            distinct pairs.
    """

    regions: tuple[str, ...]
    centre: list[float]
    scale: list[float]
    weights: list[list[float]]
    intercepts: list[float]
    distinct: tuple[tuple[str, str], ...]
    limit: float
    detected: float

    def __post_init__(self) -> None:
        """Check the numbers of an unknown origin.

        Raises:
            ValueError: they do not fit each other.
        """
        count = len(self.regions)
        sizes = [len(self.centre), len(self.scale), len(self.weights), len(self.intercepts)]
        if sizes != [len(COMPARED)] * 2 + [count] * 2 or any(len(row) != FEATURES for row in self.weights):
            raise ValueError(f"the scores of {count} regions have other sizes than {FEATURES} numbers each")
        if not {name for pair in self.distinct for name in pair} <= set(self.regions):
            raise ValueError("pairs of regions that are not among the regions")

    def suspected(self, measures: Measures, stated: NDArray[Any]) -> list[str]:
        """For each image the region that it looks like, or '' if it may show the one that is stated: (N,) names."""
        numbers = {name: number for number, name in enumerate(self.regions)}
        rows = np.array([numbers.get(str(name), -1) for name in stated], dtype=int)
        features = _features(measures, np.array(self.centre), np.array(self.scale))
        scores = features @ np.array(self.weights).T + np.array(self.intercepts)
        pairs = [(numbers[first], numbers[second]) for first, second in self.distinct]
        differences = _differences(scores, rows, pairs)
        closest = differences.argmin(axis=1)
        flagged = differences.min(axis=1) < self.limit
        return [self.regions[region] if is_flagged else "" for region, is_flagged in zip(closest, flagged, strict=True)]


def fit_regions(training: Training, share: float, detected: float, fewest: int) -> RegionScore | None:
    """The scores of regions with their limit; None if there are no two distinct regions.

    Args:
        training: images with the regions that they state.
        share: of held-out cases that may be flagged.
        detected: the share of held-out images of each region that must be flagged under another name.
        fewest: subjects with an image of a region, without which the region is not compared.
    """
    subjects = {name: len(np.unique(training.subjects[training.regions == name])) for name in set(training.regions)}
    regions = tuple(sorted(str(name) for name, count in subjects.items() if name and count >= fewest))
    if len(regions) < 2:
        return None
    training = training.subset(np.isin(training.regions, regions))
    rows = np.array([regions.index(str(name)) for name in training.regions])
    out_of_fold = np.zeros((len(rows), len(regions)))
    for fold in np.unique(training.folds):
        held_out = training.folds == fold
        if len(np.unique(rows[~held_out])) < len(regions):
            return None
        centre, scale, weights, intercepts = _discriminant(training.measures.subset(~held_out), rows[~held_out])
        features = _features(training.measures.subset(held_out), centre, scale)
        out_of_fold[held_out] = features @ weights.T + intercepts
    pairs = list(combinations(range(len(regions)), 2))
    while pairs:
        worst = training.worst(-_differences(out_of_fold, rows, pairs).min(axis=1), share)
        if worst is None:
            return None
        limit = min(-worst, 0.0)
        shares = [_detected(out_of_fold, rows, pair, pairs, limit) for pair in pairs]
        if min(shares) >= detected:
            centre, scale, weights, intercepts = _discriminant(training.measures, rows)
            return RegionScore(
                regions,
                centre.tolist(),
                scale.tolist(),
                weights.tolist(),
                intercepts.tolist(),
                tuple((regions[first], regions[second]) for first, second in pairs),
                limit,
                float(np.mean(shares)),
            )
        pairs.pop(int(np.argmin(shares)))
    return None


def _differences(scores: Floats, stated: NDArray[np.intp], pairs: list[tuple[int, int]]) -> Floats:
    """(N, R): the score of the stated region, by number, minus that of each region that it is compared with, else inf.

    A stated region of -1 is compared with none.
    """
    compared = np.zeros((scores.shape[1], scores.shape[1]), dtype=bool)
    for first, second in pairs:
        compared[first, second] = compared[second, first] = True
    differences = scores[np.arange(len(scores)), stated][:, None] - scores
    return np.where(compared[stated] & (stated >= 0)[:, None], differences, np.inf)


def _detected(
    scores: Floats, rows: NDArray[np.intp], pair: tuple[int, int], pairs: list[tuple[int, int]], limit: float
) -> float:
    """The share of the images of either region that are flagged under the name of the other one, the lower of two."""
    shares = []
    for stated, shown in (pair, pair[::-1]):
        images = scores[rows == shown]
        differences = _differences(images, np.full(len(images), stated), pairs).min(axis=1)
        shares.append(float((differences < limit).mean()))
    return min(shares)


def _features(measures: Measures, centre: Floats, scale: Floats) -> Floats:
    """(N, FEATURES): standardised grids and numbers, the latter within three standard deviations."""
    numbers = (_numbers(measures) - centre) / scale
    grids = standardised(measures.grids).reshape(len(measures), -1)
    return np.hstack([grids, np.clip(numbers, -3, 3)])


def _numbers(measures: Measures) -> Floats:
    return measures.values[:, [NAMES.index(name) for name in COMPARED]]


def _discriminant(measures: Measures, rows: NDArray[np.intp]) -> tuple[Floats, Floats, Floats, Floats]:
    """Centre and scale of the numbers, weights (R, FEATURES) and intercepts (R,); each region counts the same."""
    numbers = _numbers(measures)
    centre, scale = numbers.mean(axis=0), np.maximum(numbers.std(axis=0), LEAST_DEVIATION)
    features = _features(measures, centre, scale)
    regions = np.unique(rows)
    means = np.array([features[rows == region].mean(axis=0) for region in regions])
    within = np.zeros((FEATURES, FEATURES))
    for region, mean in zip(regions, means, strict=True):
        deviations = features[rows == region] - mean
        within += deviations.T @ deviations / len(deviations) / len(regions)
    penalty = SHRINKAGE * max(float(np.trace(within)) / FEATURES, 1e-9)
    weights = np.linalg.solve(within + penalty * np.eye(FEATURES), means.T).T
    return centre, scale, weights, -0.5 * (weights * means).sum(axis=1)
