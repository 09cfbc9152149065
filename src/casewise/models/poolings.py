"""How the images of a bag become one vector: one class for each kind, by the name of `panels.pooling`.

Gated attention of Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


class BagPooling(nn.Module):
    """How the features of a bag (B, K, W), where a row of NaN is an empty slot, become one vector (B, W)."""

    # as `panels.pooling` states it (`casewise.study.images.BAGS`)
    name: ClassVar[str]
    # whether the weights of tiles are learned, so that they differ within a bag
    learned: ClassVar[bool] = False

    def __init__(self, width: int) -> None:
        """`width`: that of the features."""
        super().__init__()

    def shares(self, filled: Tensor, occupied: Tensor) -> Tensor:
        """The weight of each tile (B, K), summing to 1: `filled` are features with 0 in the slots not `occupied`."""
        raise NotImplementedError

    def weights(self, features: Tensor) -> Tensor:
        """The weight of each tile of a case: (B, K), summing to 1; 0 in empty slots."""
        return self.shares(features.nan_to_num(), ~features[..., 0].isnan())


class MeanOfBag(BagPooling):
    """The mean of a bag's features: every tile has the same weight."""

    name = "maps"

    def shares(self, filled: Tensor, occupied: Tensor) -> Tensor:
        """See `BagPooling`."""
        return occupied.to(filled.dtype) / occupied.sum(dim=1, keepdim=True)

    def forward(self, features: Tensor) -> Tensor:
        """(B, K, W) → (B, W); features of single tiles (B, W) are returned unchanged."""
        return features if features.ndim == 2 else features.nanmean(dim=1)


class GatedAttention(BagPooling):
    """The mean of a bag's features, weighted by a small gated network.

    Before training all tiles have almost the same weight.
    """

    name, learned = "attention", True

    def __init__(self, width: int, hidden: int = 128) -> None:
        super().__init__(width)
        self.content, self.gate = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, 1)
        nn.init.zeros_(self.score.bias)
        nn.init.normal_(self.score.weight, std=0.01)

    def shares(self, filled: Tensor, occupied: Tensor) -> Tensor:
        """See `BagPooling`."""
        scores = self.score(torch.tanh(self.content(filled)) * torch.sigmoid(self.gate(filled))).squeeze(-1)
        return scores.masked_fill(~occupied, -torch.inf).softmax(dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, K, W) → (B, W); features of single tiles (B, W) are returned unchanged."""
        if features.ndim == 2:
            return features
        return torch.einsum("bk,bkw->bw", self.weights(features), features.nan_to_num())


# The kinds of pooling by name.
POOLINGS: dict[str, type[BagPooling]] = {kind.name: kind for kind in (MeanOfBag, GatedAttention)}
