"""Feature maps inside an encoder, selected by their stride.

Global average pooling removes where things are. The maps before the last stages keep it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from casewise.errors import StudyError

# The side of the panel on which the strides of an encoder are measured.
SIDE = 224
# A stride that no map has, for the coarsest one.
COARSEST = 2**20
# Smaller panels are enlarged to this side before an encoder of linear models reads them.
SMALLEST = 128


class _ReachedError(Exception):
    """Raised when the last needed module has run, so that the modules after it do not."""


@dataclass(frozen=True)
class FeatureMap:
    """A module of an encoder whose output is a map, with its stride (the nearest power of 2) and its channels."""

    module: str
    stride: int
    channels: int

    @classmethod
    def of(cls, module: str, side: int, maps: Tensor) -> FeatureMap:
        """The record of a module's maps (B, C, h, w) for panels of `side` pixels."""
        return cls(module, 2 ** round(math.log2(side / maps.shape[-1])), maps.shape[1])


def feature_maps(body: nn.Module, *, side: int = SIDE, channels: int = 3) -> list[FeatureMap]:
    """All maps of a network's body in the order in which they are computed, for panels of `side` pixels.

    The tokens of a transformer count as the map of their patches. Of a transformer only the blocks are maps, not the
    layers inside them, such as the hidden layer of a block.
    """
    outputs = _outputs(body, side, channels)
    maps = [(name, _as_map(output, body)) for name, output in outputs]
    feature_maps = [FeatureMap.of(name, side, values) for name, values in maps if values is not None]
    has_blocks = any(_is_tokens(output) for _, output in outputs)
    blocks = {str(info["module"]) for info in getattr(body, "feature_info", ())} if has_blocks else set()
    return [entry for entry in feature_maps if entry.module in blocks] or feature_maps


def has_tokens(body: nn.Module, *, side: int) -> bool:
    """Whether modules of a network give tokens (B, N, C), or maps with the channels last, as in transformers."""
    return any(_is_tokens(output) for _, output in _outputs(body, side, 3))


def spatial_maps(body: nn.Module, *, side: int, channels: int) -> list[str]:
    """The modules whose output has four dimensions and several columns, in the order in which they are computed."""
    return [name for name, output in _outputs(body, side, channels) if output.ndim == 4 and output.shape[-1] > 1]


def children_after(body: nn.Module, module: str, *, side: int, channels: int) -> list[str]:
    """The children of a body that compute nothing before the output of one of its modules."""
    names = [name for name, _ in _outputs(body, side, channels)]
    used = {name.partition(".")[0] for name in names[: names.index(module) + 1]}
    return [name for name, _ in body.named_children() if name not in used]


def _is_tokens(output: Tensor) -> bool:
    if output.ndim == 4:
        return output.shape[1] == output.shape[2] != output.shape[3]
    return output.ndim == 3 and output.shape[1] > 1 < output.shape[2]


def _outputs(body: nn.Module, side: int, channels: int) -> list[tuple[str, Tensor]]:
    """The names and the outputs, without values, of all modules as they are computed for one panel of `side` pixels."""
    outputs: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.append((name, output.to("meta")))

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in body.named_modules() if name]
    training = body.training
    try:
        body.eval()
        with torch.no_grad():
            device = next((parameter.device for parameter in body.parameters()), None)
            body(torch.zeros(1, channels, side, side, device=device))
    finally:
        body.train(training)
        for hook in hooks:
            hook.remove()
    return outputs


def _as_map(output: Tensor, body: Any, *, smallest: int = 2, square: bool = True) -> Tensor | None:
    """A module's output as a map (B, C, h, w) with `smallest` cells a side or more; None if it is not a map.

    Tokens (B, N, C) are arranged as their patches, without class and register tokens. For panels that are not `square`,
    a map with as many channels as rows does not count as a map with the channels last.
    """
    if output.ndim == 4:
        if square and output.shape[1] == output.shape[2] != output.shape[3]:
            output = output.permute(0, 3, 1, 2)  # some transformers have the channels last
        apart = hasattr(body, "patch_embed") and output.shape[2] != output.shape[3]
        return None if apart or min(output.shape[2:]) < smallest else output
    grid = getattr(getattr(body, "patch_embed", None), "grid_size", None)
    if output.ndim != 3 or grid is None:
        return None
    rows, columns = int(grid[0]), int(grid[1])
    if output.shape[1] not in (rows * columns, rows * columns + int(getattr(body, "num_prefix_tokens", 0))):
        return None
    return output[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


def widest(maps: Sequence[FeatureMap], stride: int) -> FeatureMap:
    """The last of the maps with most channels at a stride; of MobileNetV2 the expansion before the next reduction.

    An encoder without this stride is read at the nearest coarser one, else at its coarsest.
    """
    stride = _at_hand(maps, stride)
    at_stride = [entry for entry in maps if entry.stride == stride]
    most = max(entry.channels for entry in at_stride)
    return [entry for entry in at_stride if entry.channels == most][-1]


def last_map(body: nn.Module, maps: Sequence[FeatureMap]) -> FeatureMap:
    """The last map before the average over positions (`nn.AdaptiveAvgPool2d`) of a network."""
    unpooled = [entry for entry in maps if not isinstance(body.get_submodule(entry.module), nn.AdaptiveAvgPool2d)]
    chosen = last_block(unpooled, (), COARSEST)
    module = body.get_submodule(chosen.module)
    # its last layer has the same map, also where the layers before it are frozen and computed by themselves
    names = list(dict(module.named_children())) if type(module) is nn.Sequential else []
    return replace(chosen, module=f"{chosen.module}.{names[-1]}") if names else chosen


def last_block(maps: Sequence[FeatureMap], blocks: Container[str], stride: int) -> FeatureMap:
    """The output of the last of these blocks at a stride."""
    of_blocks = [entry for entry in maps if entry.module in blocks] or list(maps)
    stride = _at_hand(of_blocks, stride)
    return [entry for entry in of_blocks if entry.stride == stride][-1]


def _at_hand(maps: Sequence[FeatureMap], stride: int) -> int:
    strides = sorted({entry.stride for entry in maps})
    if not strides:
        raise StudyError(
            "This network has no feature maps, which `pool: map` and linear models on features need. Write `pool: "
            "average`, or `baselines: {off: the reason}`, or choose another network."
        )
    return next((present for present in strides if present >= stride), strides[-1])


def read_maps(
    body: nn.Module, modules: Sequence[str], inputs: Tensor, *, run: Callable[[Tensor], Any] | None = None
) -> dict[str, Tensor]:
    """The maps (B, C, h, w) of some modules of a body; what it computes after them is left out.

    Args:
        run: applied to the inputs; contains `body`; by default the body itself.
    """
    outputs: dict[str, Tensor] = {}
    square = inputs.shape[-1] == inputs.shape[-2]

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            maps = _as_map(output, body, smallest=1, square=square)
            if maps is None:
                raise ValueError(f"{name} has no map for panels of this size")
            # a recorded graph leaves out by itself what is not needed, and cannot be recorded across an exception; what
            # follows may then change the map in place
            outputs[name] = maps.clone() if torch.compiler.is_compiling() else maps
            if len(outputs) == len(modules) and not torch.compiler.is_compiling():
                raise _ReachedError

        return hook

    # registered last, so that the hooks of explanations run before them
    hooks = [body.get_submodule(name).register_forward_hook(keep(name)) for name in modules]
    try:
        with suppress(_ReachedError):  # what follows is not needed
            (run or body)(inputs)
    finally:
        for registered in hooks:
            registered.remove()
    return outputs


def gridded(maps: Tensor, cells: int) -> Tensor:
    """Means over a grid of cells×cells: (B, C, h, w) → (B, C·cells²)."""
    return functional.adaptive_avg_pool2d(maps, cells).flatten(1)


def extremes(maps: Tensor) -> Tensor:
    """The maximum and the mean of each channel: (B, C, h, w) → (B, 2·C), as fastai's `AdaptiveConcatPool2d`."""
    return torch.cat((maps.amax((2, 3)), maps.mean((2, 3))), dim=1)


def as_colours(panels: Tensor) -> Tensor:
    """Panels with three channels: three as they are, others as three times their mean."""
    if panels.shape[1] == 3:
        return panels
    return panels.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
