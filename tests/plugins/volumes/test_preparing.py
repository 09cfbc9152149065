"""One case prepared: aligned sequences, ranges, landmarks, what is absent, and the way back to the source voxel."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casewise.errors import CohortError, ImageError
from casewise.plugins.volumes.case_files import CaseSources
from casewise.plugins.volumes.grid import carried, mask_on
from casewise.plugins.volumes.preprocess import Prepared, Steps, prepare_case
from casewise.plugins.volumes.reading.scans import Scan
from casewise.plugins.volumes.slice_store import FEWEST, MARKER, SliceStore, prepare_slices

pytest.importorskip("SimpleITK")
PLAIN = Steps(in_plane_size=64, bias="none", smoothing="none", size=32)
ORIENTATIONS = ["".join(s) for axes in itertools.permutations(("LR", "PA", "IS")) for s in itertools.product(*axes)]

Place = tuple[float, float, float]


def scan_of(
    gap: Place = (2.0, 2.0, 5.0),
    *,
    orientation: str = "RAS",
    extent: Place = (120.0, 120.0, 50.0),
    centre: Place = (10.0, -20.0, 30.0),
    inverted: bool = False,
    name: str = "t1.nii",
) -> Scan:
    """A body of three tissues in the same place of the patient, however it is sampled."""
    axes = [next(n for n, pair in enumerate(("LR", "PA", "IS")) if letter in pair) for letter in orientation]
    count, affine = [round(extent[axis] / gap[axis]) for axis in axes], np.zeros((4, 4))
    for column, (axis, letter) in enumerate(zip(axes, orientation, strict=True)):
        affine[axis, column] = gap[axis] * (1 if letter in "RAS" else -1)
    affine[3, 3] = 1
    affine[:3, 3] = np.array(centre) - carried(affine, (np.array(count) - 1) / 2)
    x, y, z = np.moveaxis(carried(affine, np.moveaxis(np.indices(count), 0, -1)), -1, 0)
    x, y, z = x - 10, y + 20, z - 30
    values = np.where((x / 50) ** 2 + (y / 40) ** 2 < 1, 200.0, 4.0)
    values = np.where((x - 12) ** 2 + (y + 6) ** 2 < 200, 350.0, values)
    # Nothing in a body is symmetric, so that a flip cannot go unseen.
    values = np.where((x + 22) ** 2 + (y - 9) ** 2 + (2 * (z - 7)) ** 2 < 150, 500.0, values)
    if inverted:
        values = np.where(values > 100, 700 - values, values)
    return Scan(values.astype(np.float32), affine, Path(name))


def source_voxels(prepared: Prepared, scan: Scan, at: np.ndarray) -> np.ndarray:
    """The voxels of the file at (row, column, slice)."""
    return carried(np.linalg.inv(scan.affine) @ prepared.affine, at)


def test_a_case_of_two_sequences() -> None:
    scans = [scan_of(), scan_of((1.5, 1.5, 4.0), orientation="PSR", inverted=True, name="t2.nii")]
    prepared = prepare_case(scans, dataclasses.replace(PLAIN, bias="n4", smoothing="edge_preserving"))
    assert (prepared.slices.shape, prepared.slices.dtype) == ((10, 2, 32, 32), np.uint16)
    assert prepared.slices.max() <= 32767
    assert prepared.present.tolist() == [True, True]
    assert prepared.ranges.dtype == prepared.landmarks.dtype == np.float32
    assert prepared.landmarks.shape == (2, 11)
    assert (np.diff(prepared.landmarks) >= 0).all()
    assert prepared.notes == ()


@pytest.mark.parametrize("orientation", ORIENTATIONS[::9])
def test_sequences_of_any_orientation_come_out_aligned(orientation: str) -> None:
    reference, other = scan_of(orientation="LPS"), scan_of((2.0, 2.0, 2.5), orientation=orientation, name="other.nii")
    slices = prepare_case([reference, other], dataclasses.replace(PLAIN, size=64)).slices.astype(float) / 32767
    difference = np.abs(slices[:, 0] - slices[:, 1])
    # Only at the small sphere's ends do slices of 2.5 mm differ from those of 5 mm.
    assert difference.mean() < 0.004
    assert np.abs(slices[:, 0] - slices[:, 1, :, ::-1]).mean() > 5 * difference.mean()


@settings(max_examples=20, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    gap=st.tuples(st.sampled_from([1.0, 2.0]), st.sampled_from([1.0, 2.0, 3.0]), st.sampled_from([3.0, 5.0])),
    roi=st.sampled_from(["none", "mask"]),
    size=st.sampled_from([32, 48, 64]),
    data=st.data(),
)
def test_a_marked_source_voxel_is_the_marked_pixel_and_back(
    orientation: str, gap: tuple[float, float, float], roi: str, size: int, data: st.DataObject
) -> None:
    scan = scan_of(gap, orientation=orientation, extent=(60.0, 48.0, 30.0))
    marked = np.array([data.draw(st.integers(3, n - 4)) if n > 8 else n // 2 for n in scan.shape])
    values = np.full(scan.shape, 10, np.float32)
    values[tuple(marked)] = 1000
    scan = dataclasses.replace(scan, values=values)
    mask = dataclasses.replace(scan, values=(values > 500).astype(np.float32))
    prepared = prepare_case([scan], dataclasses.replace(PLAIN, roi=roi, size=size, margin=8.0), mask=mask)
    cube = np.moveaxis(prepared.slices[:, 0], 0, 2).astype(float)
    at = np.argwhere(cube == cube.max()).mean(axis=0)
    back = source_voxels(prepared, scan, at)
    pixel = np.abs(np.linalg.inv(scan.affine)[:3, :3] @ prepared.affine[:3, :3]).sum(axis=1)
    # To within half a pixel of the prepared slices, which may be finer or coarser than the source.
    assert (np.abs(back - marked) <= pixel / 2 + 0.5).all()
    forth = carried(np.linalg.inv(prepared.affine) @ scan.affine, marked.astype(float))
    assert (np.abs(forth - at) <= np.maximum(1, 1 / pixel.min())).all()
    on = mask_on(mask, prepared.affine, (len(prepared.slices), size, size))
    if on.any():
        shown = np.argwhere(np.moveaxis(on, 0, 2))
        # every pixel that the marked voxel touches, and no other
        assert (np.abs(source_voxels(prepared, scan, shown) - marked) <= pixel / 2 + 0.5 + 1e-6).all()


def test_an_uncut_plane_keeps_the_intensities_bit_for_bit() -> None:
    scan = scan_of()
    ramp = np.arange(scan.values.size, dtype=np.float32).reshape(scan.shape)
    scan = dataclasses.replace(scan, values=ramp)
    prepared = prepare_case([scan], dataclasses.replace(PLAIN, in_plane_size=60, size=60))
    low, high = prepared.ranges[0].astype(float)
    stored = np.moveaxis(prepared.slices[:, 0], 0, 2)
    at = np.argwhere((stored > 0) & (stored < 32767))
    source = np.rint(source_voxels(prepared, scan, at)).astype(int)
    wanted = (scan.values[tuple(source.T)] - low) / (high - low) * 32767
    np.testing.assert_allclose(stored[tuple(at.T)], wanted, atol=0.51)
    assert len(at) > 0.6 * stored.size


def test_an_absent_sequence_is_zero_and_marked() -> None:
    t2 = scan_of(inverted=True, name="t2.nii")
    prepared = prepare_case([None, t2], PLAIN)
    assert prepared.present.tolist() == [False, True]
    assert not prepared.slices[:, 0].any()
    assert prepared.slices[:, 1].any()
    assert np.isnan(prepared.ranges[0]).all()
    assert np.isnan(prepared.landmarks[0]).all()
    with pytest.raises(CohortError, match="without any scan"):
        prepare_case([None, None], PLAIN)


@pytest.mark.parametrize("level", [0.0, 12.0])
def test_a_constant_scan_is_zero_and_told(level: float) -> None:
    scan = scan_of()
    flat = dataclasses.replace(scan, values=np.full(scan.shape, level, np.float32), path=Path("flat.nii"))
    prepared = prepare_case([scan, flat], dataclasses.replace(PLAIN, bias="n4", smoothing="edge_preserving"))
    assert not prepared.slices[:, 1].any()
    assert prepared.present.all()
    assert np.isnan(prepared.landmarks[1]).all()
    assert prepared.ranges[1].tolist() == [level, level]
    assert prepared.notes == ("flat.nii: hardly two voxels differ; it shows nothing and is stored as 0",)


def test_what_a_second_sequence_does_not_show_is_zero() -> None:
    upper = scan_of(extent=(120.0, 120.0, 10.0), centre=(10.0, -20.0, 50.0), inverted=True, name="t2.nii")
    prepared = prepare_case([scan_of(), upper], PLAIN)
    assert prepared.notes == ("t2.nii: shows only 20% of what t1.nii shows",)
    assert [bool(image.any()) for image in prepared.slices[:, 1]] == [False] * 8 + [True] * 2
    lower = np.zeros(scan_of().shape, np.float32)
    lower[20:40, 20:40, 0:4] = 1
    mask = dataclasses.replace(scan_of(), values=lower)
    cut = prepare_case([scan_of(), upper], dataclasses.replace(PLAIN, roi="mask", margin=0.0), mask=mask)
    assert cut.notes[-1] == "t2.nii: does not cover the region of interest; all its pixels are stored as 0"
    far = dataclasses.replace(upper, affine=scan_of(centre=(900.0, 0.0, 0.0)).affine)
    with pytest.raises(ImageError, match=r"t2\.nii: shows no part of the body that t1\.nii shows"):
        prepare_case([scan_of(), far], PLAIN)


@pytest.mark.parametrize("damage", ["index", "no checksums"])
def test_joined_slices_that_cannot_be_verified_are_joined_again(tmp_path: Path, damage: str) -> None:
    nibabel, scan = pytest.importorskip("nibabel"), scan_of()
    nibabel.save(nibabel.Nifti1Image(scan.values, scan.affine), tmp_path / "t1.nii")
    cases, folder = [CaseSources("S1", ((tmp_path / "t1.nii",),), ("T1",))], tmp_path / "slices"
    store = prepare_slices(cases, PLAIN, folder, processes=1)
    affines, marker = np.array(store.affines), json.loads((folder / MARKER).read_text())
    assert {"sha256", "index_sha256"} <= marker.keys()
    index, slices = folder / marker["index"], folder / marker["slices"]
    if damage == "index":
        with np.load(index) as arrays:
            changed = {**arrays, "affines": affines + 1}
        np.savez(index, **changed)
    else:
        (folder / MARKER).write_text(json.dumps({k: v for k, v in marker.items() if "sha256" not in k}))
        np.save(slices, np.zeros(store.slices.shape, store.slices.dtype))
    again = prepare_slices(cases, PLAIN, folder, processes=1)
    assert again.address == store.address
    assert np.array_equal(again.affines, affines)
    assert again.slices.any()
    assert json.loads((folder / MARKER).read_text()).keys() == marker.keys()


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[CaseSources]:
    """Eight cases of one sequence."""
    nibabel = pytest.importorskip("nibabel")
    folder, cases = tmp_path_factory.mktemp("scans"), []
    for number in range(8):
        scan = scan_of(centre=(10.0, -20.0, 30.0 + number))
        nibabel.save(nibabel.Nifti1Image(scan.values, scan.affine), folder / f"{number}.nii")
        cases.append(CaseSources(f"S{number}", ((folder / f"{number}.nii",),), ("T1",)))
    return cases


def bits(store: SliceStore) -> tuple[str, bytes]:
    return store.address, np.asarray(store.slices).tobytes()


def test_a_killed_process_loses_no_finished_case_and_slices_have_the_same_bits(
    cases: list[CaseSources], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps = dataclasses.replace(PLAIN, bias="n4")
    alone = prepare_slices(cases, steps, tmp_path / "alone", processes=1)
    written: dict[Path, int] = {}

    def kill(done: int, total: int) -> None:
        if done == 2:
            for process in psutil.Process().children():
                if "--process-name" in process.cmdline():
                    process.kill()
            files = (tmp_path / "killed" / "cases").glob("[!.]*.npz")
            written.update({path: path.stat().st_mtime_ns for path in files})

    killed = prepare_slices(cases, steps, tmp_path / "killed", processes=2, progress=kill)
    assert "was ended by the system" in caplog.text
    assert bits(killed) == bits(alone)
    assert len(written) >= 2
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_cases_of_a_machine_that_is_lost_are_kept(
    cases: list[CaseSources], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost_machine: list[CaseSources]
) -> None:
    alone = prepare_slices(cases, PLAIN, tmp_path / "alone", processes=1)
    assert lost_machine == []
    monkeypatch.setitem(FEWEST, "none", 8)
    told: list[int] = []
    both = prepare_slices(cases, PLAIN, tmp_path / "both", processes=1, progress=lambda done, _: told.append(done))
    assert (lost_machine, told, bits(both)) == (cases[:4], [*range(1, 9)], bits(alone))
