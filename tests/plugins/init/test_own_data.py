"""From a table and a folder as people have them to a study: what is understood, doubted, refused and written."""

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from casewise.cohort.cohort import Cohort, read_cohort
from casewise.cohort.folder_layout import are_batches, stated_pattern
from casewise.console import Silent, Terminal
from casewise.errors import CasewiseError
from casewise.pipeline.read import read, validate
from casewise.plugins.init.columns import understand_columns
from casewise.plugins.init.new_study import NewStudy
from casewise.plugins.init.own_data import default_recipe, plan_study
from casewise.plugins.init.patterns import infer_pattern
from casewise.plugins.init.target import understand_target
from casewise.splits.grouped import split
from casewise.study.loading import read_study
from casewise.study.schema import Study
from tests.plugins.init.own_data import CASES, EDIT, Film, OwnData, films_of, table_of, text_table
from tests.test_cli import casewise


@pytest.fixture
def films(chests: Path) -> list[Film]:
    return films_of(chests)


@pytest.fixture(autouse=True)
def no_weights(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretrained weights of this computer change no test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.getbasetemp() / "none"))


def planned(data: OwnData, folder: Path) -> NewStudy:
    return plan_study(table=data.table, images=data.images, target=data.target, pattern=data.pattern, folder=folder)


def build(name: str, folder: Path, films: list[Film]) -> OwnData:
    if name.startswith("dicom"):
        pytest.importorskip("pydicom", reason="the package that reads DICOM is optional")
    (folder / "data").mkdir()
    return CASES[name](folder / "data", films)


@pytest.mark.parametrize("name", CASES)
def test_own_data_become_a_valid_study(name: str, tmp_path: Path, films: list[Film]) -> None:
    data = build(name, tmp_path, films)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    study_file = planned(data, tmp_path / "study").write()[-1]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before, "no file is changed"
    assert (tmp_path / "study" / "cohort.csv").exists() != data.direct
    study = read_study(study_file)
    cohort = read_cohort(study)
    assert (len(cohort.images), len(cohort.cases)) == (data.count, data.cases)
    assert cohort.cases["subject"].nunique() == data.subjects
    assert study.subjects_known == data.subjects_known
    (target,) = study.outputs
    assert study.kind_of(target) == data.kind
    column = study.targets[target].column
    assert data.column in (target, column, column or target.replace("_", " "))
    assert study.classes_of(target) == data.classes
    assert cohort.cases[target].notna().all()
    assert any("networks" in line for line in validate(study, Silent()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two_files_a_visit", "dicom_series"])
def test_own_data_end_in_a_report(name: str, tmp_path: Path, films: list[Film]) -> None:
    from casewise.run import run

    data = build(name, tmp_path, films)
    study_file, edited = planned(data, tmp_path / "study").write()[-1], tmp_path / "study" / "edited.yaml"
    edited.write_text(yaml.safe_dump({"extends": "study.yaml", **EDIT}))
    done = run(read_study(edited), tmp_path / "run")
    assert study_file.exists()
    assert done.report.stat().st_size > 10_000
    assert done.predictions["case"].nunique() == data.cases


def tiny(folder: Path, names: list[str]) -> Path:
    """Empty files with these names: `init` reads no pixels."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def arranged(
    folder: Path, heads: str, rows: list[list[str]], *, images: list[str] | None = None, separator: str = ","
) -> dict[str, Any]:
    """A table with these rows, and images: by default those that its first column names."""
    tiny(folder / "in", images if images is not None else [row[0] for row in rows])
    table = text_table(folder / "t.csv", [heads.split("|"), *rows], separator)
    return {"table": table, "images": folder / "in", "folder": folder / "study"}


def start(folder: Path, heads: str, rows: list[list[str]], **options: Any) -> NewStudy:
    """The study of `arranged`, written; further options are those of `plan_study`."""
    own = {name: options.pop(name) for name in ("images", "separator") if name in options}
    plan = plan_study(**arranged(folder, heads, rows, **own), **options)
    plan.write()
    return plan


def study_in(folder: Path) -> Study:
    return read_study(folder / "study" / "study.yaml")


def cohort_in(folder: Path) -> Cohort:
    return read_cohort(study_in(folder))


def numbered(count: int = 12, cell: str = "{}.png") -> list[list[str]]:
    """Rows of an image, a subject and one of two grades."""
    return [[cell.format(i), f"P{i}", "ab"[i % 2]] for i in range(count)]


class TestImages:
    def test_two_files_of_one_name_are_refused_with_both(self, tmp_path: Path) -> None:
        images = [f"{side}/{i}.png" for side in ("a", "b") for i in range(6)]
        with pytest.raises(CasewiseError) as caught:
            start(tmp_path, "file|pid|grade", numbered(6, "{}"), images=images)
        assert all(text in str(caught.value) for text in ("a/0.png", "b/0.png", "row 2"))

    @pytest.mark.parametrize(
        ("cells", "name", "doubted"),
        [
            (["train/{}.png"], "test/{}.png", True),
            (["a/{}.png", "b/{}.png"], "{}.png", True),
            (["{}"], "test/{}.png", False),
            (["D:\\x\\{}.png"], "{}.png", False),
        ],
    )
    def test_files_of_other_folders_are_doubted(
        self, cells: list[str], name: str, doubted: bool, tmp_path: Path
    ) -> None:
        rows = [[cells[i % len(cells)].format(i), f"P{i}", str(i % 2)] for i in range(8)]
        plan = start(tmp_path, "file|pid|grade", rows, images=[name.format(i) for i in range(8)])
        assert any(doubt.startswith("CELLS") for doubt in plan.doubts) == doubted

    @pytest.mark.parametrize(
        ("heads", "name", "doubted"),
        [
            ("patient|grade", "KA MUC", "refused"),
            ("patient|grade", "left right", False),
            ("file|patient|grade", "KA MUC", False),
        ],
    )
    def test_file_names_with_several_beginnings_are_refused_as_one_person(
        self, heads: str, name: str, doubted: bool | str, tmp_path: Path
    ) -> None:
        images = {f"{start}_{i:03}.png": f"{i:03}" for i in range(8) for start in name.split()}
        rows = [[image, number, "ab"[int(number) % 2]] for image, number in images.items()]
        cells = {"file": 0, "patient": 1, "grade": 2}
        chosen = dict.fromkeys(tuple(row[cells[head]] for head in heads.split("|")) for row in rows)
        if doubted == "refused":
            with pytest.raises(CasewiseError, match=r"KA_000.*MUC_000"):
                start(tmp_path, heads, [list(row) for row in chosen], images=list(images))
            return
        plan = start(tmp_path, heads, [list(row) for row in chosen], images=list(images))
        assert any(doubt.startswith("ONE PERSON OR SEVERAL") for doubt in plan.doubts) == doubted

    @pytest.mark.parametrize(
        ("heads", "refused"), [("0.png|P0|a", True), ("7|P0|a", True), ("file|pid|grade", False), ("7|P0|grade", False)]
    )
    def test_a_table_without_headings_is_refused(self, heads: str, refused: bool, tmp_path: Path) -> None:
        rows = [[f"{i}{'.png' if '.' in heads else ''}", f"P{i // 2}", "ab"[i // 2 % 2]] for i in range(12)]
        files = [f"{i}.png" for i in range(12)]
        with pytest.raises(CasewiseError, match=heads.split("|")[1]) if refused else nullcontext():
            start(tmp_path, heads, rows, images=files)

    def test_a_number_of_an_image_is_no_subject(self, tmp_path: Path) -> None:
        """Numbers of subjects, of visits and of images are the same: their places in the names differ."""
        names = [f"{subject}_{image}.png" for subject in range(1, 13) for image in (1, 2)]
        start(tmp_path, "nr|grade", [[str(i), "ab"[i % 2]] for i in range(1, 11)], images=names)
        read = {row["path"]: row["subject"] for row in table_of(tmp_path / "study")}
        assert read == {name: name.partition("_")[0] for name in names[:20]}

    def test_numbers_of_subjects_and_visits_are_not_confused(self, tmp_path: Path) -> None:
        names = [f"{subject}_{visit}.png" for subject in range(1, 9) for visit in (1, 2)]
        rows = [[*name[:-4].split("_"), "ab"[i // 2 % 2]] for i, name in enumerate(names)]
        start(tmp_path, "subject|visit|grade", rows, images=names)
        read = table_of(tmp_path / "study")
        assert [f"{row['subject']}_{row['visit']}.png" for row in read] == [row["path"] for row in read]
        assert len(read) == 16

    @pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
    def test_scans_by_sequence_in_their_names(self, tmp_path: Path, suffix: str) -> None:
        names = [f"{c}/sub-{c[0]}{i}/{s}{suffix}" for c in ("cyst", "normal") for i in range(4) for s in ("T1", "T2")]
        images = tiny(tmp_path / "in", [*names, f"cyst/sub-c0/T1_mask{suffix}"])
        plan_study(table=None, images=images, folder=tmp_path / "study").write()
        study = study_in(tmp_path)
        assert study.volumes.sequences == ["T1", "T2"]
        assert (len(cohort_in(tmp_path).cases), study.modality_name) == (8, "volumes")


class TestPatterns:
    @pytest.mark.parametrize(
        ("names", "text"),
        [
            ([f"{c}/P{10 * k + i}_{v}.jpg" for k, c in enumerate("ab") for i in range(4) for v in ("w0", "w4")], None),
            ([f"{c}/{i}.png" for c in ("benign", "malignant") for i in range(9)], "{label}/*.png"),
            (
                [f"data/{c}/{i}{j}-{k}.png" for c, i in (("no", 1), ("yes", 2)) for j in range(5) for k in (1, 2)],
                "data/{label}/{subject}-*.png",
            ),
            (
                [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("no", "yes") for i in range(5)],
                "{split}/{label}/*.png",
            ),
            (
                [
                    f"{c}/sub-{i:02}_ses-{v}.png"
                    for c, i in (("no", 1), ("no", 2), ("yes", 3), ("yes", 4))
                    for v in (1, 2)
                ],
                "{label}/sub-{subject}_ses-{visit}.png",
            ),
            (
                [f"grade{g}/p{3 * i + g}/2024-01-0{d}.png" for g in range(3) for i in range(3) for d in (1, 2)],
                "{label}/{subject}/{date}.png",
            ),
            ([f"S{i}/{c}.png" for i in range(5) for c in ("left", "right")], "{subject}/{view}.png"),
        ],
    )
    def test_inferred(self, names: list[str], text: str | None) -> None:
        assert infer_pattern(names).text == (text or "{label}/{subject}_{visit}.jpg")

    def stated(self, folder: Path, names: list[str], pattern: str = "") -> NewStudy:
        plan = plan_study(table=None, images=tiny(folder / "in", names), pattern=pattern, folder=folder / "study")
        plan.write()
        return plan

    def test_stated(self, tmp_path: Path) -> None:
        names = [f"{c}{i}{v}.jpg" for c in "AB" for i in (11, 12, 13) for v in "xy"]
        plan = self.stated(tmp_path, names, "{label}1{subject}.jpg")
        assert sum(line.startswith("  ") for line in plan.understood) == 3, "three examples"
        assert {row["label"] for row in table_of(tmp_path / "study")} == {"A", "B"}
        assert any("label A, subject 1x; or as label A1, subject x" in doubt for doubt in plan.doubts)
        folders = self.stated(tmp_path / "folders", [f"{c}/{i}.jpg" for c in "ab" for i in range(4)], "{label}/*.jpg")
        assert not any("in several ways" in doubt for doubt in folders.doubts)
        assert "Read as: label from the folder." in folders.understood

    @pytest.mark.parametrize("text", ["{label/{subject}", "*.jpg", "{lable}/{subject}.jpg", "{label}/{a b}.jpg"])
    def test_refused(self, text: str) -> None:
        with pytest.raises(CasewiseError):
            stated_pattern(text)

    @pytest.mark.parametrize("name", ["patient", "PatientID", "pid", "patient_name", "Proband"])
    def test_another_name_of_the_subject_is_one(self, name: str, tmp_path: Path) -> None:
        names = [f"{'ab'[i % 2]}/P{i:02}_v{v}_{side}.png" for i in range(8) for v in (1, 2) for side in "lr"]
        plan = self.stated(tmp_path, names, f"{{label}}/{{{name}}}_v{{visit}}_{{side}}.png")
        assert cohort_in(tmp_path).cases["subject"].nunique() == 8
        assert not any("SUBJECTS ARE NOT KNOWN" in doubt for doubt in plan.doubts)


class TestTargets:
    @pytest.mark.parametrize(
        ("values", "kind", "setting"),
        [
            (["yes", "no"] * 6, "classification", 'positive: "yes"'),
            (["0", "1"] * 6, "classification", 'positive: "1"'),
            (["mild", "severe"] * 6, "classification", "positive: severe"),
            (["Karzinom", "Normalbefund"] * 6, "classification", "positive: Karzinom"),
            (["0", "2", "5"] * 4, "ordinal", 'classes: ["0", "2", "5"]'),
            ([f"{i},5" for i in range(12)], "regression", "range: 0.5..11.5"),
            (["1", "2", "3", "3"] + ["1", "2"] * 4, "ordinal", "range: 1..3"),
            ([f"{i}e-7" for i in range(11)] + ["0.9645419247322803"], "regression", "range: 0..0.9645419247322803"),
            (["1", "2", "2", "1", "9"] + ["1"] * 7, "regression", "range: 1..9"),
            (["severe", "mild", "none", "moderate"] * 3, "ordinal", 'classes: ["none", mild, moderate, severe]'),
            (["Stage II", "Stage I", "Stage IV"] * 4, "ordinal", "classes: [Stage I, Stage II, Stage IV]"),
            (["Covid", "covid", "none found", "None found"] * 3, "classification", "Covid: [Covid, covid]"),
        ],
    )
    def test_kinds(self, values: list[str], kind: str, setting: str, tmp_path: Path) -> None:
        plan = understand_target("value", values, [f"P{i}" for i in range(len(values))], [])
        assert setting in plan.setting
        file = tmp_path / "study.yaml"
        file.write_text(f"cohort: c.csv\nbackbones: [alexnet]\ntargets: {{{plan.name}: {{{plan.setting}}}}}\n")
        assert read_study(file).kind_of("value") == kind

    def test_none_is_a_finding_but_no_number(self) -> None:
        texts = understand_target("value", ["none", "tumour", "n/a"] * 4, [f"P{i}" for i in range(12)], [])
        assert (texts.where_not, texts.setting) == (["n/a"], 'classes: ["none", tumour], positive: tumour')
        numbers = understand_target("value", ["none", "1.5", "2.5"] * 4, [f"P{i}" for i in range(12)], [])
        assert numbers.where_not == ["none"]
        joined = understand_target("value", ["Mass", "Effusion", "Mass|Effusion"] * 4, [f"P{i}" for i in range(12)], [])
        assert any("'Mass|Effusion'" in doubt for doubt in joined.doubts)
        separate = understand_target("value", ["a|b", "c|d"] * 6, [f"P{i}" for i in range(12)], [])
        assert not any("a|b" in doubt for doubt in separate.doubts)
        rare = understand_target("value", ["a", "b"] * 4 + ["c", "d"], [f"P{i}" for i in range(10)], [])
        assert "'c', 'd' have one subject each and are left out" in rare.doubts[0]

    @pytest.mark.parametrize("values", [["a"] * 9, [f"text {i}" for i in range(30)], ["", "n/a", "x"]])
    def test_nothing_to_learn(self, values: list[str]) -> None:
        with pytest.raises(CasewiseError):
            understand_target("value", values, [f"P{i}" for i in range(len(values))], [])

    def test_the_likely_one_is_taken_and_the_others_are_named(self, tmp_path: Path) -> None:
        heads = "image|patient|age|tumour stage|oedema|centre|diagnosis"
        rows = [
            [f"{i}.png", f"P{i}", str(50 + i % 5), f"T{i % 3}", "yn"[i % 2], f"c{i % 2}", "uv"[i % 2]]
            for i in range(12)
        ]
        own = arranged(tmp_path, heads, rows)
        plan = plan_study(**own)
        (doubt,) = [doubt for doubt in plan.doubts if doubt.startswith("Target")]
        assert "'tumour stage'" in doubt
        assert "'oedema'" in doubt
        assert "\n# split: {leave_out: centre}\n" in plan.text
        assert yaml.safe_load(plan.text)["targets"]["tumour_stage"]["column"] == "tumour stage"
        assert yaml.safe_load(plan.text)["audit"] == {"outcomes": ["diagnosis"]}
        of_age = yaml.safe_load(plan_study(**own, target="age").text)
        assert (list(of_age["targets"]), of_age["audit"]["outcomes"]) == (["age"], ["tumour stage", "diagnosis"])
        assert any(d.startswith("Not listed") and "'oedema'" in d for d in plan.doubts)
        with pytest.raises(CasewiseError, match="Did you mean 'oedema'"):
            plan_study(**own, target="odema")

    @pytest.mark.parametrize(
        ("frequent", "rare", "doubted"),
        [
            ("moderate", "moderat", True),
            ("Moderate", "moderate", False),
            ("mild", "wild", False),
            ("grade 12", "grade 13", False),
            ("moderate", "severe", False),
        ],
    )
    @pytest.mark.parametrize("count", [1, 2])
    def test_a_class_that_may_be_misspelt_is_doubted(self, frequent: str, rare: str, doubted: bool, count: int) -> None:
        values = [frequent, "absent"] * 10 + [rare] * count
        plan = understand_target("value", values, [f"P{i}" for i in range(len(values))], [])
        assert any(f"{rare!r} ({count} row" in d and f"{frequent!r} (10 rows)" in d for d in plan.doubts) == doubted

    @pytest.mark.parametrize(
        ("code", "doubted"),
        [("99", True), ("-1", True), ("9", True), ("4", False), ("7", True), ("44", True), ("", False)],
    )
    def test_a_number_that_may_mean_no_value_is_doubted_by_row(self, code: str, doubted: bool, tmp_path: Path) -> None:
        rows = [[f"{i}.png", f"P{i}", code if i == 3 else str(i % 4)] for i in range(12)]
        doubts = plan_study(**arranged(tmp_path, "image|patient|grade", rows)).doubts
        assert any(doubt.startswith(f"grade: {code} in row 5 ") for doubt in doubts) == doubted

    def test_cells_that_say_not_gradable_are_no_grade(self, tmp_path: Path) -> None:
        rows = [[f"{i}.png", f"P{i}", "not gradable" if i in (3, 20) else str(i % 4)] for i in range(40)]
        plan = yaml.safe_load(start(tmp_path, "image|patient|grade", rows).text)
        assert plan["targets"]["grade"]["kind"] == "ordinal"
        assert plan["where_not"] == {"grade": ["not gradable"]}

    def test_a_stated_subject_is_taken(self, tmp_path: Path) -> None:
        rows = [[f"{i}.png", f"A{i}", f"B{i // 2}", str(i % 2)] for i in range(8)]
        start(tmp_path, "image|patient|proband|grade", rows, subject="proband")
        cohort = cohort_in(tmp_path)
        assert (set(cohort.cases["subject"]), len(cohort.cases)) == ({"B0", "B1", "B2", "B3"}, 4)
        with pytest.raises(CasewiseError, match=r"--subject 'probant': .*Did you mean 'proband'"):
            start(tmp_path, "image|patient|proband|grade", rows, subject="probant")

    @pytest.mark.parametrize("subject", ["Name", "email"])
    def test_a_stated_subject_that_names_people_is_replaced_by_numbers(self, subject: str, tmp_path: Path) -> None:
        rows = [[f"{i}.png", f"Muster {'abc'[i % 3]}", f"p{i // 2}@example.org", str(i % 2)] for i in range(12)]
        plan = start(tmp_path, "image|Name|email|grade", rows, subject=subject)
        written = b"".join(plan.files.values()).decode("utf-8-sig")
        assert "example.org" not in written
        assert "Muster a" not in written
        assert cohort_in(tmp_path).cases["subject"].nunique() == (3 if subject == "Name" else 6)
        assert any(f"as stated, {subject!r} tell people apart" in doubt for doubt in plan.doubts)

    def test_images_of_a_subject_with_other_labels_are_predicted_one_by_one(self, tmp_path: Path) -> None:
        rows = [[f"{i}{side}.png", f"P{i}", "ab"[(i + n) % 2]] for i in range(8) for n, side in enumerate("lr")]
        plan = start(tmp_path, "image|patient|grade", rows)
        assert yaml.safe_load(plan.text)["panels"] == {"by": "image"}
        assert any("8 subjects have images with different values of the target" in doubt for doubt in plan.doubts)
        cohort = cohort_in(tmp_path)
        assert (len(cohort.panels), len(cohort.cases)) == (16, 8)


class TestTheRecipe:
    @pytest.mark.parametrize(("rare", "folds"), [(2, 2), (4, 4), (6, 5)])
    def test_fewer_folds_for_a_rare_class_are_doubted(self, rare: int, folds: int, tmp_path: Path) -> None:
        rows = [[f"{i}.png", f"P{i}", "well" if i < 12 else "ill"] for i in range(12 + rare)]
        plan = plan_study(**arranged(tmp_path, "image|patient|finding", rows))
        assert yaml.safe_load(plan.text)["split"]["folds"] == folds
        assert any(doubt.startswith(f"Split: {folds} folds") for doubt in plan.doubts) == (folds < 5)

    def test_a_damaged_file_does_not_make_grey_films_coloured_and_is_named(self, tmp_path: Path) -> None:
        own = arranged(tmp_path, "image|patient|grade", [[f"{i}.png", f"P{i}", str(i % 2)] for i in range(8)])
        for number in range(7):
            Image.new("L", (8, 8)).save(own["images"] / f"{number}.png")
        plan = plan_study(**own)
        assert yaml.safe_load(plan.text)["images"]["channels"] == "grey"
        assert any(doubt.startswith("Damaged: 7.png ") for doubt in plan.doubts)

    @pytest.mark.parametrize("weights", ["", "mobilenet_v2"])
    @pytest.mark.parametrize(("scans", "grey"), [(False, False), (False, True), (True, False)])
    def test_is_planned(self, scans: bool, grey: bool, weights: str, tmp_path: Path) -> None:
        lines = ["cohort: c.csv", "targets: {x: [a, b]}", *(["volumes: {sequences: [T1]}"] if scans else [])]
        file = tmp_path / "study.yaml"
        file.write_text("\n".join([*lines, *default_recipe(weights, scans=scans, grey=grey)]))
        study = read_study(file)
        assert study.recipe.auto
        assert study.stack_baselines
        assert study.panels.pooling == ("maps" if scans else "mean")
        assert study.backbones == ["mobilenet_v2" if weights else "cnn"]
        assert ("size" in study.images.model_fields_set) == scans
        assert study.weights == ("pretrained" if weights else "random")


class TestPeople:
    @pytest.mark.parametrize("heads", ["pid|Patient name|Date of birth", "Patient name|Date of birth"])
    def test_names_and_dates_of_birth_reach_no_file(self, heads: str, tmp_path: Path) -> None:
        cells = {"Patient name": "Anna-{} Musterfrau", "Date of birth": "19{}-02-03", "pid": "P{}"}
        values = {"Patient name": "abcdefghijkl", "Date of birth": range(50, 62), "pid": range(12)}
        own = [[cells[head].format(values[head][i]) for head in heads.split("|")] for i in range(12)]
        rows = [[f"{i}.png", *cells_of_row, str(i % 2)] for i, cells_of_row in enumerate(own)]
        plan = start(tmp_path, f"image|{heads}|grade", rows)
        written = b"".join(plan.files.values()).decode("utf-8-sig")
        assert "Musterfrau" not in written
        assert "-02-03" not in written
        cohort = cohort_in(tmp_path)
        assert cohort.cases["subject"].nunique() == 12
        assert not any(column in cohort.images for column in ("Patient name", "Date of birth"))
        assert any("'Patient name'" in doubt for doubt in plan.doubts)

    def test_first_and_last_names_together_tell_people_apart(self, tmp_path: Path) -> None:
        rows = [[f"{i}.png", "Anna", f"Muster{'abcdefghijkl'[i // 2]}", "ab"[i // 2 % 2]] for i in range(12)]
        rows[-1][1:3] = ["", ""]
        plan = start(tmp_path, "image|Vorname|Nachname|grade", rows)
        subjects = [row["subject"] for row in table_of(tmp_path / "study")]
        assert subjects == [*(f"S{i // 2 + 1:04}" for i in range(11)), ""]
        assert any("row 13" in doubt for doubt in plan.doubts), "validate refuses a row of nobody"
        assert plan.understood[0].startswith("12 images of 6 subjects")

    def test_names_in_file_names_are_doubted(self, tmp_path: Path) -> None:
        rows = [[f"{c}_Musterfrau.png", f"P{i}", "Musterfrau", str(i % 2)] for i, c in enumerate("abcdefgh")]
        plan = start(tmp_path, "image|pid|Surname|grade", rows)
        assert any(doubt.startswith("FILE NAMES") for doubt in plan.doubts)
        assert "'Musterfrau'" not in " ".join(plan.doubts)


class TestTheCommand:
    def test_a_dry_run_writes_nothing_and_prints_all(self, chests: Path, tmp_path: Path) -> None:
        done = casewise("init", "--table", str(chests), "--output", str(tmp_path / "new"), "--dry-run")
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "new").exists()
        printed = yaml.safe_load(done.stdout.partition("study.yaml would be:")[2])
        assert list(printed["targets"]) == ["label"]
        assert all(len(line) <= 80 for line in done.stdout.partition("study.yaml would be:")[0].splitlines())

    def test_written_and_validated(self, chests: Path, tmp_path: Path) -> None:
        words = ["init", "--table", str(chests), "--output", str(tmp_path / "new")]
        done = casewise(*words)
        assert done.stdout.splitlines()[-1] == f"next: casewise validate {tmp_path / 'new' / 'study.yaml'}"
        assert casewise("validate", str(tmp_path / "new" / "study.yaml")).returncode == 0
        text = (tmp_path / "new" / "study.yaml").read_text()
        again = casewise(*words)
        assert again.returncode == 2
        assert "exists already" in again.stderr
        assert (tmp_path / "new" / "study.yaml").read_text() == text

    @pytest.mark.parametrize(
        "words",
        [
            "",
            "--table nowhere.csv --images .",
            "--images . --target x",
            "--table t.csv --pattern {label}.jpg",
            "onestep-pasi --subject x",
        ],
    )
    def test_refused(self, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        done = casewise("init", *words.split())
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert not list(tmp_path.iterdir())


def scored(folder: Path, cells: list[str], **options: Any) -> NewStudy:
    """A study of a score for each image and subject."""
    rows = [[f"{i}.png", f"P{i}", cell] for i, cell in enumerate(cells)]
    return start(folder, "image|patient|score", rows, separator=";", **options)


class TestMixedNumbers:
    @pytest.mark.parametrize("bad", ["2,5,1", "x.y.", ">8", "0,37 cm"])
    def test_a_cell_that_is_no_number_makes_no_classes(self, bad: str, tmp_path: Path) -> None:
        cells = [f"{i % 10},{i % 4}" for i in range(27)]
        with pytest.raises(CasewiseError) as caught:
            scored(tmp_path, [*cells[:3], bad, *cells[3:]])
        assert all(part in str(caught.value) for part in ("27 of 28 cells of score", f"row 5: '{bad}'"))

    @pytest.mark.parametrize("low", [True, False])
    def test_missing_values_in_words_are_left_out_by_the_study(self, low: bool, tmp_path: Path) -> None:
        cells = [str(i % 4) if low else f"{i}.5" for i in range(24)]
        plan = scored(tmp_path, ["k.A.", *cells, "n/a", "k.A."])
        assert yaml.safe_load(plan.text)["where_not"] == {"score": ["k.A.", "n/a"]}
        assert len(cohort_in(tmp_path).images) == 24


class TestSources:
    @pytest.mark.parametrize("cells", [["", *[f"H{i // 12}" for i in range(1, 24)]], [f"H{i % 2}" for i in range(24)]])
    def test_no_split_is_offered_that_would_be_refused(self, cells: list[str], tmp_path: Path) -> None:
        rows = [[f"{i}.png", f"P{i // 2}", str(i % 2), "abba"[i % 4], c, f"text {i}"] for i, c in enumerate(cells)]
        plan = start(tmp_path, "image|patient|visit|grade|hospital|remark", rows, target="grade")
        assert "# split: {leave_out:" not in plan.text


class TestDates:
    def make(self, folder: Path, head: str, dates: list[str]) -> NewStudy:
        """Six subjects with two images each, and a date for each image."""
        rows = [[f"{i}.png", f"P{i // 2}", dates[i], "ab"[i // 2 % 2]] for i in range(12)]
        return start(folder, f"image|patient|{head}|grade", rows, separator=";")

    @pytest.mark.parametrize("head", ["Untersuchungsdatum", "Datum", "Exam", "Aufn.", "Besuch"])
    @pytest.mark.parametrize("form", ["{day:02}.0{month}.2024", "2024-0{month}-{day:02}", "{day}/{month}/2024"])
    def test_dates_are_recognised_by_content(self, head: str, form: str, tmp_path: Path) -> None:
        plan = self.make(tmp_path, head, [form.format(day=14 + i, month=1 + i % 2) for i in range(12)])
        cases = cohort_in(tmp_path).cases
        assert cases["case"].nunique() == 12, "every date of a subject is a visit"
        assert sorted(cases.loc[cases["subject"] == "P0", "day"]) == [0, 32]
        assert any(repr(head) in line for line in plan.understood)

    @pytest.mark.parametrize("head", ["Aufnahme Tag", "Aufnahmetag", "Tag", "Untersuchungstag Nr.", "Visit day"])
    def test_days_are_recognised_by_their_heading(self, head: str, tmp_path: Path) -> None:
        plan, cases = self.make(tmp_path, head, [str(28 * (i % 2)) for i in range(12)]), cohort_in(tmp_path).cases
        assert cases["case"].nunique() == 12, "every day of a subject is a visit"
        assert sorted(cases.loc[cases["subject"] == "P0", "day"]) == [0, 28]
        assert any(repr(head) in line for line in plan.understood)


def test_decimals_of_a_workbook_stay_decimals_in_the_table_that_is_written(tmp_path: Path) -> None:
    own = arranged(tmp_path, "image|patient|grade", numbered())
    own["table"] = tmp_path / "t.xlsx"
    dose = [12.0, 900.0, 1.059, 250.0, 480.0, 1.5] * 2
    names = ["Anna Muster", "Bert Meyer"] * 6
    frame = pd.read_csv(tmp_path / "t.csv").assign(dose=[*dose[:5], 33.0] * 2, ratio=dose, Name=names)
    frame.to_excel(own["table"], index=False)
    study = read_study(plan_study(**own).write()[-1])
    images = read_cohort(study).images
    assert study.cohort.name == "cohort.csv"
    assert images["dose"].astype(float).tolist() == [*dose[:5], 33.0] * 2
    assert images["ratio"].astype(float).tolist() == dose


@pytest.mark.parametrize(
    ("heads", "subject", "known", "doubted"),
    [
        ("image|grade", "P{}", False, "SUBJECTS ARE NOT KNOWN"),
        ("image|grade", "P{0}_left|P{0}_right", True, ""),
        ("image|patient|grade", "Q{}", True, "images is of another person"),
        ("image|patient|grade", "UKE-{}|CHA-{}", True, "the names begin with UKE (6), CHA (6)"),
    ],
)
def test_subjects_that_may_be_images_or_begin_with_a_hospital_are_doubted(
    heads: str, subject: str, known: bool, doubted: str, tmp_path: Path
) -> None:
    names = [(subject.split("|") * 2)[n % 2].format(100 + (n // 2 if "|" in subject else n)) for n in range(24)]
    pictured = [names[n] if heads == "image|grade" else f"x{n}" for n in range(24)]
    rows = [[f"{pictured[n]}.png", names[n], "ab"[n // 2 % 2]][:: 1 if "patient" in heads else 2] for n in range(24)]
    rows += [[f"again{n}.png", *rows[n][1:]] for n in range(24)] if "UKE-" in subject else []
    doubts = start(tmp_path, heads, rows).doubts
    marks = ("SUBJECTS ARE NOT KNOWN", "images is of another person", "the names begin with")
    assert [mark in doubted for mark in marks] == [any(mark in doubt for doubt in doubts) for mark in marks]
    assert study_in(tmp_path).subjects_known == known
    assert "-" not in subject or set(cohort_in(tmp_path).cases["subject"]) == set(names), "names are whole"


def test_a_column_that_tells_no_people_apart_is_refused_or_doubted_as_subject(tmp_path: Path) -> None:
    rows = [[f"{i}.png", "CC", "CC" if i < 10 else f"M{i // 2}", str(i / 2)] for i in range(16)]
    with pytest.raises(CasewiseError, match=r"--subject 'licence': .* 'CC'"):
        start(tmp_path, "image|licence|owner|score", rows, subject="licence")
    plan = start(tmp_path, "image|licence|owner|score", rows, subject="owner")
    assert any("'CC' has 10 of 16 images" in doubt for doubt in plan.doubts)
    graded = [[*row[:3], "ab"[i % 2]] for i, row in enumerate(rows[:11])]
    with pytest.raises(CasewiseError, match="'CC' has 10 of 11 images"):
        start(tmp_path / "graded", "image|licence|owner|grade", graded, subject="owner")


def test_a_column_that_counts_rows_is_no_subject_while_another_repeats() -> None:
    cells = {"Nr.": [str(n) for n in range(1, 13)], "Fall": [f"F{n // 2:03}" for n in range(12)]}
    cells["Befund"] = ["krank", "gesund"] * 6
    roles = understand_columns(cells, target="Befund", files=[], numbers=list(range(12)))
    assert roles.subject == "Fall"
    assert any("'Nr.' counts the rows" in doubt for doubt in roles.doubts)
    without = {name: values for name, values in cells.items() if name != "Fall"}
    assert understand_columns(without, target="Befund", files=[], numbers=list(range(12))).subject == "Nr."
    gaps = {**cells, "Nr.": [str(3 * number) for number in range(12)]}
    assert understand_columns(gaps, target="Befund", files=[], numbers=list(range(12))).subject == "Nr."


@pytest.mark.parametrize(("pattern", "by"), [("f{}.png", "number"), ("{}", "subject")])
def test_a_new_study_of_numbered_images_keeps_neighbours_together(
    tmp_path: Path, pattern: str, by: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    names = [pattern.format(n) if by == "number" else f"{chr(97 + n)}{chr(122 - n)}.png" for n in range(24)]
    for n, name in enumerate(names):
        Image.new("L", (16, 16), 10 * n).save(tmp_path / "in" / name)
    rows = ["file,grade", *(f"{name},{'ab'[n // 3 % 2]}" for n, name in enumerate(names))]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    plan_study(table=tmp_path / "t.csv", images=tmp_path / "in", folder=tmp_path / "study").write()
    study = read_study(tmp_path / "study" / "study.yaml")
    assert not study.subjects_known
    assert (study.split.by, split(read_cohort(study), study).folds) == (by, 5)
    read(study, None, Terminal())
    assert "It is not known which images belong to the same person" in " ".join(capsys.readouterr().out.split())


def test_folders_of_patients_with_a_value_each_are_patients(tmp_path: Path) -> None:
    names = [f"pat{n:02}/{k}.png" for n in range(24) for k in range(3)]
    tiny(tmp_path / "in", names)
    table = text_table(tmp_path / "t.csv", [["file", "score"], *([name, str(int(name[3:5]) + 0.5)] for name in names)])
    plan_study(table=table, images=tmp_path / "in", folder=tmp_path / "study").write()
    assert cohort_in(tmp_path).images["subject"].nunique() == 24


@pytest.mark.parametrize("head", ["id", "file"])
@pytest.mark.parametrize(("name", "subjects", "offered"), [
    ("P{n:02}_left_{k}.png", 12, ""), ("{n:02}-1/visit{k}/a.png", 12, ""), ("{word}_{k}.png", 24, "**/{subject}_*.png"),
    ("x{n:02}{k}.png", 24, ""),
])  # fmt: skip
def test_subjects_of_file_names(tmp_path: Path, name: str, subjects: int, offered: str, head: str) -> None:
    names = [name.format(n=n, k=k, word=chr(97 + n) * 3) for n in range(12) for k in (1, 2)]
    rows = [[file.removesuffix(".png"), "ab"[i // 2 % 2]] for i, file in enumerate(names)]
    tiny(tmp_path / "in", names)
    table = text_table(tmp_path / "t.csv", [[head, "grade"], *rows])
    plan = plan_study(table=table, images=tmp_path / "in", folder=tmp_path / "study")
    plan.write()
    assert cohort_in(tmp_path).images["subject"].nunique() == subjects
    assert study_in(tmp_path).subjects_known == (subjects == 12 or head == "id")
    assert any("WARNING" in doubt or "another person" in doubt for doubt in plan.doubts) == (subjects == 24)
    assert any(f"--pattern '{offered}'" in doubt for doubt in plan.doubts) == bool(offered)
    if offered:
        assert not any("the names begin with" in doubt for doubt in plan.doubts), "they are people or hospitals"
        plan_study(table=table, images=tmp_path / "in", pattern=offered, folder=tmp_path / "study" / "by").write()
        assert read_cohort(read_study(tmp_path / "study" / "by" / "study.yaml")).images["subject"].nunique() == 12


def test_covariates_are_proposed_where_they_have_one_value_in_a_case(tmp_path: Path) -> None:
    of_files = [(n, k) for n in range(12) for k in (1, 2)]
    rows = [[f"{n}{k}.png", f"P{n}", str(40 + n), "fm"[n % 2], str(n + k), "ab"[n // 2 % 2]] for n, k in of_files]
    plan = start(tmp_path, "file|patient|Age|sex|bmi|grade", rows)
    (proposed,) = [line for line in plan.text.splitlines() if line.startswith("# covariates: ")]
    text = plan.text.replace(proposed, proposed.removeprefix("# "))
    (tmp_path / "study" / "study.yaml").write_text(text)
    assert study_in(tmp_path).covariates == ["Age", "sex"]
    assert len(cohort_in(tmp_path).cases) == 12


def pictures(folder: Path, names: list[str]) -> None:
    """Photographs, and masks where the name says so."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(20, 230, (32, 32)).astype(np.uint8)
        Image.fromarray((pixels > 150).astype(np.uint8) * 255 if "mask" in name else pixels).save(folder / name)


def test_masks_are_no_cases_and_are_offered(tmp_path: Path) -> None:
    names = [f"{c}/{c} ({i}){end}.png" for c in ("benign", "malignant") for i in range(1, 7) for end in ("", "_mask")]
    pictures(tmp_path / "in", [*names, "benign/benign (1)_mask_1.png"])
    study = plan_study(table=None, images=tmp_path / "in", folder=tmp_path / "study")
    study.write()
    assert study.understood[0].startswith("12 images of unknown subjects; left out")
    assert "13 masks, such as benign/benign (1)_mask.png of benign (1).png" in study.understood[0]
    masks = {row["path"]: row["mask"] for row in table_of(tmp_path / "study")}
    assert masks.pop("benign/benign (1).png") == ""
    assert masks == {name.replace("_mask", ""): name for name in names if "_mask" in name and " (1)" not in name} | {
        "malignant/malignant (1).png": "malignant/malignant (1)_mask.png"
    }
    assert any("several (benign/benign (1).png)" in doubt for doubt in study.doubts)
    assert "`lesion: mask`" in study.text.replace("\n#", "")


BATCHES = [("batch_01", "batch_02"), ("part1", "part2"), ("set_a", "set_b"), ("fold_3", "fold_4"), ("2023", "2024")]
BATCHES += [("export-2024", "export-2025"), ("Station 3", "Station 4"), ("camera1", "camera2"), ("Site A", "Site B")]
BATCHES += [("100CANON", "101CANON"), ("2024-01", "2024-02"), ("batch_01_new", "batch_02_new")]


@pytest.mark.parametrize("names", BATCHES)
def test_batches_are_doubted_as_people(tmp_path: Path, names: tuple[str, str]) -> None:
    paths = [f"{c}/{name}/{i}.png" for c in ("benign", "malignant") for name in names for i in range(4)]
    pictures(tmp_path / "in", paths)
    pattern = "{label}/{subject}/*.png"
    study = plan_study(table=None, images=tmp_path / "in", pattern=pattern, folder=tmp_path / "study")
    assert any("ARE THESE PEOPLE" in doubt and names[0] in doubt for doubt in study.doubts)


@pytest.mark.parametrize("name", ["P{}", "site1-00{}", "Meier{}", "S{}_w4", "center2_p{}", "camp{}", "1{}7", "pat {}"])
def test_people_are_not_doubted_as_batches(name: str) -> None:
    assert not are_batches([name.format(number) for number in range(1, 5)])


def test_one_file_with_two_labels_is_named(tmp_path: Path) -> None:
    pictures(tmp_path / "in", [f"{i}.png" for i in range(8)])
    rows = [[f"{i}.png", f"P{i}", "ab"[i % 2]] for i in range(8)]
    for subject in ("P0", "Q0"):
        table = text_table(tmp_path / "t.csv", [["file", "patient", "label"], *rows, ["./0.png", subject, "b"]])
        study = plan_study(table=table, images=tmp_path / "in", folder=tmp_path / subject)
        assert any("0.png" in doubt and "both labels 'a' and 'b'" in doubt for doubt in study.doubts)


def test_a_missing_image_is_not_replaced_by_that_of_another_folder(tmp_path: Path) -> None:
    names = [f"{site}/P{n}/detail.jpg" for site, count in (("Nord", 12), ("Süd", 8)) for n in range(1, count + 1)]
    lacking = ("Süd/P1/detail.jpg", "Nord/P3/detail.jpg")
    images = tiny(tmp_path / "Bilder", [name for name in names if name not in lacking])

    def paths(begin: str, folder: Path) -> dict[str, str]:
        rows = [(begin + name.replace("/", "\\"), name[:-11], str(i % 2)) for i, name in enumerate(names)]
        frame = pd.DataFrame(rows, columns=["image", "patient", "finding"])
        frame.to_csv(tmp_path / "table.csv", index=False)
        with tempfile.TemporaryDirectory() as study:
            plan_study(table=tmp_path / "table.csv", images=folder, folder=Path(study)).write()
            return {row["subject"]: row["path"] for row in table_of(Path(study))}

    for begin in ("D:\\Export\\", "", "D:\\Bilder\\"):
        found = paths(begin, images)
        assert (found["Süd/P1"], found["Nord/P3"]) == ("", "")
        assert {name: path for name, path in found.items() if path} == {
            name[:-11]: name for name in names if name[:-11] not in ("Süd/P1", "Nord/P3")
        }
    # of one site, whose patients have the names of the other's
    of_site = paths("D:\\Export\\", images / "Nord")
    assert {name: path for name, path in of_site.items() if path} == {
        f"Nord/P{n}": f"P{n}/detail.jpg" for n in range(1, 13) if n != 3
    }


@pytest.mark.parametrize(
    ("cells", "files"),
    [
        # of two sites, of which the images are those of one
        (
            [f"D:\\Export\\{s}\\P{n}\\a.jpg" for s in ("Nord", "Süd") for n in range(1, 6)],
            [f"P{n}/a.jpg" for n in range(1, 12)],
        ),
        # of a patient whose number is a value of the table
        (["P3/a.jpg", "P3/b.jpg", "P3/c.jpg"], ["P1/a.jpg", "P1/b.jpg", "P1/c.jpg"]),
        # of two sites with one file for both
        ([f"{s}/{n}.jpg" for s in ("Nord", "Süd") for n in range(5)], [f"{n}.jpg" for n in range(5)]),
    ],
)
def test_images_of_folders_that_disagree_are_not_taken(cells: list[str], files: list[str], tmp_path: Path) -> None:
    images = tiny(tmp_path / "Photos", files)
    subjects = ["P3" if cell.startswith("P3") else f"S{n}" for n, cell in enumerate(cells)]
    rows = [(cell, subject, str(n % 2)) for n, (cell, subject) in enumerate(zip(cells, subjects, strict=True))]
    pd.DataFrame(rows, columns=["image", "patient", "finding"]).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(CasewiseError, match="agree in names of files alone"):
        plan_study(table=tmp_path / "t.csv", images=images, folder=tmp_path / "study")


def test_a_folder_that_was_renamed_is_doubted(tmp_path: Path) -> None:
    images = tiny(tmp_path / "Photos", [f"P{n}/a.jpg" for n in range(6)])
    rows = [(f"D:\\Export\\P{n}\\a.jpg", f"S{n}", str(n % 2)) for n in range(6)]
    pd.DataFrame(rows, columns=["image", "patient", "finding"]).to_csv(tmp_path / "t.csv", index=False)
    plan = plan_study(table=tmp_path / "t.csv", images=images, folder=tmp_path / "study")
    plan.write()
    assert [row["path"] for row in table_of(tmp_path / "study")] == [f"P{n}/a.jpg" for n in range(6)]
    assert any("d:/export" in doubt for doubt in plan.doubts)


def test_columns_that_the_paths_state_are_no_original_columns(tmp_path: Path) -> None:
    images = tiny(tmp_path / "photos", [f"P{n}/V{v}/a.jpg" for n in range(6) for v in (1, 2)])
    rows = [(f"P{n}/V{v}/a.jpg", str(n % 2)) for n in range(6) for v in (1, 2)]
    pd.DataFrame(rows, columns=["image", "finding"]).to_csv(tmp_path / "t.csv", index=False)
    plan = plan_study(table=tmp_path / "t.csv", images=images, folder=tmp_path / "study")
    assert "original_columns" not in plan.text
