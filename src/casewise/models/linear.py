"""Linear models as networks: a bank of fixed features and a linear head, fitted without gradient steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from casewise.modalities.registry import modality_of
from casewise.models.backbones import Body, Network, NetworkOptions
from casewise.models.encoders import Encoder, build_encoder, encoder_facts, load_encoders
from casewise.models.feature_bank import FeatureBank, FeatureSpec
from casewise.models.feature_maps import SMALLEST, feature_maps, last_block, widest
from casewise.models.outputs import outputs_of, width_of
from casewise.models.radial import RadialHead
from casewise.study.learners import learner_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from casewise.study.schema import Study

# The sides of grids of pixel means, and the most channels whose covariances are a candidate.
PIXEL_CELLS = (8, 16, 32)
MOST_TEXTURE_CHANNELS = 100
# The sides of grids over the tokens of transformers.
TOKEN_CELLS = (1, 3, 4)
# Panels whose side is larger by half are also read at this one, at which an encoder sees more of a panel at once.
REDUCED_SIDE = 128
UNSCALED = ((0.0,), (1.0,))


class LinearBuilder:
    """Linear models on a bank of fixed features; see `casewise.models.build_model.Builder`."""

    def facts(self, study: Study, model: str) -> dict[str, Any]:
        """The encoder, the channels and the size of what is read; all candidates."""
        options = modality_of(study).network_options(study, model)
        bank = {
            "encoders": [encoder_facts(name, study.weights_dir) for name in learner_named(model).encoders(study)],
            "channels": options.get("sequences", 3),
            "sequences": options.get("sequences", 0),
            "specs": None,
        }
        return {
            "name": model,
            "outputs": width_of(outputs_of(study)),
            "side": study.images.size,
            "pooling": "maps" if study.panels.pooling == "maps" else "",
            "bank": bank,
        }

    def scaled(self, facts: dict[str, Any], network: Network) -> dict[str, Any]:
        """The facts with the candidates that the fitted model uses."""
        return facts | {"bank": bank_facts(network)}

    def build(self, facts: dict[str, Any]) -> Network:
        """A linear model with random weights in its encoder and its head."""
        return build_linear(facts["name"], facts["outputs"], facts["bank"], facts)

    def backbone(self, facts: dict[str, Any]) -> str:
        """Linear models have none, and any name will do."""
        return "cnn"

    def load(self, network: Network, study: Study, model: str, held_out: Sequence[str]) -> tuple[str, list[str]]:
        """Fill the encoders with their pretrained weights, which no subject of a study influenced."""
        bank: Any = network.body
        return load_encoders(bank, study.weights_dir) or "none: a linear model on pixels", []


class RadialBuilder(LinearBuilder):
    """Models with a radial kernel on a bank of fixed features; see `casewise.models.build_model.Builder`."""

    def scaled(self, facts: dict[str, Any], network: Network) -> dict[str, Any]:
        """The facts with the candidates that the fitted model uses, and the size of its head."""
        head: Any = network.head[-1]
        return {**super().scaled(facts, network), "radial": head.facts}

    def build(self, facts: dict[str, Any]) -> Network:
        """A model with random weights in its encoder and its head; before it is fitted, its head is linear."""
        network = super().build(facts)
        if radial := facts.get("radial"):
            bank: Any = network.body
            head = RadialHead(bank.widths, radial["directions"], radial["frequencies"], facts["outputs"])
            network.head[-1] = head.double()
        return network


def build_linear(name: str, outputs: int, bank: Mapping[str, Any], options: Mapping[str, Any]) -> Network:
    """A linear model with random weights in its encoder and its head.

    Args:
        bank: `encoders`, the facts of the networks whose maps are read, none for pixels, or these networks themselves;
            `channels`, those of a panel; `sequences`, how many of them are sequences and not colours; `specs`, the
            candidates as plain values, or None for all of them; `widths`, those of the candidates' vectors, measured
            if they are not stated. Bundles of earlier versions have the name of one network as `encoder`.
        options: of `NetworkOptions`: `side` and `pooling`.
    """
    side, channels = int(options.get("side") or 224), int(bank["channels"])
    encoders = [facts if isinstance(facts, Encoder) else build_encoder(facts, side) for facts in encoders_in(bank)]
    stated = [FeatureSpec.of(values) for values in bank["specs"] or ()]
    specs = stated or candidates(encoders, int(bank.get("sequences", 0)), side)
    features = FeatureBank(encoders, specs, channels, side, widths=bank.get("widths"))
    body = Body(features, features.width, UNSCALED)
    network = Network(name, body, outputs, NetworkOptions(side=side, pooling=options.get("pooling") or ""))
    # large weights of nearly equal features cancel, so that single precision would depend on the batch
    network.head.double()
    return network


def encoders_in(bank: Mapping[str, Any]) -> list[Any]:
    """The facts of the encoders of a bank; bundles of earlier versions name one."""
    earlier = [{"name": bank["encoder"], "side": None, "blocks": []}] if bank.get("encoder") else []
    return list(bank.get("encoders", earlier))


def candidates(encoders: Sequence[Encoder], sequences: int, side: int) -> list[FeatureSpec]:
    """The inputs among which a linear model chooses: those of pixels and of the maps of every encoder.

    Sequences are candidates one by one and, if there are three of them or for pixels, together. In volumes, whose
    axial and coronal planes are nearly symmetric, the differences between mirrored cells are candidates too.
    """
    single: list[tuple[int, ...]] = [(number,) for number in range(sequences)] if sequences > 1 else []
    specs: list[FeatureSpec] = []
    of_maps = [
        replace(spec, encoder=encoder.name if len(encoders) > 1 else "")
        for encoder in encoders
        for spec in (_of_tokens(encoder) if encoder.blocks else _of_features(encoder, side))
    ]
    every = [*_of_pixels(side), *of_maps]
    if sequences:
        mirrored = [spec for spec in every if spec.summary == "grid" and spec.cells > 1 and spec.source != "statistics"]
        every += [replace(spec, summary="asymmetry") for spec in mirrored]
    for spec in every:
        together = spec.source != "features" or sequences in (0, 1, 3)
        specs += [replace(spec, channels=channels) for channels in [*([()] if together else []), *single]]
    return specs


def _of_pixels(side: int) -> list[FeatureSpec]:
    cells = [count for count in PIXEL_CELLS if count <= side] or [side]
    return [*[FeatureSpec("pixels", cells=count) for count in cells], FeatureSpec("statistics")]


def _of_tokens(encoder: Encoder) -> list[FeatureSpec]:
    """The tokens of a transformer's last block and of one before it, and the moments of both.

    If all blocks have the same stride, the other block is that in the middle; else the last with a smaller stride.
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


def _of_features(encoder: Encoder, side: int) -> list[FeatureSpec]:
    maps = feature_maps(encoder.network.body, side=encoder.side or max(side, SMALLEST))
    blocks = {block for block, _ in encoder.network.blocks}
    by_stride = {stride: last_block(maps, blocks, stride) for stride in (4, 8, 16, 32)}
    wide16, wide8, block16 = widest(maps, 16).module, widest(maps, 8).module, by_stride[16].module
    levels = tuple(dict.fromkeys(block.module for block in by_stride.values()))
    grids = [(wide16, 1), (wide16, 3), (wide8, 4), (block16, 4)]
    textures = [block.module for block in by_stride.values() if block.channels <= MOST_TEXTURE_CHANNELS]
    sides = (0, REDUCED_SIDE) if 2 * side >= 3 * REDUCED_SIDE and encoder.side is None else (0,)
    specs = [
        *[
            FeatureSpec("features", (), (module,), "grid", cells, side=side)
            for side in sides
            for module, cells in grids
        ],
        FeatureSpec("features", (), levels, "moments"),
        *[FeatureSpec("features", (), (module,), "covariance") for module in textures],
    ]
    return list(dict.fromkeys(specs))


def keep_only(network: Network, specs: Sequence[FeatureSpec]) -> torch.Tensor:
    """Reduce the network to some of its candidates, with a new head; return the kept columns of its features.

    Encoders that no kept candidate reads are removed.
    """
    bank: Any = network.body
    starts = [sum(bank.widths[:number]) for number in range(len(bank.widths))]
    kept = [number for number, spec in enumerate(bank.specs) if spec in specs]
    columns = torch.cat([torch.arange(starts[number], starts[number] + bank.widths[number]) for number in kept])
    bank.specs = tuple(bank.specs[number] for number in kept)
    bank.widths = tuple(bank.widths[number] for number in kept)
    used = {spec.encoder or bank.encoders[0].name for spec in bank.specs if spec.modules}
    bank.keep_encoders([encoder for encoder in bank.encoders if encoder.name in used])
    network.width = bank.width
    network.head[-1] = nn.Linear(bank.width, network.target_mean.numel(), dtype=torch.float64)
    return columns


def bank_facts(network: Network) -> dict[str, Any]:
    """The features of a linear model as plain values, with which `build_linear` builds it again."""
    bank: Any = network.body
    return {
        "encoders": [encoder.facts for encoder in bank.encoders],
        "channels": bank.channels,
        "specs": [spec.as_json() for spec in bank.specs],
    }
