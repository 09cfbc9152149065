"""What a person is told while something runs, and who calls."""

import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision

import casewise
from casewise.jobs.execution import progress, relative_costs
from casewise.jobs.plan import Job, Progress
from casewise.run_folder import RunFolder
from casewise.study.loading import build_study
from casewise.training import cost
from casewise.training.cost import Timer
from tests.combinations import quick_study


@pytest.fixture
def job(tmp_path: Path) -> Job:
    folder = RunFolder(tmp_path).job("resnet18", 0)
    folder.path.mkdir(parents=True)
    return Job("resnet18", 0, folder, "print")


def inputs(epochs: int, *, pretraining: int = 0) -> Any:
    """Ten panels, and thirty of another cohort."""
    values: dict[str, Any] = {"name": "progress", "cohort": "cases.csv", "targets": {"label": ["a", "b"]}}
    values |= {"backbones": ["resnet18"], "weights": "random"}
    values |= {"recipe": {"epochs": epochs, "schedule": "cosine", "early_stopping": {"monitor": "none"}}}
    study, recipe = build_study(values, source="study.yaml", folder=Path()), SimpleNamespace(epochs=pretraining)
    other = SimpleNamespace(study=SimpleNamespace(recipe=recipe), cohort=SimpleNamespace(panels=range(30)))
    cohort = SimpleNamespace(panels=range(10))
    return SimpleNamespace(study=study, cohort=cohort, pretraining=other if pretraining else None)


def progress_of(job: Job, of_job: Any) -> Progress:
    return Progress(job, of_job, Timer(job.folder.path))


def share(job: Job) -> float:
    recorded = job.folder.read_progress(0.0)
    return float(recorded["share"])


def test_pretraining_is_a_part_of_the_job_and_weighs_as_much_as_its_images(job: Job) -> None:
    recorder = progress_of(job, inputs(8, pretraining=4))  # 4 epochs of 30 images, then 8 of 10
    shares = []
    for done in range(5):
        recorder.pretraining()(done, 0.5)
        shares.append(share(job))
    assert shares == pytest.approx([0, 0.15, 0.3, 0.45, 0.6])
    assert progress([job], 0.0, set())[1].endswith("pretraining, finished")
    job.folder.pretraining.path.mkdir()
    job.folder.pretraining.body.path.touch()
    for done, expected in ((0, 0.6), (4, 0.8), (8, 1.0)):
        recorder.training()(done, 0.5)
        assert share(job) == pytest.approx(expected)


def test_slower_networks_count_more_and_unknown_speeds_give_no_time_left(job: Job, tmp_path: Path) -> None:
    study = inputs(8).study.model_copy(update={"backbones": ["resnet18", "alexnet"]})
    other = Job("alexnet", 0, RunFolder(tmp_path).job("alexnet", 0), "print")
    jobs, plans = [job, other], {name: SimpleNamespace(step_seconds=s) for name, s in (("resnet18", 3), ("alexnet", 1))}
    of_speeds: Any = plans
    costs = relative_costs(jobs, jobs, of_speeds, study)
    assert costs == [1.5, 0.5]
    progress_of(job, inputs(8)).training()(4, 0.5)
    assert progress(jobs, 0.0, set(), costs)[0] == pytest.approx(0.75)
    assert relative_costs(jobs, [other], of_speeds, study) == [1.0, 1.0], "what was done before does not count"
    plans["alexnet"].step_seconds = 0
    unknown = relative_costs(jobs, jobs, of_speeds, study)
    assert progress(jobs, 0.0, {1}, unknown)[0] == 0.0


def test_a_job_that_continues_begins_where_it_was(job: Job) -> None:
    progress_of(job, inputs(8)).training()(6, 0.25)
    now = time.time() + 60
    assert progress([job], now, set()) == (0.75, "0 of 1 networks done, 1 waiting"), "no epoch is counted as new"
    progress_of(job, inputs(8)).begin()
    assert progress([job], 0.0, set())[1].endswith("epoch 7 of 8, loss 0.25")


def settings() -> dict[str, Any]:
    """What a run could change of PyTorch, torchvision and the process."""
    models = torchvision.models
    blocks = (models.shufflenetv2, models.mnasnet, models.mobilenetv2)
    return {
        "generator": torch.get_rng_state().tolist(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "functions": [value for block in blocks for value in vars(block).values() if callable(value)],
        "methods": [vars(kind).get("forward") for kind in (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.ReLU6)],
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "determinism": (torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype()),
        "warnings": list(warnings.filters),
        "memory": cost.memory_is_kept(),
    }


@pytest.mark.parametrize("rate", [0.001, 1e30], ids=["finished", "failed"])
def test_a_run_leaves_its_caller_as_it_was(rate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_kept", False)
    # without the limit, batch norms over two panels of one pixel have gradients that overflow on some processors
    recipe = {"lr": rate, "clip_gradients": 1.0}
    study = quick_study(tmp_path, backbones=["shufflenet_v2_x0_5"], recipe=recipe, compute={"threads": 1, "jobs": 1})
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = settings()
        if rate == 0.001:
            casewise.run(study, tmp_path / "run")
        else:
            with pytest.raises(casewise.CasewiseError):
                casewise.run(study, tmp_path / "run")
        after = settings()
    finally:
        torch.set_num_threads(threads)
    assert {name for name in before if before[name] != after[name]} == set()
