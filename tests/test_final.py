"""`final: refit`: a network of each learner on all subjects outside the test set, for new cases."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.errors import CasewiseError
from casewise.inference.model import load_bundle
from casewise.run import Run, run
from casewise.run_folder import RunFolder
from casewise.study.loading import build_study
from tests.combinations import KINDS, values_for_new_cases
from tests.golden_figures import check_figures


@pytest.fixture(scope="module")
def values(photograph_run: Run) -> dict[str, Any]:
    return values_for_new_cases("photographs", photograph_run.study.cohort)


@pytest.fixture(scope="module")
def refitted(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any], photograph_run: Run) -> Run:
    """The finished run, continued with `final: refit` in a copy of its folder."""
    folder = tmp_path_factory.mktemp("final") / "again"
    shutil.copytree(photograph_run.folder, folder)
    return run(build_study({**values, "final": "refit"}, source="the study", folder=folder.parent), folder)


def test_the_networks_of_the_folds_and_all_figures_are_kept(photograph_run: Run, refitted: Run) -> None:
    pd.testing.assert_frame_equal(photograph_run.rows, refitted.rows)
    assert photograph_run.results.figures == refitted.results.figures
    for record in Path(photograph_run.folder).glob("jobs/*/fold*/job.json"):
        assert record.read_bytes() == (refitted.folder / record.relative_to(photograph_run.folder)).read_bytes()


def test_the_bundle_has_one_network_for_each_learner_on_all_but_the_test_set(refitted: Run) -> None:
    model, sides = load_bundle(refitted.folder / "bundle"), RunFolder(refitted.folder).splits.read()["subjects"]
    assert [member.model for member in model.members] == list(refitted.study.learners)
    assert all(len(member.subjects) == sum(side != "test" for side in sides.values()) for member in model.members)
    assert all(member.folder.name == "final" for member in model.members)
    assert "trained on all subjects outside the test set" in model.card
    assert "No network was trained again" not in model.card
    assert "were not evaluated" in model.card


def test_new_cases_are_predicted_by_these_networks(photograph_run: Run, refitted: Run) -> None:
    table, root = pd.read_csv(refitted.study.cohort), refitted.study.cohort.parent
    cases = table.drop(columns=[*KINDS]).assign(path=[str(root / path) for path in table["path"]])
    by_folds, by_all = (load_bundle(each.folder).predict(cases, learner="all") for each in (photograph_run, refitted))
    assert list(by_folds["case"]) == list(by_all["case"])
    assert by_folds["spread"].notna().any()
    assert by_all["spread"].isna().all()
    assert by_all["distance"].notna().any()
    numbers = by_all["target"] == "number"
    assert by_all.loc[numbers, "prediction low"].notna().equals(by_folds.loc[numbers, "prediction low"].notna())
    differences = by_all.loc[numbers, "prediction"].astype(float) - by_folds.loc[numbers, "prediction"].astype(float)
    assert np.abs(differences).max() > 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"early_stopping": {"monitor": "fold"}}}, "no held-out fold to stop on"),
        ({"split": {"by": "image", "test": 0, "folds": 2}, "panels": {"by": "image"}}, "a split by image"),
        ({"final": "all"}, "final"),
    ],
)
def test_what_has_no_network_on_all_folds_is_refused(
    tmp_path: Path, values: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CasewiseError, match=message):
        build_study({**values, "final": "refit", **changes}, source="the study", folder=tmp_path)


def test_golden_figures_of_numbers_classes_and_grades(photograph_run: Run) -> None:
    check_figures("photographs", photograph_run)
