"""Splits made elsewhere: subjects and pictures on both sides are told, and a clean split is left alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from casewise.audit.predefined_splits import imported_findings, imported_splits, side_named
from casewise.study.schema import Study


def table(sides: list[str], subjects: list[str], paths: list[str] | None = None) -> pd.DataFrame:
    paths = paths or [f"/data/images/{i}.png" for i in range(len(sides))]
    return pd.DataFrame({"image": range(len(sides)), "path": paths, "subject": subjects, "set": sides})


def study(column: str | None = "set", *, known: bool = True) -> Study:
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
    assert imported_findings(images, study()) == []
    assert imported_findings(images, study(None)) == []


def test_subject_on_both_sides_is_an_error_where_the_column_is_used() -> None:
    images = table(["train", "test", "train", "train", "train", "train", "2"], ["a", "a", "b", "b", "c", "c", "d"])
    (finding,) = imported_findings(images, study())
    assert (finding.id, finding.level) == ("subjects-across-splits", "error")
    assert finding.figures["where"] == "column set"
    assert finding.figures["subjects_on_both_sides"] == 1
    assert finding.figures["subjects_with_several_images"] == 3
    assert finding.figures["sides"] == {"train": 5, "test": 1, "fold 2": 1}
    assert finding.figures["subjects"] == ["a"]
    assert finding.pairs == [("/data/images/0.png", "/data/images/1.png")]
    assert "split.column" in finding.remedy


def test_split_by_image_is_called_so() -> None:
    subjects = [f"s{i // 4}" for i in range(40)]
    images = table(["train" if i % 4 else "test" for i in range(40)], subjects)
    (finding,) = imported_findings(images, study())
    assert (finding.id, finding.level) == ("image-level-split", "error")
    assert finding.figures["subjects"] == [f"s{i}" for i in range(10)]
    assert finding.figures["subjects_on_both_sides"] == finding.figures["subjects_with_several_images"] == 10
    assert finding.figures["images"] == 40


def test_what_a_split_trains_on_is_one_side() -> None:
    images = table(["train", "training", "Validation", "test"], ["a", "a", "a", "b"])
    assert imported_findings(images, study()) == []


def test_folders_are_a_note() -> None:
    paths = [f"/test/data/{side}/ill/{i}.png" for i, side in enumerate(["train", "val", "train"])]
    images = table(["", "", ""], ["a", "a", "b"], paths)
    found = imported_findings(images, study(None))
    assert [(f.id, f.level) for f in found] == [("subjects-across-splits", "note")]
    assert all(f.figures["where"] == "the folders" for f in found)
    assert found[0].figures["sides"] == {"train": 2, "validation": 1}


def test_folders_that_all_images_share_are_no_split() -> None:
    images = table(["", ""], ["a", "a"], ["/x/test/1.png", "/x/test/2.png"])
    assert imported_splits(images, study(None)) == []
    images = table(["", ""], ["a", "a"], ["/x/test/1.png", "/x/other/2.png"])
    assert imported_splits(images, study(None)) == []


def test_unknown_subjects_are_said() -> None:
    images = table(["train", "test"], ["a", "b"])
    (finding,) = imported_findings(images, study(known=False))
    assert finding.level == "note"
    assert finding.figures == {"where": "column set"}
    assert imported_findings(images.assign(set=""), study(None, known=False)) == []


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("TRAIN", "train"),
        ("training_images", "train"),
        ("b. Testing Set", "test"),
        ("valid", "validation"),
        ("fold03", "fold 3"),
        ("Fold-1", "fold 1"),
        ("fold", ""),
        ("test of the lung function", ""),
        ("contest", ""),
        ("patient_1", ""),
    ],
)
def test_names_of_folders(name: str, side: str) -> None:
    assert side_named(name) == side
