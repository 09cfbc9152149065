"""Where each source was left out of training: the figures within each, and why pooled ones are no finding."""

from __future__ import annotations

from typing import Any

from casewise.evaluation.headline import FITTED
from casewise.report.context import ReportContext, is_number
from casewise.report.formatting import interval, listed, number
from casewise.report.sections.measures import bounds, measure_of, written
from casewise.report.sections.tables import Cell
from casewise.targets import kind_named

MOST_SOURCES = 6
SHOWN = {
    "regression": ("ccc", "mae"),
    "classification": ("auroc", "accuracy"),
    "ordinal": ("kappa_quadratic", "accuracy"),
}
_OF_CHANCE = {"auroc": " (0.5 is chance)", "kappa_quadratic": " (0 is chance)", "ccc": " (1 is perfect, 0 is none)"}
_OF_NUMBERS = {"ccc": "concordance (CCC)", "mae": "mean error"}


def is_mixed(material: ReportContext, stage: str = "") -> bool:
    """Whether the figures of a stage (that of the page by default) are pooled over sources that were left out."""
    return (stage or material.stage) == "oof" and bool(material.metrics.get("within"))


def pooled(material: ReportContext) -> str:
    """The sentence on figures over all sources."""
    return (
        f"Figures pooled over each {column(material)} mix networks and {plural(column(material))} and are not to be "
        f"read as {kind_named(material.kind).means}."
    )


def column(material: ReportContext) -> str:
    """What was left out, as a reader says it."""
    return (material.study.split.leave_out or "source").replace("_", " ")


def plural(noun: str) -> str:
    """A plain plural.

    >>> plural("source"), plural("city")
    ('sources', 'cities')
    """
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"


def mean_of(material: ReportContext, learner: str, metric: str) -> dict[str, Any]:
    """A learner's figure averaged over the sources: value, sources and those where it is undefined."""
    found: dict[str, Any] = (material.metrics.get("within") or {}).get(learner, {}).get(metric) or {}
    return found


def sentence(material: ReportContext) -> str:
    """The shown learner within each source, in words."""
    name, learner = column(material), material.learner
    said = [f"Each {name} was predicted by networks that never saw it, and is judged alone."]
    for metric in SHOWN[material.kind]:
        found = mean_of(material, learner, metric)
        title = _OF_NUMBERS[metric] if material.kind == "regression" else measure_of(metric).words
        if not found or found["value"] is None:
            said.append(f"In no single {name} is the {title} defined.")
            continue
        over = f"on average over {len(found['sources'])} {plural(name)}" if len(found["sources"]) > 1 else "in one"
        lacking = f"; it is undefined in {listed(found['undefined'])}" if found["undefined"] else ""
        said.append(
            f"There the {title} is {_written(material, metric, found['value'])}{_OF_CHANCE.get(metric, '')} {over}: "
            f"{each(material, metric)}{lacking}."
        )
    return " ".join([*said, pooled(material)])


def each(material: ReportContext, metric: str, *, intervals: bool = True) -> str:
    """The shown learner's figure in every source; of many sources the least and the greatest."""
    learner = material.learner
    figures = {
        source: material.metrics["left_out"][source][learner][metric]
        for source in mean_of(material, learner, metric).get("sources") or []
    }
    if len(figures) > MOST_SOURCES:
        low, high = (choose(figures, key=lambda s: figures[s]["value"]) for choose in (min, max))
        figures = {low: figures[low], high: figures[high]}
        return " to ".join(f"{_written(material, metric, f['value'])} ({source})" for source, f in figures.items())
    told = []
    for source, found in figures.items():
        text = _bounds(material, metric, found) if intervals else ""
        rough = ", rough" if text and found.get("rough") else ""
        told.append(
            f"{source} {_written(material, metric, found['value'])}{f' (interval {text}{rough})' if text else ''}"
        )
    return listed(told)


def tile(material: ReportContext, metric: str) -> Cell | None:
    """One of the four figures: the mean over the sources, with each in small print."""
    found = mean_of(material, material.learner, metric)
    if not found or not is_number(found.get("value")):
        return None
    small = f"mean of {len(found['sources'])}: {each(material, metric, intervals=False)}"
    return Cell(_written(material, metric, found["value"]), small, float(found["value"]))


def fitted_note(learners: list[str], name: str) -> str:
    """What is to be known of fitted combinations among the learners; empty without one.

    >>> fitted_note(["net", "mean_of_learners"], "source")
    ''
    """
    names = [learner for learner in learners if learner.startswith(FITTED)]
    if not names:
        return ""
    return (
        f"{listed(names)}: used on one {name}, but fitted on predictions of the others by networks that had learned "
        f"from that {name}; its figures are not those of a {name} never seen."
    )


def _written(material: ReportContext, metric: str, value: Any) -> str:
    if material.kind == "regression":
        return number(value, 2)
    return written(metric, value, digits=0 if measure_of(metric).percent else 2)


def _bounds(material: ReportContext, metric: str, found: dict[str, Any]) -> str:
    if material.kind == "regression":
        return interval(found, 2, words=True)
    return bounds(metric, found, digits=0 if measure_of(metric).percent else 2, words=True)
