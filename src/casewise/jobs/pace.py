"""How long networks take on this machine, as busy as it is: a few steps of as many jobs as will run side by side."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from casewise.cohort.targets import label_table
from casewise.jobs.fitting import FoldData, pretraining_data
from casewise.jobs.plan import divided
from casewise.models.build_model import network_of
from casewise.models.outputs import outputs_of
from casewise.models.shared_parts import predict_together
from casewise.study.model import mixed_seed
from casewise.training.loop import TrainingContext, fit, standardise
from casewise.training.stages import learn

if TYPE_CHECKING:
    from casewise.jobs.fitting import Pretrained
    from casewise.jobs.plan import Job, JobInputs
    from casewise.training.compute_plan import ComputePlan

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
        inputs: as the job's learner sees them, with a recipe in phases, of which the last one is tried.
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
        study.compute.frozen_once,
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
