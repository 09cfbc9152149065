"""`casewise plan-size RUN`: a page with one figure, a table as CSV, and lines for the terminal, from a pilot run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.console import Show
from casewise.metrics.registry import metric_of
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.readers.pilot import DRAWS, ExpectedInterval, SizePlan, size_plan
from casewise.report.blocks import FOLDER, Block, Cell, Facts, Plot, Plots, Row, Section, Table, Text, plain_page
from casewise.report.context import SIDES, report_title
from casewise.report.figures.drawing import ACCENT, MODEL, SOFT, Drawing, canvas, limits, svg
from casewise.report.formatting import MISSING, capital, counted, is_number, number, signed
from casewise.report.tables import metric_format
from casewise.run_folder.folder import check_page, write_page
from casewise.study.learners import learner_name, the_learner

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = "plan-size.html"
COLUMNS = (
    *("quantity", "metric", "subjects", "readers", "value", "low", "high", "width"),
    *("measured_width", "lowest", "highest", "extrapolated"),
)
# As on the page of the audit, there is no list of contents beside it.
STYLE = "\n@media (min-width: 1100px) { .page { display: block; } }\n"
WIDTHS = (
    "Expected by number of subjects, each of whom influences the figure as one of this run does. Measured: the "
    "mean width in random subsets of the subjects of this run. * More subjects than in this run."
)
EXTRAPOLATION = (
    "* Beyond the subjects of this run, widths are an extrapolation: they hold for the same model, and for subjects, "
    "sites, readers and numbers of cases like those of this run. A model that is trained on more subjects also gets "
    "better, which the widths do not contain."
)
NEEDED = "Number of subjects for which the expected interval is as narrow as wanted."
CURVE = (
    f"A baseline that is fitted again on some of the training subjects ({DRAWS} draws) and evaluated on the same "
    "held-out cases. The interval is by held-out subject; the range is that of the draws."
)
GAIN = (
    "Twice as many training subjects brought the gain from half of them to all. The next doubling seldom brings more; "
    "beyond the subjects of this run, a learning curve is an extrapolation. Networks that are trained whole may gain "
    "more."
)
READERS = (
    "The mean of several readers: its reliability, and the distance within which 95 % of such means lie from that of "
    "all readers. Readers are interchangeable here, and other readers may agree better or worse."
)


@dataclass(frozen=True)
class WrittenPlan:
    """The sizes of a study, the page, the table, and lines of at most 80 columns for the terminal."""

    plan: SizePlan
    page: Path
    table: Path
    lines: list[str]


def plan_size(
    run_folder: Path,
    output: Path | None,
    widths: Sequence[float],
    show: Show,
    *,
    readings: pd.DataFrame | None = None,
) -> WrittenPlan:
    """Write the page of the sizes of a study like this run, and the table beside it.

    Args:
        output: the page, which ends in `.html`; by default `plan-size.html` in the run folder.
        widths: wanted widths of the interval of the primary metric.
        readings: a readings table; by default the columns of readers of the study.

    Raises:
        CasewiseError: there is no finished run, it has too few subjects, or a file cannot be written.
    """
    page = output or run_folder / PAGE
    check_page(page, ".html")
    run = FinishedRun.open(run_folder)
    run.files.check_reported()
    plan = size_plan(run, widths, show, readings=readings)
    style = (FOLDER / "report.css").read_text() + STYLE
    text = plain_page(
        f"How many cases: {report_title(plan.study)}", sections(plan), kind="Size of a study", style=style, footer=""
    )
    csv = write_page(page.with_suffix(".csv"), size_table(plan).to_csv(index=False, lineterminator="\n"), ".csv")
    return WrittenPlan(plan, write_page(page, text, ".html"), csv, terminal_lines(plan))


def size_table(plan: SizePlan) -> pd.DataFrame:
    """Every figure of the plan: a row each, with the columns of `COLUMNS` that it has."""
    of_run = {each.metric: each for each in plan.expected if each.subjects == plan.subjects}
    rows: list[dict[str, object]] = [
        {
            "quantity": "expected interval",
            "metric": each.metric,
            "subjects": each.subjects,
            "low": each.low,
            "high": each.high,
            "width": each.width,
            "measured_width": each.measured,
            "extrapolated": each.extrapolated,
        }
        for each in plan.expected
    ]
    rows += [
        {
            "quantity": "subjects needed",
            "metric": plan.metric,
            "subjects": count,
            "width": width,
            "extrapolated": count is None or count > of_run[plan.metric].subjects,
        }
        for width, count in plan.needed.items()
    ]
    rows += [
        {
            "quantity": f"{plan.baseline} on {point.share:.0%} of subjects",
            "metric": plan.metric,
            "subjects": point.subjects,
            "value": point.value,
            "low": point.low,
            "high": point.high,
            "width": point.high - point.low,
            "lowest": point.lowest,
            "highest": point.highest,
            "extrapolated": False,
        }
        for point in plan.curve
    ]
    rows += [
        {
            "quantity": "reliability of the mean",
            "readers": each.readers,
            "value": each.reliability.value,
            "low": each.reliability.low,
            "high": each.reliability.high,
            "width": 2 * each.half_width,
            "extrapolated": False,
        }
        for each in plan.readers
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _digits(plan: SizePlan, metric: str) -> int:
    points = metric_format(plan.study, plan.study.primary_outcome).points
    return metric_of(metric).digits or (3 if points is None else points)


def _range(low: float, high: float, digits: int) -> str:
    return f"{number(low, digits)} to {number(high, digits)}" if is_number(low) and is_number(high) else MISSING


def _subjects(each: ExpectedInterval) -> str:
    return f"{each.subjects:,}{'*' if each.extrapolated else ''}"


def sections(plan: SizePlan) -> list[Section]:
    """The sections of the page."""
    facts = [
        ("Model", learner_name(plan.learner)),
        ("Evaluated", SIDES[plan.stage]),
        (capital(plan.study.unit) + "s in this run", f"{plan.subjects:,}"),
    ]
    metrics = list(dict.fromkeys(each.metric for each in plan.expected))
    blocks: list[Block] = [Facts(facts), Plots(_plots(plan))]
    for metric in metrics:
        digits, title = _digits(plan, metric), metric_of(metric).title
        rows = [
            Row(
                _subjects(each),
                [
                    Cell(_range(each.low, each.high, digits)),
                    Cell(number(each.width, digits)),
                    Cell(number(each.measured, digits)),
                ],
                mark=each.subjects == plan.subjects,
            )
            for each in plan.expected
            if each.metric == metric
        ]
        heads = ["Subjects", f"{title}, expected interval", "Width", "Measured"]
        blocks.append(Table(heads, rows, f"{title}. {WIDTHS}"))
    blocks.append(Text(EXTRAPOLATION, note=True))
    if plan.needed:
        needed = [Row(f"{width:g}", [Cell(_needed(plan, count))]) for width, count in plan.needed.items()]
        blocks.append(Table([f"Width of {metric_of(plan.metric).title}", "Subjects"], needed, NEEDED))
    shown = [Section("widths", "Width of the interval", blocks)]
    if plan.curve:
        digits = _digits(plan, plan.metric)
        points = [
            Row(
                f"{point.share:.0%}",
                [
                    Cell(number(point.subjects, 0)),
                    Cell(number(point.value, digits), f"[{_range(point.low, point.high, digits)}]"),
                    Cell(_range(point.lowest, point.highest, digits)),
                ],
            )
            for point in plan.curve
        ]
        heads = ["Share", "Training subjects", metric_of(plan.metric).title, "Range of draws"]
        gained = f"{signed(plan.gain[0], digits)} [{_range(*plan.gain[1:], digits)}]"
        facts = [("Baseline", learner_name(plan.baseline)), ("Gain from half of the subjects to all", gained)]
        text = [Table(heads, points, CURVE), Facts(facts), Text(GAIN, note=True)]
        shown.append(Section("learning", "Learning curve", text))
    else:
        shown.append(Section("learning", "Learning curve", [Text(f"There is no learning curve: {plan.no_curve}")]))
    if plan.readers:
        means = [
            Row(
                str(each.readers),
                [
                    Cell(
                        number(each.reliability.value, 2), _interval_text(each.reliability.low, each.reliability.high)
                    ),
                    Cell(f"± {number(each.half_width, 2)}"),
                ],
            )
            for each in plan.readers
        ]
        shown.append(
            Section("readers", "Number of readers", [Table(["Readers", "Reliability", "Distance"], means, READERS)])
        )
    return shown


def _interval_text(low: float | None, high: float | None) -> str:
    return f"[{number(low, 2)}, {number(high, 2)}]" if is_number(low) and is_number(high) else ""


def _needed(plan: SizePlan, count: int | None) -> str:
    return "more than 100,000" if count is None else f"{count:,}{'*' if count > plan.subjects else ''}"


def _plots(plan: SizePlan) -> list[Plot]:
    """The interval of the primary metric by number of subjects and, if there is one, the learning curve."""
    title = metric_of(plan.metric).title
    own = [each for each in plan.expected if each.metric == plan.metric and is_number(each.width)]
    plots = []
    if own:
        alt = f"Expected interval of {title} for {own[0].subjects} to {own[-1].subjects} subjects."
        plots.append(Plot(widths_figure(own, plan.subjects, title), alt, "Expected interval; dashed: extrapolated."))
    if plan.curve:
        low, high = plan.curve[0], plan.curve[-1]
        alt = f"{title} of {the_learner(plan.baseline)} from {low.value:.2f} to {high.value:.2f}."
        plots.append(Plot(curve_figure(plan, title), alt, "Learning curve of a baseline on frozen features."))
    return plots


def _subject_axis(axes: Axes, sizes: Iterable[float], label: str) -> None:
    axes.set_xscale("log")
    ticks = sorted(set(sizes))
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)


def widths_figure(expected: Sequence[ExpectedInterval], subjects: int, title: str) -> Drawing:
    """The expected interval of one metric by number of subjects, dashed beyond those of the run."""
    sizes = np.array([each.subjects for each in expected])
    ends = np.array([(each.low, each.high) for each in expected])
    with canvas(440, 280, (52, 42, 12, 10)) as (figure, axes):
        axes.fill_between(sizes, *ends.T, color=MODEL, alpha=0.08, linewidth=0)
        for side, style in ((sizes <= subjects, "-"), (sizes >= subjects, (0, (4, 3)))):
            axes.plot(sizes[side], ends[side], color=MODEL, linewidth=1.6, linestyle=style)
        axes.axvline(subjects, color=SOFT, linewidth=1)
        axes.text(subjects, 1, " this run", transform=axes.get_xaxis_transform(), va="top", fontsize=9, color=SOFT)
        axes.set(ylabel=title, ylim=limits(ends))
        _subject_axis(axes, sizes, "subjects")
        return svg(figure, "widths")


def curve_figure(plan: SizePlan, title: str) -> Drawing:
    """The metric of the baseline by number of training subjects, with intervals and the range of the draws."""
    points = np.array([(p.subjects, p.value, p.low, p.high, p.lowest, p.highest) for p in plan.curve])
    sizes, values, low, high, lowest, highest = points.T
    with canvas(440, 280, (52, 42, 12, 10)) as (figure, axes):
        axes.vlines(sizes, low, high, color=MODEL, linewidth=1.6)
        axes.vlines(sizes, lowest, highest, color=ACCENT, linewidth=5, alpha=0.6)
        axes.plot(sizes, values, "o-", color=MODEL, markersize=5, linewidth=1)
        axes.set(ylabel=title, ylim=limits(points[:, 1:]))
        _subject_axis(axes, sizes, "training subjects; orange: range of the draws")
        return svg(figure, "learning")


def terminal_lines(plan: SizePlan) -> list[str]:
    """The figures of the plan as lines of at most 80 columns."""
    lines = [f"{plan.subjects:,} {plan.study.unit}s, {learner_name(plan.learner)[:40]}, {SIDES[plan.stage]}", ""]
    lines.append(f"{'subjects':>10}  {'metric':<16}{'expected interval':<24}{'width':>8}{'measured':>10}")
    for each in plan.expected:
        digits = _digits(plan, each.metric)
        ends, width, measured = _range(each.low, each.high, digits), each.width, each.measured
        title = metric_of(each.metric).title[:15]
        lines.append(
            f"{_subjects(each):>10}  {title:<16}{ends:<24}{number(width, digits):>8}{number(measured, digits):>10}"
        )
    lines.append("* an extrapolation: more subjects than in this run")
    title, digits = metric_of(plan.metric).title, _digits(plan, plan.metric)
    for width, count in plan.needed.items():
        lines.append(f"{_needed(plan, count):>18} subjects for a width of {width:g} ({title})")
    if plan.curve:
        lines += ["", f"{learner_name(plan.baseline)[:50]} on some of the training subjects", ""]
        lines.append(f"{'share':>10}{'subjects':>10}  {title[:20]:<10}{'interval':<20}{'range of draws':<20}")
        for point in plan.curve:
            value, ends = number(point.value, digits), _range(point.low, point.high, digits)
            drawn = _range(point.lowest, point.highest, digits)
            lines.append(f"{point.share:>10.0%}{point.subjects:>10,.0f}  {value:<10}{ends:<20}{drawn:<20}")
        lines.append(
            f"  from half of the subjects to all: {signed(plan.gain[0], digits)} ({_range(*plan.gain[1:], digits)})"
        )
    elif plan.no_curve:
        lines += ["", f"no learning curve: {plan.no_curve}"]
    for mean in plan.readers:
        reliability, readers = number(mean.reliability.value, 2), f"mean of {counted(mean.readers, 'reader')}"
        lines.append(f"  {readers:<20}reliability {reliability}, within ± {number(mean.half_width, 2)} of all readers")
    return lines
