"""The sanity check for saliency maps: a map that stays the same with random weights does not explain the network.

Sources: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018 (weights are randomised from the head
downwards, or all at once; maps are compared by Spearman's rank correlation and SSIM); Wang et al., "Image quality
assessment: from error visibility to structural similarity", IEEE TIP 2004 (SSIM).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from casewise.models.backbones import Network

STD = 0.02
SIGMA, K1, K2 = 1.5, 0.01, 0.03


@dataclass(frozen=True)
class _Similarity:
    """The mean similarity over panels between maps of a partly randomised network and of the trained one.

    Attributes:
        down_to: the last layer group that was randomised.
        groups: the number of randomised layer groups.
        spearman: over panels on which neither map is uniform; None if there are none.
        ssim: over all panels.
    """

    down_to: str
    groups: int
    spearman: float | None
    ssim: float


def randomised(network: Network, *, seed: int = 0) -> Iterator[tuple[str, Network]]:
    """Copies of a network with more and more layer groups randomised from the head downwards, at last all.

    Every step yields the same copy: use it before the next step. The network itself does not change.
    """
    changed: Any = copy.deepcopy(network)
    # one step per block; the last step covers what the body holds outside its blocks (tokens, positions)
    groups = [("head", changed.head), *reversed(changed.blocks), ("body", changed.body)]
    reset_modules: set[int] = set()
    for number, (name, group) in enumerate(groups):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 1000 + number)
            _reinitialise(group, reset_modules)
        yield name, changed


def fully_randomised(network: Network, *, seed: int = 0) -> Network:
    """A copy of a network in which everything learned is random."""
    *_, (_, changed) = randomised(network, seed=seed)
    return changed


def _reinitialise(group: nn.Module, reset_modules: set[int]) -> None:
    """Draw the parameters of a layer group as at initialisation, and reset batch norm statistics."""
    for module in group.modules():
        if id(module) in reset_modules:
            continue
        reset_modules.add(id(module))
        parameters = dict(module.named_parameters(recurse=False))
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            # always drawn on the CPU, because other devices have other random generators
            device = next(iter(parameters.values())).device if parameters else torch.device("cpu")
            module.to("cpu")
            reset()
            module.to(device)
            continue
        with torch.no_grad():
            for parameter in parameters.values():
                values = torch.randn(parameter.shape) * STD
                parameter.copy_(values.to(parameter))


def similarities(
    network: Network, panels: Tensor, maps_of: Callable[[Network, Tensor], Tensor], *, seed: int = 0
) -> list[_Similarity]:
    """Compare the maps (B, H, W) that `maps_of` gives for the trained network with maps of randomised networks.

    Explain the same class before and after: name it instead of taking the predicted one.
    """
    before = maps_of(network, panels).cpu().numpy()
    steps = []
    for number, (name, changed) in enumerate(randomised(network, seed=seed)):
        after = maps_of(changed, panels).cpu().numpy()
        pairs = list(zip(before, after, strict=True))
        ranks = [spearman(first, second) for first, second in pairs]
        defined = [rank for rank in ranks if not np.isnan(rank)]
        mean_ssim = float(np.mean([ssim(first, second) for first, second in pairs]))
        steps.append(_Similarity(name, number + 1, float(np.mean(defined)) if defined else None, mean_ssim))
    return steps


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation over the pixels of two maps; NaN if one of them is uniform.

    >>> spearman(np.arange(4.0), np.arange(4.0) ** 2)
    1.0
    """
    from scipy.stats import rankdata

    ranks = [rankdata(np.asarray(values, dtype=float).ravel()) for values in (first, second)]
    centred = [rank - rank.mean() for rank in ranks]
    norm = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum() / norm) if norm > 0 else float("nan")


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """The mean structural similarity of two maps (H, W) from 0 to 1, with Gaussian windows of 1.5 pixels.

    >>> ssim(np.eye(16), np.eye(16))
    1.0
    """
    from scipy.ndimage import gaussian_filter

    def smooth(values: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian_filter(values, SIGMA, truncate=3.5))

    x, y = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())
