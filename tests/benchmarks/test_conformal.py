"""The simulation of coverage on phantoms: who is predicted by what, where coverage comes from, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.run_folder import RunFolder


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


def test_least_share_is_that_of_the_class(conformal: Any) -> None:
    rows = pd.DataFrame({"subject": ["a", "a", "b"], "y_true": [0.0, 0.0, 1.0]})
    classes = [{"subjects": subjects, "quantile": None} for subjects in (12, 5)]
    # 12 of 13 are the least from 90 %; with 5 subjects a class is in every set
    assert conformal.least_share(rows, {"classes": classes}) == pytest.approx((12 / 13 + 1) / 2)
    assert conformal.least_share(rows, {"subjects": 60, "quantile": 1.0}) == pytest.approx(55 / 61)


def test_coverage_by_the_quantile_counts_subjects_equally(conformal: Any) -> None:
    rows = pd.DataFrame(
        {"subject": ["a", "a", "a", "b"], "y_true": [1.0, 1.0, 9.0, 1.0], "y_pred": [1.0, 2.0, 1.0, 4.0]}
    )
    entry = {"quantile": 1.0, "range": [0.0, 10.0]}
    assert conformal.by_quantile(rows, entry) == pytest.approx((2 / 3 + 0) / 2)


def test_the_verdict_names_what_is_outside(conformal: Any) -> None:
    table = pd.DataFrame(
        {
            "subjects": [60, 60, 120, 120],
            "study": [0, 1, 0, 1],
            "target": "finding",
            "coverage": [0.95, 0.97, 0.89, 0.91],
            "class ill": [0.8, 0.82, 0.9, np.nan],
        }
    )
    text = conformal.verdict(table)
    assert "only 2 of 200 studies" in text
    assert "finding with 60 subjects (96.0" in text
    assert "finding with 120" not in text
    assert "ill, 60 subjects); 1 of 2 are below 85 %" in text


def test_runs_on_real_images_are_listed_with_their_stage(conformal: Any, tmp_path: Path) -> None:
    figure = {"value": 0.843, "low": 0.758, "high": 0.902, "n_subjects": 102}
    stage = {"coverage": figure, "size": {"value": 2.4}, "by_class": {"0": figure, "1": None}, "cross_fitted": False}
    results = {
        "main": {"target": "grade"},
        "metrics": {},
        "notes": [],
        "prediction_sets": {"level": 0.9, "targets": {"grade": {"stages": {"test": stage}}}},
    }
    (tmp_path / "eyes").mkdir()
    RunFolder(tmp_path / "eyes").metrics.write(results)
    lines = conformal.observed(tmp_path)
    assert "| eyes | grade | test set | 102 | 84.3 [75.8, 90.2] | 2.40 | 0: 84.3 [75.8, 90.2], n = 102 |" in lines
    assert lines[-1] == "Below 88 %: eyes (test set, 84.3 %; its interval contains the level)."
    assert len(conformal.observed(tmp_path / "absent")) == 1
