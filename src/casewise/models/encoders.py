"""Pretrained networks whose frozen maps a linear model reads: of torchvision, of timm, or of timm's hub.

Convolutional networks are read through their modules at any size of panel. Transformers are read through their blocks,
whose tokens timm arranges as maps; panels are resized to a side that their patches divide.

The audit embeds tiles by one, for near-duplicates and shortcuts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from casewise.errors import StudyError, WeightsError
from casewise.modalities.base import Facts
from casewise.models.backbones import Network, NetworkOptions, build_network
from casewise.models.feature_maps import SMALLEST, FeatureMap, as_colours, feature_maps, has_tokens, read_maps
from casewise.models.layers import replace_layers
from casewise.models.weights import download_of, load_weights
from casewise.study.sources import source_of
from casewise.study.weight_files import FirstWeights, embedding_origin, embedding_weights
from casewise.study.weight_origins import origins_of_weights

if TYPE_CHECKING:
    from casewise.modalities.store.store import TileStore
    from casewise.models.linear import FeatureBank
    from casewise.study.schema import Study


# The largest side of panels that a network of tokens reads: its cost grows faster than the number of pixels.
MOST_OF_TOKENS = 224


@dataclass(frozen=True)
class Encoder:
    """A frozen network and how its maps are read.

    Attributes:
        facts: plain values from which `build_encoder` builds it again.
        side: the side to which panels are resized; None if it reads panels of any side from `SMALLEST` on.
        blocks: the names of a transformer's blocks, whose tokens are read as maps; empty for a convolutional network,
            where any module with a map can be read.
    """

    network: Network
    facts: Facts
    side: int | None = None
    blocks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name as the study states it."""
        return self.network.name

    def maps(self, modules: Sequence[str], panels: Tensor) -> dict[str, Tensor]:
        """The maps (B, C, h, w) of modules for panels (B, C, H, W) in 0–1."""
        colours = as_colours(panels)
        if self.side is not None:
            size = (self.side, self.side)
            if tuple(colours.shape[-2:]) != size:
                colours = functional.interpolate(colours, size=size, mode="bilinear", antialias=True)
        elif colours.shape[-1] < SMALLEST:
            colours = functional.interpolate(colours, size=(SMALLEST, SMALLEST), mode="bilinear")
        scaled = (colours - self.network.mean) / self.network.std
        if not (self.blocks and hasattr(self.network.body, "forward_intermediates")):
            return read_maps(self.network.body, modules, scaled)
        return self._tokens(modules, scaled)

    def _tokens(self, modules: Sequence[str], scaled: Tensor) -> dict[str, Tensor]:
        body: Any = self.network.body
        numbers = sorted(self.blocks.index(name) for name in modules)
        # the last norm applies where all blocks have the same width, as DINOv2's intermediate layers are read
        norm = len({info["num_chs"] for info in body.feature_info}) == 1
        maps = body.forward_intermediates(
            scaled, indices=numbers, norm=norm, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        return dict(zip([self.blocks[number] for number in numbers], maps, strict=True))

    def block_maps(self) -> list[FeatureMap]:
        """The maps of a transformer's blocks, in the order in which they are computed."""
        side = self.side or SMALLEST
        with torch.no_grad():
            maps = self.maps(self.blocks, torch.zeros(1, 3, side, side, device=self.network.mean.device))
        return [FeatureMap.of(name, side, tokens) for name, tokens in maps.items()]


def encoder_facts(name: str, folder: Path | None) -> Facts:
    """The name of a network; of a hub repository also its architecture and arguments, from its config.json.

    Raises:
        WeightsError: the config.json of a repository was not found, or its source cannot read it.
    """
    weights = FirstWeights(name, folder=folder)
    if not weights.source.has_config:
        return {"name": name}
    path = weights.config
    if path is None:
        with download_of(weights):
            path = weights.source.download_config(name)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{name}: {path} cannot be read as its config.json: {error}.") from error
    return {"name": name, **weights.source.read_config(name, path, config)}


def build_encoder(facts: Mapping[str, Any], side: int) -> Encoder:
    """An encoder with random weights, frozen and without a head.

    Args:
        facts: of `encoder_facts`, or those that a bundle recorded.
        side: the side of the panels in pixels.

    Raises:
        StudyError: the network has no maps that could be read.
    """
    name = str(facts["name"])
    source, side = source_of(name), max(side, SMALLEST)
    config = {key: facts[key] for key in ("architecture", "arguments") if facts.get(key)}
    if "arguments" in config:
        config["arguments"] = {key: value for key, value in config["arguments"].items() if key != "img_size"}
    fixed: int | None = facts["side"] if "side" in facts else source.side(name, min(side, MOST_OF_TOKENS), config)
    options = NetworkOptions(side=fixed or side)
    body = source.build(name, side=options.side, channels=3, scaling=options.scaling, is_fused=False, config=config)
    if source.is_convolutional:
        replace_layers(body.module)
    network = Network(name, body, 1, options)
    if "mean" in facts:
        shape = network.mean.shape
        network.mean, network.std = (torch.tensor(facts[key]).view(shape) for key in ("mean", "std"))
    network.head = nn.Sequential()
    network.requires_grad_(False)
    blocks = tuple(facts["blocks"]) if "blocks" in facts else body.blocks or _blocks(network, fixed or side)
    recorded = {
        **{key: facts[key] for key in ("name", "architecture", "arguments") if key in facts},
        "side": fixed,
        "blocks": list(blocks),
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
    }
    return Encoder(network, recorded, fixed, blocks)


def _blocks(network: Network, side: int) -> tuple[str, ...]:
    """The blocks of a network with tokens whose maps timm gives; empty for convolutional networks."""
    body: Any = network.body
    if source_of(network.name).is_convolutional or not has_tokens(body, side=side):
        return ()
    if hasattr(body, "forward_intermediates"):
        return tuple(str(info["module"]) for info in body.feature_info)
    if not feature_maps(body, side=side):
        raise StudyError(f"encoders: {network.name} has no maps of its tokens that timm could give.")
    return ()


def description(name: str, side: int = 224) -> str:
    """The parameters of a network, its cost for a panel, the licence of its weights, and where they are.

    >>> description("cnn")
    'cnn: 2.5 million parameters, 0.7 billion multiplications at 224 px; random: there are no published weights'
    """
    from torch.utils.flop_counter import FlopCounterMode

    weights = FirstWeights(name)
    with torch.device("meta"), torch.no_grad():
        network = build_network(**encoder_facts(name, None), outputs=1, side=side).eval()
        with FlopCounterMode(display=False) as counter:
            network.features(torch.zeros(1, 3, side, side))
    size = sum(parameter.numel() for parameter in network.body.parameters()) / 1e6
    cost = counter.get_total_flops() / 2e9  # an addition counts as well
    licences = [f", weights under {origin.licence}" for origin in origins_of_weights(weights) if origin.licence]
    numbers = f"{size:.1f} million parameters, {cost:.1f} billion multiplications at {side} px"
    return f"{name}: {numbers}{''.join(licences)}; {weights.clause()}"


def download(weights: FirstWeights) -> None:
    """Put first weights, and the config.json of a network that has one, into its library's cache.

    Raises:
        WeightsError: the download failed; the message names each way to get them.
    """
    encoder_facts(weights.name, weights.folder)
    if weights.stated == "pretrained":
        with download_of(weights):
            weights.source.download(weights.name)


def load_encoders(bank: FeatureBank, folder: Path | None) -> str:
    """Fill the encoders of a bank with their published weights; return a clause on the origin of each.

    Weights come from `<name>.safetensors` in `folder` or CASEWISE_WEIGHTS, else from the library's cache or download.

    Raises:
        WeightsError: an encoder has none; the message names each way to get them.
    """
    origins = {encoder.name: load_weights(encoder.network, "pretrained", folder=folder)[0] for encoder in bank.encoders}
    return "; ".join(f"{name}, frozen: {origin}" for name, origin in origins.items())


SIDE = 128
BATCH = 64


class Embedder:
    """Maps image numbers (n,) or tiles (n, C, H, W) uint8 to unit vectors (n, width) float32."""

    def __init__(self, network: Network, store: TileStore, origin: str, weights_sha256: str) -> None:
        self.network, self.store, self.origin = network.eval(), store, origin
        self.weights_sha256 = weights_sha256

    def __call__(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        vectors = [np.zeros((0, self.network.width), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                batch = images[start : start + BATCH]
                tiles = batch if images.ndim == 4 else np.array(self.store.tiles[batch])
                panels = torch.from_numpy(np.ascontiguousarray(tiles)).float().div_(255)
                panels = panels if panels.shape[1] == 3 else panels.expand(-1, 3, -1, -1)
                if max(panels.shape[-2:]) > SIDE:
                    panels = functional.interpolate(panels, size=(SIDE, SIDE), mode="area")
                features = self.network.features(panels.to(memory_format=torch.channels_last))
                vectors.append(functional.normalize(features.float(), dim=1).numpy())
        return np.concatenate(vectors)


def quick_network(study: Study, first: str = "") -> tuple[Network, str, Path] | None:
    """A fast pretrained network with available weights, its name and the file; None if there is none.

    It is `first`, or else preferably one of the study. Nothing is downloaded for it.
    """
    for name, file in sorted(embedding_weights(study), key=lambda entry: entry[0] != first):
        network: Any = build_network(name, 1)
        try:
            load_weights(network, str(file))
        except WeightsError:
            continue  # problems with the weights are reported when a training uses them
        return network, name, file
    return None


def embedder(study: Study, store: TileStore) -> Embedder | None:
    """An embedder by `quick_network`; None if there is none."""
    quick = quick_network(study)
    return Embedder(quick[0], store, *embedding_origin(*quick[1:])) if quick else None
