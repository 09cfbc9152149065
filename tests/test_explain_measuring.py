"""Measures of explanation against closed forms, chance, and by-hand intervals."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casewise.errors import CasewiseError
from casewise.evaluation.bootstrap import Plan, draw
from casewise.explain.measuring import (
    FIGURES,
    centre_prior,
    deletion,
    hit,
    measured,
    random_map,
    share_inside,
    summary,
    table_of,
)

PLAN = Plan(resamples=300, seed=1)


def box(shape: tuple[int, int], top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_share_and_hit_of_known_maps() -> None:
    mask = box((8, 8), 0, 0, 4)
    assert share_inside(np.ones((8, 8)), mask) == 0.25
    assert share_inside(mask * 3.0, mask) == 1
    assert share_inside(~mask * 1.0, mask) == 0
    assert hit(mask * 1.0, mask) == 1
    assert hit(~mask * 1.0, mask) == 0


@given(st.integers(1, 60), st.floats(0, 5))
def test_a_map_that_says_nothing_is_at_chance(count: int, level: float) -> None:
    mask = np.zeros(64, bool)
    mask[:count] = True
    mask = np.random.default_rng(count).permutation(mask).reshape(8, 8)
    flat = np.full((8, 8), level)
    assert hit(flat, mask) == pytest.approx(mask.mean())
    assert share_inside(flat, mask) == pytest.approx(mask.mean())


def test_equal_peaks_share_the_hit() -> None:
    values = np.zeros((4, 4))
    values[0, 0] = values[3, 3] = values[2, 2] = 1
    assert hit(values, box((4, 4), 2, 2, 2)) == pytest.approx(2 / 3)


def test_tolerance_counts_near_misses() -> None:
    values, mask = np.zeros((20, 20)), box((20, 20), 0, 0, 5)
    values[0, 7] = 1
    assert hit(values, mask, tolerance=2.5) == 0
    assert hit(values, mask, tolerance=3) == 1


def test_an_empty_mask_measures_nothing() -> None:
    row = measured("a/1", "a", "rollout", np.eye(4), np.zeros((4, 4)))
    assert all(np.isnan(getattr(row, name)) for name in FIGURES)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(CasewiseError, match=r"a map of \(4, 4\) cannot be measured against a mask of \(4, 5\)"):
        share_inside(np.eye(4), np.ones((4, 5)))
    for bad in (-1.0, np.nan):
        with pytest.raises(CasewiseError, match="finite numbers not below 0"):
            hit(np.full((2, 2), bad), np.ones((2, 2)))


def test_the_centre_prior_has_a_peak_in_every_tile() -> None:
    prior = centre_prior((9, 15), grid=(3, 3))
    assert (prior[1::3, 2::5] == prior.max()).all()
    assert (prior == prior.max()).sum() == 9
    assert prior.max() == 1
    one = centre_prior((101, 101), spread=0.1)
    assert one[50, 60] == pytest.approx(np.exp(-0.5 * (10 / 10.1) ** 2))
    with pytest.raises(CasewiseError, match="no grid of 2 x 2"):
        centre_prior((9, 9), grid=(2, 2))


def test_random_maps_hit_as_often_as_the_mask_is_large() -> None:
    mask = box((56, 56), 5, 9, 24)
    hits = [hit(random_map((56, 56), seed=seed), mask) for seed in range(600)]
    shares = [share_inside(random_map((56, 56), seed=seed), mask) for seed in range(200)]
    assert np.mean(hits) == pytest.approx(mask.mean(), abs=0.04)
    assert np.mean(shares) == pytest.approx(mask.mean(), abs=0.02)
    assert 0 <= random_map((20, 30), seed=3).min() < random_map((20, 30), seed=3).max() <= 1


def test_methods_of_a_case_face_the_same_random_map() -> None:
    mask = box((16, 16), 2, 2, 5)
    one, other = (measured("a/1", "a", name, np.eye(16), mask, seed=4) for name in ("rollout", "grad-cam"))
    assert (one.random_share, one.random_hit) == (other.random_share, other.random_hit)
    assert measured("a/2", "a", "rollout", np.eye(16), mask, seed=4).random_share != one.random_share
    assert measured("a/1", "a", "rollout", np.eye(16), mask, seed=5).random_share != one.random_share


def some_rows(subjects: int, visits: int) -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for subject in range(subjects):
        for visit in range(visits):
            mask = box((16, 16), *rng.integers(0, 10, 2), 6)
            for method, noise in (("good", 0.3), ("poor", 5.0)):
                values = mask + noise * rng.random((16, 16))
                rows.append(measured(f"s{subject}/{visit}", f"s{subject}", method, values, mask))
    return table_of(rows)


def test_the_summary_is_the_mean_with_intervals_by_subject() -> None:
    table = some_rows(14, 2)
    assert list(table.columns) == ["case", "subject", "method", *FIGURES]
    found = summary(table, PLAN)
    assert list(found) == ["good", "poor"]
    part = table[table["method"] == "good"]
    shares = {
        name: [part.loc[part["subject"] == s, name].to_numpy() for s in sorted(part["subject"].unique())]
        for name in FIGURES
    }
    for name in FIGURES:
        assert found["good"][name].value == pytest.approx(part[name].mean())
        by_hand = [
            np.concatenate([own for own, n in zip(shares[name], counts, strict=True) for _ in range(int(n))]).mean()
            for counts in draw(14, PLAN)
        ]
        told = found["good"][name]
        assert [told.low, told.high] == pytest.approx(np.percentile(by_hand, [2.5, 97.5]).tolist())
        assert (told.n_subjects, told.n_cases, told.rough) == (14, 28, False)
    gain = found["good"]["share_over_random"]
    assert gain.value == pytest.approx((part["share_inside"] - part["random_share"]).mean())
    assert gain.low is not None
    assert gain.low > 0
    assert found["good"]["hit"].value == 1


def test_cases_without_a_mask_are_left_out_of_the_summary() -> None:
    table = some_rows(12, 1)
    empty = table_of([measured("x/1", "x", "good", np.eye(4), np.zeros((4, 4)))])
    assert summary(pd.concat([table, empty]), PLAN) == summary(table, PLAN)
    none = summary(empty, PLAN)["good"]["hit"]
    assert (none.value, none.reason, none.n_cases) == (None, "no case has a mask", 0)


def test_deletion_by_the_right_order_falls_fastest() -> None:
    rng = np.random.default_rng(0)
    panel = rng.random((2, 12, 12))

    def predict(panels: np.ndarray) -> np.ndarray:
        return panels.sum(axis=(1, 2, 3)) / panel.sum()

    right, wrong = deletion(panel, panel.sum(axis=0), predict), deletion(panel, -panel.sum(axis=0), predict)
    drawn = np.mean([deletion(panel, np.zeros((12, 12)), predict, seed=seed).area for seed in range(40)])
    assert right.area < drawn < wrong.area
    assert drawn == pytest.approx(0.5, abs=0.02)
    assert right.values[0] == pytest.approx(1)
    assert right.values[-1] == 0
    assert (np.diff(right.values) <= 0).all()
    assert len(right.as_json()["shares"]) == 21


def test_deletion_leaves_a_missing_sequence_missing() -> None:
    panel = np.ones((2, 4, 4))
    panel[1] = np.nan
    seen: list[np.ndarray] = []
    deletion(panel, np.eye(4), lambda panels: seen.append(panels) or np.zeros(len(panels)), steps=4, fill=0.5)
    assert np.isnan(seen[0][:, 1]).all()
    assert seen[0][-1, 0].tolist() == np.full((4, 4), 0.5).tolist()
    # a quarter is taken away: the four on the diagonal
    assert (seen[0][1, 0] == 0.5).tolist() == np.eye(4, dtype=bool).tolist()


def test_deletion_of_what_does_not_fit() -> None:
    with pytest.raises(CasewiseError, match="do not fit a panel"):
        deletion(np.ones((1, 4, 4)), np.ones((4, 5)), lambda panels: panels)
    with pytest.raises(CasewiseError, match="must give one number a panel"):
        deletion(np.ones((1, 4, 4)), np.ones((4, 4)), lambda panels: np.zeros((2, 2)))


def test_what_measures_and_draws_needs_no_network_library() -> None:
    imports = "".join(f"import casewise.explain.{name}\n" for name in ("measuring", "carrying", "overlays"))
    code = imports + "import sys\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
