"""The two-second measurement that chooses precision, memory format and threads for a network."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from casewise.errors import CasewiseError, RunError, counted
from casewise.files import cache_folder, write_json
from casewise.models.backbones import Network, keep_statistics
from casewise.study.schema import Compute
from casewise.training.cost import MB, PeakMemory, available_mb, give_memory_back, memory_is_kept

# Precision, whether channels-last, threads.
Option = tuple[str, bool, int]
# A plan other than the default must take less than this share of its time.
WORTH = 0.87
# Copies of the weights beside a step of training: two moments of the optimizer, and the best epoch.
WEIGHT_COPIES = 3
# Panels from which the memory of a step is extrapolated, before one is tried.
FEW, MORE = 2, 4


@dataclass(frozen=True)
class ComputePlan:
    """The way a network runs on this machine: chosen once, recorded, and used by all jobs of the backbone.

    Attributes:
        parts: the number of parts in which a batch is computed; more than one for jobs that ran out of memory.
        peak_mb: the memory that a job needs at its peak, without pages of files: measured in a step of training, with
            the copies of the weights that training keeps. 0 if it is not known. Results do not depend on it.
    """

    device: str = "cpu"
    precision: str = "fp32"
    channels_last: bool = True
    threads: int = 1
    measured: tuple[tuple[str, float], ...] = ()
    why: str = "stated by the study"
    parts: int = 1
    peak_mb: float = 0.0

    @property
    def step_seconds(self) -> float:
        """The measured seconds of a training step by this plan; 0 if it was not measured."""
        option = (self.precision, self.channels_last, self.threads)
        seconds = dict(self.measured)
        return seconds.get(_name(option, True), seconds.get(_name(option, False), 0.0))

    def described(self) -> str:
        """Everything that determines the bits of a network, in words.

        >>> ComputePlan().described()
        'fp32, channels-last, 1 thread on cpu'
        """
        form = "channels-last" if self.channels_last else "contiguous"
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
    stated = compute.threads != "auto"
    threads = threads if compute.threads == "auto" else compute.threads
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise CasewiseError(
            "compute.device: the study states cuda, but this machine has no CUDA device. Use cpu or auto."
        )
    if compute.device == "cuda" or (compute.device == "auto" and torch.cuda.is_available()):
        return ComputePlan(
            "cuda", "fp32" if compute.precision == "fp32" else "bf16", True, threads, (), "a CUDA device"
        )
    formats = {"auto": (True, False), "channels_last": (True,), "contiguous": (False,)}[compute.memory_format]
    precisions = {"auto": ("fp32", "bf16"), "fp32": ("fp32",), "bf16": ("bf16",)}[compute.precision]
    options: list[Option] = [
        (p, f, threads) for p in precisions for f in formats if p == "fp32" or has_bf16() or compute.precision == "bf16"
    ]
    options = [o for o in options if o[:2] != ("bf16", False) or len(options) == 1]
    fewer = () if stated or threads == 1 else (1,)
    memory_use = "kept" if memory_is_kept() else "given back"
    exact = [option for option in options if option[0] == "fp32"]
    quickest = _quickest(network, options, fewer, side=side, batch=batch, kept=kept, memory_use=memory_use, memo=memo)
    if quickest.precision == "fp32" or not exact or _agrees(network, side):
        return quickest
    choice = _quickest(network, exact, fewer, side=side, batch=batch, kept=kept, memory_use=memory_use, memo=memo)
    why = f"{quickest.why}; bfloat16, which is quicker, gives other features with these weights"
    return replace(choice, measured=choice.measured or quickest.measured, why=why)


def _quickest(
    network: Network,
    options: list[Option],
    fewer: tuple[int, ...],
    *,
    side: int,
    batch: int,
    kept: bool,
    memory_use: str,
    memo: Path | None,
) -> ComputePlan:
    """The fastest option, remembered or measured."""
    cpu = [torch.__version__, platform.machine(), cpu_name()]
    fused = [network.fusion, network.channels, network.missing_token is not None]
    gathers = network.pooling.name if network.pooling else "one panel"
    key = "|".join(
        map(str, [network.name, *fused, gathers, side, batch, kept, options[0][2], fewer, options, memory_use, *cpu])
    )
    remembered = _remembered(memo)
    if key in remembered:
        values = remembered[key]
        return ComputePlan(**{**values, "measured": tuple((str(n), float(s)) for n, s in values["measured"])})
    fits, estimate = _step_fits(network, options[0], side=side, batch=batch, kept=kept)
    if not fits:
        return ComputePlan("cpu", *options[0], why="not measured, because memory is short", peak_mb=estimate)
    choice = ComputePlan("cpu", *options[0])
    if len(options) > 1 or fewer:
        choice = _measured(network, options, fewer, side=side, batch=batch, kept=kept)
    option = (choice.precision, choice.channels_last, choice.threads)
    peak = step_memory(network, option, side=side, batch=batch, kept=kept) + _weight_copies(network)
    choice = replace(choice, peak_mb=round(peak, 1))
    if memo:
        with suppress(RunError):  # only a cache: the run continues if it cannot be written
            write_json(memo, remembered | {key: asdict(choice)})
    return choice


def _remembered(memo: Path | None) -> dict[str, Any]:
    try:
        return dict(json.loads(memo.read_text())) if memo and memo.is_file() else {}
    except (OSError, ValueError):
        return {}


def _measured(
    network: Network, options: list[Option], fewer: tuple[int, ...], *, side: int, batch: int, kept: bool = False
) -> ComputePlan:
    seconds_by_option = (
        least(step_seconds(network, options, side=side, batch=batch, kept=kept)) if len(options) > 1 else {}
    )
    quickest = _worth(seconds_by_option, options[0])
    if fewer:
        both = [quickest, *[(*quickest[:2], threads) for threads in fewer]]
        fewer_threads = least(step_seconds(network, both, side=side, batch=batch, kept=kept))
        seconds_by_option, quickest = seconds_by_option | fewer_threads, _worth(fewer_threads, quickest)
    names = tuple((_name(option, bool(fewer)), round(seconds, 4)) for option, seconds in seconds_by_option.items())
    return ComputePlan("cpu", *quickest, names, f"measured, seconds a step of {batch} panels of {side} px")


def _step_fits(network: Network, option: Option, *, side: int, batch: int, kept: bool = False) -> tuple[bool, float]:
    """Whether a step has enough memory, and the peak of a job, extrapolated from steps of a few panels."""
    if batch <= 2 * MORE:
        return True, 0.0
    few, more = (step_memory(network, option, side=side, batch=panels, kept=kept) for panels in (FEW, MORE))
    step = more + max(0.0, more - few) / (MORE - FEW) * (batch - MORE)
    return step - PeakMemory.own_now() <= available_mb(), round(step + _weight_copies(network), 1)


def _weight_copies(network: Network) -> float:
    return WEIGHT_COPIES * sum(weights.numel() * weights.element_size() for weights in network.parameters()) / MB


def step_memory(network: Network, option: Option, *, side: int, batch: int, kept: bool = False) -> float:
    """The own memory of this process (MB, see `PeakMemory.own_mb`) at the peak of a step of training."""
    threads = torch.get_num_threads()
    give_memory_back()
    try:
        with PeakMemory() as memory:
            _step(network, option, torch.rand(batch, network.channels, side, side), kept=kept)
            return memory.own_mb
    finally:
        torch.set_num_threads(threads)
        network.zero_grad(set_to_none=True)
        give_memory_back()


def _worth(seconds_by_option: dict[Option, float], usual: Option) -> Option:
    """The fastest option, if it is sufficiently faster than the default."""
    best = min(seconds_by_option, key=lambda option: seconds_by_option[option], default=usual)
    return best if best != usual and seconds_by_option[best] < WORTH * seconds_by_option[usual] else usual


def _name(option: Option, with_threads: bool) -> str:
    precision, channels_last, threads = option
    name = f"{precision} {'channels-last' if channels_last else 'contiguous'}"
    return f"{name}, {counted(threads, 'thread')}" if with_threads else name


def step_seconds(
    network: Network, options: Sequence[Option], *, side: int, batch: int, kept: bool = False, least_rounds: int = 3
) -> dict[Option, list[float]]:
    """Seconds of training steps by option, measured in turn; the first step of each is left out."""
    panels = torch.rand(batch, network.channels, side, side)
    times: dict[Option, list[float]] = {option: [] for option in options}
    before, start, rounds = torch.get_num_threads(), time.perf_counter(), 0
    try:
        while rounds < least_rounds or (rounds < 6 and time.perf_counter() - start < 2):
            for option in options:
                times[option].append(_step(network, option, panels, kept=kept))
            rounds += 1
    finally:
        torch.set_num_threads(before)
        network.zero_grad(set_to_none=True)
    return {option: seconds[1:] for option, seconds in times.items()}


def _step(network: Network, option: Option, panels: torch.Tensor, *, kept: bool) -> float:
    """Seconds of a step of training; the number of threads stays that of the option."""
    precision, channels_last, threads = option
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    form = torch.channels_last if channels_last else torch.contiguous_format
    network.to(memory_format=form).train()  # type: ignore[call-overload]
    if kept:
        keep_statistics(network)
    shaped = panels.to(memory_format=form)
    started = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        network(shaped).square().mean().backward()
    network.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def least(times: dict[Option, list[float]]) -> dict[Option, float]:
    """The fastest step of each option, because only other load makes a step slower."""
    return {option: min(seconds) for option, seconds in times.items()}


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


def memo_path() -> Path:
    """The file with the choices of this machine."""
    return cache_folder() / "speed.json"
