"""Following a run: its training as a table, and what trackers get: everything once, and nothing that identifies."""

import csv
import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from casewise.console import Silent
from casewise.errors import StudyError
from casewise.evaluation.figures import Cell, Estimate, Figures
from casewise.evaluation.metrics_file import write_results
from casewise.evaluation.results import Headline, Results
from casewise.pipeline.train import COLUMNS, following, record_trained
from casewise.plugins.tracking import plugin, sending
from casewise.plugins.tracking.sending import (
    EVENTS,
    RESULTS,
    TRACKERS,
    TrackerError,
    Unit,
    job_units,
    parameters,
    results_unit,
    send_missing,
    tensorboard_path,
    tracking_path,
)
from casewise.run_folder import RunFolder
from casewise.study.loading import build_study
from casewise.study.schema import Study

JOBS = [f"{name}/fold-{number}" for name in ("test_resnet", "timm:resnet18") for number in (1, 2)]
SECRETS = ("Anna", "P017", "hospital-a", "photo.jpg", "secret-folder")
HISTORY = [
    {"epoch": 0, "train_loss": 0.1, "stop_loss": 1 / 3, "lr": 0.01, "train_accuracy": 0.5},
    {"epoch": 1, "train_loss": 0.05, "stop_loss": 0.25, "lr": 0.005, "train_accuracy": 0.75},
]


class Shown(Silent):
    """Keeps the lines that a step shows."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, step: str, text: str) -> None:
        self.lines.append(text)


def study_with(run: RunFolder, *trackers: str) -> Study:
    folder = run.path.parents[1]
    secret = folder / "secret-folder"
    values: dict[str, Any] = {"name": "grades", "targets": {"size": "0..10"}, "split": {"column": "site"}}
    values |= {"cohort": secret / "Anna.csv", "root": secret, "weights_dir": secret, "track": list(trackers)}
    values |= {"where_not": {"subject": ["P017"], "site": "hospital-a", "path": "photo.jpg"}}
    values |= {"subject_names": [["P017", "p-017"]], "images": {"lesion": "mask-of-Anna", "store": secret}}
    values |= {"backbones": ["test_resnet", "timm:resnet18"]}
    values |= {"weights": {"test_resnet": "random", "timm:resnet18": str(secret / "w.safetensors")}}
    values |= {"baselines": {"off": "tests of trackers, as Anna of hospital-a wished"}}
    return build_study(values, source="the test's study", folder=folder)


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    """The records and the metrics of a run of two networks, of which one has phases."""
    folder = RunFolder(tmp_path / "runs" / "grades")
    for name in ("test_resnet", "timm:resnet18"):
        for fold in range(2):
            history = [{**entry, **({"phase": 0} if ":" in name else {})} for entry in HISTORY]
            folder.job(name, fold).record.write(
                {"model": name, "fold": fold + 1, "fingerprint": "f", "files": {}, "history": history, "seconds": 4.0}
                | {"weights": "/secret-folder/Anna.safetensors", "epochs": 2, "best_epoch": 2}
            )
    size = {"mae": Estimate(1.25, 0.5, None, 9, 9, True), "ccc": Estimate(0.5, 0.25, 0.75, 9, 9, True)}
    figures = Figures({Cell("oof", "test_resnet", key): size for key in ("size", "size[hospital-a]")})
    main = Headline("size", "oof", "test_resnet", chosen_on="oof", kind="regression")
    write_results(folder, Results(main, figures))
    return folder


def secrets_in(folder: Path) -> list[str]:
    """The names of subjects, sites and files of the study in the files of a tracker."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [s for path in files for s in SECRETS if s.encode() in path.read_bytes() or s in path.name]


def read_rows(folder: RunFolder) -> list[dict[str, str]]:
    with folder.training_table_path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestTable:
    def test_a_row_for_each_network_and_epoch_with_all_digits(self, finished: RunFolder) -> None:
        record_trained(study_with(finished), finished, Shown())
        rows = read_rows(finished)
        assert (tuple(rows[0]), {row["model"] for row in rows[:3]}) == (COLUMNS, {"test_resnet"})
        assert [(row["fold"], row["epoch"]) for row in rows[:3]] == [("1", "1"), ("1", "2"), ("2", "1")]
        assert (len(rows), float(rows[0]["stop_loss"])) == (8, 1 / 3)
        assert [row["kept"] for row in rows[:2]] == ["false", "true"]
        assert (rows[0]["phase"], rows[0]["stop_accuracy"], rows[-1]["phase"]) == ("", "", "1")
        assert float(rows[0]["job_seconds"]) == 4.0

    def test_it_grows_while_networks_are_trained(self, finished: RunFolder) -> None:
        kept = finished.job("timm:resnet18", 1).record
        text = kept.path.read_bytes()
        kept.path.unlink()
        told: list[tuple[float, str]] = []
        follow = following(study_with(finished), finished, lambda done, text: told.append((done, text)))
        follow(3.0, "three")
        assert len(read_rows(finished)) == 6
        kept.path.write_bytes(text)
        follow(4.0, "four")
        assert (len(read_rows(finished)), told) == (8, [(3.0, "three"), (4.0, "four")])


class Kept:
    """A tracker that keeps what it gets, and fails from some unit on."""

    def __init__(self, units: list[Unit], fails_after: int = 99) -> None:
        self.address, self.units, self.fails_after = "a list", units, fails_after

    def send(self, unit: Unit) -> None:
        if len(self.units) >= self.fails_after:
            raise TrackerError("http://127.0.0.1:9: the connection was refused")
        self.units.append(unit)


class TestSending:
    def test_every_part_is_sent_once(self, finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        study, units = study_with(finished, "mlflow"), []
        monkeypatch.setitem(TRACKERS, "mlflow", sending.Kind(lambda *args: Kept(units)))
        shown = Shown()
        record_trained(study, finished, shown)
        plugin.on_evaluated(study, finished, shown)
        plugin.on_evaluated(study, finished, shown)
        assert [unit.name for unit in units] == [*JOBS, RESULTS]
        assert shown.lines == ["mlflow: 4 parts sent to a list", "mlflow: 1 part sent to a list"]
        changed = finished.metrics.read()
        changed["metrics"]["oof"]["test_resnet"]["size"]["mae"]["value"] = 2.0
        finished.metrics.write(changed)
        plugin.on_evaluated(study, finished, shown)
        assert [unit.name for unit in units[5:]] == [RESULTS]
        assert {name: value for name, value, _ in units[5].values}["oof/test_resnet/size/mae"] == 2.0

    def test_a_tracker_that_is_down_loses_nothing(
        self, finished: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        study, units = study_with(finished, "mlflow"), []
        monkeypatch.setitem(TRACKERS, "mlflow", sending.Kind(lambda *args: Kept(units, fails_after=3)))
        with caplog.at_level(logging.WARNING, logger="casewise"):
            plugin.on_evaluated(study, finished, Shown())
        assert len(units) == 3
        assert "2 of 5 parts" in caplog.text
        assert "the connection was refused" in caplog.text
        monkeypatch.setitem(TRACKERS, "mlflow", sending.Kind(lambda *args: Kept(units)))
        plugin.on_evaluated(study, finished, Shown())
        assert (len(units), len({unit.name for unit in units})) == (5, 5)

    def test_training_writes_only_files_of_the_run(self, finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        study, local, remote = study_with(finished, "mlflow", "tensorboard"), [], []
        monkeypatch.setitem(TRACKERS, "mlflow", sending.Kind(lambda *args: Kept(remote)))
        monkeypatch.setitem(TRACKERS, "tensorboard", sending.Kind(lambda *args: Kept(local), local=True))
        send_missing(study, finished, job_units(finished, study), local=True)
        assert (len(local), len(remote)) == (4, 0)

    def test_nothing_that_identifies_is_sent(self, finished: RunFolder) -> None:
        study = study_with(finished, "mlflow")
        assert any(secret in study.model_dump_json() for secret in SECRETS)
        units = [*job_units(finished, study), results_unit(finished, study)]
        text = json.dumps([dataclasses.asdict(unit) for unit in units])
        assert not [secret for secret in SECRETS if secret in text]
        assert str(finished.path.parents[1]) not in text
        facts = parameters(study)
        expected = ("file, random", "sgd", "regression")
        assert (facts["weights"], facts["recipe.optimizer"], facts["kind.size"]) == expected
        measures = {name.removeprefix("oof/test_resnet/size/") for name, _, _ in units[-1].values}
        assert measures == {"mae", "mae.low", "ccc", "ccc.low", "ccc.high"}


class TestStudy:
    @pytest.mark.parametrize(
        ("tracker", "sentence"),
        [
            ("mlfow", "Did you mean 'mlflow'"),
            ("tensorboard:/tmp", "tensorboard has no address"),
            ("mlflow:server", "is not an address"),
            ("mlflow:https://me:hush@server", "a user name or password"),
            ("mlflow:me:hush@server", "a user name or password"),
            ("mlflow:postgresql://server/db?user=me&password=hush", "after ? or #"),
            ("mlflow:https://server/?token=hush", "after ? or #"),
            ("mlflow:http://server#hush", "after ? or #"),
            ("mlflow:http://[hush", "is not an address"),
        ],
    )
    def test_what_is_no_tracker_is_refused(self, finished: RunFolder, tracker: str, sentence: str) -> None:
        with pytest.raises(StudyError, match=re.escape(sentence)) as refused:
            study_with(finished, tracker)
        assert not [part for part in ("hush", "hu/", "sh@", "me:") if part in str(refused.value)]


def test_tensorboard_reads_what_was_written(finished: RunFolder) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    study = study_with(finished, "tensorboard")
    plugin.on_evaluated(study, finished, Shown())
    events = EventAccumulator(str(tensorboard_path(finished) / "timm_resnet18" / "fold-1"))
    events.Reload()
    scalars = events.Scalars("loss/stop")
    assert [(scalar.step, round(scalar.value, 6)) for scalar in scalars] == [(1, 0.333333), (2, 0.25)]
    assert [scalar.wall_time for scalar in scalars] == [2.0, 4.0]
    results = EventAccumulator(str(tensorboard_path(finished) / "test_resnet" / RESULTS))
    results.Reload()
    assert results.Scalars("oof/size/mae")[0].value == 1.25
    assert not secrets_in(tensorboard_path(finished))
    assert len(list(tensorboard_path(finished).rglob(EVENTS))) == 6
    before = {path: path.stat().st_ino for path in tensorboard_path(finished).rglob(EVENTS)}
    plugin.on_evaluated(study, finished, Shown())
    assert before == {path: path.stat().st_ino for path in tensorboard_path(finished).rglob(EVENTS)}


class TestMLflow:
    @pytest.fixture(autouse=True)
    def own_store(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("mlflow")
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def runs(self, folder: RunFolder) -> list[Any]:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=(folder.path.parent / "mlruns").as_uri())
        return list(client.search_runs([client.get_experiment_by_name("grades").experiment_id]))

    def test_a_run_for_the_study_and_one_for_each_network(self, finished: RunFolder) -> None:
        study = study_with(finished, "mlflow")
        plugin.on_evaluated(study, finished, Shown())
        runs = {run.info.run_name: run for run in self.runs(finished)}
        assert set(runs) == {"grades", *JOBS}
        whole, network = runs["grades"], runs["timm:resnet18/fold-2"]
        assert whole.data.metrics["oof/test_resnet/size/mae"] == 1.25
        assert whole.data.params["recipe.optimizer"] == "sgd"
        assert whole.data.tags["casewise.report"] == "grades/report.html"
        assert not secrets_in(finished.path.parent / "mlruns")
        assert network.data.metrics["loss/stop"] == 0.25
        assert network.data.tags["mlflow.parentRunId"] == whole.info.run_id
        assert {run.info.status for run in runs.values()} == {"FINISHED"}

    def test_a_lost_record_sends_no_network_twice(self, finished: RunFolder) -> None:
        study = study_with(finished, "mlflow")
        plugin.on_evaluated(study, finished, Shown())
        record = json.loads(tracking_path(finished).read_text())
        tracking_path(finished).write_text(json.dumps({"run": record["run"], "sent": {}}))
        plugin.on_evaluated(study, finished, Shown())
        assert len(self.runs(finished)) == 5

    def test_any_error_of_the_library_is_a_warning_without_secrets(
        self, finished: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        address = "postgresql://me:hush@127.0.0.1:9/db?sslkey=hidden"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        client = Mock(side_effect=ModuleNotFoundError(f"No module named 'psycopg2' for {address}"))
        monkeypatch.setattr("mlflow.tracking.MlflowClient", client)
        with caplog.at_level(logging.WARNING, logger="casewise"):
            plugin.on_evaluated(study_with(finished, "mlflow"), finished, Shown())
        assert "mlflow did not get 5 of 5 parts: postgresql://127.0.0.1:9/db: No module named 'psycopg2'" in caplog.text
        assert not [part for part in ("me:", "hush", "hidden") if part in caplog.text]
        client.assert_called_with(tracking_uri=address)  # which needs its password

    def test_the_password_of_a_server_is_not_shown(self, finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush@127.0.0.1:9/?token=hidden")
        monkeypatch.setattr("mlflow.tracking.MlflowClient", Mock())
        monkeypatch.setattr("casewise.plugins.tracking.sending.MLflow.send", lambda self, unit: None)
        shown = Shown()
        plugin.on_evaluated(study_with(finished, "mlflow"), finished, shown)
        assert shown.lines == ["mlflow: 5 parts sent to http://127.0.0.1:9/"]
