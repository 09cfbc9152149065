"""Bad input of volume studies through the command line: told whole, by name, as early as can be, with exit code 2."""

import gzip
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.cli import main as cli
from casewise.errors import CasewiseError
from casewise.pipeline.read import read
from tests.plugins.volumes.test_dicom import one_file

nibabel = pytest.importorskip("nibabel", reason="the package that reads NIfTI is optional")

SHAPE, AFFINE = (16, 14, 8), np.diag([2.0, 2.0, 4.0, 1.0])
STUDY = """
name: tiny
synthetic: true
cohort: cohort.csv
images: {{size: 16}}
volumes: {{sequences: [T1, T2], in_plane_size: 16, bias: none, smoothing: none{volumes}}}
panels: {{by: case, grid: 2x2}}
targets: {{grade: [normal, high]}}
split: {{test: 0, folds: 2, restarts: 10}}
backbones: [test_resnet]
weights: random
baselines: {{off: tests of networks}}
recipe: {{epochs: 1, batch_size: 4, schedule: cosine, early_stopping: {{monitor: none}}}}
evaluation: {{bootstrap_resamples: 100, response: false}}
audit: {{permutations: 99}}
{more}
"""
TRAINED = "the training would begin here"


def nifti(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def blob(seed: int) -> np.ndarray:
    """A bright body in air, textured."""
    x, y, z = (np.linspace(-1, 1, n) for n in SHAPE)
    inside = (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2 < 0.8).astype(np.float32)
    texture = np.random.default_rng(seed).random(SHAPE, dtype=np.float32)
    return np.asarray(inside * (200 + 300 * texture), np.float32)


def changed(path: Path, values: np.ndarray, at: int, *shorts: int) -> Path:
    """An uncompressed file with 16-bit numbers of its header changed from byte `at` on."""
    data = bytearray(nifti(path.with_name("whole.nii"), values).read_bytes())
    struct.pack_into(f"<{len(shorts)}h", data, at, *shorts)
    path.write_bytes(bytes(data))
    return path


def dicom(folder: Path, values: np.ndarray, *, uid: str, patient: str, leave: int = -1, **tags: Any) -> Path:
    """A series of a file a slice."""
    place = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [2, 2], "SliceThickness": 4}
    for k in set(range(values.shape[2])) - {leave}:
        own = {"SOPInstanceUID": f"{uid}.{k + 1}", "SeriesInstanceUID": uid, "PatientID": patient, "InstanceNumber": k}
        pixels = np.ascontiguousarray(values[:, :, k].T).astype(np.int16)
        one_file(folder / f"{uid}-{k}.dcm", pixels, **place | own | {"ImagePositionPatient": [0, 0, 4 * k]} | tags)
    return folder


@dataclass
class Bench:
    """A study of six subjects whose table and study a test spoils, and the commands upon it."""

    folder: Path
    table: pd.DataFrame
    call: Callable[..., tuple[int, str, str]]
    volumes: str = ""
    more: str = ""

    def row(self, subject: int, sequence: str = "T1") -> int:
        mine = (self.table["subject"] == f"P{subject}") & (self.table["sequence"] == sequence)
        return int(self.table.index[mine][0])

    def put(self, subject: int, sequence: str, path: Path | str, column: str = "path") -> None:
        self.table.loc[self.row(subject, sequence), column] = str(path)

    def told(self, command: str) -> tuple[int, str, str]:
        self.table.to_csv(self.folder / "cohort.csv", index=False)
        (self.folder / "s.yaml").write_text(STUDY.format(volumes=self.volumes, more=self.more))
        out = ["--output", str(self.folder / "run")] if command == "run" else []
        return self.call(command, str(self.folder / "s.yaml"), *out)

    def refused(self, *said: str, by: tuple[str, ...] = ("validate",)) -> str:
        """What the last of the commands said, all of which must refuse and say this."""
        error = ""
        for command in by:
            code, out, error = self.told(command)
            assert code == 2, (command, out, error)
            assert TRAINED not in error, f"{command} took it"
            assert error.startswith("error: ")
            for text in said:
                assert text in error, (command, error)
        return error

    def taken(self) -> str:
        """What `validate` and `run` say of a study that may be trained, without the breaks of lines."""
        code, out, error = self.told("validate")
        assert (code, error) == (0, ""), error
        code, more, error = self.told("run")
        assert TRAINED in error, error
        return " ".join((out + more).split())


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    for subject in range(1, 7):
        for number, name in enumerate(("T1", "T2")):
            nifti(folder / f"P{subject}" / f"{name}.nii.gz", blob(10 * subject + number))
        marked = np.zeros(SHAPE, np.uint8)
        marked[5:10, 5:9, 2:6] = 1
        nifti(folder / f"P{subject}" / "mask.nii.gz", marked)
    return folder


@pytest.fixture
def bench(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    rows = [
        {"path": sources / f"P{subject}" / f"{name}.nii.gz", "subject": f"P{subject}", "visit": 1, "sequence": name}
        | {"mask": sources / f"P{subject}" / "mask.nii.gz", "grade": "high" if subject % 2 else "normal"}
        for subject in range(1, 7)
        for name in ("T1", "T2")
    ]

    def begin(*_: Any, **__: Any) -> None:
        raise CasewiseError(TRAINED)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["casewise", *words])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    monkeypatch.setattr("casewise.console.columns", lambda stream: 100_000)  # a line for each problem
    monkeypatch.setattr("casewise.pipeline.train.train", begin)
    monkeypatch.setattr("casewise.audit.findings.Audit.gate", lambda *_, **__: None)
    return Bench(tmp_path, pd.DataFrame(rows).astype(str), call)


def test_a_good_study_is_told_in_scans(bench: Bench) -> None:
    told = bench.taken()
    assert "6 subjects, 6 cases, 12 scans" in told
    assert "headers of 6 cases in order, 48 slices" in told
    assert "among 6 subjects and 12 scans" in told
    assert "image" not in told.replace("copies of images", "")  # progress of the audit, where it takes seconds
    facts = json.loads((bench.folder / "run" / "audit.json").read_text())["facts"]
    assert (facts["images"], facts["noun"]) == (12, ["scan", "scans"])


def test_headers_that_cannot_be_are_all_told_before_a_run(bench: Bench) -> None:
    values, folder = blob(1), bench.folder
    bench.put(1, "T1", nifti(folder / "four.nii.gz", np.stack([values, values], -1)))
    bench.put(2, "T1", changed(folder / "negative.nii", values, 42, -5))
    bench.put(2, "T2", changed(folder / "zero.nii", values, 44, 0))
    for subject, name in ((3, "letters"), (4, "nothing")):
        (folder / name).mkdir()
        bench.put(subject, "T2", name)
    (folder / "letters" / "letter.txt").write_text("Dear colleague")
    error = bench.refused(
        "4 of 6 cases cannot be prepared.",
        "P1/1: " + str(folder / "four.nii.gz") + ": it holds 4 dimensions",
        "negative.nii: its header claims -5 x 14 x 8 voxels",
        "zero.nii: its header claims 16 x 0 x 8 voxels; each side must be at least 1. Copy it again",
        "letters: none of the 1 files in the folder is DICOM (for example letter.txt)",
        "nothing: the folder is empty",
        by=("validate", "run"),
    )
    assert len(error.splitlines()) == 6
    assert "The others are kept for the next run." in error


def test_voxels_that_cannot_be_are_told_by_a_run_and_the_others_are_kept(bench: Bench, sources: Path) -> None:
    values, folder = blob(1), bench.folder
    holed = values.copy()
    holed[3, 3, 3] = np.nan
    bench.put(1, "T1", nifti(folder / "nan.nii.gz", holed))
    bench.put(1, "T2", nifti(folder / "flat.nii.gz", np.full(SHAPE, 7, np.float32)))
    data = (sources / "P2" / "T1.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(data[: len(data) // 2])
    bench.put(2, "T1", folder / "cut.nii.gz")
    with gzip.open(folder / "bomb.nii.gz", "wb") as file:
        file.write(nifti(folder / "whole.nii", values).read_bytes())
        file.write(bytes(30 * 2**20))
    bench.put(2, "T2", folder / "bomb.nii.gz")
    bench.put(3, "T2", nifti(folder / "flat3.nii.gz", np.full(SHAPE, 7, np.float32)))
    bench.refused(
        "3 of 6 cases cannot be prepared. The others are kept for the next run.",
        "nan.nii.gz: of 1,792 voxels 1 are NaN",
        "cut.nii.gz: the gzip file is cut short",
        "bomb.nii.gz: its header promises 16 x 14 x 8 voxels, but more follows",
        "P3/1: " + str(folder / "flat3.nii.gz") + ": it shows nothing (all its voxels are equal). Copy T2 again",
        by=("run",),
    )
    assert len(list((folder / "run" / "scans" / "cases").glob("*.npz"))) == 3


def test_cases_that_are_left_out_leave_every_class_to_learn_from(bench: Bench) -> None:
    bench.volumes = ", missing: drop"
    for subject in (1, 3, 5):
        bench.table.loc[bench.row(subject, "T2"), "sequence"] = "DWI"
    lost = "grade: of the class 'high' 0 subjects would be left without the cases that lack a sequence. Add the scans"
    bench.refused(lost)
    bench.volumes = ", missing: mask"
    assert "3 of 6 cases lack a sequence, which a learned stand-in replaces" in bench.taken()


def test_rows_that_make_no_case_are_told_together(bench: Bench) -> None:
    bench.volumes = ", roi: mask, lesion: lesoin"
    bench.table.loc[bench.row(1, "T2"), "sequence"] = "T1"
    bench.table.loc[bench.row(2, "T2"), "sequence"] = "t-2"
    bench.table.loc[bench.table["subject"] == "P3", "mask"] = ""
    bench.put(4, "T1", "other.nii.gz", "mask")
    bench.refused(
        "cohort.csv: 7 problems.",
        "case P1/1 has 2 rows of T1 (T1.nii.gz, T2.nii.gz); a case has one. Delete the others",
        "1 of 6 cases lacks a sequence: P1/1 (T2)",
        "1 row says 't-2' (T2.nii.gz of P2/1), and the study lists 'T2'",
        "case P3/1: volumes.roi is mask, and column 'mask' names none",
        "case P4/1: volumes.roi is mask, and column 'mask' names 2 masks",
        "mask: there is no file other.nii.gz",
        "volumes.lesion: there is no column 'lesoin'",
    )


def test_dicom_series_that_make_no_case(bench: Bench) -> None:
    values, folder = blob(1), bench.folder
    bench.put(1, "T1", dicom(folder / "gap", values, uid="1.1", patient="A", leave=3))
    bench.put(2, "T1", dicom(folder / "a", values, uid="1.2", patient="A"))
    bench.put(2, "T2", dicom(folder / "b", values, uid="1.3", patient="B"))
    bench.put(3, "T1", dicom(folder / "same1", values, uid="1.4", patient="C"))
    bench.put(3, "T2", dicom(folder / "same2", values, uid="1.4", patient="C"))
    bench.put(6, "T1", dicom(folder / "e1", values, uid="1.7", patient="", StudyInstanceUID="5.1"))
    bench.put(6, "T2", dicom(folder / "e2", values, uid="1.8", patient="", StudyInstanceUID="5.2"))
    bench.refused(
        "4 of 6 cases cannot be prepared.",
        "P1/1: " + str(folder / "gap") + ": 1 slice is missing",
        "P2/1: The scans of one case are of different patients: T1 is of patient 'A'",
        "P3/1: " + str(folder / "same2") + ": T1 and T2 of one case are the same series",
        "P6/1: T1 and T2 are of different examinations (their StudyInstanceUIDs differ)",
    )


def test_slices_that_are_images(bench: Bench) -> None:
    from PIL import Image

    rows = []
    for subject in range(1, 7):
        for place in range(5):
            for name in ("T1", "T2"):
                path = bench.folder / f"P{subject}-{name}-{place}.png"
                side = 15 if (subject, name, place) == (2, "T2", 3) else 16
                values = np.random.default_rng([subject, place, name == "T2"]).integers(0, 255, (side, 16), np.uint8)
                Image.fromarray(values).save(path)
                order = place + (4 if subject == 3 and place > 2 else 0)
                rows.append([path.name, f"P{subject}", name, order, "high" if subject % 2 else "normal"])
    bench.table = pd.DataFrame(rows, columns=["path", "subject", "sequence", "place", "grade"]).astype(str)
    bench.volumes = ", slice_index: place"
    bench.refused("P2/1: " + str(bench.folder / "P2-T2-3.png") + ": this slice is 16×15 pixels")
    bench.table = bench.table[bench.table["subject"] != "P2"]
    own = {place: (bench.folder / f"P4-T2-{place}.png").read_bytes() for place in range(5)}
    for place in own:
        (bench.folder / f"P4-T2-{place}.png").write_bytes((bench.folder / f"P4-T1-{place}.png").read_bytes())
    code, _, error = bench.told("run")
    assert code == 2
    assert "P4/1: T1 and T2 show the same voxels:" in error
    for place, data in own.items():
        (bench.folder / f"P4-T2-{place}.png").write_bytes(data)
    told = bench.taken()
    assert "50 slices" in told
    assert "place has gaps in 1 of 5 cases (P3/1): slices may be missing" in told
    assert "among 5 subjects and 50 slices" in told
    bench.table.loc[bench.table.index[0], "place"] = "first"
    bench.refused("case P1/1: place of T1 is 'first', which is not a number")


def test_a_lesion_mask_of_another_place_is_no_case_without_a_lesion(bench: Bench) -> None:
    from types import SimpleNamespace

    from casewise.console import Silent
    from casewise.errors import CohortError, ImageError
    from casewise.plugins.explain.results import named_cases
    from casewise.plugins.volumes.native_space import read_lesion
    from casewise.study.loading import read_study

    bench.volumes = ", lesion: mask"
    moved = AFFINE.copy()
    moved[0, 3] += 18
    marked = np.zeros(SHAPE, np.uint8)
    marked[5:10, 5:9, 2:6] = 1
    for sequence in ("T1", "T2"):
        bench.put(2, sequence, nifti(bench.folder / "moved.nii.gz", marked, moved), "mask")
    bench.taken()
    study = read_study(bench.folder / "s.yaml")
    cohort, store = read(study, None, Silent()), SimpleNamespace(folder=bench.folder / "run" / "scans", address=None)
    run: Any = SimpleNamespace(study=study, cohort=cohort, images=cohort.images, store=store)
    assert read_lesion(run, 0).planes.any()
    with pytest.raises(ImageError, match=r"moved\.nii\.gz: the mask lies to \d+% outside .* They have the same number"):
        read_lesion(run, 1)
    assert named_cases(run, ["P1", "P1/1", "P3/1"]) == ["P1/1", "P3/1"]
    with pytest.raises(CohortError, match=r"(?s)no case 'P7/1'.*no case 'P8'"):
        named_cases(run, ["P7/1", "P1/1", "P8"])
