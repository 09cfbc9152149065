"""Whether the studies of a node changed, against its first weeks and against the training of the model.

Every series (numbers of the images, distance, flags, predictions, widths) is tested over all studies, by scanner and by
site, with the sequential tests of `sequential`; together they raise at most one false alarm a year. They assume that
studies are exchangeable within a scanner as long as nothing changes: one study a subject (`Studies.tested`), no
seasons.
Differences too small to matter are not reported (`LEAST_DIFFERENCE`). After an alarm a series starts anew, with the
studies after the alarm as its baseline.

An alarm at the end of a day depends on the studies until then only, so that later pages report it as well; since when
and where is estimated with the studies after it, too.

The first studies are compared with the training once, by `casewise.inference.drift`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import betabinom, ks_2samp

from casewise.inference.drift import FAR_SHARE, LEVEL, drift
from casewise.inference.drift import LEAST_DIFFERENCE as LARGE_DIFFERENCE
from casewise.plugins.node.monitoring.observation import Observation
from casewise.plugins.node.monitoring.sequential import (
    ALTERNATIVES,
    FEWEST_BEFORE,
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
from casewise.plugins.node.monitoring.series import DAYS_BETWEEN, Kind, Quantity, Studies, images_of
from casewise.predictions.table import FAR
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
# A change is one of a scanner or site if the studies of others are so much more likely without it (logarithm).
AGAINST = np.log(20)
# With fewer studies that are evidence, nothing is said about a change.
FEWEST_TESTED = 20
# So many studies after an alarm help to estimate since when, and on which scanner or site.
AFTERWARDS = 200


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


def evidence_of(studies: Studies, baseline: int) -> NDArray[np.bool_]:
    """(N,) whether a study is evidence: after the baseline, with enough of its scanner before it, not a repeat."""
    tested = studies.strata[studies.tested]
    enough = studies.tested.copy()
    enough[enough] = pd.Series(tested).groupby(tested).cumcount() >= FEWEST_BEFORE
    return enough & (np.arange(len(studies)) >= baseline)


def why_untested(studies: Studies, baseline: int) -> str:
    """Why it cannot be said whether the studies changed; empty if it can."""
    later, is_evidence = np.arange(len(studies)) >= baseline, evidence_of(studies, baseline)
    if is_evidence.sum() >= FEWEST_TESTED:
        return ""
    if not later.any():
        return f"the first {baseline:,} are the baseline"
    others = {
        f"of subjects with another study within {DAYS_BETWEEN} days": later & ~studies.tested,
        f"of scanners with fewer than {FEWEST_BEFORE} studies before": later & studies.tested & ~is_evidence,
    }
    reasons = listed([f"{rows.sum():,} {text}" for text, rows in others.items() if rows.any()])
    count = f"{is_evidence.sum():,} of the {later.sum():,} after the baseline can be tested, of {FEWEST_TESTED} needed"
    return f"{count}; {reasons} cannot" if reasons else count


def changes(studies: Studies, baseline: int) -> list[Change]:
    """What changed after the first `baseline` studies, in the order of time."""
    if len(studies) <= baseline:
        return []
    plan = Plan.of(studies, baseline)
    by_series = (change for quantity in studies.series for change in changes_of(studies, quantity, plan, baseline))
    return sorted([*_new_names(studies, baseline), *by_series], key=lambda change: change.since)


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
    directions: list[bool] = []
    while first < len(rows):
        own = replace(studies, series={quantity: values}).subset(rows)
        own_values = own.series[quantity]
        if expected is not None:
            ratios = odds_ratios(own_values, expected[rows])
        elif quantity.is_share:
            ratios = share_ratios(own_values, own.strata)
        else:
            ratios = score_ratios(sequential_scores(own_values, own.strata, studies.uniforms(quantity)[rows]))
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
        # decided by the studies until the alarm: a change that was reported does not vanish
        start, _ = _start(own, quantity, ratios, (scope, row, first), row)
        if quantity.is_share or _sizes(own, quantity, scope, start, row)[0] >= LEAST_DIFFERENCE:
            return _change(own, quantity, ratios, (scope, row, first)), row
    return None, 0


def _change(own: Studies, quantity: Quantity, ratios: Floats, alarm: tuple[Scope, int, int]) -> Change:
    """The change of an alarm: its scope, the row of the alarm, and the first row after the baseline."""
    scope, row, _ = alarm
    last = min(row + AFTERWARDS, len(own) - 1)
    start, alternative = _start(own, quantity, ratios, alarm, last)
    scope = _located(own, ratios[:, alternative], (start, row, last))
    rows = np.flatnonzero(scope.rows(own))
    start = int(rows[np.searchsorted(rows, start)])
    size, low, high = _sizes(own, quantity, scope, start, row)
    text = quantity.words(higher=high > low)
    if not quantity.is_share and not ALTERNATIVES[alternative, 0]:
        more = "less" if ALTERNATIVES[alternative, 1] < 1 else "more"
        text = f"{quantity.title[:1].lower()}{quantity.title[1:]} varies {more}"
    return Change(quantity, scope, float(own.at[start]), size, text, low, high, float(own.at[row]))


def _start(
    own: Studies, quantity: Quantity, ratios: Floats, alarm: tuple[Scope, int, int], last: int
) -> tuple[int, int]:
    """The row of the first changed study of an alarm and the alternative, estimated with the studies until `last`."""
    scope, row, first = alarm
    rows = np.flatnonzero(scope.rows(own)[: last + 1])
    number, alternative = start_of_change(ratios[rows], int(np.searchsorted(rows, row)))
    if quantity.kind is not Kind.CALIBRATION:
        values = own.series[quantity][rows]
        sample = values if quantity.is_share else full_scores(values, own.strata[rows])
        ends = max(int(np.searchsorted(rows, first)), 1), int(np.searchsorted(rows, row))
        number = split(sample, *ends, share=quantity.is_share)
    return int(rows[number]), alternative


def _sizes(own: Studies, quantity: Quantity, scope: Scope, start: int, row: int) -> tuple[float, float, float]:
    """The `difference` between the studies of a scope before a row and from it to another one."""
    rows = np.flatnonzero(scope.rows(own))
    values = own.series[quantity]
    return difference(quantity, values[rows[rows < start]], values[rows[(rows >= start) & (rows <= row)]])


def _located(own: Studies, ratios: Floats, span: tuple[int, int, int]) -> Scope:
    """The scanner or site with the change, if the studies of all others clearly speak against one there.

    Args:
        span: the rows of the start, of the alarm, and of the last study that is evidence.
    """
    start, alarm, last = span
    inside = np.arange(start, last + 1)
    best, gain = Scope(), -np.inf
    for each in (*map(Scope, np.unique(own.scanners[inside])), *(Scope(site=n) for n in np.unique(own.sites[inside]))):
        rows = each.rows(own)[inside]
        own_gain, others = float(ratios[inside][rows].sum()), float(ratios[inside][~rows].sum())
        if others <= -AGAINST and own_gain > gain and rows[: alarm - start + 1].any():
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


def _new_names(studies: Studies, baseline: int) -> list[Change]:
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


def against_training(
    studies: Studies, recorded: Mapping[str, Observation], limits: Limits | None, baseline: int
) -> list[Change]:
    """How the first studies differ from the training: numbers of images by `drift`, and the shares that were expected.

    The shares of flagged studies and of those that are far from the training are tested one-sided at 5 % divided by
    two. Their limits are quantiles of the training subjects, so that even equal studies exceed them with a share that
    varies around 5 %: the numbers have a beta-binomial distribution.
    """
    first = studies.subset(np.flatnonzero(studies.tested)[:baseline])
    if len(first) < baseline or not len(first) or limits is None:
        return []
    start, differences = float(first.at[0]), []
    if len(images := images_of(first.names.tolist(), recorded)):
        for name, each in drift([images.dropna()], limits.quantiles, limits.subjects).differences.items():
            quantity, gap = Quantity(Kind.NUMBER, name), each["difference"]
            text = quantity.words(higher=gap < 0)
            differences.append(Change(quantity, Scope(), start, abs(gap), text, from_start=True))
    n = limits.subjects
    rank = min(math.ceil((1 - FAR_SHARE) * (n + 1)), n)  # the rank of the limit, as in `held_out_quantile`
    for quantity, yes in _expected_shares(first):
        count, share = int(yes.sum()), float(yes.mean())
        if betabinom.sf(count - 1, len(yes), n + 1 - rank, rank) < LEVEL / 2:
            size, text = share - FAR_SHARE, quantity.words(higher=True)
            differences.append(Change(quantity, Scope(), start, size, text, FAR_SHARE, share, from_start=True))
    return differences


def _expected_shares(studies: Studies) -> Iterator[tuple[Quantity, Floats]]:
    for quantity, limit in ((Quantity(Kind.FLAGGED), 0.5), (Quantity(Kind.DISTANCE), FAR)):
        values = studies.series.get(quantity, np.zeros(0))
        if len(values := values[np.isfinite(values)]):
            yield quantity, (values > limit).astype(float)
