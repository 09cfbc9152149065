"""The check after training: held-out cases predicted again with altered images, and what is made of their changes."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.robustness import affects, counterfactual_figures
from casewise.jobs.plan import expand
from casewise.jobs.predict import at_once, chosen_panels, predict_altered, seconds_a_panel
from casewise.modalities.alterations import ALTERATIONS, UNALTERED, altered
from casewise.pipeline.finished import FinishedRun
from casewise.run import Run, run
from casewise.run_folder import RunFolder
from casewise.study.schema import Study
from tests.chest_study import chest_study
from tests.prediction_rows import prediction_rows

NETWORK = "test_resnet"
CROPS = ("cropped_rows", "cropped_columns")


def films(folder: Path, *, shortcut: bool) -> Path:
    """Forty subjects of two classes, half of them with films that are not square.

    With `shortcut` these are all films of the class `ill` and nothing else differs; otherwise they are half of each
    class, and films of `ill` have a bright disc.
    """
    folder.mkdir()
    random, rows = np.random.default_rng(4), []
    across, down = np.meshgrid(np.arange(64), np.arange(64))
    for number in range(40):
        ill, picture = number % 2 == 1, random.normal(128, 20, (64, 64)) + random.normal(0, 10)
        if ill and not shortcut:
            picture[(across - 32) ** 2 + (down - 32) ** 2 < 200] += 90
        if ill if shortcut else number % 4 < 2:
            picture = picture[7:-7] if number // 4 % 2 else picture[:, 7:-7]
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append({"path": f"{number}.png", "subject": f"S{number:02}", "label": "ill" if ill else "well"})
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
    return folder / "cases.csv"


def small_study(table: Path, **changes: Any) -> Study:
    recipe = {"epochs": 12, "lr": 0.01, "optimizer": "adam", "schedule": "cosine"}
    values = {"split": {"test": 0, "folds": 2}, "images": {"size": 32, "fit": "pad", "padding": "black"}}
    values |= {"recipe": recipe | {"early_stopping": {"monitor": "none"}}, "evaluation": {"counterfactual_cases": 50}}
    accepted = [f"shortcut-{name}" for name in ("files", "file-size", "thumbnail", "shape", "border")]
    values["accept"] = dict.fromkeys(accepted, "made so")
    return chest_study(table, {"classes": ["well", "ill"]}, **values, **changes)


@pytest.fixture(scope="module")
def with_shortcut(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("bars")
    return run(small_study(films(folder / "films", shortcut=True)), folder / "run")


@pytest.fixture(scope="module")
def without_shortcut(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("plain")
    return run(small_study(films(folder / "films", shortcut=False)), folder / "run")


def figures(done: Run) -> dict[str, Any]:
    by_alteration: dict[str, Any] = done.results["counterfactuals"][NETWORK]
    return by_alteration


def right(done: Run) -> float:
    return float(done.results.figures.of("oof", NETWORK, "label")["accuracy"].value)


def test_a_network_that_knows_a_class_by_its_bars_changes_its_answers(with_shortcut: Run) -> None:
    assert right(with_shortcut) > 0.9
    for crop in CROPS:
        entry = figures(with_shortcut)[crop]
        assert entry["answers"] == entry["cases"] == entry["subjects"] == 40
        assert entry["changed"] >= 10
        assert (entry["changes"][0].before, entry["changes"][0].after) == ("well", "ill")
        assert entry["share"]["value"] == pytest.approx(entry["changed"] / 40)
        assert entry["share"]["low"] > 0.1
        assert figures(with_shortcut)[f"{crop}_stretched"]["changed"] <= 2
    assert affects(figures(with_shortcut)[CROPS[0]])


def test_a_network_that_knows_the_disease_keeps_its_answers(without_shortcut: Run) -> None:
    assert right(without_shortcut) > 0.9
    for crop in CROPS:
        assert figures(without_shortcut)[crop]["changed"] <= 3
    assert not affects(figures(without_shortcut)[CROPS[0]])


def test_running_again_predicts_nothing_again(with_shortcut: Run, tmp_path: Path) -> None:
    folder = RunFolder(with_shortcut.folder)
    before, study = folder.counterfactuals.path.stat().st_mtime_ns, with_shortcut.study
    again = run(study, folder.path)
    assert folder.counterfactuals.path.stat().st_mtime_ns == before
    assert again.results == with_shortcut.results


def test_folds_side_by_side_have_the_bits_of_folds_one_after_another(
    with_shortcut: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored predictions are of as many folds at once as there are cores."""
    folder, study = RunFolder(with_shortcut.folder), with_shortcut.study
    stored = folder.counterfactuals.read()
    for count in (1, 4):
        monkeypatch.setattr("casewise.jobs.predict.at_once", lambda bundles, folds, count=count: count)
        told: list[int] = []
        opened = FinishedRun.open(RunFolder(with_shortcut.folder))
        splits = opened.splits
        jobs = expand(study, splits, folder, str(folder.fingerprint.read()["fingerprint"]))
        rows = predict_altered(
            jobs, opened.prepared, chosen_panels(study, opened.prepared.cohort.panels, splits), tell=told.append
        )
        key = ["alteration", "case", "model"]
        again = rows.sort_values(key)[["p0", "p1"]].to_numpy()
        assert (again == stored[stored["model"] == NETWORK].sort_values(key)[["p0", "p1"]].to_numpy()).all()
        assert told == [1, 2]


def test_jobs_with_other_numbers_of_threads_are_predicted_in_groups(
    with_shortcut: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = FinishedRun.open(RunFolder(with_shortcut.folder))
    fingerprint = str(opened.files.fingerprint.read()["fingerprint"])
    jobs = expand(opened.study, opened.splits, opened.files, fingerprint)
    chosen = chosen_panels(opened.study, opened.prepared.cohort.panels, opened.splits)
    whole = predict_altered(jobs, opened.prepared, chosen, tell=lambda done: None)
    monkeypatch.setattr("casewise.jobs.predict._by_threads", lambda bundles: [[each] for each in bundles[::-1]])
    pd.testing.assert_frame_equal(predict_altered(jobs, opened.prepared, chosen, tell=lambda done: None), whole)
    rows = next(iter(chosen.values()))
    assert seconds_a_panel(jobs[:1], opened.prepared, rows[:1], 1) is None
    measured = seconds_a_panel(jobs[:1], opened.prepared, rows[:3], 2)
    assert measured is not None
    assert measured >= 0


@pytest.mark.parametrize(
    ("device", "threads", "count", "expected"),
    [("cpu", 1, 3, 3), ("cpu", 1, 9, 4), ("cpu", 8, 5, 2), ("cuda", 1, 5, 1)],
)
def test_as_many_folds_at_once_as_there_are_cores(
    device: str, threads: int, count: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casewise.jobs.predict.cpu_count", lambda: 16)
    bundle: Any = SimpleNamespace(compute=SimpleNamespace(device=device, threads=threads))
    assert at_once([bundle], count) == expected


def test_cases_are_drawn_in_turn_from_every_class(without_shortcut: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = FinishedRun.open(RunFolder(without_shortcut.folder))
    panels = finished.cohort.panels
    for count, by_fold in ((1, [1]), (11, [6, 5]), (12, [6, 6])):
        settings = finished.study.evaluation.model_copy(update={"counterfactual_cases": count})
        study = finished.study.model_copy(update={"evaluation": settings})
        assert [len(rows) for rows in chosen_panels(study, panels, finished.splits).values()] == by_fold
    chosen = chosen_panels(study, panels, finished.splits)
    assert chosen == chosen_panels(study, panels, finished.splits)
    for fold, rows in chosen.items():
        assert len(rows) == 6
        assert set(panels["subject"].iloc[rows]) <= set(finished.splits.subjects(fold))
        assert sorted(panels["label"].iloc[rows]) == [0, 0, 0, 1, 1, 1]
    monkeypatch.setattr("casewise.jobs.predict.MOST_BYTES", 4 * 9 * 3 * study.images.size**2)
    assert {len(rows) for rows in chosen_panels(study, panels, finished.splits).values()} == {4}  # of large images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [UNALTERED, *ALTERATIONS])
def test_alterations_keep_what_they_should(name: str, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, channels), dtype=np.uint8)
    before, after = image.copy(), altered(image, name)
    assert np.array_equal(image, before)
    assert (after.dtype, after.shape[2]) == (np.uint8, channels)
    if name not in CROPS:
        assert after.shape == image.shape
    assert np.array_equal(after, image) == (name == UNALTERED)


def answers(before: list[float], after: list[float], kind: str, **columns: Any) -> pd.DataFrame:
    """Predictions of four cases of two subjects, before and after an alteration."""
    rows = pd.DataFrame({"case": list("abcd"), "subject": ["s", "s", "t", "t"], "region": "", "image": ""})
    both = [rows.assign(alteration=name, y_pred=y) for name, y in ((UNALTERED, before), ("darker", after))]
    return pd.concat(both, ignore_index=True).assign(model="net", target="x", kind=kind, **columns)


def test_numbers_move_by_units_and_by_errors() -> None:
    table = answers([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 3.0], "regression", y_true=[1.5, 2.5, 3.5, 4.5] * 2)
    found = counterfactual_figures(table, "x", classes=(), plan=Plan(200))["net"]["darker"]
    assert (found["moved"]["value"], found["shift"]["value"]) == (1, 0.5)
    # two subjects have no interval, as everywhere
    assert found["shift"]["low"] is found["shift"]["high"] is None
    assert (found["mae"], found["relative"]) == (0.5, 2)
    assert found["shift"]["rough"]
    of_all = counterfactual_figures(table, "x", classes=(), plan=Plan(200), errors={"net": 4.0})["net"]["darker"]
    assert (of_all["mae"], of_all["relative"]) == (4.0, 0.25)
    assert affects(found)
    assert [affects(replace(found, relative=effect)) for effect in (0.4, 0.6)] == [False, True]


def test_the_interval_of_an_absolute_change_lies_above_zero() -> None:
    rows = prediction_rows(range(20), np.ones(20), np.ones(20), target="score", alteration=UNALTERED)
    moved = rows.assign(alteration="darker", y_pred=[9.0, 7.0] + [1.01] * 18)
    found = counterfactual_figures(pd.concat([rows, moved]), "score", classes=(), plan=Plan())["net"]["darker"]
    assert 0 < found["moved"]["low"] < found["moved"]["value"] < found["moved"]["high"]
    assert found["shift"]["low"] < 0


def test_combined_learners_are_tested_as_they_predicted_the_same_cases(tmp_path: Path) -> None:
    study = small_study(films(tmp_path / "films", shortcut=False), stack=["mean", "weighted"])
    changes = {"recipe": study.recipe.model_copy(update={"epochs": 1}), "backbones": [NETWORK, "test_efficientnet"]}
    finished = run(study.model_copy(update=changes), tmp_path / "run")
    table, names = finished.files.counterfactuals.read(), ["mean_of_learners", "meta_learner_weighted"]
    assert set(finished.results.counterfactuals or {}) == {NETWORK, "test_efficientnet", *names}
    rows = finished.rows[finished.rows["stage"] == "oof"].set_index(["model", "case"])
    for name in names:
        own = table[(table["model"] == name) & (table["alteration"] == UNALTERED)].set_index(["model", "case"])
        np.testing.assert_allclose(own[["p0", "p1"]], rows.loc[own.index, ["p0", "p1"]], atol=1e-5)
        assert set(table.loc[table["model"] == name, "alteration"]) == {UNALTERED, *ALTERATIONS}
