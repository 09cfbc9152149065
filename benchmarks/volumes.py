"""Volumes: their preparation compared with calls of SimpleITK, and training on their slices with a plain loop.

    python benchmarks/volumes.py [--part pair cases training standardisation] [--cases 4] [--steps 16] [--rounds 3]

`pair`: T1 and T2 of 256x256x40 voxels, from two NIfTI files to one orientation and grid, with bias correction (N4) and
smoothing, in one thread. casewise also resamples the slices and determines landmarks and ranges. The calls of SimpleITK
do the same work, with the same numbers of iterations on the same shrunk grid. Each round measures one pair.

`cases`: the same for several pairs, from starting processes to the finished store. The calls of SimpleITK store no
file. They run once in as many processes, and once pair by pair with SimpleITK's default number of threads. Then a
second run must read no source: all sources are overwritten with zeros before it, with sizes and times preserved.

`training`: a ViT-S on 3x3 grids of slices of 64 px, two sequences fused early, batches of 8, Adam, three classes.
casewise trains as the jobs of a run do, with the precision, memory format and number of threads that it measures as the
fastest. The plain loop computes in fp32 with the defaults of PyTorch; its DataLoader draws the same windows, flips and
rotations from arrays in memory, with and without workers, of which the faster counts. Not timed are imports, casewise's
first epoch and the plain loop's first steps. Slices are noise and first weights random, which does not affect the
times. That both networks have the same number of weights is checked.

`standardisation`: the cost of the fold's tables of intensities in a training step, compared with a division by the
largest value. The batches of both are made between steps of the network, so that the processor's caches are realistic.

Except in `pair`, the two sides run in separate processes; they take turns. Medians are printed, and the median ratio of
the rounds with its minimum and maximum. Times are printed, never asserted.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from volumes_casewise import (
    blank,
    choose_for,
    draw_slices,
    measure_cases,
    measure_pair,
    measure_tables,
    train_with_casewise,
)
from volumes_user import BATCH, GRID, SEQUENCES, cores, train_plainly

PARTS = ("pair", "cases", "training", "standardisation")
WAYS = ("casewise one by one", "SimpleITK in processes", "casewise side by side", "SimpleITK in threads")


def answer(task: dict[str, Any]) -> Any:
    """One measurement, in a separate process."""
    way = task.pop("what")
    if "choice" in task:
        from casewise.training.compute_plan import ComputePlan

        task["choice"] = ComputePlan(**task["choice"])
    ways: dict[str, Callable[..., Any]] = {
        "pair": measure_pair,
        "cases": measure_cases,
        "choose": choose_for,
        "plain": train_plainly,
        "casewise": train_with_casewise,
        "tables": measure_tables,
    }
    return ways[way](**task)


def in_own_processes(*tasks: dict[str, Any]) -> list[Any]:
    """Run the tasks in parallel, each in a separate process; Ctrl-C ends them before this process."""
    commands = [[sys.executable, __file__, "--task", json.dumps(task)] for task in tasks]
    processes: list[subprocess.Popen[str]] = []
    try:
        for command in commands:
            # Ctrl-C waits until the process is in the list of those that are ended.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=ignore_interrupts)
                processes.append(process)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        result = [process.communicate()[0] for process in processes]
    except KeyboardInterrupt:
        for process in processes:
            end(process)
        raise
    for process, command in zip(processes, commands, strict=True):
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return [json.loads(text.splitlines()[-1]) for text in result]


def ignore_interrupts() -> None:
    """Ignore Ctrl-C in a new process until it can handle it; `end` sends it again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def end(process: subprocess.Popen[str]) -> None:
    """Wait for a process, which Ctrl-C in a terminal also interrupts; then interrupt it, and finally kill it."""
    for stop in (lambda: None, lambda: process.send_signal(signal.SIGINT), process.kill):
        stop()
        try:
            process.wait(timeout=5)
            return
        except subprocess.TimeoutExpired:
            continue


def print_row(name: str, value: float, unit: str, rest: str = "") -> None:
    """Print a row of the table."""
    print(f"  {name:<60}{value:>8.2f} {unit:<9}{rest}".rstrip(), flush=True)


def over(first: Sequence[float], second: Sequence[float], aim: str = "") -> str:
    """The ratio in words, computed by round, because other load slows both sides of a round."""
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    return f"{statistics.median(ratios):.2f} times ({spread}{f'; aim: {aim}' if aim else ''})"


def compare_pair(folder: Path, options: argparse.Namespace) -> None:
    """Print the times of preparing one pair."""
    results = in_own_processes({"what": "pair", "folder": str(folder), "rounds": options.rounds, "size": options.size})[
        0
    ]
    print(f"\none pair of {options.size}x{options.size}x{options.slices}, one thread, {options.rounds} rounds")
    clock = {name: [seconds for seconds, _ in values] for name, values in results.items()}
    busy = {name: [seconds for _, seconds in values] for name, values in results.items()}
    ratio = over(clock["casewise"], clock["SimpleITK"], "at most 1.3")
    print_row("calls of SimpleITK", statistics.median(clock["SimpleITK"]), "s")
    print_row("casewise", statistics.median(clock["casewise"]), "s", f"{ratio} as long as the calls of SimpleITK")
    print_row(
        "casewise, core-seconds",
        statistics.median(busy["casewise"]),
        "s",
        f"{over(busy['casewise'], busy['SimpleITK'])} as many",
    )


def compare_cases(folder: Path, options: argparse.Namespace) -> None:
    """Print the times of preparing several pairs, and of a second run."""
    seconds_by_way: dict[str, list[float]] = {name: [] for name in WAYS}
    slice_hashes = set()
    task = {"what": "cases", "folder": str(folder), "size": options.size}
    with tempfile.TemporaryDirectory() as temporary:
        for turn in range(options.rounds):
            for name in WAYS:
                result = in_own_processes(task | {"way": name, "store": f"{temporary}/{turn}/{name}"})[0]
                seconds_by_way[name].append(result["seconds"])
                slice_hashes |= {result["slices"]} if "slices" in result else set()
        files = blank(folder)
        store = f"{temporary}/{options.rounds - 1}/{WAYS[2]}"
        again = [in_own_processes(task | {"way": WAYS[2], "store": store})[0] for _ in range(options.rounds)]
    if len(slice_hashes | {result["slices"] for result in again}) != 1:
        raise SystemExit("casewise's slices of the same sources differ between runs")
    single, pool, side, threads = (seconds_by_way[name] for name in WAYS)
    count = cores()
    print(f"\n{options.cases} such pairs, {count} cores, {options.rounds} rounds, new processes for each")
    print_row("casewise, one pair at a time", statistics.median(single), "s")
    gain = f"{over(single, side)} as fast as one pair at a time"
    print_row(f"casewise, {count} in parallel", statistics.median(side), "s", gain)
    rest = f"casewise {over(side, pool, 'at most 1.3')} as long"
    print_row(f"calls of SimpleITK in {count} processes, nothing stored", statistics.median(pool), "s", rest)
    rest = f"casewise {over(side, threads)} as long"
    print_row(f"calls of SimpleITK, one pair at a time, {count} threads", statistics.median(threads), "s", rest)
    readers = sorted({name for result in again for name in result["readers"]})
    rest = f"the same slices, after {files} sources were overwritten with zeros; readers imported: "
    rest += ", ".join(readers) or "none"
    print_row("casewise, a second run", statistics.median(result["seconds"] for result in again), "s", rest)


def compare_training(folder: Path, options: argparse.Namespace) -> None:
    """Print the panels a second of both sides."""
    count = cores()
    task = {"folder": str(folder), "backbone": options.backbone, "steps": options.steps}
    side = GRID * options.tile
    print(f"\n{options.backbone} on panels of {len(SEQUENCES)}x{side}x{side}, batches of {BATCH}, {count} cores")
    ask = {"what": "choose", "backbone": options.backbone, "side": options.tile}
    choices = [in_own_processes(ask | {"threads": threads})[0] for threads in (count, 1)]
    for choice in choices:
        form = "channels-last" if choice["channels_last"] else "contiguous"
        measured = ", ".join(f"{name} {seconds:.3f}" for name, seconds in choice["measured"])
        print(
            f"  casewise chose {choice['precision']} {form}, {choice['threads']} thread(s) (seconds a step: {measured})"
        )
    casewise_rates: list[float] = []
    plain: dict[int, list[float]] = {count: [], 0: []}
    weights = set()
    parallel_rates = []
    for _ in range(options.rounds):
        # Between the plain loops, so that other load slows both sides of each ratio.
        for workers in (count, None, 0):
            side_task = (
                {"what": "casewise", "choice": choices[0]} if workers is None else {"what": "plain", "workers": workers}
            )
            result = in_own_processes(task | side_task)[0]
            (casewise_rates if workers is None else plain[workers]).append(result["rate"])
            weights.add(result["weights"])
        parallel_rates.append(
            sum(
                result["rate"]
                for result in in_own_processes(*[task | {"what": "casewise", "choice": choices[1]}] * count)
            )
        )
    if len(weights) != 1:
        raise SystemExit(f"the two sides train different networks, of {' and '.join(map(str, weights))} weights")
    for workers, rates in plain.items():
        print_row(f"plain loop in fp32, {workers} workers of its DataLoader", statistics.median(rates), "panels/s")
    best = [max(rates) for rates in zip(*plain.values(), strict=True)]
    rest = f"{over(casewise_rates, best, 'at least 1.5')} as fast as the faster plain loop"
    print_row("casewise, one job", statistics.median(casewise_rates), "panels/s", rest)
    rest = f"{over(parallel_rates, best)} as fast, {over(parallel_rates, casewise_rates)} one job"
    print_row(
        f"casewise, {count} jobs in parallel, one thread each", statistics.median(parallel_rates), "panels/s", rest
    )


def compare_tables(folder: Path, options: argparse.Namespace) -> None:
    """Print the cost of standardisation in a step."""
    count = cores()
    choice = in_own_processes({"what": "choose", "backbone": options.backbone, "side": options.tile, "threads": count})[
        0
    ]
    task = {"folder": str(folder), "backbone": options.backbone, "steps": options.steps, "choice": choice}
    results = [in_own_processes(task | {"what": "tables"})[0] for _ in range(options.rounds)]
    print(
        f"\nintensities standardised by the fold's tables, {options.backbone}, {choice['precision']}, a step of {BATCH}"
    )

    def middle(name: str) -> float:
        return float(statistics.median(result[name] for result in results))

    shares = [100 * (result["tables"] - result["division"]) / (result["tables"] + result["step"]) for result in results]
    print_row("the network's step", 1000 * middle("step"), "ms")
    print_row("its batch, values divided by the largest", 1000 * middle("division"), "ms")
    rest = f"{statistics.median(shares):.2f} % of a step more ({min(shares):.2f}-{max(shares):.2f}; aim: less than 3 %)"
    print_row("its batch, looked up in the tables", 1000 * middle("tables"), "ms", rest)
    rest = f"{int(middle('scans'))} scans; the standard and the tables of a fold are computed before the first step"
    print_row("once for each fold", middle("fit"), "s", rest)


def measure(options: argparse.Namespace) -> None:
    """Draw the data of the requested parts in a temporary folder, and print their tables."""
    with tempfile.TemporaryDirectory() as temporary:
        cohort, slices = Path(temporary) / "cohort", Path(temporary) / "slices"
        if {"pair", "cases"} & set(options.part):
            from casewise.plugins.phantoms.pancreas import make_pancreas

            size, slice_range = (options.size, options.size), (options.slices, options.slices)
            make_pancreas(cohort, subjects=options.cases, size=size, slices=slice_range, seed=1)
        if {"training", "standardisation"} & set(options.part):
            slices.mkdir()
            draw_slices(slices, options.stacks, options.tile)
        compare = {
            "pair": (compare_pair, cohort),
            "cases": (compare_cases, cohort),
            "training": (compare_training, slices),
            "standardisation": (compare_tables, slices),
        }
        for comparison in (comparison for comparison in PARTS if comparison in options.part):
            run, folder = compare[comparison]
            run(folder, options)


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cases", type=int, default=4, help="pairs of volumes")
    parser.add_argument("--steps", type=int, default=16, help="training steps that are timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=256, help="pixels of a volume's plane")
    parser.add_argument("--slices", type=int, default=40, help="slices of a volume")
    parser.add_argument("--stacks", type=int, default=60, help="cases that are trained on")
    parser.add_argument("--tile", type=int, default=64, help="pixels of a slice that is trained on")
    parser.add_argument("--backbone", default="vit_small_patch16_224", help="a network of timm")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.task:
        print(json.dumps(answer(options.task)))
        return
    from casewise.plugins.bench.cpu import warn_if_busy

    warn_if_busy()
    measure(options)


if __name__ == "__main__":
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        main()
    except KeyboardInterrupt:
        sys.exit(130)
