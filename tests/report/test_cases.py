"""The largest errors and the input of the model, by their values."""

import dataclasses

from casewise.report.blocks import Card, Cards, Facts, Text
from casewise.report.context import ReportContext
from casewise.report.formatting import number, probability
from casewise.report.sections import cases, preparation
from tests.report.shared import blocks_of


def cards_of(context: ReportContext) -> list[Card]:
    return [card for block in blocks_of(cases.section(context), Cards) for card in block.cards]


def test_errors_are_wrong_and_the_surest_first(report_of_classes: ReportContext) -> None:
    cards, rows = cards_of(report_of_classes), report_of_classes.headline_rows
    wrong = rows[rows["y_true"] != rows["y_pred"]]
    assert len(cards) == min(len(wrong), cases.MOST_CONFIDENT)
    facts = [dict(card.blocks[0].facts) for card in cards if isinstance(card.blocks[0], Facts)]
    assert all(each["Reference"] != each["Predicted"] for each in facts)
    assert all(card.pictures for card in cards)
    surest = max(row[f"p{int(row['y_pred'])}"] for _, row in wrong.iterrows())
    assert facts[0][f"Probability of {facts[0]['Predicted']}"] == probability(surest)
    right = report_of_classes.predictions.assign(y_pred=lambda t: t["y_true"])
    assert cases.section(dataclasses.replace(report_of_classes, predictions=right)) is None


def test_the_furthest_predictions_come_first_with_their_parts(report_of_numbers: ReportContext) -> None:
    first, rows = cards_of(report_of_numbers)[0], report_of_numbers.headline_rows
    worst = rows.loc[(rows["y_pred"] - rows["y_true"]).abs().idxmax()]
    facts, folded = first.blocks
    (parts,) = folded.blocks
    assert facts.facts[:2] == [("Model", number(worst["y_pred"], 1)), ("Reference", number(worst["y_true"], 1))]
    assert parts.columns == ["", "upper", "trunk", "lower"]
    assert [row.name for row in parts.rows[:2]] == ["erythema", "induration"]
    assert all(" / " in cell.text for row in parts.rows[:4] for cell in row.cells)
    assert len(first.pictures) == 3
    named = report_of_numbers.predictions.assign(image="folder/a.png")
    _, file, _ = cards_of(dataclasses.replace(report_of_numbers, predictions=named))[0].blocks
    assert file == Text("a.png", note=True)


def test_all_images_behind_a_mean_are_shown_and_numbered(report_of_numbers: ReportContext) -> None:
    study = report_of_numbers.study
    single = study.model_copy(update={"panels": study.panels.model_copy(update={"grid": "1x1"})})
    context = dataclasses.replace(report_of_numbers, study=single)
    first, panels = cards_of(context)[0], context.panels
    row = context.headline_rows.iloc[0].to_dict()
    tiles = [n for of_panel in panels.loc[panels["case"] == row["case"], "tiles"] for n in of_panel if n >= 0]
    names = [name for name, _ in preparation.case_pictures(context, row)]
    assert len(names) == len(first.pictures) == min(len(tiles), preparation.MOST_PANELS) > 3
    assert names[:2] == ["upper 1 of 4", "upper 2 of 4"]


def test_panels_follow_their_photographs(report_of_numbers: ReportContext) -> None:
    section = preparation.section(report_of_numbers)
    facts, _, photographs, panel = section.blocks[:4]
    assert dict(facts.facts)["Panel"] == "2 × 2 tiles; empty slots are black"
    assert (len(photographs.pictures), len(panel.pictures)) == (4, 1)
    unreadable = preparation.section(dataclasses.replace(report_of_numbers, photograph=lambda _: None))
    assert unreadable is not None
