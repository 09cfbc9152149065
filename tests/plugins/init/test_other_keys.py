"""Paths that fit a table in more than one way, or in a way that gives images the values of others, are refused."""

from pathlib import Path

import pytest

from casewise.errors import CasewiseError
from casewise.plugins.init.own_data import plan_study
from tests.plugins.init.test_forms_of_hospitals import PEOPLE, Rows, joined, plan_of

WEEKS = (0, 4, 12)


def of_weeks(extra: tuple[str, ...] = ()) -> list[str]:
    return [f"{s:03}_WK{week:02}_{n}.png" for s in PEOPLE for week in WEEKS for n in (1, 2)] + list(extra)


@pytest.mark.parametrize("heading", ["PASI Baseline,PASI Week 4,PASI Week 12", "Baseline,Week 4,Week 12"])
@pytest.mark.parametrize("extra", ["002_ET_1.png", "003_Abbruch_1.png"])
def test_one_visit_that_the_columns_lack_gives_no_photograph_the_value_of_another(
    heading: str, extra: str, tmp_path: Path
) -> None:
    rows: Rows = [(f"{s:03}", s, s + 20, s + 40) for s in PEOPLE]
    plan = plan_of(tmp_path, f"patient,{heading}", rows, of_weeks((extra,)))
    value = dict(zip(WEEKS, (0, 20, 40), strict=True))
    assert joined(tmp_path, plan.target) == {
        f"{s:03}_WK{week:02}_{n}.png": str(s + value[week]) for s in PEOPLE for week in WEEKS for n in (1, 2)
    }
    assert any(doubt.startswith("Images in no row") and extra in doubt for doubt in plan.doubts)


def test_a_stated_target_beside_columns_of_visits_is_meant(tmp_path: Path) -> None:
    rows: Rows = [(f"{s:03}", s, s + 20, "ab"[s % 2]) for s in PEOPLE]
    names = [f"{s:03}_{n}.png" for s in PEOPLE for n in (1, 2)]
    heads = "patient,PASI Baseline,PASI Week 4,response"
    with pytest.raises(CasewiseError, match="say so with --target"):
        plan_of(tmp_path, heads, rows, names)
    plan_of(tmp_path, heads, rows, names, target="response")
    assert joined(tmp_path, "response") == {f"{s:03}_{n}.png": "ab"[s % 2] for s in PEOPLE for n in (1, 2)}
    rows = [(f"{s:03}", s, s + 20, s + 40) for s in PEOPLE]
    with pytest.raises(CasewiseError, match="became rows, with their values in the column 'pasi'"):
        plan_of(
            tmp_path / "visits", "patient,PASI Week 0,PASI Week 4,PASI Week 12", rows, of_weeks(("002_ET_1.png",)),
            target="PASI Week 4",
        )  # fmt: skip


def test_columns_of_visits_that_the_paths_state_are_joined(tmp_path: Path) -> None:
    rows: Rows = [(f"{s:03}", s, s + 20, s + 40) for s in PEOPLE]
    plan_of(tmp_path, "patient,PASI Week 0,PASI Week 4,PASI Week 12", rows, of_weeks(), target="pasi")
    value = dict(zip(WEEKS, (0, 20, 40), strict=True))
    assert joined(tmp_path, "pasi") == {
        f"{s:03}_WK{week:02}_{n}.png": str(s + value[week]) for s in PEOPLE for week in WEEKS for n in (1, 2)
    }


@pytest.mark.parametrize("order", ["{region}_{side}", "{side}_{region}"])
def test_columns_of_regions_with_their_side_become_rows(order: str, tmp_path: Path) -> None:
    rows: Rows = [(f"S{s:02}", f"V{v}", s, s + 1, s + 2, s + 3) for s in PEOPLE for v in (1, 2)]
    parts = {("hand", "right"): 0, ("hand", "left"): 1, ("foot", "right"): 2, ("foot", "left"): 3}

    def name(s: int, v: int, region: str, side: str) -> str:
        return f"S{s:02}_V{v}_{order.format(region=region, side=side)}.png"

    names = [name(s, v, *part) for s in PEOPLE for v in (1, 2) for part in parts]
    plan = plan_of(tmp_path, "subject,visit,Hand R,Hand L,Foot R,Foot L", rows, names)
    expected = {name(s, v, *part): str(s + more) for s in PEOPLE for v in (1, 2) for part, more in parts.items()}
    assert joined(tmp_path, plan.target) == expected


def test_two_numbers_of_a_person_are_refused_until_one_is_stated(tmp_path: Path) -> None:
    other = dict(zip(PEOPLE, [*PEOPLE[1:], PEOPLE[0]], strict=True))
    rows: Rows = [(s, other[s], f"wk{week}", s * 3 + week) for s in PEOPLE for week in (0, 4)]
    names = [f"{s:02}/wk{week}/a.png" for s in PEOPLE for week in (0, 4)]
    with pytest.raises(CasewiseError, match=r"may state 'Subject' or 'Rand No'.*--subject 'Rand No'"):
        plan_of(tmp_path, "Subject,Rand No,Week,PASI", rows, names, target="PASI")
    table, images = tmp_path / "table.csv", tmp_path / "photos"
    plan_study(table=table, images=images, subject="Rand No", target="PASI", folder=tmp_path / "study").write()
    assert joined(tmp_path, "PASI") == {
        f"{other[s]:02}/wk{week}/a.png": str(s * 3 + week) for s in PEOPLE for week in (0, 4)
    }


def test_two_columns_of_visits_are_refused(tmp_path: Path) -> None:
    week = {2: 1, 3: 2, 4: 3, 1: 4}
    rows: Rows = [(f"S{s:02}", visit, week[visit], s + visit * 10) for s in PEOPLE for visit in week]
    names = [f"S{s:02}/{visit}/a.png" for s in PEOPLE for visit in week]
    with pytest.raises(CasewiseError, match="may state 'Visit' or 'Week'"):
        plan_of(tmp_path, "Subject,Visit,Week,PASI", rows, names)


def test_a_date_alone_names_no_person(tmp_path: Path) -> None:
    rows: Rows = [
        (f"ACN-01-{s:03}", visit, f"2022-{s:02}-{visit + 1:02}", s * 10 + visit) for s in PEOPLE for visit in (1, 2)
    ]
    # photographs of the third person have the dates of another one
    dates = {(s, visit): f"2022-{s + (s == 3):02}-{visit + 1:02}" for s in PEOPLE for visit in (1, 2) if s != 4}
    names = [f"Site 01/Subject {s:03}/Visit {visit} ({date})/a.png" for (s, visit), date in dates.items()]
    plan = plan_of(tmp_path, "USUBJID,VISITNUM,QSDTC,PASI", rows, names, target="PASI")
    assert joined(tmp_path, "PASI") == {
        name: str(s * 10 + visit) for name, (s, visit) in zip(names, dates, strict=True) if s != 3
    }
    assert any("Images in no row of the table, which are not used: 2" in doubt for doubt in plan.doubts)
