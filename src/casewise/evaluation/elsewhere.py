"""Other patients: what is lost on an external cohort, and how each source fares when it was left out of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from casewise.evaluation import metrics as m
from casewise.evaluation.bootstrap import ROUGH_BELOW, Plan, by_subject, draw, percentiles, sum_by_subject
from casewise.evaluation.classed import classes_of, judge_classes, widen
from casewise.evaluation.classification import Classes, figures
from casewise.predictions import final_rows

DROPPED = ("accuracy", "balanced_accuracy", "auroc", "f1", "kappa_quadratic", "mae", "pcc", "ccc")


def drop(
    predictions: pd.DataFrame,
    target: str,
    *,
    classes: Sequence[str] = (),
    positive: str | None = None,
    plan: Plan,
) -> dict[str, dict[str, dict[str, Any]]]:
    """How much worse each learner is on the external cohort than inside the study: learner -> metric -> figures.

    `difference` is the external figure minus the internal one (that of the test set, else out of fold), `low` and
    `high` its interval; the two sets of subjects are resampled on their own, since they are other people.
    """
    rows = final_rows(predictions[predictions["target"] == target])
    rows = rows[rows["y_true"].notna()]
    inside = next((stage for stage in ("test", "oof") if (rows["stage"] == stage).any()), None)
    if inside is None or not (rows["stage"] == "external").any():
        return {}
    told: dict[str, dict[str, dict[str, Any]]] = {}
    its = classes_of(rows, classes, positive) if classes else None
    for learner, part in rows.groupby("model", sort=False):
        sides = [part[part["stage"] == stage] for stage in (inside, "external")]
        if any(side.empty for side in sides):
            continue
        (at, drawn, n), (other, redrawn, n_other) = (
            _resampled(side, its, replace(plan, seed=plan.seed + number)) for number, side in enumerate(sides)
        )
        told[str(learner)] = {}
        for name in (name for name in DROPPED if name in at):
            gaps = (redrawn[name] - drawn[name])[:, None]
            low, high = (float(end[0]) for end in percentiles(gaps, plan.confidence))
            gap = other[name] - at[name]
            if not np.isnan(gap):
                known = not np.isnan(low)
                told[str(learner)][name] = {
                    "internal": at[name],
                    "external": other[name],
                    "difference": gap,
                    "low": low if known else None,
                    "high": high if known else None,
                    "internal_stage": inside,
                    "rough": min(n, n_other) < ROUGH_BELOW,
                }
    return told


def by_source(
    predictions: pd.DataFrame,
    target: str,
    sources: Sequence[str],
    *,
    classes: Sequence[str] = (),
    positive: str | None = None,
    plan: Plan,
) -> dict[str, dict[str, dict[str, Any]]]:
    """The figures of each source by networks that never saw it: source -> learner -> metric -> estimate."""
    rows = final_rows(predictions[predictions["target"] == target])
    # a fitted stacker has seen every source through the networks that feed it
    fitted = rows["model"].str.startswith("meta_learner")
    rows = rows[rows["y_true"].notna() & (rows["stage"] == "oof") & ~fitted]
    its = classes_of(rows, classes, positive) if classes and len(rows) else None
    told: dict[str, dict[str, dict[str, Any]]] = {}
    for fold, source in enumerate(sources, start=1):
        part = rows[rows["outer_fold"] == fold]
        if part.empty:
            continue
        if its is not None:
            judged, _ = judge_classes(widen(part, its, {}, crossed=True), its, plan, comparing=False)
        else:
            judged = {
                str(learner): by_subject(
                    mine["y_true"].to_numpy(float),
                    {"it": mine["y_pred"].to_numpy(float)},
                    mine["subject"].to_numpy(),
                    plan,
                    cases=mine["case"].to_numpy(),
                )["it"]
                for learner, mine in part.groupby("model", sort=False)
            }
        told[str(source)] = {
            learner: {name: found.as_json() for name, found in figures.items() if not name.endswith("_calibrated")}
            for learner, figures in judged.items()
        }
    return told


def _resampled(
    part: pd.DataFrame, classes: Classes | None, plan: Plan
) -> tuple[Mapping[str, float], Mapping[str, np.ndarray], int]:
    """One learner's figures, those of every resample (R,), and the number of subjects."""
    n_subjects = part["subject"].nunique()
    if classes is not None:
        samples = widen(part, classes, {}, crossed=False).samples
        at = figures(samples, classes, np.ones((1, n_subjects)))
        drawn = figures(samples, classes, draw(n_subjects, plan))
        return (
            {name: float(value[0, 0]) for name, value in at.items()},
            {k: v[:, 0] for k, v in drawn.items()},
            n_subjects,
        )
    truth = part["y_true"].to_numpy(float)
    terms = m.moments(truth, part["y_pred"].to_numpy(float), centre=float(truth.mean()))
    sums = sum_by_subject(terms, part["subject"].to_numpy())
    points, drawn = m.metrics_of(sums.sum(axis=0)), m.metrics_of(draw(n_subjects, plan) @ sums)
    return {name: float(value) for name, value in points.items()}, dict(drawn), n_subjects
