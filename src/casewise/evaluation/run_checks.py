"""Checks of a finished run: the error of constant predictions, and networks that learned nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from casewise.evaluation.caveats import caveat
from casewise.evaluation.results import Note
from casewise.predictions.table import probability_columns
from casewise.targets import by_form, kind_named
from casewise.targets.registry import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


def guess(predictions: pd.DataFrame, target: str, classes: Sequence[str] = ()) -> list[Note]:
    """For comparison: the error of always predicting the mean of the training subjects' cases.

    For a target with classes it is the accuracy of always predicting the most common one; `classes` are their names.
    """
    rows = predictions[(predictions["target"] == target) & predictions["y_true"].notna()]
    rows = rows.drop_duplicates(["stage", "case", "region", "image"])
    oof = rows[rows["stage"] == "oof"]
    if oof["outer_fold"].nunique() < 2:
        return []
    kind = str(rows["kind"].iloc[0]) if "kind" in rows.columns else DEFAULT
    functions: dict[str, Callable[..., Note]] = {
        "number": _mean_error,
        "classes": partial(_commonest, classes=classes),
    }
    guess_one = by_form(kind, functions)
    stages = {stage: rows[rows["stage"] == stage] for stage in ("test", "oof")}
    return [guess_one(stage_rows, oof, stage, target) for stage, stage_rows in stages.items() if len(stage_rows)]


def _mean_error(rows: pd.DataFrame, oof: pd.DataFrame, stage: str, target: str) -> Note:
    """The mean error of predicting the training subjects' mean; out of fold, that of the other folds."""
    if stage == "test":
        error = (rows["y_true"] - oof["y_true"].mean()).abs()
    else:
        sums = oof.groupby("outer_fold")["y_true"].agg(["sum", "count"])
        others = (sums["sum"].sum() - sums["sum"]) / (sums["count"].sum() - sums["count"])
        error = (rows["y_true"] - rows["outer_fold"].map(others).astype(float)).abs()
    return caveat("guess_mean", stage=stage, target=target, error=float(error.mean()))


def _commonest(rows: pd.DataFrame, oof: pd.DataFrame, stage: str, target: str, *, classes: Sequence[str]) -> Note:
    """The accuracy of predicting the training subjects' most common class; out of fold, that of the other folds."""
    if stage == "oof":
        counts = oof.groupby(["outer_fold", "y_true"]).size().unstack(fill_value=0)
        guesses = (counts.sum() - counts).idxmax(axis=1)
        guessed = rows["outer_fold"].map(guesses).astype(float)
    else:
        guessed = rows["y_true"] * 0 + oof["y_true"].value_counts().sort_index().idxmax()
    named = {float(number): name for number, name in enumerate(classes)}
    names = [named.get(number, f"{number:g}") for number in sorted(guessed.unique())]
    accuracy = float((guessed == rows["y_true"]).mean())
    return caveat("guess_commonest", stage=stage, target=target, classes=names, accuracy=accuracy)


def hopeless(study: Study, folder: RunFolder) -> list[Note]:
    """Networks whose validation loss never fell below that of a constant prediction.

    Validation cases are those that decide about early stopping, or those of the inner folds.
    """
    if study.recipe.early_stopping.monitor == "none" and not study.nested_cv:
        return []
    caveats = []
    for model in study.networks:
        records = folder.job_records([model])
        bad = sum(bool(no_better(record)) for record in records)
        if bad:
            judged_on = "inner_folds" if study.nested_cv else "early_stopping"
            guessed = kind_named(study.kind_of(study.primary_outcome)).guess
            values = {"network": model, "count": bad, "networks": len(records), "judged_on": judged_on}
            caveats.append(caveat("no_better_than_guessing", **values, guess=guessed))
    return caveats


def in_parts(networks: Sequence[str], folder: RunFolder) -> list[Note]:
    """Networks whose batches were computed in parts, because memory did not suffice for whole ones."""
    caveats = []
    for model in networks:
        parts = {record["fold"]: record["parts"] for record in folder.job_records([model]) if "parts" in record}
        if parts:
            caveats.append(caveat("batches_in_parts", network=model, folds=sorted(parts), parts=max(parts.values())))
    return caveats


# smaller differences of probabilities, or of predictions in standard deviations, do not matter
SAME = 0.005


def constant_folds(predictions: pd.DataFrame, target: str, learner: str) -> tuple[int, int]:
    """Numbers of folds with nearly the same prediction for every case, and of all folds examined.

    Probabilities are compared for classes; for numbers, predictions relative to the spread of the recorded values.
    """
    rows = predictions[(predictions["target"] == target) & (predictions["stage"] == "oof")]
    rows = rows[rows["model"] == learner]
    if rows.empty:
        return 0, 0
    columns = [name for name in probability_columns(rows) if rows[name].notna().any()]
    values = rows[columns] if columns else rows[["y_pred"]] / (rows["y_true"].std() or 1.0)
    spread = values.groupby(rows["outer_fold"]).std().max(axis=1)
    large = rows.groupby("outer_fold").size() > 2
    return int((spread[large] < SAME).sum()), int(large.sum())


def constant_predictions(predictions: pd.DataFrame, target: str, networks: Sequence[str]) -> list[Note]:
    """Networks that predict nearly the same for every case of a fold, so that they do not discriminate."""
    counts = {network: constant_folds(predictions, target, network) for network in networks}
    return [
        caveat("constant_predictions", network=network, folds=constant, of=folds)
        for network, (constant, folds) in counts.items()
        if constant
    ]


def no_better(record: Mapping[str, Any]) -> bool | None:
    """Whether a job's network, or its inner networks, did no better than a constant prediction; None if unknown."""
    inner = record.get("inner")
    if inner:
        guessed = inner["chosen"].get("guess_loss")
        return None if guessed is None else bool(inner["chosen"]["loss"] >= guessed)
    losses = [step["stop_loss"] for step in record.get("history") or [] if isinstance(step.get("stop_loss"), float)]
    return bool(min(losses) >= (record.get("guess_loss") or 1)) if losses else None
