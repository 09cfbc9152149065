"""Networks that read slices as a volume, beside networks that read them as a picture, on a planted lesion.

    python benchmarks/volumes.py --weights WEIGHTS [--folder runs/three-dimensional] [--output PAGE]

# Volumes as volumes, beside slices in a grid

**Synthetic phantom data, not patients**: T1 and T2 of {subjects} abdomens; half of them have one bright ball of 36 to
40 mm at a random place near the pancreas, and nothing else differs. All networks read the same {slices} slices of
{side} × {side} pixels of a case, both sequences in the first layer, with the same recipe ({epochs} epochs) and folds by
subject. In a *grid* the slices are cells of one picture. A *volume* has kernels in three dimensions: `inflated:NAME`
begins with the pretrained kernels of NAME, repeated along depth; `resnet18_3d` is a plain 3-D ResNet from random
weights. Brackets: 95 % intervals by subject, of differences on the same resamples. Each network
was trained once for each fold; what another seed would change is not in the intervals.

{accuracy}

## What a step costs

A training step with {batch} cases, each in a process of its own on {threads} cores, beside other programs: the least
CPU seconds of {rounds} rounds, in which the networks take turns, and the peak memory of the process above that before
the step. {gpu}

{costs}
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pages import head_of, page_parser, publish, table

from casewise.analysis.comparison import compare
from casewise.plugins.phantoms.pancreas import make_pancreas
from casewise.run import run
from casewise.study.loading import build_study

SUBJECTS, SIDE, ROWS, EPOCHS, BATCH, ROUNDS, THREADS, FOLDS = 60, 32, 3, 10, 4, 3, 2, 3
PRETRAINED = "tf_efficientnet_lite0.in1k"
PAIRS = ((PRETRAINED, f"inflated:{PRETRAINED}"), ("resnet18", "resnet18_3d"))
GPU = "No GPU was at hand."


def study_of(cohort: Path, weights: Path, **changes: Any) -> Any:
    """The study of the networks on a cohort of T1 and T2."""
    names = [name for pair in PAIRS for name in pair]
    values: dict[str, Any] = {
        "name": "three-dimensional",
        "synthetic": True,
        "cohort": cohort,
        "weights_dir": weights,
        "images": {"size": SIDE},
        "volumes": {
            "sequences": ["T1", "T2"],
            "in_plane_size": 128,
            "bias": "none",
            "smoothing": "none",
            "roi": "mask",
            "inference_windows": "central",
        },
        "panels": {"by": "case", "grid": f"{ROWS}x{ROWS}", "flip": "horizontal", "quarter_turns": True},
        "targets": {"grade": {"classes": ["normal", "high"], "positive": "high"}},
        "split": {"test": 0, "folds": FOLDS, "stratify_by": "grade"},
        "backbones": names,
        "weights": {name: "pretrained" if PRETRAINED in name else "random" for name in names},
        "recipe": {
            "optimizer": "adamw",
            "weight_decay": 0.05,
            "lr": 0.0005,
            "schedule": "cosine",
            "warmup": 1,
            "batch_size": BATCH,
            "epochs": EPOCHS,
            "batch_norm": "update",
            "early_stopping": {"monitor": "none"},
        },
        "baselines": {"off": "networks are compared with each other"},
        "evaluation": {"response": False, "counterfactual_cases": 0},
    }
    return build_study({**values, **changes}, source="benchmark", folder=cohort.parent)


def step_cost(name: str) -> dict[str, float]:
    """CPU seconds and memory (MB) of a training step of a network, in this process."""
    import torch

    from casewise.models.backbones import build_network
    from casewise.training.cost import PeakMemory, give_memory_back

    torch.set_num_threads(THREADS)
    network = build_network(name, 2, fusion="early", sequences=2, rows=ROWS if ":" in name or "3d" in name else 1)
    network = network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    panels = torch.rand(BATCH, 2, ROWS * SIDE, ROWS * SIDE).to(memory_format=torch.channels_last)
    give_memory_back()
    before, seconds = PeakMemory.own_now(), []
    with PeakMemory() as memory:
        for _ in range(4):
            began = time.process_time()
            network(panels).square().mean().backward()
            network.zero_grad()
            seconds.append(time.process_time() - began)
    weights = sum(parameter.numel() for parameter in network.parameters())
    return {"seconds": min(seconds[1:]), "memory": memory.own_mb - before, "weights": weights}


def costs() -> dict[str, dict[str, float]]:
    """The least cost of each network over all rounds."""
    rounds: dict[str, list[dict[str, float]]] = {}
    for _ in range(ROUNDS):
        for name in (name for pair in PAIRS for name in pair):
            command = [sys.executable, __file__, "--cost", name]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rounds.setdefault(name, []).append(json.loads(output.splitlines()[-1]))
    return {name: {key: min(own[key] for own in each) for key in each[0]} for name, each in rounds.items()}


def accuracy_rows(finished: Any) -> list[list[str]]:
    """A line for each network: its AUROC, the difference from the grid, accuracy, seconds and memory of its jobs."""
    rows = []
    for grid, volume in PAIRS:
        gap = compare(finished, finished, learner=(grid, volume), target="grade", stage="oof").set_index("metric")
        for name in (grid, volume):
            own = finished.results.figures.of("oof", name, "grade")
            seconds = [finished.files.job(name, fold).record.read()["seconds"] for fold in range(FOLDS)]
            difference = with_interval(gap.loc["auroc"], "difference", "+") if name == volume else ""
            reads = "volume" if name == volume else "grid"
            weights = "pretrained" if PRETRAINED in name else "random"
            auroc, accuracy = (with_interval(vars(own[metric]), "value") for metric in ("auroc", "accuracy"))
            rows.append([name, reads, weights, auroc, difference, accuracy, f"{sum(seconds):.0f}"])
    return rows


def with_interval(figure: Any, key: str, sign: str = "") -> str:
    """A figure with its interval."""
    return f"{figure[key]:{sign}.2f} [{figure['low']:{sign}.2f}, {figure['high']:{sign}.2f}]"


def cost_rows(by_name: dict[str, dict[str, float]]) -> list[list[str]]:
    """A line for each network, and how many times as much as the grid a volume takes."""
    rows = []
    for pair in PAIRS:
        for name in pair:
            own, grid = by_name[name], by_name[pair[0]]
            cells = [f"{own['weights'] / 1e6:.1f}", f"{own['seconds']:.2f}", f"{own['memory']:.0f}"]
            ratios = [f"{own[key] / grid[key]:.1f}" if name != pair[0] else "" for key in ("seconds", "memory")]
            rows.append([name, *cells, *ratios])
    return rows


HEADS = ("network", "slices as", "first weights", "AUROC", "minus the grid", "accuracy", "seconds of training")
COSTS = ("network", "million weights", "CPU seconds", "MB", "times the seconds", "times the memory")

if __name__ == "__main__":
    parser = page_parser(__doc__)
    parser.add_argument("--weights", type=Path, help="the folder with the file of pretrained weights")
    parser.add_argument("--folder", type=Path, default=Path("runs/three-dimensional"), help="cohort and run")
    parser.add_argument("--cost", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cost:
        print(json.dumps(step_cost(options.cost)))
        sys.exit()
    shape: dict[str, Any] = {"size": (128, 128), "slices": (14, 18), "lesion": "planted"}
    cohort = make_pancreas(options.folder / "cohort", subjects=SUBJECTS, classes=("normal", "high"), seed=7, **shape)
    finished = run(study_of(cohort.resolve(), options.weights.resolve()), options.folder / "run")
    sizes = {"subjects": SUBJECTS, "slices": ROWS**2, "side": SIDE, "epochs": EPOCHS, "batch": BATCH}
    page = head_of(
        __doc__,
        **sizes,
        rounds=ROUNDS,
        threads=THREADS,
        gpu=GPU,
        accuracy="\n".join(table(HEADS, accuracy_rows(finished))),
        costs="\n".join(table(COSTS, cost_rows(costs()))),
    )
    publish(page, options.output)
