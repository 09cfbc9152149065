"""What linear models read of panels: pixels, statistics of intensities, and summaries of an encoder's maps as vectors.

Global average pooling removes where things are; a small grid of means over a map keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from casewise.models.feature_maps import gridded

if TYPE_CHECKING:
    from casewise.models.backbones import Network
    from casewise.models.encoders import Encoder

Summary: TypeAlias = Literal["grid", "asymmetry", "moments", "covariance"]
# The side to which panels are reduced for statistics of intensities and texture.
STATISTICS_SIDE = 96


def asymmetry(maps: Tensor, cells: int) -> Tensor:
    """Differences between the cells of a grid and their mirror images: (B, C, h, w) → (B, C·cells·⌊cells/2⌋).

    >>> asymmetry(torch.tensor([[[[5.0, 1.0, 2.0], [4.0, 0.0, 4.0]]]]), 2).shape
    torch.Size([1, 2])
    >>> asymmetry(torch.tensor([[[[5.0, 1.0], [4.0, 3.0]]]]), 2).tolist()
    [[4.0, 1.0]]
    """
    means = functional.adaptive_avg_pool2d(maps, cells)
    return (means - means.flip(3))[..., : cells // 2].flatten(1)


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
        summary, cells: how a map or the pixels become a vector; `cells` is the side of the grid. `asymmetry` has the
            differences between cells and their mirror images.
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
        cells = f"in {self.cells}×{self.cells} cells"
        how = {"grid": cells, "asymmetry": f"mirror differences {cells}", "moments": "moments"}
        how["covariance"] = "covariances"
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
        pairs = channels * (channels + 1) // 2
        widths = {"grid": channels * self.cells**2, "asymmetry": channels * self.cells * (self.cells // 2)}
        return (widths | {"moments": 3 * channels, "covariance": channels + pairs})[self.summary]

    def vector(self, panels: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
        """The candidate's vector (B, W) of its panels and of the maps of its modules."""
        if self.source == "statistics":
            return image_statistics(panels)
        if self.source == "pixels":
            # in double precision, so that a panel has the same vector in every batch
            return self._summarised(panels.double()).float()
        return torch.cat([self._summarised(maps[name].float()) for name in self.modules], dim=1)

    def _summarised(self, values: Tensor) -> Tensor:
        if self.summary in ("moments", "covariance"):
            return (moments if self.summary == "moments" else covariance)(values)
        return (gridded if self.summary == "grid" else asymmetry)(values, self.cells)

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
        widths: the width of each vector; measured on an empty panel if they are not stated.
    """

    def __init__(
        self,
        encoders: Sequence[Encoder],
        specs: Sequence[FeatureSpec],
        channels: int,
        side: int,
        *,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.specs, self.channels = tuple(specs), channels
        self.encoders: tuple[Encoder, ...] = ()
        self.keep_encoders(encoders)
        if widths is None:
            with torch.no_grad():
                parts = self.parts(torch.zeros(1, channels, side, side))
            widths = [vector.shape[1] for vector in parts]
        self.widths = tuple(widths)

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


def bank_of(network: Network) -> FeatureBank:
    """The bank of a model on fixed features."""
    bank: Any = network.body
    return bank


def reduced(panels: Tensor, side: int) -> Tensor:
    """Panels (B, C, H, W) with a smaller side; as they are if `side` is 0 or not smaller."""
    if not 0 < side < panels.shape[-1]:
        return panels
    return functional.interpolate(panels, size=(side, side), mode="bilinear", antialias=True)
