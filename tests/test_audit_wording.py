"""What the audit claims: codes of the label, borders with and without their appearance, sentences of all evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.audit import regions
from casewise.audit.columns import has_code, repeats
from casewise.audit.shortcuts import Shortcuts
from tests.test_audit_shortcuts import look, make

Row = dict[str, Any]
GRADES, TWO = np.repeat([0.0, 1.0], 12), ["1"] * 12 + ["2"] * 12


def coded(folder: Path, column: str, **changes: Any) -> Shortcuts:
    """What the audit finds where a column goes with the label one to one."""

    def change(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        row[column] = 1 + (row["label"] == "ill")

    return look(make(folder, change=change, **changes))


def test_a_code_of_the_label_is_a_note_and_is_not_tested(tmp_path: Path) -> None:
    found = coded(tmp_path, "clinical_label_code")
    finding = next(finding for finding in found.findings if finding.id == "shortcut-clinical_label_code")
    assert finding.level == "note"
    assert finding.figures == {"target": "label", "evidence": "clinical_label_code", "coded": True, "subjects": 60}
    assert not [test for test in found.tested if test["evidence"] == "clinical_label_code"]


@pytest.mark.parametrize(
    ("column", "named", "level"),
    [
        ("source", None, "error"),
        ("label_source", None, "warning"),
        ("ward", None, "warning"),
        ("label_code", ["label_code"], "error"),
    ],
)
def test_a_source_that_goes_with_the_label_one_to_one_or_a_named_code_is_a_shortcut(
    tmp_path: Path, column: str, named: list[str] | None, level: str
) -> None:
    changes = {"audit": {"permutations": 199, "columns": named}} if named else {}
    found = {finding.id: finding for finding in coded(tmp_path, column, **changes).findings}
    assert found[f"shortcut-{column}"].level == level
    assert found[f"shortcut-{column}"].figures["value"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "cells", "coded"),
    [
        ("neoplasm_histologic_grade_code", TWO, True),
        ("gradeIndex", ["1"] * 6 + ["2"] * 6 + ["3"] * 12, True),
        ("tumour_grade", ["grade two"] * 12 + ["grade three"] * 12, True),
        ("grade_code", ["1"] * 11 + ["2"] * 13, False),  # one subject differs
        ("grade_code", ["1", "2", "3", "4"] * 3 + ["5"] * 12, False),  # too many values
        ("grade_code", ["siemens"] * 12 + ["philips"] * 12, False),
        ("grade_code", [""] * 12 + ["2"] * 12, False),
        ("grade_scanner", TWO, False),
        ("grade_ward_code", TWO, False),
        ("upgraded_code", TWO, False),
        ("site_code", TWO, False),
        ("code", TWO, False),
    ],
)
def test_only_names_and_values_of_a_code_are_taken_for_one(name: str, cells: list[str], coded: bool) -> None:
    assert has_code(name, cells, GRADES, ["G2", "G3"], "grade", range(24)) == coded


def test_a_code_needs_enough_subjects_and_a_target_of_some_letters() -> None:
    people = [n // 2 for n in range(24)]
    assert not has_code("grade_code", TWO, GRADES, ["G2", "G3"], "grade", people)
    assert not has_code("dx_code", TWO, GRADES, ["G2", "G3"], "dx", range(24))
    assert not has_code("grade_code", TWO, GRADES, [], "grade", range(24))
    assert not has_code("grade_code", TWO, np.full(24, np.nan), ["G2", "G3"], "grade", range(24))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("taken_from", ("covid-dataset", "no finding archive")),
        ("covid_site", ("1", "0")),
        ("folder", ("covid", "no finding")),
    ],
)
def test_a_collection_called_after_its_class_is_not_the_label_in_other_words(
    name: str, values: tuple[str, str]
) -> None:
    cells = [values[0]] * 12 + [values[1]] * 12
    assert not repeats(name, cells, GRADES, ["covid", "no_finding"])


def test_a_border_without_its_appearance_states_the_border_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        if row["label"] == "ill":
            pixels += 45
            stripe = random.normal(15, 20)
            pixels[:, :6] += stripe
            pixels[:, -6:] -= stripe

    # only the brightness and contrast of the picture are made equal, so that something remains
    monkeypatch.setattr(regions, "without", lambda features, covariates: features)
    found = look(make(tmp_path, change=change))
    finding = next(finding for finding in found.findings if finding.id == "shortcut-border")
    as_it_is = finding.figures["as_it_is"]
    assert as_it_is["value"] > finding.figures["value"]
    assert f"{as_it_is['value']:.2f}" in finding.sentence
    assert "brightness" in finding.sentence
    values = {test["evidence"]: test["value"] for test in found.tested if test["evidence"].startswith("border")}
    assert values[finding.figures["evidence"]] == finding.figures["value"]
    assert values[as_it_is["evidence"]] == as_it_is["value"]
