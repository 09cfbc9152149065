"""The published schedule of the skin biopsies on two cores, against the loop that one would otherwise write.

    python benchmarks/skin.py [--images 1888] [--short]

1,888 images of 128x128 in batches of 32, MobileNetV2, 100 epochs of the head alone and 50 of fine-tuning, as in the
third published study. casewise builds its tile store from the JPEGs and trains in phases, as the jobs of a run do: that
is measured in full, once with the first ten layers frozen (the preset ssc-skin) and once with eleven blocks frozen.
The plain loop reads the same JPEGs through a DataLoader with two workers in every epoch and computes in fp32 with
everything as PyTorch has it by default; frozen layers ask for no gradient and keep their running statistics. Both sides
freeze the same weights, which is checked. Of the plain loop 30 batches of each kind are measured twice, after its
workers are awake, and multiplied; of casewise whole phases, once. Where the plain loop differs, the quicker is taken.

Each way runs in a process of its own, the ways taking turns. The images are noise and the first weights random, which
changes no time. `--short` measures 3 epochs of each phase of casewise instead of all; it then says so.
Times are printed, never asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CORES, BATCH, SIDE, HEAD, FINE = 2, 32, 128, 100, 50
WAKEN, TIMED = 2, 30
KINDS = ("all", "11 blocks", "10 layers", "none")


def draw(folder: Path, images: int) -> None:
    """Write the images: soft noise, so that their JPEGs are about as large as those of tissue."""
    import numpy as np
    from PIL import Image

    drawn = np.random.default_rng(0)
    for number in range(images):
        coarse = drawn.integers(90, 230, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
        soft = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        soft.save(folder / f"{number:04d}.jpg", quality=92)


class Photographs:
    """A data set as it is usually written."""

    def __init__(self, paths: list[str]) -> None:
        from torchvision import transforms

        self.paths = paths
        half = (0.5, 0.5, 0.5)
        self.finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize(half, half)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Any:
        from PIL import Image

        return self.finish(Image.open(self.paths[row]).convert("RGB")), row % 2


def frozen_part(model: Any, freeze: str) -> list[Any]:
    """The modules that a plain programmer freezes, written out by hand."""
    features = model.features
    return {
        "none": [],
        "10 layers": [*features[:4], features[4].conv[0]],
        "11 blocks": list(features[:11]),
        "all": list(features),
    }[freeze]


def train_plainly(paths: list[str], freeze: str) -> dict[str, float]:
    """Seconds of an epoch of a plain loop, its workers awake, and how many weights it froze."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision.models import mobilenet_v2

    model = mobilenet_v2(num_classes=2).train()
    for layers in frozen_part(model, freeze):
        layers.requires_grad_(False).eval()
    data: Any = Photographs(paths + paths)  # longer than what is timed: the workers are as busy at its end
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=CORES)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.0001)
    criterion = torch.nn.CrossEntropyLoss()
    begun, timed = 0.0, max(1, min(len(paths) // BATCH, TIMED))
    for number, (images, truth) in enumerate(loader):
        if number == WAKEN:
            begun = time.perf_counter()
        if number == WAKEN + timed:
            break
        optimizer.zero_grad()
        criterion(model(images), truth).backward()
        optimizer.step()
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return {"epoch": (time.perf_counter() - begun) / timed * len(paths) / BATCH, "frozen": frozen}


def train_with_casewise(paths: list[str], phases: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of each phase, of the tile store and of the measurement of the machine."""
    import torch

    from casewise.modalities.dataset import PanelData, open_tiles
    from casewise.modalities.store.preparation import Preparation
    from casewise.modalities.store.store_builder import prepare
    from casewise.models.backbones import build_network
    from casewise.models.outputs import Output
    from casewise.study.schema import Compute, Panels, Recipe
    from casewise.training.compute_plan import choose, keep_memory
    from casewise.training.fit import standardise
    from casewise.training.strategies import TrainingContext, learn

    begun = time.perf_counter()
    keep_memory()
    torch.set_num_threads(CORES)
    network = build_network("mobilenet_v2", 2, scaling="symmetric")
    choice = choose(network, Compute(device="cpu"), side=SIDE, batch=BATCH, threads=CORES, memo=None)
    chosen = time.perf_counter() - begun
    recipe = Recipe(
        optimizer="adam",
        lr=0.0001,
        schedule="constant",
        batch_size=BATCH,
        batch_norm="train",
        scaling="symmetric",
        early_stopping={"monitor": "none"},  # type: ignore[arg-type]
        phases=phases,  # type: ignore[arg-type]
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        begun = time.perf_counter()
        built = prepare([Path(path) for path in paths], Preparation(size=SIDE), folder / "tiles")
        stored = time.perf_counter() - begun
        store = open_tiles(folder / "tiles", built.address)
        truth = torch.arange(len(paths)).remainder(2).float().unsqueeze(1)
        data = PanelData(store, [[row] for row in range(len(paths))], truth, Panels(by="image"))
        few = PanelData(store, data.tiles[:1], truth[:1], data.settings)
        outputs = (Output("label", "classification", 2),)
        standardise(network, truth, outputs)
        names = [str(row) for row in range(len(paths))]
        learned = learn(network, recipe, data, few, names, TrainingContext(outputs, folder, 0, choice, keep="last"))
    return {
        "choose": chosen,
        "store": stored,
        "phases": [phase["seconds"] for phase in learned.phases],
        "frozen": [phase["frozen"] for phase in learned.phases],
        "choice": f"{choice.precision} {'channels-last' if choice.channels_last else 'contiguous'}",
    }


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own does: one measurement."""
    paths = [str(path) for path in sorted(Path(task["folder"]).glob("*.jpg"))]
    if "freeze" in task:
        return train_plainly(paths, task["freeze"])
    return train_with_casewise(paths, task["phases"])


def apart(**task: Any) -> dict[str, Any]:
    """Do a task in a process of its own."""
    command = [sys.executable, __file__, "--task", json.dumps(task)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(json.loads(result.splitlines()[-1]))


def compare(folder: str, images: int, head: int, fine: int) -> None:
    """Measure all and print the table."""
    first = {"epochs": head, "freeze": "all"}
    plain: dict[str, list[dict[str, float]]] = {name: [] for name in KINDS}
    ours: dict[str, Any] = {}
    for freeze in ("11 blocks", "10 layers"):
        for name in KINDS:
            plain[name].append(apart(folder=folder, freeze=name))
        ours[freeze] = apart(folder=folder, phases=[first, {"epochs": fine, "freeze": freeze, "lr": 0.00001}])
    ours["none"] = apart(folder=folder, phases=[{"epochs": 3, "freeze": "none"}])
    epoch = {name: min(result["epoch"] for result in measured) for name, measured in plain.items()}
    frozen = {name: measured[0]["frozen"] for name, measured in plain.items()}
    same = {"all": ours["11 blocks"]["frozen"][0], **{name: ours[name]["frozen"][-1] for name in KINDS[1:]}}
    if frozen != same:
        raise SystemExit(f"the two sides freeze different weights: {frozen} and {same}")

    short = (head, fine) != (HEAD, FINE)
    scaled = f", {head} and {fine} epochs measured, {HEAD} and {FINE} worked out" if short else ""
    print(f"published schedule: {images:,} images of {SIDE} px in batches of {BATCH}, {HEAD} + {FINE} epochs")
    chosen = ", ".join(sorted({result["choice"] for result in ours.values()}))
    print(f"  casewise chose {chosen}; of the plain loop {TIMED} batches of each kind, twice, multiplied{scaled}")
    print(f"  {'':<52}{'casewise':>12}{'plain loop':>12}")

    def row(what: str, own_seconds: float, theirs: float, aim: str) -> None:
        print(
            f"  {what:<52}{own_seconds / 60:>8.2f} min{theirs / 60:>8.1f} min   {theirs / own_seconds:6.1f}×  ({aim})"
        )

    def phase(name: str, number: int) -> float:
        of, done = (HEAD, head) if number == 0 else (FINE, fine)
        return float(ours[name]["phases"][number]) * of / done

    for name in ("11 blocks", "10 layers"):
        around = ours[name]["choose"] + ours[name]["store"]
        row(
            f"whole schedule, first {name} frozen in fine-tuning",
            around + phase(name, 0) + phase(name, 1),
            HEAD * epoch["all"] + FINE * epoch[name],
            "aim: 10 min and 4×",
        )
    row("head alone, 100 epochs", (phase("11 blocks", 0) + phase("10 layers", 0)) / 2, HEAD * epoch["all"], "aim: 60×")
    row("fine-tuning, first 11 blocks frozen, 50 epochs", phase("11 blocks", 1), FINE * epoch["11 blocks"], "aim: 5×")
    row("fine-tuning, first 10 layers frozen, 50 epochs", phase("10 layers", 1), FINE * epoch["10 layers"], "no aim")
    row("fine-tuning, nothing frozen, 3 epochs", ours["none"]["phases"][0], 3 * epoch["none"], "aim: 2×")
    store = ours["none"]["store"]
    print(f"  of the whole: tile store {store:.1f} s, measuring the machine {ours['none']['choose']:.1f} s", flush=True)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1888)
    parser.add_argument("--short", action="store_true", help="3 epochs of each phase of casewise")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(answer(options.task)))
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 1:
        print(f"The machine has other work (load {load:.1f}): its ratios mislead; measure when it is quiet.")
    with tempfile.TemporaryDirectory() as temporary:
        draw(Path(temporary), options.images)
        head, fine = (3, 3) if options.short else (HEAD, FINE)
        compare(temporary, options.images, head, fine)


if __name__ == "__main__":
    main()
