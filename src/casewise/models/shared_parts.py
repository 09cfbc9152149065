"""What several trained networks have in common: their modules, frozen encoders and first layers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from casewise.errors import TrainingError
from casewise.models.build_model import network_from
from casewise.models.encoders import Encoder, build_encoder
from casewise.models.freezing import Segment, split_modules
from casewise.models.linear import FeatureSpec, encoders_in

if TYPE_CHECKING:
    from casewise.models.backbones import Network


class SharedParts:
    """Builds networks from their facts; what was built for one network is used again for others.

    Networks of equal facts are copies of one that was built once. Models on fixed features whose encoders have equal
    weights have the same encoder objects, so that their features can be computed together.
    """

    def __init__(self) -> None:
        self._built: dict[str, Network] = {}
        self._encoders: list[tuple[str, Encoder]] = []
        self._widths: dict[tuple[Any, ...], int] = {}

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
        for number, encoder_facts in enumerate(encoders_in(facts["bank"])):
            prefix = f"body.encoder{number + 1 if number else ''}."
            weights = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            encoders.append(self._encoder(encoder_facts, side, weights))
        bank = {**facts["bank"], "encoders": encoders}
        keys = [
            (tuple(map(id, encoders)), bank["channels"], side, FeatureSpec.of(spec)) for spec in bank["specs"] or ()
        ]
        if keys and all(key in self._widths for key in keys):
            bank["widths"] = [self._widths[key] for key in keys]
        network = network_from({**facts, "bank": bank})
        body: Any = network.body
        self._widths |= dict(zip(keys, body.widths, strict=False))
        return network

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
        """What networks of equal facts have in common; None if it is nothing, or they cannot be split."""
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
    own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    others = dict(other.named_parameters(recurse=False)) | dict(other.named_buffers(recurse=False))
    return all(name == "num_batches_tracked" or torch.equal(value, others[name]) for name, value in own.items())
