from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from casewise.panels import EMPTY, augmented, chunks, draw, fold, gather, plain
from casewise.study import Panels

STORE = torch.randint(1, 256, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PASI = Panels(by="region", grid="2x2", shuffle=True, rotate=180, brightness=0.2, contrast=0.2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 30), st.integers(1, 9))
def test_chunks_show_every_tile_once(count: int, slots: int) -> None:
    found = chunks(list(range(count)), slots)
    assert all(len(view) == slots for view in found)
    shown = [t for view in found for t in view if t != EMPTY]
    assert shown == list(range(count))
    assert len(found) == -(-count // slots)


@given(st.integers(1, 9), st.integers(0, 50))
def test_drawn_slots_hold_different_tiles(count: int, seed: int) -> None:
    found = draw(list(range(count)), PASI, seeded(seed))
    shown = [t for t in found if t != EMPTY]
    assert len(found) == 4
    assert len(set(shown)) == len(shown) == min(count, 4)


def test_slots_are_shuffled_only_if_asked() -> None:
    orders = {tuple(draw([0, 1, 2, 3], PASI, seeded(s))) for s in range(40)}
    assert len(orders) > 10
    still = Panels(by="region", grid="2x2")
    assert {tuple(draw([0, 1, 2, 3], still, seeded(s))) for s in range(5)} == {(0, 1, 2, 3)}


def test_empty_slots_are_black_and_tiles_lie_row_by_row() -> None:
    panel = plain(STORE, torch.tensor([[4, 5, EMPTY, 6]]), PASI)[0]
    assert panel.shape == (3, 32, 32)
    assert torch.equal(panel[:, :16, :16], STORE[4] / 255)
    assert torch.equal(panel[:, :16, 16:], STORE[5] / 255)
    assert panel[:, 16:, :16].abs().max() == 0
    assert torch.equal(panel[:, 16:, 16:], STORE[6] / 255)


def test_inference_is_deterministic_and_training_is_not() -> None:
    slots = torch.tensor([[0, 1, 2, 3]])
    assert torch.equal(plain(STORE, slots, PASI), plain(STORE, slots, PASI))
    one, two = augmented(STORE, slots, PASI, seeded(1)), augmented(STORE, slots, PASI, seeded(2))
    assert not torch.equal(one, two)
    assert torch.equal(one, augmented(STORE, slots, PASI, seeded(1)))


def test_augmented_panels_stay_in_range_and_keep_empty_slots_black() -> None:
    panel = augmented(STORE, torch.tensor([[0, EMPTY, 1, EMPTY]]), PASI, seeded())[0]
    assert 0 <= panel.min() <= panel.max() <= 1
    assert panel[:, :16, 16:].abs().max() == 0
    assert panel[:, :16, :16].max() > 0


def test_the_black_around_a_photograph_stays_black_under_brightness_and_contrast() -> None:
    store = STORE.clone()
    store[0, :, :4] = 0
    only = Panels(by="image", brightness=0.5, contrast=0.5)
    panel = augmented(store, torch.tensor([[0]]), only, seeded())[0]
    assert panel[:, :4].abs().max() == 0
    assert panel[:, 4:].max() > 0


def test_each_tile_gets_parameters_of_its_own() -> None:
    store = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    only = Panels(by="case", grid="1x2", brightness=0.5)
    panel = augmented(store, torch.tensor([[0, 1]]), only, seeded())[0]
    assert panel[0, 0, 0] != panel[0, 0, 8]


def test_nothing_asked_changes_nothing() -> None:
    still = Panels(by="case", grid="2x2")
    slots = torch.tensor([[0, 1, 2, 3]])
    assert torch.equal(augmented(STORE, slots, still, seeded()), plain(STORE, slots, still))


def test_a_quarter_turn_is_a_quarter_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    tile = torch.zeros(1, 1, 9, 9)
    tile[0, 0, 0, 4] = 1
    from casewise import panels

    half = panels._warped(tile, torch.full((1, 8), 0.75), Panels(rotate=180))  # 0.75 of −180…180 is 90 degrees
    row, column = divmod(int(half.flatten().argmax()), 9)
    assert (row, column) in {(4, 0), (4, 8)}


@pytest.mark.parametrize(("flip", "dim"), [("horizontal", 3), ("vertical", 2)])
def test_flips(flip: str, dim: int) -> None:
    from casewise import panels

    tile = STORE[:1].float()
    never = panels._warped(tile, torch.full((1, 8), 0.9), Panels(flip=flip))
    always = panels._warped(tile, torch.full((1, 8), 0.1), Panels(flip=flip))
    assert torch.equal(never, tile)
    assert torch.equal(always, tile.flip(dim))


def test_gather_does_not_touch_the_store() -> None:
    before = STORE.clone()
    gather(STORE, torch.tensor([[EMPTY, 0]]))
    assert torch.equal(STORE, before)


def test_fold_of_one_slot_is_the_tile() -> None:
    assert torch.equal(fold(STORE[:2].unsqueeze(1), Panels())[1], STORE[1])
