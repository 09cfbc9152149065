"""Figures of the report and of a publication stand alone: nothing is cut, no text lies on another, keys are there."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from casewise.evaluation.figures import Estimate
from casewise.plugins.paper.figures import Sheet
from casewise.report.blocks import Plots
from casewise.report.context import ReportContext
from casewise.report.figures import agreement, classes, cohort, learners, paper
from casewise.report.figures.drawing import Drawing, onto
from casewise.report.page import sections
from tests.figure_layout import faults
from tests.report.shared import flat
from tests.report_contexts import classes as classes_context
from tests.report_contexts import films, in_phases, numbers

LONG = [
    "adenocarcinoma of the left upper lobe",
    "idiopathic_pulmonary_fibrosis",
    "community-acquired pneumonia with effusion",
    "covid",
    "no_finding",
    "tuberculosis",
    "congestive heart failure",
    "metastases",
    "lobar atelectasis",
    "pneumothorax",
    "sarcoidosis",
    "silicosis",
]
JOB: dict[str, Any] = {"model": "net", "best_epoch": 2, "stopped_on": "inner"}


def all_faults(figures: Iterable[tuple[str, Figure | None]]) -> dict[str, list[str]]:
    """The faults of each figure that has any."""
    found = {name: faults(figure) for name, figure in figures if figure is not None}
    assert found
    return {name: own for name, own in found.items() if own}


def plots_of(context: ReportContext) -> list[tuple[str, Figure | None]]:
    blocks = [block for section in sections(context) for block in flat(section.blocks) if isinstance(block, Plots)]
    return [(plot.alt, plot.drawing.figure) for block in blocks for plot in block.plots]


@pytest.mark.parametrize(
    "context",
    [
        lambda: numbers(learners=3, metas=2),
        lambda: numbers(subjects=40, visits=8, learners=1, test=20, names="hospital-of-the-holy-ghost-{:05d}"),
        lambda: numbers(subjects=12, visits=1, learners=1),
        lambda: classes_context(test=30, outside=60, networks=3),
        lambda: in_phases(classes_context("binary", networks=2)),
        lambda: classes_context("ordinal", subjects=100, networks=2),
        lambda: films(subjects=40, test=10),
    ],
    ids=["numbers", "long names", "one visit", "classes", "phases", "grades", "films"],
)
def test_no_figure_of_a_report_is_cut(context: Callable[[], ReportContext]) -> None:
    assert all_faults(plots_of(context())) == {}


def curves(count: int) -> Drawing:
    points, area = np.linspace(0, 1, 30), Estimate(0.8734, 0.7512, 0.9431, 40, 60)
    points_of = [(0.0, 0.0), (1.0, 1.0), (0.2, 0.8)]
    drawn = [classes._Curve(name, points, np.sqrt(points), area, points_of) for name in LONG[:count]]
    return classes.roc(drawn)


def recall_curves(count: int) -> Drawing:
    points, area = np.linspace(0, 1, 30), Estimate(0.8734, 0.7512, 0.9431, 40, 60)
    return classes.precision_recall([classes._RecallCurve(n, points, 1 - points, area, 0.1) for n in LONG[:count]])


def confusion(count: int) -> Drawing:
    return classes.confusion(LONG[:count], np.arange(count**2).reshape(count, count) * 37)


def distribution(values: Any, names: Iterable[str] = (), title: str = "pasi") -> Drawing:
    table = pd.DataFrame({"value": values, "side": ["test" if i % 4 == 0 else "train" for i in range(len(values))]})
    scale = (0, max(len(list(names)) - 1, 72) if not names else len(list(names)) - 1)
    return cohort.distribution(table, "value", scale=scale, title=title, name="a", classes=list(names))


def trajectory(scores: Any, days: Any, title: str = "Subject 1") -> Drawing:
    scores = np.asarray(scores, float)
    change = np.stack([100 * (scores - scores[0]) / max(scores[0], 1)] * 2)
    names = [f"week {day}" for day in days]
    track = agreement.Track(title, names, np.asarray(days, float), scores, scores[::-1], change)
    look: dict[str, Any] = {"days": True, "change": True, "digits": 1, "name": "a", "label": "Severity and area index"}
    return agreement.trajectory(track, top=float(scores.max()), **look)


def learning(model: str, *, phases: bool = False, accurate: bool = False) -> Drawing:
    history = [{"train_loss": 1 / (e + 1), "stop_loss": 1.1 / (e + 1), "phase": e // 20} for e in range(40)]
    if accurate:
        history = [{**entry, "train_accuracy": 0.5, "stop_accuracy": 1.0} for entry in history]
    if not phases:
        history = [{name: value for name, value in entry.items() if name != "phase"} for entry in history]
    return learners.training(model, [{**JOB, "history": history}] * 2, name="a")


def fitted(values: Any) -> Drawing:
    values = np.asarray(values, float)
    rows = pd.DataFrame({"subject": np.arange(len(values)) // 2, "y_true": values, "y_pred": values[::-1]})
    line = paper.fit(rows, confidence=0.95, seed=1)
    label = "Psoriasis area and severity index of the whole body"
    return paper.fitted(rows, line, Estimate(0.5, 0.2, 0.7, 20, 40), scale=(0, 72), label=label)


def compared(draw: Callable[..., Drawing], subjects: int, **look: Any) -> Drawing:
    random = np.random.default_rng(1)
    rows = pd.DataFrame({"subject": [f"hospital-{i % subjects:05d}" for i in range(30)], "visit": "w0"})
    rows["case"], rows["y_true"] = rows["subject"], random.uniform(0, 50, 30)
    rows["y_pred"] = rows["y_true"] + random.normal(0, 4, 30)
    limits = agreement.Limits(0.5, -8.0, 9.0, (-0.5, 1.5), (-10.0, -6.0), (7.0, 11.0))
    return draw(rows, limits, label="Psoriasis area and severity index of the whole body", **look)


def gallery(count: int) -> Drawing:
    pixels = np.full((40, 60, 3), 90, np.uint8)
    titles = [f"meta-learner with intercept: covid-19 pneumonia {i}" for i in range(count)]
    return paper.gallery([paper.Shown(pixels, title, number // 8) for number, title in enumerate(titles)])


DRAWN: dict[str, Callable[[], Drawing]] = {
    "roc": partial(curves, 8),
    "roc of three": partial(curves, 3),
    "recall": partial(recall_curves, 8),
    "confusion": partial(confusion, 3),
    "confusion of many": partial(confusion, 12),
    "classes": lambda: distribution([i % 12 for i in range(60)], LONG),
    "levels": lambda: distribution([i % 5 for i in range(60)], title="Severity of the disease in the whole body"),
    "zeros": lambda: distribution([0.0] * 30),
    "trajectory": partial(trajectory, [20, 10, 0, 0, 0, 0, 0, 0], [0, 7, 28, 56, 84, 112, 140, 168]),
    "trajectory of zeros": partial(trajectory, [0, 0, 0], [0, 1, 700], "a subject with a very long name indeed"),
    "learning": partial(learning, "a network with a very long name of its own"),
    "phases": partial(learning, "net", phases=True, accurate=True),
    "fit": lambda: fitted(np.linspace(0, 50, 40)),
    "fit of zeros": lambda: fitted([0.0] * 10),
    "scatter": partial(compared, agreement.scatter, 6, scale=(0, 72)),
    "differences": partial(compared, agreement.bland_altman, 20, digits=1),
    "gallery": partial(gallery, 11),
}


def part(draw: Callable[[], Drawing], ax: Axes) -> None:
    with onto(ax):
        draw()


@pytest.mark.parametrize("name", [name for name in DRAWN if name != "classes"])  # the report lists classes in tables
def test_no_drawing_of_extreme_values_is_cut(name: str) -> None:
    assert all_faults([(name, DRAWN[name]().figure)]) == {}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(("columns", "count"), [(1, 1), (3, 3)], ids=["column", "page"])
def test_no_figure_of_a_publication_is_cut(name: str, columns: int, count: int) -> None:
    height = 100.0 if name == "confusion of many" else 46.0
    if ("gallery" not in name and "many" not in name) or columns == 1:
        sheet = Sheet(
            [partial(part, DRAWN[name])] * count, "", height, columns=columns, width=170.0 if height > 50 else 0
        )
        pages = sheet.pages()
        assert all_faults((str(number), page) for number, page in enumerate(pages)) == {}
        sizes = [page.get_size_inches() * 25.4 for page in pages]
        assert all(width in (pytest.approx(85), pytest.approx(170)) and high <= 225 for width, high in sizes)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("trajectory", {"reference", "model"}),
        ("learning", {"training", "subjects of early stopping", "epoch kept"}),
        ("levels", {"training", "test", "all together"}),
        ("fit", {"equal", "fitted line", "its band"}),
        ("roc of three", {"chance"}),
    ],
)
def test_a_sheet_has_one_key_and_axes_have_names(name: str, key: set[str]) -> None:
    (figure,) = Sheet([partial(part, DRAWN[name])] * 2, "", 40.0, columns=2).pages()
    (legend,) = figure.legends
    assert key <= {text.get_text().replace("\n", " ") for text in legend.get_texts()}
    assert not any(axes.get_legend() for axes in figure.axes)
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)


def test_curves_of_classes_differ_without_colours() -> None:
    (figure,) = Sheet([partial(part, DRAWN["roc"])], "", 66.0).pages()
    lines = [
        line for line in figure.axes[0].get_lines() if line.get_linestyle() != "None" and len(line.get_xdata()) > 2
    ]
    assert len(lines) == 8
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 8


def test_a_sheet_is_divided_into_pages() -> None:
    pages = Sheet([partial(part, DRAWN["learning"])] * 14, "", 46.0, columns=3).pages()
    assert sum(len(page.axes) for page in pages) == 14
    assert len(pages) > 1


def test_faults_are_found() -> None:
    figure = Figure(figsize=(2, 2))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.plot([0, 1], [0, 1], "o")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.text(0.5, 0.5, "one")
    axes.text(0.5, 0.5, "other")
    found = faults(figure)
    assert any(fault.startswith("cut") for fault in found)
    assert any(fault.startswith("on each other") for fault in found)
    assert any(fault.startswith("a marker") for fault in found)
