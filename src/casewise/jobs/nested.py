"""The inner trainings of a job: on parts of the fold's training subjects, to choose epochs and a learning rate.

Nothing of the held-out subjects reaches them: truth of others is blotted out, what is fitted (centres and scales, class
weights, a standard of intensities) is fitted on the inner training part, and every record names whom it has seen.
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

from casewise.cohort.labels import label_table
from casewise.errors import TrainingError
from casewise.inference.build_model import network_of
from casewise.jobs.fit_subjects import fit_preprocessing
from casewise.jobs.plan import Job
from casewise.modalities.dataset import mixed_seed
from casewise.modalities.registry import modality_of
from casewise.models.outputs import outputs_of
from casewise.models.weights import load_weights
from casewise.predictions.nested_cv import TunedParams, best_of
from casewise.splits.grouped import check_apart
from casewise.splits.inner import inner_folds
from casewise.training.fit import standardise
from casewise.training.losses import guess_loss
from casewise.training.strategies import TrainingContext, learn

if TYPE_CHECKING:
    from casewise.jobs.job import JobInputs
    from casewise.study.schema import NestedCV, Study
    from casewise.training.compute_plan import ComputePlan


@dataclass(frozen=True)
class InnerCVResult:
    """What the inner trainings say: what was chosen, and all of it for `job.json`."""

    chosen: TunedParams
    record: dict[str, Any]


@dataclass(frozen=True)
class _Training:
    """One inner training: which candidate, which inner fold, and who stands on its two sides."""

    candidate: int
    lr: float
    fold: int
    fitted_on: list[str]
    judged_on: list[str]

    @property
    def name(self) -> str:
        return f"lr{self.candidate}-fold{self.fold + 1}"


def choose_inside(job: Job, material: JobInputs, choice: ComputePlan, tune: NestedCV) -> InnerCVResult:
    """Train the job's network for each rate on each inner fold, and choose.

    What a killed job had finished stands in files in its folder and is not trained again; the one that was being
    trained continues, to the same bits.

    Raises:
        TrainingError: the loss is no number at any rate.
        SplitError: an inner fold cannot be made.
    """
    study, splits = material.study, material.splits
    held_out = splits.held_out(job.fold)
    folds = inner_folds(
        modality_of(study).whole(study, material.cohort).panels, study, splits, job.fold, count=tune.folds
    )
    every = sorted(s for part in folds for s in part)
    trainings = [
        _Training(number, rate, k, sorted(set(every) - set(part)), part)
        for number, rate in enumerate(study.rates)
        for k, part in enumerate(folds)
    ]
    records = []
    for done, training in enumerate(trainings):
        where = f"{job.model}, fold {job.fold + 1}, inner fold {training.fold + 1}"
        check_apart(training.fitted_on, training.judged_on, where=where)
        check_apart(every, held_out, where=where)
        records.append(_trained(training, job, material, choice, done * study.recipe.epochs))
    losses = {
        rate: [] if any("failed" in record for record in its) else [record["losses"] for record in its]
        for number, rate in enumerate(study.rates)
        if (its := [record for record in records if record["candidate"] == number])
    }
    settled = best_of(losses, epochs=tune.epochs)
    if settled is None:
        raise TrainingError(next(record["failed"] for record in records if "failed" in record))
    rates = [
        {"lr": rate, "epochs": own.epochs, "loss": own.loss} if own else {"lr": rate, "epochs": None, "loss": None}
        for rate, own in ((rate, best_of({rate: its}, epochs=tune.epochs)) for rate, its in losses.items())
    ]
    guessed = fmean(record["guess_loss"] for record in records if record["candidate"] == 0)
    chosen = {"lr": settled.lr, "epochs": settled.epochs, "loss": settled.loss, "guess_loss": guessed}
    return InnerCVResult(settled, {"folds": len(folds), "chosen": chosen, "rates": rates, "trainings": records})


def epochs_inside(study: Study) -> int:
    """How many epochs the inner trainings of a job have in all."""
    return study.nested_cv.folds * len(study.rates) * study.recipe.epochs if study.nested_cv else 0


def _trained(training: _Training, job: Job, material: JobInputs, choice: ComputePlan, before: int) -> dict[str, Any]:
    """The record of one inner training, from its file where it is finished."""
    study, panels = material.study, material.cohort.panels
    inner = job.folder.inner(training.name)
    if (finished := inner.record.read_or_none()) is not None:
        return finished
    begun = time.monotonic()
    seed = mixed_seed(study.seed, job.model, job.fold, "inner", training.fold, training.candidate)
    torch.manual_seed(seed)
    outputs, network = outputs_of(study), network_of(study, job.model)
    # First weights that had seen an inner fold would choose for themselves.
    unseen = sorted({*material.splits.held_out(job.fold), *training.judged_on})
    load_weights(network, study.weights_of(network.name), folder=study.weights_dir, held_out=unseen)
    subjects = panels["subject"].astype(str)
    truth = label_table(panels, study)
    truth[~subjects.isin([*training.fitted_on, *training.judged_on]).to_numpy()] = np.nan

    scored = ~np.isnan(truth).all(axis=1)
    rows, judged_rows = (
        np.flatnonzero(scored & subjects.isin(names).to_numpy()) for names in (training.fitted_on, training.judged_on)
    )
    preprocessing = fit_preprocessing(study, material.store, rows, model=job.model)
    dataset = modality_of(study).dataset(material.store, study, panels, truth, preprocessing)
    train, judged = dataset.subset(rows.tolist()), dataset.subset(judged_rows.tolist())
    standardise(network, train.truth, outputs)
    total = epochs_inside(study) + study.recipe.epochs
    course = TrainingContext(
        outputs,
        inner.folder.path,
        seed,
        choice,
        study.compute.save_every,
        "last",
        lambda done: job.folder.write_progress(before + done, total, f"inner training {training.name}"),
        study.compute.frozen_once,
    )
    record: dict[str, Any] = {
        "fold": training.fold + 1,
        "candidate": training.candidate,
        "lr": training.lr,
        "fitted_on": _told([str(subjects.iloc[r]) for r in rows]),
        "judged_on": _told([str(subjects.iloc[r]) for r in judged_rows]),
        "guess_loss": guess_loss(train.truth, judged.truth, outputs, study.recipe),
    }
    try:
        names = [str(subjects.iloc[r]) for r in rows]
        learned = learn(network, study.recipe.model_copy(update={"lr": training.lr}), train, judged, names, course)
        record |= {
            "losses": [entry["stop_loss"] for entry in learned.history],
            "train_losses": [entry["train_loss"] for entry in learned.history],
        }
    except TrainingError as error:  # a rate at which nothing is learned is not chosen
        record["failed"] = f"inner fold {training.fold + 1}, rate {training.lr:g}: {error}"
    record["seconds"] = round(time.monotonic() - begun, 1)
    inner.record.write(record)
    shutil.rmtree(inner.folder.path, ignore_errors=True)
    return record


def _told(names: Sequence[str]) -> dict[str, Any]:
    """Whose rows they are: the subjects, and a hash over them."""
    subjects = sorted(set(names))
    return {"subjects": subjects, "hash": hashlib.sha256(json.dumps(subjects).encode()).hexdigest()}
