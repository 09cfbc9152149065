"""Prediction intervals and sets of the shown learner: a section of the report and of the Markdown page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from casewise.report.formatting import interval, number, plain
from casewise.report.tables import Cell, Row, metric_format, percent_cell

if TYPE_CHECKING:
    from casewise.study.schema import Study


def prediction_sets(study: Study, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The sentences' values and the table of the primary outcome; None if the metrics have no such entry."""
    record, main = metrics.get("prediction_sets"), metrics.get("main") or {}
    target = str(main.get("target"))
    entry = (record or {}).get("targets", {}).get(target)
    if not record or not entry:
        return None
    calibration, classes = entry["calibration"], study.classes_of(target)
    by_class = dict(zip(classes, calibration["classes"], strict=True)) if classes else {}
    digits = metric_format(study, target).digits("mae")
    rows: list[tuple[str, Row]] = []
    without: dict[str, int] = {}
    crossed, short = False, []
    for stage, figures in entry["stages"].items():
        crossed = crossed or figures["cross_fitted"]
        without |= {stage: figures["without"]} if figures["without"] else {}
        rows += _rows(stage, figures, digits)
        if falls_short(figures["coverage"], record["level"]):
            short.append(stage)
    low, high = calibration.get("range", (None, None))
    return {
        "learner": record["learner"],
        "level": f"{100 * record['level']:g} %",
        "fewest": record["fewest"],
        "unit": "subject" if study.subjects_known else "image",
        "confidence": f"{100 * study.evaluation.confidence:g} %",
        "classes": bool(classes),
        "subjects": calibration.get("subjects"),
        "half": number(calibration.get("quantile"), digits),
        "range": [number(end, digits) for end in (low, high)],
        "none": not classes and calibration["quantile"] is None,
        "always": [
            (plain(name), of_class["subjects"]) for name, of_class in by_class.items() if of_class["quantile"] is None
        ],
        "all_always": bool(by_class) and all(of_class["quantile"] is None for of_class in by_class.values()),
        "cross_fitted": crossed,
        "tested": any(stage == "test" for stage, _ in rows),
        "without": without,
        "short": short,
        "rows": rows,
    }


def falls_short(figure: Mapping[str, Any] | None, level: float) -> bool:
    """Whether the interval of a coverage lies below the level, and is not rough.

    >>> falls_short({"value": 0.7, "low": 0.6, "high": 0.8, "rough": False}, 0.9), falls_short(None, 0.9)
    (True, False)
    """
    if not figure or figure["rough"] or figure["high"] is None:
        return False
    return bool(figure["high"] < level)


def _rows(stage: str, figures: Mapping[str, Any], digits: int) -> list[tuple[str, Row]]:
    """A line for a stage and, where there are classes, one for each class; none without any interval."""
    if figures["coverage"] is None:
        return []
    subjects = Cell(number(figures["coverage"]["n_subjects"], 0))
    if "size" not in figures:
        cells = [subjects, percent_cell(figures["coverage"]), _mean_cell(figures["width"], digits)]
        return [(stage, Row("", cells))]
    size, single = _mean_cell(figures["size"], 1), percent_cell(figures["single"])
    lines = [(stage, Row("", [subjects, percent_cell(figures["coverage"]), size, single]))]
    for name, figure in figures["by_class"].items():
        count = number(figure["n_subjects"] if figure else 0, 0)
        cells = [Cell(count), percent_cell(figure), Cell(""), Cell("")]
        lines.append((stage, Row(plain(name), cells, inner=True)))
    return lines


def _mean_cell(figure: Mapping[str, Any], digits: int) -> Cell:
    """A mean width or size with its interval.

    >>> _mean_cell({"value": 1.5, "low": 1.25, "high": 1.75, "rough": True}, 2).small
    '[1.25, 1.75] rough'
    """
    ends = interval(figure, digits)
    small = f"{ends} rough" if ends and figure.get("rough") else ends
    return Cell(number(figure["value"], digits), small, float(figure["value"]))
