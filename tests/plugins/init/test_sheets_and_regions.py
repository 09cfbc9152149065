"""Workbooks with several sheets, each as a table; and visits without a photograph of every region."""

from pathlib import Path

import pandas as pd
import pytest

from casewise.cohort.cohort import read_cohort
from casewise.console import Silent
from casewise.errors import CasewiseError
from casewise.pipeline.external import read_external
from casewise.pipeline.read import validate
from casewise.plugins.init.preset import plan_preset
from casewise.study.loading import read_study
from tests.plugins.init.own_data import table_of
from tests.plugins.init.test_joining import arrange, pictures, plain, planned, scores, written  # noqa: F401


@pytest.fixture
def book(scores: pd.DataFrame, tmp_path: Path) -> Path:  # noqa: F811
    """Notes, ages and scores, in this order."""
    people = pd.DataFrame({"subject": [f"S{s:02}" for s in range(1, 7)], "age": range(40, 46)})
    with pd.ExcelWriter(tmp_path / "book.xlsx") as writer:
        pd.DataFrame({"note": ["a", "b"]}).to_excel(writer, sheet_name="Notes", index=False)
        people.to_excel(writer, sheet_name="People", index=False)
        scores.to_excel(writer, sheet_name="Scores", index=False)
    return tmp_path / "book.xlsx"


@pytest.mark.parametrize(
    ("parts", "sheets"),
    [
        (["{}:Scores", "{}:People"], ""),
        (["{}", "{}"], ["Scores", "People"]),
        (["{}:Scores", "{}"], ["People"]),
        (["{}", "{}:People"], "Scores"),
    ],
)
def test_each_table_has_its_sheet(
    parts: list[str],
    sheets: str | list[str],
    book: Path,
    scores: pd.DataFrame,  # noqa: F811
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    images = arrange(pictures, tmp_path / "photos")
    tables = [Path(part.format(book)) for part in parts]
    plan_preset("onestep-pasi", table=tables, sheet=sheets, images=images, folder=tmp_path / "study").write()
    rows = table_of(tmp_path / "study")
    expected = {(r.subject, r.visit, r.region): str(r.erythema) for r in scores.itertuples()}
    assert all(expected[row["subject"], row["visit"], row["region"]] == row["erythema"] for row in rows)
    assert {row["subject"]: row["age"] for row in rows} == {f"S{s:02}": str(39 + s) for s in range(1, 7)}


@pytest.mark.parametrize(
    ("parts", "sheets"),
    [
        (["{}", "{}"], "People"),
        (["{}", "{}"], ""),
        (["{}:Scores", "{}:Scores"], ""),
        (["{}:Scores"], "People"),
        (["{}"], ["People", "Scores"]),
        (["{}:Scors"], ""),
    ],
)
def test_an_unclear_sheet_is_refused(parts: list[str], sheets: str | list[str], book: Path, tmp_path: Path) -> None:
    with pytest.raises(CasewiseError, match=r"xlsx:SHEET|Did you mean 'Scores'"):
        plan_preset(
            "onestep-pasi",
            table=[Path(part.format(book)) for part in parts],
            sheet=sheets,
            images=tmp_path,
            folder=tmp_path / "study",
        )


def test_a_visit_without_a_region_is_left_out_until_the_study_allows_it(
    scores: pd.DataFrame,  # noqa: F811
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    def name(s: int, v: int, region: str, n: int) -> str:
        return "" if (s, v, region) in {(2, 4, "trunk"), (3, 0, "lower")} else plain(s, v, region, n)

    images = arrange(pictures, tmp_path / "photos", name)
    plan = planned("onestep-pasi", written({"s.csv": scores}, tmp_path), images, tmp_path / "study")
    assert "S02 week4 (trunk); S03 week0 (lower)" in plan.doubts[0].replace("), S03", "); S03")
    study = read_study(tmp_path / "study" / "study.yaml")
    assert validate(study, Silent())
    cases = set(read_cohort(study).cases["case"])
    assert len(cases) == 16
    assert not cases & {"S02/week4", "S03/week0"}
    (line,) = [text for text in (tmp_path / "study" / "study.yaml").read_text().splitlines() if "# external" in text]
    import yaml

    outside = yaml.safe_load(line.removeprefix("# "))["external"]
    other = read_study(tmp_path / "study" / "study.yaml", external={**outside, "subjects": "distinct", "name": "other"})
    assert set(read_external(other, read_cohort(other))[1].cases["case"]) == cases
    allowed = study.model_copy(update={"where": {"image_found": ["yes"]}, "missing_regions": "allow"})
    assert len(read_cohort(allowed).cases) == 18
    folders = plan_preset("onestep-pasi", images=images, folder=tmp_path / "folders")
    folders.write()
    flags = {(row["subject"], row["visit"]) for row in table_of(tmp_path / "folders") if row["every_region"] == "no"}
    assert flags == {("S02", "week4"), ("S03", "week0")}
    assert set(read_study(tmp_path / "folders" / "study.yaml").where) == {"every_region"}
    complete = planned(
        "onestep-pasi",
        written({"s.csv": scores}, tmp_path),
        arrange(pictures, tmp_path / "all"),
        tmp_path / "complete",
    )
    assert "every_region" not in complete.text
    assert "every_region" not in plan_preset("onestep-pasi", images=tmp_path / "all", folder=tmp_path / "no").text


def sheets_of_visits(book: Path, scores: pd.DataFrame, **names: str) -> Path:  # noqa: F811
    """A sheet for each visit, without a column of visits."""
    with pd.ExcelWriter(book) as writer:
        for visit, table in scores.groupby("visit", sort=False):
            table.drop(columns=["visit", "day"]).to_excel(writer, sheet_name=names.get(visit, visit), index=False)
    return book


@pytest.mark.parametrize("parts", [["{}"], ["{}:week0", "{}:week4", "{}:week12"]])
def test_sheets_named_like_visits_are_visits(
    parts: list[str],
    scores: pd.DataFrame,  # noqa: F811
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    images, book = arrange(pictures, tmp_path / "photos"), sheets_of_visits(tmp_path / "visits.xlsx", scores)
    tables = [Path(part.format(book)) for part in parts]
    plan_preset("onestep-pasi", table=tables, images=images, folder=tmp_path / "study").write()
    rows = table_of(tmp_path / "study")
    expected = {(r.subject, r.visit, r.region): str(r.erythema) for r in scores.itertuples()}
    assert {(row["subject"], row["visit"], row["region"]): row["erythema"] for row in rows} == expected


def test_sheets_of_visits_with_other_columns_are_refused(
    scores: pd.DataFrame,  # noqa: F811
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    book = tmp_path / "visits.xlsx"
    with pd.ExcelWriter(book) as writer:
        scores.drop(columns="visit").to_excel(writer, sheet_name="Baseline", index=False)
        scores.drop(columns=["visit", "area"]).to_excel(writer, sheet_name="Follow-up", index=False)
    with pytest.raises(CasewiseError, match=r"named like visits.*has area.*visits\.xlsx:Baseline"):
        plan_preset("onestep-pasi", table=[book], images=arrange(pictures, tmp_path / "photos"), folder=tmp_path)


def test_one_sheet_of_a_visit_gives_a_doubt_about_the_others(
    scores: pd.DataFrame,  # noqa: F811
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    book = sheets_of_visits(tmp_path / "visits.xlsx", scores)
    images = arrange(pictures, tmp_path / "photos")
    plan = plan_preset("onestep-pasi", table=[Path(f"{book}:week4")], images=images, folder=tmp_path / "study")
    assert any(doubt.startswith("ONE VALUE FOR ALL VISITS?") for doubt in plan.doubts)


def test_sheets_of_visits_may_state_their_visit_and_some_may_be_empty(
    scores: pd.DataFrame,  # noqa: F811
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    book = tmp_path / "visits.xlsx"
    with pd.ExcelWriter(book) as writer:
        for visit, table in scores.groupby("visit", sort=False):
            table.to_excel(writer, sheet_name=visit, index=False)
        scores.head(0).to_excel(writer, sheet_name="week52", index=False)
    images = arrange(pictures, tmp_path / "photos")
    plan_preset("onestep-pasi", table=[book], images=images, folder=tmp_path / "study").write()
    expected = {(r.subject, r.visit, r.region): str(r.erythema) for r in scores.itertuples()}
    rows = table_of(tmp_path / "study")
    assert {(row["subject"], row["visit"], row["region"]): row["erythema"] for row in rows} == expected


def test_a_sheet_of_ages_beside_one_of_scores_is_no_visit(
    scores: pd.DataFrame,  # noqa: F811
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    book, people = tmp_path / "two.xlsx", sorted(set(scores["subject"]))
    with pd.ExcelWriter(book) as writer:
        pd.DataFrame({"subject": people, "age": range(40, 46)}).to_excel(writer, sheet_name="Baseline", index=False)
        scores.to_excel(writer, sheet_name="Week 4", index=False)
    images = arrange(pictures, tmp_path / "photos")
    tables = [Path(f"{book}:{sheet}") for sheet in ("Week 4", "Baseline")]
    plan_preset("onestep-pasi", table=tables, images=images, folder=tmp_path / "study").write()
    assert {row["subject"]: row["age"] for row in table_of(tmp_path / "study")} == {
        name: str(40 + i) for i, name in enumerate(people)
    }
