"""Preparation and training with SimpleITK and PyTorch alone: the other side of the benchmark of volumes."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from casewise.plugins.volumes.preprocess import Steps

SEQUENCES = ("T1", "T2")
CLASSES, BATCH, GRID = 3, 8, 3
WAKEN, SPARE = 3, 6
RATE = 0.0001


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def by_simpleitk(paths: Sequence[Path], steps: Steps) -> list[np.ndarray]:
    """Prepare the scans of one case with calls of SimpleITK: arrays (Z, Y, X), all on the grid of the first."""
    import SimpleITK as sitk  # noqa: N813

    from casewise.plugins.volumes.correction import CONDUCTANCE, ITERATIONS, STEP, shrink_factors

    grid, volumes = None, []
    for path in paths:
        image = sitk.DICOMOrient(sitk.ReadImage(str(path), sitk.sitkFloat32), "RAS")
        # The phantom's first scan has as many pixels as the plane, so it is not resampled.
        if grid is not None:
            image = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, 0.0)
        grid = grid or image
        factors = shrink_factors(image.GetSize(), steps.shrink)
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.Execute(sitk.Shrink(image, factors), sitk.Shrink(sitk.OtsuThreshold(image, 0, 1, 200), factors))
        image = image / sitk.Exp(n4.GetLogBiasFieldAsImage(image))
        diffusion = sitk.CurvatureAnisotropicDiffusionImageFilter()
        diffusion.SetNumberOfIterations(ITERATIONS)
        diffusion.SetConductanceParameter(CONDUCTANCE)
        diffusion.SetTimeStep(STEP)
        volumes.append(sitk.GetArrayFromImage(diffusion.Execute(image)))
    return volumes


def threads_of_simpleitk(threads: int) -> None:
    """Set the number of SimpleITK's threads."""
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def alone(paths: Sequence[Path], steps: Steps) -> None:
    """Prepare one case in a process of a pool; the arrays are discarded there."""
    threads_of_simpleitk(1)
    by_simpleitk(paths, steps)


def in_processes(cases: Sequence[Sequence[Path]], steps: Steps) -> None:
    """Prepare the scans of several cases in parallel, in processes of one thread each."""
    with get_context("spawn").Pool(cores()) as pool:
        pool.starmap(alone, [(paths, steps) for paths in cases], chunksize=1)


class Stacks:
    """A typical data set: a window of slices, standardised by its scan, flipped, rotated, arranged in a grid."""

    def __init__(self, stacks: list[np.ndarray], length: int) -> None:
        self.stacks, self.length = stacks, length
        self.middle = [stack.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float32) for stack in stacks]
        self.spread = [stack.std(axis=(0, 2, 3), keepdims=True, dtype=np.float32) for stack in stacks]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: int) -> Any:
        import torch

        case = row % len(self.stacks)
        stack = self.stacks[case]
        first = random.randint(0, len(stack) - GRID * GRID)
        window = stack[first : first + GRID * GRID].astype(np.float32)
        window = (window - self.middle[case]) / self.spread[case]
        if random.random() < 0.5:
            window = window[..., ::-1]
        return torch.from_numpy(as_grid(np.rot90(window, random.randint(0, 3), axes=(2, 3)))), row % CLASSES


def as_grid(window: np.ndarray) -> np.ndarray:
    """Slices (9, S, H, W) as a grid (S, 3·H, 3·W)."""
    _, channels, height, width = window.shape
    grid = window.reshape(GRID, GRID, channels, height, width).transpose(2, 0, 3, 1, 4)
    return np.ascontiguousarray(grid.reshape(channels, GRID * height, GRID * width))


def train_plainly(folder: str, backbone: str, steps: int, workers: int) -> dict[str, float]:
    """Panels a second of a plain loop after its first steps, and the number of its weights."""
    import timm
    import torch
    from torch.utils.data import DataLoader

    stacks = [np.load(path) for path in sorted(Path(folder).glob("case-*.npy"))]
    # Longer than the timed part, so that the workers are equally busy at its beginning and end.
    data: Any = Stacks(stacks, (WAKEN + steps + SPARE) * BATCH)
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=workers)
    torch.set_num_threads(cores())
    side = GRID * stacks[0].shape[-1]
    model = timm.create_model(backbone, img_size=side, in_chans=len(SEQUENCES), num_classes=CLASSES).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    criterion = torch.nn.CrossEntropyLoss()
    start = 0.0
    for number, (panels, truth) in enumerate(loader):
        if number == WAKEN:
            start = time.perf_counter()
        if number == WAKEN + steps:
            break
        optimizer.zero_grad()
        criterion(model(panels), truth).backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    return {"rate": steps * BATCH / seconds, "weights": sum(p.numel() for p in model.parameters())}
