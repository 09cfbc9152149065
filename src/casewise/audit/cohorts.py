"""Whether the images of an external cohort can be told from those of the study by simple features."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.audit.metadata import file_features, file_rate
from casewise.audit.probes import FEWEST_OF_CLASS, Floats, Labels, adjusted, probe
from casewise.cohort.cohort import Cohort
from casewise.modalities.store.store import TileStore

# Raise it whenever the comparison may give other figures for another reason than its constants and those of the probes.
ALGORITHM = 1
SIDE = 16
MOST_SUBJECTS = 1000
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# The probes rank scores of images within a fold, and a class is a cohort.
COHORTS = ("own", "external")


def compare_cohorts(
    own: tuple[Cohort, TileStore], external: tuple[Cohort, TileStore], *, permutations: int, seed: int
) -> dict[str, Any]:
    """Predict from which of two cohorts an image is, with one image of each subject, in folds by subject.

    The evidence is `thumbnail` (16 × 16 grey values of the image as networks see it, with any bars), `intensities`
    (quantiles, mean, standard deviation, and shares of black and white) and `files` (size, format, compression).

    Returns:
        `subjects` (own, external) and `tests`: for each evidence `auroc`, `p` by permutation and `p_adjusted` for all
        tests. `tests` is empty if a cohort has fewer than five subjects, or both have fewer than twenty together.
    """
    rows = [_one_of_each(cohort.images, seed) for cohort, _ in (own, external)]
    subjects = [
        f"{number} {name}"
        for number, ((cohort, _), numbers) in enumerate(zip((own, external), rows, strict=True))
        for name in cohort.images["subject"].astype(str).iloc[numbers]
    ]
    counts = [len(numbers) for numbers in rows]
    result: dict[str, Any] = {"subjects": dict(zip(COHORTS, counts, strict=True)), "tests": {}}
    cohort_numbers = np.repeat([0.0, 1.0], counts)
    labels = Labels.of(cohort_numbers, subjects, COHORTS, permutations=permutations, seed=seed)
    if labels is None or min(counts) < FEWEST_OF_CLASS:
        return result
    stores = [(store, numbers) for (_, store), numbers in zip((own, external), rows, strict=True)]
    # one image in memory at a time
    pairs = [
        (thumbnail(image), intensities(image))
        for image in (_grey(store, int(row)) for store, numbers in stores for row in numbers)
    ]
    index = pd.concat([store.index.iloc[numbers] for store, numbers in stores], ignore_index=True)
    features = {
        "thumbnail": np.stack([small for small, _ in pairs]),
        "intensities": np.stack([values for _, values in pairs]),
        "files": np.column_stack([file_features(index, subjects), file_rate(index)]),
    }
    probes = {name: probe(_varied(values), labels, seed=seed) for name, values in features.items()}
    tested = {name: answer for name, answer in probes.items() if answer is not None}
    for (name, answer), p in zip(tested.items(), adjusted(list(tested.values())), strict=True):
        result["tests"][name] = {"auroc": answer.value, "p": answer.p, "p_adjusted": p}
    return result


def thumbnail(image: Floats) -> Floats:
    """(256,) the mean grey of 16 × 16 cells of an image (H, W)."""
    method = cv2.INTER_AREA if min(image.shape) >= SIDE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (SIDE, SIDE), interpolation=method), np.float32).ravel()


def intensities(image: Floats) -> Floats:
    """(11,) quantiles, mean, standard deviation, and the shares of black and of white of an image (H, W) of 0–255.

    >>> intensities(np.full((4, 4), 255.0))[[3, 7, 8, 9, 10]].tolist()
    [255.0, 255.0, 0.0, 0.0, 1.0]
    """
    extremes = [(image < 1).mean(), (image > 254).mean()]
    return np.array([*np.quantile(image, QUANTILES), image.mean(), image.std(), *extremes])


def _grey(store: TileStore, row: int) -> Floats:
    return np.asarray(store.tiles[row].mean(axis=0, dtype=np.float32))


def _varied(features: Floats) -> Floats:
    """The columns in which at least five rows differ from the commonest value."""
    counts = [np.unique(column, return_counts=True)[1].max() for column in features.T]
    return features[:, len(features) - np.array(counts, int) >= FEWEST_OF_CLASS]


def _one_of_each(images: pd.DataFrame, seed: int) -> NDArray[np.int64]:
    """The numbers of one image of each subject, at most a thousand, drawn by the seed; in order."""
    shuffled = np.random.default_rng([seed, SIDE]).permutation(len(images))
    first = ~images["subject"].astype(str).iloc[shuffled].duplicated().to_numpy()
    return np.sort(shuffled[first][:MOST_SUBJECTS])
