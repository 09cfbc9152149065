"""Calibrating prediction intervals and sets on the out-of-fold predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.conformal import coverage
from casewise.predictions.conformal import fit

if TYPE_CHECKING:
    import pandas as pd

    from casewise.evaluation.results import Headline, PredictionSets
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


def conformal(study: Study, predictions: pd.DataFrame, folder: RunFolder) -> None:
    """Write the quantiles of every learner and target, for the test set, external cohorts and new cases."""
    folder.conformal.write(calibrated(study, predictions))


def calibrated(study: Study, predictions: pd.DataFrame) -> dict[str, Any]:
    """The record of `casewise.predictions.conformal.fit`, with the ranges and the level of the study."""
    names = [name for name in (*study.outputs, *study.scores) if not study.classes_of(name)]
    ranges = {name: study.range_of(name) for name in names}
    return fit(predictions, ranges, study.evaluation.prediction_coverage)


def prediction_sets(
    study: Study, predictions: pd.DataFrame, main: Headline, folder: RunFolder
) -> PredictionSets | None:
    """The coverage of the headline's learner; None without a record or headline."""
    record = folder.conformal.read_if_exists()
    if not record or main.stage is None:
        return None
    settings = study.evaluation
    plan = Plan(settings.bootstrap_resamples, settings.confidence, study.seed)
    classes = {name: study.classes_of(name) for name in study.outputs if study.classes_of(name)}
    return coverage(predictions, str(main.learner), record, classes, plan)
