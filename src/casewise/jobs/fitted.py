"""Whom a network of a run was fitted on, told anew from the study and the split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from casewise.split import Splits, inner_stop, panel_records
from casewise.study import Study
from casewise.training.data import mixed_seed
from casewise.truth import truth_table

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


def fitted_rows(study: Study, panels: pd.DataFrame, splits: Splits, fold: int) -> NDArray[np.intp]:
    """The rows of `panels` whose errors the networks of a fold learned from; of volumes, they set the standard.

    With `stop: {on: inner}` the subjects who decide when to stop are not among them.
    """
    subjects = splits.training(fold)
    if study.recipe.stop.on == "inner":
        records = panel_records(panels, study, subjects)
        seed = mixed_seed(study.seed, "stop", fold)
        subjects, _ = inner_stop(records, subjects, share=study.recipe.stop.share, seed=seed)
    chosen = panels["subject"].astype(str).isin(set(subjects)).to_numpy()
    return np.flatnonzero(chosen & ~np.isnan(truth_table(panels, study)).all(axis=1))
