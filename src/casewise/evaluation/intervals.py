"""Intervals of figures by leaving out one subject at a time, each by the scheme that its metric names in the registry.

A figure is computed again without each subject. How much it changes gives its standard error (the jackknife), on a
scale on which its distribution is nearly symmetric, and the interval uses Student's t. Its degrees of freedom are
Satterthwaite's: a class of few subjects, or few subjects with most of the variation, give few. Where a few large
values decide (mean squared errors, limits of agreement, correlations), the end on their side allows for one more such
subject, as far as the influences of the subjects are skewed. A share of 0 or 1 does not vary, and its interval is
Clopper and Pearson's with one trial for each subject.

Sources: Efron and Stein 1981 (jackknife); Satterthwaite 1946; Korn and Graubard 1998, Wilson 1927 (shares of clustered
cases by an effective sample size); Clopper and Pearson 1934; Zou and Donner 2008 (limits of agreement and differences
from the intervals of their parts, limits also from the correlation of both). `benchmarks/coverage.py` simulates how
often the intervals contain the true value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import betaincinv, expit, logit, ndtr, stdtrit

from casewise.metrics.registry import Metric, metric_of

# above this number subjects are left out in groups
GROUPS = 1000
ROUGH_BELOW = 10
# no subject counts as more than three quarters of an error: one with nearly all of it would give a limitless interval
_LEAST_RATIO = 0.25
_NO_CHANGE = 1e-9
# two subjects give one degree of freedom, and intervals that say nothing
FEWEST = 3
# a share to which fewer subjects contribute has a standard error of almost no degrees of freedom
_FEW_EVENTS = 5
_UNREGISTERED = {
    "agreement": "share",
    "share": "share",
    "confidence": "logit",
    "ppv_at_prevalence": "logit",
    "npv_at_prevalence": "logit",
}


def groups_of(n_subjects: int, seed: int) -> np.ndarray:
    """The group of each subject that is left out together, (S,): one subject each, or 1,000 random groups.

    >>> groups_of(3, 0).tolist()
    [0, 1, 2]
    """
    order = np.arange(n_subjects)
    return order if n_subjects <= GROUPS else np.random.default_rng(seed).permutation(order) % GROUPS


def by_group(terms: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Add the terms of subjects, (S, ...), up by group: (G, ...)."""
    if len(groups) <= GROUPS:
        return terms.astype(float)
    totals = np.zeros((int(groups.max()) + 1, *terms.shape[1:]))
    np.add.at(totals, groups, terms)
    return totals


def jackknife(changes: np.ndarray, strata: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The standard error of figures and Satterthwaite's degrees of freedom, (L,) each.

    Args:
        changes: (G, L) the figures without each group of subjects.
        strata: (G, L) or (G, 1) the stratum of each group, whose variance is estimated by itself.

    >>> error, freedom = jackknife(np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 6.0]]), np.zeros((4, 1)))
    >>> error.round(2).tolist(), freedom.round(1).tolist()
    ([1.94, 4.5], [3.0, 3.0])
    """
    n = len(changes)
    squares = (changes - changes.mean(axis=0)) ** 2
    total, uncertainty = squares.sum(axis=0), np.zeros(squares.shape[1])
    for stratum in np.unique(strata):
        members = strata == stratum
        size = np.broadcast_to(members.sum(axis=0), total.shape)
        variation, fourth = (squares * members).sum(axis=0), (squares**2 * members).sum(axis=0)
        # the variance of a variance follows from the kurtosis; a sample of few cannot show that it is small
        kurtosis = np.where(variation > 0, size * fourth / np.where(variation > 0, variation, 1.0) ** 2, 1.0)
        freedom = np.minimum(size - 1, 2 * size / np.maximum(kurtosis - 1, 1e-6))
        uncertainty += variation**2 / np.maximum(freedom, 0.5)
    freedom = np.where(uncertainty > 0, total**2 / np.where(uncertainty > 0, uncertainty, 1.0), n - 1)
    return np.sqrt((n - 1) / n * total), np.clip(freedom, 1, max(n - 1, 1))


def _skewness(changes: np.ndarray) -> np.ndarray:
    """The skewness of the subjects' influence on figures, (L,) from figures left out, (G, L); positive if few raise it.

    It is divided by the fourth root of the number of subjects, because a sample of few has a small one: the quotient
    is then about the same for 10 and for 200 subjects of a population.

    >>> _skewness(np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [-4.0, 3.0]])).round(2).tolist()
    [0.82, 0.0]
    """
    influence = changes.mean(axis=0) - changes
    variance = (influence**2).mean(axis=0)
    skewness = (influence**3).mean(axis=0) / np.where(variance > 0, variance, 1.0) ** 1.5
    return np.asarray(skewness / len(changes) ** 0.25)


@dataclass(frozen=True)
class Basis:
    """The figures without each of G groups of subjects, and the subjects that they rest on.

    Attributes:
        left_out: (G, L) by metric.
        presence: (G, L, K) or (G, 1, K), whether a group has cases of each class; without classes K is 1.
        rests_on: (L,) by metric, the number of subjects that a figure rests on.
        confidence: of the intervals.
        scale: the difference of the ends of the target's scale, which no mean absolute error exceeds.
        shifted: (L,) by metric, for each class of which all cases are right, or none, what the figure would be if as
            many were as may be by chance; leaving out a subject never shows that this share may be another one.
    """

    left_out: Mapping[str, np.ndarray]
    presence: np.ndarray
    rests_on: Mapping[str, np.ndarray]
    confidence: float
    scale: float = np.inf
    shifted: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)

    @cached_property
    def strata(self) -> np.ndarray:
        """(G, L) or (G, 1) the number of each group's rarest class; -1 for a group without any."""
        counts = self.presence.sum(axis=0)
        rarest = np.where(self.presence, counts, np.inf).argmin(axis=-1)
        return np.where(self.presence.any(axis=-1), rarest, -1)

    def spread(self, changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The standard error and the quantile of Student's t, (L,) each, from the figures left out, (G, L)."""
        return self._spread(changes, self.strata)

    def outer(self, changes: np.ndarray, skewness: tuple[float, float] = (0.7, 1.1)) -> np.ndarray:
        """How far the end reaches, (L,), that large values of a few subjects draw outwards.

        Of skewed values, a sample seldom has those that matter most. So the subject that raises the figure most counts
        twice in the standard error, and the end moves by what another one like it would add. This holds as far as the
        subjects' influence on the figure is skewed; otherwise the end is as far as the other one. `skewness` are the
        bounds between harmless and skewed, by `_skewness`.
        """
        error, t = self.spread(changes)
        most = changes.argmin(axis=0)[None]
        strata = np.broadcast_to(self.strata, changes.shape)
        repeated = (np.concatenate([values, np.take_along_axis(values, most, axis=0)]) for values in (changes, strata))
        larger_error, larger_t = self._spread(*repeated)
        further = np.maximum(larger_t * larger_error - changes.min(axis=0) - t * error, 0.0)
        weight = (_skewness(changes) - skewness[0]) / (skewness[1] - skewness[0])
        return t * error + np.clip(weight, 0.0, 1.0) * further

    def _spread(self, changes: np.ndarray, strata: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        error, freedom = jackknife(changes, strata)
        return error, stdtrit(freedom, (1 + self.confidence) / 2)


Ends = tuple[np.ndarray, np.ndarray]
Scheme = Callable[[str, Mapping[str, np.ndarray], Basis], Ends]


def ends(name: str, points: Mapping[str, np.ndarray], basis: Basis) -> Ends:
    """The ends of a figure's interval for L learners, NaN where it has none: see `why_not`."""
    scheme = scheme_of(name)
    if scheme is None or len(basis.presence) < FEWEST:
        return (np.full_like(points[name], np.nan),) * 2
    with np.errstate(all="ignore"):
        low, high = SCHEMES[scheme](name, points, basis)
        for shifted in basis.shifted.get(name, ()):
            # the distances of independent parts add as squares (Zou and Donner)
            change = np.nan_to_num(shifted - points[name]) * _varies(scheme, points[name])
            low = points[name] - np.hypot(points[name] - low, np.minimum(change, 0.0))
            high = points[name] + np.hypot(high - points[name], np.maximum(change, 0.0))
            low, high = (np.clip(end, *RANGES.get(scheme, (-np.inf, np.inf))) for end in (low, high))
    largest = basis.scale if name == "mae" else metric.largest if (metric := _registered(name)) else None
    high = high if largest is None else np.minimum(high, np.maximum(largest, points[name]))
    if scheme == "limits":  # no difference exceeds the scale
        low = np.maximum(low, np.minimum(-basis.scale, points[name]))
        high = np.minimum(high, np.maximum(basis.scale, points[name]))
    undefined = (basis.rests_on[name] < _fewest(name)) | ~np.isfinite(low) | ~np.isfinite(high)
    return np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


def why_not(name: str, learner: int, basis: Basis, unit: str = "subject") -> str:
    """Why a defined figure has no interval; `unit` is the noun for a subject."""
    rests_on = int(basis.rests_on[name][learner])
    if scheme_of(name) is None:
        return "biased upwards by chance: no interval"
    if rests_on == len(basis.presence) == 2:
        return f"two {unit}s: no interval"
    if rests_on < _fewest(name):
        return f"too few {unit}s of a class, or predicted as one: no interval"
    if np.isnan(basis.left_out[name][:, learner]).any():
        return f"undefined without one of the {unit}s: no interval"
    return f"the same without any one of the {unit}s: no interval"


def _fewest(name: str) -> int:
    """The least number of subjects that a figure must rest on for an interval."""
    metric = _registered(name)
    return metric.fewest_subjects if metric else FEWEST


def rough(name: str, rests_on: int, high: float | None = None) -> bool:
    """Whether a figure rests on too few subjects for its interval to contain the true value as often as stated.

    An interval whose upper end `high` is the largest possible value says nothing of how large the figure may be.
    """
    metric = _registered(name)
    at_end = metric is not None and metric.largest is not None and high is not None and high >= metric.largest
    return at_end or rests_on < (metric.rough_below if metric else ROUGH_BELOW)


def scheme_of(name: str) -> str | None:
    """The scheme of a figure's interval; figures outside the registry are means."""
    return metric.interval if (metric := _registered(name)) else _UNREGISTERED.get(name, "mean")


def expanded(confidence: float, n_subjects: int) -> float:
    """The level at which percentiles of resamples of few subjects have the width of Student's t (Hesterberg 2015).

    >>> round(expanded(0.95, 10), 3), round(expanded(0.95, 1000), 3)
    (0.983, 0.95)
    """
    if n_subjects < 2:
        return confidence
    quantile = stdtrit(n_subjects - 1, (1 + confidence) / 2) * np.sqrt(n_subjects / (n_subjects - 1))
    return float(2 * ndtr(quantile) - 1)


def matching_quantile(null: np.ndarray, confidence: float) -> float:
    """The statistic that a test with resamples `null` (R,) must exceed for p ≤ 1 − confidence; infinite if none can.

    The p-value is the share of resamples that are as large, each counted with one more. An interval of this many
    standard errors excludes 0 exactly where that test is significant.

    >>> matching_quantile(np.arange(1.0, 100.0), 0.95), matching_quantile(np.ones(10), 0.95)
    (95.0, inf)
    """
    as_large = int(np.floor((1 - confidence) * (len(null) + 1) + 1e-9)) - 1
    return float(np.sort(null)[-1 - as_large]) if as_large >= 0 else float("inf")


def difference(first: Any, second: Any) -> tuple[float, float] | None:
    """The interval of the first estimate minus the second, of other subjects; None if either has no interval."""
    if None in (first.low, first.high, second.low, second.high):
        return None
    gap = first.value - second.value
    below = np.hypot(first.value - first.low, second.high - second.value)
    above = np.hypot(first.high - first.value, second.value - second.low)
    return float(gap - below), float(gap + above)


def over_trainings(name: str, first: Any, values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """The interval of a figure for other subjects, of the mean over trainings.

    The variance of the mean is that by subject, from the interval of the `first` training, and that of the mean of all
    trainings, whose figures are `values`, with Satterthwaite's degrees of freedom. It is on the safe side, because what
    varies by subject and training is in both. None without the interval by subject, or with two trainings or subjects.

    >>> from casewise.evaluation.figures import Estimate
    >>> low, high = over_trainings("mae", Estimate(2.0, 1.7, 2.4, 30), [2.0, 2.1, 1.9], 0.95)
    >>> round(low, 2), round(high, 2)
    (1.68, 2.42)
    """
    n, subjects = len(values), first.n_subjects or 0
    if first.low is None or first.high is None or n < FEWEST or subjects < FEWEST:
        return None
    level, mean = (1 + confidence) / 2, float(np.mean(values))
    of_mean = float(np.var(values, ddof=1)) / n
    sides = np.array([first.value - first.low, first.high - first.value])
    by_subject = (sides / stdtrit(subjects - 1, level)) ** 2
    variance = by_subject + of_mean
    uncertainty = by_subject**2 / (subjects - 1) + of_mean**2 / (n - 1)
    freedom = np.where(uncertainty > 0, variance**2 / np.where(uncertainty > 0, uncertainty, 1.0), subjects - 1)
    below, above = stdtrit(freedom, level) * np.sqrt(variance)
    lowest, highest = RANGES.get(scheme_of(name) or "", (-np.inf, np.inf))
    return float(max(mean - below, lowest)), float(min(mean + above, highest))


def _registered(name: str) -> Metric | None:
    """The metric of a figure; None for a mean that is not in the registry."""
    try:
        return metric_of(name)
    except KeyError:
        return None


def _mean(name: str, points: Mapping[str, np.ndarray], basis: Basis) -> Ends:
    point, (error, t) = points[name], basis.spread(basis.left_out[name])
    half = np.where(error > _NO_CHANGE * np.abs(point), t * error, np.nan)
    return point - half, point + half


def _ratio(name: str, points: Mapping[str, np.ndarray], basis: Basis) -> Ends:
    point = points[name]
    error, t = basis.spread(_relative(basis.left_out[name], point))
    half = np.where(error > _NO_CHANGE, t * error, np.nan)
    return point * np.exp(-half), point * np.exp(half)


def _squares(name: str, points: Mapping[str, np.ndarray], basis: Basis) -> Ends:
    low, _ = _ratio(name, points, basis)
    outer = basis.outer(_relative(basis.left_out[name], points[name]))
    return low, np.where(np.isnan(low), np.nan, points[name] * np.exp(outer))


def _relative(left_out: np.ndarray, point: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(left_out / point, _LEAST_RATIO))


def _fisher(name: str, points: Mapping[str, np.ndarray], basis: Basis) -> Ends:
    point, (error, t) = points[name], basis.spread(basis.left_out[name])
    room = 1 - point**2
    half = np.where((error > _NO_CHANGE) & (room > _NO_CHANGE), t * error / room, np.nan)
    return np.tanh(np.arctanh(point) - half), np.tanh(np.arctanh(point) + half)


def _correlation(name: str, points: Mapping[str, np.ndarray], basis: Basis) -> Ends:
    point, (low, high) = points[name], _fisher(name, points, basis)
    # harmless influences on a correlation are less skewed than those on a mean of squares
    outer = basis.outer((basis.left_out[name] - point) / (1 - point**2), (0.3, 0.9))
    return low, np.where(np.isnan(high), np.nan, np.tanh(np.arctanh(point) + outer))


def _kappa(name: str, points: Mapping[str, np.ndarray], basis: Basis) -> Ends:
    (low, high), perfect = _fisher(name, points, basis), points[name] >= 1 - _NO_CHANGE
    return np.where(perfect, _exact(name, basis), low), np.where(perfect, 1.0, high)


def _logit(name: str, points: Mapping[str, np.ndarray], basis: Basis) -> Ends:
    point, (error, t) = points[name], basis.spread(basis.left_out[name])
    half = np.where(error > _NO_CHANGE, t * error / (point * (1 - point)), np.nan)
    return expit(logit(point) - half), expit(logit(point) + half)


def _area(name: str, points: Mapping[str, np.ndarray], basis: Basis) -> Ends:
    return _within(name, points, basis, *_logit(name, points, basis))


def _share(name: str, points: Mapping[str, np.ndarray], basis: Basis) -> Ends:
    point, (error, t) = points[name], basis.spread(basis.left_out[name])
    variance = point * (1 - point)
    # Wilson's, with as many cases as would give this standard error if they were independent
    weight = np.where(error > _NO_CHANGE, t**2 * error**2 / variance, np.nan)
    middle = (point + weight / 2) / (1 + weight)
    half = np.sqrt(weight * (variance + weight / 4)) / (1 + weight)
    # where few subjects are right, or few wrong, Clopper and Pearson's interval if it is narrower
    change = basis.left_out[name] - point
    right, wrong = (change < -_NO_CHANGE).sum(axis=0), (change > _NO_CHANGE).sum(axis=0)
    n = np.minimum(variance / error**2, basis.rests_on[name])
    outside = (1 - basis.confidence) / 2
    low = betaincinv(point * n, (1 - point) * n + 1, outside)
    high = betaincinv(point * n + 1, (1 - point) * n, 1 - outside)
    few = (np.where(point < 0.5, right, wrong) < _FEW_EVENTS) & (error > _NO_CHANGE)
    taken = few & (high - low < (middle + half) - (middle - half))
    ends = np.where(taken, low, middle - half), np.where(taken, high, middle + half)
    return _within(name, points, basis, *ends)


def _within(name: str, points: Mapping[str, np.ndarray], basis: Basis, low: np.ndarray, high: np.ndarray) -> Ends:
    """The ends of a figure from 0 to 1, exact at 0 and 1."""
    point, lowest = points[name], _exact(name, basis)
    at_zero, at_one = point <= _NO_CHANGE, point >= 1 - _NO_CHANGE
    low = np.where(at_zero, 0.0, np.where(at_one, lowest, low))
    return low, np.where(at_one, 1.0, np.where(at_zero, 1 - lowest, high))


def _exact(name: str, basis: Basis) -> np.ndarray:
    """`lowest_share` of a figure.

    For an area under the ROC curve of 1: k disjoint pairs of a case of the class and another are all in order, where k
    is the smaller of both numbers of subjects.
    """
    return lowest_share(basis.rests_on[name], basis.confidence)


def _varies(scheme: str, point: np.ndarray) -> np.ndarray:
    """Whether a scheme has no exact interval for a figure, (L,)."""
    lowest, highest = RANGES.get(scheme, (-np.inf, np.inf))
    return np.asarray((point > lowest + _NO_CHANGE) & (point < highest - _NO_CHANGE))


def lowest_share(subjects: np.ndarray, confidence: float) -> np.ndarray:
    """The lowest share that all of these subjects may have by chance; the highest that none may have is one minus it.

    >>> lowest_share(np.array([3, 26]), 0.95).round(3).tolist()
    [0.292, 0.868]
    """
    return np.asarray(((1 - confidence) / 2) ** (1 / np.maximum(subjects, 1)))


def _limits(name: str, points: Mapping[str, np.ndarray], basis: Basis) -> Ends:
    apart = points[name] - points["bias"]
    error, t = basis.spread(basis.left_out["bias"])
    apart_left_out = basis.left_out[name] - basis.left_out["bias"]
    changes = _relative(apart_left_out, apart)
    relative, u = basis.spread(changes)
    relative = np.where(relative > _NO_CHANGE, relative, np.nan)
    # several cases of one subject vary less than cases of several subjects, so few subjects give narrow limits
    centre = -(len(changes) - 1) * changes.mean(axis=0)
    shorter = np.maximum(1 - np.exp(centre - u * relative), 0) * np.abs(apart)
    longer = np.maximum(np.exp(centre + np.where(relative > 0, basis.outer(changes), np.nan)) - 1, 0) * np.abs(apart)
    # where differences are skewed, the bias and the distance of a limit from it vary together
    together, half = _correlated(basis.left_out["bias"], apart_left_out), t * error
    below, above = (
        np.sqrt(np.maximum(half**2 + end**2 + 2 * together * half * end, 0))
        for end in (np.where(apart < 0, longer, shorter), np.where(apart < 0, shorter, longer))
    )
    return points[name] - below, points[name] + above


def _correlated(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The correlation of two figures over the groups left out, (L,) from (G, L) each; 0 where one does not vary."""
    x, y = first - first.mean(axis=0), second - second.mean(axis=0)
    scale = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    return np.where(scale > 0, (x * y).sum(axis=0) / np.where(scale > 0, scale, 1.0), 0.0)


# The range of the metrics of a scheme, where it is limited.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("correlation", "kappa"), (-1.0, 1.0)),
    **dict.fromkeys(("logit", "area", "share"), (0.0, 1.0)),
    **dict.fromkeys(("ratio", "squares"), (0.0, np.inf)),
}


def largest_difference(name: str) -> float:
    """The largest difference of two values of a registered metric; infinite where it has no bounds.

    >>> largest_difference("auroc"), largest_difference("ccc"), largest_difference("mae")
    (1.0, 2.0, inf)
    """
    metric = metric_of(name)
    low, high = RANGES.get(metric.interval or "", (-np.inf, np.inf))
    return metric.largest or high - low


SCHEMES: dict[str, Scheme] = {
    "mean": _mean,
    "ratio": _ratio,
    "squares": _squares,
    "correlation": _correlation,
    "kappa": _kappa,
    "logit": _logit,
    "area": _area,
    "share": _share,
    "limits": _limits,
}
