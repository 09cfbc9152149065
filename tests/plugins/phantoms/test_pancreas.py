"""The pancreas phantom: volumes whose anatomy agrees in millimetres, and whose grade is in the pancreas alone."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from casewise.plugins.phantoms.cohort import MARK
from casewise.plugins.phantoms.pancreas import GRADES, draw_volume, make_pancreas
from tests.phantom_files import rows_of

nib = pytest.importorskip("nibabel", reason="the package that reads volumes is optional")

SMALL: dict[str, Any] = {"size": (64, 56), "slices": (10, 16)}
TINY: dict[str, Any] = {"size": (48, 48), "slices": (10, 10)}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pancreas(tmp_path_factory.mktemp("pancreas"), subjects=6, seed=3, **SMALL)


@pytest.fixture(scope="module")
def truth(cohort: Path) -> list[dict[str, Any]]:
    people: list[dict[str, Any]] = json.loads((cohort.parent / "phantom.json").read_text())["subjects"]
    return people


def test_columns_files_and_marks(cohort: Path, truth: list[dict[str, Any]]) -> None:
    rows = rows_of(cohort)
    columns = "path subject visit sequence mask lesion grade site scanner sex age synthetic"
    assert (" ".join(rows[0]), cohort.name) == (columns, "cohort.csv")
    assert [row["subject"] + row["sequence"] for row in rows[:3]] == ["P0001T1", "P0001T2", "P0002T1"]
    assert Counter(row["grade"] for row in rows) == dict.fromkeys(GRADES, 4)
    assert all((row["lesion"] == "") == (row["grade"] == "normal") for row in rows)
    assert [one["finding"] for one in truth] == [row["grade"] for row in rows[::2]]
    named = {row[column] for row in rows for column in ("path", "mask", "lesion") if row[column]}
    there = {str(path.relative_to(cohort.parent)) for path in cohort.parent.rglob("*.nii.gz")}
    assert named == there
    for name in there:
        assert nib.load(cohort.parent / name).header["descrip"].item().decode() == MARK
    assert [len([cyst for cyst in one["diameters_mm"] if cyst > 20]) for one in truth] == [
        int(one["finding"] == "high") for one in truth
    ]


def test_every_scan_lies_as_the_truth_says(cohort: Path, truth: list[dict[str, Any]]) -> None:
    seen = []
    for one in truth:
        codes = []
        for scan in one["scans"]:
            image = nib.load(cohort.parent / "images" / one["subject"] / f"{scan['sequence']}.nii.gz")
            codes.append("".join(nib.aff2axcodes(image.affine)))
            assert (codes[-1], image.header.get_data_dtype()) == (scan["codes"], np.int16)
            assert np.allclose(image.get_qform(), image.affine, atol=1e-3)
            straight = nib.as_closest_canonical(image)
            assert straight.shape == tuple(scan["shape"])
            assert np.allclose(straight.header.get_zooms(), scan["spacing"], atol=1e-4)
            stated = {"grade": one["finding"], "sequence": scan["sequence"], "site": one["site"], **SMALL}
            drawn = draw_volume(int(one["subject"][1:]) - 1, seed=3, **stated)
            assert np.array_equal(np.asarray(straight.dataobj), drawn.voxels)
            assert np.allclose(straight.affine, drawn.scan.affine, atol=1e-3)
        assert codes[0] != codes[1]
        assert one["scans"][0]["spacing"] != one["scans"][1]["spacing"]
        seen += codes
    assert len(set(seen)) >= 4
    assert {code[axis] for code in seen for axis in range(3)} >= set("RLPSA")


def test_cysts_are_bright_on_t2_and_dark_on_t1(cohort: Path, truth: list[dict[str, Any]]) -> None:
    for one in truth:
        folder, masks = cohort.parent / "images" / one["subject"], cohort.parent / "masks" / one["subject"]
        pancreas = nib.load(masks / "pancreas.nii.gz")
        t1, t2 = nib.load(folder / "T1.nii.gz"), nib.load(folder / "T2.nii.gz")
        assert pancreas.shape == t1.shape
        assert np.allclose(pancreas.affine, t1.affine)
        assert set(np.unique(pancreas.dataobj)) == {0, 1}
        inside = np.asarray(pancreas.dataobj) > 0
        assert 25 < inside.sum() * np.prod(pancreas.header.get_zooms()) / 1000 < 130
        if one["finding"] == "normal":
            continue
        lesion = nib.load(masks / "lesion.nii.gz")
        cyst = np.asarray(lesion.dataobj) > 0
        assert inside[cyst].all()
        middle = nib.affines.apply_affine(lesion.affine, np.argwhere(cyst)).mean(axis=0)
        assert np.allclose(middle, one["lesion_middle_mm"], atol=0.1)
        # By their place in millimetres the same voxels are found on T2, whatever its grid.
        across = np.linalg.inv(t2.affine) @ t1.affine
        t2_here = ndimage.affine_transform(
            np.asarray(t2.dataobj, float), across[:3, :3], across[:3, 3], output_shape=t1.shape, order=1
        )
        t1_here, own = np.asarray(t1.dataobj, float), inside & ~ndimage.binary_dilation(cyst, iterations=2)
        if one["finding"] == "high":
            assert np.median(t2_here[cyst]) > 1.3 * np.median(t2_here[own])
            assert np.median(t1_here[cyst]) < 0.85 * np.median(t1_here[own])
        else:
            assert t2_here[cyst].max() > 1.3 * np.median(t2_here[own])
            assert t1_here[cyst].min() < 0.85 * np.median(t1_here[own])


def test_nothing_but_the_pancreas_tells_the_grade() -> None:
    for number in range(2):
        normal, low, high = (draw_volume(number, grade=grade, sequence="T2", seed=5, size=(96, 80)) for grade in GRADES)
        assert normal.scan == low.scan == high.scan
        assert not normal.lesion.any()
        assert 0 < low.lesion.sum() < 0.5 * high.lesion.sum()
        near = ndimage.binary_dilation(high.pancreas | low.pancreas, iterations=2)
        for other in (low, high):
            assert np.array_equal(other.voxels[~near], normal.voxels[~near])
            assert not np.array_equal(other.voxels[near], normal.voxels[near])
        assert np.array_equal(low.pancreas & ~low.lesion & ~normal.pancreas, np.zeros_like(low.lesion))


def test_planted_lesion_is_all_there_is() -> None:
    for number in range(6):
        volumes = {g: draw_volume(number, grade=g, sequence="T1", lesion="planted", seed=7, **TINY) for g in GRADES}
        normal = volumes["normal"]
        for grade in ("low", "high"):
            one = volumes[grade]
            assert np.array_equal(one.pancreas, normal.pancreas)
            near = ndimage.binary_dilation(one.lesion, iterations=2)
            assert np.array_equal(one.voxels[~near], normal.voxels[~near])
            assert one.voxels[one.lesion].mean() > 1.2 * normal.voxels[one.lesion].mean()
        assert volumes["high"].lesion.sum() > 2 * volumes["low"].lesion.sum()
