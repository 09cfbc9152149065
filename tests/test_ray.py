"""Jobs on a Ray cluster: machines that are lost, and the same predictions as on this machine."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

import casewise
from casewise.run_folder import JobFolder, RunFolder
from casewise.study.schema import Study
from tests.chest_study import chest_study
from tests.ray_cluster import RayMachines, ray_machines

pytestmark = pytest.mark.slow


def study_of(chests: Path, jobs: int | str = "auto") -> Study:
    """Four small networks which train for so long that their machine can be lost meanwhile."""
    return chest_study(
        chests,
        backbones=["test_resnet", "test_efficientnet"],
        recipe={"epochs": 40},
        compute={"jobs": jobs, "threads": 1, "save_every": 0},
    )


def predictions(run: Path) -> pd.DataFrame:
    return RunFolder(run).predictions.read()


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> Path:
    """A run with one network after another in one process."""
    folder = tmp_path_factory.mktemp("serial")
    casewise.run(study_of(chests, 1), folder / "run")
    return folder / "run"


@pytest.fixture
def machines() -> Iterator[RayMachines]:
    with ray_machines(2) as cluster:
        yield cluster


class When(threading.Thread):
    """Does something to a machine as soon as one of its jobs has saved a state."""

    def __init__(self, cluster: RayMachines, run: Path, act: Callable[[psutil.Process], None]) -> None:
        super().__init__(daemon=True)
        self.cluster, self.run_folder, self.act = cluster, run, act
        self.job: JobFolder | None = None
        self.process: psutil.Process | None = None
        self.start()

    def run(self) -> None:
        while self.job is None:
            for path, process in self.cluster.jobs(0, self.run_folder).items():
                job = JobFolder(path)
                if job.can_resume() and job.record.peek() is None:
                    self.act(process)
                    self.job, self.process = job, process
                    return
            time.sleep(0.05)


def test_local_and_serial_runs_are_equal(serial: Path, tmp_path: Path, chests: Path) -> None:
    casewise.run(study_of(chests, 2), tmp_path / "run")
    pd.testing.assert_frame_equal(predictions(serial), predictions(tmp_path / "run"), check_exact=True)


def test_the_jobs_of_a_machine_that_is_killed_move_and_predictions_stay_equal(
    serial: Path, machines: RayMachines, tmp_path: Path, chests: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed: list[psutil.Process] = []

    def kill(process: psutil.Process) -> None:
        for of_machine in machines.processes(0):
            killed.append(of_machine)
            of_machine.kill()

    run = tmp_path / "run"
    lost = When(machines, run, kill)
    with casewise.executing_on("ray", machines.address):
        casewise.run(study_of(chests), run)
    assert lost.job is not None
    assert lost.process in killed
    fold = int(lost.job.path.name.removeprefix("fold"))
    moved = [message for message in caplog.messages if "It continues on another machine" in message]
    assert [message.partition(":")[0] for message in moved] == [f"{lost.job.path.parent.name}, fold {fold}"]
    assert len(RunFolder(run).finished_jobs()) == 4
    pd.testing.assert_frame_equal(predictions(serial), predictions(run), check_exact=True)
    fingerprints = [json.loads((folder / "fingerprint.json").read_text())["fingerprint"] for folder in (serial, run)]
    assert fingerprints[0] == fingerprints[1]
    plans: list[dict[str, Any]] = [json.loads((folder / "compute.json").read_text()) for folder in (serial, run)]
    assert plans[0] == plans[1]
    assert not list(run.glob(".leases*"))


def test_a_process_on_a_machine_that_lost_its_connection_ends_before_its_job_moves(
    serial: Path, machines: RayMachines, tmp_path: Path, chests: Path
) -> None:
    """The raylet is stopped, so that the cluster gives the machine up, but the job's process goes on."""
    run = tmp_path / "run"
    lost = When(machines, run, lambda process: machines.processes(0)[0].send_signal(signal.SIGSTOP))
    both: list[Path] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            if lost.job is not None and lost.process is not None and lost.process.is_running():
                both.extend(path for path in machines.jobs(1, run) if path == lost.job.path)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with casewise.executing_on("ray", machines.address):
            casewise.run(study_of(chests), run)
    finally:
        over.set()
        watcher.join()
        machines.processes(0)[0].send_signal(signal.SIGCONT)
    assert lost.process is not None
    assert not lost.process.is_running()
    assert both == []
    pd.testing.assert_frame_equal(predictions(serial), predictions(run), check_exact=True)
