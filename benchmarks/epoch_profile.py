"""Where the time of an epoch goes: one epoch of a whole network by operation (`torch.profiler`).

    python benchmarks/epoch_profile.py [--networks mobilenet_v2 resnet34] [--steps 6] [--evaluated 64]
    PYTHONPATH=OTHER/src python benchmarks/epoch_profile.py    # the same for another version

An epoch has `--steps` batches of 32 panels of 224 px, which are varied in training (flips, rotation, brightness), and
evaluates `--evaluated` others. It is the second of a training, with one thread, fp32 and channels-last. An entry is the
time inside its operations alone; `Python and the loop` is what is left of the time of the epoch, while Python inside a
step counts as `the rest`, inside the making of panels as `panels`, and so on. The profiler itself takes a few per cent.
Times are those of the clock: measure when nothing else runs.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile, record_function

BATCH, SIDE = 32, 224
PANELS, EVALUATION, STEP = "panels", "evaluation", "step"
# Parts of the names of operations, in the order in which they are looked for.
KINDS = (
    ("convolution", ("conv", "mkldnn")),
    ("batch norm", ("batch_norm", "batchnorm")),
    ("activation", ("relu", "hardtanh", "clamp", "clipped", "threshold", "silu", "hardswish")),
    ("pooling", ("pool", "mean")),
)


def kind_of(name: str) -> str:
    """The kind of an operation."""
    lowered = name.lower()
    return next((kind for kind, parts in KINDS if any(part in lowered for part in parts)), "the rest")


def part_of(event: Any) -> str:
    """The row of the table to which an event belongs: that of the outermost step around it."""
    outer, chain = event, [event]
    while outer.cpu_parent is not None:
        outer = outer.cpu_parent
        chain.append(outer)
    names = [one.name for one in chain]
    for name in (PANELS, EVALUATION):
        if name in names:
            return name
    backward = next((n.split(": ", 1)[1] for n in names if n.startswith("autograd::engine::evaluate_function: ")), "")
    if backward:
        return f"{kind_of(backward)}, backward"
    kinds = [kind for kind in map(kind_of, names) if kind != "the rest"]
    if STEP not in names and any(name.startswith("Optimizer.") for name in names):  # it computes the step inside
        return "optimiser"
    return f"{kinds[-1]}, forward" if kinds else "the rest"


def inside(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A method whose time is in a named range of the profiler."""

    @wraps(method)
    def named(*arguments: Any, **options: Any) -> Any:
        with record_function(name):
            return method(*arguments, **options)

    return named


def of_network(name: str, steps: int, evaluated: int) -> None:
    """Profile the second epoch of a training, and print its table."""
    from casewise.modalities.dataset import PanelData
    from casewise.models.backbones import build_network
    from casewise.models.outputs import Output
    from casewise.study.schema import Panels, Recipe
    from casewise.training.compute_plan import ComputePlan
    from casewise.training.loop import Training, TrainingContext, fit

    count = steps * BATCH + evaluated
    drawn = torch.Generator().manual_seed(0)
    store = torch.randint(0, 255, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=drawn)
    panels = Panels(by="image", flip="horizontal", rotate=15, brightness=0.2, contrast=0.2)
    data = PanelData(store, [[row] for row in range(count)], torch.rand(count, 1, generator=drawn), panels)
    train, stop = data.subset(range(steps * BATCH)), data.subset(range(steps * BATCH, count))
    network = build_network(name, 1)
    profiler = profile(activities=[ProfilerActivity.CPU])
    ends: dict[int, float] = {}

    def tell(epoch: int, _: float) -> None:
        if epoch == 1:
            profiler.start()
        if epoch == 2:
            profiler.stop()
        ends[epoch] = time.perf_counter()

    with ExitStack() as named, tempfile.TemporaryDirectory() as folder:
        for owner, method, range_name in (
            (PanelData, "training_batch", PANELS),
            (Training, "step", STEP),
            (Training, "_predicted", EVALUATION),
        ):
            named.enter_context(patch.object(owner, method, inside(getattr(owner, method), range_name)))
        context = TrainingContext([Output("grade")], Path(folder), 0, ComputePlan(threads=1), math.inf, tell=tell)
        recipe = Recipe(optimizer="adamw", lr=1e-4, schedule="one-cycle", batch_size=BATCH, epochs=2)
        fit(network, recipe, train, stop, context)
    seconds: dict[str, float] = defaultdict(float)
    for event in profiler.events():
        seconds[part_of(event)] += event.self_cpu_time_total / 1e6
    whole = ends[2] - ends[1]
    seconds["Python and the loop"] = max(0.0, whole - sum(seconds.values()))
    print(f"{name}: {whole:.2f} s for {steps} steps of {BATCH} panels and {evaluated} evaluated panels of {SIDE} px")
    for part, value in sorted(seconds.items(), key=lambda entry: -entry[1]):
        print(f"  {part:<24}{value:>8.2f} s{value / whole:>8.1%}")


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=["mobilenet_v2", "resnet34"])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--evaluated", type=int, default=64)
    options = parser.parse_args()
    from casewise.training.cost import keep_memory

    keep_memory()
    torch.set_num_threads(1)
    for name in options.networks:
        of_network(name, options.steps, options.evaluated)


if __name__ == "__main__":
    main()
