"""casewise's side of the benchmark of volumes, and the data of both sides."""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from volumes_user import (
    BATCH,
    CLASSES,
    GRID,
    RATE,
    SEQUENCES,
    WAKEN,
    by_simpleitk,
    cores,
    in_processes,
    threads_of_simpleitk,
)

if TYPE_CHECKING:
    from casewise.modalities.volumes.case_files import CaseSources
    from casewise.modalities.volumes.dataset import SliceData
    from casewise.modalities.volumes.slice_store import SliceStore
    from casewise.training.compute_plan import ComputePlan

DEEP = 24
READERS = ("nibabel", "SimpleITK", "pydicom")


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock seconds of a call, and core-seconds of this process."""
    start, busy = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - busy


def cases_in(folder: Path) -> list[CaseSources]:
    """The pairs of a phantom cohort."""
    from casewise.modalities.volumes.case_files import CaseSources

    subjects = sorted((folder / "images").iterdir())
    return [
        CaseSources(subject.name, tuple((subject / f"{name}.nii.gz",) for name in SEQUENCES), SEQUENCES)
        for subject in subjects
    ]


def measure_pair(folder: str, rounds: int, size: int) -> dict[str, Any]:
    """Seconds and core-seconds of each side for one pair a round, both in this process, in one thread."""
    from casewise.modalities.volumes.preprocess import Steps, prepare_case
    from casewise.modalities.volumes.reading.read_scan import read_scan

    threads_of_simpleitk(1)
    cases, steps = [[files[0] for files in case.paths] for case in cases_in(Path(folder))], Steps(in_plane_size=size)
    times: dict[str, list[tuple[float, float]]] = {"casewise": [], "SimpleITK": []}
    for path in (path for paths in cases for path in paths):
        path.read_bytes()  # fills the page cache
    small = Steps(in_plane_size=32)
    prepare_case([read_scan(path) for path in cases[0]], small)  # loads modules that are imported on first use
    for turn in range(rounds):
        paths = cases[turn % len(cases)]
        ways: dict[str, Callable[[], object]] = {
            "casewise": lambda paths=paths: prepare_case([read_scan(path) for path in paths], steps),  # type: ignore[misc]
            "SimpleITK": lambda paths=paths: by_simpleitk(paths, steps),  # type: ignore[misc]
        }
        for name in list(ways) if turn % 2 == 0 else reversed(list(ways)):
            times[name].append(timed(ways[name]))
    return dict(times)


def measure_cases(folder: str, store: str, way: str, size: int) -> dict[str, Any]:
    """Seconds of preparing all cases one way; for casewise also the imported readers and a hash of the slices."""
    from casewise.modalities.volumes.preprocess import Steps
    from casewise.modalities.volumes.slice_store import prepare_slices

    cases, steps = cases_in(Path(folder)), Steps(in_plane_size=size)
    paths = [[files[0] for files in case.paths] for case in cases]
    if way == "SimpleITK in processes":
        return {"seconds": timed(lambda: in_processes(paths, steps))[0]}
    if way == "SimpleITK in threads":
        threads_of_simpleitk(cores())
        return {"seconds": timed(lambda: [by_simpleitk(scans, steps) for scans in paths])[0]}
    processes = cores() if way == "casewise side by side" else 1
    stores: list[SliceStore] = []
    seconds = timed(lambda: stores.append(prepare_slices(cases, steps, Path(store), processes=processes)))[0]
    readers = [name for name in READERS if name in sys.modules]
    return {"seconds": seconds, "readers": readers, "slices": hashlib.sha256(stores[0].slices.tobytes()).hexdigest()}


def blank(folder: Path) -> int:
    """Overwrite every source with zeros, with its size and time preserved; return the number of sources."""
    paths = [files[0] for case in cases_in(folder) for files in case.paths]
    for path in paths:
        before = path.stat()
        path.write_bytes(bytes(before.st_size))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return len(paths)


def draw_slices(folder: Path, cases: int, side: int) -> None:
    """Write the slices of each case: smooth noise (24, 2, side, side) `uint16`, 0 to 32767."""
    from scipy import ndimage

    drawn = np.random.default_rng(0)
    for number in range(cases):
        soft = ndimage.gaussian_filter(drawn.random((DEEP, len(SEQUENCES), side, side), np.float32), (0.5, 0, 1.5, 1.5))
        soft = (soft - soft.min()) / (soft.max() - soft.min())
        np.save(folder / f"case-{number:03d}.npy", np.rint(soft * 32767).astype(np.uint16))


def store_of(folder: Path) -> SliceStore:
    """The slices in the form that `prepare_slices` gives them."""
    from casewise.modalities.volumes.preprocess import DECILES
    from casewise.modalities.volumes.slice_store import SliceStore

    stacks = np.stack([np.load(path) for path in sorted(folder.glob("case-*.npy"))])
    cases = len(stacks)
    return SliceStore(
        stacks.reshape(-1, *stacks.shape[2:]),
        first=np.arange(cases) * DEEP,
        count=np.full(cases, DEEP),
        present=np.ones((cases, len(SEQUENCES)), dtype=bool),
        landmarks=np.moveaxis(np.percentile(stacks, DECILES, axis=(1, 3, 4)), 0, -1).astype(np.float32),
        affines=np.tile(np.eye(4), (cases, 1, 1)),
        facts=[{}] * cases,
        notes=[[]] * cases,
        address="",
        folder=folder,
    )


def data_of(store: SliceStore, panels: int) -> SliceData:
    """This number of panels of the cases in turn, as in a job of a run."""
    import torch

    from casewise.modalities.volumes.dataset import SliceData, slices_of
    from casewise.modalities.volumes.standardise import standard_scales
    from casewise.study.schema import Panels

    cases = len(store.count)
    slices = slices_of(store, [0, 1], {"standard": standard_scales(store.landmarks, [0, 1])})
    truth = torch.arange(panels).remainder(CLASSES).float().unsqueeze(1)
    settings = Panels(grid=f"{GRID}x{GRID}", flip="horizontal", quarter_turns=True)
    return SliceData(slices, [row % cases for row in range(panels)], truth, settings)


def network_for(backbone: str, side: int) -> Any:
    """The network that a run would build."""
    from casewise.models.backbones import build_network

    return build_network(backbone, CLASSES, fusion="early", sequences=len(SEQUENCES), side=GRID * side)


def choose_for(backbone: str, side: int, threads: int) -> dict[str, Any]:
    """The measurement by which a run chooses precision, memory format and threads."""
    from casewise.study.schema import Compute
    from casewise.training.compute_plan import choose
    from casewise.training.cost import keep_memory

    keep_memory()
    network = network_for(backbone, side)
    return asdict(choose(network, Compute(device="cpu"), side=GRID * side, batch=BATCH, threads=threads, memo=None))


def train_with_casewise(folder: str, backbone: str, steps: int, choice: ComputePlan) -> dict[str, float]:
    """Train as a job of a run does; return the panels a second of the second epoch and the number of weights."""
    import torch

    from casewise.models.outputs import Output
    from casewise.study.schema import Recipe
    from casewise.training.cost import keep_memory
    from casewise.training.stages import TrainingContext, learn

    keep_memory()
    torch.set_num_threads(choice.threads)
    store = store_of(Path(folder))
    data = data_of(store, steps * BATCH)
    network = network_for(backbone, store.slices.shape[-1])
    weights = sum(p.numel() for p in network.parameters())
    recipe = Recipe(
        optimizer="adam",
        lr=RATE,
        schedule="constant",
        batch_size=BATCH,
        epochs=2,
        early_stopping={"monitor": "none"},  # type: ignore[arg-type]
    )
    ends: list[float] = []
    names = [str(row) for row in range(len(data))]
    with tempfile.TemporaryDirectory() as work_folder:
        context = TrainingContext(
            (Output("label", "classification", CLASSES),),
            Path(work_folder),
            0,
            choice,
            keep="last",
            tell=lambda *_: ends.append(time.perf_counter()),
        )
        learn(network, recipe, data, data.subset([0]), names, context)
    return {"rate": steps * BATCH / (ends[1] - ends[0]), "weights": weights}


def divided(data: SliceData, rows: list[int], generator: Any) -> Any:
    """The batch of `training_batch` with stored values divided by the largest instead of looked up in tables."""
    import torch

    from casewise.modalities.panels import fold
    from casewise.modalities.volumes.dataset import turned

    drawn = torch.rand(len(rows), 3, generator=generator)
    cases = torch.tensor([data.cases[row] for row in rows])
    slots = data.settings.slots
    starts = (drawn[:, 0] * (data.slices.count[cases] - slots + 1)).long()
    positions = (data.slices.first[cases] + starts).unsqueeze(1) + torch.arange(slots)
    tiles = data.slices.stored[positions].float().div_(32767)
    return fold(turned(tiles, drawn[:, 1:], data.settings), data.settings)


def measure_tables(folder: str, backbone: str, steps: int, choice: ComputePlan) -> dict[str, float]:
    """Median seconds of a batch by tables, of one by division, of the network's step, and of fitting the standard."""
    import torch

    from casewise.modalities.volumes.dataset import slices_of
    from casewise.modalities.volumes.standardise import standard_scales
    from casewise.training.cost import keep_memory

    keep_memory()
    torch.set_num_threads(choice.threads)
    store = store_of(Path(folder))
    every = np.arange(len(store.count))

    def scales() -> list[list[float]]:
        return standard_scales(store.landmarks, [0, 1])

    fitted = [
        statistics.median(
            timed(lambda nyul=nyul: slices_of(store, [0, 1], {"standard": scales() if nyul else None}))[0]  # type: ignore[misc]
            for _ in range(3)
        )
        for nyul in (True, False)
    ]
    data = data_of(store, len(every) * BATCH)
    form: Any = torch.channels_last if choice.channels_last else torch.contiguous_format
    network = network_for(backbone, store.slices.shape[-1]).train().to(memory_format=form)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    drawn, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    ways: dict[str, Callable[[list[int]], Any]] = {
        "tables": lambda rows: data.training_batch(rows, generator, torch.device("cpu"))[0],
        "division": lambda rows: divided(data, rows, generator),
    }
    seconds: dict[str, list[float]] = {"tables": [], "division": [], "step": []}
    for number in range(2 * (WAKEN + steps)):
        way = ("tables", "division")[number % 2]
        rows = drawn.choice(len(data), BATCH, replace=False).tolist()
        start = time.perf_counter()
        panels = ways[way](rows)
        batch_end = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=choice.precision == "bf16"):
            output = network(panels.to(memory_format=form))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(output.float(), data.truth[rows, 0].long()).backward()
        optimizer.step()
        if number >= 2 * WAKEN:
            seconds[way].append(batch_end - start)
            seconds["step"].append(time.perf_counter() - batch_end)
    return {name: statistics.median(values) for name, values in seconds.items()} | {
        "fit": fitted[0] - fitted[1],
        "scans": float(store.present.sum()),
    }
