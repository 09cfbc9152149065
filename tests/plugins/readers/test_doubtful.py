"""Doubtful labels: scores, refusals, the blinded list, and what a second reading of it shows."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.errors import CasewiseError, RunError, SplitError
from casewise.plugins.readers.doubtful import (
    COLUMNS,
    Doubts,
    blinded_items,
    blinded_list,
    class_doubts,
    doubtful_labels,
    doubts_of,
    number_doubts,
)
from casewise.plugins.readers.second_reading import second_reading
from tests.prediction_rows import prediction_rows


def finished(rows: pd.DataFrame, readers: dict[str, Any] | None = None, images: Any = None) -> Any:
    """What `doubtful_labels` reads of a run; subjects are in the fold of their out-of-fold row, or in the test set."""
    oof = rows[rows["stage"] == "oof"]
    side = dict.fromkeys(rows["subject"], -1) | {
        s: int(f) - 1 for s, f in zip(oof["subject"], oof["outer_fold"], strict=True)
    }
    evaluation = SimpleNamespace(readers=readers or {})
    study = SimpleNamespace(evaluation=evaluation, level_of=lambda name: "case", seed=0)
    main = SimpleNamespace(learner="net", target="outcome")
    return SimpleNamespace(
        final=rows,
        splits=SimpleNamespace(side=side),
        study=study,
        images=images,
        results=SimpleNamespace(main=main),
        files=SimpleNamespace(path="runs/a"),
    )


def classes_with_errors(seed: int, subjects: int = 300, share: float = 0.05) -> tuple[pd.DataFrame, np.ndarray]:
    """Out-of-fold probabilities of three classes, of whose labels a share was exchanged; which ones."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([0.15] * 3, subjects) * 0.94 + 0.02
    truth = np.array([rng.choice(3, p=p / p.sum()) for p in probabilities])
    wrong = np.zeros(subjects, dtype=bool)
    wrong[rng.choice(subjects, round(share * subjects), replace=False)] = True
    labels = np.where(wrong, (truth + rng.integers(1, 3, subjects)) % 3, truth)
    names = [f"s{number}" for number in range(subjects)]
    return prediction_rows(names, labels, probabilities, folds=1 + np.arange(subjects) % 5), wrong


def doubts_with(labels: list[float], kind: str = "classification") -> Doubts:
    """Doubts in the order of the labels, a case each."""
    cases = [f"c{number}" for number in range(len(labels))]
    facts = {"case": cases, "subject": cases, "target": "outcome", "region": "", "image": "", "stage": "oof"}
    table = pd.DataFrame(facts).assign(recorded=labels, predicted=0.0, distance=1.0, candidate=False)
    table = table.assign(score=-np.arange(len(labels), dtype=float), rank=np.arange(1, len(labels) + 1))
    return Doubts("outcome", kind, "net", table[list(COLUMNS)])


def test_planted_errors_of_classes_come_first() -> None:
    rows, wrong = classes_with_errors(0)
    doubts = doubts_of(rows, learner="net")
    first = doubts.table.head(wrong.sum())["subject"].str[1:].astype(int)
    assert wrong[first].mean() > 0.6
    assert doubts.table["candidate"].head(wrong.sum()).mean() > 0.9
    assert doubts.table["rank"].tolist() == list(range(1, len(rows) + 1))
    assert doubts.table["score"].is_monotonic_decreasing


def test_scores_of_classes_are_log_odds_and_candidates_those_of_the_confident_joint() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.7, 0.1, 0.2]])
    score, other, candidate = class_doubts(probabilities, np.array([0, 0, 1, 2, 2]))
    assert score == pytest.approx(np.log([0.2 / 0.7, 0.4 / 0.5, 0.1 / 0.8, 0.2 / 0.6, 0.7 / 0.2]))
    assert other.tolist() == [1, 1, 0, 0, 0]
    # the thresholds are 0.6, 0.8 and 0.4: only the last case is as probable to be of another class
    assert candidate.tolist() == [False, False, False, False, True]


def test_of_equal_scores_the_more_distant_grade_is_read_first() -> None:
    probabilities = np.array([[0.2, 0.6, 0.1, 0.1], [0.2, 0.1, 0.1, 0.6]])
    rows = prediction_rows(["near", "far"], [0, 0], probabilities, folds=[1, 2], kind="ordinal")
    table = doubts_of(rows, learner="net").table
    assert table["subject"].tolist() == ["far", "near"]
    assert table["distance"].tolist() == [3.0, 1.0]


def test_numbers_are_standardised_by_the_error_of_similar_predictions() -> None:
    rng = np.random.default_rng(1)
    predicted = np.linspace(0, 100, 400)
    residual = rng.normal(size=400) * (1 + predicted / 10)
    residual[40] = 12.0
    score = number_doubts(predicted, predicted + residual)
    assert int(score.argmax()) == 40
    assert (np.abs(residual) > 12).sum() > 10
    assert score[:180].mean() == pytest.approx(score[220:].mean(), rel=0.25)


def test_a_label_on_which_readers_differ_is_less_surprising() -> None:
    rng = np.random.default_rng(3)
    truth = np.repeat([10.0, 50.0], 100) + rng.normal(size=200)
    spread = np.where(truth < 30, 0.2, 4.0)
    readings = truth[:, None] + spread[:, None] * rng.normal(size=(200, 2))
    recorded = readings.mean(axis=1)
    predicted = np.concatenate([recorded[:100] - 6.0 * (np.arange(100) == 5), recorded[100:]]) + rng.normal(size=200)
    recorded[150] += 6.0
    subjects = [f"s{number}" for number in range(200)]
    rows = prediction_rows(subjects, recorded, predicted, folds=1 + np.arange(200) % 5)
    images = rows[["case", "subject"]].assign(a=readings[:, 0], b=readings[:, 1])
    with_readers = finished(rows, {"outcome": {"A": "a", "B": "b"}}, images)
    score = doubtful_labels(with_readers).table.set_index("subject")["score"]
    assert score["s5"] > 3 * score["s150"]
    without = doubtful_labels(finished(rows)).table.set_index("subject")["score"]
    assert without["s5"] < 2 * without["s150"]


def test_out_of_fold_and_test_predictions_are_used_and_no_others() -> None:
    rows, _ = classes_with_errors(1, 60)
    more = [rows.assign(stage=name, subject=f"{name} " + rows["subject"]) for name in ("test", "training", "external")]
    for table in more:
        table["case"] = table["subject"] + "/1"
        table["outer_fold"] = pd.array([pd.NA] * len(table), dtype="Int64")
    doubts = doubtful_labels(finished(pd.concat([rows, *more], ignore_index=True)))
    assert doubts.table["stage"].value_counts().to_dict() == {"oof": 60, "test": 60}
    assert (doubts.target, doubts.kind, doubts.learner) == ("outcome", "classification", "net")


def test_a_run_without_out_of_fold_predictions_is_refused() -> None:
    rows, _ = classes_with_errors(1, 60)
    with pytest.raises(RunError):
        doubtful_labels(finished(rows.assign(stage="training")))


def test_a_prediction_by_a_network_of_another_fold_is_refused() -> None:
    rows, _ = classes_with_errors(1, 60)
    run = finished(rows)
    run.splits.side["s7"] = 0 if run.splits.side["s7"] else 1
    with pytest.raises(SplitError):
        doubtful_labels(run)


def test_the_list_has_the_worst_cases_and_as_many_of_the_same_labels() -> None:
    doubts = doubts_with([0.0, 1.0, 1.0, 0.0, 1.0, *([0.0, 1.0, 2.0] * 30)])
    blinded = blinded_list(doubts, 5, seed=3)
    doubtful, undoubted = (blinded[blinded["doubtful"] == side] for side in (True, False))
    assert len(blinded) == 10 == blinded["case"].nunique()
    assert set(doubtful["case"]) == {f"c{number}" for number in range(5)}
    assert sorted(undoubted["recorded"]) == sorted(doubtful["recorded"])
    # each stands for its part of the 30 cases of its label
    assert undoubted.groupby("recorded")["weight"].sum().to_dict() == {0.0: 30.0, 1.0: 30.0}


def test_the_order_of_the_list_says_nothing() -> None:
    doubts = doubts_with([float(number % 3) for number in range(200)])
    positions = [np.flatnonzero(blinded_list(doubts, 20, seed=seed)["doubtful"]).mean() for seed in range(60)]
    assert np.mean(positions) == pytest.approx(19.5, abs=1.2)
    first, again, other = (blinded_list(doubts, 20, seed=seed)["case"].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_numbers_are_matched_by_fifths() -> None:
    doubts = doubts_with([90.0, 95.0, 99.0, *map(float, range(97))], kind="regression")
    key = blinded_list(doubts, 3)
    assert key["recorded"].min() > 75


def test_the_list_of_a_session_has_the_keys_of_its_items() -> None:
    rows, _ = classes_with_errors(1, 60)
    run: Any = SimpleNamespace(
        finished=finished(rows), study=SimpleNamespace(seed=5, primary_outcome="outcome"), folder="runs/a"
    )
    form: Any = SimpleNamespace(fields=[SimpleNamespace(target="outcome")])
    items: Any = {f"key {case}": SimpleNamespace(case=case, image="") for case in rows["case"]}
    keys = list(blinded_items(run, form, items, 10))
    expected = blinded_list(doubtful_labels(run.finished), 10, seed=5)
    assert keys == [f"key {case}" for case in expected["case"]]
    del items[keys[3]]
    with pytest.raises(CasewiseError):
        blinded_items(run, form, items, 10)


def readings_of(key: pd.DataFrame, values: np.ndarray) -> pd.DataFrame:
    return key[["case", "target", "region"]].assign(value=values, image="")


def test_a_second_reading_estimates_the_share_of_wrong_labels() -> None:
    estimates = []
    for seed in range(25):
        rows, wrong = classes_with_errors(seed, 200, 0.1)
        key = blinded_list(doubts_of(rows, learner="net"), 40, seed=seed)
        number = key["subject"].str[1:].astype(int).to_numpy()
        second = np.where(wrong[number], (key["recorded"] + 1) % 3, key["recorded"])
        reading = second_reading(key, readings_of(key, second))
        assert reading.doubtful.value == pytest.approx(wrong[number][key["doubtful"]].mean())
        estimates.append(reading.overall)
    values = np.array([each.value for each in estimates])
    assert values.mean() == pytest.approx(0.1, abs=3 * values.std() / 5)
    assert np.mean([each.low <= 0.1 <= each.high for each in estimates]) >= 0.8


def test_without_changes_the_interval_of_the_undoubted_is_exact() -> None:
    key = blinded_list(doubts_with([0.0] * 100), 10)
    reading = second_reading(key, readings_of(key, np.zeros(len(key))))
    assert (reading.doubtful.value, reading.undoubted.value, reading.overall.value) == (0.0, 0.0, 0.0)
    assert reading.undoubted.high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert reading.overall.high == pytest.approx(0.9 * reading.undoubted.high)


def test_small_differences_are_no_change() -> None:
    key = blinded_list(doubts_with([float(number) for number in range(40)], kind="regression"), 4)
    readings = readings_of(key, key["recorded"] + 1.0)
    assert second_reading(key, readings, tolerance=1.0).doubtful.value == 0.0
    assert second_reading(key, readings, tolerance=0.5).doubtful.value == 1.0


def test_unread_cases_are_counted_and_a_list_without_any_is_refused() -> None:
    key = blinded_list(doubts_with([0.0] * 40), 5)
    readings = readings_of(key, np.zeros(10))
    some = readings.assign(value=readings["value"].where(np.arange(10) != 4))
    assert second_reading(key, some).unread == 1
    with pytest.raises(CasewiseError):
        second_reading(key, readings[key["doubtful"]])
