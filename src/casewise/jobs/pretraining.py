"""Pretraining on another cohort, without any held-out subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from casewise.cohort.targets import label_table
from casewise.jobs.fitting import fit_preprocessing
from casewise.jobs.plan import Job, JobInputs, ReportEpoch
from casewise.modalities.base import StoreAddress
from casewise.modalities.registry import modality_of
from casewise.models.backbones import Network
from casewise.models.build_model import load_first_weights, network_of
from casewise.models.outputs import outputs_of
from casewise.run_folder import PretrainingFolder
from casewise.splits.grouped import check_apart
from casewise.study.model import mixed_seed
from casewise.study.schema import Study
from casewise.training.checkpoint import write_tensors
from casewise.training.compute_plan import ComputePlan
from casewise.training.linear_models import probe
from casewise.training.loop import TrainingContext, fit, standardise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casewise.cohort.cohort import Cohort
    from casewise.modalities.base import PanelDataset


@dataclass(frozen=True)
class Pretrained:
    """Another cohort to pretrain on."""

    study: Study
    cohort: Cohort
    tiles: Path
    address: str


@dataclass(frozen=True)
class FirstNetwork:
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
) -> FirstNetwork:
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
    return FirstNetwork(network, origin, list(of_bundle), used)


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
