"""Classes: a raw output and a probability for each; the prediction is the most probable one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from casewise.targets.registry import register_kind

if TYPE_CHECKING:
    import pandas as pd


class Classes:
    """One of several classes without an order."""

    name = "classification"
    form: Literal["number", "classes"] = "classes"
    metrics_of = "classification"
    merit, tie_breaker = "auroc", "log_loss"
    headline: tuple[str, ...] = ("accuracy", "auroc")
    means = "discrimination"
    closed = False
    guess: Literal["mean", "shares"] = "shares"
    stackers: tuple[str, ...] = ("mean", "weighted", "logistic")
    rank_correlation = False
    arithmetic = False
    balanced = True
    decisions: tuple[str, ...] = ()

    def width(self, n_classes: int) -> int:
        """A raw output for each class."""
        return n_classes

    def columns(self, n_classes: int) -> list[str]:
        """The probability of each class."""
        return [f"p{number}" for number in range(n_classes)]

    def decide(self, values: np.ndarray) -> np.ndarray:
        """The most probable class; NaN without probabilities.

        >>> Classes().decide(np.array([[0.4, 0.25, 0.35], [0.4, np.nan, 0.6]]))
        array([ 0., nan])
        """
        return np.where(np.isnan(values).any(axis=1), np.nan, values.argmax(axis=1))

    def normalise(self, values: np.ndarray, low: float, high: float) -> np.ndarray:
        """Probabilities that add up to 1."""
        return np.asarray(values / values.sum(axis=1, keepdims=True))

    def prominence(self, n_classes: int, positive: int | None) -> list[float] | None:
        """For two classes the highest probability of the positive one; for several, of each class."""
        return None if positive is None else [float(number == positive) for number in range(n_classes)]

    def fold_labels(self, values: np.ndarray, low: float, high: float, n_classes: int) -> np.ndarray:
        """The numbers of the classes."""
        return np.where(np.isnan(values), n_classes, np.nan_to_num(values)).astype(int)

    def shown(self, value: float, classes: Sequence[str]) -> str:
        """The name of the class.

        >>> Classes().shown(1.0, ["no", "yes"])
        'yes'
        """
        return classes[int(value)]

    def check_probabilities(self, rows: pd.DataFrame, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Probabilities must add up to 1; references and predictions must be numbers of classes."""
        off = np.abs(np.nansum(values, axis=1) - 1) > 1e-3
        outside = (np.nan_to_num(values, nan=0.0) < -1e-6).any(axis=1) | np.isnan(values[:, :2]).any(axis=1)
        largest = (~np.isnan(values)).sum(axis=1) - 1
        problems = [("no shares of one", off | outside)]
        for column in ("y_true", "y_pred"):
            number = rows[column].to_numpy(dtype=float)
            wrong = (number < 0) | (number > largest) | (number != np.round(number))
            problems.append((f"{column} is no class", ~np.isnan(number) & wrong))
        return problems


register_kind(Classes())
