"""Masks whose labels the file does not tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casewise.errors import ImageError
from casewise.modalities.mask_labels import read_labels
from tests.test_stated_images import tiff

LABELS = np.zeros((48, 64), np.uint8)
LABELS[5:20, 5:20], LABELS[25:40, 30:50] = 1, 2


def test_masks_whose_labels_the_file_does_not_tell_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([LABELS] * 3)).save(tmp_path / "lossy.webp", quality=80)
    Image.fromarray(np.dstack([LABELS] * 3)).save(tmp_path / "lossless.webp", lossless=True)
    swapped = Image.frombytes("P", (64, 48), np.array([0, 2, 1], np.uint8)[LABELS].tobytes())
    swapped.putpalette([0, 0, 0, 2, 2, 2, 1, 1, 1])
    swapped.save(tmp_path / "swapped.png")
    tiff(tmp_path / "white.tif", LABELS, 8, 0)
    for name in ("lossy.webp", "swapped.png", "white.tif"):
        with pytest.raises(ImageError, match=name):
            read_labels(tmp_path / name, (64, 48))
    assert np.array_equal(read_labels(tmp_path / "lossless.webp", (64, 48)), LABELS)
