"""The distance from the training features of a network that was just trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from casewise.inference.distance import FeatureDistance
from casewise.run_folder import JobFolder
from casewise.study.model import mixed_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from casewise.inference.predictor import Predictor
    from casewise.modalities.dataset import FeatureData, PanelDataset

# Training panels whose features are computed once more after training.
MOST_PANELS = 1000


def training_distance(
    predictor: Predictor, panels: PanelDataset | FeatureData, fit_rows: np.ndarray, subjects: pd.Series, seed: int
) -> FeatureDistance | None:
    """The distance from the training panels `fit_rows`, at most a thousand of them, without its scale."""
    rows = evenly(fit_rows, subjects.iloc[fit_rows].to_numpy(), MOST_PANELS, seed)
    _, features = predictor.predict_with_features(panels.subset(rows.tolist()))
    return FeatureDistance.fit(features, int(subjects.iloc[rows].nunique()))


def scales_of_folds(folders: Sequence[JobFolder]) -> list[dict[str, float]]:
    """The scales of the distance in the networks of the folds; empty for one without."""
    facts = [folder.facts.read() for folder in folders]
    return [network["distance"]["scale"] if network.get("distance") else {} for network in facts]


def evenly(rows: np.ndarray, subjects: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most `most` of the rows, in order, taken in turn from each of their subjects in random order.

    >>> evenly(np.arange(6), np.array(list("aaaabb")), 4, 0).tolist()
    [1, 3, 4, 5]
    """
    if len(rows) <= most:
        return rows
    order = np.random.default_rng(mixed_seed(seed, "distance")).permutation(len(rows))
    turn = np.zeros(len(rows), int)
    counts: dict[object, int] = {}
    for position in order:
        turn[position] = counts.get(subjects[position], 0)
        counts[subjects[position]] = turn[position] + 1
    return np.sort(rows[order[np.argsort(turn[order], kind="stable")[:most]]])
