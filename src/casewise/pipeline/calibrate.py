"""The calibration of the headline's learner, and the net benefit of acting on its probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.calibration import class_calibration, decision_curve, number_calibration
from casewise.evaluation.subgroups import headline_rows

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study

GRID = 25


def calibration_and_decisions(study: Study, predictions: pd.DataFrame, main: Mapping[str, Any]) -> dict[str, Any]:
    """The entries `calibration` and, where the study declares thresholds, `decisions` of metrics.json.

    Both are of the headline's learner and target, at the headline's stage and on the external cohort: by stage, and for
    targets with classes by class. A number has one entry, with an empty name.
    """
    if main["stage"] is None:
        return {}
    settings, target = study.evaluation, str(main["target"])
    plan = Plan(settings.bootstrap_resamples, settings.confidence, study.seed)
    classes, positive = study.classes_of(target), study.positive_of(target)
    entries: dict[str, Any] = {"calibration": {}}
    if settings.decision_thresholds:
        entries["decisions"] = {}
    for stage in dict.fromkeys([main["stage"], "external"]):
        rows = headline_rows(predictions, {**main, "stage": stage})
        if rows.empty:
            continue
        if not classes:
            entries["calibration"][stage] = {"": number_calibration(rows, plan)}
            continue
        entries["calibration"][stage] = class_calibration(rows, classes, positive, plan)
        if settings.decision_thresholds:
            shown = classes if positive is None else [positive]
            entries["decisions"][stage] = {
                name: decisions(rows, classes.index(name), settings.decision_thresholds, plan) for name in shown
            }
    return entries


def decisions(rows: pd.DataFrame, number: int, declared: list[float], plan: Plan) -> list[dict[str, Any]]:
    """The net benefit at the declared thresholds and at others between them, for the curve; `declared` marks them."""
    stated = sorted(set(declared))
    low, high = stated[0] / 2, (stated[-1] + min(2 * stated[-1], 1)) / 2
    levels = sorted({*stated, *np.linspace(low, high, GRID).round(4).tolist()})
    points = decision_curve(rows, number, levels, plan)
    return [{**point, "declared": point["threshold"] in stated} for point in points]
