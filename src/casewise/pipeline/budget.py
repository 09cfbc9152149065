"""The time budget of a planned run: the number of epochs that fit into it, measured before the networks are trained.

What was decided is recorded before it takes effect, so that a run that is continued trains as many.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from casewise.errors import counted
from casewise.evaluation.results import from_json
from casewise.modalities.registry import modality_of
from casewise.pipeline.recipe_plan import (
    MOST_EPOCHS,
    Forecast,
    RecipePlan,
    as_yaml,
    forecast_in_words,
    recipe_of,
)
from casewise.study.recipe import Recipe

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.jobs.pace import Pace
    from casewise.jobs.plan import Job, JobInputs
    from casewise.pipeline.read import RunInputs
    from casewise.study.schema import Study

# Fewer epochs than these are not trained, even if they take longer than the budget.
FEWEST_EPOCHS = 2
# The share of the budget that is aimed at.
AIM = 0.95
# Of evaluation, report and bundle, in seconds of an idle processor: for every run, and for each case.
REPORT, REPORT_CASE = 6.0, 0.005
# Predictions of training panels after a training (`casewise.jobs.predict`).
DISTANCE_PANELS = 1000
clock = time.monotonic


def within_budget(inputs: RunInputs, jobs: Sequence[Job], job_inputs: JobInputs, show: Show) -> Study:
    """The study with as many epochs of its networks as fit into the budget of its plan; unchanged without a plan.

    Args:
        jobs: of the networks, none of which has begun, unless a forecast is recorded.
    """
    study, folder = inputs.study, inputs.folder
    recorded = folder.recipe_plan.read_if_exists() if study.recipe.auto else None
    planned = from_json(RecipePlan, recorded) if recorded else None
    if planned is None or planned.forecast:
        return study
    forecast = forecast_of(inputs, planned, jobs, job_inputs, show)
    epochs = max(FEWEST_EPOCHS, min(forecast.epochs, MOST_EPOCHS))
    recipe = recipe_of(study, planned.facts, planned.stated, epochs)
    trained = sum(phase["epochs"] for phase in recipe["phases"])
    forecast = replace(forecast, epochs=trained)
    planned = replace(planned, recipe=recipe, forecast=forecast)
    folder.recipe_plan.write(asdict(planned))
    study = study.model_copy(update={"recipe": Recipe.model_validate({**recipe, "auto": True})})
    folder.plan_page.write(as_yaml(study, planned))
    show.line("budget", f"{counted(trained, 'epoch')}; {forecast_in_words(forecast, planned.facts)}")
    return study


def forecast_of(
    inputs: RunInputs, planned: RecipePlan, jobs: Sequence[Job], job_inputs: JobInputs, show: Show
) -> Forecast:
    """Try the networks, and forecast the run; `epochs` are those of pretrained networks that fit into the budget."""
    from casewise.jobs.execution import measured_paces

    study, facts = inputs.study, planned.facts
    with show.bar("budget"):
        paces, workers = measured_paces(jobs, job_inputs, inputs.folder)
    before = clock() - inputs.began
    if set(paces) != set(study.networks):
        return Forecast(before, 0.0, 0.0, 0.0, FEWEST_EPOCHS)
    trained = facts.trained
    predicted = len(inputs.cohort.panels) - trained + min(trained, DISTANCE_PANELS)
    # metrics on the training subjects, and the features for a probe
    predicted += trained * (bool(study.classes_of(study.primary_outcome)) + (study.recipe.head == "probe"))
    of_network = facts.folds + (study.final == "refit")
    count = of_network * len(paces)
    share = of_network * math.ceil(count / workers) / count * (study.seeds + (study.split.by == "image"))
    once = share * sum(pace.start + trained * pace.once + predicted * pace.predict for pace in paces.values())
    epoch = share * sum(trained * pace.epoch for pace in paces.values())
    after = _evaluation(inputs, planned, paces)
    longer = sum(phase.epochs for phase in study.recipe.phases) / MOST_EPOCHS
    left = AIM * facts.budget - before - once - after
    return Forecast(before, once, epoch, after, math.floor(left / max(longer * epoch, 1e-9)))


def _evaluation(inputs: RunInputs, planned: RecipePlan, paces: Mapping[str, Pace]) -> float:
    """The seconds after the training: altered images, which every learner predicts, evaluation and report."""
    study, cases = inputs.study, len(inputs.cohort.cases)
    copies = 1 + len(modality_of(study).alterations(study))
    panels = min(study.evaluation.counterfactual_cases, cases) * copies * len(inputs.cohort.panels) / cases
    slowest = max(pace.predict for pace in paces.values()) / (2 if study.test_time_augmentation else 1)
    # two baselines read the features of each encoder
    predicting = sum(pace.predict for pace in paces.values()) + 2 * len(planned.facts.encoders) * slowest
    busy = max(pace.busy for pace in paces.values())
    return panels * predicting + busy * (REPORT + REPORT_CASE * cases)
