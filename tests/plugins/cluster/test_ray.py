"""Jobs on a Ray cluster: machines that are lost, and the same predictions as on this machine."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from casewise.console import Silent
from casewise.errors import TrainingError
from casewise.jobs import fitting
from casewise.jobs.backends import backend_named, executing_on
from casewise.jobs.execution import run_jobs
from casewise.jobs.plan import Job, JobInputs, expand
from casewise.modalities.base import StoreAddress
from casewise.modalities.store import store_builder
from casewise.modalities.store.preparation import Preparation
from casewise.models import build_model
from casewise.models.linear import LinearBuilder
from casewise.pipeline.read import prepare, read, split
from casewise.run_folder import JobFolder, RunFolder
from casewise.study.learners import LinearLearner, register_learner, unregister_learner
from tests.chest_study import chest_study
from tests.plugins.cluster.ray_cluster import RayMachines, ray_machines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> JobInputs:
    """Two small networks on two folds, which train for so long that their machine can be lost meanwhile."""
    return prepared(tmp_path_factory, chests, ["test_resnet", "test_efficientnet"], epochs=40)


@pytest.fixture(scope="module")
def long_inputs(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> JobInputs:
    """A network on two folds, which trains for longer than it takes until a cluster gives up a silent machine."""
    return prepared(tmp_path_factory, chests, ["test_resnet"], epochs=480, early_stopping={"monitor": "none"})


def prepared(factory: pytest.TempPathFactory, chests: Path, backbones: list[str], **recipe: Any) -> JobInputs:
    compute = {"jobs": "auto", "threads": 1, "save_every": 0}
    study = chest_study(chests, backbones=backbones, recipe=recipe, compute=compute)
    folder = RunFolder(factory.mktemp("prepared"))
    cohort = read(study, folder, Silent())
    store, splits = prepare(study, cohort, folder, Silent()), split(study, cohort, folder, Silent())
    return JobInputs(study, cohort, splits, StoreAddress(store.folder, store.address))


def jobs_in(inputs: JobInputs, folder: Path) -> list[Job]:
    return expand(inputs.study, inputs.splits, RunFolder(folder), "made from")


def trained(inputs: JobInputs, folder: Path, backend: str = "local", address: str | None = None) -> pd.DataFrame:
    """The predictions of all jobs, trained in `folder`."""
    folder.mkdir()
    jobs = jobs_in(inputs, folder)
    with backend_named(backend, address) as where:
        run_jobs(jobs, inputs, RunFolder(folder), tell=lambda *_: None, backend=where)
    return pd.concat([job.folder.predictions.read() for job in jobs], ignore_index=True)


def with_jobs(inputs: JobInputs, jobs: int) -> JobInputs:
    compute = inputs.study.compute.model_copy(update={"jobs": jobs})
    return replace(inputs, study=inputs.study.model_copy(update={"compute": compute}))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, inputs: JobInputs) -> Path:
    """A run with two networks side by side in processes of this machine."""
    folder = tmp_path_factory.mktemp("local") / "run"
    trained(with_jobs(inputs, 2), folder)
    return folder


@pytest.fixture
def machines() -> Iterator[RayMachines]:
    with ray_machines(2) as cluster:
        yield cluster


class Loss(threading.Thread):
    """Does something to the first machine as soon as one of its jobs has saved a state."""

    def __init__(self, cluster: RayMachines, run: Path, act: Callable[[], None]) -> None:
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
                    self.act()
                    self.job, self.process = job, process
                    return
            time.sleep(0.05)


def moved(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The jobs that were reported as moved."""
    return [text.partition(":")[0] for text in caplog.messages if "It continues on another machine" in text]


def name_of(job: JobFolder | None) -> str:
    return f"{job.path.parent.name}, fold {job.path.name.removeprefix('fold')}"


def test_the_jobs_of_a_machine_that_is_killed_move_and_predictions_stay_equal(
    inputs: JobInputs, local: Path, machines: RayMachines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed: list[psutil.Process] = []

    def kill() -> None:
        for process in machines.processes(0):
            killed.append(process)
            process.kill()

    run = tmp_path / "run"
    lost, of_cluster = Loss(machines, run, kill), trained(inputs, run, "ray", machines.address)
    assert lost.process in killed
    assert moved(caplog) == [name_of(lost.job)]
    of_local = pd.concat([job.folder.predictions.read() for job in jobs_in(inputs, local)], ignore_index=True)
    pd.testing.assert_frame_equal(of_local, of_cluster, check_exact=True)
    # neither the back end nor the loss of a machine has a part in what is recorded of the training
    plans: list[dict[str, Any]] = [RunFolder(folder).compute.read() for folder in (local, run)]
    assert {name: plan["threads"] for name, plan in plans[0].items()} == {"test_resnet": 1, "test_efficientnet": 1}
    # a step is measured by the process that prepares the run, and results do not depend on it
    measured = [plan.pop(name) for name in ("peak_mb", "step_seconds") for either in plans for plan in either.values()]
    assert min(measured) > 0
    assert plans[0] == plans[1]
    for either, other in zip(jobs_in(inputs, local), jobs_in(inputs, run), strict=True):
        assert either.folder.facts.read()["weights_sha256"] == other.folder.facts.read()["weights_sha256"]
    assert list(run.glob(".leases*")) == []


def test_a_process_on_a_machine_that_lost_its_connection_ends_before_its_job_moves(
    long_inputs: JobInputs, machines: RayMachines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The raylet is stopped, so that the cluster gives the machine up, but the job's process goes on."""
    run, raylet = tmp_path / "run", machines.processes(0)[0]
    lost = Loss(machines, run, lambda: raylet.send_signal(signal.SIGSTOP))
    both: list[Path] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            if lost.job is not None and lost.process is not None and lost.process.is_running():
                both.extend(path for path in machines.jobs(1, run) if path == lost.job.path)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        of_cluster = trained(long_inputs, run, "ray", machines.address)
    finally:
        over.set()
        watcher.join()
        raylet.send_signal(signal.SIGCONT)
    assert not lost.process.is_running()
    assert (both, moved(caplog)) == ([], [name_of(lost.job)])
    serial = trained(with_jobs(long_inputs, 1), tmp_path / "serial")
    pd.testing.assert_frame_equal(serial, of_cluster, check_exact=True)


class Own(LinearLearner):
    """A linear model on pixels of a user, which workers know only by its registration."""

    kind: ClassVar[str] = "own"


def fit_own(planned: Any, network: Any, outputs: Any, data: Any) -> Any:
    """Fits a linear model, unless the study has another seed: then it cannot be trained."""
    if planned.inputs.study.seed == 13:
        raise TrainingError("13 brings bad luck")
    return fitting.FITTERS["linear"](planned, network, outputs, data)


def baselines(folder: RunFolder, models: Sequence[str]) -> list[Job]:
    return [Job(model, fold, folder.job(model, fold), "made from") for model in models for fold in range(2)]


def test_registrations_and_failures_pass_between_machines(
    inputs: JobInputs, machines: RayMachines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(build_model.BUILDERS, "own", LinearBuilder())
    monkeypatch.setitem(fitting.FITTERS, "own", fit_own)
    register_learner(Own("own"))
    try:
        study = inputs.study.model_copy(update={"backbones": ["test_resnet"]})
        for seed in (0, 13):
            ours, run = replace(inputs, study=study.model_copy(update={"seed": seed})), tmp_path / f"run{seed}"
            run.mkdir()
            folder = RunFolder(run)
            jobs = baselines(folder, ["own", "linear_pixels"] if seed == 0 else ["own"])
            with backend_named("ray", machines.address) as where:
                if seed == 0:
                    run_jobs(jobs, ours, folder, tell=lambda *_: None, backend=where)
                    assert all(job.intact() for job in jobs)
                    continue
                with pytest.raises(TrainingError, match="13 brings bad luck") as error:
                    run_jobs(jobs, ours, folder, tell=lambda *_: None, backend=where)
            assert "own, fold 1: 13 brings bad luck\n  own, fold 2: 13 brings bad luck" in str(error.value)
    finally:
        unregister_learner("own")


def test_images_are_prepared_by_a_cluster_that_loses_a_machine(
    machines: RayMachines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, paths, decoded = np.random.default_rng(0), list[Path](), list[Path]()
    for number in range(store_builder.FEWEST):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(generator.integers(256, size=(300, 300, 3), dtype=np.uint8)).save(paths[-1], compress_level=0)
    alone = store_builder.prepare(paths, Preparation(size=32), tmp_path / "alone")
    folder, finish = tmp_path / "tiles", store_builder.Building._image
    monkeypatch.setattr(store_builder.Building, "_image", lambda *given: decoded.append(given[1]) or finish(*given))

    def kill() -> None:
        while not any(path.stat().st_size > 1 for path in folder.glob("building-*.jsonl")):
            time.sleep(0.01)
        for process in machines.processes(0):
            process.kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with executing_on("ray", machines.address):
        of_cluster = store_builder.prepare(paths, Preparation(size=32), folder)
    assert not killer.is_alive()
    assert (decoded, of_cluster.address) == ([], alone.address)
    assert np.array_equal(of_cluster.tiles, alone.tiles)
    assert not [*folder.glob("building-*"), *folder.glob(".leases-*")]
