"""Combining the networks by stackers and by the choice of nested cross-validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from casewise.console import shown
from casewise.predictions.distances import with_mean_distances
from casewise.predictions.nested_cv import chosen_networks, nested_rows
from casewise.predictions.stacking import STACKERS
from casewise.predictions.stacking import stack as fit_stackers
from casewise.study.learners import combined_learners
from casewise.study.schema import Study

if TYPE_CHECKING:
    from casewise.console import Show
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
