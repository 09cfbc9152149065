"""Several readers of the same cases: AUROC, sensitivity and specificity, which generalise to other readers and cases.

One figure of each reader, or its difference between two modalities (readers with and without the model, the model and
readers), is averaged over the readers. The variance of the mean has a share of the readers and a share of the cases,
which all readers have in common:

- Obuchowski and Rockette, for readers and cases drawn at random: MS / R + max(Cov2, 0), where MS is the variance of the
  figures over R readers and Cov2 the mean covariance of two readers' figures, by leaving out one subject at a time. The
  degrees of freedom of Student's t are (MS + R max(Cov2, 0))² / (MS² / (R − 1)). For two modalities this equals their
  F test.
- The same with these readers fixed: the variance by leaving out one subject at a time.
- Gallas' unbiased variance of an AUROC from products of pairs of cases, with the same degrees of freedom; for subjects
  with one case each.

Sources: Obuchowski and Rockette 1995; Hillis, Obuchowski, Schartz and Berbaum 2005; Hillis 2007 (degrees of freedom);
Gallas 2006 (one-shot estimate).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from casewise.evaluation.bootstrap import PLAN, Plan, with_intervals
from casewise.evaluation.figures import Estimate
from casewise.evaluation.intervals import FEWEST, Basis, groups_of, jackknife
from casewise.evaluation.record import Record
from casewise.metrics.roc import ranking

Metric = Literal["auroc", "sensitivity", "specificity"]
# Fewer readers say too little of others.
FEWEST_READERS = 3
METRICS: tuple[Metric, ...] = ("auroc", "sensitivity", "specificity")
_SAME, _MOST_FREEDOM = 1e-12, 1e9


@dataclass(frozen=True)
class _LeftOut:
    """A figure of each of L columns of scores, (L,), and without each of G groups of subjects, (G, L).

    `presence` (G, 1, 2) is whether a group has negative and positive cases; the figure rests on `rests_on` subjects.
    """

    points: np.ndarray
    left_out: np.ndarray
    presence: np.ndarray
    rests_on: int


class Inference(Record):
    """The interval of a mean over readers, its standard error and degrees of freedom; `p` of a difference that is 0."""

    low: float | None
    high: float | None
    error: float | None = None
    freedom: float | None = None
    p: float | None = None
    reason: str | None = None


class ReaderMean(Record):
    """A figure or difference averaged over readers.

    Attributes:
        random: for other readers and other cases (Obuchowski and Rockette).
        fixed: for these readers and other cases.
        unbiased: for other readers and cases (Gallas); of an AUROC only.
    """

    value: float | None
    random: Inference
    fixed: Inference
    unbiased: Inference | None = None


class ModalityComparison(Record):
    """Two modalities by one metric, with the figures of their readers; the model is a modality with one column.

    The means are over the readers, and `difference` is the first minus the second.
    """

    metric: Metric
    n_subjects: int
    n_cases: int
    first: list[Estimate]
    second: list[Estimate]
    mean_first: ReaderMean
    mean_second: ReaderMean
    difference: ReaderMean


def left_out(
    metric: Metric, truth: np.ndarray, scores: np.ndarray, subjects: np.ndarray, plan: Plan = PLAN
) -> _LeftOut:
    """A figure of each column of scores, also without each subject.

    Args:
        truth: (N,) 0 or 1.
        scores: (N, L), higher where a case is likelier positive; for sensitivity and specificity above 0.5 where it is
            called positive.
        subjects: (N,) the subject of each case.
    """
    truth = np.asarray(truth).astype(bool)
    names, codes = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)
    codes = groups_of(len(names), plan.seed)[codes]
    n_groups = int(codes.max(initial=-1)) + 1
    counts = np.concatenate([np.ones((1, n_groups)), 1 - np.eye(n_groups)])
    if metric == "auroc":
        values = np.stack([ranking(column, truth, codes, counts).auroc for column in scores.T], axis=1)
    else:
        of_class = truth if metric == "sensitivity" else ~truth
        right = (scores > 0.5) == truth[:, None]
        sums = np.zeros((n_groups, scores.shape[1] + 1))
        np.add.at(sums, codes[of_class], np.column_stack([right, np.ones(len(truth))])[of_class])
        totals = counts @ sums
        with np.errstate(invalid="ignore"):
            values = totals[:, :-1] / totals[:, -1:]
    presence = np.zeros((n_groups, 1, 2), dtype=bool)
    presence[codes, 0, truth.astype(int)] = True
    negative, positive = presence.sum(axis=(0, 1)).tolist()
    rests_on = {"auroc": min(negative, positive), "sensitivity": positive, "specificity": negative}[metric]
    return _LeftOut(values[0], values[1:], presence, rests_on)


def random_readers(points: np.ndarray, covariance: np.ndarray, plan: Plan = PLAN) -> Inference:
    """The mean of figures of R readers drawn at random, from points (R,) and their covariance (R, R).

    >>> result = random_readers(np.array([0.1, 0.2, 0.3]), np.full((3, 3), 0.001))
    >>> round(result.error, 4), round(result.freedom, 2)
    (0.0658, 3.38)
    """
    count = len(points)
    if count < FEWEST_READERS:
        return Inference(None, None, reason=f"fewer than {FEWEST_READERS} readers say too little of others")
    between = float(points.var(ddof=1))
    shared = max(float(covariance.sum() - np.trace(covariance)) / (count * (count - 1)), 0.0)
    freedom = (between + count * shared) ** 2 / (between**2 / (count - 1)) if between > _SAME**2 else np.inf
    return _inference(float(points.mean()), between / count + shared, freedom, plan)


def unbiased_variance(kernel: Sequence[np.ndarray]) -> float:
    """Gallas' estimate of the variance of an AUROC averaged over readers, or of its difference.

    Args:
        kernel: of each reader (N0, N1): 1 where a negative case has a lower score than a positive one, 1/2 where they
            are equal, 0 otherwise; or the difference of two such arrays.

    Returns:
        The estimate, which can be negative; NaN where a class has one case, or there is one reader.
    """
    sizes = (*kernel[0].shape, len(kernel))
    if min(sizes) < 2:
        return np.nan
    # sums of products of two kernels that share at least these indices of negative case, positive case, reader
    squares: dict[tuple[int, ...], float] = {}
    total = np.sum(kernel, axis=0)
    for shared in itertools.product((0, 1), repeat=3):
        axes = tuple(axis for axis in (0, 1) if not shared[axis])
        kernels = kernel if shared[2] else [total]
        squares[shared] = sum(float((np.sum(x, axis=axes) ** 2).sum()) for x in kernels)
    moments = {}
    for shared in squares:
        # those that share exactly these indices, by inclusion and exclusion
        exactly = sum(
            (-1) ** (sum(other) - sum(shared)) * squares[other]
            for other in squares
            if all(b >= a for a, b in zip(shared, other, strict=True))
        )
        pairs = np.prod([n if same else n * (n - 1) for n, same in zip(sizes, shared, strict=True)], dtype=float)
        moments[shared] = exactly / pairs
    weights = {
        shared: np.prod([1 / n if same else (n - 1) / n for n, same in zip(sizes, shared, strict=True)])
        for shared in moments
    }
    return float(sum(weights[shared] * moments[shared] for shared in moments) - moments[0, 0, 0])


def mean_over_readers(
    metric: Metric,
    truth: np.ndarray,
    scores: np.ndarray,
    subjects: np.ndarray,
    *,
    minus: np.ndarray | None = None,
    plan: Plan = PLAN,
) -> ReaderMean:
    """The mean over R readers of a figure, or of its difference from the figure of `minus`.

    Args:
        truth, subjects: (N,) as in `left_out`.
        scores: (N, R); the model's are (N, 1).
        minus: (N, R) of the same readers in the other modality, or (N, 1) of the model.
    """
    first = left_out(metric, truth, scores, subjects, plan)
    second = None if minus is None else left_out(metric, truth, minus, subjects, plan)
    points, without = first.points, first.left_out
    if second is not None:
        points, without = points - second.points, without - second.left_out
    value = float(points.mean()) if np.isfinite(points).all() else None
    if first.rests_on < FEWEST or not np.isfinite(without).all():
        few = Inference(None, None, reason=f"fewer than {FEWEST} subjects of a class")
        return ReaderMean(value, few, few)
    deviation = without - without.mean(axis=0)
    random = random_readers(points, (len(without) - 1) / len(without) * deviation.T @ deviation, plan)
    error, freedom = jackknife(without.mean(axis=1, keepdims=True), Basis({}, first.presence, {}, 0.95).strata)
    fixed = _inference(float(points.mean()), float(error[0]) ** 2, float(freedom[0]), plan)
    result = ReaderMean(value, random, fixed)
    if metric == "auroc":
        several = len(np.unique(np.asarray(subjects, dtype=str))) < len(subjects)
        reason = "subjects have several cases" if several else random.reason
        kernels = [] if reason else _kernels(np.asarray(truth).astype(bool), scores, minus)
        variance = unbiased_variance(kernels) if kernels else np.nan
        unbiased = (
            Inference(None, None, reason=reason or "the unbiased estimate of the variance is not positive")
            if not variance > 0
            else _inference(float(points.mean()), variance, random.freedom or np.inf, plan)
        )
        result = replace(result, unbiased=unbiased)
    return result if second is not None else _within(result)


def compare_modalities(
    metric: Metric,
    truth: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    subjects: np.ndarray,
    plan: Plan = PLAN,
) -> ModalityComparison:
    """Compare two modalities of the same readers, (N, R) each; of the model the scores are (N, 1).

    Cases that lack a score are left out.
    """
    complete = ~np.isnan(np.column_stack([first, second, truth])).any(axis=1)
    truth, first, second, subjects = (np.asarray(values)[complete] for values in (truth, first, second, subjects))
    return ModalityComparison(
        metric,
        len(np.unique(np.asarray(subjects, dtype=str))),
        len(truth),
        _by_column(metric, truth, first, subjects, plan),
        _by_column(metric, truth, second, subjects, plan),
        mean_over_readers(metric, truth, first, subjects, plan=plan),
        mean_over_readers(metric, truth, second, subjects, plan=plan),
        mean_over_readers(metric, truth, first, subjects, minus=second, plan=plan),
    )


def _by_column(
    metric: Metric, truth: np.ndarray, scores: np.ndarray, subjects: np.ndarray, plan: Plan
) -> list[Estimate]:
    """The figure of each column of scores with its interval."""
    figures, name = left_out(metric, truth, scores, subjects, plan), str(metric)
    rests_on = {name: np.full(scores.shape[1], figures.rests_on)}
    basis = Basis({name: figures.left_out}, figures.presence, rests_on, plan.confidence)
    numbers = {"n_subjects": len(figures.presence), "n_cases": len(truth)}
    why = "a class has no case"
    return [
        estimates[name]
        for estimates in with_intervals({name: figures.points}, {}, lambda *_: why, plan, basis=basis, **numbers)
    ]


def _inference(value: float, variance: float, freedom: float, plan: Plan) -> Inference:
    if not variance > _SAME**2:
        return Inference(None, None, reason="the same for all readers and without any subject: no interval")
    error, freedom = float(np.sqrt(variance)), min(freedom, _MOST_FREEDOM)
    half = float(stdtrit(freedom, (1 + plan.confidence) / 2)) * error
    return Inference(value - half, value + half, error, freedom, float(2 * stdtr(freedom, -abs(value) / error)))


def _within(mean: ReaderMean) -> ReaderMean:
    """A mean of figures: intervals end at 0 and 1, and there is no test."""

    def clipped(inference: Inference) -> Inference:
        low, high = (None if end is None else min(max(end, 0.0), 1.0) for end in (inference.low, inference.high))
        return replace(inference, low=low, high=high, p=None)

    unbiased = None if mean.unbiased is None else clipped(mean.unbiased)
    return replace(mean, random=clipped(mean.random), fixed=clipped(mean.fixed), unbiased=unbiased)


def _kernels(positive: np.ndarray, scores: np.ndarray, minus: np.ndarray | None) -> list[np.ndarray]:
    """For each reader as in `unbiased_variance`."""

    def kernel(column: np.ndarray) -> np.ndarray:
        return np.asarray((np.sign(column[positive][None, :] - column[~positive][:, None]) + 1) / 2)

    first = [kernel(column) for column in scores.T]
    if minus is None:
        return first
    second = [kernel(column) for column in minus.T]
    count = max(len(first), len(second))
    first, second = (readings * count if len(readings) == 1 else readings for readings in (first, second))
    return [x - y for x, y in zip(first, second, strict=True)]
