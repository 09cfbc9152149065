"""What `validate` says of a time budget before anything is trained, and that the run plans by the same forecast."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import casewise
from casewise.console import Silent
from casewise.jobs.compute_plans import Pace
from casewise.jobs.plan import Job, JobInputs
from casewise.pipeline.read import validate
from casewise.run import train_only
from casewise.run_folder import RunFolder
from casewise.study.loading import read_study
from tests.chest_study import PLANNED

SIZED = ["images.size=64", "split.folds=4"]


def paces(jobs: Sequence[Job], inputs: JobInputs, *further: object) -> tuple[dict[str, Pace], int]:
    """A pace that depends on the pixels: 0.32 s for a panel of 64 px in an epoch."""
    seconds = 0.32 * (inputs.study.images.size / 64) ** 2
    return {job.model: Pace(0.1, 0.0, seconds, seconds / 10) for job in jobs}, 1


@pytest.fixture
def slow(tmp_path: Path, chests: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A planned study whose networks are slow by a stated pace."""
    for measure in ("measured_paces", "quick_paces"):
        monkeypatch.setattr(f"casewise.jobs.execution.{measure}", paces)
    (tmp_path / "study.yaml").write_text(f"name: planned{PLANNED.format(cohort=chests)}")
    return tmp_path / "study.yaml"


def warnings(study: Path, settings: list[str]) -> list[str]:
    lines = validate(read_study(study, settings=settings), Silent())
    return [line for line in lines if line.startswith("WARNING") and "budget:" in line]


def test_a_budget_that_cannot_be_kept_is_said_with_what_keeps_it(slow: Path) -> None:
    settings = [*SIZED, "budget=2min"]
    (warning,) = warnings(slow, settings)
    remedies = dict(text.split("=") for text in re.findall(r"`--set (\S+)`", warning))
    assert remedies.keys() == {"budget", "split.folds", "images.size"}
    for name, value in remedies.items():
        assert warnings(slow, [*settings, f"{name}={value}"]) == []


@pytest.mark.parametrize("minutes", [1, 2, 5, 60])
def test_a_run_agrees_with_the_estimate(
    slow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    settings: list[Any] = [*SIZED, f"budget={minutes}min"]
    monkeypatch.setattr("casewise.jobs.execution.run_jobs", lambda *given, **options: {})
    train_only(read_study(slow, settings=settings), ["cnn"], tmp_path / "run")
    planned = RunFolder(tmp_path / "run").recipe_plan.read()["forecast"]
    spent = planned["before"] + planned["once"] + planned["epochs"] * planned["epoch"] + planned["after"]
    assert bool(warnings(slow, settings)) == (spent > 60 * minutes or not planned["epochs"])


def test_without_time_for_a_network_none_is_trained_and_the_report_says_so(slow: Path, tmp_path: Path) -> None:
    study = read_study(slow, settings=[*SIZED, "budget=1min", "evaluation.bootstrap_resamples=100"])
    first = casewise.run(study, tmp_path / "run")
    assert first.study.networks == []
    assert first.results["main"]["learner"] == "linear_pixels"
    assert not list((tmp_path / "run").rglob("cnn*"))
    assert [note["budget"] for note in first.results["notes"] if note["code"] == "no_time_for_networks"] == [60.0]
    predictions = first.files.predictions.path.read_bytes()
    again = casewise.run(study, tmp_path / "run")
    assert again.study.networks == []
    assert again.files.predictions.path.read_bytes() == predictions
    assert casewise.run(
        read_study(slow, settings=[*SIZED, "budget=1min", "recipe.epochs=1"]), tmp_path / "stated"
    ).study.networks == ["cnn"]


def test_stated_epochs_count(slow: Path) -> None:
    assert warnings(slow, [*SIZED, "budget=5min"]) == []
    (warning,) = warnings(slow, [*SIZED, "budget=5min", "recipe.epochs=60"])
    assert "--set budget=" in warning


def test_a_budget_that_surely_suffices_needs_no_trial(slow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []
    monkeypatch.setattr("casewise.jobs.execution.quick_paces", lambda *given: tried.append(given) or paces(*given))
    assert warnings(slow, [*SIZED, "budget=9h"]) == []
    assert tried == []
    assert warnings(slow, [*SIZED, "budget=2min"]) != []
    assert tried != []
