"""The flags of new cases: which limits their images exceed, in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.inference.input_limits import (
    MOST_OF_CASE,
    UNIFORM,
    Limits,
    negative_difference,
    scores,
    turned_difference,
)
from casewise.inference.input_measures import NAMES, Measures, measure

if TYPE_CHECKING:
    import pandas as pd

    from casewise.inference.new_cases import NewCases

SEPARATOR = "; "
FAR = "far from the training cases"
NEGATIVE = "a negative: light and dark are exchanged"
# Without a check of negatives the two cannot be told apart.
UPSIDE_DOWN, TURNED_OR_NEGATIVE = "upside down", "upside down, or a negative"
NEARLY_UNIFORM = "nearly uniform"
# What is said of a number below and above its range.
REASONS: dict[str, tuple[str, str]] = {
    "brightness": ("much darker than the training images", "much lighter than the training images"),
    "contrast": ("much less contrast than the training images", "much more contrast than the training images"),
    "black": ("", "more black than in the training images"),
    "white": ("", "more white than in the training images"),
    "size": ("much smaller than the training images", ""),
    "shape": ("much narrower than the training images", "much wider than the training images"),
    "colour": ("grey, and the training images are in colour", "in colour, and the training images are not"),
}
# What precedes the name of a region or sequence that a case lacks.
MISSING = {"region": "no image of", "sequence": "no scan of the sequence"}
WRONG_REGION = "looks like an image of {shown}, not of {stated}"
IN_GREY = 0.02
# Training images whose limit of colour is below this are grey, some perhaps toned.
MOST_OF_GREY = 0.15
MORE_COLOUR, LESS_COLOUR = (
    "much stronger colours than the training images",
    "much weaker colours than the training images",
)


def image_flags(limits: Limits, measures: Measures, regions: Sequence[str] | None = None) -> list[list[str]]:
    """For each image the reasons why it is not like the training images; `regions` are those that their rows state."""
    flags: list[list[str]] = [_out_of_range(limits, numbers) for numbers in measures.values.tolist()]
    is_negative, is_turned = np.zeros(len(measures), dtype=bool), np.zeros(len(measures), dtype=bool)
    if limits.polarity:
        is_negative = scores(limits.polarity, measures.grids, negative_difference) < limits.polarity.limit
        _add(flags, is_negative.tolist(), NEGATIVE)
    if limits.upright:
        upright = scores(limits.upright, measures.grids, turned_difference)
        # the score of a negative is the opposite of that of the image itself
        is_turned = np.where(is_negative, -upright, upright) < limits.upright.limit
        _add(flags, is_turned.tolist(), UPSIDE_DOWN if limits.polarity else TURNED_OR_NEGATIVE)
    if limits.wrong_region and regions is not None:
        suspected = limits.wrong_region.suspected(measures, np.array(regions))
        for number, (shown, stated) in enumerate(zip(suspected, regions, strict=True)):
            # the region of a turned image or a negative is not recognised by these scores
            if shown and not is_negative[number] and not is_turned[number] and NEARLY_UNIFORM not in flags[number]:
                flags[number].append(WRONG_REGION.format(shown=shown, stated=stated))
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


def _add(flags: list[list[str]], flagged: list[bool], reason: str) -> None:
    for reasons, is_flagged in zip(flags, flagged, strict=True):
        # a uniform image has neither orientation nor polarity
        if is_flagged and NEARLY_UNIFORM not in reasons:
            reasons.append(reason)


def case_flags(limits: Limits, new: NewCases) -> dict[str, str]:
    """By case the reasons of its images, those of one image after its file's name where a case has several."""
    images = new.cohort.images
    by_case = images.assign(row=np.arange(len(images))).groupby("case", sort=False)["row"]
    chosen = np.sort(np.concatenate([_evenly(rows.to_numpy()) for _, rows in by_case]))
    measures = measure(new.store, chosen.tolist())
    by_image = image_flags(limits, measures, images["region"].iloc[chosen].astype(str).tolist())
    counts = images["case"].value_counts()
    reasons: dict[str, list[str]] = {str(case): [] for case in images["case"].unique()}
    examined = images.iloc[chosen]
    for case, path, of_image in zip(examined["case"].astype(str), examined["path"], by_image, strict=True):
        name = f"{Path(str(path)).name}: " if counts[case] > 1 else ""
        reasons[case] += [name + reason for reason in of_image]
    for column, expected in (("region", limits.regions), ("sequence", limits.sequences)):
        if expected:
            names = images.groupby(images["case"].astype(str), sort=False)[column].agg(set)
            for case, present in names.items():
                reasons[str(case)] += [f"{MISSING[column]} {name}" for name in expected if name not in present]
    return {case: joined(texts) for case, texts in reasons.items()}


def joined(reasons: Iterable[str]) -> str:
    """Different reasons as one text; a name in them, such as that of a file, cannot divide one into two.

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
    fixed = (FAR, NEGATIVE, UPSIDE_DOWN, TURNED_OR_NEGATIVE, NEARLY_UNIFORM, MORE_COLOUR, LESS_COLOUR)
    return tuple(reason.replace(SEPARATOR, ", ") for reason in (*fixed, *of_numbers, *lacking, *wrong))


def _evenly(rows: np.ndarray) -> np.ndarray:
    """At most `MOST_OF_CASE` of the rows of a case, evenly spread."""
    count = min(len(rows), MOST_OF_CASE)
    return np.asarray(rows[np.arange(count) * len(rows) // count])


def with_flags(rows: pd.DataFrame, limits: Limits, of_cases: Mapping[str, str]) -> pd.DataFrame:
    """Rows of `casewise.inference.ensemble` with the column `flags`: those of their case, and that it is far.

    A case is far for a learner if any of its targets, regions or images is, so that all of its rows have the flag.
    """
    units = list(zip(rows["case"].astype(str), rows["model"].astype(str), strict=True))
    far = set()
    for (case, learner), target, distance in zip(units, rows["target"], rows["distance"], strict=True):
        limit = limits.distance.get(learner, {}).get(str(target))
        if limit is not None and distance > limit:
            far.add((case, learner))
    reasons = [(of_cases.get(unit[0], ""), FAR if unit in far else "") for unit in units]
    return rows.assign(flags=[SEPARATOR.join(filter(None, texts)) for texts in reasons])
