"""The AUROC beside what the audit predicts from a column of the table alone, and within each value of that column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from casewise.audit.columns import leading_column
from casewise.report.context import ReportContext, is_number
from casewise.report.formatting import class_name, plain

if TYPE_CHECKING:
    from casewise.study.schema import Study

MOST_SHOWN = 4


def section(context: ReportContext) -> dict[str, Any] | None:
    """The values for the headline's learner; None without such a column, or where sources were left out in turn."""
    if context.by_site:
        return None
    return beside_column(context.study, context.audit, context.metrics, context.stage, context.learner)


def beside_column(
    study: Study, audit: Mapping[str, Any] | None, metrics: Mapping[str, Any], stage: str, learner: str
) -> dict[str, Any] | None:
    """A row for each class (of two the positive one): the AUROC, that of the column alone, and those within its values.

    `not_above`: the classes for which the interval of the learner's AUROC does not lie above the AUROC of the column
    alone. `groups` are the first values of the column, `of` the number of all; `more` are not shown. `counts` are the
    subjects with the class and all subjects of each value; None in runs without these numbers.
    """
    target = study.primary_outcome
    column = leading_column(audit, target, study.audit.columns)
    figures = metrics.get("metrics", {}).get(stage, {}).get(learner, {}).get(target, {})
    if column is None or not is_number((figures.get("auroc") or {}).get("value")):
        return None
    within = metrics.get("within_column") or {}
    same = all(within.get(key) == value for key, value in (("target", target), ("stage", stage), ("learner", learner)))
    within = within if same and within.get("column") == column["name"] else {}
    groups = within.get("groups") or {}
    shown = list(groups)[:MOST_SHOWN]
    positive = study.positive_of(target)
    rows = []
    for label in [positive] if positive is not None else study.classes_of(target):
        key = "auroc" if positive is not None else f"auroc[{label}]"
        mean = (within.get("means") or {}).get(key) or {}
        rows.append(
            {
                "name": class_name(study, target, str(label)),
                "figure": figures.get(key) or {},
                "alone": column["by_class"].get(str(label)),
                "mean": mean.get("value"),
                "count": len(mean.get("groups") or []),
                "counts": [_counts(groups[group], str(label)) for group in shown],
                "each": [groups[group]["metrics"].get(key) or {} for group in shown],
                "within": [(plain(group), groups[group]["metrics"][key]) for group in mean.get("groups") or []],
            }
        )
    both = [row for row in rows if is_number(row["alone"]) and is_number(row["figure"].get("value"))]
    if not both:
        return None
    return {
        "column": plain(column["name"]),
        "learner": learner,
        "rows": rows,
        "stated": both,
        "not_above": [row["name"] for row in both if not _above(row["figure"], row["alone"])],
        "averaged": [row for row in rows if is_number(row["mean"])],
        "within": bool(groups),
        "counted": any(count for row in rows for count in row["counts"]),
        "groups": [plain(group) for group in shown],
        "of": len(groups),
        "more": len(groups) - len(shown),
    }


def _above(figure: Mapping[str, Any], alone: float) -> bool:
    """Whether the interval of a figure lies above the value; not so without an interval.

    >>> _above({"value": 0.95, "low": 0.93}, 0.92), _above({"value": 0.95, "low": None}, 0.7)
    (True, False)
    """
    low = figure.get("low")
    return is_number(low) and float(low or 0.0) > alone


def _counts(group: Mapping[str, Any], label: str) -> tuple[int, int] | None:
    of_class = (group.get("classes") or {}).get(label)
    return (of_class["n_subjects"], group["n_subjects"]) if of_class else None
