"""Statistics of the early maps of a pretrained network, which depend on how an image was made.

Early layers respond to edges, texture and noise, and so to detectors, processing and compression, but little to what an
image shows. The network is neither trained nor chosen on the study, and only its first layers are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from casewise.errors import WeightsError
from casewise.models.backbones import Network, build_network
from casewise.models.feature_maps import as_colours, feature_maps, last_block, modules_until, read_maps
from casewise.models.weights import load_weights
from casewise.study.weight_files import QUICK, embedding_weights

if TYPE_CHECKING:
    from casewise.study.schema import Study

# The network with which the statistics were evaluated; others are used where it has no weights.
FIRST_CHOICE = "mobilenet_v2"
STRIDES = (4, 8)
# Longer images are reduced to this side.
SIDE = 224
LEAST_SPREAD = 1e-3


class EarlyMaps:
    """The first layers of a network of torchvision.

    Attributes:
        name: the name of the network.
        modules: the modules whose maps are read, in the order in which they are computed.
    """

    def __init__(self, network: Network, modules: Sequence[str]) -> None:
        self._network = network.eval().requires_grad_(False)
        self.name, self.modules = network.name, tuple(modules)

    @classmethod
    def of_study(cls, study: Study) -> EarlyMaps | None:
        """Those of a fast pretrained network whose weights are at hand; None if there is none."""
        for name, file in sorted(embedding_weights(study), key=lambda entry: entry[0] != FIRST_CHOICE):
            network: Any = build_network(name, 1)
            try:
                load_weights(network, str(file))
            except WeightsError:
                continue  # problems with the weights are reported when a training uses them
            maps, blocks = feature_maps(network.body, side=SIDE), {block for block, _ in network.blocks}
            return cls(network, dict.fromkeys(last_block(maps, blocks, stride).module for stride in STRIDES))
        return None

    @classmethod
    def of_weights(cls, name: str, modules: Sequence[str], weights: Mapping[str, Tensor]) -> EarlyMaps:
        """Those of `weights` again.

        Raises:
            ValueError, RuntimeError, AttributeError: the name, the modules or the weights do not belong together.
        """
        if name not in QUICK:
            raise ValueError(f"{name[:80]} is none of {', '.join(QUICK)}")
        network: Any = build_network(name, 1)
        maps = cls(network, modules)
        if set(weights) != set(maps.weights):
            raise ValueError("they are not the weights of these modules and of those before them")
        network.body.load_state_dict(weights, strict=False)
        return maps

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights of the modules and of those before them."""
        body: Any = self._network.body
        needed = set(modules_until(body, self.modules[-1], side=SIDE))
        return {key: value for key, value in body.state_dict().items() if key.rpartition(".")[0] in needed}

    def statistics(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(W,) of an image (C, H, W): of every channel of the maps, the mean and the logarithm of the deviation."""
        with torch.inference_mode():
            panel = as_colours(torch.from_numpy(np.ascontiguousarray(image))[None].float() / 255)
            if (longest := max(panel.shape[-2:])) > SIDE:
                size = [max(1, round(side * SIDE / longest)) for side in panel.shape[-2:]]
                panel = functional.interpolate(panel, size=size, mode="area")
            scaled = (panel - self._network.mean) / self._network.std
            maps = read_maps(self._network.body, self.modules, scaled)
            parts = []
            for name in self.modules:
                cells = maps[name].flatten(2).double()
                parts += [cells.mean(2), (cells.std(2, correction=0) + LEAST_SPREAD).log()]
            return np.asarray(torch.cat(parts, dim=1)[0].numpy())
