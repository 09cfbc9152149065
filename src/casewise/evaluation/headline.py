"""The headline of a study: the learner that the report is about, where it is evaluated, and how it compares."""

from __future__ import annotations

import math
from dataclasses import replace

from casewise.evaluation.results import AgainstBaseline, Headline, Metrics, Results
from casewise.predictions.table import CHOOSING, INTERNAL
from casewise.study.learners import baselines_among, is_baseline, without_baselines
from casewise.targets import kind_named

# the prefix of fitted meta learners
FITTED = "meta_learner"
# combinations that a study may report without choosing among its learners, in this order
_COMBINATIONS = ("meta_learner_weighted", "mean_of_learners")


def headline(metrics: Metrics, main: str, kind: str, *, stated: str = "", sources_left_out: bool = False) -> Headline:
    """The learner that the report is about, which is never chosen on the cases on which it is evaluated.

    It is the learner `stated`, if it was evaluated. Else, if there is a test set, it is the best out of fold (or on the
    validation set) by the merit of the target's `kind`, then by its tie-breaker. Else nothing is chosen: it is the
    weighted mean of the learners, or their mean, or the first network of the study (without networks, the last
    baseline). Where sources are left out, weights were fitted on predictions of networks that were trained on the
    source, so the weighted mean is passed over.
    """
    figures_by_stage = {
        stage: {learner: keys[main] for learner, keys in learners.items() if main in keys}
        for stage, learners in metrics.items()
    }
    stage = next((stage for stage in (*INTERNAL, "external") if figures_by_stage.get(stage)), None)
    if stage is None:
        return Headline(main, None, None, None, None, kind)
    choosing = next((stage for stage in CHOOSING if figures_by_stage.get(stage)), "oof")
    figures, compared = figures_by_stage[stage], figures_by_stage.get(choosing, {})
    candidates = without_baselines(figures)
    choices = [learner for learner in candidates if learner in compared and stage != choosing]
    chosen_on = "stated"
    if stated in figures:
        learner = stated
    elif choices:
        chosen_on, deciding = choosing, (kind_named(kind).merit, kind_named(kind).tie_breaker)
        learner = max(choices, key=lambda name: _rank(*(compared[name][key].value for key in deciding)))
    else:
        first = candidates[-1] if is_baseline(candidates[0]) else candidates[0]
        combinations = [name for name in _COMBINATIONS if not (sources_left_out and name.startswith(FITTED))]
        learner = next((name for name in combinations if name in candidates), first)
    return Headline(main, stage, learner, chosen_on, figures[learner], kind)


def internal_headline(main: Headline, metrics: Metrics, learner: str) -> Headline:
    """The headline of the learner whose networks were chosen by inner folds, because its metrics are unbiased.

    They are metrics of the whole procedure, including the choice.
    """
    figures = metrics.get(str(main.stage), {}).get(learner, {}).get(main.target)
    return main if figures is None else replace(main, learner=learner, chosen_on="inner folds", metrics=figures)


def _rank(merit: float | None, loss: float | None) -> tuple[float, float]:
    """A sort key that is largest for the best learner; undefined values come last."""
    return (-math.inf if merit is None else merit, -math.inf if loss is None else -loss)


def against_baselines(results: Results) -> AgainstBaseline | None:
    """The differences of the headline's learner from the best baseline; None without one of them.

    The baseline is the best by the primary metric out of fold (or at the stage, if there is nothing out of fold). The
    intervals come from `results.comparisons`: they hold for all pairs of learners at once, so also for the chosen pair.
    A difference is the learner's figure minus the baseline's.
    """
    main, learner, stage = results.main, results.main.learner, str(results.main.stage)
    chosen_on = next((stage for stage in CHOOSING if results.metrics.get(stage)), stage)
    merit = kind_named(main.kind).merit
    baselines = baselines_among(results.metrics.get(stage, {}))
    figures = {name: results.figures(chosen_on, name, main.target).get(merit) for name in baselines}
    defined = {name: figure.value for name, figure in figures.items() if figure and figure.value is not None}
    baseline = max(defined, key=lambda name: defined[name], default=None)
    if learner is None or is_baseline(learner) or baseline is None:
        return None
    entries = results.comparisons.get(stage, {}).get(main.target, {})
    differences = {
        metric: entry.from_baseline[baseline][learner]
        for metric, entry in entries.items()
        if learner in entry.from_baseline.get(baseline, {})
    }
    if not differences:
        return None
    first = next(iter(entries.values()))
    chosen = len(defined) if chosen_on == stage else 0
    return AgainstBaseline(learner, baseline, stage, merit, first.n_subjects, first.rough, chosen, differences)
