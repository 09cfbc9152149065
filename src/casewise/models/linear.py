"""Linear models as networks: a bank of fixed features and a head that is fitted without gradient steps.

The bank reads pixels, statistics of intensities, and summaries of an encoder's maps as vectors. Global average pooling
removes where things are; a small grid of means over a map keeps it.

A radial head is linear in random Fourier features of its input, which stand for a radial kernel: their inner products
approximate exp(−γ·d²) of the distance d of two inputs (Rahimi and Recht, "Random features for large-scale kernel
machines", NeurIPS 2007; orthogonal frequencies: Yu et al., "Orthogonal random features", NeurIPS 2016). A kernel
machine keeps its training rows; this head keeps none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from casewise.modalities.base import Facts
from casewise.modalities.registry import modality_of
from casewise.models.backbones import Body, Network, NetworkOptions
from casewise.models.encoders import Encoder, build_encoder, encoder_facts, load_encoders
from casewise.models.feature_maps import SMALLEST, feature_maps, gridded, last_block, widest
from casewise.models.outputs import outputs_of, width_of
from casewise.study.learners import learner_named
from casewise.study.schema import Study

Summary: TypeAlias = Literal["grid", "asymmetry", "moments", "covariance"]
Flips: TypeAlias = Literal["none", "horizontal", "both"]
# The axes along which panels are flipped, for each of the views that are averaged.
FLIPPED: Mapping[Flips, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "horizontal": ((), (3,)),
    "both": ((), (3,), (2,), (2, 3)),
}
# The sides of grids of pixel means, and the most channels whose covariances are a candidate.
PIXEL_CELLS = (8, 16, 32)
MOST_TEXTURE_CHANNELS = 100
# The sides of grids over the tokens of transformers.
TOKEN_CELLS = (1, 3, 4)
# Panels whose side is larger by half are also read at this one, at which an encoder sees more of a panel at once.
REDUCED_SIDE = 128
UNSCALED = ((0.0,), (1.0,))
# The side to which panels are reduced for statistics of intensities and texture.
STATISTICS_SIDE = 96
# γ for inputs whose mean squared distance from their centre is 1.
GAMMA = 0.5
# Frequencies of each block; each gives a cosine and a sine.
FREQUENCIES = 1000


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
        side: the side to which panels are reduced before an encoder reads them; 0: no reduction.
        flips: an encoder's maps are averaged with the maps of flipped panels, flipped back: left and right, or in
            `both` directions.
    """

    source: Literal["pixels", "statistics", "features"]
    channels: tuple[int, ...] = ()
    modules: tuple[str, ...] = ()
    summary: Summary = "grid"
    cells: int = 1
    encoder: str = ""
    side: int = 0
    flips: Flips = "none"

    @property
    def name(self) -> str:
        """A short name for records.

        >>> FeatureSpec("features", (), ("features.13",), "grid", 4).name
        'features.13 in 4×4 cells'
        """
        cells = f"in {self.cells}×{self.cells} cells"
        summaries = {"grid": cells, "asymmetry": f"mirror differences {cells}", "covariance": "covariances"}
        read = (f"{self.encoder}: " if self.encoder else "") + (", ".join(self.modules) or self.source)
        text = "statistics" if self.source == "statistics" else f"{read} {summaries.get(self.summary, self.summary)}"
        text += f" at {self.side} px" if self.side else ""
        return text + (f" of channel {', '.join(str(number + 1) for number in self.channels)}" if self.channels else "")

    def as_json(self) -> Facts:
        """The candidate as plain values."""
        values = {**asdict(self), "channels": list(self.channels), "modules": list(self.modules)}
        without = {"encoder": "", "side": 0, "flips": "none"}
        return {key: value for key, value in values.items() if key not in without or value != without[key]}

    def width(self, channels: int) -> int:
        """The width of the vector of one map with this many channels.

        >>> FeatureSpec("features", summary="covariance").width(3)
        9
        """
        return self._summarised(torch.zeros(1, channels, self.cells, self.cells)).shape[1]

    def vector(self, panels: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
        """The candidate's vector (B, W) of its panels and of the maps of its modules."""
        if self.source == "statistics":
            return _image_statistics(panels)
        if self.source == "pixels":
            # in double precision, so that a panel has the same vector in every batch
            return self._summarised(panels.double()).float()
        return torch.cat([self._summarised(maps[name].float()) for name in self.modules], dim=1)

    def _summarised(self, values: Tensor) -> Tensor:
        if self.summary in ("moments", "covariance"):
            return (moments if self.summary == "moments" else covariance)(values)
        return (gridded if self.summary == "grid" else asymmetry)(values, self.cells)

    @classmethod
    def of(cls, values: Facts) -> FeatureSpec:
        """The candidate from its plain values."""
        return cls(**{**values, "channels": tuple(values["channels"]), "modules": tuple(values["modules"])})


def _image_statistics(panels: Tensor) -> Tensor:
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
        for number in range(len(self.encoders)):
            delattr(self, f"encoder{number + 1 if number else ''}")
        self.encoders = tuple(encoders)
        for number, encoder in enumerate(self.encoders):
            self.add_module(f"encoder{number + 1 if number else ''}", encoder.network)

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
            for read in dict.fromkeys((spec.encoder, spec.side, spec.flips) for spec in specs):
                of_encoder = [spec for spec in specs if (spec.encoder, spec.side, spec.flips) == read]
                modules = list(dict.fromkeys(module for spec in of_encoder for module in spec.modules))
                maps = self._maps(modules, chosen, *read) if modules else {}
                yield from ((spec, chosen, maps) for spec in of_encoder)

    def _maps(self, modules: list[str], panels: Tensor, name: str, side: int, flips: Flips) -> dict[str, Tensor]:
        encoder, panels = self._encoder(name), reduced(panels, side)
        views = [(axes, encoder.maps(modules, panels.flip(axes))) for axes in FLIPPED[flips]]
        return {module: torch.stack([maps[module].flip(axes) for axes, maps in views]).mean(0) for module in modules}

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


def candidates(encoders: Sequence[Encoder], sequences: int, side: int, flips: Flips = "none") -> list[FeatureSpec]:
    """The inputs among which a linear model chooses: from pixels and from the maps of every encoder.

    Sequences are candidates one by one and, if there are three of them or for pixels, together. In volumes, whose
    axial and coronal planes are nearly symmetric, the differences between mirrored cells are candidates too.
    """
    single: list[tuple[int, ...]] = [(number,) for number in range(sequences)] if sequences > 1 else []
    specs: list[FeatureSpec] = []
    of_maps = [
        replace(spec, encoder=encoder.name if len(encoders) > 1 else "", flips=flips)
        for encoder in encoders
        for spec in (_token_specs(encoder) if encoder.blocks else _feature_specs(encoder, side))
    ]
    every = [*_pixel_specs(side), *of_maps]
    if sequences:
        grids = [spec for spec in every if spec.summary == "grid" and spec.cells > 1 and spec.source != "statistics"]
        every += [replace(spec, summary="asymmetry") for spec in grids]
    for spec in every:
        together = spec.source != "features" or sequences in (0, 1, 3)
        specs += [replace(spec, channels=channels) for channels in [*([()] if together else []), *single]]
    return specs


def _pixel_specs(side: int) -> list[FeatureSpec]:
    cells = [count for count in PIXEL_CELLS if count <= side] or [side]
    return [*[FeatureSpec("pixels", cells=count) for count in cells], FeatureSpec("statistics")]


def _token_specs(encoder: Encoder) -> list[FeatureSpec]:
    """The tokens of a transformer's last block and of one before it, and the moments of both.

    If all blocks have the same stride, the other block is the middle one; otherwise the last with a smaller stride.
    """
    maps = encoder.block_maps()
    by_stride = list({entry.stride: entry for entry in maps}.values())
    last = maps[-1]
    before = by_stride[-2] if len(by_stride) > 1 else maps[(len(maps) - 1) // 2]
    blocks = list(dict.fromkeys([before.module, last.module]))
    levels = tuple(entry.module for entry in by_stride) if len(by_stride) > 1 else tuple(blocks)
    return [
        *[FeatureSpec("features", (), (module,), "grid", cells) for module in blocks for cells in TOKEN_CELLS],
        FeatureSpec("features", (), levels, "moments"),
    ]


def _feature_specs(encoder: Encoder, side: int) -> list[FeatureSpec]:
    maps = feature_maps(encoder.network.body, side=encoder.side or max(side, SMALLEST))
    blocks = {block for block, _ in encoder.network.blocks}
    by_stride = {stride: last_block(maps, blocks, stride) for stride in (4, 8, 16, 32)}
    wide16, wide8, block16 = widest(maps, 16).module, widest(maps, 8).module, by_stride[16].module
    levels = tuple(dict.fromkeys(block.module for block in by_stride.values()))
    grids = [(wide16, 1), (wide16, 3), (wide8, 4), (block16, 4)]
    textures = [block.module for block in by_stride.values() if block.channels <= MOST_TEXTURE_CHANNELS]
    sides = (0, REDUCED_SIDE) if 2 * side >= 3 * REDUCED_SIDE and encoder.side is None else (0,)
    read = [(module, cells, side) for side in sides for module, cells in grids]
    specs = [
        *[FeatureSpec("features", (), (module,), "grid", cells, side=side) for module, cells, side in read],
        FeatureSpec("features", (), levels, "moments"),
        *[FeatureSpec("features", (), (module,), "covariance") for module in textures],
    ]
    return list(dict.fromkeys(specs))


def build_linear(name: str, outputs: int, bank: Mapping[str, Any], options: Mapping[str, Any]) -> Network:
    """A linear model with random weights in its encoder and its head.

    Args:
        bank: `encoders`, the facts of the networks whose maps are read, or these networks themselves, empty for pixels;
            `channels`, the number of a panel's channels; `sequences`, how many of them are sequences and not colours;
            `specs`, the candidates as plain values, or None for all candidates; `widths`, the widths of the candidates'
            vectors, measured if not given; `flips`, for the candidates of encoders.
        options: of `NetworkOptions`: `side` and `pooling`.
    """
    side, channels = int(options.get("side") or 224), int(bank["channels"])
    encoders = [facts if isinstance(facts, Encoder) else build_encoder(facts, side) for facts in bank["encoders"]]
    specs = [FeatureSpec.of(values) for values in bank["specs"] or ()]
    specs = specs or candidates(encoders, int(bank.get("sequences", 0)), side, bank.get("flips", "none"))
    features = FeatureBank(encoders, specs, channels, side, widths=bank.get("widths"))
    body = Body(features, features.width, UNSCALED)
    network = Network(name, body, outputs, NetworkOptions(side=side, pooling=options.get("pooling") or ""))
    # large weights of nearly equal features cancel, so that single precision would depend on the batch
    network.head.double()
    return network


def keep_only(network: Network, specs: Sequence[FeatureSpec]) -> torch.Tensor:
    """Reduce the network to some of its candidates, with a new head; return the kept columns of its features.

    Encoders that no kept candidate reads are removed.
    """
    bank = bank_of(network)
    columns_of = torch.arange(bank.width).split(bank.widths)
    kept = [number for number, spec in enumerate(bank.specs) if spec in specs]
    columns = torch.cat([columns_of[number] for number in kept])
    bank.specs = tuple(bank.specs[number] for number in kept)
    bank.widths = tuple(bank.widths[number] for number in kept)
    used = {spec.encoder or bank.encoders[0].name for spec in bank.specs if spec.modules}
    bank.keep_encoders([encoder for encoder in bank.encoders if encoder.name in used])
    network.width = bank.width
    network.head[-1] = nn.Linear(bank.width, network.target_mean.numel(), dtype=torch.float64)
    return columns


def bank_facts(network: Network) -> Facts:
    """The features of a linear model as plain values, with which `build_linear` builds it again."""
    bank = bank_of(network)
    return {
        "encoders": [encoder.facts for encoder in bank.encoders],
        "channels": bank.channels,
        "specs": [spec.as_json() for spec in bank.specs],
        "widths": list(bank.widths),
    }


def encoder_prefix(number: int) -> str:
    """How the names of the weights of an encoder begin, by its number from 0."""
    return f"body.encoder{number + 1 if number else ''}."


def _random_frequencies(inputs: int, count: int, seed: int) -> NDArray[np.float64]:
    """(inputs, count) frequencies, orthogonal in groups of `inputs`, each with the length of a Gaussian vector.

    >>> _random_frequencies(3, 7, 0).shape
    (3, 7)
    """
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(-(-count // inputs)):
        directions, _ = np.linalg.qr(rng.normal(size=(inputs, inputs)))
        groups.append(directions * np.sqrt(rng.chisquare(inputs, size=inputs)))
    return np.asarray(np.concatenate(groups, axis=1)[:, :count] * np.sqrt(2 * GAMMA))


class RadialBlock(nn.Module):
    """Random Fourier features of standardised directions of one block: (B, W) → (B, 2·F)."""

    centre: Tensor
    back: Tensor
    frequencies: Tensor

    def __init__(self, width: int, directions: int, frequencies: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("back", torch.zeros(directions, width))
        self.register_buffer("frequencies", torch.zeros(directions, frequencies))

    def fill(self, centre: NDArray[np.float64], back: NDArray[np.float64], seed: int) -> None:
        """Set the centre (W,) and the directions (R, W) of the training rows, and draw the frequencies."""
        self.centre.copy_(torch.from_numpy(centre))
        self.back.copy_(torch.from_numpy(back))
        directions, count = self.frequencies.shape
        self.frequencies.copy_(torch.from_numpy(_random_frequencies(directions, count, seed)))

    def forward(self, values: Tensor) -> Tensor:
        angles = (values - self.centre) @ self.back.T @ self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1) / self.frequencies.shape[1] ** 0.5


class RadialHead(nn.Module):
    """Linear layers on Fourier features of vectors, and on the vectors themselves: (B, sum of widths) → (B, outputs).

    Args:
        widths: of the vectors side by side.
        directions: the number of directions of each block of Fourier features.
        frequencies: of every block.
        reads: the numbers of the vectors that each block reads; by default one block for each vector.
        is_partly_linear: whether there is a linear layer on the vectors.
    """

    def __init__(
        self,
        widths: Sequence[int],
        directions: Sequence[int],
        frequencies: int,
        outputs: int,
        *,
        reads: Sequence[Sequence[int]] | None = None,
        is_partly_linear: bool = False,
    ) -> None:
        super().__init__()
        self.widths, self.frequencies = list(widths), frequencies
        self.reads = [list(numbers) for numbers in reads or [[number] for number in range(len(self.widths))]]
        together = [sum(self.widths[number] for number in numbers) for numbers in self.reads]
        self.blocks = nn.ModuleList(
            RadialBlock(width, count, frequencies) for width, count in zip(together, directions, strict=True)
        )
        self.linear = nn.Linear(2 * frequencies * len(self.reads), outputs)
        self.plain = nn.Linear(sum(self.widths), outputs, bias=False) if is_partly_linear else None

    def columns(self, block: int) -> Tensor:
        """The columns of the input that a block reads."""
        of_vectors = torch.arange(sum(self.widths)).split(self.widths)
        return torch.cat([of_vectors[number] for number in self.reads[block]])

    def forward(self, values: Tensor) -> Tensor:
        vectors = values.split(self.widths, dim=1)
        read = [torch.cat([vectors[number] for number in numbers], dim=1) for numbers in self.reads]
        outputs = self.linear(
            torch.cat([block(features) for block, features in zip(self.blocks, read, strict=True)], dim=1)
        )
        return outputs if self.plain is None else outputs + self.plain(values)

    @property
    def facts(self) -> Facts:
        """The arguments of `RadialHead` besides the widths and the outputs, as JSON."""
        blocks: Any = self.blocks
        facts = {"directions": [int(block.back.shape[0]) for block in blocks], "frequencies": self.frequencies}
        return facts | {"reads": self.reads, "is_partly_linear": self.plain is not None}


class LinearBuilder:
    """Linear models, and those with a radial kernel, on a bank of fixed features."""

    def facts(self, study: Study, model: str) -> Facts:
        """The encoder, the channels and the size of what is read; all candidates."""
        options = modality_of(study).network_options(study, model)
        bank = {
            "encoders": [encoder_facts(name, study.weights_dir) for name in learner_named(model).encoders(study)],
            "channels": options.get("sequences", 3),
            "sequences": options.get("sequences", 0),
            "specs": None,
            "flips": study.panels.flip,
        }
        return {
            "name": model,
            "outputs": width_of(outputs_of(study)),
            "side": study.images.size,
            "pooling": "maps" if study.panels.pooling == "maps" else "",
            "bank": bank,
        }

    def scaled(self, facts: Facts, network: Network) -> Facts:
        """The facts with the candidates that the fitted model uses, and the size of a radial head."""
        head = network.head[-1]
        radial = {"radial": head.facts} if isinstance(head, RadialHead) else {}
        return {**facts, "bank": bank_facts(network), **radial}

    def build(self, facts: Facts) -> Network:
        """A model with random weights in its encoder and head; before a radial one is fitted, its head is linear."""
        network = build_linear(facts["name"], facts["outputs"], facts["bank"], facts)
        if radial := facts.get("radial"):
            head = RadialHead(bank_of(network).widths, outputs=facts["outputs"], **radial)
            network.head[-1] = head.double()
        return network

    def backbone(self, facts: Facts) -> str:
        """Linear models have none, and any name will do."""
        return "cnn"

    def load(self, network: Network, study: Study, model: str, held_out: Sequence[str]) -> tuple[str, list[str]]:
        """Fill the encoders with their pretrained weights, which no subject of a study influenced."""
        return load_encoders(bank_of(network), study.weights_dir) or "none: a linear model on pixels", []
