"""A guess at the persons of images that name none: neighbouring file numbers whose pictures are similar.

Colours, layout and texture of two pictures are compared. Neighbours are joined if they are more similar than most pairs
of files with distant numbers, and joined neighbours form a group. `docs/results/patients.md` states how often that is
right where persons are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from casewise.splits.file_numbers import file_series

# The longest side in pixels of the pictures that are compared.
SIDE = 128
# Neighbours are joined if at most this fraction of distant pairs is as similar; chosen in docs/results/patients.md.
TAIL = 0.15
# Ranks between files of a series whose persons probably differ, and the fewest such pairs that are compared with.
DISTANT, FEWEST_DISTANT = 20, 1_000
PERMUTATIONS = 199
# The guess is offered if so few shuffled orders have as many similar neighbours.
HIGHEST_P = 0.01


@dataclass(frozen=True)
class Guess:
    """Groups of images that may show one person.

    Attributes:
        group: (N,) the group of each image; of most images their own.
        joined: pairs of neighbours that are similar, of `neighbours`; `by_chance` would be among shuffled numbers.
        p: how often shuffled numbers have as many similar neighbours.
    """

    group: np.ndarray
    joined: int
    neighbours: int
    by_chance: float
    p: float


def picture_features(pictures: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Colours, layout and texture (N, d) of pictures (H, W, 3) `uint8` RGB, each of variance 1 in all.

    Colours: the square roots of a histogram of Lab values; layout: 4 x 4 mean Lab values; texture: logarithms of the
    mean differences between neighbouring pixels, at three resolutions.
    """
    colours, layout, texture = [], [], []
    for picture in pictures:
        square = cv2.resize(np.ascontiguousarray(picture), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(square, cv2.COLOR_RGB2LAB)
        counts = cv2.calcHist([lab], [0, 1, 2], None, [8, 16, 16], [0, 256, 64, 192, 64, 192])
        colours.append(np.sqrt(counts.ravel() / SIDE**2))
        layout.append(cv2.resize(lab.astype(np.float32), (4, 4), interpolation=cv2.INTER_AREA).ravel())
        grey = lab[..., 0].astype(np.float32)
        scales = [cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA) for side in (SIDE, SIDE // 2, SIDE // 4)]
        texture.append([np.log1p(np.abs(np.diff(scale, axis=axis)).mean()) for scale in scales for axis in (0, 1)])
    measures = np.array(texture) / np.maximum(np.std(texture, axis=0), 1e-6)
    return {"colours": scaled(np.array(colours)), "layout": scaled(np.array(layout)), "texture": scaled(measures)}


def scaled(features: np.ndarray) -> np.ndarray:
    """Features (N, d) around 0, whose squares add up to 1 in an image on average."""
    centred = (features - features.mean(axis=0)).astype(np.float32)
    return centred / np.float32(max(np.sqrt((centred**2).sum(axis=1).mean()), 1e-6))


def guess_subjects(
    paths: Sequence[str], features: np.ndarray, *, tail: float = TAIL, permutations: int = PERMUTATIONS, seed: int = 0
) -> Guess | None:
    """Join neighbouring files with similar features (N, d); None if numbers are too few to compare with distant ones.

    Neighbours are consecutive numbers of one series in one folder. The distant pairs, which state what is similar, are
    neighbours in shuffled orders of each series.
    """
    series = [rows for rows in file_series(paths) if len(rows) > 1]
    rank, group = np.zeros(len(paths), int), np.arange(len(paths))
    for rows in series:
        rank[rows] = np.arange(len(rows))
    last = np.cumsum([len(rows) for rows in series], dtype=int)[:-1] - 1

    def neighbours(order: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs of each series, and their distances."""
        rows = np.concatenate(order)
        first, second = np.delete(rows[:-1], last), np.delete(rows[1:], last)
        return first, second, ((features[first] - features[second]) ** 2).sum(axis=1)

    random = np.random.default_rng([seed, 15])
    shuffled = [neighbours([random.permutation(rows) for rows in series]) for _ in range(permutations if series else 0)]
    distant = [apart[np.abs(rank[first] - rank[second]) > DISTANT] for first, second, apart in shuffled]
    if sum(map(len, distant)) < FEWEST_DISTANT:
        return None
    limit = np.quantile(np.concatenate(distant), tail)
    first, second, apart = neighbours(series)
    similar, counts = apart <= limit, [int((apart <= limit).sum()) for *_, apart in shuffled]
    for i, j in zip(first[similar], second[similar], strict=True):
        group[j] = group[i]  # in the order of the series
    joined = int(similar.sum())
    p = (1 + sum(count >= joined for count in counts)) / (1 + permutations)
    return Guess(group, joined, len(first), float(np.mean(counts)), p)
