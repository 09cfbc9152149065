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
    network: nn.Module, data: Batches, slots: Tensor, device: torch.device, form: torch.memory_format
) -> Tensor:
    """Raw outputs of views without augmentation; bags of tiles, which may be large, are processed in parts."""
    if data.bags and isinstance(network, Network):
        return network.predict_head(encode_bags(network.features, data, slots, device, form))
    panels = data.plain_batch(slots, device)
    panels = panels.to(memory_format=form) if panels.ndim == 4 else panels
    raw: Tensor = network(panels)
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


def predict_together(
    networks: Sequence[Network],
    data: PanelDataset | FeatureData,
    outputs: Sequence[Output],
    *,
    batch: int,
    channels_last: bool,
    flips: bool,
    shared: SharedStart | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Predict every panel of `data` by each of several networks; of each the values and what its last layer receives.

    They are computed in single precision, as by exported graphs, whatever the precision of the training.

    Values are (P, V), numbers in the targets' units, classes and grades as probabilities, averaged over the views of a
    panel, with `flips` also with the mirrored panel. What the last layer receives, (P, W), is averaged over views that
    are not mirrored.

    Args:
        shared: the first layers that the networks have in common, which are computed once; panels are no bags then.
    """
    device = next(networks[0].parameters()).device
    form = torch.channels_last if channels_last else torch.contiguous_format
    slots, owner = data.views()
    predicted: list[list[tuple[Tensor, Tensor]]] = [[] for _ in networks]
    received: list[list[tuple[Tensor, Tensor]]] = [[] for _ in networks]

    def features_of(views: Tensor, *, flip: bool = False) -> list[Tensor]:
        if data.bags:
            return [encode_bags(network.features, data, views, device, form, flip=flip) for network in networks]
        panels = data.plain_batch(views, device)
        if isinstance(data, FeatureData):
            return [panels for _ in networks]
        panels = panels.to(memory_format=form) if panels.ndim == 4 else panels
        panels = panels.flip(-1) if flip else panels
        return shared.features(panels) if shared else [network.features(panels) for network in networks]

    for network in networks:
        network.eval()
    with torch.inference_mode():
        size = data.eval_batch_size(batch, device)
        for views, numbers in zip(slots.split(size), owner.split(size), strict=True):
            features = features_of(views)
            mirrored = features_of(views, flip=True) if flips else []
            for number, network in enumerate(networks):
                values = values_of(network.predict_head(features[number]).float(), outputs)
                if flips:
                    values = (values + values_of(network.predict_head(mirrored[number]).float(), outputs)) / 2
                received[number].append((network.pooled(features[number]).float().cpu(), numbers))
                predicted[number].append((values.cpu(), numbers))
    count = len(data)
    return [(mean_over_views(p, count), mean_over_views(r, count)) for p, r in zip(predicted, received, strict=True)]
