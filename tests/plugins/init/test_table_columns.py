"""What `init` makes of the columns of a table: visits, slices, subjects, and whether there is something to predict."""

import re
from pathlib import Path

import pytest
import yaml

from casewise.errors import CasewiseError
from tests.plugins.init.test_own_data import cohort_in, start, study_in


def rows_with(*columns: list[str], count: int = 24, of_each: int = 1) -> list[list[str]]:
    """Rows of an image, a subject of so many images, and the columns, whose cells are repeated."""
    return [[f"{i}.png", f"P{i // of_each}", *(cells[i % len(cells)] for cells in columns)] for i in range(count)]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (["0.5", "30.5", "61.25"], "'0.5'"),
        (["v1", "v2", ""], "8 of its 24 cells"),
        (["1", "2", "unknown"], "8 of its 24 cells"),
        (["1", "1.5", "2"], "'1.5'"),
    ],
)
def test_a_column_of_visits_that_is_not_used_is_doubted(tmp_path: Path, cells: list[str], reason: str) -> None:
    rows = [[*row, "ab"[i // 3 % 2]] for i, row in enumerate(rows_with(cells, of_each=3))]
    plan = start(tmp_path, "image|patient|visit|grade", rows)
    (doubt,) = [doubt for doubt in plan.doubts if doubt.startswith("Visit: 'visit' IS NOT USED")]
    assert reason in doubt
    assert cohort_in(tmp_path).cases["case"].nunique() == 8


@pytest.mark.parametrize("cells", [["19960909", "19970101"], ["v1", "v2"], ["7", "7"]])
def test_visits_that_are_used_or_the_same_are_not_doubted(tmp_path: Path, cells: list[str]) -> None:
    rows = [[*row, "ab"[i // 2 % 2]] for i, row in enumerate(rows_with(cells, of_each=2))]
    plan = start(tmp_path, "image|patient|visit|grade", rows)
    assert not any(doubt.startswith("Visit") for doubt in plan.doubts)
    assert cohort_in(tmp_path).cases["case"].nunique() == 12 * len(set(cells))


@pytest.mark.parametrize(
    ("head", "cells", "offered"),
    [
        ("slice_order", list("0123"), True),
        ("SliceNumber", list("1234"), True),
        ("instance_number", ["7", "8", "9", "10"], True),
        ("slice_order", list("0011"), False),
        ("slice_thickness", list("1234"), False),
    ],
)
def test_numbered_images_of_a_subject_are_offered_as_slices(
    tmp_path: Path, head: str, cells: list[str], offered: bool
) -> None:
    rows = [[*row, "scan", "ab"[i // 4 % 2]] for i, row in enumerate(rows_with(cells, of_each=4))]
    plan = start(tmp_path, f"image|patient|{head}|sequence|grade", rows)
    assert any("slices of scans" in doubt for doubt in plan.doubts) == offered
    assert (f"slice_index: {head}" in plan.text) == offered
    if offered:
        text = re.sub(r"(?m)^(images|panels):.*\n", "", plan.text).replace("# volumes:", "volumes:")
        (tmp_path / "study" / "study.yaml").write_text(text)
        assert study_in(tmp_path).modality_settings.model_dump()["slice_index"] == head
        assert cohort_in(tmp_path).cases["case"].nunique() == 6


@pytest.mark.parametrize(
    ("head", "cells", "words"),
    [
        ("label", ["covid", "-"], ["12 rows", "'-'", '"-"']),
        ("diagnosis", ["covid", "unknown"], ["12 rows", "'unknown'"]),
        ("finding", ["?", "NA", "tumour"], ["16 rows", "'?'", "'NA'"]),
    ],
)
def test_a_class_that_was_read_as_missing_is_named_with_a_setting_that_states_it(
    tmp_path: Path, head: str, cells: list[str], words: list[str]
) -> None:
    for target in ("", head):
        folder = tmp_path / f"x{target}"
        with pytest.raises(CasewiseError) as caught:
            start(folder, f"image|patient|{head}|status", rows_with(cells, ["open", "done", "new"]), target=target)
        assert all(word in str(caught.value) for word in words)
        setting = re.findall(r"`(targets: .*)` states", str(caught.value))[0]
        study = {"cohort": "t.csv", "root": "in", "columns": {"path": "image", "subject": "patient"}}
        (folder / "study").mkdir()
        text = yaml.safe_dump(study | {"cohort": "../t.csv", "root": "../in", "backbones": ["alexnet"]}) + setting
        (folder / "study" / "study.yaml").write_text(text)
        images = cohort_in(folder).images
        assert images[head].nunique() == len(cells)
        assert images[head].notna().all()


@pytest.mark.parametrize(
    ("heads", "cells"),
    [
        ("format", [["PNG", "JPG"]]),
        ("kvp", [["80", "100", "120"]]),
        ("uploaded_by|file_extension", [["anna", "ben"], ["png", "jpg"]]),
        ("device|bits", [["GE", "Siemens"], ["8", "16", "12"]]),
    ],
)
def test_a_table_without_a_column_to_predict_is_refused(tmp_path: Path, heads: str, cells: list[list[str]]) -> None:
    with pytest.raises(CasewiseError, match=r"No column .* --target NAME"):
        start(tmp_path, f"image|patient|{heads}", rows_with(*cells))
    name = heads.partition("|")[0]
    plan = start(tmp_path / "stated", f"image|patient|{heads}", rows_with(*cells), target=name)
    assert list(study_in(tmp_path / "stated").targets) == [name]
    assert plan.doubts


@pytest.mark.parametrize(("separator", "form"), [(",", "{:.1f}"), (";", "{:.1f}"), (",", "{:.0f}")])
def test_the_prothrombin_time_names_nobody(tmp_path: Path, separator: str, form: str) -> None:
    rows = [
        [*row, form.format(11 + i // 2).replace(".", "," if separator == ";" else "."), "ab"[i % 2]]
        for i, row in enumerate(rows_with())
    ]
    plan = start(tmp_path, "image|patient|PT|grade", rows, separator=separator)
    cohort = cohort_in(tmp_path)
    assert cohort.images["subject"].nunique() == 24
    assert cohort.images["PT"].astype(float).between(11, 23).all()
    assert not any("'PT' was chosen" in doubt for doubt in plan.doubts)


def test_a_code_is_not_in_the_range_of_the_target(tmp_path: Path) -> None:
    scores = ["-999", *(f"{i}.5" for i in range(8))]
    rows = [[f"{i}.png", f"P{i}", scores[i % 9]] for i in range(36)]
    plan = start(tmp_path, "image|patient|extent", rows)
    assert "range: 0.5..7.5" in plan.files["study.yaml"].decode()
    assert any("without -999" in doubt for doubt in plan.doubts)
