"""Metrics of classes on samples weighted by how often their subject is drawn, computed from sums or ranks.

A metric of a class needs cases of that class, and a metric over all classes (a plain mean: macro) needs cases of every
class. Otherwise it is undefined, never 0 and never a mean over fewer classes. Areas are of one class against the rest.
Out of fold, where each fold has a network with a calibration of its own, only cases of the same fold are ranked against
each other.

Sources: Cohen 1960 (kappa); Cohen 1968 (weighted kappa, here with quadratic weights).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from casewise.metrics.calibration import BINS, SMALLEST, gaps
from casewise.metrics.numbers import sum_by_subject
from casewise.metrics.records import CALIBRATED, Metric
from casewise.metrics.registry import metric_of, metrics_of
from casewise.metrics.roc import auroc_within, ranking


@dataclass(frozen=True)
class Classes:
    """The classes of a target in order; `positive` is the number of the positive one of two classes."""

    names: tuple[str, ...]
    kind: str = "classification"
    positive: int | None = None

    @property
    def registered(self) -> list[Metric]:
        """The metrics that apply to these classes."""
        metrics = metrics_of(self.kind, len(self.names))
        return [metric for metric in metrics if self.positive is not None or metric.n_classes[1] != 2]


@dataclass(frozen=True)
class Samples:
    """The predictions of L learners for the same N samples, in numbers of K classes.

    `truth` (N,), `decided` (N, L), `probabilities` (N, L, K), `calibrated` the same, NaN for a learner without a
    temperature, `subjects` (N,). `folds` (N, L) is the fold of the network that predicted, None where one model
    predicted all samples.
    """

    truth: np.ndarray
    decided: np.ndarray
    probabilities: np.ndarray
    calibrated: np.ndarray
    subjects: np.ndarray
    folds: np.ndarray | None = None


@dataclass(frozen=True)
class _ClassSubjects:
    """The numbers of subjects that the metrics of classes rest on, for L learners.

    Attributes:
        total: all subjects.
        of_class, rest: (L, K) subjects with a case of the class, and of another class.
        predicted: (L, K) the smaller of `of_class` and the number of subjects with a case predicted as the class.
        paired: (L, K) the smaller of `of_class` and `rest`, of samples with folds in each fold, summed over the folds.
    """

    classes: Classes
    total: int
    of_class: np.ndarray
    rest: np.ndarray
    predicted: np.ndarray
    paired: np.ndarray

    @property
    def every(self) -> np.ndarray:
        """(L,) all subjects."""
        return np.full(len(self.of_class), self.total)

    @property
    def both(self) -> np.ndarray:
        """(L, K) the smaller of `of_class` and `rest`."""
        return np.minimum(self.of_class, self.rest)

    @property
    def smallest(self) -> np.ndarray:
        """(L,) the subjects of the class with the fewest, among the classes that have cases."""
        return np.asarray(np.where(self.of_class > 0, self.of_class, self.total).min(axis=-1))


def presence(samples: Samples, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each subject, in sorted order, has a case of each class, (S, 1, K), and one predicted as it, (S, L, K).

    >>> p = np.array([[[.8, .2]], [[.3, .7]], [[.6, .4]]])
    >>> some = Samples(np.array([0, 1, 1]), p.argmax(-1), p, p, np.array(list("abb")))
    >>> [subjects.astype(int).tolist() for subjects in presence(some, 2)]
    [[[[1, 0]], [[0, 1]]], [[[1, 0]], [[1, 1]]]]
    """
    cases = [np.eye(n_classes)[numbers] for numbers in (samples.truth[:, None], samples.decided)]
    true, predicted = (sum_by_subject(of_class, samples.subjects) > 0 for of_class in cases)
    return true, predicted


def subjects_behind(samples: Samples, classes: Classes) -> dict[str, np.ndarray]:
    """The number of subjects that every metric of L learners rests on, name -> (L,).

    A mean over the classes rests on the subjects of the class with the fewest.
    """
    k = len(classes.names)
    true, predicted = presence(samples, k)
    n_of_class, rest = (np.broadcast_to(n, predicted.shape[1:]) for n in _sides(true))
    paired = np.minimum(n_of_class, rest) if samples.folds is None else _paired(samples, samples.folds, k)
    named = np.minimum(n_of_class, predicted.sum(axis=0))
    subjects = _ClassSubjects(classes, len(true), n_of_class, rest, named, paired)
    numbers: dict[str, np.ndarray] = {}
    for metric in classes.registered:
        rests_on = metric.rests_on(subjects)
        if metric.by_class:
            by_class = rests_on if rests_on.ndim > 1 else np.stack([rests_on] * k, axis=-1)
            numbers |= {f"{metric.name}[{c}]": by_class[:, n] for n, c in enumerate(classes.names)}
            rests_on = by_class.min(axis=-1)
        numbers[metric.name] = rests_on
        if metric.calibrated:
            numbers[metric.name + CALIBRATED] = rests_on
    return numbers


def _sides(true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of subjects with a case of each class, and of another class, (1, K) each, from `presence`."""
    others = true.sum(axis=-1, keepdims=True) - true > 0
    return true.sum(axis=0), others.sum(axis=0)


def _paired(samples: Samples, folds: np.ndarray, n_classes: int) -> np.ndarray:
    """(L, K) the smaller number of subjects with the class and with another one in each fold, summed over the folds."""
    paired = np.zeros((folds.shape[1], n_classes), dtype=int)
    for learner, of_learner in enumerate(folds.T):
        if learner and (of_learner == folds[:, 0]).all():
            paired[learner] = paired[0]
            continue
        for fold in np.unique(of_learner):
            rows = of_learner == fold
            true = sum_by_subject(np.eye(n_classes)[samples.truth[rows]][:, None], samples.subjects[rows]) > 0
            paired[learner] += np.minimum(*_sides(true))[0]
    return paired


class ClassSums:
    """Counts, sums and areas for the metrics of classes, for R resamples and L learners.

    Attributes:
        confusion: (R, L, K, K) counts, reference classes by rows; `right`, `true`, `named` (R, L, K): correct
            predictions, cases and predictions of each class.
        in_top_two: (R, L) cases whose reference class is among the two most probable; `n` (R, L) all cases.
        brier, log_loss, calibration_error: (R, L) of the probabilities; of those after temperature scaling in the sums
            that `after_calibration` returns.
    """

    def __init__(
        self, samples: Samples, classes: Classes, counts: np.ndarray, within_folds: np.ndarray | None = None
    ) -> None:
        k, learners = len(classes.names), samples.decided.shape[1]
        self.samples, self.classes, self.counts = samples, classes, counts
        self._within_folds = counts if within_folds is None else within_folds
        sums = sum_by_subject(_terms(samples, k), samples.subjects)
        flat = counts @ sums.reshape(len(sums), -1)
        self._sums = flat.reshape(len(counts), learners, -1)
        self.confusion = self._sums[..., : k * k].reshape(*self._sums.shape[:-1], k, k)
        self.right = np.diagonal(self.confusion, axis1=-2, axis2=-1)
        self.true, self.named = self.confusion.sum(axis=-1), self.confusion.sum(axis=-2)
        self.n = self.true.sum(axis=-1)
        self.in_top_two = self._sums[..., k * k]
        self._score(k * k + 1)

    def after_calibration(self) -> ClassSums:
        """The same sums with the probabilities after temperature scaling."""
        calibrated = copy.copy(self)
        calibrated._score(len(self.classes.names) ** 2 + 3 + BINS)
        return calibrated

    def shifted(self, number: int, share: np.ndarray) -> ClassSums:
        """The sums if `share` (L,) of the cases of a class were right where none is, or wrong where all are.

        Wrong ones are named like the other cases.
        """
        k, moved = len(self.classes.names), copy.copy(self)
        moved.confusion = self.confusion.copy()
        true, right = self.true[..., number], self.right[..., number]
        none, every = right <= 0, (right >= true) & (true > 0)
        row = moved.confusion[..., number, :]
        others = self.named * (np.arange(k) != number)
        others = np.where(others.sum(axis=-1, keepdims=True) > 0, others, np.arange(k) != number)
        others = others / others.sum(axis=-1, keepdims=True)
        at_class, part = np.eye(k)[number], np.broadcast_to(share, true.shape)[..., None]
        gained, lost = (
            row * (1 - part) + part * true[..., None] * at_class,
            true[..., None] * ((1 - part) * at_class + part * others),
        )
        moved.confusion[..., number, :] = np.where(none[..., None], gained, np.where(every[..., None], lost, row))
        moved._sums = self._sums.copy()
        moved._sums[..., : k * k] = moved.confusion.reshape(*moved.confusion.shape[:-2], k * k)
        moved.right = np.diagonal(moved.confusion, axis1=-2, axis2=-1)
        moved.named = moved.confusion.sum(axis=-2)
        return moved

    def _score(self, first: int) -> None:
        """Set the scores of the probabilities, whose sums begin at `first`."""
        self.brier, self.log_loss = (self._sums[..., number] / self.n for number in (first, first + 1))
        self.calibration_error = np.abs(self._sums[..., first + 2 : first + 2 + BINS]).sum(axis=-1) / self.n

    @cached_property
    def recall(self) -> np.ndarray:
        """(R, L, K)."""
        return np.where(self.true > 0, self.right / self.true, np.nan)

    @cached_property
    def precision(self) -> np.ndarray:
        """(R, L, K); 0 for a class that is never predicted, as in scikit-learn with `zero_division=0`."""
        named = np.where(self.named > 0, self.right / np.where(self.named > 0, self.named, 1.0), 0.0)
        return np.where(self.true > 0, named, np.nan)

    @property
    def predictive_values(self) -> np.ndarray:
        """(R, L, K) precision; undefined for a class that is never predicted, or that is missing."""
        return np.where((self.true > 0) & (self.named > 0), self.right / self.named, np.nan)

    @property
    def likelihood_ratios(self) -> tuple[np.ndarray, np.ndarray]:
        """(R, L) each, of two classes: the positive and the negative one; undefined where they would be infinite."""
        positive = self.classes.positive or 0
        sensitivity, specificity = self.recall[..., positive], self.recall[..., 1 - positive]
        ratios = sensitivity / (1 - specificity), (1 - sensitivity) / specificity
        return np.where(np.isfinite(ratios[0]), ratios[0], np.nan), np.where(np.isfinite(ratios[1]), ratios[1], np.nan)

    @property
    def f1(self) -> np.ndarray:
        """(R, L, K)."""
        return np.where(self.true > 0, 2 * self.right / (self.true + self.named), np.nan)

    @cached_property
    def kappa(self) -> dict[str, np.ndarray]:
        """Cohen's kappa and its quadratic form, (R, L) each."""
        k = len(self.classes.names)
        return category_agreement(self._sums[..., : k * k])

    @property
    def mean_absolute_error(self) -> np.ndarray:
        """(R, L) in grades."""
        steps = np.arange(len(self.classes.names))
        error = (self.confusion * np.abs(np.subtract.outer(steps, steps))).sum(axis=(-2, -1)) / self.n
        return np.asarray(error)

    @property
    def auroc(self) -> np.ndarray:
        """(R, L, K) areas under the ROC curves, of samples with folds within each fold."""
        return self.auroc_pooled if self.samples.folds is None else self._areas_within

    @property
    def auroc_pooled(self) -> np.ndarray:
        """(R, L, K) areas under the ROC curves of all samples together."""
        return self._areas[0]

    @property
    def auprc(self) -> np.ndarray:
        """(R, L, K) average precisions."""
        return self._areas[1]

    @cached_property
    def _areas(self) -> np.ndarray:
        both = np.empty((2, len(self.counts), self.samples.decided.shape[1], len(self.classes.names)))
        for learner, number, scores, of_class in self._one_against_rest():
            ranks = ranking(scores, of_class, self._subject, self.counts)
            both[:, :, learner, number] = ranks.auroc, ranks.auprc
        return both

    @cached_property
    def _areas_within(self) -> np.ndarray:
        folds, counts = self.samples.folds, self._within_folds
        assert folds is not None
        areas = np.empty((len(counts), self.samples.decided.shape[1], len(self.classes.names)))
        for learner, number, scores, of_class in self._one_against_rest():
            areas[:, learner, number] = auroc_within(scores, of_class, self._subject, folds[:, learner], counts)
        return areas

    @cached_property
    def _subject(self) -> np.ndarray:
        """(N,) the number of each sample's subject, in sorted order."""
        return np.ravel(np.unique(np.asarray(self.samples.subjects, dtype=str), return_inverse=True)[1])

    def _one_against_rest(self) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """For each learner and class the numbers of both, the scores (N,), and whether the samples are of the class."""
        for learner in range(self.samples.decided.shape[1]):
            scores = one_against_rest(self.samples.probabilities[:, learner], self.classes)
            for number in range(len(self.classes.names)):
                yield learner, number, scores[:, number], self.samples.truth == number


def class_metrics(
    samples: Samples, classes: Classes, counts: np.ndarray, within_folds: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Every metric of every learner in each of R resamples, name -> (R, L); NaN if undefined.

    `counts` (R, S) is how often each subject is drawn, the subjects in sorted order. For two classes the probability of
    the positive one ranks the cases for both. Of equally probable classes the first one comes first. `within_folds`
    (R, S) are the counts for metrics that are computed within each fold, if they differ from `counts`.

    >>> p = np.array([[[.8, .2]], [[.3, .7]], [[.6, .4]]])
    >>> some = Samples(np.array([0, 1, 1]), p.argmax(-1), p, p, np.array(list("abc")))
    >>> values = class_metrics(some, Classes(("yes", "no"), positive=0), np.ones((1, 3)))
    >>> {name: round(float(values[name][0, 0]), 3) for name in ("accuracy", "auroc", "sensitivity", "brier")}
    {'accuracy': 0.667, 'auroc': 1.0, 'sensitivity': 1.0, 'brier': 0.327}
    """
    values, after_scaling = dict[str, np.ndarray](), dict[str, np.ndarray]()
    with np.errstate(all="ignore"):
        sums = ClassSums(samples, classes, counts, within_folds)
        calibrated = sums.after_calibration()
        for metric in classes.registered:
            if metric.across_folds == "pooled" and samples.folds is None:
                continue
            values[metric.name] = result = metric.function(sums)
            if metric.by_class:
                # undefined if the metric of any class is
                values[metric.name] = result.mean(axis=-1)
                values |= {f"{metric.name}[{c}]": result[..., n] for n, c in enumerate(classes.names)}
            if metric.calibrated:
                after_scaling[metric.name + CALIBRATED] = metric.function(calibrated)
    return values | after_scaling


_ROUNDING = 1e-9
# Metrics that follow from the numbers of right and wrong cases of each class.
_OF_COUNTS = (
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "kappa",
    "kappa_quadratic",
    "lr_positive",
    "lr_negative",
)


def shifted_metrics(
    samples: Samples, classes: Classes, subjects: Mapping[str, np.ndarray], lowest_share: Callable[..., np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """Means over classes and other metrics of several classes, (L,) by name, if classes without variation had some.

    For each class of which all cases are right, or none: the metric if as many were as may be by chance, see
    `casewise.evaluation.intervals.Basis.shifted`.

    Args:
        subjects: the numbers of `subjects_behind`.
        lowest_share: the lowest share of a number of subjects that all may have by chance.
    """
    result: dict[str, list[np.ndarray]] = {}
    with np.errstate(all="ignore"):
        sums = ClassSums(samples, classes, np.ones((1, len(np.unique(np.asarray(samples.subjects, str))))))
        for number, name in enumerate(classes.names):
            right, true = sums.right[0, :, number], sums.true[0, :, number]
            if not ((true > 0) & ((right <= 0) | (right >= true))).any():
                continue
            moved = sums.shifted(number, 1 - lowest_share(subjects[f"recall[{name}]"]))
            for metric in classes.registered:
                if metric.name in _OF_COUNTS:
                    value = np.asarray(metric.function(moved))
                    result.setdefault(metric.name, []).append((value.mean(axis=-1) if metric.by_class else value)[0])
        areas = [metric for metric in classes.registered if metric.by_class and metric.interval == "area"]
        for metric in areas if samples.folds is not None else [m for m in areas if m.across_folds != "pooled"]:
            by_class = np.asarray(metric.function(sums))[0]
            for number, name in enumerate(classes.names):
                room, area = 1 - lowest_share(subjects[f"{metric.name}[{name}]"]), by_class[:, number]
                change = np.where(area > 1 - _ROUNDING, -room, np.where(area < _ROUNDING, room, 0.0))
                if change.any():
                    shifted = by_class.mean(axis=-1) + change / len(classes.names)
                    result.setdefault(metric.name, []).append(shifted)
    return result


def one_against_rest(probabilities: np.ndarray, classes: Classes) -> np.ndarray:
    """The scores (N, K) that rank cases for each class; for two classes, the positive one ranks for both.

    >>> one_against_rest(np.array([[0.75, 0.25]]), Classes(("yes", "no"), positive=0)).tolist()
    [[0.75, -0.75]]
    """
    if classes.positive is None:
        return probabilities
    score = probabilities[:, classes.positive]
    return np.stack([score if n == classes.positive else -score for n in range(len(classes.names))], axis=1)


def reason(name: str, classes: Classes, support: np.ndarray) -> str:
    """The reason why a metric is undefined if each class has `support` cases, (K,).

    >>> reason("auroc", Classes(("covid", "other", "none")), np.array([3, 0, 0]))
    'no case is truly other or none'
    >>> reason("auroc", Classes(("covid", "other")), np.array([3, 3]))
    'no fold has cases of a class and cases of another class'
    """
    missing = [classes.names[number] for number in np.flatnonzero(support == 0)]
    if not support.sum():
        return "no cases"
    if name.endswith("_calibrated"):
        return "no temperature: fitting one takes two held-out parts or more"
    if name.startswith("kappa"):
        return "all cases are in one class, on both sides"
    undefined = {
        "npv": "no case is called negative",
        "lr_positive": "no case is a false positive",
        "lr_negative": "no case is a true negative",
    }
    if not missing and name in undefined:
        return undefined[name]
    of_class = name.partition("[")[2][:-1]
    if not missing and metric_of(name).across_folds == "within":
        return f"no fold has cases of {of_class or 'a class'} and cases of another class"
    if of_class and of_class not in missing:
        return f"every case is truly {of_class}"
    return f"no case is truly {of_class or ' or '.join(missing)}"


def _terms(samples: Samples, k: int) -> np.ndarray:
    """Summands (N, L, F): confusion, top two, then Brier score, log loss and gaps, uncalibrated and calibrated."""
    truth = samples.truth[:, None]
    true = np.broadcast_to(truth[..., None], (*samples.decided.shape, 1))
    confusion = np.eye(k * k)[truth * k + samples.decided]
    at_true = np.take_along_axis(samples.probabilities, true, axis=-1)
    ahead = (samples.probabilities > at_true) | ((samples.probabilities == at_true) & (np.arange(k) < truth[..., None]))
    terms = [confusion, (ahead.sum(axis=-1) < 2)[..., None]]
    for p in (samples.probabilities, samples.calibrated):
        squared = ((p - np.eye(k)[truth]) ** 2).sum(axis=-1)
        loss = -np.log(np.maximum(np.take_along_axis(p, true, axis=-1), SMALLEST))
        terms += [squared[..., None], loss, gaps(p, truth)]
    return np.concatenate(terms, axis=-1)


def category_agreement(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Agreement, kappa and quadratic kappa from counts (..., K * K), reference groups by rows; NaN if undefined.

    >>> {k: round(float(v), 3) for k, v in category_agreement(np.array([20., 5., 10., 15.])).items()}
    {'agreement': 0.7, 'kappa': 0.4, 'kappa_quadratic': 0.4}
    """
    k = math.isqrt(confusion.shape[-1])
    counts = np.asarray(confusion, dtype=float).reshape(*confusion.shape[:-1], k, k)
    total = counts.sum(axis=(-2, -1))
    steps = np.subtract.outer(np.arange(k), np.arange(k)).astype(float) ** 2
    with np.errstate(all="ignore"):
        share = counts / total[..., None, None]
        chance = share.sum(axis=-1)[..., :, None] * share.sum(axis=-2)[..., None, :]
        agreement = {"agreement": np.trace(share, axis1=-2, axis2=-1)}
        for name, weights in (("kappa", (steps > 0).astype(float)), ("kappa_quadratic", steps)):
            expected = (weights * chance).sum(axis=(-2, -1))
            # if all cases are in one group, the chance disagreement is only rounding
            observed = (weights * share).sum(axis=(-2, -1))
            agreement[name] = np.where(expected > 1e-12, 1.0 - observed / expected, np.nan)
    return agreement
