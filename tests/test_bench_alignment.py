"""The page on alignment: right where the truth is known, and wrong as soon as somebody ignores the affines."""

from __future__ import annotations

import doctest
import importlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.plugins.volumes import preprocess as preparing
from casewise.plugins.volumes.grid import to_ras
from casewise.plugins.volumes.preprocess import Prepared, Steps, prepare_case
from casewise.plugins.volumes.reading.scans import Scan

pytest.importorskip("SimpleITK")

PLACE = Path(__file__).resolve().parents[1] / "benchmarks"
NAMES = ("alignment_measures", "alignment_page", "alignment")
PLANE = 56
Drawn = tuple[dict[str, Scan], dict[str, Scan]]


@pytest.fixture(scope="module")
def files() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLACE)
        yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def measures(files: dict[str, Any]) -> Any:
    return files["alignment_measures"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("phantom")


@pytest.fixture(scope="module")
def drawn(files: dict[str, Any], folder: Path) -> Drawn:
    scans, masks = files["alignment"].draw_phantom(folder, size=(PLANE, PLANE), slices=(18, 24))
    assert [scan.orientation for scan in scans.values()] == ["PSR", "RAS"]
    return scans, masks


def plainly(scans: list[Scan]) -> Prepared:
    return prepare_case(scans, Steps(in_plane_size=PLANE, size=PLANE, bias="none", smoothing="none"))


@pytest.fixture(scope="module")
def prepared(drawn: Drawn) -> Prepared:
    return plainly(list(drawn[0].values()))


def without_affine(scan: Scan) -> Scan:
    """The scan as somebody takes it who ignores its affine: voxels as they come, about the same middle."""
    affine = np.diag([*scan.spacing, 1.0])
    middle = (np.array(scan.shape) - 1) / 2
    affine[:3, 3] = scan.affine[:3, :3] @ middle + scan.affine[:3, 3] - affine[:3, :3] @ middle
    return replace(scan, affine=affine)


def test_examples_hold(files: dict[str, Any]) -> None:
    for module in files.values():
        assert doctest.testmod(module).failed == 0


def test_masks_of_two_orientations_lie_on_each_other(measures: Any, drawn: Drawn, prepared: Prepared) -> None:
    first, second = drawn[1].values()
    whole, common = measures.prepared_overlap(first, second, prepared)
    assert common >= whole > 0.8
    assert whole == pytest.approx(measures.overlap_by_nibabel(first.path, second.path)[0], abs=0.03)
    assert measures.overlap_without_affine(first, second)[0] < 0.3
    marked = measures.marked_slices(first, second, prepared)
    assert 0 < marked[2] <= min(marked[:2])


def test_ignored_affines_are_seen_by_masks_and_by_information(measures: Any, drawn: Drawn) -> None:
    (first, second), masks = drawn[0].values(), list(drawn[1].values())
    ignored = [second, without_affine(first)]
    wrong, right = plainly(ignored), plainly([second, first])
    assert measures.prepared_overlap(masks[1], masks[0], right)[0] > 0.8
    assert measures.prepared_overlap(masks[1], without_affine(masks[0]), wrong)[0] < 0.5

    def at_zero(scans: list[Scan], prepared: Prepared) -> float:
        return float(min(curve[0.0] for curve in measures.information_by_shift(scans, prepared, 0, 1)))

    assert at_zero([second, first], right) > 1.5 * at_zero(ignored, wrong)


def test_information_is_greatest_where_they_lie(measures: Any, drawn: Drawn, prepared: Prepared) -> None:
    curves = measures.information_by_shift(list(drawn[0].values()), prepared, 0, 1)
    assert [measures.best(curve) for curve in curves] == [0, 0, 0]
    assert all(len(curve) >= 3 for curve in curves)


@pytest.mark.parametrize("direction", range(3))
def test_a_shift_is_found_with_its_sign(measures: Any, drawn: Drawn, prepared: Prepared, direction: int) -> None:
    (first, second), masks = drawn[0].values(), list(drawn[1].values())
    along = int(np.abs(prepared.affine[direction, :3]).argmax())
    shift = np.zeros(3)
    shift[direction] = 2 * abs(prepared.affine[direction, along])
    away = [first, measures.moved(second, shift)]
    found = measures.information_by_shift(away, plainly(away), 0, 1, reach=20)
    assert measures.best(found[direction]) == pytest.approx(-shift[direction], abs=0.02)
    still = measures.prepared_overlap(*masks, prepared)
    apart = measures.moved(masks[1], shift)
    assert measures.prepared_overlap(masks[0], apart, prepared)[0] < still[0] - 0.1
    assert measures.prepared_overlap(masks[0], apart, prepared, -shift) == pytest.approx(still, abs=1e-9)


@pytest.mark.parametrize("number", [0, 1])
def test_marked_voxels_come_back(measures: Any, drawn: Drawn, number: int) -> None:
    scans = list(drawn[0].values())
    trip = measures.round_trip(scans, number, PLANE, count=40)
    assert trip["marked"] == trip["found"] == trip["same"] == 40
    assert trip["largest"] < min(scans[number].spacing) / 2


@pytest.mark.parametrize("fault", ["ignored", "mirrored"])
def test_marked_voxels_do_not_come_back_where_the_preparation_errs(
    measures: Any, drawn: Drawn, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def mirrored(scans: list[Scan], steps: Steps) -> Prepared:
        made = prepare_case(scans, steps)
        return replace(made, slices=made.slices[..., ::-1])

    if fault == "mirrored":
        monkeypatch.setattr(measures, "prepare_case", mirrored)
    else:
        monkeypatch.setattr(preparing, "to_ras", lambda scan: to_ras(without_affine(scan)))
    trip = measures.round_trip(list(drawn[0].values()), 0, PLANE, count=40)
    assert trip["same"] < 20
    assert trip["largest"] > 5


def test_the_page_tells_all(
    files: dict[str, Any], drawn: Drawn, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    (data / "empty").mkdir()
    rows = ["path,subject,sequence"]
    for name in drawn[0]:
        rows += [f"{name}-scan.nii.gz,P1,{name}", f"{name}-mask.nii.gz,P1,mask-{name}"]
    (data / "cases.csv").write_text("\n".join([*rows, "empty,P2,CT", ""]))
    module = files["alignment"]
    monkeypatch.setattr(module, "PLANE", 32)
    monkeypatch.setattr(module, "FINE_MM", 12.0)
    # Of N4 and smoothing others tell; the page takes them as they come.
    monkeypatch.setattr(module, "Steps", partial(Steps, bias="none", smoothing="none"))
    monkeypatch.setattr(module, "draw_phantom", lambda _: drawn)
    target = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["alignment.py", "--data", str(data), "--output", str(target)])
    module.main()
    text = target.read_text()
    assert str(tmp_path) not in text
    for told in ("2 subjects", "1 folder was refused", "| P1 | T1 | NIfTI-1 | PSR |", "T1 and T2, to the head"):
        assert told in text
    assert "CT in the table, refused: “empty: " in text
    assert "| subject, T2 | RAS |" in text
    assert "mm apart" not in text.split("## Limitations")[1]


def test_a_missing_folder_is_said_and_ends_with_2(
    files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["alignment.py", "--data", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as ended:
        files["alignment"].main()
    assert ended.value.code == 2
    assert "cases.csv is missing" in capsys.readouterr().err
