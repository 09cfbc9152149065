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

from casewise.audit.hashes import BITS, LIMIT, ROWS, flip_masks, hash_store, in_parallel, smallest_distances
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
    """The numbers of the images whose picture has one of the fingerprints `others`, in any orientation or negative."""
    words = BITS // 64
    rows = np.flatnonzero(images["whole"].any(axis=1))
    coarse = tuple(others[name][:, :words] for name in ("whole", "inset"))
    if not len(rows) or not len(others["whole"]):
        return []

    def copies(start: int) -> list[int]:
        block = rows[start : start + ROWS]
        squares = tuple(images[name][block, :words] for name in ("whole", "transposed"))
        insets = smallest_distances((images["inset"][block, :words],), coarse[:1])
        best = np.minimum(smallest_distances(squares, coarse), insets)
        return [int(block[n]) for n in range(len(block)) if _is_copy(images, int(block[n]), others, best[n] <= LIMIT)]

    blocks = in_parallel(copies, range(0, len(rows), ROWS))
    return [number for numbers in blocks for number in numbers]


def _is_copy(images: Mapping[str, np.ndarray], row: int, others: Mapping[str, np.ndarray], among: np.ndarray) -> bool:
    """Whether an image shows one of the other pictures `among` (M,)."""
    if not among.any():
        return False
    masks = flip_masks(SIGNS)
    pairs = [(own, other) for own in ("whole", "transposed") for other in ("whole", "inset")] + [("inset", "whole")]
    for own, other in pairs:
        turned = images[own][row] ^ masks  # (4, 8)
        bits = np.bitwise_count(turned[:, None] ^ others[other][among]).sum(axis=2, dtype=np.int64)
        # a negative differs in all other signs
        if min(bits.min(), (SIGNS - bits).min()) <= MOST_DIFFERENT:
            return True
    return False
