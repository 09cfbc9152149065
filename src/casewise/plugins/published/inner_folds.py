"""The choice of epochs and a learning rate for a network by inner folds.

Inner trainings do not use the held-out subjects: labels of other subjects are removed, everything that is fitted (means
and deviations of targets, class weights, standard intensities) is fitted on the inner training side, and every record
names its subjects.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np

from casewise.errors import TrainingError
from casewise.jobs.fitting import FoldData, first_network
from casewise.jobs.plan import Progress
from casewise.modalities.registry import modality_of
from casewise.models.outputs import outputs_of
from casewise.splits.grouped import check_apart, inner_folds
from casewise.study.model import mixed_seed
from casewise.study.split import NestedCV
from casewise.training.compute_plan import ComputePlan
from casewise.training.loop import TrainingContext, standardise
from casewise.training.losses import guess_loss
from casewise.training.stages import Record, learn


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


def choose_inside(progress: Progress, plan: ComputePlan, tune: NestedCV) -> Record:
    """Train the job's network for each learning rate on each inner fold; return what was chosen, and all trainings.

    Finished inner trainings of an interrupted job are read from its folder; the interrupted one continues to the same
    bits.

    Raises:
        TrainingError: the loss is not a number at any rate.
        SplitError: an inner fold cannot be made.
    """
    job, inputs = progress.job, progress.inputs
    study, splits = inputs.study, inputs.splits
    held_out = splits.held_out(job.fold)
    panels = modality_of(study).whole(study, inputs.cohort).panels
    folds = inner_folds(panels, study, splits, job.fold, count=tune.folds)
    every = sorted(s for validation_subjects in folds for s in validation_subjects)
    records: list[Record] = []
    losses: dict[float, list[list[float]]] = {}
    for number, rate in enumerate(study.rates):
        for fold, validation_subjects in enumerate(folds):
            fit_subjects = sorted(set(every) - set(validation_subjects))
            where = f"{job.name}, inner fold {fold + 1}"
            check_apart(fit_subjects, validation_subjects, where=where)
            check_apart(every, held_out, where=where)
            training = _Training(number, rate, fold, fit_subjects, validation_subjects)
            records.append(_trained(training, progress, plan, len(records) * study.recipe.epochs))
        of_rate = records[-len(folds) :]
        failed = any("failed" in record for record in of_rate)
        losses[rate] = [] if failed else [record["losses"] for record in of_rate]
    best = _best_of(losses, epochs=tune.epochs)
    if best is None:
        raise TrainingError(next(record["failed"] for record in records if "failed" in record))
    best_by_rate = {rate: _best_of({rate: losses[rate]}, epochs=tune.epochs) for rate in losses}
    unknown = {"epochs": None, "loss": None}
    rates = [{"lr": rate} | (asdict(params) if params else unknown) for rate, params in best_by_rate.items()]
    mean_guess_loss = fmean(record["guess_loss"] for record in records if record["candidate"] == 0)
    chosen = {**asdict(best), "guess_loss": mean_guess_loss}
    return {"folds": len(folds), "chosen": chosen, "rates": rates, "trainings": records}


def _trained(training: _Training, progress: Progress, plan: ComputePlan, before: int) -> Record:
    """Train one candidate on one inner fold, or read the record of the finished training."""
    job, inputs = progress.job, progress.inputs
    study = inputs.study
    inner = job.folder.inner(training.name)
    finished = inner.record.read_or_none()
    if finished is not None:
        return finished
    start = time.monotonic()
    seed = mixed_seed(study.seed, job.model, job.fold, "inner", training.fold, training.candidate)
    # of several candidates, the network is pretrained once for each inner fold
    of_fold = mixed_seed(study.seed, job.model, job.fold, "inner", training.fold) if inputs.pretraining else seed
    left_out = sorted({*inputs.splits.held_out(job.fold), *training.validation_subjects})
    folder = job.folder.inner(f"fold{training.fold + 1}").folder.pretraining
    tell = progress.pretraining(before)
    network = first_network(inputs, job, plan, of_fold, left_out, folder, tell).network
    outputs = outputs_of(study)
    data = FoldData.of(inputs, job.model, training.fit_subjects, training.validation_subjects, alone=True)
    train, validation = data.train, data.stop
    standardise(network, train.truth, outputs)
    context = TrainingContext(
        outputs,
        inner.folder.path,
        seed,
        plan,
        study.compute.save_every,
        "last",
        progress.training(before, f"inner training {training.name}"),
        sources=data.sources,
    )
    subjects = inputs.cohort.panels["subject"].astype(str)
    record: Record = {
        "fold": training.fold + 1,
        "candidate": training.candidate,
        "lr": training.lr,
        "fitted_on": _subjects_of(data.subjects),
        "judged_on": _subjects_of(subjects.iloc[data.stop_rows].tolist()),
        "guess_loss": guess_loss(train.truth, validation.truth, outputs, study.recipe),
    }
    try:
        recipe = study.recipe.model_copy(update={"lr": training.lr})
        learned = learn(network, recipe, train, validation, data.subjects, context)
        for name, loss in (("losses", "stop_loss"), ("train_losses", "train_loss")):
            record[name] = [entry[loss] for entry in learned.history]
    except TrainingError as error:  # a rate at which training fails is not chosen
        record["failed"] = f"inner fold {training.fold + 1}, rate {training.lr:g}: {error}"
    record["seconds"] = round(time.monotonic() - start, 1)
    inner.record.write(record)
    shutil.rmtree(inner.folder.path, ignore_errors=True)
    return record


def _subjects_of(names: Sequence[str]) -> dict[str, object]:
    """The subjects of these rows, and a hash over them."""
    subjects = sorted(set(names))
    return {"subjects": subjects, "hash": hashlib.sha256(json.dumps(subjects).encode()).hexdigest()}


@dataclass(frozen=True)
class _TunedParams:
    """The chosen learning rate and number of epochs of a network, with their mean inner loss."""

    lr: float
    epochs: int
    loss: float


def _best_of(losses: Mapping[float, Sequence[Sequence[float]]], *, epochs: bool) -> _TunedParams | None:
    """Choose the rate and the number of epochs with the lowest mean loss over the inner folds.

    Of equal losses the earlier epoch and the rate that is stated first are chosen. None if no rate has losses.

    Args:
        losses: for each rate, for each inner fold, the loss after each epoch; a rate that failed has no folds.
        epochs: whether the number of epochs is chosen; if not, all epochs are trained.

    >>> _best_of({0.1: [[3, 1, 2], [3, 2, 1.5]], 0.01: [[4, 3, 2], [4, 3, 2]]}, epochs=True)
    _TunedParams(lr=0.1, epochs=2, loss=1.5)
    >>> _best_of({0.1: [[3, 1, 2], [3, 2, 1.5]], 0.01: [[4, 3, 1], [4, 3, 1]]}, epochs=False)
    _TunedParams(lr=0.01, epochs=3, loss=1.0)
    """
    best: _TunedParams | None = None
    for rate, by_fold in losses.items():
        if not by_fold:
            continue
        means = np.mean(np.asarray(by_fold, dtype=float), axis=0)
        position = int(means.argmin()) if epochs else len(means) - 1
        if best is None or means[position] < best.loss:
            best = _TunedParams(rate, position + 1, float(means[position]))
    return best
