"""A training epoch of casewise against the loop that one would otherwise write, on the same two cores.

    python benchmarks/training.py [--panels 80] [--rounds 2]

Panels are 2x2 slots of 128 px; every tile is rotated by any angle, slots are shuffled, brightness and contrast vary;
batches of 16, SGD with momentum, mean squared error of four targets. casewise trains by `fit`, from a tile store, as
the jobs of a run do. The plain loop reads the same photographs through a DataLoader with two workers, which decode
and augment them in every epoch, and computes in fp32 with everything as PyTorch has it by default.

Each way runs in a process of its own, the ways taking turns. What is not timed: imports, building the store (once a
study), casewise's first epoch, and the plain loop's first steps, during which its workers get ahead. The casewise epoch
includes stopping on one held-out panel and keeping the best weights, which the plain loop does not do. The photographs
are synthetic. Times are printed, never asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from casewise.training.compute_plan import ComputePlan

CORES, WORKERS, BATCH, SIDE, WARM = 2, 2, 16, 128, 4
SIZES = ((492, 326), (2464, 1632))
# A small network's epoch is made longer, so that what surrounds the steps does not weigh more than in a real one.
NETWORKS = {"resnet34": 1, "shufflenet_v2_x0_5": 3}
TARGETS = ("erythema", "induration", "scaling", "area")


@dataclass(frozen=True)
class ReportContext:
    """What both ways train on: for each panel its photographs, their numbers in the tile store, and its targets."""

    store: str
    photographs: list[list[str]]
    tiles: list[list[int]]
    truth: list[list[float]]

    def repeated(self, panels: int) -> ReportContext:
        """The same cycled to a number of panels."""
        rows = [n % len(self.tiles) for n in range(panels)]
        return ReportContext(
            store=self.store,
            photographs=[self.photographs[row] for row in rows],
            tiles=[self.tiles[row] for row in rows],
            truth=[self.truth[row] for row in rows],
        )


class PlainPanels:
    """A data set as it is usually written: open, resize, rotate, vary, paste into the grid, make a tensor."""

    def __init__(self, material: ReportContext) -> None:
        from torchvision import transforms

        self.material = material
        self.vary = transforms.Compose(
            [
                transforms.RandomRotation(180, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.ColorJitter(brightness=0.2, contrast=0.2),
            ]
        )
        normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.finish = transforms.Compose([transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return len(self.material.photographs)

    def __getitem__(self, row: int) -> Any:
        import torch
        from PIL import Image, ImageOps

        panel = Image.new("RGB", (2 * SIDE, 2 * SIDE))
        slots = random.sample([(0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE)], 4)
        for path, slot in zip(self.material.photographs[row], slots, strict=False):
            tile = ImageOps.pad(Image.open(path).convert("RGB"), (SIDE, SIDE))
            panel.paste(self.vary(tile), slot)
        return self.finish(panel), torch.tensor(self.material.truth[row])


def train_plainly(network: str, material: ReportContext, panels: int) -> dict[str, Any]:
    """Train with a plain PyTorch loop and tell the panels per second after the first steps."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import models

    steps = panels // BATCH
    # Longer than what is timed, so that the workers are as busy at its end as at its beginning.
    data: Any = PlainPanels(material.repeated((WARM + steps + 3 * WORKERS) * BATCH))
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=WORKERS)
    model = models.get_model(network, weights=None, num_classes=len(TARGETS)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    criterion = torch.nn.MSELoss()
    begun = 0.0
    for number, (images, truth) in enumerate(loader):
        if number == WARM:
            begun = time.perf_counter()
        if number == WARM + steps:
            break
        optimizer.zero_grad()
        loss = criterion(model(images), truth)
        loss.backward()
        optimizer.step()
    return {"rate": steps * BATCH / (time.perf_counter() - begun)}


def train_with_casewise(network: str, material: ReportContext, panels: int, choice: ComputePlan) -> dict[str, Any]:
    """Train as a job of a run does, and tell the panels per second of the second epoch."""
    import numpy as np
    import torch

    from casewise.modalities.dataset import PanelData, open_tiles, standard
    from casewise.modalities.store.store import open_store
    from casewise.models.backbones import build_network
    from casewise.models.outputs import Output
    from casewise.study.schema import Panels, Recipe
    from casewise.training.compute_plan import keep_memory
    from casewise.training.fit import TrainingContext, fit

    keep_memory()
    torch.set_num_threads(choice.threads)
    whole = material.repeated(panels)
    truth = np.array(whole.truth, dtype=np.float32)
    settings = Panels(by="region", grid="2x2", shuffle=True, rotate=180, brightness=0.2, contrast=0.2)
    store = open_tiles(Path(whole.store), open_store(Path(whole.store)).address)
    train = PanelData(store, whole.tiles, torch.from_numpy(truth), settings)
    stop = PanelData(train.store, train.tiles[:1], train.truth[:1], settings)
    model = build_network(network, len(TARGETS))
    for buffer, values in zip((model.target_mean, model.target_std), standard(truth), strict=True):
        buffer.copy_(torch.from_numpy(values))
    recipe = Recipe(loss="mse", optimizer="sgd", lr=0.01, momentum=0.9, batch_size=BATCH, epochs=2)
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model,
            recipe,
            train,
            stop,
            TrainingContext(
                [Output(name) for name in TARGETS],
                Path(folder),
                0,
                choice,
                tell=lambda _: ends.append(time.perf_counter()),
            ),
        )
    return {"rate": panels / (ends[1] - ends[0])}


def choose_for(network: str, threads: int) -> dict[str, Any]:
    """The measurement by which a run picks precision and memory format."""
    from casewise.models.backbones import build_network
    from casewise.study.schema import Compute
    from casewise.training.compute_plan import choose, keep_memory

    keep_memory()
    model = build_network(network, len(TARGETS))
    return asdict(choose(model, Compute(device="cpu"), side=2 * SIDE, batch=BATCH, threads=threads, memo=None))


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own does: one measurement."""
    if task["way"] == "choose":
        return choose_for(task["network"], task["threads"])
    material = ReportContext(**json.loads(Path(task["material"]).read_text()))
    if task["way"] == "plain":
        return train_plainly(task["network"], material, task["panels"])
    from casewise.training.compute_plan import ComputePlan

    return train_with_casewise(task["network"], material, task["panels"], ComputePlan(**task["choice"]))


def apart(*tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """Do the tasks side by side, each in a process of its own."""
    commands = [[sys.executable, __file__, "--task", json.dumps(task)] for task in tasks]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    told = [process.communicate()[0] for process in running]
    for process, command in zip(running, commands, strict=True):
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return [json.loads(text.splitlines()[-1]) for text in told]


def make_material(folder: Path, size: tuple[int, int]) -> Path:
    """Photograph a phantom cohort, prepare its tiles and write down its panels."""
    import pandas as pd

    from casewise.modalities.store.preparation import Preparation
    from casewise.modalities.store.store_builder import prepare
    from casewise.phantoms.psoriasis import make_psoriasis

    cohort = make_psoriasis(folder / "cohort", subjects=4, visits=1, size=size, seed=1)
    table = pd.read_csv(cohort).reset_index(names="tile")
    table["path"] = [str(cohort.parent / path) for path in table["path"]]
    prepare([Path(path) for path in table["path"]], Preparation(size=SIDE), folder / "tiles")
    groups = [rows for _, rows in table.groupby(["subject", "visit", "region"])]
    material = ReportContext(
        store=str(folder / "tiles"),
        photographs=[rows["path"].tolist() for rows in groups],
        tiles=[rows["tile"].tolist() for rows in groups],
        truth=[rows[list(TARGETS)].iloc[0].astype(float).tolist() for rows in groups],
    )
    path = folder / "material.json"
    path.write_text(json.dumps(asdict(material)))
    return path


def compare(network: str, panels: int, rounds: int, materials: list[Path]) -> None:
    """Measure one network and print its part of the table."""
    task = {"network": network, "panels": panels, "material": str(materials[0])}
    chosen = [apart({"way": "choose", "network": network, "threads": threads})[0] for threads in (CORES, 1)]
    print(f"\n{network}, {panels} panels an epoch")
    for choice in chosen:
        form = "channels-last" if choice["channels_last"] else "contiguous"
        steps = ", ".join(f"{name} {spent:.3f}" for name, spent in choice["measured"])
        print(f"  chosen for {choice['threads']} thread(s): {choice['precision']} {form} (seconds a step: {steps})")
    ours: list[float] = []
    theirs: list[list[float]] = [[] for _ in materials]
    for _ in range(rounds):
        # Between the plain loops, so that whatever else the machine does then slows both sides of each ratio.
        theirs[0].append(apart(task | {"way": "plain"})[0]["rate"])
        ours.append(apart(task | {"way": "casewise", "choice": chosen[0]})[0]["rate"])
        for rates, material in zip(theirs[1:], materials[1:], strict=True):
            rates.append(apart(task | {"way": "plain", "material": str(material)})[0]["rate"])
    both = sum(told["rate"] for told in apart(*[task | {"way": "casewise", "choice": chosen[1]}] * CORES))
    middle = statistics.median(ours)
    print(f"  {'':<44}{'panels/s':>9}{'s/epoch':>9}")
    print(f"  {'casewise':<44}{middle:>9.1f}{panels / middle:>9.2f}")
    for (width, height), rates in zip(SIZES, theirs, strict=True):
        plain = statistics.median(rates)
        gains = [own_rate / rate for own_rate, rate in zip(ours, rates, strict=True)]
        name = f"plain loop, photographs of {width} x {height}"
        told = f"casewise is {statistics.median(gains):.1f} times as fast ({min(gains):.1f}-{max(gains):.1f}; aim: 2.5)"
        print(f"  {name:<44}{plain:>9.1f}{panels / plain:>9.2f}   {told}")
    name = f"casewise, {CORES} jobs side by side, a thread each"
    print(f"  {name:<44}{both:>9.1f}{panels / both:>9.2f}   {both / middle:.2f} of one job on both cores", flush=True)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panels", type=int, default=80, help="panels in an epoch of resnet34")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(answer(options.task)))
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    panels = max(BATCH, options.panels // BATCH * BATCH)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 1:
        # Threads that wait for each other lose far more than their share, on whichever side has more of them.
        print(f"The machine has other work (load {load:.1f}): its ratios mislead; measure when it is quiet.")
    with tempfile.TemporaryDirectory() as temporary:
        materials = []
        for size in SIZES:
            folder = Path(temporary) / f"{size[0]}x{size[1]}"
            folder.mkdir()
            materials.append(make_material(folder, size))
        print(
            f"{CORES} cores, batches of {BATCH} panels of {2 * SIDE} px, {options.rounds} rounds; synthetic photographs"
        )
        for network in options.networks:
            compare(network, NETWORKS[network] * panels, options.rounds, materials)


if __name__ == "__main__":
    main()
