"""Input checks: measures of images, limits fitted on training subjects and chosen on others, and flags of new cases.

At most one in twenty held-out cases of the same source is to be flagged, by all checks together. The checks divide this
share (`SHARES`), and each of them takes its share of the cases of subjects out of fold:

- The numbers of an image may leave the range of the training images by a tolerance, a multiple of that range. The
  tolerance is one for all numbers, a quantile of what held-out cases needed with the ranges of the other folds.
- An image turned by 180 degrees, or its negative, has the opposite score of a linear model that was fitted to give
  training images the score 1 (ridge regression). Whether images have an upright position, or are distinct from
  negatives, is measured on held-out images: the check exists only if it recognises `DETECTED` of them.
- An image of another region than its row states is recognised by scores of regions (`_RegionScore`), if regions differ.
- The look of an image (`casewise.inference.look`) may be as far from the training images as the look of held-out
  images. Where there are several sources, an image is held out with its source. This check takes what the others leave.
- A region, or a sequence of volumes, is missed if nearly all training cases have it. No study has both.
- A case may have more images than the training cases (`casewise.inference.case_sizes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import joblib
import numpy as np
from numpy.typing import NDArray

from casewise.errors import ImageError
from casewise.inference.case_sizes import CaseSizes, image_counts
from casewise.inference.drift import FAR_SHARE, TEXTURE, WORDS, Batch, Quantiles, held_out_quantile, quantiles_of
from casewise.inference.look import EarlyMaps, Look, LookFacts
from casewise.modalities.store.readers import read_image
from casewise.modalities.store.store import TileStore
from casewise.models.threads import on_threads

if TYPE_CHECKING:
    from casewise.inference.new_cases import NewCases
    from casewise.modalities.base import ImageStore

Floats: TypeAlias = NDArray[np.float64]
# Numbers of an image, in the order of `Measures.values`.
NAMES = ("brightness", "contrast", "black", "white", "size", "shape", "colour")
# The side of the grid of grey means by which upside-down and inverted images are recognised.
GRID = 12
# Values from 0 to 255 up to which a pixel is nearly black, and from which it is nearly white.
BLACK, WHITE = 8, 247
# The stored modes of files without colour.
GREY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")
# The side to which a file is reduced to see its colours.
COLOUR_SIDE = 64


@dataclass(frozen=True, eq=False)
class Measures:
    """Measures of images.

    Attributes:
        values: (N, 7) in the order of `NAMES`: mean and standard deviation of grey from 0 to 1, the shares of nearly
            black and nearly white pixels, log2 of the longest side in pixels, log2 of width divided by height, and the
            mean difference between the largest and smallest of red, green and blue, from 0 to 1.
        grids: (N, GRID, GRID) means of grey from 0 to 1.
        bytes: (N,) log2 of the bytes of the file by pixel; None where there is no file.
        maps: (N, W) statistics of `casewise.inference.look`; None without a network.
    """

    values: Floats
    grids: Floats
    bytes: Floats | None = None
    maps: Floats | None = None

    def __len__(self) -> int:
        return len(self.values)

    def subset(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Measures:
        """The measures of some of the images."""
        others = (None if values is None else values[rows] for values in (self.bytes, self.maps))
        return Measures(self.values[rows], self.grids[rows], *others)

    @property
    def look(self) -> Floats:
        """(N, W) the features of the look: the `COMPARED` numbers, and the statistics of maps."""
        return np.hstack([_numbers(self), *([] if self.maps is None else [self.maps])])


def measure(store: ImageStore, rows: Sequence[int], maps: EarlyMaps | None = None) -> Measures:
    """The measures of these images of a store; bars that fill up a tile are not part of the image.

    A tile with one channel does not show the colours of its file, which is read again unless its mode is grey.
    """
    with ThreadPoolExecutor(int(joblib.cpu_count())) as pool:
        measured = list(pool.map(lambda row: _of_row(store, row), rows))
    values = np.array([numbers for numbers, _ in measured], dtype=float).reshape(-1, len(NAMES))
    grids = np.array([grid for _, grid in measured], dtype=float).reshape(-1, GRID, GRID)
    of_file = store.index.iloc[list(rows)][["bytes", "width", "height"]].to_numpy(dtype=float).clip(min=1)
    with on_threads(1):  # small maps, for which threads would mostly wait for each other
        statistics = np.array([maps.statistics(_content(store, row)) for row in rows]) if maps else None
    return Measures(values, grids, np.log2(of_file[:, 0] / of_file[:, 1] / of_file[:, 2]), statistics)


def _content(store: ImageStore, row: int) -> NDArray[np.uint8]:
    """The image (C, H, W) without bars."""
    tile = np.asarray(store.tiles[row])
    if isinstance(store, TileStore):
        down, across = store.content(row)
        tile = tile[:, down, across]
    return tile


def _of_row(store: ImageStore, row: int) -> tuple[list[float], Floats]:
    tile = _content(store, row)
    entry = store.index.iloc[row]
    width, height = max(1, int(entry["width"])), max(1, int(entry["height"]))
    grey = tile.mean(axis=0)
    if len(tile) == 3:
        colour = _colour(tile)
    else:
        colour = _colour_of_file(str(entry["path"]), str(entry["mode"])) if isinstance(store, TileStore) else 0.0
    numbers = [
        float(grey.mean()) / 255,
        float(grey.std()) / 255,
        float((grey <= BLACK).mean()),
        float((grey >= WHITE).mean()),
        float(np.log2(max(width, height))),
        float(np.log2(width / height)),
        colour,
    ]
    return numbers, gridded(grey / 255)


def gridded(grey: Floats) -> Floats:
    """Means (GRID, GRID) over cells of an image (H, W); a smaller image repeats its pixels."""
    (down, rows), (across, columns) = (_cells(side) for side in grey.shape)
    repeated = grey.repeat(down, axis=0).repeat(across, axis=1)
    sums = np.add.reduceat(np.add.reduceat(repeated, rows[:-1], axis=0), columns[:-1], axis=1)
    return np.asarray(sums / np.outer(np.diff(rows), np.diff(columns)))


def _standardised(grids: Floats) -> Floats:
    """Grids (N, GRID, GRID) with mean 0 and standard deviation 1 each, so that they do not depend on brightness and
    contrast.
    """
    centred = grids - grids.mean(axis=(1, 2), keepdims=True)
    return np.asarray(centred / (centred.std(axis=(1, 2), keepdims=True) + 1e-3))


def _cells(side: int) -> tuple[int, NDArray[np.intp]]:
    """How a side is divided into `GRID` cells: how often pixels are repeated, and the edges of the cells."""
    repeats = -(-GRID // side)
    return repeats, np.linspace(0, side * repeats, GRID + 1).astype(np.intp)


def _colour(tile: NDArray[np.uint8]) -> float:
    """The mean range over the channels of a tile (3, H, W), from 0 to 1."""
    return float((tile.max(axis=0).astype(float) - tile.min(axis=0)).mean()) / 255


def _colour_of_file(path: str, mode: str) -> float:
    if mode.partition(" as ")[0] in GREY_MODES or not Path(path).is_file():
        return 0.0
    try:
        return _colour(read_image(Path(path), size=COLOUR_SIDE, channels="rgb").transpose(2, 0, 1))
    except ImageError:
        return 0.0  # not an image file, such as a volume


# Each check's own share of the cases that all together may flag (`FAR_SHARE`); the look has the rest.
SHARES = dict.fromkeys(("ranges", "upright", "polarity", "regions", "sequences", "wrong_region"), 0.005)
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
# The most images of a case that are examined, in training and in new cases.
MOST_OF_CASE = 16
# With fewer subjects there are no limits.
FEWEST_SUBJECTS = 8
# With this many sources, each is left out to set the limit of the look. Otherwise it is set in these folds of subjects:
# with fewer folds, a covariance of far fewer images than in the end gives a lower limit than new cases keep.
FEWEST_SOURCES, MOST_SOURCES = 3, 30
LOOK_FOLDS = 20


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
        regions: the regions that a case must have.
        wrong_region: the scores by which images of another region are recognised; None without such a check.
        sequences: the sequences of volumes that a case must have.
        look: the limit of the look; None without one.
        quantiles: by name the quantiles of numbers among the training images, with which a batch of cases is compared.
        modalities: stated in the DICOM headers of training images; new images that state others are refused.
        sizes: numbers of images of training cases; None in records of older versions.
    """

    images: int
    subjects: int
    tolerance: float
    ranges: dict[str, tuple[float | None, float | None]]
    upright: Score | None = None
    polarity: Score | None = None
    regions: tuple[str, ...] = ()
    wrong_region: _RegionScore | None = None
    sequences: tuple[str, ...] = ()
    look: LookFacts | None = None
    quantiles: dict[str, Quantiles] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    sizes: CaseSizes | None = None


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
        """The value that this share of the cases exceeds, the largest of a case counting.

        None with fewer subjects than `FEWEST_SUBJECTS`.
        """
        _, first, numbers = np.unique(self.cases, return_index=True, return_inverse=True)
        largest = np.full(len(first), -np.inf)
        np.maximum.at(largest, numbers, values)
        few = len(np.unique(self.subjects)) < FEWEST_SUBJECTS
        return None if few else held_out_quantile(largest, self.subjects[first], share)


def fit_limits(training: Training, regions: Sequence[str] = (), sequences: Sequence[str] = ()) -> Limits:
    """The limits of numbers and scores; `fit_look` adds the limit of the look.

    Args:
        regions, sequences: names that a case must have (`expected_names`).
    """
    values = training.measures.values
    folds = np.unique(training.folds)
    needed = np.zeros(len(values))
    for fold in folds:
        held_out = training.folds == fold
        if not held_out.all():
            needed[held_out] = _excess(values[held_out], *_inner_range(values[~held_out])).max(axis=1)
    tolerance = training.worst(needed, SHARES["ranges"])
    subjects = len(np.unique(training.subjects))
    if tolerance is None or len(folds) < 2:
        return Limits(len(values), subjects, LEAST_TOLERANCE, {})
    tolerance = max(tolerance, LEAST_TOLERANCE)
    low, high = _inner_range(values)
    slack = tolerance * _spans(low, high)
    lows, highs = (low - slack).tolist(), (high + slack).tolist()
    lows[NAMES.index("contrast")] = max(lows[NAMES.index("contrast")], UNIFORM)
    colour = NAMES.index("colour")
    if low[colour] > 2 * IN_GREY:  # whatever the tolerance is, a grey image is unlike these
        lows[colour] = max(lows[colour], IN_GREY)
    ranges = {
        name: (None if ONE_SIDED.get(name) == "high" else lowest, None if ONE_SIDED.get(name) == "low" else highest)
        for name, lowest, highest in zip(NAMES, lows, highs, strict=True)
    }
    return Limits(
        len(values),
        subjects,
        float(tolerance),
        ranges,
        fit_score(training, turned_difference, SHARES["upright"]),
        fit_score(training, _negative_difference, SHARES["polarity"]),
        tuple(regions),
        wrong_region=fit_regions(training),
        sequences=tuple(sequences),
    )


def _inner_range(values: Floats) -> tuple[Floats, Floats]:
    """The lowest and highest value of each number (N, V), without the few most extreme: (V,), (V,)."""
    low, high = np.quantile(values, [LOWEST, HIGHEST], axis=0)
    return low, high


def _spans(low: Floats, high: Floats) -> Floats:
    """The range of each number, no smaller than `LEAST_RANGE`."""
    return np.maximum(high - low, np.array([LEAST_RANGE[name] for name in NAMES]))


def _excess(values: Floats, low: Floats, high: Floats) -> Floats:
    """The distance of each number (N, V) outside its range, in ranges; 0 inside, and on a side without a limit."""
    below, above = low - values, values - high
    for number, name in enumerate(NAMES):
        if name in ONE_SIDED:
            (above if ONE_SIDED[name] == "low" else below)[:, number] = 0
    return np.asarray(np.maximum(np.maximum(below, above), 0) / _spans(low, high))


def fit_look(
    limits: Limits, training: Training, maps: EarlyMaps | None, sources: Sequence[str]
) -> tuple[Look, Limits] | None:
    """The look of training images, and the limits including the look's, without the checksum of a file.

    Args:
        limits: the other checks.
        maps: the layers by which the images were measured.
        sources: the source of each image; with `FEWEST_SOURCES` to `MOST_SOURCES` sources, each is a fold if the
            others have `FEWEST_SUBJECTS`.
    """
    features, share = training.measures.look, FAR_SHARE - sum(SHARES[name] for name in SHARES if getattr(limits, name))
    folds = np.unique(training.subjects, return_inverse=True)[1] % LOOK_FOLDS
    named = np.array(sources)
    rest = [len(np.unique(training.subjects[named != source])) for source in set(sources)]
    if FEWEST_SOURCES <= len(rest) <= MOST_SOURCES and min(rest) >= FEWEST_SUBJECTS:
        folds = named
    out_of_fold = np.zeros(len(features))
    for fold in np.unique(folds):
        held_out = folds == fold
        if len(np.unique(training.subjects[~held_out])) < FEWEST_SUBJECTS:
            return None
        out_of_fold[held_out] = Look.fit(features[~held_out]).distance(features[held_out])
    limit = training.worst(out_of_fold, share)
    if limit is None:
        return None
    look = Look.fit(features, maps)
    numbers = numbers_of_batch(training.measures, look) | {"look": out_of_fold}
    quantiles = {name: quantiles_of(values, training.subjects) for name, values in numbers.items()}
    return look, replace(limits, look=LookFacts(limit, maps.name if maps else ""), quantiles=quantiles)


def numbers_of_batch(measures: Measures, look: Look) -> dict[str, Floats]:
    """By name the numbers (N,) of images in which a batch of cases is compared with the training."""
    numbers = {f"{TEXTURE} {number + 1}": values for number, values in enumerate(look.along(measures.look).T)}
    numbers |= dict(zip(NAMES, measures.values.T, strict=True)) | {"look": look.distance(measures.look)}
    return numbers if measures.bytes is None else numbers | {"bytes": measures.bytes}


def turned_difference(grids: Floats) -> Floats:
    """(N, GRID²): standardised grids minus themselves turned by 180 degrees; turned images have the opposite."""
    centred = _standardised(grids)
    return np.asarray((centred - centred[:, ::-1, ::-1]).reshape(len(grids), -1))


def _negative_difference(grids: Floats) -> Floats:
    """(N, GRID²): standardised grids plus themselves turned by 180 degrees; negatives have the opposite.

    They do not depend on brightness and contrast, and turned images have the same.
    """
    centred = _standardised(grids)
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


def _scores(score: Score, grids: Floats, difference: Any) -> Floats:
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


# The longest side in pixels depends on the camera and not on the region.
COMPARED = tuple(name for name in NAMES if name != "size")
FEATURES = GRID**2 + len(COMPARED)
SHRINKAGE = 0.3
# The least deviation by which a number is divided, so that nearly constant ones are not blown up.
LEAST_DEVIATION = 0.02


@dataclass(frozen=True)
class _RegionScore:
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


def fit_regions(training: Training) -> _RegionScore | None:
    """The scores of regions with their limit; None if there are no two distinct regions.

    A region with fewer than `FEWEST_SUBJECTS` is not compared.
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
        worst = training.worst(-_differences(out_of_fold, rows, pairs).min(axis=1), SHARES["wrong_region"])
        if worst is None:
            return None
        limit = min(-worst, 0.0)
        shares = [_detected(out_of_fold, rows, pair, pairs, limit) for pair in pairs]
        if min(shares) >= DETECTED:
            names = tuple((regions[first], regions[second]) for first, second in pairs)
            centre, scale, weights, intercepts = (v.tolist() for v in _discriminant(training.measures, rows))
            return _RegionScore(regions, centre, scale, weights, intercepts, names, limit, float(np.mean(shares)))
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
    numbers = (_numbers(measures) - centre) / scale
    grids = _standardised(measures.grids).reshape(len(measures), -1)
    return np.hstack([grids, np.clip(numbers, -3, 3)])


def _region_scores(measures: Measures, centre: Floats, scale: Floats, weights: Floats, intercepts: Floats) -> Floats:
    """(N, R): the score of each region."""
    return np.asarray(_features(measures, centre, scale) @ weights.T + intercepts)


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


SEPARATOR = "; "
# Of every case of a source whose cases differ from the training cases, until somebody confirms the source.
UNCONFIRMED = "not confirmed for this source (its cases together are unlike the training cases)"
LOOK = "texture, intensities or shape unlike the training images: another source?"
NEGATIVE = "a negative: light and dark are exchanged"
# Without a check for negatives, the two cannot be distinguished.
UPSIDE_DOWN, TURNED_OR_NEGATIVE = "upside down", "upside down, or a negative"
NEARLY_UNIFORM = "nearly uniform"
# Messages for a number below and above its range.
REASONS = {name: tuple(f"much {word} than the training images" for word in WORDS[name]) for name in NAMES}
REASONS["colour"] = ("grey, and the training images are in colour", "in colour, and the training images are not")
# What precedes the name of a region or sequence that a case lacks.
MISSING = {"region": "no image of", "sequence": "no scan of the sequence"}
WRONG_REGION = "looks like an image of {shown}, not of {stated}"
IN_GREY = 0.02
# Training images whose limit of colour is below this are grey, some perhaps toned.
MOST_OF_GREY = 0.15
MORE_COLOUR = "much stronger colours than the training images"
LESS_COLOUR = "much weaker colours than the training images"


def image_flags(
    limits: Limits, measures: Measures, regions: Sequence[str] | None = None, look: Look | None = None
) -> list[list[str]]:
    """For each image the reasons why it is not like the training images; `regions` are those that their rows state."""
    flags: list[list[str]] = [_out_of_range(limits, numbers) for numbers in measures.values.tolist()]
    is_negative, is_turned = np.zeros(len(measures), dtype=bool), np.zeros(len(measures), dtype=bool)
    if limits.polarity:
        is_negative = _scores(limits.polarity, measures.grids, _negative_difference) < limits.polarity.limit
    if limits.upright:
        upright = _scores(limits.upright, measures.grids, turned_difference)
        # a negative has the opposite score of the image itself
        is_turned = np.where(is_negative, -upright, upright) < limits.upright.limit
    suspected = [""] * len(measures)
    if limits.wrong_region and regions is not None:
        suspected = limits.wrong_region.suspected(measures, np.array(regions))
    distances = look.distance(measures.look) if limits.look and look else np.zeros(len(measures))
    is_other = distances > (limits.look.limit if limits.look else np.inf)
    for number, reasons in enumerate(flags):
        if NEARLY_UNIFORM in reasons:  # it has neither orientation nor polarity
            continue
        reasons += [NEGATIVE] if is_negative[number] else []
        reasons += [UPSIDE_DOWN if limits.polarity else TURNED_OR_NEGATIVE] if is_turned[number] else []
        # the region of a turned image or a negative is not recognised by these scores
        if suspected[number] and regions and not is_negative[number] and not is_turned[number]:
            reasons.append(WRONG_REGION.format(shown=suspected[number], stated=regions[number]))
        reasons += [LOOK] if is_other[number] else []
    return flags


def _out_of_range(limits: Limits, numbers: list[float]) -> list[str]:
    by_name = dict(zip(NAMES, numbers, strict=True))
    if limits.ranges and by_name["contrast"] < UNIFORM:
        return [NEARLY_UNIFORM]
    reasons = []
    for name, (low, high) in limits.ranges.items():
        below, above = REASONS[name]
        if name == "colour" and low is not None and high is not None:
            below = below if by_name[name] < IN_GREY else LESS_COLOUR
            above = above if high < MOST_OF_GREY else MORE_COLOUR
        if low is not None and by_name[name] < low:
            reasons.append(below)
        elif high is not None and by_name[name] > high:
            reasons.append(above)
    return reasons


def case_flags(
    limits: Limits, new: NewCases, look: Look | None = None, batch: Batch | None = None, *, by: str = "case"
) -> dict[str, str]:
    """The reasons by case; where a case has several images, a reason for one of them begins with its file's name.

    Args:
        by: `path` for the reasons by image, where each is predicted by itself.
        batch: where the numbers of the images are added, if there is a look.
    """
    images = new.cohort.images
    by_case = images.assign(row=np.arange(len(images))).groupby(by, sort=False)["row"]
    chosen = np.sort(np.concatenate([_evenly(rows.to_numpy()) for _, rows in by_case]))
    measures = measure(new.store, chosen.tolist(), look.maps if look else None)
    by_image = image_flags(limits, measures, images["region"].iloc[chosen].astype(str).tolist(), look)
    counts = images[by].value_counts()
    reasons: dict[str, list[str]] = {str(case): [] for case in images[by].unique()}
    examined = images.iloc[chosen]
    if batch is not None and look:
        numbers = numbers_of_batch(measures, look)
        batch.append(examined[["case", "subject"]].astype(str).reset_index(drop=True).assign(**numbers))
    for case, path, of_image in zip(examined[by].astype(str), examined["path"], by_image, strict=True):
        name = f"{Path(str(path)).name}: " if counts[case] > 1 else ""
        reasons[case] += [name + reason for reason in of_image]
    for column, expected in (("region", limits.regions), ("sequence", limits.sequences)):
        if expected and by == "case":
            names = images.groupby(images["case"].astype(str), sort=False)[column].agg(set)
            for case, present in names.items():
                reasons[str(case)] += [f"{MISSING[column]} {name}" for name in expected if name not in present]
    if limits.sizes and by == "case":
        for case, count in image_counts(images.assign(case=images["case"].astype(str))).items():
            reasons[str(case)] += [limits.sizes.reason] * (count > limits.sizes.limit)
    return {case: joined(texts) for case, texts in reasons.items()}


def joined(reasons: Iterable[str]) -> str:
    """Different reasons as one text; a name in them, such as a file's, cannot divide one into two.

    >>> reasons_of(joined(["a; b.jpg: upside down", "", "no image of trunk"]))
    ['a, b.jpg: upside down', 'no image of trunk']
    """
    return SEPARATOR.join(dict.fromkeys(reason.replace(SEPARATOR, ", ") for reason in reasons if reason))


def reasons_of(text: str) -> list[str]:
    """The reasons in a text of `joined`."""
    return text.split(SEPARATOR) if text else []


def possible_reasons(limits: Limits) -> tuple[str, ...]:
    """Every reason that may be in a text of `joined`, without a file's name."""
    of_numbers = [reason for pair in REASONS.values() for reason in pair if reason]
    lacking = [f"{MISSING['region']} {name}" for name in limits.regions]
    lacking += [f"{MISSING['sequence']} {name}" for name in limits.sequences]
    regions = limits.wrong_region.regions if limits.wrong_region else ()
    wrong = [WRONG_REGION.format(shown=shown, stated=stated) for shown in regions for stated in regions]
    fixed = (UNCONFIRMED, LOOK, NEGATIVE, UPSIDE_DOWN, TURNED_OR_NEGATIVE, NEARLY_UNIFORM, MORE_COLOUR, LESS_COLOUR)
    sizes = [limits.sizes.reason] if limits.sizes else []
    return tuple(reason.replace(SEPARATOR, ", ") for reason in (*fixed, *sizes, *of_numbers, *lacking, *wrong))


def _evenly(rows: np.ndarray) -> np.ndarray:
    """At most `MOST_OF_CASE` of the rows of a case, evenly spread."""
    count = min(len(rows), MOST_OF_CASE)
    return np.asarray(rows[np.arange(count) * len(rows) // count])
