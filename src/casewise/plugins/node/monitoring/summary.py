"""What monitoring says in one sentence: nothing changed, or what changed since when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from casewise.errors import counted
from casewise.inference.drift import RecentCases
from casewise.plugins.node.monitoring.outcomes import Outcomes
from casewise.plugins.node.monitoring.series import DAY, OF_OUTCOMES, Kind, Studies
from casewise.plugins.node.monitoring.shift import Change, Scope, evidence_of, why_untested
from casewise.report.formatting import date, listed

RATE = "at most one false alarm a year"
FOLLOW_UP = (
    "Outcomes that become known of some studies more often than of others, such as of those with a finding, give the"
    " same picture."
)
# Changes in one place that began within so many days are one in the sentence, and so many of them are named.
TOGETHER, MOST_GROUPS, MOST_IN_GROUP = 7 * DAY, 4, 6
# The quantities of which the sentence does not state the values before and after.
_WITHOUT_VALUES = (Kind.NUMBER, Kind.DISTANCE, Kind.WIDTH, Kind.SET_SIZE, Kind.BIAS)


@dataclass(frozen=True)
class Watched:
    """How a node is watched.

    Attributes:
        title: of the model.
        baseline: the number of first studies with which later ones are compared.
        since: studies before this time, in seconds, are left out, as after a change that was accepted.
        others: the number of studies that are left out because another bundle predicted them.
        recent: the recent studies of the node, and the warnings about their sources.
    """

    title: str = "the node"
    baseline: int = 200
    since: float = 0.0
    others: int = 0
    recent: RecentCases = field(default_factory=RecentCases)


def sentence(studies: Studies, changes: Sequence[Change], watched: Watched, outcomes: Outcomes | None = None) -> str:
    """What changed, that nothing did, or why this cannot be said; with the number of studies, and from when to when."""
    texts = _result(studies, changes, watched.baseline, outcomes) if len(studies) else []
    if not texts:
        texts = [f"No study has been predicted {f'since {date(watched.since)}' if watched.since else 'yet'}."]
    for warning in unconfirmed(watched.recent).values():
        since = date(datetime.fromisoformat(warning["at"]).timestamp())
        texts.append(f"Answers of a source have no confidence since {since}: {warning['drift']['text']}")
    if outcomes and outcomes.unused:
        texts.append(f"Not used: {counted(sum(map(len, outcomes.unused.values())), 'row')} of the table of outcomes.")
    if watched.others:
        first = f" before {date(float(studies.at[0]))}" if len(studies) and not watched.since else ""
        texts.append(f"Left out: {counted(watched.others, 'study', 'studies')}{first} that another bundle predicted.")
    if watched.since:
        texts.append(f"Changes before {date(watched.since)} are accepted.")
    return " ".join(texts)


def unconfirmed(recent: RecentCases) -> dict[str, dict[str, Any]]:
    """By name the warnings about sources that nobody has confirmed."""
    return {name: each for name, each in recent.warnings.items() if not recent.confirmation_of(name)}


def _result(studies: Studies, changes: Sequence[Change], baseline: int, outcomes: Outcomes | None) -> list[str]:
    since = f"{studies.total()} since {date(float(studies.at[0]))}, the last on {date(float(studies.at[-1]))}"
    later = [change for change in changes if not change.from_start]
    start = [change for change in changes if change.from_start]
    texts, of_outcomes, why = [], "", why_untested(studies, baseline)
    if outcomes and not outcomes.why_untested:
        of_outcomes = f", and the outcomes of {outcomes.share} older than {outcomes.window.after} days"
    if later:
        named = groups(later)
        texts += [_group_text(group, outcomes) for group in named[-MOST_GROUPS:]]
        if len(named) > MOST_GROUPS:
            texts.append(f"There were {counted(len(named) - MOST_GROUPS, 'earlier change')}.")
        texts += [FOLLOW_UP] if any(map(_is_of_outcomes, later)) else []
    elif not why:
        tested = f"{evidence_of(studies, baseline).sum():,} tested against the first {baseline:,}{of_outcomes}"
        texts.append(f"Nothing changed{' since the first studies' if start else ''}. ({since}; {tested}; {RATE}.)")
    if why:
        texts.append(f"Whether the studies changed could not be tested: {since}; {why}.")
    if outcomes and outcomes.why_untested:
        texts.append(f"Outcomes could not be tested: {outcomes.why_untested}.")
    if start:
        words = listed(list(dict.fromkeys(_words(change) for change in start)))
        texts.append(f"Already the first studies differ from the training: {words}.")
    return texts


def groups(changes: Sequence[Change]) -> list[list[Change]]:
    """Changes in the order of time, those together of one place and within a week together."""
    result: list[list[Change]] = []
    for change in sorted(changes, key=lambda change: change.since):
        for group in result:
            if _subject(group[0]) == _subject(change) and change.since - group[0].since <= TOGETHER:
                group.append(change)
                break
        else:
            result.append([change])
    return result


def _subject(change: Change) -> tuple[Scope, bool]:
    """Where a change is, and whether it is one of outcomes."""
    return change.scope, _is_of_outcomes(change)


def _is_of_outcomes(change: Change) -> bool:
    return change.what is not None and change.what.kind in OF_OUTCOMES


def _group_text(group: Sequence[Change], outcomes: Outcomes | None) -> str:
    """The sentence of a group; its date is the date of the largest change."""
    by_size = sorted(group, key=lambda change: (change.what is not None, -change.size))
    words = list(dict.fromkeys(_words(change) for change in by_size))
    if (more := len(words) - MOST_IN_GROUP) > 0:
        words = [*words[:MOST_IN_GROUP], f"{counted(more, 'other change')}"]
    scope = f", {group[0].scope.text}" if group[0].scope.text else ""
    among = f", among {outcomes.share} with an outcome" if outcomes and _is_of_outcomes(group[0]) else ""
    return f"Since {date(by_size[0].since)}{scope}{among}: {listed(words)}."


def _words(change: Change) -> str:
    if change.what is None or change.before is None or change.what.kind in _WITHOUT_VALUES:
        return change.text
    before, after = change.what.value(change.before), change.what.value(change.after)
    if change.what.kind is Kind.CALIBRATION:
        return f"{change.text} ({after}, predicted {before})"
    return f"{change.text} ({before} → {after})"
