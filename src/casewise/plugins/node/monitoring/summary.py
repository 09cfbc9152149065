"""What monitoring says in one sentence: nothing changed, or what changed since when."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.errors import counted
from casewise.plugins.node.monitoring.series import DAY, OF_OUTCOMES, Kind, Studies, date
from casewise.plugins.node.monitoring.shift import Change, Scope
from casewise.report.formatting import capital, listed

RATE = "at most one false alarm a year"
# Changes in one place that began within so many days are one in the sentence, and so many of them are named.
TOGETHER, MOST_GROUPS, MOST_IN_GROUP = 7 * DAY, 4, 6
# The quantities of which the sentence does not state the values before and after.
_WITHOUT_VALUES = (Kind.NUMBER, Kind.DISTANCE, Kind.WIDTH, Kind.SET_SIZE, Kind.BIAS)


def sentence(studies: Studies, changes: Sequence[Change], baseline: int, accepted: float = 0.0) -> str:
    """What changed, or that nothing did, with the number of studies, since when, and the rate of false alarms.

    Args:
        accepted: the time in seconds before which changes are accepted; 0 for none.
    """
    if not len(studies):
        return f"No study has been predicted {f'since {date(accepted)}' if accepted else 'yet'}."
    since = f"since {date(float(studies.at[0]))}"
    later = [change for change in changes if not change.from_start]
    start = [change for change in changes if change.from_start]
    if len(studies) <= baseline and not later:
        text = f"Too few studies to compare: {studies.total()} {since}, and the first {baseline:,} are the baseline."
    elif not later:
        text = f"Nothing changed. ({studies.total()} {since}; tests with {RATE}.)"
    else:
        named = groups(later)
        texts = [_group_text(group) for group in named[-MOST_GROUPS:]]
        if earlier := len(named) - len(texts):
            texts.append(f"There were {counted(earlier, 'earlier change')}.")
        text = " ".join(texts)
    if start:
        words = listed(list(dict.fromkeys(_words(change) for change in start)))
        text += f" Already the first studies differ from the training: {words}."
    return text + (f" Changes before {date(accepted)} are accepted." if accepted else "")


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
    return change.scope, change.what is not None and change.what.kind in OF_OUTCOMES


def _group_text(group: Sequence[Change]) -> str:
    """The sentence of a group; its date is that of the largest change."""
    by_size = sorted(group, key=lambda change: (change.what is not None, -change.size))
    words = list(dict.fromkeys(_words(change) for change in by_size))
    if (more := len(words) - MOST_IN_GROUP) > 0:
        words = [*words[:MOST_IN_GROUP], f"{counted(more, 'other change')}"]
    scope = f", {group[0].scope.text}" if group[0].scope.text else ""
    return f"{capital('since')} {date(by_size[0].since)}{scope}: {listed(words)}."


def _words(change: Change) -> str:
    if change.what is None or change.before is None or change.what.kind in _WITHOUT_VALUES:
        return change.text
    before, after = change.what.value(change.before), change.what.value(change.after)
    if change.what.kind is Kind.CALIBRATION:
        return f"{change.text} ({after}, predicted {before})"
    return f"{change.text} ({before} → {after})"
