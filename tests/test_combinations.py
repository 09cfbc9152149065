"""Every way of studying with every kind of images and of target, each tiny; the documentation's table is made of it."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.errors import StudyError
from casewise.inference.model import load_bundle
from casewise.run import Run, run
from casewise.study.loading import build_study
from tests.combinations import KINDS, MODALITIES, REFUSED, WAYS, as_markdown, make_table, settings

explain_run = pytest.importorskip("casewise.plugins.explain.command").explain_run
ExplainSettings = pytest.importorskip("casewise.plugins.explain.run").ExplainSettings

DOCS = Path(__file__).resolve().parents[1] / "docs" / "reference-combinations.md"
# Slides and volumes have runs of their own in the tests of their plugins.
QUICK = (("photographs", "classes", "attention"), ("slides", "number", "explanation"))
EVERY = [each for each in product(MODALITIES, KINDS, WAYS) if (each[0], each[2]) not in REFUSED]
RUN = [pytest.param(*each, marks=[] if each in QUICK else [pytest.mark.slow]) for each in EVERY]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each modality a folder with the tables `here.csv` and `there.csv`, of different people."""
    found = {}
    for number, modality in enumerate(MODALITIES):
        folder = tmp_path_factory.mktemp(modality)
        found[modality] = make_table(folder, modality, "here", seed=number)
        make_table(folder, modality, "there", seed=10 + number)
    return found


def done(tables: dict[str, Path], folder: Path, modality: str, kind: str, way: str) -> Run:
    table = tables[modality]
    values = settings(modality, kind, table, way)
    return run(build_study(values, source="the combination", folder=table.parent), folder)


@pytest.mark.parametrize(("modality", "kind", "way"), RUN)
def test_it_works(tables: dict[str, Path], tmp_path: Path, modality: str, kind: str, way: str) -> None:
    result = done(tables, tmp_path / "run", modality, kind, way)
    table: Any = result.rows
    assert set(table["subject"]) >= {f"here{number}" for number in range(16)}
    assert np.isfinite(table["y_pred"]).all()
    check = CHECKS.get(way)
    if check:
        check(result, tables[modality], kind)


def external(result: Run, table: Path, kind: str) -> None:
    rows = result.rows.query("stage == 'external'")
    assert len(set(rows["subject"])) == 16
    assert rows["y_true"].notna().all()


def nested(result: Run, table: Path, kind: str) -> None:
    assert len(list(result.folder.glob("jobs/*/*/job.json"))) == 2


def leave_one_out(result: Run, table: Path, kind: str) -> None:
    rows = result.rows.query("stage == 'oof'")
    assert rows.groupby("subject")["outer_fold"].nunique().eq(1).all()


def explanation(result: Run, table: Path, kind: str) -> None:
    assert explain_run(result.folder, ExplainSettings(cases=["here3/1"])).table.is_file()


def new_cases(result: Run, table: Path, kind: str) -> None:
    rows = load_bundle(result.folder).predict(table.with_name("there.csv"))
    assert (len(set(rows["subject"])), set(rows["target"])) == (16, {kind})


CHECKS = {"attention": new_cases, "external": external, "nested": nested, "leave-one-out": leave_one_out}
CHECKS |= {"explanation": explanation, "new-cases": new_cases}


@pytest.mark.parametrize(("modality", "way"), [pair for pair in REFUSED if WAYS[pair[1]].settings])
def test_it_is_refused(tables: dict[str, Path], modality: str, way: str) -> None:
    values = settings(modality, "classes", tables[modality], way)
    with pytest.raises(StudyError):
        build_study(values, source="the combination", folder=tables[modality].parent)


def test_the_table_of_the_documentation_is_of_these_tests() -> None:
    assert DOCS.read_text() == as_markdown()
