"""One learner as one graph: from prepared panels to the mean over its folds, without branches that depend on values.

What `casewise.models` decides by looking at a batch (which slots of a bag are empty, which sequences are missing) is
written here as a choice between two computed values, so that one recorded graph is right for every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from casewise.models.backbones import Network
from casewise.models.fusion import Fused
from casewise.models.outputs import Output, split_raw
from casewise.targets import by_form


class LearnerGraph(nn.Module):
    """The networks of all folds of a learner; each is applied, decoded and limited to its range before the mean.

    Args:
        name: of the learner.
        networks: one for each fold.
        reads: for each fold the number of the input that it reads: folds with the same preparation share an input.
        outputs: the targets of the raw outputs.
        ranges: of each target.
        flips: whether the values of the panel and of the mirrored panel are averaged.
    """

    def __init__(
        self,
        name: str,
        networks: Sequence[Network],
        reads: Sequence[int],
        outputs: Sequence[Output],
        ranges: Sequence[tuple[float, float]],
        *,
        flips: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.networks = nn.ModuleList(networks)
        for network in networks:
            network.head.float()  # graphs compute in single precision, also the heads of models on fixed features
        self.reads, self.outputs, self.ranges, self.flips = tuple(reads), tuple(outputs), tuple(ranges), flips

    def forward(self, *panels: Tensor) -> tuple[Tensor, ...]:
        """Panels (B, C, H, W), or bags (B, K, C, H, W), for each input → (B, V) of each target."""
        by_fold = [
            self._values(network, panels[number]) for network, number in zip(self.networks, self.reads, strict=True)
        ]
        return tuple(torch.stack(values).mean(dim=0) for values in zip(*by_fold, strict=True))

    def _values(self, network: Any, panels: Tensor) -> list[Tensor]:
        values = self._decoded(network, panels)
        if self.flips:
            mirrored = self._decoded(network, panels.flip(-1))
            values = [(plain + other) / 2 for plain, other in zip(values, mirrored, strict=True)]
        return [
            by_form(output.kind, LIMITS)(value, low, high)
            for value, output, (low, high) in zip(values, self.outputs, self.ranges, strict=True)
        ]

    def _decoded(self, network: Network, panels: Tensor) -> list[Tensor]:
        raw = raw_outputs(network, panels)
        targets = zip(split_raw(raw, self.outputs), self.outputs, strict=True)
        return [output.network_kind.decode(target_raw) for target_raw, output in targets]


def _clipped(values: Tensor, low: float, high: float) -> Tensor:
    return values.clamp(low, high)


def _shares(values: Tensor, low: float, high: float) -> Tensor:
    return values / values.sum(dim=1, keepdim=True)


# As `normalise` of the kinds of `casewise.targets`, by their form.
LIMITS: dict[str, Callable[[Tensor, float, float], Tensor]] = {"number": _clipped, "classes": _shares}


def raw_outputs(network: Network, panels: Tensor) -> Tensor:
    """The raw outputs of a network in evaluation mode, as `Network.forward`, for a graph: (B, outputs)."""
    if panels.ndim == 4:
        pooled = _features(network, panels)
    else:
        occupied = ~panels[..., 0, 0].isnan().all(dim=2)
        tiles = torch.where(occupied[:, :, None, None, None], panels, torch.zeros_like(panels))
        by_tile = _features(network, tiles.flatten(0, 1))
        features = by_tile.unflatten(0, (panels.shape[0], panels.shape[1]))
        filled = torch.where(occupied.unsqueeze(-1), features, torch.zeros_like(features))
        assert network.pooling is not None  # its panels are bags
        pooled = (network.pooling.shares(filled, occupied).unsqueeze(-1) * filled).sum(dim=1)
    layers: Any = network.head[1:] if network.bags else network.head
    result: Tensor = layers(pooled) * network.target_std + network.target_mean
    return result


def _features(network: Network, panels: Tensor) -> Tensor:
    """(B, C, H, W) → (B, width)."""
    scaled = (panels - network.mean) / network.std
    body: Any = network.body
    if isinstance(body, Fused):
        if not network.read_map:
            return _fused(body, scaled)
        scaled, body = _filled(body, scaled), body.bodies[0]  # early fusion, the only one with maps
    return network.features_from(scaled, body)


def _fused(body: Fused, panels: Tensor) -> Tensor:
    """As `Fused.forward`; a sequence that is missing although none may be gives NaN."""
    if body.kind == "early":
        early: Tensor = body.bodies[0](_filled(body, panels))
        return early
    present = ~panels[:, :, 0, 0].isnan()
    whole = panels if body.missing_token is None else panels.nan_to_num(0.0)
    features = []
    for number in range(body.sequences):
        network = body.bodies[number if body.kind == "late" else 0]
        values = network(whole[:, number : number + 1].expand(-1, 3, -1, -1))
        if body.missing_token is not None:
            values = torch.where(present[:, number : number + 1], values, body.missing_token[number].unsqueeze(0))
        features.append(values)
    return torch.cat(features, dim=1)


def _filled(body: Fused, panels: Tensor) -> Tensor:
    """Panels (B, S, H, W) of early fusion with the learned value in place of missing sequences."""
    if body.missing_token is None:
        return panels
    present = ~panels[:, :, :1, :1].isnan()
    return torch.where(present, panels, body.missing_token.view(1, -1, 1, 1))
