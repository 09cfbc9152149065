"""The disk space that networks need is compared with what is free, before they are trained."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from casewise.jobs.compute_plans import weights_mb
from casewise.jobs.disk_space import space_needed, warn_of_little_space
from casewise.study.recipe import Recipe
from casewise.training.compute_plan import ComputePlan

PLANS = {
    "small": ComputePlan(weights_mb=10.0),
    "large": ComputePlan(weights_mb=100.0),
    "baseline": ComputePlan(),
}


def jobs(*models: str) -> Any:
    return [SimpleNamespace(model=model) for model in models]


def study(**recipe: Any) -> Any:
    return SimpleNamespace(recipe=Recipe(**recipe))


@pytest.mark.parametrize(
    ("workers", "recipe", "needed"),
    [
        (1, {}, 120 + 12 * 100),
        (2, {}, 120 + 12 * 110),
        (9, {}, 120 + 12 * 120),
        (2, {"tuning": "head_only"}, 120),
    ],
)
def test_the_weights_of_all_and_the_states_of_those_in_training(
    workers: int, recipe: dict[str, Any], needed: float
) -> None:
    waiting = jobs("small", "baseline", "large", "small")
    assert space_needed(waiting, PLANS, workers, study(**recipe)) == needed


@pytest.mark.parametrize(("free", "warned"), [(1299.0, True), (1300.0, False)])
def test_too_small_a_disk_is_told_before_the_training(
    free: float, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free * 2**20))
    with caplog.at_level(logging.WARNING, logger="casewise"):
        warn_of_little_space(jobs("large"), PLANS, 1, study(), tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: 1 network to be trained needs about 1.3 GB on the disk, and 1.3 GB are free. Make room, or "
        "choose another folder with --output. If the disk fills up, the run ends, keeps what is finished, and "
        "continues with the same command."
    ] * warned


def test_a_disk_that_does_not_tell_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="casewise"):
        warn_of_little_space(jobs("large"), PLANS, 1, study(), tmp_path / "absent")
    assert not caplog.records


def test_the_size_of_weights_is_that_of_their_file() -> None:
    network: Any = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.BatchNorm1d(1024))
    assert weights_mb(network) == 4.0
