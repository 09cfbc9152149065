"""Calibration of the shown learner by class, or of a number, and the decision curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from casewise.evaluation.calibration import FEW_OF_CLASS
from casewise.report.context import is_number
from casewise.report.figures import calibration as draw
from casewise.report.formatting import MISSING, interval, number, plain
from casewise.report.tables import Cell, Row, metric_format
from casewise.report.terms import terms_of

if TYPE_CHECKING:
    from casewise.report.context import ReportContext
    from casewise.study.schema import Study

MOST_CLASSES = 8
LIKELY = 0.7
DIGITS, BENEFIT_DIGITS = 2, 3


def section(context: ReportContext) -> dict[str, Any] | None:
    """The values of the section, with drawings; None if the run has no record of calibration."""
    values = calibration(context.study, context.metrics)
    if values is None:
        return None
    label = terms_of(context).label
    for number_of_stage, stage in enumerate(values["stages"]):
        drawn = [entry for entry in stage["entries"] if entry["curve"]][:MOST_CLASSES]
        stage["drawings"] = [
            draw.curve(
                entry["curve"],
                title=plain(entry["name"]) or label,
                percent=bool(entry["name"]),
                name=f"calibration{number_of_stage}{position}",
            )
            for position, entry in enumerate(drawn)
        ]
        stage["decision_drawings"] = [
            draw.decisions(entry["points"], title=plain(entry["name"]), name=f"decision{number_of_stage}{position}")
            for position, entry in enumerate(stage["decisions"][:MOST_CLASSES])
        ]
    return values


def calibration(study: Study, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tables of each stage; None if the metrics have no such entry, or nothing in it."""
    by_stage = metrics.get("calibration")
    if not by_stage:
        return None
    main = metrics["main"]
    points = metric_format(study, str(main["target"])).points
    stages = []
    for stage, by_name in by_stage.items():
        entries = [{"name": name, "curve": entry["curve"]} for name, entry in by_name.items()]
        decided = (metrics.get("decision_curves") or {}).get(stage, {})
        stages.append(
            {
                "stage": stage,
                "entries": entries,
                "rows": [row(name, entry, points) for name, entry in by_name.items()],
                "by_fold": any(entry["slope_by_fold"] for entry in by_name.values()),
                "example": example(by_name),
                "shape": shape(next(iter(by_name.values()))) if len(by_name) == 1 else "",
                "decisions": [{"name": name, "points": points_of} for name, points_of in decided.items()],
                "decision_rows": [
                    decision_row(name, point, several=len(decided) > 1)
                    for name, points_of in decided.items()
                    for point in points_of
                    if point["declared"]
                ],
            }
        )
    return {
        "stages": stages,
        "learner": main["learner"],
        "few": FEW_OF_CLASS,
        "classes": bool(study.classes_of(str(main["target"]))),
        "decisions": any(stage["decisions"] for stage in stages),
        "confidence": f"{100 * study.evaluation.confidence:g} %",
    }


def row(name: str, entry: Mapping[str, Any], points: int | None) -> Row:
    """Slope and intercept with their intervals, and the range of the slope within single folds."""
    digits = DIGITS if points is None else max(points, DIGITS)
    cells = [line_cell(entry[key], digits) for key in ("slope", "intercept")]
    if entry["slope_by_fold"]:
        values = [value for value in entry["slope_by_fold"].values() if value is not None]
        undefined = len(entry["slope_by_fold"]) - len(values)
        ends = list(dict.fromkeys(number(end, DIGITS) for end in (min(values), max(values)))) if values else [MISSING]
        cells.append(Cell(" to ".join(ends), f"undefined in {undefined}" if undefined else ""))
    return Row(plain(name) or "all", cells)


def line_cell(figure: Mapping[str, Any], digits: int) -> Cell:
    """A figure with its interval, which may be rough; the reason where either is undefined.

    >>> line_cell({"value": 0.5, "low": 0.2, "high": 0.9, "rough": True}, 2)
    Cell(text='0.50', small='[0.20, 0.90] rough', value=0.5)
    """
    if not is_number(figure["value"]):
        return Cell(MISSING, figure.get("reason") or "")
    ends = interval(figure, digits)
    small = f"{ends} rough" if ends and figure.get("rough") else ends or figure.get("reason", "")
    return Cell(number(figure["value"], digits), small, float(figure["value"]))


def shape(entry: Mapping[str, Any]) -> str:
    """What the interval of the slope shows; empty without one, or with a rough one.

    `extreme`: below 1; `moderate`: above 1; `none`: it includes 0; `reversed`: below 0; else `unclear`, including 1.

    >>> shape({"slope": {"value": 0.5, "low": 0.3, "high": 0.8}}), shape({"slope": {"value": None, "low": None}})
    ('extreme', '')
    """
    low, high = entry["slope"].get("low"), entry["slope"].get("high")
    if low is None or high is None or entry["slope"].get("rough"):
        return ""
    if low <= 0:
        return "reversed" if high < 0 else "none"
    return "extreme" if high < 1 else "moderate" if low > 1 else "unclear"


def example(by_name: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """One point of the first curve that shows something: a prediction, and the share or mean reference there.

    It is the point nearest to 70 %, of a number to three quarters of the curve. None without a curve, and where its
    band is wider than half of what probabilities, or the predictions of the curve, can differ: it would say nothing.

    >>> points = [{"predicted": x, "observed": x / 2, "low": 0.1, "high": 0.5} for x in (0.2, 0.6, 0.9)]
    >>> example({"early_stage": {"curve": points, "slope": {"rough": False}}})["predicted"]
    0.6
    """
    for name, entry in by_name.items():
        points = [point for point in entry["curve"] if all(map(is_number, point.values()))]
        if not points:
            continue
        ends = [point["predicted"] for point in (points[0], points[-1])]
        aim = LIKELY if name else ends[0] + 0.75 * (ends[1] - ends[0])
        point = min(points, key=lambda point: abs(point["predicted"] - aim))
        if point["high"] - point["low"] > 0.5 * (1.0 if name else ends[1] - ends[0]):
            continue
        return {**point, "name": plain(name), "rough": bool(entry["slope"].get("rough"))}
    return None


def decision_row(name: str, point: Mapping[str, Any], *, several: bool) -> Row:
    """The net benefit at a declared threshold: of the model, of treating all, and their difference.

    Where the model treats all or none, in every resample, the interval of a difference would have no width.
    """
    cells = [line_cell(figure, BENEFIT_DIGITS) for figure in (point["model"], point["treat_all"], point["over_all"])]
    for position, key in ((2, "over_all"), (0, "model")):
        figure = point[key]
        if figure["value"] == figure["low"] == figure["high"] == 0:
            cells[position] = Cell(number(0.0, BENEFIT_DIGITS), {"over_all": "treats all", "model": "treats none"}[key])
    threshold = f"{100 * point['threshold']:.3g} %"
    return Row(f"{plain(name)}, {threshold}" if several else threshold, cells)
