"""The compute plan of every network of a run: stated by the study, recorded by an earlier run, or measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import torch

from casewise.errors import RunError, StudyError, WeightsError, nearest
from casewise.files import cache_folder
from casewise.jobs.plan import Job, JobInputs, divided
from casewise.models.backbones import Network
from casewise.models.build_model import load_first_weights, network_of
from casewise.run_folder import RunFolder
from casewise.study.learners import learner_named
from casewise.study.recipe import NetworkPlan
from casewise.study.schema import Compute, Study
from casewise.training.compute_plan import ComputePlan, choose
from casewise.training.cost import give_memory_back


def compute_plans(waiting: Sequence[Job], inputs: JobInputs, folder: RunFolder, threads: int) -> dict[str, ComputePlan]:
    """For each network: check its first weights for every fold, then find its compute plan, which the run stores.

    The plan is the one that the study states, else the one that the folder records, else it is measured.

    Raises:
        WeightsError: first weights are missing.
        StudyError: the stated plan cannot be read or lacks a network, or a panel has a size that a network refuses.
        RunError: networks of the folder were trained with another plan.
    """
    recorded, stated = folder.compute.read_or_none() or {}, stated_plans(inputs.study)
    plans: dict[str, ComputePlan] = {}
    missing: list[str] = []
    for model in dict.fromkeys(job.model for job in waiting):
        # Measuring draws random numbers; the draws of a job must not depend on whether there was a measurement.
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
            plans[model] = ComputePlan(threads=of_model, why="that of every learner without gradient steps")
            continue
        plan = _recorded_plan(recorded.get(model), folder, model)
        if model in stated and stated[model].device == "cuda" and not torch.cuda.is_available():
            raise StudyError(f"compute.plan: {model!r} is planned for cuda, but this machine has no CUDA device.")
        if plan is None or not _holds(plan, study.compute, stated.get(model)):
            if plan and folder.job_records([model]):
                raise RunError(
                    f"{folder.path}: {model} was trained with {plan.described()}, which is not what the study states "
                    "or what this machine has. Choose another folder with --output."
                )
            plan = stated.get(model) or choose(
                network,
                study.compute,
                side=max(height, width),
                batch=study.recipe.batch_size,
                threads=threads,
                memo=cache_folder() / "speed.json",
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


def stated_plans(study: Study) -> dict[str, ComputePlan]:
    """The plans that the study states, by network; none if it leaves them to a measurement.

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
        plans = {
            model: replace(ComputePlan.from_json(values), measured=(), why=why) for model, values in recorded.items()
        }
    for model in study.networks:
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
    return {
        model: NetworkPlan(
            device=plan.device, precision=plan.precision, memory_format=plan.memory_format, threads=plan.threads
        )
        for model, plan in plans.items()
        if plan
    }


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
    return ComputePlan(values["device"], values["precision"], channels_last, values["threads"], why=why)


def _holds(plan: ComputePlan, compute: Compute, stated: ComputePlan | None) -> bool:
    """Whether a recorded plan agrees with the study and this machine."""
    settings = ("precision", "memory_format", "threads", "device")
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
