"""Whether new cases, taken together, differ from the training cases, as cases from another source do.

Each number of an image is compared with its quantiles among the training images by the test of Kolmogorov and Smirnov.
An image weighs the less, the more its subject has, and the sizes of the samples are the numbers of subjects. The
largest difference is sought at the stored quantiles only, so that the test is conservative; p values are multiplied by
the number of tests (Bonferroni). Small differences, which many cases show beyond doubt, are not reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.errors import CasewiseError, counted

Floats: TypeAlias = NDArray[np.float64]
# The values of quantiles, and the shares of the training images that are at or below each of them.
Quantiles: TypeAlias = tuple[list[float], list[float]]
# Tables of images of new cases: `case`, `subject` and a column for each number.
Batch: TypeAlias = list[pd.DataFrame]
# Fewer cases or subjects are not tested.
FEWEST_CASES, FEWEST_SUBJECTS = 20, 10
LEVEL = 0.05
# The share of held-out cases that may be flagged, and that exceed the distance that counts as 1.
FAR_SHARE = 0.05
# The least difference of two distributions (from 0 to 1) that is reported.
LEAST_DIFFERENCE = 0.25
# No quantile is the most extreme subject's value.
QUANTILES = np.linspace(0.02, 0.98, 25)
TEXTURE, BYTES = "texture", "bytes"
# Words for new images that are mostly below, and mostly above, the training images.
WORDS = {
    "brightness": ("darker", "lighter"),
    "contrast": ("less contrast", "more contrast"),
    "black": ("less black", "more black"),
    "white": ("less white", "more white"),
    "size": ("smaller", "larger"),
    "shape": ("narrower", "wider"),
    "colour": ("weaker colours", "stronger colours"),
    BYTES: ("fewer bytes a pixel", "more bytes a pixel"),
    "look": ("", "a rarer look"),
    TEXTURE: ("another texture", "another texture"),
}


@dataclass(frozen=True)
class Drift:
    """The result of the test.

    Attributes:
        tested: whether there are enough cases and subjects, and quantiles of the training.
        differences: by name of a number, the `difference` of the distributions, positive where more of the new images
            are below, and `p_adjusted`, the p value multiplied by the number of tests.
        text: the warning; empty without one.
        confirmed: who confirmed that the model may be used for the source of these cases (`by`), the `reason`, and
            when (`at`); empty if nobody did.
    """

    cases: int = 0
    subjects: int = 0
    tested: bool = False
    differences: dict[str, dict[str, float]] = field(default_factory=dict)
    text: str = ""
    confirmed: dict[str, str] = field(default_factory=dict)

    @property
    def withholds(self) -> bool:
        """Whether the confidence of every prediction of the batch is withheld.

        Not for other bytes a pixel alone: saving the same pixels in another format changes them.
        """
        return not self.confirmed and any(name.split()[0] != BYTES for name in self.differences)


def confirmation(text: str) -> dict[str, str]:
    """The confirmation of a source from `NAME, REASON`; empty without a text.

    Raises:
        CasewiseError: the name or the reason is missing.
    """
    by, _, reason = (part.strip() for part in text.partition(","))
    if text and not (by and reason):
        raise CasewiseError(
            f"--source-confirmed: {text!r} is not NAME, REASON, such as 'A. Meyer, 50 films of this scanner compared "
            "with the reading of two radiologists'."
        )
    return {"by": by, "reason": reason, "at": datetime.now(UTC).isoformat(timespec="seconds")} if text else {}


def drift(batch: Batch, quantiles: Mapping[str, Quantiles], trained: int) -> Drift:
    """Compare images of new cases with the training images.

    Args:
        trained: the number of training subjects.
    """
    table = pd.concat(batch, ignore_index=True) if batch else pd.DataFrame(columns=["case", "subject"])
    cases, subjects = table["case"].nunique(), table["subject"].nunique()
    tested = bool(quantiles) and cases >= FEWEST_CASES and subjects >= FEWEST_SUBJECTS
    differences: dict[str, dict[str, float]] = {}
    if tested:
        from scipy.special import kolmogorov
    for name in [name for name in quantiles if tested and name in table]:
        values, shares = quantiles[name]
        gaps = shares_below(table[name].to_numpy(dtype=float), table["subject"], np.array(values)) - shares
        # training images were measured held out, even from their source, so equal new images have a less distant look
        gaps = gaps.clip(max=0) if name == "look" else gaps
        gap = float(gaps[np.abs(gaps).argmax()])
        statistic = np.sqrt(subjects * trained / (subjects + trained)) * abs(gap)
        p = min(1.0, float(kolmogorov(statistic)) * len(quantiles))
        if p <= LEVEL and abs(gap) >= LEAST_DIFFERENCE:
            differences[name] = {"difference": gap, "p_adjusted": p}
    by_size = sorted(differences, key=lambda name: -abs(differences[name]["difference"]))
    reasons = dict.fromkeys(WORDS[name.split()[0]][differences[name]["difference"] < 0] for name in by_size)
    text = f"These {counted(cases, 'case')} are not like the training cases: another source? Their images differ: "
    return Drift(cases, subjects, tested, differences, text + ", ".join(reasons) + "." if reasons else "")


def shares_below(values: Floats, subjects: Any, points: Floats) -> Floats:
    """(Q,) the shares of values (N,) that are at or below each point (Q,), each subject (N,) weighing the same."""
    _, numbers, counts = np.unique(np.asarray(subjects, dtype=str), return_inverse=True, return_counts=True)
    order = np.argsort(values)
    sums = np.concatenate([[0.0], np.cumsum(1 / counts[numbers[order]]) / len(counts)])
    return np.asarray(sums[np.searchsorted(values[order], points, side="right")])


def held_out_quantile(values: Floats, subjects: Any = None, share: float = FAR_SHARE) -> float:
    """The smallest of the values (N,) that at most this share of further cases is expected to exceed; else the largest.

    It is that of split conformal prediction (Lei and others 2018), in which the new subject is one more. Each subject
    (N,) weighs the same; None: each value.

    >>> held_out_quantile(np.arange(1.0, 100.0)), held_out_quantile(np.array([3.0, 1.0]))
    (95.0, 3.0)
    """
    subjects = np.arange(len(values)) if subjects is None else subjects
    names, numbers, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum((1 / counts[numbers] / (len(names) + 1))[order]) >= 1 - share - 1e-9
    return float(values[order][reached.argmax() if reached.any() else -1])


def quantiles_of(values: Floats, subjects: Any) -> Quantiles:
    """Quantiles of the values (N,) of training images, with the subject of each image (N,)."""
    points = np.unique(np.quantile(values, QUANTILES))
    return points.tolist(), shares_below(values, subjects, points).tolist()
