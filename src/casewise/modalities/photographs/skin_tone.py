"""Skin tone from photographs: the individual typology angle (ITA) of healthy skin, with its spread over a subject.

ITA = arctan((L* − 50) / b*) in degrees, in CIELAB under D65 (Chardon, Cretois and Hourseau 1991), in six groups from
very light to dark. Photographs without a colour chart have an unknown light and white balance, so that this is a
property of the photographs, not the skin type of a person.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from casewise.errors import CohortError, counted
from casewise.study.evaluation import UNCERTAIN

# The groups and their lower limits in degrees.
GROUPS = {"very light": 55.0, "light": 41.0, "intermediate": 28.0, "tan": 10.0, "brown": -30.0, "dark": -np.inf}
# Colours of healthy skin: the hue (from a* to b*, in degrees) is lower where skin is red, as in inflammation.
HUES, CHROMAS = (43.0, 85.0), (7.0, 45.0)
# Darker pixels are in shadow, and pixels with a channel above the limit are overexposed.
DARKEST, BRIGHTEST = 12.0, 250
# Pixels whose a* is farther from the median than this many times the median distance are left out.
FARTHEST = 2.5
# An image has an estimate if at least this share of its pixels is healthy skin.
LEAST_SHARE = 0.02
# The side of the grid of pixels that are looked at.
SIDE = 96
CONFIDENCE = 0.95
ANGLES = ("estimated_ita_mean", "estimated_ita_low", "estimated_ita_high")


def group_of(ita: float) -> str:
    """The group of an angle in degrees.

    >>> [group_of(ita) for ita in (60, 50, 30, 11, 0, -40)]
    ['very light', 'light', 'intermediate', 'tan', 'brown', 'dark']
    """
    return next(name for name, lowest in GROUPS.items() if ita > lowest)


def image_ita(tile: np.ndarray) -> tuple[float, float]:
    """The ITA of an image's healthy skin in degrees, and the share of its pixels that are used; NaN for too few.

    Args:
        tile: (3, H, W) uint8, sRGB.
    """
    import cv2

    step = max(1, min(tile.shape[1:]) // SIDE)
    pixels = np.ascontiguousarray(tile[:, ::step, ::step].transpose(1, 2, 0))
    light, red, yellow = np.moveaxis(cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), 2, 0)
    hue, chroma = np.degrees(np.arctan2(yellow, red)), np.hypot(red, yellow)
    healthy = (hue > HUES[0]) & (hue < HUES[1]) & (chroma > CHROMAS[0]) & (chroma < CHROMAS[1])
    healthy &= (light > DARKEST) & (pixels.max(axis=2) < BRIGHTEST)
    if healthy.any():
        middle = np.median(red[healthy])
        spread = max(float(np.median(np.abs(red[healthy] - middle))), 0.5)
        healthy &= np.abs(red - middle) <= FARTHEST * spread
    share = float(healthy.mean())
    if share < LEAST_SHARE:
        return float("nan"), share
    return float(np.degrees(np.arctan2(np.median(light[healthy]) - 50, np.median(yellow[healthy])))), share


def subject_group(angles: np.ndarray) -> tuple[float, float, float, str]:
    """The mean of a subject's angles with its interval by Student's t, and its group.

    The group is uncertain for fewer than two angles, and where the interval reaches into another group.

    Args:
        angles: in degrees, of regions and visits, or of images; NaN where there is none.

    >>> subject_group(np.array([45.0, 46.0, 47.0]))[3], subject_group(np.array([30.0, 46.0, 56.0]))[3]
    ('light', 'uncertain')
    """
    from scipy import stats

    angles = angles[np.isfinite(angles)]
    if len(angles) < 2:
        return (float(angles.mean()) if len(angles) else float("nan"), float("nan"), float("nan"), UNCERTAIN)
    mean = float(angles.mean())
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(angles) - 1) * angles.std(ddof=1) / np.sqrt(len(angles)))
    inside = group_of(mean - half) == group_of(mean + half)
    return mean, mean - half, mean + half, group_of(mean) if inside else UNCERTAIN


def with_skin_tone(images: pd.DataFrame, tiles: np.ndarray, column: str) -> tuple[pd.DataFrame, str]:
    """The images with the estimated group of their subject in `column`, and a sentence on the estimate.

    Further columns: `estimated_ita` and `estimated_skin_share` of each image, and the mean over the subject's images,
    `estimated_ita_mean`, with the ends of its interval, `estimated_ita_low` and `estimated_ita_high`.

    Args:
        tiles: (N, C, H, W) uint8, a picture of each row.

    Raises:
        CohortError: the images have no colours, or none shows healthy skin.
    """
    coloured = tiles.shape[1] == 3 and any(np.ptp(tile.astype(np.int16), axis=0).max() > 2 for tile in tiles)
    if not coloured:
        raise CohortError(
            f"evaluation.subgroups: {column} is estimated from the colours of skin, and the images are grey. Leave it"
            " out, or name a column of the table."
        )
    angles, shares = np.array([image_ita(tile) for tile in tiles]).T
    if not np.isfinite(angles).any():
        raise CohortError(
            f"evaluation.subgroups: {column} cannot be estimated: no image has enough pixels with the colours of"
            " healthy skin. Leave it out, or name a column of the table."
        )
    subjects = images["subject"].astype(str)
    # photographs of one region at one visit share their light, so that they count as one
    names = [name for name in ("visit", "region") if name in images]
    takes = [images[name].astype(str).to_numpy() for name in names] or [np.arange(len(images))]
    together = pd.Series(angles).groupby([subjects.to_numpy(), *takes])
    means = together.mean().groupby(level=0)
    by_subject = {name: subject_group(own.to_numpy()) for name, own in means}
    images = images.assign(estimated_ita=angles, estimated_skin_share=shares)
    for number, name in enumerate((*ANGLES, column)):
        images[name] = [by_subject[subject][number] for subject in subjects]
    groups = images.drop_duplicates("subject")[column].value_counts()
    sizes = ", ".join(f"{name} {groups[name]}" for name in [*GROUPS, UNCERTAIN] if name in groups)
    usable, median = int(np.isfinite(angles).sum()), float(np.median(shares))
    return images, (
        f"Skin tone, estimated from healthy skin in {counted(usable, 'image')} of {len(images):,} (median"
        f" {median:.0%} of the pixels), by subject: {sizes}. Light and white balance are not known, so that this is not"
        " the skin type of a person."
    )
