"""Sixteen small jobs side by side, one thread each and one for each core, against one after another with all cores.

    python benchmarks/small_jobs.py [--jobs 16] [--panels 96] [--rounds 1] [--short]

A job trains a small network for two epochs on a few panels of 64 px, as the folds of a small study do: each step has
too little to do for two threads. Both ways train the same networks from the same seeds and tiles. Workers are started,
imports are done and tiles are in memory before the clock starts, and a worker takes the next job when it is free.

The ratio is the seconds of one after another divided by those side by side (aim: 1.1). CPU seconds show how much of
both cores each way used. Figures are printed, never asserted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier

CORES, SIDE, BATCH, EPOCHS, AIM = 2, 64, 16, 2, 1.1
NETWORKS = ("shufflenet_v2_x0_5", "squeezenet1_1")


@dataclass(frozen=True)
class SmallJob:
    """One training: its network, seed and number of panels."""

    network: str
    seed: int
    panels: int


def train(job: SmallJob, threads: int) -> float:
    """Train a job as those of a run are trained; return its last training loss."""
    import torch

    from casewise.modalities.dataset import PanelData
    from casewise.models.backbones import build_network
    from casewise.models.outputs import Output
    from casewise.study.schema import Panels, Recipe
    from casewise.training.compute_plan import ComputePlan
    from casewise.training.loop import TrainingContext, fit

    generator = torch.Generator().manual_seed(job.seed)
    tiles = torch.randint(0, 256, (job.panels, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    truth = (torch.arange(job.panels) % 2).float().unsqueeze(1)
    settings = Panels(by="image", flip="horizontal", rotate=10, brightness=0.1)
    data = PanelData(tiles, [[row] for row in range(job.panels)], truth, settings)
    recipe = Recipe(
        optimizer="adamw",
        lr=3e-4,
        schedule="constant",
        batch_size=BATCH,
        epochs=EPOCHS,
        early_stopping={"monitor": "none"},
    )
    torch.manual_seed(job.seed)
    network = build_network(job.network, 2)
    with tempfile.TemporaryDirectory() as folder:
        context = TrainingContext(
            [Output("label", "classification", 2, True)],
            Path(folder),
            job.seed,
            ComputePlan(threads=threads),
            keep="last",
        )
        return float(fit(network, recipe, data, data.subset([0]), context).history[-1]["train_loss"])


def work(threads: int, jobs: Queue[SmallJob | None], results: Queue[Any], start: Barrier) -> None:
    """A worker: imports, one warm-up step, then jobs until there are none."""
    import torch

    from casewise.training.cost import keep_memory

    keep_memory()
    torch.set_num_threads(threads)
    train(SmallJob(NETWORKS[0], 0, BATCH), threads)
    start.wait()
    cpu = time.process_time()
    losses: dict[tuple[str, int], float] = {}
    while (job := jobs.get()) is not None:
        losses[job.network, job.seed] = train(job, threads)
    results.put((losses, time.process_time() - cpu))


def timed(jobs: list[SmallJob], *, workers: int, threads: int) -> tuple[float, float, dict[tuple[str, int], float]]:
    """Seconds, CPU seconds and the last training loss of each job, with so many workers of so many threads."""
    context = multiprocessing.get_context("spawn")
    waiting: Queue[SmallJob | None] = context.Queue()
    results: Queue[Any] = context.Queue()
    start = context.Barrier(workers + 1)
    processes = [context.Process(target=work, args=(threads, waiting, results, start)) for _ in range(workers)]
    for process in processes:
        process.start()
    for job in [*jobs, *[None] * workers]:
        waiting.put(job)
    start.wait()
    begin = time.perf_counter()
    answers = [results.get() for _ in processes]
    seconds = time.perf_counter() - begin
    for process in processes:
        process.join()
    losses = {key: loss for of_worker, _ in answers for key, loss in of_worker.items()}
    return seconds, sum(cpu for _, cpu in answers), losses


def main() -> None:
    """Time both ways in turn and print their seconds and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--panels", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="four jobs of few panels")
    options = parser.parse_args()
    if options.short:
        options.jobs, options.panels = 4, 48
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    from casewise.bench.quiet import warn_if_busy

    warn_if_busy()
    jobs = [SmallJob(NETWORKS[n % len(NETWORKS)], n, options.panels) for n in range(options.jobs)]
    seconds: dict[str, list[float]] = {"one after another": [], "side by side": []}
    cpu: dict[str, list[float]] = {name: [] for name in seconds}
    difference = 0.0
    for _ in range(options.rounds):
        losses = []
        for name, workers, threads in (("one after another", 1, CORES), ("side by side", CORES, 1)):
            wall, used, by_job = timed(jobs, workers=workers, threads=threads)
            seconds[name].append(wall)
            cpu[name].append(used)
            losses.append(by_job)
        difference = max(difference, *(abs(losses[0][key] - losses[1][key]) for key in losses[0]))
    print(f"{CORES} cores, {len(jobs)} jobs of {options.panels} panels of {SIDE} px, {EPOCHS} epochs each")
    for name, threads in (("one after another", CORES), ("side by side", 1)):
        walls, used = statistics.median(seconds[name]), statistics.median(cpu[name])
        print(f"  {name:<18} {threads} thread(s) each: {walls:7.1f} s, {used:7.1f} CPU s")
    pairs = zip(seconds["one after another"], seconds["side by side"], strict=True)
    ratio = statistics.median(before / after for before, after in pairs)
    print(f"  side by side is {ratio:.2f} times as fast (aim: {AIM}); losses differ by at most {difference:.1e}")


if __name__ == "__main__":
    main()
