"""Metrics of classes on samples weighted by how often their subject is drawn: sums where sums do, ranks where not.

A figure of one class needs that class in the truth, and one over all classes (a plain mean: macro) needs every class
there; otherwise it is undefined, never 0 and never a mean over fewer classes. Areas are one class against the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from casewise.evaluation.agreement import groups_of
from casewise.evaluation.bootstrap import sum_by_subject
from casewise.evaluation.calibration import BINS, SMALLEST, gaps
from casewise.evaluation.metrics import Metric
from casewise.evaluation.roc import areas

METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("share of cases in their true class", "high", 1),
    "balanced_accuracy": Metric("mean recall of the classes", "high", 1),
    "top2_accuracy": Metric("share of cases whose true class is among the two likeliest", "high", 1),
    "auroc": Metric("area under the ROC curve", "high", 1),
    "auprc": Metric("average precision", "high", 1),
    "precision": Metric("precision", "high", 1),
    "recall": Metric("recall", "high", 1),
    "f1": Metric("F1", "high", 1),
    "kappa": Metric("Cohen's kappa", "high", 1),
    "sensitivity": Metric("sensitivity", "high", 1),
    "specificity": Metric("specificity", "high", 1),
    "kappa_quadratic": Metric("quadratic-weighted kappa", "high", 1),
    "mae": Metric("mean absolute error in grades", "low", 1),
    "brier": Metric("Brier score, summed over classes", "low", 1),
    "ece": Metric("expected calibration error, 15 bins", "low", 1),
    "log_loss": Metric("log loss", "low", 1),
}
COMPARED = {
    "classification": ("accuracy", "auroc", "f1", "log_loss"),
    "ordinal": ("accuracy", "auroc", "f1", "log_loss", "kappa_quadratic"),
}
_MACRO = ("auroc", "auprc", "precision", "recall", "f1")
_CALIBRATION = ("brier", "ece", "log_loss")


@dataclass(frozen=True)
class Classes:
    """A target's classes in their order; `positive` is the number of the one that sensitivity is about, if two."""

    names: tuple[str, ...]
    kind: Literal["classification", "ordinal"] = "classification"
    positive: int | None = None

    @property
    def metrics(self) -> list[str]:
        """The names of all figures, in the order in which they are told."""
        found = ["accuracy", "balanced_accuracy"]
        found += ["top2_accuracy"] if len(self.names) > 2 and self.kind == "classification" else []
        found += [name for macro in _MACRO for name in (macro, *(f"{macro}[{c}]" for c in self.names))]
        found += ["kappa"]
        found += ["sensitivity", "specificity"] if self.positive is not None else []
        found += ["kappa_quadratic", "mae"] if self.kind == "ordinal" else []
        return [*found, *_CALIBRATION, *(f"{name}_calibrated" for name in _CALIBRATION)]


@dataclass(frozen=True)
class Samples:
    """What L learners say of the same N samples, in numbers of K classes.

    `truth` (N,), `decided` (N, L), `probabilities` (N, L, K), `calibrated` the same, NaN for a learner without a
    temperature, `subjects` (N,).
    """

    truth: np.ndarray
    decided: np.ndarray
    probabilities: np.ndarray
    calibrated: np.ndarray
    subjects: np.ndarray


def figures(samples: Samples, classes: Classes, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return every figure of every learner in each of R resamples, name -> (R, L); NaN where it is undefined.

    `counts` (R, S) says how often each subject is drawn, the subjects in sorted order. Of two classes the positive
    one's probability ranks the cases for both. The precision of a class that nobody was put in is 0, as scikit-learn's
    with `zero_division=0`. Of two classes equally likely the first listed goes before.

    >>> p = np.array([[[.8, .2]], [[.3, .7]], [[.6, .4]]])
    >>> some = Samples(np.array([0, 1, 1]), p.argmax(-1), p, p, np.array(list("abc")))
    >>> found = figures(some, Classes(("yes", "no"), positive=0), np.ones((1, 3)))
    >>> {name: round(float(found[name][0, 0]), 3) for name in ("accuracy", "auroc", "sensitivity", "brier")}
    {'accuracy': 0.667, 'auroc': 1.0, 'sensitivity': 1.0, 'brier': 0.327}
    """
    k, learners = len(classes.names), samples.decided.shape[1]
    sums = sum_by_subject(_terms(samples, k), samples.subjects)
    flat = counts @ sums.reshape(len(sums), -1)
    found = _linear(flat.reshape(len(counts), learners, -1), classes)
    _, subject = np.unique(np.asarray(samples.subjects, dtype=str), return_inverse=True)
    ranked = {name: np.empty((len(counts), learners, k)) for name in ("auroc", "auprc")}
    for learner in range(learners):
        scores = one_against_rest(samples.probabilities[:, learner], classes)
        for number in range(k):
            both = areas(scores[:, number], samples.truth == number, np.ravel(subject), counts)
            ranked["auroc"][:, learner, number], ranked["auprc"][:, learner, number] = both
    for name, values in ranked.items():
        found |= _with_mean(name, values, classes)
    return {name: found[name] for name in classes.metrics}


def one_against_rest(probabilities: np.ndarray, classes: Classes) -> np.ndarray:
    """Return the scores (N, K) by which cases are ranked for each class: of two classes, the positive one's for both.

    >>> one_against_rest(np.array([[0.75, 0.25]]), Classes(("yes", "no"), positive=0)).tolist()
    [[0.75, -0.75]]
    """
    if classes.positive is None:
        return probabilities
    score = probabilities[:, classes.positive]
    return np.stack([score if n == classes.positive else -score for n in range(len(classes.names))], axis=1)


def reason(name: str, classes: Classes, support: np.ndarray) -> str:
    """Say why a figure is undefined where each class has `support` true cases, (K,).

    >>> reason("auroc", Classes(("covid", "other", "none")), np.array([3, 0, 0]))
    'no case is truly other or none'
    """
    missing = [classes.names[number] for number in np.flatnonzero(support == 0)]
    if not support.sum():
        return "no cases"
    if name.endswith("_calibrated"):
        return "no temperature: it takes out-of-fold predictions of two folds or more"
    if name.startswith("kappa"):
        return "all cases are in one class, on both sides"
    of_class = name[name.index("[") + 1 : -1] if name.endswith("]") else None
    if of_class is not None and of_class not in missing:
        return f"every case is truly {of_class}"
    if of_class is not None:
        return f"no case is truly {of_class}"
    return f"no case is truly {' or '.join(missing)}"


def _terms(samples: Samples, k: int) -> np.ndarray:
    """Return what is added up, (N, L, F): confusion, top two, then Brier, log loss and gaps, plain and calibrated."""
    truth = samples.truth[:, None]
    true = np.broadcast_to(truth[..., None], (*samples.decided.shape, 1))
    confusion = np.eye(k * k)[truth * k + samples.decided]
    at_true = np.take_along_axis(samples.probabilities, true, axis=-1)
    ahead = (samples.probabilities > at_true) | ((samples.probabilities == at_true) & (np.arange(k) < truth[..., None]))
    parts = [confusion, (ahead.sum(axis=-1) < 2)[..., None]]
    for p in (samples.probabilities, samples.calibrated):
        missed = ((p - np.eye(k)[truth]) ** 2).sum(axis=-1)
        loss = -np.log(np.maximum(np.take_along_axis(p, true, axis=-1), SMALLEST))
        parts += [missed[..., None], loss, gaps(p, truth)]
    return np.concatenate(parts, axis=-1)


def _linear(sums: np.ndarray, classes: Classes) -> dict[str, np.ndarray]:
    """Return what follows from the sums of `_terms`, (..., F)."""
    k = len(classes.names)
    counts, rest = sums[..., : k * k].reshape(*sums.shape[:-1], k, k), sums[..., k * k :]
    right, true, given = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1), counts.sum(axis=-2)
    n = true.sum(axis=-1)
    agreed = groups_of(sums[..., : k * k])
    with np.errstate(all="ignore"):
        recall = np.where(true > 0, right / true, np.nan)
        precision = np.where(true > 0, np.where(given > 0, right / np.where(given > 0, given, 1.0), 0.0), np.nan)
        f1 = np.where(true > 0, 2 * right / (true + given), np.nan)
        found = {
            "accuracy": right.sum(axis=-1) / n,
            "balanced_accuracy": recall.mean(axis=-1),
            "top2_accuracy": rest[..., 0] / n,
            "kappa": agreed["kappa"],
            "kappa_quadratic": agreed["kappa_quadratic"],
            "mae": (counts * np.abs(np.subtract.outer(np.arange(k), np.arange(k)))).sum(axis=(-2, -1)) / n,
        }
        for first, ending in ((1, ""), (3 + BINS, "_calibrated")):
            found[f"brier{ending}"] = rest[..., first] / n
            found[f"log_loss{ending}"] = rest[..., first + 1] / n
            found[f"ece{ending}"] = np.abs(rest[..., first + 2 : first + 2 + BINS]).sum(axis=-1) / n
    if classes.positive is not None:
        found["sensitivity"], found["specificity"] = recall[..., classes.positive], recall[..., 1 - classes.positive]
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        found |= _with_mean(name, values, classes)
    return found


def _with_mean(name: str, values: np.ndarray, classes: Classes) -> dict[str, np.ndarray]:
    """Return the figure of each class, (..., K), by its name, and their mean, undefined where one of them is."""
    each = {f"{name}[{c}]": values[..., number] for number, c in enumerate(classes.names)}
    return {name: values.mean(axis=-1), **each}
