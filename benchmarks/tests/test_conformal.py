"""The simulation of coverage on phantoms: who is predicted by what, where coverage comes from, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest


@pytest.fixture(scope="module")
def conformal(benchmark: Any) -> Any:
    return benchmark("conformal")


@pytest.fixture(scope="module")
def films(conformal: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return conformal.population("chest", 40, tmp_path_factory.mktemp("films"))


def test_new_subjects_are_predicted_by_every_fold_and_learned_ones_by_one(conformal: Any, films: Any) -> None:
    names = sorted(set(films.cohort.panels["subject"].astype(str)))
    rows = conformal.predictions(films, names[:30], names[30:], 1)
    panels = films.cohort.panels["subject"].astype(str)
    oof, new = rows[rows["stage"] == "oof"], rows[rows["stage"] == "test"]
    assert set(oof["subject"]) == set(names[:30])
    assert len(oof) == panels.isin(names[:30]).sum()
    assert set(new["subject"]) == set(names[30:])
    assert len(new) == 5 * panels.isin(names[30:]).sum()
    p = new.pivot(index="case", columns="outer_fold", values="p0")
    assert (p.std(axis=1) > 0).all()  # every fold has a model of its own


def test_simulation_continues_and_gives_every_figure(
    conformal: Any, films: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformal, "SUBJECTS", (25,))
    monkeypatch.setattr(conformal, "NEW", 15)
    file = tmp_path / "chest.jsonl"
    table = conformal.simulate(films, 2, file)
    assert table[["subjects", "study", "target"]].to_numpy().tolist() == [[25, 0, "finding"], [25, 1, "finding"]]
    assert ((table["mean"] <= table["coverage"] + 1e-9) & (table["coverage"] <= 1)).all()  # rules only add classes
    monkeypatch.setattr(conformal, "predictions", lambda *_: pytest.fail("a finished study was repeated"))
    again = conformal.simulate(films, 2, file)
    pd.testing.assert_frame_equal(table, again)
    text = conformal.page(table, None, most=4, new=15, side=32, psoriasis=500, chest=40)
    assert f"| finding | 25 | 2 | {conformal.Figure.of(table['coverage'].tolist()).percent} |" in text
    assert "(`--runs`)" in text
