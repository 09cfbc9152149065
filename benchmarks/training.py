"""How fast casewise trains, beside a plain loop and fastai, on the same two cores.

    python benchmarks/training.py [panels] [images] [--short] [--rounds 1] [--output FILE]

`panels`: an epoch of the photographs preset. Panels are 2x2 slots of 128 px; tiles are rotated by any angle, slots are
shuffled, brightness and contrast vary; batches of 16, SGD, mean squared error of four targets; beside a plain loop.

`images`: all parameters of five networks on radiographs (synthetic photographs if those are missing) of 224 px in
batches of 32 with augmentation; beside fastai. `--output` writes the page docs/results/epoch-ratios.md.

casewise trains as the jobs of a run do, from a tile store that is built before the clock starts; the peers (users.py)
decode the image files in every epoch. Sides take turns, in separate processes. Of `panels` and `images`, the first
epoch of casewise is not timed, nor are the first steps of the peers. Figures are printed, never asserted.

The page follows, with its figures in braces.

# Epochs of casewise and fastai

Seconds of an epoch of {epoch:,} images of {side} px, extrapolated from {steps} steps of {batch} images, and the
seconds of fastai divided by those of casewise. All parameters are trained, on {cores} cores, with two workers in
fastai.

fastai decodes the image files in every epoch. casewise decodes them once and then reads a ready store; the seconds
of its preparation for {epoch:,} images (last column, extrapolated) come once a study on top of those of the epochs,
and are not part of the ratios.

{lines}
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import users
from pages import head_of, page_parser, publish, table
from users import BATCH, CORES, SEED, SIDE

from casewise.plugins.phantoms.psoriasis import make_psoriasis

PACK = Path(__file__).resolve().parents[2] / "shared" / "data" / "covid-cxr"
PARTS = ("panels", "images")
# `panels`. The epoch of a small network is longer, so that the overhead beside the steps has a realistic share.
PANEL_BATCH, SLOT, PANELS = 16, 128, 80
SIZES = ((492, 326), (2464, 1632))
PANEL_NETWORKS = {"resnet34": 1, "shufflenet_v2_x0_5": 3}
SCORES = ("erythema", "induration", "scaling", "area")
PANEL_AIM = 2.5
# `images`. The aim is for the geometric mean of casewise's images a second divided by those of fastai.
NETWORKS = ("resnet34", "mobilenet_v2", "shufflenet_v2_x0_5", "vgg11_bn", "densenet121")
IMAGE_AIM, EPOCH = 2.8, 1000
CLASSES = ("covid", "no_finding", "pneumonia")
IMAGE_RECIPE = {"optimizer": "adamw", "lr": 3e-4, "weight_decay": 0.01, "batch_size": BATCH, "epochs": 2}
IMAGE_STUDY = {
    "images": {"size": SIDE},
    "targets": {"label": {"classes": list(CLASSES)}},
    "panels": {"by": "image", "augmentation": "fastai-default", "flip": "horizontal"},
    "recipe": {**IMAGE_RECIPE, "schedule": "constant", "early_stopping": {"monitor": "none"}},
}


def with_casewise(task: dict[str, Any]) -> dict[str, Any]:
    """Train as a job of a run does; the seconds of the last epoch and of each phase, the plan, and the tile store.

    `study` has the settings of a study file; `paths`, `tiles` and `truth` the photographs, those of each panel, and the
    labels of each panel.
    """
    import torch

    from casewise.modalities.dataset import PanelData, open_tiles
    from casewise.modalities.store.preparation import Preparation
    from casewise.modalities.store.store_builder import prepare
    from casewise.models.backbones import build_network
    from casewise.models.outputs import outputs_of, width_of
    from casewise.study.loading import build_study
    from casewise.training.compute_plan import choose
    from casewise.training.cost import keep_memory
    from casewise.training.loop import TrainingContext, standardise
    from casewise.training.stages import learn

    keep_memory()
    torch.set_num_threads(CORES)
    study = build_study(
        {"name": "training", "cohort": "table", "compute": {"jobs": 1}, **task["study"]}, source=__file__, folder=Path()
    )
    recipe, outputs, truth = study.recipe, outputs_of(study), torch.tensor(task["truth"])
    network = build_network(study.backbones[0], width_of(outputs), dropout=recipe.dropout, scaling=recipe.scaling)
    standardise(network, truth, outputs)
    side, start, ends = task["side"], time.perf_counter(), []
    choice = choose(network, study.compute, side=side, batch=recipe.batch_size, threads=CORES, memo=None)
    choice_seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = time.perf_counter()
        built = prepare([Path(path) for path in task["paths"]], Preparation(size=study.images.size), folder / "tiles")
        store_seconds = time.perf_counter() - start
        data = PanelData(open_tiles(folder / "tiles", built.address), task["tiles"], truth, study.panels)
        context = TrainingContext(
            outputs, folder, SEED, choice, tell=lambda *_: ends.append(time.perf_counter()), keep="last"
        )
        subjects = [str(row) for row in range(len(truth))]
        learned = learn(network, recipe, data, data.subset([0]), subjects, context)
    of_phases = {name: [phase[name] for phase in learned.phases] for name in ("seconds", "frozen")}
    times = {"epoch": ends[-1] - ends[-2], "choice": choice_seconds, "store": store_seconds}
    plan = f"{choice.precision} {'channels-last' if choice.channels_last else 'contiguous'}"
    return {**times, "phases": of_phases["seconds"], "frozen": of_phases["frozen"], "plan": plan}


def casewise(**task: Any) -> dict[str, Any]:
    """The measurement of casewise, in a process of its own."""
    return users.in_own_process(__file__, task)


def faster(own: Sequence[float], other: Sequence[float]) -> float:
    """How many times as fast: the median over rounds, because other load slows both sides of a round."""
    return statistics.median(a / b for a, b in zip(own, other, strict=True))


# panels


def drawn_panels(folder: Path, size: tuple[int, int], panels: int) -> tuple[list[list[str]], list[list[float]]]:
    """The photographs of each panel of a phantom cohort and its scores, repeated to so many panels."""
    cohort = make_psoriasis(folder, subjects=4, visits=1, size=size, seed=1)
    rows = pd.read_csv(cohort)
    groups = [group for _, group in rows.groupby(["subject", "visit", "region"])]
    chosen = [groups[row % len(groups)] for row in range(panels)]
    paths = [[str(cohort.parent / path) for path in group["path"]] for group in chosen]
    return paths, [group[list(SCORES)].iloc[0].astype(float).tolist() for group in chosen]


def compare_panels(options: argparse.Namespace) -> None:
    """Print panels a second of casewise and of plain loops on small and large photographs."""
    recipe = {"loss": "mse", "optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "batch_size": PANEL_BATCH, "epochs": 2}
    study = {
        "images": {"size": SLOT},
        "panels": {"by": "region", "grid": "2x2", "shuffle": True, "rotate": 180, "brightness": 0.2, "contrast": 0.2},
        "regions": ["upper", "trunk", "lower"],
        "targets": {name: {"range": [0, 10]} for name in SCORES},
        "recipe": {**recipe, "schedule": "constant", "early_stopping": {"monitor": "none"}},
    }
    networks = list(PANEL_NETWORKS)[-1:] if options.short else list(PANEL_NETWORKS)
    for network in networks:
        panels = PANEL_NETWORKS[network] * (options.panels // PANEL_BATCH * PANEL_BATCH)
        with tempfile.TemporaryDirectory() as temporary:
            drawn = [drawn_panels(Path(temporary) / str(n), size, panels) for n, size in enumerate(SIZES)]
            unique = sorted({path for paths in drawn[0][0] for path in paths})
            tiles = [[unique.index(path) for path in paths] for paths in drawn[0][0]]
            task = {"study": {**study, "backbones": [network]}, "paths": unique, "tiles": tiles, "truth": drawn[0][1]}
            rates: dict[str, list[float]] = {"casewise": []}
            for _ in range(options.rounds):
                result = casewise(**task, side=2 * SLOT)
                rates["casewise"].append(panels / result["epoch"])
                for (width, height), (paths, truth) in zip(SIZES, drawn, strict=True):
                    plain = {"network": network, "panels": panels, "batch": PANEL_BATCH, "side": SLOT}
                    rate = users.measured("panels", paths=paths, truth=truth, **plain)["rate"]
                    rates.setdefault(f"plain loop, photographs of {width} x {height}", []).append(rate)
        print(f"\n{network}, {panels} panels an epoch, {result['plan']}, panels a second")
        for name, own in rates.items():
            gain = f"   casewise is {faster(rates['casewise'], own):.1f} times as fast (aim: {PANEL_AIM})"
            print(f"  {name:<44}{statistics.median(own):>9.1f}{'' if name == 'casewise' else gain}", flush=True)


# images


def radiographs(data: Path, folder: Path, count: int) -> tuple[list[str], list[int]]:
    """Paths of so many images, and the number of the class of each."""
    if (data / "cases.csv").is_file():
        rows = pd.read_csv(data / "cases.csv", dtype=str, keep_default_na=False)
        rows = rows[rows["label"].isin(CLASSES)]
    else:
        print(f"{data / 'cases.csv'} does not exist; synthetic photographs are used.")
        rows = pd.read_csv(make_psoriasis(folder, subjects=40, visits=1, size=(320, 320), seed=1), dtype=str)
        named = dict(zip(sorted(set(rows["region"])), CLASSES, strict=True))
        rows, data = rows.assign(label=rows["region"].map(named)), folder
    rows = rows.sample(min(count, len(rows)), random_state=SEED)
    return [str((data / path).resolve()) for path in rows["path"]], [CLASSES.index(label) for label in rows["label"]]


def lines_of(results: dict[str, dict[str, Any]]) -> list[str]:
    """The table of epochs and their ratios as Markdown, and whether the aim is reached."""
    rows, ratios = [], []
    for network, result in results.items():
        own, peer = (result["rates"][name] for name in ("casewise", "fastai"))
        ratios.append(faster(own, peer))
        seconds = [f"{EPOCH / statistics.median(rates):.1f}" for rates in (own, peer)]
        rows.append([network, *seconds, f"{ratios[-1]:.2f}", f"{EPOCH * result['preparation']:.1f}"])
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    rows.append(["geometric mean", "", "", f"{mean:.2f}", ""])
    aim = f"Aim for the geometric mean: {IMAGE_AIM}, {'missed' if mean < IMAGE_AIM else 'reached'}."
    return [*table(["network", "casewise, s", "fastai, s", "ratio", "preparation once, s"], rows), "", aim]


def compare_images(options: argparse.Namespace) -> None:
    """Print and write the page of epochs beside fastai."""
    if not users.has_fastai():
        return
    networks, steps = (NETWORKS[1:3], 2) if options.short else (options.networks, options.steps)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        paths, labels = radiographs(options.data, Path(temporary), steps * BATCH)
        tiles = [[row % len(paths)] for row in range(steps * BATCH)]
        own = {"paths": paths, "tiles": tiles, "truth": [[float(labels[row])] for (row,) in tiles], "side": SIDE}
        for network in networks:
            rates: dict[str, list[float]] = {"fastai": [], "casewise": []}
            for _ in range(options.rounds):
                for name in rates:
                    if name == "casewise":
                        result = casewise(**own, study={**IMAGE_STUDY, "backbones": [network]})
                        rate = steps * BATCH / result["epoch"]
                    else:
                        rate = users.measured(name, paths=paths, labels=labels, network=network, steps=steps)["rate"]
                    rates[name].append(rate)
            results[network] = {"rates": rates, "preparation": result["store"] / len(paths)}
            shown = ", ".join(f"{name} {statistics.median(values):.1f}" for name, values in rates.items())
            print(f"{network}: images/s {shown}; {result['plan']}; load {os.getloadavg()[0]:.1f}", flush=True)
    values = {"epoch": EPOCH, "side": SIDE, "steps": steps, "batch": BATCH, "cores": CORES}
    publish(head_of(__doc__, lines="\n".join(lines_of(results)), **values), options.output)


def main() -> None:
    """Measure the requested parts and print their tables."""
    parser = page_parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; by default all")
    parser.add_argument("--short", action="store_true", help="fewer networks, steps and epochs")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--panels", type=int, default=PANELS, help="panels of an epoch of resnet34")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="of `images`")
    parser.add_argument("--steps", type=int, default=4, help="steps of `images` that are timed")
    parser.add_argument("--data", type=Path, default=PACK, help="the folder of the radiographs")
    parser.add_argument("--task", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(with_casewise(json.load(sys.stdin))))
        return
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}.")
    users.ready()
    compare = {"panels": compare_panels, "images": compare_images}
    for part in options.parts or PARTS:
        compare[part](options)


if __name__ == "__main__":
    main()
