"""Whether the studies of a node changed, against its first weeks and against the training of the model.

Every series (numbers of the images, distance, flags, predictions, widths) is tested over all studies, by scanner and by
site, with the sequential tests of `sequential`; together they raise at most one false alarm a year. They assume that
studies are exchangeable within a scanner as long as nothing changes: one study a subject (`Studies.tested`), no
seasons.
Differences too small to matter are not reported (`LEAST_DIFFERENCE`). After an alarm a series starts anew, with the
studies after the alarm as its baseline.

The first studies are compared with the training once, by `casewise.inference.drift`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest, ks_2samp

from casewise.inference.drift import LEAST_DIFFERENCE as LARGE_DIFFERENCE
from casewise.inference.drift import LEVEL, drift
from casewise.plugins.node.monitoring.sequential import (
    ALTERNATIVES,
    Floats,
    evidence,
    full_scores,
    mixture,
    odds_ratios,
    score_ratios,
    sequential_scores,
    share_ratios,
    split,
    start_of_change,
    threshold,
)
from casewise.plugins.node.monitoring.series import Kind, Quantity, Studies
from casewise.report.formatting import listed

if TYPE_CHECKING:
    from casewise.inference.input_checks import Limits

# Of the one false alarm a year, the share of the tests here; the others are those of outcomes.
ALARMS_A_YEAR, OF_OUTCOMES = 0.75, 0.25
# The least difference of two distributions of numbers (Kolmogorov and Smirnov) that is reported.
LEAST_DIFFERENCE = 0.1
# A scanner or site with fewer studies in the baseline is tested together with the others only.
FEWEST_OF_SCOPE = 40
# A scanner or site that the baseline lacks is reported once it has so many studies.
NEW = 3
# A change is one of a scanner or site if no more than this share of the evidence is from others, of so many studies.
OUTSIDE, FEWEST_OTHERS = 0.1, 10
# So many studies after an alarm help to estimate since when, and on which scanner or site.
AFTERWARDS = 200
# The share of studies that may be flagged, as in `casewise.inference.input_checks`, and that exceed a distance of 1.
EXPECTED_FLAGGED = 0.05
_SEED = 20_240_501


@dataclass(frozen=True)
class Scope:
    """The studies that a test is about: of a scanner, a site, or (both empty) all."""

    scanner: str = ""
    site: str = ""

    @property
    def text(self) -> str:
        """Where, in words; empty for all."""
        return f"on scanner {self.scanner}" if self.scanner else f"at site {self.site}" if self.site else ""

    def rows(self, studies: Studies) -> NDArray[np.bool_]:
        """(N,) whether a study belongs to it."""
        if self.scanner:
            return np.asarray(studies.scanners == self.scanner)
        return np.asarray(studies.sites == self.site) if self.site else np.ones(len(studies), dtype=bool)


@dataclass(frozen=True)
class Change:
    """Something that changed.

    Attributes:
        what: what changed; None for a new scanner or site.
        scope: where.
        since: the time of the first changed study (estimated), in seconds.
        size: the difference of the distributions before and after (0 to 1), of shares their difference.
        text: what changed, in words.
        before, after: medians, or shares.
        detected: the time of the study with which it was found.
        from_start: whether it is a difference from the training that was there from the first study on.
    """

    what: Quantity | None
    scope: Scope
    since: float
    size: float
    text: str
    before: float | None = None
    after: float | None = None
    detected: float | None = None
    from_start: bool = False


@dataclass(frozen=True)
class Plan:
    """The tests of some studies: the scopes, and the logarithm of the evidence at which there is an alarm."""

    scopes: tuple[Scope, ...]
    threshold: float

    @classmethod
    def of(cls, studies: Studies, baseline: int) -> Plan:
        """All studies, and each scanner and site with enough studies in the baseline, if there are several."""
        first = studies.subset(np.arange(min(baseline, len(studies))))
        scopes = [Scope()]
        covered = [np.ones(len(first), dtype=bool)]
        for scope in (*map(Scope, np.unique(first.scanners)), *(Scope(site=name) for name in np.unique(first.sites))):
            rows = scope.rows(first)
            if scope != Scope() and rows.sum() >= FEWEST_OF_SCOPE and not any((rows == each).all() for each in covered):
                scopes.append(scope)
                covered.append(rows)
        return cls(tuple(scopes), threshold(len(studies.series) * len(scopes), ALARMS_A_YEAR))


def changes(studies: Studies, baseline: int) -> list[Change]:
    """What changed after the first `baseline` studies, in the order of time."""
    if len(studies) <= baseline:
        return []
    plan = Plan.of(studies, baseline)
    by_series = (change for quantity in studies.series for change in changes_of(studies, quantity, plan, baseline))
    return sorted([*new_names(studies, baseline), *by_series], key=lambda change: change.since)


def changes_of(
    studies: Studies, quantity: Quantity, plan: Plan, baseline: int, expected: Floats | None = None
) -> Iterator[Change]:
    """The changes of one series.

    Args:
        expected: (N,) the expected probabilities of a share, with which it is compared from the first study on, in
            place of the studies before.
    """
    values = studies.series[quantity]
    rows = np.flatnonzero(np.isfinite(values) & studies.tested)
    first = int(np.searchsorted(rows, baseline)) if expected is None else 0
    rng = np.random.default_rng(_SEED)
    directions: list[bool] = []
    while first < len(rows):
        own = replace(studies, series={quantity: values}).subset(rows)
        own_values = own.series[quantity]
        if expected is not None:
            ratios = odds_ratios(own_values, expected[rows])
        elif quantity.is_share:
            ratios = share_ratios(own_values, own.strata)
        else:
            ratios = score_ratios(sequential_scores(own_values, own.strata, rng))
        if quantity.kind is Kind.BIAS:  # that it varies more is a larger error, another series
            ratios = ratios[:, ALTERNATIVES[:, 0] != 0]
        ratios[:first] = 0
        change, row = _first_change(own, quantity, plan, ratios, first)
        if change is None:
            return
        if expected is not None:
            since = rows[np.searchsorted(own.at, change.since) : row + 1]
            predicted, observed = (float(each[since].mean()) for each in (expected, values))
            text = quantity.words(higher=observed > predicted)
            change = replace(change, before=predicted, after=observed, text=text, size=abs(observed - predicted))
            directions.append(observed > predicted)
        # a share that is still other than predicted is not another change
        if directions[-2:] not in ([False, False], [True, True]):
            yield change
        rows, first = rows[row + 1 :], 0 if expected is not None else baseline


def _first_change(
    own: Studies, quantity: Quantity, plan: Plan, ratios: Floats, first: int
) -> tuple[Change | None, int]:
    """The first change that is large enough, with the row of the alarm."""
    alarms: list[tuple[int, float, Scope]] = []
    for scope in plan.scopes:
        rows = np.flatnonzero(scope.rows(own)[first:]) + first
        if len(rows):
            last, grown = evidence(ratios[rows], own.days[rows])
            total = mixture(grown)
            alarms += [(int(rows[last[day]]), -total[day], scope) for day in np.flatnonzero(total >= plan.threshold)]
    for row, _, scope in sorted(alarms, key=lambda alarm: alarm[:2]):
        change = _change(own, quantity, plan, ratios, (scope, row, first))
        if change.size >= (0 if quantity.is_share else LEAST_DIFFERENCE):
            return change, row
    return None, 0


def _change(own: Studies, quantity: Quantity, plan: Plan, ratios: Floats, alarm: tuple[Scope, int, int]) -> Change:
    """The change of an alarm: its scope, the row of the alarm, and the first row after the baseline."""
    scope, row, first = alarm
    last = min(row + AFTERWARDS, len(own) - 1)
    values = own.series[quantity]
    rows = np.flatnonzero(scope.rows(own)[: last + 1])
    number, alternative = start_of_change(ratios[rows], int(np.searchsorted(rows, row)))
    if quantity.kind is not Kind.CALIBRATION:
        sample = values[rows] if quantity.is_share else full_scores(values[rows], own.strata[rows])
        ends = max(int(np.searchsorted(rows, first)), 1), int(np.searchsorted(rows, row))
        number = split(sample, *ends, share=quantity.is_share)
    start = int(rows[number])
    scope = _located(own, ratios[:, alternative], scope, (start, row, last))
    rows = np.flatnonzero(scope.rows(own))
    start = int(rows[np.searchsorted(rows, start)])
    before, after = values[rows[rows < start]], values[rows[(rows >= start) & (rows <= row)]]
    size, low, high = difference(quantity, before, after)
    text = quantity.words(higher=high > low)
    if not quantity.is_share and not ALTERNATIVES[alternative, 0]:
        more = "less" if ALTERNATIVES[alternative, 1] < 1 else "more"
        text = f"{quantity.title[:1].lower()}{quantity.title[1:]} varies {more}"
    return Change(quantity, scope, float(own.at[start]), size, text, low, high, float(own.at[row]))


def _located(own: Studies, ratios: Floats, scope: Scope, span: tuple[int, int, int]) -> Scope:
    """The scanner or site outside which there is hardly any evidence of the change, else all studies.

    Args:
        span: the rows of the start, of the alarm, and of the last study that is evidence.
    """
    start, alarm, last = span
    inside = np.arange(start, last + 1)
    total, best, gain = float(ratios[inside].sum()), Scope(), -np.inf
    names = [*map(Scope, np.unique(own.scanners[inside])), *(Scope(site=name) for name in np.unique(own.sites[inside]))]
    for each in names:
        rows = each.rows(own)[inside]
        own_gain, others = float(ratios[inside][rows].sum()), int((~rows).sum())
        if each == Scope() or (others < FEWEST_OTHERS and each != scope) or not rows[: alarm - start + 1].any():
            continue
        if total - own_gain <= max(OUTSIDE * total, 1) and own_gain > gain:
            best, gain = each, own_gain
    return best


def difference(quantity: Quantity, before: Floats, after: Floats) -> tuple[float, float, float]:
    """The difference of two samples, and their medians; for shares the shares. The difference is 0 to 1."""
    if not len(before) or not len(after):
        return 0.0, float("nan"), float("nan")
    if quantity.is_share:
        low, high = float(before.mean()), float(after.mean())
        return abs(high - low), low, high
    return float(ks_2samp(before, after, method="asymp").statistic), float(np.median(before)), float(np.median(after))


def new_names(studies: Studies, baseline: int) -> list[Change]:
    """Scanners and sites that the baseline lacks: each is a finding, with its first study."""
    changes = []
    for noun, names in (("scanner", studies.scanners), ("site", studies.sites)):
        counts = Counter(names[baseline:].tolist())
        for name in sorted(set(counts) - set(names[:baseline].tolist()) - {""}):
            if counts[name] >= NEW:
                start = int(np.flatnonzero(names == name)[0])
                at, share = float(studies.at[start]), counts[name] / (len(studies) - start)
                words = _unlike_others(studies, names == name, np.arange(len(studies)) < baseline)
                text = f"a new {noun}, {name}" + (f", with {listed(words)}" if words else "")
                changes.append(Change(None, Scope(), at, share, text, detected=at))
    return changes


def _unlike_others(studies: Studies, own: NDArray[np.bool_], first: NDArray[np.bool_]) -> list[str]:
    """How the first studies of a new scanner or site differ from the baseline; they are compared once, when enough."""
    rows = np.flatnonzero(own & studies.tested)[:FEWEST_OF_SCOPE]
    if len(rows) < FEWEST_OF_SCOPE:
        return []
    differences = []
    for quantity, values in studies.series.items():
        before, after = (each[np.isfinite(each)] for each in (values[first & studies.tested], values[rows]))
        if not quantity.is_share and len(before) and len(after):
            gap, low, high = difference(quantity, before, after)
            p = float(ks_2samp(before, after, method="asymp").pvalue) * len(studies.series)
            if gap >= LARGE_DIFFERENCE and p <= LEVEL:
                differences.append((gap, quantity.words(higher=high > low)))
    return list(dict.fromkeys(words for _, words in sorted(differences, reverse=True)))


# ------------------------------------------------------------------------------------------ against the training


def against_training(studies: Studies, limits: Limits | None, baseline: int) -> list[Change]:
    """How the first studies differ from the training: numbers by `drift`, and the shares that were expected.

    The shares of flagged studies and of those beyond a distance of 1 are tested by the binomial distribution, one-sided
    at 5 % divided by two.
    """
    first = studies.subset(np.flatnonzero(studies.tested)[:baseline])
    if len(first) < baseline or not len(first):
        return []
    start, differences = float(first.at[0]), []
    numbers = {quantity.name: values for quantity, values in first.series.items() if quantity.kind is Kind.NUMBER}
    if limits and numbers:
        table = pd.DataFrame({"case": first.names, "subject": first.names, **numbers}).dropna()
        for name, each in drift([table], limits.quantiles, limits.subjects).differences.items():
            quantity, gap = Quantity(Kind.NUMBER, name), each["difference"]
            text = quantity.words(higher=gap < 0)
            differences.append(Change(quantity, Scope(), start, abs(gap), text, from_start=True))
    for quantity, yes in _expected_shares(first):
        count, share = int(yes.sum()), float(yes.mean())
        if binomtest(count, len(yes), EXPECTED_FLAGGED, alternative="greater").pvalue < LEVEL / 2:
            size, text = share - EXPECTED_FLAGGED, quantity.words(higher=True)
            differences.append(Change(quantity, Scope(), start, size, text, EXPECTED_FLAGGED, share, from_start=True))
    return differences


def _expected_shares(studies: Studies) -> Iterator[tuple[Quantity, Floats]]:
    for quantity, limit in ((Quantity(Kind.FLAGGED), 0.5), (Quantity(Kind.DISTANCE), 1.0)):
        values = studies.series.get(quantity, np.zeros(0))
        if len(values := values[np.isfinite(values)]):
            yield quantity, (values > limit).astype(float)
