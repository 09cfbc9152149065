"""Twins: the same picture twice in a cohort, as the same file, the same pixels, or an altered copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np

from casewise.audit.hashes import FLIPS, Candidates, close_pairs, hash_store
from casewise.audit.registration import CloserLook, look_closer
from casewise.audit.verify import Register, compare, screen, worth_comparing

if TYPE_CHECKING:
    import pandas as pd

    from casewise.modalities.store.store import TileStore

__all__ = ["ALIKE", "COPY", "DOUBTFUL", "Embed", "Kind", "Twin", "find_twins"]

Kind = Literal["bytes", "pixels", "near"]
# Image numbers to (n, d) `float32` embeddings of unit length.
Embed = Callable[[np.ndarray], np.ndarray]

# What the texture of two images must reach, by the longest side of the smaller: from 320 pixels on, and below 175. Of
# 10,000 pairs of films, photographs of the fundus and of phantoms whose outlines lay on each other, different people
# reached .51 (one of them saved as a poor JPEG) and .25; of the altered copies 98 % reached .68 and .30.
ALIKE, ALIKE_SMALL, LARGE = 0.55, 0.3, 320
# Tiles alone, or images of a few pixels, tell less: from DOUBTFUL on a network must agree, from CLEAR on it need not.
DOUBTFUL, CLEAR = 0.65, 0.8
COSINE = 0.9
# What registered tiles must reach for the files to be looked at.
PLAUSIBLE = 0.25
# Later pictures of one subject share all that is finer than an outline, too, but never lie quite straight: among these
# only copies count, which do.
COPY, STRAIGHT = 0.8, 0.002
# Of larger groups of identical images each is paired with the first only.
ALL_PAIRS = 12


@dataclass(frozen=True)
class Twin:
    """Images `i` < `j` show the same picture.

    `kind`: the same file (`bytes`), the same tile (`pixels`) or an altered copy (`near`). `distance`: bits of 128 in
    which the hashes differ. `likeness`: of their texture once registered, 1 if identical. `flip`: how the one
    is mirrored. `scale`: how much smaller the part is that the narrower one shows. `cosine`: of their embeddings.
    `blurred`: only tiles, or images of a few pixels, were there to compare.
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


def find_twins(
    store: TileStore,
    images: pd.DataFrame,
    *,
    embed: Embed | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Twin]:
    """Find the pairs of images that show the same picture; row i of `images` (`Cohort.images`) is tile i.

    Images of one colour all over are no one's twins. Of identical images only the first is compared with the others.
    `embed` settles the doubtful pairs; without it they do not count. `progress(done, total)` counts three rounds.
    """
    if len(store) != len(images):
        raise ValueError(f"{len(store)} tiles are not of {len(images)} images")
    total = 3 * len(store)
    tell = progress or (lambda done, total: None)
    hashes = hash_store(store, progress=lambda done: tell(done, total))
    exact, firsts = _identical(store, hashes.flat)
    candidates = close_pairs(hashes, firsts, progress=lambda done: tell(len(store) + done, total))
    near = list(_near(store, images, candidates, embed, lambda share: tell(int((2 + share) * len(store)), total)))
    tell(total, total)
    return sorted(exact + near, key=lambda twin: (twin.i, twin.j))


def _identical(store: TileStore, flat: np.ndarray) -> tuple[list[Twin], np.ndarray]:
    """Pairs of the same file or tile, and the first image of each group of identical ones."""
    files = store.index["sha256"].tolist()
    groups: dict[str, list[int]] = {}
    for row, tile in enumerate(store.index["tile_sha256"].tolist()):
        if not flat[row]:
            groups.setdefault(tile, []).append(row)
    twins = []
    for rows in groups.values():
        for i, j in combinations(rows, 2) if len(rows) <= ALL_PAIRS else ((rows[0], row) for row in rows[1:]):
            twins.append(Twin(i, j, "bytes" if files[i] == files[j] else "pixels"))
    return twins, np.array([rows[0] for rows in groups.values()], dtype=np.int64)


def _near(
    store: TileStore, images: pd.DataFrame, pairs: Candidates, embed: Embed | None, tell: Callable[[float], None]
) -> Iterator[Twin]:
    """The candidates that are the same picture indeed."""
    peaks = screen(store, pairs)
    chosen = worth_comparing(pairs, peaks)
    pairs, peaks = pairs.of(chosen), peaks[chosen]
    registers = list(compare(store, pairs, peaks, progress=lambda done: tell(done / len(pairs) / 2)))
    subject = images["subject"].to_numpy()
    same = (subject[pairs.i] == subject[pairs.j]).tolist()
    plausible = [(n, found) for n, found in enumerate(registers) if found and _plausible(found, same[n])]
    same = [same[n] for n, _ in plausible]
    pairs = pairs.of(np.array([n for n, _ in plausible], np.int64))
    looks = look_closer(
        store,
        shown_by(images),
        pairs,
        [found for _, found in plausible],
        progress=lambda done: tell((1 + done / len(pairs)) / 2),
    )
    alike = [(n, look, look.register) for n, look in enumerate(looks) if look.register and _alike(look, same[n])]
    cosines = _cosines(pairs.of(np.array([n for n, _, _ in alike], np.int64)), embed)
    for (n, look, found), cosine in zip(alike, cosines, strict=True):
        # A network that was never shown anything upside down is no judge of it.
        agrees = cosine is not None and cosine >= COSINE and pairs.flip[n] < 2
        if not look.blurred or found.likeness >= CLEAR or agrees:
            yield _twin(pairs, n, found, look.blurred, cosine)


def shown_by(images: pd.DataFrame) -> list[str]:
    """The file that shows each image: of a slide its small picture, where there is one."""
    column = "slide_picture" if "slide_picture" in images else "path"
    return images[column].astype(str).tolist()


def _plausible(found: Register, same: bool) -> bool:
    """Whether registered tiles, of the `same` subject or of two, are worth a second look."""
    return found.likeness >= COPY and found.turn <= 4 * STRAIGHT if same else found.likeness >= PLAUSIBLE


def _alike(look: CloserLook, same: bool) -> bool:
    """Whether the second look found two images alike, or so alike that a network may confirm it."""
    if look.register is None:
        return False
    if same:
        return look.register.likeness >= COPY and look.register.turn <= STRAIGHT
    needed = DOUBTFUL if look.blurred else np.clip(ALIKE * look.pixels / LARGE, ALIKE_SMALL, ALIKE)
    return bool(look.register.likeness >= needed)


def _twin(pairs: Candidates, number: int, found: Register, blurred: bool, cosine: float | None) -> Twin:
    i, j = sorted((int(pairs.i[number]), int(pairs.j[number])))
    return Twin(
        i,
        j,
        "near",
        int(pairs.distance[number]),
        round(min(found.likeness, 1.0), 4),
        FLIPS[int(pairs.flip[number])],
        round(min(found.scale, 1 / found.scale), 4),
        None if cosine is None else round(cosine, 4),
        blurred,
    )


def _cosines(pairs: Candidates, embed: Embed | None) -> list[float] | list[None]:
    """The cosine similarity of each pair's embeddings; each image is embedded once."""
    if embed is None or not len(pairs):
        return [None] * len(pairs)
    rows, place = np.unique(np.concatenate([pairs.i, pairs.j]), return_inverse=True)
    vectors = embed(rows)
    one, two = vectors[place[: len(pairs)]], vectors[place[len(pairs) :]]
    return [float(cosine) for cosine in (one * two).sum(axis=1)]
