"""Predictions of a network: in batches, without gradients, averaged over the views of a panel and over flips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from casewise.modalities.dataset import Batches, FeatureData, encode_bags
from casewise.models.backbones import Network
from casewise.models.outputs import Output, values_of

if TYPE_CHECKING:
    from casewise.modalities.dataset import PanelDataset
    from casewise.models.shared_parts import SharedStart

# Views of 224×224 pixels whose features are computed together; of larger ones fewer.
BATCH = 32


def forward(
    network: nn.Module,
    data: Batches,
    slots: Tensor,
    device: torch.device,
    form: torch.memory_format,
    *,
    flip: bool = False,
) -> Tensor:
    """Raw outputs of views without augmentation; bags of tiles, which may be large, are processed in parts."""
    if data.bags and isinstance(network, Network):
        return network.predict_head(encode_bags(network.features, data, slots, device, form, flip=flip))
    panels = data.plain_batch(slots, device)
    panels = panels.to(memory_format=form) if panels.ndim == 4 else panels
    raw: Tensor = network(panels.flip(-1) if flip else panels)
    return raw


def mean_over_views(predicted: list[tuple[Tensor, Tensor]], panels: int) -> Tensor:
    """Mean prediction of each panel over its views: (P, T)."""
    values = torch.cat([p for p, _ in predicted])
    owner = torch.cat([o for _, o in predicted])
    sums = values.new_zeros(panels, values.shape[1]).index_add_(0, owner, values)
    return sums / torch.bincount(owner, minlength=panels).clamp(min=1).unsqueeze(1)


def compute_features(network: Network, data: PanelDataset) -> Tensor:
    """(P, W) `float32`: the features of every panel, averaged over the images of a bag and over the views of a panel.

    They are computed in single precision on the network's device, `BATCH` views at a time, and returned on the CPU.
    """
    form, device = torch.channels_last, network.mean.device
    network.eval().to(memory_format=form)  # type: ignore[call-overload]
    slots, owner = data.views()
    batch = max(1, min(BATCH, int(BATCH * (224 / (network.side or 224)) ** 2)))
    computed = []
    with torch.inference_mode():
        for view_slots, panel_numbers in zip(slots.split(batch), owner.split(batch), strict=True):
            if data.bags:
                features = encode_bags(network.features, data, view_slots, device, form)
            else:
                features = network.features(data.plain_batch(view_slots, device).contiguous(memory_format=form))
            computed.append((network.pooled(features).cpu(), panel_numbers))
    return mean_over_views(computed, len(data)).clone()


def predict(
    network: nn.Module,
    data: PanelDataset | FeatureData,
    outputs: Sequence[Output],
    *,
    batch: int,
    channels_last: bool,
    bf16: bool,
    flips: bool,
) -> Tensor:
    """Predict every panel of `data`: (P, V), numbers in the targets' units, classes and grades as probabilities.

    The views of a panel are averaged; `flips` also averages with the mirrored panel.
    """
    values, _ = predict_with_features(
        network, data, outputs, batch=batch, channels_last=channels_last, bf16=bf16, flips=flips
    )
    return values


def predict_with_features(
    network: nn.Module,
    data: PanelDataset | FeatureData,
    outputs: Sequence[Output],
    *,
    batch: int,
    channels_last: bool,
    bf16: bool,
    flips: bool,
) -> tuple[Tensor, Tensor]:
    """The values of `predict`, and what the last layer receives, (P, W), averaged over views that are not mirrored.

    A network without features of its own, which is no `Network`, has (P, 0).
    """
    network.eval()
    device = next(network.parameters()).device
    form = torch.channels_last if channels_last else torch.contiguous_format
    slots, owner = data.views()
    predicted, received = [], []
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        size = data.eval_batch_size(batch, device)
        for view_slots, panel_numbers in zip(slots.split(size), owner.split(size), strict=True):
            raw, features = _raw_and_features(network, data, view_slots, device, form)
            values = values_of(raw.float(), outputs)
            received.append((features.float().cpu(), panel_numbers))
            if flips:
                mirrored = forward(network, data, view_slots, device, form, flip=True)
                values = (values + values_of(mirrored.float(), outputs)) / 2
            predicted.append((values.cpu(), panel_numbers))
    return mean_over_views(predicted, len(data)), mean_over_views(received, len(data))


def predict_together(
    networks: Sequence[Network],
    shared: SharedStart,
    data: PanelDataset,
    outputs: Sequence[Output],
    *,
    batch: int,
    channels_last: bool,
    bf16: bool,
    flips: bool,
) -> list[tuple[Tensor, Tensor]]:
    """What `predict_with_features` gives for each of several networks, whose first layers are computed once.

    Args:
        shared: what the networks have in common; panels are no bags.
    """
    device = next(networks[0].parameters()).device
    form = torch.channels_last if channels_last else torch.contiguous_format
    slots, owner = data.views()
    predicted: list[list[tuple[Tensor, Tensor]]] = [[] for _ in networks]
    received: list[list[tuple[Tensor, Tensor]]] = [[] for _ in networks]
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        size = data.eval_batch_size(batch, device)
        for view_slots, panel_numbers in zip(slots.split(size), owner.split(size), strict=True):
            panels = data.plain_batch(view_slots, device).to(memory_format=form)
            features = shared.features(panels)
            mirrored = shared.features(panels.flip(-1)) if flips else []
            for number, network in enumerate(networks):
                values = values_of(network.predict_head(features[number]).float(), outputs)
                if flips:
                    values = (values + values_of(network.predict_head(mirrored[number]).float(), outputs)) / 2
                received[number].append((network.pooled(features[number]).float().cpu(), panel_numbers))
                predicted[number].append((values.cpu(), panel_numbers))
    count = len(data)
    return [(mean_over_views(p, count), mean_over_views(r, count)) for p, r in zip(predicted, received, strict=True)]


def _raw_and_features(
    network: nn.Module, data: PanelDataset | FeatureData, slots: Tensor, device: torch.device, form: torch.memory_format
) -> tuple[Tensor, Tensor]:
    """Raw outputs of views as `forward` computes them, and the features that the last layer receives."""
    if not isinstance(network, Network):
        raw = forward(network, data, slots, device, form)
        return raw, raw.new_zeros(len(raw), 0)
    if isinstance(data, FeatureData):
        features = data.plain_batch(slots, device)
    elif data.bags:
        features = encode_bags(network.features, data, slots, device, form)
    else:
        panels = data.plain_batch(slots, device)
        features = network.features(panels.to(memory_format=form) if panels.ndim == 4 else panels)
    return network.predict_head(features), network.pooled(features)
