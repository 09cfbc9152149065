"""Freezing a network from its input to a stated point, and counting its frozen and trainable parameters.

The published counts of MobileNetV2 on skin biopsies (Akay et al. 2021, sections III.A and III.B) follow
Keras, which counts the running means and variances of batch norms as non-trainable parameters.

    >>> from casewise.models.backbones import build_network
    >>> two = parameter_counts(build_network("mobilenet_v2", 1))
    >>> two.total, two.trainable, two.frozen + two.running_statistics, two.frozen
    (2259265, 2225153, 34112, 0)

So "34112 parameters of the first 10 layers" are the running statistics of the whole network, and the two-class study
froze no weight. The counts of the three-class study come from four outputs and 3,552 frozen weights:

    >>> network = build_network("mobilenet_v2", 4)
    >>> freeze(network, "features.2.conv.0")
    'features.2.conv.0'
    >>> three = parameter_counts(network)
    >>> three.total, three.trainable, three.frozen + three.running_statistics, three.frozen
    (2263108, 2225444, 37664, 3552)

Its ten layers are the first ten that Keras lists after the input: Conv1, bn_Conv1, Conv1_relu, the depthwise and the
projecting convolution of the first block with their batch norms and ReLU, the expanding convolution of the second and
its batch norm. No other point gives 3,552. The text counts 53 layers: 52 convolutions and a classifier. The 3,552
weights belong to the first 4 (`4 layers`); ten layers in the sense of the text are `10 layers`:

    >>> freeze(network, "10 layers")
    'features.4.conv.0.1'
    >>> parameter_counts(network).frozen
    19536

A network can be split at its freeze point into frozen layers, computed once for every panel, and the trained rest. Only
a chain can be split: a body whose modules run one after another, each on the output of the previous one. The forward
pass of a library's network is code, so the sources of backbones list the chains of architectures that they support.
Tests compare them with the networks, bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from torch import Tensor, nn

from casewise.errors import TrainingError, nearest
from casewise.modalities.panels import stacked
from casewise.models.backbones import Network
from casewise.models.layers import FoldingSequential
from casewise.study.recipe import FreezePoint, read_freeze_point
from casewise.study.sources import sources

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Counts:
    """The sizes of a network: frozen and trainable weights, and the running statistics of its norms.

    Running statistics are updated from the images, not by an optimiser; Keras counts them as non-trainable parameters.
    """

    frozen: int
    trainable: int
    running_statistics: int

    @property
    def weights(self) -> int:
        return self.frozen + self.trainable

    @property
    def total(self) -> int:
        return self.frozen + self.trainable + self.running_statistics


def parameter_counts(network: nn.Module) -> Counts:
    """Count frozen weights, trainable weights, and running means and variances (not the number of batches)."""
    weights = {True: 0, False: 0}
    for parameter in network.parameters():
        weights[parameter.requires_grad] += parameter.numel()
    running = [b.numel() for name, b in network.named_buffers() if name.endswith(("running_mean", "running_var"))]
    return Counts(weights[False], weights[True], sum(running))


def layers(network: Network) -> list[tuple[str, nn.Module]]:
    """Convolutions and linear layers of the body, from the input on: 52 in MobileNetV2, whose head is the 53rd."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return [(name, module) for name, module in network.bodies[0].named_modules() if isinstance(module, kinds)]


def freeze(network: Network, upto: FreezePoint | str | int) -> str:
    """Freeze the body from the input to a point, train the rest and the head; return the last frozen part.

    Frozen weights need no gradient. Frozen layers stay in eval mode also after `train()`, so that running statistics
    are used and kept, and dropout and stochastic depth are off: the output of a frozen part for a panel never changes.

    If each sequence has a separate body, the point applies to every body: `11 blocks` are 11 of each. The learned
    replacement of missing sequences is never frozen.

    Args:
        upto: as `read_freeze_point` reads it: `10 layers` (or 10), `11 blocks`, `features.6`, `30%`, `none` (or 0),
            `all`. A layer includes the norm that follows it.

    Returns:
        The name of the last frozen part, `body` if all of it is frozen, empty if nothing is.

    Raises:
        StudyError: `upto` cannot be read.
        TrainingError: the network has no such point; the message lists its points.
    """
    end = frozen_end(network, upto)
    for body in network.bodies:
        for position, module in enumerate(body.modules()):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(position >= end)
    if network.missing_token is not None:
        network.missing_token.requires_grad_(True)  # it has no pretrained values
    network.head.requires_grad_(True)
    network.keep_in_eval(_frozen_module_names(network, end))
    return last_frozen(network, end)


def frozen_end(network: Network, upto: FreezePoint | str | int) -> int:
    """The number of the body's modules, in the order of `named_modules`, up to and including a freeze point.

    Raises:
        StudyError: `upto` cannot be read.
        TrainingError: the network has no such point; the message lists its points.
    """
    point = read_freeze_point(upto)
    modules = list(network.bodies[0].named_modules())
    if point.kind == "none":
        return 0
    if point.kind == "all":
        return len(modules)
    by_kind = {"name": _by_name, "percent": _by_percent}
    name = by_kind.get(point.kind, _by_count)(network, point)
    names = [module_name for module_name, _ in modules]
    within = [number for number, candidate in enumerate(names) if candidate == name or candidate.startswith(f"{name}.")]
    end = 1 + max(within)
    if not any(True for _, module in modules[:end] for _ in module.parameters(recurse=False)):
        raise TrainingError(f"freeze: {network.name} has no weights up to {name}. Say none, or name a later part.")
    behind = any(True for _, module in modules[end:] for _ in module.parameters(recurse=False))
    return end if behind else len(modules)


def _frozen_module_names(network: Network, end: int) -> list[str]:
    """The names of the completely frozen modules among the body's first `end` modules."""
    names = [name for name, _ in network.bodies[0].named_modules()]
    outer = _around(names[end:])
    return [name for name in names[:end] if name not in outer]


def last_frozen(network: Network, end: int) -> str:
    """The largest part of the body that ends with its first `end` modules: `body`, or empty if `end` is 0.

    >>> from casewise.models.backbones import build_network
    >>> network = build_network("cnn", 1)
    >>> last_frozen(network, frozen_end(network, "2 layers")), last_frozen(network, frozen_end(network, "2 blocks"))
    ('features.1.0', 'features.1')
    """
    names = [name for name, _ in network.bodies[0].named_modules()]
    if end in (0, len(names)):
        return "body" if end else ""
    outer = _around(names[end:])
    last = names[end - 1]
    parts = last.split(".")
    wider = (".".join(parts[:length]) for length in range(1, len(parts)))
    return next((name for name in wider if name not in outer), last)


def _around(names: Iterable[str]) -> set[str]:
    """The modules that contain modules of these names, including the body itself."""
    points = set()
    for name in names:
        outer = name
        while outer:
            outer = outer.rpartition(".")[0]
            points.add(outer)
    return points


def _by_name(network: Network, point: FreezePoint) -> str:
    """The module of this name."""
    module_names = [name for name, _ in network.bodies[0].named_modules() if name]
    if point.name not in module_names:
        hint = nearest(point.name, module_names) or f" Its blocks are {', '.join(name for name, _ in network.blocks)}."
        raise TrainingError(f"freeze: {network.name} has no part {point.name!r}.{hint}")
    return point.name


def _by_count(network: Network, point: FreezePoint) -> str:
    """The last of the first layers, with its norm, or of the first blocks."""
    of_blocks = point.kind == "blocks"
    points = network.blocks if of_blocks else layers(network)
    if point.count > len(points):
        raise TrainingError(
            f"freeze: {network.name} has {len(layers(network))} layers and {len(network.blocks)} blocks before its "
            f"head, so {point} cannot be frozen. Say `all` to freeze everything but the head."
        )
    name = points[point.count - 1][0]
    return name if of_blocks else _with_norm(network, name)


def _by_percent(network: Network, point: FreezePoint) -> str:
    """The last layer up to which the body has at most this share of its weights."""
    modules = list(network.bodies[0].named_modules())
    weights = np.cumsum([sum(p.numel() for p in module.parameters(recurse=False)) for _, module in modules])
    percent = {name: 100 * total / weights[-1] for (name, _), total in zip(modules, weights, strict=True)}
    ends = [_with_norm(network, name) for name, _ in layers(network)]
    inside = list(itertools.takewhile(lambda name: percent[name] <= point.count, ends))
    if not inside:
        raise TrainingError(
            f"freeze: the first layer of {network.name} alone holds {percent[ends[0]]:.2g}% of the weights, more "
            f"than {point}. Say `none`, `1 layer` or a larger share."
        )
    return inside[-1]


def _with_norm(network: Network, name: str) -> str:
    """The norm that follows a layer within the same part, else the layer."""
    outer, _, child = name.rpartition(".")
    siblings = list(network.bodies[0].get_submodule(outer).named_children())
    following = [key for key, _ in siblings].index(child) + 1
    if following < len(siblings) and isinstance(siblings[following][1], NORMS):
        return f"{outer}.{siblings[following][0]}".lstrip(".")
    return name


class Segment(nn.Sequential):
    """One side of a split network. `at` names the last module of the body before the split.

    Frozen modules stay in eval mode also after `train()`, as in the network itself. `reader` computes features by the
    segment if the head receives an inner map.
    """

    at: str = ""
    reader: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor] | None = None

    def __init__(self, parts: Iterable[nn.Module], frozen_modules: Iterable[nn.Module]) -> None:
        super().__init__(*parts)
        module_ids = {id(module) for module in self.modules()}
        # in a tuple, so that they are not registered as submodules again
        self.frozen_eval = tuple(module for module in frozen_modules if id(module) in module_ids)

    def forward(self, values: Tensor) -> Tensor:
        return self.reader(values, super().forward) if self.reader else super().forward(values)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.frozen_eval:
            module.training = False
        return self


class _Scaled(nn.Module):
    """The input of the first layer, as `Network.scaled`."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.register_buffer("mean", network.mean, persistent=False)
        self.register_buffer("std", network.std, persistent=False)
        self.rows = network.rows

    def forward(self, panels: Tensor) -> Tensor:
        return stacked((panels - self.mean) / self.std, self.rows)


class _MeanOfMap(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean([2, 3])


# The operations between the children of a body, as chains of a source name them.
_OPERATIONS: dict[str, Callable[[], nn.Module]] = {
    "Flatten": nn.Flatten,
    "Mean": _MeanOfMap,
    "Pool": partial(nn.AdaptiveAvgPool2d, 1),
    "ReLU": nn.ReLU,
}
# Blocks that can be split if they have no residual connection: the attribute that says so, and the one with the layers.
_OPENED = (("use_res_connect", "conv"), ("use_res_connect", "block"), ("apply_residual", "layers"))
# Without weights and randomness: computed with the modules before them, because pooled maps need less space.
_STEADY = (
    *[nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d],
    *[nn.Flatten, nn.Identity, _MeanOfMap],
)


def split_at(network: Network, upto: FreezePoint | str | int) -> tuple[Segment, Segment]:
    """Split a network at a freeze point: `rest(frozen(panels))` is `network.features(panels)`, to the bit in eval mode.

    Both sides share the network's modules. A block with a residual connection or several paths cannot be split
    inside. The split is then before this block, its frozen layers are part of `rest`, and `frozen.at` states the
    position. Layers without weights that follow the point are part of the frozen side.

    Raises:
        StudyError: `upto` cannot be read.
        TrainingError: the network has no such point, is not a supported chain, no layer with weights precedes the
        cut, or the map that the head receives does.
    """
    return split_modules(network, frozen_end(network, upto))


def split_modules(network: Network, end: int) -> tuple[Segment, Segment]:
    """Split a network after its first `end` modules, in the order of the body's `modules()`; see `split_at`.

    Raises:
        TrainingError: the network is not a supported chain, no layer with weights precedes the cut, or the map that
        the head receives does.
    """
    frozen = {id(module) for module in list(network.bodies[0].modules())[:end]}
    chain = _chain(network)
    before, after = _split_chain(chain, frozen)
    if not any(True for element in before for _ in element.parameters()):
        raise TrainingError(
            f"freeze: {network.name} cannot be cut before its first layer, {layers(network)[0][0]}: nothing is frozen. "
            "Give a later freeze point."
        )
    frozen_modules = [network.bodies[0].get_submodule(name) for name in _frozen_module_names(network, end)]
    eval_modules = [module for element in before for module in element.modules()]
    first, rest = Segment([_Scaled(network), *before], [*frozen_modules, *eval_modules]), Segment(after, frozen_modules)
    first.at = rest.at = _name_of(network, before)
    if network.read_map:
        if network.bodies[0].get_submodule(network.read_map) not in set(rest.modules()):
            raise TrainingError(
                f"freeze: the head of {network.name} receives the map of {network.read_map}, which is frozen or split."
            )
        rest.reader = network.features_from
    return first, rest


def _chain(network: Network) -> list[nn.Module]:
    if network.fusion in ("late", "late-shared") or network.missing_token is not None:
        learns = network.missing_token is not None
        several = "learns what a missing one is" if learns else "looks at every sequence by itself"
        raise TrainingError(
            f"freeze: what {network.name} makes of a panel up to its freeze point cannot be kept: it is fused "
            f"({network.fusion}) and {several}. Its frozen part can only be computed at every step."
        )
    body: Any = network.bodies[0]
    kind = f"{type(body).__module__.partition('.')[0]}.{type(body).__name__}"
    chains = {of_body: order for source in sources() for of_body, order in source.chains.items()}
    if kind not in chains:
        architectures = sorted({name.partition(".")[2] for name in chains} - {"PlainNetwork"})
        raise TrainingError(
            f"freeze: activations of {network.name} at its freeze point cannot be cached: it is none of the chains of "
            f"layers that casewise knows (cnn, unet_encoder and the families {', '.join(architectures)}). Its frozen "
            "layers can only be computed at every step."
        )
    return [_OPERATIONS[name]() if name in _OPERATIONS else body.get_submodule(name) for name in chains[kind].split()]


def _split_chain(chain: list[nn.Module], frozen: set[int]) -> tuple[list[nn.Module], list[nn.Module]]:
    """Divide a chain at its first module that is not frozen; that module is divided too, if it is a chain itself."""
    for position, element in enumerate(chain):
        if all(id(module) in frozen for module in element.modules()) or _steady(element):
            continue
        before, after = _split_chain(_inside(element), frozen)
        return chain[:position] + before, (after if before else [element]) + chain[position + 1 :]
    return chain, []


def _inside(element: nn.Module) -> list[nn.Module]:
    """The modules of a chain; empty for a module that is not a chain."""
    forwards = (nn.Sequential.forward, FoldingSequential.forward)
    if isinstance(element, nn.Sequential) and type(element).forward in forwards:
        return list(element.children())
    for adds, inner in _OPENED:
        if getattr(element, adds, None) is False and isinstance(getattr(element, inner, None), nn.Sequential):
            return _inside(getattr(element, inner))
    return []


def _steady(element: nn.Module) -> bool:
    return all(isinstance(module, _STEADY) for module in element.modules() if not list(module.children()))


def _name_of(network: Network, before: list[nn.Module]) -> str:
    """The name in the body of the last module with weights before the split."""
    names = {id(module): name for name, module in network.bodies[0].named_modules()}
    weighted = [element for element in before if id(element) in names and any(True for _ in element.parameters())]
    return names[id(weighted[-1])]
