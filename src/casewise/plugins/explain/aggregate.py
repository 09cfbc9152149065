"""Means of the measures over maps, with intervals by subject and differences to random weights, chance and priors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from casewise.evaluation.bootstrap import PLAN, Estimate, Plan, draw, sum_by_subject, with_intervals
from casewise.evaluation.intervals import FEWEST
from casewise.plugins.explain.metrics import MEASURES

if TYPE_CHECKING:
    import pandas as pd

PRIORS = ("tile_centre", "panel_centre")
RANDOM = ("random_weights_hit", "random_weights_share")
# Paired differences: the first minus the second.
DIFFERENCES = {
    "hit_over_random_weights": ("hit", "random_weights_hit"),
    "hit_over_prior": ("hit", "prior_hit"),
    "hit_over_chance": ("hit", "chance_hit"),
    "share_over_random_weights": ("share_inside", "random_weights_share"),
    "share_over_prior": ("share_inside", "prior_share"),
}
HITS = ("hit", "random_weights_hit", "prior_hit", "chance_hit", "tile_centre_hit", "panel_centre_hit")


def stronger_prior(table: pd.DataFrame) -> dict[str, str]:
    """The centre prior with the larger mean over all cases, by `hit` and by `share`: the reference for a network.

    >>> import pandas as pd
    >>> stronger_prior(pd.DataFrame({"tile_centre_hit": [0.1], "panel_centre_hit": [0.4], "tile_centre_share": [0.2],
    ...     "panel_centre_share": [0.1]}))
    {'hit': 'panel_centre', 'share': 'tile_centre'}
    """
    return {name: max(PRIORS, key=lambda prior: float(table[f"{prior}_{name}"].mean())) for name in ("hit", "share")}


def summary(
    table: pd.DataFrame, random_weights: np.ndarray, *, prior: Mapping[str, str], plan: Plan = PLAN
) -> dict[str, Estimate]:
    """The mean over panels of every measure and of every paired difference, with intervals by subject.

    Resamples draw subjects and, within each fold, networks with random weights. Where all cases hit or none does,
    resamples do not vary, and the interval is that of Clopper and Pearson (1934) over subjects.

    Args:
        table: one row per panel with `subject`, `fold` and the `MEASURES`; rows with NaN are left out.
        random_weights: (N, D, 2), the measures of `RANDOM` of each row for D networks with random weights.
        prior: the entry of `PRIORS` that `prior_hit` and `prior_share` refer to, by `hit` and `share`.
    """
    defined = table["mask_share"].notna().to_numpy()
    table, random_weights = table[defined], random_weights[defined]
    if table.empty:
        return {}
    values_by_measure = {name: table[name].to_numpy(dtype=float) for name in MEASURES}
    values_by_measure |= {
        f"prior_{name}": table[f"{prior[name]}_{name}"].to_numpy(dtype=float) for name in ("hit", "share")
    }
    subjects = table["subject"].astype(str).to_numpy()
    sums = sum_by_subject(np.column_stack([np.ones(len(table)), *values_by_measure.values()]), subjects)
    counts = draw(len(sums), plan)
    totals = counts @ sums
    samples = {name: totals[:, n + 1] / totals[:, 0] for n, name in enumerate(values_by_measure)}
    points = {name: float(values.mean()) for name, values in values_by_measure.items()}
    folds = sum_by_subject(table["fold"].to_numpy(dtype=float), subjects) / sums[:, 0]
    weights = _network_weights(folds, random_weights.shape[1], plan)
    for position, name in enumerate(RANDOM):
        values = random_weights[:, :, position]
        by_subject = sum_by_subject(values, subjects)
        resampled = sum(
            ((counts[:, folds == fold] @ by_subject[folds == fold]) * shares).sum(axis=1)
            for fold, shares in weights.items()
        )
        samples[name], points[name] = resampled / totals[:, 0], float(values.mean())
        values_by_measure[name] = values.mean(axis=1)
    for name, (first, second) in DIFFERENCES.items():
        samples[name], points[name] = samples[first] - samples[second], points[first] - points[second]
    estimates = with_intervals(
        {name: np.array([value]) for name, value in points.items()},
        {name: values[:, None] for name, values in samples.items()},
        lambda name, learner: "no case has a mask",
        plan,
        n_subjects=len(sums),
        n_cases=len(table),
    )[0]
    return _exact_intervals(estimates, values_by_measure, plan)


def _network_weights(folds: np.ndarray, draws: int, plan: Plan) -> dict[float, np.ndarray]:
    """The share of each random network of a fold in each resample: (resamples, draws)."""
    rng = np.random.default_rng([plan.seed, draws])
    even = np.full(draws, 1 / draws)
    return {float(f): rng.multinomial(draws, even, size=plan.resamples) / draws for f in np.unique(folds)}


def _exact_intervals(
    estimates: dict[str, Estimate], values_by_measure: Mapping[str, np.ndarray], plan: Plan
) -> dict[str, Estimate]:
    """Exact intervals where all or no cases hit, which resampling cannot give, and for differences of such rates."""
    tail = (1 - plan.confidence) / 2
    exact = set()
    for name in HITS:
        estimate = estimates[name]
        if estimate.n_subjects < FEWEST:
            continue
        bound = tail ** (1 / estimate.n_subjects)
        if bool((values_by_measure[name] == 0).all()):
            estimates[name] = replace(estimate, low=0.0, high=1 - bound, reason=None)
        elif bool((values_by_measure[name] == 1).all()):
            estimates[name] = replace(estimate, low=bound, high=1.0, reason=None)
        else:
            continue
        exact.add(name)
    for name, pair in DIFFERENCES.items():
        first, second = (estimates[rate] for rate in pair)
        if exact & set(pair) and None not in (first.low, first.high, second.low, second.high):
            low, high = first.low - second.high, first.high - second.low  # type: ignore[operator]
            estimates[name] = replace(estimates[name], low=low, high=high, reason=None)
    return estimates
