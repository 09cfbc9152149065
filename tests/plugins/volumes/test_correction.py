"""The body and its bias field: air is told from tissue, an uneven field is evened, and nothing else is changed."""

import numpy as np
import pytest
from scipy import ndimage

from casewise.plugins.volumes.preprocess import body, corrected, log_field, smoothed

pytest.importorskip("SimpleITK")
SPACING = np.array([1.5, 1.5, 4.0])


def two_tissues(shape: tuple[int, int, int] = (64, 64, 16)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A cylinder of two tissues under a smooth field; what it is without it; and the field's logarithm."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    rng, blobs = np.random.default_rng(1), np.sin(9 * x + 2 * y) * np.cos(8 * y - 3 * z) > 0
    even, field = np.where(x**2 + y**2 < 0.7, np.where(blobs, 400.0, 250.0), 0.0), 0.35 * x - 0.25 * y + 0.1 * z
    return (even * np.exp(field) + np.abs(rng.normal(0, 3, shape))).astype(np.float32), even, field


def test_body_is_what_is_bright_and_what_it_encloses() -> None:
    values = np.zeros((30, 30, 2), np.float32)
    values[5:25, 5:25] = 100
    values[10:14, 10:14] = 1
    values += np.random.default_rng(0).random(values.shape, dtype=np.float32)
    bright, filled = body(values, np.ones(values.shape, bool))
    assert (bright.sum(), filled.sum()) == (2 * (400 - 16), 2 * 400)


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


def edge(noise: float = 5.0, shape: tuple[int, int, int] = (48, 48, 6)) -> tuple[np.ndarray, np.ndarray]:
    even = np.where(np.arange(shape[0]) < shape[0] // 2, 100.0, 300.0)[:, None, None] * np.ones(shape)
    return (even + np.random.default_rng(0).normal(0, noise, shape)).astype(np.float32), even


def test_noise_falls_and_the_edge_stays() -> None:
    values, even = edge()
    out = smoothed(values, np.array([1.4, 1.4, 4.0]))
    assert (out.shape, out.dtype) == (values.shape, np.float32)
    inner = np.abs(np.arange(48) - 23.5) > 4
    assert (out - even)[inner].std() < 0.75 * (values - even)[inner].std()
    # Gaussian smoothing that removes as much noise spreads the edge over several pixels.
    gaussian = ndimage.gaussian_filter(values, (0.8, 0.8, 0))
    step = [float(np.diff(image.mean(axis=(1, 2)))[23]) for image in (out, gaussian)]
    assert step[0] > 0.9 * 200
    assert step[1] < 0.6 * 200
