"""Grades: classes in rising order, learned step by step; the prediction is the median grade by default."""

from __future__ import annotations

import numpy as np

from casewise.targets.classes import Classes
from casewise.targets.registry import register_kind


class Grades(Classes):
    """One of several classes in rising order, such as severity from 0 to 4."""

    name = "ordinal"
    metrics_of = "ordinal"
    merit, tie_breaker = "kappa_quadratic", "mae"
    headline: tuple[str, ...] = ("kappa_quadratic", "accuracy")
    means = "agreement"
    closed = True
    rank_correlation = True
    decisions: tuple[str, ...] = ("median", "mean", "kappa")

    def width(self, n_classes: int) -> int:
        """A raw output for each step between grades."""
        return n_classes - 1

    def decide(self, values: np.ndarray) -> np.ndarray:
        """The median grade; NaN without probabilities.

        >>> Grades().decide(np.array([[0.4, 0.25, 0.35], [0.4, np.nan, 0.6]]))
        array([ 1., nan])
        """
        # a cumulated probability of one half must count in spite of rounding
        grades = (np.cumsum(values, axis=1) < 0.5 - 1e-9).sum(axis=1).clip(max=values.shape[1] - 1)
        return np.where(np.isnan(values).any(axis=1), np.nan, grades)

    def prominence(self, n_classes: int, positive: int | None) -> list[float] | None:
        """The expected grade; for two grades the probability of the positive one."""
        return super().prominence(n_classes, positive) or [float(number) for number in range(n_classes)]


register_kind(Grades())
