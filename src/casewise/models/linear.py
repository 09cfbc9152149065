"""Linear models as networks: a bank of fixed features and a linear head, fitted without gradient steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from casewise.modalities.registry import modality_of
from casewise.models.backbones import Body, Network, NetworkOptions, build_network
from casewise.models.feature_maps import SMALLEST, FeatureBank, FeatureSpec, feature_maps, last_block, widest
from casewise.models.outputs import outputs_of, width_of
from casewise.models.weights import load_weights
from casewise.study.learners import learner_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from casewise.study.schema import Study

# The sides of grids of pixel means, and the most channels whose covariances are a candidate.
PIXEL_CELLS = (8, 16, 32)
MOST_TEXTURE_CHANNELS = 100
UNSCALED = ((0.0,), (1.0,))


class LinearBuilder:
    """Linear models on a bank of fixed features; see `casewise.models.build_model.Builder`."""

    def facts(self, study: Study, model: str) -> dict[str, Any]:
        """The encoder, the channels and the size of what is read; all candidates."""
        options = modality_of(study).network_options(study, model)
        bank = {
            "encoder": learner_named(model).encoder(study),
            "channels": options.get("sequences", 3),
            "sequences": options.get("sequences", 0),
            "specs": None,
        }
        return {
            "name": model,
            "outputs": width_of(outputs_of(study)),
            "side": study.images.size,
            "maps": study.panels.pooling == "maps",
            "bank": bank,
        }

    def scaled(self, facts: dict[str, Any], network: Network) -> dict[str, Any]:
        """The facts with the candidates that the fitted model uses."""
        bank: Any = network.body
        encoder = bank.encoder.name if bank.encoder is not None else ""
        specs = [spec.as_json() for spec in bank.specs]
        return facts | {"bank": {"encoder": encoder, "channels": bank.channels, "specs": specs}}

    def build(self, facts: dict[str, Any]) -> Network:
        """A linear model with random weights in its encoder and its head."""
        return build_linear(facts["name"], facts["outputs"], facts["bank"], facts)

    def backbone(self, facts: dict[str, Any]) -> str:
        """The encoder; a linear model on pixels has none, and any name will do."""
        return str(facts["bank"]["encoder"] or "cnn")

    def load(self, network: Network, study: Study, model: str, held_out: Sequence[str]) -> tuple[str, list[str]]:
        """Fill the encoder with its pretrained weights, which no subject of a study influenced."""
        encoder: Any = network.body.encoder
        if encoder is None:
            return "none: a linear model on pixels", []
        origin, _ = load_weights(encoder, "pretrained", folder=study.weights_dir)
        return f"{encoder.name}, frozen: {origin}", []


def build_linear(name: str, outputs: int, bank: Mapping[str, Any], options: Mapping[str, Any]) -> Network:
    """A linear model with random weights in its encoder and its head.

    Args:
        bank: `encoder`, the name of the network whose maps are read, empty for pixels; `channels`, those of a panel;
            `sequences`, how many of them are sequences and not colours; `specs`, the candidates as plain values, or
            None for all of them.
        options: of `NetworkOptions`: `side` and `maps`.
    """
    side, channels = int(options.get("side") or 224), int(bank["channels"])
    encoder = _encoder(bank["encoder"], max(side, SMALLEST)) if bank["encoder"] else None
    stated = [FeatureSpec.of(values) for values in bank["specs"] or ()]
    specs = stated or candidates(encoder, int(bank.get("sequences", 0)), side)
    features = FeatureBank(encoder, specs, channels, side)
    body = Body(features, features.width, UNSCALED)
    return Network(name, body, outputs, NetworkOptions(side=side, maps=bool(options.get("maps"))))


def _encoder(name: str, side: int) -> Network:
    encoder = build_network(name, 1, side=side)
    encoder.head = nn.Sequential()
    return encoder


def candidates(encoder: Network | None, sequences: int, side: int) -> list[FeatureSpec]:
    """The inputs among which a linear model chooses: those of pixels and, with an encoder, of its maps.

    Sequences are candidates one by one and, if there are three of them or for pixels, together.
    """
    single: list[tuple[int, ...]] = [(number,) for number in range(sequences)] if sequences > 1 else []
    specs: list[FeatureSpec] = []
    for spec in [*_of_pixels(side), *(_of_features(encoder, side) if encoder else [])]:
        together = spec.source != "features" or sequences in (0, 1, 3)
        specs += [replace(spec, channels=channels) for channels in [*([()] if together else []), *single]]
    return specs


def _of_pixels(side: int) -> list[FeatureSpec]:
    cells = [count for count in PIXEL_CELLS if count <= side] or [side]
    return [*[FeatureSpec("pixels", cells=count) for count in cells], FeatureSpec("statistics")]


def _of_features(encoder: Network, side: int) -> list[FeatureSpec]:
    maps = feature_maps(encoder.body, side=max(side, SMALLEST))
    blocks = {block for block, _ in encoder.blocks}
    by_stride = {stride: last_block(maps, blocks, stride) for stride in (4, 8, 16, 32)}
    wide16, wide8, block16 = widest(maps, 16).module, widest(maps, 8).module, by_stride[16].module
    levels = tuple(dict.fromkeys(block.module for block in by_stride.values()))
    grids = [(wide16, 1), (wide16, 3), (wide8, 4), (block16, 4)]
    textures = [block.module for block in by_stride.values() if block.channels <= MOST_TEXTURE_CHANNELS]
    specs = [
        *[FeatureSpec("features", (), (module,), "grid", cells) for module, cells in grids],
        FeatureSpec("features", (), levels, "moments"),
        *[FeatureSpec("features", (), (module,), "covariance") for module in textures],
    ]
    return list(dict.fromkeys(specs))


def keep_only(network: Network, specs: Sequence[FeatureSpec]) -> torch.Tensor:
    """Reduce the network to some of its candidates, with a new head; return the kept columns of its features."""
    bank: Any = network.body
    starts = [sum(bank.widths[:number]) for number in range(len(bank.widths))]
    kept = [number for number, spec in enumerate(bank.specs) if spec in specs]
    columns = torch.cat([torch.arange(starts[number], starts[number] + bank.widths[number]) for number in kept])
    bank.specs = tuple(bank.specs[number] for number in kept)
    bank.widths = tuple(bank.widths[number] for number in kept)
    network.width = bank.width
    network.head[-1] = nn.Linear(bank.width, network.target_mean.numel())
    return columns
