"""Altered images: how predictions of held-out cases change, for the HTML report and the Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from casewise.evaluation.counterfactuals import commonest, effect
from casewise.report.context import ReportContext
from casewise.report.formatting import number, plain, signed
from casewise.report.tables import Cell, Row, metric_format, percent_cell
from casewise.report.templating import templates

MOST_NETWORKS = 6

Figures = Mapping[str, Mapping[str, Mapping[str, Any]]]


def section(context: ReportContext) -> dict[str, Any] | None:
    """The values of the section; None if no altered image was predicted."""
    figures: Figures = context.metrics.get("counterfactuals") or {}
    digits = metric_format(context.study, context.outcome).digits("mae")
    notes = context.metrics.get("notes", [])
    return values(figures, context.learner, digits, learners=context.learners, notes=notes)


def values(
    figures: Figures, learner: str, digits: int, *, learners: Iterable[str] = (), notes: Iterable[Any] = ()
) -> dict[str, Any] | None:
    """The shown learner, if it is a network, and then the others, the most affected first.

    `digits` are those of a number's error. `apart` are those of `learners` that were not predicted with altered images,
    because they combine networks. `unvaried` are the run's `notes` on shown networks that predict nearly the same for
    every case.
    """
    networks = sorted(
        figures, key=lambda name: (name != learner, -max(map(effect, figures[name].values()), default=0.0))
    )
    if not networks or not figures[networks[0]]:
        return None
    first = figures[networks[0]]
    shown = networks[:MOST_NETWORKS]
    title = templates(html=False).get_template("counterfactual_sentences.j2").module.alteration  # type: ignore[attr-defined]
    return {
        "apart": sorted({*learners, learner} - set(figures), key=lambda name: (name != learner, name)),
        "corrected": any("correct" in entry for entry in first.values()),
        "largest": largest(networks[0], first, digits),
        "rows": [
            Row(str(title(name)).capitalize(), [_cell(figures[network][name], digits) for network in shown])
            for name in first
        ],
        "names": list(first),
        "networks": len(networks),
        "networks_shown": shown,
        "unvaried": [
            note
            for note in notes
            if isinstance(note, Mapping) and note["code"] == "constant_predictions" and note["network"] in shown
        ],
        "more": len(networks) - len(shown),
        "cases": max(entry["cases"] for entry in first.values()),
        "subjects": max(entry["subjects"] for entry in first.values()),
    }


def largest(network: str, by_alteration: Mapping[str, Mapping[str, Any]], digits: int) -> dict[str, Any]:
    """The alteration with the largest effect on a network, and its figures; `tied` are several that change as many."""
    classed = "changed" in next(iter(by_alteration.values()))
    size = effect if classed else _moved
    name = max(by_alteration, key=lambda key: size(by_alteration[key]))
    alike = [key for key in by_alteration if size(by_alteration[key]) == size(by_alteration[name])]
    values = {**by_alteration[name], "network": network, "name": name, "digits": digits}
    if not classed:
        return {**values, "form": "number"}
    return {**values, "form": "classes", **commonest(values), "tied": alike if len(alike) > 1 else []}


def _moved(entry: Mapping[str, Any]) -> float:
    return float(entry["moved"]["value"])


def _cell(entry: Mapping[str, Any], digits: int) -> Cell:
    if "changed" not in entry:
        parts = [_bounds(entry["moved"], digits), f"mean change {signed(entry['shift']['value'], digits)}"]
        value = float(entry["moved"]["value"])
        return Cell(number(value, digits), "; ".join(filter(None, parts)), value)
    share, into = percent_cell(entry["share"]), commonest(entry)
    text = f"{entry['changed']} of {entry['answers']}"
    if into["to"]:
        of = f" of {into['to_of']}" if into["to_of"] else ""
        text += f", {into['to_answers']}{of} to {plain(into['to'])}"
    small, correct = f"{share.text} {share.small}".strip(), entry.get("correct")
    small += f"; correct {correct['before']}, then {correct['after']}" if correct else ""
    return Cell(text, small, share.value)


def _bounds(figure: Mapping[str, Any], digits: int) -> str:
    ends = figure["low"], figure["high"]
    text = "" if None in ends else f"[{number(ends[0], digits)}, {number(ends[1], digits)}]"
    return f"{text} rough" if text and figure.get("rough") else text
