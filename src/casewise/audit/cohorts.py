"""Whether simple features distinguish the images of an external cohort from the study's."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from casewise.audit.metadata import file_features, file_rate
from casewise.audit.probes import FEWEST_OF_CLASS, Floats, Labels, ProbeResult, adjusted, probe
from casewise.cohort.cohort import Cohort
from casewise.modalities.store.store import TileStore

SIDE = 16
MOST_SUBJECTS = 1000
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# The probes rank scores of images within a fold, and a class is a cohort.
COHORTS = ("own", "external")


@threadpool_limits.wrap(limits=1, user_api="blas")
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
    counts = [len(numbers) for numbers in rows]
    subjects = [
        f"{number} {name}"
        for number, (cohort, _) in enumerate((own, external))
        for name in cohort.images["subject"].astype(str).iloc[rows[number]]
    ]
    tests: dict[str, dict[str, float]] = {}
    result = {"subjects": dict(zip(COHORTS, counts, strict=True)), "tests": tests}
    labels = Labels.of(np.repeat([0.0, 1.0], counts), subjects, COHORTS, permutations=permutations, seed=seed)
    if labels is None or min(counts) < FEWEST_OF_CLASS:
        return result
    stores = [(store, numbers) for (_, store), numbers in zip((own, external), rows, strict=True)]
    # one image in memory at a time
    tiles = (store.tiles[int(row)] for store, numbers in stores for row in numbers)
    images = (np.asarray(tile.mean(axis=0, dtype=np.float32)) for tile in tiles)
    thumbnails, values = zip(*((thumbnail(image), intensities(image)) for image in images), strict=True)
    index = pd.concat([store.index.iloc[numbers] for store, numbers in stores], ignore_index=True)
    files = np.column_stack([file_features(index, subjects), file_rate(index)])
    tested: dict[str, ProbeResult] = {}
    for name, features in (("thumbnail", np.stack(thumbnails)), ("intensities", np.stack(values)), ("files", files)):
        # of columns in which fewer than five rows differ from the commonest value, nothing can be learned
        commonest = np.array([np.unique(column, return_counts=True)[1].max() for column in features.T], int)
        varying = features[:, len(features) - commonest >= FEWEST_OF_CLASS]
        if (answer := probe(varying, labels, seed=seed)) is not None:
            tested[name] = answer
    for (name, answer), p in zip(tested.items(), adjusted(list(tested.values())), strict=True):
        tests[name] = {"auroc": answer.value, "p": answer.p, "p_adjusted": p}
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


def _one_of_each(images: pd.DataFrame, seed: int) -> NDArray[np.int64]:
    """The numbers of one image of each subject, at most a thousand, drawn by the seed; in order."""
    shuffled = np.random.default_rng([seed, SIDE]).permutation(len(images))
    first = ~images["subject"].astype(str).iloc[shuffled].duplicated().to_numpy()
    return np.sort(shuffled[first][:MOST_SUBJECTS])
