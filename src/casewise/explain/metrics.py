"""How good a map of influence is: against a mask, against naive maps, and by taking away what it points at.

Sources: Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016 (pointing game); Petsiuk, Das and
Saenko, "RISE", BMVC 2018 (deletion curve).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from casewise.errors import CasewiseError

# Of one map and its mask; naive maps beside it.
FIGURES = (
    *("hit", "near", "share_inside", "chance_hit", "chance_near", "mask_share"),
    *("tile_centre_hit", "tile_centre_share", "panel_centre_hit", "panel_centre_share"),
)


def share_inside(values: np.ndarray, mask: np.ndarray) -> float:
    """Of all influence, the share inside the mask; a map of zeros counts as the same everywhere. NaN: empty mask.

    Args:
        values: (H, W), or any shape, not below 0.
        mask: of the same shape, true inside.

    >>> share_inside(np.array([[3.0, 1.0]]), np.array([[True, False]]))
    0.75
    """
    values, mask = _alike(values, mask)
    if not mask.any():
        return float("nan")
    total = float(values.sum())
    return float(values[mask].sum() / total) if total > 0 else float(mask.mean())


def hit(values: np.ndarray, mask: np.ndarray) -> float:
    """Whether the peak lies inside the mask: 1 or 0; of several equal peaks, the share that does. NaN: empty mask.

    So a map that is the same everywhere hits as often as a pixel drawn at random.

    >>> hit(np.array([[0.0, 1.0, 1.0]]), np.array([[True, True, False]]))
    0.5
    """
    values, mask = _alike(values, mask)
    if not mask.any():
        return float("nan")
    return float(mask[values == values.max()].mean())


def centre_prior(shape: tuple[int, int], *, grid: tuple[int, int] = (1, 1), spread: float = 0.25) -> np.ndarray:
    """A Gaussian at the centre of a map, or of each tile of a grid: what one knows without looking. (H, W), peak 1.

    Args:
        grid: rows and columns of tiles.
        spread: the standard deviation as a share of a tile's side.

    >>> centre_prior((3, 3))[1].round(2).tolist()
    [0.41, 1.0, 0.41]
    """
    sides = []
    for length, count in zip(shape, grid, strict=True):
        if length % count:
            raise CasewiseError(f"explain: a map of {shape} pixels is no grid of {grid[0]} x {grid[1]} tiles.")
        side = length // count
        away = (np.arange(side) - (side - 1) / 2) / (spread * side)
        sides.append(np.tile(np.exp(-0.5 * away**2), count))
    prior = np.outer(*sides)
    return np.asarray(prior / prior.max())


def random_map(shape: tuple[int, int], *, seed: int, cells: int = 7) -> np.ndarray:
    """Noise as coarse as the maps of networks, `cells` a side: (H, W) from 0 to 1, any pixel as likely as any other.

    >>> bool((random_map((8, 8), seed=1) == random_map((8, 8), seed=1)).all())
    True
    """
    rng = np.random.default_rng(seed)
    noise = rng.random((cells, cells))
    rows, columns = (np.arange(length) * cells // length for length in shape)
    # turned round the edges, so that no pixel is always in the middle of a cell
    by = (int(rng.integers(shape[0])), int(rng.integers(shape[1])))
    return np.asarray(np.roll(noise[np.ix_(rows, columns)], by, axis=(0, 1)))


def by_slice(values: np.ndarray, slots: np.ndarray, *, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A panel's map (H, W) by slice, (U, h, w), and which slices, (U,): one that stands twice counts once, its mean.

    >>> by_slice(np.array([[1.0, 3.0, 5.0]]), np.array([0, 0, 1]), grid=(1, 3))[0].ravel().tolist()
    [2.0, 5.0]
    """
    rows, columns = grid
    height, width = values.shape[0] // rows, values.shape[1] // columns
    cut = values.reshape(rows, height, columns, width).transpose(0, 2, 1, 3).reshape(-1, height, width)
    there = slots >= 0
    kept, place, times = np.unique(slots[there], return_inverse=True, return_counts=True)
    total = np.zeros((len(kept), height, width))
    np.add.at(total, place, cut[there])
    return total / times[:, None, None], kept


def chance_hit(
    mask: np.ndarray, slots: np.ndarray, *, grid: tuple[int, int], peaks: tuple[np.ndarray, np.ndarray]
) -> float:
    """How often the peak lies in the mask (N, h, w) when the cells of a map are shuffled: the mean over all shuffles.

    Only where the highest cell comes to lie matters, and any place is as likely: the share of places that hit.

    Args:
        peaks: (H, rows of cells) and (W, columns of cells), as `casewise.explain.methods.receptive_field.peaks_of`
            has them.

    >>> mask = np.zeros((1, 2, 4)); mask[0, :, 0] = 1
    >>> chance_hit(mask, np.array([0]), grid=(1, 1), peaks=(np.eye(2), np.eye(4)[:, [0, 2]]))
    0.5
    """
    _, place, times = np.unique(slots, return_inverse=True, return_counts=True)
    weight = np.where(slots >= 0, 1 / times[place], 0.0)
    inside = _laid(mask[slots.clip(0)] * weight[:, None, None], grid)
    every = _laid(np.broadcast_to(weight[:, None, None], (len(slots), *mask.shape[1:])), grid)
    hits, all_of = (float((peaks[0].T @ one @ peaks[1]).sum()) for one in (inside, every))
    return hits / all_of if all_of > 0 else float("nan")


def _laid(tiles: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Tiles (K, h, w) row by row as one panel."""
    height, width = tiles.shape[1:]
    return tiles.reshape(*grid, height, width).transpose(0, 2, 1, 3).reshape(grid[0] * height, grid[1] * width)


def widened(mask: np.ndarray, by: tuple[float, float]) -> np.ndarray:
    """Masks (N, h, w) and all within so many pixels up and down, and to the sides, of the same slice.

    >>> widened(np.array([[[0, 0, 1, 0, 0]]]), (0.5, 1.9)).astype(int).tolist()
    [[[0, 1, 1, 1, 0]]]
    """
    from scipy.ndimage import maximum_filter

    return np.asarray(maximum_filter(np.asarray(mask, dtype=bool), size=(1, 2 * int(by[0]) + 1, 2 * int(by[1]) + 1)))


def measured(
    values: np.ndarray,
    mask: np.ndarray,
    slots: np.ndarray,
    *,
    grid: tuple[int, int],
    peaks: tuple[np.ndarray, np.ndarray],
) -> dict[str, float]:
    """The figures of one map against its mask, by name; NaN all through where no slice of the panel shows the mask.

    `near` is a hit on the mask widened by half a cell: a map tells where its peak is to half a cell, and no better.
    `chance_hit` and `chance_near` are of the map with its cells shuffled, `mask_share` the share of the pixels in the
    mask: what a map that says nothing would have inside. The centre of each tile and that of the whole panel are known
    without looking.

    Args:
        values: (H, W) as the network has it, not stretched to 0–1: the share inside depends on it.
        mask: (N, h, w) on the slices of the case.
        slots: (K,) which slice stands in each place of the panel, row by row; −1 for an empty place.
        peaks: see `chance_hit`.
    """
    own, kept = by_slice(values, slots, grid=grid)
    inside = mask[kept]
    if not inside.any():
        return dict.fromkeys(FIGURES, float("nan"))
    shape = (values.shape[0], values.shape[1])
    wide = widened(mask, (shape[0] / peaks[0].shape[1] / 2, shape[1] / peaks[1].shape[1] / 2))
    found = {"hit": hit(own, inside), "near": hit(own, wide[kept]), "share_inside": share_inside(own, inside)}
    found |= {"chance_hit": chance_hit(mask, slots, grid=grid, peaks=peaks), "mask_share": float(inside.mean())}
    found["chance_near"] = chance_hit(wide, slots, grid=grid, peaks=peaks)
    for name, tiles in (("tile_centre", grid), ("panel_centre", (1, 1))):
        prior, _ = by_slice(centre_prior(shape, grid=tiles), slots, grid=grid)
        found |= {f"{name}_hit": hit(prior, inside), f"{name}_share": share_inside(prior, inside)}
    return found


@dataclass(frozen=True, eq=False)
class Deletion:
    """What a network says as more and more of what a map points at is taken away.

    `shares`: (steps + 1,) of the pixels taken away, from 0 to 1. `values`: (steps + 1,) what the network said.
    `area`: under the curve, in the units of `values`; the lower, the better the map knew what mattered.
    """

    shares: np.ndarray
    values: np.ndarray
    area: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"shares": self.shares.tolist(), "values": self.values.tolist(), "area": self.area}


def deletion(
    panel: np.ndarray,
    values: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    *,
    steps: int = 20,
    fill: float = 0.0,
    seed: int = 0,
) -> Deletion:
    """Take pixels away from the most influential one on, and ask the network each time.

    Args:
        panel: (C, H, W); NaN (a missing sequence) stays.
        values: (H, W); among equal pixels the order is drawn by `seed`.
        predict: takes panels (N, C, H, W), gives (N,), for example the probability of the class explained.
        steps: in how many equal parts the pixels are taken away.
        fill: what takes their place.

    >>> bright = np.zeros((1, 2, 2)); bright[0, 0, 0] = 1.0
    >>> found = deletion(bright, bright[0], lambda panels: panels.sum(axis=(1, 2, 3)), steps=4)
    >>> found.values.tolist(), found.area
    ([1.0, 0.0, 0.0, 0.0, 0.0], 0.125)
    """
    if steps < 1 or panel.ndim != 3 or values.shape != panel.shape[1:]:
        raise CasewiseError(f"explain: a map of {values.shape} and {steps} steps do not fit a panel {panel.shape}.")
    flat = np.asarray(values, dtype=float).ravel()
    shuffled = np.random.default_rng(seed).permutation(flat.size)
    order = shuffled[np.argsort(-flat[shuffled], kind="stable")]
    place = np.empty(flat.size, dtype=int)
    place[order] = np.arange(flat.size)
    shares = np.linspace(0, 1, steps + 1)
    gone = (place[None] < np.round(shares * flat.size)[:, None]).reshape(steps + 1, 1, *values.shape)
    told = np.asarray(predict(np.where(gone & ~np.isnan(panel), panel.dtype.type(fill), panel)), dtype=float)
    if told.shape != shares.shape:
        raise CasewiseError(f"explain: predict must give one number a panel, {shares.shape}; it gave {told.shape}.")
    return Deletion(shares, told, float(np.trapezoid(told, shares)))


def _alike(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, mask = np.asarray(values, dtype=float), np.asarray(mask).astype(bool)
    if values.shape != mask.shape:
        raise CasewiseError(f"explain: a map of {values.shape} cannot be measured against a mask of {mask.shape}.")
    if not np.isfinite(values).all() or values.min(initial=0) < 0:
        raise CasewiseError("explain: a map must hold finite numbers not below 0.")
    return values, mask
