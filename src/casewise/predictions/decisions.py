"""The rule by which the probabilities of grades become one grade: the median, the rounded mean, or tuned thresholds.

Thresholds lie on the expected grade: the grade is the number of thresholds below it. `mean` has them half way between
grades. `kappa` chooses the thresholds with the highest quadratic kappa of out-of-fold predictions: for a fold, on the
predictions of the other folds; for the test set and new cases, on all folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.predictions.table import probability_columns

# The key of the thresholds for cases outside the folds: test set, external cohort and new cases.
ALL = "all"
# An expected grade on a threshold counts as below it, in spite of rounding.
ROUNDING = 1e-9
# Rounds of coordinate search; it ends earlier when no threshold moves.
MOST_ROUNDS = 50


@dataclass(frozen=True)
class _Decided:
    """Rows with the grades that the rules decide.

    `records`: for each target with a rule its `rule` and, unless it is the median, `thresholds`: by learner and then
    by fold (`1`, …, `all`) the thresholds on the expected grade; `kappa` adds `rows`, on how many they were tuned.
    """

    rows: pd.DataFrame
    records: Mapping[str, Mapping[str, Any]]


def decide_grades(table: pd.DataFrame, rules: Mapping[str, str]) -> _Decided:
    """Decide the grades of the predictions table by the rule of each target; the median leaves its rows as they are."""
    records: dict[str, Mapping[str, Any]] = {target: {"rule": rule} for target, rule in rules.items()}
    for target, rule in rules.items():
        if rule == "median":
            continue
        by_learner = {
            str(model): _fitted(rows, rule)
            for model, rows in table[table["target"] == target].groupby("model", sort=False)
        }
        thresholds = {model: limits for model, (limits, _) in by_learner.items()}
        rows_of = {"rows": {model: counts for model, (_, counts) in by_learner.items()}} if rule == "kappa" else {}
        records[target] = {"rule": rule, "thresholds": thresholds, **rows_of}
    return _Decided(apply_thresholds(table, records), records)


def apply_thresholds(table: pd.DataFrame, records: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Decide the grades of further rows, such as altered images, tiles or new cases, by the records of `_Decided`.

    Out-of-fold rows get the thresholds of their learner and fold, others the thresholds of all folds.
    """
    table = table.reset_index(drop=True)
    for target, record in records.items():
        if "thresholds" not in record:
            continue
        for model, rows in table[table["target"] == target].groupby("model", sort=False):
            expected, _ = _expected_grades(rows)
            folds, grades = _fold_names(rows), np.empty(len(rows))
            for fold in set(folds):
                members = folds == fold
                grades[members] = passed(expected[members], np.array(record["thresholds"][str(model)][str(fold)]))
            table.loc[rows.index, "y_pred"] = grades
    return table


def _expected_grades(rows: pd.DataFrame) -> tuple[NDArray[np.float64], int]:
    """The expected grade of each row of one target, (N,), NaN without probabilities, and the steps between grades."""
    columns = [name for name in probability_columns(rows) if rows[name].notna().any()]
    if not columns:
        return np.full(len(rows), np.nan), 0
    expected: NDArray[np.float64] = rows[columns].to_numpy(dtype=float) @ np.arange(len(columns), dtype=np.float64)
    return expected, len(columns) - 1


def half_way(steps: int) -> NDArray[np.float64]:
    """The thresholds of the rounded mean.

    >>> half_way(2)
    array([0.5, 1.5])
    """
    return np.arange(steps, dtype=np.float64) + np.float64(0.5)


def passed(expected: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """The grades (N,): how many thresholds lie below each expected grade; NaN where there is none.

    >>> passed(np.array([0.4, 0.5, 1.7, np.nan]), np.array([0.5, 1.5]))
    array([ 0.,  0.,  2., nan])
    """
    grades = (expected[:, None] > thresholds + ROUNDING).sum(axis=1)
    return np.where(np.isnan(expected), np.nan, grades)


def _fold_names(rows: pd.DataFrame) -> NDArray[np.object_]:
    """The fold of each out-of-fold row as text, `ALL` for rows of other stages."""
    out_of_fold = ((rows["stage"] == "oof") & rows["outer_fold"].notna()).to_numpy()
    names = rows["outer_fold"].astype(object).map(str).to_numpy(dtype=object)
    return np.where(out_of_fold, names, ALL)


def _fitted(rows: pd.DataFrame, rule: str) -> tuple[dict[str, list[float]], dict[str, int]]:
    """For each fold and for all of them the thresholds, and the number of rows by which they were tuned."""
    expected, steps = _expected_grades(rows)
    names, truth = _fold_names(rows), rows["y_true"].to_numpy(dtype=float)
    scored = (names != ALL) & ~np.isnan(truth) & ~np.isnan(expected)
    thresholds, counts = dict[str, list[float]](), dict[str, int]()
    for fold in [*sorted({str(name) for name in names if name != ALL}, key=int), ALL]:
        members = scored & (names != fold)
        counts[fold] = int(members.sum()) if rule == "kappa" else 0
        limits = best_thresholds(expected[members], truth[members], steps) if counts[fold] else half_way(steps)
        thresholds[fold] = limits.tolist()
    return thresholds, counts


def best_thresholds(expected: NDArray[np.float64], truth: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Thresholds (steps,) on expected grades (N,) with the highest quadratic kappa, in rising order.

    Coordinate search from half way between the grades: each threshold in turn moves to the best middle between two
    neighbouring expected grades, the nearest of several equal ones, until none moves. Without a spread of the reference
    kappa is undefined, and the thresholds stay.
    """
    thresholds = half_way(steps)
    if not len(truth) or np.ptp(truth) == 0:
        return thresholds
    order = np.argsort(expected, kind="stable")
    values, labels = expected[order], truth[order]
    # a threshold between two equal values would separate nothing
    cuts = np.flatnonzero(np.diff(values) > 2 * ROUNDING) + 1
    middles = (values[cuts - 1] + values[cuts]) / 2
    best = float(_kappa(_sums(passed(values, thresholds), labels), labels))
    for _ in range(MOST_ROUNDS):
        moved = False
        for number in range(steps):
            base = passed(values, np.delete(thresholds, number))
            # what each value above a further threshold adds to the sums, and so do all values from a cut on
            added = np.stack([np.ones_like(base), 2 * base + 1, labels])
            from_here = np.cumsum(added[:, ::-1], axis=1)[:, ::-1]
            kappas = _kappa(_sums(base, labels)[:, None] + from_here[:, cuts], labels)
            if not len(kappas) or not kappas.max() > best + ROUNDING:
                continue
            equal = np.flatnonzero(kappas >= kappas.max() - ROUNDING)
            chosen = equal[np.argmin(np.abs(middles[equal] - thresholds[number]))]
            thresholds[number], best, moved = middles[chosen], float(kappas[chosen]), True
        if not moved:
            break
    return np.sort(thresholds)


def _sums(grades: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of grades, of their squares, and of their products with the labels, (3,)."""
    return np.array([grades.sum(), (grades**2).sum(), (grades * labels).sum()])


def _kappa(sums: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quadratic kappa from the sums (3, ...) of predicted grades; it needs no table of counts."""
    (total, squares, products), label_squares = sums, (labels**2).sum()
    disagreement = squares + label_squares - 2 * products
    by_chance = squares + label_squares - 2 * total * labels.sum() / len(labels)
    return np.asarray(1 - disagreement / by_chance)
