"""NIfTI: where voxels lie, in any orientation, and every way to be no scan."""

import gzip
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.errors import ImageError
from casewise.plugins.volumes.reading.nifti import MARGIN, read_nifti
from casewise.plugins.volumes.reading.scans import VOXEL_BYTES

nibabel = pytest.importorskip("nibabel", reason="the package that reads NIfTI is optional")

SHAPE = (7, 6, 5)
# Where fields of a NIfTI-1 header stand.
DIM, DATATYPE, PIXDIM, START, SLOPE, QFORM, SFORM, SROW, MAGIC = 40, 70, 76, 108, 112, 252, 254, 280, 344


def voxels(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, SHAPE).astype(np.int16)


def save(path: Path, values: np.ndarray | None = None, affine: np.ndarray | None = None, kind: str = "1") -> Path:
    image = getattr(nibabel, f"Nifti{kind}Image")(
        voxels() if values is None else values, np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine
    )
    nibabel.save(image, path)
    return path


def patched(path: Path, at: int, form: str, *values: Any) -> Path:
    """Change bytes of an uncompressed file."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, at, *values)
    path.write_bytes(data)
    return path


def oriented(letters: str, spacing: tuple[float, float, float], turned: float = 0.0) -> np.ndarray:
    """An affine whose axes grow towards these letters; `turned`: degrees about the patient's long axis."""
    affine = np.eye(4)
    for column, (letter, side) in enumerate(zip(letters, spacing, strict=True)):
        row = next(i for i, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        affine[:3, column] = 0
        affine[row, column] = side if letter in "RAS" else -side
    angle = np.radians(turned)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (-31.5, 12.25, 80.0)
    return affine


@pytest.mark.parametrize(("letters", "turned"), [("RAS", 0), ("PSR", 0), ("LAS", 20), ("IPR", -15)])
def test_a_marked_voxel_is_found_at_its_millimetres(tmp_path: Path, letters: str, turned: float) -> None:
    affine, values = oriented(letters, (0.7, 1.5, 4.0), turned), voxels()
    values[4, 1, 3] = 9999
    scan = read_nifti(save(tmp_path / "a.nii.gz", values, affine))
    assert "".join(nibabel.aff2axcodes(scan.affine)) == letters
    assert scan.spacing == pytest.approx((0.7, 1.5, 4.0), abs=1e-6)
    where = np.unravel_index(scan.values.argmax(), scan.shape)
    np.testing.assert_allclose(scan.affine @ [*where, 1], affine @ [4, 1, 3, 1], atol=1e-4)
    # By hand as well, and not by the affine that was given: 4 voxels along the first axis, whichever that is.
    if letters == "PSR":
        np.testing.assert_allclose((scan.affine @ [*where, 1])[:3], [-31.5 + 12.0, 12.25 - 2.8, 80.0 + 1.5], atol=1e-4)


def test_big_endian(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(nibabel.Nifti1Image(voxels().astype(">i2"), np.eye(4), header), tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == struct.pack(">i", 348)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").values, voxels())


def test_slope_and_intercept(tmp_path: Path) -> None:
    path = patched(save(tmp_path / "a.nii"), SLOPE, "<ff", 0.5, -10.0)
    np.testing.assert_allclose(read_nifti(path).values, voxels() * 0.5 - 10, atol=1e-4)
    np.testing.assert_allclose(read_nifti(path).values, nibabel.load(path).get_fdata(), atol=1e-4)
    # A slope of 0 means that there is none.
    np.testing.assert_array_equal(read_nifti(patched(path, SLOPE, "<ff", 0.0, 7.0)).values, voxels())
    with pytest.raises(ImageError, match="scaled by inf"):
        read_nifti(patched(path, SLOPE, "<f", np.inf))


def test_four_dimensions(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.zeros((4, 5, 6, 3), np.float32))
    sentence = r"a\.nii\.gz: it holds 4 dimensions, 4 x 5 x 6 x 3: 3 volumes .* in a separate file"
    with pytest.raises(ImageError, match=sentence):
        read_nifti(path)
    assert read_nifti(save(path, voxels()[..., None])).shape == SHAPE
    assert read_nifti(save(path, voxels()[..., 0])).shape == (7, 6, 1)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_huge_dimensions_take_no_memory(tmp_path: Path, suffix: str) -> None:
    for sides, problem in (((32000, 32000, 32000), "more than 2 GB"), ((800, 800, 700), "cannot hold|cut short")):
        data = patched(save(tmp_path / "a.nii"), DIM, "<4h", 3, *sides).read_bytes()
        path = tmp_path / f"b{suffix}"
        path.write_bytes(gzip.compress(data) if suffix == ".nii.gz" else data)
        tracemalloc.start()
        with pytest.raises(ImageError, match=problem):
            read_nifti(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
        tracemalloc.stop()
    # The second is small enough to be believed; only the file shows that it cannot be.
    assert VOXEL_BYTES > 800 * 800 * 700 * 4


def test_header_and_data_disagree(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii")
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ImageError, match=r"promises 7 x 6 x 5 voxels of 2 bytes, 772 bytes .* the file has 762"):
        read_nifti(path)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(whole[:-10]))
    with pytest.raises(ImageError, match=r"promises 7 x 6 x 5 voxels, but only 205 of 210 are there"):
        read_nifti(tmp_path / "a.nii.gz")
    # A little may follow, but not another scan.
    path.write_bytes(whole + bytes(MARGIN))
    assert read_nifti(path).shape == SHAPE
    path.write_bytes(whole + bytes(MARGIN + 1))
    with pytest.raises(ImageError, match=r"4,097 bytes more: header and data disagree"):
        read_nifti(path)
    with pytest.raises(ImageError, match=r"the voxels begin at byte 12"):
        read_nifti(patched(save(path), START, "<f", 12.0))


def test_a_gzip_bomb_is_never_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = save(tmp_path / "a.nii").read_bytes()
    with gzip.open(tmp_path / "b.nii.gz", "wb") as file:
        file.write(whole)
        for _ in range(64):
            file.write(bytes(2**20))
    taken, read = 0, gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        nonlocal taken
        data = read(self, size)
        taken += len(data)
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    tracemalloc.start()
    with pytest.raises(ImageError, match="more follows: header and data disagree"):
        read_nifti(tmp_path / "b.nii.gz")
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    assert taken < len(whole) + MARGIN + 2000


def test_voxels_that_are_no_numbers(tmp_path: Path) -> None:
    values = voxels().astype(np.float32)
    values[0, 0, :3], values[1, 1, 1] = np.nan, np.inf
    with pytest.raises(ImageError, match=r"of 210 voxels 3 are NaN and 1 are infinite\. Give them"):
        read_nifti(save(tmp_path / "a.nii.gz", values))
    with pytest.raises(ImageError, match="of 210 voxels 210 are infinite"):
        read_nifti(save(tmp_path / "a.nii.gz", np.full(SHAPE, 1e300)))
    for dtype in (np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])):
        with pytest.raises(ImageError, match="not one number each"):
            read_nifti(save(tmp_path / "a.nii.gz", np.zeros(SHAPE, dtype)))
    with pytest.raises(ImageError, match=r"kind of its voxels is unknown \(code 77\)"):
        read_nifti(patched(save(tmp_path / "a.nii"), DATATYPE, "<h", 77))


def test_which_affine(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", affine=oriented("LAS", (1, 2, 3)))
    # nibabel writes the qform with code 0 where it was not asked for.
    with pytest.raises(ImageError, match=r"does not state its position .* codes are 0.* left and right"):
        read_nifti(patched(path, SFORM, "<h", 0))
    scan = read_nifti(patched(path, QFORM, "<h", 1))
    assert "".join(nibabel.aff2axcodes(scan.affine)) == "LAS"


def test_affines_that_are_none(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", affine=np.diag([1.0, 2.0, 3.0, 1.0]))
    rows = {
        "singular": (1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0),
        "would measure 1 x 1 x 0 mm": (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0),
        "would measure 1 x 1 x 5000 mm": (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 5000, 0),
        "affine is not finite": (np.nan, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0),
    }
    for problem, row in rows.items():
        with pytest.raises(ImageError, match=problem):
            read_nifti(patched(path, SROW, "<12f", *row))
    sheared = read_nifti(patched(path, SROW, "<12f", 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 3, 0))
    assert sheared.notes == ("its axes are not at right angles (71.6° instead of 90°), as with a tilted gantry",)


def test_files_that_are_no_nifti(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("path,subject\n" * 100)
    with pytest.raises(ImageError, match=r"a\.nii: this is a text file, not a scan"):
        read_nifti(tmp_path / "a.nii")
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"path,subject\n" * 100))
    with pytest.raises(ImageError, match="this is a text file inside gzip"):
        read_nifti(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii").write_bytes(b"")
    with pytest.raises(ImageError, match="empty"):
        read_nifti(tmp_path / "b.nii")
    (tmp_path / "b.nii").write_bytes(save(tmp_path / "c.nii").read_bytes()[:200])
    with pytest.raises(ImageError, match="cut short within its header"):
        read_nifti(tmp_path / "b.nii")
    with pytest.raises(ImageError, match="its voxels are in another file"):
        read_nifti(patched(save(tmp_path / "c.nii"), MAGIC, "<4s", b"ni1\0"))
    with pytest.raises(ImageError, match=r"there is no such file. Did you mean 'c\.nii'"):
        read_nifti(tmp_path / "c.nlii")
