"""Joint predictions of networks, and the parts that several share: modules, frozen encoders, features, first layers.

Predictions are made in batches, without gradients, and averaged over the views of a panel and over flips.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from casewise.errors import TrainingError
from casewise.modalities.dataset import Batches, FeatureData, PanelDataset, encode_bags
from casewise.models.backbones import Body, Network, NetworkOptions
from casewise.models.build_model import network_from
from casewise.models.encoders import Encoder, build_encoder
from casewise.models.freezing import Segment, split_modules
from casewise.models.linear import UNSCALED, FeatureBank, FeatureSpec, bank_of, encoder_prefix
from casewise.models.outputs import Output, values_of


class SharedParts:
    """Builds networks from their facts; what was built for one network is used again for others.

    Networks of equal facts are copies of one that was built once. Models on fixed features whose encoders have equal
    weights have the same encoder objects, so that their features can be computed together.
    """

    def __init__(self) -> None:
        self._built: dict[str, Network] = {}
        self._encoders: list[tuple[str, Encoder]] = []

    def network(self, facts: Mapping[str, Any], tensors: dict[str, Tensor], *, own: bool = True) -> Network:
        """A network of these facts; all weights but the frozen encoders' must still be loaded.

        Args:
            tensors: its trained weights; they identify shared encoders, whose own tensors take the place of equal ones.
            own: whether it keeps its weights when the next network is built; if not, nothing is copied.
        """
        if "bank" in facts:
            return self._on_features(facts, tensors)
        key = json.dumps(facts, sort_keys=True)
        if key not in self._built:
            self._built[key] = network_from(dict(facts))
        return deepcopy(self._built[key]) if own else self._built[key]

    def kept(self, sha256: str) -> Mapping[str, Tensor] | None:
        """The weights of an encoder with this checksum that was built before; None if there is none."""
        built = next((encoder for facts, encoder in self._encoders if sha256 in facts), None)
        return None if built is None else built.network.state_dict()

    def _on_features(self, facts: Mapping[str, Any], tensors: dict[str, Tensor]) -> Network:
        side = int(facts.get("side") or 224)
        encoders = []
        for number, encoder_facts in enumerate(facts["bank"]["encoders"]):
            prefix = encoder_prefix(number)
            weights = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            encoders.append(self._encoder(encoder_facts, side, weights))
            state = encoders[-1].network.state_dict()
            # loading a tensor into itself copies nothing
            tensors.update({prefix + key: state[key] for key in weights if key in state})
        return network_from({**facts, "bank": {**facts["bank"], "encoders": encoders}})

    def _encoder(self, facts: Mapping[str, Any], side: int, weights: Mapping[str, Tensor]) -> Encoder:
        """An encoder with these weights, one that was built before if there is one."""
        key = json.dumps([facts, side], sort_keys=True)
        for other, encoder in self._encoders:
            if other == key and ("sha256" in facts or _equal(encoder.network.state_dict(), weights)):
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
    """Whether the weights and statistics of a module, without its children's, are equal to another's."""
    own, others = ([*side.parameters(recurse=False), *side.buffers(recurse=False)] for side in (module, other))
    # the number of batches of a norm, which is not a floating-point number, does not matter
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
        """The features of one network; all networks that share its encoders are computed at once."""
        number = next(n for n, group in enumerate(self._groups) if any(other is network for other in group))
        if number not in self._computed:
            together = joint(self._groups[number])
            bank, values = bank_of(together), compute_features(together, self._data)
            self._computed[number] = dict(zip(bank.specs, values.split(bank.widths, dim=1), strict=True))
        vectors = self._computed[number]
        features = torch.cat([vectors[spec] for spec in named(bank_of(network))], dim=1)
        return FeatureData(features, self._data.truth, self._data.names)


def groups_of(networks: Iterable[Network]) -> list[list[Network]]:
    """The networks in as few groups as possible; a group computes its features in one pass of one bank."""
    groups: list[list[Network]] = []
    for network in networks:
        group = next((group for group in groups if all(_fit_together(network, other) for other in group)), None)
        if group is None:
            groups.append([network])
        else:
            group.append(network)
    return groups


def _fit_together(first: Network, other: Network) -> bool:
    """Whether the inputs of two networks are equal, and no two of their encoders have one name."""
    encoders = {encoder.name: encoder.network for encoder in bank_of(first).encoders}
    return (first.side, first.pooling_name, bank_of(first).channels) == (
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


# Views of 224×224 pixels whose features are computed together; of larger ones fewer, on a GPU four times as many.
BATCH, ON_GPU = 32, 4


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


def in_batches(compute: Callable[[Tensor], Tensor], slots: Tensor, size: int) -> Tensor:
    """What `compute` returns for all views (V, K), computed `size` at a time, on the CPU.

    A GPU is waited for once; where its memory runs out, half as many views are computed together.
    """
    while True:
        try:
            return torch.cat([compute(views) for views in slots.split(size)]).cpu()
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        size //= 2


def mean_over_views(predicted: list[tuple[Tensor, Tensor]], panels: int) -> Tensor:
    """Mean prediction of each panel over its views: (P, T)."""
    values = torch.cat([p for p, _ in predicted])
    owner = torch.cat([o for _, o in predicted])
    sums = values.new_zeros(panels, values.shape[1]).index_add_(0, owner, values)
    return sums / torch.bincount(owner, minlength=panels).clamp(min=1).unsqueeze(1)


def compute_features(network: Network, data: PanelDataset) -> Tensor:
    """(P, W) `float32`: the features of every panel, averaged over the images of a bag and over the views of a panel.

    They are computed in single precision on the network's device, about `BATCH` views at a time, and are on the CPU.
    """
    form, device = torch.channels_last, network.mean.device
    network.eval().to(memory_format=form)  # type: ignore[call-overload]
    slots, owner = data.views()
    most = BATCH if device.type == "cpu" else ON_GPU * BATCH

    def compute(views: Tensor) -> Tensor:
        if data.bags:
            return network.pooled(encode_bags(network.features, data, views, device, form))
        return network.pooled(network.features(data.plain_batch(views, device).contiguous(memory_format=form)))

    with torch.inference_mode():
        values = in_batches(compute, slots, max(1, min(most, int(most * (224 / (network.side or 224)) ** 2))))
    return mean_over_views([(values, owner)], len(data)).clone()


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
        shared: the first layers that the networks have in common; they are computed once, and panels are not bags then.
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
