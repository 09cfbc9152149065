"""The section on the external cohort, and the result on it."""

import pytest

from casewise.evaluation.figures import Cell, Estimate
from casewise.report.caveats import external_result
from casewise.report.context import EXTERNAL, ReportContext
from casewise.report.sections.designs import external
from casewise.report.statements import statements
from tests.report_contexts import with_figures


@pytest.fixture
def three(report_of_classes: ReportContext) -> ReportContext:
    return report_of_classes


@pytest.mark.parametrize(
    ("low", "high", "rough", "code", "cell"),
    [
        (-0.2, -0.01, False, "worse", "worse"),
        (-0.2, 0.01, False, "open", "no clear difference"),
        (-0.2, -0.01, True, "rough", "not tested"),
        (0.1, 0.2, False, "better", "better"),
        (0.1, None, False, "untested", "not tested"),
    ],
)
def test_a_drop_is_called_one_only_beyond_chance(
    three: ReportContext, low: float, high: float | None, rough: bool, code: str, cell: str
) -> None:
    own = [three.metrics.figures.of(stage, three.learner, three.outcome)["auroc"] for stage in ("test", EXTERNAL)]
    inside, outside = (float(figure.value or 0) for figure in own)
    at = Cell(EXTERNAL, three.learner, three.outcome, group="test", contrast="internal")
    context = with_figures(three, {at: {"auroc": Estimate(outside - inside, low, high, rough=rough)}})
    cells = external.both_cells(context, "auroc")
    assert (cells[0].value, cells[1].value, cells[3].text) == (inside, outside, cell)
    assert cells[2].value == pytest.approx(outside - inside)
    result = external_result(context.study, context.metrics, context.learner, context.stage)
    assert (result.code, result.inside, result.figure.value) == (code, inside, outside)
    statement = next(each for each in statements(context) if each.id == "external_cohort")
    assert statement.level == {"worse": "flag", "better": "good"}.get(code, "open")
