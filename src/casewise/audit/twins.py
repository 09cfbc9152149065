"""Twins: pairs of images with the same picture, as the same file, the same pixels, or an altered copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Literal

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from casewise.audit.hashes import EXACT, FLIPS, NEGATIVE, Hashes, Pairs, candidates, close_pairs, hash_store
from casewise.audit.keypoints import local_pairs
from casewise.audit.verify import SIDE, Register, SecondCheck, compare, screen, second_check, worth_comparing
from casewise.modalities.store.store import TileStore

Kind = Literal["bytes", "pixels", "near"]
# Image numbers to (n, d) `float32` embeddings of unit length.
Embed = Callable[[np.ndarray], np.ndarray]

# The required likeness of texture, by the longest side of the smaller image: from 320 pixels on, and below 175. In
# 10,000 pairs of aligned films, fundus photographs and phantoms, different people reached at most 0.51 (one saved as a
# poor JPEG) and 0.25; 98 % of altered copies reached at least 0.68 and 0.30.
ALIKE, ALIKE_SMALL, LARGE = 0.55, 0.3, 320
# For tiles or images of few pixels: from DOUBTFUL on an embedding must agree, from CLEAR on it need not.
DOUBTFUL, CLEAR = 0.65, 0.8
COSINE = 0.9
# The likeness of registered tiles from which the files are compared.
PLAUSIBLE = 0.25
# The required likeness within a subject, unturned and turned. Of 430 pairs of later films, neighbouring slices and
# fields of one subject that share features, no other picture reached 0.66 when turned; of turned copies 95 % reached
# 0.85.
COPY, STRAIGHT, _COPY_TURNED = 0.8, 0.002, 0.85
# Of a pair found by local features, one image must show nearly all of what the other shows: neighbouring fields of one
# slide overlap as well. Within a subject, where such fields are, it must show all; a turned copy may lack its corners.
CONTAINED, CONTAINED_SAME, _CONTAINED_TURNED = 0.75, 0.95, 0.9
# Features place an image less exactly than the comparison of texture does.
LESS, TURN = 0.1, 0.02
# Pictures of one subject that differ less than this in the logarithm of their scale were compared by their hashes.
RESCALED = 0.08
INVERSE = {"turned right": "turned left", "turned left": "turned right"}
# In larger groups of identical images, each image is paired with the first only.
ALL_PAIRS = 12


@dataclass(frozen=True)
class Twin:
    """Images `i` < `j` with the same picture.

    Attributes:
        kind: the same file (`bytes`), the same tile (`pixels`) or an altered copy (`near`).
        distance: the number of 128 bits in which the hashes differ.
        likeness: of the texture after registration, 1 if identical.
        flip: how one image is mirrored or turned; `negative`: black and white are exchanged.
        angle: by which image `j` is turned, in degrees, besides `flip`.
        scale: the relative size of the shared area in the larger field of view.
        warp: the affine map from image `i`, oriented by `flip`, to image `j`, as in `Register`.
        cosine: similarity of the embeddings.
        blurred: only tiles, or images of few pixels, could be compared.
    """

    i: int
    j: int
    kind: Kind
    distance: int = 0
    likeness: float = 1.0
    flip: str = "none"
    scale: float = 1.0
    cosine: float | None = None
    blurred: bool = False
    negative: bool = False
    angle: float = 0.0
    warp: tuple[tuple[float, float, float], tuple[float, float, float]] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


@threadpool_limits.wrap(limits=1, user_api="blas")
def find_twins(
    store: TileStore,
    images: pd.DataFrame,
    *,
    hashes: Hashes | None = None,
    embed: Embed | None = None,
    cohorts: np.ndarray | None = None,
    exact: int = EXACT,
    progress: Callable[[float], None] | None = None,
) -> list[Twin]:
    """The pairs of images with the same picture; row i of `images` (`Cohort.images`) is tile i.

    Uniform images have no twins. Of identical images only the first is compared with the others.

    Args:
        hashes: of `hash_store(store)`, if they are known.
        embed: decides doubtful pairs; without it they do not count.
        cohorts: the cohort of each image (N,), rising, if only pairs of two cohorts count. Candidates are then the
            nearest of the other cohort, and every image identical to one of a pair is in a pair as well, so that
            nothing is left to be found once all images that the pairs name in one of the cohorts are left out.
        exact: up to so many different images, each is compared with all others. Of more, candidates come from indexes
            of hashes and of local features, at most 30 and 8 for each image, the nearest first, so that time grows with
            the number of images; a copy may be missed.
        progress: called with the share that is done.
    """
    if len(store) != len(images):
        raise ValueError(f"{len(store)} tiles do not match {len(images)} images")
    report = progress or (lambda share: None)
    hashes = hashes or hash_store(store)
    identical = _identical(store, hashes.flat, cohorts)
    firsts = np.array(list(identical), dtype=np.int64)
    report(0.25)
    pairs = close_pairs(hashes, firsts, groups=cohorts, exact=exact, progress=lambda share: report(0.25 + 0.25 * share))
    peaks = screen(store, pairs)
    chosen = worth_comparing(pairs, peaks)
    pairs, peaks = pairs[chosen], peaks[chosen]
    twins = _confirmed(store, images, pairs, list(compare(store, pairs, peaks)), embed=embed)
    equal = list(_exact(store, identical, cohorts))
    excluded = {(twin.i, twin.j) for twin in twins + equal}
    local = local_pairs(
        store, shown_by(images), firsts, excluded, groups=cohorts, exact=exact,
        progress=lambda share: report(0.75 + 0.25 * share),
    )  # fmt: skip
    if local:
        i, j, mirrored = (np.array([pair[end] for pair in local], np.int64) for end in (0, 1, 3))
        distance = np.bitwise_count(hashes.whole[i] ^ hashes.whole[j]).sum(axis=1).astype(np.int64)
        pairs = candidates(i, j, distance, mirrored, np.zeros(len(i), bool))
        twins += _confirmed(store, images, pairs, [register for _, _, register, _ in local], local=True)
    if cohorts is not None:
        twins = [replace(twin, i=i, j=j) for twin in twins for i, j in _paired(identical[twin.i], identical[twin.j])]
    by_pair = {(twin.i, twin.j): twin for twin in twins + equal}
    return [by_pair[pair] for pair in sorted(by_pair)]


def _identical(store: TileStore, flat: np.ndarray, cohorts: np.ndarray | None) -> dict[int, list[int]]:
    """The groups of images with one tile, each of one of the `cohorts`, by their first image."""
    groups: dict[tuple[str, int], list[int]] = {}
    for row, tile in enumerate(store.index["tile_sha256"].tolist()):
        if not flat[row]:
            groups.setdefault((tile, 0 if cohorts is None else int(cohorts[row])), []).append(row)
    return {rows[0]: rows for rows in groups.values()}


def _exact(store: TileStore, identical: Mapping[int, list[int]], cohorts: np.ndarray | None) -> Iterator[Twin]:
    """Pairs of the same file or tile: of two cohorts, or without cohorts all."""
    files, tiles = (store.index[name].tolist() for name in ("sha256", "tile_sha256"))
    by_tile: dict[str, list[list[int]]] = {}
    for rows in identical.values():
        by_tile.setdefault(tiles[rows[0]], []).append(rows)
    for groups in by_tile.values():
        for two in [groups * 2] if cohorts is None else combinations(groups, 2):
            yield from (Twin(i, j, "bytes" if files[i] == files[j] else "pixels") for i, j in _paired(*two))


def _paired(first: list[int], second: list[int]) -> set[tuple[int, int]]:
    """Each image of a group with each later one of the other; in large groups with the first of the other only."""
    large = max(len(first), len(second)) > ALL_PAIRS
    pairs = [*product(first[:1], second), *product(first, second[:1])] if large else product(first, second)
    return {(i, j) for i, j in pairs if i < j}


def _confirmed(
    store: TileStore,
    images: pd.DataFrame,
    pairs: Pairs,
    registers: Sequence[Register | None],
    *,
    embed: Embed | None = None,
    local: bool = False,
) -> list[Twin]:
    """The pairs that the comparison of files confirms as the same picture, each once.

    Args:
        registers: of tiles or, if `local`, of local features.
    """
    subject, worth = images["subject"].to_numpy(), _promising if local else _plausible
    same = (subject[pairs.i] == subject[pairs.j]).tolist()
    kept = [n for n, register in enumerate(registers) if register and worth(register, same[n])]
    pairs, same = pairs[kept], [same[n] for n in kept]
    looks = second_check(store, shown_by(images), pairs, [register for n in kept if (register := registers[n])])
    alike = {n: look for n, look in enumerate(looks) if _alike(look, same[n], local=local)}
    confirmed: dict[tuple[int, int], Twin] = {}
    for (n, look), cosine in zip(alike.items(), _cosines(pairs[list(alike)], embed), strict=True):
        register = look.register
        # networks are not trained on pictures that are upside down
        agrees = cosine is not None and cosine >= COSINE and pairs.flip[n] < 2
        if register and (not look.blurred or register.likeness >= CLEAR or agrees):
            twin = _twin(pairs[n], register, look.blurred, cosine)
            confirmed.setdefault((twin.i, twin.j), twin)
    return list(confirmed.values())


def _promising(register: Register, same: bool) -> bool:
    """Whether features that agree, of the `same` subject or of two, justify a comparison of the files."""
    if same and register.turn <= TURN and abs(np.log(register.scale)) < RESCALED:
        return False
    return register.containment >= _least_contained(register, same) - LESS


def _least_contained(register: Register, same: bool) -> float:
    if same:
        return _CONTAINED_TURNED if register.turn > TURN else CONTAINED_SAME
    return CONTAINED


def shown_by(images: pd.DataFrame) -> list[str]:
    """The file with the picture of each image; for a slide its downsampled picture, if it exists."""
    column = "slide_picture" if "slide_picture" in images else "path"
    return images[column].astype(str).tolist()


def _plausible(register: Register, same: bool) -> bool:
    """Whether registered tiles, of the `same` subject or of two, justify a comparison of the files."""
    if same:
        return register.likeness >= COPY and register.turn <= 4 * STRAIGHT
    return register.likeness >= PLAUSIBLE


def _alike(look: SecondCheck, same: bool, *, local: bool) -> bool:
    """Whether the comparison of files found two images alike, or alike enough for an embedding to confirm.

    If they were found by `local` features, one must show nearly all of the other, and files were compared.
    """
    if look.register is None:
        return False
    if local and (look.blurred or look.register.containment < _least_contained(look.register, same)):
        return False
    if same:
        turned = look.register.turn > STRAIGHT
        return look.register.likeness >= (_COPY_TURNED if turned else COPY) and (local or not turned)
    required = DOUBTFUL if look.blurred else np.clip(ALIKE * look.pixels / LARGE, ALIKE_SMALL, ALIKE)
    return bool(look.register.likeness >= required)


def _twin(pair: np.record, register: Register, blurred: bool, cosine: float | None) -> Twin:
    i, j, oriented = int(pair.i), int(pair.j), int(pair.flip)
    warp = np.vstack([register.warp, [0, 0, 1]]) @ np.linalg.inv(_orientation(oriented))
    flip = FLIPS[oriented % NEGATIVE]
    if i > j:
        warp, flip = np.linalg.inv(warp), INVERSE.get(flip, flip)
    rows = [tuple(round(float(value), 5) for value in row) for row in warp[:2]]
    return Twin(
        min(i, j),
        max(i, j),
        "near",
        int(pair.distance),
        round(min(register.likeness, 1.0), 4),
        flip,
        round(min(register.scale, 1 / register.scale), 4),
        None if cosine is None else round(cosine, 4),
        blurred,
        oriented >= NEGATIVE,
        _angle(register.warp),
        (rows[0], rows[1]),  # type: ignore[arg-type]
    )


def _angle(warp: np.ndarray) -> float:
    """The angle of a map between squares, in degrees; the products undo that images were stretched to squares."""
    sine = np.copysign(np.sqrt(abs(warp[1, 0] * warp[0, 1])), warp[1, 0])
    cosine = np.copysign(np.sqrt(abs(warp[0, 0] * warp[1, 1])), warp[0, 0])
    return round(float(np.degrees(np.arctan2(sine, cosine))), 1)


def _orientation(number: int) -> np.ndarray:
    """The map (3, 3) from a square of `SIDE` pixels oriented by `flip` to the same square as it was."""
    matrix = np.eye(3)
    for axis, bit in ((0, 1), (1, 2)):
        if number & bit:
            matrix[axis] = [-(axis == 0), -(axis == 1), SIDE - 1]
    return matrix[[1, 0, 2]] if number & 4 else matrix


def _cosines(pairs: Pairs, embed: Embed | None) -> list[float] | list[None]:
    """The cosine similarity of each pair's embeddings; each image is embedded once."""
    if embed is None or not len(pairs):
        return [None] * len(pairs)
    rows, index = np.unique(np.concatenate([pairs.i, pairs.j]), return_inverse=True)
    vectors = embed(rows)
    first, second = vectors[index[: len(pairs)]], vectors[index[len(pairs) :]]
    return [float(cosine) for cosine in (first * second).sum(axis=1)]
