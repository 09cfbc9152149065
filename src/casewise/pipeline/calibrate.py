"""The calibration of the headline's learner, and the net benefit of acting on its probabilities."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.calibration import class_calibration, decision_curve, number_calibration
from casewise.evaluation.results import Calibration, NetBenefit, Results
from casewise.evaluation.subgroups import headline_rows

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study

GRID = 25


def with_calibration(study: Study, predictions: pd.DataFrame, results: Results) -> Results:
    """The results with the calibration and, where the study declares thresholds, the decision curves.

    Both are of the headline's learner and target, at the headline's stage and on the external cohort.
    """
    main = results.main
    if main.stage is None:
        return results
    settings, target = study.evaluation, main.target
    plan = Plan(settings.bootstrap_resamples, settings.confidence, study.seed)
    classes, positive = study.classes_of(target), study.positive_of(target)
    calibration: dict[str, dict[str, Calibration]] = {}
    curves: dict[str, dict[str, list[NetBenefit]]] = {}
    for stage in dict.fromkeys([main.stage, "external"]):
        rows = headline_rows(predictions, replace(main, stage=stage))
        if rows.empty:
            continue
        if not classes:
            calibration[stage] = {"": number_calibration(rows, plan)}
            continue
        calibration[stage] = class_calibration(rows, classes, positive, plan)
        if settings.decision_thresholds:
            shown = classes if positive is None else [positive]
            curves[stage] = {
                name: decisions(rows, classes.index(name), settings.decision_thresholds, plan) for name in shown
            }
    return replace(
        results, calibration=calibration, decision_curves=curves if settings.decision_thresholds and classes else None
    )


def decisions(rows: pd.DataFrame, number: int, declared: list[float], plan: Plan) -> list[NetBenefit]:
    """The net benefit at the declared thresholds and at others between them, for the curve; `declared` marks them."""
    stated = sorted(set(declared))
    low, high = stated[0] / 2, (stated[-1] + min(2 * stated[-1], 1)) / 2
    levels = sorted({*stated, *np.linspace(low, high, GRID).round(4).tolist()})
    points = decision_curve(rows, number, levels, plan)
    return [replace(point, declared=point.threshold in stated) for point in points]
