"""What the training loop costs beside the bare step: forward, backward and the optimiser on ready tensors.

    python benchmarks/loop_overhead.py [--networks resnet34 shufflenet_v2_x0_5] [--steps 8] [--epochs 4]

Batches of 16 panels of 256 px, SGD with momentum, mean squared error of four targets, fp32, channels-last. The loop is
`fit` with everything it does in an epoch: order and seeds, batches, checks of the loss, history, early stopping on one
panel, and the best weights. It is measured once on panels that are ready (no augmentation) and once on panels of 2x2
slots from a tile store that are rotated, shuffled and varied in brightness and contrast. The bare step repeats on one
batch, with torch's own loss, optimiser and network.

Both run in turn in one process: after each epoch of the loop follow as many bare steps, and the first epoch does not
count. CPU seconds depend less on other processes than wall-clock does, so both are printed, as the median over epochs.
The head alone is measured too, on features of 1,280 numbers. Times are printed, never asserted.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

BATCH, SIDE, SLOT, TARGETS = 16, 256, 128, 4
HEAD_BATCH, HEAD_ROWS, HEAD_WIDTH = 32, 1888, 1280
AIMS = {"resnet34": "aim: at most 5 %", "shufflenet_v2_x0_5": "aim: at most 12 %"}
Reading = tuple[float, float]


def reading() -> Reading:
    """Wall-clock and CPU seconds of this process."""
    return time.perf_counter(), time.process_time()


@dataclass
class Interleaved:
    """The seconds of a step in the loop and of the bare step after it, by epoch: wall-clock and CPU seconds."""

    bare: Callable[[], Any]
    steps: int
    in_loop: list[Reading] = field(default_factory=list)
    without: list[Reading] = field(default_factory=list)
    start: Reading = (0.0, 0.0)

    def __call__(self, epoch: int, _: float) -> None:
        """Called by the loop after each epoch."""
        end = reading()
        for _step in range(self.steps):
            self.bare()
        after = reading()
        if epoch > 1:
            self.in_loop.append(self._a_step(self.start, end))
            self.without.append(self._a_step(end, after))
        self.start = reading()

    def _a_step(self, start: Reading, end: Reading) -> Reading:
        return (end[0] - start[0]) / self.steps, (end[1] - start[1]) / self.steps

    def row(self, name: str, aim: str = "") -> str:
        """A row of the table."""
        cells = []
        for clock in (0, 1):
            loop, bare = (statistics.median(r[clock] for r in side) for side in (self.in_loop, self.without))
            cells.append(f"{1e3 * loop:>9.2f}{1e3 * bare:>9.2f}{100 * (loop / bare - 1):>+8.1f} %")
        return f"  {name:<34}{cells[0]}   {cells[1]}   {aim}"


def bare_step(network: nn.Module, panels: torch.Tensor, truth: torch.Tensor) -> Callable[[], None]:
    """A step on one batch."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        loss = nn.functional.mse_loss(network(panels), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    network.train()
    return step


def of_network(name: str, steps: int, epochs: int, threads: int) -> None:
    """Print the rows of one network."""
    from casewise.modalities.dataset import PanelData
    from casewise.models.backbones import build_network
    from casewise.models.outputs import Output
    from casewise.study.schema import Panels, Recipe
    from casewise.training.compute_plan import ComputePlan
    from casewise.training.feature_cache import FixedData
    from casewise.training.loop import TrainingContext, fit

    rows = steps * BATCH
    drawn = torch.Generator().manual_seed(0)
    truth = torch.rand(rows, TARGETS, generator=drawn)
    ready = torch.rand(rows, 3, SIDE, SIDE, generator=drawn).to(memory_format=torch.channels_last)
    store = torch.randint(0, 255, (4 * rows, 3, SLOT, SLOT), dtype=torch.uint8, generator=drawn)
    varied = Panels(by="region", grid="2x2", shuffle=True, rotate=180, brightness=0.2, contrast=0.2)
    panels = PanelData(store, [[4 * row + slot for slot in range(4)] for row in range(rows)], truth, varied)
    network = build_network(name, TARGETS).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe = Recipe(optimizer="sgd", lr=1e-3, schedule="constant", batch_size=BATCH, epochs=epochs + 1)
    for way, train, stop in (
        ("ready tensors", FixedData(ready, truth), FixedData(ready[:1], truth[:1])),
        ("panels from the store, augmented", panels, panels.subset([0])),
    ):
        bare = bare_step(copy.deepcopy(network), ready[:BATCH], truth[:BATCH])
        bare()
        times = Interleaved(bare, steps)
        with tempfile.TemporaryDirectory() as folder:
            context = TrainingContext(
                [Output(str(number)) for number in range(TARGETS)],
                Path(folder),
                0,
                ComputePlan(threads=threads),
                tell=times,
            )
            fit(copy.deepcopy(network), recipe, train, stop, context)  # type: ignore[arg-type]
        print(times.row(f"{name}, {way}", AIMS.get(name, "") if train is not panels else ""), flush=True)


def of_head(epochs: int, threads: int) -> None:
    """Print the rows of a head on features."""
    from casewise.modalities.dataset import FeatureData
    from casewise.models.backbones import build_network
    from casewise.models.outputs import Output
    from casewise.study.schema import Recipe
    from casewise.training.compute_plan import ComputePlan
    from casewise.training.feature_cache import UpperLayers
    from casewise.training.loop import TrainingContext, fit

    drawn = torch.Generator().manual_seed(0)
    values = torch.randn(HEAD_ROWS, HEAD_WIDTH, generator=drawn)
    truth = torch.arange(HEAD_ROWS).remainder(2).float().unsqueeze(1)
    data, one = FeatureData(values, truth), FeatureData(values[:1], truth[:1])
    recipe = Recipe(optimizer="adam", lr=1e-4, schedule="constant", batch_size=HEAD_BATCH, epochs=epochs + 1)
    network = build_network("mobilenet_v2", 2)
    head = copy.deepcopy(network.head).train()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-4)
    batch, labels = values[:HEAD_BATCH].clone(), truth[:HEAD_BATCH, 0].long()

    def bare(head: Any = head, optimizer: Any = optimizer, batch: Any = batch, labels: Any = labels) -> None:
        # with as many threads as the loop around it
        loss = nn.functional.cross_entropy(head(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    times = Interleaved(bare, HEAD_ROWS // HEAD_BATCH)
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Output("label", "classification", 2, True)]
        context = TrainingContext(outputs, Path(folder), 0, ComputePlan(threads=threads), tell=times)
        fit(UpperLayers(network), recipe, data, one, context)
    print(times.row("head on features"), flush=True)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=list(AIMS))
    parser.add_argument("--steps", type=int, default=8, help="steps of an epoch")
    parser.add_argument("--epochs", type=int, default=4, help="epochs that count")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    from casewise.bench.quiet import warn_if_busy

    warn_if_busy()
    from casewise.training.cost import keep_memory

    keep_memory()
    torch.set_num_threads(options.threads)
    print(
        f"milliseconds of a step, {options.threads} threads, median of {options.epochs} epochs of {options.steps} steps"
    )
    print(f"  {'':<34}{'wall':>9}{'bare':>9}{'':>10}   {'CPU':>9}{'bare':>9}")
    for name in options.networks:
        of_network(name, options.steps, options.epochs, options.threads)
    of_head(options.epochs, options.threads)


if __name__ == "__main__":
    main()
