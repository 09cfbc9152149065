"""The ways of combining the images of a case, one record each: `panels.pooling` names them.

Study files are read without torch, so this module does not import it: the functions receive tensors.

Gated attention is that of Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pooling:
    """One way of combining the images of a case.

    Attributes:
        name: as in the study file.
        text: what it takes, in the reference of the study file.
        tiles: in the report, how the features of a bag are combined; empty if predictions are combined, not features.
        shares: the weight of each tile of a bag (B, K), summing to 1 and 0 in empty slots, from the module with the
            `layers`, the features (B, K, W) with 0 in empty slots, and which slots are occupied (B, K). None: equal.
        layers: linear layers that `shares` uses, by name: the numbers of inputs, 0 for W, and of outputs. The last one
            begins near zero; with it, all tiles must have almost the same weight.
    """

    name: str
    text: str
    tiles: str = ""
    shares: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def _gated_attention(layers: Any, filled: Tensor, occupied: Tensor) -> Tensor:
    gated: Tensor = layers.content(filled).tanh() * layers.gate(filled).sigmoid()
    scores: Tensor = layers.score(gated).squeeze(-1)
    return scores.masked_fill(~occupied, -float("inf")).softmax(dim=1)


_ALL = (
    Pooling("mean", "the mean of their predictions"),
    Pooling("max", "with `by: image`, the largest number, grade or probability of the positive class"),
    Pooling(
        "maps",
        "the mean of the features of all images, which keeps positions where `recipe.pool` is `map`",
        tiles="by the mean of their features",
    ),
    Pooling(
        "attention",
        "the mean of these features with learned weights",
        tiles="each with a learned weight",
        shares=_gated_attention,
        layers={"content": (0, 128), "gate": (0, 128), "score": (128, 1)},
    ),
)
POOLINGS = {pooling.name: pooling for pooling in _ALL}
# With these a network takes a bag of single images instead of a grid, and the features are combined.
BAGS = tuple(name for name, pooling in POOLINGS.items() if pooling.tiles)
# Those for which the tiles of a bag have different weights.
WEIGHTED = tuple(name for name, pooling in POOLINGS.items() if pooling.shares)

if TYPE_CHECKING:
    PoolingName: TypeAlias = str
else:
    PoolingName = Literal[tuple(POOLINGS)]
