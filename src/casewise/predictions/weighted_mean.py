"""The weighted mean of learners: weights of at least 0 that sum to 1, fitted on out-of-fold predictions.

With few learners it is hard to overfit, and a learner that adds nothing has the weight 0 (Breiman, "Stacked
regressions", 1996, for numbers; the mixture weights of the EM algorithm for probabilities).
"""

from __future__ import annotations

import numpy as np

ROUNDS = 500
# The weight of the sum in the least squares of numbers, relative to the size of the predictions.
SUM = 1e3


def weights_of_numbers(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The weights (L,) with the smallest squared error of predictions (N, L).

    >>> weights_of_numbers(np.array([[1.0, 3.0], [2.0, 1.0], [3.0, 2.0]]), np.array([1.0, 2.0, 3.0])).round(2).tolist()
    [1.0, 0.0]
    """
    from scipy.optimize import nnls

    size = SUM * max(float(np.abs(predicted).mean()), 1e-9) * len(truth) ** 0.5
    rows = np.vstack([predicted, np.full(predicted.shape[1], size)])
    weights, _ = nnls(rows, np.append(truth, size))
    return np.asarray(weights / weights.sum()) if weights.sum() > 0 else np.full(len(weights), 1 / len(weights))


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
