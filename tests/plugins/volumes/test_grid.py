"""Orientation, common grid and resampling: a marked voxel stays where it is in the patient."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casewise.plugins.volumes.grid import Grid, carried, covered, resampled, to_ras
from casewise.plugins.volumes.reading.scans import Scan
from tests.plugins.volumes.resampled_scans import in_plane, onto

nibabel = pytest.importorskip("nibabel", reason="the package that reads NIfTI is optional")

AXES = itertools.permutations(("LR", "PA", "IS"))
ORIENTATIONS = ["".join(letters) for axes in AXES for letters in itertools.product(*axes)]


def scan_of(
    shape: tuple[int, int, int] = (6, 7, 8),
    *,
    orientation: str = "RAS",
    name: str = "scan.nii",
    seed: int = 0,
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    origin: tuple[float, ...] = (0.0, 0.0, 0.0),
) -> Scan:
    affine = np.zeros((4, 4))
    for column, letter in enumerate(orientation):
        row = next(n for n, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
        affine[row, column] = spacing[column] * (1 if letter in "RAS" else -1)
    affine[:3, 3] = origin
    affine[3, 3] = 1
    values = np.random.default_rng(seed).random(shape, dtype=np.float32)
    return Scan(values, affine, Path(name))


def values_at(scan: Scan, places: np.ndarray) -> np.ndarray:
    """The values of the voxels that lie at places in mm."""
    at = np.rint(carried(np.linalg.inv(scan.affine), places)).astype(int)
    return scan.values[tuple(at.T)]


@pytest.mark.parametrize("orientation", ORIENTATIONS[::9])
def test_ras_of_every_orientation_moves_no_voxel(orientation: str) -> None:
    scan = scan_of(orientation=orientation, spacing=(0.7, 1.3, 4.0), origin=(5.0, -20.0, 3.0))
    turned = to_ras(scan)
    assert "".join(nibabel.aff2axcodes(turned.affine)) == "RAS"
    voxels = np.argwhere(scan.values > 0.5)
    places = carried(scan.affine, voxels)
    np.testing.assert_array_equal(values_at(turned, places), scan.values[tuple(voxels.T)])
    assert sorted(turned.values.ravel()) == sorted(scan.values.ravel())


@pytest.mark.parametrize(("shape", "spacing"), [((8, 16, 3), (1.0, 1.0, 5.0)), ((16, 16, 2), (2.0, 1.0, 5.0))])
def test_oblong_fields_keep_proportions(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    scan = scan_of(shape, spacing=spacing, origin=(3.0, 4.0, 5.0))
    scan = dataclasses.replace(scan, values=scan.values + 1)
    plane = in_plane(scan, 32)
    assert plane.shape == (32, 32, shape[2])
    side = max(shape[0] * spacing[0], shape[1] * spacing[1])
    assert plane.spacing == pytest.approx((side / 32, side / 32, 5.0))
    middle = (np.array(shape) - 1) / 2
    np.testing.assert_allclose(carried(plane.affine, (np.array(plane.shape) - 1) / 2), carried(scan.affine, middle))
    # What was scanned takes its own share of the square, in its middle; the rest has the least value.
    shown = covered(scan.shape, scan.affine, Grid(plane.shape, plane.affine))
    assert shown.mean() == pytest.approx(np.prod(np.array(shape[:2]) * spacing[:2]) / side**2)
    np.testing.assert_array_equal(shown, shown[::-1, ::-1])
    assert (plane.values[~shown] == scan.values.min()).all()


def test_halving_averages_and_doubling_keeps_a_slope() -> None:
    ramp = np.arange(32, dtype=np.float32)[:, None, None] * np.ones((32, 32, 1), np.float32)
    scan = Scan(ramp, np.eye(4), Path("ramp.nii"))
    half = in_plane(scan, 16).values[:, 8, 0]
    np.testing.assert_allclose(half[2:-2], 2 * np.arange(16)[2:-2] + 0.5, atol=1e-4)
    double = in_plane(scan, 64).values[:, 8, 0]
    np.testing.assert_allclose(double[1:-1], np.arange(1, 63) / 2 - 0.25, atol=1e-5)
    # The outer half of a border voxel goes on evenly.
    assert (double[0], double[-1]) == (0, 31)


@settings(max_examples=30, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    gap=st.tuples(*[st.sampled_from([0.5, 1.0, 2.5])] * 3),
    marked=st.tuples(st.integers(2, 7), st.integers(2, 7), st.integers(2, 7)),
)
def test_marks_on_another_grid(orientation: str, gap: tuple[float, float, float], marked: tuple[int, int, int]) -> None:
    reference = scan_of((40, 40, 40), spacing=(0.5, 0.5, 0.5), origin=(-3.0, -4.0, -5.0))
    scan = scan_of((10, 10, 10), orientation=orientation, spacing=gap)
    # Its centre lies in the reference's.
    affine = scan.affine.copy()
    affine[:3, 3] += carried(reference.affine, np.full(3, 19.5)) - carried(scan.affine, np.array(marked))
    values = np.zeros(scan.shape, np.float32)
    values[marked] = 1
    laid = onto(dataclasses.replace(scan, values=values, affine=affine), reference)
    assert laid.shape == reference.shape
    centre = np.array([np.average(np.arange(40), weights=laid.values.sum(axis=ax)) for ax in ((1, 2), (0, 2), (0, 1))])
    # A voxel of 2.5 mm may stick out of the reference by a part of its blur.
    np.testing.assert_allclose(centre, 19.5, atol=0.05)


def test_resampling_agrees_with_simpleitk_on_an_oblique_grid() -> None:
    sitk, scan = pytest.importorskip("SimpleITK"), scan_of((12, 13, 14), spacing=(1.0, 1.2, 1.4))
    angle, affine = np.radians(20), np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= 0.9
    affine[:3, 3] = (4.0, 2.0, 3.0)
    shape = (6, 6, 8)
    image = sitk.GetImageFromArray(np.ascontiguousarray(scan.values.T))
    image.SetSpacing(scan.spacing)
    goal = sitk.Image(shape, sitk.sitkFloat32)
    goal.SetSpacing((0.9, 0.9, 0.9))
    goal.SetDirection((affine[:3, :3] / 0.9).ravel().tolist())
    goal.SetOrigin(affine[:3, 3].tolist())
    theirs = sitk.GetArrayFromImage(sitk.Resample(image, goal, sitk.Transform(), sitk.sitkLinear, 0.0)).T
    np.testing.assert_allclose(resampled(scan.values, scan.affine, Grid(shape, affine)), theirs, atol=1e-5)
