"""The largest errors of the shown learner: of numbers the furthest predictions, of classes the most confident ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from casewise.report import formatting as fmt
from casewise.report.blocks import Block, Card, Cards, Cell, Facts, Fold, Picture, Row, Section, Table, Text
from casewise.report.context import ReportContext, case_title, evaluated_on, terms_of
from casewise.report.sections import preparation

FIRST, MOST_NUMBERS, MOST_CONFIDENT, MOST_CLASSES, MOST_TARGETS, MOST_REGIONS = 2, 6, 8, 8, 8, 8
NOTE = "The {which} {place}, with the model’s input. Look for wrong labels and for features other than the disease."
SUREST = "most confident wrong predictions"


def section(context: ReportContext) -> Section | None:
    """The largest errors, each with its input; None where there are none."""
    cards = _high_confidence_errors(context) if context.classes else _largest_errors(context)
    if not cards:
        return None
    which, rest = SUREST if context.classes else "largest errors", cards[FIRST:]
    note = Text(NOTE.format(which=which, place=evaluated_on(context, context.stage)))
    more = Fold(f"The next {fmt.counted(len(rest), 'error')}", [Cards(rest)])
    heading = "High-confidence errors" if context.classes else "Largest errors"
    return Section("worst", heading, [note, Cards(cards[:FIRST]), more], page_only=True)


def _largest_errors(context: ReportContext) -> list[Card]:
    """The predictions furthest from the reference, each with the predictions of its parts."""
    rows, digits = context.headline_rows, terms_of(context).digits
    error = (rows["y_pred"] - rows["y_true"]).abs()
    cards = []
    for row in rows.loc[error.sort_values(ascending=False, kind="stable").index[:MOST_NUMBERS]].to_dict("records"):
        facts = [
            ("Model", fmt.number(row["y_pred"], digits)),
            ("Reference", fmt.number(row["y_true"], digits)),
            ("Difference", f"{fmt.signed(row['y_pred'] - row['y_true'], digits)} points"),
        ]
        cards.append(_card(context, row, [Facts(facts), _file(row), Fold("Other targets", _parts(context, row))]))
    return cards


def _high_confidence_errors(context: ReportContext) -> list[Card]:
    """The wrong predictions, the most confident first, with the probabilities of the likeliest classes."""
    study, rows, names = context.study, context.headline_rows, context.classes
    columns = [f"p{i}" for i in range(len(names))]
    if rows.empty or not set(columns) <= set(rows.columns):
        return []
    wrong = rows[rows["y_pred"] != rows["y_true"]].reset_index(drop=True)
    values = wrong[columns].to_numpy(float)
    confidence = values[range(len(wrong)), wrong["y_pred"].to_numpy(int)]
    phrases = [fmt.class_name(study, context.outcome, name) for name in names]
    cards = []
    for i in np.argsort(-confidence, kind="stable")[:MOST_CONFIDENT]:
        row = wrong.loc[int(i)].to_dict()
        truth, predicted = int(row["y_true"]), int(row["y_pred"])
        likeliest = sorted(range(len(names)), key=lambda k: -values[i, k])[:MOST_CLASSES]
        shown = sorted({*likeliest[: MOST_CLASSES - 2], truth, predicted, *likeliest[:1]})
        facts = [("Reference", phrases[truth]), ("Predicted", phrases[predicted])]
        facts += [(f"Probability of {fmt.plain(names[k])}", fmt.probability(values[i, k])) for k in shown]
        cards.append(_card(context, row, [Facts(facts), _file(row)]))
    return cards


def _file(row: Mapping[str, Any]) -> Text:
    """The name of the file, where each image is predicted."""
    return Text(Path(str(row.get("image") or "")).name, note=True)


def _card(context: ReportContext, row: Mapping[str, Any], blocks: list[Block]) -> Card:
    shown = getattr(preparation.module_of(context.study), "case_pictures", preparation.case_pictures)
    pictures = [
        Picture(uri, "Input of the model" + (f": {name}" if name else ""), name) for name, uri in shown(context, row)
    ]
    return Card(
        case_title(context, row),
        pictures,
        blocks,
    )


def _parts(context: ReportContext, row: Mapping[str, Any]) -> list[Block]:
    """`model / reference` of every other target of this case, a line for each; empty without other targets."""
    study, table = context.study, context.final
    own = table["model"].eq(context.learner) & table["stage"].eq(context.stage) & table["case"].eq(row["case"])
    others = table[own & table["target"].ne(context.outcome)]
    targets = [name for name in [*study.targets, *study.scores] if name in set(others["target"])][:MOST_TARGETS]
    if not targets:
        return []
    declared = [region for region in study.regions if region in set(others["region"])]
    regions = declared + [region for region in dict.fromkeys(others["region"]) if region not in declared]
    regions = regions[:MOST_REGIONS]
    means = [others[others["region"] == region].groupby("target")[["y_pred", "y_true"]].mean() for region in regions]
    lines = [
        Row(fmt.display_name(study, name), [_both(context, of_region, name) for of_region in means]) for name in targets
    ]
    return [Table(["", *(str(region) or "whole case" for region in regions)], lines, "Model / reference")]


def _both(context: ReportContext, means: pd.DataFrame, target: str) -> Cell:
    if target not in means.index:
        return Cell("")
    targets = context.study.targets
    whole = target in targets and targets[target].integer
    model, physician = means.loc[target, "y_pred"], means.loc[target, "y_true"]
    return Cell(f"{fmt.number(model, 1)} / {fmt.number(physician, 0 if whole else 1)}")
