"""The comparison of all hashes with all others, against a plain loop over pairs and orientations."""

from collections.abc import Sequence

import numpy as np
import pytest

from casewise.audit import fingerprints, hashes
from casewise.audit.hashes import BITS, FLIPS, NEGATIVE, Hashes, close_pairs, flip_masks, smallest_distances


def made(images: int, seed: int) -> Hashes:
    """Hashes of images of which many are near copies of a few, some flipped, negative or flat."""
    random = np.random.default_rng(seed)

    def altered(words: np.ndarray, bits: int) -> np.ndarray:
        words = words.copy()
        for _ in range(bits):
            words[np.arange(len(words)), random.integers(0, 2, len(words))] ^= np.uint64(1) << random.integers(
                0, 64, len(words), dtype=np.uint64
            )
        return words

    originals = random.integers(0, 2**63, (max(1, images // 12), 2), dtype=np.uint64)
    whole, flipped = altered(originals[random.integers(0, len(originals), images)], 13), random.random(images) < 0.4
    whole[flipped] ^= hashes.flip_masks()[random.integers(0, 4, flipped.sum())]
    negative = random.random(images) < 0.2
    whole[negative] = ~whole[negative]
    turned = altered(whole[random.permutation(images)], 6)
    return Hashes(whole, altered(whole, 5), random.random(images) < 0.05, turned)


def by_loop(made_hashes: Hashes, limit: int) -> dict[tuple[int, int], tuple[int, int, bool]]:
    """The pairs i < j with distance, orientation and inset: the first variant of the smallest distance, i before j."""
    masks = hashes.flip_masks()
    closest: dict[tuple[int, int], tuple[int, int, bool]] = {}
    for i in range(len(made_hashes.flat)):
        for j in range(len(made_hashes.flat)):
            if i == j or made_hashes.flat[i] or made_hashes.flat[j]:
                continue
            variants = []
            for number in range(len(FLIPS)):
                start = (made_hashes.transposed if number & 4 else made_hashes.whole)[i] ^ masks[number & 3]
                for inset, others in enumerate((made_hashes.whole, made_hashes.inset)):
                    bits = int(np.bitwise_count(start ^ others[j]).sum())
                    variants += [(bits, number, bool(inset)), (BITS - bits, number | NEGATIVE, bool(inset))]
            best = min(variants, key=lambda variant: variant[0])
            key = (min(i, j), max(i, j))
            known = closest.get(key)
            if best[0] <= limit and (known is None or (best[0], best[2]) < (known[0], known[2])):
                closest[key] = best
    return closest


@pytest.mark.parametrize("images", [2, 60])
def test_all_pairs_are_those_of_a_plain_loop(images: int) -> None:
    made_hashes = made(images, images)
    pairs = close_pairs(made_hashes, np.arange(images), nearest=images)
    rows = zip(*(part.tolist() for part in (pairs.i, pairs.j, pairs.distance, pairs.flip, pairs.inset)), strict=True)
    found = {(min(i, j), max(i, j)): (distance, flip, inset) for i, j, distance, flip, inset in rows}
    assert found == by_loop(made_hashes, hashes.LIMIT)
    assert len(found) > 100 or images < 60


@pytest.mark.parametrize("exact", [80, 0])
def test_each_image_keeps_its_nearest(exact: int) -> None:
    made_hashes = made(80, 3)
    every = close_pairs(made_hashes, np.arange(80), nearest=80)
    few = close_pairs(made_hashes, np.arange(80), nearest=2, exact=exact)
    assert 0 < len(few) < len(every)
    pairs_of_few, pairs_of_every = (
        {(min(pair), max(pair)) for pair in zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)}
        for pairs in (few, every)
    )
    assert pairs_of_few <= pairs_of_every
    least = {int(i): every.distance[(every.i == i) | (every.j == i)].min() for i in np.unique([every.i, every.j])}
    assert all(few.distance[(few.i == i) | (few.j == i)].min() == distance for i, distance in least.items())


@pytest.mark.parametrize("cohorts", [1, 2])
def test_neighbours_in_an_index_are_nearly_all_close_pairs(cohorts: int) -> None:
    made_hashes, groups = made(900, 5), None if cohorts == 1 else np.arange(900) // 600
    every, indexed = (
        close_pairs(made_hashes, np.arange(900), nearest=900, groups=groups, exact=exact) for exact in (900, 0)
    )
    of_every, of_indexed = (
        {(min(pair), max(pair)) for pair in zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)}
        for pairs in (every, indexed)
    )
    assert of_indexed <= of_every
    assert len(of_indexed) > 0.95 * len(of_every) > 1000


def test_pictures_of_many_images_are_found_by_comparing_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies, some of them mirrored or negative, of 100 of 9,000 pictures among 3,000 images."""
    random, compared = np.random.default_rng(0), list[int]()
    others = {name: random.integers(0, 2**64, (9_000, 8), np.uint64) for name in fingerprints.NAMES}
    images = {name: random.integers(0, 2**64, (3_000, 8), np.uint64) for name in (*fingerprints.NAMES, "transposed")}
    images["whole"][0] = 0
    copies, originals = random.choice(np.arange(1, 3_000), 100, replace=False), random.choice(9_000, 100, replace=False)
    masks = np.concatenate([flip_masks(512), ~flip_masks(512)])
    for number, (copy, original) in enumerate(zip(copies, originals, strict=True)):
        changed = np.zeros(512, np.uint8)
        changed[random.choice(512, 30, replace=False)] = 1
        kind = ("whole", "transposed", "inset")[number % 3]
        source = others["whole" if kind == "inset" else ("whole", "inset")[number % 2]][original]
        images[kind][copy] = source ^ np.packbits(changed).view(np.uint64) ^ masks[number % 8]

    def counted(of_rows: Sequence[np.ndarray], of_columns: Sequence[np.ndarray]) -> np.ndarray:
        compared.append(len(of_rows[0]) * len(of_columns[0]))
        return smallest_distances(of_rows, of_columns)

    monkeypatch.setattr(fingerprints, "smallest_distances", counted)
    assert fingerprints.same_pictures(images, others) == sorted(copies.tolist())
    assert sum(compared) < 100 * 3_000
