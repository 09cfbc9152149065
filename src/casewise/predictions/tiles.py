"""The predictions of single tiles or windows, gathered from the jobs into one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.predictions.table import probability_columns
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.study.schema import Study

POSITION = ("path", "tile_x", "tile_y", "tile_side")


def gather_tiles(study: Study, tables: list[pd.DataFrame], cohort: Cohort) -> pd.DataFrame:
    """The predictions of single tiles: out of fold by the network not trained on the subject, else the mean.

    Columns: image (number), path, tile_x, tile_y, tile_side (−1 for whole images), case, subject, model, stage,
    outer_fold, target, and y_pred and p0, p1, … or, with attention, weight (the tile's share in its case, target '').

    Args:
        tables: one for each network with several panels for each case, with its `model` and `outer_fold` (from 1).
    """
    table = pd.concat(tables, ignore_index=True)
    table["outer_fold"] = table["outer_fold"].astype("Int64")
    oof = table["stage"] == "oof"
    table = pd.concat([table[oof], _mean(study, table[~oof])], ignore_index=True)
    images = cohort.images.set_index("image")
    for name in (*POSITION, "subject"):
        table[name] = table["image"].map(images[name]) if name in images else -1
    first = ["image", *POSITION, "case", "subject", "model", "stage", "outer_fold", "target"]
    return table[[*first, *(c for c in table if c not in first)]]


def _mean(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """The mean over the folds' networks, with the classes decided from the mean."""
    if table.empty:
        return table
    keys = ["model", "stage", "target", "image", "case"]
    numbers = [name for name in ("y_pred", "weight", *probability_columns(table)) if name in table]
    means = table.groupby(keys, sort=False, as_index=False)[numbers].mean()
    for name in study.outputs:
        rows = means["target"] == name
        if rows.any():
            kind = kind_named(study.kind_of(name))
            columns = kind.columns(len(study.classes_of(name)))
            means.loc[rows, "y_pred"] = kind.decide(means.loc[rows, columns].to_numpy(float))
    return means.astype(dict.fromkeys(numbers, np.float32)).assign(outer_fold=pd.array([pd.NA] * len(means), "Int64"))
