"""Deciding the grades of all predictions by the rules of the study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from casewise.predictions.decisions import ALL, decide_grades

if TYPE_CHECKING:
    import pandas as pd

    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


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
