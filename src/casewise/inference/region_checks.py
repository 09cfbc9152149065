"""Checks of images of another region of the body than their row states, by linear scores of regions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casewise.inference.image_measures import COMPARED, FEWEST_SUBJECTS, GRID, Floats, Measures, Training, standardised
from casewise.inference.orientation_checks import DETECTED

FEATURES = GRID**2 + len(COMPARED)
SHRINKAGE = 0.3
# The least deviation by which a number is divided, so that nearly constant ones are not blown up.
LEAST_DEVIATION = 0.02


@dataclass(frozen=True)
class RegionScore:
    """Scores by which images of another region than their row states are recognised.

    A linear discriminant analysis (Gaussian, one covariance within regions, shrunk, equal priors) gives each image a
    score for each region. An image is flagged if another region has a higher score than the stated one by more than the
    same comparison gave of held-out images that stated their own region.

    Only distinct regions are compared: two regions are distinct if `DETECTED` of their held-out images would be flagged
    under the other's name. Other pairs, such as hands photographed alike, are left out, the least distinct first.

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
        fitted = (np.array(values) for values in (self.centre, self.scale, self.weights, self.intercepts))
        scores = _region_scores(measures, *fitted)
        pairs = [(numbers[first], numbers[second]) for first, second in self.distinct]
        differences = _differences(scores, rows, pairs)
        closest = differences.argmin(axis=1)
        flagged = differences.min(axis=1) < self.limit
        return [self.regions[region] if is_flagged else "" for region, is_flagged in zip(closest, flagged, strict=True)]


def fit_regions(training: Training, share: float) -> RegionScore | None:
    """The scores of regions with their limit; None if there are no two distinct regions.

    A region with fewer than `FEWEST_SUBJECTS` is not compared. At most a `share` of the cases may be flagged.
    """
    subjects = {name: len(np.unique(training.subjects[training.regions == name])) for name in set(training.regions)}
    regions = tuple(sorted(str(name) for name, count in subjects.items() if name and count >= FEWEST_SUBJECTS))
    if len(regions) < 2:
        return None
    training = training.subset(np.isin(training.regions, regions))
    rows = np.array([regions.index(str(name)) for name in training.regions])
    out_of_fold = np.zeros((len(rows), len(regions)))
    for fold in np.unique(training.folds):
        held_out = training.folds == fold
        if len(np.unique(rows[~held_out])) < len(regions):
            return None
        fitted = _discriminant(training.measures.subset(~held_out), rows[~held_out])
        out_of_fold[held_out] = _region_scores(training.measures.subset(held_out), *fitted)
    pairs = list(combinations(range(len(regions)), 2))
    while pairs:
        worst = training.worst(-_differences(out_of_fold, rows, pairs).min(axis=1), share)
        if worst is None:
            return None
        limit = min(-worst, 0.0)
        shares = [_detected(out_of_fold, rows, pair, pairs, limit) for pair in pairs]
        if min(shares) >= DETECTED:
            names = tuple((regions[first], regions[second]) for first, second in pairs)
            centre, scale, weights, intercepts = (v.tolist() for v in _discriminant(training.measures, rows))
            return RegionScore(regions, centre, scale, weights, intercepts, names, limit, float(np.mean(shares)))
        pairs.pop(int(np.argmin(shares)))
    return None


def _differences(scores: Floats, stated: NDArray[np.intp], pairs: list[tuple[int, int]]) -> Floats:
    """(N, R): the score of the stated region, by number, minus the score of each region compared with it, else inf.

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
    numbers = (measures.compared - centre) / scale
    grids = standardised(measures.grids).reshape(len(measures), -1)
    return np.hstack([grids, np.clip(numbers, -3, 3)])


def _region_scores(measures: Measures, centre: Floats, scale: Floats, weights: Floats, intercepts: Floats) -> Floats:
    """(N, R): the score of each region."""
    return np.asarray(_features(measures, centre, scale) @ weights.T + intercepts)


def _discriminant(measures: Measures, rows: NDArray[np.intp]) -> tuple[Floats, Floats, Floats, Floats]:
    """Centre and scale of the numbers, weights (R, FEATURES) and intercepts (R,); each region counts the same."""
    numbers = measures.compared
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
