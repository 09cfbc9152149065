"""Input checks: measures of images, limits fitted on training subjects and chosen on others, and flags of new cases.

At most one in twenty held-out cases of the same source is to be flagged, by all checks together. The checks divide this
share (`SHARES`), and each of them takes its share of the cases of subjects out of fold:

- The numbers of an image may leave the range of the training images by a tolerance, a multiple of that range. The
  tolerance is one for all numbers, a quantile of what held-out cases needed with the ranges of the other folds.
- An image turned by 180 degrees, or its negative, has the opposite score of a linear model that was fitted to give
  training images the score 1 (ridge regression). Whether images have an upright position, or are distinct from
  negatives, is measured on held-out images: the check exists only if it recognises `DETECTED` of them.
- An image of another region than its row states is recognised by scores of regions, if these differ
  (`casewise.inference.region_checks`).
- The look of an image (`casewise.inference.look`) may be as far from the training images as the look of held-out
  images. Where there are several sources, an image is held out with its source. This check takes what the others leave.
- A region, or a sequence of volumes, is missed if nearly all training cases have it. No study has both.
- A case may have more images than the training cases (`casewise.inference.case_sizes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.inference.case_sizes import CaseSizes, image_counts
from casewise.inference.drift import FAR_SHARE, NAMES, TEXTURE, Batch, Quantiles, quantiles_of
from casewise.inference.flag_reasons import (
    IN_GREY,
    LESS_COLOUR,
    LOOK,
    MISSING,
    MORE_COLOUR,
    MOST_OF_GREY,
    NEARLY_UNIFORM,
    NEGATIVE,
    REASONS,
    TURNED_OR_NEGATIVE,
    UPSIDE_DOWN,
    WRONG_REGION,
    joined,
)
from casewise.inference.image_measures import FEWEST_SUBJECTS, Floats, Measures, Training, measure
from casewise.inference.look import EarlyMaps, Look, LookFacts
from casewise.inference.orientation_checks import Score, fit_score, negative_difference, scores_of, turned_difference
from casewise.inference.region_checks import RegionScore, fit_regions

if TYPE_CHECKING:
    from casewise.inference.new_cases import NewCases

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
# The most images of a case that are examined, in training and in new cases.
MOST_OF_CASE = 16
# With this many sources, each is left out to set the limit of the look. Otherwise it is set in these folds of subjects:
# with fewer folds, a covariance of far fewer images than in the end gives a lower limit than new cases keep.
FEWEST_SOURCES, MOST_SOURCES = 3, 30
LOOK_FOLDS = 20


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
    wrong_region: RegionScore | None = None
    sequences: tuple[str, ...] = ()
    look: LookFacts | None = None
    quantiles: dict[str, Quantiles] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    sizes: CaseSizes | None = None


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
        fit_score(training, negative_difference, SHARES["polarity"]),
        tuple(regions),
        wrong_region=fit_regions(training, SHARES["wrong_region"]),
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


def image_flags(
    limits: Limits, measures: Measures, regions: Sequence[str] | None = None, look: Look | None = None
) -> list[list[str]]:
    """For each image the reasons why it is not like the training images; `regions` are those that their rows state."""
    flags: list[list[str]] = [_out_of_range(limits, numbers) for numbers in measures.values.tolist()]
    is_negative, is_turned = np.zeros(len(measures), dtype=bool), np.zeros(len(measures), dtype=bool)
    if limits.polarity:
        is_negative = scores_of(limits.polarity, measures.grids, negative_difference) < limits.polarity.limit
    if limits.upright:
        upright = scores_of(limits.upright, measures.grids, turned_difference)
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
    limits: Limits,
    new: NewCases,
    look: Look | None = None,
    batch: Batch | None = None,
    *,
    by: str = "case",
    slots: Sequence[str] = ("region",),
) -> dict[str, str]:
    """The reasons by case; where a case has several images, a reason for one of them begins with its file's name.

    Args:
        by: `path` for the reasons by image, where each is predicted by itself.
        batch: where the numbers of the images are added, if there is a look.
        slots: of the study, see `case_sizes.slots_of`.
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
        for case, count in image_counts(images.assign(case=images["case"].astype(str)), slots=slots).items():
            reasons[str(case)] += [limits.sizes.reason] * (count > limits.sizes.limit)
    return {case: joined(texts) for case, texts in reasons.items()}


def _evenly(rows: np.ndarray) -> np.ndarray:
    """At most `MOST_OF_CASE` of the rows of a case, evenly spread."""
    count = min(len(rows), MOST_OF_CASE)
    return np.asarray(rows[np.arange(count) * len(rows) // count])
