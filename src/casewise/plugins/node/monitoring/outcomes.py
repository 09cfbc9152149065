"""Outcomes that arrive later, as a table: error and calibration over time, and whether they changed.

Numbers: the absolute error and the signed one (prediction − outcome). Classes: the share of wrong predictions, and for
each class whether its outcomes are as frequent as the predicted probabilities, by the risk-adjusted sequential test of
`sequential.odds_ratios` (Steiner et al. 2000), which needs no baseline: a model that is not calibrated for this
hospital is detected from the first outcomes on. Time is that of the prediction. All series together raise at most one
false alarm in four years.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, t

from casewise.cohort.table import Problems, read_text_table
from casewise.errors import CohortError, cut, none_of
from casewise.files import PLAIN_NUMBER
from casewise.plugins.node.monitoring.observation import Observation
from casewise.plugins.node.monitoring.sequential import Floats, threshold
from casewise.plugins.node.monitoring.series import Kind, Quantity, Studies, classes_of, studies_of, tested_classes
from casewise.plugins.node.monitoring.shift import OF_OUTCOMES, Change, Plan, Scope, changes_of

COLUMNS = ("target", "value")
# The columns of which one states the study.
STATED_BY = ("study", "accession")
# Outcomes before errors are tested; fewer are not an interval either.
BASELINE, FEWEST_OF_INTERVAL = 50, 5


@dataclass(frozen=True)
class Outcome:
    """The value of a target that was observed later: a number, or the name of a class."""

    study: str
    target: str
    value: float | str


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Studies with outcomes, by target, in the order of their predictions.

    Attributes:
        studies: the series of errors and outcomes.
        expected: of the shares of outcomes the predicted probabilities (N,).
        out_of_fold: by target the error in the study that the model is from, if it is known: the mean absolute one, or
            the share of wrong classes.
    """

    studies: Studies
    expected: Mapping[Quantity, Floats] = field(default_factory=dict)
    out_of_fold: Mapping[str, float] = field(default_factory=dict)


def read_outcomes(
    path: Path, observations: Sequence[tuple[str, Observation]], accessions: Mapping[str, str] | None = None
) -> list[Outcome]:
    """Read the table of outcomes: `study` (the Study Instance UID, or its hash) or `accession`, `target`, `value`.

    Args:
        observations: of each study its hash (the first characters of SHA-256 of the UID) and what was recorded.
        accessions: the hash of the study by that of its accession number, as long as the former.

    Raises:
        CohortError: with every row whose study, target or value is not one of the node's.
    """
    problems = Problems()
    cells, _ = read_text_table(path, problems)
    problems.raise_any(path)
    column = next((name for name in STATED_BY if name in cells), "")
    if missing := [name for name in COLUMNS if name not in cells] + ([] if column else [STATED_BY[0]]):
        headings = ", ".join(map(str, cells.columns))
        raise CohortError(f"{path}: there is no column {missing[0]!r}; its columns are {headings}.")
    recorded = dict(observations)
    classes = classes_of(recorded.values())
    by_hash = {name: name for name in recorded} if column == "study" else dict(accessions or {})
    length = len(next(iter(by_hash), ""))
    outcomes: dict[tuple[str, str], Outcome] = {}
    for row, stated, target, text in cells[[column, *COLUMNS]].itertuples():
        stated, target, text = stated.strip(), target.strip(), text.strip()
        name = by_hash.get(stated) or by_hash.get(hashlib.sha256(stated.encode()).hexdigest()[:length])
        if name is None:
            problems.add("study", f"{cut(stated)} is no study that this node predicted.", [row], column)
            continue
        targets = list(recorded[name].predictions)
        if target not in targets:
            reason = none_of(target, targets) if targets else "the study has no prediction."
            problems.add("target", reason, [row], "target")
            continue
        if target in classes and text not in classes[target]:
            problems.add("value", none_of(text, classes[target]), [row], "value")
        elif target not in classes and not PLAIN_NUMBER.fullmatch(text):
            problems.add("value", f"{cut(text)} is no number.", [row], "value")
        else:
            outcome = Outcome(name, target, text if target in classes else float(text))
            if outcomes.setdefault((name, target), outcome) != outcome:
                problems.add("twice", f"another value of {target} is stated for this study above.", [row], "value")
    problems.raise_any(path)
    return list(outcomes.values())


def compared_outcomes(
    outcomes: Sequence[Outcome],
    observations: Sequence[tuple[str, Observation]],
    out_of_fold: Mapping[str, float] | None = None,
    since: float = 0.0,
) -> Outcomes:
    """The errors and outcomes of studies as series, and the probabilities with which outcomes are compared."""
    recorded = dict(observations)
    classes = classes_of(recorded.values())
    with_outcome = {outcome.study for outcome in outcomes}
    studies = studies_of([(name, recorded[name]) for name in recorded if name in with_outcome], since)
    rows = {name: row for row, name in enumerate(studies.names.tolist())}
    series: dict[Quantity, Floats] = {}
    expected: dict[Quantity, Floats] = {}

    def put(columns: dict[Quantity, Floats], quantity: Quantity, row: int, value: float) -> None:
        columns.setdefault(quantity, np.full(len(studies), np.nan))[row] = value

    for outcome in (each for each in outcomes if each.study in rows):
        row, target, value = rows[outcome.study], outcome.target, outcome.value
        predicted = recorded[outcome.study].predictions[target]
        if isinstance(value, str) or isinstance(predicted, str):
            put(series, Quantity(Kind.WRONG, target), row, float(predicted != value))
            probabilities = recorded[outcome.study].probabilities.get(target, {})
            for name in tested_classes(classes[target]):
                if name in probabilities:
                    quantity = Quantity(Kind.CALIBRATION, target, name)
                    put(series, quantity, row, float(value == name))
                    # a probability of exactly 0 or 1 would make one outcome infinite evidence
                    put(expected, quantity, row, min(max(probabilities[name], 1e-3), 1 - 1e-3))
        else:
            put(series, Quantity(Kind.ERROR, target), row, abs(predicted - value))
            put(series, Quantity(Kind.BIAS, target), row, predicted - value)
    columns = (studies.names, studies.at, studies.scanners, studies.sites, studies.tested)
    return Outcomes(Studies(*columns, series), expected, dict(out_of_fold or {}))


def outcome_changes(outcomes: Outcomes) -> list[Change]:
    """How errors and calibration changed, in the order of time."""
    series = outcomes.studies.series
    plan = Plan((Scope(),), threshold(len(series), OF_OUTCOMES))
    changes = (
        change
        for quantity in series
        for change in changes_of(outcomes.studies, quantity, plan, BASELINE, outcomes.expected.get(quantity))
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
