"""A network's outputs as rows of the predictions table, each at its target's own level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from casewise.cohort.labels import label_table
from casewise.predictions.table import with_decisions
from casewise.training.module import predict
from casewise.training.outputs import outputs_of, value_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from casewise.modalities.base import PanelDataset
    from casewise.study.schema import Study
    from casewise.training.compute_plan import ComputePlan


def predicted(
    network: nn.Module,
    data: PanelDataset,
    panels: pd.DataFrame,
    study: Study,
    choice: ComputePlan,
    *,
    stage: str,
    model: str,
    fold: int,
) -> pd.DataFrame:
    """What a network predicts of panels, whose tiles `data` holds, as `prediction_rows`."""
    values = predict(
        network,
        data,
        outputs_of(study),
        batch=study.recipe.batch_size,
        channels_last=choice.channels_last,
        bf16=choice.precision == "bf16",
        flips=study.test_time_augmentation,
    )
    return prediction_rows(panels, study, values.numpy(), stage=stage, model=model, fold=fold)


def prediction_rows(
    panels: pd.DataFrame, study: Study, values: NDArray[Any], *, stage: str, model: str, fold: int
) -> pd.DataFrame:
    """The network's values (P, V) as rows of the predictions table, each at its target's level and in its range.

    Where several panels show one unit of a target's level, numbers and probabilities are averaged, or with
    `pooling: max` the most conspicuous one stands for all.
    """
    truth = label_table(panels, study)
    outputs = outputs_of(study)
    tables = []
    for column, (output, place) in enumerate(zip(outputs, value_columns(outputs), strict=True)):
        name = output.name
        level = study.level_of(name)
        table = panels[["case", "subject", "visit", "day", "region"]].copy()
        table["y_true"] = truth[:, column].astype(float)
        table["kind"] = output.kind
        told = ["y_pred"] if output.kind == "regression" else [f"p{i}" for i in range(output.classes)]
        table[told] = values[:, place].astype(float)
        table["image"] = ""
        if level == "image":
            # By number: paths may move between the jobs of a run; steps.train puts them in.
            table["image"] = [str(t[0]) for t in panels["tiles"]]
        if level in ("case", "subject"):
            table["region"] = ""
        keys = ["case", "subject", "visit", "day", "region", "image", "kind"]
        units = table.groupby(keys, sort=False, dropna=False, as_index=False)
        if study.panels.pooling == "max" and level != "image":
            table = most_conspicuous(units, told, study, name)
        else:
            table = units[["y_true", *told]].mean()
        if output.kind == "regression":
            table["y_pred"] = table["y_pred"].clip(*study.range_of(name))
        else:
            shares = table[told].to_numpy()
            table[told] = shares / shares.sum(axis=1, keepdims=True)
            table = with_decisions(table.assign(y_pred=0.0, target=name))
        tables.append(table.assign(target=name))
    rows = pd.concat(tables, ignore_index=True)
    rows["model"], rows["stage"] = model, stage
    rows["outer_fold"] = pd.array([fold + 1] * len(rows), dtype="Int64")
    rows["inner_fold"] = pd.array([pd.NA] * len(rows), dtype="Int64")
    return rows


def most_conspicuous(units: Any, told: list[str], study: Study, name: str) -> pd.DataFrame:
    """What stands for each unit of grouped panels: the largest number, the highest grade, the surest sign of a class.

    Of two classes it is the panel that is surest of the positive one; of several, each class's surest panel, as shares
    of one.
    """
    if study.kind_of(name) == "ordinal" or study.positive_of(name) is not None:
        classes = study.classes_of(name)
        positive = study.positive_of(name)
        rising = [float(c == positive) for c in classes] if positive is not None else range(len(classes))
        rows = units.obj.assign(sign=units.obj[told].to_numpy() @ [float(v) for v in rising])
        chosen = rows.groupby(units.keys, sort=False, dropna=False)["sign"].idxmax()
        truth = units[["y_true"]].mean()["y_true"].to_numpy()
        return rows.loc[chosen].drop(columns="sign").assign(y_true=truth).reset_index(drop=True)
    found: pd.DataFrame = units[["y_true", *told]].agg({"y_true": "mean", **dict.fromkeys(told, "max")})
    return found
