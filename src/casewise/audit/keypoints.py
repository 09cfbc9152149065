"""Candidate copies by local features: images that were turned by any angle, cropped deeply, mirrored, or framed.

Each image has up to 200 SIFT features (Lowe, 2004), each with a word of a vocabulary learned from all of them. A
feature votes for every image with a similar one of the same word (Sivic and Zisserman, 2003), and the images with
most votes are matched feature by feature. A deep crop keeps few features, but these are alike, whatever else the
images show. A mirrored image has the features of the image with their parts in another order (MIFT: Guo et al.,
2010), so the mirrored images vote as well. A pair is a candidate if enough matches agree on one shift, angle and
scale (RANSAC: Fischler and Bolles, 1981). Films of two people agree in a few; whether a candidate shows the same
picture is decided by its texture, in `casewise.audit.verify`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from casewise.audit.hashes import EXACT, in_parallel
from casewise.audit.verify import SIDE, Register
from casewise.errors import ImageError
from casewise.modalities.store.readers import read_image
from casewise.modalities.store.store import TileStore

# Files are read instead of small tiles, because small tiles go with small images of little detail.
SMALLEST_TILE = 128
KEYPOINTS, COMPONENTS, SAMPLE, ROUNDS = 200, 32, 20_000, 8
# Enough words that all votes are counted quickly; features of a few images share one. `MOST_WORDS` is for up to
# `EXACT` images; of more images, a word with more than `MOST_OF_WORD` features is ignored.
FEATURES_PER_WORD, MOST_WORDS, MOST_OF_WORD = 1_000, 2_048, 8_000
VOTE = 0.85
# Features that are nearly the same.
SAME = 0.95
# Of copies cropped to 75 % among 1,000 films, at least 43 matches agreed; in 95 % of pairs of other films at most 11.
INLIERS = 15
SIMILAR, REACH, ITERATIONS = 0.6, 3.0, 300
# Beyond this scale or its inverse, copies share too few pixels for a comparison of texture.
MOST_SCALE = 2.2
# The fewest and the most images whose votes are counted together: every block of images passes over all words. Fewer
# where one word has more pairs of features than `MOST_COMPARED`, or a block more votes than `MOST_VOTES`.
FEWEST_ROWS, MOST_ROWS, MOST_COMPARED, MOST_VOTES = 512, 4_096, 2**24, 2**22
# For more than `EXACT` images: the images and descriptors of which components and words are learned.
QUICK_SAMPLE, DIVIDED_SAMPLE = 1_000, 400_000
# The parts of a descriptor (4 rows, 4 columns, 8 directions; columns lie along its own angle) if the image is mirrored.
_MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1, :, -np.arange(8)].ravel()


@dataclass(frozen=True)
class _Effort:
    """What is spent on an image.

    Attributes:
        longest: the longest side on which features are found, in the tile if it is not much smaller, else in the file,
            which is read a little larger (`read`). Small images are enlarged at most by `enlarged`.
        nearest: at most so many images with at least `votes` votes are matched, those with most votes.
        most: a feature votes for about so many of the others that are not nearly the same, the most similar ones.
    """

    longest: int
    read: int
    enlarged: float
    nearest: int
    votes: int
    most: int


# Among 848 photographs, the original of each of 60 copies, cropped to 60 to 85 % of each side and a third of them
# mirrored, received most votes or had only other copies before it. The limit is a wide margin: without any, all
# pairs of thousands of films that look alike would be matched.
_THOROUGH = _Effort(longest=176, read=224, enlarged=np.inf, nearest=16, votes=2, most=10**9)
# For more than `EXACT` images. Of 24 films cropped to 58 % of each side, 23 copies were found, and with `_THOROUGH` 24.
# Of 200 altered copies among 4,000 films that look alike, 199 were found with any limit of `most`, in 15,000 pairs that
# were matched instead of 43,000.
_QUICK = _Effort(longest=128, read=160, enlarged=1.5, nearest=8, votes=3, most=16)


@dataclass(frozen=True, eq=False)
class _LocalFeatures:
    """The features of one image: descriptors (K, 32) of unit length, and positions (K, 2) as shares of the sides.

    `pixels` is the width and height of the image in which they were found, `mirrored` the descriptors of the image
    mirrored left to right.
    """

    descriptors: np.ndarray
    mirrored: np.ndarray
    positions: np.ndarray
    pixels: tuple[int, int]


def local_pairs(
    store: TileStore,
    paths: Sequence[str],
    among: np.ndarray,
    excluded: Collection[tuple[int, int]],
    *,
    groups: np.ndarray | None = None,
    exact: int = EXACT,
    progress: Callable[[float], None] | None = None,
) -> list[tuple[int, int, Register, bool]]:
    """Pairs i < j of the images `among` whose features agree, with the map from i to j; without those in `excluded`.

    Last is whether the map is from the mirrored image i: films of two people agree in their outline both ways, so that
    a pair may occur twice.

    Args:
        paths: the file of each image, read if tiles are small.
        groups: the group of each image (N,), if only images of two groups can be a pair.
        exact: of more images, fewer and coarser features are compared with fewer images each.
        progress: called with the share that is done.
    """
    if len(among) < 2:
        return []
    quick = len(among) > exact
    effort = _QUICK if quick else _THOROUGH
    features = _extract(store, paths, among, effort, sample=QUICK_SAMPLE if quick else len(among), progress=progress)
    position = {int(row): number for number, row in enumerate(among)}
    left_out = {(position[i], position[j]) for i, j in excluded if i in position and j in position}
    words = _vocabulary([item.descriptors for item in features], divided=quick)
    indexed = _by_word(features, words)
    group = np.arange(len(among)) if groups is None else groups[among]
    agreeing = []
    for mirrored in (False, True):
        turned = [_mirrored(item) for item in features] if mirrored else features
        pairs = _nearest(turned, words, indexed, left_out, group, effort)
        compared = [(turned[i], features[j]) for i, j in pairs]
        registers = in_parallel(lambda both: _aligned(*both), compared)
        agreeing += [
            (int(among[i]), int(among[j]), register, mirrored)
            for (i, j), register in zip(pairs, registers, strict=True)
            if register is not None
        ]
    return agreeing


def _mirrored(item: _LocalFeatures) -> _LocalFeatures:
    positions = np.array([1, 0], np.float32) + np.array([-1, 1], np.float32) * item.positions
    return replace(item, descriptors=item.mirrored, mirrored=item.descriptors, positions=positions)


def _extract(
    store: TileStore,
    paths: Sequence[str],
    rows: np.ndarray,
    effort: _Effort,
    *,
    sample: int,
    progress: Callable[[float], None] | None = None,
) -> list[_LocalFeatures]:
    """The features of these images; an image without any has empty arrays.

    Args:
        sample: the number of images, evenly spaced, of which the main components of descriptors are learned.
    """
    small = store.preparation.size < SMALLEST_TILE

    def found(row: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        return _sift(_picture(store, row, paths[row] if small else None, effort))

    def reduced(descriptors: np.ndarray, positions: np.ndarray, pixels: tuple[int, int]) -> _LocalFeatures:
        rooted = _rooted(descriptors)
        mirrored = _reduced(rooted[:, _MIRRORED], basis)
        return _LocalFeatures(_reduced(rooted, basis), mirrored, positions, pixels)

    if sample < len(rows):
        few = rows[:: -(-len(rows) // sample)].tolist()
        basis = _basis([descriptors for descriptors, _, _ in in_parallel(found, few)])
        return list(in_parallel(lambda row: reduced(*found(row)), rows.tolist(), progress))
    raw = list(in_parallel(found, rows.tolist(), progress))
    basis = _basis([descriptors for descriptors, _, _ in raw])
    raw.reverse()  # each item is given up as soon as it is reduced
    return [reduced(*raw.pop()) for _ in range(len(raw))]


def _picture(store: TileStore, row: int, path: str | None, effort: _Effort) -> np.ndarray:
    """The image in grey, (h, w) `uint8`, small ones enlarged: from its tile, or from its file if that can be read."""
    picture, kept = None, (0.9, 1.4)
    if path is not None:
        # a file that can no longer be read has its tile
        with suppress(ImageError):
            picture, kept = read_image(Path(path), size=effort.read, channels="grey")[..., 0], (0.0, 1.2)
    if picture is None:
        down, across = store.content(row)
        tile = np.ascontiguousarray(store.tiles[row][:, down, across].transpose(1, 2, 0))
        picture = tile[..., 0] if tile.shape[2] == 1 else np.asarray(cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY))
    scale = min(effort.longest / max(picture.shape), effort.enlarged)
    if kept[0] < scale < kept[1]:
        return np.ascontiguousarray(picture)
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))


def _sift(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Descriptors (K, 128) `uint8`, positions as shares of the sides, and the size of the picture."""
    height, width = picture.shape
    # lungs and bones of a film differ more in brightness than their detail does
    even = cv2.createCLAHE(3.0, (8, 8)).apply(picture)
    points, descriptors = cv2.SIFT.create(nfeatures=KEYPOINTS, contrastThreshold=0.02).detectAndCompute(even, None)
    if descriptors is None:
        return np.zeros((0, 128), np.uint8), np.zeros((0, 2), np.float32), (width, height)
    positions = (np.array([point.pt for point in points], np.float32) + 0.5) / np.array([width, height], np.float32)
    # OpenCV gives whole numbers of 0 to 255 as `float32`
    return descriptors.astype(np.uint8), positions, (width, height)


def _rooted(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors (K, 128) `uint8` as roots of shares of their sum (RootSIFT: Arandjelović and Zisserman, 2012)."""
    values = descriptors.astype(np.float32)
    rooted = np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1e-6))
    return np.asarray(rooted.astype(np.float16))


def _basis(descriptors: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean (128,) and the scaled main components (128, 32) of a sample of the descriptors."""
    sample = _rooted(_sample(descriptors)).astype(np.float64)
    if len(sample) < 2:
        return np.zeros(128, np.float32), np.eye(128, COMPONENTS, dtype=np.float32)
    values, vectors = np.linalg.eigh(np.cov((sample - sample.mean(axis=0)).T))
    strength = np.maximum(values[::-1][:COMPONENTS], 1e-9)
    components = vectors[:, ::-1][:, :COMPONENTS] / strength**0.25
    return sample.mean(axis=0).astype(np.float32), components.astype(np.float32)


def _sample(arrays: Sequence[np.ndarray], most: int = SAMPLE) -> np.ndarray:
    """At most `most` rows, evenly spaced over all arrays."""
    rows = sum(map(len, arrays))
    every = max(1, -(-rows // most))
    offsets = np.cumsum([0, *map(len, arrays)])
    return np.concatenate([array[-start % every :: every] for array, start in zip(arrays, offsets[:-1], strict=True)])


def _reduced(descriptors: np.ndarray, basis: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    mean, components = basis
    projected = (descriptors.astype(np.float32) - mean) @ components
    return np.asarray((projected / (np.linalg.norm(projected, axis=1, keepdims=True) + 1e-6)).astype(np.float16))


def _size(item: _LocalFeatures) -> int:
    return len(item.descriptors)


@dataclass(frozen=True, eq=False)
class _Vocabulary:
    """The centres (W, 32) of words; of divided words also the centres of their parts, with the number of the first."""

    centres: np.ndarray
    parts: tuple[np.ndarray, ...] = ()
    first: tuple[int, ...] = ()

    def words(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """The word of each descriptor of some images."""
        word = np.concatenate([_nearest_centre(descriptors, self.centres) for descriptors in features])
        if not self.parts:
            return word
        descriptors, finer = np.concatenate(features), np.empty_like(word)
        for number in np.unique(word):
            own = word == number
            finer[own] = self.first[number] + _nearest_centre(descriptors[own], self.parts[number])
        return finer

    def __len__(self) -> int:
        """The number of words."""
        return sum(map(len, self.parts)) or len(self.centres)


def _vocabulary(features: Sequence[np.ndarray], *, divided: bool) -> _Vocabulary:
    """The words for the descriptors of all images; if `divided`, their number grows with that of the descriptors."""
    words = sum(map(len, features)) // FEATURES_PER_WORD
    sample = _sample(features).astype(np.float32)
    if not divided:
        return _Vocabulary(_centres(sample, min(MOST_WORDS, words)))
    # two levels (Nistér and Stewénius, 2006), because a descriptor is compared with all words of a level
    centres = _centres(sample, round(words**0.5))
    sample = _sample(features, DIVIDED_SAMPLE).astype(np.float32)
    word, parts = _nearest_centre(sample, centres), []
    for number, centre in enumerate(centres):
        own = sample[word == number]
        parts.append(_centres(own, round(words * len(own) / len(sample))) if len(own) else centre[None])
    return _Vocabulary(centres, tuple(parts), tuple(np.cumsum([0, *map(len, parts)]).tolist()))


def _centres(sample: np.ndarray, count: int) -> np.ndarray:
    """At most so many centres of a sample by Lloyd's algorithm, from evenly spaced ones."""
    count = max(1, min(count, len(sample) // 4))
    if not len(sample):
        return np.zeros((1, COMPONENTS), np.float32)
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    clusters = KMeans(count, init=sample[:: len(sample) // count][:count], n_init=1, max_iter=ROUNDS, tol=0)
    # on one thread, because the last bits of sums depend on the number of threads
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # equal descriptors share a centre
        return np.asarray(clusters.fit(sample).cluster_centers_)


def _nearest_centre(descriptors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.asarray((descriptors.astype(np.float32) @ centres.T - (centres**2).sum(axis=1) / 2).argmax(axis=1))


def _by_word(features: Sequence[_LocalFeatures], words: _Vocabulary) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each word its descriptors (K, 32) and (K,) the numbers of their images."""
    word = words.words([item.descriptors for item in features])
    order = np.argsort(word, kind="stable")
    ends = np.cumsum(np.bincount(word, minlength=len(words)))[:-1]
    descriptors = np.concatenate([item.descriptors for item in features])[order]
    image = np.repeat(np.arange(len(features)), list(map(_size, features)))[order]
    return list(zip(np.split(descriptors, ends), np.split(image, ends), strict=True))


def _nearest(
    features: Sequence[_LocalFeatures],
    words: _Vocabulary,
    indexed: Sequence[tuple[np.ndarray, np.ndarray]],
    excluded: set[tuple[int, int]],
    group: np.ndarray,
    effort: _Effort,
) -> list[tuple[int, int]]:
    """The pairs i < j, not `excluded`, of two groups: one image is among the nearest of the other by votes."""
    count = len(features)
    left_out = np.array([i * count + j for pair in excluded for i, j in (pair, pair[::-1])], np.int64)

    def pairs_of(start: int, stop: int) -> NDArray[np.int64]:
        """Pairs (P, 2) of these images with the images that they vote for."""
        voted, counted = [np.zeros(0, np.int64)], 0
        for (own, voter), (descriptors, image) in zip(_by_word(features[start:stop], words), indexed, strict=True):
            if not len(own) or (words.parts and len(image) > MOST_OF_WORD):
                continue
            if stop - start > 1 and (len(own) * len(image) > MOST_COMPARED or counted > MOST_VOTES):
                half = (start + stop) // 2
                return np.concatenate([pairs_of(start, half), pairs_of(half, stop)])
            row, column = np.nonzero(_votes(own.astype(np.float32) @ descriptors.astype(np.float32).T, effort))
            # a feature that an image shows often, such as a thread of cloth, votes for it once
            row, column = np.divmod(np.unique(row * count + image[column]), count)
            voted.append((start + voter[row]) * count + column)
            counted += len(row)
        codes, votes = np.unique(np.concatenate(voted), return_counts=True)
        codes, votes = codes[votes >= effort.votes], votes[votes >= effort.votes]
        i, j = np.divmod(codes, count)
        kept = (group[i] != group[j]) & ~np.isin(codes, left_out)
        i, j, votes = i[kept], j[kept], votes[kept]
        order = np.lexsort((j, -votes, i))
        i, j = i[order], j[order]
        rank = np.arange(len(i)) - np.searchsorted(i, i)
        nearest = rank < effort.nearest
        return np.stack([np.minimum(i, j), np.maximum(i, j)], axis=1)[nearest]

    rows = min(max(FEWEST_ROWS, count // 8), MOST_ROWS)
    blocks = in_parallel(lambda start: pairs_of(start, min(start + rows, count)), range(0, count, rows))
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *blocks])
    return [(i, j) for i, j in np.unique(pairs, axis=0).tolist()]


def _votes(similarity: np.ndarray, effort: _Effort) -> np.ndarray:
    """Which features (R, K) of the index each of R features votes for.

    They are those that are nearly the same, as in frames of one scene, and of other similar ones the nearest.
    """
    votes: np.ndarray = similarity > VOTE
    if effort.most < similarity.shape[1]:
        others = votes & (similarity <= SAME)
        crowded = np.flatnonzero(np.count_nonzero(others, axis=1) > effort.most)
        of_others = np.where(others[crowded], similarity[crowded], 0.0)
        least = np.partition(of_others, -effort.most, axis=1)[:, -effort.most]
        votes[crowded] &= similarity[crowded] >= least[:, None]
    return votes


def _aligned(first: _LocalFeatures, second: _LocalFeatures) -> Register | None:
    """The map on which the matches of two images agree; None if too few do, or the scale is implausible."""
    if min(len(first.descriptors), len(second.descriptors)) < INLIERS:
        return None
    similarity = first.descriptors.astype(np.float32) @ second.descriptors.astype(np.float32).T
    match = similarity.argmax(axis=1)
    own = np.arange(len(match))
    mutual = np.flatnonzero((similarity.argmax(axis=0)[match] == own) & (similarity[own, match] > SIMILAR))
    if len(mutual) < INLIERS:
        return None
    left, right = first.positions[mutual] * first.pixels, second.positions[match[mutual]] * second.pixels
    # shift, angle and one scale in pixels of the images; the squares that are compared are stretched
    warp, agree = cv2.estimateAffinePartial2D(
        left.astype(np.float32), right.astype(np.float32), method=cv2.RANSAC, ransacReprojThreshold=REACH,
        maxIters=ITERATIONS, confidence=0.99,
    )  # fmt: skip
    if warp is None or agree.sum() < INLIERS:
        return None
    scale = float(np.sqrt(abs(np.linalg.det(warp[:, :2]))))
    if not 1 / MOST_SCALE < scale < MOST_SCALE:
        return None
    in_squares = _in_squares(warp, first.pixels, second.pixels)
    inside = cv2.warpAffine(
        np.ones((SIDE, SIDE), np.float32), in_squares, (SIDE, SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    return Register(float(agree.mean()), float(inside.mean()), in_squares)


def _in_squares(warp: np.ndarray, first: tuple[int, int], second: tuple[int, int]) -> np.ndarray:
    """The map between images of these sizes as one between squares of `SIDE` pixels, from centre of pixel to centre."""
    into_first = np.diag([first[0] / SIDE, first[1] / SIDE, 1.0])
    from_second = np.diag([SIDE / second[0], SIDE / second[1], 1.0])
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    whole = np.vstack([warp, [0, 0, 1.0]])
    moved: np.ndarray = np.linalg.inv(half) @ from_second @ whole @ into_first @ half
    return moved[:2].astype(np.float32)
