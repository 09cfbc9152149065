"""By which images of regions are recognised, and which regions can be told from each other.

A linear discriminant analysis (Gaussian, one covariance within regions, shrunk, equal priors) gives each image a score
for each region. An image of a case is compared with the region that its row states: it is flagged if another region
has a higher score by more than the same comparison gave of held-out images that stated their own region.

Only regions that are distinct are compared. Two regions are distinct if `detected` of the held-out images of each of
them would be flagged under the name of the other one. Pairs that are not distinct, such as left and right hands
photographed alike, are left out, the least distinct first, and without any pair there is no check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from casewise.inference.input_checks.measures import GRID, NAMES, Measures, standardised

if TYPE_CHECKING:
    from casewise.inference.input_checks.limits import Training

Floats: TypeAlias = NDArray[np.float64]
# The longest side in pixels depends on the camera and not on the region.
COMPARED = tuple(name for name in NAMES if name != "size")
FEATURES = GRID**2 + len(COMPARED)
SHRINKAGE = 0.3
# A number of training images that hardly differs is not made larger than this.
LEAST_DEVIATION = 0.02


@dataclass(frozen=True)
class RegionScore:
    """Linear scores of regions.

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

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RegionScore:
        """The scores from their plain values.

        Raises:
            LookupError, TypeError, ValueError: they are not complete.
        """
        score = cls(
            tuple(str(name) for name in values["regions"]),
            [float(number) for number in values["centre"]],
            [float(number) for number in values["scale"]],
            [[float(weight) for weight in row] for row in values["weights"]],
            [float(number) for number in values["intercepts"]],
            tuple((str(first), str(second)) for first, second in values["distinct"]),
            float(values["limit"]),
            float(values["detected"]),
        )
        count = len(score.regions)
        sizes = [len(score.centre), len(score.scale), len(score.weights), len(score.intercepts)]
        if sizes != [len(COMPARED)] * 2 + [count] * 2 or any(len(row) != FEATURES for row in score.weights):
            raise ValueError(f"the scores of {count} regions have other sizes than {FEATURES} numbers each")
        if not {name for pair in score.distinct for name in pair} <= set(score.regions):
            raise ValueError("pairs of regions that are not among the regions")
        return score

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
