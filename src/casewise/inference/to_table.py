"""A network's outputs as rows of the predictions table, each at its target's own level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.cohort.targets import label_table
from casewise.models.outputs import outputs_of, value_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casewise.study.schema import Study


def prediction_rows(
    panels: pd.DataFrame,
    study: Study,
    values: NDArray[Any],
    *,
    stage: str,
    model: str,
    fold: int,
    distances: NDArray[Any] | None = None,
) -> pd.DataFrame:
    """The network's values (P, V) as rows of the predictions table, each at its target's level and in its range.

    A row has the prediction NaN if a value of any of its panels is not a finite number.
    If several panels show one unit of a target's level, numbers and probabilities are averaged, or with
    `pooling: max` the panel with the largest value is used. `distances` (P,) are averaged, too.
    """
    truth = label_table(panels, study)
    outputs = outputs_of(study)
    tables = []
    single: dict[str, bool] = {}  # by level, whether every panel is a unit of its own
    for column, (output, value_slice) in enumerate(zip(outputs, value_columns(outputs), strict=True)):
        name = output.name
        level = study.level_of(name)
        table = panels[["case", "subject", "visit", "day", "region"]].copy()
        table["y_true"] = truth[:, column].astype(float)
        table["kind"] = output.kind
        kind = output.target_kind
        value_names = kind.columns(output.classes)
        finite = np.isfinite(values[:, value_slice]).all(axis=1)
        table[value_names] = np.where(finite[:, None], values[:, value_slice].astype(float), 0.0)
        table["finite"] = finite
        table["distance"] = np.nan if distances is None else distances
        table["image"] = ""
        if level == "image":
            # By number: paths may move between the jobs of a run; the step `train` sets them.
            table["image"] = [str(t[0]) for t in panels["tiles"]]
        if level in ("case", "subject"):
            table["region"] = ""
        keys = ["case", "subject", "visit", "day", "region", "image", "kind"]
        takes_largest = study.panels.pooling == "max" and level != "image"
        if level not in single:
            single[level] = not table.duplicated(keys).any()
        if single[level] and not takes_largest:  # the mean of one panel is the panel, and groups of one are slow
            mean_distances = table["distance"].to_numpy()
            table = table[[*keys, "y_true", *value_names]].reset_index(drop=True)
        else:
            units = table.groupby(keys, sort=False, dropna=False, as_index=False)
            mean_distances = units["distance"].mean()["distance"].to_numpy()
            finite = units["finite"].all()["finite"].to_numpy()
            if takes_largest:
                prominence = kind.prominence(output.classes, positive_number(study, name))
                table = most_conspicuous(units, value_names, prominence)
            else:
                table = units[["y_true", *value_names]].mean()
        table.loc[~finite, value_names] = np.nan
        table[value_names] = kind.normalise(table[value_names].to_numpy(), *study.range_of(name))
        table["y_pred"] = kind.decide(table[value_names].to_numpy())
        table["distance"] = mean_distances
        tables.append(table.assign(target=name))
    rows = pd.concat(tables, ignore_index=True)
    rows["model"], rows["stage"] = model, stage
    rows["outer_fold"] = pd.array([fold + 1] * len(rows), dtype="Int64")
    rows["inner_fold"] = pd.array([pd.NA] * len(rows), dtype="Int64")
    return rows


def most_conspicuous(units: Any, value_names: list[str], weights: list[float] | None) -> pd.DataFrame:
    """The row that represents each unit of grouped panels: the one with the largest weighted value.

    Without weights each column has its own largest value. The truth is the mean over the unit's panels.
    """
    if weights is not None:
        rows = units.obj.assign(sign=units.obj[value_names].to_numpy() @ weights)
        most_prominent = rows.groupby(units.keys, sort=False, dropna=False)["sign"].idxmax()
        truth = units[["y_true"]].mean()["y_true"].to_numpy()
        return rows.loc[most_prominent].drop(columns="sign").assign(y_true=truth).reset_index(drop=True)
    table: pd.DataFrame = units[["y_true", *value_names]].agg({"y_true": "mean", **dict.fromkeys(value_names, "max")})
    return table


def positive_number(study: Study, name: str) -> int | None:
    """The number of the class that sensitivity is about; None unless there are two."""
    positive = study.positive_of(name)
    return None if positive is None else study.classes_of(name).index(positive)
