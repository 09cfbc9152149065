"""All that is evaluated from the predictions of single networks: combinations, decisions, scores, intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from casewise.console import shown
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.calibration import coverage
from casewise.predictions import table as predicted
from casewise.predictions.conformal import fit
from casewise.predictions.decisions import ALL, decide_grades
from casewise.predictions.nested_cv import chosen_networks, nested_rows
from casewise.predictions.scores import apply_scores
from casewise.predictions.stacking import STACKERS
from casewise.predictions.stacking import stack as fit_stackers
from casewise.predictions.table import with_mean_distances
from casewise.study.learners import combined_learners
from casewise.study.schema import Study
from casewise.study.scores import study_scores

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.evaluation.results import Headline, PredictionSets
    from casewise.run_folder import RunFolder


@shown("stack")
def stack(study: Study, predictions: pd.DataFrame, folder: RunFolder, show: Show) -> pd.DataFrame:
    """Add the rows of the study's stackers, and those of the network chosen within each fold."""
    nested = _nested(study, predictions, folder, show)
    combined = combined_learners(study)
    if not study.stack or len(combined) < 2:
        folder.stackers.write({})
        if study.stack:
            show.line("stack", "omitted: a single network is not combined")
        return pd.concat([predictions, *nested], ignore_index=True)
    ranges = {name: study.range_of(name) for name in study.outputs}
    single = predictions[predictions["model"].isin(combined)]
    stacked = fit_stackers(single, study.stack, ranges=ranges)
    folder.stackers.write(stacked.coefficients)
    show.line("stack", ", ".join(STACKERS[name].learner for name in study.stack))
    rows = with_mean_distances(stacked.rows, single)
    return pd.concat([predictions, rows, *nested], ignore_index=True)


def _nested(study: Study, predictions: pd.DataFrame, folder: RunFolder, show: Show) -> list[pd.DataFrame]:
    """The rows of the networks chosen by inner folds; empty if the study does not choose among networks."""
    if not (study.nested_cv and study.nested_cv.among and len(study.networks) > 1):
        folder.nested.remove()
        return []
    choice = chosen_networks(folder.job_records(study.networks), study.networks)
    folder.nested.write(choice)
    names = [fold["network"] for fold in choice["folds"].values()]
    show.line("nested", ", ".join(f"{name} in {names.count(name)}" for name in dict.fromkeys(names)) + " folds")
    return [nested_rows(predictions, choice)]


def decide(study: Study, predictions: pd.DataFrame, folder: RunFolder) -> pd.DataFrame:
    """Decide every grade by the rule of its target; write the rules with their thresholds, for new cases too.

    The network of a fold gets the thresholds that were tuned without the cases of that fold.
    """
    if not study.decisions:
        folder.decisions.remove()
        return predictions
    decided = decide_grades(predictions, study.decisions)
    folder.decisions.write(decided.records)
    own = predictions[predictions["model"].isin(study.learners) & (predictions["stage"] == "oof")]
    for learner, fold in own[["model", "outer_fold"]].drop_duplicates().itertuples(index=False):
        records: dict[str, Any] = {}
        for target, record in decided.records.items():
            records[target] = {"rule": record["rule"]}
            if "thresholds" in record:
                records[target]["thresholds"] = {learner: {ALL: record["thresholds"][learner][str(fold)]}}
        folder.job(learner, int(fold) - 1).decisions.write(records)
    return decided.rows


def score(study: Study, predictions: pd.DataFrame, folder: RunFolder) -> pd.DataFrame:
    """Add the clinical scores, and write the table of all predictions."""
    scores = study_scores(study)
    table = predicted.check(
        apply_scores(predictions, scores, missing_regions=study.missing_regions, regions=study.regions)
    )
    folder.predictions.write(table)
    return table


def conformal(study: Study, predictions: pd.DataFrame, folder: RunFolder) -> None:
    """Write the quantiles of every learner and target, for the test set, external cohorts and new cases."""
    folder.conformal.write(calibrated(study, predictions))


def calibrated(study: Study, predictions: pd.DataFrame) -> Mapping[str, Any]:
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
