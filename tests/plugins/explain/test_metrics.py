"""Measures of explanation against closed forms, chance, and by-hand intervals."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casewise.evaluation.bootstrap import Plan, draw
from casewise.evaluation.intervals import expanded
from casewise.plugins.explain.localisation import stronger_prior, summary
from casewise.plugins.explain.metrics import MEASURES, chance_hit, delete_pixels, hit, measure_map, share_inside

PLAN = Plan(resamples=300, seed=1)


def box(shape: tuple[int, int], top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_share_and_hit_of_known_maps() -> None:
    mask = box((8, 8), 0, 0, 4)
    assert (share_inside(np.ones((8, 8)), mask), share_inside(mask * 3.0, mask)) == (0.25, 1)
    assert (share_inside(~mask * 1.0, mask), hit(mask * 1.0, mask)) == (0, 1)
    assert hit(~mask * 1.0, mask) == 0


@given(st.integers(1, 60), st.floats(0, 5))
def test_a_map_that_says_nothing_is_at_chance(count: int, level: float) -> None:
    mask = np.zeros(64, bool)
    mask[:count] = True
    mask, flat = np.random.default_rng(count).permutation(mask).reshape(8, 8), np.full((8, 8), level)
    assert (hit(flat, mask), share_inside(flat, mask)) == (pytest.approx(mask.mean()), pytest.approx(mask.mean()))


def drawn(hits: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Figures of random weights as `summary` takes them."""
    return np.stack([hits, hits, shares], axis=2)


def lattice(cells: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels are the middles of cells that share a panel's side evenly; an odd number of pixels each."""
    middles = np.eye(side)[:, side // cells // 2 :: side // cells]
    return middles, middles


def test_chance_is_that_of_the_network_s_own_cells_shuffled() -> None:
    """A cell's peak lies on the lattice of middles, which small lesions between them never meet."""
    rng = np.random.default_rng(0)
    peaks, slots = lattice(4, 20), np.array([0])
    for mask in (box((20, 20), 1, 1, 4), box((20, 20), 3, 3, 4), box((20, 20), 0, 2, 9)):
        cells, hits = rng.permutation(16).astype(float), []
        for _ in range(1500):
            small = rng.permutation(cells).reshape(4, 4)
            hits.append(hit(peaks[0] @ small @ peaks[1].T, mask))
        exact = chance_hit(mask[None], slots, grid=(1, 1), peaks=peaks)
        assert exact == pytest.approx(np.mean(hits), abs=0.035)
    assert chance_hit(box((20, 20), 3, 3, 4)[None], slots, grid=(1, 1), peaks=peaks) == 0


def test_the_stronger_of_two_priors_is_what_a_network_is_held_against() -> None:
    """A lesion on one slice of nine: a peak in every tile shares its hit, one at the panel's middle does not."""
    mask = np.zeros((9, 5, 5), bool)
    mask[4, 1:4, 1:4] = True
    row = measure_map(np.ones((15, 15)), mask, np.arange(9), grid=(3, 3), peaks=lattice(3, 15))
    assert (row["tile_centre_hit"], row["panel_centre_hit"]) == (pytest.approx(1 / 9), 1)
    table = table_of([row | {"case": f"s{n}/1", "subject": f"s{n}", "fold": n % 2} for n in range(12)])
    assert stronger_prior(table)["hit"] == "panel_centre"
    found = summary(table, drawn(np.zeros((12, 5)), np.zeros((12, 5))), prior=stronger_prior(table), plan=PLAN)
    assert (found["prior_hit"].value, found["hit_over_prior"].value) == (1, pytest.approx(1 / 25 - 1))


def table_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows)


def some_rows(subjects: int, visits: int) -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for subject in range(subjects):
        for visit in range(visits):
            mask = box((16, 16), *rng.integers(0, 10, 2), 6)
            values = mask + 1.1 * rng.random((16, 16))
            row = measure_map(values, mask[None], np.array([0]), grid=(1, 1), peaks=lattice(16, 16))
            rows.append(row | {"case": f"s{subject}/{visit}", "subject": f"s{subject}", "fold": subject % 3})
    return table_of(rows)


PRIOR = {"hit": "tile_centre", "share": "panel_centre"}


def test_the_summary_is_the_mean_with_intervals_by_subject() -> None:
    table = some_rows(14, 2)
    hits, shares = np.random.default_rng(1).random((2, 28, 6))
    found = summary(table, drawn(hits, shares), prior=PRIOR, plan=PLAN)
    for name in MEASURES:
        values = [table.loc[table["subject"] == s, name].to_numpy() for s in sorted(table["subject"].unique())]
        assert found[name].value == pytest.approx(table[name].mean())
        by_hand = [
            np.concatenate([own for own, n in zip(values, counts, strict=True) for _ in range(int(n))]).mean()
            for counts in draw(14, PLAN)
        ]
        told = found[name]
        if 0 < told.value < 1:  # type: ignore[operator]
            tail = 50 * (1 - expanded(0.95, 14))
            assert 1 < tail < 2.5
            assert [told.low, told.high] == pytest.approx(np.percentile(by_hand, [tail, 100 - tail]).tolist())
        assert (told.n_subjects, told.n_cases, told.rough) == (14, 28, False)
    assert found["random_weights_hit"].value == pytest.approx(hits.mean())
    assert found["hit_over_random_weights"].value == pytest.approx(table["hit"].mean() - hits.mean())
    assert found["share_over_prior"].value == pytest.approx(table.eval("share_inside - panel_centre_share").mean())


def test_deletion_by_the_right_order_falls_fastest() -> None:
    rng = np.random.default_rng(0)
    panel = rng.random((2, 12, 12))

    def predict(panels: np.ndarray) -> np.ndarray:
        return panels.sum(axis=(1, 2, 3)) / panel.sum()

    right, wrong = delete_pixels(panel, panel.sum(axis=0), predict), delete_pixels(panel, -panel.sum(axis=0), predict)
    drawn = np.mean([delete_pixels(panel, np.zeros((12, 12)), predict, seed=seed) for seed in range(40)])
    assert right.mean() < drawn < wrong.mean()
    assert (drawn, right[0], right[-1]) == (pytest.approx(0.5, abs=0.02), pytest.approx(1), 0)
    assert (np.diff(right) <= 0).all()


def test_deletion_leaves_a_missing_sequence_missing() -> None:
    panel = np.ones((2, 4, 4))
    panel[1] = np.nan
    seen: list[np.ndarray] = []
    delete_pixels(panel, np.eye(4), lambda panels: seen.append(panels) or np.zeros(len(panels)), steps=4)
    assert np.isnan(seen[0][:, 1]).all()
    assert seen[0][-1, 0].tolist() == np.zeros((4, 4)).tolist()
    # a quarter is taken away: the four on the diagonal
    assert (seen[0][1, 0] == 0).tolist() == np.eye(4, dtype=bool).tolist()
