"""What the report shows of the search for a learning rate, of gradual unfreezing, and of fastai's head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from casewise.plugins.published.settings import keys_of
from casewise.report.blocks import Block, Cell, Heading, Plot, Plots, Row, Table
from casewise.report.context import ReportContext
from casewise.report.figures.drawing import ACCENT, MODEL, MOST_READ_OF_MANY, PALE, Drawing, canvas, readable, svg
from casewise.report.figures.learners import floats
from casewise.report.formatting import MISSING, counted, is_number, number, rate, shortened
from casewise.report.sections.training import by_model
from casewise.study.learners import learner_name
from casewise.study.schema import Study

Job = Mapping[str, Any]
MOST_FINDERS = 12
FINDERS = (
    "Before training, the learning rate rises from batch to batch; the rate at which the loss falls fastest is chosen."
    " Grey: loss of each batch; blue: smoothed, one line per network; dot: the rate chosen."
)
UNFREEZING = (
    "Gradual unfreezing: groups of layers were unfrozen one after another, starting at the head, as long as the loss"
    " fell on the subjects that decide when to stop. Mean of that loss by number of groups."
)


def facts(study: Study) -> dict[str, str]:
    """By name the facts of a recipe with gradual unfreezing, the search for a rate, or fastai's head."""
    keys, shown = keys_of(study.recipe), {}
    if keys.tuning == "gradual_unfreezing":
        shown["Trained"] = "the heads first, then one further group of layers at a time together with them"
    if keys.lr == "find":
        shown["Learning rate"] = f"chosen by a search before training; schedule {study.recipe.schedule}"
    if study.recipe.head == "fastai":
        shown["Head"] = "as in fastai: maximum and mean of the last map, 512 units, batch norm and dropout"
    return shown


def curves(context: ReportContext) -> list[Block]:
    """The curves of the learning-rate search, and the losses of gradual unfreezing."""
    blocks: list[Block] = []
    if searches := _finders(context):
        blocks += [Heading("Search for the learning rate"), Plots(searches, FINDERS, "multiples")]
    if table := _unfreezing(context):
        blocks += [Heading("Gradual unfreezing"), table]
    return blocks


def _finders(context: ReportContext) -> list[Plot]:
    """The curves of the search for a learning rate, a figure per backbone; none where the rate was given."""
    searched = by_model(job for job in context.jobs if _is_search(job.get("finder") or {}))
    plots = []
    for i, (model, jobs) in enumerate(list(searched.items())[:MOST_FINDERS]):
        values = [job["finder"]["chosen"] for job in jobs if is_number(job["finder"].get("chosen"))]
        chosen = " to ".join(dict.fromkeys(map(rate, (min(values), max(values))))) if values else "none"
        drawing = _finder(model, jobs, name=f"finder{i}")
        plots.append(Plot(drawing, f"Loss against the learning rate of {model}.", f"Chosen: {chosen}."))
    return plots


def _is_search(search: Job) -> bool:
    return bool(search.get("rates")) and len(search["rates"]) == len(search.get("losses") or [])


def _unfreezing(context: ReportContext) -> Table | None:
    """For gradual unfreezing, of each backbone the mean stopping loss by number of groups of layers unfrozen."""
    steps = [
        (str(job["model"]), int(step["unfrozen"]), float(step["best_loss"]))
        for job in context.jobs
        for step in job.get("stages") or []
        if is_number(step.get("best_loss"))
    ]
    groups, rows = sorted({count for _, count, _ in steps}), []
    first = "Head and batch norms" if keys_of(context.study.recipe).gradual_unfreezing.train_norms else "Head only"
    for model in dict.fromkeys(model for model, _, _ in steps):
        losses = [[loss for name, count, loss in steps if (name, count) == (model, group)] for group in groups]
        cells = [Cell(number(sum(v) / len(v), 3), counted(len(v), "network")) if v else Cell(MISSING) for v in losses]
        rows.append(Row(learner_name(model), cells))
    heads = ["Backbone", *(counted(count, "group") if count else first for count in groups)]
    return Table(heads, rows, UNFREEZING) if rows else None


def _finder(model: str, jobs: Sequence[Job], *, name: str) -> Drawing:
    """The search for a learning rate of a backbone: the loss by rate, a line per network, with a dot at the choice."""
    from matplotlib.ticker import LogLocator

    with canvas(260.0, 176.0, (42, 38, 8, 26), grid="y") as (figure, axes):
        edges, drawn = list[tuple[float, float]](), list[tuple[Any, Any]]()
        for search in (job["finder"] for job in jobs):
            rates, losses = floats(search["rates"]), floats(search["losses"])
            finite = np.isfinite(rates) & np.isfinite(losses) & (rates > 0)
            if not finite.any():
                continue
            rates, losses = rates[finite], losses[finite]
            drawn.append((rates, losses))
            smoothed = np.array(search.get("smoothed") or [], dtype=float)
            course = smoothed if len(smoothed) == len(losses) else losses
            axes.plot(rates, losses, color=PALE, linewidth=0.8)
            axes.plot(rates, course, color=MODEL, linewidth=1.2)
            # the part after the loss diverges is not shown
            start, least = float(course[0]), float(course.min())
            lowest = min(least, float(np.quantile(losses, 0.1)))
            edges.append((lowest, least + 1.5 * max(start - least, 0.05 * abs(start))))
            if is_number(search.get("chosen")):
                at = float(np.interp(np.log(search["chosen"]), np.log(rates), course))
                axes.plot([search["chosen"]], [at], "o", color=ACCENT, markersize=5, zorder=5)
        if edges:
            low, high = min(edge[0] for edge in edges), max(edge[1] for edge in edges)
            room = (high - low or 1.0) * 0.08
            axes.set_ylim(low - room, high + room)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_major_formatter(lambda value, _: rate(value))
        axes.minorticks_off()
        for tried, losses in drawn:
            texts = [f"Learning rate {rate(at)}: loss {loss:.3g}" for at, loss in zip(tried, losses, strict=True)]
            readable(axes, tried, losses, texts.__getitem__, MOST_READ_OF_MANY)
        axes.set_title(shortened(model, 32), loc="left", fontweight="bold")
        axes.set_xlabel("learning rate")
        axes.locator_params(axis="y", nbins=4)
        return svg(figure, name)
