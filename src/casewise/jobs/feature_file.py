"""The features of all panels of a run, computed once for all folds of a baseline, and by all of them together."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from casewise.modalities.dataset import FeatureData, encode_bags
from casewise.models.forward import mean_over_views
from casewise.run_folder import WeightsFile
from casewise.training.checkpoint import write_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from casewise.jobs.plan import Job, JobInputs
    from casewise.modalities.base import FittedPreprocessing, PanelDataset
    from casewise.models.backbones import Network
    from casewise.models.feature_maps import FeatureBank

# Panels of one file, and views that pass through the encoder together.
PART, BATCH = 128, 32


def feature_data(
    job: Job, inputs: JobInputs, network: Network, data: PanelDataset, fitted: FittedPreprocessing
) -> FeatureData:
    """The features of all candidates for every panel of `data`, which has no variation.

    They are written to files of `PART` panels beside the jobs of the baseline, which other folds with the same
    preprocessing read. Folds that run side by side compute different files.
    """
    encoders = [[encoder.facts, _digest(encoder.network)] for encoder in _bank(network).encoders]
    key = hashlib.sha256(
        json.dumps([job.fingerprint, inputs.store.address, fitted, encoders], sort_keys=True).encode()
    ).hexdigest()
    rows = [list(range(first, min(first + PART, len(data)))) for first in range(0, len(data), PART)]
    folder = job.folder.path.parent
    files = [WeightsFile(folder / f"features-{key[:16]}-{number}.safetensors") for number in range(len(rows))]
    for wait in (0, -1):  # first those that no other fold is computing, then the rest
        for file, part in zip(files, rows, strict=True):
            with suppress(Timeout), FileLock(file.path.with_suffix(".lock"), timeout=wait):
                if not file.intact():
                    write_tensors(file, {"features": compute_features(network, data.subset(part))}, {"format": "pt"})
    from safetensors.torch import load_file

    features = torch.cat([load_file(file.path)["features"] for file in files])
    return FeatureData(features, data.truth, data.names)


def _bank(network: Network) -> FeatureBank:
    bank: Any = network.body
    return bank


def _digest(network: Network) -> str:
    """A hash of a network's weights, since those of a download may change."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def compute_features(network: Network, data: PanelDataset) -> Tensor:
    """(P, W) `float32`: the features of every panel, averaged over the images of a bag."""
    form, device = torch.channels_last, torch.device("cpu")
    network.eval().to(memory_format=form)  # type: ignore[call-overload]
    slots, owner = data.views()
    computed = []
    with torch.inference_mode():
        for view_slots, panel_numbers in zip(slots.split(BATCH), owner.split(BATCH), strict=True):
            if data.bags:
                features = encode_bags(network.features, data, view_slots, device, form)
            else:
                features = network.features(data.plain_batch(view_slots, device).contiguous(memory_format=form))
            computed.append((network.pooled(features), panel_numbers))
    return mean_over_views(computed, len(data)).clone()
