"""How good a map of influence is: against a mask, against naive maps, and by taking away what it points at.

Sources: Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016 (pointing game); Petsiuk, Das and
Saenko, "RISE", BMVC 2018 (deletion curve).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.errors import CasewiseError
from casewise.evaluation.bootstrap import PLAN, Estimate, Plan, estimates, sum_by_subject

if TYPE_CHECKING:
    import pandas as pd

FIGURES = ("share_inside", "hit", "centre_share", "centre_hit", "random_share", "random_hit", "mask_share")
AGAINST = {
    "share_over_centre": ("share_inside", "centre_share"),
    "share_over_random": ("share_inside", "random_share"),
    "hit_over_centre": ("hit", "centre_hit"),
    "hit_over_random": ("hit", "random_hit"),
}


@dataclass(frozen=True)
class Measured:
    """One map of one case against its mask: a row of the table.

    `mask_share`: of the pixels, those in the mask; what a map that says nothing would have inside. NaN all through
    where the mask is empty: there is nothing to point at.
    """

    case: str
    subject: str
    method: str
    share_inside: float
    hit: float
    centre_share: float
    centre_hit: float
    random_share: float
    random_hit: float
    mask_share: float


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


def hit(values: np.ndarray, mask: np.ndarray, *, tolerance: float = 0.0) -> float:
    """Whether the peak lies inside the mask: 1 or 0; of several equal peaks, the share that does. NaN: empty mask.

    So a map that is the same everywhere hits as often as a pixel drawn at random. With a `tolerance`, in pixels, a peak
    that near to the mask counts (Zhang et al. take 15).

    >>> hit(np.array([[0.0, 1.0, 1.0]]), np.array([[True, True, False]]))
    0.5
    """
    values, mask = _alike(values, mask)
    if not mask.any():
        return float("nan")
    if tolerance > 0:
        from scipy.ndimage import distance_transform_edt

        mask = distance_transform_edt(~mask) <= tolerance
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


def measured(
    case: str,
    subject: str,
    method: str,
    values: np.ndarray,
    mask: np.ndarray,
    *,
    grid: tuple[int, int] = (1, 1),
    seed: int = 0,
    tolerance: float = 0.0,
) -> Measured:
    """Measure one map (H, W) against its mask, beside a centre prior and a random map of the same case.

    The random map depends on `seed` and the case alone, so that all methods of a case face the same one.
    """
    values, mask = _alike(values, mask)
    drawn = np.random.SeedSequence([seed, *case.encode()]).generate_state(1)[0]
    centre = centre_prior((values.shape[0], values.shape[1]), grid=grid)
    noise = random_map((values.shape[0], values.shape[1]), seed=int(drawn))
    shares = [share_inside(one, mask) for one in (values, centre, noise)]
    hits = [hit(one, mask, tolerance=tolerance) for one in (values, centre, noise)]
    return Measured(
        case=case,
        subject=subject,
        method=method,
        share_inside=shares[0],
        hit=hits[0],
        centre_share=shares[1],
        centre_hit=hits[1],
        random_share=shares[2],
        random_hit=hits[2],
        mask_share=float(mask.mean()) if mask.any() else float("nan"),
    )


def table_of(rows: Iterable[Measured]) -> pd.DataFrame:
    """The rows as a table: case, subject, method and the figures."""
    import pandas as pd

    return pd.DataFrame([asdict(row) for row in rows], columns=["case", "subject", "method", *FIGURES])


def summary(table: pd.DataFrame, plan: Plan = PLAN) -> dict[str, dict[str, Estimate]]:
    """The mean over cases of every figure of each method, with intervals by resampling subjects.

    Beside the figures stand the paired differences from the naive maps: `share_over_centre`, `share_over_random`,
    `hit_over_centre`, `hit_over_random`. Cases with an empty mask are left out.

    >>> rows = [measured(f"s{n}/1", f"s{n}", "rollout", np.eye(4), np.eye(4) > 0) for n in range(12)]
    >>> found = summary(table_of(rows), Plan(resamples=100))["rollout"]
    >>> found["hit"].value, found["mask_share"].value, found["share_inside"].n_subjects
    (1.0, 0.25, 12)
    """
    told: dict[str, dict[str, Estimate]] = {}
    for method, part in table.groupby("method", sort=False):
        part = part[part["mask_share"].notna()]
        terms = np.column_stack([np.ones(len(part)), *[part[name].to_numpy(dtype=float) for name in FIGURES]])
        sums = sum_by_subject(terms, part["subject"].to_numpy())[:, None, :]
        sums = sums.reshape(len(sums), 1, len(FIGURES) + 1)
        told[str(method)] = estimates(
            sums, _means, lambda name, whole: "no case has a mask", plan, n_cases=part["case"].nunique()
        )[0]
    return told


def _means(sums: np.ndarray) -> Mapping[str, np.ndarray]:
    with np.errstate(all="ignore"):
        means = sums[..., 1:] / sums[..., :1]
    found = {name: means[..., number] for number, name in enumerate(FIGURES)}
    return found | {name: found[one] - found[other] for name, (one, other) in AGAINST.items()}


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
