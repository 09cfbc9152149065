"""The limits by which new cases are flagged, from the images of training subjects and predictions out of fold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from casewise.inference.input_checks.limits import (
    MOST_OF_CASE,
    Training,
    distance_limits,
    expected_names,
    fit_limits,
)
from casewise.inference.input_checks.measures import measure
from casewise.splits.predefined import TEST

if TYPE_CHECKING:
    import pandas as pd

    from casewise.cohort.cohort import Cohort
    from casewise.modalities.base import ImageStore
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study

# At most so many images are measured, of randomly chosen cases.
MOST_IMAGES = 2000


def input_checks(
    study: Study, cohort: Cohort, store: ImageStore, splits: Splits, predictions: pd.DataFrame, folder: RunFolder
) -> None:
    """Write the limits of images and of distances; neither labels nor images of the test set are read."""
    images = cohort.images
    sides = images["subject"].astype(str).map(splits.side).fillna(TEST).to_numpy(dtype=int)
    rows = _sample(images["case"].astype(str).to_numpy(), np.flatnonzero(sides != TEST), study.seed)
    training = Training(
        measure(store, rows.tolist()),
        images["case"].astype(str).to_numpy()[rows],
        images["subject"].astype(str).to_numpy()[rows],
        sides[rows],
        images["region"].astype(str).to_numpy()[rows],
    )
    of_training = images[sides != TEST]
    sequences = _expected(of_training, "sequence") if study.fusions else ()
    limits = fit_limits(training, _expected(of_training, "region"), sequences)
    folder.input_checks.write(replace(limits, distance=distance_limits(predictions)).as_json())


def _expected(images: pd.DataFrame, column: str) -> tuple[str, ...]:
    """The names in this column that cases must have."""
    return expected_names([frozenset(names) for _, names in images.groupby("case", sort=False)[column]])


def _sample(cases: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Some of the rows, sorted: at most `MOST_OF_CASE` of a case, and of many cases those of randomly chosen ones."""
    order = np.random.default_rng(seed).permutation(rows)
    _, numbers = np.unique(cases[order], return_inverse=True)
    counts = np.zeros(numbers.max() + 1, dtype=int)
    within = np.empty(len(order), dtype=int)
    for position, number in enumerate(numbers):
        within[position] = counts[number]
        counts[number] += 1
    few = within < MOST_OF_CASE
    order, numbers = order[few], numbers[few]
    _, first = np.unique(numbers, return_index=True)
    by_case = np.argsort(np.argsort(first))[numbers]  # cases in the order of their first image
    chosen = order[np.argsort(by_case, kind="stable")][:MOST_IMAGES]
    return np.sort(chosen)
