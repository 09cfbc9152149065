"""Edge-preserving smoothing: less noise in even tissue, the edge stays where it is and as steep."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from casewise.plugins.volumes.correction import smoothed

pytest.importorskip("SimpleITK")


def edge(noise: float = 5.0, shape: tuple[int, int, int] = (48, 48, 6)) -> tuple[np.ndarray, np.ndarray]:
    even = np.where(np.arange(shape[0]) < shape[0] // 2, 100.0, 300.0)[:, None, None] * np.ones(shape)
    return (even + np.random.default_rng(0).normal(0, noise, shape)).astype(np.float32), even


def test_noise_falls_and_the_edge_stays() -> None:
    values, even = edge()
    out = smoothed(values, np.array([1.4, 1.4, 4.0]))
    assert out.shape == values.shape
    assert out.dtype == np.float32
    inner = np.abs(np.arange(48) - 23.5) > 4
    assert (out - even)[inner].std() < 0.75 * (values - even)[inner].std()
    # Gaussian smoothing that removes as much noise spreads the edge over several pixels.
    gaussian = ndimage.gaussian_filter(values, (0.8, 0.8, 0))
    step = [float(np.diff(image.mean(axis=(1, 2)))[23]) for image in (out, gaussian)]
    assert step[0] > 0.9 * 200
    assert step[1] < 0.6 * 200


@pytest.mark.parametrize(("factor", "shift"), [(10.0, 0.0), (1.0, 500.0), (0.01, -3.0)])
def test_the_scale_of_a_scan_makes_no_difference(factor: float, shift: float) -> None:
    values, _ = edge()
    spacing = np.array([1.0, 1.0, 3.0])
    there = (smoothed(values * factor + shift, spacing) - shift) / factor
    np.testing.assert_allclose(there, smoothed(values, spacing), atol=0.2)


def test_lengths_count_in_pixels_of_the_plane() -> None:
    values, _ = edge()
    one, other = smoothed(values, np.array([1.0, 1.0, 3.0])), smoothed(values, np.array([0.4, 0.4, 1.2]))
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_slices_far_apart_mix_less() -> None:
    values = np.zeros((24, 24, 5), np.float32) + np.random.default_rng(0).normal(100, 5, 5).astype(np.float32)
    near, far = (smoothed(values, np.array([1.0, 1.0, gap])) for gap in (1.0, 8.0))
    assert np.abs(far - values).mean() < 0.2 * np.abs(near - values).mean()


@pytest.mark.parametrize("shape", [(16, 16, 1), (16, 16, 2), (8, 8, 3)])
@pytest.mark.parametrize("gap", [0.2, 1.0, 9.0])
def test_few_and_dense_slices_stay_finite_and_within_range(shape: tuple[int, int, int], gap: float) -> None:
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    out = smoothed(values, np.array([1.0, 1.0, gap]))
    assert np.isfinite(out).all()
    assert out.min() >= values.min() - 1e-3
    assert out.max() <= values.max() + 1e-3


def test_a_constant_scan_stays_as_it_is() -> None:
    values = np.full((12, 12, 3), 7.0, np.float32)
    np.testing.assert_array_equal(smoothed(values, np.ones(3)), values)
