"""Altered images: how predictions of held-out cases change, for the HTML report and the Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from casewise.evaluation.results import AlteredAnswers, Estimate
from casewise.evaluation.robustness import Altered, commonest
from casewise.report.context import ReportContext
from casewise.report.formatting import number, plain, signed
from casewise.report.tables import Cell, Row, metric_format, percent_cell
from casewise.report.templating import templates

MOST_NETWORKS = 6

Figures = Mapping[str, Mapping[str, Altered]]


def section(context: ReportContext) -> dict[str, Any] | None:
    """The values of the section; None if no altered image was predicted."""
    figures = context.metrics.get("counterfactuals") or {}
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
    effects = {
        name: max((entry.effect for entry in entries.values()), default=0.0) for name, entries in figures.items()
    }
    networks = sorted(figures, key=lambda name: (name != learner, -effects[name]))
    if not networks or not figures[networks[0]]:
        return None
    first = figures[networks[0]]
    shown = networks[:MOST_NETWORKS]
    title = templates(html=False).get_template("counterfactual_sentences.j2").module.alteration  # type: ignore[attr-defined]
    return {
        "apart": sorted({*learners, learner} - set(figures), key=lambda name: (name != learner, name)),
        "corrected": any(isinstance(entry, AlteredAnswers) and entry.correct.of for entry in first.values()),
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
        "cases": max(entry.cases for entry in first.values()),
        "subjects": max(entry.subjects for entry in first.values()),
    }


def largest(network: str, by_alteration: Mapping[str, Altered], digits: int) -> dict[str, Any]:
    """The alteration with the largest effect on a network, and its figures; `tied` are several that change as many."""
    sizes = {
        name: entry.effect if isinstance(entry, AlteredAnswers) else entry.moved.value or 0.0
        for name, entry in by_alteration.items()
    }
    name = max(sizes, key=lambda key: sizes[key])
    alike = [key for key in sizes if sizes[key] == sizes[name]]
    entry = by_alteration[name]
    values = {**entry, "network": network, "name": name, "digits": digits}
    if not isinstance(entry, AlteredAnswers):
        return {**values, "form": "number"}
    return {**values, "form": "classes", **commonest(entry), "tied": alike if len(alike) > 1 else []}


def _cell(entry: Altered, digits: int) -> Cell:
    if not isinstance(entry, AlteredAnswers):
        moved, shift = entry.moved.value or 0.0, entry.shift.value or 0.0
        parts = [_bounds(entry.moved, digits), f"mean change {signed(shift, digits)}"]
        return Cell(number(moved, digits), "; ".join(filter(None, parts)), moved)
    share, into = percent_cell(entry.share), commonest(entry)
    text = f"{entry.changed} of {entry.answers}"
    if into["to"]:
        text += f", {into['to_answers']} of {into['to_of']} to {plain(into['to'])}"
    small = f"{share.text} {share.small}".strip()
    if entry.correct.of:
        small += f"; correct {entry.correct.before}, then {entry.correct.after}"
    return Cell(text, small, share.value)


def _bounds(figure: Estimate, digits: int) -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"[{number(figure.low, digits)}, {number(figure.high, digits)}]" + (" rough" if figure.rough else "")
