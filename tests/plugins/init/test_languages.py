"""Tables and folders in German, French and Spanish reach a study without editing; no region has another's score."""

import re
from pathlib import Path

import pandas as pd
import pytest

from casewise.cohort.clinical_words import named_region, sign_of
from casewise.cohort.cohort import read_cohort
from casewise.console import Silent
from casewise.errors import CohortError
from casewise.pipeline.read import validate
from casewise.plugins.init.key_names import day_of_visit
from casewise.plugins.init.preset import plan_preset
from casewise.study.loading import read_study
from tests.plugins.init.own_data import table_of
from tests.plugins.init.test_joining import TARGETS, arrange, pictures, planned, scores, written  # noqa: F401

# By language: the headings of subject, visit, region and the signs, the regions, and the unit of visits.
WORDS = {
    "de": (
        ["Probanden-Nr.", "Woche", "Koerperregion", "Rötung", "Infiltration", "Schuppung", "Befallsfläche"],
        {"upper": "obere Extremitäten", "trunk": "Rumpf", "lower": "untere Extremitäten"},
        "Woche ",
    ),
    "fr": (
        ["Sujet", "Semaine", "Région", "Érythème", "Épaisseur", "Desquamation", "Étendue"],
        {"upper": "membres supérieurs", "trunk": "tronc", "lower": "jambes"},
        "semaine",
    ),
    "es": (
        ["Paciente", "Semana", "Zona corporal", "Eritema", "Induración", "Descamación", "Extensión"],
        {"upper": "brazos", "trunk": "tronco", "lower": "piernas"},
        "sem_",
    ),
}
UNIT = {"es": "semana_"}


def in_words(scores: pd.DataFrame, language: str) -> pd.DataFrame:  # noqa: F811
    """The scores with a row for each region, in the words of a language."""
    headings, regions, _ = WORDS[language]
    table = scores.assign(visit=scores["day"] // 7, region=scores["region"].map(regions)).drop(columns="day")
    return table.rename(columns=dict(zip(["subject", "visit", "region", *TARGETS], headings, strict=True)))


def in_columns(table: pd.DataFrame, language: str) -> pd.DataFrame:
    """The same with a column for each sign and region."""
    subject, visit, region, *signs = WORDS[language][0]
    wide = table.pivot(index=[subject, visit], columns=region, values=signs)
    wide.columns = [f"{sign} {name}" for sign, name in wide.columns]
    return wide.reset_index()


@pytest.mark.parametrize("wide", [False, True], ids=["long", "wide"])
@pytest.mark.parametrize("in_paths", [False, True], ids=["english paths", "paths in its language"])
@pytest.mark.parametrize("language", WORDS)
def test_a_table_in_another_language_needs_no_editing(
    language: str,
    in_paths: bool,
    wide: bool,
    scores: pd.DataFrame,  # noqa: F811
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    _, regions, unit = WORDS[language]
    unit = UNIT.get(language, unit)

    def name(s: int, v: int, region: str, n: int) -> str:
        return f"{s:02}/{unit}{v}/{regions[region]} {n}.png" if in_paths else f"S{s:02}/week{v}/{region}_{n}.png"

    table = in_words(scores, language)
    table = in_columns(table, language) if wide else table
    images = arrange(pictures, tmp_path / "photos", name)
    planned("onestep-pasi", written({"t.csv": table}, tmp_path), images, tmp_path / "study")
    study = read_study(tmp_path / "study" / "study.yaml")
    cohort = read_cohort(study)
    assert (len(cohort.images), len(cohort.cases)) == (144, 18)
    assert sorted(set(cohort.cases["day"])) == [0, 28, 84]
    expected = {
        ((images / name(int(r.subject[1:]), int(r.visit[4:]), r.region, 1)).resolve(), target): getattr(r, target)
        for r in scores.itertuples()
        for target in TARGETS
    }
    values = {
        ((images / row["path"]).resolve(), target): int(row[target])
        for row in table_of(tmp_path / "study")
        for target in TARGETS
    }
    assert {key: values[key] for key in expected} == expected
    assert validate(study, Silent())


def test_a_table_with_paths_in_another_language(
    scores: pd.DataFrame,  # noqa: F811
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    images = arrange(pictures, tmp_path / "photos")
    table = in_words(scores, "de").assign(path=[f"{r.subject}/{r.visit}/{r.region}_1.png" for r in scores.itertuples()])
    planned("onestep-pasi", written({"t.csv": table}, tmp_path), images, tmp_path / "study")
    rows = table_of(tmp_path / "study")
    assert [row["region"] for row in rows] == scores["region"].tolist()
    assert [int(row["scaling"]) for row in rows] == scores["scaling"].tolist()
    assert validate(read_study(tmp_path / "study" / "study.yaml"), Silent())


def test_a_score_of_one_region_is_not_that_of_all(
    scores: pd.DataFrame,  # noqa: F811
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Neither proposed by a message, nor accepted where it is stated, nor taken by `init`."""
    images = arrange(pictures, tmp_path / "photos")
    table = scores.assign(path=[f"{r.subject}/{r.visit}/{r.region}_1.png" for r in scores.itertuples()])
    arms = table.loc[table["region"] == "upper"].set_index(["subject", "visit"])["erythema"]
    table["Erythem Arme"] = [arms[r.subject, r.visit] for r in table.itertuples()]
    table["Rest"] = table.pop("erythema")
    table.to_csv(tmp_path / "t.csv", index=False)
    lines = f"extends: onestep-pasi\ncohort: t.csv\nroot: {images}\n"

    def refused(more: str) -> str:
        (tmp_path / "study.yaml").write_text(lines + more)
        with pytest.raises(CohortError) as error:
            read_cohort(read_study(tmp_path / "study.yaml"))
        return str(error.value)

    assert "Erythem Arme" not in refused("")
    limits = {"erythema": "0..4, column: Erythem Arme", "induration": "0..4", "scaling": "0..4", "area": "0..6"}
    stated = "targets: {" + ", ".join(f"{name}: {{range: {text}}}" for name, text in limits.items()) + "}"
    for column in ("columns: {erythema: Erythem Arme}", stated):
        message = refused(column + "\n")
        assert re.search(r"\bupper\b.*\btrunk, lower\b", message)
    readers = "columns: {erythema: Rest}\nevaluation: {readers: {erythema: {first: Erythem Arme}}}\n"
    assert re.search(r"\bupper\b.*\btrunk, lower\b", refused(readers))
    # its values may stand in rows of its own region
    table.loc[table["region"] != "upper", "Erythem Arme"] = None
    table.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "study.yaml").write_text(lines + "columns: {erythema: Erythem Arme}\n")
    assert read_cohort(read_study(tmp_path / "study.yaml")).images["erythema"].notna().sum() == 18
    plan = plan_preset("onestep-pasi", table=written({"u.csv": table.drop(columns="path")}, tmp_path), images=images,
                       folder=tmp_path / "new")  # fmt: skip
    assert plan.files["cohort.csv"].decode().splitlines()[0].split(",").count("erythema") == 0


def test_words_of_regions_signs_and_visits() -> None:
    regions = ["upper", "trunk", "lower"]
    texts = ("Schuppung Beine", "area, lower limbs", "Treatment arm", "upper to lower", "grade 2 Tronc")
    assert [named_region(text, regions)[0] for text in texts] == ["lower", "lower", "", "", "trunk"]
    assert named_region("reader 2 area upper extremities", regions)[1] == ("reader", "2", "area")
    assert named_region("left arm", ["left arm", "right arm"])[0] == "left arm"
    assert named_region("bras", ["arm", "leg"])[0] == "arm"
    assert [sign_of([word]) for word in ("Dicke", "Squames", "surface", "poids")] == [
        "induration", "scaling", "area", "",
    ]  # fmt: skip
    assert [day_of_visit(name) for name in ("semaine0", "Woche 4", "mes 3", "jour 7", "día 2")] == [0, 28, 91, 7, 2]
