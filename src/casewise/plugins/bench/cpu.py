"""`casewise bench cpu`: time with and without each fast path of training, measured in turns, as a table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import psutil

from casewise.console import Show, Silent
from casewise.errors import CasewiseError, RunError

if TYPE_CHECKING:
    from casewise.plugins.bench.worker import Answer

SIDE, SMALLEST, EPOCHS, ROUNDS = 512, 32, 100, 2
FP32 = ("fp32", True, 1)
# Cores that a desktop uses when nothing is done.
BUSY = 0.3


@dataclass(frozen=True)
class Row:
    """One fast path: seconds with it (None if this machine lacks it) and without, and the key that disables it."""

    name: str
    seconds: float | None
    without: float
    switch: str
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The speed-up."""
        return self.without / self.seconds if self.seconds else None


@dataclass(frozen=True)
class BenchmarkResult:
    """The measurements, a description of the machine, and the options that a run would choose on it."""

    rows: list[Row]
    head: list[str]
    choice: str

    def __str__(self) -> str:
        lines = [("fast path", "with", "without", "ratio", "disabled by")]
        lines += [
            (
                row.name,
                _seconds(row.seconds),
                _seconds(row.without),
                f"{row.ratio:.2f}" if row.ratio else "–",
                row.switch,
            )
            for row in self.rows
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(4)]
        table = [
            f"{line[0]:<{widths[0]}}  " + "".join(f"{line[i]:>{widths[i]}}  " for i in (1, 2, 3)) + line[4]
            for line in lines
        ]
        notes = [f"{row.name.partition(':')[0]}: {row.note}" for row in self.rows if row.note]
        return "\n".join([*self.head, "", *table, "", *notes, self.choice])


def bench_cpu(
    *, backbone: str = "mobilenet_v2", size: int = 128, batch: int = 32, images: int = 192, show: Show | None = None
) -> BenchmarkResult:
    """Measure every fast path of training on the processor, on synthetic images and random weights.

    Raises:
        CasewiseError: an option is invalid, or the network cannot be measured.
    """
    check(backbone, size=size, batch=batch, images=images)
    from joblib import cpu_count

    from casewise.training.compute_plan import cpu_name

    show, count = show or Silent(), cpu_count()
    warning = warning_if_busy()
    with ExitStack() as stack:
        bar = stack.enter_context(show.bar("bench"))
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="casewise-bench-")))
        bar(0, 8, "drawing images, starting processes")
        draw(folder, images)
        settings = {"backbone": backbone, "size": size, "batch": batch, "images": str(folder)}
        keeping = [stack.enter_context(_process({**settings, "keep": True})) for _ in range(count)]
        plain = stack.enter_context(_process({**settings, "keep": False}))
        facts, *_ = [process.receive() for process in (*keeping, plain)]
        rows: list[Row] = []
        steps: list[tuple[str, Callable[[], list[Row]]]] = [
            ("images decoded once", lambda: [_tiles(keeping[0], images)]),
            ("memory kept", lambda: [_memory(keeping[0], plain)]),
            ("memory format and precision", lambda: _forms(keeping[0])),
            ("jobs side by side", lambda: [_side_by_side(keeping)]),
            ("head alone", lambda: [_phase(keeping[0], "all", many=12)]),
            ("fine-tuning", lambda: [_phase(keeping[0], "some", many=3)]),
        ]
        for number, (text, measure) in enumerate(steps):
            bar(1 + number, 8, text)
            rows += measure()
        bar(7, 8, "choosing the options of a run")
        choices = [keeping[0].ask("choose", threads=threads) for threads in dict.fromkeys((1, count))]
    head = [
        f"{cpu_name()}, {count} core{'s' * (count > 1)}, torch {facts['torch']}",
        f"{backbone}, batches of {batch}, {images} synthetic images of {size} px, random weights; one thread per job",
        f"with and without in turns, best of at least {ROUNDS} rounds; {EPOCHS} epochs are extrapolated from a few",
    ]
    head += [warning] if warning else []
    return BenchmarkResult(rows, head, _choice_text(backbone, choices, count))


def check(backbone: str, *, size: int, batch: int, images: int) -> None:
    """Check the options.

    Raises:
        CasewiseError: names the option, its value and what is allowed.
    """
    from casewise.study.backbones import check_backbones

    check_backbones([backbone], "--backbone")
    if size < SMALLEST:
        raise CasewiseError(f"--size must be at least {SMALLEST} pixels, not {size}.")
    if batch < 2:
        raise CasewiseError(f"--batch-size must be at least 2, not {batch}.")
    if images < batch:
        raise CasewiseError(
            f"--images must be at least one batch ({batch}), not {images}. Increase it, or lower --batch-size."
        )


def draw(folder: Path, images: int) -> None:
    """Write different JPEGs of coloured clouds and noise."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    noise = rng.normal(0, 8, (SIDE, SIDE, 3))
    for number in range(images):
        small = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        clouds = np.asarray(Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = (clouds + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.jpg", quality=90)


class _Process:
    """A measuring process; see `worker`."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen

    def send(self, **task: Any) -> None:
        assert self.popen.stdin
        try:
            self.popen.stdin.write(json.dumps(task) + "\n")
            self.popen.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def receive(self) -> Answer:
        assert self.popen.stdout
        line = self.popen.stdout.readline()
        if not line:
            raise self._ended()
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise CasewiseError(answer["error"])
        return answer

    def ask(self, task: str, **options: Any) -> Answer:
        self.send(task=task, **options)
        return self.receive()

    def _ended(self) -> RunError:
        code = self.popen.wait()
        return RunError(
            f"A measuring process ended with code {code}, possibly for lack of memory. Lower --batch-size or --size."
        )


@contextmanager
def _process(settings: Answer) -> Iterator[_Process]:
    command = [sys.executable, "-m", "casewise.plugins.bench.worker"]
    # in its own session, so that Ctrl-C reaches only this process, which then ends the others
    popen = subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        process = _Process(popen)
        process.send(**settings)
        yield process
    finally:
        popen.kill()
        popen.wait()
        for pipe in (popen.stdin, popen.stdout):
            if pipe:
                pipe.close()


def _tiles(process: _Process, images: int) -> Row:
    preparation = process.ask("store")["seconds"]
    times = [(process.ask("read")["seconds"], process.ask("decode")["seconds"]) for _ in range(ROUNDS)]
    quick, slow = (min(column) for column in zip(*times, strict=True))
    name = f"images decoded once: reading {images} of an epoch"
    note = f"decoding into the tile store took {_seconds(preparation)} once"
    return Row(name, quick, slow, "cannot be disabled", note)


def _memory(keeping: _Process, plain: _Process) -> Row:
    times: dict[_Process, list[float]] = {keeping: [], plain: []}
    for _ in range(ROUNDS):
        for process, seconds in times.items():
            seconds += process.ask("steps", options=[FP32], rounds=4)["seconds"][0]
    note = "" if sys.platform == "linux" else "only on Linux with glibc; no difference here"
    switch = "compute: {keep_memory: false}"
    return Row("freed memory kept: a training step", min(times[keeping]), min(times[plain]), switch, note)


def _forms(process: _Process) -> list[Row]:
    options = [FP32, ("fp32", False, 1), ("bf16", True, 1)]
    plain, contiguous, bf16 = process.ask("steps", options=options, rounds=4)["seconds"]
    exact, rough = process.ask("inference", rounds=4)["seconds"]
    note, switch = "" if bf16 else "this processor does not support it", "compute: {precision: fp32}"
    layout = "compute: {memory_format: contiguous}"
    return [
        Row("channels-last: a training step", min(plain), min(contiguous), layout),
        Row("bfloat16: a training step", min(bf16, default=None), min(plain), switch, note),
        Row("bfloat16: predicting a batch", min(rough, default=None), min(exact), switch, note),
    ]


def _side_by_side(processes: Sequence[_Process]) -> Row:
    count = len(processes)
    alone, both = [], []
    for _ in range(ROUNDS):
        for process in processes:
            process.send(task="steps", options=[FP32], rounds=4)
        # the median, because all jobs run at the same time
        both.append(max(median(process.receive()["seconds"][0]) for process in processes))
        steps = processes[0].ask("steps", options=[("fp32", True, count)], rounds=4)["seconds"][0]
        alone.append(count * median(steps))
    name = f"parallel jobs with one core each: a step of {count} job{'s' * (count > 1)}"
    if count == 1:
        return Row(name, None, min(alone), "compute: {jobs: 1}", "this machine has one core")
    return Row(name, min(both), min(alone), "compute: {jobs: 1}")


def _phase(process: _Process, frozen: str, *, many: int) -> Row:
    seconds: dict[bool, list[float]] = {True: [], False: []}
    answer: Answer = {}
    for _ in range(ROUNDS):
        for once, epochs in ((False, 2), (True, many)):
            answer = process.ask("phase", frozen=frozen, once=once, epochs=epochs)
            seconds[once].append(answer["first"] + (EPOCHS - 1) * answer["later"])
    note = "" if answer["once"] else str(answer["way"])
    name = "head only, features cached" if frozen == "all" else f"above {answer['at']}, activations cached"
    switch = "compute: {frozen_once: false}"
    return Row(f"{name}: {EPOCHS} epochs", min(seconds[True]), min(seconds[False]), switch, note)


def _choice_text(backbone: str, choices: Sequence[Answer], count: int) -> str:
    plans = [
        f"{choice['precision']} {'channels-last' if choice['channels_last'] else 'contiguous'}, "
        f"{choice['threads']} thread{'s' * (choice['threads'] != 1)}"
        for choice in choices
    ]
    alone = f"; with `compute: {{jobs: 1}}` {plans[1]}" if len(plans) > 1 else ""
    jobs = f"{count} job{'s' * (count > 1)} at a time"
    return f"On this machine a run would choose for {backbone}, {jobs}: {plans[0]}{alone}."


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} s" if value >= 100 else f"{value:.3g} s"


def busy_cores(seconds: float = 1.0) -> float:
    """The cores that all processes use on average, while this one waits for so many seconds.

    The system's load average would still count what has ended in the last minutes.
    """
    return float(psutil.cpu_percent(seconds)) / 100 * (psutil.cpu_count() or 1)


def warning_if_busy() -> str | None:
    """The sentence for a table of times if other processes are running; None if the machine is quiet."""
    if (busy := busy_cores()) <= BUSY:
        return None
    cores = psutil.cpu_count()
    return f"Other processes use {busy:.1f} of {cores} cores, so these ratios are unreliable. Measure when idle."


def warn_if_busy() -> None:
    """Print that sentence."""
    if sentence := warning_if_busy():
        print(sentence, flush=True)
