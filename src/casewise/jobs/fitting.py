"""How a learner is fitted to the training subjects of a fold: one function for each kind of learner.

A network may be pretrained on another cohort before, without any held-out subject.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from casewise.cohort.cohort import Cohort
from casewise.cohort.targets import label_table
from casewise.errors import CasewiseError, TrainingError
from casewise.jobs.plan import Job, JobInputs, Progress, ReportEpoch, epochs_inside
from casewise.modalities.base import FittedPreprocessing, StoreAddress
from casewise.modalities.dataset import FeatureData, PanelData, PanelDataset
from casewise.modalities.registry import modality_of, own_modalities
from casewise.models.backbones import Network
from casewise.models.build_model import load_first_weights, network_of
from casewise.models.linear import bank_of
from casewise.models.outputs import Output, outputs_of
from casewise.models.shared_parts import compute_features
from casewise.run_folder import PretrainingFolder
from casewise.splits.grouped import check_apart
from casewise.study.learners import added_learners
from casewise.study.model import mixed_seed
from casewise.study.schema import Recipe, Study
from casewise.study.sources import with_map
from casewise.training.checkpoint import write_tensors
from casewise.training.compute_plan import ComputePlan
from casewise.training.frozen_features import MEMORY, FeatureStore, SharedFeatures
from casewise.training.linear_models import LinearFit, fit_head, probe
from casewise.training.loop import TrainingContext, fit, standardise
from casewise.training.stages import Learned, frozen_features, learn


@dataclass(frozen=True)
class Choice:
    """The choices of a job: its training subjects, those for early stopping (if any), and its recipe.

    `inner` is the record of the inner trainings that chose the recipe's learning rate and the number of epochs.
    """

    held_out: list[str]
    fit_subjects: list[str]
    stop_subjects: list[str]
    recipe: Recipe
    inner: Mapping[str, Any] | None = None

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

    `subjects` are the subjects of the training rows; no other row may influence a fit. `sources` are their sources if
    the study is meant for other sources, otherwise empty.
    """

    panels: PanelDataset
    fit_rows: NDArray[np.intp]
    stop_rows: NDArray[np.intp]
    subjects: list[str]
    preprocessing: FittedPreprocessing
    sources: list[str]

    @classmethod
    def of(
        cls, inputs: JobInputs, model: str, fit_subjects: Sequence[str], stop_subjects: Sequence[str], *, alone: bool
    ) -> FoldData:
        """The data of these subjects, from whose training panels everything is fitted; `alone` hides other labels."""
        study, panels = inputs.study, inputs.cohort.panels
        subjects, labels = panels["subject"].astype(str), label_table(panels, study)
        if alone:
            labels[~subjects.isin([*fit_subjects, *stop_subjects]).to_numpy()] = np.nan
        scored = ~np.isnan(labels).all(axis=1)
        fit_rows, stop_rows = (
            np.flatnonzero(scored & subjects.isin(names).to_numpy()) for names in (fit_subjects, stop_subjects)
        )
        if study.recipe.early_stopping.monitor == "none" and not alone:
            stop_rows = fit_rows[:1]  # evaluated after every epoch, without an effect
        preprocessing = fit_preprocessing(study, inputs.store, fit_rows, model=model)
        dataset = modality_of(study).dataset(inputs.store, study, panels, labels, preprocessing)
        if inputs.masks and model in with_map():
            dataset = replace(cast(PanelData, dataset), masks=torch.from_numpy(np.load(inputs.masks, mmap_mode="c")))
        names = subjects.iloc[fit_rows].tolist()
        return cls(dataset, fit_rows, stop_rows, names, preprocessing, sources_of(study, inputs.cohort, names))

    @cached_property
    def train(self) -> PanelDataset:
        """The training panels."""
        return self.panels.subset(self.fit_rows.tolist())

    @cached_property
    def stop(self) -> PanelDataset:
        """The panels of early stopping."""
        return self.panels.subset(self.stop_rows.tolist())


def sources_of(study: Study, cohort: Cohort, subjects: Sequence[str]) -> list[str]:
    """The source of each of these subjects, if the study is meant for other sources; else an empty list."""
    if study.recipe.meant_for != "other_sources":
        return []
    images = cohort.images
    source_of = dict(zip(images["subject"].astype(str), images[study.split.leave_out].astype(str), strict=True))
    return [source_of[subject].strip() for subject in subjects]


def fit_preprocessing(study: Study, store: StoreAddress, rows: NDArray[np.intp], *, model: str) -> FittedPreprocessing:
    """The values that preprocessing derives from a network's training cases, the panels `rows`.

    Raises:
        TrainingError: nothing can be derived from these cases.
    """
    try:
        return modality_of(study).fit(store, study, rows, model)
    except CasewiseError as error:
        raise TrainingError(f"{model}: {error}") from error


Fitter: TypeAlias = Callable[
    ["PlannedJob", "Network", "tuple[Output, ...]", FoldData],
    "tuple[Learned, PanelDataset | FeatureData | StoredFeatures]",
]


def fit_by_steps(
    planned: PlannedJob, network: Network, outputs: tuple[Output, ...], data: FoldData
) -> tuple[Learned, PanelDataset | FeatureData]:
    """Train a network by its recipe; it predicts from panels, or from the features of its head."""
    job, plan, choice, study = planned.job, planned.plan, planned.choice, planned.inputs.study
    sides = (data.train, data.fit_rows.tolist()), (data.stop, data.stop_rows.tolist())
    context = TrainingContext(
        outputs,
        job.folder.path,
        mixed_seed(study.seed, job.model, job.fold),
        plan,
        study.compute.save_every,
        "last" if study.recipe.early_stopping.monitor == "none" else "best",
        planned.progress.training(epochs_inside(study)),
        choice.inner["chosen"]["epochs"] if choice.inner else None,
        memory=planned.memory,
        shared=_shared_features(planned, data, sides),
        sources=data.sources,
    )
    learned = learn(network, choice.recipe, data.train, data.stop, data.subjects, context)
    # If all phases were finished before an interruption, the network was only loaded, in the format of a new one.
    learned.network.to(plan.device).to(memory_format=context.memory_format)  # type: ignore[call-overload]
    flips = study.test_time_augmentation
    return learned, frozen_features(network, data.panels, choice.recipe, context, flips=flips) or data.panels


# Panels to which a model on fixed features is fitted.
MOST_FITTED = 5_000


def fit_on_features(
    fit: Callable[..., LinearFit],
    planned: PlannedJob,
    network: Network,
    outputs: tuple[Output, ...],
    data: FoldData,
    *,
    most: int = MOST_FITTED,
) -> tuple[Learned, FeatureData | StoredFeatures]:
    """Fit the head of a model on fixed features, from which it predicts; they are computed once for all folds.

    If there are more training panels than `most`, it is fitted to a sample, and features are not in memory at once.
    """
    study, labels = planned.inputs.study, data.panels.truth[torch.from_numpy(data.fit_rows)]
    seed = mixed_seed(study.seed, planned.job.model, planned.job.fold)
    classes = [labels[:, number].numpy() for number, output in enumerate(outputs) if output.classes]
    rows = evenly(np.arange(len(labels)), np.array(data.subjects), most, study.seed, classes)
    if len(rows) == len(labels):
        features = feature_data(planned, network, data)
        train = features.subset(data.fit_rows.tolist())
        fitted = fit(network, train, data.subjects, outputs, sources=data.sources, seed=seed)
        learned = Learned(network.eval(), [], 0, math.nan, candidates=fitted.candidates)
        return learned, replace(features, features=features.features[:, fitted.columns])
    stored = StoredFeatures.of(planned, deepcopy(network), data)  # the fit reduces the bank
    train = stored.subset(data.fit_rows[rows].tolist())
    subjects, sources = ([names[row] for row in rows] if names else [] for names in (data.subjects, data.sources))
    fitted = fit(network, train, subjects, outputs, sources=sources, population=labels, seed=seed)
    records: dict[str, Any] = {"fitted_to": {"panels": len(rows), "of": len(labels)}}
    learned = Learned(network.eval(), [], 0, math.nan, records, candidates=fitted.candidates)
    return learned, replace(stored, columns=fitted.columns)


def evenly(
    rows: NDArray[np.intp], subjects: NDArray[Any], most: int, seed: int, classes: Sequence[NDArray[Any]] = ()
) -> NDArray[np.intp]:
    """At most `most` of the rows, in order, taken in turn from each of their subjects in random order.

    Args:
        classes: numbers of classes, NaN where unknown; half of the rows are the same number of each class, if there
            are as many.

    >>> evenly(np.arange(6), np.array(list("aaaabb")), 4, 0).tolist()
    [1, 3, 4, 5]
    >>> evenly(np.arange(6), np.array(list("abcdef")), 4, 0, [np.array([0, 0, 1, 0, 0, 0])]).tolist()
    [1, 2, 3, 5]
    """
    if len(rows) <= most:
        return rows
    order = np.random.default_rng(mixed_seed(seed, "distance")).permutation(len(rows))
    turns = pd.Series(subjects[order]).groupby(subjects[order]).cumcount().to_numpy()
    order = order[np.argsort(turns, kind="stable")]
    members = [
        order[numbers[order] == number] for numbers in classes for number in np.unique(numbers) if number == number
    ]
    kept = np.zeros(len(rows), dtype=bool)
    for of_class in members:
        kept[of_class[: most // (2 * len(members))]] = True
    kept[order[~kept[order]][: most - kept.sum()]] = True
    return rows[kept]


def feature_data(planned: PlannedJob, network: Network, data: FoldData) -> FeatureData:
    """The features of all candidates for every panel, computed once for all baselines, folds and runs."""
    shared = _shared_features(planned, data, ())
    values = shared.of(data.panels, bank_of(network), partial(compute_features, network), _bank_settings(network))
    return FeatureData(values, data.panels.truth, data.panels.names)


def _bank_settings(network: Network) -> Mapping[str, object]:
    """What decides the features of a network with a bank, besides its weights."""
    bank = bank_of(network)
    candidates = {"specs": [spec.as_json() for spec in bank.specs], "encoders": [e.facts for e in bank.encoders]}
    return {**candidates, "side": network.side, "pooling": network.pooling_name}


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """Features of many panels, of which only those asked for are in memory.

    Attributes:
        read: gives the features (P, W) of the panels with these rows.
        columns: the columns of these features that are used; None: all.
    """

    panels: PanelDataset
    read: Callable[[Sequence[int]], Tensor]
    columns: Tensor | None = None

    @classmethod
    def of(cls, planned: PlannedJob, network: Network, data: FoldData) -> StoredFeatures:
        """The features of all candidates of a network, computed once for all baselines, folds and runs."""
        shared, bank = _shared_features(planned, data, ()), bank_of(network)
        # the blocks of all panels, and what belongs to a file besides its values
        shared = replace(shared, store=shared.store.for_study(round(1.1 * 4 * bank.width * len(data.panels))))
        return cls(data.panels, shared.reader(bank, partial(compute_features, network), _bank_settings(network)))

    def subset(self, rows: Sequence[int]) -> FeatureData:
        """The features of some of the panels."""
        values, names = self.read(rows), [self.panels.names[row] for row in rows] if self.panels.names else []
        return FeatureData(
            values if self.columns is None else values[:, self.columns], self.panels.truth[list(rows)], names
        )


def _shared_features(
    planned: PlannedJob, data: FoldData, sides: tuple[tuple[PanelDataset, list[int]], ...]
) -> SharedFeatures:
    """The panels of a fold, with shared features; not shared if the learner's code is not part of an address."""
    study, store = planned.inputs.study, FeatureStore.of_user()
    if planned.job.model in (learner.name for learner in added_learners()):
        store = replace(store, limit=0)
    decisive = [study.model_dump(mode="json"), planned.inputs.store.address, data.preprocessing]
    # the code of another modality decides the pixels, too
    identity = json.dumps(decisive, sort_keys=True) if study.modality_name in own_modalities() else ""
    return SharedFeatures(data.panels, sides, identity, store)


# How the learners of each kind are fitted (`casewise.study.learners.Learner.kind`).
FITTERS: dict[str, Fitter] = {
    "network": fit_by_steps,
    "linear": partial(fit_on_features, fit_head),
    "radial": partial(fit_on_features, partial(fit_head, is_radial=True)),
}


@dataclass(frozen=True)
class Pretrained:
    """Another cohort to pretrain on."""

    study: Study
    cohort: Cohort
    tiles: Path
    address: str


@dataclass(frozen=True)
class _FirstNetwork:
    """A network before its training: the origin of its weights, and the subjects of a bundle and of pretraining."""

    network: Network
    origin: str
    of_bundle: list[str]
    pretrained_on: list[str]


def first_network(
    inputs: JobInputs,
    job: Job,
    plan: ComputePlan,
    seed: int,
    excluded: Sequence[str],
    folder: PretrainingFolder,
    tell: ReportEpoch,
) -> _FirstNetwork:
    """The job's network with its first weights, pretrained on another cohort if the study states so.

    Args:
        excluded: the subjects on whom the network is tested later; none of them has been used.
        folder: the folder of pretraining.
        tell: receives the progress of pretraining.

    Raises:
        SplitError: an excluded subject has been used.
    """
    torch.manual_seed(seed)
    network = network_of(inputs.study, job.model)
    origin, of_bundle = load_first_weights(network, inputs.study, job.model, excluded)
    used: list[str] = []
    if inputs.pretraining:
        used = pretrain(network, inputs.pretraining, job, excluded, folder, seed, plan, tell)
    return _FirstNetwork(network, origin, list(of_bundle), used)


def pretrain(
    network: Network,
    pretraining: Pretrained,
    job: Job,
    excluded: Sequence[str],
    folder: PretrainingFolder,
    seed: int,
    plan: ComputePlan,
    tell: ReportEpoch,
) -> list[str]:
    """Train the network's body on the other cohort for a fixed number of epochs; return the subjects of that cohort."""
    from safetensors.torch import load_file

    study, panels = pretraining.study, pretraining.cohort.panels
    subjects = panels["subject"].astype(str)
    used = sorted(set(subjects) - set(excluded))
    check_apart(used, excluded, where=f"{job.name}, pretraining")
    seed = mixed_seed(seed, "pretrain")
    if folder.body.intact():
        network.body.load_state_dict(load_file(folder.body.path))
        return used
    labels = label_table(panels, study)
    rows = np.flatnonzero(subjects.isin(used).to_numpy() & ~np.isnan(labels).all(axis=1))
    data = pretraining_data(pretraining, job.model, rows)
    torch.manual_seed(seed)
    outputs = outputs_of(study)
    whole = network_of(study, job.model)
    whole.body.load_state_dict(network.body.state_dict())
    standardise(whole, data.truth, outputs)
    if study.recipe.head == "probe" and not folder.state.intact():
        probe(whole, data, [str(subjects.iloc[r]) for r in rows], outputs, batch=study.recipe.batch_size)
    context = TrainingContext(outputs, folder.path, seed, plan, study.compute.save_every, "last", tell)
    # evaluated after every epoch, without an effect
    fitted = fit(whole, study.recipe, data, data.subset([0]), context)
    body = {name: tensor.contiguous() for name, tensor in whole.body.state_dict().items()}
    folder.history.write({"epochs": fitted.history})
    write_tensors(folder.body, body)
    network.body.load_state_dict(body)
    return used


def pretraining_data(pretraining: Pretrained, model: str, rows: NDArray[np.intp]) -> PanelDataset:
    """The panels of these rows of the other cohort, as a network sees them."""
    study, panels = pretraining.study, pretraining.cohort.panels
    store = StoreAddress(pretraining.tiles, pretraining.address)
    preprocessing = fit_preprocessing(study, store, rows, model=model)
    labels = label_table(panels, study)[rows]
    return modality_of(study).dataset(store, study, panels.iloc[rows], labels, preprocessing)
