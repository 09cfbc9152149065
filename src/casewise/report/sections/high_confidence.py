"""Confident errors: the cases whose wrong class was given the highest probability."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casewise.report.context import ReportContext
from casewise.report.formatting import class_name
from casewise.report.sections.cases import panels_of
from casewise.report.sections.measures import written
from casewise.report.sections.terminology import place_of

MOST_SHOWN = 8
MOST_CLASSES = 8


@dataclass(frozen=True)
class Confident:
    """One case: what was recorded, what was named and how surely, and the probability of each class."""

    place: str
    file: str
    truth: str
    named: str
    probability: str
    of_truth: str
    panels: list[tuple[str, str]]
    probabilities: list[tuple[str, str, int, str]]


def confident_errors(material: ReportContext) -> dict[str, Any] | None:
    """The wrong cases of the shown learner, the surest first; None where nothing is judged or nothing is wrong."""
    study, rows = material.study, material.chosen
    names = study.classes_of(study.primary_outcome)
    columns = [f"p{i}" for i in range(len(names))]
    if rows.empty or not set(columns) <= set(rows.columns):
        return None
    wrong = rows[rows["y_pred"] != rows["y_true"]].reset_index(drop=True)
    if wrong.empty:
        return None
    values = wrong[columns].to_numpy(float)
    given = values[range(len(wrong)), wrong["y_pred"].to_numpy(int)]
    order = (-given).argsort(kind="stable")[:MOST_SHOWN]
    plain = [name.replace("_", " ") for name in names]
    spoken = [class_name(study, study.primary_outcome, name) for name in names]
    found = []
    for i in order:
        row = wrong.loc[int(i)].to_dict()
        truth, predicted = int(row["y_true"]), int(row["y_pred"])
        role = {truth: "recorded", predicted: "named"}
        likeliest = sorted(range(len(names)), key=lambda k: -values[i, k])[:MOST_CLASSES]
        shown = sorted({*likeliest[: MOST_CLASSES - 2], truth, predicted, *likeliest[:1]})
        found.append(
            Confident(
                place_of(row),
                Path(str(row.get("image") or "")).name,
                spoken[truth],
                spoken[predicted],
                percent(values[i, predicted]),
                percent(values[i, truth]),
                panels_of(material, row),
                [(plain[k], percent(values[i, k]), round(100 * values[i, k]), role.get(k, "")) for k in shown],
            )
        )
    return {"cases": found, "wrong": len(wrong), "total": len(rows)}


def percent(share: float) -> str:
    """A probability; what is not certain is never written as certain.

    >>> percent(0.9996), percent(0.0002), percent(0.5)
    ('> 99 %', '< 1 %', '50 %')
    """
    if 0.995 <= share < 1:
        return "> 99 %"
    return "< 1 %" if 0 < share < 0.005 else written("accuracy", share, digits=0)
