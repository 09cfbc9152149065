"""Starting a study from a preset and from folders: what is understood, what is refused, what is written."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from casewise.cohort.cohort import read_cohort
from casewise.cohort.folder_layout import find_region, read_layout
from casewise.cohort.identity import groups_of_one
from casewise.cohort.table import Problems, read_text_table
from casewise.errors import CasewiseError
from casewise.plugins.init.preset import plan_preset
from casewise.study import loading as study_file
from casewise.study.loading import preset_names, preset_text, read_study
from tests.plugins.init.own_data import table_of

SEVEN = [f"{region}_{k}" for region, count in (("upper", 4), ("trunk", 2), ("lower", 1)) for k in range(count)]


@dataclass(frozen=True)
class Started:
    """The written files of a study from a preset, and what was understood."""

    files: list[Path]
    understood: list[str]


def initialise(preset: str, *, source: Path | None = None, folder: Path) -> Started:
    study = plan_preset(preset, images=source, folder=folder)
    return Started(study.write(), study.understood)


def make(folder: Path, *paths: str) -> Path:
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return folder


def protocol(folder: Path) -> dict[str, Any]:
    """The commented settings of a study file, with the comment signs taken off."""
    text = (folder / "study.yaml").read_text(encoding="utf-8").partition("# The protocol of")[2]
    lines = [line for line in text.splitlines()[1:] if not line.startswith("##")]
    assert all(line.startswith("#") for line in lines)
    return yaml.safe_load("\n".join(line[2:] for line in lines))


@pytest.fixture
def grades(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """A preset without regions, with classes told by a text column."""
    presets = tmp_path_factory.mktemp("presets")
    (presets / "grades.yaml").write_text(
        "# Covid against the rest.\ntargets:\n  covid: {column: finding, equals: covid}\nsplit: {test: 20%}\n"
        "backbones: [alexnet]\n"
    )
    monkeypatch.setattr(study_file, "PRESETS", presets)
    return "grades"


class TestSubjectsAndVisits:
    def test_regions_in_file_names(self, tmp_path: Path) -> None:
        source = make(tmp_path / "in", *[f"S{s}/week{v}/{n}.JPG" for s in (1, 2, 10) for v in (2, 10) for n in SEVEN])
        make(source, "S1/Thumbs.db", "S2/week2/._upper_0.jpg", ".hidden/S1/week2/upper.jpg", "notes.txt")
        done = initialise("onestep-pasi", source=source, folder=tmp_path / "out")
        assert done.files == [tmp_path / "out" / "cohort.csv", tmp_path / "out" / "study.yaml"]
        assert done.understood[0] == (
            "3 subjects, 6 visits, 42 images, regions upper (24), trunk (12), lower (6); "
            "3 files skipped (Thumbs.db, ._upper_0.jpg, notes.txt)."
        )
        read_as = "Read as subject/visit/*.jpg: S1/week2/upper_0.JPG is subject S1, visit week2"
        assert done.understood[1].startswith(read_as)
        assert "Fill in erythema, induration, scaling, area" in done.understood[-1]
        rows = table_of(tmp_path / "out")
        assert list(rows[0]) == ["path", "subject", "visit", "region", "erythema", "induration", "scaling", "area"]
        assert list(dict.fromkeys(row["subject"] for row in rows)) == ["S1", "S2", "S10"]
        assert all(row["erythema"] == "" for row in rows)
        cohort = read_cohort(read_study(tmp_path / "out" / "study.yaml"))
        assert (len(cohort.images), len(cohort.panels), len(cohort.cases)) == (42, 18, 6)
        assert cohort.panels["tiles"].map(len).tolist() == [4, 2, 1] * 6

    def test_names_that_a_spreadsheet_would_run_are_guarded(self, tmp_path: Path, grades: str) -> None:
        source = make(tmp_path / "in", *[f"{subject}/v{v}/a.jpg" for subject in ("=1+1", "@x", "-2") for v in (1, 2)])
        initialise(grades, source=source, folder=tmp_path / "out")
        rows = table_of(tmp_path / "out")
        assert {row["subject"] for row in rows} == {"'=1+1", "'@x", "-2"}
        assert {row["path"] for row in rows if row["subject"] == "'@x"} == {"'@x/v1/a.jpg", "'@x/v2/a.jpg"}
        cells, _ = read_text_table(tmp_path / "out" / "cohort.csv", Problems())
        assert set(cells["subject"]) == {"=1+1", "@x", "-2"}
        assert all((source / path).exists() for path in cells["path"])

    @pytest.mark.parametrize(
        ("names", "shape", "counts"),
        [
            (
                [f"S{s}/v1/{r}/{k}.png" for s in (1, 2) for r in ("Upper limbs", "trunk", "LOWER") for k in (1, 2)],
                "subject/visit/region/*.jpg",
                (12, 6, 2),
            ),
            ([f"S{s}/{n}.jpg" for s in (1, 2) for n in SEVEN], "subject/*.jpg", (14, 6, 2)),
            (
                [f"S{s}/{r}/1.jpg" for s in (1, 2) for r in ("upper", "trunk", "lower")],
                "subject/region/*.jpg",
                (6, 6, 2),
            ),
            ([f"images/S{s}/v1/{n}.jpg" for s in (1, 2) for n in SEVEN], "subject/visit/*.jpg", (14, 6, 2)),
        ],
    )
    def test_layouts(self, tmp_path: Path, names: list[str], shape: str, counts: tuple[int, int, int]) -> None:
        done = initialise("onestep-pasi", source=make(tmp_path / "in", *names), folder=tmp_path / "out")
        assert f"Read as {shape}: " in done.understood[1]
        assert ("visit" in table_of(tmp_path / "out")[0]) == ("visit" in shape)
        cohort = read_cohort(read_study(tmp_path / "out" / "study.yaml"))
        assert (len(cohort.images), len(cohort.panels), len(cohort.cases)) == counts

    def test_train_and_test(self, tmp_path: Path) -> None:
        names = [f"{side}/S{i}/v1/{n}.jpg" for i, side in enumerate(("Train", "val", "TEST")) for n in SEVEN]
        source = make(tmp_path / "in", *names)
        done = initialise("onestep-pasi", source=source, folder=tmp_path / "out")
        sides = {row["subject"]: row["split"] for row in table_of(tmp_path / "out")}
        assert sides == {"S0": "train", "S1": "train", "S2": "test"}
        assert any("val counts as train" in line for line in done.understood)
        study = read_study(tmp_path / "out" / "study.yaml")
        assert study.split.column == "split"
        assert study.split.stratify_by == "scaling", "what the preset says besides stays in force"
        assert "split" in read_cohort(study).images


class TestClasses:
    def test_classes_have_no_subjects_and_it_is_said_loudly(self, tmp_path: Path, grades: str) -> None:
        source = make(tmp_path / "in", "Covid/1.jpg", "Covid/2.jpg", "normal/3.jpg", "normal/4.jpg")
        done = initialise(grades, source=source, folder=tmp_path / "out")
        assert done.understood[0] == "4 images, classes Covid (2), normal (2)."
        assert any(line.startswith("WARNING: subjects are not known") for line in done.understood)
        rows = table_of(tmp_path / "out")
        assert [row["subject"] for row in rows] == ["1", "2", "3", "4"]
        assert [row["finding"] for row in rows] == ["Covid", "Covid", "normal", "normal"]
        study = read_study(tmp_path / "out" / "study.yaml")
        assert not study.subjects_known
        with pytest.raises(CasewiseError, match=r"no row has 'covid'. Did you mean 'Covid'\?"):
            read_cohort(study)

    @pytest.mark.parametrize(
        ("names", "classes"),
        [
            (["benign", "malignant"], True),
            (["grade0", "grade 1", "grade_2"], True),
            (["covid", "S01"], True),
            (["patient 1", "patient 2"], False),
            (["a" * k for k in range(1, 21)], True),
            (["a" * k for k in range(1, 22)], False),
        ],
    )
    def test_classes_or_subjects(self, tmp_path: Path, names: list[str], classes: bool) -> None:
        layout = read_layout(make(tmp_path, *[f"{n}/x.jpg" for n in names]), regions=[], classes=["covid"])
        assert layout.by_class == classes
        assert ({image.subject for image in layout.images} == set(names)) == (not classes)


class TestWhatIsNotUnderstood:
    @pytest.mark.parametrize(
        ("paths", "told"),
        [
            (["a.jpg", "b.jpg"], "images are in one folder"),
            (["S1/v1/upper_1.jpg", "S2/upper_1.jpg"], "images are at different depths"),
            (["a/b/c/d/e.jpg", "a/b/c/d/f.jpg"], "images are 4 folders deep"),
            (["S1/v1/left/a.jpg", "S1/v1/upper/a.jpg"], "the region (upper, trunk, lower) of S1/v1/left/a.jpg"),
            (["S1/v1/upper_lower.jpg", "S1/v1/IMG_2.jpg"], "the region (upper, trunk, lower) of S1/v1/IMG_2.jpg"),
            (["upper/1.jpg", "lower/2.jpg"], "the folders are regions"),
            (["train/S1/v1/upper.jpg", "S1/v1/upper.jpg"], "train or test is next to"),
        ],
    )
    def test_layouts(self, tmp_path: Path, paths: list[str], told: str) -> None:
        source = make(tmp_path / "in", *paths)
        with pytest.raises(CasewiseError) as caught:
            initialise("onestep-pasi", source=source, folder=tmp_path / "out")
        message = str(caught.value)
        assert told in message
        assert all(path in message for path in paths), "both examples are named"
        assert "subject/visit/region/*.jpg" in message
        assert not (tmp_path / "out").exists()

    def test_file_names_that_are_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "in" / "S1").mkdir(parents=True)
        try:
            Path(os.fsdecode(os.fsencode(tmp_path / "in" / "S1") + b"/upper\xff.jpg")).write_bytes(b"x")
        except OSError:
            pytest.skip("the file system takes no such name")
        with pytest.raises(CasewiseError, match=r"is not UTF-8\. Rename"):
            initialise("onestep-pasi", source=tmp_path / "in", folder=tmp_path / "out")

    @pytest.mark.parametrize("existing", ["study.yaml", "cohort.csv"])
    def test_nothing_is_overwritten(self, tmp_path: Path, existing: str) -> None:
        source = make(tmp_path / "in", *[f"S{s}/{n}.jpg" for s in (1, 2) for n in SEVEN])
        (tmp_path / existing).write_text("mine")
        with pytest.raises(CasewiseError, match=f"{existing} exists already"):
            initialise("onestep-pasi", source=source, folder=tmp_path)
        assert (tmp_path / existing).read_text() == "mine"
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([existing, "in"])


class TestTheStudyFile:
    @pytest.mark.parametrize("preset", preset_names())
    def test_it_is_the_preset_and_shows_all_of_it(self, tmp_path: Path, preset: str) -> None:
        done = initialise(preset, folder=tmp_path / "my: study")
        assert done.files == [tmp_path / "my: study" / "study.yaml"]
        study = read_study(done.files[0])
        (tmp_path / "bare.yaml").write_text(f"extends: {preset}\ncohort: cohort.csv\n")
        bare = read_study(tmp_path / "bare.yaml")
        assert study.name == "my: study"
        assert study.model_dump(exclude={"name", "cohort"}) == bare.model_dump(exclude={"name", "cohort"})
        assert study.cohort == (tmp_path / "my: study" / "cohort.csv").resolve()
        assert protocol(tmp_path / "my: study") == yaml.safe_load(preset_text(preset))

    @pytest.mark.parametrize("inside", ["", "photos of ä", None])
    def test_root_leads_to_the_images(self, tmp_path: Path, inside: str | None) -> None:
        out = tmp_path / "out"
        source = tmp_path / "in" if inside is None else out / inside
        make(source, *[f"S{s}/{n}.jpg" for s in (1, 2) for n in SEVEN])
        initialise("onestep-pasi", source=source, folder=out)
        study, text = read_study(out / "study.yaml"), (out / "study.yaml").read_text(encoding="utf-8")
        assert (study.root or study.cohort.parent) == source.resolve()
        assert ("\nroot: " in text, 'root: "photos of ä"' in text) == (inside != "", bool(inside))
        assert len(read_cohort(study).images) == 14


SUBJECT = st.text(st.sampled_from("aZ0_-. ,;\"'äß#:{"), min_size=1, max_size=6).map(lambda t: f"S{t}1")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(SUBJECT, min_size=2, max_size=4, unique=True).filter(lambda names: not groups_of_one(names)))
def test_any_folder_name_comes_through(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    home = tmp_path_factory.mktemp("any")
    source = make(home / "in", *[f"{name}/v 1/{n}.jpg" for name in names for n in SEVEN])
    initialise("onestep-pasi", source=source, folder=home)
    cohort = read_cohort(read_study(home / "study.yaml"))
    assert set(cohort.cases["subject"]) == set(names)
    assert all(Path(path).is_file() for path in cohort.images["path"])


@pytest.mark.parametrize(
    ("name", "region"),
    [
        *[("upper_1", "upper"), ("Upper1", "upper"), ("P1-upperback", "upper"), ("forearm_2", "forearm")],
        *[("arm2", "arm"), ("flower", "lower"), ("upperarm", ""), ("upper_lower", ""), ("IMG_1", "")],
    ],
)
def test_find_region(name: str, region: str) -> None:
    assert find_region(name, ["upper", "lower", "arm", "forearm"]) == region


def test_init_of_class_folders_of_films_offers_columns_and_names_nobody(tmp_path: Path) -> None:
    films = pytest.importorskip("tests.film_files")
    for number, label in enumerate(("covid", "no_finding", "pneumonia", "covid")):
        tags = {"ImageLaterality": None, "ViewPosition": "AP" if number else "PA", "Manufacturer": "=1+2"}
        pixels = np.full((8, 8), 50 * number, np.uint8)
        films.write_film(tmp_path / "in" / label / f"{number}.dcm", pixels, **tags)
    Image.new("L", (8, 8)).save(tmp_path / "in" / "covid" / "9.png")
    study = plan_preset("covid-cxr", images=tmp_path / "in", folder=tmp_path / "out")
    written = "".join(path.read_text(encoding="utf-8-sig") for path in study.write()) + "".join(study.understood)
    assert not any(word in written for word in films.PEOPLE)
    with (tmp_path / "out" / "cohort.csv").open(newline="") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert [rows[name]["view"] for name in ("0.dcm", "1.dcm", "9.png")] == ["PA", "AP", ""]
    # tags that no film states, or only with signs that spreadsheets compute, are left out
    assert not {"laterality", "manufacturer"} & set(rows["0.dcm"])
