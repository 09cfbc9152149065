"""What a split by image gives, as published studies split, beside the study's own split by subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from casewise.metrics.registry import metric_of
from casewise.report.blocks import Row
from casewise.report.context import ReportContext, has_interval, is_number
from casewise.report.figures.drawing import ACCENT, MODEL
from casewise.report.figures.learners import Series, forest
from casewise.report.tables import metric_format
from casewise.report.target_kind_sections import kind_report
from casewise.study.learners import learner_name

if TYPE_CHECKING:
    import pandas as pd

MOST_LEARNERS = 16


def section(context: ReportContext) -> dict[str, Any] | None:
    """The figures by subject and by image, learner by learner; None where the study was not split by image as well."""
    entry = context.metrics.get("image_split")
    if not entry:
        return None
    by_image = (entry.get("metrics") or {}).get(context.stage) or {}
    names = [name for name in context.learners if name in by_image and context.figures(context.stage, name)]
    names.sort(key=lambda name: name != context.learner)
    columns = context.columns("image_split")
    metrics = [metric for metric in columns if any(metric in figures_by_image(context, name) for name in names)]
    write = metric_format(context.study, context.outcome)
    rows = []
    for name in names[:MOST_LEARNERS]:
        for split_by, figures in (
            ("subject", context.figures(context.stage, name)),
            ("image", figures_by_image(context, name)),
        ):
            cells = [write.cell(metric, figures.get(metric)) for metric in metrics]
            rows.append(
                (
                    split_by,
                    Row(learner_name(name) if split_by == "subject" else "", cells, mark=name == context.learner),
                )
            )
    if not rows:
        return None
    first = kind_report(context.kind).image_split
    series = [
        Series("split by subject", {n: context.figures(context.stage, n).get(first) or {} for n in names}, MODEL, "o"),
        Series(
            "split by image",
            {n: figures_by_image(context, n).get(first) or {} for n in names},
            ACCENT,
            "D",
            face="white",
        ),
    ]
    chance = commonest_share(context) if first == "accuracy" else None
    points = ", points" if first == "mae" else ""
    return {
        "rows": rows,
        "columns": metrics,
        "metric": first,
        "figure": forest(
            names[:MOST_LEARNERS],
            series,
            label=f"{write.title(first)}{points}",
            name="image-split",
            chance=chance,
            percent=write.in_percent(first),
        ),
        "pair": pair(context, first),
        "belief": belief(context),
        "chance": chance,
        "images": entry.get("images", 0),
        "unit_differs": context.study.level_of(context.outcome) != "image",
        "copies": context.study.panels.offline_copies,
        "left_out": max(0, len(names) - MOST_LEARNERS),
    }


def figures_by_image(context: ReportContext, learner: str) -> dict[str, Any]:
    """The figures of the primary outcome by a split by image."""
    metrics = (context.metrics.get("image_split") or {}).get("metrics") or {}
    figures: dict[str, Any] = metrics.get(context.stage, {}).get(learner, {}).get(context.outcome, {})
    return figures


def commonest_share(context: ReportContext) -> float | None:
    """The share of the commonest class among the evaluated cases: the accuracy of always predicting it."""
    truth = context.headline_rows["y_true"]
    return float(truth.value_counts(normalize=True).iloc[0]) if len(truth) and context.classes else None


def pair(context: ReportContext, metric: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """A figure of the shown learner by subject and by image; None where one of the two is unknown."""
    by_subject = context.metric(context.stage, context.learner, metric)
    other = figures_by_image(context, context.learner).get(metric) or {}
    return (by_subject, other) if by_subject and is_number(other.get("value")) else None


def belief(context: ReportContext) -> dict[str, Any]:
    """The reason to use the figures by subject.

    `code`: `covers_chance` or `below_chance` (nothing is shown for new patients; only for a metric with a chance
    level), `similar` both ways, or `plain`.
    """
    entry, merit = context.metrics.get("image_split") or {}, context.merit
    chance = metric_of(merit).chance
    both = pair(context, merit)
    by_subject = both[0] if both else context.metric(context.stage, context.learner, merit)
    code = "plain"
    if by_subject and has_interval(by_subject):
        if chance is not None and by_subject["low"] <= chance:
            code = "covers_chance" if by_subject["high"] >= chance else "below_chance"
        elif both and by_subject["low"] <= both[1]["value"] <= by_subject["high"]:
            code = "similar"
    return {
        "code": code,
        "metric": merit,
        "chance": chance,
        "own": by_subject,
        "by_image": both[1] if both else None,
        "on_both_sides": entry.get("subjects_on_both_sides", 0),
        "subjects": entry.get("subjects", 0),
        "one_value_each": one_value_each(context.predictions, context.outcome),
    }


def one_value_each(predictions: pd.DataFrame | None, target: str) -> bool:
    """Whether each subject has only one recorded value, so that recognising a subject is enough to be correct.

    >>> import pandas as pd
    >>> rows = pd.DataFrame({"subject": ["a", "a", "b"], "target": "dx", "stage": "oof", "y_true": [1.0, 1.0, 0.0]})
    >>> one_value_each(rows, "dx"), one_value_each(rows.assign(y_true=[1.0, 0.0, 0.0]), "dx")
    (True, False)
    """
    if predictions is None:
        return False
    rows = predictions[(predictions["target"] == target) & (predictions["stage"] != "external")]
    values = rows.dropna(subset=["y_true"]).groupby("subject")["y_true"]
    # truths that passed through single precision may differ in their last digits
    differ = (values.max() - values.min()) > 1e-5 * values.max().abs().clip(lower=1)
    return bool(len(differ)) and not differ.any()
