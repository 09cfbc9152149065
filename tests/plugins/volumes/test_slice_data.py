"""Windows of slices as panels: against plain loops, so that no slice, sequence or turn is out of step."""

import numpy as np
import pytest
import torch

from casewise.plugins.volumes.dataset import SliceData, Slices, turned
from casewise.plugins.volumes.standardise import LEVELS
from casewise.study.schema import Panels

SIDE = 4
COUNTS = (6, 2, 9)


@pytest.fixture
def slices() -> Slices:
    """Three cases of two sequences; the second case lacks its second. Each scan has a table of its own."""
    random = np.random.default_rng(0)
    stored = random.integers(0, LEVELS, (sum(COUNTS), 2, SIDE, SIDE)).astype(np.uint16)
    present = np.array([[True, True], [True, False], [True, True]])
    tables = np.stack([np.linspace(0, 1, LEVELS, dtype=np.float32) ** (1 + number) for number in range(6)])
    first = np.array([0, COUNTS[0], COUNTS[0] + COUNTS[1]])
    return Slices(*map(torch.from_numpy, (stored.view(np.int16), first, np.array(COUNTS), present, tables)))


def data(slices: Slices, **changes: object) -> SliceData:
    settings = Panels(by="case", grid="2x2", flip="horizontal", quarter_turns=True)
    return SliceData(slices, [0, 1, 2], torch.arange(3.0).view(3, 1), settings, list("abc"), **changes)  # type: ignore[arg-type]


def loop(slices: Slices, case: int, start: int, *, mirrored: bool = False, turns: int = 0) -> np.ndarray:
    """One panel (S, 2·SIDE, 2·SIDE), written out: every slice on its own."""
    count, first = int(slices.count[case]), int(slices.first[case])
    panel, places = np.full((2, 2 * SIDE, 2 * SIDE), np.nan, dtype=np.float32), list(range(start, start + 4))
    if count < 4:
        spare = 4 - count
        places = [0] * (spare // 2) + list(range(count)) + [count - 1] * (spare - spare // 2)
    for slot, place in enumerate(places):
        for sequence in range(2):
            if not slices.present[case, sequence]:
                continue
            values = slices.stored[first + place, sequence].numpy().astype(int)
            tile = slices.tables[2 * case + sequence].numpy()[values]
            tile = tile[:, ::-1] if mirrored else tile
            tile = np.rot90(tile, turns)
            row, column = divmod(slot, 2)
            panel[sequence, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = tile
    return panel


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_all_slices_and_sequences_of_a_panel_are_varied_alike(slices: Slices, mirrored: bool, turns: int) -> None:
    part = data(slices)
    tiles = part._tiles(torch.tensor([[0, 1], [2, 3]]))
    drawn = torch.tensor([[0.2 if mirrored else 0.8, (turns + 0.5) / 4], [0.9, 0.1]])
    from casewise.modalities.panels import fold

    panels = fold(turned(tiles, drawn, part.settings), part.settings).numpy()
    np.testing.assert_array_equal(panels[0], loop(slices, 0, 1, mirrored=mirrored, turns=turns))
    np.testing.assert_array_equal(panels[1], loop(slices, 2, 3))


def test_training_draws_whole_windows_of_the_case_in_every_way_there_is(slices: Slices) -> None:
    part, generator = data(slices), torch.Generator().manual_seed(0)
    ways = [(m, t) for m in (False, True) for t in range(4)]
    known = {
        c: {(c, s, m, t): loop(slices, c, s, mirrored=m, turns=t) for s in range(COUNTS[c] - 3) for m, t in ways}
        for c in (0, 2)
    }
    seen = set()
    for _ in range(150):
        panels, _ = part.training_batch([0, 2], generator, torch.device("cpu"))
        for panel, case in zip(panels.numpy(), (0, 2), strict=True):
            found = [key for key, value in known[case].items() if np.array_equal(value, panel)]
            assert len(found) == 1
            seen.add(found[0])
    assert {key[:2] for key in seen} == {(0, s) for s in range(3)} | {(2, s) for s in range(6)}
    assert {key[2:] for key in seen} == set(ways)


def test_hiding_reaches_training_and_leaves_one_sequence(slices: Slices) -> None:
    part, generator = data(slices, drop=0.5), torch.Generator().manual_seed(1)
    hidden = []
    for _ in range(200):
        panels, _ = part.training_batch([0, 1, 2], generator, torch.device("cpu"))
        gone = panels.isnan().all(dim=(2, 3))
        assert (panels.isnan().any(dim=(2, 3)) == gone).all()
        assert not gone.all(dim=1).any()
        assert gone[1].tolist() == [False, True]
        hidden += gone[[0, 2]].tolist()
    # Each of two with a chance of a half, and one stays where both would go: three eighths.
    assert np.mean(hidden) == pytest.approx(0.375, abs=0.06)
    plain = part.plain_batch(torch.tensor([[0, 0]]), torch.device("cpu"))
    assert not plain.isnan().any()


def test_slices_of_a_case_are_a_bag() -> None:
    random = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 32767, (7, 2, 8, 8), generator=random, dtype=torch.int16)
    tables, present = torch.linspace(0, 1, 32768).repeat(4, 1), torch.tensor([[True, True], [True, False]])
    slices = Slices(stored, torch.tensor([0, 3]), torch.tensor([3, 4]), present, tables)
    data = SliceData(slices, [0, 1], torch.zeros(2, 1), Panels(pooling="maps"))
    views, owner = data.views()
    assert (views.tolist(), owner.tolist()) == ([[0, 1, 2, -1], [3, 4, 5, 6]], [0, 1])
    batch = data.plain_batch(views, torch.device("cpu"))
    assert batch.shape == (2, 4, 2, 8, 8)
    assert batch[0, 3].isnan().all()
    assert batch[1, :, 1].isnan().all()
    assert torch.allclose(batch[0, 1], stored[1].float() / 32767, atol=1e-4)
    assert data.slots_of(views).tolist() == [[0, 1, 2, -1], [0, 1, 2, 3]]
    single = data.arranged(Panels())
    assert len(single.views()[0]) == 7
    drawn, occupied = data.training_batch([0, 1], random, torch.device("cpu"))
    assert drawn.shape == (2, 4, 2, 8, 8)
    assert occupied.tolist() == [[True, True, True, False], [True] * 4]
