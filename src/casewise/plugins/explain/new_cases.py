"""Saliency maps of new cases by a trained model, over their original images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from casewise.inference.bundle import Bundle
from casewise.inference.predictor import Predictor
from casewise.modalities.base import NativeMap, PreparedCohort
from casewise.models.threads import on_threads
from casewise.plugins.explain.case_selection import rows_of_unit
from casewise.plugins.explain.methods.target import ExplainTarget
from casewise.plugins.explain.saliency import average_folds, maps_by_row, native_maps, on_panels
from casewise.study.images import WEIGHTED
from casewise.study.learners import is_baseline

# Panels of a case that are explained; of more, an evenly spaced sample.
MAX_PANELS = 64


@dataclass(frozen=True, eq=False)
class _OriginalMap:
    """A map of a new case over one of its original images, or in a scan.

    Attributes:
        channel: the sequence; empty for images.
        native: the map, and the original image if it is not a volume.
        method: the saliency method.
        signed: whether the map goes from −1 (against) to 1 (in favour), instead of 0 to 1.
        flat: the map is nearly uniform.
    """

    case: str
    channel: str
    native: NativeMap
    method: str
    signed: bool
    flat: bool


def explainable(members: Sequence[Bundle]) -> list[str]:
    """Networks, then baselines, that have saliency maps; networks that weight tiles have none."""
    names = sorted(dict.fromkeys(member.model for member in members), key=is_baseline)
    weighted = members[0].settings["panels"].get("pooling") in WEIGHTED
    return [name for name in names if is_baseline(name) or not weighted]


@on_threads()
def explain_new(
    predictors: Iterable[Predictor],
    prepared: PreparedCohort,
    target: ExplainTarget,
    predicted: pd.DataFrame,
    *,
    side: int | None = None,
) -> list[_OriginalMap]:
    """The mean maps of the networks of one learner for every prepared case.

    Args:
        predictors: the networks of the learner's folds, one or more, on the CPU, each used before the next is taken.
        predicted: rows of the predictions table with the columns `case`, `region`, `image`, `target` and `y_pred`; for
            classes and grades, the predicted one is explained.
        side: the longest side of pictures in pixels; by default as in the original images.
    """
    names = prepared.cohort.panels["case"].astype(str).to_numpy()
    sampled = {case: np.flatnonzero(names == case).tolist() for case in dict.fromkeys(names)}
    sampled = {case: rows[:: -(-len(rows) // MAX_PANELS)] for case, rows in sampled.items()}
    targets = {row: _with_class(prepared, target, predicted, row) for rows in sampled.values() for row in rows}
    of_folds = []
    for predictor in predictors:
        model = on_panels(predictor, prepared)
        of_folds.append(list(maps_by_row(model, targets).values()))
    by_row = {saliency.row: saliency for saliency in average_folds(of_folds)}
    results = []
    for case, rows in sampled.items():
        maps = [by_row[row] for row in rows]
        signed = any(saliency.signed for saliency in maps)
        flat = all(saliency.flat for saliency in maps)
        for channel, natives in native_maps(prepared, maps, model.sequences, side=side).items():
            results += [_OriginalMap(case, channel, native, model.method, signed, flat) for native in natives]
    return results


def _with_class(prepared: PreparedCohort, target: ExplainTarget, predicted: pd.DataFrame, row: int) -> ExplainTarget:
    """The target with the class that was predicted for the unit of a panel row."""
    if not target.output.classes:
        return target
    panel, level = prepared.cohort.panels.iloc[row], prepared.study.level_of(target.target)
    rows = predicted[(predicted["target"] == target.target) & (predicted["case"].astype(str) == str(panel["case"]))]
    rows = rows_of_unit(rows, panel, level, prepared.cohort.images)
    if rows.empty or bool(rows["y_pred"].isna().iloc[0]):
        return target
    return ExplainTarget(target.outputs, target.target, class_index=int(rows["y_pred"].iloc[0]))
