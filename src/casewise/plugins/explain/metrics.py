"""Measures of a saliency map: against a mask, against naive maps, and by deletion of the pixels it highlights.

Sources: Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016 (pointing game); Petsiuk, Das and
Saenko, "RISE", BMVC 2018 (deletion curve).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# The measures of one map and its mask, and of naive maps.
MEASURES = (
    *("hit", "share_inside", "chance_hit", "mask_share"),
    *("tile_centre_hit", "tile_centre_share", "panel_centre_hit", "panel_centre_share"),
)


def share_inside(values: np.ndarray, mask: np.ndarray) -> float:
    """The share of a map's sum inside the mask; a map of zeros counts as uniform. NaN for an empty mask.

    Args:
        values: (H, W), or any shape, at least 0.
        mask: of the same shape, true inside.

    >>> share_inside(np.array([[3.0, 1.0]]), np.array([[True, False]]))
    0.75
    """
    if not mask.any():
        return float("nan")
    total = float(values.sum())
    return float(values[mask].sum() / total) if total > 0 else float(mask.mean())


def hit(values: np.ndarray, mask: np.ndarray) -> float:
    """1 if the peak lies inside the mask, else 0; for several equal peaks, the share inside. NaN for an empty mask.

    A uniform map therefore hits as often as a random pixel.

    >>> hit(np.array([[0.0, 1.0, 1.0]]), np.array([[True, True, False]]))
    0.5
    """
    if not mask.any():
        return float("nan")
    return float(mask[values == values.max()].mean())


def centre_prior(shape: tuple[int, int], *, grid: tuple[int, int] = (1, 1)) -> np.ndarray:
    """A Gaussian at the centre of a map, or of each tile of a grid (rows, columns): a prior without a network.

    (H, W), peak 1; the standard deviation is a quarter of a tile's side.

    >>> centre_prior((3, 3))[1].round(2).tolist()
    [0.41, 1.0, 0.41]
    """
    sides = []
    for length, count in zip(shape, grid, strict=True):
        side = length // count
        distance = (np.arange(side) - (side - 1) / 2) / (side / 4)
        sides.append(np.tile(np.exp(-0.5 * distance**2), count))
    prior = np.outer(*sides)
    return np.asarray(prior / prior.max())


def random_map(shape: tuple[int, int], *, seed: int) -> np.ndarray:
    """Noise as coarse as the maps of networks, 7 cells a side: (H, W) from 0 to 1, with the same law at every pixel.

    >>> bool((random_map((8, 8), seed=1) == random_map((8, 8), seed=1)).all())
    True
    """
    rng = np.random.default_rng(seed)
    noise = rng.random((7, 7))
    rows, columns = (np.arange(length) * 7 // length for length in shape)
    # shifted cyclically, so that no pixel is always at the centre of a cell
    shift = (int(rng.integers(shape[0])), int(rng.integers(shape[1])))
    return np.asarray(np.roll(noise[np.ix_(rows, columns)], shift, axis=(0, 1)))


def by_slice(values: np.ndarray, slots: np.ndarray, *, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A panel's map (H, W) by slice, (U, h, w), and the slices (U,); a repeated slice is averaged.

    >>> by_slice(np.array([[1.0, 3.0, 5.0]]), np.array([0, 0, 1]), grid=(1, 3))[0].ravel().tolist()
    [2.0, 5.0]
    """
    rows, columns = grid
    height, width = values.shape[0] // rows, values.shape[1] // columns
    slot_maps = values.reshape(rows, height, columns, width).transpose(0, 2, 1, 3).reshape(-1, height, width)
    filled = slots >= 0
    slices, index, counts = np.unique(slots[filled], return_inverse=True, return_counts=True)
    total = np.zeros((len(slices), height, width))
    np.add.at(total, index, slot_maps[filled])
    return total / counts[:, None, None], slices


def chance_hit(
    mask: np.ndarray, slots: np.ndarray, *, grid: tuple[int, int], peaks: tuple[np.ndarray, np.ndarray]
) -> float:
    """The expected hit rate on the mask (N, h, w) when the cells of a map are shuffled: the mean over all shuffles.

    Only the position of the highest cell matters, and all positions are equally likely: the share of cells that hit.

    Args:
        peaks: (H, rows of cells) and (W, columns of cells) from
            `casewise.plugins.explain.methods.dispatch.peak_pixels`.

    >>> mask = np.zeros((1, 2, 4)); mask[0, :, 0] = 1
    >>> chance_hit(mask, np.array([0]), grid=(1, 1), peaks=(np.eye(2), np.eye(4)[:, [0, 2]]))
    0.5
    """
    _, index, counts = np.unique(slots, return_inverse=True, return_counts=True)
    weight = np.where(slots >= 0, 1 / counts[index], 0.0)
    inside = as_panel(mask[slots.clip(0)] * weight[:, None, None], grid)
    everywhere = as_panel(np.broadcast_to(weight[:, None, None], (len(slots), *mask.shape[1:])), grid)
    hits, total = (float((peaks[0].T @ panel @ peaks[1]).sum()) for panel in (inside, everywhere))
    return hits / total if total > 0 else float("nan")


def as_panel(tiles: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Tiles (K, h, w), row by row, as one panel (rows·h, columns·w).

    >>> as_panel(np.eye(2, dtype=int)[:, :, None], (1, 2)).tolist()
    [[1, 0], [0, 1]]
    """
    height, width = tiles.shape[1:]
    return tiles.reshape(*grid, height, width).transpose(0, 2, 1, 3).reshape(grid[0] * height, grid[1] * width)


def measure_map(
    values: np.ndarray,
    mask: np.ndarray,
    slots: np.ndarray,
    *,
    grid: tuple[int, int],
    peaks: tuple[np.ndarray, np.ndarray],
) -> dict[str, float]:
    """The measures of one map against its mask, by name; all NaN if no slice of the panel shows the mask.

    `chance_hit` refers to the map with shuffled cells. `mask_share` is the share of pixels in the mask, the expected
    share of a uniform map. The centre of each tile and the centre of the panel are priors that need no network.

    Args:
        values: (H, W), not scaled to 0–1, because the share inside depends on the scale.
        mask: (N, h, w) on the slices of the case.
        slots: (K,) the slice in each slot of the panel, row by row; −1 for an empty slot.
        peaks: see `chance_hit`.
    """
    slice_maps, slices = by_slice(values, slots, grid=grid)
    inside = mask[slices]
    if not inside.any():
        return dict.fromkeys(MEASURES, float("nan"))
    shape = (values.shape[0], values.shape[1])
    measures = {"hit": hit(slice_maps, inside), "share_inside": share_inside(slice_maps, inside)}
    measures |= {"chance_hit": chance_hit(mask, slots, grid=grid, peaks=peaks), "mask_share": float(inside.mean())}
    for name, tiles in (("tile_centre", grid), ("panel_centre", (1, 1))):
        prior, _ = by_slice(centre_prior(shape, grid=tiles), slots, grid=grid)
        measures |= {f"{name}_hit": hit(prior, inside), f"{name}_share": share_inside(prior, inside)}
    return measures


def delete_pixels(
    panel: np.ndarray,
    values: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    *,
    steps: int = 20,
    seed: int = 0,
) -> np.ndarray:
    """Set pixels to 0 in the order of a map, the highest first: the outputs of the network, (steps + 1,).

    Args:
        panel: (C, H, W); NaN (a missing sequence) stays.
        values: (H, W); the order of equal pixels is random, by `seed`.
        predict: maps panels (N, C, H, W) to (N,), for example the probability of the explained class.
        steps: the number of equal steps.

    >>> bright = np.zeros((1, 2, 2)); bright[0, 0, 0] = 1.0
    >>> delete_pixels(bright, bright[0], lambda panels: panels.sum(axis=(1, 2, 3)), steps=4).tolist()
    [1.0, 0.0, 0.0, 0.0, 0.0]
    """
    flat = np.asarray(values, dtype=float).ravel()
    shuffled = np.random.default_rng(seed).permutation(flat.size)
    order = shuffled[np.argsort(-flat[shuffled], kind="stable")]
    rank = np.empty(flat.size, dtype=int)
    rank[order] = np.arange(flat.size)
    shares = np.linspace(0, 1, steps + 1)
    deleted = (rank[None] < np.round(shares * flat.size)[:, None]).reshape(steps + 1, 1, *values.shape)
    return np.asarray(predict(np.where(deleted & ~np.isnan(panel), panel.dtype.type(0), panel)), dtype=float)
