"""Numbers: one raw output, one predicted value, clipped to the target's range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from casewise.targets.registry import register_kind

if TYPE_CHECKING:
    import pandas as pd

FEW_VALUES, BANDS = 8, 5


class Number:
    """A number within a range, such as a score from 0 to 72."""

    name = "regression"
    form: Literal["number", "classes"] = "number"
    metrics_of = "regression"
    merit, tie_breaker = "ccc", "mae"
    headline: tuple[str, ...] = ("mae", "ccc")
    means = "agreement"
    closed = True
    guess: Literal["mean", "shares"] = "mean"
    stackers: tuple[str, ...] = ("linear", "linear+intercept", "ridge", "ridge+intercept", "mean", "weighted")
    rank_correlation = False
    arithmetic = True
    balanced = False
    decisions: tuple[str, ...] = ()

    def width(self, n_classes: int) -> int:
        """One raw output."""
        return 1

    def columns(self, n_classes: int) -> list[str]:
        """The prediction itself."""
        return ["y_pred"]

    def decide(self, values: np.ndarray) -> np.ndarray:
        """The number unchanged."""
        return values[:, 0]

    def normalise(self, values: np.ndarray, low: float, high: float) -> np.ndarray:
        """Numbers clipped to their range."""
        return values.clip(low, high)

    def prominence(self, n_classes: int, positive: int | None) -> list[float] | None:
        """The largest number is the most conspicuous one."""
        return None

    def fold_labels(self, values: np.ndarray, low: float, high: float, n_classes: int) -> np.ndarray:
        """The integers if there are few, else five equal bands.

        >>> Number().fold_labels(np.array([0.0, 2.0, np.nan]), 0, 2, 0).tolist()
        [0, 2, 3]
        """
        whole = high - low <= FEW_VALUES and float(high - low).is_integer()
        bands = int(high - low) + 1 if whole else BANDS
        by_integer = bands != BANDS or high - low == BANDS - 1
        scaled = np.rint(values - low) if by_integer else np.floor((values - low) / (high - low) * BANDS)
        return np.where(np.isnan(values), bands, np.clip(np.nan_to_num(scaled), 0, bands - 1)).astype(int)

    def shown(self, value: float, classes: Sequence[str]) -> str:
        """The number.

        >>> Number().shown(2.5, [])
        '2.5'
        """
        return f"{value:g}"

    def check_probabilities(self, rows: pd.DataFrame, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """A number has no probabilities."""
        return []


register_kind(Number())
