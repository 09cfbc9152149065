"""How a network is computed: precision, memory format and threads follow from the study and the device.

One step is measured for its memory, by which jobs run side by side, and for its time, by which they are ordered.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from casewise.errors import CasewiseError, RunError, counted
from casewise.files import write_json
from casewise.models.backbones import Network, keep_statistics
from casewise.models.threads import on_threads
from casewise.study.schema import Compute
from casewise.training.cost import MB, PeakMemory, available_mb, give_memory_back, memory_is_kept

# Copies of the weights in addition to a step of training: two moments of the optimizer, and the best epoch.
WEIGHT_COPIES = 3
# Panels from which the memory of a step is extrapolated, before one is tried.
FEW_PANELS, MORE_PANELS = 2, 4


@dataclass(frozen=True)
class ComputePlan:
    """The way a network runs on this machine: recorded, and used by all jobs of the backbone.

    Attributes:
        parts: the number of parts in which a batch is computed; more than one for jobs that ran out of memory.
        fused: whether the optimiser updates all weights in one operation, which gives other bits.
        peak_mb: the memory that a job needs at its peak, without pages of files: measured in a step of training, with
            the copies of the weights that training keeps. 0 if it is not known. Results do not depend on it.
        step_seconds: the seconds of this step; 0 if it was not measured. Results do not depend on it.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    threads: int = 1
    why: str = "stated by the study"
    parts: int = 1
    fused: bool = False
    peak_mb: float = 0.0
    step_seconds: float = 0.0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ComputePlan:
        """The plan of an entry of a file, which is `asdict` of it; casewise 1.0 also wrote the times of `measured`."""
        return cls(**{name: value for name, value in values.items() if name != "measured"})

    @property
    def memory_format(self) -> Literal["channels_last", "contiguous"]:
        """The memory format, as a study states it."""
        return "channels_last" if self.channels_last else "contiguous"

    def described(self) -> str:
        """Everything that determines the bits of a network, in words.

        >>> ComputePlan().described()
        'fp32, channels-last, 1 thread on cpu'
        """
        form = self.memory_format.replace("_", "-")
        parts = f", every batch in {self.parts} parts" if self.parts > 1 else ""
        fused = ", fused optimiser" if self.fused else ""
        return f"{self.precision}, {form}, {counted(self.threads, 'thread')} on {self.device}{parts}{fused}"


def choose(
    network: Network, compute: Compute, *, side: int, batch: int, threads: int, memo: Path | None, kept: bool = False
) -> ComputePlan:
    """The plan for training `network` on (batch, C, side, side) panels.

    What the study leaves open follows from the device: fp32 on a CPU, bfloat16 and a fused optimiser on a GPU,
    channels-last on both, and `threads`. On a CPU one training step is measured; `memo` keeps its cost by network,
    fusion, size, plan, versions and processor. A step that would not fit in this machine's memory is not tried, and
    its memory is an estimate.

    Args:
        threads: where the study does not state their number.
        kept: whether batch norms keep their statistics in training, which takes less time and memory.
    """
    plan = device_plan(compute, threads)
    return plan if plan.device == "cuda" else _with_cost(plan, _Step(network, plan, side, kept), batch, memo)


def device_plan(compute: Compute, threads: int) -> ComputePlan:
    """The plan by the study and the device, without its cost; `threads` as in `choose`."""
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise CasewiseError(
            "compute.device: the study states cuda, but this machine has no CUDA device. Use cpu or auto."
        )
    on_gpu = compute.device == "cuda" or (compute.device == "auto" and torch.cuda.is_available())
    precision = compute.precision
    if precision == "auto":
        precision = "bf16" if on_gpu else "fp32"
    return ComputePlan(
        "cuda" if on_gpu else "cpu",
        precision,
        True,
        threads if compute.threads == "auto" else compute.threads,
        why="by the study and the device",
        fused=on_gpu,
    )


def _with_cost(plan: ComputePlan, step: _Step, batch: int, memo: Path | None) -> ComputePlan:
    """The plan with memory and seconds of a step of `batch` panels, remembered or measured."""
    network = step.network
    pooling = network.pooling_name or "one panel"
    inputs = [network.name, network.fusion, network.channels, network.missing_token is not None, pooling]
    machine = [torch.__version__, platform.machine(), cpu_name(), memory_is_kept()]
    key = "|".join(map(str, [*inputs, step.side, batch, step.kept, plan.described(), *machine]))
    remembered = _remembered(memo)
    with suppress(LookupError, TypeError):
        peak_mb, seconds = remembered[key]
        return replace(plan, peak_mb=float(peak_mb), step_seconds=float(seconds))
    copies = WEIGHT_COPIES * sum(weights.numel() * weights.element_size() for weights in network.parameters()) / MB
    if batch > 2 * MORE_PANELS:
        few, more = (step.cost(panels)[0] for panels in (FEW_PANELS, MORE_PANELS))
        estimate = more + max(0.0, more - few) / (MORE_PANELS - FEW_PANELS) * (batch - MORE_PANELS)
        if estimate - PeakMemory.own_now() > available_mb():
            return replace(plan, peak_mb=round(estimate + copies, 1))
    memory, seconds = step.cost(batch)
    cost = [round(memory + copies, 1), round(seconds, 4)]
    if memo:
        with suppress(RunError):  # only a cache: the run continues if it cannot be written
            write_json(memo, {**remembered, key: cost})
    return replace(plan, peak_mb=cost[0], step_seconds=cost[1])


def _remembered(memo: Path | None) -> Mapping[str, Any]:
    try:
        return dict(json.loads(memo.read_text())) if memo and memo.is_file() else {}
    except (OSError, ValueError, TypeError):
        return {}


@dataclass(frozen=True)
class _Step:
    """A training step of a network by a plan; with `kept`, batch norms keep their statistics."""

    network: Network
    plan: ComputePlan
    side: int
    kept: bool

    def cost(self, batch: int) -> tuple[float, float]:
        """The own memory of this process at its peak (MB, see `PeakMemory.own_mb`) and the seconds of a step."""
        give_memory_back()
        try:
            with self._undisturbed(), PeakMemory() as memory:
                seconds = self._take(torch.rand(batch, self.network.channels, self.side, self.side))
                return memory.own_mb, seconds
        finally:
            give_memory_back()

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Compute with the threads of the plan, and remove the gradients of the step."""
        try:
            with on_threads(self.plan.threads):
                yield
        finally:
            self.network.zero_grad(set_to_none=True)

    def _take(self, panels: torch.Tensor) -> float:
        form = torch.channels_last if self.plan.channels_last else torch.contiguous_format
        network = self.network.to(memory_format=form).train()  # type: ignore[call-overload]
        if self.kept:
            keep_statistics(network)
        shaped = panels.to(memory_format=form)
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.plan.precision == "bf16"):
            network(shaped).square().mean().backward()
        return time.perf_counter() - started


def cpu_name() -> str:
    """The processor's name from the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor() or platform.machine()
