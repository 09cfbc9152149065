"""Fixed features that several models read, computed in one pass over the images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from casewise.modalities.dataset import FeatureData
from casewise.models.backbones import Body, Network, NetworkOptions
from casewise.models.forward import compute_features
from casewise.models.linear import UNSCALED, FeatureBank, FeatureSpec, bank_of

if TYPE_CHECKING:
    from casewise.modalities.base import PanelDataset
    from casewise.models.encoders import Encoder


class JointFeatures:
    """The features of one dataset for models whose encoders are the same objects (see `SharedParts`).

    Args:
        networks: models on fixed features.
        data: the panels that all of them read.
    """

    def __init__(self, networks: Sequence[Network], data: PanelDataset) -> None:
        self._data = data
        self._groups = groups_of(networks)
        self._computed: dict[int, torch.Tensor] = {}

    def of(self, network: Network) -> FeatureData:
        """The features of one of the networks; those of all networks that share its encoders are computed at once."""
        bank = bank_of(network)
        number = next(n for n, group in enumerate(self._groups) if any(other is network for other in group.networks))
        group = self._groups[number]
        if number not in self._computed:
            self._computed[number] = compute_features(group.joint(), self._data)
        columns = torch.cat([group.columns(spec) for spec in named(bank)])
        return FeatureData(self._computed[number][:, columns], self._data.truth, self._data.names)


class Group:
    """Networks of which one bank can compute all features: no two encoders have one name, sizes are equal."""

    def __init__(self, network: Network) -> None:
        bank = bank_of(network)
        self.networks = [network]
        self.options = NetworkOptions(side=network.side, pooling=network.pooling.name if network.pooling else "")
        self.channels = bank.channels
        self.encoders: dict[str, Encoder] = {encoder.name: encoder for encoder in bank.encoders}
        self.widths = dict(zip(named(bank), bank.widths, strict=True))

    def add(self, other: Group) -> bool:
        """Whether the networks of another group could be added to this one."""
        alike = (self.options, self.channels) == (other.options, other.channels)
        if not alike or any(
            encoder.network is not self.encoders.get(name, encoder).network for name, encoder in other.encoders.items()
        ):
            return False
        self.networks += other.networks
        self.encoders |= other.encoders
        self.widths |= other.widths
        return True

    def columns(self, spec: FeatureSpec) -> torch.Tensor:
        """The columns of the joint features that hold the vector of a candidate."""
        specs = list(self.widths)
        start = sum(self.widths[before] for before in specs[: specs.index(spec)])
        return torch.arange(start, start + self.widths[spec])

    def joint(self) -> Network:
        """A network whose features are the vectors of all candidates side by side."""
        side = self.options.side or 224
        bank = FeatureBank(
            list(self.encoders.values()), list(self.widths), self.channels, side, widths=list(self.widths.values())
        )
        network = Network("joint features", Body(bank, bank.width, UNSCALED), 1, self.options)
        return network.to(next(self.networks[0].head.parameters()).device)


def groups_of(networks: Iterable[Network]) -> list[Group]:
    """The networks in as few groups as possible, each of which computes its features in one pass."""
    groups: list[Group] = []
    for network in networks:
        single = Group(network)
        if not any(group.add(single) for group in groups):
            groups.append(single)
    return groups


def named(bank: FeatureBank) -> list[FeatureSpec]:
    """The candidates of a bank, each with the name of its encoder also where the bank has only one."""
    only = bank.encoders[0].name if bank.encoders else ""
    return [replace(spec, encoder=spec.encoder or only) if spec.modules else spec for spec in bank.specs]
