"""Whole runs with classes: what is left behind, grades, a network that fails, and a split by image that is caught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from casewise.errors import AuditError
from casewise.plugins.phantoms.chest import make_chest
from casewise.run import Run, run
from casewise.targets import kind_named
from tests.chest_study import THREE, chest_study


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> Run:
    study = chest_study(
        chests, backbones=["test_resnet", "test_efficientnet"], stack=["mean"], recipe={"imbalance": "weights"}
    )
    return run(study, tmp_path_factory.mktemp("three") / "run")


def told(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def check_probabilities(table: pd.DataFrame, kind: str, classes: int) -> None:
    columns = [f"p{number}" for number in range(classes)]
    assert [c for c in table if str(c).startswith("p") and str(c)[1:].isdigit()] == columns
    shares = table[columns].to_numpy()
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert (shares >= 0).all()
    assert np.array_equal(kind_named(kind).decide(shares), table["y_pred"])
    assert set(table["kind"]) == {kind}
    assert set(table["y_true"]) <= set(range(classes))


class TestThreeClasses:
    def test_the_predictions_are_probabilities_of_each_image_once(self, three: Run, chests: Path) -> None:
        table = pd.read_parquet(three.folder / "predictions.parquet")
        check_probabilities(table, "classification", 3)
        assert set(table["model"]) == {"test_resnet", "test_efficientnet", "mean_of_learners"}
        labels = pd.read_csv(chests).set_index("subject")["label"]
        assert [THREE[int(code)] for code in table["y_true"]] == labels.loc[table["subject"]].tolist()
        for _, part in table.groupby("model"):
            assert sorted(part["subject"]) == sorted(labels.index)
            assert set(part["stage"]) == {"oof", "test"}

    def test_the_mean_of_learners_is_their_mean(self, three: Run) -> None:
        table = three.rows.set_index(["model", "case"])[["p0", "p1", "p2"]]
        both = (table.loc["test_resnet"] + table.loc["test_efficientnet"]) / 2
        mean = table.loc["mean_of_learners"]
        assert np.allclose(mean.to_numpy(), both.loc[mean.index].to_numpy(), atol=1e-6)

    def test_every_figure_has_its_interval(self, three: Run) -> None:
        metrics = told(three.folder, "metrics.json")
        wanted = {"accuracy", "top2_accuracy", "auroc", "auroc[covid]", "f1", "kappa", "brier", "ece", "log_loss"}
        for stage in ("oof", "test"):
            for learner in ("test_resnet", "test_efficientnet", "mean_of_learners"):
                figures = metrics["metrics"][stage][learner]["label"]
                assert wanted <= set(figures)
                for figure in figures.values():
                    assert {"value", "low", "high", "n_subjects", "n_cases", "rough"} <= set(figure)
                shown = metrics["classes"][stage][learner]["label"]
                assert shown["names"] == THREE
                assert np.sum(shown["confusion"]) == sum(shown["support"]) == figures["accuracy"]["n_cases"]
        assert metrics["main"]["target"] == "label"
        assert metrics["main"]["kind"] == "classification"
        assert metrics["comparisons"]["oof"]["label"]["accuracy"]

    def test_accuracy_is_the_share_of_the_table(self, three: Run) -> None:
        table = three.rows.query("model == 'test_resnet' and stage == 'oof'")
        found = three.results["metrics"]["oof"]["test_resnet"]["label"]["accuracy"]["value"]
        assert found == pytest.approx((table["y_true"] == table["y_pred"]).mean(), abs=1e-6)

    def test_the_jobs_say_how_they_learned(self, three: Run) -> None:
        records = [json.loads(path.read_text()) for path in three.folder.glob("jobs/*/*/job.json")]
        assert len(records) == 4
        for record in records:
            assert record["epochs"] == 2
            assert record["guess_loss"] == pytest.approx(np.log(3), abs=0.3)
            assert (record["finder"], record["stages"]) == (None, [])
        facts = told(three.folder / "jobs" / "test_resnet" / "fold1", "model.json")
        assert [(o["kind"], o["classes"]) for o in facts["outputs"]] == [("classification", THREE)]


def test_two_of_three_classes(tmp_path: Path, chests: Path) -> None:
    label = {"classes": ["no_finding", "covid"], "positive": "covid"}
    recipe = {"tuning": "head_only", "lr": "find", "finder": {"low": 1e-4, "high": 10, "steps": 60}}
    done = run(chest_study(chests, label, recipe=recipe, audit={"columns": ["sex", "age"]}), tmp_path / "run")
    check_probabilities(done.rows, "classification", 2)
    assert len(set(done.rows["subject"])) == 16
    figures = done.results["metrics"]["oof"]["test_resnet"]["label"]
    table = done.rows.query("stage == 'oof'")
    sick = table["y_true"] == 1
    assert figures["sensitivity"]["value"] == pytest.approx((table["y_pred"][sick] == 1).mean())
    assert figures["specificity"]["value"] == pytest.approx((table["y_pred"][~sick] == 0).mean())
    assert "top2_accuracy" not in figures
    assert done.results["classes"]["oof"]["test_resnet"]["label"]["positive"] == "covid"
    assert "8 rows of classes that the study does not list" in done.report.read_text()
    record = told(done.folder / "jobs" / "test_resnet" / "fold1", "job.json")
    assert record["finder"]["chosen"] in [pytest.approx(rate, rel=0.05) for rate in record["finder"]["rates"]]
    assert not list(done.folder.glob("jobs/*/*/finder.json"))


def test_grades(tmp_path: Path, chests: Path) -> None:
    label = {"kind": "ordinal", "classes": ["no_finding", "pneumonia", "covid"]}
    recipe = {"tuning": "gradual_unfreezing", "gradual_unfreezing": {"groups": 2, "epochs": 1}, "imbalance": "sampling"}
    half_written = tmp_path / "run" / "jobs" / "test_resnet" / "fold1" / "stage1" / ".state.safetensors.partial"
    half_written.parent.mkdir(parents=True)
    half_written.write_bytes(b"by a run that was killed")
    done = run(chest_study(chests, label, recipe=recipe), tmp_path / "run")
    check_probabilities(done.rows, "ordinal", 3)
    figures = done.results["metrics"]["oof"]["test_resnet"]["label"]
    assert {"kappa_quadratic", "mae", "accuracy"} <= set(figures)
    table = done.rows.query("stage == 'oof'")
    assert figures["mae"]["value"] == pytest.approx((table["y_true"] - table["y_pred"]).abs().mean())
    assert done.results["main"]["kind"] == "ordinal"
    record = told(done.folder / "jobs" / "test_resnet" / "fold1", "job.json")
    assert [stage["unfrozen"] for stage in record["stages"]] == list(range(len(record["stages"])))
    assert not list(done.folder.glob("jobs/*/*/stage*"))


def test_a_network_that_fails_is_named_and_the_others_go_on(tmp_path: Path, chests: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from casewise.models.backbones import build_network

    for name in ("test_resnet", "test_efficientnet"):
        torch.manual_seed(0)
        tensors = {key: value.contiguous() for key, value in build_network(name, 1).body.state_dict().items()}
        if name == "test_resnet":
            next(iter(tensors.values())).fill_(3e38)  # sums overflow
        save_file(tensors, tmp_path / f"{name}.safetensors")
    changes = {"weights": "pretrained", "weights_dir": tmp_path, "backbones": ["test_resnet", "test_efficientnet"]}
    study = chest_study(chests, **changes)
    finished = run(study, tmp_path / "run")
    assert list(finished.left_out) == ["test_resnet"]
    assert list(finished.left_out["test_resnet"]) == ["1", "2"]
    for said in finished.left_out["test_resnet"].values():
        assert "the loss is no longer a number in epoch 1, batch 1 (cases C0" in said
    assert set(finished.rows["model"]) == {"test_efficientnet"}
    done = sorted(path.parent.parent.name for path in (tmp_path / "run").glob("jobs/*/*/job.json"))
    assert done == ["test_efficientnet", "test_efficientnet"]
    alone = study.model_copy(update={"backbones": ["test_efficientnet"]})
    assert set(run(alone, tmp_path / "run").rows["model"]) == {"test_efficientnet"}


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four subjects with a random label and four films each, which differ by a pixel and some brightness."""
    folder, classes = tmp_path_factory.mktemp("repeated"), ("covid", "no_finding")
    table = make_chest(folder, subjects=24, size=(72, 72), seed=5, labels="shuffled", classes=classes)
    rows = []
    for row in pd.read_csv(table).to_dict("records"):
        with Image.open(table.parent / row["path"]) as film:
            grey = film.convert("L")
        for number in range(4):
            cropped = grey.crop((number // 2, number % 2, grey.width - number % 2, grey.height - number // 2))
            path = f"images/{row['subject']}-{number}.jpg"
            ImageEnhance.Brightness(cropped).enhance(1 + 0.02 * number).save(
                table.parent / path, quality=90 - 4 * number
            )
            rows.append({**row, "path": path, "visit": number, "film": f"{row['subject']}-{number}"})
    pd.DataFrame(rows).to_csv(table, index=False)
    return table


def memorising(table: Path, **changes: Any) -> Any:
    """A head fitted to the features of a random network: all that it can learn is which picture is which."""
    recipe = {
        "epochs": 1,
        "lr": 1e-6,
        "schedule": "constant",
        "tuning": "head_only",
        "head": "probe",
        "early_stopping": {"monitor": "none"},
    }
    split = {"test": 0, "folds": 4}
    classes = ["covid", "no_finding"]
    return chest_study(table, classes, recipe=recipe, split=split, backbones=["shufflenet_v2_x0_5"], **changes)


def accuracy(done: Run) -> dict[str, float]:
    found: dict[str, float] = done.results["metrics"]["oof"]["shufflenet_v2_x0_5"]["label"]["accuracy"]
    return found


class TestRandomLabels:
    by_image = {"columns": {"subject": "film", "visit": ""}}  # noqa: RUF012

    def test_accepted_it_reports_a_high_accuracy_of_nothing(self, repeated: Path, tmp_path: Path) -> None:
        with pytest.raises(AuditError, match="144 pairs of images show the same picture under two subjects"):
            run(memorising(repeated, **self.by_image), tmp_path / "run")
        assert not (tmp_path / "run" / "jobs").exists()
        errors = {f["id"] for f in told(tmp_path / "run", "audit.json")["findings"] if f["level"] == "error"}
        reasons = dict.fromkeys(errors, "to show what such a split does")
        done = run(memorising(repeated, **self.by_image, accept=reasons), tmp_path / "run")
        assert accuracy(done)["low"] > 0.75
        assert "to show what such a split does" in done.report.read_text()

    def test_by_subject_the_interval_covers_chance(self, repeated: Path, tmp_path: Path) -> None:
        done = run(memorising(repeated), tmp_path / "run")
        found = accuracy(done)
        assert found["n_subjects"] == 24
        assert found["low"] < 0.5 < found["high"]
