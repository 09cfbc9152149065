"""Maps carried back: what was marked in the source is where the map has its peak."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from casewise.modalities.masks import to_photograph
from casewise.modalities.panels import fold
from casewise.modalities.store.pixels import reduced
from casewise.modalities.store.preparation import Fit, Preparation
from casewise.modalities.store.readers import open_source, read_bytes
from casewise.plugins.volumes.native_space import to_scan
from casewise.plugins.volumes.preprocess import Steps, prepare_case
from casewise.plugins.volumes.reading.scans import Scan
from casewise.study.schema import Panels

to_slide = pytest.importorskip("casewise.plugins.slides.modality").to_slide
to_slots = pytest.importorskip("casewise.plugins.explain.saliency").to_slots


def peak(values: np.ndarray) -> tuple[int, ...]:
    """Where the highest value is."""
    return tuple(int(i) for i in np.unravel_index(np.nanargmax(values), values.shape))


@pytest.mark.parametrize("grid", ["1x1", "2x3", "3x3"])
def test_slots_undo_the_fold(grid: str) -> None:
    panels = Panels(grid=grid)
    tiles = torch.rand(2, panels.rows * panels.columns, 1, 4, 5)
    folded = fold(tiles, panels)[:, 0].numpy()
    assert (to_slots(folded, (panels.rows, panels.columns)) == tiles[:, :, 0].flatten(0, 1).numpy()).all()


def prepared(picture: np.ndarray, folder: Path, preparation: Preparation, orientation: int = 1) -> np.ndarray:
    """The tile that preparation makes of a picture, (side, side)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = folder / "a.png"
    Image.fromarray(picture).save(path, exif=exif)
    return open_source(path, read_bytes(path)).tile(preparation)[0]


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@settings(max_examples=20, deadline=None)
@given(
    width=st.integers(12, 150),
    height=st.integers(12, 150),
    size=st.sampled_from([16, 33, 64]),
    at=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    orientation=st.sampled_from([1, 3, 6]),
)
def test_a_marked_pixel_of_a_photograph(
    tmp_path_factory: pytest.TempPathFactory,
    fit: Fit,
    width: int,
    height: int,
    size: int,
    at: tuple[float, float],
    orientation: int,
) -> None:
    picture = np.zeros((height, width), np.uint8)
    row, column = int(at[0] * height), int(at[1] * width)
    picture[row, column] = 255
    folder = tmp_path_factory.mktemp("photograph")
    preparation = Preparation(size=size, fit=fit, padding="black", channels="grey")
    tile = prepared(picture, folder, preparation, orientation).astype(float)
    if not tile.any():  # one pixel of thousands, rounded away
        return
    turned = np.rot90(picture, {1: 0, 3: 2, 6: 3}[orientation])
    back = to_photograph(tile, width=turned.shape[1], height=turned.shape[0], fit=fit)
    assert back.shape == turned.shape
    inner = reduced(turned.shape[1], turned.shape[0], size)[::-1] if fit == "pad" else (size, size)
    steps = [side / small for side, small in zip(turned.shape, inner, strict=True)]
    for found, marked, step in zip(peak(back), peak(turned), steps, strict=True):
        # two pixels of the tile may share what was marked
        assert abs(found - marked) <= step + 0.5


def test_pieces_lie_on_their_slide() -> None:
    tiles = np.zeros((2, 4, 4), np.float32)
    tiles[1, 3, 0] = 1
    found = to_slide(tiles, [(0, 0, 64), (64, 32, 64)], width=160, height=128, downsample=8)
    assert found.shape == (16, 20)
    assert np.isnan(found[0, 19])
    # A pixel of the tile is 16 pixels of the slide wide.
    x, y = 64 + 0.5 * 16 - 0.5, 32 + 3.5 * 16 - 0.5
    row, column = peak(found)
    assert (column * 8 <= x < column * 8 + 16, row * 8 - 8 <= y < row * 8 + 8) == (True, True)
    assert np.nansum(found[:8, :8]) == 0


# every way in which voxel axes can lie along those of the body
TURNS = [
    np.eye(3)[list(order)] * np.array(signs)[:, None]
    for order in itertools.permutations(range(3))
    for signs in itertools.product([1, -1], repeat=3)
]


@pytest.mark.parametrize("turn", TURNS[::13])
@pytest.mark.parametrize("ratio", [(2, 3, 5), (1, 1, 4), (6, 6, 6)])
def test_a_voxel_has_the_mean_of_its_pixels(turn: np.ndarray, ratio: tuple[int, int, int]) -> None:
    """One strong pixel anywhere in a coarse voxel: its share of the volume is kept, and it lies in its voxel."""
    along, scan = np.abs(turn).argmax(axis=0), np.eye(4)
    scan[:3, :3] = turn @ np.diag([float(ratio[axis]) for axis in along])
    counts = (4, 3, 3)
    shape = tuple(counts[axis] for axis in along)
    sides, affine = tuple(count * factor for count, factor in zip(counts, ratio, strict=True)), np.eye(4)
    affine[:3, 3] = scan[:3, :3] @ ((np.array(shape) - 1) / 2) - (np.array(sides) - 1) / 2
    for pixel in [(0, 0, 0), tuple(side // 2 for side in sides), tuple(side - 1 for side in sides)]:
        volume = np.zeros(sides)
        volume[pixel] = 1.0
        back = to_scan(volume.transpose(2, 0, 1), range(sides[2]), affine, shape, scan)
        voxel = np.linalg.inv(scan) @ affine @ [*pixel, 1]
        assert peak(back) == tuple(np.rint(voxel[:3]).astype(int))
        assert back.sum() * np.prod(ratio) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("turn", TURNS[::13])
@pytest.mark.parametrize("roi", ["none", "centre", "mask"])
def test_a_marked_voxel_through_the_whole_preparation(turn: np.ndarray, roi: Any) -> None:
    """What is bright in the file is bright in the slices; taken for a map, they come back onto it."""
    sides, along = {0: 1.5, 1: 1.2, 2: 3.0}, np.abs(turn).argmax(axis=0)
    shape, affine = tuple({0: 30, 1: 26, 2: 12}[int(axis)] for axis in along), np.eye(4)
    affine[:3, :3] = turn @ np.diag([sides[int(axis)] for axis in along])
    affine[:3, 3] = -20, 35, 60
    marked = tuple(int(share * side) for share, side in zip((0.45, 0.6, 0.5), shape, strict=True))
    places = np.stack(np.meshgrid(*[np.arange(side) for side in shape], indexing="ij"), axis=-1)
    away = (places - marked) @ affine[:3, :3].T
    values = np.exp(-0.5 * (away**2).sum(axis=-1) / 5**2).astype(np.float32) * 900 + 100
    scan, near = Scan(values, affine, Path("scan.nii")), np.abs(places - marked).max(axis=-1) <= 4
    mask = Scan(near.astype(np.float32), affine, Path("mask.nii"))
    steps = Steps(in_plane_size=48, size=32, roi=roi, bias="none", smoothing="none")
    prepared = prepare_case([scan], steps, mask=mask)
    maps = prepared.slices[:, 0].astype(np.float32) / 32767
    back = to_scan(maps, np.arange(len(maps)), prepared.affine, scan.values.shape, affine)
    assert back.shape == values.shape
    # the brightest thousandth is stored as equally bright
    brightest = np.argwhere(back >= back.max() - 1e-3)
    assert np.abs(brightest.mean(axis=0) - marked).max() < 0.75
    assert np.abs(brightest - marked).max() <= 4
