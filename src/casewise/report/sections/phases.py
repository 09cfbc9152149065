"""Training in phases: what was frozen, what it cost, and how right the networks are on those they learned from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from casewise.cohort.natural_sort import natural
from casewise.report.context import ReportContext, is_number
from casewise.report.formatting import MISSING, duration, frozen_words, number, rate
from casewise.report.sections import classes
from casewise.report.sections.measures import measure_cell, measure_of, written
from casewise.report.sections.tables import Cell, Row

RUNNING = (
    "Running statistics are the means and variances that batch norms keep of the images they have seen: no optimiser "
    "changes them, and in a frozen layer they stay as they are. Keras counts them among the parameters that are not "
    "trainable, so that its count of these is frozen weights and running statistics together."
)
NOTHING_NEW = "Figures on what was learned from say nothing about new patients"
RIGHT = ("accuracy", "sensitivity", "specificity")
SEEN = {"on_training": "what it learned from", "on_inner": "those who decided when to stop"}
UNSEEN = {"oof": "others, out of fold", "test": "the test set"}
MOST_NETWORKS = 30


@dataclass(frozen=True)
class PhaseOf:
    """One phase of a network, over its folds: sizes are alike in all of them, times are means."""

    network: str
    number: int
    freeze: str
    last_frozen: str
    total: int
    frozen: int
    trainable: int
    running: int
    rate: str
    epochs: str
    rows: float
    seconds: float
    core_seconds: float
    way: str
    networks: int
    continued: int

    @property
    def frozen_words(self) -> str:
        """What did not learn, in words."""
        return frozen_words(self.freeze)


def phases_of(jobs: Iterable[Mapping[str, Any]], recipe: Mapping[str, Any]) -> dict[str, list[PhaseOf]]:
    """The phases of each network, from the records of its folds; runs without phases have none.

    Args:
        recipe: as `study.json` has it, for the learning rates.
    """
    by_network: dict[str, list[list[Mapping[str, Any]]]] = {}
    for job in jobs:
        if job.get("phases"):
            by_network.setdefault(str(job["model"]), []).append(job["phases"])
    stated = recipe.get("phases") or []
    found: dict[str, list[PhaseOf]] = {}
    for network, of_folds in list(by_network.items())[:MOST_NETWORKS]:
        for place in range(min(map(len, of_folds))):
            each = [phases[place] for phases in of_folds]
            lr: Any = (stated[place].get("lr") if place < len(stated) else None) or recipe.get("lr")
            found.setdefault(network, []).append(_one(network, place, each, rate(lr) if is_number(lr) else MISSING))
    return found


def _one(network: str, place: int, each: Sequence[Mapping[str, Any]], lr: str) -> PhaseOf:
    first, epochs = each[0], [int(one["epochs"]) for one in each]
    frozen, trainable, running = (int(first.get(name) or 0) for name in ("frozen", "trainable", "running_statistics"))
    return PhaseOf(
        network=network,
        number=place + 1,
        freeze=str(first["freeze"]),
        last_frozen=str(first.get("last_frozen") or ""),
        total=frozen + trainable + running,
        frozen=frozen,
        trainable=trainable,
        running=running,
        rate=lr,
        epochs=f"{min(epochs)}" if min(epochs) == max(epochs) else f"{min(epochs)}–{max(epochs)}",
        rows=_mean(each, "rows"),
        seconds=_mean(each, "seconds"),
        core_seconds=_mean(each, "core_seconds"),
        way="; ".join(dict.fromkeys(str(one.get("way", "")) for one in each)),
        networks=len(each),
        continued=sum(bool(one.get("continued")) for one in each),
    )


def _mean(each: Sequence[Mapping[str, Any]], name: str) -> float:
    values = [float(one[name]) for one in each if is_number(one.get(name))]
    return sum(values) / len(values) if values else float("nan")


def section(material: ReportContext) -> dict[str, Any] | None:
    """The table of phases and what to know of it; None where networks were not trained in phases."""
    found = phases_of(material.jobs, material.study.recipe.model_dump(mode="json"))
    if not found:
        return None
    every = [phase for phases in found.values() for phase in phases]
    return {
        "networks": [(network, [(phase, _cells(phase)) for phase in phases]) for network, phases in found.items()],
        "running": RUNNING,
        "folds": max(phase.networks for phase in every),
        "continued": max((phase.continued for phase in every), default=0),
        "panels": _panels(every, material.study.panels.offline_copies),
    }


def _cells(phase: PhaseOf) -> list[Cell]:
    sizes = (phase.total, phase.frozen, phase.trainable, phase.running)
    return [
        *(Cell(f"{size:,}", value=float(size)) for size in sizes),
        Cell(phase.rate),
        Cell(phase.epochs),
        Cell(duration(phase.seconds), value=phase.seconds),
        Cell(core_time(phase.core_seconds), value=phase.core_seconds),
    ]


def core_time(seconds: float) -> str:
    """Core-seconds, which are never minutes and hours: they add up over cores.

    >>> core_time(12345.6), core_time(3.21)
    ('12,346', '3.2')
    """
    return number(seconds, 0 if seconds >= 100 else 1)


def _panels(every: Sequence[PhaseOf], copies: int) -> str:
    counts = [phase.rows for phase in every if is_number(phase.rows)]
    if not counts:
        return ""
    low, high = f"{min(counts):,.0f}", f"{max(counts):,.0f}"
    counted = f"{low} panels" if low == high else f"{low} to {high} panels"
    told = f", each panel and its {copies} copies" if copies > 1 else ", each panel and its copy" if copies else ""
    return f"An epoch goes over {counted}{told}."


def seen(jobs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """For each network and side that it has seen: means over the folds' networks with the range, and the confusions.

    Returns:
        `[network][on_training or on_inner]` = {n, confusion, accuracy, sensitivity, specificity}, the last three as
        {value, low, high} where they are known; `n` is a mean, the confusions are summed.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for network in dict.fromkeys(str(job["model"]) for job in jobs):
        for side in SEEN:
            told = [job[side] for job in jobs if job["model"] == network and job.get(side)]
            if not told:
                continue
            entry: dict[str, Any] = {"n": sum(one["n"] for one in told) / len(told)}
            for name in RIGHT:
                values = [float(one[name]) for one in told if is_number(one.get(name))]
                if values:
                    entry[name] = {"value": sum(values) / len(values), "low": min(values), "high": max(values)}
            tables = [one["confusion"] for one in told]
            entry["confusion"] = [
                [sum(cells) for cells in zip(*lines, strict=True)] for lines in zip(*tables, strict=True)
            ]
            found.setdefault(network, {})[side] = entry
    return found


def beside(material: ReportContext) -> dict[str, Any] | None:
    """How right each network is on those it learned from, on those who decided when to stop, and on others.

    None where no network was asked about those it had seen.
    """
    known, names = seen(material.jobs), material.study.classes_of(material.study.primary_outcome)
    if not known or not names:
        return None
    columns = RIGHT if len(names) == 2 else RIGHT[:1]
    rows = []
    for network in sorted(known, key=lambda name: (name != material.learner, natural(name))):
        lines = [(SEEN[side], number(entry["n"], 0), entry) for side, entry in known[network].items()]
        for stage in ("oof", "test"):
            told = material.classed(stage, network)
            if told and stage in material.stages:
                figures = material.figures(stage, network, material.study.primary_outcome)
                lines.append((UNSEEN[stage], f"{sum(told['support']):,}", figures))
        for place, (side, count, figures) in enumerate(lines):
            cells = [Cell(side), Cell(count), *(measure_cell(name, figures.get(name)) for name in columns)]
            rows.append(Row(network if place == 0 else "", cells, mark=network == material.learner and place == 0))
    matrices = [
        (network, SEEN[side], classes.matrix({"names": names, "confusion": entry["confusion"]}))
        for network in list(known)[:6]
        for side, entry in known[network].items()
    ]
    return {
        "rows": rows,
        "heads": ["Network", "Judged on", "n", *(measure_of(name).title for name in columns)],
        "begin": NOTHING_NEW,
        "matrices": matrices,
        "inner": any("on_inner" in sides for sides in known.values()),
        "tested": "test" in material.stages,
    }


def gap(material: ReportContext) -> str:
    """How far the shown learner's accuracy falls from those it learned from to others, in a sentence; or nothing."""
    told = seen(material.jobs).get(material.learner, {}).get("on_training", {}).get("accuracy")
    new = material.metric(material.stage, material.learner, "accuracy")
    if not told or not new:
        return ""
    where = "on the test set" if material.stage == "test" else "out of fold"
    known, unknown = (written("accuracy", value, digits=0) for value in (told["value"], new["value"]))
    return f"{material.learner} is right in {known} of what it learned from and in {unknown} {where}."
