"""How networks were trained: curves, learning rates, phases, and their performance on training and held-out cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from casewise.cohort.dates import natural
from casewise.errors import gigabytes
from casewise.report.context import ReportContext, is_number
from casewise.report.figures import learners as draw
from casewise.report.formatting import MISSING, duration, number, rate, span
from casewise.report.sections import classes
from casewise.report.tables import Cell, MetricFormat, Row, metric_format
from casewise.study.learners import learner_name
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.study.schema import Study

RATES = ("accuracy", "sensitivity", "specificity")
# Records of a job on cases that it was trained on, and on those that decided when to stop.
SIDES = ("on_training", "on_inner")
MOST_CURVES = 12
MOST_FINDERS = 12
MOST_NETWORKS = 30
MOST_MATRICES = 6
MOST_ORIGINS = 30


def section(context: ReportContext) -> dict[str, Any]:
    """Training curves and facts of the run."""
    by_model: dict[str, list[dict[str, Any]]] = {}
    for job in context.jobs:
        by_model.setdefault(str(job["model"]), []).append(job)
    order = sorted(by_model, key=lambda name: name != context.learner)
    curves = []
    for i, model in enumerate(order[:MOST_CURVES]):
        jobs = sorted(by_model[model], key=lambda job: natural(job.get("fold", "")))
        epochs = [job["epochs"] for job in jobs if is_number(job.get("epochs"))]
        if any(job.get("history") for job in jobs):
            drawing = draw.training(learner_name(model), jobs, name=f"curve{i}")
            facts = {"networks": len(jobs), "epochs": max(epochs, default=0), "accuracy": draw.has_accuracy(jobs)}
            curves.append({"model": model, "drawing": drawing, **facts})
    return {
        "curves": curves,
        "accuracy": draw.has_accuracy(context.jobs),
        "models": len(by_model),
        "jobs": job_rows(context),
        "memory": any(is_number(job.get("peak_memory_mb")) for job in context.jobs),
        "networks": len(context.jobs),
        "origins": weight_origins(context)[:MOST_ORIGINS],
        "seconds": sum(job.get("seconds") or 0 for job in context.jobs),
        "stopped_on": context.stopped_on,
        "finders": finders(context),
        "unfreezing": unfreezing(context),
        "phases": phases(context),
        "train_performance": train_and_held_out(context),
        "gap": gap(context),
        "seeds": seed_spread(context.metrics, context.study),
    }


def job_rows(context: ReportContext) -> list[Row]:
    """One line per backbone: networks, size, epochs, time, memory if any job records it, and how it was computed."""
    rows = []
    memory_recorded = any(is_number(job.get("peak_memory_mb")) for job in context.jobs)
    for model in dict.fromkeys(job["model"] for job in context.jobs):
        jobs = [job for job in context.jobs if job["model"] == model]
        epochs = [job["epochs"] for job in jobs if is_number(job.get("epochs"))]
        best = [job["best_epoch"] for job in jobs if is_number(job.get("best_epoch"))]
        size, seconds = jobs[0].get("parameters") or 0, sum(job.get("seconds") or 0 for job in jobs)
        how = sorted({compute_plan(job) for job in jobs})
        cells = [
            Cell(str(len(jobs)), value=len(jobs)),
            Cell(f"{size / 1e6:.1f} M" if size else MISSING, value=size),
            Cell(span(epochs), value=max(epochs, default=0)),
            Cell(span(best), value=max(best, default=0)),
            Cell(duration(seconds), value=seconds),
            *([_peak_memory(jobs)] if memory_recorded else []),
            Cell("; ".join(how), value=how[0]),
        ]
        rows.append(Row(learner_name(str(model)), cells, mark=model == context.learner))
    return rows


def _peak_memory(jobs: Sequence[Mapping[str, Any]]) -> Cell:
    """The largest peak of these jobs; runs of earlier versions have none."""
    peaks = [float(job["peak_memory_mb"]) for job in jobs if is_number(job.get("peak_memory_mb"))]
    return Cell(gigabytes(max(peaks)), value=max(peaks)) if peaks else Cell(MISSING)


def seed_spread(metrics: Mapping[str, Any], study: Study) -> dict[str, Any] | None:
    """The primary outcome over trainings with several seeds, a row per learner; None for a single training.

    The figures are those of the test set if there is one, else out of fold.
    """
    entry = metrics.get("seeds")
    stage = next((stage for stage in ("test", "oof") if (entry or {}).get("metrics", {}).get(stage)), None)
    if entry is None or stage is None:
        return None
    main = metrics["main"]
    by_learner = {name: keys.get(main["target"], {}) for name, keys in entry["metrics"][stage].items()}
    columns, write = kind_named(main["kind"]).headline, metric_format(study, main["target"])
    rows = [
        Row(
            learner_name(name),
            [_seed_cell(write, metric, by_metric.get(metric)) for metric in columns],
            mark=name == main["learner"],
        )
        for name, by_metric in by_learner.items()
    ]
    return {
        "stage": stage,
        "columns": columns,
        "rows": rows,
        "every": [
            Row(learner_name(name), [Cell(write.title(metric)), *_spread_cells(write, metric, spread)])
            for name, by_metric in by_learner.items()
            for metric, spread in by_metric.items()
            if "[" not in metric
        ],
        "target": main["target"],
        "trainings": len(entry["seeds"]),
        "first": entry["seeds"][0],
    }


def _spread_cells(write: MetricFormat, metric: str, spread: Mapping[str, Any]) -> list[Cell]:
    """The lowest and the highest value over the seeds, and their standard deviation; dashes if one is undefined."""
    if spread["sd"] is None:
        return [Cell(MISSING)] * 3
    values = spread["by_seed"]
    return [
        *(Cell(write.text(metric, value), value=value) for value in (min(values), max(values))),
        _sd(write, metric, spread),
    ]


def _sd(write: MetricFormat, metric: str, spread: Mapping[str, Any]) -> Cell:
    percent = write.in_percent(metric)
    text = number((100 if percent else 1) * spread["sd"], write.digits(metric) + 1)
    return Cell(text + (" %" if percent else ""), value=spread["sd"])


def _seed_cell(write: MetricFormat, metric: str, spread: Mapping[str, Any] | None) -> Cell:
    """The lowest and the highest value over the seeds, with their standard deviation."""
    if spread is None or spread["sd"] is None:
        return Cell(MISSING)
    values = spread["by_seed"]
    ends = [write.text(metric, value, unit=False) for value in (min(values), max(values))]
    deviation = number((100 if write.in_percent(metric) else 1) * spread["sd"], write.digits(metric) + 1)
    unit = " %" if write.in_percent(metric) else ""
    return Cell(f"{ends[0]} to {ends[1]}{unit}", f"SD {deviation}", values[0])


def compute_plan(job: Mapping[str, Any]) -> str:
    """Precision, memory format and threads of a job, as its record states them.

    >>> compute_plan({"precision": "fp32", "memory_format": "channels-last", "threads": 1})
    'fp32, channels-last, 1 thread'
    """
    threads = job.get("threads")
    named = [str(job.get(name, MISSING)) for name in ("precision", "memory_format")]
    return ", ".join([*named, *([f"{threads} thread{'s' * (threads != 1)}"] if threads else [])])


def weight_origins(context: ReportContext) -> list[tuple[str, list[str]]]:
    """Each stated origin of first weights with the backbones that have it."""
    origins: dict[str, list[str]] = {}
    for job in context.jobs:
        models = origins.setdefault(str(job.get("weights", MISSING)), [])
        if job["model"] not in models:
            models.append(job["model"])
    return list(origins.items())


# ---------------------------------------------------------------------------------------------------- learning rate


def finders(context: ReportContext) -> dict[str, Any] | None:
    """The curves of the search for a learning rate, a figure per backbone; None where the rate was given."""
    by_model: dict[str, list[dict[str, Any]]] = {}
    for job in context.jobs:
        search = job.get("finder")
        if search and search.get("rates") and len(search["rates"]) == len(search.get("losses") or []):
            by_model.setdefault(str(job["model"]), []).append(job)
    if not by_model:
        return None
    rates_by_model = {model: _chosen_rates(jobs) for model, jobs in by_model.items()}
    shown = list(by_model.items())[:MOST_FINDERS]
    figures = [(model, draw.finder(model, jobs, name=f"finder{i}")) for i, (model, jobs) in enumerate(shown)]
    return {"figures": figures, "models": len(by_model), "chosen": rates_by_model}


def _chosen_rates(jobs: list[dict[str, Any]]) -> list[float]:
    """The lowest and the highest rate chosen; empty where none was."""
    values = sorted(job["finder"]["chosen"] for job in jobs if is_number(job["finder"].get("chosen")))
    return sorted({values[0], values[-1]}) if values else []


def unfreezing(context: ReportContext) -> list[dict[str, Any]]:
    """For gradual unfreezing, of each backbone the mean stopping loss by number of groups of layers unfrozen."""
    by_model: dict[str, list[list[dict[str, Any]]]] = {}
    for job in context.jobs:
        if job.get("stages"):
            by_model.setdefault(str(job["model"]), []).append(job["stages"])
    models = []
    for model, of_jobs in by_model.items():
        losses: dict[int, list[float]] = {}
        for step in (step for steps in of_jobs for step in steps):
            if is_number(step.get("best_loss")):
                losses.setdefault(int(step["unfrozen"]), []).append(float(step["best_loss"]))
        steps = [
            {"groups": groups, "loss": sum(values) / len(values), "networks": len(values)}
            for groups, values in sorted(losses.items())
        ]
        if steps:
            models.append({"model": model, "networks": len(of_jobs), "steps": steps})
    return models


# ------------------------------------------------------------------------------------------------------------ phases


@dataclass(frozen=True)
class Phase:
    """One phase of a network, over its folds: sizes are equal in all of them, times are means."""

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


def phases_of(jobs: Iterable[Mapping[str, Any]], recipe: Mapping[str, Any]) -> dict[str, list[Phase]]:
    """The phases of each network, from the records of its folds; runs without phases have none.

    Args:
        recipe: as `study.json` has it, for the learning rates.
    """
    by_network: dict[str, list[list[Mapping[str, Any]]]] = {}
    for job in jobs:
        if job.get("phases"):
            by_network.setdefault(str(job["model"]), []).append(job["phases"])
    stated = recipe.get("phases") or []
    by_phase: dict[str, list[Phase]] = {}
    for network, of_folds in list(by_network.items())[:MOST_NETWORKS]:
        for index in range(min(map(len, of_folds))):
            lr: Any = (stated[index].get("lr") if index < len(stated) else None) or recipe.get("lr")
            records = [phases[index] for phases in of_folds]
            by_phase.setdefault(network, []).append(
                _phase(network, index + 1, records, rate(lr) if is_number(lr) else MISSING)
            )
    return by_phase


def _phase(network: str, index: int, records: Sequence[Mapping[str, Any]], lr: str) -> Phase:
    first = records[0]
    frozen, trainable, running = (int(first.get(name) or 0) for name in ("frozen", "trainable", "running_statistics"))
    return Phase(
        network=network,
        number=index,
        freeze=str(first["freeze"]),
        last_frozen=str(first.get("last_frozen") or ""),
        total=frozen + trainable + running,
        frozen=frozen,
        trainable=trainable,
        running=running,
        rate=lr,
        epochs=span([int(record["epochs"]) for record in records]),
        rows=_mean(records, "rows"),
        seconds=_mean(records, "seconds"),
        core_seconds=_mean(records, "core_seconds"),
        way="; ".join(dict.fromkeys(str(record.get("way", "")) for record in records)),
        networks=len(records),
    )


def _mean(records: Sequence[Mapping[str, Any]], name: str) -> float:
    values = [float(record[name]) for record in records if is_number(record.get(name))]
    return sum(values) / len(values) if values else float("nan")


def phases(context: ReportContext) -> dict[str, Any] | None:
    """The table of phases; None where networks were not trained in phases."""
    by_network = phases_of(context.jobs, context.study.recipe.model_dump(mode="json"))
    if not by_network:
        return None
    every = [phase for phases in by_network.values() for phase in phases]
    counts = [phase.rows for phase in every if is_number(phase.rows)]
    return {
        "networks": [(network, [(phase, _cells(phase)) for phase in phases]) for network, phases in by_network.items()],
        "folds": max(phase.networks for phase in every),
        "panels": (min(counts), max(counts)) if counts else None,
        "copies": context.study.panels.offline_copies,
    }


def _cells(phase: Phase) -> list[Cell]:
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


# ------------------------------------------------------------------------------ training and held-out performance


def on_training_cases(jobs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """For each network its performance on training cases and on those that decided when to stop.

    Returns:
        `[network][on_training or on_inner]` = {n, confusion, accuracy, sensitivity, specificity}, the last three as
        {value, smallest, largest} (mean and range over the folds' networks); `n` is a mean, the confusions are summed.
    """
    by_network: dict[str, dict[str, dict[str, Any]]] = {}
    for network in dict.fromkeys(str(job["model"]) for job in jobs):
        for side in SIDES:
            records = [job[side] for job in jobs if job["model"] == network and job.get(side)]
            if not records:
                continue
            entry: dict[str, Any] = {"n": sum(record["n"] for record in records) / len(records)}
            for name in RATES:
                values = [float(record[name]) for record in records if is_number(record.get(name))]
                if values:
                    mean = sum(values) / len(values)
                    entry[name] = {"value": mean, "smallest": min(values), "largest": max(values)}
            tables = [record["confusion"] for record in records]
            entry["confusion"] = [
                [sum(cells) for cells in zip(*lines, strict=True)] for lines in zip(*tables, strict=True)
            ]
            by_network.setdefault(network, {})[side] = entry
    return by_network


def train_and_held_out(context: ReportContext) -> dict[str, Any] | None:
    """Each network's performance on training cases, on those that decided when to stop, and on held-out cases.

    None where no network was evaluated on cases that it was trained on. The first cell of a row is the side, a code.
    """
    by_network, names = on_training_cases(context.jobs), context.classes
    if not by_network or not names:
        return None
    columns, write = (RATES if len(names) == 2 else RATES[:1]), MetricFormat()
    rows = []
    for network in sorted(by_network, key=lambda name: (name != context.learner, natural(name))):
        lines = [(side, number(entry["n"], 0), entry) for side, entry in by_network[network].items()]
        for stage in ("oof", "test"):
            entry = context.class_entry(stage, network)
            if entry and stage in context.stages:
                lines.append((stage, f"{sum(entry['support']):,}", context.figures(stage, network)))
        for index, (side, count, figures) in enumerate(lines):
            cells = [Cell(count), *(trained_or_held_out(write, name, figures.get(name)) for name in columns)]
            mark = network == context.learner and index == 0
            rows.append((side, Row(learner_name(network) if index == 0 else "", cells, mark=mark)))
    matrices = [
        (network, side, classes.matrix({"names": names, "confusion": entry["confusion"]}))
        for network in list(by_network)[:MOST_MATRICES]
        for side, entry in by_network[network].items()
    ]
    return {
        "rows": rows,
        "columns": columns,
        "matrices": matrices,
        "inner": any("on_inner" in sides for sides in by_network.values()),
        "tested": "test" in context.stages,
    }


def trained_or_held_out(write: MetricFormat, name: str, figure: Mapping[str, Any] | None) -> Cell:
    """A figure with its interval in brackets, or the mean over the networks with its range in words."""
    if not figure or "smallest" not in figure:
        return write.cell(name, figure)
    smallest, largest = (write.text(name, figure[end], unit=False) for end in ("smallest", "largest"))
    return Cell(write.text(name, figure["value"]), f"{smallest} to {largest}", figure["value"])


def gap(context: ReportContext) -> dict[str, Any] | None:
    """The shown learner's accuracy on training cases and on held-out ones; None where one is unknown."""
    on_training = on_training_cases(context.jobs).get(context.learner, {}).get("on_training", {}).get("accuracy")
    held_out = context.metric(context.stage, context.learner, "accuracy")
    return {"training": on_training["value"], "held_out": held_out["value"]} if on_training and held_out else None
