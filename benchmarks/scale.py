"""How seconds and memory of each step of a run grow with the number of images.

    python benchmarks/scale.py [COUNT ...] [--recall COUNT ...] [--folder FOLDER] [--output PAGE]

# Time and memory of a run, by the number of images

Synthetic films of {side} pixels that look alike, three a subject, as in real collections. {copies:.0%} are altered
copies of films of other subjects. A planned study with frozen baselines, no network and a budget of an hour runs to its
report; its model then predicts a tenth of the films. Each run has a process of its own. Steps are those that the run
reports, without the steps within them; "seeds" are further trainings, which a run has only where they take a tenth of
its budget at most, and which "all" leaves out. The exponent is the difference of the logarithms of CPU seconds over the
difference of the logarithms of the numbers of films; 1 is linear. The peak memory of a step includes what earlier steps
keep.

{tables}
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from pages import head_of, page_parser, publish, table
from PIL import Image
from speed import peak_memory

from casewise.audit.twins import find_twins
from casewise.cohort.cohort import read_cohort
from casewise.console import Bar, Silent
from casewise.inference.model import load_bundle
from casewise.inference.output_table import predict_to_file
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.store_builder import prepare
from casewise.run import run
from casewise.study.loading import build_study
from casewise.study.schema import Study

SIDE, FILMS_OF_SUBJECT, COPIES, FILES_OF_FOLDER = 64, 3, 0.02, 1000
MISSING = "–"
# The step of further trainings.
FURTHER = "seeds"
# The planted copies are findings of the audit.
ACCEPTED = dict.fromkeys(("twins-across-subjects", "twins-across-splits", "twins-across-labels"), "planted")


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
    """Write the films and their table, and in `copies.csv` the row of each copy and of its film."""
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
    columns = {"path": names, "subject": subject, "visit": np.arange(count) % FILMS_OF_SUBJECT}
    copies = np.flatnonzero(originals >= 0)
    pd.DataFrame({"copy": copies, "original": originals[copies]}).to_csv(folder / "copies.csv", index=False)
    labels = rng.integers(0, 2, count // FILMS_OF_SUBJECT + 1)[np.arange(count) // FILMS_OF_SUBJECT]
    path = folder / "films.csv"
    pd.DataFrame(columns | {"label": np.array(["ill", "well"])[labels]}).to_csv(path, index=False)
    return path


def _study(folder: Path) -> Study:
    values: dict[str, Any] = {"name": "scale", "cohort": str(folder / "films.csv"), "synthetic": True}
    values |= {"images": {"size": SIDE, "channels": "grey"}, "targets": {"label": ["ill", "well"]}}
    values |= {"recipe": "auto", "backbones": [], "encoders": ["mobilenet_v2"], "budget": "60 min", "accept": ACCEPTED}
    return build_study(values, source="benchmark", folder=folder)


def _processes() -> list[Path]:
    """This process and the workers below it."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            found[path] = int(_after_name(path)[1])
    own = [Path("/proc") / str(os.getpid())]
    for process in own:
        own += [path for path, parent in found.items() if str(parent) == process.name]
    return own


def _after_name(process: Path) -> list[str]:
    """The fields of `/proc/PID/stat` after the name: state, parent, ..., seconds in ticks."""
    return (process / "stat").read_text().rpartition(")")[2].split()


class _Watch:
    """A `Show` that measures steps by name, each without the steps within it: seconds, CPU seconds and peak MB.

    Workers count as well; the peak is the sum of the peaks of the processes.
    """

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, float]] = {}
        self._within = ["other"]
        self._began = time.perf_counter(), self._restart()[0]

    def _restart(self) -> tuple[float, float]:
        """The CPU seconds and the peak MB of all processes; their peaks begin again."""
        ticks, memory = 0, 0.0
        for process in _processes():
            with suppress(OSError):
                ticks += sum(map(int, _after_name(process)[11:15]))  # with the processes that have ended
                memory += peak_memory(process)
                (process / "clear_refs").write_text("5")
        return ticks / os.sysconf("SC_CLK_TCK"), memory

    def _end(self) -> None:
        (began, before), now = self._began, time.perf_counter()
        used, memory = self._restart()
        step = self.steps.setdefault(self._within[-1], {"seconds": 0.0, "CPU": 0.0, "MB": 0.0})
        step["seconds"] += now - began
        step["CPU"] += used - before
        step["MB"] = max(step["MB"], memory)
        self._began = now, used

    def line(self, step: str, text: str) -> None:
        """Write a line to stderr."""
        print(f"{step:>10} {text}", file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, step: str) -> Iterator[Bar]:
        """A step, and the parts of the audit; what further trainings report is theirs."""
        self._end()
        self._within.append(FURTHER if FURTHER in self._within else step)

        def update(done: float, total: float, text: str = "") -> None:
            part = "audit: copies" if "copies" in text else "audit: shortcuts"
            if step == "audit" and part != self._within[-1]:
                self._end()
                self._within[-1] = part

        try:
            yield update
        finally:
            self._end()
            self._within.pop()


def _run(folder: Path) -> dict[str, dict[str, float]]:
    """The figures of each step of a run, and of a prediction."""
    watch, cases = _Watch(), folder / "new.csv"
    run(_study(folder), folder / "run", show=watch)
    films = pd.read_csv(folder / "films.csv")
    films[: len(films) // 10].drop(columns="label").to_csv(cases, index=False)
    with watch.bar("predict"):
        predict_to_file(load_bundle(folder / "run"), [cases], folder / "predictions.csv", show=Silent())
    return watch.steps


def _recall(folder: Path) -> dict[str, dict[str, float]]:
    """The share of copies found by alteration, and the pairs of other films, with and without an index."""
    cohort, copies = read_cohort(_study(folder)), pd.read_csv(folder / "copies.csv")
    paths = [Path(path) for path in cohort.images["path"].astype(str)]
    tiles = prepare(paths, Preparation(size=SIDE, channels="grey"), folder / "tiles")
    pairs = [(min(pair), max(pair)) for pair in copies.to_numpy().tolist()]
    kind = np.array(list(ALTERATIONS))[copies["copy"] % len(ALTERATIONS)]
    figures = {}
    for method, exact in (("all with all", len(tiles)), ("index", 0)):
        began = sum(os.times()[:4])
        found = {(twin.i, twin.j) for twin in find_twins(tiles, cohort.images, exact=exact)}
        spent, hits = sum(os.times()[:4]) - began, np.array([pair in found for pair in pairs])
        figures[method] = {name: float(hits[kind == name].mean()) for name in ALTERATIONS}
        figures[method] |= {"other pairs": len(found - set(pairs)), "CPU": spent}
    return figures


def _alone(task: str, folder: Path) -> dict[str, dict[str, float]]:
    """The figures of a task in a process of its own."""
    command = [sys.executable, __file__, "--alone", task, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    print(folder.name, task, json.dumps(figures), flush=True)
    return figures


def _steps_table(counts: list[int], runs: list[dict[str, dict[str, float]]]) -> list[str]:
    """Seconds, memory and exponents of each step."""
    for steps in runs:
        each = pd.DataFrame([figures for step, figures in steps.items() if step != FURTHER])
        steps["all"] = {"seconds": each["seconds"].sum(), "CPU": each["CPU"].sum(), "MB": each["MB"].max()}
    rows = []
    for name in dict.fromkeys(name for steps in runs for name in steps):
        measured = [steps.get(name) for steps in runs]
        cells = [
            f"{each['seconds']:.1f} s, CPU {each['CPU']:.1f} s, {each['MB']:,.0f} MB" if each else MISSING
            for each in measured
        ]
        spent = [max(each["CPU"], 0.01) if each else math.nan for each in measured]
        slopes = np.diff(np.log(spent)) / np.diff(np.log(counts))
        rows.append([name, *cells, *(MISSING if np.isnan(slope) else f"{slope:.2f}" for slope in slopes)])
    exponents = [f"exponent {small:,} to {large:,}" for small, large in pairwise(counts)]
    return table(["step", *(f"{count:,} films" for count in counts), *exponents], rows)


def _recall_table(count: int, figures: dict[str, dict[str, float]]) -> list[str]:
    rows = []
    for method, found in figures.items():
        shares = (f"{found[name]:.0%}" for name in ALTERATIONS)
        rows.append([method, *shares, f"{found['other pairs']:.0f}", f"{found['CPU']:.0f} s"])
    heads = ["search", *ALTERATIONS, "pairs of other films", "CPU"]
    return [f"## Copies found among {count:,} films", "", *table(heads, rows), ""]


def main() -> None:
    """Measure a run for each number of films, and write the page."""
    parser = page_parser(__doc__.partition("\n#")[0])
    parser.add_argument("counts", nargs="*", type=int, default=[1_000, 10_000, 100_000], metavar="COUNT")
    parser.add_argument("--recall", nargs="*", type=int, default=[], metavar="COUNT", help="compare the searches")
    parser.add_argument("--folder", type=Path, help="where films and runs are kept; by default they are deleted")
    parser.add_argument("--alone", choices=("run", "recall"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps({"run": _run, "recall": _recall}[options.alone](options.folder)))
        return
    load, lines = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as temporary:

        def figures(task: str, count: int) -> dict[str, dict[str, float]]:
            folder = (options.folder or Path(temporary)) / str(count)
            if not (folder / "films.csv").exists():
                make_films(folder, count)
            return _alone(task, folder)

        for count in options.recall:
            lines += _recall_table(count, figures("recall", count))
        lines = [*_steps_table(options.counts, [figures("run", count) for count in options.counts]), "", *lines]
    lines.append(f"{os.cpu_count()} cores; {load:.1f} other processes were at work when the measurement began.")
    publish(head_of(__doc__, side=SIDE, copies=COPIES, tables="\n".join(lines)), options.output)


if __name__ == "__main__":
    main()
