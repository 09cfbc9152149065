"""How predictions of held-out cases change when their images are altered in ways that should not matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import Plan, mean_by_subject
from casewise.evaluation.caveats import Caveat
from casewise.predictions.table import SAMPLE_KEY, probability_columns
from casewise.targets import by_form

UNALTERED = "unaltered"
# An alteration is reported on the first page if it changes more than a tenth of the answers, and at least three of
# them; for numbers, if it moves them by more than half of the mean absolute error.
MOST_CHANGED, FEWEST_CHANGED, MOST_MOVED = 0.1, 3, 0.5


def counterfactual_figures(
    table: pd.DataFrame, target: str, *, classes: Sequence[str], plan: Plan
) -> dict[str, dict[str, dict[str, Any]]]:
    """For each network and alteration, how the predictions of `target` differ from those of the unaltered images.

    Args:
        table: predictions with the column `alteration`, whose value is `unaltered` for the reference.

    Returns:
        network -> alteration -> values. All have `cases`, `subjects` and `answers` (predictions). Classes and grades:
        `changed` (how many answers), `share` with its interval, `changes` (from, to and number of answers, most
        common first), `before` (answers by class for the unaltered images), `correct` (answers that agree with the
        reference `before` and `after`, of those with one) and `confidence`, the mean change of the largest probability.
        Numbers: `moved`, the mean absolute
        change, and `shift`, the mean change, with intervals; `mae` of the unaltered images, and `relative`, which is
        `moved` divided by it.
    """
    rows = table[table["target"] == target]
    if rows.empty:
        return {}
    functions: dict[str, Callable[..., dict[str, Any]]] = {
        "classes": partial(_changed, classes=classes, plan=plan),
        "number": partial(_moved, plan=plan),
    }
    compare = by_form(str(rows["kind"].iloc[0]), functions)
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    for model, of_model in rows.groupby("model", sort=False):
        by_alteration = {str(name): group.set_index(list(SAMPLE_KEY)) for name, group in of_model.groupby("alteration")}
        before = by_alteration[UNALTERED]
        names = [str(name) for name in of_model["alteration"].drop_duplicates() if name != UNALTERED]
        counts = {
            "cases": int(before.index.get_level_values("case").nunique()),
            "subjects": int(before["subject"].nunique()),
            "answers": len(before),
        }
        figures[str(model)] = {
            name: counts | compare(before, by_alteration[name].reindex(before.index)) for name in names
        }
    return figures


def _changed(before: pd.DataFrame, after: pd.DataFrame, *, classes: Sequence[str], plan: Plan) -> dict[str, Any]:
    changed = (before["y_pred"] != after["y_pred"]).to_numpy()
    pairs = pd.DataFrame({"from": before["y_pred"], "to": after["y_pred"]})[changed]
    counts = pairs.groupby(["from", "to"]).size().sort_values(ascending=False, kind="stable")
    columns, named = probability_columns(before), before["y_pred"].value_counts()
    confidence = after[columns].max(axis=1) - before[columns].max(axis=1)
    return {
        "changed": int(changed.sum()),
        "share": mean_by_subject(changed, before["subject"], plan, name="share"),
        "changes": [
            {"from": classes[int(first)], "to": classes[int(second)], "answers": int(count)}
            for (first, second), count in counts.items()
        ],
        "before": {name: int(named.get(number, 0)) for number, name in enumerate(classes)},
        "correct": {
            "before": int((before["y_pred"] == before["y_true"]).sum()),
            "after": int((after["y_pred"] == before["y_true"]).sum()),
            "of": int(before["y_true"].notna().sum()),
        },
        "confidence": float(confidence.mean()),
    }


def _moved(before: pd.DataFrame, after: pd.DataFrame, *, plan: Plan) -> dict[str, Any]:
    change = (after["y_pred"] - before["y_pred"]).to_numpy(dtype=float)
    error = (before["y_pred"] - before["y_true"]).abs().mean()
    mae = float(error) if np.isfinite(error) else None
    moved = mean_by_subject(np.abs(change), before["subject"], plan, name="mae")
    return {
        "moved": moved,
        "shift": mean_by_subject(change, before["subject"], plan),
        "mae": mae,
        "relative": moved.value / mae if mae and moved.value is not None else None,
    }


def counterfactual_caveats(figures: Mapping[str, Mapping[str, Mapping[str, Any]]], target: str) -> list[Caveat]:
    """The network that alterations affect most, if they affect one more than they may.

    >>> values = {"cases": 10, "subjects": 10, "answers": 10, "changed": 4, "share": {"value": 0.4}}
    >>> changes = {"changes": [{"from": "a", "to": "b", "answers": 4}], "before": {"a": 7, "b": 3}}
    >>> counterfactual_caveats({"net": {"brighter": values | changes}}, "label")[0]["alterations"]
    [{'name': 'brighter', 'changed': 4, 'answers': 10, 'to': 'b', 'to_answers': 4, 'to_of': 7}]
    """
    affected = {
        network: {name: entry for name, entry in by_alteration.items() if affects(entry)}
        for network, by_alteration in figures.items()
    }
    affected = {network: entries for network, entries in affected.items() if entries}
    if not affected:
        return []
    network = max(affected, key=lambda name: max(map(effect, affected[name].values())))
    entries = sorted(affected[network].items(), key=lambda item: -effect(item[1]))
    code = "answers_altered" if "changed" in entries[0][1] else "numbers_altered"
    alterations = [{"name": name, **_summary(entry)} for name, entry in entries]
    return [Caveat(code, network=network, target=target, alterations=alterations, others=len(affected) - 1)]


def effect(entry: Mapping[str, Any]) -> float:
    """The size of an alteration's effect: the share of changed answers, or the change relative to the error."""
    return float(entry["share"]["value"] if "changed" in entry else entry["relative"] or 0.0)


def affects(entry: Mapping[str, Any]) -> bool:
    """Whether the effect is larger than that of an alteration that does not matter."""
    if "changed" in entry:
        return bool(effect(entry) > MOST_CHANGED and entry["changed"] >= FEWEST_CHANGED)
    return effect(entry) > MOST_MOVED


def _summary(entry: Mapping[str, Any]) -> dict[str, Any]:
    if "changed" not in entry:
        values = {"moved": entry["moved"]["value"], "shift": entry["shift"]["value"], "relative": entry["relative"]}
        return values | {"answers": entry["answers"]}
    return {"changed": entry["changed"], "answers": entry["answers"], **commonest(entry)}


def commonest(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The class that most changed answers become, how many do, and how many were another class before.

    The class is empty if none changed; the last number is None in runs without it.

    >>> change = [{"from": "a", "to": "c", "answers": 2}, {"from": "b", "to": "c", "answers": 1}]
    >>> entry = {"answers": 9, "before": {"a": 3, "b": 2, "c": 4}}
    >>> commonest(entry | {"changes": [*change, {"from": "c", "to": "a", "answers": 2}]})
    {'to': 'c', 'to_answers': 3, 'to_of': 5}
    >>> commonest(entry | {"changes": []})["to"]
    ''
    """
    totals: dict[str, int] = {}
    for change in entry["changes"]:
        totals[change["to"]] = totals.get(change["to"], 0) + change["answers"]
    name = max(totals, key=lambda to: totals[to], default="")
    before = entry.get("before")
    others = entry["answers"] - before.get(name, 0) if before else None
    return {"to": name, "to_answers": totals.get(name, 0), "to_of": others}
