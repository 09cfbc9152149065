"""A network's outputs as rows of the predictions table, each at its target's own level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from casewise.truth import truth_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casewise.study import Study


def prediction_rows(
    panels: pd.DataFrame, study: Study, values: NDArray[Any], *, stage: str, model: str, fold: int
) -> pd.DataFrame:
    """The network's outputs (P, T) as rows of the predictions table, each at its target's level and in its range."""
    truth = truth_table(panels, study)
    tables = []
    for column, name in enumerate(study.outputs):
        level = study.level_of(name)
        table = panels[["case", "subject", "visit", "day", "region"]].copy()
        table["y_true"] = truth[:, column].astype(float)
        table["y_pred"] = values[:, column].astype(float)
        table["image"] = ""
        if level == "image":
            # By number: paths may move between the jobs of a run; steps.train puts them in.
            table["image"] = [str(t[0]) for t in panels["tiles"]]
        if level in ("case", "subject"):
            table["region"] = ""
        keys = ["case", "subject", "visit", "day", "region", "image"]
        table = table.groupby(keys, sort=False, dropna=False, as_index=False)[["y_true", "y_pred"]].mean()
        table["y_pred"] = table["y_pred"].clip(*study.range_of(name))
        tables.append(table.assign(target=name))
    rows = pd.concat(tables, ignore_index=True)
    rows["model"], rows["stage"] = model, stage
    rows["outer_fold"] = pd.array([fold + 1] * len(rows), dtype="Int64")
    rows["inner_fold"] = pd.array([pd.NA] * len(rows), dtype="Int64")
    return rows
