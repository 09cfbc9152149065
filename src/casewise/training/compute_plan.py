"""The two-second measurement that chooses precision, memory format and threads for a network."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from casewise.errors import CasewiseError, RunError, counted
from casewise.files import write_json
from casewise.models.backbones import Network, keep_statistics
from casewise.study.schema import Compute
from casewise.training.cost import MB, PeakMemory, available_mb, give_memory_back, memory_is_kept

# Precision, whether channels-last, threads.
Option = tuple[Literal["fp32", "bf16"], bool, int]
# A plan other than the default must take less than this share of its time.
MOST_OF_USUAL_TIME = 0.87
# Copies of the weights beside a step of training: two moments of the optimizer, and the best epoch.
WEIGHT_COPIES = 3
# Panels from which the memory of a step is extrapolated, before one is tried.
FEW_PANELS, MORE_PANELS = 2, 4


@dataclass(frozen=True)
class ComputePlan:
    """The way a network runs on this machine: chosen once, recorded, and used by all jobs of the backbone.

    Attributes:
        parts: the number of parts in which a batch is computed; more than one for jobs that ran out of memory.
        peak_mb: the memory that a job needs at its peak, without pages of files: measured in a step of training, with
            the copies of the weights that training keeps. 0 if it is not known. Results do not depend on it.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    threads: int = 1
    measured: tuple[tuple[str, float], ...] = ()
    why: str = "stated by the study"
    parts: int = 1
    peak_mb: float = 0.0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ComputePlan:
        """The plan of an entry of a file, which is `asdict` of it."""
        return cls(**{**values, "measured": tuple((name, seconds) for name, seconds in values["measured"])})

    @property
    def step_seconds(self) -> float:
        """The measured seconds of a training step by this plan; 0 if it was not measured."""
        option = (self.precision, self.channels_last, self.threads)
        seconds = dict(self.measured)
        return seconds.get(_name(option, True), seconds.get(_name(option, False), 0.0))

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
        return f"{self.precision}, {form}, {counted(self.threads, 'thread')} on {self.device}{parts}"


def has_bf16() -> bool:
    """Whether the processor has instructions for bfloat16."""
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose(
    network: Network, compute: Compute, *, side: int, batch: int, threads: int, memo: Path | None, kept: bool = False
) -> ComputePlan:
    """Choose device, precision, memory format and threads for training `network` on (batch, C, side, side) panels.

    Each candidate is timed on a few training steps; another than fp32 channels-last is taken only if it is at least
    15 % faster, and bfloat16 only if with these weights its features agree with fp32's. If a job may use several
    `threads` and the study does not state their number, one thread is then compared with all of them in the same way.
    The fastest candidate is kept in `memo` by network, fusion, size, versions and processor, so that all runs on a
    machine use the same; the agreement of bfloat16 is checked every time. The memory of a step is measured, too. A
    step that would not fit in this machine's memory is not tried; the plan then has only an estimate of its memory.
    With `kept`, batch norms keep their statistics in these steps, which takes less time and memory.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise CasewiseError(
            "compute.device: the study states cuda, but this machine has no CUDA device. Use cpu or auto."
        )
    several = compute.threads == "auto" and threads > 1
    threads = threads if compute.threads == "auto" else compute.threads
    if compute.device == "cuda" or (compute.device == "auto" and torch.cuda.is_available()):
        precision: Literal["fp32", "bf16"] = "fp32" if compute.precision == "fp32" else "bf16"
        return ComputePlan("cuda", precision, True, threads, why="a CUDA device")
    formats = {"auto": (True, False), "channels_last": (True,), "contiguous": (False,)}[compute.memory_format]
    exact: list[Option] = [("fp32", form, threads) for form in formats]
    quick: list[Option] = [("bf16", True in formats, threads)]
    if compute.precision == "fp32" or (compute.precision == "auto" and not (has_bf16() and True in formats)):
        quick = []
    if compute.precision == "bf16":
        exact = []
    step = Step(network, side, batch, kept)
    quickest = _quickest(step, [*exact, *quick], several=several, memo=memo)
    if quickest.precision == "fp32" or not exact or _agrees(network, side):
        return quickest
    choice = _quickest(step, exact, several=several, memo=memo)
    why = f"{quickest.why}; bfloat16, which is quicker, gives other features with these weights"
    return replace(choice, measured=choice.measured or quickest.measured, why=why)


def _quickest(step: Step, options: Sequence[Option], *, several: bool, memo: Path | None) -> ComputePlan:
    """The fastest option, with its threads or with one if they are `several`; remembered or measured."""
    network = step.network
    pooling = network.pooling_name or "one panel"
    inputs = [network.name, network.fusion, network.channels, network.missing_token is not None, pooling]
    machine = [torch.__version__, platform.machine(), cpu_name(), memory_is_kept()]
    key = "|".join(map(str, [*inputs, step.side, step.batch, step.kept, options, several, *machine]))
    remembered = _remembered(memo)
    if key in remembered:
        return ComputePlan.from_json(remembered[key])
    copies = WEIGHT_COPIES * sum(weights.numel() * weights.element_size() for weights in network.parameters()) / MB
    if step.batch > 2 * MORE_PANELS:
        few, more = (step.memory(options[0], panels) for panels in (FEW_PANELS, MORE_PANELS))
        estimate = more + max(0.0, more - few) / (MORE_PANELS - FEW_PANELS) * (step.batch - MORE_PANELS)
        if estimate - PeakMemory.own_now() > available_mb():
            peak_mb = round(estimate + copies, 1)
            return ComputePlan("cpu", *options[0], why="not measured, because memory is short", peak_mb=peak_mb)
    seconds = step.seconds(options) if len(options) > 1 else {}
    option = _worth(seconds, options[0])
    if several:
        of_threads = step.seconds([option, (*option[:2], 1)])
        seconds, option = seconds | of_threads, _worth(of_threads, option)
    choice = ComputePlan("cpu", *option, peak_mb=round(step.memory(option, step.batch) + copies, 1))
    if seconds:
        names = tuple((_name(option, several), round(value, 4)) for option, value in seconds.items())
        why = f"measured, seconds a step of {step.batch} panels of {step.side} px"
        choice = replace(choice, measured=names, why=why)
    if memo:
        with suppress(RunError):  # only a cache: the run continues if it cannot be written
            write_json(memo, {**remembered, key: asdict(choice)})
    return choice


def _remembered(memo: Path | None) -> Mapping[str, Any]:
    try:
        return dict(json.loads(memo.read_text())) if memo and memo.is_file() else {}
    except (OSError, ValueError):
        return {}


def _worth(seconds_by_option: Mapping[Option, float], usual: Option) -> Option:
    """The fastest option, if it is sufficiently faster than the default."""
    best = min(seconds_by_option, key=lambda option: seconds_by_option[option], default=usual)
    return best if best != usual and seconds_by_option[best] < MOST_OF_USUAL_TIME * seconds_by_option[usual] else usual


def _name(option: Option, with_threads: bool) -> str:
    precision, channels_last, threads = option
    name = f"{precision} {'channels-last' if channels_last else 'contiguous'}"
    return f"{name}, {counted(threads, 'thread')}" if with_threads else name


@dataclass(frozen=True)
class Step:
    """A training step of a network on (batch, C, side, side) panels; with `kept`, batch norms keep their statistics."""

    network: Network
    side: int
    batch: int
    kept: bool = False

    def seconds(self, options: Sequence[Option]) -> dict[Option, float]:
        """The fastest of several steps of each option, because only other load makes a step slower.

        They are measured in turn; the first of each is left out.
        """
        panels = torch.rand(self.batch, self.network.channels, self.side, self.side)
        times: dict[Option, list[float]] = {option: [] for option in options}
        start, rounds = time.perf_counter(), 0
        with self._undisturbed():
            while rounds < 3 or (rounds < 6 and time.perf_counter() - start < 2):
                for option in options:
                    times[option].append(self._take(option, panels))
                rounds += 1
        return {option: min(seconds[1:]) for option, seconds in times.items()}

    def memory(self, option: Option, batch: int) -> float:
        """The own memory of this process (MB, see `PeakMemory.own_mb`) at the peak of a step of `batch` panels."""
        give_memory_back()
        try:
            with self._undisturbed(), PeakMemory() as memory:
                self._take(option, torch.rand(batch, self.network.channels, self.side, self.side))
                return memory.own_mb
        finally:
            give_memory_back()

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Restore the number of threads, and remove the gradients of the steps."""
        threads = torch.get_num_threads()
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            self.network.zero_grad(set_to_none=True)

    def _take(self, option: Option, panels: torch.Tensor) -> float:
        """Seconds of a step; the number of threads stays that of the option."""
        precision, channels_last, threads = option
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        form = torch.channels_last if channels_last else torch.contiguous_format
        network = self.network.to(memory_format=form).train()  # type: ignore[call-overload]
        if self.kept:
            keep_statistics(network)
        shaped = panels.to(memory_format=form)
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            network(shaped).square().mean().backward()
        network.zero_grad(set_to_none=True)
        return time.perf_counter() - started


def _agrees(network: Network, side: int) -> bool:
    """Whether features in bfloat16 have the same direction as in fp32 (cosine above 0.99 on random panels)."""
    network.eval()
    panels = torch.rand(2, network.channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = network.features(panels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = network.features(panels).float()
    return bool(torch.nn.functional.cosine_similarity(exact, rough).min() > 0.99)


def cpu_name() -> str:
    """The processor's name from the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor() or platform.machine()
