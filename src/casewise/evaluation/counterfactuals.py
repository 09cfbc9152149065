"""How predictions of held-out cases change when their images are altered in ways that should not matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import Plan, mean_by_subject
from casewise.evaluation.caveats import caveat
from casewise.evaluation.results import AlteredAnswers, AlteredNumbers, ClassChange, CorrectAnswers, Note
from casewise.predictions.table import SAMPLE_KEY, probability_columns
from casewise.targets import by_form

Altered: TypeAlias = AlteredAnswers | AlteredNumbers
UNALTERED = "unaltered"
# An alteration is reported on the first page if it changes more than a tenth of the answers, and at least three of
# them; for numbers, if it moves them by more than half of the mean absolute error.
MOST_CHANGED, FEWEST_CHANGED, MOST_MOVED = 0.1, 3, 0.5


def counterfactual_figures(
    table: pd.DataFrame, target: str, *, classes: Sequence[str], plan: Plan
) -> dict[str, dict[str, Altered]]:
    """For each network and alteration, how the predictions of `target` differ from those of the unaltered images.

    Args:
        table: predictions with the column `alteration`, whose value is `unaltered` for the reference.
    """
    rows = table[table["target"] == target]
    if rows.empty:
        return {}
    functions: dict[str, Callable[..., Altered]] = {
        "classes": partial(_changed, classes=classes, plan=plan),
        "number": partial(_moved, plan=plan),
    }
    compare = by_form(str(rows["kind"].iloc[0]), functions)
    figures: dict[str, dict[str, Altered]] = {}
    for model, of_model in rows.groupby("model", sort=False):
        by_alteration = {str(name): group.set_index(list(SAMPLE_KEY)) for name, group in of_model.groupby("alteration")}
        before = by_alteration[UNALTERED]
        names = [str(name) for name in of_model["alteration"].drop_duplicates() if name != UNALTERED]
        figures[str(model)] = {name: compare(before, by_alteration[name].reindex(before.index)) for name in names}
    return figures


def _sizes(rows: pd.DataFrame) -> tuple[int, int, int]:
    """The numbers of cases, subjects and answers."""
    return int(rows.index.get_level_values("case").nunique()), int(rows["subject"].nunique()), len(rows)


def _changed(before: pd.DataFrame, after: pd.DataFrame, *, classes: Sequence[str], plan: Plan) -> AlteredAnswers:
    changed = (before["y_pred"] != after["y_pred"]).to_numpy()
    pairs = pd.DataFrame({"before": before["y_pred"], "after": after["y_pred"]})[changed]
    counts = pairs.groupby(["before", "after"]).size().sort_values(ascending=False, kind="stable")
    columns, answers = probability_columns(before), before["y_pred"].value_counts()
    confidence = after[columns].max(axis=1) - before[columns].max(axis=1)
    return AlteredAnswers(
        *_sizes(before),
        changed=int(changed.sum()),
        share=mean_by_subject(changed, before["subject"], plan, name="share"),
        changes=[
            ClassChange(classes[int(first)], classes[int(second)], int(count))
            for (first, second), count in counts.items()
        ],
        before={name: int(answers.get(number, 0)) for number, name in enumerate(classes)},
        correct=CorrectAnswers(
            before=int((before["y_pred"] == before["y_true"]).sum()),
            after=int((after["y_pred"] == before["y_true"]).sum()),
            of=int(before["y_true"].notna().sum()),
        ),
        confidence=float(confidence.mean()),
    )


def _moved(before: pd.DataFrame, after: pd.DataFrame, *, plan: Plan) -> AlteredNumbers:
    change = (after["y_pred"] - before["y_pred"]).to_numpy(dtype=float)
    error = (before["y_pred"] - before["y_true"]).abs().mean()
    mae = float(error) if np.isfinite(error) else None
    moved = mean_by_subject(np.abs(change), before["subject"], plan, name="mae")
    return AlteredNumbers(
        *_sizes(before),
        moved=moved,
        shift=mean_by_subject(change, before["subject"], plan),
        mae=mae,
        relative=moved.value / mae if mae and moved.value is not None else None,
    )


def counterfactual_caveats(figures: Mapping[str, Mapping[str, Altered]], target: str) -> list[Note]:
    """The network that alterations affect most, if they affect one more than they may.

    >>> from casewise.evaluation.results import Estimate
    >>> share, changes = Estimate(0.4, None, None, 10, 10, True), [ClassChange("a", "b", 4)]
    >>> answers = AlteredAnswers(10, 10, 10, 4, share, changes, {"a": 7, "b": 3}, CorrectAnswers(9, 6, 10), 0.0)
    >>> counterfactual_caveats({"net": {"brighter": answers}}, "label")[0].facts["alterations"]
    [{'name': 'brighter', 'changed': 4, 'answers': 10, 'to': 'b', 'to_answers': 4, 'to_of': 7}]
    """
    affected = {
        network: {name: entry for name, entry in by_alteration.items() if affects(entry)}
        for network, by_alteration in figures.items()
    }
    affected = {network: entries for network, entries in affected.items() if entries}
    if not affected:
        return []
    network = max(affected, key=lambda name: max(entry.effect for entry in affected[name].values()))
    entries = sorted(affected[network].items(), key=lambda item: -item[1].effect)
    code = "answers_altered" if isinstance(entries[0][1], AlteredAnswers) else "numbers_altered"
    alterations = [{"name": name, **_summary(entry)} for name, entry in entries]
    return [caveat(code, network=network, target=target, alterations=alterations, others=len(affected) - 1)]


def affects(entry: Altered) -> bool:
    """Whether the effect is larger than that of an alteration that does not matter."""
    if isinstance(entry, AlteredAnswers):
        return entry.effect > MOST_CHANGED and entry.changed >= FEWEST_CHANGED
    return entry.effect > MOST_MOVED


def _summary(entry: Altered) -> dict[str, Any]:
    if isinstance(entry, AlteredAnswers):
        return {"changed": entry.changed, "answers": entry.answers, **commonest(entry)}
    moved, shift = entry.moved.value, entry.shift.value
    return {"moved": moved, "shift": shift, "relative": entry.relative, "answers": entry.answers}


def commonest(entry: AlteredAnswers) -> dict[str, Any]:
    """The class that most changed answers become, how many do, and how many were another class before.

    The class is empty if none changed.
    """
    totals: dict[str, int] = {}
    for change in entry.changes:
        totals[change.after] = totals.get(change.after, 0) + change.answers
    name = max(totals, key=lambda to: totals[to], default="")
    return {"to": name, "to_answers": totals.get(name, 0), "to_of": entry.answers - entry.before.get(name, 0)}
