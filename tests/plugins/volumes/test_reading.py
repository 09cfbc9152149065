"""Reading scans of any kind: what belongs to one, what looks like one, and whether two are of one person."""

from itertools import count
from pathlib import Path

import numpy as np
import pytest

from casewise.errors import ImageError
from casewise.plugins.volumes.reading.files import read_scan
from casewise.plugins.volumes.reading.scans import Scan, check_same_subject
from tests.plugins.volumes.test_dicom import series, volume

nibabel = pytest.importorskip("nibabel", reason="the package that reads NIfTI is optional")


NUMBERS = count()


def scan(path: str = "", **facts: str) -> Scan:
    path = path or str(next(NUMBERS))
    return Scan(np.zeros((2, 2, 2), np.float32), np.eye(4), Path(path), dict(facts))


@pytest.fixture
def real(shared: Path) -> Path:
    folder = shared / "data" / "mri-volumes"
    if not folder.is_dir():
        pytest.skip(f"real scans are not here ({folder})")
    return folder


def test_the_same_voxel_from_either_format(tmp_path: Path) -> None:
    pixels = volume()
    pixels[1, 2, 3] = 9999
    series(tmp_path / "d", pixels, "oblique")
    first = read_scan(tmp_path / "d")
    nibabel.save(nibabel.Nifti1Image(first.values, first.affine), tmp_path / "a.nii.gz")
    second = read_scan(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(second.values, first.values)
    np.testing.assert_allclose(second.affine, first.affine, atol=1e-5)
    # The same scan turned to RAS by another library has the marked voxel at the same millimetres.
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(first.values, first.affine))
    nibabel.save(turned, tmp_path / "b.nii")
    third = read_scan(tmp_path / "b.nii")
    assert "".join(nibabel.aff2axcodes(third.affine)) == "RAS" != "".join(nibabel.aff2axcodes(first.affine))
    places = [(s.affine @ [*np.unravel_index(s.values.argmax(), s.shape), 1])[:3] for s in (first, second, third)]
    np.testing.assert_allclose(places, [places[0]] * 3, atol=1e-4)


def test_scans_of_different_people() -> None:
    told = r"different patients: T1 is of patient 'P1' \(a\); T2 is of patient 'P2' \(b\)"
    with pytest.raises(ImageError, match=told):
        check_same_subject({"T1": scan("a", patient_id="P1"), "T2": scan("b", patient_id="P2")})
    for one, other in (("P1", "p1 "), ("P1", ""), ("P1", "Anonymous")):
        assert check_same_subject({"T1": scan(patient_id=one), "T2": scan(patient_id=other)}) == []
    assert check_same_subject({"T1": scan(), "T2": scan()}) == []
