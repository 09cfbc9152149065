"""The look of images: how they were made, as a distance from the training images, whatever they show.

The features of an image are its shape and intensities and, if the weights of a fast pretrained network are available,
statistics of its early maps. Early layers respond to edges, texture and noise, and so to detectors, processing and
compression. The distance is the Mahalanobis distance, with the covariance of Ledoit and Wolf ("A well-conditioned
estimator for large-dimensional covariance matrices", 2004).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from casewise.errors import LINE, RunError, shortened
from casewise.models.backbones import Network, build_network
from casewise.models.encoders import quick_network
from casewise.models.feature_maps import as_colours, feature_maps, last_block, read_maps
from casewise.models.weights import read_checked
from casewise.run_folder.artefact import WeightsFile
from casewise.study.sources import source_of

if TYPE_CHECKING:
    from casewise.study.schema import Study

Floats: TypeAlias = NDArray[np.float64]
# The network with which the statistics were chosen; others are used if its weights are not available.
FIRST_CHOICE = "mobilenet_v2"
STRIDES = (4, 8)
# Longer images are reduced to this side.
SIDE = 224
LEAST_SPREAD = 1e-3
# Every feature may differ by so much more than among the training images, which may all have one shape, for example.
DEVIATION = 0.02
# The directions of the largest variance among training images, along which cases are compared as a batch.
DIRECTIONS = 8
NUMBERS, WEIGHTS = ("centre", "scale", "precision", "directions"), "network."


class EarlyMaps:
    """The last blocks of a pretrained network at `STRIDES`, and the weights of all blocks up to them."""

    def __init__(self, network: Network) -> None:
        self.name, self.body, self._network = network.name, network.eval().body, network
        maps, blocks = feature_maps(self.body, side=SIDE), [block for block, _ in network.blocks]
        self._modules = list(dict.fromkeys(last_block(maps, blocks, stride).module for stride in STRIDES))
        last = max(number for number, block in enumerate(blocks) if self._modules[-1].startswith(block))
        self._needed = tuple(f"{block}." for block in blocks[: last + 1])

    @classmethod
    def of_study(cls, study: Study) -> EarlyMaps | None:
        """The early maps of a network with weights on this computer; None if there is none."""
        quick = quick_network(study, FIRST_CHOICE)
        return cls(quick[0]) if quick else None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights of the blocks."""
        return {key: value for key, value in self.body.state_dict().items() if key.startswith(self._needed)}

    def statistics(self, image: NDArray[np.uint8]) -> Floats:
        """(W,) of an image (C, H, W): of every channel of the maps, the mean and the logarithm of the deviation."""
        with torch.inference_mode():
            panel = torch.from_numpy(image.astype(np.float32))[None] / 255
            if (longest := max(panel.shape[-2:])) > SIDE:
                size = [max(1, round(side * SIDE / longest)) for side in panel.shape[-2:]]
                panel = functional.interpolate(panel, size=size, mode="area")
            scaled = (as_colours(panel) - self._network.mean) / self._network.std
            cells = [maps.flatten(2).double() for maps in read_maps(self.body, self._modules, scaled).values()]
            pairs = [(each.mean(2), (each.std(2, correction=0) + LEAST_SPREAD).log()) for each in cells]
            return np.asarray(torch.cat([statistic for pair in pairs for statistic in pair], dim=1)[0].numpy())


@dataclass(frozen=True)
class LookFacts:
    """What `input-checks.json` states of the look.

    Attributes:
        limit: the distance that few held-out training cases exceed.
        network: the name of the network; empty without one.
        sha256: of the file with the tensors.
    """

    limit: float
    network: str
    sha256: str = ""


@dataclass(frozen=True, eq=False)
class Look:
    """The look of training images in a few numbers, without the numbers of any single image.

    Attributes:
        centre, scale: (W,) mean of each feature, and standard deviation with `DEVIATION`.
        precision: (W, W) the inverse covariance of standardised features.
        directions: (K, W) the directions of largest variance, orthonormal.
        maps: the early maps; None: the features are shape and intensities only.
    """

    centre: Floats
    scale: Floats
    precision: Floats
    directions: Floats
    maps: EarlyMaps | None = None

    @classmethod
    def fit(cls, features: Floats, maps: EarlyMaps | None = None) -> Look:
        """From features (N, W) of training images."""
        with warnings.catch_warnings():  # its import adds a filter
            from sklearn.covariance import LedoitWolf
        centre, scale = features.mean(axis=0), np.sqrt(features.var(axis=0) + DEVIATION**2)
        covariance = LedoitWolf(assume_centered=True).fit((features - centre) / scale).covariance_
        values, vectors = np.linalg.eigh(covariance + np.diag((DEVIATION / scale) ** 2))
        return cls(centre, scale, vectors / values @ vectors.T, vectors[:, ::-1][:, :DIRECTIONS].T.copy(), maps)

    def distance(self, features: Floats) -> Floats:
        """(N,) the distances of features (N, W), divided by the square root of W."""
        standardised = (features - self.centre) / self.scale
        return np.sqrt(np.maximum((standardised @ self.precision * standardised).mean(axis=1), 0))

    def along(self, features: Floats) -> Floats:
        """(N, K) the positions of features along the directions."""
        return np.asarray((features - self.centre) / self.scale @ self.directions.T)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What the file holds: the numbers, and the weights of the network."""
        weights = {WEIGHTS + name: value for name, value in self.maps.weights.items()} if self.maps else {}
        return weights | {name: torch.from_numpy(getattr(self, name)) for name in NUMBERS}


def read_look(file: WeightsFile, facts: LookFacts, numbers: int) -> Look:
    """The look that belongs to these facts.

    Args:
        numbers: the number of features that do not come from the maps.

    Raises:
        RunError: the file is missing, of another training, or damaged.
    """
    tensors = read_checked(file, facts.sha256)
    weights = {name.removeprefix(WEIGHTS): value for name, value in tensors.items() if name.startswith(WEIGHTS)}
    try:
        maps, features = None, np.zeros((1, numbers))
        if facts.network:
            if not source_of(facts.network).is_convolutional:
                raise ValueError("the network does not read images of any size")
            maps = EarlyMaps(build_network(facts.network, 1))
            if set(weights) != set(maps.weights):
                raise ValueError("the weights do not belong to the network")
            maps.body.load_state_dict(weights, strict=False)
            features = np.hstack([features, maps.statistics(np.zeros((3, SIDE, SIDE), np.uint8))[None]])
        look = Look(**{name: tensors[name].double().numpy() for name in NUMBERS}, maps=maps)
        if not look.along(features)[:, 0].shape == look.distance(features).shape == (1,):
            raise ValueError("its numbers have other shapes")
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RunError(
            f"{file.path} does not belong to its limits ({shortened(repr(error), LINE)}). {file.remedy}"
        ) from error
    return look
