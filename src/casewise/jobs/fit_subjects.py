"""The subjects that a network is fitted on: they depend only on the study and the split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from casewise.cohort.targets import label_table
from casewise.errors import CasewiseError, TrainingError
from casewise.modalities.base import FittedPreprocessing, StoreAddress
from casewise.modalities.registry import modality_of
from casewise.splits.grouped import Splits, inner_stop, panel_records
from casewise.study.model import mixed_seed
from casewise.study.schema import Study

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


def divided(study: Study, panels: pd.DataFrame, splits: Splits, fold: int) -> tuple[list[str], list[str]]:
    """The subjects that the networks of a fold are fitted on, and those for early stopping, if any."""
    training = splits.training(fold)
    if study.recipe.early_stopping.monitor == "inner":
        records, seed = panel_records(panels, study, training), mixed_seed(study.seed, "stop", fold)
        return inner_stop(records, training, share=study.recipe.early_stopping.val_fraction, seed=seed)
    return training, splits.subjects(fold) if study.recipe.early_stopping.monitor == "fold" else []


def fitted_rows(study: Study, panels: pd.DataFrame, splits: Splits, fold: int) -> NDArray[np.intp]:
    """The rows of `panels` that the networks of a fold are fitted on; they also fit the preprocessing.

    With `early_stopping: {monitor: inner}` the subjects for early stopping are not included.
    """
    subjects, _ = divided(study, panels, splits, fold)
    selected = panels["subject"].astype(str).isin(set(subjects)).to_numpy()
    return np.flatnonzero(selected & ~np.isnan(label_table(panels, study)).all(axis=1))


def fit_preprocessing(study: Study, store: StoreAddress, rows: NDArray[np.intp], *, model: str) -> FittedPreprocessing:
    """The values that preprocessing derives from a network's training cases, the panels `rows`.

    Raises:
        TrainingError: nothing can be derived from these cases.
    """
    try:
        return modality_of(study).fit(store, study, rows, model)
    except CasewiseError as error:
        raise TrainingError(f"{model}: {error}") from error
