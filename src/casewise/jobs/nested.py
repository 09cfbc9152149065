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
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from casewise.cohort.targets import label_table
from casewise.errors import TrainingError
from casewise.jobs.plan import fit_preprocessing
from casewise.jobs.pretraining import PretrainingSettings, pretrain
from casewise.modalities.registry import modality_of
from casewise.models.build_model import load_first_weights, network_of
from casewise.models.outputs import outputs_of
from casewise.predictions.nested_cv import TunedParams, best_of
from casewise.splits.grouped import check_apart, inner_folds
from casewise.study.model import mixed_seed
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
    records = [
        _trained(training, progress, plan, done * study.recipe.epochs) for done, training in enumerate(trainings)
    ]
    losses = {
        rate: _losses([record for record in records if record["candidate"] == number])
        for number, rate in enumerate(study.rates)
    }
    best = best_of(losses, epochs=tune.epochs)
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
    mean_guess_loss = fmean(record["guess_loss"] for record in records if record["candidate"] == 0)
    best_record = {"lr": best.lr, "epochs": best.epochs, "loss": best.loss, "guess_loss": mean_guess_loss}
    return InnerCVResult(best, {"folds": len(folds), "chosen": best_record, "rates": rates, "trainings": records})


def _losses(records: Sequence[dict[str, Any]]) -> list[list[float]]:
    """The losses of one rate, by inner fold and epoch; none if a training failed."""
    return [] if any("failed" in record for record in records) else [record["losses"] for record in records]


def _trained(training: _Training, progress: Progress, plan: ComputePlan, before: int) -> dict[str, Any]:
    """Train one candidate on one inner fold, or read the record of the finished training."""
    job, inputs = progress.job, progress.inputs
    study, panels = inputs.study, inputs.cohort.panels
    inner = job.folder.inner(training.name)
    finished = inner.record.read_or_none()
    if finished is not None:
        return finished
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
        study.compute.save_every,
        "last",
        progress.training(before, f"inner training {training.name}"),
        study.compute.frozen_once,
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
        record["failed"] = f"inner fold {training.fold + 1}, rate {training.lr:g}: {error}"
    record["seconds"] = round(time.monotonic() - start, 1)
    inner.record.write(record)
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
