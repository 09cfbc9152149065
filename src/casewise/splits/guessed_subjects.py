"""A guess at the persons of images that name none: neighbouring file numbers whose pictures are similar.

Colours, layout and texture of two pictures are compared. Neighbours are joined if they are more similar than most pairs
of files with distant numbers, and joined neighbours form a group. `docs/results/patients.md` states how often that is
right where persons are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from casewise.splits.file_numbers import file_series

GUESSED = "guessed_subject"
# The longest side in pixels of the pictures that are compared.
SIDE = 96
# Neighbours are joined if at most this fraction of distant pairs is as similar; chosen in docs/results/patients.md.
TAIL = 0.2
# Ranks between files of a series whose persons certainly differ, and the fewest such pairs that are compared with.
DISTANT, FEWEST_DISTANT = 20, 200
MOST_DISTANT, PERMUTATIONS = 20_000, 199
# The guess is offered if so few shuffled orders have as many similar neighbours.
HIGHEST_P = 0.01
# On four sets with known persons, from the worst to the best: percent of the pairs of one person that are found, and
# percent of the joined pairs that are strangers.
FOUND, STRANGERS = (37, 99), (14, 59)


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

    @property
    def sizes(self) -> np.ndarray:
        """The sizes of the groups of several images, smallest first."""
        sizes = np.sort(np.bincount(self.group))
        return sizes[sizes > 1]


def picture_features(pictures: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
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
    blocks = {"colours": np.array(colours), "layout": np.array(layout), "texture": np.array(texture)}
    blocks["texture"] = blocks["texture"] / np.maximum(blocks["texture"].std(axis=0), 1e-6)
    return {name: scaled(block) for name, block in blocks.items()}


def scaled(features: np.ndarray) -> np.ndarray:
    """Features (N, d) around 0, whose squares add up to 1 in an image on average."""
    centred = (features - features.mean(axis=0)).astype(np.float32)
    return centred / np.float32(max(np.sqrt((centred**2).sum(axis=1).mean()), 1e-6))


def guess_subjects(paths: Sequence[str], features: np.ndarray, *, tail: float = TAIL, seed: int = 0) -> Guess | None:
    """Join neighbouring files with similar features (N, d); None if numbers are too few to compare with distant ones.

    Neighbours are consecutive numbers of one series in one folder.
    """
    series = [rows for rows in file_series(paths) if len(rows) > 1]
    random = np.random.default_rng([seed, 15])

    def distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        chunks = range(0, len(first), 4096)
        parts = [((features[first[k : k + 4096]] - features[second[k : k + 4096]]) ** 2).sum(axis=1) for k in chunks]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def pairs(order: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate([rows[:-1] for rows in order]), np.concatenate([rows[1:] for rows in order])

    distant = _distant_pairs(series, random)
    if len(distant[0]) < FEWEST_DISTANT:
        return None
    limit = np.quantile(distance(*distant), tail)
    first, second = pairs(series)
    similar = distance(first, second) <= limit
    shuffled = [
        int((distance(*pairs([random.permutation(rows) for rows in series])) <= limit).sum())
        for _ in range(PERMUTATIONS)
    ]
    joined = int(similar.sum())
    p = (1 + sum(count >= joined for count in shuffled)) / (1 + PERMUTATIONS)
    group = np.arange(len(paths))
    for i, j in zip(first[similar], second[similar], strict=True):
        group[j] = group[i]  # pairs of a series are in its order
    return Guess(group, joined, len(first), float(np.mean(shuffled)), p)


def _distant_pairs(series: Sequence[np.ndarray], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """At most about `MOST_DISTANT` pairs of files of one series with distant numbers."""
    weights = np.array([max(len(rows) - DISTANT, 0) ** 2 for rows in series], float)
    first, second = [np.zeros(0, int)], [np.zeros(0, int)]
    for rows, weight in zip(series, weights, strict=True):
        if weight:
            a, b = random.integers(0, len(rows), (2, int(np.ceil(2 * MOST_DISTANT * weight / weights.sum()))))
            apart = np.abs(a - b) > DISTANT
            first.append(rows[a[apart]])
            second.append(rows[b[apart]])
    return np.concatenate(first), np.concatenate(second)
