"""The look of images: how they were made, as a distance from the training images, whatever they show.

The features of an image are its shape and intensities and, with a pretrained network, the statistics of its early maps
(`casewise.models.early_maps`). The distance is that of Mahalanobis with the covariance of Ledoit and Wolf ("A
well-conditioned estimator for large-dimensional covariance matrices", 2004).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from casewise.errors import LINE, RunError, shortened
from casewise.models.early_maps import EarlyMaps
from casewise.models.weights import read_checked
from casewise.run_folder.artefact import WeightsFile

Floats: TypeAlias = NDArray[np.float64]
# Every feature may differ by so much more than among the training images, which may all have one shape, for example.
DEVIATION = 0.02
# The directions of the largest variance among training images, along which cases are compared as a batch.
DIRECTIONS = 8
WEIGHTS = "network."


@dataclass(frozen=True)
class LookFacts:
    """What `input-checks.json` states of the look.

    Attributes:
        limit: the distance that few held-out training cases exceed.
        network: the name of the network; empty without one.
        modules: those whose maps are read.
        sha256: of the file with the tensors.
    """

    limit: float
    network: str
    modules: tuple[str, ...]
    sha256: str


@dataclass(frozen=True, eq=False)
class Look:
    """The look of training images in a few numbers, without those of any image.

    Attributes:
        centre, scale: (W,) mean of each feature, and standard deviation with `DEVIATION`.
        precision: (W, W) the inverse covariance of standardised features.
        directions: (K, W) those of the largest variance, orthonormal.
        maps: the early layers of a network; None: the features are shape and intensities only.
    """

    centre: Floats
    scale: Floats
    precision: Floats
    directions: Floats
    maps: EarlyMaps | None = None

    @classmethod
    def fit(cls, features: Floats, maps: EarlyMaps | None = None) -> Look:
        """From features (N, W) of training images."""
        from sklearn.covariance import LedoitWolf

        centre, scale = features.mean(axis=0), np.sqrt(features.var(axis=0) + DEVIATION**2)
        covariance = LedoitWolf(assume_centered=True).fit((features - centre) / scale).covariance_
        values, vectors = np.linalg.eigh(covariance + np.diag((DEVIATION / scale) ** 2))
        precision = vectors / values @ vectors.T
        return cls(centre, scale, precision, vectors[:, ::-1][:, :DIRECTIONS].T.copy(), maps)

    def distance(self, features: Floats) -> Floats:
        """(N,) the distances of features (N, W), divided by the square root of W."""
        standardised = (features - self.centre) / self.scale
        squares = np.einsum("nw,wv,nv->n", standardised, self.precision, standardised, optimize=True)
        return np.asarray(np.sqrt(np.maximum(squares, 0) / len(self.centre)))

    def along(self, features: Floats) -> Floats:
        """(N, K) the positions of features along the directions."""
        return np.asarray((features - self.centre) / self.scale @ self.directions.T)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What the file holds: the numbers, and the weights of the layers."""
        names = ("centre", "scale", "precision", "directions")
        weights = self.maps.weights if self.maps else {}
        numbers = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in names}
        return numbers | {WEIGHTS + name: value for name, value in weights.items()}


def read_look(file: WeightsFile, facts: LookFacts, numbers: int) -> Look:
    """The look that belongs to these facts.

    Args:
        numbers: how many features are not those of the maps.

    Raises:
        RunError: the file is missing, of another training, or damaged.
    """
    tensors = read_checked(file, facts.sha256)
    weights = {name.removeprefix(WEIGHTS): tensors.pop(name) for name in list(tensors) if name.startswith(WEIGHTS)}
    try:
        maps = EarlyMaps.of_weights(facts.network, facts.modules, weights) if facts.network else None
        look = Look(**{name: value.double().numpy() for name, value in tensors.items()}, maps=maps)
        width = numbers + (len(maps.statistics(np.zeros((3, 32, 32), np.uint8))) if maps else 0)
        look.distance(np.zeros((1, width)))
        look.along(np.zeros((1, width)))
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RunError(
            f"{file.path} does not belong to the limits beside it ({shortened(repr(error), LINE)}). {file.remedy}"
        ) from error
    return look
