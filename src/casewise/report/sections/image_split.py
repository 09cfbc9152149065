"""What the published way of splitting would have claimed, beside the study's own figures, and which to believe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from casewise.report.context import ReportContext, is_number
from casewise.report.figures.image_split import BY_IMAGE, BY_SUBJECT, side_by_side
from casewise.report.formatting import counted, digits_for, interval, number
from casewise.report.sections.measures import bounds, measure_cell, measure_of, written
from casewise.report.sections.tables import TITLES, Cell, Row, figure_cell
from casewise.report.sections.terminology import Words

if TYPE_CHECKING:
    import pandas as pd

SHOWN = {
    "regression": ("mae", "ccc", "pcc"),
    "classification": ("accuracy", "auroc", "sensitivity", "specificity"),
    "ordinal": ("accuracy", "kappa_quadratic", "auroc"),
}
# Of every figure of merit, what guessing gives.
CHANCE = {"auroc": 0.5, "kappa_quadratic": 0.0, "ccc": 0.0}
MOST_LEARNERS = 16


def section(material: ReportContext) -> dict[str, Any] | None:
    """The figures by subject and by image, learner by learner; None where the study was not split by image as well."""
    told = material.metrics.get("claimed")
    if not told:
        return None
    stage, words = material.stage, Words(material)
    by_image = (told.get("metrics") or {}).get(stage) or {}
    names = [
        name for name in material.learners if name in by_image and material.figures(stage, name, _outcome(material))
    ]
    names.sort(key=lambda name: name != material.learner)
    metrics = [m for m in SHOWN[material.kind] if any(m in claimed(material, name) for name in names)]
    rows = []
    for name in names[:MOST_LEARNERS]:
        own, other = material.figures(stage, name, _outcome(material)), claimed(material, name)
        cells = [[_cell(material, metric, figures.get(metric)) for metric in metrics] for figures in (own, other)]
        rows.append(Row(name, [Cell("subject"), *cells[0]], mark=name == material.learner))
        rows.append(Row("", [Cell("image"), *cells[1]]))
    if not rows:
        return None
    merit = metrics[0]
    title = TITLES[merit] if material.kind == "regression" else measure_of(merit).title
    percent = material.kind != "regression" and measure_of(merit).percent
    figures = {
        BY_SUBJECT: {name: material.figures(stage, name, _outcome(material)).get(merit) or {} for name in names},
        BY_IMAGE: {name: claimed(material, name).get(merit) or {} for name in names},
    }
    chance = commonest(material) if merit == "accuracy" else None
    return {
        "rows": rows,
        "heads": [
            "Learner",
            "Split by",
            *(TITLES[m] if material.kind == "regression" else measure_of(m).title for m in metrics),
        ],
        "claim": claim(material),
        "believe": believe(material),
        "figure": side_by_side(
            names[:MOST_LEARNERS],
            figures,
            label=f"{title}{', points' if merit == 'mae' else ''}",
            chance=chance,
            percent=percent,
            alt=f"{title} of each learner by subject and by image. {claim(material)}",
        ),
        "chance": written("accuracy", chance, digits=0) if chance is not None else "",
        "side": words.side,
        "units": _units(material, told, words),
        "copies": material.study.panels.offline_copies,
        "left_out": max(0, len(names) - MOST_LEARNERS),
    }


def claimed(material: ReportContext, learner: str) -> dict[str, Any]:
    """The figures of the main outcome that a split by image would have claimed."""
    metrics = (material.metrics.get("claimed") or {}).get("metrics") or {}
    found: dict[str, Any] = metrics.get(material.stage, {}).get(learner, {}).get(_outcome(material), {})
    return found


def commonest(material: ReportContext) -> float | None:
    """The share of the commonest class among those judged: what always naming it gives."""
    truth = material.chosen["y_true"]
    return float(truth.value_counts(normalize=True).iloc[0]) if len(truth) and material.kind != "regression" else None


def claim(material: ReportContext) -> str:
    """What would have been claimed of the shown learner, and what is so; empty where one of the two is unknown."""
    metric = "mae" if material.kind == "regression" else "accuracy"
    own, other = _both(material, metric)
    if not own or not other:
        return ""
    name = "a mean error" if metric == "mae" else "an accuracy"
    return (
        f"Split by image, {material.learner} would have claimed {name} of {_told(material, metric, other)}; split by "
        f"subject it is {_told(material, metric, own)}."
    )


def believe(material: ReportContext) -> str:
    """Which of the two to believe, and why."""
    told = material.metrics.get("claimed") or {}
    both = f"{told.get('subjects_on_both_sides', 0):,} of {counted(told.get('subjects', 0), 'subject')}"
    text = (
        "The figures by subject: they are of people the networks had never seen, as a new patient is. In the split by "
        f"image {both} stand on both sides, and {memory(material.predictions, _outcome(material))}."
    )
    merit = "ccc" if material.kind == "regression" else material.merit
    own, other = _both(material, merit)
    title = "CCC" if merit == "ccc" else measure_of(merit).words
    if own and is_number(own.get("low")) and own["low"] <= CHANCE[merit]:
        # Wholly below chance is no more of a success than around it.
        verb = "covers" if own["high"] >= CHANCE[merit] else "does not exceed"
        return (
            f"{text} By subject, the interval of the {title} ({interval(own, 2, words=True)}) {verb} what guessing "
            f"gives ({CHANCE[merit]:g}): that anything learned here holds for a new patient is not shown."
        )
    if own and other and is_number(own.get("low")) and own["low"] <= other["value"] <= own["high"]:
        return (
            f"{text} Here the {title} comes out about the same both ways "
            f"({_told(material, merit, other)} by image, {_told(material, merit, own)} by subject)."
        )
    return text


def memory(predictions: pd.DataFrame | None, target: str) -> str:
    """What it brings to know a subject again: all, if everything recorded of each subject is one and the same value.

    >>> import pandas as pd
    >>> rows = pd.DataFrame({"subject": ["a", "a", "b"], "target": "dx", "stage": "oof", "y_true": [1.0, 1.0, 0.0]})
    >>> memory(rows, "dx"), memory(rows.assign(y_true=[1.0, 0.0, 0.0]), "dx")
    ('to know a subject again is enough to be right', 'to know a subject again helps to be right')
    """
    enough = False
    if predictions is not None:
        rows = predictions[(predictions["target"] == target) & (predictions["stage"] != "external")]
        values = rows.dropna(subset=["y_true"]).groupby("subject")["y_true"]
        # truths that passed through single precision may differ in their last digits
        apart = (values.max() - values.min()) > 1e-5 * values.max().abs().clip(lower=1)
        enough = bool(len(apart)) and not apart.any()
    return f"to know a subject again {'is enough' if enough else 'helps'} to be right"


def judged_apart(unit: str, images: int) -> str:
    """That by subject something else is counted than by image."""
    return (
        f"By subject a {unit} is judged as a whole; by image each of {images:,} images is, as the published way has it."
    )


def _both(material: ReportContext, metric: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """A figure of the shown learner by subject and by image, where it is known."""
    other = claimed(material, material.learner).get(metric) or {}
    own = material.metric(material.stage, material.learner, metric)
    return own, other if is_number(other.get("value")) else None


def _told(material: ReportContext, metric: str, found: dict[str, Any]) -> str:
    if metric == "mae":
        digits = digits_for(material.study, metric, _outcome(material))
        text, ends = f"{number(found['value'], digits)} points", interval(found, digits, words=True)
    else:
        text, ends = written(metric, found["value"], digits=0), bounds(metric, found, digits=0, words=True)
    return f"{text} ({ends})" if ends else text


def _outcome(material: ReportContext) -> str:
    return material.study.primary_outcome


def _cell(material: ReportContext, metric: str, found: dict[str, Any] | None) -> Cell:
    if material.kind == "regression":
        return figure_cell(found, digits_for(material.study, metric, _outcome(material)))
    return measure_cell(metric, found)


def _units(material: ReportContext, told: dict[str, Any], words: Words) -> str:
    """What is counted on either side, where it is not the same; a caption's sentence."""
    if material.study.level_of(_outcome(material)) == "image":
        return ""
    return judged_apart(words.noun, told.get("images", 0))
