"""Dates in columns of visits and in paths, and folders beside those of classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from casewise.errors import CasewiseError
from casewise.plugins.init.own_data import plan_study
from tests.plugins.init.own_data import table_of
from tests.plugins.init.test_forms_of_hospitals import PEOPLE, Rows, joined, pictures_at, plan_of

VISITS = (1, 2, 3)
LONG = "patient,visit,date,easi"


def day(person: int, visit: int) -> str:
    return f"2023-{4 * visit - 3 + person % 4:02}-{person + visit:02}"


def score(person: int, visit: int) -> str:
    return f"{person * 3 % 17 + 20 * visit}.5"


def names_at(form: str, photographs: int = 2) -> dict[str, str]:
    """The score of each photograph of this form of name."""
    return {
        form.format(s=f"P{s:02}", v=v, d=day(s, v), plain=day(s, v).replace("-", ""), n=n): score(s, v)
        for s in PEOPLE for v in VISITS for n in range(1, photographs + 1)
    }  # fmt: skip


def long_rows() -> Rows:
    return [(f"P{s:02}", f"V{v}", day(s, v), score(s, v)) for s in PEOPLE for v in VISITS]


@pytest.mark.parametrize("form", ["{s}_{plain}_{n}.png", "{s}/{plain}-{n}.png", "{s} {d} ({n}).png", "{s}/{d}/{n}.png"])
def test_numbers_of_photographs_beside_dates_are_no_visits(form: str, tmp_path: Path) -> None:
    expected = names_at(form, 3)
    plan_of(tmp_path, LONG, long_rows(), list(expected))
    assert joined(tmp_path, "easi") == expected


def test_numbers_of_photographs_beside_dates_that_the_table_lacks(tmp_path: Path) -> None:
    rows: Rows = [(name, visit, value) for name, visit, _, value in long_rows()]
    with pytest.raises(CasewiseError, match=r"The paths have dates, such as .* add a column `date`"):
        plan_of(tmp_path, "patient,visit,easi", rows, list(names_at("{s}_{plain}_{n}.png", 3)))


def test_visits_and_dates_of_paths_that_agree(tmp_path: Path) -> None:
    expected = names_at("{s}/V{v}/{plain}_{n}.png")
    plan_of(tmp_path, LONG, long_rows(), list(expected))
    assert joined(tmp_path, "easi") == expected


def test_a_path_with_the_date_of_another_visit_is_refused(tmp_path: Path) -> None:
    names = list(names_at("{s}/V{v}/{plain}_{n}.png"))
    wrong = f"P03/V2/{day(3, 1).replace('-', '')}_9.png"
    with pytest.raises(CasewiseError, match=f"WHICH VISIT.* 1 image has the date of another visit .*{wrong}"):
        plan_of(tmp_path, LONG, long_rows(), [*names, wrong])


@pytest.mark.parametrize(
    ("dated", "scored"),
    [
        ("Date V{v}", "easi V{v}"),
        ("V{v}_date", "V{v}_easi"),
        ("Datum Visite {v}", "easi Visite {v}"),
        ("Month {v} date", "Month {v} easi"),
        ("V{v}", "easi V{v}"),
    ],
)
@pytest.mark.parametrize("form", ["{s}_{plain}_{n}.png", "{s}/{d}/{n}.png"])
def test_columns_of_dates_become_rows_of_visits(dated: str, scored: str, form: str, tmp_path: Path) -> None:
    heads = ["patient", "sex", *(text.format(v=v) for v in VISITS for text in (dated, scored))]
    rows: Rows = [
        (f"P{s:02}", "mf"[s % 2], *(cell for v in VISITS for cell in (day(s, v), score(s, v)))) for s in PEOPLE
    ]
    expected = names_at(form)
    plan_of(tmp_path, ",".join(heads), rows, list(expected))
    assert joined(tmp_path, "easi") == expected


@pytest.mark.parametrize("missing", ["", "NA"])
def test_a_visit_that_did_not_take_place_is_no_row(missing: str, tmp_path: Path) -> None:
    rows: Rows = [
        (f"P{s:02}", *(missing if s == 4 and v == 3 else c for v in VISITS for c in (day(s, v), score(s, v))))
        for s in PEOPLE
    ]
    expected = {
        path: value for path, value in names_at("{s}/{d}/{n}.png").items() if not path.startswith(f"P04/{day(4, 3)}")
    }
    plan = plan_of(tmp_path, "patient," + ",".join(f"date V{v},easi V{v}" for v in VISITS), rows, list(expected))
    assert joined(tmp_path, "easi") == expected
    assert "Visits without any value, left out: 1." in plan.understood


def test_columns_of_dates_stay_where_paths_state_no_visit(tmp_path: Path) -> None:
    rows: Rows = [(f"P{s:02}", *(cell for v in VISITS for cell in (day(s, v), score(s, v)))) for s in PEOPLE]
    heads = "patient," + ",".join(f"date V{v},easi V{v}" for v in VISITS)
    plan_of(tmp_path, heads, rows, [f"P{s:02}.png" for s in PEOPLE], target="easi V1")
    assert joined(tmp_path, "easi V1") == {f"P{s:02}.png": score(s, 1) for s in PEOPLE}


def of_folders(folder: Path, *levels: list[str], pattern: str = "") -> list[dict[str, str]]:
    """The table of a study of noise in folders of these levels."""
    names = [""]
    for level in levels:
        names = [f"{name}{folder}" for name in names for folder in level]
    images = pictures_at(folder / "photos", [f"{name}{n}.png" for name in names for n in (1, 2)])
    plan_study(table=None, images=images, pattern=pattern, folder=folder / "study").write()
    return table_of(folder / "study")


NUMBERS = [f"PAT{s:02}/" for s in PEOPLE]
FINDINGS = ["benign/", "malignant/"]


def test_folders_of_hospitals_are_no_classes(tmp_path: Path) -> None:
    rows = of_folders(tmp_path, ["Klinikum Nord/", "Praxis Ost/"], FINDINGS, NUMBERS)
    assert {row["label"] for row in rows} == {"benign", "malignant"}
    assert {row["subject"] for row in rows if "Ost" in row["path"]} == {f"Praxis Ost-PAT{s:02}" for s in PEOPLE}


def test_folders_beside_classes_may_divide_people(tmp_path: Path) -> None:
    with pytest.raises(CasewiseError, match=r"PAT01 is in Bern, Graz.*'\{hospital\}/\{label\}/\{subject\}/\*.png'"):
        of_folders(tmp_path, ["Bern/", "Graz/"], FINDINGS, NUMBERS)


@pytest.mark.parametrize(("place", "people"), [("hospital", 2 * len(PEOPLE)), ("place", len(PEOPLE))])
def test_a_stated_hospital_divides_people(place: str, people: int, tmp_path: Path) -> None:
    pattern = f"{{{place}}}/{{label}}/{{subject}}/*.png"
    rows = of_folders(tmp_path, ["Bern/", "Graz/"], FINDINGS, NUMBERS, pattern=pattern)
    assert len({row["subject"] for row in rows}) == people


def test_two_levels_of_folders_that_may_be_classes(tmp_path: Path) -> None:
    with pytest.raises(CasewiseError, match=r"WHICH FOLDERS ARE THE CLASSES.*clinical, dermoscopy or acne, eczema"):
        of_folders(tmp_path, ["clinical/", "dermoscopy/"], ["acne/", "eczema/"], NUMBERS)


@pytest.mark.parametrize("others", [["mild/", "severe/"], ["no_flash/", "flash/"], ["normal_light/", "cross_light/"]])
def test_words_that_are_also_no_findings_decide_nothing(others: list[str], tmp_path: Path) -> None:
    with pytest.raises(CasewiseError, match="WHICH FOLDERS ARE THE CLASSES"):
        of_folders(tmp_path, ["acne/", "rosacea/"], others, NUMBERS)


def test_places_beside_classes_may_be_people(tmp_path: Path) -> None:
    with pytest.raises(
        CasewiseError, match=r"PEOPLE OR HOSPITALS\? The folders Bonn, Jena .* '\{subject\}/\{label\}/\*.png'"
    ):
        of_folders(tmp_path, ["Bonn/", "Jena/"], FINDINGS, ["img"])
