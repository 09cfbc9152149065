"""The compute plan of every network of a run: stated by the study, recorded by an earlier run, or by the device.

The pace of networks is measured on this machine under its present load: a few steps of as many jobs as will run
side by side.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from casewise.cohort.targets import label_table
from casewise.errors import RunError, StudyError, WeightsError, nearest
from casewise.files import cache_folder
from casewise.jobs.fitting import FoldData, Pretrained, pretraining_data
from casewise.jobs.plan import Job, JobInputs, divided
from casewise.models.backbones import Network
from casewise.models.build_model import load_first_weights, network_of
from casewise.models.outputs import outputs_of
from casewise.models.shared_parts import predict_together
from casewise.run_folder import RunFolder
from casewise.study.learners import learner_named
from casewise.study.model import mixed_seed
from casewise.study.recipe import NetworkPlan
from casewise.study.schema import Compute, Study
from casewise.training.compute_plan import ComputePlan, choose
from casewise.training.cost import give_memory_back
from casewise.training.loop import TrainingContext, fit, standardise
from casewise.training.stages import learn


def compute_plans(waiting: Sequence[Job], inputs: JobInputs, folder: RunFolder, threads: int) -> dict[str, ComputePlan]:
    """For each network: check its first weights for every fold, then find its compute plan, which the run stores.

    The plan is the one that the study states, else the one that the folder records, else it follows from the device.

    Raises:
        WeightsError: first weights are missing.
        StudyError: the stated plan cannot be read or lacks a network, or a panel has a size that a network refuses.
        RunError: networks of the folder were trained with another plan.
    """
    refuse_other_plans(inputs.study, folder)
    recorded, stated = folder.compute.read_or_none() or {}, stated_plans(inputs.study)
    plans: dict[str, ComputePlan] = {}
    missing: list[str] = []
    for model in dict.fromkeys(job.model for job in waiting):
        # Measuring a step draws random numbers; the draws of a job must not depend on it.
        torch.manual_seed(0)
        study, by_steps = inputs.study.of_learner(model), learner_named(model).by_steps
        network = network_of(study, model)
        size = study.images.size
        height, width = size * study.panels.rows, size * study.panels.columns
        if by_steps:
            try_size(network, height, width)
        try:
            for fold in {job.fold for job in waiting if job.model == model}:
                _, stop_subjects = divided(study, inputs.cohort.panels, inputs.splits, fold)
                excluded_subjects = sorted({*inputs.splits.held_out(fold), *stop_subjects})
                load_first_weights(network, study, model, excluded_subjects)
        except WeightsError as error:
            missing.append(str(error))
            continue
        if not by_steps:
            of_model = stated[model].threads if model in stated else threads
            plans[model] = ComputePlan(threads=of_model, why="the plan of every learner without gradient steps")
            continue
        plan = _recorded_plan(recorded.get(model), folder, model)
        if model in stated and stated[model].device == "cuda" and not torch.cuda.is_available():
            raise StudyError(f"compute.plan: {model!r} is planned for cuda, but this machine has no CUDA device.")
        if plan is None or not _holds(plan, study.compute, stated.get(model)):
            plan = stated.get(model) or choose(
                network,
                study.compute,
                side=max(height, width),
                batch=study.recipe.batch_size,
                threads=threads,
                memo=cache_folder() / "steps.json",
                kept=study.recipe.keeps_statistics,
            )
        plans[model] = plan
        if recorded.get(model) != (values := json.loads(json.dumps(asdict(plan)))):
            recorded[model] = values
            folder.compute.write(recorded)
        del network
        give_memory_back()
    if missing:
        raise WeightsError("\n".join(missing))
    return plans


def refuse_other_plans(study: Study, folder: RunFolder) -> None:
    """Check that the networks of the folder were trained as the study states and as this machine can.

    Raises:
        RunError: naming a network that was not.
        StudyError: as `stated_plans`.
    """
    recorded, stated = folder.compute.read_or_none() or {}, stated_plans(study)
    for model in study.trained:
        plan = _recorded_plan(recorded.get(model), folder, model)
        if plan and not _holds(plan, study.compute, stated.get(model)) and folder.job_records([model]):
            raise RunError(
                f"{folder.path}: {model} was trained with {plan.described()}, which is not what the study states "
                "or what this machine has. Choose another folder with --output."
            )


def stated_plans(study: Study) -> dict[str, ComputePlan]:
    """The plans that the study states, by network; none if it leaves them to the device.

    Raises:
        StudyError: the run folder that `compute.plan` names has no plans, or a network has none.
    """
    plan = study.compute.plan
    if plan is None:
        return {}
    if isinstance(plan, dict):
        plans = {model: _with_settings(entry.model_dump(), "stated by the study") for model, entry in plan.items()}
    else:
        try:
            recorded = RunFolder(plan).compute.read()
        except RunError as error:
            raise StudyError(f"compute.plan: {error} Name the folder of a run.") from error
        why = f"as recorded in {plan}"
        plans = {model: replace(ComputePlan.from_json(values), why=why) for model, values in recorded.items()}
    for model in study.trained:
        if model not in plans:
            raise StudyError(
                f"compute.plan: {model!r} has no plan; there are plans of {', '.join(plans) or 'no network'}."
                f"{nearest(model, plans)}"
            )
    return plans


def recorded_plans(folder: RunFolder, networks: Sequence[str]) -> dict[str, NetworkPlan]:
    """The plans by which the networks of a run folder were trained, as a study states them."""
    recorded = folder.compute.read_or_none() or {}
    plans = {model: _recorded_plan(recorded.get(model), folder, model) for model in networks}
    return {model: NetworkPlan.model_validate(plan, from_attributes=True) for model, plan in plans.items() if plan}


def _recorded_plan(values: Mapping[str, Any] | None, folder: RunFolder, model: str) -> ComputePlan | None:
    """The plan of an earlier training: from the run folder, else from finished folds, else None."""
    if values:
        return ComputePlan.from_json(values)
    why = "as in the finished folds, since the file that recorded it was missing or damaged"
    for record in folder.job_records([model]):
        with suppress(LookupError):
            return _with_settings(record, why)
    return None


def _with_settings(values: Mapping[str, Any], why: str) -> ComputePlan:
    """The plan with the settings of a job's record, or of a study."""
    channels_last = values["memory_format"] != "contiguous"
    settings = values["device"], values["precision"], channels_last, values["threads"]
    return ComputePlan(*settings, why=why, fused=values.get("fused", False))


def _holds(plan: ComputePlan, compute: Compute, stated: ComputePlan | None) -> bool:
    """Whether a recorded plan agrees with the study and this machine."""
    settings = ("precision", "threads", "device")
    return (
        all(getattr(compute, name) in ("auto", getattr(plan, name)) for name in settings)
        and (plan.device != "cuda" or torch.cuda.is_available())
        and (stated is None or plan.described() == stated.described())
    )


def try_size(network: Network, height: int, width: int) -> None:
    """Check that the network accepts panels of this size.

    Raises:
        StudyError: naming the size; most transformers accept only one.
    """
    try:
        with torch.inference_mode():
            network.eval().features(torch.zeros(1, network.channels, height, width))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise StudyError(
            f"backbones: {network.name} cannot take panels of {width}×{height} px: {str(error).splitlines()[0]}. "
            "Change images.size or panels.grid so that the panel has a size that it accepts."
        ) from error


# Batches of an epoch of a trial.
BATCHES = 2
clock, work = time.monotonic, time.process_time


@dataclass(frozen=True)
class Pace:
    """The speed of a job of a network, in seconds.

    Attributes:
        start: before the first epoch.
        once: for each training panel, of what is computed once for all epochs.
        epoch: for each training panel in an epoch.
        predict: for each predicted panel.
        pretrain: for each panel of the other cohort in an epoch of pretraining.
        busy: how many times longer everything takes than the processor works for it; 1 on an idle machine.
    """

    start: float
    once: float
    epoch: float
    predict: float
    pretrain: float = 0.0
    busy: float = 1.0


def pace_of(job: Job, inputs: JobInputs, plan: ComputePlan) -> Pace:
    """Train a network for two short epochs and predict some panels, as the job will; nothing is kept.

    Args:
        inputs: as the job's learner sees them, with a recipe in phases; the last phase is tried.
    """
    began, worked = clock(), work()
    study, outputs = inputs.study, outputs_of(inputs.study)
    fit_subjects, _ = divided(study, inputs.cohort.panels, inputs.splits, job.fold)
    network = network_of(study, job.model)
    data = FoldData.of(inputs, job.model, fit_subjects, fit_subjects, alone=False)
    standardise(network, data.train.truth, outputs)
    size = study.recipe.batch_size
    count = min(BATCHES * size, len(data.fit_rows))
    rows = data.fit_rows[np.linspace(0, len(data.fit_rows) - 1, count).astype(int)].tolist()
    panels, (*_, phase) = data.panels.subset(rows), study.recipe.phases
    phases = [phase.model_copy(update={"epochs": 2})]
    # a trial needs no good network, and may lack a class
    recipe = study.recipe.model_copy(update={"phases": phases, "head": "random", "imbalance": "none"})
    ends: list[float] = []
    context = TrainingContext(
        outputs,
        job.folder.path,
        mixed_seed(study.seed, "pace"),
        plan,
        math.inf,
        "last",
        lambda done, loss: ends.append(clock()),
    )
    ready = clock()
    learn(network, recipe, panels, data.panels.subset(rows[:1]), [], context)
    first, second = ends[0] - ready, ends[1] - ends[0]
    once, before = max(0.0, first - second), ready - began
    varied = panels.with_variations(phase.variations).varied
    predict = partial(predict_together, batch=size, channels_last=plan.channels_last)
    # the first prediction takes longer
    predict([network], panels.subset(range(len(panels) // 2)), outputs, flips=False)
    trained = clock()
    predict([network], panels, outputs, flips=study.test_time_augmentation)
    ended = clock()
    busy = plan.threads * (ended - began) / max(work() - worked, 1e-3)
    pretrain = _pretraining_pace(job, inputs.pretraining, plan) if inputs.pretraining else 0.0
    return Pace(
        before + (once if varied else 0.0),
        0.0 if varied else once / count,
        second / count,
        (ended - trained) / count,
        pretrain,
        max(1.0, busy),
    )


def _pretraining_pace(job: Job, other: Pretrained, plan: ComputePlan) -> float:
    """The seconds that a panel of the other cohort takes in the second of two short epochs."""
    labels = label_table(other.cohort.panels, other.study)
    rows = np.flatnonzero(~np.isnan(labels).all(axis=1))[: BATCHES * other.study.recipe.batch_size]
    network, outputs = network_of(other.study, job.model), outputs_of(other.study)
    data = pretraining_data(other, job.model, rows)
    standardise(network, data.truth, outputs)
    ends: list[float] = []
    seed, folder = mixed_seed(other.study.seed, "pace"), job.folder.pretraining.path
    context = TrainingContext(outputs, folder, seed, plan, math.inf, "last", lambda done, loss: ends.append(clock()))
    fit(network, other.study.recipe.model_copy(update={"epochs": 2}), data, data.subset([0]), context)
    return (ends[1] - ends[0]) / len(rows)
