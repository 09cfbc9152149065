"""How seconds and memory of each step grow with the number of images: synthetic films of 64 pixels that look alike.

    python benchmarks/scale.py [COUNT ...] [--folder FOLDER]

Every subject has three films, as in real collections, and 2 % of the films are altered copies of films of other
subjects: `copies` also prints the share that is found, by alteration. Each step runs in a process of its own, so that
its peak memory can be measured. The exponent is the slope of the logarithm of seconds over the logarithm of the number
of films; 1 is linear.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from pages import parser_of, table
from PIL import Image
from speed import peak_memory

from casewise.audit.hashes import hash_store
from casewise.audit.shortcuts import find_shortcuts
from casewise.audit.twins import find_twins
from casewise.cohort.cohort import Cohort, read_cohort
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.store import TileStore
from casewise.modalities.store.store_builder import prepare
from casewise.study.loading import build_study
from casewise.study.schema import Study

SIDE, FILMS_OF_SUBJECT, COPIES, FILES_OF_FOLDER = 64, 3, 0.02, 1000


def _brightened(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip((film - 128.0) * rng.uniform(0.7, 1.3) + 128 + rng.uniform(-30, 30), 0, 255).astype(np.uint8)


def _recompressed(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(film).save(file, "JPEG", quality=int(rng.integers(50, 90)))
    return np.asarray(Image.open(file))


def _cropped(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    top, bottom, left, right = np.rint(rng.uniform(0.02, 0.06, 4) * SIDE).astype(int)
    return film[top : SIDE - bottom, left : SIDE - right]


def _cropped_deeply(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    top, left = rng.integers(0, SIDE // 4, 2)
    return film[top : top + 3 * SIDE // 4, left : left + 3 * SIDE // 4]


def _tilted(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    turn = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), rng.choice((-1, 1)) * rng.uniform(6, 12), 1)
    return cv2.warpAffine(film, turn, (SIDE, SIDE))


ALTERATIONS = {
    "brightened": _brightened, "recompressed": _recompressed, "cropped": _cropped,
    "cropped deeply": _cropped_deeply, "mirrored": lambda film, rng: film[:, ::-1], "tilted": _tilted,
}  # fmt: skip


def _texture(rng: np.random.Generator, strengths: dict[int, float]) -> np.ndarray:
    """The sum of smooth noises of these radii."""
    noises = {radius: cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)), (0, 0), radius) for radius in strengths}
    return np.sum([strengths[radius] * noise / noise.std() for radius, noise in noises.items()], axis=0)


def _film(number: int) -> np.ndarray:
    """A film: the same lungs, bones and frame in all, and detail of its own."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    lungs = np.exp(-(((np.abs(x) - 0.45) / 0.28) ** 4) - ((y / 0.75) ** 4))
    shared = 150 - 70 * lungs - 100 * (np.abs(x) > 0.93) + _texture(np.random.default_rng(0), {3: 30.0})
    film = shared + _texture(np.random.default_rng([7, number]), {1: 10.0, 2: 20.0})
    return np.clip(film, 0, 255).astype(np.uint8)


def make_films(folder: Path, count: int) -> Path:
    """Write the films and their table; column `original` has the row of a copy's film, −1 for other films."""
    rng = np.random.default_rng(1)
    originals = np.full(count, -1)
    chosen = rng.permutation(count)[: 2 * round(COPIES * count)]
    originals[chosen[: len(chosen) // 2]] = chosen[len(chosen) // 2 :]
    names, kinds = [], list(ALTERATIONS)
    for number, original in enumerate(originals):
        film = _film(int(original) if original >= 0 else number)
        if original >= 0:
            film = ALTERATIONS[kinds[number % len(kinds)]](film, rng)
        names.append(f"films/{number // FILES_OF_FOLDER}/{number}.png")
        (folder / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(film)).save(folder / names[-1], compress_level=1)
    subject = [f"P{number // FILMS_OF_SUBJECT:06}" for number in range(count)]
    columns = {"path": names, "subject": subject, "visit": np.arange(count) % FILMS_OF_SUBJECT, "original": originals}
    labels = rng.integers(0, 2, count // FILMS_OF_SUBJECT + 1)[np.arange(count) // FILMS_OF_SUBJECT]
    path = folder / "films.csv"
    pd.DataFrame(columns | {"label": np.array(["ill", "well"])[labels]}).to_csv(path, index=False)
    return path


def _inputs(folder: Path) -> tuple[Study, Cohort, TileStore]:
    """The study, its cohort and its tiles, which are made once."""
    values: dict[str, Any] = {"name": "scale", "cohort": str(folder / "films.csv"), "synthetic": True}
    values |= {"images": {"size": SIDE, "channels": "grey"}, "targets": {"label": ["ill", "well"]}}
    study = build_study(values | {"backbones": ["mobilenet_v2"]}, source="benchmark", folder=folder)
    cohort = read_cohort(study)
    paths = [Path(path) for path in cohort.images["path"].astype(str)]
    return study, cohort, prepare(paths, Preparation(size=SIDE, channels="grey"), folder / "tiles")


def _table(folder: Path) -> dict[str, float]:
    _inputs(folder)
    return {}


def _hashes(folder: Path) -> dict[str, float]:
    _, _, tiles = _inputs(folder)
    start = time.perf_counter()
    hash_store(tiles)
    return {"seconds": time.perf_counter() - start}


def _copies(folder: Path) -> dict[str, float]:
    _, cohort, tiles = _inputs(folder)
    start = time.perf_counter()
    twins = find_twins(tiles, cohort.images)
    spent, found = time.perf_counter() - start, {(twin.i, twin.j) for twin in twins}
    originals = pd.read_csv(folder / "films.csv")["original"]
    shares: dict[str, list[bool]] = {kind: [] for kind in ALTERATIONS}
    for row, original in originals[originals >= 0].items():
        shares[list(ALTERATIONS)[row % len(ALTERATIONS)]].append((min(row, original), max(row, original)) in found)
    return {"seconds": spent} | {kind: float(np.mean(hits)) for kind, hits in shares.items() if hits}


def _shortcuts(folder: Path) -> dict[str, float]:
    study, cohort, tiles = _inputs(folder)
    start = time.perf_counter()
    find_shortcuts(study, cohort, tiles)
    return {"seconds": time.perf_counter() - start}


# the first step makes what the others read
STEPS: dict[str, Callable[[Path], dict[str, float]]] = {
    "table and tiles": _table, "hashes": _hashes, "copies": _copies, "shortcuts": _shortcuts,
}  # fmt: skip


def _measured(step: str, folder: Path) -> dict[str, float]:
    """The figures of a step in a process of its own."""
    command = [sys.executable, __file__, "--alone", step, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _alone(step: str, folder: Path) -> None:
    start = time.perf_counter()
    figures = STEPS[step](folder)
    print(json.dumps({"seconds": time.perf_counter() - start, "MB": peak_memory()} | figures))


def main() -> None:
    """Measure each step for each number of films, and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=[1_000, 10_000, 100_000], metavar="COUNT")
    parser.add_argument("--folder", type=Path, help="where films are kept; by default they are deleted")
    parser.add_argument("--alone", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        _alone(options.alone, options.folder)
        return
    figures: dict[str, list[dict[str, float]]] = {step: [] for step in STEPS}
    with tempfile.TemporaryDirectory() as temporary:
        for count in options.counts:
            folder = (options.folder or Path(temporary)) / str(count)
            if not (folder / "films.csv").exists():
                make_films(folder, count)
            for step, measured in figures.items():
                measured.append(_measured(step, folder))
                print(f"{count:,} films, {step}:", json.dumps(measured[-1]), flush=True)
    logarithms = np.log(options.counts)
    rows = []
    for step, measured in figures.items():
        slope = np.polyfit(logarithms, np.log([each["seconds"] for each in measured]), 1)[0] if len(measured) > 1 else 0
        rows.append([step, *(f"{each['seconds']:.1f} s, {each['MB']:,.0f} MB" for each in measured), f"{slope:.2f}"])
    print("\n".join(table(["step", *(f"{count:,}" for count in options.counts), "exponent"], rows)))


if __name__ == "__main__":
    main()
