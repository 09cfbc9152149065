"""What a job's network sees of some panels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.errors import CasewiseError, TrainingError
from casewise.modalities.base import PanelDataset, StoreAddress
from casewise.modalities.registry import modality_of
from casewise.study.schema import Study

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

Part = Callable[["NDArray[np.intp]"], PanelDataset]


def parts_of(
    study: Study,
    panels: pd.DataFrame,
    truth: NDArray[np.floating],
    folder: Path,
    address: str,
    *,
    model: str,
    fitted_on: NDArray[np.intp],
) -> Part:
    """A function from rows of `panels` to their data.

    Args:
        folder, address: where the input of networks lies, and the hash over it.
        fitted_on: the rows that are learned from, from which preprocessing is fitted.
    """
    store, modality = StoreAddress(folder, address), modality_of(study)
    try:
        fitted = modality.fit(store, study, fitted_on, model)
    except CasewiseError as error:
        raise TrainingError(f"{model}: {error}") from error
    whole = modality.dataset(store, study, panels, truth, fitted)
    return lambda rows: whole.subset([int(row) for row in rows])
