"""Nested cross-validation: inner trainings on a fold's training subjects choose epochs and a learning rate.

They do not use the held-out subjects: labels of other subjects are removed, everything that is fitted (means and
deviations of targets, class weights, standard intensities) is fitted on the inner training side, and every record names
its subjects.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from casewise.cohort.labels import label_table
from casewise.errors import TrainingError
from casewise.jobs.plan import fit_preprocessing
from casewise.jobs.pretraining import PretrainingSettings, pretrain
from casewise.modalities.registry import modality_of
from casewise.models.build_model import load_first_weights, network_of
from casewise.models.outputs import outputs_of
from casewise.predictions.nested_cv import TunedParams, best_of
from casewise.splits.grouped import check_apart
from casewise.splits.inner import inner_folds
from casewise.study.seeds import mixed_seed
from casewise.training.loop import TrainingContext, standardise
from casewise.training.losses import guess_loss
from casewise.training.stages import learn

if TYPE_CHECKING:
    from casewise.jobs.plan import Progress
    from casewise.models.backbones import Network
    from casewise.study.schema import NestedCV
    from casewise.training.compute_plan import ComputePlan


@dataclass(frozen=True)
class InnerCVResult:
    """The choice of the inner trainings, and their record, which becomes part of the job's."""

    params: TunedParams
    record: dict[str, Any]


@dataclass(frozen=True)
class _Training:
    """One inner training: its candidate, its inner fold, and the subjects on both sides."""

    candidate: int
    lr: float
    fold: int
    fit_subjects: list[str]
    validation_subjects: list[str]

    @property
    def name(self) -> str:
        return f"lr{self.candidate}-fold{self.fold + 1}"


def choose_inside(progress: Progress, plan: ComputePlan, tune: NestedCV) -> InnerCVResult:
    """Train the job's network for each learning rate on each inner fold, and choose.

    Finished inner trainings of an interrupted job are read from its folder; the interrupted one continues to the same
    bits.

    Raises:
        TrainingError: the loss is not a number at any rate.
        SplitError: an inner fold cannot be made.
    """
    job, inputs = progress.job, progress.inputs
    study, splits = inputs.study, inputs.splits
    held_out = splits.held_out(job.fold)
    folds = inner_folds(
        modality_of(study).whole(study, inputs.cohort).panels, study, splits, job.fold, count=tune.folds
    )
    every = sorted(s for validation_subjects in folds for s in validation_subjects)
    trainings = [
        _Training(number, rate, k, sorted(set(every) - set(validation_subjects)), validation_subjects)
        for number, rate in enumerate(study.rates)
        for k, validation_subjects in enumerate(folds)
    ]
    for training in trainings:
        where = f"{job.name}, inner fold {training.fold + 1}"
        check_apart(training.fit_subjects, training.validation_subjects, where=where)
        check_apart(every, held_out, where=where)
    pruning = None
    if study.prune == "asha":
        records, pruning = _pruned(trainings, progress, plan, tune)
    else:
        records = [
            _trained(training, progress, plan, done * study.recipe.epochs) for done, training in enumerate(trainings)
        ]
    losses = {
        rate: _losses([record for record in records if record["candidate"] == number])
        for number, rate in enumerate(study.rates)
    }
    stopped = {entry["lr"]: entry["epochs"] for entry in (pruning or {}).get("candidates", []) if "rank" in entry}
    best = best_of({rate: of_rate for rate, of_rate in losses.items() if rate not in stopped}, epochs=tune.epochs)
    if best is None:
        raise TrainingError(next(record["failed"] for record in records if "failed" in record))
    rates = [
        {"lr": rate, "epochs": best_at_rate.epochs, "loss": best_at_rate.loss}
        if best_at_rate
        else {"lr": rate, "epochs": None, "loss": None}
        for rate, best_at_rate in (
            (rate, best_of({rate: losses_at_rate}, epochs=tune.epochs)) for rate, losses_at_rate in losses.items()
        )
    ]
    rates = [entry | ({"stopped_after": stopped[entry["lr"]]} if entry["lr"] in stopped else {}) for entry in rates]
    mean_guess_loss = fmean(record["guess_loss"] for record in records if record["candidate"] == 0)
    best_record = {"lr": best.lr, "epochs": best.epochs, "loss": best.loss, "guess_loss": mean_guess_loss}
    record = {"folds": len(folds), "chosen": best_record, "rates": rates, "trainings": records}
    return InnerCVResult(best, record | ({"pruning": pruning} if pruning else {}))


def _losses(records: Sequence[dict[str, Any]]) -> list[list[float]]:
    """The losses of one rate, by inner fold and epoch; none if a training failed."""
    return [] if any("failed" in record for record in records) else [record["losses"] for record in records]


def _pruned(
    trainings: Sequence[_Training], progress: Progress, plan: ComputePlan, tune: NestedCV
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train the candidates of a job from rung to rung; return the records of all trainings, and of the decisions."""
    study, folder = progress.inputs.study, progress.job.folder
    rungs = rungs_of(study.recipe.epochs)
    records: dict[str, dict[str, Any]] = {}

    def loss_at(candidate: int, rung: int) -> float | None:
        of_candidate = [training for training in trainings if training.candidate == candidate]
        for training in of_candidate:
            others = sum(len(record.get("losses", [])) for name, record in records.items() if name != training.name)
            records[training.name] = _trained(training, progress, plan, others, until=rungs[rung])
        # the records of an interrupted job may be further than this rung
        losses = [records[training.name].get("losses", [])[: rungs[rung]] for training in of_candidate]
        if any(len(of_fold) < rungs[rung] for of_fold in losses):
            return None
        best = best_of({0.0: losses}, epochs=tune.epochs)
        return best.loss if best else None

    losses = halved(len(study.rates), len(rungs), loss_at)
    for training in trainings:  # states of stopped trainings
        shutil.rmtree(folder.inner(training.name).folder.path, ignore_errors=True)
    return [records[training.name] for training in trainings], described(study.rates, rungs, losses)


def _trained(
    training: _Training, progress: Progress, plan: ComputePlan, before: int, *, until: int | None = None
) -> dict[str, Any]:
    """Train one candidate on one inner fold, or read the record of the finished training.

    With `until`, up to that epoch of the recipe; the state is kept, so that a later call continues.
    """
    job, inputs = progress.job, progress.inputs
    study, panels = inputs.study, inputs.cohort.panels
    inner = job.folder.inner(training.name)
    finished = inner.record.read_or_none()
    if finished is not None and (until is None or "failed" in finished or len(finished["losses"]) >= until):
        return finished
    ends = until is None or until >= study.recipe.epochs
    start = time.monotonic()
    seed = mixed_seed(study.seed, job.model, job.fold, "inner", training.fold, training.candidate)
    outputs, network = outputs_of(study), _first_network(training, progress, plan, seed, before)
    subjects = panels["subject"].astype(str)
    labels = label_table(panels, study)
    labels[~subjects.isin([*training.fit_subjects, *training.validation_subjects]).to_numpy()] = np.nan

    scored = ~np.isnan(labels).all(axis=1)
    rows, validation_rows = (
        np.flatnonzero(scored & subjects.isin(names).to_numpy())
        for names in (training.fit_subjects, training.validation_subjects)
    )
    preprocessing = fit_preprocessing(study, inputs.store, rows, model=job.model)
    dataset = modality_of(study).dataset(inputs.store, study, panels, labels, preprocessing)
    train, validation = dataset.subset(rows.tolist()), dataset.subset(validation_rows.tolist())
    standardise(network, train.truth, outputs)
    context = TrainingContext(
        outputs,
        inner.folder.path,
        seed,
        plan,
        study.compute.save_every if ends else 0,
        "last",
        progress.training(before, f"inner training {training.name}"),
        study.compute.frozen_once,
        until,
    )
    record: dict[str, Any] = {
        "fold": training.fold + 1,
        "candidate": training.candidate,
        "lr": training.lr,
        "fitted_on": _subjects_of([str(subjects.iloc[r]) for r in rows]),
        "judged_on": _subjects_of([str(subjects.iloc[r]) for r in validation_rows]),
        "guess_loss": guess_loss(train.truth, validation.truth, outputs, study.recipe),
    }
    try:
        names = [str(subjects.iloc[r]) for r in rows]
        learned = learn(network, study.recipe.model_copy(update={"lr": training.lr}), train, validation, names, context)
        record |= {
            "losses": [entry["stop_loss"] for entry in learned.history],
            "train_losses": [entry["train_loss"] for entry in learned.history],
        }
    except TrainingError as error:  # a rate at which training fails is not chosen
        record |= {name: finished[name] for name in ("losses", "train_losses") if finished}  # of its earlier rungs
        record["failed"] = f"inner fold {training.fold + 1}, rate {training.lr:g}: {error}"
    record["seconds"] = round(time.monotonic() - start + (finished or {}).get("seconds", 0.0), 1)
    inner.record.write(record)
    if ends:
        shutil.rmtree(inner.folder.path, ignore_errors=True)
    return record


def _first_network(training: _Training, progress: Progress, plan: ComputePlan, seed: int, before: int) -> Network:
    """The network before an inner training; it and its pretraining have not used the subjects on the other side."""
    job, inputs = progress.job, progress.inputs
    study = inputs.study
    left_out = sorted({*inputs.splits.held_out(job.fold), *training.validation_subjects})
    if inputs.pretraining:  # once for all candidates of an inner fold
        seed = mixed_seed(study.seed, job.model, job.fold, "inner", training.fold)
    torch.manual_seed(seed)
    network = network_of(study, job.model)
    load_first_weights(network, study, job.model, left_out)
    if inputs.pretraining:
        folder = job.folder.inner(f"fold{training.fold + 1}").folder.pretraining
        tell = progress.pretraining(before)
        pretrain(network, inputs.pretraining, job, PretrainingSettings(folder, tuple(left_out), seed, plan, tell))
    return network


def _subjects_of(names: Sequence[str]) -> dict[str, Any]:
    """The subjects of these rows, and a hash over them."""
    subjects = sorted(set(names))
    return {"subjects": subjects, "hash": hashlib.sha256(json.dumps(subjects).encode()).hexdigest()}


# One of so many candidates at a rung is trained on, and rungs are so many times as long as the one before.
ETA = 2
HALVINGS = 2

Losses = list[list[float | None]]


def rungs_of(epochs: int) -> list[int]:
    """The numbers of epochs at which candidates are compared; the last is that of the recipe.

    >>> rungs_of(16), rungs_of(10), rungs_of(2)
    ([4, 8, 16], [3, 5, 10], [1, 2])
    """
    return sorted({-(-epochs // ETA**halving) for halving in range(HALVINGS + 1)})


def halved(candidates: int, rungs: int, loss_at: Callable[[int, int], float | None]) -> Losses:
    """Train candidates from rung to rung while they are in the best half of those that have reached it.

    At least one is trained to the last rung, unless all of them fail. Of equal losses the first candidate is better.

    Args:
        loss_at: trains a candidate up to a rung, both from 0, and returns its loss; None if its training failed.

    Returns:
        for each candidate its losses at the rungs that it has reached.

    >>> curves = [[4, 3, 2], [5, 5, 5], [3, 2, 1], [6, 6, 6]]
    >>> halved(4, 3, lambda candidate, rung: curves[candidate][rung])
    [[4, 3], [5], [3, 2, 1], [6]]
    """
    losses: Losses = [[] for _ in range(candidates)]
    while (candidate := _next(losses, rungs)) is not None:
        losses[candidate].append(loss_at(candidate, len(losses[candidate])))
    return losses


def _next(losses: Losses, rungs: int) -> int | None:
    """The candidate that is trained to its next rung; None at the end."""
    for rung in reversed(range(rungs - 1)):
        order = ranked(losses, rung)
        for candidate in order[: len(order) // ETA]:
            if len(losses[candidate]) == rung + 1:
                return candidate
    new = next((candidate for candidate, of_rungs in enumerate(losses) if not of_rungs), None)
    if new is not None or ranked(losses, rungs - 1):
        return new
    # too few have come so far that a half of them would be one: the best of the highest rung goes on
    for rung in reversed(range(rungs - 1)):
        if waiting := [candidate for candidate in ranked(losses, rung) if len(losses[candidate]) == rung + 1]:
            return waiting[0]
    return None


def ranked(losses: Losses, rung: int) -> list[int]:
    """The candidates that have a loss at a rung, the lowest first."""
    reached = [(of_rungs[rung], number) for number, of_rungs in enumerate(losses) if len(of_rungs) > rung]
    return [number for _, number in sorted((loss, number) for loss, number in reached if loss is not None)]


def described(rates: Sequence[float], rungs: Sequence[int], losses: Losses) -> dict[str, Any]:
    """The record of all decisions, a candidate by `lr`.

    `epochs` are those of its last rung, `losses` those at its rungs. `why` it ended there: `all_epochs`, `failed`, or
    `not_in_best_half` with its `rank` among the candidates `of` that rung.
    """
    candidates = []
    for number, (rate, of_rungs) in enumerate(zip(rates, losses, strict=True)):
        last = len(of_rungs) - 1
        order = ranked(losses, last)
        why = "failed" if of_rungs[-1] is None else "all_epochs" if len(of_rungs) == len(rungs) else "not_in_best_half"
        rank = {"rank": order.index(number) + 1, "of": len(order)} if why == "not_in_best_half" else {}
        candidates.append({"lr": rate, "epochs": rungs[last], "losses": of_rungs, "why": why, **rank})
    return {"method": "asha", "eta": ETA, "rungs": list(rungs), "candidates": candidates}
