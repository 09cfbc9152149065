"""Series of observations: each recorded number, share and prediction over the studies in the order of time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.errors import counted
from casewise.inference.drift import WORDS
from casewise.plugins.node.monitoring.observation import Observation
from casewise.plugins.node.monitoring.sequential import Floats, Integers
from casewise.report.formatting import number, percent, plain, target_title

DAY = 86_400
# A subject counts again in the tests after so many days: studies of one subject are more alike than others.
DAYS_BETWEEN = 30


class Kind(StrEnum):
    """What a series is of."""

    NUMBER = "number"
    DISTANCE = "distance"
    FLAGGED = "flagged"
    REFUSED = "refused"
    PREDICTION = "prediction"
    PROBABILITY = "probability"
    CLASS = "class"
    WIDTH = "width"
    SET_SIZE = "set size"
    ERROR = "error"
    BIAS = "bias"
    WRONG = "wrong"
    CALIBRATION = "calibration"


OF_OUTCOMES = (Kind.ERROR, Kind.BIAS, Kind.WRONG, Kind.CALIBRATION)
# By kind: the title, and what is said where later values are lower and where they are higher.
_WORDS = {
    Kind.DISTANCE: ("Distance from the training", "images nearer to the training", "images farther from the training"),
    Kind.FLAGGED: ("Flagged", "fewer flagged studies", "more flagged studies"),
    Kind.REFUSED: ("Without a prediction", "fewer studies without a prediction", "more studies without a prediction"),
    Kind.PREDICTION: ("Prediction of {name}", "lower predictions of {name}", "higher predictions of {name}"),
    Kind.PROBABILITY: (
        *("Probability of {name}: {detail}", "lower probabilities of {name}: {detail}"),
        "higher probabilities of {name}: {detail}",
    ),
    Kind.CLASS: (
        *("Predicted {name}: {detail}", "fewer predictions of {name}: {detail}"),
        "more predictions of {name}: {detail}",
    ),
    Kind.WIDTH: ("Interval width of {name}", "narrower intervals of {name}", "wider intervals of {name}"),
    Kind.SET_SIZE: ("Set size of {name}", "smaller sets of {name}", "larger sets of {name}"),
    Kind.ERROR: ("Absolute error of {name}", "a smaller error of {name}", "a larger error of {name}"),
    Kind.BIAS: (
        *("Prediction − outcome of {name}", "predictions of {name} that are lower against the outcome"),
        "predictions of {name} that are higher against the outcome",
    ),
    Kind.WRONG: ("Wrong {name}", "fewer wrong predictions of {name}", "more wrong predictions of {name}"),
    Kind.CALIBRATION: (
        *("Outcome {name}: {detail}", "{name}: {detail} is rarer than predicted"),
        "{name}: {detail} is more frequent than predicted",
    ),
}


@dataclass(frozen=True, order=True)
class Quantity:
    """What a series is of: the kind, the name of the number or target, and the class."""

    kind: Kind
    name: str = ""
    detail: str = ""

    @property
    def is_share(self) -> bool:
        """Whether its values are yes or no."""
        return self.kind in (Kind.FLAGGED, Kind.REFUSED, Kind.CLASS, Kind.WRONG, Kind.CALIBRATION)

    @property
    def title(self) -> str:
        """Its heading.

        >>> Quantity(Kind.CLASS, "grade", "no_finding").title, Quantity(Kind.NUMBER, "brightness").title
        ('Predicted grade: no finding', 'Brightness')
        >>> Quantity(Kind.PREDICTION, "score[left]").title
        'Prediction of score (left)'
        """
        if self.kind is Kind.NUMBER:
            return plain(self.name).capitalize()
        return self._filled(_WORDS[self.kind][0])

    def words(self, *, higher: bool) -> str:
        """What changed, in words.

        >>> Quantity(Kind.NUMBER, "brightness").words(higher=False), Quantity(Kind.FLAGGED).words(higher=True)
        ('darker images', 'more flagged studies')
        """
        if self.kind is Kind.NUMBER:
            word = WORDS.get(self.name.split()[0], (f"lower {plain(self.name)}", f"higher {plain(self.name)}"))[higher]
            return (
                f"{word} images"
                if word in ("darker", "lighter", "smaller", "larger", "narrower", "wider")
                else (word or "a more usual look")
            )
        return self._filled(_WORDS[self.kind][1 + higher])

    def value(self, value: float | None) -> str:
        """A median or share as text."""
        if self.is_share:
            return percent(value, 1 if value is not None and value < 0.1 else 0)
        size = abs(value) if value is not None else 0
        return number(value, 3 if size < 1 else 2 if size < 10 else 1)

    def _filled(self, text: str) -> str:
        return text.format(name=target_title(self.name), detail=plain(self.detail))


@dataclass(frozen=True, eq=False)
class Studies:
    """Studies in the order of time, and the series of what was recorded of them.

    Attributes:
        names: (N,) the hash of each study.
        at: (N,) seconds (UTC).
        scanners, sites: (N,) names, which may be empty.
        tested: (N,) whether a study counts in the tests: not again within `DAYS_BETWEEN` days of one of its subject.
        series: by quantity its values (N,); NaN where there is none, 0 and 1 for a share.
    """

    names: NDArray[np.str_]
    at: Floats
    scanners: NDArray[np.str_]
    sites: NDArray[np.str_]
    tested: NDArray[np.bool_]
    series: Mapping[Quantity, Floats]

    def __len__(self) -> int:
        return len(self.at)

    @property
    def days(self) -> Integers:
        """(N,) the number of the day (UTC)."""
        return np.floor(self.at / DAY).astype(np.intp)

    @property
    def strata(self) -> Integers:
        """(N,) the number of the scanner, within which values are ranked."""
        return np.asarray(np.unique(self.scanners, return_inverse=True)[1], dtype=np.intp)

    def uniforms(self, quantity: Quantity) -> Floats:
        """(N,) numbers between 0 and 1, by which ties of a series are broken: always the same one for a study."""
        (salt,) = pd.util.hash_array(np.array([repr(quantity)], dtype=object))
        mixed = pd.util.hash_array(self._hashes ^ salt)
        return np.asarray((mixed >> np.uint64(11)) / 2**53)

    @cached_property
    def _hashes(self) -> NDArray[np.uint64]:
        return pd.util.hash_array(self.names.astype(object))

    def subset(self, rows: NDArray[np.bool_] | Integers) -> Studies:
        """Some of the studies."""
        series = {quantity: values[rows] for quantity, values in self.series.items()}
        names, scanners, sites = self.names[rows], self.scanners[rows], self.sites[rows]
        return Studies(names, self.at[rows], scanners, sites, self.tested[rows], series)

    def total(self) -> str:
        """The number of studies, in words."""
        return counted(len(self), "study", "studies")


def studies_of(observations: Iterable[tuple[str, Observation]], since: float = 0.0) -> Studies:
    """The studies and their series, sorted by time; those before `since` are left out.

    Args:
        observations: of each study its hash and what was recorded; the last one counts.
    """
    latest = [(name, each) for name, each in dict(observations).items() if each.at >= since]
    chosen = sorted(latest, key=lambda each: (each[1].at, each[0]))
    names, recorded = [name for name, _ in chosen], [observation for _, observation in chosen]
    at = np.array([each.at for each in recorded], dtype=float)
    return Studies(
        np.array(names, dtype=str),
        at,
        np.array([each.scanner for each in recorded], dtype=str),
        np.array([each.site for each in recorded], dtype=str),
        _tested(at, [each.subject for each in recorded]),
        _series(recorded),
    )


def _tested(at: Floats, subjects: Sequence[str]) -> NDArray[np.bool_]:
    last: dict[str, float] = {}
    tested = np.ones(len(at), dtype=bool)
    for row, (time, subject) in enumerate(zip(at, subjects, strict=True)):
        if subject and time - last.get(subject, -np.inf) < DAYS_BETWEEN * DAY:
            tested[row] = False
        elif subject:
            last[subject] = time
    return tested


def _series(recorded: Sequence[Observation]) -> dict[Quantity, Floats]:
    numbers = [each.numbers for each in recorded]
    columns: dict[Quantity, list[float | None]] = {
        Quantity(Kind.NUMBER, name): [each.get(name) for each in numbers] for name in _keys(numbers)
    }
    columns[Quantity(Kind.DISTANCE)] = [each.distance for each in recorded]
    columns[Quantity(Kind.FLAGGED)] = [bool(each.flags) for each in recorded]
    columns[Quantity(Kind.REFUSED)] = [bool(each.refused) for each in recorded]
    classes = classes_of(recorded)
    for target in _keys(each.predictions for each in recorded):
        values = [each.predictions.get(target) for each in recorded]
        if target not in classes:
            columns[Quantity(Kind.PREDICTION, target)] = [None if isinstance(v, str) else v for v in values]
            continue
        probabilities = [each.probabilities.get(target, {}) for each in recorded]
        for name in tested_classes(classes[target]):
            if any(probabilities):
                columns[Quantity(Kind.PROBABILITY, target, name)] = [each.get(name) for each in probabilities]
            else:
                columns[Quantity(Kind.CLASS, target, name)] = [None if v is None else v == name for v in values]
    for target in _keys(each.widths for each in recorded):
        quantity = Quantity(Kind.SET_SIZE if target in classes else Kind.WIDTH, target)
        columns[quantity] = [each.widths.get(target) for each in recorded]
    series = {quantity: np.array(column, dtype=float) for quantity, column in columns.items()}
    return {quantity: values for quantity, values in series.items() if np.isfinite(values).any()}


def images_of(names: Iterable[str], recorded: Mapping[str, Observation]) -> pd.DataFrame:
    """A row for each image of studies: `case`, `subject` (the study) and its numbers, as `drift` reads them."""
    return pd.DataFrame(
        [{"case": name, "subject": name} | dict(image) for name in names for image in recorded[name].images]
    )


def classes_of(recorded: Iterable[Observation]) -> dict[str, list[str]]:
    """By target with classes their names: those with a probability, in its order, and those that were predicted."""
    classes: dict[str, dict[str, None]] = {}
    for each in recorded:
        for target, of_classes in each.probabilities.items():
            classes.setdefault(target, {}).update(dict.fromkeys(of_classes))
        for target, value in each.predictions.items():
            if isinstance(value, str):
                classes.setdefault(target, {}).setdefault(value)
    return {target: list(names) for target, names in classes.items()}


def tested_classes(names: Sequence[str]) -> Sequence[str]:
    """The classes that are tested: of two the last, because the other one mirrors it.

    >>> tested_classes(["no", "yes"]), tested_classes(["0", "1", "2"])
    (['yes'], ['0', '1', '2'])
    """
    return list(names)[1:] if len(names) == 2 else list(names)


def _keys(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))
