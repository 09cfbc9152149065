"""The result on the external cohort from `metrics.json`, for the console and the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from casewise.metrics.registry import columns
from casewise.report.context import EXTERNAL, headline_figure, is_number
from casewise.report.formatting import class_name
from casewise.report.tables import verdict
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.evaluation.results import ClassFigures, Drop, Estimate, Results
    from casewise.study.schema import Study

VERDICTS = {"untested": "no_interval", "open": "not_shown"}


@dataclass(frozen=True)
class Recall:
    """A class of the external cohort: how many of its cases were recognised."""

    name: str
    recalled: int
    cases: int


@dataclass(frozen=True)
class PredictedClass:
    """The most common prediction: how many of all cases have it."""

    name: str
    cases: int
    of: int


@dataclass(frozen=True)
class PresentClasses:
    """The classes without an external case, the recall of the others, and the most common prediction."""

    absent: list[str]
    recalls: list[Recall]
    predicted: PredictedClass


@dataclass(frozen=True)
class ExternalResult:
    """The figure of merit of a learner on the external cohort, beside that of the study.

    Attributes:
        code: `not_inside` (undefined in the study), `no_interval` of the difference, `rough`, `worse`, `better` or
            `not_shown` (the interval holds 0).
        metric: the figure of merit, or the first defined metric of the external table where that is undefined.
        undefined: whether the figure of merit is undefined outside.
        classes: None unless a class has no external case.
        cases: those evaluated.
        headline: the headline metrics that are defined outside.
    """

    code: str
    name: str
    metric: str
    undefined: bool
    classes: PresentClasses | None
    cases: int
    figure: Estimate
    inside: float | None
    drop: Drop | None
    headline: dict[str, Estimate]


def external_result(study: Study, results: Results, learner: str, stage: str) -> ExternalResult | None:
    """The result of a learner on the external cohort, beside that of `stage`; None if it was not evaluated.

    Where the figure of merit is undefined outside, such as an AUROC without a case of one class, the first defined
    metric of the external table stands for it. Where sources were left out, the figure of the study is the mean within.
    """
    outcome = study.primary_outcome
    outside = {
        name: figure for name, figure in results.figures(EXTERNAL, learner, outcome).items() if is_number(figure.value)
    }
    kind, n_classes = kind_named(study.kind_of(outcome)), len(study.classes_of(outcome)) or None
    of_table = columns("external", study.kind_of(outcome), n_classes)
    shown = [name for name in dict.fromkeys([kind.merit, *of_table]) if name in outside]
    if not shown:
        return None
    inside = {name: headline_figure(study, results, learner, stage, name).get("value") for name in shown}
    metric = next((name for name in shown if inside[name] is not None), shown[0])
    drop = (results.external_drop or {}).get(learner, {}).get(metric)
    entry = results.classes.get(EXTERNAL, {}).get(learner, {}).get(outcome)
    return ExternalResult(
        code=_code(metric, inside[metric], drop),
        name=study.external_name,
        metric=metric,
        undefined=metric != kind.merit,
        classes=_present_classes(study, entry) if entry and not all(entry.support) else None,
        cases=sum(entry.support) if entry else outside[metric].n_cases,
        figure=outside[metric],
        inside=inside[metric],
        drop=drop,
        headline={name: outside[name] for name in dict.fromkeys([*kind.headline, metric]) if name in shown},
    )


def _code(metric: str, inside: float | None, drop: Drop | None) -> str:
    if inside is None:
        return "not_inside"
    code = verdict(drop.low, drop.high, metric) if drop else "untested"
    return "rough" if drop and drop.rough and code != "untested" else VERDICTS.get(code, code)


def _present_classes(study: Study, entry: ClassFigures) -> PresentClasses:
    names = [class_name(study, study.primary_outcome, name) for name in entry.names]
    confusion = np.asarray(entry.confusion)
    predicted = confusion.sum(axis=0)
    common = int(predicted.argmax())
    return PresentClasses(
        absent=[name for name, support in zip(names, entry.support, strict=True) if not support],
        recalls=[
            Recall(name, int(line[number]), int(line.sum()))
            for number, (name, line) in enumerate(zip(names, confusion, strict=True))
            if line.sum()
        ],
        predicted=PredictedClass(names[common], int(predicted[common]), int(predicted.sum())),
    )
