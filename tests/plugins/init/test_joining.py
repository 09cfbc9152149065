"""A sponsor's tables of scores joined to photographs in folders: six forms of tables, with the preset and without."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import casewise
from casewise.cohort.cohort import read_cohort
from casewise.console import Silent
from casewise.errors import CasewiseError
from casewise.pipeline.read import validate
from casewise.plugins.init.key_names import days_of_visits, words
from casewise.plugins.init.new_study import NewStudy
from casewise.plugins.init.own_data import plan_study
from casewise.plugins.init.preset import plan_preset
from casewise.study.loading import read_study
from tests.plugins.init.own_data import table_of

TARGETS = ["erythema", "induration", "scaling", "area"]
VISITS, REGIONS = (0, 4, 12), {"upper": 4, "trunk": 2, "lower": 2}


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    """A row for each region and visit of six subjects."""
    draw = np.random.default_rng(5)
    rows = [
        {"subject": f"S{s:02}", "visit": f"week{v}", "day": 7 * v, "region": region}
        | dict(zip(TARGETS, (*draw.integers(0, 5, 3).tolist(), int(draw.integers(1, 7))), strict=True))
        for s in range(1, 7)
        for v in VISITS
        for region in REGIONS
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Photographs of 16 pixels by subject, week, region and number, all different."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(6)
    for s in range(1, 7):
        for v in VISITS:
            for region, count in REGIONS.items():
                for n in range(1, count + 1):
                    pixels = draw.integers(0, 255, (16, 16, 3)).astype(np.uint8)
                    Image.fromarray(pixels).save(folder / f"{s}-{v}-{region}-{n}.png")
    yield folder
    shutil.rmtree(folder)


Name = Callable[[int, int, str, int], str]


def plain(s: int, v: int, region: str, n: int) -> str:
    return f"S{s:02}/week{v}/{region}_{n}.png"


def arrange(pictures: Path, folder: Path, name: Name = plain) -> Path:
    """The photographs under other names; none where the name is empty."""
    for source in pictures.iterdir():
        s, v, region, n = source.stem.split("-")
        if path := name(int(s), int(v), region, int(n)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / path)
    return folder


def by_region(scores: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], Name]:
    return {"scores.csv": scores}, plain


def by_visit(scores: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], Name]:
    """A column for each score and region; days only in the names of the visits."""
    wide = scores.pivot(index=["subject", "visit"], columns="region", values=TARGETS)
    wide.columns = [f"{target} {region}" for target, region in wide.columns]
    return {"scores.csv": wide.reset_index()}, plain


def adqs(scores: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], Name]:
    """Long, in the words of ADaM; folders have the end of the subject and other names of visits."""
    long = scores.melt(id_vars=["subject", "visit", "day", "region"], value_vars=TARGETS)
    week = long["visit"].str[4:].astype(int)
    codes = dict(zip(TARGETS, ("ERYTHEMA", "INDURAT", "SCALING", "AREA"), strict=True))
    table = pd.DataFrame(
        {
            "STUDYID": "CW1",
            "USUBJID": "CW1-" + long["subject"].str[1:].str.zfill(3),
            "AVISIT": ["Baseline" if w == 0 else f"Week {w}" for w in week],
            "AVISITN": week,
            "ADY": long["day"],
            "PARAMCD": long["variable"].map(codes),
            "PARAM": long["variable"].str.title() + " score",
            "QSLOC": long["region"].str.upper(),
            "AVAL": long["value"],
        }
    )
    return {"adqs.csv": table}, lambda s, v, region, n: f"{s:02}/{f'W{v:02}' if v else 'bl'}/{region}_{n}.png"


def by_number(scores: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], Name]:
    """A row for each photograph, with its number; all in one folder."""
    rows = [{**row, "photo": n} for row in scores.to_dict("records") for n in range(1, REGIONS[row["region"]] + 1)]
    table = pd.DataFrame(rows).rename(columns={"subject": "Patient ID", "visit": "Visit"})
    return {"photos.csv": table}, lambda s, v, region, n: f"s{s}_Week-{v}_{region}_{n:02}.png"


def by_date(scores: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], Name]:
    """German dates instead of visits, and days of the schedule a little missed."""
    start = pd.Timestamp("2024-03-01") + pd.to_timedelta(scores["subject"].str[1:].astype(int), unit="D")
    when = start + pd.to_timedelta(scores["day"] + (scores["day"] > 0) * 2, unit="D")
    table = scores.drop(columns=["visit", "day"]).assign(Datum=when.dt.strftime("%d.%m.%Y"))
    return {"scores.csv": table}, plain


def dated(scores: pd.DataFrame) -> pd.DataFrame:
    """Dates instead of days, with visits two days late."""
    start = pd.Timestamp("2024-03-01") + pd.to_timedelta(scores["subject"].str[1:].astype(int), unit="D")
    when = start + pd.to_timedelta(scores["day"] + (scores["day"] > 0) * 2, unit="D")
    return scores.drop(columns="day").assign(date=when.dt.strftime("%Y-%m-%d"))


def three_files(scores: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], Name]:
    """Scores, demography by subject and treatment by subject and visit, with subjects in three spellings."""
    people = sorted(set(scores["subject"]))
    demography = pd.DataFrame({"subject_id": [p.replace("S", "S-") for p in people], "age": range(40, 46)})
    visits = scores[["subject", "visit"]].drop_duplicates()
    visits["arm"] = ["active" if int(s[1:]) % 2 else "placebo" for s in visits["subject"]]
    tables = {"demography.csv": demography, "scores.csv": scores.drop(columns="day"), "treatment.csv": visits}
    return tables, lambda s, v, region, n: f"s{s}/week {v}/{region}_{n}.png"


FORMS = (by_region, by_visit, adqs, by_number, by_date, three_files)


def written(tables: dict[str, pd.DataFrame], folder: Path) -> list[Path]:
    for name, frame in tables.items():
        frame.to_csv(folder / name, index=False)
    return [folder / name for name in tables]


def planned(preset: str, tables: list[Path], images: Path, folder: Path, **options: Any) -> NewStudy:
    if preset:
        new = plan_preset(preset, table=tables, images=images, folder=folder, **options)
    else:
        new = plan_study(table=tables, images=images, folder=folder, **options)
    new.write()
    return new


def test_data_frames_are_joined_to_photographs_in_one_call(
    scores: pd.DataFrame, pictures: Path, tmp_path: Path
) -> None:
    images = arrange(pictures, tmp_path / "photos", lambda s, v, r, n: f"v{v}/p{s}-{r}-{n}.png")
    people = pd.DataFrame({"subject": sorted(set(scores["subject"])), "age": range(40, 46)})
    frames = [scores.drop(columns="day"), people]
    options: dict[str, Any] = {"images": images, "target": "erythema", "backbones": [], "budget": 60, "show": False}
    pattern = "v{visit}/p{subject}-{region}-{n}.png"
    with pytest.raises(CasewiseError, match="dict"):
        casewise.fit([frames[0], {}], tmp_path / "study", pattern=pattern, **options)  # type: ignore[list-item]
    run = casewise.fit(frames, tmp_path / "study", pattern=pattern, **options)
    assert (len(run.cohort), run.cohort["subject"].nunique()) == (144, 6)
    rows = table_of(tmp_path / "study")
    expected = {(r.subject, r.visit[4:], r.region): r.erythema for r in scores.itertuples()}
    for row in rows:
        visit, name = Path(row["path"]).parts[-2:]
        assert int(row["erythema"]) == expected[row["subject"], visit[1:], name.split("-")[1]]
    assert {row["subject"]: row["age"] for row in rows} == {f"S{s:02}": str(39 + s) for s in range(1, 7)}
    with pytest.raises(CasewiseError, match="another pattern"):
        casewise.fit(frames, tmp_path / "study", **options)


@pytest.mark.parametrize("preset", ["onestep-pasi", ""])
@pytest.mark.parametrize("form", FORMS, ids=[form.__name__ for form in FORMS])
def test_a_form_of_a_sponsor_becomes_a_valid_study(
    form: Callable[[pd.DataFrame], tuple[dict[str, pd.DataFrame], Name]],
    preset: str,
    scores: pd.DataFrame,
    pictures: Path,
    tmp_path: Path,
) -> None:
    tables, name = form(scores)
    images = arrange(pictures, tmp_path / "photos", name)
    planned(preset, written(tables, tmp_path), images, tmp_path / "study")
    study = read_study(tmp_path / "study" / "study.yaml")
    cohort = read_cohort(study)
    assert (len(cohort.images), len(cohort.cases), cohort.cases["subject"].nunique()) == (144, 18, 6)
    days = cohort.cases.groupby("subject")["day"].apply(list)
    assert all(d == ([0, 30, 86] if form is by_date else [0, 28, 84]) for d in days)
    # every photograph has the score of its subject, visit and region
    expected = {
        (tmp_path / "photos" / name(int(r.subject[1:]), int(r.visit[4:]), r.region, n)).resolve(): r.erythema
        for r in scores.itertuples()
        for n in range(1, REGIONS[r.region] + 1)
    }
    (column,) = {target.removeprefix("table_") for target in table_of(tmp_path / "study")[0]} & {"erythema", "ERYTHEMA"}
    found = {(images / row["path"]).resolve(): int(row[column]) for row in table_of(tmp_path / "study")}
    assert found == expected
    if preset:
        assert cohort.cases["pasi"].notna().all() if "pasi" in cohort.cases else True
        assert {"erythema", "induration", "scaling", "area"} <= set(cohort.panels)
        assert cohort.panels[TARGETS].notna().all().all()
    assert validate(study, Silent())
    if form is three_files:
        ages = {row["subject"]: row["age"] for row in table_of(tmp_path / "study")}
        assert ages == {f"S{s:02}": str(39 + s) for s in range(1, 7)}
        assert {row["arm"] for row in table_of(tmp_path / "study")} == {"active", "placebo"}


@pytest.mark.parametrize("empty", ["DTYPE", "path", "visit date", "comment"])
@pytest.mark.parametrize("preset", ["onestep-pasi", ""])
def test_a_column_without_a_value_changes_nothing(
    preset: str, empty: str, scores: pd.DataFrame, pictures: Path, tmp_path: Path
) -> None:
    images = arrange(pictures, tmp_path / "photos")
    planned(preset, written({"full.csv": scores}, tmp_path), images, tmp_path / "full")
    planned(preset, written({"empty.csv": scores.assign(**{empty: ""})}, tmp_path), images, tmp_path / "empty")
    expected, read = ([(row["path"], row["area"]) for row in table_of(tmp_path / name)] for name in ("full", "empty"))
    assert len(read) == 144
    assert read == expected


@pytest.mark.parametrize("preset", ["onestep-pasi", ""])
def test_what_does_not_meet_is_named_and_kept_apart(
    preset: str, scores: pd.DataFrame, pictures: Path, tmp_path: Path
) -> None:
    """S06 has no photographs, and photographs of S05 have no row."""
    images = arrange(pictures, tmp_path / "photos", lambda s, *rest: plain(s, *rest) if s < 6 else "")
    tables = written({"scores.csv": scores[scores["subject"] != "S05"]}, tmp_path)
    plan = planned(preset, tables, images, tmp_path / "study")
    (rows,) = [doubt for doubt in plan.doubts if doubt.startswith("Rows without image")]
    assert "9 (S06 week0 upper" in rows
    (unused,) = [doubt for doubt in plan.doubts if doubt.startswith("Images in no row")]
    assert "24 (S05/week0/" in unused
    assert all(name in plan.text for name in ("S06 week0 upper", "S05/week0/"))
    written_rows = table_of(tmp_path / "study")
    assert sum(row["image_found"] == "no" for row in written_rows) == 9
    assert read_cohort(read_study(tmp_path / "study" / "study.yaml")).cases["subject"].nunique() == 4


@pytest.mark.parametrize(
    ("rename", "name"),
    [
        ({"S02": "S-01"}, plain),
        ({"S01": "1", "S02": "01"}, plain),
        ({}, lambda s, v, region, n: f"{'S-01' if s == 1 and v else f'S{s:02}'}/week{v}/{region}_{n}.png"),
        ({}, lambda s, v, region, n: f"site{s % 2 + 1}/S{(s + 1) // 2:02}/week{v}/{region}_{n}.png"),
        ({}, lambda s, v, region, n: f"S{(s + 1) // 2:02}{'AB'[s % 2]}/week{v}/{region}_{n}.png"),
    ],
)
def test_two_subjects_are_never_one(
    rename: dict[str, str], name: Name, scores: pd.DataFrame, pictures: Path, tmp_path: Path
) -> None:
    table = scores.replace({"subject": rename})
    if not rename and "S04" not in {name(s, 0, "upper", 1).split("/")[0] for s in range(1, 7)}:
        table = table[table["subject"] < "S04"]
    images = arrange(pictures, tmp_path / "photos", name)
    with pytest.raises(
        CasewiseError,
        match=r"Subject '?S01.*: S|Subject '?S01.*: site1|S01.*row 2.*S-01.*row 11|'1' \(row 2\).*'01' \(row 11\)",
    ):
        planned("onestep-pasi", written({"scores.csv": table}, tmp_path), images, tmp_path / "study")


def test_a_longer_name_is_another_subject(scores: pd.DataFrame, pictures: Path, tmp_path: Path) -> None:
    images = arrange(
        pictures, tmp_path / "photos", lambda s, v, region, n: plain(s, v, region, n).replace("S06", "S01-2")
    )
    tables = written({"scores.csv": scores[scores["subject"] != "S06"]}, tmp_path)
    planned("onestep-pasi", tables, images, tmp_path / "study")
    assert not any(row["path"].startswith("S01-2") for row in table_of(tmp_path / "study"))


def test_photographs_of_other_visits_do_not_get_the_scores_of_one(
    scores: pd.DataFrame, pictures: Path, tmp_path: Path
) -> None:
    tables = written({"scores.csv": scores[scores["visit"] == "week0"]}, tmp_path)
    planned("onestep-pasi", tables, arrange(pictures, tmp_path / "photos"), tmp_path / "study")
    assert {row["path"].split("/")[1] for row in table_of(tmp_path / "study")} == {"week0"}


def test_a_score_of_each_subject_joins_all_visits(scores: pd.DataFrame, pictures: Path, tmp_path: Path) -> None:
    table = scores.drop_duplicates("subject")[["subject"]].assign(score=[1.5, 2.5, 3.5, 4.5, 5.5, 6.5])
    planned("", written({"s.csv": table}, tmp_path), arrange(pictures, tmp_path / "photos"), tmp_path / "study")
    cohort = read_cohort(read_study(tmp_path / "study" / "study.yaml"))
    assert (len(cohort.images), sorted(set(cohort.cases["visit"]))) == (144, ["week0", "week12", "week4"])
    assert sorted(set(cohort.cases["day"])) == [0, 28, 84]


def test_a_stated_pattern_says_what_the_paths_mean(scores: pd.DataFrame, pictures: Path, tmp_path: Path) -> None:
    """Subjects 1 to 6 and visits 1 to 3: numbers of a path can be read in two ways."""
    table = scores.assign(subject=scores["subject"].str[1:].astype(int), visit=scores["day"].map({0: 1, 28: 2, 84: 3}))
    table = table[table["subject"] < 4]
    name = {0: 1, 4: 2, 12: 3}
    images = arrange(
        pictures, tmp_path / "photos", lambda s, v, region, n: f"{name[v]}/{s}/{region}_{n}.png" if s < 4 else ""
    )
    tables = written({"scores.csv": table}, tmp_path)
    with pytest.raises(CasewiseError, match="--pattern"):
        planned("onestep-pasi", tables, images, tmp_path / "none")
    planned("onestep-pasi", tables, images, tmp_path / "study", pattern="{visit}/{subject}/{region}_{n}.png")
    assert {(row["visit"], row["subject"]) for row in table_of(tmp_path / "study")} == {
        (str(v), str(s)) for v in (1, 2, 3) for s in (1, 2, 3)
    }
    assert all(row["path"].startswith(f"{row['visit']}/{row['subject']}/") for row in table_of(tmp_path / "study"))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda s: s.drop_duplicates("subject")[["subject"]].assign(area=99), ("area", "99", "row 2")),
        (lambda s: s[["subject", "erythema"]], ("other.csv", "S01", "rows")),
        (lambda s: s[["erythema", "scaling"]].rename(columns={"erythema": "a", "scaling": "b"}), ("other.csv", "a, b")),
    ],
)
def test_a_further_table_that_cannot_be_joined_is_refused(
    other: Callable[[pd.DataFrame], pd.DataFrame],
    named: tuple[str, ...],
    scores: pd.DataFrame,
    pictures: Path,
    tmp_path: Path,
) -> None:
    tables = written({"scores.csv": scores, "other.csv": other(scores)}, tmp_path)
    with pytest.raises(CasewiseError) as caught:
        planned("onestep-pasi", tables, pictures, tmp_path / "study")
    assert all(text in str(caught.value) for text in named)


def test_two_values_of_a_parameter_are_refused_unless_one_is_analysed(
    scores: pd.DataFrame, pictures: Path, tmp_path: Path
) -> None:
    tables, name = adqs(scores)
    frame = tables["adqs.csv"]
    frame = pd.concat([frame, frame[:1].assign(AVAL=frame["AVAL"][0] + 1)])
    images = arrange(pictures, tmp_path / "photos", name)
    with pytest.raises(CasewiseError, match=r"rows 2, 218"):
        planned("onestep-pasi", written({"adqs.csv": frame}, tmp_path), images, tmp_path / "study")
    frame = frame.assign(ANL01FL=["Y"] * (len(frame) - 1) + [""])
    planned("onestep-pasi", written({"adqs.csv": frame}, tmp_path), images, tmp_path / "study")
    assert table_of(tmp_path / "study")[0]["erythema"] == str(frame["AVAL"].iloc[0])


def test_rows_that_are_repeated_are_refused(scores: pd.DataFrame, pictures: Path, tmp_path: Path) -> None:
    images = arrange(pictures, tmp_path / "photos")
    tables = written({"scores.csv": pd.concat([scores, scores[:1].assign(area=0)])}, tmp_path)
    with pytest.raises(CasewiseError, match="rows 2, 56"):
        planned("onestep-pasi", tables, images, tmp_path / "study")


def test_values_that_no_path_has_are_named(scores: pd.DataFrame, pictures: Path, tmp_path: Path) -> None:
    table = scores.replace({"region": {"upper": "UL", "trunk": "TR", "lower": "LL"}})
    with pytest.raises(CasewiseError, match="UL, TR, LL"):
        planned("", written({"s.csv": table}, tmp_path), arrange(pictures, tmp_path / "photos"), tmp_path / "study")


@pytest.mark.parametrize(
    ("cells", "paths"),
    [
        (("Baseline", "Follow-up", "End of treatment"), ("baseline", "followup", "EndOfTreatment")),
        (("baseline", "followup 1", "followup 2"), ("Baseline", "Follow-Up_1", "follow up 2")),
    ],
)
def test_visits_written_in_one_word_or_several_are_one(
    cells: tuple[str, ...],
    paths: tuple[str, ...],
    scores: pd.DataFrame,
    pictures: Path,
    tmp_path: Path,
) -> None:
    names, folders = (dict(zip(VISITS, each, strict=True)) for each in (cells, paths))
    table = scores.assign(visit=[names[int(v.removeprefix("week"))] for v in scores["visit"]]).drop(columns="day")
    images = arrange(pictures, tmp_path / "photos", lambda s, v, region, n: f"S{s:02}/{folders[v]}/{region}_{n}.png")
    planned("onestep-pasi", written({"scores.csv": table}, tmp_path), images, tmp_path / "study")
    assert len([row for row in table_of(tmp_path / "study") if row["path"]]) == 6 * 3 * sum(REGIONS.values())


def test_a_join_of_few_rows_says_how_few(scores: pd.DataFrame, pictures: Path, tmp_path: Path) -> None:
    images = arrange(pictures, tmp_path / "photos", lambda s, v, region, n: f"S{s + 4:02}/week{v}/{region}_{n}.png")
    with pytest.raises(CasewiseError, match=r"Only 18 of 54 rows would meet an image, and 48 of 144 images a row, by"):
        planned("onestep-pasi", written({"scores.csv": scores}, tmp_path), images, tmp_path / "study")


def test_a_column_named_by_its_unit_gives_days(scores: pd.DataFrame, pictures: Path, tmp_path: Path) -> None:
    table = scores.assign(week=scores["day"] // 7).drop(columns=["visit", "day"])
    name = lambda s, v, region, n: f"{s}/{v}/{region}_{n}.png"  # noqa: E731
    images = arrange(pictures, tmp_path / "photos", name)
    planned("onestep-pasi", written({"s.csv": table}, tmp_path), images, tmp_path / "study")
    cohort = read_cohort(read_study(tmp_path / "study" / "study.yaml"))
    assert sorted(set(cohort.cases["day"])) == [0, 28, 84]


def test_names_and_days_of_visits() -> None:
    assert days_of_visits(["Baseline", "Week 4", "month 3"])[0] == ["0", "28", "91"]
    assert days_of_visits(["week4", "early termination"])[0] == []
    assert words("Woche 04", "visit") == words("W4", "visit") != words("visit 4", "visit")


def test_signs_have_the_words_of_dermatologists(scores: pd.DataFrame, pictures: Path, tmp_path: Path) -> None:
    heads = dict(zip(TARGETS, ("Redness (0-4)", "Plaque thickness", "desquamation", "Extent"), strict=True))
    images = arrange(pictures, tmp_path / "photos")
    planned("onestep-pasi", written({"scores.csv": scores.rename(columns=heads)}, tmp_path), images, tmp_path / "study")
    planned("onestep-pasi", written({"same.csv": scores}, tmp_path), images, tmp_path / "same")
    named, same = (
        [[row[target] for target in TARGETS] for row in table_of(tmp_path / name)] for name in ("study", "same")
    )
    assert named == same


def visits_joined(folder: Path) -> dict[tuple[str, str], set[str]]:
    """The folders of the photographs that each subject and erythema of a row has; the erythema names the true visit."""
    result: dict[tuple[str, str], set[str]] = {}
    for row in table_of(folder):
        weeks = result.setdefault((row["subject"], row["erythema"]), set())
        weeks |= {row["path"].split("/")[1]} if row["path"] else set()
    return result


@pytest.fixture(scope="module")
def marked(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with dates, whose erythema is 0, 1 and 2 at the three visits."""
    return dated(scores).assign(erythema=scores["day"].map({0: 0, 28: 1, 84: 2}))


EVERY = {(f"S{s:02}", str(e)): {f"week{v}"} for s in range(1, 7) for e, v in enumerate(VISITS)}


def moved(table: pd.DataFrame, subject: str, visit: str, days: int) -> pd.DataFrame:
    """The table with other dates of one visit."""
    rows = (table["subject"] == subject) & (table["visit"] == visit)
    dates = pd.to_datetime(table["date"]) + pd.to_timedelta(rows * days, unit="D")
    return table.assign(date=dates.dt.strftime("%Y-%m-%d"))


def without(table: pd.DataFrame, subject: str, *visits: str) -> pd.DataFrame:
    return table[~((table["subject"] == subject) & table["visit"].isin(visits))]


def with_screening(table: pd.DataFrame, subject: str) -> pd.DataFrame:
    """An earlier row of each region of a subject, 28 days before its baseline."""
    rows = table[(table["subject"] == subject) & (table["visit"] == "week0")]
    return pd.concat([table, moved(rows, subject, "week0", -28).assign(erythema=3)])


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (lambda table: table, {}),
        (lambda table: without(table, "S05", "week0"), {"S05": None}),
        (lambda table: without(table, "S05", "week0", "week4"), {"S05": None}),
        (lambda table: with_screening(table, "S06"), {"S06": "3"}),
        (lambda table: without(table, "S05", "week12"), {}),
        (lambda table: moved(table, "S03", "week4", 8), {}),
        (lambda table: moved(table, "S03", "week4", 30), {"S03": None}),
    ],
)
@pytest.mark.parametrize("preset", ["onestep-pasi", ""])
def test_a_date_is_a_visit_only_if_its_subject_shows_it(
    preset: str,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    lost: dict[str, str | None],
    marked: pd.DataFrame,
    pictures: Path,
    tmp_path: Path,
) -> None:
    """Rows of a subject whose dates can mean other visits have no image, and those of the others have theirs."""
    table = change(marked)
    tables = written({"scores.csv": table.drop(columns="visit")}, tmp_path)
    options = {} if preset else {"target": "erythema"}
    plan = planned(preset, tables, arrange(pictures, tmp_path / "photos"), tmp_path / "study", **options)
    rows = set(zip(table["subject"], table["erythema"].astype(str), strict=True))
    expected = {key: set() if key[0] in lost else EVERY[key] for key in rows}
    assert visits_joined(tmp_path / "study") == expected
    for subject in lost:
        dates = set(table.loc[table["subject"] == subject, "date"])
        assert any(subject in doubt and all(date in doubt for date in dates) for doubt in plan.doubts)
    assert not any("IS NOT USED" in doubt for doubt in plan.doubts)


def test_dates_with_two_readings_join_nothing(marked: pd.DataFrame, pictures: Path, tmp_path: Path) -> None:
    """Weeks 0, 4 and 8 in the paths: two dates four weeks apart can be either pair of visits."""
    folders = {0: "week0", 4: "week4", 12: "week8"}
    images = arrange(pictures, tmp_path / "photos", lambda s, v, region, n: f"S{s:02}/{folders[v]}/{region}_{n}.png")
    table = moved(marked, "S01", "week12", -28)
    for subject in ("S02", "S03", "S04", "S05", "S06"):
        table = moved(table, subject, "week12", -28)
    tables = written({"scores.csv": without(table, "S04", "week12").drop(columns="visit")}, tmp_path)
    plan = planned("onestep-pasi", tables, images, tmp_path / "study")
    joined = visits_joined(tmp_path / "study")
    assert joined["S03", "1"] == {"week4"}
    assert (joined["S04", "0"], joined["S04", "1"]) == (set(), set())
    assert any("S04" in doubt and "2024-04-04" in doubt for doubt in plan.doubts)


@pytest.mark.parametrize("heading", ["Woche", "Semaine"])
@pytest.mark.parametrize("gap", [False, True])
def test_a_stated_visit_counts_before_dates(
    gap: bool, heading: str, marked: pd.DataFrame, pictures: Path, tmp_path: Path
) -> None:
    """S05 lacks its baseline and S06 came late; a visit that is not stated has no image."""
    table = moved(without(marked, "S05", "week0"), "S06", "week4", 40)
    table[heading] = table.pop("visit").str[4:]
    table.loc[(table["subject"] == "S02") & (table["erythema"] == 2), heading] = "" if gap else "12"
    images = arrange(pictures, tmp_path / "photos")
    plan = planned("onestep-pasi", written({"scores.csv": table}, tmp_path), images, tmp_path / "study")
    expected = {key: visits for key, visits in EVERY.items() if key != ("S05", "0")}
    assert visits_joined(tmp_path / "study") == expected | ({("S02", "2"): set()} if gap else {})
    (doubt,) = [doubt for doubt in plan.doubts if doubt.startswith("VISITS AND DATES")]
    assert "S05" in doubt
    assert f"S06 4 on {table.loc[(table['subject'] == 'S06') & (table['erythema'] == 1), 'date'].iloc[0]}" in doubt
    assert not any(f"S0{s}" in doubt for s in (1, 2, 3, 4))


def test_what_did_not_meet_is_named_as_the_table_writes_it(
    marked: pd.DataFrame, pictures: Path, tmp_path: Path
) -> None:
    """German and English dates in folders; no file of another person is offered."""
    table = marked.assign(subject=marked["subject"].str[1:].astype(int))
    table["date"] = pd.to_datetime(table["date"]).dt.strftime("%d/%m/%Y")
    day = {(r.subject, r.erythema): r.date for r in marked.itertuples()}
    images = arrange(
        pictures,
        tmp_path / "photos",
        lambda s, v, region, n: (
            "" if (s, v) == (4, 12) else f"{s:02}/{day[f'S{s:02}', VISITS.index(v)]}/{region}_{n}.png"
        ),
    )
    tables = written({"scores.csv": table.drop(columns="visit")}, tmp_path)
    plan = planned("onestep-pasi", tables, images, tmp_path / "study")
    (rows,) = [doubt for doubt in plan.doubts if doubt.startswith("Rows without image")]
    assert "3 (4 30/05/2024 upper" in rows
    assert "Did you mean" not in rows


def test_no_file_of_another_person_is_offered(scores: pd.DataFrame, pictures: Path, tmp_path: Path) -> None:
    images = arrange(pictures, tmp_path / "photos", lambda s, v, region, n: f"P{s:02}_W{v:02}_{region}_{n}.png")
    week = scores["visit"].str[4:].astype(int)
    table = scores.assign(
        file=[f"P{s[1:]}_W{v:02}_{r}_1.png" for s, v, r in zip(scores["subject"], week, scores["region"], strict=True)]
    )
    table["file"] = table["file"].replace(
        {"P06_W00_upper_1.png": "P06_W00_uper_1.png", "P05_W12_trunk_1.png": "P15_W12_trunk_1.png"}
    )
    plan = planned(
        "", written({"scores.csv": table[table["file"] != "P15_W12_trunk_1.png"]}, tmp_path), images, tmp_path / "a"
    )
    assert any("Did you mean 'P06_W00_upper_1.png'" in doubt for doubt in plan.doubts)
    plan = planned(
        "", written({"scores.csv": table[table["file"] != "P06_W00_uper_1.png"]}, tmp_path), images, tmp_path / "b"
    )
    (rows,) = [doubt for doubt in plan.doubts if doubt.startswith("Rows without image")]
    assert "Did you mean" not in rows


def folders(subject: str) -> Name:
    """The photographs below names of subjects that are made from their number."""
    return lambda s, v, region, n: f"{subject.format(s=s)}/week{v}/{region}_{n}.png"


@pytest.mark.parametrize(
    ("of_table", "of_paths", "doubted"),
    [
        ("S{s:02}", "S{s:02}", False),
        ("S{s:02}", "s-{s}", False),
        ("{s:02}", "Patient {s}", False),
        ("Subject {s}", "{s:02}", False),
        ("{s:02}", "S{s:02}", True),
        ("S{s:02}", "{s:02}", True),
        ("ABC-123-S{s:02}", "S{s:02}", True),
        ("S{s:02}", "ABC-123-S{s:02}", True),
        ("CW1-{s:03}", "{s:03}", True),
    ],
)
def test_a_name_that_is_longer_on_one_side_is_doubted(
    of_table: str, of_paths: str, doubted: bool, scores: pd.DataFrame, pictures: Path, tmp_path: Path
) -> None:
    table = scores.assign(subject=[of_table.format(s=int(subject[1:])) for subject in scores["subject"]])
    images = arrange(pictures, tmp_path / "photos", folders(of_paths))
    plan = planned("onestep-pasi", written({"scores.csv": table}, tmp_path), images, tmp_path / "study")
    assert len({row["path"] for row in table_of(tmp_path / "study")} - {""}) == 144
    people = [doubt for doubt in plan.doubts if doubt.startswith("THE SAME PEOPLE?")]
    assert len(people) == doubted
    assert all(name.format(s=1) in doubt for doubt in people for name in (of_table, of_paths))


@pytest.mark.parametrize("preset", ["onestep-pasi", ""])
@pytest.mark.parametrize(
    ("of_table", "of_paths"),
    [
        (lambda s: f"S{s:02}", lambda s: f"P{s:02}"),
        (lambda s: f"ABC-123-S{s:02}", lambda s: f"P{s:02}"),
        (lambda s: f"S-{s}", lambda s: f"P-{s:02}"),
        (lambda s: f"{s:02}", lambda s: f"{'A' if s < 4 else 'B'}{s:02}"),
        (lambda s: f"{'A' if s < 4 else 'B'}{s:02}", lambda s: f"{s:02}"),
    ],
)
def test_other_letters_are_other_people(
    of_table: Callable[[int], str],
    of_paths: Callable[[int], str],
    preset: str,
    scores: pd.DataFrame,
    pictures: Path,
    tmp_path: Path,
) -> None:
    """The message names both, and a pattern with the letters joins them if they are the same after all."""
    table = scores.assign(subject=[of_table(int(subject[1:])) for subject in scores["subject"]])
    images = arrange(pictures, tmp_path / "photos", lambda s, v, r, n: f"{of_paths(s)}/week{v}/{r}_{n}.png")
    tables = written({"scores.csv": table}, tmp_path)
    with pytest.raises(CasewiseError) as refused:
        planned(preset, tables, images, tmp_path / "study")
    assert all(text in str(refused.value) for text in (of_table(1), of_paths(1), "--pattern"))
    if of_paths(1).startswith("P"):
        start = of_paths(1).rstrip("0123456789")
        planned(preset, tables, images, tmp_path / "study", pattern=start + "{subject}/week{visit}/{region}_{n}.png")
        assert len({row["path"] for row in table_of(tmp_path / "study")} - {""}) == 144


def test_subjects_of_two_tables_that_share_an_end_are_doubted(
    scores: pd.DataFrame, pictures: Path, tmp_path: Path
) -> None:
    people = pd.DataFrame({"subject": [f"ABC-S{s:02}" for s in range(1, 7)], "age": range(40, 46)})
    tables = written({"scores.csv": scores, "people.csv": people}, tmp_path)
    plan = planned("onestep-pasi", tables, arrange(pictures, tmp_path / "photos"), tmp_path / "study")
    assert {row["age"] for row in table_of(tmp_path / "study")} == {str(age) for age in range(40, 46)}
    assert any("S01" in doubt and "ABC-S01" in doubt for doubt in plan.doubts)


@pytest.mark.parametrize("code", ["region", "", "shared"])
def test_the_text_of_a_parameter_names_the_region(
    code: str, scores: pd.DataFrame, pictures: Path, tmp_path: Path
) -> None:
    """PARAMCD may have the region, or letters of it, or be the same for all regions; imputed rows are left out."""
    long = scores.melt(id_vars=["subject", "visit", "day", "region"], value_vars=TARGETS)
    text = long["region"].map({"upper": "Upper Extremities", "trunk": "Trunk", "lower": "Lower Extremities"})
    short = long["variable"].str[:3].str.upper()
    codes = {"region": short + long["region"].str.upper(), "": short + long["region"].str[:1].str.upper()}
    table = pd.DataFrame(
        {
            "USUBJID": long["subject"],
            "AVISIT": long["visit"],
            "ADY": long["day"],
            "PARAMCD": codes.get(code, short),
            "PARAM": long["variable"].str.title() + " - " + text,
            "AVAL": long["value"],
            "DTYPE": "",
        }
    )
    locf = table[(table["USUBJID"] == "S02") & (table["ADY"] == 84)].assign(AVISIT="week24", ADY=168, DTYPE="LOCF")
    tables = written({"adqs.csv": pd.concat([table, locf])}, tmp_path)
    plan = planned("onestep-pasi", tables, arrange(pictures, tmp_path / "photos"), tmp_path / "study")
    expected = {
        (r.subject, r.visit, r.region): [str(getattr(r, name)) for name in TARGETS] for r in scores.itertuples()
    }
    rows = table_of(tmp_path / "study")
    assert {(row["subject"], row["visit"], row["region"]): [row[name] for name in TARGETS] for row in rows} == expected
    assert len(rows) == 144
    assert any("LOCF" in doubt and "12" in doubt for doubt in plan.doubts)


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (("Screening", "Week 4", "End of Treatment"), False),
        (("Ausgangsbefund", "Woche 4", "Therapieende"), False),
        (("Inclusion", "Semaine 4", "Fin de traitement"), False),
        (("Baseline", "Week 4", "Follow-up"), False),
        (("Zero", "Fourth", "Twelfth"), True),
        (("Baseline", "Week 4", "Unscheduled"), True),
    ],
)
def test_visits_without_numbers_are_ordered_by_words_or_refused(
    names: tuple[str, str, str], refused: bool, scores: pd.DataFrame, pictures: Path, tmp_path: Path
) -> None:
    """Without days, the first visit is the baseline only if the names show that it is the first."""
    name = dict(zip(VISITS, names, strict=True))
    table = scores.assign(visit=scores["visit"].str[4:].astype(int).map(name)).drop(columns="day")
    images = arrange(pictures, tmp_path / "photos", lambda s, v, r, n: f"S{s:02}/{name[v]}/{r}_{n}.png")
    tables = written({"scores.csv": table}, tmp_path)
    plan = planned("onestep-pasi", tables, images, tmp_path / "study")
    assert any("WHICH COMES FIRST" in doubt for doubt in plan.doubts) == refused
    study = read_study(tmp_path / "study" / "study.yaml")
    if refused:
        with pytest.raises(CasewiseError) as error:
            read_cohort(study)
        assert "day" in str(error.value)
        assert "S01" in str(error.value)
        evaluation = study.evaluation.model_copy(update={"response": False})
        assert len(read_cohort(study.model_copy(update={"evaluation": evaluation})).images) == 144
    else:
        cases = read_cohort(study).cases
        assert all(visits == list(names) for visits in cases.groupby("subject", sort=False)["visit"].apply(list))


def test_days_order_visits_of_any_name(scores: pd.DataFrame, pictures: Path, tmp_path: Path) -> None:
    table = scores.replace({"visit": {"week0": "Zero", "week4": "Fourth", "week12": "Twelfth"}})
    names = {0: "Zero", 4: "Fourth", 12: "Twelfth"}
    images = arrange(pictures, tmp_path / "photos", lambda s, v, r, n: f"S{s:02}/{names[v]}/{r}_{n}.png")
    plan = planned("onestep-pasi", written({"scores.csv": table}, tmp_path), images, tmp_path / "study")
    assert not any("WHICH COMES FIRST" in doubt for doubt in plan.doubts)
    cases = read_cohort(read_study(tmp_path / "study" / "study.yaml")).cases
    assert cases["visit"].tolist()[:3] == ["Zero", "Fourth", "Twelfth"]
