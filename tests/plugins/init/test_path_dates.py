"""Dates in the paths of images: in whatever form they are written, no part of one is a visit, a number or a person."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest

from casewise.errors import CasewiseError
from casewise.plugins.init.joins.path_dates import dates_in
from tests.plugins.init.test_forms_of_hospitals import PEOPLE, Rows, joined, plan_of

VISITS = (1, 2, 3)
LONG = "patient,visit,date,easi"
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
GERMAN = [
    "Januar",
    "Februar",
    "März",
    "April",
    "Mai",
    "Juni",
    "Juli",
    "August",
    "September",
    "Oktober",
    "November",
    "Dezember",
]


def day(person: int, visit: int) -> date:
    return date(2022, 1, 3) + timedelta(days=3 * person + 58 * visit + person * visit % 5)


def score(person: int, visit: int) -> str:
    return f"{person * 5 % 19 + 20 * visit}.5"


def rows_of(form: str = "%Y-%m-%d", later: int = 0) -> Rows:
    return [
        (f"P{s:02}", f"V{v}", (day(s, v) + timedelta(days=later)).strftime(form), score(s, v))
        for s in PEOPLE for v in VISITS
    ]  # fmt: skip


def photographs(name: Callable[[int, date, int], str], running: bool) -> dict[str, str]:
    """The score of each photograph, whose number starts again at each visit, or runs over all visits."""
    return {
        name(s, day(s, v), 2 * v - 2 + n if running else n): score(s, v) for s in PEOPLE for v in VISITS for n in (1, 2)
    }


FORMS: dict[str, Callable[[int, date, int], str]] = {
    "underscores": lambda s, d, n: f"P{s:02}_{d:%Y_%m_%d}_{n}.png",
    "spaces": lambda s, d, n: f"P{s:02} {d:%d %m %Y} {n}.png",
    "six digits": lambda s, d, n: f"P{s:02}_{d:%y%m%d}_{n}.png",
    "short year": lambda s, d, n: f"P{s:02}/{d:%d.%m.%y}_{n}.png",
    "eight digits": lambda s, d, n: f"P{s:02}-{d:%d%m%Y}-{n}.png",
    "month by name": lambda s, d, n: f"P{s:02}_{d.day}{MONTHS[d.month - 1]}{d.year}_{n}.png",
    "American": lambda s, d, n: f"P{s:02}/{MONTHS[d.month - 1]} {d.day}, {d.year}/{n}.png",
    "German": lambda s, d, n: f"P{s:02}_{d.day}. {GERMAN[d.month - 1]} {d.year}_{n}.png",
    "a time": lambda s, d, n: f"P{s:02}/{d:%Y-%m-%d}_11-3{n}.png",
    "a phone": lambda s, d, n: f"P{s:02}/IMG_{d:%Y%m%d}_11300{n}.png",
}


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_dates_join_in_whatever_form_they_are_written(form: str, running: bool, tmp_path: Path) -> None:
    expected = photographs(FORMS[form], running)
    plan_of(tmp_path, LONG, rows_of(), list(expected))
    assert joined(tmp_path, "easi") == expected


@pytest.mark.parametrize("later", [-1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_numbers_that_count_photographs_are_no_visits(form: str, later: int, tmp_path: Path) -> None:
    with pytest.raises(CasewiseError, match=r"The paths have dates, such as .* of 60 paths have one of the col"):
        plan_of(tmp_path, LONG, rows_of(later=later), list(photographs(FORMS[form], running=True)))


@pytest.mark.parametrize("part", ["month", "day"])
@pytest.mark.parametrize("column", ["visit", "week", "month"])
def test_a_part_of_a_date_is_no_visit(part: str, column: str, tmp_path: Path) -> None:
    def written(v: int) -> str:
        return f"2022-0{v % 3 + 1}-1{v}" if part == "month" else f"2022-0{v + 4}-0{v % 3 + 1}"

    rows: Rows = [(f"P{s:02}", v, score(s, v)) for s in PEOPLE for v in VISITS]
    names = [f"P{s:02}/{written(v)}/{n}.png" for s in PEOPLE for v in VISITS for n in (1, 2)]
    with pytest.raises(CasewiseError, match=r"the table has none: add a column `date`"):
        plan_of(tmp_path, f"patient,{column},easi", rows, names)


def test_a_part_of_a_date_is_no_person(tmp_path: Path) -> None:
    names = [f"2022-{s % 12 + 1:02}-{s:02}/IMG_1.png" for s in PEOPLE]
    with pytest.raises(CasewiseError, match="'1' of the table has images under 10 names"):
        plan_of(tmp_path, "patient,easi", [(s, score(s, 1)) for s in PEOPLE], names)


@pytest.mark.parametrize("heads", ["patient,visit,day,date of visit,easi", "patient,visit,day,entered,easi"])
def test_dates_count_beside_a_column_of_days_too(heads: str, tmp_path: Path) -> None:
    rows: Rows = [(s, v, 58 * int(v[1:]), d, e) for s, v, d, e in rows_of()]  # type: ignore[call-overload]
    names = list(photographs(lambda s, d, n: f"P{s:02}/V{n}/{d:%Y%m%d}.png", running=False))
    with pytest.raises(CasewiseError, match=r"WHICH VISIT\? \d+ images have the date of another visit in the path"):
        plan_of(tmp_path, heads, rows, names)


def test_one_column_of_dates_is_that_of_the_images(tmp_path: Path) -> None:
    rows: Rows = [(s, d, str(day(int(s[1:]), int(v[1:]) - 1)), e) for s, v, d, e in rows_of()]  # type: ignore[index]
    expected = photographs(lambda s, d, n: f"P{s:02}/{d}/{n}.png", running=False)
    plan_of(tmp_path, "patient,date of photo,previous visit,easi", rows, list(expected))
    assert joined(tmp_path, "easi") == expected
    others = [(s, before, d, e) for s, d, before, e in rows]
    with pytest.raises(CasewiseError, match=r"WHICH DATE IS THAT OF THE IMAGES\? By date of visit, 40 .* by came 60"):
        plan_of(tmp_path / "two", "patient,date of visit,came,easi", others, list(expected))


def test_a_date_far_from_that_of_its_row(tmp_path: Path) -> None:
    rows: Rows = [(f"P{s:02}", str(day(s, 1)), score(s, 1)) for s in PEOPLE]
    names = {f"P{s:02}_{day(s, 1)}.png": score(s, 1) for s in PEOPLE if s != 4} | {"P04_2023-05-01.png": ""}
    plan = plan_of(tmp_path, "patient,date of visit,easi", rows, list(names))
    assert joined(tmp_path, "easi") == {name: value for name, value in names.items() if value}
    assert any("P04_2023-05-01.png" in doubt for doubt in plan.doubts)


def test_numbers_of_a_camera_are_no_people(tmp_path: Path) -> None:
    rows: Rows = [(s, str(day(s, 1)), score(s, 1)) for s in PEOPLE]
    names = [f"DSC_{day(s, 1):%Y%m%d}_{s % len(PEOPLE) + 1:04}.png" for s in PEOPLE]
    with pytest.raises(CasewiseError, match=r"OTHER DATES\? .* The numbers of the files may count photographs"):
        plan_of(tmp_path, "patient,date,easi", rows, names)


def test_a_stated_date_is_a_date(tmp_path: Path) -> None:
    names = photographs(lambda s, d, n: f"P{s:02}_{d:%d_%m_%Y}_{n}.png", running=False)
    plan_of(tmp_path, LONG, rows_of(), list(names), pattern="{subject}_{date}_{n}.png")
    assert joined(tmp_path, "easi") == names
    other = [f"P{s:02}_x{v}_{n}.png" for s in PEOPLE for v in VISITS for n in (1, 2)]
    with pytest.raises(CasewiseError, match=r"\{date\} is 'x1' in P01_x1_1.png, which is no date"):
        plan_of(tmp_path / "other", LONG, rows_of(), other, pattern="{subject}_{date}_{n}.png")


@pytest.mark.parametrize("form", ["{:%Y-%m}", "{:%b %Y}", "{:%d.%m.%y}", "{:%d_%m_%Y}"])
def test_one_value_for_several_dates_is_doubted(form: str, tmp_path: Path) -> None:
    names = [f"P{s:02}/{form.format(day(s, v))}/{n}.png" for s in PEOPLE for v in VISITS for n in (1, 2)]
    plan = plan_of(tmp_path, "patient,easi", [(f"P{s:02}", score(s, 1)) for s in PEOPLE], names)
    assert any(
        doubt.startswith("ONE VALUE FOR ALL VISITS? The table has no visit, and 10 rows") for doubt in plan.doubts
    )


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("S01_2023_1_2", []),  # a year, a visit and a number
        ("P01_01_02", []),
        ("film 1.2.840.10008", []),
        ("x_31-12-2021_y", ["2021-12-31"]),
        ("x_05-12-2021", ["?"]),
        ("2021-02-30", ["?"]),  # a month
        ("3 de marzo", []),
        ("12Août2021", ["2021-08-12"]),
    ],
)
def test_texts_that_may_be_dates(text: str, days: list[str]) -> None:
    found = dates_in([[text]])[0].get(-1, [])
    assert [date.fromordinal(own.day).isoformat() if own.day else "?" for own in found] == days


def test_the_table_shows_the_order_of_day_and_month() -> None:
    texts = [["05-12-2021"], ["06-11-2021"]]
    for order in ((2021, 12, 5), (2021, 5, 12)):
        (own,) = dates_in(texts, {date(*order).toordinal()})[0][-1]
        assert own.day == date(*order).toordinal()


def test_hospitals_with_dates_in_other_orders_are_not_read_by_the_order_of_another_one(tmp_path: Path) -> None:
    rows: Rows = [(f"A{s:02}", f"2022-{s:02}-{13 + s}", s) for s in range(1, 10)]
    rows += [(f"B{s:02}", own, 20 + s) for s in range(1, 10) for own in (f"2022-{s:02}-10", f"2022-10-{s:02}")]
    names = [f"A{s:02}/{13 + s}-{s:02}-2022/1.png" for s in range(1, 10)]
    names += [f"B{s:02}/{text}/1.png" for s in range(1, 10) for text in (f"{s:02}-10-2022", f"10-{s:02}-2022")]
    with pytest.raises(CasewiseError, match=r"The paths have dates, such as .* 9 of 27 paths have one of the column"):
        plan_of(tmp_path, "patient,date,easi", rows, names)


@pytest.mark.parametrize("apart", [1, 4])
def test_numbers_that_count_photographs_of_a_day_are_no_people(apart: int, tmp_path: Path) -> None:
    dates = [date(2023, 3, 1) + timedelta(days=apart * n) for n in range(30)]
    rows: Rows = [(n + 1, str(own), n % 7) for n, own in enumerate(dates)]
    taken = [*dates[:12], dates[11], *dates[12:]]  # one was photographed twice
    names = [f"{own:%Y%m%d}/IMG_{n + 1:03}.png" for n, own in enumerate(taken)]
    with pytest.raises(CasewiseError, match=r"OTHER DATES\? .* to a subject who has another date than the path"):
        plan_of(tmp_path, "patient,date,easi", rows, names)


@pytest.mark.parametrize("letter", ["V", ""])
def test_a_visit_is_read_where_it_is_spelled_as_in_the_table(letter: str, tmp_path: Path) -> None:
    expected = {f"P{s:02}_V{v}_{n}.png": score(s, v) for s in PEOPLE for v in VISITS for n in VISITS}
    rows: Rows = [(f"P{s:02}", f"{letter}{v}", score(s, v)) for s in PEOPLE for v in VISITS]
    plan_of(tmp_path, "patient,visit,easi", rows, list(expected))
    assert joined(tmp_path, "easi") == expected


@pytest.mark.parametrize("heading", ["surgery date", "OP-Datum", "date of diagnosis"])
def test_a_date_of_the_person_takes_no_image_from_a_visit(heading: str, tmp_path: Path) -> None:
    rows: Rows = [(p, v, str(day(int(str(p)[1:]), 1)), e) for p, v, _, e in rows_of()]
    expected = photographs(
        lambda s, d, n: f"P{s:02}/V{1 + (d - day(s, 1)).days // 50}/{d:%Y%m%d}_{n}.png", running=False
    )
    plan_of(tmp_path, f"patient,visit,{heading},easi", rows, list(expected))
    assert joined(tmp_path, "easi") == expected


def test_a_typing_error_makes_no_other_column_the_date_of_images(tmp_path: Path) -> None:
    rows: Rows = [
        (f"P{s:02}", f"{day(s, v):%d.%m.%Y}", f"{day(s, v + 1):%d.%m.%Y}", score(s, v)) for s in PEOPLE for v in VISITS
    ]
    rows[0] = ("P01", "31.02.2022", *rows[0][2:])
    names = photographs(lambda s, d, n: f"P{s:02}/{d}/{n}.png", running=False)
    with pytest.raises(CasewiseError, match=r"WHICH DATE IS THAT OF THE IMAGES\? By next control date"):
        plan_of(tmp_path, "patient,visit date,next control date,easi", rows, list(names))


def test_a_second_date_in_a_path_may_be_of_another_visit(tmp_path: Path) -> None:
    rows: Rows = [(p, d, e) for p, _, d, e in rows_of()]
    names = [f"P{s:02}/{day(s, v + 1)}/{day(s, v):%Y%m%d}_1.png" for s in PEOPLE for v in (1, 2)]
    with pytest.raises(
        CasewiseError, match=r"can be read as \{subject\}/\*/\{visit\}_\*.png or as \{subject\}/\{visit\}"
    ):
        plan_of(tmp_path, "patient,date,easi", rows, names)


def test_a_visit_with_a_further_number_is_another_one(tmp_path: Path) -> None:
    expected = {f"P{s:02}/V{v}/1.png": score(s, v) for s in PEOPLE for v in VISITS}
    plan_of(tmp_path, "patient,visit,easi", [(p, v, e) for p, v, _, e in rows_of()], [*expected, "P02/V2.1/1.png"])
    assert joined(tmp_path, "easi") == expected
