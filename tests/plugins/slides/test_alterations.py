"""Tiles whose grey values are altered, to see whether predictions depend on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from casewise.modalities.alterations import OF_VALUES, UNALTERED
from casewise.plugins.slides.modality import Slides


def test_tiles_are_altered_as_prepared() -> None:
    prepared: Any = type("Prepared", (), {})()
    prepared.store = type("Store", (), {"tiles": np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), np.uint8)})()
    assert np.array_equal(Slides().altered_tile(prepared, 1, UNALTERED), prepared.store.tiles[1])
    darker = Slides().altered_tile(prepared, 1, "darker")
    assert darker.shape == (3, 8, 8)
    assert (darker <= prepared.store.tiles[1]).all()
    assert Slides().alterations(prepared) == tuple(OF_VALUES)
