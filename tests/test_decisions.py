"""The rules by which the probabilities of grades become one grade."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

import casewise
from casewise.errors import RunError
from casewise.jobs.plan import deciding_settings
from casewise.predictions.decisions import ALL, apply_thresholds, best_thresholds, decide_grades, half_way, passed
from casewise.run_folder import JobFolder, RunFolder
from casewise.study.loading import read_study
from casewise.targets import kind_named
from tests.prediction_rows import prediction_rows
from tests.test_baselines import write_study

GRADES = 4


def graded(count: int = 240, *, seed: int = 0, stages: tuple[str, ...] = ("oof", "test")) -> pd.DataFrame:
    """Predictions of a model that is shy of high grades, so that thresholds half way are not the best."""
    random, tables = np.random.default_rng(seed), []
    for stage in stages:
        truth = random.integers(0, GRADES, count).astype(float)
        centre = 0.45 * truth + 0.3 * random.normal(size=count)
        logits = -2 * (np.arange(GRADES) - centre[:, None]) ** 2
        values = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        subjects = [f"{stage}{number}" for number in range(count)]
        folds = np.arange(count) % 3 + 1 if stage == "oof" else None
        facts = {"model": "cnn", "target": "grade", "kind": "ordinal", "stage": stage}
        rows = prediction_rows(subjects, truth, values, folds=folds, **facts)
        tables.append(rows.assign(y_pred=kind_named("ordinal").decide(values)))
    return pd.concat(tables, ignore_index=True)


def kappa(rows: pd.DataFrame) -> float:
    return float(cohen_kappa_score(rows["y_true"].astype(int), rows["y_pred"].astype(int), weights="quadratic"))


def test_the_median_leaves_every_bit_as_it_was() -> None:
    table = graded()
    decided = decide_grades(table, {"grade": "median"})
    pd.testing.assert_frame_equal(decided.rows, table)
    assert decided.records == {"grade": {"rule": "median"}}


def test_the_mean_is_rounded() -> None:
    table = graded()
    decided = decide_grades(table, {"grade": "mean"})
    expected = table[[f"p{number}" for number in range(GRADES)]].to_numpy() @ np.arange(GRADES)
    assert (decided.rows["y_pred"] == np.floor(expected + 0.5)).all()
    assert decided.records["grade"]["thresholds"]["cnn"][ALL] == [0.5, 1.5, 2.5]


def test_tuned_thresholds_have_a_higher_kappa_on_other_cases() -> None:
    table = graded()
    tuned, halved = decide_grades(table, {"grade": "kappa"}), decide_grades(table, {"grade": "mean"})
    for stage in ("oof", "test"):
        rows = tuned.rows["stage"] == stage
        assert kappa(tuned.rows[rows]) > kappa(halved.rows[rows]) + 0.02
    counts = tuned.records["grade"]["rows"]["cnn"]
    assert counts == {"1": 160, "2": 160, "3": 160, ALL: 240}


def test_labels_of_a_held_out_fold_do_not_influence_its_own_thresholds() -> None:
    """Nor do those of the test set influence any; those of the other folds do."""
    table = graded()
    before = decide_grades(table, {"grade": "kappa"})
    for stage, fold, same in (("oof", 2, {"2"}), ("test", None, {"1", "2", "3", ALL})):
        changed = table.copy()
        rows = (changed["stage"] == stage) & ((changed["outer_fold"] == fold) if fold else True)
        noise = np.random.default_rng(5).integers(0, GRADES, int(rows.sum())).astype(float)
        changed.loc[rows, "y_true"] = noise
        after = decide_grades(changed, {"grade": "kappa"})
        first, second = (each.records["grade"]["thresholds"]["cnn"] for each in (before, after))
        assert {name for name in first if first[name] == second[name]} == same
        assert (before.rows.loc[rows, "y_pred"] == after.rows.loc[rows, "y_pred"]).all()


@pytest.mark.parametrize(("seed", "noise"), [(1, 0.4), (19, 0.8)])  # the second needs a further round
def test_best_thresholds_are_as_good_as_a_search_over_all(seed: int, noise: float) -> None:
    """For two thresholds every pair of middles is tried."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, 40).astype(float)
    expected = np.round(0.5 * truth + noise * random.random(40), 2)
    values = np.unique(expected)
    middles = (values[:-1] + values[1:]) / 2

    def score(limits: np.ndarray) -> float:
        return float(cohen_kappa_score(truth.astype(int), passed(expected, limits).astype(int), weights="quadratic"))

    best = max(score(np.array([low, high])) for low in middles for high in middles[middles >= low])
    found = best_thresholds(expected, truth, 2)
    assert score(found) == pytest.approx(best, abs=0.01)
    assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize(("truth", "expected"), [([1.0, 1.0], [0.2, 1.4]), ([], []), ([0.0, 2.0], [1.0, 1.0])])
def test_thresholds_stay_half_way_where_nothing_can_be_tuned(truth: list[float], expected: list[float]) -> None:
    assert best_thresholds(np.array(expected), np.array(truth), 3).tolist() == half_way(3).tolist()


@pytest.fixture(scope="module")
def severities(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> Any:
    """A run of linear models whose grades are decided by tuned thresholds."""
    folder = tmp_path_factory.mktemp("grades")
    target = "{label: {kind: ordinal, classes: [no_finding, covid, pneumonia], decision: kappa}}"
    return casewise.run(
        write_study(folder, chests, targets=target, split="{test: 0.25, folds: 2, restarts: 20}"), folder / "run"
    )


def test_a_run_states_the_rule_and_new_cases_follow_it(severities: Any, chests: Path, tmp_path: Path) -> None:
    folder = RunFolder(severities.folder)
    record = folder.decisions.read()["label"]
    assert (record["rule"], set(record["thresholds"]["linear_pixels"])) == ("kappa", {"1", "2", ALL})
    table = pd.read_parquet(folder.predictions.path)
    expected = table["p1"] + 2 * table["p2"]
    for fold, rows in table.groupby(table["outer_fold"].astype(object).map(lambda f: ALL if pd.isna(f) else str(f))):
        limits = np.array(record["thresholds"]["linear_pixels"][fold])
        assert (rows["y_pred"] == passed(expected[rows.index].to_numpy(), limits)).all()
    tested, cases = table[table["stage"] == "test"].set_index("case"), pd.read_csv(chests)
    cases["path"] = [str(chests.parent / path) for path in cases["path"]]
    new = casewise.load_bundle(folder.path).predict(cases.drop(columns="label"), root=tmp_path).set_index("case")
    names = ["no_finding", "covid", "pneumonia"]
    assert new.loc[tested.index, "prediction"].tolist() == [names[int(grade)] for grade in tested["y_pred"]]


def test_the_network_of_a_fold_has_the_thresholds_of_its_fold(severities: Any, tmp_path: Path) -> None:
    folder = RunFolder(severities.folder)
    job, stored = folder.job("linear_pixels", 1), folder.decisions.read()["label"]["thresholds"]["linear_pixels"]["2"]
    model = casewise.load_bundle(job.path)
    assert model.combination.decisions["label"]["thresholds"]["linear_pixels"][ALL] == stored
    copied = JobFolder(tmp_path)
    for file in (job.weights, job.facts, job.distance):
        (tmp_path / file.path.name).write_bytes(file.path.read_bytes())
    with pytest.raises(RunError, match="decisions"):
        casewise.load_bundle(copied.path)


def test_no_network_depends_on_the_rule(severities: Any, tmp_path: Path, chests: Path) -> None:
    target = "{{label: {{kind: ordinal, classes: [no_finding, covid, pneumonia]{more}}}}}"
    from casewise.console import Silent
    from casewise.pipeline.read import read

    decided = []
    for name, more in (("a", ""), ("b", ", decision: mean")):
        (tmp_path / name).mkdir()
        study = read_study(write_study(tmp_path / name, chests, targets=target.format(more=more)))
        decided.append(deciding_settings(study, read(study, RunFolder(tmp_path / name / "run"), Silent())))
    assert decided[0] == decided[1]


def by_stored_thresholds(table: pd.DataFrame, record: Any) -> np.ndarray:
    """The grades of rows by the thresholds that the run recorded, one by one."""
    grades = []
    for row in table.itertuples():
        fold = str(row.outer_fold) if row.stage == "oof" else ALL
        limits = record["thresholds"][row.model][fold]
        grades.append(sum(row.p1 + 2 * row.p2 > limit + 1e-9 for limit in limits))
    return np.array(grades, dtype=float)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> Any:
    """A run in which each case has two photographs, predicted one by one."""
    folder = tmp_path_factory.mktemp("several")
    cases = pd.read_csv(chests).sort_values("label", kind="stable", ignore_index=True)
    cases["path"] = [str(chests.parent / path) for path in cases["path"]]
    cases["subject"] = [f"P{number // 2:02}" for number in range(len(cases))]
    cases.drop(columns="date").to_csv(folder / "cases.csv", index=False)
    target = "{label: {kind: ordinal, classes: [no_finding, covid, pneumonia], decision: kappa, level: case}}"
    study = write_study(
        folder,
        folder / "cases.csv",
        targets=target,
        split="{test: 0.25, folds: 2, restarts: 20}",
        panels="{by: image}",
        evaluation="{bootstrap_resamples: 200, response: false, counterfactual_cases: 20}",
    )
    return casewise.run(study, folder / "run")


@pytest.mark.parametrize("name", ["counterfactuals", "tile_predictions"])
def test_altered_images_and_tiles_are_decided_by_the_rule(several: Any, name: str) -> None:
    folder = RunFolder(several.folder)
    table, record = getattr(folder, name).read(), folder.decisions.read()["label"]
    assert (table["y_pred"] == by_stored_thresholds(table, record)).all()
    median = kind_named("ordinal").decide(table[["p0", "p1", "p2"]].to_numpy(dtype=float))
    assert (table["y_pred"] != median).any()


def test_without_probabilities_there_is_no_grade() -> None:
    assert np.isnan(passed(np.array([np.nan, 1.0]), half_way(3))).tolist() == [True, False]
    columns = [f"p{number}" for number in range(GRADES)]
    for missing in (slice(0, 0), slice(None)):
        rows = graded(6, stages=("external",))
        rows.loc[missing, columns] = np.nan
        decided = apply_thresholds(rows, {"grade": {"rule": "mean", "thresholds": {"cnn": {ALL: [0.5, 1.5, 2.5]}}}})
        assert (decided["y_pred"].isna() == rows["p0"].isna()).all()
