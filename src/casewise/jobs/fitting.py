"""How a learner is fitted to the training subjects of a fold: one function for each kind of learner."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import torch

from casewise.jobs.feature_file import feature_data, feature_store, panels_identity
from casewise.jobs.plan import epochs_inside
from casewise.study.seeds import mixed_seed
from casewise.training.feature_cache import MEMORY
from casewise.training.feature_sharing import SharedFeatures
from casewise.training.linear_models import LinearFit, fit_head, fit_radial_head
from casewise.training.loop import TrainingContext
from casewise.training.stages import Learned, frozen_features, learn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from casewise.jobs.nested import InnerCVResult
    from casewise.jobs.plan import Job, JobInputs, Progress
    from casewise.modalities.base import FittedPreprocessing, PanelDataset
    from casewise.modalities.dataset import FeatureData
    from casewise.models.backbones import Network
    from casewise.models.outputs import Output
    from casewise.study.schema import Recipe
    from casewise.training.compute_plan import ComputePlan


@dataclass(frozen=True)
class Choice:
    """The choices of a job: its training subjects, those for early stopping (if any), and its recipe."""

    held_out: list[str]
    fit_subjects: list[str]
    stop_subjects: list[str]
    recipe: Recipe
    inner: InnerCVResult | None

    @property
    def excluded_subjects(self) -> list[str]:
        """Subjects that must not be used by first weights and pretraining, sorted."""
        return sorted({*self.held_out, *self.stop_subjects})


@dataclass(frozen=True)
class PlannedJob:
    """A job with its choices; `memory` is its number of bytes for values that are computed once."""

    job: Job
    inputs: JobInputs
    plan: ComputePlan
    choice: Choice
    progress: Progress
    memory: int = MEMORY


@dataclass(frozen=True)
class FoldData:
    """All panels as a learner of one fold sees them, with the rows of training and of early stopping.

    `subjects` are those of the training rows; no other row may influence a fit.
    """

    panels: PanelDataset
    fit_rows: NDArray[np.intp]
    stop_rows: NDArray[np.intp]
    subjects: list[str]
    preprocessing: FittedPreprocessing


Fitter: TypeAlias = Callable[
    ["PlannedJob", "Network", "tuple[Output, ...]", FoldData], "tuple[Learned, PanelDataset | FeatureData]"
]


def fit_by_steps(
    planned: PlannedJob, network: Network, outputs: tuple[Output, ...], data: FoldData
) -> tuple[Learned, PanelDataset | FeatureData]:
    """Train a network by its recipe; it predicts from panels, or from the features of its head."""
    job, plan, choice, study = planned.job, planned.plan, planned.choice, planned.inputs.study
    train, stop = data.panels.subset(data.fit_rows.tolist()), data.panels.subset(data.stop_rows.tolist())
    sides = (train, data.fit_rows.tolist()), (stop, data.stop_rows.tolist())
    shared = SharedFeatures(data.panels, sides, panels_identity(planned.inputs, data.preprocessing), feature_store())
    context = TrainingContext(
        outputs,
        job.folder.path,
        mixed_seed(study.seed, job.model, job.fold),
        plan,
        study.compute.save_every,
        "last" if study.recipe.early_stopping.monitor == "none" else "best",
        planned.progress.training(epochs_inside(study)),
        study.compute.frozen_once,
        choice.inner.params.epochs if choice.inner else None,
        memory=planned.memory,
        shared=shared,
    )
    learned = learn(network, choice.recipe, train, stop, data.subjects, context)
    # If all phases were finished before an interruption, the network was only loaded, in the format of a new one.
    form = torch.channels_last if plan.channels_last else torch.contiguous_format
    learned.network.to("cuda" if plan.device == "cuda" else "cpu").to(memory_format=form)  # type: ignore[call-overload]
    flips = study.test_time_augmentation
    return learned, frozen_features(network, data.panels, choice.recipe, context, flips=flips) or data.panels


def fit_linear(
    planned: PlannedJob, network: Network, outputs: tuple[Output, ...], data: FoldData
) -> tuple[Learned, PanelDataset | FeatureData]:
    """Fit a linear model; it predicts from the features that are computed once for all folds."""
    return _fit_on_features(planned, network, outputs, data, fit_head)


def fit_radial(
    planned: PlannedJob, network: Network, outputs: tuple[Output, ...], data: FoldData
) -> tuple[Learned, PanelDataset | FeatureData]:
    """Fit a model with a radial kernel; it predicts from the same features as linear models."""
    seed = mixed_seed(planned.inputs.study.seed, planned.job.model, planned.job.fold)
    return _fit_on_features(planned, network, outputs, data, partial(fit_radial_head, seed=seed))


def _fit_on_features(
    planned: PlannedJob,
    network: Network,
    outputs: tuple[Output, ...],
    data: FoldData,
    fit: Callable[[Network, FeatureData, list[str], tuple[Output, ...]], LinearFit],
) -> tuple[Learned, FeatureData]:
    features = feature_data(planned.job, planned.inputs, network, data.panels, data.preprocessing)
    fitted = fit(network, features.subset(data.fit_rows.tolist()), data.subjects, outputs)
    learned = Learned(network.eval(), [], 0, math.nan, candidates=fitted.candidates)
    return learned, replace(features, features=features.features[:, fitted.columns])


# How the learners of each kind are fitted (`casewise.study.learners.Learner.kind`).
FITTERS: dict[str, Fitter] = {"network": fit_by_steps, "linear": fit_linear, "radial": fit_radial}
