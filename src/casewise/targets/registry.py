"""The protocol and the registry of target kinds; the built-in ones are imported on first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class TargetKind(Protocol):
    """A kind of target.

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
        decisions: the rules by which its values can be decided, the default first (see
            `casewise.predictions.decisions`); empty where `decide` is the only one.
        balanced: whether `recipe.imbalance` can balance its classes in training.
    """

    name: str
    form: Literal["number", "classes"]
    metrics_of: str
    merit: str
    tie_breaker: str
    headline: tuple[str, ...]
    means: str
    closed: bool
    guess: Literal["mean", "shares"]
    stackers: tuple[str, ...]
    arithmetic: bool
    balanced: bool
    decisions: tuple[str, ...]

    def width(self, n_classes: int) -> int:
        """The number of raw outputs of a network."""
        ...

    def columns(self, n_classes: int) -> list[str]:
        """The columns of the predictions table with the values of a network."""
        ...

    def decide(self, values: np.ndarray) -> np.ndarray:
        """The predictions (N,) from the values of `columns`, (N, C): numbers, or numbers of classes."""
        ...

    def normalise(self, values: np.ndarray, low: float, high: float) -> np.ndarray:
        """Averaged values (N, C), clipped to their range, or as probabilities that add up to 1."""
        ...

    def prominence(self, n_classes: int, positive: int | None) -> list[float] | None:
        """Weights of the columns whose weighted sum ranks panels by conspicuousness; None: each column separately."""
        ...

    def fold_labels(self, values: np.ndarray, low: float, high: float, n_classes: int) -> np.ndarray:
        """Integer labels (N,) for balancing splits; a missing value is the last label."""
        ...

    def shown(self, value: float, classes: Sequence[str]) -> str:
        """A value as text: the name of a class, or the number."""
        ...

    def check_probabilities(self, rows: pd.DataFrame, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Codes of problems in rows of the predictions table, each with a mask of the rows."""
        ...


T = TypeVar("T")

DEFAULT = "regression"
BUILT_IN = ("regression", "classification", "ordinal")
_REGISTRY: dict[str, TargetKind] = {}


def register_kind(kind: TargetKind) -> TargetKind:
    """Add a kind of target to the registry.

    Raises:
        ValueError: the name is taken.
    """
    if kind.name in _REGISTRY:
        raise ValueError(f"A kind of target named {kind.name!r} is registered already.")
    _REGISTRY[kind.name] = kind
    return kind


def unregister_kind(name: str) -> None:
    """Remove a kind, for tests that add one."""
    _REGISTRY.pop(name, None)


def kind_names() -> list[str]:
    """The names of all kinds, as the study file writes them."""
    return list(dict.fromkeys([*BUILT_IN, *_REGISTRY]))


def kind_named(name: str) -> TargetKind:
    """The kind of a name.

    Raises:
        KeyError: no such kind is registered.

    >>> kind_named("ordinal").width(5), kind_named("classification").columns(2)
    (4, ['p0', 'p1'])
    """
    if name not in _REGISTRY and name in BUILT_IN:
        import casewise.targets.kinds  # noqa: F401 - registers them
    return _REGISTRY[name]


def added_kinds() -> list[TargetKind]:
    """The registered kinds that are not built in: another process has to register them again."""
    return [kind for name, kind in _REGISTRY.items() if name not in BUILT_IN]


def by_form(name: str, options: Mapping[str, T]) -> T:
    """The option for a kind of target: that of its name, else that of its form, 'number' or 'classes'.

    >>> by_form("ordinal", {"number": "a mean", "classes": "shares"})
    'shares'
    """
    return options[name] if name in options else options[kind_named(name).form]
