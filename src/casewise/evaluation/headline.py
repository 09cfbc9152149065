"""The headline of a study: the learner that the report is about, and the stage at which it is evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from casewise.evaluation.caveats import Caveat
from casewise.metrics.registry import metric_of
from casewise.study.learners import without_baselines
from casewise.targets import kind_named

# the prefix of fitted meta learners
FITTED = "meta_learner"


def headline(
    metrics: Mapping[str, Any], main: str, kind: str, notes: list[Caveat], *, stated: str = ""
) -> dict[str, Any]:
    """Choose the learner that the report is about by its merit out of fold, so that the test set takes no part.

    The merit and the tie-breaker are those of the target's `kind`. `metrics` are those of `evaluate`. If the learner is
    chosen on the cases on which it is evaluated, a caveat is added to `notes`. The learner `stated` is not chosen: if
    it was evaluated, the report is about it.
    """
    headline_values: dict[str, Any] = {
        "target": main,
        "stage": None,
        "learner": None,
        "chosen_on": None,
        "metrics": None,
    }
    headline_values["kind"] = kind
    figures_by_stage = {
        stage: {learner: keys[main] for learner, keys in learners.items() if main in keys}
        for stage, learners in metrics.items()
    }
    stage = next((stage for stage in ("test", "oof", "external") if figures_by_stage.get(stage)), None)
    if stage is None:
        return headline_values
    if stated in figures_by_stage[stage]:
        return headline_values | {
            "stage": stage,
            "learner": stated,
            "chosen_on": "stated",
            "metrics": figures_by_stage[stage][stated],
        }
    chosen_on = "oof" if set(figures_by_stage.get("oof", {})) & set(figures_by_stage[stage]) else stage
    candidates = [learner for learner in figures_by_stage[chosen_on] if learner in figures_by_stage[stage]]
    candidates = without_baselines(candidates)
    deciding = (kind_named(kind).merit, kind_named(kind).tie_breaker)
    learner = max(
        candidates, key=lambda name: _rank(*(figures_by_stage[chosen_on][name][key].value for key in deciding))
    )
    if chosen_on == stage and len(candidates) > 1:
        notes.append(_chosen_where_judged(learner))
    return headline_values | {
        "stage": stage,
        "learner": learner,
        "chosen_on": chosen_on,
        "metrics": figures_by_stage[stage][learner],
    }


def headline_within(
    main: Mapping[str, Any],
    metrics: Mapping[str, Any],
    left_out: Mapping[str, Any],
    column: str,
    notes: list[Caveat],
) -> dict[str, Any]:
    """Choose the learner by the mean over the sources of its merit within each, if each source was left out.

    `main` is that of `headline`, `left_out` that of `casewise.evaluation.external.by_source`, and `column` contains the
    sources. The mean is over sources in which all learners have the metric. Without such a source the pooled metric
    decides, or the pooled tie-breaker if the metric only compares cases within folds. Fitted meta learners are not
    candidates, because they were fitted on predictions of networks that were trained on the source. In `notes`, the
    caveat on the former choice is replaced by those on this one.
    """
    kind, target = main["kind"], main["target"]
    figures_by_learner = {learner: keys[target] for learner, keys in metrics.get("oof", {}).items() if target in keys}
    figures_by_learner = {name: figures_by_learner[name] for name in without_baselines(list(figures_by_learner))}
    if main["stage"] != "oof" or not figures_by_learner or not left_out:
        return dict(main)
    merit, loss = kind_named(kind).merit, kind_named(kind).tie_breaker

    def value(source: str, learner: str, name: str) -> float | None:
        entry = left_out[source].get(learner, {}).get(name) or {}
        return entry.get("value")

    _remove(notes, str(main["learner"]))
    fitted = [learner for learner in figures_by_learner if learner.startswith(FITTED)]
    if len(fitted) < len(figures_by_learner):
        figures_by_learner = {
            learner: figures for learner, figures in figures_by_learner.items() if learner not in fitted
        }
        if fitted:
            notes.append(Caveat("fitted_not_headline", learners=fitted, column=column))
    defined = [s for s in left_out if all(value(s, learner, merit) is not None for learner in figures_by_learner)]
    by = merit if defined or metric_of(merit).across_folds != "within" else loss
    if not defined:
        notes.append(Caveat("chosen_on_pooled", column=column, metric=merit, chosen_by=by, kind=kind))

    def mean(learner: str, name: str) -> float | None:
        every = [value(s, learner, name) for s in defined] if defined else [figures_by_learner[learner][name]["value"]]
        present = [estimate for estimate in every if estimate is not None]
        return sum(present) / len(present) if present else None

    learner = max(
        figures_by_learner, key=lambda name: _rank(mean(name, merit) if by == merit else None, mean(name, loss))
    )
    undefined = [s for s in left_out if s not in defined]
    if defined:
        notes.append(Caveat("chosen_within", column=column, metric=merit, undefined=undefined, kind=kind))
    notes += [_chosen_where_judged(learner)] if len(figures_by_learner) > 1 else []
    return {**main, "learner": learner, "chosen_on": "oof", "metrics": figures_by_learner[learner]}


def headline_inside(
    main: Mapping[str, Any], metrics: Mapping[str, Any], learner: str, notes: list[Caveat]
) -> dict[str, Any]:
    """Put the learner whose networks were chosen by inner folds in the headline, because its metrics are unbiased.

    They are metrics of the whole procedure, including the choice. The caveat on the former choice is removed.
    """
    figures = metrics.get(str(main["stage"]), {}).get(learner, {}).get(main["target"])
    if figures is None:
        return dict(main)
    _remove(notes, str(main["learner"]))
    notes.append(Caveat("chosen_in_inner_folds", learner=learner))
    return {**main, "learner": learner, "chosen_on": "inner folds", "metrics": figures}


def _rank(merit: float | None, loss: float | None) -> tuple[float, float]:
    """A sort key that is largest for the best learner; undefined values come last."""
    return (-math.inf if merit is None else merit, -math.inf if loss is None else -loss)


def _chosen_where_judged(learner: str) -> Caveat:
    return Caveat("chosen_where_judged", learner=learner)


def _remove(notes: list[Caveat], learner: str) -> None:
    notes[:] = [note for note in notes if note != _chosen_where_judged(learner)]
