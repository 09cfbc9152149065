"""Finding tissue: the threshold, every kind of slide, specks and holes, the tissue of a tile, and the even choice."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from casewise.plugins.slides import tissue_mask
from casewise.plugins.slides.tissue_mask import find_tissue, tissue_shares, tissue_threshold

PINK, GLASS = (220, 130, 170), (243, 242, 244)


def slide(colour: tuple[int, int, int], glass: tuple[int, int, int], *, noise: float = 2.0) -> tuple[np.ndarray, ...]:
    """A thumbnail with one disc of tissue, everything scanned, and where the disc is."""
    picture, disc = np.empty((300, 400, 3)), np.zeros((300, 400), np.uint8)
    cv2.circle(disc, (150, 140), 90, 1, -1)
    picture[:] = glass
    picture[disc > 0] = colour
    picture += np.random.default_rng(0).normal(0, noise, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), np.ones((300, 400), bool), disc > 0


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    return float((one & other).sum() / (one | other).sum())


def between(values: np.ndarray, cut: float) -> float:
    """The variance between the two parts: what Otsu's threshold makes largest."""
    above = values > cut
    if above.all() or not above.any():
        return 0.0
    share = above.mean()
    return float(share * (1 - share) * (values[above].mean() - values[~above].mean()) ** 2)


@given(arrays.arrays(np.uint8, st.integers(2, 60)))
def test_the_threshold_is_otsus(values: np.ndarray) -> None:
    cut, best = tissue_threshold(values, 0.0), max(between(values, number) for number in range(255))
    if cut is None:
        assert best == 0
    else:
        assert between(values, cut) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    ("colour", "glass", "note"),
    [
        (PINK, GLASS, ""),
        ((236, 215, 226), GLASS, ""),  # pale dermis
        ((110, 70, 140), (240, 235, 222), ""),  # on yellowed glass
        ((120, 120, 120), (240, 240, 240), "dark areas count as tissue"),
        ((10, 20, 190), (0, 0, 4), "brightness"),
        ((40, 40, 40), (3, 3, 3), "brightness"),
    ],
)
def test_tissue_is_found_on_any_glass(colour: tuple[int, int, int], glass: tuple[int, int, int], note: str) -> None:
    picture, seen, disc = slide(colour, glass)
    found = find_tissue(picture, seen, 8.0, mpp=0.5)
    # In the dark the blur carries light over the edge, by about its own width.
    assert overlap(found.mask, disc) > (0.83 if note == "brightness" else 0.93)
    assert (found.mask.dtype, found.share) == (np.bool_, found.mask.mean())
    assert (note in found.notes[0]) if note else (found.notes == ())


@pytest.mark.parametrize("glass", [GLASS, (3, 3, 3)])
def test_bare_glass_has_no_tissue(glass: tuple[int, int, int]) -> None:
    picture, seen, _ = slide(glass, glass)
    assert not find_tissue(picture, seen, 8.0, mpp=0.5).mask.any()


def test_what_was_not_scanned_is_no_tissue() -> None:
    for colour, glass in ((PINK, GLASS), ((0, 0, 90), (0, 0, 3))):
        picture, seen, disc = slide(colour, glass)
        seen[:, :150] = False
        picture[:, :150] = 255
        found = find_tissue(picture, seen, 8.0)
        assert not found.mask[:, :150].any()
        assert overlap(found.mask, disc & seen) > 0.9


def test_specks_go_and_small_holes_are_filled() -> None:
    picture, seen, disc = slide(PINK, GLASS)
    picture[20:23, 350:353] = PINK
    picture[140:145, 150:155] = GLASS
    picture[100:130, 140:170] = GLASS
    found = find_tissue(picture, seen, 1.0).mask
    assert not found[10:40, 340:370].any()
    assert found[142, 152]
    assert not found[115, 155]
    disc[100:130, 140:170] = False
    assert overlap(found, disc) > 0.95


@given(arrays.arrays(np.bool_, (6, 7)), st.lists(st.tuples(*[st.integers(0, 16)] * 2, st.integers(1, 8)), min_size=1))
def test_the_tissue_of_a_box_is_exact(mask: np.ndarray, boxes: list[tuple[int, int, int]]) -> None:
    whole = np.kron(mask, np.ones((4, 4)))
    expected = [whole[y : y + side, x : x + side].mean() for x, y, side in boxes]
    assert tissue_shares(tissue_mask.Tissue(mask, 4.0, ()), np.array(boxes)) == pytest.approx(expected, abs=1e-9)


@given(st.sets(st.tuples(st.integers(0, 40), st.integers(0, 25)), min_size=1, max_size=200), st.integers(1, 60))
def test_the_choice_is_of_distinct_places_in_order(places: set[tuple[int, int]], most: int) -> None:
    chosen = tissue_mask.spread(np.array(sorted(places)), most)
    assert len(chosen) == min(most, len(places))
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < len(places)
