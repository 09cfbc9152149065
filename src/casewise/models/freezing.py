"""Freezing a network from its input to a stated point, and counting its frozen and trainable parameters.

The published counts of MobileNetV2 on skin biopsies (003_eab959a42de94a48.txt, sections III.A and III.B)
follow Keras, which counts the running means and variances of batch norms as non-trainable parameters.

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
weights are those of the first 4 (`4 layers`); ten layers in the sense of the text are `10 layers`:

    >>> freeze(network, "10 layers")
    'features.4.conv.0.1'
    >>> parameter_counts(network).frozen
    19536
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from casewise.errors import TrainingError, nearest
from casewise.models.backbones import Network
from casewise.study.recipe import FreezePoint, read_freeze_point

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
    running = [
        buffer.numel()
        for name, buffer in network.named_buffers()
        if name.rpartition(".")[2] in ("running_mean", "running_var")
    ]
    return Counts(weights[False], weights[True], sum(running))


def layers(network: Network) -> list[tuple[str, nn.Module]]:
    """Convolutions and linear layers of the body, from the input on: 52 in MobileNetV2, whose head is the 53rd."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return [(name, module) for name, module in network.bodies[0].named_modules() if isinstance(module, kinds)]


def freeze(network: Network, upto: FreezePoint | str | float) -> str:
    """Freeze the body from the input to a point, train the rest and the head; return the last frozen part.

    Frozen weights need no gradient. Frozen layers stay in eval mode also after `train()`, so that running statistics
    are used and kept, and dropout and stochastic depth are off: the output of a frozen part for a panel never changes.

    If each sequence has a separate body, the point applies to every body: `11 blocks` are 11 of each. The learned
    replacement of missing sequences is never frozen.

    Args:
        upto: as `read_freeze_point` reads it: `10 layers` (or 10), `11 blocks`, `features.6`, `30%` (or 0.3), `none`
            (or 0), `all`. A layer includes the norm that follows it.

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
    network.keep_in_eval(frozen_module_names(network, end))
    return last_frozen(network, end)


def frozen_end(network: Network, upto: FreezePoint | str | float) -> int:
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
    name = LAST_FROZEN[point.kind](network, point)
    names = [module_name for module_name, _ in modules]
    end = (
        max(
            position
            for position, module_name in enumerate(names)
            if module_name == name or module_name.startswith(f"{name}.")
        )
        + 1
    )
    if not any(True for _, module in modules[:end] for _ in module.parameters(recurse=False)):
        raise TrainingError(f"freeze: {network.name} has no weights up to {name}. Say none, or name a later part.")
    behind = any(True for _, module in modules[end:] for _ in module.parameters(recurse=False))
    return end if behind else len(modules)


def frozen_module_names(network: Network, end: int) -> list[str]:
    """The names of those of the body's first `end` modules that are frozen completely."""
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


def _with_norm(network: Network, name: str) -> str:
    """The norm that follows a layer within the same part, else the layer."""
    outer, _, child = name.rpartition(".")
    beside = list(network.bodies[0].get_submodule(outer).named_children())
    following = [key for key, _ in beside].index(child) + 1
    if following < len(beside) and isinstance(beside[following][1], NORMS):
        return f"{outer}.{beside[following][0]}".lstrip(".")
    return name


def _by_share(network: Network, point: FreezePoint) -> str:
    """The last layer up to which the body has at most this share of its weights."""
    share, modules = point.fraction, list(network.bodies[0].named_modules())
    names = [name for name, _ in modules]
    sums = [0]
    for _, module in modules:
        sums.append(sums[-1] + sum(p.numel() for p in module.parameters(recurse=False)))
    last, first = "", 0.0
    for name, _ in layers(network):
        end = _with_norm(network, name)
        frozen_share = sums[names.index(end) + 1] / sums[-1]
        first = first or frozen_share
        if frozen_share > share:
            break
        last = end
    if not last:
        raise TrainingError(
            f"freeze: the first layer of {network.name} alone holds {100 * first:.2g}% of the body's weights, more "
            f"than {100 * share:.10g}%. Say `none`, `1 layer` or a larger share."
        )
    return last


# The name of the last frozen module, by the kind of a freeze point.
LAST_FROZEN: dict[str, Callable[[Network, FreezePoint], str]] = {
    "name": _by_name,
    "layers": _by_count,
    "blocks": _by_count,
    "fraction": _by_share,
}
