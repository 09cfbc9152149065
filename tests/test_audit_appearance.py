"""Brightness, contrast, sharpness and compression apart from the border; columns that are no label in other words."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from casewise.audit import regions
from casewise.audit.regions import blockiness, in_files, standardised, without
from tests.test_audit_shortcuts import corner, look, make

Row = dict[str, Any]


def brighter(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
    if row["label"] == "ill":
        pixels += 25


def slightly_brighter(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
    """A black spot in films of very different brightness, and a small constant added to one class."""
    pixels *= random.uniform(0.3, 0.9)
    down, across = random.integers(20, 40, 2)
    pixels[down : down + 4, across : across + 4] = 0
    pixels += 6 * (row["label"] == "ill")


def flatter(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
    if row["label"] == "ill":
        pixels -= 0.4 * (pixels - pixels.mean())


def smoother(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
    if row["label"] == "ill":
        pixels[:] = cv2.GaussianBlur(pixels, (0, 0), 0.9)


def compressed(picture: np.ndarray, quality: int = 40) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), float)


def recompressed(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
    if row["label"] == "ill":
        pixels[:] = compressed(pixels)


@pytest.mark.parametrize(
    ("change", "kind", "level"),
    [
        (brighter, "brightness", "warning"),
        (flatter, "contrast", "warning"),
        (smoother, "sharpness", "warning"),
        (recompressed, "compression", "warning"),
        (slightly_brighter, "brightness", "warning"),
    ],
)
def test_each_has_its_own_finding_and_the_border_is_not_blamed(change: Any, kind: str, level: str, tmp_path: Path):
    found = {finding.id: finding for finding in look(make(tmp_path, change=change)).findings}
    assert found[f"shortcut-{kind}"].level == level
    assert found[f"shortcut-{kind}"].remedy
    assert "shortcut-border" not in found


@pytest.mark.parametrize("dark", [0, 1, 4])
def test_nearly_black_pixels_do_not_tell_the_shape(dark: int):
    tiles = np.full((2, 3, 64, 64), 120, np.uint8)
    tiles[..., :dark] = 2
    boxes = [(slice(None), slice(None)), (slice(16, 48), slice(None))]
    store: Any = SimpleNamespace(tiles=tiles, content=boxes.__getitem__)
    square, wide = regions.nearly_black(store, np.arange(2))
    assert square == pytest.approx(np.log(np.repeat((64 * dark + 1) / 64**2, 3)))
    assert wide == pytest.approx(square)


def test_a_marker_stays_a_finding_of_the_border_where_brightness_differs_too(tmp_path: Path):
    def both(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        pixels += random.normal(20 if row["label"] == "ill" else 0, 10)
        corner(pixels, row, random)

    found = {finding.id: finding for finding in look(make(tmp_path, subjects=90, change=both)).findings}
    assert found["shortcut-border"].level == "error"
    assert "shortcut-brightness" in found


def test_what_covariates_explain_is_gone_and_the_rest_stays():
    random = np.random.default_rng(1)
    x, own = random.normal(size=(200, 1)), random.normal(size=(200, 1))
    rest = without(np.column_stack([2 * x - x**2, x + own]), [x])
    assert (rest[:, 0] == 0).all()
    assert np.corrcoef(rest[:, 1], own[:, 0])[0, 1] > 0.98
    pictures = random.integers(60, 160, (2, 20, 20)).astype(np.uint8)
    assert np.abs(standardised(pictures).astype(int) - standardised(pictures + 40)).max() <= 1


@pytest.mark.parametrize(("column", "level"), [("source", "error"), ("label_source", "warning"), ("ward", "warning")])
def test_a_source_that_goes_with_the_label_one_to_one_stays_a_shortcut(tmp_path: Path, column: str, level: str) -> None:
    def change(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        row[column] = 1 + (row["label"] == "ill")

    found = {finding.id: finding for finding in look(make(tmp_path, change=change)).findings}
    assert found[f"shortcut-{column}"].level == level
    assert found[f"shortcut-{column}"].figures["value"] == pytest.approx(1.0)


def test_compression_is_seen_in_pixels_at_any_offset_and_in_another_format(tmp_path: Path):
    random = np.random.default_rng(0)
    film = cv2.GaussianBlur(random.normal(size=(160, 160)), (0, 0), 4) * 300 + 120 + random.normal(size=(160, 160))
    traces = compressed(film)
    assert blockiness(traces) > 0.2 > 5 * abs(blockiness(film))
    assert blockiness(traces[3:, 5:]) > 0.2
    Image.fromarray(traces.astype(np.uint8)).save(tmp_path / "hidden.png")
    Image.fromarray(film.clip(0, 255).astype(np.uint8)).save(tmp_path / "plain.png")
    measures, read = in_files([str(tmp_path / name) for name in ("hidden.png", "plain.png", "none.png")], marks=False)
    sharpness, compression = measures["sharpness"], measures["compression"]
    assert read.tolist() == [True, True, False]
    assert (compression[0] > compression[1] + 0.1).all()
    assert sharpness.shape == (3, 2)
