"""The memory of jobs: measured at its peak, compared with what the machine has, recorded and reported."""

import copy
import logging
import mmap
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from casewise.jobs import execution
from casewise.jobs.execution import jobs_that_fit
from casewise.models.backbones import build_network
from casewise.models.layers import ReLU6, replace_layers
from casewise.study.schema import Compute, Recipe
from casewise.training import compute_plan
from casewise.training.compute_plan import ComputePlan, choose
from casewise.training.cost import PeakMemory, available_mb

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def touched(megabytes: int) -> None:
    """Use memory for a moment, of the system itself: what other tests have freed may be kept for tensors."""
    with mmap.mmap(-1, megabytes * 2**20) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1


@LINUX
def test_the_peak_is_that_of_the_block_alone() -> None:
    touched(100)
    with PeakMemory() as first:
        start = first.peak_mb
        touched(50)
        peak = first.peak_mb
    assert 45 < peak - start < 75
    with PeakMemory() as second:
        assert second.peak_mb < peak - 25  # the earlier peak is forgotten
        assert 0 < second.own_mb < second.peak_mb


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in ({"proc/meminfo": "MemTotal: 8192000 kB\nMemAvailable: 4096000 kB\n"} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


GB = 2**30


def limited(folder: str, names: str, limit: int, usage: int, dropped: int = 0) -> dict[str, str]:
    """The files of a cgroup, whose limit, usage and files that can be dropped have these names."""
    limit_name, usage_name, dropped_name = names.split()
    values = {limit_name: f"{limit}\n", usage_name: f"{usage}\n", "memory.stat": f"anon 5\n{dropped_name} {dropped}\n"}
    return {f"sys/fs/cgroup/{folder}{name}": text for name, text in values.items()}


FIRST = "memory.limit_in_bytes memory.usage_in_bytes total_inactive_file"
SECOND = "memory.max memory.current inactive_file"
ABOVE = limited("memory/", FIRST, 2**63 - 4096, 0)  # a group without a limit


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("", {}, 4000.0),
        # a container, whose limit leaves 3 GB with the files that can be dropped
        ("0::/app.slice/run\n", limited("app.slice/", SECOND, 4 * GB, 2 * GB, GB), 3072.0),
        ("5:cpu:/x\n4:memory:/job\n0::/\n", ABOVE | limited("memory/job/", FIRST, 2 * GB, GB), 1024.0),
        # only the top of a container's own cgroup is visible
        ("0::/host/path\n", limited("", SECOND, GB, 2 * GB), 0.0),
    ],
)
def test_limits_of_containers_count(cgroup: str, files: dict[str, str], expected: float, tmp_path: Path) -> None:
    assert available_mb(machine(tmp_path, {"proc/self/cgroup": cgroup, **files})) == expected


def fitted(available: float, workers: int, monkeypatch: pytest.MonkeyPatch, **stated: Any) -> int:
    """The number of jobs that fit; three networks need 3000, 1000 and an unknown number of MB."""
    monkeypatch.setattr(execution, "available_mb", lambda: available)
    monkeypatch.setattr(PeakMemory, "own_now", staticmethod(lambda: 50.0))
    plans = {"large": ComputePlan(peak_mb=3000.0), "small": ComputePlan(peak_mb=1000.0), "unknown": ComputePlan()}
    jobs: Any = [SimpleNamespace(model=model, parts=lambda: 1) for model in ("small", "small", "large", "unknown")]
    study: Any = SimpleNamespace(
        compute=Compute(jobs=stated.pop("jobs", "auto")),
        recipe=Recipe(batch_size=16, **stated),
        images=SimpleNamespace(size=224),
    )
    return jobs_that_fit(workers, jobs, plans, study)


@pytest.mark.parametrize(("available", "fit"), [(5000.0, 4), (4999.0, 2), (4000.0, 2), (3999.0, 1), (3000.0, 1)])
def test_as_many_jobs_run_in_parallel_as_fit(
    available: float, fit: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="casewise"):
        assert fitted(available, 4, monkeypatch) == fit
    assert len(caplog.records) == (fit < 4)
    assert fit == 4 or "4.9 GB" in caplog.text


def test_the_plan_records_the_memory_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, memo = build_network("test_resnet", 1), tmp_path / "steps.json"
    weights = 3 * 4 * sum(parameter.numel() for parameter in network.parameters()) / 2**20
    tried: list[int] = []

    def cost(step: compute_plan._Step, batch: int) -> tuple[float, float]:
        tried.append(batch)
        return 100.0 * batch / (1 + step.kept), 0.5

    monkeypatch.setattr(compute_plan._Step, "cost", cost)
    monkeypatch.setattr(compute_plan, "available_mb", lambda: 1e6)
    given: Any = {"side": 32, "batch": 9, "threads": 1, "memo": memo}
    stated = Compute(device="cpu", precision="fp32")
    plan = choose(network, stated, **given)
    assert (plan.peak_mb, plan.described()) == (pytest.approx(900 + weights, abs=0.1), ComputePlan().described())
    # batch norms that keep their statistics need less
    assert choose(network, stated, **given, kept=True).peak_mb == pytest.approx(450 + weights, abs=0.1)
    tried.clear()
    assert choose(network, stated, **given) == plan  # remembered
    # a step for which there is no memory is not tried, and the estimate is not remembered for other days
    monkeypatch.setattr(compute_plan, "available_mb", lambda: 0.0)
    monkeypatch.setattr(PeakMemory, "own_now", staticmethod(lambda: 0.0))
    before, short = memo.read_text(), choose(network, Compute(device="cpu"), **given | {"batch": 64})
    assert (tried, short.peak_mb) == ([2, 4], pytest.approx(6400 + weights, abs=0.1))
    assert (short.described(), short.step_seconds) == (ComputePlan().described(), 0.0)
    assert memo.read_text() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_relu6_that_keeps_no_copy_has_the_same_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(inplace=True), nn.Conv2d(8, 2, 3)).to(dtype)
    with torch.no_grad():
        plain[1].weight.mul_(5)  # so that both limits are reached
    lean = copy.deepcopy(plain)
    replace_layers(lean)
    assert type(lean[2]) is ReLU6
    panels = torch.rand(4, 3, 12, 12, dtype=dtype)
    copies: list[int] = []
    outputs = []
    for network in (plain, lean):
        storages: dict[int, int] = {}

        def keep(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs.append(network(panels))
        outputs[-1].square().sum().backward()
        copies.append(sum(storages.values()))
    assert torch.equal(*outputs)
    for one, other in zip(plain.parameters(), lean.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert copies[0] - copies[1] == 4 * 8 * 10 * 10 * dtype.itemsize
    with torch.no_grad():
        assert torch.equal(plain(panels), lean(panels))
