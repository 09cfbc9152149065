"""Slices whose grey values are altered, to see whether predictions depend on them."""

from pathlib import Path
from typing import Any

import numpy as np

from casewise.modalities.alterations import OF_VALUES, UNALTERED
from casewise.plugins.volumes.modality import VolumesModality
from casewise.plugins.volumes.slice_store import SliceStore, altered_slices


def test_slices_of_some_cases_are_altered_in_memory(tmp_path: Path) -> None:
    study: Any = None
    random = np.random.default_rng(0)
    slices = random.integers(0, 32768, (9, 2, 16, 16)).astype(np.uint16)
    of_cases = (np.array([0, 4, 6]), np.array([4, 2, 3]), np.ones((3, 2), bool))  # first, count, present
    rest = (random.random((3, 2, 4)).astype(np.float32), np.tile(np.eye(4), (3, 1, 1)), [[], [], []], "", tmp_path)
    store = SliceStore(slices, *of_cases, *rest)
    same = altered_slices(store, [2, 0], UNALTERED)
    assert np.array_equal(same.slices, store.slices[[6, 7, 8, 0, 1, 2, 3]])
    assert (same.first.tolist(), same.count.tolist()) == ([0, 3], [3, 4])
    assert np.array_equal(same.landmarks, store.landmarks[[2, 0]])
    brighter = altered_slices(store, [2, 0], "brighter").slices.astype(int)
    assert (brighter >= same.slices.astype(int) - 130).all()
    assert brighter.mean() > same.slices.mean() + 1000
    assert VolumesModality().alterations(study) == tuple(OF_VALUES)
    for name in OF_VALUES:
        assert altered_slices(store, [1], name).slices.shape == (2, 2, 16, 16)
