"""The features of all panels of a run, computed once for all folds of a baseline."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock

from casewise.modalities.dataset import FeatureData, encode_bags
from casewise.models.backbones import form_of
from casewise.models.forward import mean_over_views
from casewise.run_folder import WeightsFile
from casewise.training.checkpoint import write_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from casewise.jobs.plan import Job, JobInputs
    from casewise.modalities.base import FittedPreprocessing, PanelDataset
    from casewise.models.backbones import Network
    from casewise.models.feature_maps import FeatureBank

# Views that pass through the encoder together.
BATCH = 32


def feature_data(
    job: Job, inputs: JobInputs, network: Network, data: PanelDataset, fitted: FittedPreprocessing
) -> FeatureData:
    """The features of all candidates for every panel of `data`, which has no variation.

    They are written to a file beside the jobs of the baseline, which other folds with the same preprocessing read.
    """
    encoders = [[encoder.facts, _digest(encoder.network)] for encoder in _bank(network).encoders]
    key = hashlib.sha256(
        json.dumps([job.fingerprint, inputs.store.address, fitted, encoders], sort_keys=True).encode()
    ).hexdigest()
    file = WeightsFile(job.folder.path.parent / f"features-{key[:16]}.safetensors")
    with FileLock(file.path.with_suffix(".lock")):
        if not file.intact():
            write_tensors(file, {"features": compute_features(network, data)}, {"format": "pt"})
        from safetensors.torch import load_file

        features = load_file(file.path)["features"]
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
    network.eval()
    slots, owner = data.views()
    device, form = torch.device("cpu"), form_of(network.body)
    computed = []
    with torch.inference_mode():
        for view_slots, panel_numbers in zip(slots.split(BATCH), owner.split(BATCH), strict=True):
            if data.bags:
                features = encode_bags(network.features, data, view_slots, device, form)
            else:
                features = network.features(data.plain_batch(view_slots, device))
            computed.append((network.pooled(features), panel_numbers))
    return mean_over_views(computed, len(data)).clone()
