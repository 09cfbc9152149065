"""Slices as single images: one scale for all slices of a scan, and files that have none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from casewise.errors import ImageError
from casewise.plugins.volumes.reading.scans import as_pictures, stack_images
from tests.film_files import write_film

TOPS = (180, 230, 600, 1500, 700, 210)
DICOM = {"Modality": "MR", "bits": 12}


def planes() -> list[np.ndarray]:
    """Slices of one background and with tops of their own, (8, 6) `uint16`."""
    pixels = [np.full((8, 6), 100, np.uint16) for _ in TOPS]
    for plane, top in zip(pixels, TOPS, strict=True):
        plane[2:5, 1:4] = top
    return pixels


def saved(folder: Path, name: str, pixels: np.ndarray, **tags: Any) -> Path:
    if name.endswith("dcm"):
        return write_film(folder / name, pixels, **DICOM | tags)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


@pytest.mark.parametrize("suffix", ["png", "tif", "dcm"])
def test_all_slices_have_one_scale(tmp_path: Path, suffix: str) -> None:
    if suffix == "dcm":
        pytest.importorskip("pydicom")
    own = [{"WindowCenter": top // 2, "WindowWidth": top} if suffix == "dcm" else {} for top in TOPS]
    paths = [saved(tmp_path, f"{k}.{suffix}", plane, **own[k]) for k, plane in enumerate(planes())]
    scan = stack_images(paths, (1, 3))
    np.testing.assert_array_equal(scan.values, np.stack(planes(), axis=-1).transpose(1, 0, 2))
    pictures = as_pictures(scan)
    assert (pictures[0, 0] == pictures[0, 0, 0]).all()
    assert stack_images(paths, (1, 3), voxels=False).shape == scan.shape
    # a slice by itself is on the same scale
    assert stack_images(paths[3:4], (1, 3)).values[1, 2, 0] == scan.values[1, 2, 3]


def test_slopes_and_polarity_of_dicom_slices(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    slopes = [{"RescaleSlope": k + 1, "RescaleIntercept": -k} for k in range(6)]
    paths = [saved(tmp_path, f"{k}.dcm", plane, **slopes[k]) for k, plane in enumerate(planes())]
    expected = np.stack([plane * (k + 1.0) - k for k, plane in enumerate(planes())], axis=-1).transpose(1, 0, 2)
    np.testing.assert_array_equal(stack_images(paths, (1, 3)).values, expected)
    tags = {"PhotometricInterpretation": "MONOCHROME1"}
    paths = [saved(tmp_path, f"{k}.dcm", plane, **slopes[k], **tags) for k, plane in enumerate(planes())]
    np.testing.assert_array_equal(stack_images(paths, (1, 3)).values, -expected)
    assert stack_images(paths[2:3], (1, 3)).values[0, 0, 0] == -expected[0, 0, 2]


def test_images_of_8_bits_keep_their_values(tmp_path: Path) -> None:
    grey = [(plane // 8).astype(np.uint8) for plane in planes()]
    paths = [saved(tmp_path, f"{k}.png", plane if k % 2 else np.stack([plane] * 3, -1)) for k, plane in enumerate(grey)]
    scan = stack_images(paths, (1, 3))
    np.testing.assert_array_equal(scan.values, np.stack(grey, axis=-1).transpose(1, 0, 2))
    np.testing.assert_array_equal(as_pictures(scan), scan.values)


@pytest.mark.parametrize("voxels", [True, False])
@pytest.mark.parametrize("mixed", ["8 bits", "dicom", "photometric", "units", "frames"])
def test_slices_of_several_kinds_are_refused(tmp_path: Path, mixed: str, voxels: bool) -> None:
    pytest.importorskip("pydicom")
    plane = planes()[0]
    first = saved(tmp_path, "a.png", plane)
    others = {
        "8 bits": lambda: [first, saved(tmp_path, "b.png", plane.astype(np.uint8))],
        "dicom": lambda: [first, saved(tmp_path, "b.dcm", plane)],
        "photometric": lambda: [
            saved(tmp_path, "a.dcm", plane),
            saved(tmp_path, "b.dcm", plane, PhotometricInterpretation="MONOCHROME1"),
        ],
        "units": lambda: [saved(tmp_path, f"{name}.dcm", plane, RescaleType=name) for name in ("HU", "US")],
        "frames": lambda: [saved(tmp_path, "a.dcm", np.stack([plane, plane]), NumberOfFrames=2)],
    }
    with pytest.raises(ImageError, match=r"one scale|of one kind|holds 2 images"):
        stack_images(others[mixed](), (1, 3), voxels=voxels)
