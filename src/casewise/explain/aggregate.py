"""Figures of many maps as means with intervals by subject, beside random weights, chance and the stronger prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from casewise.evaluation.bootstrap import PLAN, Estimate, Plan, draw, sum_by_subject, with_intervals
from casewise.explain.metrics import FIGURES

if TYPE_CHECKING:
    import pandas as pd

PRIORS = ("tile_centre", "panel_centre")
RANDOM = ("random_weights_hit", "random_weights_near", "random_weights_share")
# Paired differences: the first less the second.
AGAINST = {
    "hit_over_random_weights": ("hit", "random_weights_hit"),
    "near_over_random_weights": ("near", "random_weights_near"),
    "hit_over_prior": ("hit", "prior_hit"),
    "hit_over_chance": ("hit", "chance_hit"),
    "share_over_random_weights": ("share_inside", "random_weights_share"),
    "share_over_prior": ("share_inside", "prior_share"),
}
HITS = (
    *("hit", "near", "random_weights_hit", "random_weights_near", "prior_hit", "chance_hit", "chance_near"),
    *("tile_centre_hit", "panel_centre_hit"),
)


def stronger(table: pd.DataFrame) -> dict[str, str]:
    """Which centre prior does better over all cases, by `hit` and by `share`: what a network is held against.

    >>> import pandas as pd
    >>> stronger(pd.DataFrame({"tile_centre_hit": [0.1], "panel_centre_hit": [0.4], "tile_centre_share": [0.2],
    ...     "panel_centre_share": [0.1]}))
    {'hit': 'panel_centre', 'share': 'tile_centre'}
    """
    return {name: max(PRIORS, key=lambda prior: float(table[f"{prior}_{name}"].mean())) for name in ("hit", "share")}


def summary(
    table: pd.DataFrame,
    drawn: np.ndarray,
    *,
    prior: Mapping[str, str],
    plan: Plan = PLAN,
) -> dict[str, Estimate]:
    """The mean over cases of every figure and the paired differences of `AGAINST`, with intervals by subject.

    Resamples draw subjects and, of each fold, the networks with random weights. Where all or none hit, a resample is
    like the other: there the interval is Clopper and Pearson's (1934) of the subjects.

    Args:
        table: a row a case with `subject`, `fold` and the `FIGURES`; rows with NaN are left out.
        drawn: (N, D, 3) of each row with D networks of random weights, the figures of `RANDOM`.
        prior: of `hit` and of `share`, which of `PRIORS` is meant by `prior_hit` and `prior_share`.
    """
    kept = table["mask_share"].notna().to_numpy()
    table, drawn = table[kept], drawn[kept]
    if table.empty:
        return {}
    own = {name: table[name].to_numpy(dtype=float) for name in FIGURES}
    own |= {f"prior_{name}": table[f"{prior[name]}_{name}"].to_numpy(dtype=float) for name in ("hit", "share")}
    subjects = table["subject"].astype(str).to_numpy()
    sums = sum_by_subject(np.column_stack([np.ones(len(table)), *own.values()]), subjects)
    counts = draw(len(sums), plan)
    totals = counts @ sums
    samples = {name: totals[:, n + 1] / totals[:, 0] for n, name in enumerate(own)}
    points = {name: float(values.mean()) for name, values in own.items()}
    folds = sum_by_subject(table["fold"].to_numpy(dtype=float), subjects) / sums[:, 0]
    picked = _picked(folds, drawn.shape[1], plan)
    for place, name in enumerate(RANDOM):
        values = drawn[:, :, place]
        by_subject = sum_by_subject(values, subjects)
        over = sum(
            ((counts[:, folds == fold] @ by_subject[folds == fold]) * often).sum(axis=1)
            for fold, often in picked.items()
        )
        samples[name], points[name] = over / totals[:, 0], float(values.mean())
        own[name] = values.mean(axis=1)
    for name, (one, other) in AGAINST.items():
        samples[name], points[name] = samples[one] - samples[other], points[one] - points[other]
    found = with_intervals(
        {name: np.array([value]) for name, value in points.items()},
        {name: values[:, None] for name, values in samples.items()},
        lambda name, learner: "no case has a mask",
        plan,
        n_subjects=len(sums),
        n_cases=int(table["case"].nunique()),
    )[0]
    return _exact(found, own, plan)


def _picked(folds: np.ndarray, draws: int, plan: Plan) -> dict[float, np.ndarray]:
    """How often each random network of a fold is taken in each resample, as shares: (resamples, draws)."""
    rng = np.random.default_rng([plan.seed, draws])
    even = np.full(draws, 1 / draws)
    return {float(f): rng.multinomial(draws, even, size=plan.resamples) / draws for f in np.unique(folds)}


def _exact(found: dict[str, Estimate], own: Mapping[str, np.ndarray], plan: Plan) -> dict[str, Estimate]:
    """Intervals where all or none hit, which resampling cannot tell; and of the differences that such rates are in."""
    tail = (1 - plan.confidence) / 2
    sure = set()
    for name in HITS:
        told = found[name]
        least = tail ** (1 / told.n_subjects)
        if bool((own[name] == 0).all()):
            found[name] = replace(told, low=0.0, high=1 - least, reason=None)
        elif bool((own[name] == 1).all()):
            found[name] = replace(told, low=least, high=1.0, reason=None)
        else:
            continue
        sure.add(name)
    for name, (one, other) in AGAINST.items():
        ends = [found[part] for part in (one, other)]
        if sure & {one, other} and all(end.low is not None and end.high is not None for end in ends):
            low, high = ends[0].low - ends[1].high, ends[0].high - ends[1].low  # type: ignore[operator]
            found[name] = replace(found[name], low=low, high=high, reason=None)
    return found
