"""The rows of clinical scores in the table of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from casewise.predictions.table import COLUMNS
from casewise.study.schema import Study
from casewise.study.scores import Array, Score, study_scores


def apply_scores(
    table: pd.DataFrame,
    scores: Sequence[Score],
    *,
    missing_regions: Literal["refuse", "allow"] = "refuse",
    regions: Sequence[str] = (),
) -> pd.DataFrame:
    """Add rows for each score to the table of predictions, with its reference and its prediction.

    A score is computed for every learner, stage, fold and case (and region and image, at region level). At case level
    the values of a case's images are averaged first, so that there is one row for each case. Predictions are clipped to
    the range of the score. A score has a reference only if all its values have one. If a learner predicted the score
    directly, its prediction is kept.

    A case that lacks a region has no score with `missing_regions='refuse'`. With 'allow' the predicted value of the
    missing region is the mean over the other `regions` of the case, and the case has no reference. A score of a
    prediction that is NaN is NaN.
    """
    table = table.reset_index(drop=True)
    for score in scores:
        table = _with_score(table, score, fill=missing_regions == "allow", regions=regions)
    return table


def scored(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The table of predictions with the scores of a study (`apply_scores`)."""
    return apply_scores(table, study_scores(study), missing_regions=study.missing_regions, regions=study.regions)


def cases_with_missing_regions(table: pd.DataFrame, scores: Sequence[Score]) -> dict[str, int]:
    """For each score over regions, the number of cases that lack some of them."""
    present = table.groupby("case", sort=False)["region"].agg(set)
    over_regions = [score for score in scores if score.regions]
    return {score.name: sum(not regions.issuperset(score.regions) for regions in present) for score in over_regions}


def _with_score(table: pd.DataFrame, score: Score, *, fill: bool, regions: Sequence[str]) -> pd.DataFrame:
    takes_regions = bool(score.regions)
    inputs = table[table["target"].isin([score.name, *score.targets])]
    if score.level == "region":
        inputs = inputs[inputs["region"] != ""]
    if inputs.empty:
        return table
    keys = ["model", "stage", "outer_fold", "inner_fold", "case"]
    keys += ["region", "image"] if score.level == "region" else []
    group = inputs.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    n_groups = int(group.max()) + 1
    target, region = inputs["target"].to_numpy(), inputs["region"].to_numpy()

    def column(name: str, where: str | None, values: Array) -> Array:
        mask = (target == name) if where is None else (target == name) & (region == where)
        total = np.bincount(group[mask], weights=values[mask], minlength=n_groups)
        with np.errstate(invalid="ignore"):
            return total / np.bincount(group[mask], minlength=n_groups)

    true, predicted = inputs["y_true"].to_numpy(dtype=float), inputs["y_pred"].to_numpy(dtype=float)
    truths = {reference: column(*reference, true) for reference in score.references}
    guesses = {reference: column(*reference, predicted) for reference in score.references}
    if fill:
        for name in score.targets if takes_regions else ():
            others = np.array([column(name, where, predicted) for where in regions])
            count = np.isfinite(others).sum(axis=0)
            mean = np.where(count > 0, np.nansum(others, axis=0) / np.maximum(count, 1), np.nan)
            for reference in (r for r in guesses if r[0] == name):
                guesses[reference] = np.where(np.isnan(guesses[reference]), mean, guesses[reference])

    y_true = score.value(truths)
    # a prediction that is not a number exists: it is neither filled nor left out
    lost = np.isnan(predicted) & np.isin(target, score.targets)
    lost &= fill or not takes_regions or np.isin(region, ["", *score.regions])
    unknown = np.bincount(group[lost], minlength=n_groups) > 0
    y_pred = np.where(unknown, np.nan, np.clip(score.value(guesses), score.low, score.high))
    direct = target == score.name
    first = np.full(n_groups, -1)
    first[group[::-1]] = np.arange(len(group))[::-1]
    new = (np.isfinite(y_pred) | unknown) & ~np.isin(np.arange(n_groups), group[direct])
    rows = inputs.iloc[first[new]][list(COLUMNS)].copy()
    rows["target"], rows["y_true"], rows["y_pred"] = score.name, y_true[new], y_pred[new]
    if "distance" in inputs:
        rows["distance"] = inputs["distance"].groupby(group).mean().to_numpy()[new]
    if score.level == "case":
        rows["region"] = rows["image"] = ""
    if direct.any():
        table = table.copy()
        stated_rows = inputs.index[direct]
        table.loc[stated_rows, "y_true"] = np.where(np.isnan(true[direct]), y_true[group[direct]], true[direct])
    return pd.concat([table, rows], ignore_index=True)
