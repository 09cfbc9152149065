"""The time budget of a planned run: the number of epochs that fit into it, measured before the networks are trained.

What was decided is recorded before it takes effect, so that a run that is continued trains as many.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from casewise.console import duration
from casewise.modalities.registry import modality_of
from casewise.pipeline import recipe_plan
from casewise.pipeline.plan_in_words import as_yaml, forecast_in_words
from casewise.study.recipe import Recipe
from casewise.study.sources import known_encoders

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.jobs.compute_plans import Pace
    from casewise.jobs.plan import Job, JobInputs
    from casewise.pipeline.read import RunInputs
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study

# A network with less time than for these epochs (of most networks twice as many) is left out: it would harm more than
# it helps, see docs/explanation-plan.md. One that must be trained has at least the fewest, even if they take longer.
WORTH_EPOCHS, FEWEST_EPOCHS = 4, 1
# The share of the budget that is aimed at: less on a busy machine, where other programs may begin to do more.
AIM, BUSY_AIM, BUSY = 0.95, 0.85, 1.5
# Of evaluation, report and bundle, in seconds of an idle processor: for every run, and for each case.
REPORT, REPORT_CASE = 4.0, 0.005
# The same for reading a network before it predicts other images.
READING = 0.1
# Predictions of training panels after a training (`casewise.jobs.predict`).
DISTANCE_PANELS = 1000
# Panels whose features are read to measure how long it takes.
TRIED_PANELS = 4
# Of work, by which it is measured how busy the machine is.
SPUN = 0.4
# The share of the budget above which fewer cases have their images altered, and the fewest of them.
ALTERED, FEWEST_ALTERED = 0.2, 12
clock, work = time.monotonic, time.process_time


@dataclass(frozen=True)
class Speed:
    """The speed of this machine.

    Attributes:
        before: seconds until the networks begin.
        paces: the pace of each network; one that could not be tried has none.
        workers: jobs side by side.
        slow: how many times longer this process takes than the processor works for it.
        features: seconds in which the features of a panel are read for all baselines of a fold, while other folds are
            busy; None if it was not measured.
        folds: whose baselines predict side by side.
    """

    before: float
    paces: Mapping[str, Pace]
    workers: int
    slow: float
    features: float | None = None
    folds: int = 1


@dataclass(frozen=True, eq=False)
class RunCases:
    """The cases of a run, the number of external panels, and the study and panels of the cohort for pretraining."""

    cohort: Cohort
    splits: Splits
    external: int = 0
    pretraining: tuple[Study, int] | None = None


def within_budget(
    inputs: RunInputs, jobs: Sequence[Job], fitted: Sequence[Job], job_inputs: JobInputs, outside: int, show: Show
) -> Study:
    """The study with as many epochs of its networks as fit into the budget of its plan; unchanged without a plan.

    It has no networks if too few fit.

    Args:
        jobs: the networks' jobs, all still to begin unless a forecast is recorded.
        fitted: the jobs of the baselines.
        outside: the number of panels of the external cohort.
    """
    study, folder = inputs.study, inputs.folder
    planned = recipe_plan.recorded_plan(study, folder)
    if planned is None:
        return study
    if planned.forecast:
        return _trained(study, planned.forecast)
    with show.bar("budget") as bar:
        bar(0, 1, "measuring the speed of the networks")
        speed = _measured_speed(inputs, jobs, fitted, job_inputs)
    other = job_inputs.pretraining
    pretraining = (other.study, len(other.cohort.panels)) if other else None
    planned = with_forecast(study, planned, RunCases(inputs.cohort, inputs.splits, outside, pretraining), speed)
    folder.recipe_plan.write(asdict(planned))
    study = study.model_copy(update={"recipe": Recipe.model_validate({**planned.recipe, "auto": True})})
    study = recipe_plan.with_fewer_altered(study, planned.forecast)
    folder.plan_page.write(as_yaml(study, planned))
    if not planned.forecast:
        return study
    show.line("budget", forecast_in_words(planned.forecast, planned.facts))
    return _trained(study, planned.forecast)


def _trained(study: Study, forecast: recipe_plan.Forecast) -> Study:
    """The study without its networks if a forecast leaves them out."""
    return _without_networks(study) if forecast.reason == "left" else study


def _without_networks(study: Study) -> Study:
    """The study without networks; unchanged if it has no other learner, or if a setting is about a network."""
    needs_networks = study.pretrain or study.nested_cv or study.images.mask or study.trained != study.networks
    return study if needs_networks else study.without(study.networks) or study


def with_forecast(
    study: Study, planned: recipe_plan.RecipePlan, cases: RunCases, speed: Speed
) -> recipe_plan.RecipePlan:
    """The plan with the epochs that fit into its budget at a speed, and the forecast of the run.

    Networks for which there is too little time are left out.
    """
    forecast = _forecast(study, planned.facts, cases, speed)
    is_stated, others = bool({"epochs", "phases"} & planned.stated.keys()), _without_networks(study)
    if forecast.epoch > 0 and forecast.epochs < WORTH_EPOCHS and not is_stated and others is not study:
        recipe = recipe_plan.recipe_of(study, planned.facts, planned.stated, WORTH_EPOCHS)
        worth = replace(forecast, epochs=sum(phase["epochs"] for phase in recipe["phases"]))
        left = replace(
            _forecast(others, planned.facts, cases, speed), epochs=0, reason="left", needed=worth.total / AIM
        )
        return replace(planned, recipe=recipe, forecast=left)
    epochs = max(FEWEST_EPOCHS, min(forecast.epochs, recipe_plan.MOST_EPOCHS))
    reason: recipe_plan.Reason = (
        "fewest" if forecast.epochs <= FEWEST_EPOCHS else "most" if epochs == recipe_plan.MOST_EPOCHS else "fit"
    )
    if is_stated:
        reason = "stated"
    recipe = recipe_plan.recipe_of(study, planned.facts, planned.stated, epochs)
    trained = sum(phase["epochs"] for phase in recipe["phases"])
    return replace(planned, recipe=recipe, forecast=replace(forecast, epochs=trained, reason=reason))


def show_time(inputs: RunInputs, show: Show) -> None:
    """Show how long a planned run took, and its budget."""
    planned = recipe_plan.recorded_plan(inputs.study, inputs.folder)
    if planned and planned.forecast:
        show.line("budget", _time_in_words(clock() - inputs.began, planned.forecast, planned.facts.budget))


def _time_in_words(seconds: float, forecast: recipe_plan.Forecast, budget: float) -> str:
    """How long a command took, and if it was longer than its budget, by how much, and what was expected."""
    over = seconds - budget
    if over <= 0:
        return f"this command used {duration(seconds)} of {duration(budget)}"
    expected = f"{duration(forecast.total)} were expected when the networks began"
    more = f"{duration(over)} more than the budget of {duration(budget)}"
    return f"this command used {duration(seconds)}, {more}; {expected}"


def _measured_speed(inputs: RunInputs, jobs: Sequence[Job], fitted: Sequence[Job], job_inputs: JobInputs) -> Speed:
    from casewise.inference.bundle import Bundle
    from casewise.jobs.execution import measured_paces
    from casewise.jobs.predict import at_once, chosen_panels, seconds_a_panel

    paces, workers = measured_paces(jobs, job_inputs, inputs.folder)
    slow, features, folds = slowness(), None, 1
    bundles = [(job, Bundle.open(job.folder.path)) for job in fitted if job.finished]
    sharing = [(job, bundle) for job, bundle in bundles if bundle.shares_features]
    chosen = chosen_panels(inputs.study, inputs.cohort.panels, inputs.splits)
    if chosen and sharing and len(bundles) == len(fitted):
        folds, fold = at_once([bundle for _, bundle in sharing], inputs.splits.folds), next(iter(chosen))
        members = [job for job, _ in sharing if job.fold == fold]
        features = seconds_a_panel(members, inputs.prepared, chosen[fold][:TRIED_PANELS], folds)
    return Speed(clock() - inputs.began, paces, workers, slow, features, 1 if features is None else folds)


def _forecast(study: Study, facts: recipe_plan.PlanFacts, cases: RunCases, speed: Speed) -> recipe_plan.Forecast:
    """The forecast of the run; `epochs` are half of those that fit, of most networks."""
    before, paces, slow = speed.before, speed.paces, speed.slow
    trainings = [paces[name] for name in study.trained if name in paces]
    if len(trainings) < len(study.trained):
        return recipe_plan.Forecast(before, 0.0, 0.0, 0.0, FEWEST_EPOCHS, "fewest")
    trained = facts.trained
    predicted = len(cases.cohort.panels) - trained + min(trained, DISTANCE_PANELS)
    # metrics on the training subjects, and the features for a probe
    predicted += trained * (bool(study.classes_of(study.primary_outcome)) + (study.recipe.head == "probe"))
    of_network = facts.folds + (study.final == "refit")
    count = max(1, of_network * len(trainings))
    share = of_network * math.ceil(count / speed.workers) / count * (study.seeds + (study.split.by == "image"))
    once = share * sum(pace.start + trained * pace.once + predicted * pace.predict for pace in trainings)
    epoch = share * sum(trained * pace.epoch for pace in trainings)
    pretraining = share * _pretraining(cases, paces)
    # only this process computes what follows, not several that share the processor
    alone = {name: replace(pace, predict=pace.predict * slow / pace.busy, busy=slow) for name, pace in paces.items()}
    speed = replace(speed, paces=alone)
    external = _predicting(study, facts, speed, cases.external) if cases.external else 0.0
    altered, after = _altered(study, facts, cases, speed), slow * (REPORT + REPORT_CASE * len(cases.cohort.cases))
    if fewer := _fewer_altered(study, altered, facts.budget):
        altered *= fewer / study.evaluation.counterfactual_cases
    longer = sum(phase.epochs for phase in study.recipe.phases) / recipe_plan.MOST_EPOCHS
    left = (BUSY_AIM if slow > BUSY else AIM) * facts.budget - before - pretraining - once - external - altered - after
    fitting = math.floor(left / max(longer * epoch, 1e-9))
    return recipe_plan.Forecast(
        before,
        once,
        epoch,
        after,
        fitting,
        pretraining=pretraining,
        external=external,
        altered=altered,
        altered_cases=fewer,
    )


def _fewer_altered(study: Study, seconds: float, budget: float) -> int:
    """The reduced number of cases whose images are altered, if the study's takes too much of the budget; else 0.

    A number that the study states is kept.
    """
    cases = study.evaluation.counterfactual_cases
    if seconds <= ALTERED * budget or "counterfactual_cases" in study.evaluation.model_fields_set:
        return 0
    fewer = max(FEWEST_ALTERED, math.floor(cases * ALTERED * budget / seconds))
    return fewer if fewer < cases else 0


def _pretraining(cases: RunCases, paces: Mapping[str, Pace]) -> float:
    """The seconds of pretraining a network of each backbone; held-out subjects are counted, whether shared or not."""
    if cases.pretraining is None:
        return 0.0
    recipe, panels = cases.pretraining[0].recipe, cases.pretraining[1]
    probe = recipe.head == "probe"
    return sum(panels * (recipe.epochs * pace.pretrain + probe * pace.predict) for pace in paces.values())


def _altered(study: Study, facts: recipe_plan.PlanFacts, cases: RunCases, speed: Speed) -> float:
    """The seconds in which each learner predicts altered images of cases of its fold."""
    from casewise.jobs.predict import chosen_panels

    alterations = modality_of(study).alterations(study)
    if not (alterations and study.evaluation.counterfactual_cases):
        return 0.0
    panels = sum(map(len, chosen_panels(study, cases.cohort.panels, cases.splits).values()))
    return _predicting(study, facts, speed, panels / facts.folds * (1 + len(alterations)), passes=1)


def _predicting(study: Study, facts: recipe_plan.PlanFacts, speed: Speed, panels: float, *, passes: int = 2) -> float:
    """The seconds in which each learner of each fold is read and predicts this many panels.

    Networks are counted one after another, baselines with some folds side by side.

    Two baselines read the features of each encoder, which takes two `passes` unless they share them.
    """
    paces = speed.paces
    features = relative_cost(facts) * encoding(facts, paces) if speed.features is None else speed.features
    reading = max(pace.busy for pace in paces.values()) * READING
    trained = sum(panels * paces[name].predict + reading for name in study.trained)
    fitted = panels * passes * features + reading * (len(study.learners) - len(study.trained))
    return facts.folds * trained + math.ceil(facts.folds / speed.folds) * fitted


def relative_cost(facts: recipe_plan.PlanFacts) -> float:
    """The time of all encoders together, in times of MobileNetV2; one that is not known counts as one."""
    seconds = {encoder.name: encoder.seconds for encoder in known_encoders()}
    unit = seconds["mobilenet_v2"]
    return sum(seconds.get(name, unit) for name in facts.encoders) / unit


def encoding(facts: recipe_plan.PlanFacts, paces: Mapping[str, Pace]) -> float:
    """The seconds in which the encoder of a baseline reads a panel: a network reads its mirror image, it all flips."""
    return max(pace.predict for pace in paces.values()) * (2 if facts.flips in ("both", "dihedral") else 1)


def slowness() -> float:
    """How many times longer this process takes than the processor works for it; 1 on an idle machine."""
    began, worked = clock(), work()
    while work() - worked < SPUN:
        pass
    return max(1.0, (clock() - began) / (work() - worked))
