"""`casewise bench cpu`: with and without each fast path of training, in turns, and a table of what it brings here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from casewise.console import Show, Silent
from casewise.errors import CasewiseError, RunError

SIDE, SMALLEST, EPOCHS, ROUNDS = 512, 32, 100, 2
BUSY = 1.0
FP32 = ("fp32", True, 1)


@dataclass(frozen=True)
class Row:
    """One fast path: seconds with it, None where this machine has none, and without; how a study switches it off."""

    name: str
    seconds: float | None
    without: float
    switch: str
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times as fast it makes what was measured."""
        return self.without / self.seconds if self.seconds else None


@dataclass(frozen=True)
class Measured:
    """What was measured, where, and what a run would choose there."""

    rows: list[Row]
    head: list[str]
    choice: str

    def __str__(self) -> str:
        lines = [("fast path", "with", "without", "ratio", "switch off by")]
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
        widths = [max(len(line[place]) for line in lines) for place in range(4)]
        told = [
            f"{line[0]:<{widths[0]}}  " + "".join(f"{line[i]:>{widths[i]}}  " for i in (1, 2, 3)) + line[4]
            for line in lines
        ]
        notes = [f"{row.name.partition(':')[0]}: {row.note}" for row in self.rows if row.note]
        return "\n".join([*self.head, "", *told, "", *notes, self.choice])


def bench_cpu(
    *, backbone: str = "mobilenet_v2", size: int = 128, batch: int = 32, images: int = 192, show: Show | None = None
) -> Measured:
    """Measure every fast path of training on the processor, on synthetic images and random weights.

    Raises:
        CasewiseError: what was asked for cannot be measured; it says why.
    """
    check(backbone, size=size, batch=batch, images=images)
    from casewise.training.compute_plan import cores, cpu_name

    show, count = show or Silent(), cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    with ExitStack() as stack:
        bar = stack.enter_context(show.bar("bench"))
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="casewise-bench-")))
        bar(0, 9, "drawing images, starting processes")
        draw(folder, images)
        settings = {"backbone": backbone, "size": size, "batch": batch, "images": str(folder)}
        kept = [stack.enter_context(_process({**settings, "kept": True})) for _ in range(count)]
        plain = stack.enter_context(_process({**settings, "kept": False}))
        about, *_ = [process.receive() for process in (*kept, plain)]
        rows: list[Row] = []
        steps: list[tuple[str, Callable[[], list[Row]]]] = [
            ("images decoded once", lambda: [_tiles(kept[0], images)]),
            ("memory kept", lambda: [_memory(kept[0], plain)]),
            ("memory format and precision", lambda: _forms(kept[0])),
            ("jobs side by side", lambda: [_side_by_side(kept)]),
            ("head alone", lambda: [_phase(kept[0], "all", many=12)]),
            ("fine-tuning", lambda: [_phase(kept[0], "some", many=3)]),
        ]
        for number, (text, measure) in enumerate(steps):
            bar(1 + number, 8, text)
            rows += measure()
        bar(7, 8, "what a run would choose")
        choices = [kept[0].ask("choose", threads=threads) for threads in dict.fromkeys((1, count))]
    head = [
        f"{cpu_name()}, {count} core{'s' * (count > 1)}, torch {about['torch']}",
        f"{backbone}, batches of {batch}, {images} synthetic images of {size} px, random weights; one thread a job",
        f"with and without in turns, the best of {ROUNDS} rounds or more; {EPOCHS} epochs are scaled from a few",
    ]
    if load > BUSY:
        head.append(f"The machine has other work (load {load:.1f}): these ratios mislead; measure when it is quiet.")
    return Measured(rows, head, _chosen(backbone, choices, count))


def check(backbone: str, *, size: int, batch: int, images: int) -> None:
    """Refuse what cannot be measured.

    Raises:
        CasewiseError: naming the option, what was found and what is allowed.
    """
    from casewise.study.backbones import check_backbones

    check_backbones([backbone], "--backbone")
    if size < SMALLEST:
        raise CasewiseError(f"--size is at least {SMALLEST} pixels; found {size}.")
    if batch < 2:
        raise CasewiseError(f"--batch-size is at least 2; found {batch}.")
    if images < batch:
        raise CasewiseError(
            f"--images is at least one batch, here {batch}; found {images}. Give more, or lower --batch-size."
        )


def draw(folder: Path, images: int) -> None:
    """Write JPEGs of coloured clouds and noise, each its own."""
    import numpy as np
    from PIL import Image

    drawn = np.random.default_rng(0)
    noise = drawn.normal(0, 8, (SIDE, SIDE, 3))
    for number in range(images):
        small = drawn.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        clouds = np.asarray(Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = (clouds + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.jpg", quality=90)


class _Process:
    """A process that measures; see `worker`."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self.running = running

    def send(self, **task: Any) -> None:
        assert self.running.stdin
        try:
            self.running.stdin.write(json.dumps(task) + "\n")
            self.running.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def receive(self) -> dict[str, Any]:
        assert self.running.stdout
        line = self.running.stdout.readline()
        if not line:
            raise self._gone()
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise CasewiseError(told["error"])
        return told

    def ask(self, task: str, **given: Any) -> dict[str, Any]:
        self.send(task=task, **given)
        return self.receive()

    def _gone(self) -> RunError:
        code = self.running.wait()
        return RunError(
            f"A measuring process ended with code {code}; for want of memory? Lower --batch-size or --size."
        )


@contextmanager
def _process(settings: dict[str, Any]) -> Iterator[_Process]:
    command = [sys.executable, "-m", "casewise.bench.worker"]
    # In a session of its own, so that Ctrl-C reaches this process alone, which then ends all of them.
    running = subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        process = _Process(running)
        process.send(**settings)
        yield process
    finally:
        running.kill()
        running.wait()
        for pipe in (running.stdin, running.stdout):
            if pipe:
                pipe.close()


def _tiles(process: _Process, images: int) -> Row:
    once = process.ask("store")["seconds"]
    told = [(process.ask("read")["seconds"], process.ask("decode")["seconds"]) for _ in range(ROUNDS)]
    quick, slow = (min(column) for column in zip(*told, strict=True))
    name = f"images decoded once: reading {images} of an epoch"
    note = f"decoding into the tile store took {_seconds(once)}, once"
    return Row(name, quick, slow, "cannot be: training reads nothing else", note)


def _memory(kept: _Process, plain: _Process) -> Row:
    times: dict[_Process, list[float]] = {kept: [], plain: []}
    for _ in range(ROUNDS):
        for process, seconds in times.items():
            seconds += process.ask("steps", options=[FP32], rounds=4)["seconds"][0]
    note = "" if sys.platform == "linux" else "only on Linux with glibc; here both are the same"
    switch = "compute: {keep_memory: false}"
    return Row("freed memory kept: a training step", min(times[kept]), min(times[plain]), switch, note)


def _forms(process: _Process) -> list[Row]:
    options = [FP32, ("fp32", False, 1), ("bf16", True, 1)]
    plain, contiguous, bf16 = process.ask("steps", options=options, rounds=4)["seconds"]
    exact, rough = process.ask("inference", rounds=4)["seconds"]
    none, switch = "" if bf16 else "this processor has none of its own", "compute: {precision: fp32}"
    layout = "compute: {memory_format: contiguous}"
    return [
        Row("channels-last: a training step", min(plain), min(contiguous), layout),
        Row("bfloat16: a training step", min(bf16, default=None), min(plain), switch, none),
        Row("bfloat16: predicting a batch", min(rough, default=None), min(exact), switch, none),
    ]


def _side_by_side(processes: Sequence[_Process]) -> Row:
    count = len(processes)
    alone, both = [], []
    for _ in range(ROUNDS):
        for process in processes:
            process.send(task="steps", options=[FP32], rounds=4)
        # The median, since all must keep their pace while the others run.
        both.append(max(median(process.receive()["seconds"][0]) for process in processes))
        told = processes[0].ask("steps", options=[("fp32", True, count)], rounds=4)["seconds"][0]
        alone.append(count * median(told))
    name = f"jobs side by side, a core each: a step of {count} job{'s' * (count > 1)}"
    if count == 1:
        return Row(name, None, min(alone), "compute: {jobs: 1}", "there is one core")
    return Row(name, min(both), min(alone), "compute: {jobs: 1}")


def _phase(process: _Process, frozen: str, *, many: int) -> Row:
    found: dict[bool, list[float]] = {True: [], False: []}
    told: dict[str, Any] = {}
    for _ in range(ROUNDS):
        for once, epochs in ((False, 2), (True, many)):
            told = process.ask("phase", frozen=frozen, once=once, epochs=epochs)
            found[once].append(told["first"] + (EPOCHS - 1) * told["later"])
    note = "" if told["once"] else str(told["way"])
    name = "head alone, features once" if frozen == "all" else f"above {told['at']}, activations once"
    switch = "compute: {frozen_once: false}"
    return Row(f"{name}: {EPOCHS} epochs", min(found[True]), min(found[False]), switch, note)


def _chosen(backbone: str, choices: Sequence[dict[str, Any]], count: int) -> str:
    ways = [
        f"{choice['precision']} {'channels-last' if choice['channels_last'] else 'contiguous'}, "
        f"{choice['threads']} thread{'s' * (choice['threads'] != 1)}"
        for choice in choices
    ]
    alone = f"; with `compute: {{jobs: 1}}` {ways[1]}" if len(ways) > 1 else ""
    return f"A run would choose here for {backbone}, {count} job{'s' * (count > 1)} at a time: {ways[0]}{alone}."


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} s" if value >= 100 else f"{value:.3g} s"
