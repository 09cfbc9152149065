"""Names that a spreadsheet altered: refused where people surely became one, doubted where it is likely."""

from pathlib import Path

import pandas as pd
import pytest

from casewise.cohort.altered_names import alterations
from casewise.cohort.cohort import read_cohort
from casewise.cohort.table_formats import missing_words, text_of_value
from casewise.errors import CohortError
from casewise.inference.new_cases import NewTable
from casewise.study.schema import Study

BASE = {"name": "s", "cohort": "c.csv", "backbones": ["alexnet"], "targets": {"grade": {"range": (0, 4)}}}


def certainties(names: list[str], role: str = "subject", declared: str = "") -> list[bool]:
    return [altered.certain for altered in alterations(pd.Series(names), role, declared)]


@pytest.mark.parametrize(
    ("names", "certain"),
    [
        (["1.11111E+12", "P1"], [True]),
        (["1,23457E+12", "1,2E+05"], [True]),
        (["1.2345678901234568e+16"], [True]),
        (["9007199254740992.0"], [True]),
        (["1234567890123450", "1234567890123460", "9234567890123470", "9234567890123480"], [True]),
        (["1-Mar", "P1"], [True]),
        (["01. Mrz", "2-Jan"], [True]),
        (["Mar-01", "Apr-02"], [True]),
        (["2024-03-01 00:00:00", "MAR-A"], [True]),
        (["12:30:00", "P1"], [True]),
        (["Mar-01", "Mar-02"], [False]),
        (["2024-03-01", "2024-03-02"], [False]),
        (["1234570000000", "2345680000000"], [False]),
        ([*["0"] * 6, *"123456"], [False]),
        ([*["a"] * 40, *"bcdefg" * 6], [False]),
        (["2E5", "2A5", "12E5", "3E10", "1E-05"], []),
        (["SEP-01", "SEP-33", "MARTIN-02", "2 Julia"], []),
        (["12345678901234560", "12345678901234561"], []),
        (["101.0", "7.0", "1-2", "1.5"], []),
        (["a", "b", *"cdefg" * 3], []),
    ],
)
def test_subjects(names: list[str], certain: list[bool]) -> None:
    assert certainties(names) == certain


def test_a_study_can_state_that_dates_are_names_but_not_rounded_numbers() -> None:
    assert certainties(["1-Mar", "P1"], declared="as_written") == []
    assert certainties(["1.2E+06", "P1"], declared="as_written") == [True]


def test_new_cases_may_have_names_of_the_form_that_their_study_states(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "new.csv"
    table.write_text("path,subject\na.png,1.7E3\nb.png,B1\n")
    settings = BASE | {"cohort": table, "subject_names": [["1.5E3", "1.6E3"]]}
    cells = NewTable(Study.model_validate(settings), own=True).cells()
    assert cells["subject"].tolist() == ["1.7E3", "B1"]
    assert "1.7E3" in caplog.text
    with pytest.raises(CohortError, match=r"1\.7E3") as refused:
        NewTable(Study.model_validate(BASE | {"cohort": table}), own=True).cells()
    # nobody with new cases can change the study of a model
    assert "in the study" not in str(refused.value) + caplog.text


def test_a_table_is_refused_with_its_column_and_rows(tmp_path: Path) -> None:
    rows = [("a.jpg", "1.23457E+12"), ("b.jpg", "P2")]
    for path, _ in rows:
        (tmp_path / path).write_bytes(b"x")
    table = "".join(f"{path},{subject},{grade}\n" for grade, (path, subject) in enumerate(rows))
    (tmp_path / "cohort.csv").write_text(f"path,patient,grade\n{table}")
    base = {"name": "s", "cohort": tmp_path / "cohort.csv", "backbones": ["alexnet"]}
    study = base | {"targets": {"grade": {"range": (0, 4)}}, "columns": {"subject": "patient"}}
    with pytest.raises(CohortError) as caught:
        read_cohort(Study.model_validate(study))
    assert all(text in str(caught.value) for text in ("row 2", "patient", "1.23457E+12", "as text"))
    with pytest.raises(CohortError):
        read_cohort(Study.model_validate(study), to_learn=False, labelled=False)


def test_whole_numbers_of_a_workbook_keep_their_digits_or_show_that_they_lost_some() -> None:
    assert text_of_value(float(2**53 - 1)) == str(2**53 - 1)
    assert "E+" in text_of_value(1.2345678901234568e16)


@pytest.mark.parametrize(
    ("values", "word", "missing"),
    [
        (["-", "+", "++", "+++"], "-", False),
        (["-", "±", "+"], "-", False),
        (["-", "pos"], "-", False),
        (["-", "pos", "neg"], "-", True),
        (["-", "benign", "malignant"], "-", True),
        (["-", "1", "2"], "-", True),
        (["none", "mild", "severe"], "none", False),
        (["none", "1", "2"], "none", True),
        (["missing", "caries", "sound"], "missing", False),
        (["missing", "benign", "malignant"], "missing", True),
        (["unknown", "melanoma", "nevus"], "unknown", True),
        (["NA", "EU", "AS"], "na", False),
        (["NA", "left", "right"], "na", True),
    ],
)
def test_a_word_is_a_value_if_the_others_say_so(values: list[str], word: str, missing: bool) -> None:
    assert (word in missing_words(values)) == missing
