"""Parts that several trained networks share: modules, frozen encoders, features and first layers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from casewise.errors import TrainingError
from casewise.modalities.dataset import FeatureData
from casewise.models.backbones import Body, Network, NetworkOptions
from casewise.models.build_model import network_from
from casewise.models.encoders import Encoder, build_encoder
from casewise.models.forward import compute_features
from casewise.models.freezing import Segment, split_modules
from casewise.models.linear import UNSCALED, FeatureBank, FeatureSpec, bank_of

if TYPE_CHECKING:
    from casewise.modalities.base import PanelDataset


class SharedParts:
    """Builds networks from their facts; what was built for one network is used again for others.

    Networks of equal facts are copies of one that was built once. Models on fixed features whose encoders have equal
    weights have the same encoder objects, so that their features can be computed together.
    """

    def __init__(self) -> None:
        self._built: dict[str, Network] = {}
        self._encoders: list[tuple[str, Encoder]] = []

    def network(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], *, own: bool = True) -> Network:
        """A network of these facts, whose weights are still to be loaded except those of frozen encoders.

        Args:
            tensors: its trained weights, by which shared encoders are recognised.
            own: whether it keeps its weights when the next network is built; without it no copy is made.
        """
        if "bank" in facts:
            return self._on_features(facts, tensors)
        key = json.dumps(facts, sort_keys=True)
        if key not in self._built:
            self._built[key] = network_from(dict(facts))
        return deepcopy(self._built[key]) if own else self._built[key]

    def _on_features(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Network:
        side = int(facts.get("side") or 224)
        encoders = []
        for number, encoder_facts in enumerate(facts["bank"]["encoders"]):
            prefix = f"body.encoder{number + 1 if number else ''}."
            weights = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            encoders.append(self._encoder(encoder_facts, side, weights))
        return network_from({**facts, "bank": {**facts["bank"], "encoders": encoders}})

    def _encoder(self, facts: Mapping[str, Any], side: int, weights: Mapping[str, Tensor]) -> Encoder:
        """An encoder with these weights, one that was built before if there is one."""
        key = json.dumps([facts, side], sort_keys=True)
        for other, encoder in self._encoders:
            if other == key and _equal(encoder.network.state_dict(), weights):
                return encoder
        encoder = build_encoder(facts, side)
        if set(weights) == set(encoder.network.state_dict()):  # otherwise loading the whole network says what is wrong
            encoder.network.load_state_dict(weights)
        self._encoders.append((key, encoder))
        return encoder


def _equal(state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    return set(state) == set(weights) and all(
        value.dtype == weights[key].dtype and torch.equal(value.cpu(), weights[key]) for key, value in state.items()
    )


@dataclass(frozen=True, eq=False)
class SharedStart:
    """Networks whose first layers are equal: `rests[i](start(panels))` are the features of network i, to the bit."""

    start: Segment
    rests: list[Segment]

    @classmethod
    def of(cls, networks: Sequence[Network]) -> SharedStart | None:
        """The equal first layers of networks of equal facts; None if there are none, or they cannot be split."""
        first = networks[0]
        if len(networks) < 2 or first.read_map or first.fusion is not None:
            return None
        end = 0
        for modules in zip(*(network.bodies[0].modules() for network in networks), strict=True):
            if not all(_equal_modules(modules[0], other) for other in modules[1:]):
                break
            end += 1
        try:
            splits = [split_modules(network, end) for network in networks]
        except TrainingError:
            return None
        return cls(splits[0][0].eval(), [rest.eval() for _, rest in splits])

    def features(self, panels: Tensor) -> list[Tensor]:
        """The features (B, width) of each network for panels (B, C, H, W) in 0–1."""
        maps = self.start(panels)
        return [rest(maps) for rest in self.rests]


def _equal_modules(module: nn.Module, other: nn.Module) -> bool:
    """Whether the weights and statistics of a module, without those of its children, are equal to another's."""
    own, others = ([*each.parameters(recurse=False), *each.buffers(recurse=False)] for each in (module, other))
    # the number of batches of a norm, which is no floating-point number, does not matter
    return all(torch.equal(a, b) for a, b in zip(own, others, strict=True) if a.is_floating_point())


class JointFeatures:
    """The features of one dataset for models whose encoders are the same objects (see `SharedParts`).

    Args:
        networks: models on fixed features.
        data: the panels that all of them read.
    """

    def __init__(self, networks: Sequence[Network], data: PanelDataset) -> None:
        self._data = data
        self._groups = groups_of(networks)
        self._computed: dict[int, dict[FeatureSpec, Tensor]] = {}

    def of(self, network: Network) -> FeatureData:
        """The features of one of the networks; those of all networks that share its encoders are computed at once."""
        number = next(n for n, group in enumerate(self._groups) if any(other is network for other in group))
        if number not in self._computed:
            together = joint(self._groups[number])
            bank, values = bank_of(together), compute_features(together, self._data)
            self._computed[number] = dict(zip(bank.specs, values.split(bank.widths, dim=1), strict=True))
        vectors = self._computed[number]
        features = torch.cat([vectors[spec] for spec in named(bank_of(network))], dim=1)
        return FeatureData(features, self._data.truth, self._data.names)


def groups_of(networks: Iterable[Network]) -> list[list[Network]]:
    """The networks in as few groups as possible, each of which computes its features in one pass of one bank."""
    groups: list[list[Network]] = []
    for network in networks:
        group = next((group for group in groups if all(_fit_together(network, other) for other in group)), None)
        if group is None:
            groups.append([network])
        else:
            group.append(network)
    return groups


def _fit_together(one: Network, other: Network) -> bool:
    """Whether the inputs of two networks are equal, and no two of their encoders have one name."""
    encoders = {encoder.name: encoder.network for encoder in bank_of(one).encoders}
    return (one.side, one.pooling_name, bank_of(one).channels) == (
        *(other.side, other.pooling_name, bank_of(other).channels),
    ) and all(encoders.get(encoder.name, encoder.network) is encoder.network for encoder in bank_of(other).encoders)


def joint(networks: Sequence[Network]) -> Network:
    """A network whose features are the vectors of all candidates of these networks side by side."""
    first, banks = networks[0], [bank_of(network) for network in networks]
    encoders = {encoder.name: encoder for bank in banks for encoder in bank.encoders}
    widths = {spec: width for bank in banks for spec, width in zip(named(bank), bank.widths, strict=True)}
    bank = FeatureBank(
        list(encoders.values()), list(widths), banks[0].channels, first.side or 224, widths=list(widths.values())
    )
    options = NetworkOptions(side=first.side, pooling=first.pooling_name)
    network = Network("joint features", Body(bank, bank.width, UNSCALED), 1, options)
    return network.to(next(first.head.parameters()).device)


def named(bank: FeatureBank) -> list[FeatureSpec]:
    """The candidates of a bank, each with the name of its encoder also where the bank has only one."""
    only = bank.encoders[0].name if bank.encoders else ""
    return [replace(spec, encoder=spec.encoder or only) if spec.modules else spec for spec in bank.specs]
