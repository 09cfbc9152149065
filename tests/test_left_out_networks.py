"""Networks that cannot be trained: the others are reported, and memory that does not suffice is made to suffice."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import casewise
from casewise.errors import TrainingError
from casewise.jobs import fitting
from casewise.jobs.backends import Failure, attempt
from casewise.jobs.plan import Job
from casewise.pipeline.status import run_status
from casewise.predictions.stacking import STACKERS
from casewise.run_folder import RunFolder
from casewise.study.loading import read_study
from casewise.study.schema import Study
from casewise.training.loop import split_batch
from tests.conftest import train_only
from tests.test_baselines import write_study
from tests.test_cli import casewise as command

NETWORKS = ["test_resnet", "test_efficientnet", "test_byobnet"]
FOUND = fitting.FITTERS["network"]
WEIGHTS = f"{{{', '.join(f'{name}: random' for name in NETWORKS)}}}"
ONE = {"backbones": "[test_efficientnet]", "weights": "random", "stack": "[]"}
RECIPE = "{epochs: 1, batch_size: 16, schedule: constant, early_stopping: {monitor: none}}"


def study_of(folder: Path, chests: Path, **settings: Any) -> Study:
    compute = "{jobs: 1, threads: 1, precision: fp32}"
    named = {"backbones": f"[{', '.join(NETWORKS)}]", "recipe": RECIPE, "stack": "[mean]", "weights": WEIGHTS}
    return read_study(write_study(folder, chests, compute=compute, **{**named, **settings}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> casewise.Run:
    """The run in which every network is trained at once, without its report."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        train_only(patch)
        return casewise.run(study_of(folder, chests), folder / "run")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """Errors by the names of jobs, which their trainings raise."""
    errors: dict[str, Exception] = {}

    def fit(planned: Any, *args: Any) -> Any:
        if planned.job.name in errors and planned.plan.parts < 4:
            raise errors[planned.job.name]
        return FOUND(planned, *args)

    def execute(todo: Any, inputs: Any, plans: Any, workers: int) -> dict[str, Failure]:
        attempts = {job.name: attempt(job, inputs, plans[job.model], workers) for job in todo}
        return {name: failure for name, failure in attempts.items() if failure}

    monkeypatch.setitem(fitting.FITTERS, "network", fit)
    # other processes would not raise the errors
    monkeypatch.setattr("casewise.jobs.backends._in_processes", execute)
    return errors


def test_a_network_that_fails_is_left_out_and_the_others_are_reported(
    tmp_path: Path, chests: Path, failing: dict[str, Exception], whole: casewise.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path, chests)
    failing["test_efficientnet, fold 2"] = TrainingError("test_efficientnet: the loss is no longer a number")
    ended = command("run", str(tmp_path / "study.yaml"), "--output", str(tmp_path / "run"))
    assert ended.returncode == 1
    assert "test_efficientnet" in ended.stderr
    run, folder = casewise.open_run(tmp_path / "run"), RunFolder(tmp_path / "run")
    assert "test_efficientnet" not in set(run.rows["model"])
    assert {"test_resnet", "test_byobnet", STACKERS["mean"].learner} <= set(run.rows["model"])
    assert folder.left_out.read() == {"networks": {"test_efficientnet": {"2": "the loss is no longer a number"}}}
    caveat = next(note.facts for note in run.results.notes if note.code == "networks_left_out")
    assert list(caveat["networks"]) == ["test_efficientnet"]
    assert "test_efficientnet" not in run.study.networks
    assert (tmp_path / "run" / "bundle" / "manifest.json").exists()
    status = run_status(folder)
    assert status.failed == {"test_efficientnet, fold 2": "the loss is no longer a number"}
    assert (len(status.done), status.jobs) == (7, 8)  # with a baseline

    failing.clear()
    train_only(monkeypatch)
    again = casewise.run(study, tmp_path / "run")
    assert not folder.left_out.exists()
    pd.testing.assert_frame_equal(again.rows, whole.rows)
    before, after = (each.rows.query("model == 'test_resnet'").reset_index(drop=True) for each in (run, whole))
    pd.testing.assert_frame_equal(before, after)


def test_a_network_that_diverges_is_left_out(
    tmp_path: Path, chests: Path, whole: casewise.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_only(monkeypatch)
    recipe = f"{RECIPE[:-1]}, networks: {{test_efficientnet: {{optimizer: sgd, lr: 1.0e+30}}}}}}"
    run = casewise.run(study_of(tmp_path, chests, recipe=recipe), tmp_path / "run")
    reasons = RunFolder(tmp_path / "run").left_out.read()["networks"]
    assert {name: set(by_fold) for name, by_fold in reasons.items()} == {"test_efficientnet": {"1", "2"}}
    assert set(run.rows["model"]) < set(whole.rows["model"])
    kept = run.rows.query("model == 'test_resnet'").reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, whole.rows.query("model == 'test_resnet'").reset_index(drop=True))


def test_a_run_without_any_network_is_refused(tmp_path: Path, chests: Path, failing: dict[str, Exception]) -> None:
    for name in NETWORKS:
        failing[f"{name}, fold 1"] = TrainingError(f"{name}: the loss is no longer a number")
    with pytest.raises(TrainingError, match=r"^3 of 6 networks could not be trained; the others are finished"):
        casewise.run(study_of(tmp_path, chests), tmp_path / "run")


def test_a_full_disk_leaves_no_network_out(tmp_path: Path, chests: Path, failing: dict[str, Exception]) -> None:
    failing["test_efficientnet, fold 1"] = OSError(28, "No space left on device")
    with pytest.raises(TrainingError, match="No space left on device"):
        casewise.run(study_of(tmp_path, chests, **ONE), tmp_path / "run")
    assert not RunFolder(tmp_path / "run").left_out.exists()


@pytest.mark.usefixtures("training_only")
def test_a_network_is_trained_in_parts_of_memory(tmp_path: Path, chests: Path, failing: dict[str, Exception]) -> None:
    failing["test_efficientnet, fold 1"] = torch.OutOfMemoryError("CUDA out of memory.")
    run, folder = casewise.run(study_of(tmp_path, chests, **ONE), tmp_path / "run"), RunFolder(tmp_path / "run")
    assert not folder.left_out.exists()
    parts = {job["fold"]: job.get("parts") for job in folder.job_records(["test_efficientnet"])}
    assert parts == {1: 4, 2: None}
    assert not folder.job("test_efficientnet", 0).parts.exists()
    assert "test_efficientnet" in set(run.rows["model"])


def test_gradients_in_parts_are_those_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).double()
    panels, gradients = torch.rand(7, 3, 8, 8, dtype=torch.float64), []
    for parts in (1, 2, 3, 7, 20):
        network.zero_grad()
        split_batch(network, panels, parts).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    for other in gradients[1:]:
        for expected, found in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_running_statistics_count_every_part_once() -> None:
    norm, panels = nn.BatchNorm2d(3), torch.rand(6, 3, 4, 4)
    expected = nn.BatchNorm2d(3)
    for part in panels.tensor_split(2):
        expected(part)
    split_batch(norm, panels, 2).sum().backward()
    torch.testing.assert_close(norm.running_mean, expected.running_mean, rtol=0, atol=0)
    torch.testing.assert_close(norm.running_var, expected.running_var, rtol=0, atol=0)
    assert (norm.num_batches_tracked, norm.momentum) == (2, 0.1)


def test_parts_belong_to_the_inputs_of_a_job(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    job = Job("a", 0, folder.job("a", 0), "made from")
    job.folder.path.mkdir(parents=True)
    assert (job.parts(), job.halve_parts(), job.halve_parts()) == (1, 2, 4)
    assert Job("a", 0, folder.job("a", 0), "other inputs").parts() == 1
