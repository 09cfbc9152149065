"""The headline's learner against the best baseline, on the same cases and resamples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from casewise.evaluation.judges import judge_of, shared_truth
from casewise.evaluation.results import Outcomes
from casewise.predictions.table import final_rows
from casewise.study.learners import baselines_among, is_baseline
from casewise.targets import kind_named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from casewise.evaluation.bootstrap import Plan


def against_baselines(
    predictions: pd.DataFrame,
    outcomes: Outcomes,
    metrics: Mapping[str, Any],
    main: Mapping[str, Any],
    plan: Plan,
    *,
    networks: Sequence[str] = (),
) -> dict[str, Any] | None:
    """The differences of the headline's learner from the best baseline; None without one of them.

    If the learner is none of the `networks`, it combines several; the best network by the merit is then compared as
    well.

    The baseline is the best by the merit out of fold (or at the stage, if there is nothing out of fold), so it has the
    advantage of having been chosen; the differences are the learner's figures minus the baseline's.

    Returns:
        `learner`, `baseline`, `stage`, `n_subjects`, `rough`, and `differences[metric]` = {difference, low, high,
        indistinguishable}; positive differences favour the learner if larger values of the metric are better.
        `network`: the same of the best network.
    """
    compared = _compared(predictions, outcomes, metrics, main, plan)
    if compared is None or main["learner"] in networks:
        return compared
    stage, target, merit = compared["stage"], main["target"], compared["merit"]
    chosen_on = "oof" if "oof" in metrics else stage
    values = {name: metrics[chosen_on].get(name, {}).get(target, {}).get(merit, {}).get("value") for name in networks}
    defined = {name: value for name, value in values.items() if value is not None}
    if defined:
        best = max(defined, key=lambda name: defined[name])
        compared["network"] = _compared(predictions, outcomes, metrics, {**main, "learner": best}, plan)
    return compared


def _compared(
    predictions: pd.DataFrame, outcomes: Outcomes, metrics: Mapping[str, Any], main: Mapping[str, Any], plan: Plan
) -> dict[str, Any] | None:
    stage, learner, target = str(main.get("stage")), main.get("learner"), main["target"]
    fitted = baselines_among(name for name, figures in metrics.get(stage, {}).items() if target in figures)
    if learner is None or is_baseline(learner) or not fitted:
        return None
    chosen_on = "oof" if all(target in metrics.get("oof", {}).get(name, {}) for name in fitted) else stage
    merit = kind_named(main["kind"]).merit
    values = {name: metrics[chosen_on][name][target].get(merit, {}).get("value") for name in fitted}
    defined = {name: value for name, value in values.items() if value is not None}
    if not defined:
        return None
    baseline = max(defined, key=lambda name: defined[name])
    rows = final_rows(predictions)
    rows = rows[(rows["target"] == target) & rows["model"].isin([learner, baseline])]
    names, positive = outcomes.classes.get(target), outcomes.positive.get(target)
    judge = judge_of(rows, names, positive, sensitivities=outcomes.sensitivities)
    rows = shared_truth(rows[rows["stage"] == stage])
    compared = judge.judge(rows[rows["y_true"].notna()], plan, whole=True).comparison
    differences = {
        name: _as_difference(entry, str(learner)) for name, entry in compared.items() if entry["differences"]
    }
    if not differences:
        return None
    first = next(iter(compared.values()))
    return {
        "learner": learner,
        "baseline": baseline,
        "stage": stage,
        "merit": merit,
        "n_subjects": first["n_subjects"],
        "rough": first["rough"],
        "differences": differences,
    }


def _as_difference(entry: Mapping[str, Any], learner: str) -> dict[str, Any]:
    """The difference learner minus baseline of a comparison of the two, whichever of them is the best."""
    other, values = next(iter(entry["differences"].items()))
    if other == learner:
        return dict(values)
    low, high = values["low"], values["high"]
    return {
        "difference": -values["difference"],
        "low": None if high is None else -high,
        "high": None if low is None else -low,
        "indistinguishable": values["indistinguishable"],
    }
