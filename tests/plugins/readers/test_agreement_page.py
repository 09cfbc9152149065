"""The page of a reader study, complete and where readers, classes or repeated readings are missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.errors import CasewiseError
from casewise.plugins.readers.form import Form, FormField, Option
from casewise.plugins.readers.statistics.agreement import agreements
from casewise.plugins.readers.statistics.agreement_page import Page, write_agreement
from casewise.plugins.readers.statistics.agreement_words import scale_of
from casewise.plugins.readers.statistics.duel import ModelPredictions
from casewise.study.loading import read_study
from casewise.study.schema import Study
from tests.plugins.readers.test_agreement import NAN, readings, study

STUDY = """
cohort: cohort.csv
title: Scores & grades
targets:
  score: 0..20
  finding: {classes: [no_finding, pneumonia], positive: pneumonia}
reading: {margin: {score: 0.5}}
"""
SCORE = FormField("score", "score", "", "score", "regression", (), 0, 20, 0.5)
GRADE = FormField("grade", "grade", "", "grade", "ordinal", tuple(Option(str(n)) for n in range(5)))
CLASSES = (Option("no_finding"), Option("pneumonia"))
FINDING = FormField("finding", "finding", "", "finding", "classification", CLASSES)
FORM = Form((SCORE, GRADE, FINDING), ("other",), 50)


@pytest.fixture
def plan(tmp_path: Path) -> Study:
    pd.DataFrame({"path": ["a.png"], "subject": ["s"], "score": [1], "finding": ["pneumonia"]}).to_csv(
        tmp_path / "cohort.csv", index=False
    )
    (tmp_path / "study.yaml").write_text(STUDY)
    return read_study(tmp_path / "study.yaml")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    values = study(0)
    again = np.where(np.arange(40)[:, None] < 10, values + 0.5, NAN)
    grades = np.clip(np.rint(values / 4), 0, 4)
    tables = [readings(values, again), readings(grades, target="grade")]
    return pd.concat([*tables, readings((values > 10).astype(float), target="finding")], ignore_index=True)


def predicted(table: pd.DataFrame) -> pd.DataFrame:
    first = table[table["occurrence"] == 1]
    value = first.groupby(["target", "case", "region"])["value"].median().reset_index()
    return value.assign(truth=value["value"].where(value["target"] == "finding"))


def page(table: pd.DataFrame, *fields: FormField) -> Page:
    return Page(table, {field.target: scale_of(field) for field in fields}, agreements(table, fields))


def sections(html: str) -> list[str]:
    return re.findall(r'<section id="([^"]+)"', html)


def shown(html: str) -> dict[str, list[float]]:
    """The numbers of each row of a table; NaN for a dash."""
    rows = [re.findall(r'data-value="([^"]*)"', row) for row in html.split("<tr")[2:]]
    return {name: [float(value or NAN) for value in values] for name, *values in rows}


def written(table: pd.DataFrame, plan: Study, path: Path, **more: Any) -> str:
    html = write_agreement(table, FORM, path / "agreement.html", study=plan, **more).read_text()
    assert "nan" not in re.sub(r"<svg.*?</svg>|<style.*?</style>", "", html, flags=re.DOTALL).lower().split()
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    return html


def test_a_complete_study(table: pd.DataFrame, plan: Study, tmp_path: Path) -> None:
    aided = table[(table["target"] == "finding")].assign(kind="aided", session="second")
    model = ModelPredictions("linear combination", "out of fold", predicted(table), "biopsy")
    html = written(pd.concat([table, aided]), plan, tmp_path, model=model)
    assert sections(html) == ["result", "targets", "readers", "pairs", "number", "model", "reference"]
    assert "Scores &amp; grades" in html
    assert html.count("<svg") == 2
    again = write_agreement(
        pd.concat([table, aided]), FORM, tmp_path / "again.html", study=plan, model=model
    ).read_text()
    assert again == html


def test_readers_with_the_model_beside_histology(table: pd.DataFrame, plan: Study, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.replace("reading: {", "reading: {reference: histology, "))
    blind = table[table["target"] == "finding"]
    truth, rng = (np.arange(40) % 2).astype(float), np.random.default_rng(0)
    p = np.clip(0.25 + 0.4 * truth + 0.2 * rng.normal(size=40), 0, 1)
    model = pd.DataFrame({"case": [f"c{n}" for n in range(40)], "image": "", "region": "", "target": "finding"})
    model = model.assign(value=(p > 0.5).astype(float), truth=truth, p0=1 - p, p1=p)
    aided = blind.assign(kind="aided", session="second", value=np.repeat(truth, 3))
    html = written(pd.concat([blind, aided]), read_study(tmp_path / "study.yaml"), tmp_path, model=model)
    section = html.split('<section id="reference"')[1].split("</section>")[0]
    assert "histology" in section
    beside, with_model = section.split("<table")[1:]
    assert shown(beside)["AUROC of calls"][0] == pytest.approx(((p > 0.5) == truth).mean())
    gap = 1 - (blind["value"].to_numpy() == np.repeat(truth, 3)).mean()
    assert shown(with_model)["AUROC of calls"] == pytest.approx([1.0, 1 - gap, gap, gap])
    # without the key, labels may be those of the readers
    assert "reference" not in sections(written(pd.concat([blind, aided]), plan, tmp_path, model=model))


def test_one_reader(table: pd.DataFrame, plan: Study, tmp_path: Path) -> None:
    alone = table[table["reader"] == "A"]
    html = written(alone, plan, tmp_path, model=predicted(table))
    assert sections(html) == ["result", "readers", "model"]
    assert page(alone, SCORE).who_stands_out() == []
    assert page(alone, SCORE).how_many() == []
    # of one target only
    some = table[(table["target"] != "grade") | (table["reader"] == "A")]
    sentences = page(some, GRADE, SCORE, FINDING).how_far()
    assert [text.split(":")[0] for text in sentences] == ["Score", "Grade", "Finding"]
    assert sentences[0] == page(table, SCORE).how_far()[0]


@pytest.mark.parametrize("keep", [4, 1])
def test_few_cases(table: pd.DataFrame, plan: Study, tmp_path: Path, keep: int) -> None:
    few = table[table["case"].isin([f"c{n}" for n in range(keep)])]
    names = sections(written(few, plan, tmp_path, model=predicted(few)))
    assert names[0] == "result"
    # of one case no reliability is known, so none of several readers
    assert ("number" in names) == (keep == 4)


def test_a_reader_without_a_value_and_a_class_that_nobody_gives(
    table: pd.DataFrame, plan: Study, tmp_path: Path
) -> None:
    hollow = table.copy()
    hollow.loc[(hollow["reader"] == "B") & (hollow["target"] == "score"), "value"] = NAN
    hollow.loc[hollow["target"] == "finding", "value"] = 0.0
    html = written(hollow, plan, tmp_path, model=predicted(hollow))
    assert "number" in sections(html)  # grades


def test_readings_that_are_not_blind(table: pd.DataFrame, plan: Study, tmp_path: Path) -> None:
    model = predicted(table)
    doubtful = table.assign(kind="doubtful", session="again")
    assert sections(written(doubtful, plan, tmp_path, model=model))[-1] == "number"
    aided = table.assign(kind="aided", session="again")
    assert sections(written(aided, plan, tmp_path, model=model))[-1] == "number"
    # beside blind readings they do not count
    assert written(pd.concat([table, doubtful, aided]), plan, tmp_path) == written(table, plan, tmp_path)


def test_no_independent_readings(table: pd.DataFrame, plan: Study, tmp_path: Path) -> None:
    for none in (table.assign(value=NAN), table[:0]):
        with pytest.raises(CasewiseError):
            write_agreement(none, FORM, tmp_path / "agreement.html", study=plan)
    with pytest.raises(CasewiseError, match="of chair saw"):
        write_agreement(
            table.assign(kind="adjudication", session="chair"), FORM, tmp_path / "agreement.html", study=plan
        )
