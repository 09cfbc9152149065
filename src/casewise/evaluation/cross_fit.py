"""Choices on out-of-fold rows: on all of them for new cases, on the other folds for out-of-fold cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

# a value for each fold, chosen on the other folds, and for None the one chosen on all
ByFold: TypeAlias = Mapping[int | None, float]


def choose(choice: Callable[[np.ndarray], float], folds: np.ndarray) -> dict[int | None, float]:
    """The result of `choice` on the rows (a mask) that each fold may use; NaN if there is only one fold.

    >>> values, folds = np.array([1., 2., 6.]), np.array([0, 0, 1])
    >>> choose(lambda rows: float(values[rows].mean()), folds)
    {None: 3.0, 0: 6.0, 1: 1.5}
    """
    folds = np.asarray(folds, dtype=int)
    names = [int(fold) for fold in np.unique(folds)]
    values: dict[int | None, float] = {None: choice(np.ones(len(folds), dtype=bool)) if len(folds) else float("nan")}
    return values | {fold: choice(folds != fold) if len(names) > 1 else float("nan") for fold in names}


def of_rows(by_fold: ByFold, folds: np.ndarray, *, crossed: bool) -> np.ndarray:
    """The value for each row: with `crossed` that of its fold, else the one chosen on all; NaN if there is none.

    >>> of_rows({None: 3.0, 0: 6.0, 1: 1.5}, np.array([1, 0, 7]), crossed=True)
    array([1.5, 6. , nan])
    """
    if not crossed:
        return np.full(len(folds), by_fold.get(None, float("nan")))
    return np.array([by_fold.get(int(fold), float("nan")) for fold in folds], dtype=float)


def stated(by_fold: ByFold, *, crossed: bool) -> float | None:
    """The value to report: the median over the folds, or the one chosen on all; None if there is none.

    >>> stated({None: 3.0, 0: 6.0, 1: 2.0}, crossed=True), stated({}, crossed=False)
    (4.0, None)
    """
    values = [value for fold, value in by_fold.items() if (fold is not None) == crossed]
    return None if not values or np.isnan(values).any() else float(np.median(values))


def by_fold_text(by_fold: Mapping[str, float | None] | None, digits: int) -> str:
    """The range over the folds as text; empty if they do not differ in the digits shown, or one has no value.

    >>> by_fold_text({"0": 0.0004, "1": 0.826}, 3), by_fold_text({"0": 0.5, "1": 0.5001}, 3), by_fold_text({}, 3)
    ('0.000 to 0.826 by fold', '', '')
    """
    values = [value for value in (by_fold or {}).values() if value is not None]
    if not values or len(values) < len(by_fold or {}):
        return ""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return f"{low} to {high} by fold" if low != high else ""
