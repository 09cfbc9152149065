"""The distance of a case from the training cases of a network, in the features before its last layer.

Two parts are averaged, as in the combined index of Yue and Qin ("Reconstruction-based fault identification using a
combined index", 2001): the squared Mahalanobis distance within the first principal components of the training features,
and the squared distance from the plane of these components, each divided by its mean over the training cases. The
square root is divided by its 95th percentile among the cases that were held out from the training of the network: 1 is
the distance that one in twenty held-out cases exceeds. The percentile of training cases would be too small, because the
network was fitted to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from casewise.errors import LINE, RunError, shortened
from casewise.models.weights import read_checked

if TYPE_CHECKING:
    import pandas as pd

    from casewise.run_folder import JobFolder

QUANTILE = 0.95
# The components explain this share of the variance, with at least ten training subjects each.
EXPLAINED, MOST_COMPONENTS, SUBJECTS_PER_COMPONENT = 0.95, 64, 10


@dataclass(frozen=True, eq=False)
class FeatureDistance:
    """The training features of a network in a few numbers, without those of any case.

    Attributes:
        mean: (W,); components: (K, W), orthonormal; variances: (K,) along them; residual: (1,), the mean squared
            distance of training cases from the plane, 0 if it holds all of them. All are `float32`.
        scale: for each target, the distance that counts as 1.
        facts: numbers of training panels and subjects, and of the held-out rows behind each scale.
    """

    mean: Tensor
    components: Tensor
    variances: Tensor
    residual: Tensor
    scale: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(cls, features: Tensor, subjects: int) -> FeatureDistance | None:
        """From features (N, W) of training panels of so many subjects; None if they do not vary."""
        values = features.double()
        if len(values) < 2 or not bool(values.isfinite().all()):
            return None
        mean = values.mean(dim=0)
        centred = values - mean
        # the smaller of the two matrices of products has the same eigenvalues
        wide = centred.shape[1] > len(centred)
        squares, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
        squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
        total = float(squares.sum())
        if total <= 1e-12 * max(1.0, float(values.square().sum())):
            return None
        explaining = int((squares.cumsum(0) < EXPLAINED * total).sum()) + 1
        count = max(1, min(explaining, MOST_COMPONENTS, subjects // SUBJECTS_PER_COMPONENT))
        directions = centred.T @ vectors[:, :count] / squares[:count].sqrt() if wide else vectors[:, :count]
        rest = float(squares[count:].sum())
        residual = rest / len(values) if rest > 1e-9 * total else 0.0
        return cls(
            mean.float(),
            directions.T.float().contiguous(),
            (squares[:count] / len(values)).float(),
            torch.tensor([residual], dtype=torch.float32),
            facts={"panels": len(values), "subjects": subjects, "components": count},
        )

    def raw(self, features: Tensor) -> np.ndarray:
        """(P,) the distances of features (P, W), not scaled; NaN where a feature is not finite."""
        centred = features.double() - self.mean.double()
        along = centred @ self.components.double().T
        parts = [(along.square() / self.variances.double()).mean(dim=1)]
        if float(self.residual) > 0:
            rest = centred.square().sum(dim=1) - along.square().sum(dim=1)
            parts.append(rest.clamp(min=0) / self.residual.double())
        values: np.ndarray = torch.stack(parts).mean(dim=0).sqrt().numpy()
        return np.where(np.isfinite(values), values, np.nan)

    def scaled_by(self, held_out: pd.DataFrame) -> FeatureDistance | None:
        """With the scale of each target from rows of the predictions table with raw distances; None without any."""
        scale, counts = {}, {}
        for target, distances in held_out.groupby("target", sort=False)["distance"]:
            values = distances.dropna().to_numpy(dtype=float)
            if len(values) and (limit := held_out_quantile(values)) > 0:
                scale[str(target)], counts[str(target)] = limit, len(values)
        return replace(self, scale=scale, facts=self.facts | {"held_out": counts}) if scale else None

    def scaled_like(self, scales: Sequence[Mapping[str, float]]) -> FeatureDistance | None:
        """With the mean over other networks of the scale of each target that all of them have; None without any."""
        shared = set.intersection(*map(set, scales)) if scales else set()
        scale = {name: float(np.mean([of_network[name] for of_network in scales])) for name in sorted(shared)}
        return replace(self, scale=scale) if scale else None

    def scaled(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of the predictions table with their raw distances in units of the scale of their target."""
        return rows.assign(distance=rows["distance"] / rows["target"].map(self.scale).astype(float))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What the file beside the weights holds."""
        names = ("mean", "components", "variances", "residual")
        return {name: getattr(self, name) for name in names}

    def as_json(self, sha256: str) -> dict[str, Any]:
        """What the facts of the network state, with the checksum of the file of tensors."""
        return {"sha256": sha256, "quantile": QUANTILE, "scale": self.scale, **self.facts}


def held_out_quantile(values: np.ndarray) -> float:
    """The smallest value that at most one in twenty further cases is expected to exceed; the largest if n < 19.

    It is the ⌈0.95 (n + 1)⌉-th smallest, as in split conformal prediction (Lei and others 2018).

    >>> held_out_quantile(np.arange(1.0, 100.0)), held_out_quantile(np.array([3.0, 1.0]))
    (95.0, 3.0)
    """
    rank = math.ceil(QUANTILE * (len(values) + 1) - 1e-9)
    return float(np.sort(values)[min(rank, len(values)) - 1])


def why_no_distance(folder: JobFolder, facts: Mapping[str, Any] | None) -> str:
    """Why a network gives no distances; empty if it gives them."""
    if not facts:
        return (
            "its facts state none: it was trained by an earlier version, its training features did not vary, or it was "
            "trained on all folds and the network of a fold has none"
        )
    if not folder.distance.exists():
        name = folder.distance.path.name
        return f"{name} is missing beside its weights; copy it from the folder in which the network was trained"
    return ""


def read_distance(folder: JobFolder, facts: Mapping[str, Any] | None, width: int) -> FeatureDistance | None:
    """The distance that belongs to these facts of a network; None if it has none, see `why_no_distance`.

    Args:
        width: that of the network's features.

    Raises:
        RunError: the file beside the weights is of another training, or damaged.
    """
    if not facts or why_no_distance(folder, facts):
        return None
    try:
        tensors: Mapping[str, Any] = read_checked(folder.distance, str(facts["sha256"]))
        distance = FeatureDistance(**tensors, scale={name: float(scale) for name, scale in facts["scale"].items()})
        distance.raw(torch.zeros(1, width))
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RunError(
            f"{folder.facts.path}: the field distance, or {folder.distance.path.name} beside it, does not belong to "
            f"the network ({shortened(repr(error), LINE)}). Copy the files again, or train the network again."
        ) from error
    return distance
