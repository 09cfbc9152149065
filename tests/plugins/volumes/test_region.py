"""The region of interest: masks and boxes of any geometry find the same square, and none outside is taken."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casewise.errors import ImageError
from casewise.plugins.volumes.grid import (
    Grid,
    Region,
    carried,
    mask_on,
    plane_grid,
    region_of_mask,
    slice_affine,
    to_ras,
)
from casewise.plugins.volumes.reading.scans import Scan
from tests.plugins.volumes.resampled_scans import in_plane

LPS = np.diag([-2.0, -2.0, 5.0, 1.0])


def scan_of(shape: tuple[int, int, int] = (20, 30, 8), affine: np.ndarray = LPS, name: str = "t1.nii") -> Scan:
    return Scan(np.random.default_rng(0).random(shape, dtype=np.float32), affine, Path(name))


def mask_of(scan: Scan, *where: slice, name: str = "mask.nii") -> Scan:
    values = np.zeros(scan.shape, np.float32)
    values[where] = 1
    return Scan(values, scan.affine, Path(name))


def test_the_margin_is_in_mm_on_all_sides() -> None:
    scan = scan_of()
    grid, mask = plane_grid(to_ras(scan), 60), mask_of(scan, slice(8, 12), slice(10, 14), slice(3, 5))
    bare, wide = region_of_mask(mask, scan, grid), region_of_mask(mask, scan, grid, 5.0)
    assert (wide.x, wide.y, wide.side) == (bare.x - 5, bare.y - 5, bare.side + 10)
    assert (wide.first, wide.end) == (bare.first - 1, bare.end + 1)


def test_at_the_border_the_square_moves_inwards() -> None:
    scan = scan_of((30, 30, 8))
    grid = plane_grid(to_ras(scan), 30)
    region = region_of_mask(mask_of(scan, slice(0, 2), slice(5, 17), slice(None)), scan, grid)
    # The first voxels of an L axis are the last to the right.
    assert region == Region(18, 13, 12, 0, 8)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([0.5, 1.0, 3.0]), st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_a_mask_of_another_geometry_finds_the_square(gap: float, order: list[int], flips: tuple[bool, ...]) -> None:
    scan = scan_of((20, 20, 20), np.diag([1.0, 1.0, 1.0, 1.0]))
    grid = plane_grid(scan, 20)
    # The same cube of 6 mm from 6 to 12, in voxels of another size, order and direction.
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    count = int(18 / gap)
    for axis, (to, flip) in enumerate(zip(order, flips, strict=True)):
        affine[to, axis] = -gap if flip else gap
        affine[to, 3] = 17.5 - gap / 2 if flip else -0.5 + gap / 2
    mask = Scan(np.zeros((count,) * 3, np.float32), affine, Path("mask.nii"))
    centres = carried(affine, np.argwhere(mask.values == 0))
    mask.values[:] = ((centres > 5.5) & (centres < 11.5)).all(axis=1).reshape(mask.shape)
    assert region_of_mask(mask, scan, grid) == Region(6, 6, 6, 6, 12)


def test_a_mask_elsewhere_without_geometry_or_content_is_refused_by_name() -> None:
    scan, far = scan_of(), LPS.copy()
    far[0, 3], mask = 900, mask_of(scan, slice(4, 9))
    for wrong, message in (
        (dataclasses.replace(mask, affine=far), r"does not touch the volume of t1\.nii.*without the scan's"),
        (Scan(mask.values[:, :, :3], far, mask.path), "another visit or subject"),
        (dataclasses.replace(mask, affine=np.eye(4)), "was the mask saved without the scan's geometry"),
        (mask_of(scan, slice(0, 0)), "the mask marks nothing"),
    ):
        with pytest.raises(ImageError, match=r"mask\.nii: .*" + message):
            region_of_mask(wrong, scan, plane_grid(to_ras(scan), 60))


@pytest.mark.parametrize("size", [5, 10, 40])
def test_slices_are_laid_as_a_radiologist_sees_them(size: int) -> None:
    grid = Grid((30, 30, 4), np.diag([2.0, 2.0, 5.0, 1.0]))
    affine, step = slice_affine(Region(4, 6, 10, 1, 3), grid, size), 20 / size
    np.testing.assert_allclose(affine[:3, :3], [[0, -step, 0], [-step, 0, 0], [0, 0, 5]])
    # The corner before the first row and column is the region's front right one; the other end its back left one.
    np.testing.assert_allclose(carried(affine, np.array([-0.5, -0.5, 0.0])), [2 * 13.5, 2 * 15.5, 5])
    np.testing.assert_allclose(carried(affine, np.array([size - 0.5, size - 0.5, 1])), [2 * 3.5, 2 * 5.5, 10])


def test_a_mask_on_slices_lies_where_its_voxels_lie() -> None:
    scan = scan_of()
    mask, grid = mask_of(scan, slice(4, 9), slice(10, 20), slice(2, 5)), plane_grid(to_ras(scan), 60)
    region = region_of_mask(mask, scan, grid, 5.0)
    affine = slice_affine(region, grid, region.side)
    laid = mask_on(mask, affine, (region.end - region.first, region.side, region.side))
    assert (laid.dtype, laid.sum()) == (bool, mask.values.sum() * 4)
    places = carried(np.linalg.inv(mask.affine) @ affine, np.argwhere(np.moveaxis(laid, 0, 2)))
    assert mask.values[tuple(np.rint(places).astype(int).T)].all()
    assert in_plane(to_ras(mask), 60).values.sum() == laid.sum()


@pytest.mark.parametrize("tilt", [0.0, 0.2])
def test_no_lesion_vanishes_between_the_middles_of_coarse_pixels(tilt: float) -> None:
    """Balls of 3 × 3 voxels brought from 256 to 64 pixels; each stays, where it was, and little larger."""
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    coarse = affine @ np.diag([4.0, 4.0, 1.0, 1.0])
    coarse[:3, 3] = (affine @ [1.5, 1.5, 0, 1])[:3]
    rng = np.random.default_rng(0)
    for row, column in rng.integers(10, 240, (40, 2)):
        values = np.zeros((256, 256, 1), np.float32)
        values[row : row + 3, column : column + 3] = 1
        laid = mask_on(Scan(values, affine, Path("lesion.nii")), coarse, (1, 64, 64))[0]
        assert 1 <= laid.sum() <= 4
        assert np.abs(np.argwhere(laid) * 4 + 1.5 - [row + 1, column + 1]).max() <= 4
