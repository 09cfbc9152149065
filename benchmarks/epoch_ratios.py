"""An epoch of casewise beside those of fastai and of Lightning with torchvision, for five networks.

    python benchmarks/epoch_ratios.py [--networks resnet34 ...] [--steps 4] [--rounds 1] [--short] [--output FILE]

Each program trains all parameters of the network on the same radiographs (synthetic photographs if those are missing)
of 224 px in batches of 32, the peers with two workers and their usual augmentation, casewise from a tile store with
augmentation of the same kind. A few steps of each are timed after the first ones, in separate processes and in turn.
The seconds of an epoch of 1,000 images are extrapolated from them. The peers decode the image files in every epoch;
casewise reads a store that is built once a study, before the timed steps. Its seconds stand in a column of their own.

Beside the epochs stand what the network itself costs: images a second of bare training steps (forward and backward, no
optimiser, no images) by the plan that casewise chose, their floating-point operations a second (three times those of a
forward pass), and the peak of the processor in a product of two large matrices in bfloat16. Figures are printed, never
asserted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import fastai_speed
import fastai_user
from fastai_user import BATCH, CLASSES, CORES, SEED, SIDE

NETWORKS = ("resnet34", "mobilenet_v2", "shufflenet_v2_x0_5", "vgg11_bn", "densenet121")
PEERS = ("fastai", "lightning")
# The aim for the geometric mean of casewise's images a second divided by those of each peer.
AIM = 2.8
EPOCH = 1000
# Expected seconds of one round of a network on two idle cores, with four steps.
SECONDS = {"resnet34": 150, "mobilenet_v2": 100, "shufflenet_v2_x0_5": 70, "vgg11_bn": 300, "densenet121": 200}


def peak_bf16(side: int = 2048, seconds: float = 1.5) -> float:
    """Floating-point operations a second of a product of two square matrices in bfloat16 with all cores."""
    import torch

    torch.set_num_threads(CORES)
    left, right = (torch.rand(side, side).to(torch.bfloat16) for _ in range(2))
    fastest, start = math.inf, time.perf_counter()
    while time.perf_counter() - start < seconds or math.isinf(fastest):
        begin = time.perf_counter()
        torch.mm(left, right)
        fastest = min(fastest, time.perf_counter() - begin)
    return 2 * side**3 / fastest


def operations(network: str) -> float:
    """Floating-point operations of a training step for one image, counted without computing anything."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from torchvision import models

    with torch.device("meta"):
        model = models.get_model(network, weights=None).eval()
        images = torch.empty(1, 3, SIDE, SIDE)
    with FlopCounterMode(display=False) as counter:
        model(images)
    return 3.0 * float(counter.get_total_flops())


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """The measurement of one program, in this process."""
    if task["program"] == "peak":
        return {"peak": peak_bf16()}
    import lightning_user
    import pandas as pd

    table = pd.read_parquet(task["table"])
    paths = [str(Path(task["data"]) / path) for path in table["path"]]
    labels = [CLASSES.index(label) for label in table["label"]]
    return {"rate": lightning_user.speed(task, paths, labels)}


def measured(program: str, task: dict[str, Any]) -> dict[str, Any]:
    """The measurement of one program, in a separate process."""
    if program == "fastai":
        return fastai_user.in_own_process(fastai_user.__file__, task | {"way": "speed"})
    script = fastai_speed.__file__ if program == "casewise" else __file__
    return fastai_user.in_own_process(script, task | {"program": program})


def geometric_mean(values: list[float]) -> float:
    """The geometric mean of positive values."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def lines_of(results: dict[str, dict[str, Any]], peak: float) -> list[str]:
    """The tables as Markdown: epochs and their ratios; then the bare step beside the processor's peak."""
    head = ["network", *(f"{name}, s" for name in ("casewise", *PEERS)), *(f"to {name}" for name in PEERS)]
    head.append("preparation once, s")
    rows = [head, ["---"] * len(head)]
    for network, result in results.items():
        preparation = f"{EPOCH * result['preparation_seconds']:.1f}"
        rates = result["rates"]
        seconds = [f"{EPOCH / statistics.median(rates[name]):.1f}" for name in ("casewise", *PEERS)]
        rows.append([network, *seconds, *(f"{result['ratios'][name]:.2f}" for name in PEERS), preparation])
    means = [geometric_mean([result["ratios"][name] for result in results.values()]) for name in PEERS]
    rows.append(["geometric mean", *[""] * 3, *(f"{mean:.2f}" for mean in means), ""])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    missed = [f"{name} {mean:.2f}" for name, mean in zip(PEERS, means, strict=True) if mean < AIM]
    lines += [
        "",
        f"Aim for both geometric means: {AIM}; " + (f"missed: {', '.join(missed)}." if missed else "reached."),
    ]
    head = [
        "network",
        "plan",
        "bare step, images/s",
        "casewise, images/s",
        "of the bare step",
        "GFLOP/s",
        "of the peak",
    ]
    rows = [head, ["---"] * len(head)]
    above = False
    for network, result in results.items():
        rate = statistics.median(result["rates"]["casewise"])
        bare = BATCH / result["step_seconds"] if result["step_seconds"] else math.nan
        speed = bare * operations(network)
        above = above or speed > peak
        rows.append(
            [
                network,
                result["way"],
                f"{bare:.1f}",
                f"{rate:.1f}",
                f"{rate / bare:.0%}",
                f"{speed / 1e9:.0f}",
                f"{speed / peak:.0%}",
            ]
        )
    lines += ["", *("| " + " | ".join(row) + " |" for row in rows)]
    note = " More than 100 % of it: on this processor, fp32 is faster than bfloat16." if above else ""
    lines += [
        "",
        "The bare step is a forward and a backward pass on ready tensors, without the optimiser, which epochs include.",
    ]
    return [*lines, "", f"Peak of a product of matrices in bfloat16: {peak / 1e9:.0f} GFLOP/s.{note}"]


def main() -> None:
    """Measure the programs in turn and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--steps", type=int, default=4, help="steps of 32 images that are timed")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="two small networks and two steps")
    parser.add_argument("--data", type=Path, default=fastai_speed.PACK)
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page to write (Markdown)")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(answer(options.task)))
        return
    if not fastai_user.ready():
        return
    if options.short:
        options.networks, options.steps = ["mobilenet_v2", "shufflenet_v2_x0_5"], 2
    steps = max(1, options.steps)
    minutes = sum(SECONDS[network] for network in options.networks) * options.rounds * (0.5 + steps / 8) / 60
    print(f"Expected on {CORES} idle cores: about {minutes:.0f} minutes.", flush=True)
    peak = measured("peak", {})["peak"]
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        table, data = fastai_speed.table_of(options.data, Path(temporary))
        rows = Path(temporary) / "table.parquet"
        table.sample(min(steps * BATCH, len(table)), random_state=SEED).reset_index(drop=True).to_parquet(rows)
        for network in options.networks:
            task = {"table": str(rows), "data": str(data), "images": steps * BATCH, "steps": steps, "network": network}
            task |= {"flip_vert": False, "memo": str(Path(temporary) / "speed.json")}
            rates: dict[str, list[float]] = {name: [] for name in ("fastai", "casewise", "lightning")}
            result: dict[str, Any] = {}
            for _ in range(options.rounds):
                # casewise between the peers, so that other load slows both sides of each ratio
                for name in rates:
                    result = result | measured(name, task)
                    rates[name].append(result["rate"])
            ratios = {
                name: statistics.median(own / peer for own, peer in zip(rates["casewise"], rates[name], strict=True))
                for name in PEERS
            }
            results[network] = result | {"rates": rates, "ratios": ratios}
            shown = ", ".join(f"{name} {statistics.median(values):.1f}" for name, values in rates.items())
            print(f"{network}: images/s {shown}; load {os.getloadavg()[0]:.1f}", flush=True)
    page = "\n".join(
        [
            "# Epochs of casewise, fastai and Lightning",
            "",
            f"Seconds of an epoch of {EPOCH:,} images of {SIDE} px, extrapolated from {steps} steps of {BATCH} images, "
            "and the seconds of each peer divided by those of casewise. All parameters are trained, on "
            f"{CORES} cores, with two workers in the peers.",
            "",
            "The peers decode the image files in every epoch. casewise decodes them once and then reads a ready store; "
            f"the seconds of its preparation for {EPOCH:,} images (last column, extrapolated) come once a study on top "
            "of those of the epochs, and are not part of the ratios.",
            "",
            *lines_of(results, peak),
            "",
            "Made by `python benchmarks/epoch_ratios.py --output docs/results/epoch-ratios.md`.",
        ]
    )
    print(page)
    if options.output:
        from casewise.files import write_atomic

        write_atomic(options.output, page + "\n")
        print(f"page: {options.output}")


if __name__ == "__main__":
    main()
