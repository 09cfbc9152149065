"""Comparisons of learners with the best one, with simultaneous intervals for every pair of them.

The best learner is picked on the same cases on which it is compared, so each of the L(L-1)/2 pairs may become the one
that is looked at. The intervals of all pairs cover their differences together (max-T over the resamples).

Sources: Westfall and Young 1993 (max-T); Hothorn, Bretz and Westfall 2008 (simultaneous intervals); Kish 1965
(effective number of subjects).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from casewise.evaluation.bootstrap import PLAN, Plan, resample
from casewise.evaluation.intervals import largest_difference
from casewise.evaluation.results import Comparison, Difference
from casewise.metrics.numbers import moments, number_metrics, sum_by_subject
from casewise.metrics.registry import metric_of, metrics_of
from casewise.study.learners import baselines_among

# with fewer subjects no difference is stated: their resamples do not show how far a difference varies
FEWEST_SUBJECTS = 10
# with fewer defined resamples, an interval would describe only some of them
_LEAST_DEFINED = 0.9


@dataclass(frozen=True)
class PairIntervals:
    """Simultaneous intervals of the differences of L learners: `difference` and `half_width` (L, L), row minus column.

    The half-width is NaN where too few resamples are defined.
    """

    difference: np.ndarray
    half_width: np.ndarray


def effective_subjects(subjects: np.ndarray) -> float:
    """The number of subjects with equally many cases that would vary as much: (sum of cases)² / sum of cases².

    >>> effective_subjects(np.array(list("aabb"))), effective_subjects(np.array(list("aaab")))
    (2.0, 1.6)
    """
    cases = np.unique(np.asarray(subjects, dtype=str), return_counts=True)[1].astype(float)
    return float(cases.sum() ** 2 / (cases**2).sum()) if len(cases) else 0.0


def pair_intervals(
    point: np.ndarray, samples: np.ndarray, *, n_subjects: int, effective: float, confidence: float
) -> PairIntervals:
    """Simultaneous intervals of all differences of L learners, from points (L,) and samples (resamples, L).

    The critical value is the quantile of the largest standardised difference of each resample over all pairs. It is
    carried over from the normal to Student's t distribution with one degree of freedom less than effective subjects,
    and the standard errors are multiplied by sqrt(n / (n - 1)), because resamples vary less than the population does.
    """
    from scipy.stats import norm, t

    n_learners = len(point)
    first, second = np.triu_indices(n_learners, 1)
    at = point[first] - point[second]
    drawn = samples[:, first] - samples[:, second]
    defined = ~np.isnan(drawn)
    enough = ~np.isnan(at) & (defined.mean(axis=0) >= _LEAST_DEFINED) & (n_subjects > 1)
    half = np.full(len(at), np.nan)
    if enough.any():
        deviation = np.where(defined, drawn - at, 0.0)[:, enough]
        error = np.sqrt((deviation**2).sum(axis=0) / defined[:, enough].sum(axis=0))
        # learners with the same figure in every resample differ in nothing
        scaled = np.abs(deviation) / np.where(error > 0, error, np.inf)
        largest = float(np.quantile(scaled.max(axis=1), confidence))
        critical = max(float(t.isf(norm.sf(largest), max(effective - 1, 1))), largest)
        half[enough] = critical * error * np.sqrt(n_subjects / (n_subjects - 1))
    difference, half_width = np.zeros((2, n_learners, n_learners))
    difference[first, second], difference[second, first] = at, 0.0 - at
    half_width[first, second] = half_width[second, first] = half
    return PairIntervals(difference, half_width)


def compare(
    truth: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    subjects: np.ndarray,
    plan: Plan = PLAN,
    *,
    metrics: Sequence[str] | None = None,
    kind: str = "regression",
) -> dict[str, Comparison]:
    """Compare every learner with the best one of each metric, on the rows that all predicted and the same resamples.

    The intervals of all pairs of learners cover their differences together, with the confidence of the plan for each
    metric; a learner is indistinguishable where its interval covers 0 or is missing. Below ten subjects there are no
    intervals. Intervals end at the largest difference of the metric.

    >>> truth, subjects = np.arange(20.), np.array(list("abcdefghij" * 2))
    >>> far = compare(truth, {"near": truth + .1, "far": truth + 2}, subjects, metrics=["mae"])["mae"]
    >>> far.best, far.indistinguishable, far.differences["far"].indistinguishable
    ('near', ['near'], False)
    """
    truth, subjects = np.asarray(truth, dtype=float), np.asarray(subjects)
    matrix = np.column_stack([np.asarray(p, dtype=float) for p in predicted.values()])
    rows = ~np.isnan(truth) & ~np.isnan(matrix).any(axis=1)
    if not rows.any():
        return {}
    truth, matrix, subjects = truth[rows], matrix[rows], subjects[rows]
    sums = sum_by_subject(moments(truth[:, None], matrix, centre=float(truth.mean())), subjects)
    points, samples = resample(sums, partial(number_metrics, kind=kind), plan)
    if metrics is None:
        metrics = [metric.name for metric in metrics_of(kind) if kind in metric.compared]
    effective = dict.fromkeys(metrics, effective_subjects(subjects))
    return differences(points, samples, list(predicted), effective, plan, n_subjects=len(sums))


def differences(
    points: Mapping[str, np.ndarray],
    samples: Mapping[str, np.ndarray],
    learners: Sequence[str],
    effective: Mapping[str, float],
    plan: Plan,
    *,
    n_subjects: int,
) -> dict[str, Comparison]:
    """Compare learners like `compare`, from points (L,) and samples (resamples, L).

    `effective` is the effective number of subjects for each metric that is compared.
    """
    few = n_subjects < FEWEST_SUBJECTS
    baselines = baselines_among(learners)
    comparison: dict[str, Comparison] = {}
    for name, subjects in effective.items():
        sign = -1.0 if metric_of(name).larger_is_better else 1.0
        point = points[name]
        if np.isnan(point).all():
            continue
        best, most = int(np.nanargmin(sign * point)), largest_difference(name)
        pairs = pair_intervals(
            point, samples[name], n_subjects=n_subjects, effective=subjects, confidence=plan.confidence
        )
        half_width = np.full_like(pairs.half_width, np.nan) if few else pairs.half_width

        from_best = _differences_from(best, learners, pairs.difference, half_width, most)
        comparison[name] = Comparison(
            best=learners[best],
            indistinguishable=[learners[best], *(n for n, gap in from_best.items() if gap.indistinguishable)],
            n_subjects=n_subjects,
            rough=few,
            differences=from_best,
            from_baseline={
                baseline: _differences_from(learners.index(baseline), learners, pairs.difference, half_width, most)
                for baseline in baselines
            },
        )
    return comparison


def _differences_from(
    reference: int, learners: Sequence[str], difference: np.ndarray, half_width: np.ndarray, most: float
) -> dict[str, Difference]:
    """For each learner but the reference, its difference from it; `difference` and `half_width` are (L, L)."""
    entries: dict[str, Difference] = {}
    for number, learner in enumerate(learners):
        gap, half = float(difference[number, reference]), float(half_width[number, reference])
        if number == reference or np.isnan(gap):
            continue
        entries[learner] = Difference(
            gap,
            low=None if np.isnan(half) else max(gap - half, -most),
            high=None if np.isnan(half) else min(gap + half, most),
            indistinguishable=bool(np.isnan(half) or abs(gap) <= half),
        )
    return entries
