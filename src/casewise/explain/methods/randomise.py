"""The sanity check of explanations: with the learned weights gone, a map that still looks the same explained nothing.

Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018 (weights drawn anew from the head downwards, or
all at once; maps compared by Spearman's rank correlation and SSIM); Wang et al., "Image quality assessment: from error
visibility to structural similarity", IEEE TIP 2004 (SSIM).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn

from casewise.errors import CasewiseError, nearest
from casewise.models.backbones import Network

How: TypeAlias = Literal["cascade", "all"]
SPREAD = 0.02
SIGMA, K1, K2 = 1.5, 0.01, 0.03


@dataclass(frozen=True)
class Resemblance:
    """How much the maps of a partly randomised network resemble the learned one's, on average over panels.

    `down_to`: the last part that was randomised. `spearman` leaves out panels on which a map is the same everywhere,
    and is None where that is so on all of them; `ssim` does not.
    """

    down_to: str
    parts: int
    spearman: float | None
    ssim: float


def randomised(network: Network, *, how: How = "cascade", seed: int = 0) -> Iterator[tuple[str, Network]]:
    """Copies of a network with ever more parts drawn anew, from the head downwards; or one with all parts drawn anew.

    The copy is one and the same throughout: use it before the next is asked for. The network itself is not touched.

    Raises:
        CasewiseError: `how` is neither cascade nor all.
    """
    if how not in get_args(How):
        raise CasewiseError(f"randomise: how must be cascade or all, not {how!r}.{nearest(how, get_args(How))}")
    changed: Any = copy.deepcopy(network)
    # a block is one step, and what stands in the body beside the blocks (tokens, positions) is the last one
    parts = [("head", changed.head), *reversed(changed.blocks), ("body", changed.body)]
    done: set[int] = set()
    for number, (name, part) in enumerate(parts):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 1000 + number)
            _draw_anew(part, done)
        if how == "cascade" or number == len(parts) - 1:
            yield name if how == "cascade" else "all", changed


def _draw_anew(part: nn.Module, done: set[int]) -> None:
    """Draw what a part learned as its layers do at first; statistics of batch norms too."""
    for module in part.modules():
        if id(module) in done:
            continue
        done.add(id(module))
        own = dict(module.named_parameters(recurse=False))
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            # the generator is the processor's: a layer elsewhere would draw from another
            home = next(iter(own.values())).device if own else torch.device("cpu")
            module.to("cpu")
            reset()
            module.to(home)
            continue
        with torch.no_grad():
            for parameter in own.values():
                drawn = torch.randn(parameter.shape) * SPREAD
                parameter.copy_(drawn.to(parameter))


def resemblances(
    network: Network,
    panels: Tensor,
    maps_of: Callable[[Network, Tensor], Tensor],
    *,
    how: How = "cascade",
    seed: int = 0,
) -> list[Resemblance]:
    """Compare the maps (B, H, W) that `maps_of` gives of the learned network with those of ever more random ones.

    Explain the same class before and after: name it, rather than taking the one that is predicted.
    """
    before = maps_of(network, panels).cpu().numpy()
    told = []
    for number, (name, changed) in enumerate(randomised(network, how=how, seed=seed)):
        after = maps_of(changed, panels).cpu().numpy()
        ranks = [spearman(one, other) for one, other in zip(before, after, strict=True)]
        known = [rank for rank in ranks if not np.isnan(rank)]
        alike = [ssim(one, other) for one, other in zip(before, after, strict=True)]
        told.append(Resemblance(name, number + 1, float(np.mean(known)) if known else None, float(np.mean(alike))))
    return told


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation over the pixels of two maps; NaN where one is the same everywhere.

    >>> spearman(np.arange(4.0), np.arange(4.0) ** 2)
    1.0
    """
    from scipy.stats import rankdata

    ranks = [rankdata(np.asarray(values, dtype=float).ravel()) for values in (one, other)]
    away = [rank - rank.mean() for rank in ranks]
    width = float(np.sqrt((away[0] ** 2).sum() * (away[1] ** 2).sum()))
    return float((away[0] * away[1]).sum() / width) if width > 0 else float("nan")


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """The mean structural similarity of two maps (H, W) from 0 to 1, by Gaussian windows of 1.5 pixels.

    >>> ssim(np.eye(16), np.eye(16))
    1.0
    """
    from scipy.ndimage import gaussian_filter

    def smooth(values: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian_filter(values, SIGMA, truncate=3.5))

    x, y = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    both = smooth(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    top = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return float((top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())
