"""Operating points: thresholds chosen out of fold, and what they give where they were not chosen.

Source: Youden 1950 (the threshold of the largest sensitivity + specificity - 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from casewise.evaluation.bootstrap import Estimate, Plan, estimates
from casewise.metrics.numbers import sum_by_subject
from casewise.metrics.roc import curve

YOUDEN = "youden"


class Threshold(float):
    """A number that others are compared with, so that it keeps all its digits where it is told."""


def rules(sensitivities: Sequence[float]) -> dict[str, float | None]:
    """Return the rules by their names: Youden's, None, and the least sensitivity of each other.

    >>> rules([0.9])
    {'youden': None, 'sensitivity >= 0.9': 0.9}
    """
    return {YOUDEN: None, **{f"sensitivity >= {least:g}": least for least in sensitivities}}


def reached(rule: str, sensitivity: Estimate) -> bool | None:
    """Whether the sensitivity that a rule aims at was reached: not where the interval lies below; None without an aim.

    >>> found = Estimate(0.52, 0.45, 0.60, 50, 50, rough=False)
    >>> reached("sensitivity >= 0.9", found), reached("sensitivity >= 0.6", found), reached("youden", found)
    (False, True, None)
    """
    _, aims, least = rule.partition("sensitivity >= ")
    if not aims or sensitivity.value is None:
        return None
    highest = sensitivity.value if sensitivity.high is None else sensitivity.high
    return highest >= float(least)


def choose_threshold(scores: np.ndarray, of_class: np.ndarray, sensitivity: float | None) -> float:
    """Return the score from which on a case is taken for the class; NaN where the class, or any other, is missing.

    With None it is Youden's, else the highest that has this sensitivity; of equally good ones the highest.

    >>> scores, of_class = np.array([.9, .8, .7, .6, .1]), np.array([1, 1, 0, 1, 0])
    >>> choose_threshold(scores, of_class, None), choose_threshold(scores, of_class, 0.9)
    (0.8, 0.6)
    """
    of_class = np.asarray(of_class, dtype=bool)
    if of_class.all() or not of_class.any():
        return float("nan")
    fpr, tpr, thresholds = curve(scores, of_class)
    # equal merits, and nine tenths, may differ by rounding
    good = tpr - fpr >= (tpr - fpr).max() - 1e-12 if sensitivity is None else tpr >= sensitivity - 1e-12
    return float(thresholds[good][0])


def judge_thresholds(
    scores: np.ndarray,
    thresholds: np.ndarray,
    of_class: np.ndarray,
    subjects: np.ndarray,
    plan: Plan,
    *,
    n_cases: int,
) -> list[dict[str, Estimate]]:
    """Return sensitivity, specificity and precision of J operating points with intervals by resampling subjects.

    `scores`, `thresholds` and `of_class` are (N, J): each case has its own threshold, since those of out-of-fold cases
    are chosen on the other folds. A precision with nobody taken is 0.

    >>> found = judge_thresholds(
    ...     np.array([[.9], [.2], [.6], [.1]]), np.full((4, 1), .5), np.array([[1], [1], [0], [0]]) > 0,
    ...     np.array(list("abcd")), Plan(100), n_cases=4,
    ... )
    >>> {name: told.value for name, told in found[0].items()}
    {'sensitivity': 0.5, 'specificity': 0.5, 'precision': 0.5}
    """
    taken = scores >= thresholds
    cells = np.stack([of_class & taken, of_class & ~taken, ~of_class & taken, ~of_class & ~taken], axis=-1)
    cells = np.where(np.isnan(thresholds)[..., None], np.nan, cells.astype(float))
    sums = sum_by_subject(cells, subjects)
    return estimates(sums, _of_cells, _reason, plan, n_cases=n_cases)


def _of_cells(cells: np.ndarray) -> dict[str, np.ndarray]:
    """Return the figures from counts (..., 4): taken and left of the class, taken and left of the others."""
    hit, missed, wrong, spared = np.moveaxis(cells, -1, 0)
    with np.errstate(all="ignore"):
        precision = np.where(hit + wrong > 0, hit / (hit + wrong), np.where(np.isnan(hit), np.nan, 0.0))
        return {
            "sensitivity": hit / (hit + missed),
            "specificity": spared / (spared + wrong),
            "precision": np.where(hit + missed > 0, precision, np.nan),
        }


def _reason(figure: str, cells: np.ndarray) -> str:
    if np.isnan(cells).any():
        return "no threshold: out of fold (for a fold, in the other folds) the class, or every other one, is missing"
    return "every case is truly of the class" if figure == "specificity" else "no case is truly of the class"
