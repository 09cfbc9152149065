"""Figures with intervals by subject, and comparisons of learners by resampling subjects, each with all its cases."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from casewise.errors import StudyError
from casewise.evaluation import intervals
from casewise.evaluation.intervals import Basis
from casewise.evaluation.results import Estimate
from casewise.metrics.numbers import moments, number_metrics, reason, sum_by_subject

Statistic: TypeAlias = Callable[[np.ndarray], Mapping[str, np.ndarray]]
Reason: TypeAlias = Callable[[str, np.ndarray], str]

# with fewer defined resamples, an interval would describe only some of them
_LEAST_DEFINED = 0.9


@dataclass(frozen=True)
class Plan:
    """The settings of intervals: number of resamples, confidence level and seed."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise StudyError(f"resamples: at least 1 is needed, not {self.resamples}.")
        if not 0 < self.confidence < 1:
            raise StudyError(f"confidence: must be between 0 and 1, such as 0.95, not {self.confidence:g}.")


PLAN = Plan()


@functools.lru_cache(maxsize=8)
def draw(n_subjects: int, plan: Plan) -> np.ndarray:
    """How often each subject is drawn in each resample, (resamples, subjects); the same for the same plan."""
    rng = np.random.default_rng(plan.seed)
    counts = rng.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), size=plan.resamples).astype(float)
    counts.flags.writeable = False
    return counts


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
    counts = np.zeros((plan.resamples, n_subjects))
    for fold in names:
        members = np.flatnonzero(numbers == fold)
        counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), plan.resamples)
    counts.flags.writeable = False
    return counts, float(np.sqrt(n_subjects / (n_subjects - len(names))))


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
    ends = []
    for share in ((1 - confidence) / 2, (1 + confidence) / 2):
        position = share * np.maximum(n_defined - 1, 0)
        below = np.floor(position).astype(int)
        above = np.minimum(below + 1, np.maximum(n_defined - 1, 0))
        at_below = np.take_along_axis(ordered, below[None], axis=0)[0]
        at_above = np.take_along_axis(ordered, above[None], axis=0)[0]
        end = at_below + (position - below) * (at_above - at_below)
        ends.append(np.where(n_defined >= _LEAST_DEFINED * len(samples), end, np.nan))
    return ends[0], ends[1]


def estimates(
    sums: np.ndarray,
    statistic: Statistic,
    reason: Reason,
    plan: Plan,
    *,
    n_cases: int,
    presence: np.ndarray | None = None,
    rests_on: Mapping[str, np.ndarray] | None = None,
) -> list[dict[str, Estimate]]:
    """Every metric with its interval for each of L learners, from sums (subjects, L, k).

    `presence` and `rests_on` as in `casewise.evaluation.intervals.Basis`; by default all subjects count alike.
    """
    whole, n_subjects = sums.sum(axis=0), len(sums)
    points = dict(statistic(whole))
    if presence is None:
        presence = np.ones((n_subjects, 1, 1), dtype=bool)
    groups = intervals.groups_of(n_subjects, plan.seed)
    left_out = dict(statistic(whole - intervals.by_group(sums, groups)))
    return with_intervals(
        points,
        {},
        lambda name, learner: reason(name, whole[learner]),
        plan,
        n_subjects=n_subjects,
        n_cases=n_cases,
        basis=Basis(
            left_out,
            intervals.by_group(presence, groups) > 0,
            {name: np.full(point.shape, n_subjects) for name, point in points.items()} | dict(rests_on or {}),
            plan.confidence,
        ),
    )


def mean_by_subject(values: Any, subjects: Any, plan: Plan = PLAN, *, name: str = "mean") -> Estimate:
    """The mean over rows of `values` (N,) with its interval by subject.

    Args:
        name: the figure, which decides on the scheme of its interval: `share` for values of 0 or 1.

    >>> round(mean_by_subject([0, 0, 0], ["a", "b", "c"], name="share").high, 4)
    0.7076
    """
    values = np.asarray(values, dtype=float)
    sums = sum_by_subject(np.stack([values, np.ones(len(values))], axis=1), subjects)[:, None, :]

    def mean(totals: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):
            return {name: totals[..., 0] / totals[..., 1]}

    return estimates(sums, mean, lambda *_: "no cases", plan, n_cases=len(values))[0][name]


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
                why = f"{'one subject' if n_subjects < 2 else 'two subjects'}: no interval"
            elif np.isnan(low):
                undefined = "too many resamples are undefined: no interval"
                why = undefined if basis is None else intervals.why_not(name, learner, basis)
            rests_on = n_subjects if basis is None else int(basis.rests_on[name][learner])
            estimates_by_learner[learner][name] = Estimate(
                value=None if np.isnan(at) else float(at),
                low=None if why else float(low),
                high=None if why else float(high),
                n_subjects=n_subjects,
                n_cases=n_cases,
                rough=intervals.rough(name, rests_on),
                reason=why,
            )
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
    cases: np.ndarray | None = None,
    kind: str = "regression",
) -> dict[str, dict[str, Estimate]]:
    """Every metric of every learner with its interval by subject.

    Args:
        truth: (N,) floats; rows without a reference value are left out.
        predicted: learner -> (N,) floats; a learner is evaluated on the rows that it predicted.
        subjects: (N,) the subject of each row.
        cases: (N,) the case of each row, for counting; by default each row is a case.
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
        n_cases = len(np.unique(np.asarray(cases)[rows])) if cases is not None else int(rows.sum())
        sums = _sums(truth[rows], matrix[rows][:, members], subjects[rows])
        group_estimates = estimates(sums, partial(number_metrics, kind=kind), reason, plan, n_cases=n_cases)
        estimates_by_learner |= dict(zip(map(str, learners[members]), group_estimates, strict=True))
    return {learner: estimates_by_learner[learner] for learner in predicted}


def _sums(truth: np.ndarray, matrix: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """Sums of `moments`, (subjects, learners, 8)."""
    centre = float(truth.mean()) if truth.size else 0.0
    return sum_by_subject(moments(truth[:, None], matrix, centre=centre), subjects)
