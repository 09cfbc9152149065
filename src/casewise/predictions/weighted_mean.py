"""The weighted mean of learners: weights of at least 0 that sum to 1, fitted on out-of-fold predictions.

With few learners it is hard to overfit, and a learner that adds nothing has the weight 0 (Breiman, "Stacked
regressions", 1996). Numbers have the weights with the smallest absolute error, which is what they are judged by, and
classes those with the largest likelihood of the mixture of probabilities, by the EM algorithm.

The predictions on which weights are fitted come from networks that have seen the labels of the cases that the weights
are then judged on. This alone makes fitted weights look better than they are, so they are used only if they are clearly
better than equal weights on subjects left out (`benchmarks/null.py` measures how often signal is found where there is
none).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

ROUNDS = 500
# Rounds of least squares in which the errors of the round before are the weights of the rows.
REWEIGHTED = 50
# Errors below this share of the mean error have no more weight.
SMALLEST = 1e-3
# The weight of the sum in the least squares of numbers, relative to the size of the predictions.
SUM = 1e3
# Groups of subjects that are left out, and the standard errors by which fitted weights must be better than equal ones.
GROUPS, CLEARLY = 5, 2.0
# With fewer subjects, the standard error of a gain is itself too uncertain.
FEWEST_SUBJECTS = 10


def weights_of_numbers(predicted: np.ndarray, truth: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """The weights (L,) of predictions (N, L), of the smallest absolute error if clearly better than equal ones.

    >>> truth = np.arange(20.0)
    >>> predicted = np.stack([truth, 19 - truth], axis=1)
    >>> weights_of_numbers(predicted, truth, np.arange(20)).round(2).tolist()
    [1.0, 0.0]
    >>> weights_of_numbers(predicted[:, [0, 0]], truth, np.arange(20)).tolist()
    [0.5, 0.5]
    """
    return _if_clearly_better(
        lambda rows: _least_absolute_error(predicted[rows], truth[rows]),
        lambda weights: np.abs(predicted @ weights - truth),
        predicted.shape[1],
        subjects,
    )


def weights_of_classes(probabilities: np.ndarray, truth: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """The weights (L,) of probabilities (N, L, K), of the largest likelihood if clearly better than equal ones.

    >>> sure = np.tile([[[0.9, 0.1], [0.5, 0.5]], [[0.1, 0.9], [0.5, 0.5]]], (10, 1, 1))
    >>> weights_of_classes(sure, np.tile([0, 1], 10), np.arange(20)).round(2).tolist()
    [1.0, 0.0]
    """
    likelihood = np.maximum(probabilities[np.arange(len(truth)), :, truth.astype(int)], 1e-9)
    return _if_clearly_better(
        lambda rows: _largest_likelihood(likelihood[rows]),
        lambda weights: -np.log(likelihood @ weights),
        likelihood.shape[1],
        subjects,
    )


def _if_clearly_better(
    fit: Callable[[np.ndarray], np.ndarray],
    loss: Callable[[np.ndarray], np.ndarray],
    n_learners: int,
    subjects: np.ndarray,
) -> np.ndarray:
    """Fitted weights, if they have a clearly smaller loss (N,) than equal ones on groups of subjects left out."""
    from sklearn.model_selection import GroupKFold

    equal = np.full(n_learners, 1 / n_learners)
    numbers = np.unique(subjects, return_inverse=True)[1]
    n_subjects = int(numbers.max(initial=-1)) + 1
    if n_subjects < FEWEST_SUBJECTS:
        return equal
    gain = loss(equal)
    for fitted_on, left_out in GroupKFold(GROUPS).split(gain, groups=numbers):
        gain[left_out] -= loss(fit(fitted_on))[left_out]
    deviation = np.bincount(numbers, gain - gain.mean())
    error = np.sqrt((deviation**2).sum() * n_subjects / (n_subjects - 1)) / len(gain)
    return fit(np.arange(len(gain))) if gain.mean() > CLEARLY * error else equal


def _least_absolute_error(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The weights (L,) with the smallest absolute error of predictions (N, L), by reweighted least squares."""
    from scipy.optimize import nnls

    learners = predicted.shape[1]
    size = SUM * max(float(np.abs(predicted).mean()), 1e-9) * len(truth) ** 0.5
    weights, scale = np.full(learners, 1 / learners), np.ones(len(truth))
    for _ in range(REWEIGHTED):
        rows = np.vstack([predicted * scale[:, None], np.full(learners, size)])
        weights, _ = nnls(rows, np.append(truth * scale, size))
        if not weights.sum() > 0:
            return np.full(learners, 1 / learners)
        weights = weights / weights.sum()
        errors = np.abs(predicted @ weights - truth)
        if not errors.any():
            break
        # at most 1, so that the sum keeps its weight
        least = max(SMALLEST * float(errors.mean()), np.finfo(float).tiny)
        scale = np.sqrt(least / np.maximum(errors, least))
    return np.asarray(weights)


def _largest_likelihood(likelihood: np.ndarray) -> np.ndarray:
    """The weights (L,) of the mixture with the largest likelihood of the classes recorded, (N, L) for each learner."""
    weights = np.full(likelihood.shape[1], 1 / likelihood.shape[1])
    for _ in range(ROUNDS):
        shares = weights * likelihood
        weights = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    return weights
