"""Thresholds and temperatures chosen out of fold, and operating points on other cases.

Source: Youden 1950 (the threshold of the largest sensitivity + specificity - 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np

from casewise.evaluation import intervals
from casewise.evaluation.bootstrap import Plan, estimates
from casewise.evaluation.figures import Estimate
from casewise.evaluation.results import Aim
from casewise.metrics.numbers import sum_by_subject
from casewise.metrics.roc import curve

# a value for each fold, chosen on the other folds, and for None the one chosen on all
ByFold: TypeAlias = Mapping[int | None, float]


def choose(choice: Callable[..., float], folds: np.ndarray, *values: np.ndarray) -> dict[int | None, float]:
    """The result of `choice` on the `values` (N, ...) that each fold may use; NaN if there is only one fold.

    >>> choose(lambda values: float(values.mean()), np.array([0, 0, 1]), np.array([1., 2., 6.]))
    {None: 3.0, 0: 6.0, 1: 1.5}
    """
    folds = np.asarray(folds, dtype=int)
    names = [int(fold) for fold in np.unique(folds)]

    def of(rows: np.ndarray, enough: bool) -> float:
        return choice(*(array[rows] for array in values)) if enough else float("nan")

    everyone = {None: of(np.ones(len(folds), dtype=bool), len(folds) > 0)}
    return everyone | {fold: of(folds != fold, len(names) > 1) for fold in names}


def of_rows(by_fold: ByFold, folds: np.ndarray, *, crossed: bool) -> np.ndarray:
    """The value for each row: with `crossed` the value of its fold, else the one chosen on all; NaN without a value.

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


YOUDEN = "youden"
# Figures whose interval is rough where one to four subjects have cases in a cell that they rest on (true positives,
# false negatives, false positives, true negatives); of none, the interval is exact or missing.
FEW_IN_CELL = 5
CELLS = {
    "sensitivity": (0, 1),
    "specificity": (2, 3),
    "lr_positive": (0, 2),
    "lr_negative": (1, 3),
    "ppv_at_prevalence": (0, 2),
    "npv_at_prevalence": (1, 3),
}

_OF_BOTH_SIDES = ("lr_positive", "lr_negative", "ppv_at_prevalence", "npv_at_prevalence")


def rules(sensitivities: Sequence[float]) -> dict[str, float | None]:
    """The rules by name, with the sensitivity that each aims at; None for Youden's.

    >>> rules([0.9])
    {'youden': None, 'sensitivity >= 0.9': 0.9}
    """
    return {YOUDEN: None, **{f"sensitivity >= {least:g}": least for least in sensitivities}}


def aim_of(rule: str, sensitivity: Estimate) -> Aim | None:
    """Whether the sensitivity that a rule aims at is reached by the whole interval; None without an aim or a value.

    `uncertain`: the aim is within the interval, or the interval is rough or missing.

    >>> estimate = Estimate(0.52, 0.45, 0.60, 50, 50, rough=False)
    >>> [aim_of(f"sensitivity >= {least}", estimate) for least in (0.9, 0.6, 0.5, 0.45)]
    ['missed', 'uncertain', 'uncertain', 'reached']
    >>> aim_of("sensitivity >= 0.4", replace(estimate, rough=True))
    'uncertain'
    """
    _, aims, least = rule.partition("sensitivity >= ")
    if not aims or sensitivity.value is None:
        return None
    if sensitivity.low is None or sensitivity.high is None or sensitivity.rough:
        return "uncertain"
    return (
        "reached" if sensitivity.low >= float(least) else "missed" if sensitivity.high < float(least) else "uncertain"
    )


def choose_threshold(scores: np.ndarray, of_class: np.ndarray, sensitivity: float | None) -> float:
    """The lowest score at which the class is predicted; NaN if the class, or every other class, is missing.

    With None it is Youden's threshold, else the highest with this sensitivity; of equal ones the highest.

    >>> scores, of_class = np.array([.9, .8, .7, .6, .1]), np.array([1, 1, 0, 1, 0])
    >>> choose_threshold(scores, of_class, None), choose_threshold(scores, of_class, 0.9)
    (0.8, 0.6)
    """
    of_class = np.asarray(of_class, dtype=bool)
    if of_class.all() or not of_class.any():
        return float("nan")
    fpr, tpr, thresholds = curve(scores, of_class)
    # equal merits and sensitivities may differ by rounding
    sufficient = tpr - fpr >= (tpr - fpr).max() - 1e-12 if sensitivity is None else tpr >= sensitivity - 1e-12
    return float(thresholds[sufficient][0])


def judge_thresholds(
    scores: np.ndarray,
    thresholds: np.ndarray,
    of_class: np.ndarray,
    subjects: np.ndarray,
    plan: Plan,
    *,
    n_cases: int,
    prevalence: float | None = None,
) -> list[dict[str, Estimate]]:
    """The figures of J operating points with intervals by subject.

    They are sensitivity, specificity, precision (the positive predictive value), negative predictive value and the
    likelihood ratios; with a `prevalence` also the predictive values at that share of the class, by Bayes' theorem.

    `scores`, `thresholds` and `of_class` are (N, J): each case has its own threshold, because thresholds of out-of-fold
    cases are chosen on the other folds. The precision is 0 if the class is never predicted.

    >>> estimates_by_point = judge_thresholds(
    ...     np.array([[.9], [.2], [.6], [.1]]), np.full((4, 1), .5), np.array([[1], [1], [0], [0]]) > 0,
    ...     np.array(list("abcd")), Plan(100), n_cases=4,
    ... )
    >>> {name: estimate.value for name, estimate in estimates_by_point[0].items()}
    {'sensitivity': 0.5, 'specificity': 0.5, 'precision': 0.5, 'npv': 0.5, 'lr_positive': 1.0, 'lr_negative': 1.0}
    """
    positive = scores >= thresholds
    cells = np.stack([of_class & positive, of_class & ~positive, ~of_class & positive, ~of_class & ~positive], axis=-1)
    cells = np.where(np.isnan(thresholds)[..., None], np.nan, cells.astype(float))
    sums = sum_by_subject(cells, subjects)
    presence = np.stack([sums[..., 0] + sums[..., 1], sums[..., 2] + sums[..., 3]], axis=-1) > 0
    predicted, others_predicted = ((sums[..., n] + sums[..., n + 2] > 0).sum(axis=0) for n in (0, 1))
    of_class, rest = np.moveaxis(presence.sum(axis=0), -1, 0)
    both = np.minimum(of_class, rest)
    rests_on = {
        "sensitivity": of_class,
        "specificity": rest,
        "precision": np.minimum(of_class, predicted),
        "npv": np.minimum(rest, others_predicted),
        **dict.fromkeys(_OF_BOTH_SIDES, both),
    }
    statistic = partial(_metrics_of_cells, prevalence=prevalence)
    shifted = _shifted(sums.sum(axis=0), statistic, of_class, rest, plan)
    by_point = estimates(
        sums, statistic, _reason, plan, n_cases=n_cases, presence=presence, rests_on=rests_on, shifted=shifted
    )
    in_cells = (sums > 0).sum(axis=0)
    few = (in_cells > 0) & (in_cells < FEW_IN_CELL)
    return [
        {
            name: replace(figure, rough=figure.rough or bool(few[point, list(CELLS.get(name, ()))].any()))
            for name, figure in figures.items()
        }
        for point, figures in enumerate(by_point)
    ]


def _shifted(
    cells: np.ndarray,
    statistic: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    of_class: np.ndarray,
    rest: np.ndarray,
    plan: Plan,
) -> dict[str, list[np.ndarray]]:
    """What figures of both sides would be if a side of which all cases are right, or none, had others by chance.

    Args:
        cells: (J, 4) the counts of `_metrics_of_cells`; `of_class` and `rest` (J,) the subjects of both sides.
    """
    result: dict[str, list[np.ndarray]] = {}
    for side, subjects in (([0, 1], of_class), ([3, 2], rest)):
        right, wrong = cells[:, side[0]], cells[:, side[1]]
        share = (1 - intervals.lowest_share(subjects, plan.confidence)) * (right + wrong)
        change = np.where(right <= 0, share, np.where(wrong <= 0, -share, 0.0))
        if not change.any():
            continue
        moved = cells.copy()
        moved[:, side[0]] += change
        moved[:, side[1]] -= change
        for name, figure in statistic(moved).items():
            if name in _OF_BOTH_SIDES:
                result.setdefault(name, []).append(figure)
    return result


def _metrics_of_cells(cells: np.ndarray, *, prevalence: float | None) -> dict[str, np.ndarray]:
    """Metrics from counts (..., 4): true positives, false negatives, false positives, true negatives."""
    tp, fn, fp, tn = np.moveaxis(cells, -1, 0)
    with np.errstate(all="ignore"):
        precision = np.where(tp + fp > 0, tp / (tp + fp), np.where(np.isnan(tp), np.nan, 0.0))
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        figures = {
            "sensitivity": sensitivity,
            "specificity": specificity,
            # without a case on one side, every value is the same whatever the model predicts
            "precision": np.where((tp + fn > 0) & (tn + fp > 0), precision, np.nan),
            "npv": np.where((tp + fn > 0) & (tn + fp > 0), tn / (tn + fn), np.nan),
            "lr_positive": _defined(sensitivity / (1 - specificity)),
            "lr_negative": _defined((1 - sensitivity) / specificity),
        }
        if prevalence is not None:
            ill, well = prevalence, 1 - prevalence
            positive = sensitivity * ill + (1 - specificity) * well
            negative = specificity * well + (1 - sensitivity) * ill
            figures["ppv_at_prevalence"] = _defined(sensitivity * ill / positive)
            figures["npv_at_prevalence"] = _defined(specificity * well / negative)
        return figures


def _defined(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


def _reason(figure: str, cells: np.ndarray) -> str:
    if np.isnan(cells).any():
        return "no threshold: out of fold (for a fold, in the other folds) the class, or every other one, is missing"
    tp, fn, fp, tn = cells
    if tp + fn and tn + fp:
        reasons = {"lr_positive": "no case is a false positive", "lr_negative": "no case is a true negative"}
        called = "positive" if figure.startswith("npv") else "negative"
        return reasons.get(figure, f"every case is called {called}")
    if figure not in ("sensitivity", "specificity"):
        return "every case is truly of the class" if tp + fn else "no case is truly of the class"
    return "every case is truly of the class" if figure == "specificity" else "no case is truly of the class"
