"""The networks, cases and masks of a finished run to explain, and each network's prediction of a case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from casewise.errors import CohortError, RunError, nearest
from casewise.modalities.base import MaskMeaning
from casewise.models.outputs import outputs_of
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.explain.methods.target import ExplainTarget
from casewise.predictions.table import CHOOSING
from casewise.report.context import SIDES
from casewise.study.learners import learner_name
from casewise.targets import kind_named

# The number of correctly and of erroneously predicted cases that are selected.
CASES_PER_GROUP = 3


@dataclass(frozen=True)
class CasePrediction:
    """One network's prediction for the unit of a panel row, and the reference value.

    Attributes:
        fold: None for a prediction by all folds' networks, on the test set.
        probability: of the predicted class; NaN for a number.
        class_index: the predicted class; None for a number.
        correct: None for numbers and where there is no reference value.
    """

    model: str
    stage: str
    fold: int | None
    y_true: float
    y_pred: float
    probability: float
    class_index: int | None
    correct: bool | None


@dataclass(frozen=True, eq=False)
class MaskedCase:
    """A case of a fold with a mask on the images or slices that the fold's network sees.

    Attributes:
        row: of the cohort's panels.
        mask: (N, H, W) `bool`, see `CaseMask.planes`.
        slots: (V, K) the planes of the mask in the slots of each view; −1 for a slot without one.
    """

    row: int
    case: str
    subject: str
    prediction: CasePrediction
    mask: np.ndarray
    slots: np.ndarray


def explain_target(run: FinishedRun) -> ExplainTarget:
    """The target that is explained: the primary outcome if the networks predict it, else their first target."""
    return ExplainTarget.of_outcome(run.study)


def predicted_target(run: FinishedRun, prediction: CasePrediction) -> ExplainTarget:
    """The same target with the predicted class."""
    return ExplainTarget(outputs_of(run.study), explain_target(run).target, class_index=prediction.class_index)


def prediction_of(run: FinishedRun, model: str, row: int) -> CasePrediction | None:
    """A network's prediction for the unit of a panel row; None if it made none."""
    panel = run.cohort.panels.iloc[row]
    target = explain_target(run).target
    level = run.study.level_of(target)
    rows = run.rows_by_case.get((model, target, str(panel["case"])))
    if rows is None:
        return None
    rows = rows_of_unit(rows, panel, level, run.cohort.images)
    return _case_prediction(rows.iloc[0]) if len(rows) else None


def rows_of_unit(rows: pd.DataFrame, panel: pd.Series[Any], level: str, images: pd.DataFrame) -> pd.DataFrame:
    """Those of a case's predictions that are of the region or image of a panel, if the target has such a level."""
    if level in ("region", "image") and (rows["region"] != "").any():
        rows = rows[rows["region"] == str(panel["region"])]
    if level == "image":
        number = int(panel["tiles"][0])
        rows = rows[rows["image"].isin([str(number), str(images["path"].iloc[number])])]
    return rows


def _case_prediction(row: pd.Series[Any]) -> CasePrediction:
    class_index = int(row["y_pred"]) if kind_named(row["kind"]).form == "classes" else None
    labelled = not np.isnan(row["y_true"])
    return CasePrediction(
        model=str(row["model"]),
        stage=str(row["stage"]),
        fold=int(row["outer_fold"]) - 1 if row["stage"] == "oof" else 0 if row["stage"] == "validation" else None,
        y_true=float(row["y_true"]),
        y_pred=float(row["y_pred"]),
        probability=float("nan") if class_index is None else float(row[f"p{class_index}"]),
        class_index=class_index,
        correct=None if class_index is None or not labelled else bool(row["y_pred"] == row["y_true"]),
    )


def select_cases(run: FinishedRun, models: list[str]) -> tuple[list[str], str]:
    """Select a few cases by a rule that does not depend on the maps; returns them and the rule as a phrase.

    Classes: the correctly predicted cases with the highest probability, cycling through the reference classes, then
    likewise erroneous ones. Numbers: the cases with the smallest and the largest errors. Out-of-fold predictions are
    preferred to those on the test set.

    Raises:
        RunError: the networks have no predictions.
    """
    model, rows = _reference_model(run, models)
    target = explain_target(run)
    table = rows[rows["target"] == target.target].dropna(subset=["y_true"])
    stage = next((stage for stage in CHOOSING if (table["stage"] == stage).any()), "test")
    table = table[table["stage"] == stage].drop_duplicates("case")
    if table.empty:
        raise RunError(
            f"{run.files.path}: {model} has no predictions of {target.target} for cases with a reference value."
        )
    where = SIDES[stage]
    if not target.output.classes:
        table = table.assign(error=(table["y_pred"] - table["y_true"]).abs()).sort_values("error", kind="stable")
        near, far = table.head(CASES_PER_GROUP), table.iloc[CASES_PER_GROUP:].tail(CASES_PER_GROUP)
        rule = f"the {len(near)} cases with the smallest and {len(far)} with the largest errors of {model}, {where}"
        return [*near["case"], *far["case"][::-1]], rule
    classes = table["y_pred"].astype(int)
    probability = [row[f"p{index}"] for (_, row), index in zip(table.iterrows(), classes, strict=True)]
    table = table.assign(predicted_probability=probability)
    table = table.sort_values("predicted_probability", ascending=False, kind="stable")
    correct = _across_classes(table[table["y_pred"] == table["y_true"]])
    erroneous = _across_classes(table[table["y_pred"] != table["y_true"]])
    groups = [f"{len(cases)} {word}" for cases, word in ((correct, "correct"), (erroneous, "erroneous")) if cases]
    rule = (
        f"the {' and the '.join(groups)} predictions of {model} with the highest probability {where}, from different "
        "reference classes where possible"
    )
    return [*correct, *erroneous], rule


def _reference_model(run: FinishedRun, models: list[str]) -> tuple[str, pd.DataFrame]:
    """The learner whose predictions select the cases, as the rule names it, and its rows.

    The learner that the report shows if it is one of `models`, else (a stacker, for example) the first of `models`,
    which has the largest weight in it if it has weights.
    """
    main, table = run.results.main.learner, run.final
    name = main if main in models else models[0]
    phrase = learner_name(name)
    phrase += f" (instead of {learner_name(main)}, which the report shows)" if main and main != name else ""
    return phrase, table[table["model"] == name]


def _across_classes(table: pd.DataFrame) -> list[str]:
    """The first cases, cycling through the reference classes."""
    turn = table.groupby("y_true", sort=False).cumcount()
    return list(table.assign(turn=turn).sort_values("turn", kind="stable")["case"].head(CASES_PER_GROUP).astype(str))


def mask_to_measure(run: FinishedRun) -> tuple[MaskMeaning, str]:
    """The masks that maps are measured against, lesion masks if there are any: what they mark, and their column.

    Raises:
        RunError: the study names no masks.
        CohortError: the table does not have the column.
    """
    columns = run.modality.mask_columns(run.study)
    if not columns:
        raise RunError(
            f"--measure: the study {run.study.name} names no masks to measure against. Name a column of masks "
            "as `images: {lesion: COLUMN}`, `volumes: {lesion: COLUMN}` or `audit: {mask: COLUMN}`, and run the study "
            "again; no network is trained again for this. Masks of slides are not supported."
        )
    for meaning, column in columns.items():
        if column not in run.cohort.images:
            hint = nearest(column, list(run.cohort.images))
            raise CohortError(f"{run.study.cohort}: there is no column {column!r} with masks ({meaning}).{hint}")
    return next(iter(columns.items()))
