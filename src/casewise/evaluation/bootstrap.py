"""Figures with intervals by subject, and comparisons of learners by resampling subjects, each with all its cases.

A primary pair that was chosen without these cases has an interval of its own. The best learner is picked on the same
cases on which it is compared, so each other pair may become the one that is looked at: the intervals of all other pairs
cover their differences together (max-T over the resamples), and they are descriptive unless the primary pair is shown
to differ (gatekeeping). Where few subjects decide a difference, as with skewed scores, Student's t has few degrees of
freedom.

Sources: Westfall and Young 1993 (max-T); Westfall and Krishen 2001 (gatekeeping); Hothorn, Bretz and Westfall 2008
(simultaneous intervals); Kish 1965 (effective number of subjects); Satterthwaite 1946 (degrees of freedom).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from casewise.evaluation import intervals
from casewise.evaluation.figures import DESCRIPTIVE, ByMetric, Cell, Estimate, Figures
from casewise.evaluation.intervals import Basis, largest_difference
from casewise.metrics.numbers import moments, number_metrics, reason, sum_by_subject
from casewise.metrics.registry import metric_of, metrics_of
from casewise.study.learners import COVARIATES, JOINED, baselines_among

Statistic: TypeAlias = Callable[[np.ndarray], Mapping[str, np.ndarray]]
Reason: TypeAlias = Callable[[str, np.ndarray], str]

# with fewer defined resamples, an interval would describe only some of them
_LEAST_DEFINED = 0.9
# counts that are in memory as floats at once
_AT_ONCE = 2**24


@dataclass(frozen=True)
class Plan:
    """The settings of intervals: number of resamples, confidence level, seed, the noun for what is resampled, and the
    difference of the ends of the target's scale."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0
    unit: str = "subject"
    scale: float = field(default=np.inf, compare=False)  # resamples do not depend on it


PLAN = Plan()


class _Counts(np.ndarray):
    """How often each subject is drawn, (resamples, subjects) `uint16`; parts and products are floats.

    Products are made from some rows at a time, so that many subjects need little memory.
    """

    def __getitem__(self, key: Any) -> Any:
        return self.view(np.ndarray)[key].astype(float)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        # a difference of `uint16` would wrap around below 0
        return getattr(ufunc, method)(*(each[:] if isinstance(each, _Counts) else each for each in inputs), **options)

    def __matmul__(self, other: Any) -> Any:
        return np.concatenate([self[rows] @ other for rows in _blocks(*self.shape)])


def _blocks(resamples: int, n_subjects: int) -> list[slice]:
    step = max(1, _AT_ONCE // n_subjects)
    return [slice(first, min(first + step, resamples)) for first in range(0, resamples, step)]


def _drawn(rng: np.random.Generator, n_subjects: int, resamples: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of resamples, and how often each subject is drawn in them."""
    for rows in _blocks(resamples, n_subjects):
        yield rows, rng.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), size=rows.stop - rows.start)


@functools.lru_cache(maxsize=8)
def draw(n_subjects: int, plan: Plan) -> np.ndarray:
    """How often each subject is drawn in each resample, (resamples, subjects); the same for the same plan."""
    counts = np.empty((plan.resamples, n_subjects), np.uint16)
    for rows, drawn in _drawn(np.random.default_rng(plan.seed), n_subjects, plan.resamples):
        counts[rows] = drawn
    counts.flags.writeable = False
    return counts.view(_Counts)


@functools.lru_cache(maxsize=8)
def draw_within(folds: tuple[int, ...], plan: Plan) -> tuple[np.ndarray, float]:
    """Like `draw`, but each fold keeps its number of subjects; `folds` is the fold of each subject.

    Also returns the factor by which deviations of the resamples are too small: a fold of n subjects that are drawn n
    times varies less than n new subjects, in total by sqrt((subjects - folds) / subjects). Where every fold has one
    subject, subjects are drawn from all folds together.
    """
    numbers = np.asarray(folds)
    n_subjects, names = len(numbers), np.unique(numbers)
    if n_subjects == len(names):
        return draw(n_subjects, plan), 1.0
    rng = np.random.default_rng(plan.seed)
    counts = np.zeros((plan.resamples, n_subjects), np.uint16)
    for fold in names:
        members = np.flatnonzero(numbers == fold)
        for rows, drawn in _drawn(rng, len(members), plan.resamples):
            counts[rows, members] = drawn
    counts.flags.writeable = False
    return counts.view(_Counts), float(np.sqrt(n_subjects / (n_subjects - len(names))))


def resample(sums: np.ndarray, statistic: Statistic, plan: Plan) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The statistic over all subjects, (...), and over every resample, (resamples, ...).

    `sums` are (subjects, ..., k); the statistic takes (..., k).
    """
    flat = draw(len(sums), plan) @ sums.reshape(len(sums), -1)
    return dict(statistic(sums.sum(axis=0))), dict(statistic(flat.reshape(plan.resamples, *sums.shape[1:])))


def percentiles(samples: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the interval over the defined samples (resamples, ...); NaN if too few are defined."""
    ordered = np.sort(samples, axis=0)  # NaN last
    n_defined = (~np.isnan(ordered)).sum(axis=0)
    last = np.maximum(n_defined - 1, 0)

    def end(share: float) -> np.ndarray:
        position = share * last
        below = np.floor(position).astype(int)
        at, after = (np.take_along_axis(ordered, n[None], axis=0)[0] for n in (below, np.minimum(below + 1, last)))
        return np.where(n_defined >= _LEAST_DEFINED * len(samples), at + (position - below) * (after - at), np.nan)

    return end((1 - confidence) / 2), end((1 + confidence) / 2)


def estimates(
    sums: np.ndarray,
    statistic: Statistic,
    reason: Reason,
    plan: Plan,
    *,
    n_cases: int,
    presence: np.ndarray | None = None,
    rests_on: Mapping[str, np.ndarray] | None = None,
    shifted: Mapping[str, Sequence[np.ndarray]] | None = None,
) -> list[dict[str, Estimate]]:
    """Every metric with its interval for each of L learners, from sums (subjects, L, k).

    `presence`, `rests_on` and `shifted` as in `casewise.evaluation.intervals.Basis`; by default all subjects count
    alike.
    """
    whole, n_subjects = sums.sum(axis=0), len(sums)
    points = dict(statistic(whole))
    subjects = {name: np.full(point.shape, n_subjects) for name, point in points.items()} | dict(rests_on or {})
    return with_intervals(
        points,
        {},
        lambda name, learner: reason(name, whole[learner]),
        plan,
        n_subjects=n_subjects,
        n_cases=n_cases,
        basis=replace(basis_of(sums, statistic, plan, subjects, presence), shifted=shifted or {}),
    )


def basis_of(
    sums: np.ndarray,
    statistic: Statistic,
    plan: Plan,
    rests_on: Mapping[str, np.ndarray],
    presence: np.ndarray | None = None,
) -> Basis:
    """The figures without each group of subjects, from sums (subjects, L, k)."""
    if presence is None:
        presence = np.ones((len(sums), 1, 1), dtype=bool)
    groups = intervals.groups_of(len(sums), plan.seed)
    left_out = dict(statistic(sums.sum(axis=0) - intervals.by_group(sums, groups)))
    return Basis(left_out, intervals.by_group(presence, groups) > 0, rests_on, plan.confidence, plan.scale)


def mean_by_subject(
    values: Any, subjects: Any, plan: Plan = PLAN, *, name: str = "mean", classes: Any = None
) -> Estimate:
    """The mean over rows of `values` (N,) with its interval by subject.

    Args:
        name: the figure, which decides on the scheme of its interval: `share` for values of 0 or 1.
        classes: (N,) the class of each row, as for the accuracy among metrics of classes.

    >>> round(mean_by_subject([0, 0, 0], ["a", "b", "c"], name="share").high, 4)
    0.7076
    """
    values = np.asarray(values, dtype=float)
    sums = sum_by_subject(np.stack([values, np.ones(len(values))], axis=1), subjects)[:, None, :]

    def mean(totals: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):
            return {name: totals[..., 0] / totals[..., 1]}

    presence = None
    if classes is not None:
        _, number = np.unique(np.asarray(classes), return_inverse=True)
        presence = sum_by_subject(np.eye(int(number.max(initial=0)) + 1)[np.ravel(number)], subjects)[:, None, :] > 0
    return estimates(sums, mean, lambda *_: "no cases", plan, n_cases=len(values), presence=presence)[0][name]


def with_intervals(
    points: Mapping[str, np.ndarray],
    samples: Mapping[str, np.ndarray],
    reason: Callable[[str, int], str],
    plan: Plan,
    *,
    n_subjects: int,
    n_cases: int,
    basis: Basis | None = None,
) -> list[dict[str, Estimate]]:
    """Every metric with its interval for each of L learners, from points (L,).

    Intervals are made from `basis`; without one they are percentiles of the samples (resamples, L), at the level that
    gives them the width of Student's t. `reason` explains why a metric (its name) of a learner (its number) is
    undefined.
    """
    estimates_by_learner: list[dict[str, Estimate]] = [{} for _ in next(iter(points.values()), ())]
    for name, point in points.items():
        if basis is None:
            lows, highs = percentiles(samples[name], intervals.expanded(plan.confidence, n_subjects))
        else:
            lows, highs = intervals.ends(name, points, basis)
        for learner, (at, low, high) in enumerate(zip(point, lows, highs, strict=True)):
            why = None
            if np.isnan(at):
                why = reason(name, learner)
            elif n_subjects < 2 or (basis is None and n_subjects < intervals.FEWEST):
                why = f"{f'one {plan.unit}' if n_subjects < 2 else f'two {plan.unit}s'}: no interval"
            elif np.isnan(low):
                undefined = "too many resamples are undefined: no interval"
                why = undefined if basis is None else intervals.why_not(name, learner, basis, plan.unit)
            value = None if np.isnan(at) else float(at)
            bottom, top = (None, None) if why else (float(low), float(high))
            rests_on = n_subjects if basis is None else int(basis.rests_on[name][learner])
            rough = intervals.rough(name, rests_on, top)
            estimates_by_learner[learner][name] = Estimate(value, bottom, top, n_subjects, n_cases, rough, why)
    return estimates_by_learner


def same_rows(predicted: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Group learners by the rows that they predicted, (N, L): a mask of the rows, and the learners of each group."""
    patterns, group = np.unique(predicted, axis=1, return_inverse=True)
    return [(patterns[:, n], np.flatnonzero(np.ravel(group) == n)) for n in range(patterns.shape[1])]


def by_subject(
    truth: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    subjects: np.ndarray,
    plan: Plan = PLAN,
    *,
    kind: str = "regression",
) -> dict[str, dict[str, Estimate]]:
    """Every metric of every learner with its interval by subject.

    Args:
        truth: (N,) floats; rows without a reference value are left out.
        predicted: learner -> (N,) floats; a learner is evaluated on the rows that it predicted.
        subjects: (N,) the subject of each row.
        kind: the kind of number, whose metrics are computed.

    >>> truth, subjects = np.arange(12.), np.repeat(list("abcdef"), 2)
    >>> mae = by_subject(truth, {"net": truth + np.tile([1., -1., 2.], 4)}, subjects)["net"]["mae"]
    >>> round(mae.value, 2), round(mae.low, 2), round(mae.high, 2), mae.n_subjects, mae.rough
    (1.33, 1.09, 1.63, 6, True)
    """
    truth, subjects = np.asarray(truth, dtype=float), np.asarray(subjects)
    matrix = np.column_stack([np.asarray(p, dtype=float) for p in predicted.values()])
    present = ~np.isnan(matrix) & ~np.isnan(truth)[:, None]
    learners = np.array(list(predicted))
    estimates_by_learner: dict[str, dict[str, Estimate]] = {}
    # learners with the same rows share one matrix product
    for rows, members in same_rows(present):
        own, centre = truth[rows], float(truth[rows].mean()) if rows.any() else 0.0
        sums = sum_by_subject(moments(own[:, None], matrix[rows][:, members], centre=centre), subjects[rows])
        group_estimates = estimates(sums, partial(number_metrics, kind=kind), reason, plan, n_cases=len(own))
        estimates_by_learner |= dict(zip(map(str, learners[members]), group_estimates, strict=True))
    return {learner: estimates_by_learner[learner] for learner in predicted}


# with fewer subjects no difference is stated: their resamples do not show how far a difference varies
FEWEST_SUBJECTS = 10


@dataclass(frozen=True)
class _PairIntervals:
    """Intervals of the differences of L learners: `difference` and `half_width` (L, L), row minus column.

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


def pair_freedom(left_out: np.ndarray, strata: np.ndarray, effective: float) -> np.ndarray:
    """The degrees of freedom of the difference of each pair, (L(L-1)/2,), from figures without each group, (G, L).

    They are Satterthwaite's, at most one less than the effective number of subjects. `strata` (G, 1) as in
    `casewise.evaluation.intervals.jackknife`.
    """
    first, second = np.triu_indices(left_out.shape[1], 1)
    changes = left_out[:, first] - left_out[:, second]
    freedom = np.where(np.isnan(changes).any(axis=0), 1, intervals.jackknife(changes, strata)[1])
    return np.clip(freedom, 1, max(effective - 1, 1))


def pair_intervals(
    point: np.ndarray,
    samples: np.ndarray,
    freedom: np.ndarray,
    *,
    n_subjects: int,
    confidence: float,
    primary: tuple[int, int] | None = None,
) -> _PairIntervals:
    """Simultaneous intervals of all differences of L learners, from points (L,) and samples (resamples, L).

    The critical value is the quantile of the largest standardised difference of each resample over all pairs. The
    `primary` pair, two learners, has a quantile of its own, and the others share one over the others. It is
    carried over from the normal to Student's t distribution with the degrees of freedom of each pair, and the standard
    errors are multiplied by sqrt(n / (n - 1)), because resamples vary less than the population does.
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
        by_itself = np.isin(first, primary or ()) & np.isin(second, primary or ())
        largest = np.empty(int(enough.sum()))
        for family in (by_itself[enough], ~by_itself[enough]):
            if family.any():
                largest[family] = np.quantile(scaled[:, family].max(axis=1), confidence)
        critical = np.maximum(t.isf(norm.sf(largest), freedom[enough]), largest)
        half[enough] = critical * error * np.sqrt(n_subjects / (n_subjects - 1))
    difference, half_width = np.zeros((2, n_learners, n_learners))
    difference[first, second], difference[second, first] = at, 0.0 - at
    half_width[first, second] = half_width[second, first] = half
    return _PairIntervals(difference, half_width)


def compare(
    truth: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    subjects: np.ndarray,
    plan: Plan = PLAN,
    *,
    metrics: Sequence[str] | None = None,
    kind: str = "regression",
    primary: tuple[str, str] | None = None,
) -> Figures:
    """Compare every learner with the best one of each metric, on the rows that all predicted and the same resamples.

    Rows have the differences from the best learner and from every baseline; the best one is also compared with itself.
    The interval of the `primary` pair, which must be chosen without these cases, holds for this pair. Those of all
    other pairs cover their differences together, with the confidence of the plan for each metric. If the primary pair
    is not shown to differ, the other pairs have the reason `DESCRIPTIVE`, except what images add to the covariates,
    which is a question of its own. Below ten subjects there are no intervals. Intervals end at the largest difference
    of the metric.

    >>> truth, subjects = np.arange(20.), np.array(list("abcdefghij" * 2))
    >>> compared = compare(truth, {"near": truth + .1, "far": truth + 2}, subjects, metrics=["mae"])
    >>> compared.best("mae"), compared.gap("mae", "far", "near").open
    ('near', False)
    """
    truth, subjects = np.asarray(truth, dtype=float), np.asarray(subjects)
    matrix = np.column_stack([np.asarray(p, dtype=float) for p in predicted.values()])
    rows = ~np.isnan(truth) & ~np.isnan(matrix).any(axis=1)
    if not rows.any():
        return Figures()
    truth, matrix, subjects = truth[rows], matrix[rows], subjects[rows]
    sums = sum_by_subject(moments(truth[:, None], matrix, centre=float(truth.mean())), subjects)
    points, samples = resample(sums, partial(number_metrics, kind=kind), plan)
    if metrics is None:
        metrics = [metric.name for metric in metrics_of(kind) if kind in metric.compared]
    effective = dict.fromkeys(metrics, effective_subjects(subjects))
    basis = basis_of(sums, partial(number_metrics, kind=kind), plan, {})
    comparison = Comparison(points, samples, basis, list(predicted), effective, plan, len(sums))
    return comparison.figures(primary)


@dataclass(frozen=True)
class Comparison:
    """What learners are compared by: points (L,), samples (resamples, L) and the figures without each subject.

    `effective` is the effective number of subjects for each metric that is compared.
    """

    points: Mapping[str, np.ndarray]
    samples: Mapping[str, np.ndarray]
    basis: Basis
    learners: Sequence[str]
    effective: Mapping[str, float]
    plan: Plan
    n_subjects: int

    def figures(self, primary: tuple[str, str] | None = None) -> Figures:
        """The differences as in `compare`, with a `primary` pair of learners, if both are there."""
        few, learners = self.n_subjects < FEWEST_SUBJECTS, list(self.learners)
        cells: dict[Cell, ByMetric] = {}
        if primary and not set(primary) <= set(learners):
            primary = None
        numbers = (learners.index(primary[0]), learners.index(primary[1])) if primary else None
        for name, subjects in self.effective.items():
            point, most = self.points[name], largest_difference(name)
            if np.isnan(point).all():
                continue
            # the simulated differences of numbers hold from as many subjects as are compared at all
            behind = self.basis.rests_on.get(name)
            freedom = pair_freedom(self.basis.left_out[name], self.basis.strata, subjects)
            pairs = pair_intervals(
                point,
                self.samples[name],
                freedom,
                n_subjects=self.n_subjects,
                confidence=self.plan.confidence,
                primary=numbers,
            )
            if few:
                pairs = replace(pairs, half_width=np.full_like(pairs.half_width, np.nan))
            # a comparison with NaN is false: without an interval nothing is shown
            shown = numbers is None or bool(abs(pairs.difference[numbers]) > pairs.half_width[numbers])
            sign = -1.0 if metric_of(name).larger_is_better else 1.0
            best = learners[int(np.nanargmin(sign * point))]
            for other in dict.fromkeys([best, *baselines_among(learners)]):
                column = learners.index(other)
                for learner, gap, half in zip(
                    learners, pairs.difference[:, column], pairs.half_width[:, column], strict=True
                ):
                    if np.isnan(gap) or (learner == other != best):
                        continue
                    low, high = max(float(gap - half), -most), min(float(gap + half), most)
                    least = self.n_subjects if behind is None else min(behind[learners.index(learner)], behind[column])
                    rough = few or (behind is not None and intervals.rough(name, int(least)))
                    difference = Estimate(float(gap), low, high, self.n_subjects, rough=rough)
                    if np.isnan(half) or learner == other:
                        difference = replace(difference, low=None, high=None)
                    elif not shown and {learner, other} not in (set(primary or ()), {JOINED, COVARIATES}):
                        difference = replace(difference, reason=DESCRIPTIVE)
                    cells.setdefault(Cell(learner=learner, contrast=other), {})[name] = difference
        return Figures(cells)
