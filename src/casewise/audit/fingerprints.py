"""Fingerprints of training images, which travel with a network, and the images of a cohort that have them.

A fingerprint is the perceptual hash of the search for twins (`casewise.audit.hashes`) with 512 signs instead of 128:
there is no picture to verify a candidate with. Copies that were resized to a quarter and saved as poor JPEG differ in
at most 56 signs; 1 % in more than 38. Films, fundus photographs, skin and tissue of two people differ in at least 61.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from casewise.audit.hashes import (
    BITS,
    BLOCK,
    EXACT,
    LIMIT,
    ROWS,
    Orders,
    hash_store,
    in_parallel,
    smallest_distances,
)
from casewise.errors import RunError
from casewise.files import write_atomic
from casewise.modalities.store.store import TileStore
from casewise.run_folder import WeightsFile

SIGNS, SIDE = 512, 64
MOST_DIFFERENT = 44
# What a network keeps; a turned image has a hash of its own in the cohort that is compared.
NAMES = ("whole", "inset")


def fingerprints(store: TileStore) -> dict[str, np.ndarray]:
    """`whole`, `inset` and `transposed`, (N, 8) `uint64`; rows of uniform images are zero, and equal to no other."""
    hashes = hash_store(store, SIGNS, SIDE)
    names = (*NAMES, "transposed")
    return {name: np.where(hashes.flat[:, None], np.uint64(0), getattr(hashes, name)) for name in names}


def joined(several: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The different fingerprints of several sets, in an order that says nothing about their images."""
    rows = np.concatenate([np.concatenate([each[name] for name in NAMES], axis=1) for each in several])
    rows = np.unique(rows[rows.any(axis=1)], axis=0)
    return dict(zip(NAMES, map(np.ascontiguousarray, np.split(rows, len(NAMES), axis=1)), strict=True))


def write_fingerprints(file: WeightsFile, prints: Mapping[str, np.ndarray]) -> None:
    """Write fingerprints as safetensors."""
    with file.replacing() as temporary:
        write_atomic(temporary, save(dict(prints)))


def read_fingerprints(file: WeightsFile) -> dict[str, np.ndarray]:
    """The fingerprints of a file.

    Raises:
        RunError: it is damaged.
    """
    try:
        stored = load(file.verified().read_bytes())
        shapes = {stored[name].shape for name in NAMES}
        if len(shapes) != 1 or next(iter(shapes))[1:] != (SIGNS // 64,):
            raise ValueError(f"fingerprints of {SIGNS} signs are needed")
        return {name: stored[name].astype(np.uint64, copy=False) for name in NAMES}
    except (SafetensorError, OSError, LookupError, ValueError) as error:
        raise RunError(f"{file.path} is damaged ({error}). Copy the network again.") from error


def same_pictures(images: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> list[int]:
    """The numbers of the images whose picture has one of the fingerprints `others`, in any orientation or negative.

    If there are many, each image is compared with its neighbours in an index only; a copy may be missed.
    """
    rows = np.flatnonzero(images["whole"].any(axis=1))
    if not len(rows) or not len(others["whole"]):
        return []

    def distances(of_rows: np.ndarray, among: np.ndarray | slice, words: int) -> np.ndarray:
        whole, transposed, inset = (images[name][of_rows, :words] for name in ("whole", "transposed", "inset"))
        others_whole, others_inset = (others[name][among, :words] for name in NAMES)
        squares = smallest_distances((whole, transposed), (others_whole, others_inset))
        return np.minimum(squares, smallest_distances((inset,), (others_whole,)))

    def has_copy(row: int, among: np.ndarray) -> bool:
        return len(among) > 0 and bool(distances(np.array([row]), among, SIGNS // 64).min() <= MOST_DIFFERENT)

    def copies(start: int) -> list[int]:
        block = rows[start : start + ROWS]
        close = distances(block, slice(None), BITS // 64) <= LIMIT
        return [int(row) for row, among in zip(block, close, strict=True) if has_copy(row, np.flatnonzero(among))]

    def copies_in_index(start: int) -> list[int]:
        block = rows[start : start + BLOCK]
        of_rows = {name: np.ascontiguousarray(images[name][block, : BITS // 64]) for name in images}
        squares = index.neighbours((of_rows["whole"], of_rows["transposed"]))
        insets = index_of_whole.neighbours((of_rows["inset"],))
        close, near = (np.concatenate(both, axis=1) for both in zip(squares, insets, strict=True))
        kept = zip(block, close <= LIMIT, near, strict=True)
        return [int(row) for row, among, numbers in kept if has_copy(row, np.unique(numbers[among]))]

    search, step = copies, ROWS
    if len(rows) * len(others["whole"]) > EXACT**2:
        whole, inset = (np.ascontiguousarray(others[name][:, : BITS // 64]) for name in NAMES)
        numbers = np.arange(len(whole), dtype=np.int32)
        index, index_of_whole = (
            Orders.of(np.concatenate([whole, inset]), np.tile(numbers, 2)),
            Orders.of(whole, numbers),
        )
        search, step = copies_in_index, BLOCK
    return [number for numbers in in_parallel(search, range(0, len(rows), step)) for number in numbers]
