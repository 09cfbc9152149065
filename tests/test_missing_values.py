"""Missing values: words that mean none among others of their kind, and numbers such as -999."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.audit.columns import FILLED, columns_with_gaps, is_filled
from casewise.audit.metadata import encode, levels
from casewise.cohort.cohort import read_cohort
from casewise.cohort.groups import arms_of, covariates_by_case, grouping, recorded
from casewise.cohort.missing_codes import missing_codes
from casewise.study.schema import Study
from tests.test_audit_gaps import gaps_in
from tests.test_audit_shortcuts import look, make, opened

AGES = ["31", "45", "62", "77", "58", "29"]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["none", "mild", "severe"], ["none", "mild", "severe"]),
        (["None", "smoker", ""], ["None", "smoker", ""]),
        (["-", "+", "++"], ["-", "+", "++"]),
        (["missing", "caries", "sound"], ["missing", "caries", "sound"]),
        (["NA", "EU", "AS"], ["NA", "EU", "AS"]),
        (["none", "1", "2"], ["", "1", "2"]),
        (["-", "left", "right"], ["", "left", "right"]),
        (["unknown", "never", None], ["", "never", ""]),
        (["missing", "61", "NULL"], ["", "61", ""]),
    ],
)
def test_every_reader_of_a_column_has_one_rule_for_words(cells: list[Any], values: list[str]) -> None:
    column, units = pd.Series(cells), pd.Series(range(len(cells)))
    assert recorded(column).tolist() == values
    assert levels(column) == [value.casefold() for value in values]
    assert is_filled(column).tolist() == [value != "" for value in values]
    assert encode("finding", cells, units.tolist()).filled.tolist() == [value != "" for value in values]
    groups = grouping(column, units, units, "finding")
    names = [groups.groups[number].name for number in groups.of_units]
    assert sorted(names) == sorted(values)


def test_an_arm_may_be_called_none() -> None:
    images = pd.DataFrame({"subject": list("abc"), "arm": ["none", "10 mg", "20 mg"]})
    assert arms_of(images, "arm") == {"a": "none", "b": "10 mg", "c": "20 mg"}


def test_a_word_of_a_new_case_means_what_it_meant_in_training() -> None:
    images = pd.DataFrame({"case": ["a", "b"], "pain": ["none", ""], "side": ["none", "left"]})
    cells = covariates_by_case(images, ["pain", "side"], {"pain": ["none", "mild"], "side": ["", "left", "right"]})
    assert cells.to_dict("list") == {"pain": ["none", ""], "side": ["", "left"]}


@pytest.mark.parametrize(
    ("cells", "codes"),
    [
        ([*AGES, "-999", "-999"], [-999]),
        ([*AGES, "999", "999", "999"], [999]),
        ([*AGES, "-1", "-1"], [-1]),
        ([*AGES, "-9", "-9", "999", "999"], [-9, 999]),
        ([*AGES, "999.9", "999.9"], [999.9]),
        ([*AGES, "500", "500", "500"], [500]),
        ([*AGES, "-999"], []),
        ([*AGES, "99", "99"], []),
        ([*AGES, "0", "0", "0"], []),
        (["-3", "-1", "-1", "2", "0.5"], []),
        (["-1", "-1", "0", "1", "1", "0"], []),
        (["0", "1", "2", "3", "7", "7"], []),
    ],
)
def test_repeated_numbers_far_from_all_others_may_mean_no_value(cells: list[str], codes: list[float]) -> None:
    assert missing_codes(pd.Series(cells, dtype=float), usual_only=False) == codes
    usual = [code for code in codes if code != 500]
    assert is_filled(pd.Series(cells)).tolist() == [float(cell) not in usual for cell in cells]


@pytest.mark.parametrize(("code", "noted"), [("-999", True), ("999.0", True), ("31", False)])
def test_a_code_is_noted_with_its_rows_and_a_setting_that_leaves_them_out(
    tmp_path: Path, code: str, noted: bool
) -> None:
    rows = [(f"{i}.jpg", f"p{i}", code if i % 4 == 1 else f"{20 + i}", i % 5) for i in range(12)]
    for path, *_ in rows:
        (tmp_path / path).write_bytes(path.encode())
    table = "".join(f"{path},{subject},{age},{grade}\n" for path, subject, age, grade in rows)
    (tmp_path / "t.csv").write_text(f"path,subject,age,grade\n{table}")
    study = {"name": "s", "cohort": tmp_path / "t.csv", "backbones": ["alexnet"], "covariates": ["age"]}
    study |= {"targets": {"grade": {"range": (0, 4)}}}
    notes = [note for note in read_cohort(Study.model_validate(study)).notes if note.startswith("age: ")]
    assert len(notes) == noted
    for note in notes:
        assert "(rows 3, 7, 11)" in note
        assert f'where_not: {{"age": ["{code}"]}}' in note
        left = read_cohort(Study.model_validate(study | {"where_not": {"age": [code]}}))
        assert len(left.images) == 9
        assert not any(note.startswith("age: ") for note in left.notes)


def test_the_audit_tests_whether_a_number_is_a_code(tmp_path: Path) -> None:
    fill = gaps_in("well", lambda random: f"{random.normal(50, 9):.1f}")

    def change(pixels: np.ndarray, row: dict[str, Any], random: np.random.Generator) -> None:
        fill(pixels, row, random)
        row["crp"] = row["crp"] or "-999"

    study = make(tmp_path, change=change, covariates=["crp"])
    assert columns_with_gaps(study, opened(study)[0].images) == ["crp"]
    assert f"crp{FILLED}" in {str(test["evidence"]) for test in look(study).tested}
