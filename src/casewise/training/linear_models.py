"""Linear models on features that do not change: ridge for numbers, logistic for classes and for the steps of grades.

The penalty, and the candidates among several sets of features, are chosen by inner folds of the training subjects. With
more features than rows the models are fitted in the coordinates of the rows, which gives the same models in a fraction
of the time.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from casewise.targets import by_form

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casewise.models.outputs import Output

INNER_FOLDS = 5
# Directions of smaller variance hardly change a penalised model.
MOST_DIRECTIONS = 400
# Penalties relative to the mean squared length of a row: strengths of ridge, inverse strengths of logistic regression.
RIDGE = np.logspace(-3, 3, 13)
LOGISTIC = np.logspace(-1, 3, 9)
# The most steps of the solver from one inverse strength to the next.
MOST_STEPS = 100


@dataclass(frozen=True)
class LinearModel:
    """A linear model of one target: raw outputs are `values @ weight.T + bias`.

    Attributes:
        weight, bias: (O, W) and (O,) for features in their own units.
        loss: the mean loss over inner folds at the chosen penalty: squared error in variances, or the negative
            log-likelihood.
        penalty: the chosen one, relative to the mean squared length of a standardised row.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    loss: float
    penalty: float


@dataclass(frozen=True)
class Directions:
    """Standardised features in at most `MOST_DIRECTIONS` orthogonal directions, and the way back.

    `scores` is (N, R), scaled so that a row has a mean squared length of 1; `back` is (R, W).
    """

    scores: NDArray[np.float64]
    back: NDArray[np.float64]
    centre: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64], *, most: int = MOST_DIRECTIONS, standardise: bool = True) -> Directions:
        """At most `most` directions of features (N, W), which are divided by their deviation unless told otherwise."""
        centre, spread = values.mean(axis=0), values.std(axis=0)
        steady = spread <= 1e-6 * max(1.0, float(np.abs(centre).max(initial=0.0)))
        scale = np.where(steady, 0.0, 1.0 / np.where(steady, 1.0, spread) if standardise else 1.0)
        standardised = (values - centre) * scale
        if not standardised.any():
            return cls(np.zeros((len(values), 1)), np.zeros((1, values.shape[1])), centre)
        if values.shape[1] > values.shape[0]:
            squares, left = np.linalg.eigh(standardised @ standardised.T)
            squares, left = squares[::-1][:most], left[:, ::-1][:, :most]
            kept = squares > 1e-8 * max(float(squares[0]), 1e-12)
            lengths, left = np.sqrt(squares[kept]), left[:, kept]
            scores, back = left * lengths, (left / lengths).T @ standardised
        else:
            squares, right = np.linalg.eigh(standardised.T @ standardised)
            right = right[:, ::-1][:, :most]
            scores, back = standardised @ right, right.T
        length = float(np.sqrt((scores**2).sum(axis=1).mean())) or 1.0
        return cls(scores / length, back * scale / length, centre)

    def in_own_units(self, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> tuple[np.ndarray, np.ndarray]:
        """Weights (O, R) of the directions as weights (O, W) and biases (O,) of the features."""
        own = weight @ self.back
        return own, bias - own @ self.centre


def linear_model(
    values: NDArray[np.float64],
    labels: NDArray[np.float64],
    groups: NDArray[np.object_],
    output: Output,
    *,
    standardise: bool = True,
) -> LinearModel:
    """Fit the model of one target to features (N, W) of rows with labels (N,), of the subjects `groups` (N,).

    Numbers must be standardised labels; classes and grades are their numbers.

    Args:
        standardise: whether features are divided by their deviation before they are penalised.
    """
    directions = Directions.of(values, standardise=standardise)
    problems: dict[str, type[_Ridge | _Logistic | _Steps]] = {"number": _Ridge, "classes": _Logistic, "ordinal": _Steps}
    problem = by_form(output.kind, problems)(output.classes)
    losses = np.zeros(len(problem.penalties))
    for train, left_out in group_folds(groups):
        losses += problem.losses(directions.scores, labels, train, left_out)
    chosen = int(losses.argmin())
    every = np.arange(len(labels))
    weight, bias = problem.fit(directions.scores, labels, every, problem.penalties[chosen])
    own_weight, own_bias = directions.in_own_units(weight, bias)
    return LinearModel(own_weight, own_bias, float(losses[chosen]) / len(labels), float(problem.penalties[chosen]))


def group_folds(groups: NDArray[np.object_]) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Inner folds that keep the rows of a subject together; none for a single subject."""
    from sklearn.model_selection import GroupKFold

    folds = min(INNER_FOLDS, len(set(groups)))
    return list(GroupKFold(folds).split(groups, groups=groups)) if folds > 1 else []


class _Ridge:
    """One number: all penalties from one decomposition."""

    penalties = RIDGE

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def _weights(
        self, scores: np.ndarray, labels: np.ndarray, penalties: np.ndarray
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(P, R) and (P,)."""
        centre, mean = scores.mean(axis=0), float(labels.mean())
        left, lengths, right = np.linalg.svd(scores - centre, full_matrices=False)
        projected = left.T @ (labels - mean)
        shrunk = lengths[:, None] / (lengths[:, None] ** 2 + penalties) * projected[:, None]
        weight = (right.T @ shrunk).T
        return weight, mean - weight @ centre

    def losses(self, scores: np.ndarray, labels: np.ndarray, train: np.ndarray, left_out: np.ndarray) -> np.ndarray:
        """The summed squared error of the left-out rows at each penalty, in variances of all labels."""
        weight, bias = self._weights(scores[train], labels[train], self.penalties)
        errors = scores[left_out] @ weight.T + bias - labels[left_out, None]
        squared: np.ndarray = (errors**2).sum(axis=0) / max(float(labels.var()), 1e-12)
        return squared

    def fit(
        self, scores: np.ndarray, labels: np.ndarray, rows: np.ndarray, penalty: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weights (1, R) and bias (1,)."""
        return self._weights(scores[rows], labels[rows], np.array([penalty]))


class _Likelihood(ABC):
    """Models that are fitted penalty by penalty, each from the one before, and judged by their likelihood."""

    penalties = LOGISTIC

    @abstractmethod
    def path(
        self, scores: np.ndarray, labels: np.ndarray, rows: np.ndarray, penalties: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weights (O, R) and biases (O,) at each of the rising inverse strengths."""

    @abstractmethod
    def loss(self, raw: np.ndarray, labels: np.ndarray) -> float:
        """The summed negative log-likelihood of raw outputs (N, O)."""

    def fit(
        self, scores: np.ndarray, labels: np.ndarray, rows: np.ndarray, penalty: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weights (O, R) and biases (O,)."""
        return self.path(scores, labels, rows, np.array([penalty]))[0]

    def losses(self, scores: np.ndarray, labels: np.ndarray, train: np.ndarray, left_out: np.ndarray) -> np.ndarray:
        """The loss of the left-out rows at each penalty."""
        models = self.path(scores, labels, train, self.penalties)
        return np.array([self.loss(scores[left_out] @ weight.T + bias, labels[left_out]) for weight, bias in models])


class _Logistic(_Likelihood):
    """Classes by multinomial regression; a class without rows keeps a bias that never chooses it."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def path(
        self, scores: np.ndarray, labels: np.ndarray, rows: np.ndarray, penalties: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weights (K, R) and biases (K,); of two classes, each has half of the line between them."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        present = sorted(set(labels[rows].astype(int).tolist()))
        absent = np.full(self.classes, ABSENT)
        if len(present) == 1:
            absent[present[0]] = 0.0
            return [(np.zeros((self.classes, scores.shape[1])), absent)] * len(penalties)
        model, models = LogisticRegression(max_iter=MOST_STEPS, tol=1e-4, warm_start=True), []
        for penalty in penalties:
            with warnings.catch_warnings():
                # weak penalties need more steps, and stopping early is a penalty of its own
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.set_params(C=penalty).fit(scores[rows], labels[rows].astype(int))
            coefficients, intercepts = np.asarray(model.coef_), np.asarray(model.intercept_)
            if len(present) == 2:
                coefficients = np.stack([-coefficients[0] / 2, coefficients[0] / 2])
                intercepts = np.array([-intercepts[0] / 2, intercepts[0] / 2])
            weight, bias = np.zeros((self.classes, scores.shape[1])), absent.copy()
            weight[present], bias[present] = coefficients, intercepts
            models.append((weight, bias))
        return models

    def loss(self, raw: np.ndarray, labels: np.ndarray) -> float:
        """The summed negative log-likelihood of classes (N,), each counted up to `ABSENT`."""
        from scipy.special import log_softmax

        chosen = log_softmax(raw, axis=1)[np.arange(len(labels)), labels.astype(int)]
        return float(-np.maximum(chosen, ABSENT).sum())


class _Steps(_Likelihood):
    """Grades: one line for each step, fitted on the rows that reach it."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.step = _Logistic(2)

    def path(
        self, scores: np.ndarray, labels: np.ndarray, rows: np.ndarray, penalties: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weights (K − 1, R) and biases (K − 1,) of the logits of passing each grade."""
        by_step = []
        for step in range(self.classes - 1):
            reached = rows[labels[rows] >= step]
            passed = (labels > step).astype(float)
            by_step.append(self.step.path(scores, passed, reached, penalties) if len(reached) else None)
        nothing = np.zeros((2, scores.shape[1])), np.zeros(2)
        models = []
        for number in range(len(penalties)):
            lines = [line[number] if line else nothing for line in by_step]
            biases = np.clip([bias[1] - bias[0] for _, bias in lines], ABSENT, -ABSENT)
            models.append((np.stack([weight[1] - weight[0] for weight, _ in lines]), biases))
        return models

    def loss(self, raw: np.ndarray, labels: np.ndarray) -> float:
        """The summed negative log-likelihood of grades (N,)."""
        steps, grade = np.arange(self.classes - 1), labels[:, None]
        signed = np.where(steps < grade, raw, -raw)
        return float((np.logaddexp(0.0, -signed) * (steps <= grade)).sum())


# The logit of a class without training rows, and the least log-likelihood that is counted.
ABSENT = -12.0
