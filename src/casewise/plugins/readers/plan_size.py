"""`casewise plan-size RUN`: a page with one figure, a table as CSV, and lines for the terminal, from a pilot run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.console import Show, shown_at
from casewise.metrics.registry import metric_of
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.readers.pilot import DRAWS, MOST_SUBJECTS, ExpectedInterval, SizePlan, size_plan
from casewise.report.blocks import Block, Facts, Plot, Plots, Row, Section, Table, Text, plain_page
from casewise.report.context import SIDES, report_title
from casewise.report.figures.drawing import ACCENT, MODEL, SOFT, Drawing, canvas, limits, svg
from casewise.report.formatting import MISSING, capital, interval, is_number, number, percent, plural
from casewise.report.tables import MetricFormat, metric_format
from casewise.run_folder.folder import check_page, write_page
from casewise.study.learners import learner_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE, COLUMNS_SHOWN = "plan-size.html", 80
COLUMNS = (
    *("quantity", "metric", "subjects", "readers", "value", "low", "high", "width", "measured", "extrapolated"),
    *("lowest", "highest"),
)
WIDTHS = (
    "{title}: expected interval by number of subjects, each of whom influences it as one of this run does. Measured: "
    "the mean width in random subsets of the subjects of this run."
)
EXTRAPOLATION = (
    "* More subjects than in this run: an extrapolation. It holds for the same model, and for subjects, sites, readers "
    "and numbers of cases as in this run. A model that is trained on more subjects also gets better; these widths do "
    "not include that."
)
NEEDED = "Number of subjects for which the expected interval is as narrow as wanted."
CURVE = (
    f"The {{baseline}}, fitted again on some of the training subjects ({DRAWS} draws) and evaluated on the same "
    "held-out cases. Intervals are by held-out subject."
)
GAIN = (
    "Gain from half of the training subjects to all: {gain}. The next doubling seldom brings more, and beyond this run "
    "a learning curve is an extrapolation. A network with all layers trained may gain more."
)
READERS = (
    "The mean of several readers: its reliability, and the distance within which 95 % of such means lie from the mean "
    "of all readers. Readers are interchangeable here; others may agree better or worse."
)


@dataclass(frozen=True)
class _WrittenPlan:
    """The sizes of a study, the page, the table, and a text for the terminal in at most 80 columns."""

    plan: SizePlan
    page: Path
    table: Path
    text: str


def plan_size(
    run_folder: Path,
    output: Path | None = None,
    widths: Sequence[float] = (),
    show: Show | None = None,
) -> _WrittenPlan:
    """Write the page of the sizes of a study like this run, and the table next to it.

    Args:
        output: the page, which ends in `.html`; by default `plan-size.html` in the run folder.
        widths: wanted widths of the interval of the primary metric.

    Raises:
        CasewiseError: there is no finished run, it has too few subjects, or a file cannot be written.
    """
    page = output or run_folder / PAGE
    check_page(page, ".html")
    plan = size_plan(FinishedRun.open(run_folder), widths, shown_at(show))
    shown, title = sections(plan), f"How many cases: {report_title(plan.study)}"
    csv = write_page(
        page.with_suffix(".csv"),
        _size_table(plan).to_csv(index=False, lineterminator="\n", float_format="%.6g"),
        ".csv",
    )
    write_page(page, plain_page(title, shown, kind="Size of a study"), ".html")
    return _WrittenPlan(plan, page, csv, "\n".join(line for section in shown for line in _text_lines(section)))


def _size_table(plan: SizePlan) -> pd.DataFrame:
    """Every figure of the plan, a row each."""
    learning = [
        {**vars(point), "metric": plan.metric, "width": point.high - point.low, "extrapolated": False}
        for point in plan.curve
    ]
    rows = {
        "expected interval": [{**vars(size), "width": size.width} for size in plan.expected],
        "subjects needed": [
            {
                "metric": plan.metric,
                "subjects": count,
                "width": width,
                "extrapolated": (count or np.inf) > plan.subjects,
            }
            for width, count in plan.needed.items()
        ],
        f"learning curve of {plan.baseline}": learning,
        "reliability of the mean": [{**mean.reliability, "readers": mean.readers} for mean in plan.readers],
        "distance from all readers": [{"readers": mean.readers, "value": mean.half_width} for mean in plan.readers],
    }
    named = [{"quantity": name, **row} for name, of_name in rows.items() for row in of_name]
    return pd.DataFrame(named, columns=list(COLUMNS))


def _ends(form: MetricFormat, metric: str, low: float, high: float) -> str:
    return form.bounds(metric, {"low": low, "high": high}, words=True) or MISSING


def sections(plan: SizePlan) -> list[Section]:
    """The sections of the page."""
    form, title = metric_format(plan.study, plan.study.primary_outcome), metric_of(plan.metric).title
    subjects = capital(plural(plan.study.unit))
    facts = [("Model", learner_name(plan.learner)), ("Evaluated", SIDES[plan.stage])]
    blocks: list[Block] = [
        Facts([*facts, (f"{subjects} in this run", f"{plan.subjects:,}")]),
        Plots(list(_plots(plan))),
    ]
    for metric in dict.fromkeys(size.metric for size in plan.expected):
        rows = [
            Row(
                f"{size.subjects:,}{'*' if size.extrapolated else ''}",
                [
                    _ends(form, metric, size.low, size.high),
                    *(form.text(metric, width) for width in (size.width, size.measured)),
                ],
                mark=size.subjects == plan.subjects,
            )
            for size in plan.expected
            if size.metric == metric
        ]
        heads, caption = [subjects, "Interval", "Width", "Measured"], WIDTHS.format(title=metric_of(metric).title)
        blocks.append(Table(heads, rows, caption))
    blocks.append(Text(EXTRAPOLATION, note=True))
    if plan.needed:
        needed = {
            f"{width:g}": f"more than {MOST_SUBJECTS:,}" if size is None else f"{size:,}{'*' * (size > plan.subjects)}"
            for width, size in plan.needed.items()
        }
        rows = [Row(width, [size]) for width, size in needed.items()]
        blocks.append(Table([f"Width of {title}", subjects], rows, NEEDED))
    learning: list[Block] = [Text(f"There is no learning curve: {plan.no_curve}")]
    if plan.curve:
        rows = [
            Row(
                percent(point.share),
                [
                    *(number(point.subjects, 0), form.text(plan.metric, point.value)),
                    _ends(form, plan.metric, point.low, point.high),
                    _ends(form, plan.metric, point.lowest, point.highest),
                ],
            )
            for point in plan.curve
        ]
        gain = form.difference(plan.metric, dict(zip(("value", "low", "high"), plan.gain, strict=True)))
        heads, caption = (
            ["Share", subjects, title, "Interval", "Draws"],
            CURVE.format(baseline=learner_name(plan.baseline)),
        )
        text = GAIN.format(gain=" ".join([gain.text, gain.small]))
        learning = [Table(heads, rows, caption), Text(text, note=True)]
    shown = [Section("widths", "Width of the interval", blocks), Section("learning", "Learning curve", learning)]
    if plan.readers:
        rows = [
            Row(
                str(mean.readers),
                [
                    *(number(mean.reliability.value, 2), interval(mean.reliability, 2, words=True) or MISSING),
                    f"± {number(mean.half_width, 2)}",
                ],
            )
            for mean in plan.readers
        ]
        table = Table(["Readers", "Reliability", "Interval", "Distance"], rows, READERS)
        shown.append(Section("readers", "Number of readers", [table]))
    return shown


def _text_lines(section: Section) -> Iterator[str]:
    """The tables and texts of a section for the terminal."""
    yield from ("", section.heading)
    for block in section.blocks:
        if isinstance(block, Facts):
            yield from wrap(", ".join(f"{name.lower()}: {value}" for name, value in block.facts), COLUMNS_SHOWN)
        elif isinstance(block, Text):
            yield from wrap(block.text, COLUMNS_SHOWN)
        elif isinstance(block, Table):
            lines = [list(block.columns), *([row.name, *(cell.text for cell in row.cells)] for row in block.rows)]
            widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
            yield from ("", *wrap(block.caption, COLUMNS_SHOWN))
            for line in lines:
                yield "  " + "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))


def _plots(plan: SizePlan) -> Iterator[Plot]:
    """The interval of the primary metric by number of subjects and, if there is one, the learning curve."""
    title = metric_of(plan.metric).title
    own = [size for size in plan.expected if size.metric == plan.metric and is_number(size.width)]
    if own:
        alt = f"Expected interval of {title} for {own[0].subjects} to {own[-1].subjects} subjects."
        yield Plot(_widths_figure(own, plan.subjects, title), alt, "Expected interval; dashed: extrapolated.")
    if plan.curve:
        first, last = plan.curve[0].value, plan.curve[-1].value
        alt = f"{title} of the {learner_name(plan.baseline)} from {first:.2f} to {last:.2f}."
        yield Plot(_curve_figure(plan, title), alt, "Learning curve with intervals; orange: the range of the draws.")


def _with_sizes(axes: Axes, sizes: Sequence[float], label: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)


def _widths_figure(expected: Sequence[ExpectedInterval], subjects: int, title: str) -> Drawing:
    """The expected interval of one metric by number of subjects, dashed beyond the run's number."""
    sizes, ends = np.array([size.subjects for size in expected]), np.array([(size.low, size.high) for size in expected])
    with canvas(440, 280, (52, 42, 12, 10)) as (figure, axes):
        axes.fill_between(sizes, *ends.T, color=MODEL, alpha=0.08, linewidth=0)
        for side, style in ((sizes <= subjects, "solid"), (sizes >= subjects, "dashed")):
            axes.plot(sizes[side], ends[side], color=MODEL, linewidth=1.6, linestyle=style)
        axes.axvline(subjects, color=SOFT, linewidth=1)
        axes.text(subjects, 1, " this run", transform=axes.get_xaxis_transform(), va="top", fontsize=9, color=SOFT)
        axes.set(ylabel=title, ylim=limits(ends))
        _with_sizes(axes, sizes.tolist(), "subjects")
        return svg(figure, "widths")


def _curve_figure(plan: SizePlan, title: str) -> Drawing:
    """The metric of the baseline by number of training subjects, with intervals and the range of the draws."""
    points = np.array([(p.subjects, p.value, p.low, p.high, p.lowest, p.highest) for p in plan.curve])
    sizes, values, low, high, lowest, highest = points.T
    with canvas(440, 280, (52, 42, 12, 10)) as (figure, axes):
        axes.vlines(sizes, low, high, color=MODEL, linewidth=1.6)
        axes.vlines(sizes, lowest, highest, color=ACCENT, linewidth=5, alpha=0.6)
        axes.plot(sizes, values, "o-", color=MODEL, markersize=5, linewidth=1)
        axes.set(ylabel=title, ylim=limits(points[:, 1:]))
        _with_sizes(axes, sizes.tolist(), "training subjects")
        return svg(figure, "learning")
