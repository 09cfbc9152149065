"""Perceptual hashes of all images, and pairs of images with similar hashes, including flipped and cropped copies.

An image, without the black padding of its tile, is reduced to a small grey square. Its hash consists of the signs of
its 128 lowest cosine coefficients (pHash, Zauner 2010, with signs instead of a comparison with the median). Brightness
and contrast do not change signs, and flips only change the signs of odd columns or rows, so all flips are compared by
one exclusive-or. A quarter turn is a flip of the transposed image, which has a hash of its own. A negative changes all
signs. A crop changes every coefficient; each image is therefore also hashed without its outermost 4 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias, TypeVar

import cv2
import numpy as np
from joblib import cpu_count
from scipy.fft import dctn
from threadpoolctl import threadpool_limits

from casewise.modalities.store.store import TileStore

Item = TypeVar("Item")
Value = TypeVar("Value")
# A NumPy record array as `candidates` makes it, with a row for each pair of images.
Pairs: TypeAlias = Any
# Orientations by number, a sum of bits: 1 left-right, 2 up-down, 4 transposed first. Adding `NEGATIVE` also exchanges
# black and white.
FLIPS = ("none", "left-right", "up-down", "both", "transposed", "turned right", "turned left", "transposed both")
NEGATIVE = len(FLIPS)
BITS = 128
# A copy cropped by 2 to 6 % a side differs by at most 2 % from this inset.
INSET = 0.04
SIDE = 32
# For 200 films and 200 fundus photographs, 98 % of altered copies differ in at most 26 bits.
LIMIT = 32
# Pairs kept per image where all images look alike; each of 1,200 altered copies was among them.
NEAREST = 30
# Number of images that are compared with all others at a time.
ROWS = 16
# Largest number of images in which each is compared with all others; in more, with its neighbours in an index.
EXACT = 5_000
# Of 20,000 random hashes, 99, 92 and 70 % of the copies that differ in 16, 22 and 28 bits are neighbours in an order.
ORDERS, WINDOW, BLOCK = 16, 32, 256

# Rows and columns of the cosine coefficients (u, v), lowest frequencies first, without the mean (0, 0).
_LOWEST = sorted((u + v, u, v) for u in range(32) for v in range(32))[1:]
_ROW, _COLUMN = (np.array([index[axis] for index in _LOWEST]) for axis in (1, 2))


@dataclass(frozen=True)
class Hashes:
    """The hashes of N images, (N, bits / 64) `uint64`, which is (N, 2) by default.

    Attributes:
        whole: of the images.
        inset: of the images without 4 % at each side.
        flat: (N,) whether an image is of one grey, so that its hash means nothing.
        transposed: of the transposed images.
    """

    whole: np.ndarray
    inset: np.ndarray
    flat: np.ndarray
    transposed: np.ndarray


def candidates(i: np.ndarray, j: np.ndarray, distance: np.ndarray, flip: np.ndarray, inset: np.ndarray) -> Pairs:
    """Pairs of images that may show the same: `i`, altered by `flip`, differs in `distance` bits from `j`.

    Where `inset` is true, it is the hash of `j` without its edges.
    """
    kinds: dict[str, type] = {"i": np.int64, "j": np.int64, "distance": np.int64, "flip": np.int64, "inset": np.bool_}
    return np.rec.fromarrays([i, j, distance, flip, inset], dtype=list(kinds.items()))


def in_parallel(
    function: Callable[[Item], Value], items: Sequence[Item], progress: Callable[[float], None] | None = None
) -> Iterator[Value]:
    """The values of a function, computed by threads, in the order of the items; `progress` is called with their share.

    Each product of matrices has one thread, because several threads of several products would wait for each other; the
    products of the caller have one as well, until it has all values.

    >>> list(in_parallel(abs, [-2, 1]))
    [2, 1]
    """
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(int(cpu_count())) as pool:
        for number, value in enumerate(pool.map(function, items), 1):
            yield value
            if progress:
                progress(number / len(items))


def grey(store: TileStore, row: int, side: int, *, inset: float = 0.0) -> np.ndarray:
    """Image `row` as a grey square (side, side) `float32` of 0–255, without padding and the share `inset` a side."""
    tile = store.tiles[row]
    # from the width and height of the source, so that black areas of the image itself stay
    down, across = store.content(row)
    tile = tile[:, down, across]
    if inset:
        height, width = tile.shape[1:]
        off_y, off_x = round(height * inset), round(width * inset)
        tile = tile[:, off_y : height - off_y, off_x : width - off_x]
    plane = (
        tile[0] if len(tile) == 1 else cv2.cvtColor(np.ascontiguousarray(tile.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY)
    )
    # OpenCV's area filter repeats pixels when it enlarges
    method = cv2.INTER_AREA if min(plane.shape) >= side else cv2.INTER_LINEAR
    return cv2.resize(plane.astype(np.float32), (side, side), interpolation=method)


def flip(square: np.ndarray, number: int) -> np.ndarray:
    """Orient the last two axes as `FLIPS[number]`; from `NEGATIVE` on, also exchange black and white.

    >>> flip(np.array([[1, 2], [3, 4]]), 1).tolist(), flip(np.array([[1, 2], [3, 4]]), 5).tolist()
    ([[2, 1], [4, 3]], [[3, 1], [4, 2]])
    >>> flip(np.array([[1, 2], [3, 4]]), 8).tolist()
    [[254, 253], [252, 251]]
    """
    square = square.swapaxes(-1, -2) if number & 4 else square
    square = 255 - square if number & NEGATIVE else square
    rows = slice(None, None, -1) if number & 2 else slice(None)
    columns = slice(None, None, -1) if number & 1 else slice(None)
    return np.ascontiguousarray(square[..., rows, columns])


def hash_signs(squares: np.ndarray, bits: int = BITS) -> np.ndarray:
    """Hash (N, S, S) grey squares to (N, bits / 64) `uint64`: the signs of the lowest coefficients, the mean left out.

    >>> ramp = np.arange(32.0) * np.ones((1, 32, 1))
    >>> bool((hash_signs(ramp) == hash_signs(3 * ramp + 7)).all())
    True
    """
    signs = dctn(squares, axes=(1, 2))[:, _ROW[:bits], _COLUMN[:bits]] > 0
    return np.ascontiguousarray(np.packbits(signs, axis=1)).view(np.uint64)


def hash_store(store: TileStore, bits: int = BITS, side: int = SIDE) -> Hashes:
    """Hash every tile of a store, as a square of `side` pixels, to `bits` signs."""
    whole, inset, transposed = np.zeros((3, len(store), bits // 64), np.uint64)
    flat = np.zeros(len(store), bool)
    for start in range(0, len(store), 1000):
        rows = range(start, min(start + 1000, len(store)))
        squares = np.stack([grey(store, row, side) for row in rows])
        whole[start : rows.stop] = hash_signs(squares, bits)
        transposed[start : rows.stop] = hash_signs(squares.swapaxes(1, 2), bits)
        inset[start : rows.stop] = hash_signs(np.stack([grey(store, row, side, inset=INSET) for row in rows]), bits)
        flat[start : rows.stop] = squares.std(axis=(1, 2)) < 1
    return Hashes(whole, inset, flat, transposed)


def close_pairs(
    hashes: Hashes,
    among: np.ndarray,
    *,
    nearest: int = NEAREST,
    groups: np.ndarray | None = None,
    exact: int = EXACT,
    progress: Callable[[float], None] | None = None,
) -> Pairs:
    """Pairs of the images `among` whose hashes, in any orientation or as negatives, differ in at most `LIMIT` bits.

    They are `candidates`: each pair once, with its closest variant (orientation, negative, inset), and at most the
    `nearest` pairs of each image. Flat images are left out. More images than `exact` are compared with their neighbours
    in sorted orders only, so that time grows with their number and not with its square.

    Args:
        among: numbers of images.
        groups: the group of each image (N,), if only images of two groups can be a pair.
        progress: called with the share that is done.
    """
    among = among[~hashes.flat[among]]
    group = np.arange(len(among)) if groups is None else groups[among]
    hashes = Hashes(*(bits[among] for bits in (hashes.whole, hashes.inset, hashes.flat, hashes.transposed)))
    blocks: Iterator[np.ndarray]
    if len(among) > exact:
        searches = [(np.arange(len(among)), np.arange(len(among)))]
        if groups is not None:
            searches = [(np.flatnonzero(group == n), np.flatnonzero(group != n)) for n in np.unique(group)]
        blocks = chain.from_iterable(_in_orders(hashes, *both, nearest, progress) for both in searches)
    else:

        def pairs_of(start: int) -> np.ndarray:
            rows = slice(start, min(start + ROWS, len(among)))
            best = smallest_distances((hashes.whole[rows], hashes.transposed[rows]), (hashes.whole, hashes.inset))
            best[group[rows, None] == group] = BITS
            return _with_variants(_nearest(best, start, nearest), hashes)

        blocks = in_parallel(pairs_of, range(0, len(among), ROWS), progress)
    return _unique_pairs(np.concatenate([np.zeros((0, 4), np.int32), *blocks]), among)


def _in_orders(
    hashes: Hashes, rows: np.ndarray, columns: np.ndarray, nearest: int, progress: Callable[[float], None] | None
) -> Iterator[np.ndarray]:
    """Pairs (K, 4) of `rows` with the nearest of `columns`, whole and inset, among their neighbours in `Orders`."""
    orders = Orders.of(np.concatenate([hashes.whole[columns], hashes.inset[columns]]), np.tile(columns, 2))

    def pairs_of(start: int) -> np.ndarray:
        block = rows[start : start + BLOCK]
        neighbours = orders.neighbours((hashes.whole[block], hashes.transposed[block]))
        return _with_variants(_closest(block, *neighbours, nearest), hashes)

    return in_parallel(pairs_of, range(0, len(rows), BLOCK), progress)


@dataclass(frozen=True, eq=False)
class Orders:
    """Hashes (N, 2) of the images `owner` (N,), sorted by some of their bits, in `ORDERS` ways.

    Each of `orders` has the numbers of these bits, the sorted keys, the hashes in this order, and the keys of flips.
    """

    words: np.ndarray
    owner: np.ndarray
    orders: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, words: np.ndarray, owner: np.ndarray) -> Orders:
        """Sort the hashes."""
        share = np.unpackbits(words.view(np.uint8), axis=1).mean(axis=0)
        # a sign that nearly all images have distinguishes none
        weight = share * (1 - share) + 1e-6
        orders = []
        for seed in range(ORDERS):
            bits = np.random.default_rng(seed).choice(BITS, 64, replace=False, p=weight / weight.sum())
            keys = _key(words, bits)
            order = np.argsort(keys, kind="stable")
            orders.append((bits, keys[order], order, _key(_all_masks(), bits)))
        return cls(words, owner, orders)

    def neighbours(self, queries: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The distances (R, M) of R images from their neighbours, and these (R, M).

        Each of several hashes (R, 2) of the images, in all orientations and as a negative, is compared with the
        `WINDOW` hashes around its place in each order (Charikar, 2002).
        """
        masks, around = _all_masks(), np.arange(WINDOW) - WINDOW // 2
        distances = np.empty((len(queries[0]), len(self.orders), len(queries), len(masks), WINDOW), np.uint8)
        others = np.empty(distances.shape, np.int32)
        for number, (bits, keys, order, key_masks) in enumerate(self.orders):
            for turned, oriented in enumerate(queries):
                places = np.searchsorted(keys, _key(oriented, bits)[:, None] ^ key_masks)
                near = order[(places[..., None] + around).clip(0, len(order) - 1)]
                query = (oriented[:, None] ^ masks)[:, :, None]
                different = np.bitwise_count(query[..., 0] ^ self.words[:, 0][near])
                distances[:, number, turned] = different + np.bitwise_count(query[..., 1] ^ self.words[:, 1][near])
                others[:, number, turned] = self.owner[near]
        flat = (len(distances), -1)
        return distances.reshape(flat), others.reshape(flat)


def _all_masks() -> np.ndarray:
    """The signs that each flip changes, and those that it changes in a negative, (8, 2)."""
    return np.concatenate([flip_masks(), ~flip_masks()])


def _key(words: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """These 64 bits of each hash (N, 2) as one number (N,) `uint64`, the first bit the most significant."""
    chosen = np.unpackbits(words.view(np.uint8), axis=1)[:, bits]
    return np.ascontiguousarray(np.packbits(chosen, axis=1)).view(">u8").astype(np.uint64).ravel()


def _closest(rows: np.ndarray, distances: np.ndarray, others: np.ndarray, nearest: int) -> np.ndarray:
    """The nearest different `others` (R, M) of each row within the limit: (K, 2) row, other."""
    distances[others == rows[:, None]] = BITS
    # an image may be met twice in every order
    most = min(2 * ORDERS * nearest, distances.shape[1]) - 1
    kept = np.argpartition(distances, most, axis=1)[:, : most + 1]
    distances, others = (np.take_along_axis(array, kept, axis=1) for array in (distances, others))
    number, column = np.nonzero(distances <= LIMIT)
    distance, other = distances[number, column], others[number, column]
    order = np.lexsort((distance, other, number))
    number, other, distance = number[order], other[order], distance[order]
    new = np.ones(len(order), bool)
    new[1:] = (number[1:] != number[:-1]) | (other[1:] != other[:-1])
    number, other, distance = number[new], other[new], distance[new]
    order = np.lexsort((distance, number))
    first = np.searchsorted(number, np.arange(len(rows)))
    chosen = order[np.arange(len(order)) - first[number] < nearest]
    return np.stack([rows[number[chosen]], other[chosen]], axis=1)


def flip_masks(bits: int = BITS) -> np.ndarray:
    """The signs that each flip changes, (4, bits / 64) `uint64`."""
    odd_column, odd_row = _COLUMN[:bits] % 2 == 1, _ROW[:bits] % 2 == 1
    signs = np.stack([np.zeros(bits, bool), odd_column, odd_row, odd_column ^ odd_row])
    return np.packbits(signs, axis=1).view(np.uint64)


def smallest_distances(of_rows: Sequence[np.ndarray], of_columns: Sequence[np.ndarray]) -> np.ndarray:
    """(R, N): the fewest bits in which R images differ from N images, in any orientation or as a negative.

    Each argument has several hashes of its images: (R, words) such as of the transposed ones, and (N, words).
    """
    words = of_rows[0].shape[1]
    bits = 64 * words
    furthest = np.zeros((len(of_rows[0]), len(of_columns[0])), np.uint8 if bits < 256 else np.uint16)
    for turned in ((hashes ^ mask).T for hashes in of_rows for mask in flip_masks(bits)):
        for columns in of_columns:
            different = np.bitwise_count(turned[0][:, None] ^ columns[:, 0]).astype(furthest.dtype, copy=False)
            for word in range(1, words):
                different += np.bitwise_count(turned[word][:, None] ^ columns[:, word])
            np.maximum(furthest, np.maximum(different, bits - different), out=furthest)
    # a negative differs in exactly the other bits: d becomes bits - d, so min(d, bits - d) is bits - max(d, bits - d)
    return bits - furthest


def _nearest(best: np.ndarray, start: int, nearest: int) -> np.ndarray:
    """The nearest columns of each row within the limit: (K, 2) row, column."""
    close = best <= LIMIT
    for number in np.flatnonzero(np.count_nonzero(close, axis=1) > nearest).tolist():
        close[number] = False
        close[number, np.argpartition(best[number], nearest - 1)[:nearest]] = True
    row, column = np.nonzero(close)
    return np.stack([row + start, column], axis=1)


def _with_variants(pairs: np.ndarray, hashes: Hashes) -> np.ndarray:
    """The pairs (K, 2) with their smallest distance and the first variant that has it: (K, 4).

    A variant is 2 * (orientation + `NEGATIVE` if it is one) + (1 if inset).
    """
    row, column = pairs.T
    least, variant = np.full((2, len(pairs)), BITS + 1)
    masks = flip_masks()
    for number in range(len(FLIPS)):
        flipped = (hashes.transposed if number & 4 else hashes.whole)[row] ^ masks[number & 3]
        for is_inset, others in enumerate((hashes.whole, hashes.inset)):
            bits = np.bitwise_count(flipped ^ others[column]).sum(axis=1, dtype=np.int32)
            for negative, distance in ((0, bits), (NEGATIVE, BITS - bits)):
                closer = distance < least
                least[closer], variant[closer] = distance[closer], 2 * (number | negative) + is_inset
    return np.column_stack([row, column, least, variant]).astype(np.int32)


def _unique_pairs(table: np.ndarray, among: np.ndarray) -> Pairs:
    """Each pair once, with its closest variant, which of equally close ones is not inset; `among` are image numbers."""
    low, high = np.minimum(table[:, 0], table[:, 1]), np.maximum(table[:, 0], table[:, 1])
    order = np.lexsort((table[:, 3] % 2, table[:, 2], high, low))
    low, high, table = low[order], high[order], table[order]
    new = np.ones(len(table), bool)
    new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    i, j, distance, variant = table[new].astype(np.int64).T
    return candidates(among[i], among[j], distance, variant // 2, variant % 2 == 1)
