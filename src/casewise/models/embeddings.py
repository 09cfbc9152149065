"""Embeddings of tiles by a pretrained network; the audit uses them for near-duplicates and shortcuts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from casewise.errors import WeightsError
from casewise.models.backbones import Network, build_network
from casewise.models.weights import load_weights
from casewise.study.weight_files import embedding_origin, embedding_weights

if TYPE_CHECKING:
    from casewise.modalities.store.store import TileStore
    from casewise.study.schema import Study

SIDE = 128
BATCH = 64


class Embedder:
    """Maps image numbers (n,) or tiles (n, C, H, W) uint8 to unit vectors (n, width) float32."""

    def __init__(self, network: Network, store: TileStore, origin: str, weights_sha256: str) -> None:
        self.network, self.store, self.origin = network.eval(), store, origin
        self.weights_sha256 = weights_sha256

    def __call__(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        vectors = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                batch = images[start : start + BATCH]
                tiles = batch if images.ndim == 4 else np.array(self.store.tiles[batch])
                vectors.append(self._vectors(torch.from_numpy(np.ascontiguousarray(tiles))))
        return np.concatenate(vectors) if vectors else np.zeros((0, self.network.width), np.float32)

    def _vectors(self, tiles: torch.Tensor) -> np.ndarray:
        panels = tiles.float().div_(255)
        panels = panels if panels.shape[1] == 3 else panels.expand(-1, 3, -1, -1)
        if max(panels.shape[-2:]) > SIDE:
            panels = functional.interpolate(panels, size=(SIDE, SIDE), mode="area")
        panels = panels.to(memory_format=torch.channels_last)
        return functional.normalize(self.network.features(panels).float(), dim=1).numpy()


def embedder(study: Study, store: TileStore) -> Embedder | None:
    """A fast pretrained network with available weights, preferably of the study; None if there is none.

    Nothing is downloaded for it.
    """
    for name, file in embedding_weights(study):
        network: Any = build_network(name, 1)
        try:
            load_weights(network, str(file))
        except WeightsError:
            continue  # problems with the weights are reported when a training uses them
        return Embedder(network, store, *embedding_origin(name, file))
    return None
