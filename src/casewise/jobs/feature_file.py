"""The features of all panels of a run, computed once for all folds of its baselines, and by all of them together."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from casewise.modalities.dataset import FeatureData
from casewise.modalities.registry import own_modalities
from casewise.models.forward import compute_features
from casewise.models.linear import bank_of
from casewise.run_folder import WeightsFile
from casewise.study.learners import added_learners
from casewise.training.checkpoint import write_tensors
from casewise.training.feature_sharing import FeatureStore, cached_or_computed, digest_of, digest_of_panels, machine

if TYPE_CHECKING:
    from torch import Tensor

    from casewise.jobs.plan import Job, JobInputs
    from casewise.modalities.base import FittedPreprocessing, PanelDataset
    from casewise.models.backbones import Network

# Panels of one file.
ROWS = 128


def feature_data(
    job: Job, inputs: JobInputs, network: Network, data: PanelDataset, fitted: FittedPreprocessing
) -> FeatureData:
    """The features of all candidates for every panel of `data`, which has no variation.

    They are written to files of `ROWS` panels beside the jobs of the run, which other folds with the same preprocessing
    read, and other baselines with the same candidates. Folds that run side by side compute different files.
    """
    bank = bank_of(network)
    encoders = [[encoder.facts, _digest(encoder.network)] for encoder in bank.encoders]
    views = [[list(numbers.shape), hashlib.sha256(numbers.numpy().tobytes()).hexdigest()] for numbers in data.views()]
    specs = [spec.as_json() for spec in bank.specs]
    made_from = [inputs.study.model_dump(mode="json"), inputs.store.address, views, fitted, encoders, specs]
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    rows_by_file = [list(range(first, min(first + ROWS, len(data)))) for first in range(0, len(data), ROWS)]
    folder = job.folder.path.parent.parent
    files = [WeightsFile(folder / f"features-{key[:16]}-{number}.safetensors") for number in range(len(rows_by_file))]
    for wait in (0, -1):  # first those that no other fold is computing, then the rest
        for file, rows in zip(files, rows_by_file, strict=True):
            try:
                acquired = FileLock(file.path.with_suffix(".lock")).acquire(timeout=wait)
            except Timeout:
                continue
            with acquired:
                if not file.intact():
                    features_of_rows = _shared(network, data.subset(rows), f"{encoders} {specs}")
                    with FileLock(folder / "features.lock"):  # one at a time records its checksum in this folder
                        write_tensors(file, {"features": features_of_rows}, {"format": "pt"})
    from safetensors.torch import load_file

    features = None
    for file, rows in zip(files, rows_by_file, strict=True):
        of_file = load_file(file.path)["features"]
        features = of_file.new_empty(len(data), of_file.shape[1]) if features is None else features
        features[rows] = of_file
    assert features is not None  # a fold has panels
    return FeatureData(features, data.truth, data.names)


def _shared(network: Network, panels: PanelDataset, candidates: str) -> Tensor:
    """The features of some panels, shared by content with the baselines of other runs."""
    store = feature_store()
    facts = ["candidates", candidates, digest_of(network), ROWS, machine(network)]
    address = (
        hashlib.sha256(json.dumps([digest_of_panels(panels), facts]).encode()).hexdigest() if store.limit else None
    )
    values = cached_or_computed(store, address, partial(compute_features, network, panels))
    assert values is not None  # it waits for another process
    return values


def feature_store() -> FeatureStore:
    """The user's store; with learners of others, whose code is no part of an address, nothing is shared."""
    store = FeatureStore.of_user()
    return replace(store, limit=0) if added_learners() else store


def panels_identity(inputs: JobInputs, fitted: FittedPreprocessing) -> str:
    """What decides the pixels of all panels of a run in one fold; empty if that is code of others."""
    if inputs.study.modality_name not in own_modalities():
        return ""
    return json.dumps([inputs.study.model_dump(mode="json"), inputs.store.address, fitted], sort_keys=True)


def _digest(network: Network) -> str:
    """A hash of a network's weights, since those of a download may change."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
