"""A trained learner with what its graph needs: the networks of its folds, their inputs, and the meaning of outputs.

A graph leads from prepared panels to the mean over folds, without branches that depend on values.
What `casewise.models` decides by looking at a batch (which slots of a bag are empty, which sequences are missing) is
written here as a choice between two computed values, so that one recorded graph is right for every batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from casewise.modalities.registry import modality_of
from casewise.models.backbones import Network
from casewise.models.linear import FeatureBank, bank_of
from casewise.models.outputs import Output, split_raw
from casewise.models.shared_parts import SharedParts, groups_of, joint, named
from casewise.plugins.export import check_names
from casewise.plugins.export.formats import Names
from casewise.targets import by_form

if TYPE_CHECKING:
    from casewise.inference.bundle import Bundle
    from casewise.modalities.base import FittedPreprocessing
    from casewise.study.schema import Study


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
        of_banks = all(isinstance(network.body, FeatureBank) for network in networks)
        # the encoder that all folds share is once in the graph
        self.together = joint(networks) if of_banks and len(set(reads)) == len(groups_of(networks)) == 1 else None

    def forward(self, *panels: Tensor) -> tuple[Tensor, ...]:
        """Panels (B, C, H, W), or bags (B, K, C, H, W), for each input → (B, V) of each target."""
        every: list[Any] = list(self.networks)
        if self.together is not None:
            by_fold = self._values(every, panels[0])
        else:
            pairs = zip(every, self.reads, strict=True)
            by_fold = [values for network, number in pairs for values in self._values([network], panels[number])]
        return tuple(torch.stack(values).mean(dim=0) for values in zip(*by_fold, strict=True))

    def _values(self, networks: list[Network], panels: Tensor) -> list[list[Tensor]]:
        """For each network the values (B, V) of each target."""
        by_network = self._decoded(networks, panels)
        if self.flips:
            mirrored = self._decoded(networks, panels.flip(-1))
            by_network = [
                [(plain + other) / 2 for plain, other in zip(*pair, strict=True)]
                for pair in zip(by_network, mirrored, strict=True)
            ]
        return [
            [
                by_form(output.kind, LIMITS)(value, low, high)
                for value, output, (low, high) in zip(values, self.outputs, self.ranges, strict=True)
            ]
            for values in by_network
        ]

    def _decoded(self, networks: list[Network], panels: Tensor) -> list[list[Tensor]]:
        raws = [split_raw(raw, self.outputs) for raw in _raw_outputs(networks, panels, self.together)]
        return [
            [output.network_kind.decode(raw) for raw, output in zip(of_network, self.outputs, strict=True)]
            for of_network in raws
        ]


def _clipped(values: Tensor, low: float, high: float) -> Tensor:
    return values.clamp(low, high)


def _shares(values: Tensor, low: float, high: float) -> Tensor:
    return values / values.sum(dim=1, keepdim=True)


# As `normalise` of the kinds of `casewise.targets`, by their form.
LIMITS: dict[str, Callable[[Tensor, float, float], Tensor]] = {"number": _clipped, "classes": _shares}


def _raw_outputs(networks: Sequence[Network], panels: Tensor, together: Network | None = None) -> list[Tensor]:
    """The raw outputs (B, outputs) of networks in evaluation mode, as `Network.forward`, for a graph.

    Args:
        together: the network of `joint` for models on fixed features, whose features are then computed once.
    """
    if panels.ndim == 4:
        occupied, by_network = None, _features(networks, panels, together)
    else:
        occupied = ~panels[..., 0, 0].isnan().all(dim=2)
        tiles = torch.where(occupied[:, :, None, None, None], panels, torch.zeros_like(panels))
        by_network = _features(networks, tiles.flatten(0, 1), together)
    return [_head(network, features, occupied) for network, features in zip(networks, by_network, strict=True)]


def _head(network: Network, features: Tensor, occupied: Tensor | None) -> Tensor:
    """The raw outputs from the features of panels (B, width), or of the slots of bags (B K, width)."""
    if occupied is not None:
        by_slot = features.unflatten(0, (occupied.shape[0], occupied.shape[1]))
        filled = torch.where(occupied.unsqueeze(-1), by_slot, torch.zeros_like(by_slot))
        assert network.pooling is not None  # its panels are bags
        features = (network.pooling.shares(filled, occupied).unsqueeze(-1) * filled).sum(dim=1)
    layers: Any = network.head[1:] if network.bags else network.head
    result: Tensor = layers(features) * network.target_std + network.target_mean
    return result


def _features(networks: Sequence[Network], panels: Tensor, together: Network | None) -> list[Tensor]:
    """(B, C, H, W) → (B, width) of each network."""
    if together is None:
        return [_features_of(network, panels) for network in networks]
    bank = bank_of(together)
    vectors = dict(zip(bank.specs, _features_of(together, panels).split(list(bank.widths), dim=1), strict=True))
    return [torch.cat([vectors[spec] for spec in named(bank_of(network))], dim=1) for network in networks]


def _features_of(network: Network, panels: Tensor) -> Tensor:
    scaled = network.scaled(panels)
    body: Any = network.body
    if network.fusion:
        if not network.read_map:
            return _fused(body, scaled)
        scaled, body = _filled(body, scaled), body.bodies[0]  # early fusion, the only one with maps
    return network.features_from(scaled, body)


def _fused(body: Any, panels: Tensor) -> Tensor:
    """As the forward pass of a fused body; a sequence that is missing although none may be gives NaN."""
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


def _filled(body: Any, panels: Tensor) -> Tensor:
    """Panels (B, S, H, W) of early fusion with the learned value instead of missing sequences."""
    if body.missing_token is None:
        return panels
    present = ~panels[:, :, :1, :1].isnan()
    filled: Tensor = torch.where(present, panels, body.missing_token.view(1, -1, 1, 1))
    return filled


COLOURS = ("red", "green", "blue")


@dataclass(frozen=True, eq=False)
class TrainedLearner:
    """A learner with the trained networks of its folds.

    Attributes:
        fitted: the different preparations of its folds; the graph has an input for each.
        reads: for each fold the number of its preparation in `fitted`.
    """

    members: tuple[Bundle, ...]
    networks: tuple[Network, ...]
    fitted: tuple[FittedPreprocessing, ...]
    reads: tuple[int, ...]

    @classmethod
    def of(cls, members: Sequence[Bundle]) -> TrainedLearner:
        """The learner of these networks, one for each fold."""
        fitted: list[FittedPreprocessing] = []
        for member in members:
            if member.fitted not in fitted:
                fitted.append(member.fitted)
        reads = tuple(fitted.index(member.fitted) for member in members)
        parts = SharedParts()
        networks = tuple(member.load(parts=parts).requires_grad_(False) for member in members)
        return cls(tuple(members), networks, tuple(fitted), reads)

    @property
    def name(self) -> str:
        """The name of the learner."""
        return self.members[0].model

    @property
    def file_stem(self) -> str:
        """The name of its file without an ending."""
        return re.sub(r"[^\w.@-]+", "_", self.name)

    @cached_property
    def study(self) -> Study:
        """The settings of reading and preparation, as this learner sees them; without augmentation."""
        settings = self.members[0].settings
        panels = {key: settings["panels"][key] for key in ("by", "grid", "pooling")}
        member = replace(self.members[0], settings={**settings, "panels": panels})
        return member.study(Path("cases.csv")).of_learner(self.name)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The targets, in the order of the graph's outputs."""
        return self.members[0].output_records

    @property
    def ranges(self) -> list[tuple[float, float]]:
        """The range of each target."""
        return [(float(record["range"][0]), float(record["range"][1])) for record in self.members[0].outputs]

    @property
    def units(self) -> list[float]:
        """The divisor of differences in each target: 1, or the deviation of its labels if that is larger."""
        return [
            max([1.0, *record["target_std"]] if output.network_kind.standardised else [1.0])
            for record, output in zip(self.members[0].outputs, self.outputs, strict=True)
        ]

    @property
    def flips(self) -> bool:
        """Whether predictions are averaged with predictions of mirrored panels."""
        return bool(self.members[0].settings["test_time_augmentation"])

    @property
    def bags(self) -> bool:
        """Whether a panel is a set of images."""
        return self.study.panels.bags

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels of a panel, in order."""
        names = modality_of(self.study).channels(self.study, self.name)
        return COLOURS if names == ("",) else names

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of a panel, or of an image of a set."""
        panels, size = self.study.panels, self.study.images.size
        rows, columns = (1, 1) if self.bags else (panels.rows, panels.columns)
        return len(self.channels), rows * size, columns * size

    @property
    def may_lack_sequences(self) -> bool:
        """Whether a sequence of a panel may be missing."""
        return self.channels != COLOURS and all(
            network.missing_token is not None or isinstance(network.body, FeatureBank) for network in self.networks
        )

    @property
    def names(self) -> Names:
        """The names of the graph's inputs and outputs; in names of targets, other signs than letters become `_`."""
        inputs = ["panels"] if len(self.fitted) == 1 else [f"panels_{n}" for n in range(1, len(self.fitted) + 1)]
        taken = list(inputs)
        for output in self.outputs:
            stem = name = re.sub(r"\W", "_", output.name) or "output"
            number = 2
            while name in taken:
                name, number = f"{stem}_{number}", number + 1
            taken.append(name)
        return Names(tuple(inputs), tuple(taken[len(inputs) :]))

    def graph(self) -> LearnerGraph:
        """The learner as one graph."""
        return LearnerGraph(self.name, self.networks, self.reads, self.outputs, self.ranges, flips=self.flips).eval()


def selected_members(members: Sequence[Bundle], names: Sequence[str]) -> list[list[Bundle]]:
    """The networks of the learners of these names, by default of all, learner by learner.

    Raises:
        CasewiseError: there is no such learner, or it combines others.
    """
    by_learner: dict[str, list[Bundle]] = {}
    for member in members:
        by_learner.setdefault(member.model, []).append(member)
    check_names(names, by_learner)
    return [by_learner[name] for name in by_learner if not names or name in names]
