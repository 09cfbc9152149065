"""A training epoch of casewise compared with a plain training loop, on the same two cores.

    python benchmarks/training.py [--panels 80] [--rounds 2]

Panels are 2x2 slots of 128 px; every tile is rotated by any angle, slots are shuffled, brightness and contrast vary;
batches of 16, SGD with momentum, mean squared error of four targets. casewise trains by `fit`, from a tile store, as
the jobs of a run do. The plain loop reads the same photographs with a DataLoader with two workers, which decode
and augment them in every epoch, and computes in fp32 with the defaults of PyTorch.

The two sides run in turn, in separate processes. Not timed are imports, building the store (once a study), casewise's
first epoch, and the plain loop's first steps, in which its workers fill their queues. The casewise epoch
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
# The epoch of a small network is longer, so that the overhead beside the steps has a realistic share.
NETWORKS = {"resnet34": 1, "shufflenet_v2_x0_5": 3}
TARGETS = ("erythema", "induration", "scaling", "area")


@dataclass(frozen=True)
class TrainingPanels:
    """The panels of both sides: the photographs of each, their numbers in the tile store, and its targets."""

    store: str
    photographs: list[list[str]]
    tiles: list[list[int]]
    truth: list[list[float]]

    def repeated(self, panels: int) -> TrainingPanels:
        """These panels, repeated to a number of panels."""
        rows = [n % len(self.tiles) for n in range(panels)]
        return TrainingPanels(
            store=self.store,
            photographs=[self.photographs[row] for row in rows],
            tiles=[self.tiles[row] for row in rows],
            truth=[self.truth[row] for row in rows],
        )


class PlainPanels:
    """A typical data set: open, resize, rotate, augment, paste into the grid, convert to a tensor."""

    def __init__(self, material: TrainingPanels) -> None:
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


def train_plainly(network: str, material: TrainingPanels, panels: int) -> dict[str, Any]:
    """Train with a plain PyTorch loop; return the panels per second after the first steps."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import models

    steps = panels // BATCH
    # Longer than the timed part, so that the workers are equally busy at its beginning and end.
    data: Any = PlainPanels(material.repeated((WARM + steps + 3 * WORKERS) * BATCH))
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=WORKERS)
    model = models.get_model(network, weights=None, num_classes=len(TARGETS)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    criterion = torch.nn.MSELoss()
    start = 0.0
    for number, (images, truth) in enumerate(loader):
        if number == WARM:
            start = time.perf_counter()
        if number == WARM + steps:
            break
        optimizer.zero_grad()
        loss = criterion(model(images), truth)
        loss.backward()
        optimizer.step()
    return {"rate": steps * BATCH / (time.perf_counter() - start)}


def train_with_casewise(network: str, material: TrainingPanels, panels: int, choice: ComputePlan) -> dict[str, Any]:
    """Train as a job of a run does; return the panels per second of the second epoch."""
    import numpy as np
    import torch

    from casewise.modalities.dataset import PanelData, open_tiles, standard
    from casewise.modalities.store.store import open_store
    from casewise.models.backbones import build_network
    from casewise.models.outputs import Output
    from casewise.study.schema import Panels, Recipe
    from casewise.training.cost import keep_memory
    from casewise.training.loop import TrainingContext, fit

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
                tell=lambda *_: ends.append(time.perf_counter()),
            ),
        )
    return {"rate": panels / (ends[1] - ends[0])}


def choose_for(network: str, threads: int) -> dict[str, Any]:
    """The measurement by which a run chooses precision and memory format."""
    from casewise.models.backbones import build_network
    from casewise.study.schema import Compute
    from casewise.training.compute_plan import choose
    from casewise.training.cost import keep_memory

    keep_memory()
    model = build_network(network, len(TARGETS))
    return asdict(choose(model, Compute(device="cpu"), side=2 * SIDE, batch=BATCH, threads=threads, memo=None))


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """One measurement, in a separate process."""
    if task["way"] == "choose":
        return choose_for(task["network"], task["threads"])
    material = TrainingPanels(**json.loads(Path(task["material"]).read_text()))
    if task["way"] == "plain":
        return train_plainly(task["network"], material, task["panels"])
    from casewise.training.compute_plan import ComputePlan

    return train_with_casewise(task["network"], material, task["panels"], ComputePlan(**task["choice"]))


def in_own_processes(*tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the tasks in parallel, each in a separate process."""
    commands = [[sys.executable, __file__, "--task", json.dumps(task)] for task in tasks]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    outputs = [process.communicate()[0] for process in processes]
    for process, command in zip(processes, commands, strict=True):
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return [json.loads(text.splitlines()[-1]) for text in outputs]


def write_panels(folder: Path, size: tuple[int, int]) -> Path:
    """Draw a phantom cohort, prepare its tiles and write its panels as JSON."""
    import pandas as pd

    from casewise.modalities.store.preparation import Preparation
    from casewise.modalities.store.store_builder import prepare
    from casewise.phantoms.psoriasis import make_psoriasis

    cohort = make_psoriasis(folder / "cohort", subjects=4, visits=1, size=size, seed=1)
    table = pd.read_csv(cohort).reset_index(names="tile")
    table["path"] = [str(cohort.parent / path) for path in table["path"]]
    prepare([Path(path) for path in table["path"]], Preparation(size=SIDE), folder / "tiles")
    groups = [rows for _, rows in table.groupby(["subject", "visit", "region"])]
    material = TrainingPanels(
        store=str(folder / "tiles"),
        photographs=[rows["path"].tolist() for rows in groups],
        tiles=[rows["tile"].tolist() for rows in groups],
        truth=[rows[list(TARGETS)].iloc[0].astype(float).tolist() for rows in groups],
    )
    path = folder / "material.json"
    path.write_text(json.dumps(asdict(material)))
    return path


def compare(network: str, panels: int, rounds: int, materials: list[Path]) -> None:
    """Measure one network and print its rows of the table."""
    task = {"network": network, "panels": panels, "material": str(materials[0])}
    choices = [in_own_processes({"way": "choose", "network": network, "threads": threads})[0] for threads in (CORES, 1)]
    print(f"\n{network}, {panels} panels an epoch")
    for choice in choices:
        form = "channels-last" if choice["channels_last"] else "contiguous"
        steps = ", ".join(f"{name} {seconds:.3f}" for name, seconds in choice["measured"])
        print(f"  choice for {choice['threads']} thread(s): {choice['precision']} {form} (seconds a step: {steps})")
    casewise_rates: list[float] = []
    plain_rates: list[list[float]] = [[] for _ in materials]
    for _ in range(rounds):
        # Between the plain loops, so that other load slows both sides of each ratio.
        plain_rates[0].append(in_own_processes(task | {"way": "plain"})[0]["rate"])
        casewise_rates.append(in_own_processes(task | {"way": "casewise", "choice": choices[0]})[0]["rate"])
        for rates, material in zip(plain_rates[1:], materials[1:], strict=True):
            rates.append(in_own_processes(task | {"way": "plain", "material": str(material)})[0]["rate"])
    both = sum(
        result["rate"] for result in in_own_processes(*[task | {"way": "casewise", "choice": choices[1]}] * CORES)
    )
    middle = statistics.median(casewise_rates)
    print(f"  {'':<44}{'panels/s':>9}{'s/epoch':>9}")
    print(f"  {'casewise':<44}{middle:>9.1f}{panels / middle:>9.2f}")
    for (width, height), rates in zip(SIZES, plain_rates, strict=True):
        plain = statistics.median(rates)
        gains = [casewise_rate / rate for casewise_rate, rate in zip(casewise_rates, rates, strict=True)]
        name = f"plain loop, photographs of {width} x {height}"
        speed_up = (
            f"casewise is {statistics.median(gains):.1f} times as fast ({min(gains):.1f}-{max(gains):.1f}; aim: 2.5)"
        )
        print(f"  {name:<44}{plain:>9.1f}{panels / plain:>9.2f}   {speed_up}")
    name = f"casewise, {CORES} jobs in parallel, one thread each"
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
    from casewise.bench.quiet import warn_if_busy

    warn_if_busy()
    with tempfile.TemporaryDirectory() as temporary:
        materials = []
        for size in SIZES:
            folder = Path(temporary) / f"{size[0]}x{size[1]}"
            folder.mkdir()
            materials.append(write_panels(folder, size))
        print(
            f"{CORES} cores, batches of {BATCH} panels of {2 * SIDE} px, {options.rounds} rounds; synthetic photographs"
        )
        for network in options.networks:
            compare(network, NETWORKS[network] * panels, options.rounds, materials)


if __name__ == "__main__":
    main()
