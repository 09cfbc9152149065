"""Whether new cases, taken together, differ from the training cases, as those of another source do.

Each number of an image is compared with its quantiles among the training images by the test of Kolmogorov and Smirnov.
An image weighs the less, the more its subject has, and the sizes of the samples are the numbers of subjects. The
largest difference is sought at the stored quantiles only, so that the test is conservative; p values are multiplied by
the number of tests (Bonferroni). Small differences, which many cases show beyond doubt, are not reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import kolmogorov

from casewise.errors import counted

Floats: TypeAlias = NDArray[np.float64]
# Fewer cases or subjects are not tested.
FEWEST_CASES, FEWEST_SUBJECTS = 20, 10
LEVEL = 0.05
# The least difference of two distributions (from 0 to 1) that is reported.
LEAST_DIFFERENCE = 0.25
# No quantile is that of the most extreme subject.
QUANTILES = np.linspace(0.02, 0.98, 25)
TEXTURE = "texture"
# What is said where more of the new images are below, and where more are above.
WORDS = {
    "brightness": ("darker", "lighter"),
    "contrast": ("less contrast", "more contrast"),
    "black": ("less black", "more black"),
    "white": ("less white", "more white"),
    "size": ("fewer pixels", "more pixels"),
    "shape": ("narrower", "wider"),
    "colour": ("weaker colours", "stronger colours"),
    "bytes": ("fewer bytes a pixel, as of stronger compression", "more bytes a pixel, as of weaker compression"),
    "look": ("more like the average image in texture and intensities", "unusual texture or intensities"),
    TEXTURE: ("another texture or intensities", "another texture or intensities"),
}


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of a number among training images, and the share of the images that are at or below each of them."""

    values: list[float]
    shares: list[float]

    def __post_init__(self) -> None:
        """Check the numbers of an unknown origin.

        Raises:
            ValueError: they are no quantiles.
        """
        if not self.values or len(self.values) != len(self.shares) or sorted(self.values) != self.values:
            raise ValueError("values and shares are no quantiles")

    @classmethod
    def of(cls, values: Floats, weights: Floats) -> Quantiles:
        """Those of values (N,) with weights (N,)."""
        points = np.unique(np.quantile(values, QUANTILES))
        return cls(points.tolist(), shares_below(values, weights, points).tolist())


@dataclass(frozen=True)
class Difference:
    """What differs: the number's name, how (see `WORDS`), the largest difference of the distributions, and p."""

    name: str
    reason: str
    difference: float
    p_adjusted: float


@dataclass(frozen=True)
class Drift:
    """The result of the test of a batch.

    Attributes:
        tested: whether there are enough cases and subjects, and quantiles of the training.
        text: the warning; empty without one.
    """

    cases: int
    subjects: int
    tested: bool
    differences: list[Difference]
    text: str


@dataclass(frozen=True)
class Batch:
    """The numbers of the images of new cases, chunk by chunk: tables with `case`, `subject` and a column for each."""

    tables: list[pd.DataFrame] = field(default_factory=list)

    def drift(self, quantiles: Mapping[str, Quantiles], subjects: int) -> Drift:
        """The test against the quantiles of so many training subjects."""
        if not self.tables:
            return Drift(0, 0, False, [], "")
        table = pd.concat(self.tables, ignore_index=True)
        cases, n = table["case"].nunique(), table["subject"].nunique()
        tested = bool(quantiles) and cases >= FEWEST_CASES and n >= FEWEST_SUBJECTS
        differences = compare(table, quantiles, subjects) if tested else []
        reasons = "; ".join(dict.fromkeys(difference.reason for difference in differences))
        text = f"These {counted(cases, 'case')} are not like the training cases: another source? They have {reasons}."
        return Drift(cases, n, tested, differences, text if differences else "")


def compare(table: pd.DataFrame, quantiles: Mapping[str, Quantiles], subjects: int) -> list[Difference]:
    """The differences of a table of images from the training, the largest first.

    Args:
        subjects: of the training.
    """
    weights, n = weights_of(table["subject"]), table["subject"].nunique()
    differences = []
    for name, known in quantiles.items():
        if name not in table:
            continue
        below = shares_below(table[name].to_numpy(dtype=float), weights, np.array(known.values))
        gaps = below - np.array(known.shares)
        largest = float(gaps[np.abs(gaps).argmax()])
        p = min(1.0, float(kolmogorov(np.sqrt(n * subjects / (n + subjects)) * abs(largest))) * len(quantiles))
        if p <= LEVEL and abs(largest) >= LEAST_DIFFERENCE:
            reason = WORDS[name if name in WORDS else TEXTURE][int(largest < 0)]
            differences.append(Difference(name, reason, abs(largest), p))
    return sorted(differences, key=lambda difference: -difference.difference)


def weights_of(subjects: pd.Series) -> Floats:
    """(N,) the weight of each image: one divided by the number of images of its subject."""
    return np.asarray(1 / subjects.map(subjects.value_counts()).to_numpy(dtype=float))


def shares_below(values: Floats, weights: Floats, points: Floats) -> Floats:
    """(Q,) the weighted shares of values (N,) that are at or below each point (Q,)."""
    order = np.argsort(values)
    sums = np.concatenate([[0.0], np.cumsum(weights[order]) / weights.sum()])
    return np.asarray(sums[np.searchsorted(values[order], points, side="right")])
