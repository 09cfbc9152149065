"""Intensity standardisation: the standard of training scans, and every scan's mapping onto it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from casewise.plugins.volumes.standardise import LEVELS, SCALE, fit, tables

marks = st.lists(st.floats(0, 32767), min_size=11, max_size=11).map(sorted)
spread_marks = marks.filter(lambda own: own[-1] - own[0] > 100)
ascending = st.lists(st.floats(0, 1), min_size=9, max_size=9).map(lambda inner: np.array([0.0, *sorted(inner), 1.0]))


@settings(max_examples=30, deadline=None)
@given(st.lists(spread_marks, min_size=3, max_size=5), spread_marks)
def test_scans_outside_the_fit_leave_it_bit_for_bit(rows: list[list[float]], other: list[float]) -> None:
    every = np.array(rows)
    changed = every.copy()
    changed[-1] = other
    training = np.arange(len(rows) - 1)
    standard, again = fit(every[training]), fit(changed[training])
    assert standard.tobytes() == again.tobytes()
    assert tables(every, standard)[training].tobytes() == tables(changed, again)[training].tobytes()


@settings(max_examples=30, deadline=None)
@given(marks, ascending)
def test_a_table_never_falls_and_stays_within_0_and_1(own: list[float], standard: np.ndarray) -> None:
    table = tables(np.array([own]), standard)[0]
    assert (table.dtype, table.shape) == (np.float32, (LEVELS,))
    assert np.isfinite(table).all()
    assert (np.diff(table) >= 0).all()
    assert 0 <= table[0] <= table[-1] <= 1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 900), min_size=10, max_size=10),
    ascending,
    st.integers(1, 3),
    st.integers(0, 5000),
    st.lists(st.integers(0, 9000), min_size=5, max_size=5),
)
def test_a_scan_multiplied_and_shifted_is_mapped_alike(
    gaps: list[int], standard: np.ndarray, factor: int, shift: int, stored: list[int]
) -> None:
    own = np.cumsum([100, *gaps]).astype(float)
    one, other = tables(np.stack([own, factor * own + shift]), standard)
    values = np.clip(stored, own[0], own[-1]).astype(int)  # beyond, a scan may need to be pressed together
    np.testing.assert_allclose(one[values], other[factor * values + shift], atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=10, max_size=10), ascending)
def test_landmarks_come_to_lie_on_the_standard(gaps: list[int], standard: np.ndarray) -> None:
    own = np.cumsum([50, *gaps])
    table = tables(own[None].astype(float), standard)[0]
    np.testing.assert_allclose(table[own], SCALE[0] + (SCALE[1] - SCALE[0]) * standard, atol=1e-6)
