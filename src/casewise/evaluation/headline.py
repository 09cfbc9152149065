"""The headline of a study: the learner that the report is about, where it is evaluated, and how it compares."""

from __future__ import annotations

import math
from dataclasses import replace

from casewise.evaluation.figures import Figures
from casewise.evaluation.results import Headline, PrimaryContrast
from casewise.predictions.table import CHOOSING, INTERNAL
from casewise.study.learners import (
    COVARIATES,
    FEATURES,
    KERNEL,
    PIXELS,
    baselines_among,
    is_baseline,
    without_baselines,
)
from casewise.targets import kind_named

# the prefix of fitted meta learners
FITTED = "meta_learner"
# combinations that a study may report without choosing among its learners, in this order
_COMBINATIONS = ("meta_learner_weighted", "mean_of_learners")
# simple models of the primary comparison, if none is chosen; others come after them
_SIMPLE = (KERNEL, FEATURES, PIXELS, COVARIATES)


def headline(table: Figures, main: str, kind: str, *, stated: str = "", sources_left_out: bool = False) -> Headline:
    """The learner that the report is about, which is never chosen on the cases on which it is evaluated.

    It is the learner `stated`, if it was evaluated. Else, if there is a test set, it is the best out of fold (or on the
    validation set) by the merit of the target's `kind`, then by its tie-breaker. Else nothing is chosen: it is the
    weighted mean of the learners, or their mean, or the first network of the study (without networks, the last
    baseline). Where sources are left out, weights were fitted on predictions of networks that were trained on the
    source, so the weighted mean is passed over.
    """
    by_stage = {stage: table.names("learner", stage=stage, target=main) for stage in (*INTERNAL, "external")}
    stage = next((stage for stage in by_stage if by_stage[stage]), None)
    if stage is None:
        return Headline(main, None, None, None, kind)
    choosing = next((stage for stage in CHOOSING if by_stage[stage]), "oof")
    candidates = without_baselines(by_stage[stage])
    choices = [learner for learner in candidates if learner in by_stage[choosing] and stage != choosing]
    chosen_on = "stated"
    if stated in by_stage[stage]:
        learner = stated
    elif choices:
        chosen_on, deciding = choosing, (kind_named(kind).merit, kind_named(kind).tie_breaker)
        learner = max(choices, key=lambda name: _rank(*(table.of(choosing, name, main)[key].value for key in deciding)))
    else:
        first = candidates[-1] if is_baseline(candidates[0]) else candidates[0]
        combinations = [name for name in _COMBINATIONS if not (sources_left_out and name.startswith(FITTED))]
        learner = next((name for name in combinations if name in candidates), first)
    return Headline(main, stage, learner, chosen_on, kind)


def internal_headline(main: Headline, table: Figures, learner: str) -> Headline:
    """The headline of the learner whose networks were chosen by inner folds, because its metrics are unbiased.

    They are metrics of the whole procedure, including the choice.
    """
    evaluated = table.of(str(main.stage), learner, main.target)
    return replace(main, learner=learner, chosen_on="inner folds") if evaluated else main


def _rank(merit: float | None, loss: float | None) -> tuple[float, float]:
    """A sort key that is largest for the best learner; undefined values come last."""
    return (-math.inf if merit is None else merit, -math.inf if loss is None else -loss)


def primary_contrast(table: Figures, main: Headline, margin: float | None = None) -> PrimaryContrast | None:
    """The headline's learner and the simple model with which it is compared first; None without one.

    The simple model is the best out of fold (or on the validation set) by the merit of the target's kind, if the
    headline is of other cases. Otherwise every figure, even from inner folds, is of the cases that judge it, and it
    is the first one in a fixed order: kernels on image features, image features, pixels, covariates, others.
    """
    stage, learner, target = str(main.stage), main.learner, main.target
    baselines = baselines_among(table.names("learner", stage=stage, target=target))
    if learner is None or is_baseline(learner) or not baselines:
        return None
    choosing = next((name for name in CHOOSING if table.names("learner", stage=name, target=target)), stage)
    merit, values = kind_named(main.kind).merit, {}
    for name in baselines:
        figure = table.of(choosing, name, target).get(merit)
        if figure and figure.value is not None:
            values[name] = figure.value
    if choosing == stage or not values:
        simple = next((name for name in _SIMPLE if name in baselines), baselines[0])
        return PrimaryContrast(learner, simple, stage, "order", margin=margin)
    return PrimaryContrast(learner, max(values, key=lambda name: values[name]), stage, choosing, margin=margin)
