"""The weighted mean of learners: weights of at least 0 that sum to 1, fitted on out-of-fold predictions.

With few learners it is hard to overfit, and a learner that adds nothing has the weight 0 (Breiman, "Stacked
regressions", 1996). Numbers have the weights with the smallest absolute error, which is what they are judged by, and
classes those with the largest likelihood of the mixture of probabilities, by the EM algorithm.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 500
# Rounds of least squares in which the errors of the round before are the weights of the rows.
REWEIGHTED = 50
# Errors below this share of the mean error have no more weight.
SMALLEST = 1e-3
# The weight of the sum in the least squares of numbers, relative to the size of the predictions.
SUM = 1e3


def weights_of_numbers(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The weights (L,) with the smallest absolute error of predictions (N, L), by reweighted least squares.

    >>> weights_of_numbers(np.array([[1.0, 3.0], [2.0, 1.0], [3.0, 2.0]]), np.array([1.0, 2.0, 3.0])).round(2).tolist()
    [1.0, 0.0]
    """
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


def weights_of_classes(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The weights (L,) with the largest likelihood of the mixture of probabilities (N, L, K).

    >>> sure = np.array([[[0.9, 0.1], [0.5, 0.5]], [[0.1, 0.9], [0.5, 0.5]]])
    >>> weights_of_classes(sure, np.array([0, 1])).round(2).tolist()
    [1.0, 0.0]
    """
    likelihood = np.maximum(probabilities[np.arange(len(truth)), :, truth.astype(int)], 1e-9)
    weights = np.full(likelihood.shape[1], 1 / likelihood.shape[1])
    for _ in range(ROUNDS):
        shares = weights * likelihood
        weights = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    return weights
