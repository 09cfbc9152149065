"""The tables of a finished run: predictions, metrics, splits and findings as tidy data frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from casewise.evaluation.results import Results, Seeds
from casewise.predictions.conformal import set_names, with_sets
from casewise.predictions.table import final_rows
from casewise.splits.predefined import TEST

if TYPE_CHECKING:
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study

CASE = ["case", "subject", "visit", "day", "region", "image"]
NAMES = ["learner", "target", "stage", "metric"]
ESTIMATE = ["value", "low", "high", "n_subjects", "n_cases", "rough", "reason"]
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


def metrics_table(results: Results) -> pd.DataFrame:
    """Every estimate of `metrics.json`, a row each."""
    rows = [row | dict(estimate) for row, estimate in _by_name(results.metrics)]
    return (
        pd.DataFrame(rows).reindex(columns=[*NAMES, *ESTIMATE]).astype(dict.fromkeys(("value", "low", "high"), float))
    )


def seeds_table(results: Results) -> pd.DataFrame:
    """The spread of every metric over several seeds, a row each; without rows where there is one training."""
    entry, spread = results.seeds or Seeds([], {}), ["mean", "min", "max", "sd"]
    rows = [
        row | {"trainings": len(entry.seeds)} | {name: getattr(figures, name) for name in spread}
        for row, figures in _by_name(entry.metrics)
    ]
    return pd.DataFrame(rows, columns=[*NAMES, "trainings", *spread]).astype(dict.fromkeys(spread, float))


def _by_name(figures: Mapping[str, Any]) -> Iterator[tuple[dict[str, str], Any]]:
    """The figures by stage, learner, target and metric, each with these names."""
    for stage, by_learner in figures.items():
        for learner, by_target in by_learner.items():
            for target, by_metric in by_target.items():
                for metric, figure in by_metric.items():
                    yield dict(zip(NAMES, (learner, target, stage, metric), strict=True)), figure


def cohort_table(images: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The content of `cohort.parquet` with names of classes instead of their numbers."""
    named = {}
    for target in study.targets:
        names = study.classes_of(target)
        if names and target in images and pd.api.types.is_numeric_dtype(images[target]):
            named[target] = images[target].map(dict(enumerate(names)))
    return images.assign(**named)


def splits_table(splits: Splits) -> pd.DataFrame:
    """The side and fold of each subject."""
    sides = list(splits.side.values())
    return pd.DataFrame(
        {
            "subject": list(splits.side),
            "side": ["test" if side == TEST else "train" for side in sides],
            "fold": pd.array([pd.NA if side == TEST else side + 1 for side in sides], dtype="Int64"),
        }
    )


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
