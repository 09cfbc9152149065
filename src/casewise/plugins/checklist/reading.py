"""What several facts read from the report of a run."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.report.blocks import Block, Cell, Facts, Fold, Table
from casewise.report.context import EXTERNAL, ReportContext, counted_cases, evaluated_on
from casewise.report.formatting import class_name


def tables_headed(blocks: Sequence[Block], head: str) -> list[Table]:
    """The tables of blocks of the report, also of folded ones, whose first column has this heading."""
    shown = [inner for block in blocks for inner in (block.blocks if isinstance(block, Fold) else [block])]
    return [block for block in shown if isinstance(block, Table) and block.columns[0] == head]


def facts_in(blocks: Sequence[Block]) -> list[tuple[str, str]]:
    return [fact for block in blocks if isinstance(block, Facts) for fact in block.facts]


def cell_text(cell: Cell) -> str:
    return f"{cell.text} ({cell.small})" if cell.small else cell.text


def left_out_site(context: ReportContext) -> str:
    """The source that each fold left out; empty if folds are of subjects."""
    how = str(context.splits.get("how") or "")
    return how.removeprefix("leave out ") if how.startswith("leave out ") else ""


def not_known(context: ReportContext) -> str:
    """A sentence where subjects are guessed, or each image is a subject of its own; otherwise empty."""
    own = ": each image counts as a subject" * (context.study.unit == "image")
    return "" if context.study.subjects_known else f" {context.study.not_known}{own}."


def named_classes(context: ReportContext, names: Sequence[str]) -> list[str]:
    """Classes of the primary outcome within a sentence."""
    return [class_name(context.study, context.outcome, name) for name in names]


def evaluated_cases(context: ReportContext, stage: str) -> str:
    """The cases on which the reported model is evaluated, also by class."""
    count = counted_cases(context, context.rows(stage, context.learner))
    entry = context.class_figures(stage, context.learner)
    names = zip(named_classes(context, entry.names), entry.support, strict=True) if entry else ()
    return ": ".join(filter(None, [count, ", ".join(f"{name} ({support:,})" for name, support in names)]))


def place_of(context: ReportContext, stage: str) -> str:
    name = f" {context.study.external_name}" if stage == EXTERNAL else ""
    return f"{evaluated_on(context, stage)}{name}"


def evaluated_sides(context: ReportContext) -> str:
    stages = [stage for stage in [*context.stages, EXTERNAL] if len(context.rows(stage, context.learner))]
    return "".join(f" Evaluated {place_of(context, stage)}: {evaluated_cases(context, stage)}." for stage in stages)


def without_test(context: ReportContext) -> str:
    return "" if context.splits["n"].get("test", {}).get("subjects") else " There is no test set."
