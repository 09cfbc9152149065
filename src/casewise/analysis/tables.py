"""The tables of a finished run: predictions, cohort, splits and findings as tidy data frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.predictions.conformal import set_names, with_sets
from casewise.predictions.table import final_rows
from casewise.splits.grouped import Splits, side_name
from casewise.splits.predefined import TEST

if TYPE_CHECKING:
    from casewise.study.schema import Study

CASE = ["case", "subject", "visit", "day", "region", "image"]
FINDING = ["id", "level", "sentence", "remedy"]


def predictions_table(rows: pd.DataFrame, study: Study, intervals: Mapping[str, Any]) -> pd.DataFrame:
    """The evaluated predictions with names of classes, from the rows of `predictions.parquet`.

    `intervals` is the content of `conformal.json`. It was calibrated on the out-of-fold rows, which get no interval.
    """
    rows = final_rows(rows)
    new = rows["stage"] != "oof"
    sets = with_sets(rows[new], intervals).set_index(rows.index[new])
    table = rows[["model", "stage", "target", *CASE]].rename(columns={"model": "learner"})
    table["fold"] = rows["outer_fold"]
    classes = {name: study.classes_of(name) for name in dict.fromkeys(map(str, rows["target"]))}
    for column, values in (("reference", rows["y_true"]), ("prediction", rows["y_pred"])):
        table[column] = values.astype(object) if any(classes.values()) else values
        for target, names in classes.items():
            if names:
                of_target = rows["target"] == target
                table.loc[of_target, column] = values[of_target].map(dict(enumerate(names)))
    for target, names in classes.items():
        of_target = rows["target"] == target
        for code, name in enumerate(names):
            table.loc[of_target, f"probability of {name}"] = rows.loc[of_target, f"p{code}"]
    table["low"], table["high"] = sets["low"].reindex(rows.index), sets["high"].reindex(rows.index)
    if any(classes.values()):
        named = [set_names(text, classes[target]) for target, text in zip(sets["target"], sets["set"], strict=True)]
        table["set"] = pd.Series(named, index=sets.index, dtype=object).reindex(rows.index, fill_value="")
    return table.assign(distance=rows["distance"] if "distance" in rows else float("nan"))


def cohort_table(images: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The content of `cohort.parquet` with names of classes instead of their numbers."""
    named = {}
    for target in study.targets:
        names = study.classes_of(target)
        if names and target in images and pd.api.types.is_numeric_dtype(images[target]):
            named[target] = images[target].map(dict(enumerate(names)))
    return images.assign(**named)


def splits_table(splits: Splits) -> pd.DataFrame:
    """Whether each subject is in the training, validation or test set, and its fold."""
    sides = pd.Series(splits.side, dtype=int)
    tested = sides.to_numpy() == TEST
    folds = (sides + 1).astype("Int64").mask(tested | splits.holdout).array
    names = [side_name(side, True) for side in sides] if splits.holdout else np.where(tested, "test", "train")
    return pd.DataFrame({"subject": sides.index, "side": names, "fold": folds})


def findings_table(audit: Mapping[str, Any]) -> pd.DataFrame:
    """The findings of the content of `audit.json`, the most serious first.

    >>> finding = {"id": "shortcut-border", "level": "error", "sentence": "The border predicts label.", "remedy": "…"}
    >>> findings_table({"findings": [finding], "accepted": {"shortcut-border": "a field of tissue"}})["accepted"][0]
    'a field of tissue'
    """
    accepted = audit.get("accepted") or {}
    rows = [
        {**{name: finding.get(name) for name in FINDING}, "accepted": accepted.get(finding["id"])}
        for finding in audit.get("findings", [])
    ]
    return pd.DataFrame(rows, columns=[*FINDING, "accepted"])
