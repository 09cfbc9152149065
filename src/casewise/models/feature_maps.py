"""Feature maps inside an encoder, found by their stride, and their summaries as vectors.

Global average pooling removes where things are. The maps before the last stages keep it, and a small grid of means over
such a map is often the better input of a linear model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from casewise.errors import StudyError

if TYPE_CHECKING:
    from casewise.models.encoders import Encoder

Summary: TypeAlias = Literal["grid", "moments", "covariance"]
STRIDES = (4, 8, 16, 32)
# The side of the panel on which the strides of an encoder are measured.
SIDE = 224


# The side to which panels are reduced for statistics of intensities and texture.
STATISTICS_SIDE = 96
# Smaller panels are enlarged to this side before an encoder of a feature bank reads them.
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
    maps_by_run: list[FeatureMap] = []
    token_modules: set[str] = set()

    def note(name: str, output: Any) -> None:
        maps = as_map(output, body) if isinstance(output, Tensor) else None
        if maps is not None:
            maps_by_run.append(FeatureMap.of(name, side, maps))
        if _is_tokens(output):
            token_modules.add(name)

    _watch(body, note, side, channels)
    blocks = {str(info["module"]) for info in getattr(body, "feature_info", ())} if token_modules else set()
    return [entry for entry in maps_by_run if entry.module in blocks] or maps_by_run


def has_tokens(body: nn.Module, *, side: int) -> bool:
    """Whether modules of a network give tokens (B, N, C), or maps with the channels last, as in transformers."""
    outputs: list[bool] = []
    _watch(body, lambda name, output: outputs.append(_is_tokens(output)), side, 3)
    return any(outputs)


def _is_tokens(output: Any) -> bool:
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        return False
    if output.ndim == 4:
        return output.shape[1] == output.shape[2] != output.shape[3]
    return output.shape[1] > 1 < output.shape[2]


def _watch(body: nn.Module, note: Callable[[str, Any], None], side: int, channels: int) -> None:
    """Call `note` with the name and output of every module of a body, for one panel of `side` pixels."""
    names = {module: name for name, module in body.named_modules() if name}
    hooks = [module.register_forward_hook(lambda m, _, output: note(names[m], output)) for module in names]
    training = body.training
    try:
        body.eval()
        with torch.no_grad():
            body(torch.zeros(1, channels, side, side, device=next(body.parameters()).device))
    finally:
        body.train(training)
        for hook in hooks:
            hook.remove()


def as_map(output: Tensor, body: Any) -> Tensor | None:
    """A module's output as a map (B, C, h, w) with several cells; None if it is none.

    Tokens (B, N, C) are arranged as their patches, without class and register tokens.
    """
    if output.ndim == 4:
        if output.shape[1] == output.shape[2] != output.shape[3]:
            output = output.permute(0, 3, 1, 2)  # some transformers have the channels last
        return output if output.shape[2] == output.shape[3] > 1 else None
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
    body: nn.Module, modules: Sequence[str], inputs: Tensor, *, run: nn.Module | None = None
) -> dict[str, Tensor]:
    """The maps (B, C, h, w) of some modules of a body; what it computes after them is left out.

    Args:
        run: the module that is applied to the inputs and of which `body` is a part; by default the body itself.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            maps = as_map(output, body)
            if maps is None:
                raise ValueError(f"{name} has no map for panels of this size")
            outputs[name] = maps
            # a recorded graph leaves out by itself what is not needed, and cannot be recorded across an exception
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


def moments(maps: Tensor) -> Tensor:
    """Mean, standard deviation and maximum of every channel: (B, C, h, w) → (B, 3·C)."""
    return torch.cat([maps.mean((2, 3)), maps.std((2, 3), correction=0), maps.amax((2, 3))], dim=1)


def covariance(maps: Tensor) -> Tensor:
    """Means of the channels and their covariances over positions: (B, C, h, w) → (B, C + C·(C + 1)/2)."""
    values = maps.flatten(2)
    mean = values.mean(2)
    centred = values - mean.unsqueeze(2)
    products = centred @ centred.transpose(1, 2) / values.shape[2]
    row, column = torch.triu_indices(products.shape[1], products.shape[2], device=maps.device)
    return torch.cat([mean, products[:, row, column]], dim=1)


@dataclass(frozen=True)
class FeatureSpec:
    """One candidate of a linear model: what it reads of a panel.

    Attributes:
        source: `pixels`, `statistics` (of intensities and texture), or `features` of the encoder.
        channels: the numbers of the panel's channels; empty for all of them.
        modules: the encoder's modules whose maps are read; empty for pixels and statistics.
        summary, cells: how a map becomes a vector; `cells` is the side of the grid.
        encoder: the name of the encoder, if the linear model has several.
        side: the side to which panels are reduced before an encoder reads them; 0: they are read as they are.
    """

    source: Literal["pixels", "statistics", "features"]
    channels: tuple[int, ...] = ()
    modules: tuple[str, ...] = ()
    summary: Summary = "grid"
    cells: int = 1
    encoder: str = ""
    side: int = 0

    @property
    def name(self) -> str:
        """A short name for records.

        >>> FeatureSpec("features", (), ("features.13",), "grid", 4).name
        'features.13 in 4×4 cells'
        """
        how = {"grid": f"in {self.cells}×{self.cells} cells", "moments": "moments", "covariance": "covariances"}
        read = (f"{self.encoder}: " if self.encoder else "") + (", ".join(self.modules) or self.source)
        text = "statistics" if self.source == "statistics" else f"{read} {how[self.summary]}"
        text += f" at {self.side} px" if self.side else ""
        return text + (f" of channel {', '.join(str(number + 1) for number in self.channels)}" if self.channels else "")

    def as_json(self) -> dict[str, Any]:
        """The candidate as plain values."""
        values = {**asdict(self), "channels": list(self.channels), "modules": list(self.modules)}
        return {key: value for key, value in values.items() if key not in ("encoder", "side") or value}

    def width(self, channels: int) -> int:
        """The width of the vector of one map with so many channels.

        >>> FeatureSpec("features", summary="covariance").width(3)
        9
        """
        grid, pairs = channels * self.cells**2, channels * (channels + 1) // 2
        return {"grid": grid, "moments": 3 * channels, "covariance": channels + pairs}[self.summary]

    def vector(self, panels: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
        """The candidate's vector (B, W) of its panels and of the maps of its modules."""
        if self.source == "pixels":
            return gridded(panels, self.cells)
        if self.source == "statistics":
            return image_statistics(panels)
        summarised = {"grid": lambda m: gridded(m, self.cells), "moments": moments, "covariance": covariance}
        return torch.cat([summarised[self.summary](maps[name].float()) for name in self.modules], dim=1)

    @classmethod
    def of(cls, values: FeatureSpec | dict[str, Any]) -> FeatureSpec:
        """The candidate from its plain values."""
        if isinstance(values, FeatureSpec):
            return values
        return cls(**{**values, "channels": tuple(values["channels"]), "modules": tuple(values["modules"])})


def image_statistics(panels: Tensor) -> Tensor:
    """Intensities and texture of every channel: (B, C, H, W) → (B, 18·C).

    Mean, standard deviation, nine quantiles, and at three scales the mean and deviation of the gradient's magnitude;
    and the share of black.
    """
    panels = functional.adaptive_avg_pool2d(panels, STATISTICS_SIDE) if panels.shape[-1] > STATISTICS_SIDE else panels
    flat = panels.flatten(2)
    levels = torch.linspace(0.01, 0.99, 9, device=panels.device)
    quantiles = torch.quantile(flat, levels, dim=2).permute(1, 2, 0).flatten(1)
    parts = [flat.mean(2), flat.std(2, correction=0), quantiles, (flat <= 0).float().mean(2)]
    for scale in (1, 2, 4):
        reduced = functional.avg_pool2d(panels, scale) if scale > 1 else panels
        across = reduced[..., 1:, 1:] - reduced[..., 1:, :-1]
        down = reduced[..., 1:, 1:] - reduced[..., :-1, 1:]
        gradient = (across.square() + down.square()).sqrt().flatten(2)
        parts += [gradient.mean(2), gradient.std(2, correction=0)]
    return torch.cat(parts, dim=1)


class FeatureBank(nn.Module):
    """The vectors of several candidates side by side: panels (B, C, H, W) in 0–1 → (B, width).

    A missing sequence (NaN) counts as black.

    Attributes:
        encoders: the networks whose maps are read; empty if only pixels are.
        specs: the candidates, in the order of their vectors.
        widths: the width of each vector; known after the first panels.
    """

    def __init__(self, encoders: Sequence[Encoder], specs: Sequence[FeatureSpec], channels: int, side: int) -> None:
        super().__init__()
        self.specs, self.channels = tuple(specs), channels
        self.encoders: tuple[Encoder, ...] = ()
        self.keep_encoders(encoders)
        with torch.no_grad():
            parts = self.parts(torch.zeros(1, channels, side, side))
        self.widths = tuple(vector.shape[1] for vector in parts)

    def keep_encoders(self, encoders: Sequence[Encoder]) -> None:
        """Replace the encoders. Their weights are named `encoder`, `encoder2`, and so on."""
        names = ["encoder" if number == 0 else f"encoder{number + 1}" for number in range(len(self.encoders))]
        for name in names:
            delattr(self, name)
        self.encoders = tuple(encoders)
        for number, encoder in enumerate(self.encoders):
            self.add_module("encoder" if number == 0 else f"encoder{number + 1}", encoder.network)

    @property
    def width(self) -> int:
        """The width of all vectors together."""
        return sum(self.widths)

    def forward(self, panels: Tensor) -> Tensor:
        return torch.cat(self.parts(panels), dim=1)

    def parts(self, panels: Tensor) -> list[Tensor]:
        """The vector of each candidate."""
        parts = {spec: spec.vector(chosen, maps) for spec, chosen, maps in self.read(panels)}
        return [parts[spec] for spec in self.specs]

    def read(self, panels: Tensor) -> Iterator[tuple[FeatureSpec, Tensor, dict[str, Tensor]]]:
        """Each candidate with the channels of the panels that it reads, and the encoder's maps of them."""
        panels = panels.nan_to_num(0.0)
        for channels in dict.fromkeys(spec.channels for spec in self.specs):
            chosen = panels[:, list(channels)] if channels else panels
            specs = [spec for spec in self.specs if spec.channels == channels]
            for name, side in dict.fromkeys((spec.encoder, spec.side) for spec in specs):
                of_encoder = [spec for spec in specs if (spec.encoder, spec.side) == (name, side)]
                modules = list(dict.fromkeys(module for spec in of_encoder for module in spec.modules))
                maps = self._encoder(name).maps(modules, reduced(chosen, side)) if modules else {}
                yield from ((spec, chosen, maps) for spec in of_encoder)

    def _encoder(self, name: str) -> Encoder:
        """The encoder of this name; the only one if candidates name none."""
        return next(encoder for encoder in self.encoders if name in ("", encoder.name))


def reduced(panels: Tensor, side: int) -> Tensor:
    """Panels (B, C, H, W) with a smaller side; as they are if `side` is 0 or not smaller."""
    if not 0 < side < panels.shape[-1]:
        return panels
    return functional.interpolate(panels, size=(side, side), mode="bilinear", antialias=True)


def as_colours(panels: Tensor) -> Tensor:
    """Panels with three channels: three as they are, others as three times their mean."""
    if panels.shape[1] == 3:
        return panels
    return panels.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
