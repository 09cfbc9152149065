"""Penalised linear models: ridge for numbers, logistic regression for classes and for the steps between grades.

The penalty is chosen by the loss on subjects left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

# Weights (O, W) and biases (O,) of outputs that are linear in W features.
Lines: TypeAlias = tuple[np.ndarray, np.ndarray]
Fold: TypeAlias = tuple[np.ndarray, np.ndarray]
INNER_FOLDS = 5
# The logit of a class without training rows, and the least log-likelihood that is counted.
ABSENT = -12.0


def subject_folds(subjects: Sequence[str] | np.ndarray, folds: int = INNER_FOLDS) -> list[Fold]:
    """Training rows and left-out rows of folds that keep the rows of a subject together; none for a single subject.

    >>> [left_out.tolist() for _, left_out in subject_folds(["a", "b", "a"])]
    [[0, 2], [1]]
    """
    from sklearn.model_selection import GroupKFold

    folds = min(folds, len(set(subjects)))
    return list(GroupKFold(folds).split(subjects, groups=subjects)) if folds > 1 else []


@dataclass(frozen=True)
class PenalisedFit:
    """Features and labels to which penalised linear models are fitted.

    Attributes:
        form: `number`; `classes`, by multinomial regression; or `ordinal`, grades with one line for each step, fitted
            on the rows that reach it. A class without rows has a bias that never chooses it.
        values, labels: (N, W) and (N,); classes and grades are their numbers.
        penalties: to choose from: strengths of ridge, inverse strengths of logistic regression.
        classes: the number of classes or grades.
        weights: of the rows (N,), for classes and grades; None: equal.
        per_row: whether penalties are multiplied by the number of rows.
        fold_means: whether every fold counts the same, and only if its training rows have all classes; otherwise every
            row counts the same.
        patience: the penalties that are tried after the one with the smallest loss so far, each model fitted from the
            previous one; None: all, each from zero.
        solver, most_steps: of logistic regression.
        intercept: whether a number has one.
    """

    form: Literal["number", "classes", "ordinal"]
    values: np.ndarray
    labels: np.ndarray
    penalties: Sequence[float]
    classes: int = 0
    weights: np.ndarray | None = None
    per_row: bool = False
    fold_means: bool = False
    patience: int | None = None
    solver: str = "lbfgs"
    most_steps: int = 100
    intercept: bool = True

    def choose(self, folds: Sequence[Fold]) -> tuple[float, float]:
        """The penalty with the smallest loss on the left-out rows of folds, and this loss: a sum or a mean of folds."""
        penalty, loss, _ = self.cross_fitted(folds)
        return penalty, loss

    def cross_fitted(self, folds: Sequence[Fold]) -> tuple[float, float, np.ndarray]:
        """As `choose`, and the raw outputs (N, O) of the left-out rows at this penalty; NaN for rows of no fold."""
        if self.fold_means and self.classes:
            present = len(set(self.labels))
            folds = [fold for fold in folds if len(set(self.labels[fold[0]])) == present]
        shares = [1 / len(left_out) if self.fold_means else 1.0 for _, left_out in folds]
        losses: list[float] = []
        best = np.full((len(self.labels), self.width), np.nan)
        for by_fold in zip(*(self.path(train, self.penalties) for train, _ in folds), strict=True):
            outputs = [self.outputs(lines, left_out) for lines, (_, left_out) in zip(by_fold, folds, strict=True)]
            of_folds = [self.loss(raw, left_out) for raw, (_, left_out) in zip(outputs, folds, strict=True)]
            losses.append(float(sum(loss * share for loss, share in zip(of_folds, shares, strict=True))))
            if int(np.argmin(losses)) == len(losses) - 1:
                for raw, (_, left_out) in zip(outputs, folds, strict=True):
                    best[left_out] = raw
            if self.patience is not None and len(losses) > self.patience + int(np.argmin(losses)):
                break
        chosen = int(np.argmin(losses or [0.0]))
        return float(self.penalties[chosen]), (losses or [0.0])[chosen], best

    @property
    def width(self) -> int:
        """The number of raw outputs."""
        return 1 if self.form == "number" else self.classes - (self.form == "ordinal")

    def fit(self, rows: np.ndarray | None = None, penalty: float | None = None) -> Lines:
        """Weights (O, W) and biases (O,), fitted to `rows` (default: all) with a penalty (default: the only one)."""
        rows = np.arange(len(self.labels)) if rows is None else rows
        return next(self.path(rows, self.penalties if penalty is None else [penalty]))

    def path(self, rows: np.ndarray, penalties: Sequence[float]) -> Iterator[Lines]:
        """The lines of one penalty after another."""
        if self.form == "number":
            weight, bias = self._ridge(rows, penalties)
            return ((weight[number : number + 1], bias[number : number + 1]) for number in range(len(bias)))
        return self._logistic(rows, penalties) if self.form == "classes" else self._steps(rows, penalties)

    def outputs(self, lines: Lines, rows: np.ndarray) -> np.ndarray:
        """The raw outputs (N, O) of some rows."""
        weight, bias = lines
        return np.asarray(self.values[rows] @ weight.T + bias)

    def _ridge(self, rows: np.ndarray, penalties: Sequence[float]) -> Lines:
        """(P, W) and (P,) of all penalties from one decomposition."""
        values, labels = self.values[rows], self.labels[rows]
        centre, mean = (values.mean(axis=0), float(labels.mean())) if self.intercept else (np.zeros(1), 0.0)
        values = values - centre
        tall = values.shape[0] >= values.shape[1]
        # of the smaller matrix of products, which takes a fraction of the time of a singular value decomposition
        squares, vectors = np.linalg.eigh(values.T @ values if tall else values @ values.T)
        projected = vectors.T @ (values.T @ (labels - mean) if tall else labels - mean)
        strengths = np.asarray(penalties) * (len(rows) if self.per_row else 1)
        shrunk = vectors @ (projected[:, None] / (np.maximum(squares, 0.0)[:, None] + strengths))
        weight = (shrunk if tall else values.T @ shrunk).T
        return weight, mean - weight @ np.broadcast_to(centre, weight.shape[1:])

    def _logistic(self, rows: np.ndarray, penalties: Sequence[float]) -> Iterator[Lines]:
        """Weights (K, W) and biases (K,); of two classes, each has half of the line between them."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        values, labels = self.values[rows], self.labels[rows].astype(int)
        present = sorted(set(labels.tolist()))
        absent = np.full(self.classes, ABSENT)
        if len(present) == 1:
            absent[present[0]] = 0.0
            yield from [(np.zeros((self.classes, values.shape[1])), absent)] * len(penalties)
            return
        warm = self.patience is not None
        model = LogisticRegression(max_iter=self.most_steps, tol=1e-4, solver=self.solver, warm_start=warm)
        for penalty in penalties:
            with warnings.catch_warnings():
                # weak penalties need more steps, and stopping early is a penalty of its own
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.set_params(C=penalty / (len(rows) if self.per_row else 1))
                model.fit(values, labels, None if self.weights is None else self.weights[rows])
            coefficients, intercepts = np.asarray(model.coef_), np.asarray(model.intercept_)
            if len(present) == 2:
                coefficients = np.stack([-coefficients[0] / 2, coefficients[0] / 2])
                intercepts = np.array([-intercepts[0] / 2, intercepts[0] / 2])
            weight, bias = np.zeros((self.classes, values.shape[1])), absent.copy()
            weight[present], bias[present] = coefficients, intercepts
            yield weight, bias

    def _steps(self, rows: np.ndarray, penalties: Sequence[float]) -> Iterator[Lines]:
        """Weights (K − 1, W) and biases (K − 1,) of the logits of passing each grade."""
        paths: list[Iterable[Lines]] = []
        for step in range(self.classes - 1):
            reached = rows[self.labels[rows] >= step]
            passed = replace(self, form="classes", labels=(self.labels > step).astype(float), classes=2)
            nothing = [(np.zeros((2, self.values.shape[1])), np.zeros(2))] * len(penalties)
            paths.append(passed.path(reached, penalties) if len(reached) else nothing)
        for lines in zip(*paths, strict=True):
            biases = np.clip([bias[1] - bias[0] for _, bias in lines], ABSENT, -ABSENT)
            yield np.stack([weight[1] - weight[0] for weight, _ in lines]), biases

    def loss(self, raw: np.ndarray, rows: np.ndarray) -> float:
        """The summed loss of raw outputs (N, O) of some rows.

        Of numbers it is the squared error in variances of all labels, otherwise the (weighted) negative log-likelihood;
        of a class, up to `-ABSENT` for each.
        """
        from scipy.special import log_softmax

        if self.form == "number":
            return float(((raw[:, 0] - self.labels[rows]) ** 2).sum() / max(float(self.labels.var()), 1e-12))
        labels = self.labels[rows].astype(int)
        if self.form == "classes":
            by_row = -np.maximum(log_softmax(raw, axis=1)[np.arange(len(labels)), labels], ABSENT)
        else:
            steps = np.arange(self.classes - 1)
            signed = np.where(steps < labels[:, None], raw, -raw)
            by_row = (np.logaddexp(0.0, -signed) * (steps <= labels[:, None])).sum(axis=1)
        return float((by_row if self.weights is None else by_row * self.weights[rows]).sum())
