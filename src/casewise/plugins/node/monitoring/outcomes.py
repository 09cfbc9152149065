"""Outcomes that arrive later, as a table: error and calibration over time, and whether they changed.

Numbers: the absolute error and the signed one (prediction − outcome). Classes: the share of wrong predictions, and for
each class whether its outcomes are as frequent as the predicted probabilities, by the risk-adjusted sequential test of
`sequential.odds_ratios` (Steiner et al. 2000), which needs no baseline: a model that is not calibrated for this
hospital is detected from the first outcomes on. Time is that of the prediction.

Only studies that are old enough are tested (`Window`), because outcomes of one kind often become known sooner than
others. All series together then raise at most one false alarm in four years, if the model is calibrated among the
studies with an outcome: who follows up some studies rather than others sees another calibration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, t

from casewise.cohort.table import Problems, read_text_table
from casewise.cohort.targets import numbered
from casewise.errors import CohortError
from casewise.files import PLAIN_NUMBER
from casewise.plugins.node.monitoring import series as monitored
from casewise.plugins.node.monitoring import shift
from casewise.plugins.node.monitoring.observation import Observation, identifier_hash
from casewise.plugins.node.monitoring.sequential import Floats, threshold
from casewise.plugins.node.records import study_label

COLUMNS = ("target", "value")
# One of these columns states the study.
STATED_BY = ("study", "accession")
# Outcomes before errors are tested; fewer are not an interval either.
BASELINE, FEWEST_OF_INTERVAL = 50, 5


@dataclass(frozen=True)
class Outcome:
    """The value of a target that was observed later: a number, or the name of a class."""

    study: str
    target: str
    value: float | str


@dataclass(frozen=True)
class OutcomeTable:
    """A table of outcomes.

    Attributes:
        unused: by reason the numbers of the rows that are not used.
    """

    outcomes: Sequence[Outcome] = ()
    unused: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """The studies whose outcomes are tested.

    Attributes:
        since, now: in seconds; studies before `since` are left out.
        after: the age in days from which on a study is tested.
    """

    since: float = 0.0
    now: float = math.inf
    after: int = 0

    @property
    def until(self) -> float:
        """The time before which studies are tested."""
        return self.now - self.after * monitored.DAY


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Studies with outcomes, by target, in the order of their predictions.

    Attributes:
        studies: the series of errors and outcomes.
        expected: of the shares of outcomes the predicted probabilities (N,).
        out_of_fold: by target the error in the study that the model is from, if it is known: the mean absolute one, or
            the share of wrong classes.
        predicted: the number of studies with a prediction, with or without an outcome, that are old enough.
        unused: as of `OutcomeTable`.
    """

    studies: monitored.Studies
    expected: Mapping[monitored.Quantity, Floats] = field(default_factory=dict)
    out_of_fold: Mapping[str, float] = field(default_factory=dict)
    window: Window = Window()
    predicted: int = 0
    unused: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def tested(self) -> monitored.Studies:
        """The studies, of which those that are too young do not count in the tests."""
        return replace(self.studies, tested=self.studies.tested & (self.studies.at < self.window.until))

    @property
    def share(self) -> str:
        """How many of the studies that are old enough have an outcome, in words."""
        return f"{(self.studies.at < self.window.until).sum():,} of {self.predicted:,} studies"

    @property
    def why_untested(self) -> str:
        """Why nothing can be said about outcomes; empty if it can."""
        tested, needed = (
            self.tested,
            shift.FEWEST_TESTED + (BASELINE if self.studies.series and not self.expected else 0),
        )
        for quantity, values in tested.series.items():
            own = tested.subset(np.isfinite(values))
            if (
                own.tested if quantity in self.expected else shift.evidence_of(own, BASELINE)
            ).sum() >= shift.FEWEST_TESTED:
                return ""
        return f"{self.share} older than {self.window.after} days have one, and at least {needed} are needed"


def read_outcomes(
    path: Path,
    observations: Sequence[tuple[str, Observation]],
    accessions: Mapping[str, Set[str]] | None = None,
    salt: str = "",
) -> OutcomeTable:
    """Read the table of outcomes: `study` (the Study Instance UID, or its hash) or `accession`, `target`, `value`.

    Args:
        observations: of each study its hash (the first characters of SHA-256 of the UID) and what was recorded.
        accessions: study UIDs by hashed accession number.
        salt: of the node, with which accession numbers are hashed.

    Raises:
        CohortError: the table cannot be read, lacks a column, or states two values of a target of a study.
    """
    problems = Problems()
    cells, _ = read_text_table(path, problems)
    problems.raise_any(path)
    stated_by = [name for name in STATED_BY if name in cells]
    if missing := [name for name in COLUMNS if name not in cells] + ([] if stated_by else [STATED_BY[0]]):
        headings = ", ".join(map(str, cells.columns))
        raise CohortError(f"{path}: there is no column {missing[0]!r}; its columns are {headings}.")
    recorded = dict(observations)
    classes = monitored.classes_of(recorded.values())
    outcomes: dict[tuple[str, str], Outcome] = {}
    unused: dict[str, list[int]] = {}
    for row, *texts in cells[[*stated_by, *COLUMNS]].itertuples():
        *names, target, text = (each.strip() for each in texts)
        labels: Set[str] = set()
        for column, name in zip(stated_by, names, strict=True):
            if name and column == "study":
                labels = labels or {name if name in recorded else study_label(name)}
            elif name:
                labels = labels or (accessions or {}).get(identifier_hash(salt, name), set())
        reason, outcome = _outcome(labels, target, text, recorded, classes)
        if outcome is None:
            unused.setdefault(reason, []).append(row)
        elif outcomes.setdefault((outcome.study, target), outcome) != outcome:
            problems.add("twice", f"another value of {target} is stated for this study above.", [row], "value")
    problems.raise_any(path)
    return OutcomeTable(list(outcomes.values()), unused)


def _outcome(
    labels: Set[str],
    target: str,
    text: str,
    recorded: Mapping[str, Observation],
    classes: Mapping[str, Sequence[str]],
) -> tuple[str, Outcome | None]:
    """The outcome that a row states, or the reason why it states none; without what the row quotes of a patient."""
    if len(labels) > 1:
        return "The accession number is one of several studies: state the UID in the column study.", None
    name = next(iter(labels & recorded.keys()), "")
    if not name:
        return "The model of this node predicted no such study.", None
    own = recorded[name]
    if target not in own.predictions:
        return "The study has no prediction of the target." if own.predictions else "The study has no prediction.", None
    if target in own.by_image:
        return f"{target} is predicted for each image, and an outcome is that of a study.", None
    if target not in classes:
        is_number = PLAIN_NUMBER.fullmatch(text)
        return (f"{target} is no number.", None) if not is_number else ("", Outcome(name, target, float(text)))
    value = next((each for each in (text, numbered(text)) if each in classes[target]), None)
    if value is None:
        return f"{target} is none of {', '.join(classes[target])}.", None
    return "", Outcome(name, target, value)


def compared_outcomes(
    table: OutcomeTable,
    observations: Sequence[tuple[str, Observation]],
    out_of_fold: Mapping[str, float] | None = None,
    window: Window | None = None,
) -> Outcomes:
    """The errors and outcomes of studies as series, and the probabilities with which outcomes are compared."""
    recorded, window, outcomes = dict(observations), window or Window(), table.outcomes
    classes = monitored.classes_of(recorded.values())
    with_outcome = {outcome.study for outcome in outcomes}
    studies = monitored.studies_of([(name, recorded[name]) for name in recorded if name in with_outcome], window.since)
    rows = {name: row for row, name in enumerate(studies.names.tolist())}
    series: dict[monitored.Quantity, Floats] = {}
    expected: dict[monitored.Quantity, Floats] = {}

    def put(columns: dict[monitored.Quantity, Floats], quantity: monitored.Quantity, row: int, value: float) -> None:
        columns.setdefault(quantity, np.full(len(studies), np.nan))[row] = value

    for outcome in (each for each in outcomes if each.study in rows):
        row, target, value = rows[outcome.study], outcome.target, outcome.value
        predicted = recorded[outcome.study].predictions[target]
        if isinstance(value, str) or isinstance(predicted, str):
            put(series, monitored.Quantity(monitored.Kind.WRONG, target), row, float(predicted != value))
            probabilities = recorded[outcome.study].probabilities.get(target, {})
            for name in monitored.tested_classes(classes[target]):
                if name in probabilities:
                    quantity = monitored.Quantity(monitored.Kind.CALIBRATION, target, name)
                    put(series, quantity, row, float(value == name))
                    # a probability of exactly 0 or 1 would make one outcome infinite evidence
                    put(expected, quantity, row, min(max(probabilities[name], 1e-3), 1 - 1e-3))
        else:
            put(series, monitored.Quantity(monitored.Kind.ERROR, target), row, abs(predicted - value))
            put(series, monitored.Quantity(monitored.Kind.BIAS, target), row, predicted - value)
    columns = (studies.names, studies.at, studies.scanners, studies.sites, studies.tested)
    ages = [each.at for each in recorded.values() if each.predictions]
    predicted = sum(window.since <= at < window.until for at in ages)
    return Outcomes(
        monitored.Studies(*columns, series), expected, dict(out_of_fold or {}), window, predicted, table.unused
    )


def outcome_changes(outcomes: Outcomes) -> list[shift.Change]:
    """How errors and calibration changed, in the order of time."""
    studies = outcomes.tested
    plan = shift.Plan((shift.Scope(),), threshold(len(studies.series), shift.OF_OUTCOMES))
    changes = (
        change
        for quantity in studies.series
        for change in shift.changes_of(studies, quantity, plan, BASELINE, outcomes.expected.get(quantity))
    )
    return sorted(changes, key=lambda change: change.since)


def mean_interval(values: Floats) -> tuple[float, float, float] | None:
    """The mean of values (N,) with its 95 % interval by Student's t; None with fewer than five.

    >>> [round(end, 2) for end in mean_interval(np.arange(10.0))]
    [4.5, 2.33, 6.67]
    """
    if len(values) < FEWEST_OF_INTERVAL:
        return None
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half


def share_interval(yes: Floats) -> tuple[float, float, float] | None:
    """The share of yes (N,) with its 95 % interval by Wilson; None without any value.

    >>> [round(end, 2) for end in share_interval(np.array([1.0, 0.0, 0.0, 0.0]))]
    [0.25, 0.05, 0.7]
    """
    if not len(yes):
        return None
    ends = binomtest(int(yes.sum()), len(yes)).proportion_ci(0.95, "wilson")
    return float(yes.mean()), float(ends.low), float(ends.high)
