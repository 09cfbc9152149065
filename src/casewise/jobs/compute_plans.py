"""The compute plan of every network of a run: stated by the study, recorded by an earlier run, or measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import torch

from casewise.errors import RunError, StudyError, WeightsError, nearest
from casewise.files import parsed_json
from casewise.jobs.plan import Job, JobInputs, divided
from casewise.models.backbones import Network
from casewise.models.build_model import load_first_weights, network_of
from casewise.run_folder import RunFolder
from casewise.study.learners import learner_named
from casewise.study.recipe import NetworkPlan
from casewise.study.schema import Compute, Study
from casewise.training.compute_plan import ComputePlan, choose, memo_path
from casewise.training.cost import give_memory_back


def compute_plans(waiting: Sequence[Job], inputs: JobInputs, folder: RunFolder, threads: int) -> dict[str, ComputePlan]:
    """For each network: check its first weights for every fold, then find its compute plan, which the run stores.

    The plan is the one that the study states, else the one that the folder records, else it is measured.

    Raises:
        WeightsError: first weights are missing.
        StudyError: the stated plan cannot be read or lacks a network, or a panel has a size that a network refuses.
        RunError: networks of the folder were trained with another plan.
    """
    study = inputs.study
    recorded, stated = folder.compute.read_or_none() or {}, stated_plans(study.compute)
    plans_by_model: dict[str, ComputePlan] = {}
    missing: list[str] = []
    size = study.images.size
    side = size * max(study.panels.rows, study.panels.columns)
    for model in dict.fromkeys(job.model for job in waiting):
        # Measuring draws random numbers; the draws of a job must not depend on whether there was a measurement.
        torch.manual_seed(0)
        if not learner_named(model).by_steps:
            view = inputs.of_learner(model).study
            try:
                load_first_weights(network_of(view, model), view, model, ())
            except WeightsError as error:
                missing.append(str(error))
            of_model = stated[model].threads if stated and model in stated else threads
            plans_by_model[model] = ComputePlan(threads=of_model, why="that of every learner without gradient steps")
            continue
        network = network_of(study, model)
        try_size(network, size * study.panels.rows, size * study.panels.columns)
        try:
            for fold in {job.fold for job in waiting if job.model == model}:
                _, stop_subjects = divided(study, inputs.cohort.panels, inputs.splits, fold)
                excluded_subjects = sorted({*inputs.splits.held_out(fold), *stop_subjects})
                load_first_weights(network, study, model, excluded_subjects)
        except WeightsError as error:
            missing.append(str(error))
            continue
        plan = _recorded_plan(recorded.get(model), folder, model)
        if stated is not None:
            _check_device(stated, model)
        if plan is None or not _holds(plan, study.compute, stated[model] if stated else None):
            if plan and folder.job_records([model]):
                raise RunError(
                    f"{folder.path}: {model} was trained with {plan.described()}, which is not what the study states "
                    "or what this machine has. Choose another folder with --output."
                )
            plan = (
                stated[model]
                if stated is not None
                else choose(
                    network,
                    study.compute,
                    side=side,
                    batch=study.recipe.batch_size,
                    threads=threads,
                    memo=memo_path(),
                    kept=study.recipe.keeps_statistics,
                )
            )
        plans_by_model[model] = plan
        if recorded.get(model) != (values := json.loads(json.dumps(asdict(plan)))):
            recorded[model] = values
            folder.compute.write(recorded)
        del network
        give_memory_back()
    if missing:
        raise WeightsError("\n".join(missing))
    return plans_by_model


def stated_plans(compute: Compute) -> dict[str, ComputePlan] | None:
    """The plans that the study states, by network; None if it leaves them to a measurement.

    Raises:
        StudyError: the file that `compute.plan` names cannot be read, or is none of `compute.json`.
    """
    if compute.plan is None:
        return None
    if isinstance(compute.plan, dict):
        return {
            model: ComputePlan(entry.device, entry.precision, entry.memory_format == "channels_last", entry.threads)
            for model, entry in compute.plan.items()
        }
    path = RunFolder(compute.plan).compute.path if compute.plan.is_dir() else compute.plan
    try:
        values = parsed_json(path.read_text(encoding="utf-8"))
        why = f"as recorded in {path}"
        return {model: replace(_plan_of(entry), measured=(), why=why) for model, entry in values.items()}
    except OSError as error:
        raise StudyError(
            f"compute.plan: {path} cannot be read ({error.strerror or error}). Name a run folder or its compute.json."
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StudyError(
            f"compute.plan: {path} is not a compute.json, as a run writes it. Name a run folder or its compute.json."
        ) from error


def check_stated(study: Study) -> None:
    """Check that the study's `compute.plan` can be read and contains every network.

    Raises:
        StudyError: it cannot, or lacks one.
    """
    stated = stated_plans(study.compute)
    for model in study.networks if stated is not None else ():
        _check_planned(stated or {}, model)


def _check_planned(stated: dict[str, ComputePlan], model: str) -> None:
    if model not in stated:
        raise StudyError(
            f"compute.plan: {model!r} has no plan; there are plans of {', '.join(stated) or 'no network'}."
            f"{nearest(model, list(stated))}"
        )


def _check_device(stated: dict[str, ComputePlan], model: str) -> None:
    """Check that the stated plans contain this network, and that this machine can follow its plan."""
    _check_planned(stated, model)
    if stated[model].device == "cuda" and not torch.cuda.is_available():
        raise StudyError(f"compute.plan: {model!r} is planned for cuda, but this machine has no CUDA device.")


def _plan_of(values: Any) -> ComputePlan:
    """The plan of one entry of `compute.json`.

    Raises:
        ValueError, LookupError, TypeError: it is no such entry.
    """
    plan = ComputePlan(**{**values, "measured": tuple((str(name), float(s)) for name, s in values["measured"])})
    if plan.precision not in ("fp32", "bf16") or plan.device not in ("cpu", "cuda") or plan.threads < 1:
        raise ValueError(f"no compute plan: {values}")
    return plan


def recorded_plans(folder: RunFolder, networks: Sequence[str]) -> dict[str, NetworkPlan]:
    """The plans by which the networks of a run folder were trained, as a study states them."""
    recorded = folder.compute.read_or_none() or {}
    plans = {model: _recorded_plan(recorded.get(model), folder, model) for model in networks}
    return {
        model: NetworkPlan(
            device=plan.device,
            precision=plan.precision,
            memory_format="channels_last" if plan.channels_last else "contiguous",
            threads=plan.threads,
        )
        for model, plan in plans.items()
        if plan
    }


def _recorded_plan(values: Any, folder: RunFolder, model: str) -> ComputePlan | None:
    """The plan of an earlier training: from the run folder, else from finished folds, else None."""
    with suppress(ValueError, TypeError, LookupError):
        return _plan_of(values)
    for record in folder.job_records([model]):
        with suppress(LookupError):
            stated = {name: record[name] for name in ("device", "precision", "threads")}
            why = "as in the finished folds, since the file that recorded it was missing or damaged"
            return ComputePlan(**stated, channels_last=record["memory_format"] == "channels-last", why=why)
    return None


def _holds(plan: ComputePlan, compute: Compute, stated: ComputePlan | None) -> bool:
    """Whether a recorded plan agrees with the study and this machine."""
    return (
        compute.precision in ("auto", plan.precision)
        and compute.memory_format in ("auto", "channels_last" if plan.channels_last else "contiguous")
        and compute.threads in ("auto", plan.threads)
        and compute.device in ("auto", plan.device)
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
