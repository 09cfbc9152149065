"""The body and its bias field: air is told from tissue, an uneven field is evened, and nothing else is changed."""

from __future__ import annotations

import numpy as np
import pytest

from casewise.plugins.volumes.correction import body, corrected, log_field, shrink_factors

pytest.importorskip("SimpleITK")
SPACING = np.array([1.5, 1.5, 4.0])


def two_tissues(shape: tuple[int, int, int] = (64, 64, 16)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A cylinder of two tissues under a smooth field; what it is without it; and the field's logarithm."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    rng = np.random.default_rng(1)
    blobs = np.sin(9 * x + 2 * y) * np.cos(8 * y - 3 * z) > 0
    even = np.where(x**2 + y**2 < 0.7, np.where(blobs, 400.0, 250.0), 0.0)
    field = 0.35 * x - 0.25 * y + 0.1 * z
    return (even * np.exp(field) + np.abs(rng.normal(0, 3, shape))).astype(np.float32), even, field


def test_body_is_what_is_bright_and_what_it_encloses() -> None:
    values = np.zeros((30, 30, 2), np.float32)
    values[5:25, 5:25] = 100
    values[10:14, 10:14] = 1
    values += np.random.default_rng(0).random(values.shape, dtype=np.float32)
    bright, filled = body(values, np.ones(values.shape, bool))
    assert bright.sum() == 2 * (400 - 16)
    assert filled.sum() == 2 * 400


def test_body_looks_only_where_something_was_scanned() -> None:
    values = np.zeros((20, 20, 1), np.float32)
    values[:10, :, 0] = np.where(np.arange(20) < 10, 100, 200)
    values[10:] = 5000
    inside = np.zeros(values.shape, bool)
    inside[:10] = True
    bright, _ = body(values, inside)
    np.testing.assert_array_equal(bright[..., 0], inside[..., 0] & (np.arange(20) >= 10))


@pytest.mark.parametrize("level", [0.0, 7.0, -3.0])
def test_a_constant_scan_has_no_body(level: float) -> None:
    bright, filled = body(np.full((8, 8, 2), level, np.float32), np.ones((8, 8, 2), bool))
    assert not bright.any()
    assert not filled.any()


def test_n4_finds_the_field_and_evens_the_tissues() -> None:
    values, even, field = two_tissues()
    mask = even > 0
    found = log_field(values, SPACING, mask, shrink=2)
    assert found.shape == values.shape
    assert abs(found[mask].mean()) < 1e-4
    assert np.corrcoef(found[mask], field[mask])[0, 1] > 0.97
    out = corrected(values, SPACING, mask, shrink=2)
    assert out.dtype == np.float32
    for tissue in (250.0, 400.0):
        here = even == tissue
        assert out[here].std() / out[here].mean() < 0.35 * values[here].std() / values[here].mean()
    assert np.log(out[mask] / values[mask]).mean() == pytest.approx(0, abs=1e-3)


def test_n4_is_what_simpleitk_does() -> None:
    import SimpleITK as sitk  # noqa: N813

    values, even, _ = two_tissues((40, 48, 16))
    image, mask = sitk.GetImageFromArray(values), sitk.GetImageFromArray((even > 0).astype(np.uint8))
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.Execute(sitk.Shrink(image, [2, 2, 2]), sitk.Shrink(mask, [2, 2, 2]))
    theirs = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image))
    ours = log_field(values, np.ones(3), even > 0, shrink=2)
    np.testing.assert_allclose(ours, theirs - theirs[even > 0].mean(), atol=2e-3)


def test_the_number_of_threads_is_left_as_it_was() -> None:
    import SimpleITK as sitk  # noqa: N813

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    values, even, _ = two_tissues((24, 24, 8))
    one, two = (corrected(values, SPACING, even > 0, shrink=2) for _ in range(2))
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == before
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("slices", [1, 2, 3, 9])
def test_few_slices_are_corrected_too(slices: int) -> None:
    values, even, _ = two_tissues((32, 32, slices))
    out = corrected(values, SPACING, even > 0)
    assert out.shape == values.shape
    assert np.isfinite(out).all()
    assert out[even > 0].std() < values[even > 0].std()


def test_a_body_between_the_steps_of_the_shrunk_grid_is_found() -> None:
    values = np.zeros((64, 64, 32), np.float32)
    values[1:2, 1:2, 1:3] = 50
    assert np.isfinite(corrected(values, SPACING, values > 0)).all()


def test_values_below_zero_are_raised() -> None:
    values, even, _ = two_tissues((24, 24, 8))
    assert corrected(values - 1000, SPACING, even > 0, shrink=2).min() >= 0


def test_an_axis_is_shrunk_no_further_than_eight_voxels() -> None:
    assert shrink_factors((256, 256, 31), 4) == [4, 4, 3]
    assert shrink_factors((256, 8, 1), 16) == [16, 1, 1]


def test_a_small_field_in_a_large_empty_one_has_a_body() -> None:
    values = np.zeros((64, 64, 16), np.float32)
    values[30:32, 30:32, 8] = 90
    bright, _ = body(values, np.ones(values.shape, bool))
    assert bright.sum() == 4
