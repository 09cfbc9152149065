"""Whether a planned run can keep its budget: an estimate from a few images, before all are prepared."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from casewise.cohort.cohort import Cohort, with_panels
from casewise.console import Silent, duration
from casewise.errors import CasewiseError
from casewise.modalities.base import StoreAddress
from casewise.modalities.registry import modality_of
from casewise.pipeline import budget as budgets
from casewise.pipeline import recipe_plan
from casewise.pipeline.budget import AIM, RunCases, Speed
from casewise.pipeline.encoder_plan import encoder_slowness, fitting_seconds
from casewise.pipeline.plan_in_words import forecast_parts
from casewise.run_folder import RunFolder
from casewise.splits.predefined import TEST
from casewise.study.learners import learner_named
from casewise.study.schema import Study

# Panels that are tried, fewer of more than MOST_PIXELS together, and images whose headers decide the size.
_PANELS, _FEWEST_PANELS, _MOST_PIXELS, _HEADERS = 8, 2, 8 * 224**2, 1001
# Smaller sizes of images that are proposed: multiples of a stride, at least half of the size.
_STRIDE = 32
# The longest first trial, in seconds, after which a smaller size is tried too; and after which no network is tried.
_QUICK, _LONGEST = 4.0, 10.0
# Seconds of a large network for a training step on 224 x 224 pixels and before its first step, on a slow processor; and
# passes over the panels besides the epochs. A budget that suffices even then needs no trial.
_SLOWEST, _START, _PASSES = 4.0, 10.0, 3
MINUTE = 60.0


@dataclass(frozen=True)
class _Trial:
    """A planned study, what it stated, its facts, the seconds of preparing an image, and the speed of its networks."""

    study: Study
    stated: Mapping[str, Any]
    facts: recipe_plan.PlanFacts
    speed: Speed
    seconds: float

    def forecast(self, cases: RunCases, *, folds: int, budget: float) -> recipe_plan.Forecast:
        """The least that a run takes with this many folds, planned within a budget in seconds."""
        facts = replace(self.facts, folds=folds, budget=budget)
        planned = recipe_plan.RecipePlan(facts, self.study.recipe.stated, self.stated)
        forecast = budgets.with_forecast(self.study, planned, cases, self.speed).forecast
        assert forecast
        return forecast


def budget_lines(study: Study, cases: RunCases) -> list[str]:
    """A warning if the least plan of a study takes longer than its budget, or has no network, with what would help."""
    if not study.recipe.auto or not study.networks:
        return []
    folds, budget = cases.splits.folds, study.budget
    began = budgets.clock()
    try:
        planned = _planned(study, cases)
        trial = None if _surely_kept(planned, cases) else _tried(planned, cases)
    except CasewiseError:
        return []
    if trial is None:
        return []
    forecast = trial.forecast(cases, folds=folds, budget=budget)
    if forecast.total <= budget and forecast.epochs:
        return []
    longest = sorted(forecast_parts(forecast).items(), key=lambda entry: -entry[1])
    listed = ", ".join(f"{name} {duration(seconds)}" for name, seconds in longest if seconds)
    remedies = list(_remedies(study, cases, trial, quick=budgets.clock() - began < _QUICK))
    text = " or ".join([", ".join(remedies[:-1]), remedies[-1]] if remedies[1:] else remedies)
    problem = "cannot be kept" if forecast.total > budget else "is too short for a network, so that none is trained"
    least = "" if forecast.epochs else " without a network"
    return [
        f"{'WARNING':<10} budget: {duration(budget)} {problem}. An estimate from a few images of this study, on "
        f"this computer, is at least {duration(forecast.total)}{least} ({listed}); the audit comes "
        f"on top. By the same estimate this keeps it{'' if least == '' else ' with one'}: {text}"
    ]


def _surely_kept(study: Study, cases: RunCases) -> bool:
    """Whether the least plan of a study that `_planned` returned keeps its budget even with the slowest networks."""
    if study.fusions:
        return False
    facts = recipe_plan.plan_facts(study, cases.cohort, cases.splits, None)
    recipe = recipe_plan.recipe_of(study, facts, study.recipe.stated, budgets.WORTH_EPOCHS)
    epochs = sum(phase["epochs"] for phase in recipe["phases"])
    panels, other = cases.cohort.panels, cases.pretraining
    panel = _SLOWEST * study.images.size**2 * float(panels["tiles"].map(len).mean()) / 224**2
    trainings = (
        len(study.trained) * (facts.folds + (study.final == "refit")) * (study.seeds + (study.split.by == "image"))
    )
    pretraining = other[1] * other[0].recipe.epochs if other else 0
    passes = trainings * ((len(panels) + cases.external) * (epochs + _PASSES) + pretraining)
    altered = min(study.evaluation.counterfactual_cases, len(cases.cohort.cases))
    passes += len(study.learners) * altered * (1 + len(modality_of(study).alterations(study)))
    passes += 2 * budgets.relative_cost(facts) * (len(panels) + cases.external)
    seconds = trainings * _START + passes * panel + _fitting(study, facts)
    return budgets.slowness() * seconds <= AIM * study.budget


def _fitting(study: Study, facts: recipe_plan.PlanFacts) -> float:
    """Seconds in which the baselines of all folds are fitted, by all cores of a computer of usual speed."""
    from joblib import cpu_count

    return len(facts.encoders) * fitting_seconds(study, facts.panels, facts.folds) / int(cpu_count())


def _planned(study: Study, cases: RunCases) -> Study:
    """The study with what the headers of some images decide."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = RunFolder(Path(temporary)).images()
        # whether marks are masked takes no time of a network, but all files would be read for it
        images = study.images.model_copy(update={"mask_overlays": False})
        study = study.model_copy(update={"images": images})
        return modality_of(study).planned(study, _deciding(cases), folder, Silent())


def _remedies(study: Study, cases: RunCases, trial: _Trial, *, quick: bool) -> Iterator[str]:
    """Changes of the study file; with any one of them the estimate fits the budget."""
    folds, budget = cases.splits.folds, study.budget
    minutes = next(
        minutes
        for minutes in count(math.ceil(budget / MINUTE))
        if _fits(trial.forecast(cases, folds=folds, budget=minutes * MINUTE), minutes * MINUTE)
    )
    yield f"`--set budget={minutes}min`"
    split = study.split
    if not (cases.splits.holdout or split.column or split.leave_out):
        for fewer in range(folds - 1, 1, -1):
            if _fits(trial.forecast(cases, folds=fewer, budget=budget), budget):
                yield f"`--set split.folds={fewer}`"
                break
    if quick and (size := _smaller(study, cases, trial)):
        yield f"`--set images.size={size}`"


def _fits(forecast: recipe_plan.Forecast, budget: float) -> bool:
    return forecast.total <= AIM * budget and forecast.epochs > 0


def _smaller(study: Study, cases: RunCases, trial: _Trial) -> int:
    """A smaller size of images whose least plan keeps the budget when it is tried; 0 if there is none."""
    budget, images, folds = study.budget, trial.study.images, cases.splits.folds
    forecast = trial.forecast(cases, folds=folds, budget=budget)
    total = max(forecast.total, AIM * forecast.needed)
    networks = total - forecast.after - trial.seconds * len(cases.cohort.images)
    left = AIM * budget - (total - networks)
    # the time of networks grows with their pixels
    size = int(images.size * math.sqrt(max(0.0, left) / networks)) // _STRIDE * _STRIDE
    if 2 * size < images.size:
        return 0
    smaller = study.model_copy(update={"images": study.images.model_copy(update={"size": size})})
    try:
        other = _tried(_planned(smaller, cases), cases)
    except CasewiseError:
        return 0
    return size if other and _fits(other.forecast(cases, folds=folds, budget=budget), budget) else 0


def _tried(study: Study, cases: RunCases) -> _Trial | None:
    """Prepare some images and try the networks of a study that `_planned` returned; None if a run would fail, too."""
    from casewise.jobs.execution import quick_paces
    from casewise.jobs.plan import Job, JobInputs

    modality, splits = modality_of(study), cases.splits
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder, stated = RunFolder(Path(temporary)), study.recipe.stated
            facts = recipe_plan.plan_facts(study, cases.cohort, splits, None)
            study = recipe_plan.planned_study(
                study, recipe_plan.RecipePlan(facts, recipe_plan.recipe_of(study, facts, stated), stated)
            )
            sample = _sample(study, cases)
            single, cohort = (_of_panels(study, cases.cohort, numbers) for numbers in (sample[:1], sample))
            seconds = []
            # the first preparation takes longer
            for name, panels in (("warm", single), ("single", single), ("all", cohort)):
                began = budgets.clock()
                store = modality.prepare(study, panels, RunFolder(folder.path / name).images(), Silent())
                seconds.append(budgets.clock() - began)
            more = len(cohort.images) - len(single.images)
            # scans are read by other processes, whose start would be taken for the time of the few that are tried
            decoding = 0.0 if study.fusions else max(0.0, seconds[2] - seconds[1]) / max(more, 1)
            networks = [name for name in study.trained if learner_named(name).by_steps]
            jobs = [
                Job(name, fold, folder.job(name, fold), "", alone=splits.holdout)
                for name in networks
                for fold in range(splits.folds)
            ]
            inputs = JobInputs(study, cohort, splits, StoreAddress(store.folder, store.address))
            paces, workers = quick_paces(jobs, inputs, _LONGEST)
    except CasewiseError:
        return None
    if set(paces) != set(study.trained):
        return None
    before = decoding * len(cases.cohort.images)
    before += len(cases.cohort.panels) * budgets.relative_cost(facts) * budgets.encoding(facts, paces)
    before += encoder_slowness(study) * _fitting(study, facts)
    return _Trial(study, stated, facts, Speed(before, paces, workers, budgets.slowness()), decoding)


def _deciding(cases: RunCases) -> Cohort:
    """Images outside the test set whose headers decide the size."""
    images = cases.cohort.images
    images = images[~images["subject"].astype(str).isin(cases.splits.subjects(TEST))]
    return replace(cases.cohort, images=images.iloc[_spread(len(images), _HEADERS)])


def _sample(study: Study, cases: RunCases) -> list[int]:
    """Numbers of panels that train the first network."""
    panels, splits = cases.cohort.panels, cases.splits
    training = set(splits.training(0))
    labelled = panels[[name for name in study.outputs if name in panels]].notna().any(axis=1)
    rows = np.flatnonzero(labelled & panels["subject"].astype(str).isin(training))
    pixels = study.images.size**2 * float(panels["tiles"].map(len).mean())
    most = _FEWEST_PANELS if study.fusions else int(_MOST_PIXELS / pixels)
    chosen = rows[_spread(len(rows), min(_PANELS, max(_FEWEST_PANELS, most)))]
    return [int(number) for number in panels["panel"].iloc[chosen]]


def _spread(count: int, most: int) -> list[int]:
    """At most this many of the numbers below `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist() if count else []


def _of_panels(study: Study, cohort: Cohort, numbers: list[int]) -> Cohort:
    images = cohort.images[cohort.images["panel"].isin(numbers)].reset_index(drop=True)
    images, panels = with_panels(images, study)
    return replace(cohort, images=images, panels=panels, cases=cohort.cases[cohort.cases["case"].isin(images["case"])])
