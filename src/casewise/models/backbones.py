"""Backbones with one interface: body, features, head and freeze points."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self, TypeAlias, cast

import torch
from torch import Tensor, nn

from casewise.errors import StudyError, cut, nearest
from casewise.modalities.dataset import occupied_slots
from casewise.modalities.device import to_device
from casewise.modalities.panels import stacked
from casewise.models.feature_maps import children_after, extremes, feature_maps, gridded, last_map, read_maps, widest
from casewise.models.layers import BagPooling, replace_layers
from casewise.plugin import implementing
from casewise.study.images import BAGS
from casewise.study.sources import SYMMETRIC, Body, source_of

Scaling: TypeAlias = Literal["library", "symmetric"]
TILES_AT_ONCE = 64
# The stride of the map that a head with `map_cells` receives, and the cells of the map of `pool: map`.
MAP_STRIDE, MAP_CELLS = 16, 3
# The width of the hidden layer of fastai's head.
FASTAI_UNITS = 512
# On a GPU: convolutions give the same bits every time, and single precision is not rounded to TF32, which moves raw
# outputs by up to 2 % of their spread.
torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False


@dataclass(frozen=True)
class NetworkOptions:
    """The options of a network besides its backbone and its number of outputs.

    Attributes:
        dropout: before the head, and of the library's own dropout layers; None leaves these as they are.
        scaling: the scaling of panels from 0–1 before the first layer. `library`: as the network's published weights
            expect (torchvision's: minus the mean of ImageNet, divided by its standard deviation); networks without
            published weights use `symmetric`. `symmetric`: [−1, 1], as in Akay et al. 2021, "Preprocessing Skin
            Images".
        pooling: how the features of a bag become one vector (`casewise.study.images`); empty if panels are not bags.
        fusion: how the sequences of a panel are combined, by a plugin (`SequencesPlugin`); None for pictures. A single
            sequence is `early` with `sequences=1`. A sequence is not a colour: all of them are scaled by one number,
            the mean over red, green and blue of the library's mean, and of its standard deviation.
        missing: what a missing sequence is: an error (`require`, and `drop`, where such cases were left out before), or
            replaced by a learned value (`mask`).
        side: height and width of the panels in pixels, for which transformers are built.
        head: `linear`, or `fastai`: fastai's layers (`_fastai_head`) on the maximum and the mean over the last map.
        map_cells: the side of the grid of means over the widest map at `MAP_STRIDE` that the head receives, so that it
            knows where things are; 0 for the average over the last map. Layers after that map are not used.
        architecture, arguments: as the config.json of a network states them; by default from the name.
        rows: rows and columns of slices on a panel, for networks that read them as a volume; 1 for all others.
        mean, std: the input's mean and standard deviation, one number a channel, as a trained network recorded them; by
            default from `scaling`.
    """

    dropout: float | None = None
    scaling: Scaling = "library"
    pooling: str = ""
    fusion: str | None = None
    sequences: int = 3
    missing: str = "require"
    side: int | None = None
    head: str = "linear"
    map_cells: int = 0
    architecture: str = ""
    arguments: Mapping[str, Any] | None = None
    rows: int = 1
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


class SequencesPlugin(Protocol):
    """A plugin that combines several sequences of a case in one network."""

    def fused_body(self, name: str, options: NetworkOptions) -> Body:
        """The body of a network whose options have a `fusion`.

        Its module has the library's networks as `bodies`, the learned replacement of missing sequences as
        `missing_token`, and `fitted`, as `BackboneSource.fitted` of a network by name.
        """
        raise NotImplementedError


class Network(nn.Module):
    """A backbone with a linear head.

    Input: panels (B, C, H, W) in 0–1 (one or three channels); or bags of tiles (B, K, C, H, W); with a
    fused body, panels (B, S, H, W) of S sequences, NaN where one is missing. Output: (B, outputs) in the units of the
    targets. The head predicts standardised targets; their mean and standard deviation in the training folds are
    buffers of the network.
    """

    mean: Tensor
    std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, name: str, body: Body, outputs: int, options: NetworkOptions) -> None:
        super().__init__()
        self.name, self.width, self.side, self.scaling = name, body.width, options.side, options.scaling
        self.frozen_eval: frozenset[str] = frozenset()
        self.body, self.library_head = body.module, body.head
        self.fusion, self.channels = options.fusion, options.sequences if options.fusion else 3
        self.map_cells, self.read_map, self.bags = options.map_cells, body.read_map, bool(options.pooling)
        self.rows = options.rows
        pooling = [BagPooling(options.pooling, body.width)] if options.pooling else []
        if options.head == "fastai":
            layers = _fastai_head(body.width, outputs, 0.5 if options.dropout is None else options.dropout)
        else:
            layers = [nn.Dropout(options.dropout or 0.0), nn.Linear(body.width, outputs)]
        self.head = nn.Sequential(*pooling, *layers)
        mean, std = body.normal
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("target_mean", torch.zeros(outputs))
        self.register_buffer("target_std", torch.ones(outputs))

    def features(self, panels: Tensor, occupied: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in 0–1 → (B, width); bags (B, K, C, H, W), NaN in empty slots, → (B, K, width).

        `occupied` as in `of_tiles`.
        """
        if panels.ndim == 4:
            return self.features_from(self.scaled(panels), self.body)
        return of_tiles(self.features, panels, form_of(self.body), occupied, at_once=self.training)

    def scaled(self, panels: Tensor) -> Tensor:
        """The input of the body for panels in 0–1; the slices of a volume are one below another."""
        return stacked((panels - self.mean) / self.std, self.rows)

    def features_from(self, values: Tensor, layers: Callable[[Tensor], Tensor]) -> Tensor:
        """The features (B, width) that the body, or its last `layers`, compute from their input."""
        if not self.read_map:
            return layers(values)
        maps = read_maps(self.bodies[0], [self.read_map], values, run=layers)[self.read_map]
        return gridded(maps, self.map_cells) if self.map_cells else extremes(maps)

    def forward(self, panels: Tensor, occupied: Tensor | None = None) -> Tensor:
        return self.predict_head(self.features(panels, occupied))

    def outputs_and_map(self, panels: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs, and the network's own map (B, 1, h, w) before its logistic function."""
        features, logits = cast(Any, self.body).features_and_map(self.scaled(panels))
        return self.predict_head(features), logits

    def predict_head(self, features: Tensor) -> Tensor:
        """The head's outputs for these features, in the units of the targets: (B, outputs) `float32`.

        They are computed in the precision of the head: single, and double in models on fixed features.
        """
        precision = next(self.head.parameters()).dtype
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.to(precision)).float() * self.target_std + self.target_mean

    def pooled(self, features: Tensor) -> Tensor:
        """The input of the head for these features, (B, width); a bag's features are pooled."""
        with torch.autocast(features.device.type, enabled=False):
            return self.pooling(features.float()) if self.pooling else features.float()

    @property
    def pooling(self) -> BagPooling | None:
        """How the features of a bag become one vector; None if panels are not bags."""
        pooling: Any = self.head[0] if self.bags else None
        return pooling  # type: ignore[no-any-return]

    @property
    def pooling_name(self) -> str:
        """The name of `pooling`; empty if panels are not bags."""
        return self.pooling.name if self.pooling else ""

    def keep_in_eval(self, names: Iterable[str]) -> None:
        """Keep these modules of the body in eval mode also after `train()` (see `casewise.models.freezing.freeze`)."""
        self.frozen_eval = frozenset(names)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.frozen_eval:
            for body in self.bodies:
                body.get_submodule(name).training = False
        return self

    @property
    def bodies(self) -> list[nn.Module]:
        """The library's networks: one, or one for each sequence in late fusion. The first names the layers."""
        return list(cast(Any, self.body).bodies) if self.fusion else [self.body]

    @property
    def missing_token(self) -> nn.Parameter | None:
        """The learned replacement of missing sequences, if there is one."""
        return cast(Any, self.body).missing_token if self.fusion else None

    @property
    def blocks(self) -> list[tuple[str, nn.Module]]:
        """Freeze points from the input on: the body's children with parameters; `nn.Sequential` children one by one.

        With late fusion a block is the list of that block of every body.
        """
        blocks: list[tuple[str, nn.Module]] = []
        first, *others = self.bodies
        for name, child in first.named_children():
            inner = list(child.named_children()) if isinstance(child, nn.Sequential) and len(child) > 1 else []
            opened = [(f"{name}.{key}", module) for key, module in inner] or [(name, child)]
            blocks += [(key, module) for key, module in opened if any(True for _ in module.parameters())]
        if not others:
            return blocks
        return [(key, nn.ModuleList([m, *[body.get_submodule(key) for body in others]])) for key, m in blocks]


def _fastai_head(width: int, outputs: int, dropout: float) -> list[nn.Module]:
    """The layers of fastai's `create_head` after its pooling, with its first weights.

    >>> [type(layer).__name__ for layer in _fastai_head(8, 3, 0.5)]
    ['BatchNorm1d', 'Dropout', 'Linear', 'ReLU', 'BatchNorm1d', 'Dropout', 'Linear']
    """
    first, last = nn.Linear(width, FASTAI_UNITS, bias=False), nn.Linear(FASTAI_UNITS, outputs, bias=False)
    norms = nn.BatchNorm1d(width), nn.BatchNorm1d(FASTAI_UNITS)
    for linear, norm in zip((first, last), norms, strict=True):
        nn.init.kaiming_normal_(linear.weight)
        nn.init.constant_(norm.bias, 1e-3)
    return [norms[0], nn.Dropout(dropout / 2), first, nn.ReLU(inplace=True), norms[1], nn.Dropout(dropout), last]


def of_tiles(
    layers: Callable[[Tensor], Tensor],
    bags: Tensor,
    form: torch.memory_format,
    occupied: Tensor | None = None,
    *,
    at_once: bool,
) -> Tensor:
    """The outputs of layers for every tile of bags (B, K, ...): (B, K, ...), NaN in empty slots.

    Args:
        occupied: (B, K) on the CPU, the slots that hold a tile; without it the host waits for the bags to know them.
        at_once: whether all tiles are in memory together, as a backward pass needs it.
    """
    occupied = occupied_slots(bags) if occupied is None else occupied
    numbers = to_device(occupied.flatten().nonzero()[:, 0], bags.device)
    tiles = bags.flatten(0, 1)[numbers]
    chunks = [tiles] if at_once else tiles.split(TILES_AT_ONCE)
    laid_out = (chunk.contiguous(memory_format=form) if chunk.ndim == 4 else chunk for chunk in chunks)
    by_tile = torch.cat([layers(chunk) for chunk in laid_out])
    result = by_tile.new_full((occupied.numel(), *by_tile.shape[1:]), torch.nan)
    result[numbers] = by_tile
    return result.unflatten(0, occupied.shape)


def form_of(module: nn.Module) -> torch.memory_format:
    """The memory format of a module, by the first kernel whose strides show one.

    >>> form_of(nn.Conv2d(3, 2, 3).to(memory_format=torch.channels_last))
    torch.channels_last
    """
    for kernel in module.parameters():
        channels_last = kernel.ndim == 4 and kernel.is_contiguous(memory_format=torch.channels_last)
        if kernel.ndim == 4 and channels_last != kernel.is_contiguous():
            return torch.channels_last if channels_last else torch.contiguous_format
    return torch.contiguous_format


# The values that options of networks may have.
ALLOWED: dict[str, Collection[str]] = {
    "scaling": ("library", "symmetric"),
    "pooling": ("", *BAGS),
    "head": ("linear", "fastai"),
}


def build_network(name: str, outputs: int, **options: Any) -> Network:
    """Build a network with random weights and a new head. The library's last layer is removed.

    Args:
        name: a network of a source (`casewise.study.sources`); of a hub repository the architecture is in `options`.
        options: see `NetworkOptions`.

    Raises:
        StudyError: there is no such scaling or pooling, or the network cannot be built for this fusion or size.
    """
    network_options = NetworkOptions(**options)
    for option, allowed in ALLOWED.items():
        if (value := getattr(network_options, option)) not in allowed:
            choices = [choice for choice in allowed if choice]
            hint = nearest(str(value), choices)
            raise StudyError(f"{option}: must be one of {', '.join(choices)}, got {cut(value)}.{hint}")
    if network_options.fusion:
        if not (combining := implementing(SequencesPlugin)):
            raise StudyError(f"{name}: several sequences in one network need the plugin 'volumes' of casewise.")
        body = combining[0].fused_body(name, network_options)
    else:
        body = library_body(name, network_options)
    libraries = list(cast(Any, body.module).bodies) if network_options.fusion else [body.module]
    if network_options.map_cells or network_options.head == "fastai":
        body = _with_map(body, libraries[0], network_options)
    if network_options.mean is not None and network_options.std is not None:
        normal = (tuple(network_options.mean), tuple(network_options.std))
        if [len(numbers) for numbers in normal] != [len(numbers) for numbers in body.normal]:
            raise StudyError(f"mean and std: {cut(normal)} are not {len(body.normal[0])} numbers each.")
        body = replace(body, normal=normal)
    for library in libraries:
        replace_layers(library, read_map=body.read_map)
        if network_options.dropout is not None:
            _set_dropout(library, network_options.dropout)
    return Network(name, body, outputs, network_options)


def _set_dropout(library: nn.Module, dropout: float) -> None:
    """Set the dropout of the library's own layers; the last one belongs to the head if nothing follows it.

    A layer with a probability of 0 is not in use. The head's is also active while the library's network is frozen.
    """
    layers = [m for m in library.modules() if not isinstance(m, nn.Identity) and not any(True for _ in m.children())]
    for layer in layers:
        if isinstance(layer, nn.Dropout) and layer.p:
            layer.p = 0.0 if layer is layers[-1] else dropout


def _with_map(body: Body, library: nn.Module, options: NetworkOptions) -> Body:
    """A body whose head receives a grid over an inner map, or the maximum and the mean over its last map.

    Raises:
        StudyError: every sequence has a body of its own, or there is no map.
    """
    if options.fusion in ("late", "late-shared"):
        key = "pool: map" if options.map_cells else "head: fastai"
        raise StudyError(f"recipe.{key} needs one body for all sequences, and the fusion is {options.fusion}.")
    channels = options.sequences if options.fusion == "early" else 3
    side = options.side or 224
    if not options.map_cells:
        if not hasattr(library, "patch_embed"):
            side = max(side, 128)  # of small panels the last map has a single cell, as averages have
        chosen = last_map(library, feature_maps(library, side=side, channels=channels))
        unused = children_after(library, chosen.module, side=side, channels=channels)
        for name in unused:
            setattr(library, name, nn.Identity())
        head = (*body.head, *(f"{name}." for name in unused))
        return replace(body, width=2 * chosen.channels, read_map=chosen.module, head=head)
    chosen = widest(feature_maps(library, side=side, channels=channels), MAP_STRIDE)
    return replace(body, width=chosen.channels * options.map_cells**2, read_map=chosen.module)


def library_body(name: str, options: NetworkOptions, channels: int = 3) -> Body:
    """The network of a source without its last layer, for panels of this number of channels, with random weights."""
    body = source_of(name).build(
        name,
        side=options.side,
        channels=channels,
        scaling=options.scaling,
        is_fused=bool(options.fusion),
        config={"architecture": options.architecture, "arguments": options.arguments},
    )
    return replace(body, normal=SYMMETRIC) if options.scaling == "symmetric" else body


def set_momentum(network: nn.Module, momentum: float) -> None:
    """Set the momentum of batch norms: in MNASNet and MobileNetV3 they adapt over thousands of steps."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum


def keep_statistics(network: nn.Module, *, only_frozen: bool = False) -> None:
    """Put batch norms in eval mode, so that running statistics are used and kept; optionally only in frozen layers."""
    for module in network.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        trainable = [parameter.requires_grad for parameter in module.parameters()]
        if not only_frozen or (trainable and not any(trainable)):
            module.eval()
