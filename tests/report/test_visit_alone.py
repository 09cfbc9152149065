"""The visit alone as a prediction: what subjects of other folds have at the visit of the same name."""

import dataclasses

import numpy as np
import pytest

from casewise.evaluation.caveats import guess
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
    found = visit_alone(context)
    assert found is not None
    figures, gap = found
    assert figures["mae"].value == pytest.approx(np.mean(errors))
    mae = (rows["y_pred"] - rows["y_true"]).abs().mean()
    assert gap is not None
    assert gap.difference == pytest.approx(mae - np.mean(errors))
    told = dataclasses.replace(context.metrics, notes=guess(context.predictions, context.outcome))
    names = [row.name for row in screen(dataclasses.replace(context, metrics=told)).rivals]
    assert names[-2:] == ["a guess without images", "the visit alone, no image"]


def test_the_shares_of_classes_at_the_visit_are_the_probabilities() -> None:
    context = classes(subjects=60, test=0)
    predictions = context.predictions
    # a label that follows from the visit is predicted without an image
    visits = np.where(predictions["y_true"] == 0, "low", "high")
    of_subject = predictions["case"].rank(method="dense").astype(int) // 2
    changed = predictions.assign(visit=visits, subject="s" + of_subject.astype(str))
    cases = changed.drop_duplicates("case")[["case", "subject", "visit", "day"]]
    told = visit_alone(dataclasses.replace(context, predictions=changed, cases=cases))
    assert told is not None
    assert told[0]["recall[covid]"].value in (0.0, 1.0)
    assert told[0]["auroc"].value > 0.7


def test_without_common_visits_there_is_nothing_to_predict_from() -> None:
    context = numbers(subjects=20, visits=3, learners=1, test=0)
    own = context.predictions["case"]
    assert visit_alone(dataclasses.replace(context, predictions=context.predictions.assign(visit=own))) is None
    assert visit_alone(numbers(subjects=20, visits=1, learners=1, test=0)) is None
