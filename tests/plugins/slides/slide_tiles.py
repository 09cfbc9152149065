"""Tiles of a slide, for the tests."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from casewise.plugins.slides.reader import Slide
from casewise.plugins.slides.tiles import read_tile


def read_tiles(path: Path, boxes: np.ndarray, *, side: int, channels: str = "rgb") -> Iterator[np.ndarray]:
    """Read boxes of a slide, (N, 3) of x, y and side in level-0 pixels; each (C, side, side) `uint8`."""
    with Slide(path) as slide:
        for x, y, span in np.asarray(boxes).tolist():
            yield read_tile(slide, x, y, span, side=side, channels=channels)  # type: ignore[arg-type]
