"""Volumes: preparing them beside SimpleITK's own calls, and training on their slices beside a plain loop.

    python benchmarks/volumes.py [--part pair cases training standardisation] [--cases 4] [--steps 16] [--rounds 3]

`pair`: T1 and T2 of 256x256x40 voxels, from two NIfTI files to one orientation and grid, an even field (N4) and even
noise, in one thread. casewise also cuts the slices and finds landmarks and range; SimpleITK's calls are what one would
write for the same work, with the same numbers of iterations on the same shrunk grid. A round is a pair, another one
where there are several.

`cases`: the same for several pairs, from starting processes to the finished store. SimpleITK's calls keep nothing: once
in as many processes, and once one pair after the other, on as many threads as SimpleITK takes by itself. Then a second
run, which must read no source: every one is overwritten with zeros first, its size and time left as they were.

`training`: a ViT-S on 3x3 grids of slices of 64 px, two sequences fused early, batches of 8, Adam, three classes.
casewise trains as the jobs of a run do, in the precision, memory format and number of threads that it measures to be
the quickest. The plain loop computes in fp32 with everything as PyTorch has it by default; its DataLoader draws the
same windows, flips and turns from arrays that lie in memory, with workers and without, of which the quicker counts.
What is not timed: imports, casewise's first epoch, the plain loop's first steps. Slices are noise and first weights
random, which changes no time; that both networks have as many weights is checked.

`standardisation`: what the fold's tables of intensities cost in a training step, against a mere division by the largest
value, the batches of both made between steps of the network, so that each finds the processor's memory as it is then.

But for `pair`, each way runs in a process of its own; the ways take turns. Medians are printed, and the median ratio of
the rounds with its least and greatest. Times are printed, never asserted.
"""

from __future__ import annotations

import argparse
import json
import os
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
    """What a process of its own does: one measurement."""
    what = task.pop("what")
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
    return ways[what](**task)


def apart(*tasks: dict[str, Any]) -> list[Any]:
    """Do the tasks side by side, each in a process of its own; Ctrl-C ends them before it ends this one."""
    commands = [[sys.executable, __file__, "--task", json.dumps(task)] for task in tasks]
    # Until a process can answer Ctrl-C it ignores it; `end` sends it again.
    running = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
        )
        for command in commands
    ]
    try:
        result = [process.communicate()[0] for process in running]
    except KeyboardInterrupt:
        for process in running:
            end(process)
        raise
    for process, command in zip(running, commands, strict=True):
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return [json.loads(text.splitlines()[-1]) for text in result]


def end(process: subprocess.Popen[str]) -> None:
    """Wait for a process to end, which Ctrl-C in a terminal also stops; then interrupt it, and finally kill it."""
    for tell in (lambda: None, lambda: process.send_signal(signal.SIGINT), process.kill):
        tell()
        try:
            process.wait(timeout=5)
            return
        except subprocess.TimeoutExpired:
            continue


def print_row(name: str, value: float, unit: str, rest: str = "") -> None:
    """Print a row of the table."""
    print(f"  {name:<60}{value:>8.2f} {unit:<9}{rest}".rstrip(), flush=True)


def over(ours: Sequence[float], theirs: Sequence[float], aim: str = "") -> str:
    """The ratio by round in words: other work of the machine slows both sides of a round."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    return f"{statistics.median(ratios):.2f} times ({spread}{f'; aim: {aim}' if aim else ''})"


def compare_pair(folder: Path, options: argparse.Namespace) -> None:
    """Print what preparing one pair costs."""
    results = apart({"what": "pair", "folder": str(folder), "rounds": options.rounds, "size": options.size})[0]
    print(f"\none pair of {options.size}x{options.size}x{options.slices}, one thread, {options.rounds} rounds")
    clock = {name: [seconds for seconds, _ in values] for name, values in results.items()}
    busy = {name: [seconds for _, seconds in values] for name, values in results.items()}
    ratio = over(clock["casewise"], clock["SimpleITK"], "at most 1.3")
    print_row("SimpleITK's own calls", statistics.median(clock["SimpleITK"]), "s")
    print_row("casewise", statistics.median(clock["casewise"]), "s", f"{ratio} as long as SimpleITK's calls")
    print_row(
        "casewise, core-seconds",
        statistics.median(busy["casewise"]),
        "s",
        f"{over(busy['casewise'], busy['SimpleITK'])} as many",
    )


def compare_cases(folder: Path, options: argparse.Namespace) -> None:
    """Print what preparing several pairs costs, and the second run."""
    spent: dict[str, list[float]] = {name: [] for name in WAYS}
    slice_hashes = set()
    task = {"what": "cases", "folder": str(folder), "size": options.size}
    with tempfile.TemporaryDirectory() as temporary:
        for turn in range(options.rounds):
            for name in WAYS:
                result = apart(task | {"way": name, "store": f"{temporary}/{turn}/{name}"})[0]
                spent[name].append(result["seconds"])
                slice_hashes |= {result["slices"]} if "slices" in result else set()
        files = blank(folder)
        store = f"{temporary}/{options.rounds - 1}/{WAYS[2]}"
        again = [apart(task | {"way": WAYS[2], "store": store})[0] for _ in range(options.rounds)]
    if len(slice_hashes | {result["slices"] for result in again}) != 1:
        raise SystemExit("casewise's slices of the same sources differ from one time to the next")
    single, pool, side, threads = (spent[name] for name in WAYS)
    count = cores()
    print(f"\n{options.cases} such pairs, {count} cores, {options.rounds} rounds, processes started anew each time")
    print_row("casewise, one after the other", statistics.median(single), "s")
    gain = f"{over(single, side)} as fast as one after the other"
    print_row(f"casewise, {count} side by side", statistics.median(side), "s", gain)
    rest = f"casewise {over(side, pool, 'at most 1.3')} as long"
    print_row(f"SimpleITK's calls in {count} processes, nothing kept", statistics.median(pool), "s", rest)
    rest = f"casewise {over(side, threads)} as long"
    print_row(f"SimpleITK's calls one after the other, {count} threads", statistics.median(threads), "s", rest)
    readers = sorted({name for result in again for name in result["readers"]})
    rest = f"the same slices, of {files} sources now full of zeros; readers imported: {', '.join(readers) or 'none'}"
    print_row("casewise, a second run", statistics.median(result["seconds"] for result in again), "s", rest)


def compare_training(folder: Path, options: argparse.Namespace) -> None:
    """Print panels a second of both ways."""
    count = cores()
    task = {"folder": str(folder), "backbone": options.backbone, "steps": options.steps}
    side = GRID * options.tile
    print(f"\n{options.backbone} on panels of {len(SEQUENCES)}x{side}x{side}, batches of {BATCH}, {count} cores")
    ask = {"what": "choose", "backbone": options.backbone, "side": options.tile}
    chosen = [apart(ask | {"threads": threads})[0] for threads in (count, 1)]
    for choice in chosen:
        form = "channels-last" if choice["channels_last"] else "contiguous"
        measured = ", ".join(f"{name} {spent:.3f}" for name, spent in choice["measured"])
        print(
            f"  casewise chose {choice['precision']} {form}, {choice['threads']} thread(s) (seconds a step: {measured})"
        )
    ours: list[float] = []
    plain: dict[int, list[float]] = {count: [], 0: []}
    weights = set()
    pairs = []
    for _ in range(options.rounds):
        # Between the plain loops, so that whatever else the machine does then slows both sides of each ratio.
        for workers in (count, None, 0):
            own = (
                {"what": "casewise", "choice": chosen[0]} if workers is None else {"what": "plain", "workers": workers}
            )
            result = apart(task | own)[0]
            (ours if workers is None else plain[workers]).append(result["rate"])
            weights.add(result["weights"])
        pairs.append(
            sum(result["rate"] for result in apart(*[task | {"what": "casewise", "choice": chosen[1]}] * count))
        )
    if len(weights) != 1:
        raise SystemExit(f"the two sides train different networks, of {' and '.join(map(str, weights))} weights")
    for workers, rates in plain.items():
        print_row(f"plain loop in fp32, {workers} workers of its DataLoader", statistics.median(rates), "panels/s")
    best = [max(rates) for rates in zip(*plain.values(), strict=True)]
    rest = f"{over(ours, best, 'at least 1.5')} as fast as the quicker plain loop"
    print_row("casewise, one job", statistics.median(ours), "panels/s", rest)
    rest = f"{over(pairs, best)} as fast, {over(pairs, ours)} one job"
    print_row(f"casewise, {count} jobs side by side, a thread each", statistics.median(pairs), "panels/s", rest)


def compare_tables(folder: Path, options: argparse.Namespace) -> None:
    """Print what standardisation costs in a step."""
    count = cores()
    choice = apart({"what": "choose", "backbone": options.backbone, "side": options.tile, "threads": count})[0]
    task = {"folder": str(folder), "backbone": options.backbone, "steps": options.steps, "choice": choice}
    results = [apart(task | {"what": "tables"})[0] for _ in range(options.rounds)]
    print(
        f"\nintensities standardised by the fold's tables, {options.backbone}, {choice['precision']}, a step of {BATCH}"
    )

    def middle(name: str) -> float:
        return float(statistics.median(result[name] for result in results))

    shares = [100 * (result["tables"] - result["division"]) / (result["tables"] + result["step"]) for result in results]
    print_row("the network's step", 1000 * middle("step"), "ms")
    print_row("its batch, stored values divided by the largest", 1000 * middle("division"), "ms")
    rest = f"{statistics.median(shares):.2f} % of a step more ({min(shares):.2f}-{max(shares):.2f}; aim: less than 3 %)"
    print_row("its batch, looked up in the tables", 1000 * middle("tables"), "ms", rest)
    rest = f"{int(middle('scans'))} scans; a fold's standard is fitted and its tables are made before the first step"
    print_row("once in a fold", middle("fit"), "s", rest)


def measure(options: argparse.Namespace) -> None:
    """Make what the parts need in a temporary folder, and print their tables."""
    with tempfile.TemporaryDirectory() as temporary:
        cohort, slices = Path(temporary) / "cohort", Path(temporary) / "slices"
        if {"pair", "cases"} & set(options.part):
            from casewise.phantoms.pancreas import make_pancreas

            size, deep = (options.size, options.size), (options.slices, options.slices)
            make_pancreas(cohort, subjects=options.cases, size=size, slices=deep, seed=1)
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
    """Measure and print a table a part."""
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
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 1:
        print(f"The machine has other work (load {load:.1f}): its ratios mislead; measure when it is quiet.")
    measure(options)


if __name__ == "__main__":
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        main()
    except KeyboardInterrupt:
        sys.exit(130)
