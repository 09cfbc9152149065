"""The visit alone as a prediction: what subjects of other folds have at the visit of the same name."""

import dataclasses

import numpy as np
import pytest

from casewise.evaluation.caveats import guess
from casewise.report.context import ReportContext
from casewise.report.first_screen import screen
from casewise.report.visit_alone import visit_alone
from tests.report_contexts import classes, numbers


def test_the_median_of_other_subjects_at_the_visit() -> None:
    context = numbers(subjects=20, visits=3, learners=1, test=0)
    rows = context.headline_rows
    errors = []
    for _, row in rows.iterrows():
        others = rows[(rows["outer_fold"] != row["outer_fold"]) & (rows["visit"] == row["visit"])]
        errors.append(abs(row["y_true"] - others["y_true"].median()))
    found = visit_alone(context, 1e9)
    assert found is not None
    figure, gap = found
    assert figure.value == pytest.approx(np.mean(errors))
    mae = (rows["y_pred"] - rows["y_true"]).abs().mean()
    assert gap is not None
    assert gap.value == pytest.approx(mae - np.mean(errors))
    assert visit_alone(context, float(figure.value or 0)) is None, "no better than the guess"
    told = dataclasses.replace(context.metrics, notes=guess(context.predictions, context.outcome))
    names = [row.name for row in screen(dataclasses.replace(context, metrics=told)).rivals]
    assert names[-2:] == ["a guess without images", "the visit alone, no image"]


def with_visits(context: ReportContext, wrong: float) -> ReportContext:
    """Two cases a subject; the name of a visit is that of the class, but for a share of the cases."""
    table = context.predictions
    cases = sorted(table["case"].unique())
    person = {case: f"s{number // 2}" for number, case in enumerate(cases)}
    fold = {case: 1 + number // 2 % 5 for number, case in enumerate(cases)}
    moved = dict(zip(cases, np.random.default_rng(0).random(len(cases)) < wrong, strict=True))
    names = [
        f"v{int(truth) if not moved[case] else 0}" for case, truth in zip(table["case"], table["y_true"], strict=True)
    ]
    table = table.assign(visit=names, subject=table["case"].map(person), outer_fold=table["case"].map(fold))
    shown = table.drop_duplicates("case")[["case", "subject", "visit", "day"]]
    return dataclasses.replace(context, predictions=table, cases=shown)


@pytest.mark.parametrize("kind", ["classification", "ordinal"])
def test_the_shares_of_classes_at_the_visit_are_the_probabilities(kind: str) -> None:
    context = with_visits(classes(kind, subjects=120), 0.1)
    told, noise = visit_alone(context, 0.5), with_visits(classes(kind, subjects=120), 1.0)
    assert told is not None
    assert (told[0].low or 0) > 0.7
    assert visit_alone(noise, 0.5 if kind == "classification" else 0.0) is None, "one visit says nothing"


def test_nothing_is_predicted_where_visits_or_levels_do_not_allow_it(report_of_numbers: ReportContext) -> None:
    context = numbers(subjects=20, visits=3, learners=1, test=0)
    own = context.predictions["case"]
    assert visit_alone(dataclasses.replace(context, predictions=context.predictions.assign(visit=own)), 1e9) is None
    assert visit_alone(numbers(subjects=20, visits=1, learners=1, test=0), 1e9) is None
    by_region = context.study.model_copy(update={"primary_outcome": "composite"})
    assert visit_alone(dataclasses.replace(context, study=by_region), 1e9) is None
    on_test = visit_alone(report_of_numbers, 1e9)
    assert (report_of_numbers.stage, on_test is None) == ("test", False)
