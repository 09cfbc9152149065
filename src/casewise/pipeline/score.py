"""Computing the clinical scores from the predictions of their targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.predictions import table as predicted
from casewise.predictions.scores import apply_scores
from casewise.study.schema import Study
from casewise.study.scores import study_scores

if TYPE_CHECKING:
    import pandas as pd

    from casewise.run_folder import RunFolder


def score(study: Study, predictions: pd.DataFrame, folder: RunFolder) -> pd.DataFrame:
    """Add the clinical scores, and write the table of all predictions."""
    scores = study_scores(study)
    table = predicted.check(
        apply_scores(predictions, scores, missing_regions=study.missing_regions, regions=study.regions)
    )
    folder.predictions.write(table)
    return table
