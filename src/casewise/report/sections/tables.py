"""The report's tables as plain values: cells with what to show, what to sort by, and the interval in small print."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from casewise.cohort.natural_sort import natural
from casewise.report.context import ReportContext, is_number
from casewise.report.formatting import (
    MISSING,
    digits_for,
    display_name,
    duration,
    interval,
    number,
    shortened,
    signed,
)

TARGET_COLUMNS = ("mae", "bias", "pcc", "ccc", "icc")
TITLES = {"mae": "MAE", "mse": "MSE", "pcc": "PCC", "ccc": "CCC", "icc": "ICC", "bias": "Bias"}
MOST_ROWS = 80
MOST_VISITS = 16
MOST_STACKERS, MOST_STACKED = 6, 10

CountsLine = tuple[str, int, list[tuple[int, float]]]


@dataclass(frozen=True)
class Cell:
    """One figure: its text, its interval's text, and the value a reader may sort by."""

    text: str
    small: str = ""
    value: float | str = ""


@dataclass(frozen=True)
class Row:
    """One line: its name, its cells; `mark` where it is the shown one, `inner` where it belongs to the line above."""

    name: str
    cells: list[Cell]
    mark: bool = False
    inner: bool = False


@dataclass(frozen=True)
class Counts:
    """Counts of classes: lines (`counts_line`) with a count for each of `names`, in their order."""

    names: list[str]
    rows: list[CountsLine]


def counts_line(name: str, counts: Sequence[int]) -> CountsLine:
    """A line's name, its total, and each count with its share of the total; shares of nothing are zero.

    >>> counts_line("a", [3, 1]), counts_line("b", [0, 0])
    (('a', 4, [(3, 0.75), (1, 0.25)]), ('b', 0, [(0, 0.0), (0, 0.0)]))
    """
    total = int(sum(counts))
    return name, total, [(int(n), n / max(total, 1)) for n in counts]


def figure_cell(found: dict[str, Any] | None, digits: int, *, sign: bool = False) -> Cell:
    """A figure with its interval as a cell; a dash and the reason where it is undefined."""
    if not found or not is_number(found.get("value")):
        return Cell(MISSING, (found or {}).get("reason", ""), "")
    shown = signed(found["value"], digits) if sign else number(found["value"], digits)
    return Cell(shown, interval(found, digits), float(found["value"]))


def split_key(key: str) -> tuple[str, str]:
    """Target and region of a key of `metrics.json`.

    >>> split_key("composite[upper]"), split_key("pasi")
    (('composite', 'upper'), ('pasi', ''))
    """
    found = re.fullmatch(r"([^\[]+)\[(.*)\]", key)
    return (found[1], found[2]) if found else (key, "")


def target_rows(material: ReportContext, stage: str) -> tuple[list[Row], int]:
    """One line a target that is a number, then its regions, of the shown learner; and how many lines were left out."""
    found = material.metrics.get("metrics", {}).get(stage, {}).get(material.learner, {})
    order = {name: i for i, name in enumerate([*material.study.scores, *material.study.targets])}
    order[material.study.primary_outcome] = -1
    regions = {name: i for i, name in enumerate(material.study.regions)}
    keys = sorted(
        (key for key in found if material.study.kind_of(split_key(key)[0]) == "regression"),
        key=lambda key: (order.get(split_key(key)[0], len(order)), regions.get(split_key(key)[1], -1), natural(key)),
    )
    rows = []
    for key in keys[:MOST_ROWS]:
        target, region = split_key(key)
        figures = found[key]
        cells = [
            figure_cell(figures.get(m), digits_for(material.study, m, target), sign=m == "bias") for m in TARGET_COLUMNS
        ]
        count = next((f.get("n_cases") for f in figures.values()), None)
        low, high = material.range_of(target)
        scale = Cell(f"{low:g} to {high:g}")
        counts = Cell(number(count, 0))
        name = region if region else display_name(material.study, target)
        rows.append(Row(name, [scale, *cells, counts], inner=bool(region)))
    return rows, max(0, len(keys) - MOST_ROWS)


@dataclass(frozen=True)
class Confusion:
    """Severity bands: counts with the physician's bands by rows, and how strongly to shade each."""

    names: list[str]
    bounds: list[str]
    rows: list[list[tuple[int, float]]]
    figures: dict[str, Any]


def confusion(material: ReportContext, stage: str) -> Confusion | None:
    """The band table of the shown learner, or None where the study has no bands."""
    bands = material.metrics.get("bands") or {}
    found = bands.get("stages", {}).get(stage, {}).get(material.learner)
    bounds = bands.get("lower_bounds", {})
    if not found or not bounds:
        return None
    counts = found["confusion"]
    rows = [[(n, n / max(sum(row), 1)) for n in row] for row in counts]
    edges = list(bounds.values())
    texts = [f"below {edges[i + 1]:g}" if i == 0 else f"{edge:g} or more" for i, edge in enumerate(edges[:-1])]
    texts = [f"{edges[i]:g} to below {edges[i + 1]:g}" if i else text for i, text in enumerate(texts)]
    return Confusion(list(bounds), [*texts, f"{edges[-1]:g} or more"], rows, found)


def response_rows(material: ReportContext, stage: str) -> tuple[list[Row], dict[str, Any]]:
    """Responders by physician and by model at each threshold, with their agreement; and the whole entry."""
    found = material.metrics.get("response", {}).get(stage, {}).get(material.learner, {})
    rows = []
    for threshold, told in (found.get("responders") or {}).items():
        (neither, model_only), (physician_only, both) = told["confusion"]
        total = max(neither + model_only + physician_only + both, 1)
        physician, model = physician_only + both, model_only + both
        cells = [
            Cell(f"{physician} of {total}", f"{100 * physician / total:.0f} %"),
            Cell(f"{model} of {total}", f"{100 * model / total:.0f} %"),
            Cell(str(both)),
            _percent_cell(told.get("agreement")),
            figure_cell(told.get("kappa"), 2),
        ]
        rows.append(Row(responder_name(material, threshold), cells))
    return rows, found


def responder_name(material: ReportContext, threshold: Any) -> str:
    """`PASI75` for a score spelt in capitals, else `75 % lower`."""
    name = display_name(material.study, material.study.primary_outcome)
    return f"{name}{threshold}" if name.isupper() else f"{threshold} % lower"


def visit_rows(material: ReportContext, stage: str) -> tuple[list[str], list[Row]]:
    """Share of responders at each visit, physician / model, one column a threshold."""
    found = material.metrics.get("response", {}).get(stage, {}).get(material.learner, {})
    visits = dict(list((found.get("by_visit") or {}).items())[:MOST_VISITS])
    names = [name for name in next(iter(visits.values()), {}) if name != "n_subjects"]
    rows = []
    for visit, told in visits.items():
        cells = [Cell(str(told.get("n_subjects", MISSING)))]
        for name in names:
            both = [100 * told[name][side]["value"] for side in ("physician", "model")]
            cells.append(Cell(f"{both[0]:.0f} / {both[1]:.0f} %"))
        rows.append(Row(shortened(visit, 30), cells))
    return [responder_name(material, name) for name in names], rows


def _percent_cell(found: dict[str, Any] | None) -> Cell:
    if not found or not is_number(found.get("value")):
        return Cell(MISSING)
    share = {k: 100 * found[k] for k in ("low", "high") if is_number(found.get(k))}
    return Cell(f"{100 * found['value']:.0f} %", interval(share, 0))


def reader_rows(material: ReportContext, stage: str) -> dict[str, list[Row]]:
    """For each target scored by readers: how readers agree with each other, then the model with each of them."""
    readers = material.metrics.get("readers") or {}
    between = readers.get("between", {})
    pairs = between.get(stage) or between.get("all") or {}
    ours = readers.get("learners", {}).get(stage, {}).get(material.learner, {})
    tables: dict[str, list[Row]] = {}
    for key in list(dict.fromkeys([*pairs, *ours]))[:12]:
        target, region = split_key(key)
        if region:
            continue
        rows = []
        lines = [(" and ".join(pair.split(" | ")), told, False) for pair, told in pairs.get(key, {}).items()]
        lines += [(f"model and {reader}", told, True) for reader, told in ours.get(key, {}).items()]
        for name, told, mark in lines[:24]:
            cells = [
                figure_cell(told.get(m), digits_for(material.study, m, target)) for m in ("mae", "pcc", "ccc", "icc")
            ]
            count = next((f.get("n_cases") for f in told.values()), None)
            rows.append(Row(name, [*cells, Cell(number(count, 0))], mark=mark))
        if rows:
            tables[display_name(material.study, target)] = rows
    return tables


def job_rows(material: ReportContext) -> list[Row]:
    """One line a backbone: networks, size, epochs, time, how it ran and where its first weights came from."""
    rows = []
    for model in dict.fromkeys(job["model"] for job in material.jobs):
        jobs = [job for job in material.jobs if job["model"] == model]
        epochs = [job["epochs"] for job in jobs if is_number(job.get("epochs"))]
        best = [job["best_epoch"] for job in jobs if is_number(job.get("best_epoch"))]
        size = jobs[0].get("parameters") or 0
        how = sorted({f"{job.get('precision', MISSING)}, {job.get('memory_format', MISSING)}" for job in jobs})
        cells = [
            Cell(str(len(jobs)), value=len(jobs)),
            Cell(f"{size / 1e6:.1f} M" if size else MISSING, value=size),
            Cell(_span(epochs), value=max(epochs, default=0)),
            Cell(_span(best), value=max(best, default=0)),
            Cell(
                duration(sum(job.get("seconds") or 0 for job in jobs)),
                value=sum(job.get("seconds") or 0 for job in jobs),
            ),
            Cell("; ".join(how), value=how[0]),
        ]
        rows.append(Row(str(model), cells, mark=model == material.learner))
    return rows


def weight_origins(material: ReportContext) -> list[tuple[str, list[str]]]:
    """Each stated origin of first weights with the backbones that have it."""
    found: dict[str, list[str]] = {}
    for job in material.jobs:
        models = found.setdefault(str(job.get("weights", MISSING)), [])
        if job["model"] not in models:
            models.append(job["model"])
    return list(found.items())


def _span(values: list[int]) -> str:
    return MISSING if not values else f"{min(values)}" if min(values) == max(values) else f"{min(values)}–{max(values)}"


def stacker_tables(material: ReportContext) -> list[tuple[str, list[str], list[Row]]]:
    """For each combined learner what it predicts, and a line a network with its weight there; the intercept last."""
    found = []
    for learner, by_target in list(material.stackers.items())[:MOST_STACKERS]:
        told = {name: one for name, one in by_target.items() if isinstance(one, dict) and one.get("weights")}
        targets = list(told)[:MOST_STACKED]
        networks = list(dict.fromkeys(network for name in targets for network in told[name]["weights"]))
        rows = [Row(n, [Cell(signed(told[name]["weights"].get(n), 3)) for name in targets]) for n in networks]
        rows.append(Row("intercept", [Cell(signed(told[name].get("intercept", 0.0), 3)) for name in targets]))
        if targets:
            found.append((learner, [display_name(material.study, name) for name in targets], rows))
    return found


def split_rows(material: ReportContext) -> list[Row]:
    """One line a side of the split: subjects, cases, panels."""
    sides = [(name, told) for name, told in material.splits.get("n", {}).items() if isinstance(told, dict)]
    return [
        Row(name, [Cell(f"{told.get(k, 0):,}") for k in ("subjects", "cases", "panels")])
        for name, told in sides
        if told.get("subjects")
    ]


def imported_from(material: ReportContext) -> str:
    """`column NAME` where the split was read from the cohort table, else nothing."""
    how = str(material.splits.get("how") or "")
    return how if how.startswith("column ") else ""


def imbalance_rows(material: ReportContext) -> list[Row]:
    """One line a target: the gap in label shares between test and training, and between the folds."""
    found = material.splits.get("imbalance", {})
    names = list(dict.fromkeys([*found.get("test", {}), *found.get("folds", {})]))
    guide = "" if imported_from(material) else material.splits.get("balance")
    rows = []
    for name in names[:40]:
        cells = []
        for side in ("test", "folds"):
            share = found.get(side, {}).get(name)
            cells.append(Cell(f"{100 * share:.1f} %" if is_number(share) else MISSING))
        rows.append(Row(display_name(material.study, name), cells, mark=name == guide))
    return rows
