"""The pancreas phantom: volumes whose anatomy agrees in millimetres, and whose grade is in the pancreas alone."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage, stats
from typer.testing import CliRunner

from casewise.cli.main import command_line
from casewise.errors import CasewiseError
from casewise.plugins.phantoms.folder import MARK
from casewise.plugins.phantoms.pancreas.anatomy import abdomen
from casewise.plugins.phantoms.pancreas.cohort import (
    COLUMNS,
    GRADES,
    draw_volume,
    grade_of,
    lacking_of,
    make_pancreas,
    site_of,
)
from casewise.plugins.phantoms.pancreas.lesions import findings
from casewise.plugins.phantoms.pancreas.scan import ORIENTATIONS, scans
from casewise.plugins.phantoms.pancreas.shapes import Canvas, Ellipsoid, Trunk, Tube, smooth_noise
from tests.phantom_files import rows_of

nib = pytest.importorskip("nibabel", reason="the package that reads volumes is optional")

SMALL: dict[str, Any] = {"size": (64, 56), "slices": (10, 16)}
TINY: dict[str, Any] = {"size": (48, 48), "slices": (10, 10)}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pancreas(tmp_path_factory.mktemp("pancreas"), subjects=6, seed=3, **SMALL)


@pytest.fixture(scope="module")
def truth(cohort: Path) -> list[dict[str, Any]]:
    note = json.loads((cohort.parent / "phantom.json").read_text())
    assert note["synthetic"] is note["complete"] is True
    people: list[dict[str, Any]] = note["subjects"]
    return people


def grid(axes: tuple[int, int, int] = (40, 40, 40), step: float = 2.0) -> Any:
    return tuple((step * (np.arange(n) - (n - 1) / 2)).astype(np.float32) for n in axes)


def test_columns_files_and_marks(cohort: Path, truth: list[dict[str, Any]]) -> None:
    rows = rows_of(cohort)
    assert tuple(rows[0]) == COLUMNS
    assert cohort.name == "cohort.csv"
    assert [(row["subject"], row["sequence"]) for row in rows[:3]] == [
        ("P0001", "T1"),
        ("P0001", "T2"),
        ("P0002", "T1"),
    ]
    assert Counter(row["grade"] for row in rows) == dict.fromkeys(GRADES, 4)
    assert {row["synthetic"] for row in rows} == {"1"}
    assert all((row["lesion"] == "") == (row["grade"] == "normal") for row in rows)
    assert [one["finding"] for one in truth] == [row["grade"] for row in rows[::2]]
    named = {row[column] for row in rows for column in ("path", "mask", "lesion") if row[column]}
    there = {str(path.relative_to(cohort.parent)) for path in cohort.parent.rglob("*.nii.gz")}
    assert named == there
    for name in there:
        assert nib.load(cohort.parent / name).header["descrip"].item().decode() == MARK
    assert MARK in (cohort.parent / "README.txt").read_text()
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
            assert codes[-1] == scan["orientation"]
            assert image.header.get_data_dtype() == np.int16
            assert np.allclose(image.get_qform(), image.affine, atol=1e-3)
            straight = nib.as_closest_canonical(image)
            assert straight.shape == (64, 56, scan["slices"])
            assert np.allclose(straight.header.get_zooms(), scan["spacing_mm"], atol=1e-4)
            drawn = draw_volume(
                int(one["subject"][1:]) - 1,
                grade=one["finding"],
                sequence=scan["sequence"],
                seed=3,
                site=one["site"],
                **SMALL,
            )
            assert np.array_equal(np.asarray(straight.dataobj), drawn.voxels)
            assert np.allclose(straight.affine, drawn.affine, atol=1e-3)
        assert codes[0] != codes[1]
        assert one["scans"][0]["spacing_mm"] != one["scans"][1]["spacing_mm"]
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
        t1_here = np.asarray(t1.dataobj, float)
        own = inside & ~ndimage.binary_dilation(cyst, iterations=2)
        if one["finding"] == "high":
            assert np.median(t2_here[cyst]) > 1.3 * np.median(t2_here[own])
            assert np.median(t1_here[cyst]) < 0.85 * np.median(t1_here[own])
        else:
            assert t2_here[cyst].max() > 1.3 * np.median(t2_here[own])
            assert t1_here[cyst].min() < 0.85 * np.median(t1_here[own])


def test_tissues_have_the_right_contrast() -> None:
    for number in range(3):
        t1, t2 = (draw_volume(number, grade="normal", sequence=s, seed=1, size=(96, 80)) for s in ("T1", "T2"))
        middles = [v.voxels[:, :, int(np.abs(v.scan.axes[2]).argmin())].astype(float) for v in (t1, t2)]
        who = abdomen(1, number)
        levels = []
        for volume, plane in zip((t1, t2), middles, strict=True):

            def at(x: float, y: float, volume: Any = volume, plane: Any = plane) -> float:
                i, j = (
                    int(np.abs(axis - place).argmin()) for axis, place in zip(volume.scan.axes, (x, y), strict=False)
                )
                return float(np.median(plane[i - 1 : i + 2, j - 1 : j + 2]))

            rim = (who.trunk.wide + who.flesh.wide) / 2
            levels.append({"fat": max(at(rim, 0), at(-rim, 0)), "air": plane[:4, :4].mean(), "muscle": at(31, -84)})
            levels[-1]["canal"] = plane[
                np.ix_(*(np.abs(a - p) < 14 for a, p in zip(volume.scan.axes, (0, -70), strict=False)))
            ].max()
        assert levels[0]["fat"] > 1.6 * levels[0]["muscle"]
        assert levels[1]["canal"] > 1.8 * levels[1]["muscle"]
        assert all(one["air"] < 0.6 * one["fat"] for one in levels)


@pytest.mark.parametrize("sequence", ["T2"])
def test_nothing_but_the_pancreas_tells_the_grade(sequence: str) -> None:
    for number in range(2):
        normal, low, high = (
            draw_volume(number, grade=grade, sequence=sequence, seed=5, size=(96, 80)) for grade in GRADES
        )
        assert normal.scan == low.scan == high.scan
        assert not normal.lesion.any()
        assert 0 < low.lesion.sum() < 0.5 * high.lesion.sum()
        near = ndimage.binary_dilation(high.pancreas | low.pancreas, iterations=2)
        for other in (low, high):
            assert np.array_equal(other.voxels[~near], normal.voxels[~near])
            assert not np.array_equal(other.voxels[near], normal.voxels[near])
        assert np.array_equal(low.pancreas & ~low.lesion & ~normal.pancreas, np.zeros_like(low.lesion))


def test_no_fact_of_a_scan_goes_with_the_grade() -> None:
    facts: dict[str, list[Any]] = {}
    grades, sites = [], []
    for number in range(180):
        who, site = abdomen(2, number), site_of(2, number, GRADES)
        grades.append(grade_of(2, number, GRADES))
        sites.append(site)
        for scan in scans(2, who, site, size=(96, 96), slices=(18, 40)):
            numbers = {"pixel": scan.spacing[0], "step": scan.spacing[2], "slices": scan.shape[2], "scale": scan.scale}
            numbers |= {"offset": scan.offset, "noise": scan.noise, "bias": scan.uneven, "x": scan.middle[0]}
            for name, value in numbers.items():
                facts.setdefault(f"{scan.sequence} {name}", []).append(value)
            facts.setdefault(f"{scan.sequence} orientation", []).append(scan.codes)
        facts.setdefault("sex", []).append(who.sex)
        facts.setdefault("age", []).append(who.age)
        facts.setdefault("lacking", []).append(str(lacking_of(2, number, 0.3)))
    assert set(Counter(zip(grades, sites, strict=True)).values()) == {20}
    for name, values in facts.items():
        groups = [[value for value, grade in zip(values, grades, strict=True) if grade == one] for one in GRADES]
        if isinstance(values[0], str):
            kinds = sorted(set(values))
            p = stats.chi2_contingency([[group.count(kind) for kind in kinds] for group in groups]).pvalue
        else:
            p = stats.kruskal(*groups).pvalue
        assert p > 0.003, name
    # The facts do vary: what a test would not find among constants.
    assert set(facts["T1 orientation"]) == set(ORIENTATIONS)
    assert min(facts["T1 slices"]) < 22 < 36 < max(facts["T1 slices"])
    assert min(facts["T2 step"]) < 3.3 < 5.7 < max(facts["T2 step"])
    assert max(facts["T1 scale"]) > 5 * min(facts["T1 scale"])


def test_missing_sequences(tmp_path: Path, cohort: Path) -> None:
    table = make_pancreas(tmp_path / "some", subjects=6, seed=3, missing=0.5, **SMALL)
    rows, all_rows = rows_of(table), rows_of(cohort)
    per_subject = Counter(row["subject"] for row in rows)
    assert sorted(per_subject.values()) == [1, 1, 1, 2, 2, 2]
    for row in rows:
        whole = next(one for one in all_rows if one["path"] == row["path"])
        assert row == whole
        assert (table.parent / row["path"]).read_bytes() == (cohort.parent / row["path"]).read_bytes()
    # A mask always lies on the grid of a scan that is there.
    first = {row["subject"]: row for row in reversed(rows)}
    for row in first.values():
        image, mask = nib.load(table.parent / row["path"]), nib.load(table.parent / row["mask"])
        assert image.shape == mask.shape
        assert np.allclose(image.affine, mask.affine)
    lacking = [lacking_of(1, number, 0.1) for number in range(200)]
    assert 20 - 1 <= sum(one is not None for one in lacking) <= 20 + 1
    assert {"T1", "T2"} <= set(lacking)


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
    places = []
    for number in range(100):
        who = abdomen(7, number)
        ball = findings(7, who, "high", "planted").planted
        assert ball is not None
        places.append(np.subtract(ball.centre, np.mean(who.pancreas.points, axis=0)))
    spread = np.array(places)
    assert np.linalg.norm(spread[:, :2], axis=1).max() <= 34
    # So much has a disc that is filled evenly: half its radius along each axis.
    assert np.allclose(spread[:, :2].std(axis=0), 17, rtol=0.2)


def test_shuffled_labels_are_another_subjects(tmp_path: Path) -> None:
    true, shuffled = (
        rows_of(make_pancreas(tmp_path / labels, subjects=6, seed=1, labels=labels, **TINY))  # type: ignore[arg-type]
        for labels in ("true", "shuffled")
    )
    assert [row["path"] for row in true] == [row["path"] for row in shuffled]
    assert [row["grade"] for row in true] != [row["grade"] for row in shuffled]
    pairs = Counter(zip((r["grade"] for r in true), (r["grade"] for r in shuffled), strict=True))
    assert Counter(row["grade"] for row in shuffled) == Counter(row["grade"] for row in true)
    # No grade keeps one label: it has all of them in equal parts, as far as six subjects allow.
    assert max(pairs.values()) <= 4
    for row in true:
        assert (tmp_path / "true" / row["path"]).read_bytes() == (tmp_path / "shuffled" / row["path"]).read_bytes()


def test_without_its_package_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(CasewiseError, match=r"pip install 'casewise\[volumes\]'"):
        make_pancreas(tmp_path / "a", subjects=1, **TINY)
    assert not (tmp_path / "a").exists()


def test_shapes_have_their_volume_and_distance() -> None:
    canvas = Canvas(grid(), None, soft=2.0)
    for shape, volume in (
        (Ellipsoid((1.0, -2.0, 3.0), (20.0, 12.0, 16.0), 0.6), 4 / 3 * np.pi * 20 * 12 * 16),
        (Tube(((-15.0, 0.0, 0.0), (15.0, 0.0, 0.0)), (8.0, 8.0)), np.pi * 64 * 30 + 4 / 3 * np.pi * 512),
        (Trunk(20.0, 20.0, 20.0, power=2.0), np.pi * 400 * 80),
    ):
        _, share = canvas.paint(shape, 1.0)
        assert share.sum() * 8 == pytest.approx(volume, rel=0.03)
    ball = Ellipsoid((0.0, 0.0, 0.0), (10.0, 10.0, 10.0))
    x, y, z = (np.float32([0, 4, 16]), np.float32([0, 3, 12]), np.zeros(3, np.float32))
    assert ball.distance(x, y, z).tolist() == pytest.approx([-10, -5, 10], abs=2e-3)


def test_noise_lies_in_the_patient() -> None:
    fine, coarse = grid((40, 40, 40), 4.0), grid((20, 20, 20), 8.0)
    one = smooth_noise(np.random.default_rng(4), fine, 30.0)
    # The middles of pairs of the fine grid are the places of the coarse one.
    other = smooth_noise(np.random.default_rng(4), coarse, 30.0)
    assert np.abs(one.reshape(20, 2, 20, 2, 20, 2).mean(axis=(1, 3, 5)) - other).max() < 0.05
    many = np.concatenate([smooth_noise(np.random.default_rng(seed), fine, 8.0).ravel() for seed in range(3)])
    assert many.std() == pytest.approx(1, abs=0.05)


def test_the_command_draws_it_and_refuses_what_is_not_its(tmp_path: Path) -> None:
    words = ["phantom", str(tmp_path / "a"), "--kind", "pancreas", "--subjects", "4", "--size", "40x32"]
    done = CliRunner().invoke(
        command_line(), [*words, "--classes", "normal,high", "--missing", "0.5", "--lesion", "planted"]
    )
    assert done.exit_code == 0, done.output
    rows = rows_of(tmp_path / "a" / "cohort.csv")
    assert Counter(row["grade"] for row in rows).keys() == {"normal", "high"}
    assert len(rows) == 6
    assert nib.as_closest_canonical(nib.load(tmp_path / "a" / rows[0]["path"])).shape[:2] == (40, 32)
    for more, message in (
        (["--images", "2"], "--images is not for --kind pancreas"),
        (["--stains", "own"], "--stains is not for --kind pancreas"),
        (["--lesion", "cyst"], "lesion must be one of cysts, planted"),
        (["--classes", "normal,hig"], "Did you mean 'high'"),
    ):
        refused = CliRunner().invoke(command_line(), [*words, *more])
        assert isinstance(refused.exception, CasewiseError)
        assert message in str(refused.exception)
    other = CliRunner().invoke(command_line(), ["phantom", str(tmp_path / "b"), "--kind", "chest", "--missing", "0.1"])
    assert "--missing is not for --kind chest" in str(other.exception)
