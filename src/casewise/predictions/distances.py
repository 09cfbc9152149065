"""Distances from the training features, of learners that combine networks."""

from __future__ import annotations

import pandas as pd

from casewise.predictions.table import SAMPLE_KEY, final_rows


def with_mean_distances(rows: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Rows of a combined learner with the mean distance over the networks in `predictions`, where these have one."""
    if "distance" not in predictions or rows.empty:
        return rows
    key = ["stage", *SAMPLE_KEY]
    means = final_rows(predictions).groupby(key, sort=False)["distance"].mean()
    return rows.assign(distance=means.reindex(pd.MultiIndex.from_frame(rows[key])).to_numpy())
