"""Kinds of target: a number within a range, one of several classes, and grades (classes in rising order).

Everything that depends on the kind is defined here. A new kind is a subclass of `Number` or `Classes`, registered here,
and a class with the members of `casewise.models.outputs.NetworkKind` for the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


FEW_VALUES, BANDS = 8, 5


class Number:
    """A number within a range, such as a score from 0 to 72. A new kind inherits from it or from `Classes`.

    Attributes:
        name: as in the study file and in the column `kind` of the predictions table.
        form: 'number' where a prediction is one number, 'classes' where it is a probability for each class.
        metrics_of: the kind whose metrics apply to it; its own name unless it shares another kind's.
        merit: the metric by which the learner of the headline is chosen; larger is better.
        tie_breaker: the metric that decides between learners of equal merit; smaller is better.
        headline: the metrics that the headline states.
        means: the interpretation of the merit.
        closed: whether a label that the study does not name is an error; otherwise such rows are left out.
        guess: the constant prediction to compare with: the 'mean', or the 'shares' of classes.
        stackers: the stackers that combine it.
        arithmetic: whether formulas, severity bands, readers and change from baseline apply to it.
        balanced: whether `recipe.imbalance` can balance its classes in training.
        decisions: the rules by which its values can be decided, the default first (see
            `casewise.predictions.decisions`); empty where `decide` is the only one.
    """

    name = "regression"
    form: Literal["number", "classes"] = "number"
    metrics_of = "regression"
    merit, tie_breaker = "ccc", "mae"
    headline: tuple[str, ...] = ("mae", "ccc")
    means = "agreement"
    closed = True
    guess: Literal["mean", "shares"] = "mean"
    stackers: tuple[str, ...] = ("linear", "linear+intercept", "ridge", "ridge+intercept", "mean", "weighted")
    arithmetic = True
    balanced = False
    decisions: tuple[str, ...] = ()

    def width(self, n_classes: int) -> int:
        """The number of raw outputs of a network: one."""
        return 1

    def columns(self, n_classes: int) -> list[str]:
        """The columns of the predictions table with the values of a network: the prediction itself."""
        return ["y_pred"]

    def decide(self, values: np.ndarray) -> np.ndarray:
        """The predictions (N,) from the values of `columns`, (N, C): the numbers unchanged."""
        return values[:, 0]

    def normalise(self, values: np.ndarray, low: float, high: float) -> np.ndarray:
        """Averaged values (N, C), clipped to their range."""
        return values.clip(low, high)

    def prominence(self, n_classes: int, positive: int | None) -> list[float] | None:
        """Weights of the columns whose weighted sum ranks panels by conspicuousness; None: each column separately."""
        return None

    def fold_labels(self, values: np.ndarray, low: float, high: float, n_classes: int) -> np.ndarray:
        """Integer labels (N,) for balancing splits: the integers if there are few, else five equal bands.

        A missing value is the last label.

        >>> Number().fold_labels(np.array([0.0, 2.0, np.nan]), 0, 2, 0).tolist()
        [0, 2, 3]
        """
        whole = high - low <= FEW_VALUES and float(high - low).is_integer()
        bands = int(high - low) + 1 if whole else BANDS
        by_integer = bands != BANDS or high - low == BANDS - 1
        scaled = np.rint(values - low) if by_integer else np.floor((values - low) / (high - low) * BANDS)
        return np.where(np.isnan(values), bands, np.clip(np.nan_to_num(scaled), 0, bands - 1)).astype(int)

    def shown(self, value: float, classes: Sequence[str]) -> str:
        """The number.

        >>> Number().shown(2.5, [])
        '2.5'
        """
        return f"{value:g}"

    def check_probabilities(self, rows: pd.DataFrame, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Codes of problems in rows of the predictions table, each with a mask of the rows; a number has none."""
        return []


class Classes:
    """One of several classes without an order."""

    name = "classification"
    form: Literal["number", "classes"] = "classes"
    metrics_of = "classification"
    merit, tie_breaker = "auroc", "log_loss"
    headline: tuple[str, ...] = ("accuracy", "auroc")
    means = "discrimination"
    closed = False
    guess: Literal["mean", "shares"] = "shares"
    stackers: tuple[str, ...] = ("mean", "weighted", "logistic")
    arithmetic = False
    balanced = True
    decisions: tuple[str, ...] = ()

    def width(self, n_classes: int) -> int:
        """A raw output for each class."""
        return n_classes

    def columns(self, n_classes: int) -> list[str]:
        """The probability of each class."""
        return [f"p{number}" for number in range(n_classes)]

    def decide(self, values: np.ndarray) -> np.ndarray:
        """The most probable class; NaN without probabilities.

        >>> Classes().decide(np.array([[0.4, 0.25, 0.35], [0.4, np.nan, 0.6]]))
        array([ 0., nan])
        """
        return np.where(np.isnan(values).any(axis=1), np.nan, values.argmax(axis=1))

    def normalise(self, values: np.ndarray, low: float, high: float) -> np.ndarray:
        """Probabilities that add up to 1."""
        return np.asarray(values / values.sum(axis=1, keepdims=True))

    def prominence(self, n_classes: int, positive: int | None) -> list[float] | None:
        """For two classes the highest probability of the positive one; for several, of each class."""
        return None if positive is None else [float(number == positive) for number in range(n_classes)]

    def fold_labels(self, values: np.ndarray, low: float, high: float, n_classes: int) -> np.ndarray:
        """The numbers of the classes."""
        return np.where(np.isnan(values), n_classes, np.nan_to_num(values)).astype(int)

    def shown(self, value: float, classes: Sequence[str]) -> str:
        """The name of the class.

        >>> Classes().shown(1.0, ["no", "yes"])
        'yes'
        """
        return classes[int(value)]

    def check_probabilities(self, rows: pd.DataFrame, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Probabilities must add up to 1; references and predictions must be numbers of classes."""
        off = np.abs(np.nansum(values, axis=1) - 1) > 1e-3
        outside = (np.nan_to_num(values, nan=0.0) < -1e-6).any(axis=1) | np.isnan(values[:, :2]).any(axis=1)
        largest = (~np.isnan(values)).sum(axis=1) - 1
        problems = [("no shares of one", off | outside)]
        for column in ("y_true", "y_pred"):
            number = rows[column].to_numpy(dtype=float)
            wrong = (number < 0) | (number > largest) | (number != np.round(number))
            problems.append((f"{column} is no class", ~np.isnan(number) & wrong))
        return problems


class Grades(Classes):
    """One of several classes in rising order, such as severity from 0 to 4."""

    name = "ordinal"
    metrics_of = "ordinal"
    merit, tie_breaker = "kappa_quadratic", "mae"
    headline: tuple[str, ...] = ("kappa_quadratic", "accuracy")
    means = "agreement"
    closed = True
    decisions: tuple[str, ...] = ("median", "mean", "kappa")

    def width(self, n_classes: int) -> int:
        """A raw output for each step between grades."""
        return n_classes - 1

    def decide(self, values: np.ndarray) -> np.ndarray:
        """The median grade; NaN without probabilities.

        >>> Grades().decide(np.array([[0.4, 0.25, 0.35], [0.4, np.nan, 0.6]]))
        array([ 1., nan])
        """
        # a cumulated probability of one half must count in spite of rounding
        grades = (np.cumsum(values, axis=1) < 0.5 - 1e-9).sum(axis=1).clip(max=values.shape[1] - 1)
        return np.where(np.isnan(values).any(axis=1), np.nan, grades)

    def prominence(self, n_classes: int, positive: int | None) -> list[float] | None:
        """The expected grade; for two grades the probability of the positive one."""
        return super().prominence(n_classes, positive) or [float(number) for number in range(n_classes)]


TargetKind: TypeAlias = Number | Classes
T = TypeVar("T")
DEFAULT = "regression"
_REGISTRY: dict[str, TargetKind] = {kind.name: kind for kind in (Number(), Classes(), Grades())}
BUILT_IN = tuple(_REGISTRY)


def register_kind(kind: TargetKind) -> TargetKind:
    """Add a kind of target to the registry.

    Raises:
        ValueError: the name is taken.
    """
    if kind.name in _REGISTRY:
        raise ValueError(f"A kind of target named {kind.name!r} is registered already.")
    _REGISTRY[kind.name] = kind
    return kind


def kind_names() -> list[str]:
    """The names of all kinds, as the study file writes them."""
    return list(_REGISTRY)


def kind_named(name: str) -> TargetKind:
    """The kind of a name.

    Raises:
        KeyError: no such kind is registered.

    >>> kind_named("ordinal").width(5), kind_named("classification").columns(2)
    (4, ['p0', 'p1'])
    """
    return _REGISTRY[name]


def added_kinds() -> list[TargetKind]:
    """The registered kinds that are not built in: another process has to register them again."""
    return [kind for name, kind in _REGISTRY.items() if name not in BUILT_IN]


def by_form(name: str, options: Mapping[str, T]) -> T:
    """The option for a kind of target by its name, otherwise by its form, 'number' or 'classes'.

    >>> by_form("ordinal", {"number": "a mean", "classes": "shares"})
    'shares'
    """
    return options[name] if name in options else options[kind_named(name).form]
