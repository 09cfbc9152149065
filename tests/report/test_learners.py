"""The sections on learners: verdicts, published values, the column alone, and sources left out."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from casewise.evaluation import figures as table
from casewise.evaluation.figures import Estimate, Figures
from casewise.evaluation.results import PrimaryContrast
from casewise.pipeline.evaluate import within_shortcut_column
from casewise.report import beside_column
from casewise.report.blocks import Cell, Fold, Heading, Matrix, Table, Text
from casewise.report.context import ReportContext
from casewise.report.sections import learners
from casewise.report.sections.designs import validation
from casewise.report.tables import VERDICTS
from casewise.run_folder import RunFolder
from casewise.study.learners import COVARIATES, JOINED
from tests.report.shared import cells_of, fold_of
from tests.report_contexts import classes, estimate, numbers, with_figures, with_own, with_results, without_truth


@pytest.fixture(scope="module")
def three() -> ReportContext:
    return classes()


def _compared(context: ReportContext, best: str, gaps: dict[str, Estimate], *, stage: str = "") -> ReportContext:
    """The context with these differences from the best learner only."""
    figures, stage = context.metrics.figures, stage or context.stage
    cells = {
        cell: own for cell, own in figures.cells.items() if cell not in figures.contrasts(stage, context.outcome).cells
    }
    cells[table.Cell(stage, best, context.outcome, contrast=best)] = {"mae": Estimate(0.0, None, None, 20, rough=False)}
    cells |= {table.Cell(stage, name, context.outcome, contrast=best): {"mae": gap} for name, gap in gaps.items()}
    return with_results(context, figures=Figures(cells))


def _all_blocks(blocks: Sequence[Any]) -> list[Any]:
    return [each for block in blocks for each in (_all_blocks(block.blocks) if isinstance(block, Fold) else [block])]


def test_each_pair_has_the_verdict_of_its_simultaneous_interval() -> None:
    context = numbers(learners=3)
    best, other, last = sorted(context.learners, key=lambda name: name != context.learner)
    gaps = {other: Estimate(0.5, 0.2, 0.8), last: Estimate(0.5, -0.1, 1.1)}
    context = _compared(context, best, gaps)
    shown, column = learners.learner_table(context, context.stage), f"Against {best}"
    assert [cells_of(shown, name)[column].text for name in (best, other, last)] == ["–", "worse", "no clear difference"]
    assert cells_of(shown, other)[column].small == "+0.5 [0.2, 0.8]"
    assert learners.against(context.write, "kappa", Estimate(-0.5, -2.0, 2.0)).text == VERDICTS["untested"]
    assert learners.against(context.write, "kappa", Estimate(-0.5, -1.5, 2.0)).text == VERDICTS["open"]
    assert [row.name for row in shown.rows if row.mark] == [best]  # type: ignore[union-attr]
    pairs = context.metrics.figures.contrasts(context.stage, context.outcome)
    mirrored = pairs.gap("mae", best, other)
    assert (mirrored.value, mirrored.low, mirrored.high) == (-0.5, -0.8, -0.2)
    assert pairs.gap("mae", other, last) is None
    context = _compared(context, best, {other: Estimate(0.5, None, None)})
    assert cells_of(learners.learner_table(context, context.stage), other)[column] == Cell("not tested")
    cell = table.Cell(context.stage, other, context.outcome)
    same = with_figures(context, {cell: context.figures(context.stage, best)})
    assert cells_of(learners.learner_table(same, context.stage), other)[column] == Cell("the same figures")


def test_the_margin_and_the_gate_are_of_the_stage_of_the_primary_comparison() -> None:
    context = numbers(learners=3)
    best, other, _ = sorted(context.learners, key=lambda name: name != context.learner)
    primary = PrimaryContrast(other, best, "test", "oof", margin=0.5)
    for stage in ("test", "oof"):
        context = _compared(context, best, {other: Estimate(0.1, -0.1, 0.3)}, stage=stage)
    context = with_results(context, primary=primary)
    codes = {"test": "not_worse", "oof": "open"}
    for stage, code in codes.items():
        cell = cells_of(learners.learner_table(context, stage), other)[f"Against {best}"]
        assert cell.text == VERDICTS[code].format(margin="0.5")
        assert learners.is_gated(context, stage) is (stage == "test")
    assert not learners.is_gated(with_results(context, primary=dataclasses.replace(primary, chosen_on="")), "test")
    for compared in (False, True):
        names = [COVARIATES, JOINED] if compared else []
        rows = [context.predictions.assign(model=name) for name in names]
        more = dataclasses.replace(context, predictions=pd.concat([context.predictions, *rows]))
        notes = [block.text for block in _all_blocks(learners.section(more).blocks) if isinstance(block, Text)]
        assert any(learners.EXCEPT_ADDED in note for note in notes) is compared


def test_no_pair_is_shown_with_a_learner_that_a_stage_lacks() -> None:
    context = numbers(learners=3)
    own, *others = sorted(context.learners, key=lambda name: name != context.learner)
    context = with_figures(context, {table.Cell("oof", own, context.outcome): {}})
    context = _compared(context, others[0], {others[1]: Estimate(0.5, 0.2, 0.8)}, stage="oof")
    shown = learners.learner_table(context, "oof")
    assert [head for head in shown.columns if head.startswith("Against")] == [f"Against {others[0]}"]


def test_other_learners_have_tables_of_single_classes_and_none_without_truth(three: ReportContext) -> None:
    blocks = fold_of(learners.section(three), "Class by class").blocks
    assert [type(block) for block in blocks] == [Heading, Table, Matrix] * (len(three.learners) - 1)
    assert learners.section(without_truth(three)) is None


def test_the_auroc_stands_beside_that_of_the_column_and_within_it(three: ReportContext, tmp_path: Path) -> None:
    audit, folder = copy.deepcopy(three.audit or {}), RunFolder(tmp_path / "run")
    audit["findings"][0]["figures"]["by_class"] = {"covid": 0.97, "no_finding": 0.75, "pneumonia": 0.52}
    folder.audit.write(audit)
    cohort: Any = SimpleNamespace(images=three.cohort_images)
    within = within_shortcut_column(three.study, cohort, three.predictions, three.metrics, folder)
    context = with_results(dataclasses.replace(three, audit=audit), within_column=within)
    column = beside_column.beside_column(context)
    by_name = {row.name: row for row in column.rows}
    assert (by_name["covid"].alone, by_name["covid"].verdict) == (0.97, "open")
    # one source has no other class than a single subject's: its area says nothing
    means = {name: row.mean.value if row.mean else None for name, row in by_name.items()}
    assert means["covid"] is None
    assert means["pneumonia"] == pytest.approx(within.groups["nih"].metrics["auroc[pneumonia]"].value)
    counted, _ = beside_column.beside_column_blocks(context)
    assert len(counted.rows) == sum(len(group.classes) for group in within.groups.values())
    group = within.groups[column.values[0]]
    found = group.classes["covid"]
    cells = [f"{found['found']} of {found['rows']}", f"{found['mistaken']} of {group.rows - found['rows']}"]
    assert [cell.text for cell in counted.rows[0].cells][:2] == cells
    count = f"{group.classes['covid']['n_subjects']} of {group.n_subjects} subjects"
    assert by_name["covid"].within[0][1] == count
    figures = dict(context.figures(context.stage, context.learner))
    for label, value, low in (("covid", 0.98, 0.975), ("no_finding", 0.78, 0.76), ("pneumonia", 0.8, None)):
        figures[f"auroc[{label}]"] = dataclasses.replace(figures[f"auroc[{label}]"], value=value, low=low)
    beside = beside_column.beside_column(with_own(context, figures))
    other = beside_column.beside_column(with_results(context, within_column=dataclasses.replace(within, learner="x")))
    assert [row.verdict for row in beside.rows] == ["better", "better", "untested"]
    assert other.values == []
    assert beside_column.beside_column_blocks(dataclasses.replace(context, audit=None)) == []


def test_each_source_left_out_has_its_line(three: ReportContext) -> None:
    undefined = estimate(None, subjects=40, reason="no case is truly covid")
    cell = table.Cell("oof", three.learner, three.outcome, table.LEFT_OUT)
    by_source = {
        cell._replace(group="cohen"): {"accuracy": estimate(0.61, 0.5, 0.7, subjects=45)},
        cell._replace(group="nih"): {"accuracy": estimate(0.7, 0.6, 0.8, subjects=40), "auroc": undefined},
    }
    context = with_figures(three, by_source)
    rows = validation.source_rows(context)
    shown = [(row.name, row.cells[0].text, row.cells[1].value) for row in rows]
    assert shown == [("cohen", "45", 0.61), ("nih", "40", 0.7)]
    auroc = rows[1].cells[1 + validation.source_metrics(context).index("auroc")]
    assert (auroc.text, auroc.small) == ("–", "no case is truly covid")
    assert validation.left_out_section(three) is None
