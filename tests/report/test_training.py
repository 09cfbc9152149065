"""The sections on training and on the split by image, and evidence that nothing was learned."""

import dataclasses
from collections.abc import Iterable, Sequence

import pytest

from casewise.plugins.published import image_split_section as image_split
from casewise.report.blocks import Block, Fold, Row
from casewise.report.context import ReportContext, unlearned
from casewise.report.figures import drawing
from casewise.report.figures import learners as draw
from tests.report.shared import first_table
from tests.report_contexts import classes, in_phases, split_by_image, with_results


@pytest.fixture(scope="module")
def plain() -> ReportContext:
    return classes("binary", test=30, networks=2)


@pytest.fixture(scope="module")
def two(plain: ReportContext) -> ReportContext:
    return split_by_image(in_phases(plain), 0.985)


def rows_of(blocks: Iterable[Block]) -> list[Row]:
    return list(first_table(blocks).rows)


def curve(context: ReportContext) -> str:
    jobs = [job for job in context.jobs if job["model"] == context.study.backbones[0]]
    return str(draw.training("net", jobs, name="a").svg("x"))


def test_curves_mark_the_phases_and_show_accuracy(two: ReportContext, plain: ReportContext) -> None:
    with_both, before = curve(two), curve(plain)
    for part in (">accuracy<", ">phase 2<", ">80 %<"):
        assert part in with_both
        assert part not in before
    assert with_both.count("stroke-dasharray") == 2  # one change of phase, in both panels
    assert "stroke-dasharray" not in before
    alone = curve(in_phases(plain, stop="none"))
    assert drawing.MODEL not in alone  # no subjects decide when to stop
    assert drawing.ACCENT not in alone


def test_a_split_by_image_stands_beside_the_figures_by_subject(two: ReportContext) -> None:
    section = image_split.section(two)
    fold = next(block for block in section.blocks if isinstance(block, Fold))
    own, by_image = rows_of(fold.blocks)[:2]
    assert own.cells[0].value == two.metrics.figures.of("test", two.learner, two.outcome)["accuracy"].value
    assert (by_image.cells[0].text, by_image.cells[0].small) == ("98.5 %", "[96.5, 99.5]")
    same, judged = image_split.same_values(two)
    assert same == judged
    rows = two.predictions.copy()
    case = rows.loc[rows["visit"] == "2", "case"].iloc[0]
    rows.loc[rows["case"] == case, "y_true"] = 1 - rows.loc[rows["case"] == case, "y_true"]
    assert image_split.same_values(dataclasses.replace(two, predictions=rows)) == (same - 1, judged)


def unlearned_by(context: ReportContext, bad: Sequence[str], *, folds: int = 5) -> tuple[str, int, int] | None:
    """The evidence where the networks of these backbones (of the first folds) never beat guessing."""
    guesses = [0.01 if job["model"] in bad and job["fold"] <= folds else 2.0 for job in context.jobs]
    jobs = [job | {"guess_loss": loss} for job, loss in zip(context.jobs, guesses, strict=True)]
    found = unlearned(dataclasses.replace(context, jobs=jobs))
    return (found.whose, found.count, found.of) if found else None


def test_nothing_is_learned_where_half_of_the_networks_are_no_better_than_guessing(
    report_of_classes: ReportContext,
) -> None:
    alone, three = classes(networks=1), report_of_classes
    assert unlearned_by(alone, [alone.learner], folds=3) == ("own", 3, 5)
    assert unlearned_by(alone, [alone.learner], folds=2) is None
    for learner, bad, expected in (
        ("mean_of_learners", three.study.backbones[:2], ("combined", 10, 15)),
        (three.study.backbones[0], three.study.backbones[1:], ("study", 10, 15)),
    ):
        context = with_results(three, main=dataclasses.replace(three.metrics.main, learner=learner))
        assert unlearned_by(context, bad) == expected
