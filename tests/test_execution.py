"""Executing jobs: the order, failures that may pass, and processes that the system ends."""

import errno
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import pytest
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

import casewise
from casewise.errors import TrainingError
from casewise.jobs import backends, compute_plans, fitting
from casewise.jobs.backends import Backend, Failure, LocalBackend, attempt
from casewise.jobs.execution import run_jobs
from casewise.jobs.plan import Job
from casewise.models import build_model
from casewise.models.linear import LinearBuilder
from casewise.run_folder import RunFolder
from casewise.study.learners import LinearLearner, register_learner, unregister_learner
from casewise.study.loading import read_study
from casewise.study.schema import Compute, Study
from casewise.training.compute_plan import ComputePlan
from tests.test_baselines import write_study

DEATHS = "CASEWISE_TEST_DEATHS"


@dataclass(frozen=True)
class Fragile(LinearLearner):
    """A linear model on pixels whose process ends in its first fold, as if memory had run out."""

    kind: ClassVar[str] = "fragile"


def fit_fragile(planned: Any, network: Any, outputs: Any, data: Any) -> Any:
    """Fits a linear model; in the first fold the process ends as often as the file `DEATHS` states."""
    deaths = Path(os.environ[DEATHS])
    if planned.job.fold == 0 and (left := int(deaths.read_text())):
        deaths.write_text(str(left - 1))
        planned.job.folder.write_progress(0, 1)
        os.kill(os.getpid(), signal.SIGKILL)
    return fitting.FITTERS["linear"](planned, network, outputs, data)


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The file with the number of deaths to come."""
    monkeypatch.setitem(build_model.BUILDERS, "fragile", LinearBuilder())
    monkeypatch.setitem(fitting.FITTERS, "fragile", fit_fragile)
    monkeypatch.setenv(DEATHS, str(tmp_path / "deaths"))
    register_learner(Fragile("fragile"))
    yield tmp_path / "deaths"
    unregister_learner("fragile")


def study_of(folder: Path, chests: Path, jobs: int = 2) -> Study:
    compute = f"{{jobs: {jobs}, threads: 1, precision: fp32}}"
    return read_study(write_study(folder, chests, compute=compute))


@pytest.mark.slow
def test_a_job_whose_process_ends_again_is_told_and_others_finish(tmp_path: Path, chests: Path, fragile: Path) -> None:
    fragile.write_text("9")
    study = study_of(tmp_path, chests, 4)
    with pytest.raises(TrainingError) as error:
        casewise.run(study, tmp_path / "run")
    said = str(error.value)
    assert said.startswith("1 of 4 networks could not be trained; the others are finished and kept.\n  fragile, fold 1")
    assert "most often because memory ran out. Lower `compute.jobs`" in said
    jobs = [job.record.read() for job in RunFolder(tmp_path / "run").finished_jobs()]
    done = {(job["model"], job["fold"]) for job in jobs}
    assert done == {("linear_pixels", 1), ("linear_pixels", 2), ("fragile", 2)}
    fragile.write_text("0")
    assert set(casewise.run(study, tmp_path / "run").rows["model"]) >= {"linear_pixels", "fragile"}


def test_fewer_processes_execute_the_others_when_one_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, finished, sizes = planned(["a", "b"], RunFolder(tmp_path)), set[str](), []

    class Parallel:
        """Stands in for joblib: executes jobs one after another until a process ends."""

        def __init__(self, *, pre_dispatch: int, **options: Any) -> None:
            sizes.append(pre_dispatch)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *error: object) -> None: ...

        def __call__(self, tasks: Iterator[Any]) -> list[Failure | None]:
            for _, (job, *_), _ in tasks:
                if job.name == "a, fold 2":
                    job.folder.path.mkdir(parents=True)
                    job.folder.write_progress(0, 1)
                    raise TerminatedWorkerError
                finished.add(job.name)
            return [None] * 2

    monkeypatch.setattr("joblib.Parallel", Parallel)
    monkeypatch.setattr(Job, "finished", property(lambda job: job.name in finished))
    monkeypatch.setattr(backends.Registrations, "of", lambda study: None)
    inputs: Any = SimpleNamespace(study=SimpleNamespace(compute=Compute()))
    failures = LocalBackend().execute(jobs, inputs, dict.fromkeys("ab", ComputePlan()), 4, protected=False)
    assert (sizes, set(failures)) == ([4, 2], {"a, fold 2"})
    assert failures["a, fold 2"].memory
    assert "Lower `compute.jobs`" in failures["a, fold 2"].message
    assert finished == {"a, fold 1", "b, fold 1", "b, fold 2"}


class Recorder(LocalBackend):
    """A back end that records what it is given and fails as it is told."""

    def __init__(self, *failures: dict[str, Failure]) -> None:
        self.failures = list(failures)
        self.calls: list[tuple[list[str], int, bool]] = []

    def execute(self, jobs: Sequence[Job], inputs: Any, plans: Any, workers: int, *, protected: bool) -> Any:
        self.calls.append(([job.name for job in jobs], workers, protected))
        return self.failures.pop(0) if self.failures else {}


def planned(models: Sequence[str], folder: RunFolder) -> list[Job]:
    return [Job(model, fold, folder.job(model, fold), "made from") for model in models for fold in range(2)]


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans by which `b` takes longer than `a`, and `c` was not measured."""
    measured = {"a": 0.2, "b": 0.5, "c": 0.0, "test_resnet": 0.0}
    plans = {model: ComputePlan(step_seconds=seconds) for model, seconds in measured.items()}
    monkeypatch.setattr(compute_plans, "compute_plans", lambda *_: plans)


@pytest.fixture
def inputs(tmp_path: Path, chests: Path) -> Any:
    return SimpleNamespace(study=study_of(tmp_path, chests))


@pytest.mark.usefixtures("plans")
def test_the_slowest_jobs_come_first(tmp_path: Path, inputs: Any) -> None:
    backend, folder = Recorder(), RunFolder(tmp_path / "run")
    run_jobs(planned(["a", "b", "c"], folder), inputs, folder, tell=lambda *_: None, backend=backend)
    (called, *how), *more = backend.calls
    assert called == ["b, fold 1", "b, fold 2", "a, fold 1", "a, fold 2", "c, fold 1", "c, fold 2"]
    assert how == [2, False]
    assert not more


@pytest.mark.usefixtures("plans")
def test_only_failures_that_may_pass_are_tried_again(tmp_path: Path, inputs: Any) -> None:
    folder = RunFolder(tmp_path / "run")
    failed = {"a, fold 1": Failure("a diverged", False), "b, fold 1": Failure("the disk is full.", True)}
    backend = Recorder(failed)
    with pytest.raises(TrainingError, match=r"^1 of 4 networks could not be trained.*\n  a diverged$"):
        run_jobs(planned(["a", "b"], folder), inputs, folder, tell=lambda *_: None, backend=backend)
    assert backend.calls[1:] == [(["b, fold 1"], 1, True)]


@pytest.mark.usefixtures("plans")
@pytest.mark.parametrize(("elsewhere", "parts"), [(False, [2, 4]), (True, [1, 2])])
def test_a_batch_is_divided_only_for_a_job_that_was_alone(
    elsewhere: bool, parts: list[int], tmp_path: Path, chests: Path
) -> None:
    """Elsewhere, how many jobs ran side by side does not follow from the cores of this machine."""
    inputs: Any = SimpleNamespace(study=study_of(tmp_path, chests, jobs=1))
    folder = RunFolder(tmp_path / "run")
    job = planned(["test_resnet"], folder)[0]
    job.folder.path.mkdir(parents=True)
    seen: list[int] = []

    class Elsewhere(Backend):
        """A back end that is not this machine, where other jobs may run beside the only one that is known here."""

        def prepare(self, *given: Any) -> Any:
            return recorder.prepare(*given)

        def execute(self, *given: Any, **named: Any) -> Any:
            seen.append(job.parts())
            return recorder.execute(*given, **named)

    class Here(Elsewhere, LocalBackend):
        """This machine."""

    recorder = Recorder(*[{job.name: Failure("memory ran out.", True, memory=True)}] * 2)
    backend: Backend = Elsewhere() if elsewhere else Here()
    run_jobs([job], inputs, folder, tell=lambda *_: None, backend=backend)
    assert seen == [1, *parts]
    assert [how for _, *how in recorder.calls] == [[1, False], [1, True], [1, True]]


@pytest.mark.parametrize(
    ("error", "transient", "said"),
    [
        (TrainingError("the loss is no longer a number"), False, "a, fold 1: the loss is no longer a number"),
        (OSError(errno.ENOSPC, "No space left on device", "/runs/a"), True, "No space left on device (/runs/a)"),
        (MemoryError(), True, "there was not enough memory. Lower `compute.jobs`"),
        (torch.OutOfMemoryError("CUDA out of memory."), True, "there was not enough memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True, "there was not enough memory."),
    ],
)
def test_errors_of_a_job_are_failures(
    error: Exception, transient: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("casewise.jobs.job.run_job", fail)
    (job, _) = planned(["a"], RunFolder(tmp_path))
    failure = attempt(job, None, ComputePlan(), 1)  # type: ignore[arg-type]
    assert failure.transient is transient
    assert said in failure.message
    record = job.folder.read_failure()
    assert (record["message"], record["transient"]) == (failure.message, transient)
