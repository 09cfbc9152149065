"""Columns with any name: those of few values are asked, copies of the label are noted, unused splits are examined."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.audit.columns import MOST_COLUMNS, further_columns, repeats
from casewise.audit.findings import check_settings
from casewise.audit.metadata import columns_in_use
from casewise.audit.subjects import imported_findings, side_named, sides_in
from casewise.cohort.cohort import read_cohort
from casewise.errors import CohortError
from casewise.study.schema import Study
from tests.test_audit_shortcuts import look, make

Row = dict[str, Any]


def test_a_ward_that_goes_with_the_class_is_found_and_an_unrelated_one_is_not(tmp_path: Path) -> None:
    def change(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        ill = row["label"] == "ill"
        row["ward"] = "north" if ill != (int(row["subject"][1:]) % 10 == 0) else "south"
        row["bed"] = "window" if int(row["subject"][1:]) // 2 % 2 else "door"

    found = look(make(tmp_path, change=change))
    by_id = {finding.id: finding for finding in found.findings}
    assert by_id["shortcut-ward"].level == "warning"
    assert by_id["shortcut-ward"].figures["value"] > 0.8
    assert "shortcut-bed" not in by_id
    assert {"ward", "bed"} <= set(found.columns)


def test_a_ward_that_the_study_names_stops_the_run(tmp_path: Path) -> None:
    def change(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        row["ward"] = "north" if row["label"] == "ill" else "south"

    study = make(tmp_path, change=change, audit={"permutations": 199, "columns": ["ward"]})
    assert {f.id: f.level for f in look(study).findings}["shortcut-ward"] == "error"


def test_the_label_in_other_words_is_a_note_and_is_not_tested(tmp_path: Path) -> None:
    def change(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        row["diagnosis"] = {"ill": "Ill (confirmed)", "well": "WELL"}[row["label"]]
        row["is_ill"] = int(row["label"] == "ill")

    found = look(make(tmp_path, change=change))
    levels = {finding.id: finding.level for finding in found.findings}
    assert levels["shortcut-diagnosis"] == levels["shortcut-is_ill"] == "note"
    assert not [test for test in found.tested if test["evidence"] in ("diagnosis", "is_ill")]


@pytest.mark.parametrize(
    ("name", "cells", "copy"),
    [
        ("finding", ["covid-19", "Covid", "no finding", "no finding"], True),
        ("finding", ["covid-19", "no finding", "no finding", "no finding"], False),
        ("ward", ["A", "A", "B", "B"], False),
        ("covid", ["1", "1", "0", "0"], True),
        ("note", ["covid", "", "", ""], False),
        ("taken_from", ["covid-dataset", "covid-dataset", "no finding archive", "no finding archive"], False),
        ("covid_site", ["1", "1", "0", "0"], False),
        ("folder", ["covid", "covid", "no finding", "no finding"], False),
    ],
)
def test_only_a_column_that_states_the_classes_is_a_copy(name: str, cells: list[str], copy: bool) -> None:
    assert repeats(name, cells, np.array([0.0, 0.0, 1.0, 1.0]), ["covid", "no_finding"]) == copy


def test_columns_that_are_asked(tmp_path: Path) -> None:
    def change(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        number = int(row["subject"][1:])
        row |= {"note": f"text {number}", "same": "x", "my_set": ["train", "test"][number % 2], "rare": number == 3}
        row |= {f"c{n:02d}": (number >> n % 5) % 2 for n in range(MOST_COLUMNS + 2)}

    study = make(tmp_path, change=change)
    images = read_cohort(study).images
    columns, more = further_columns(study, images, ["table_site", "table_age", "site", "age"])
    plain = {name.removeprefix("table_") for name in [*columns, *more]}
    assert (plain, len(columns)) == ({f"c{n:02d}" for n in range(MOST_COLUMNS + 2)}, MOST_COLUMNS)
    outcomes = study.model_copy(update={"audit": study.audit.model_copy(update={"outcomes": ["c00", "rare"]})})
    named = [name for names in further_columns(outcomes, images, ["site", "age"]) for name in names]
    assert plain - {name.removeprefix("table_") for name in named} == {"c00"}
    check_settings(outcomes, images)
    outcomes.audit.outcomes.append("nowhere")
    with pytest.raises(CohortError, match=r"audit\.outcomes: 'nowhere'"):
        check_settings(outcomes, images)


def test_a_column_of_lesion_masks_is_in_use(tmp_path: Path) -> None:
    def change(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        row["lesion_mask"] = "marked.png" if row["label"] == "ill" else "empty.png"

    study = make(tmp_path, change=change)
    images = read_cohort(study).images
    masked = study.model_copy(update={"images": study.images.model_copy(update={"lesion": "lesion_mask"})})
    plain = [[name.removeprefix("table_") for name in further_columns(s, images, [])[0]] for s in (study, masked)]
    assert ["lesion_mask" in names for names in plain] == [True, False]
    assert "lesion_mask" in columns_in_use(masked)


def test_numbers_are_folds_by_the_name_of_their_column() -> None:
    folds = [str(n // 2 % 5 + 1) for n in range(30)]
    assert (sides_in("grade", folds), len(set(sides_in("cv_fold", folds)))) == ([], 5)
    assert sides_in("fold", [str(year) for year in (2019, 2020, 2021)]) == []
    assert (sides_in("fold", ["0", "1", "3"]), sides_in("fold", ["", ""])) == ([], [])


def table(sides: list[str], subjects: list[str], paths: list[str] | None = None) -> pd.DataFrame:
    paths = paths or [f"/data/images/{i}.png" for i in range(len(sides))]
    return pd.DataFrame({"image": range(len(sides)), "path": paths, "subject": subjects, "set": sides})


def imported_study(column: str | None = "set", *, known: bool = True) -> Study:
    return Study(
        name="t",
        cohort=Path("c.csv"),
        targets={"label": {"classes": ["a", "b"]}},
        backbones=["resnet18"],
        split={"column": column},
        subjects_known=known,
    )


def test_clean_split_has_no_finding() -> None:
    images = table(["train", "train", "Test "], ["a", "a", "b"])
    assert imported_findings(images, imported_study()) == []
    assert imported_findings(images, imported_study(None)) == []


def test_subject_on_both_sides_is_an_error_where_the_column_is_used() -> None:
    images = table(["train", "test", "train", "train", "train", "train", "2"], ["a", "a", "b", "b", "c", "c", "d"])
    (finding,) = imported_findings(images, imported_study())
    assert (finding.id, finding.level) == ("subjects-across-splits", "error")
    assert (finding.figures["where"], finding.figures["subjects_on_both_sides"]) == ("column set", 1)
    assert finding.figures["subjects_with_several_images"] == 3
    assert (finding.figures["sides"], finding.figures["subjects"]) == ({"train": 5, "test": 1, "fold 2": 1}, ["a"])
    assert finding.pairs == [("/data/images/0.png", "/data/images/1.png")]
    assert "split.column" in finding.remedy


def test_what_a_split_trains_on_is_one_side() -> None:
    images = table(["train", "training", "Validation", "test"], ["a", "a", "a", "b"])
    assert imported_findings(images, imported_study()) == []


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("TRAIN", "train"),
        ("b. Testing Set", "test"),
        ("valid", "validation"),
        ("fold03", "fold 3"),
        ("fold", ""),
        ("test of the lung function", ""),
    ],
)
def test_names_of_folders(name: str, side: str) -> None:
    assert side_named(name) == side
