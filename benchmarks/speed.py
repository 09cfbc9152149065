"""The speed and memory of single steps, each beside a simple script for the same work.

    python benchmarks/speed.py [start] [ingest] [predict] [--rounds 3] [--short]

`start`: whole processes of `casewise --help` and `import casewise`. `ingest`: tiles of synthetic JPEGs of 4928 x 3264
pixels, beside open, convert and resize with Pillow in as many processes. `predict`: the networks of a planned model
of chest phantoms on new films, without its baselines, beside a loop that decodes with Pillow, resizes, applies every
network in turn in single precision, and averages; its networks are in memory before.

Sides take turns, and ratios are medians over rounds. `--short` takes a tenth of the images. Times are printed, never
asserted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pages import parser_of
from PIL import Image

from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.store_builder import prepare

if TYPE_CHECKING:
    import torch

    from casewise.inference.model import TrainedModel

HEAVY = ("torch", "torchvision", "timm", "pandas", "numpy", "scipy", "sklearn", "PIL", "cv2", "matplotlib")
WORKERS = 2
# `ingest`: side of a tile, photographs, those of the build whose memory is measured
WIDTH, HEIGHT, TILE, PHOTOGRAPHS, BUILT = 4928, 3264, 128, 24, 240
# `predict`: side of a panel, panels of a batch, new films, their side, and the folds of the model
SIZE, BATCH, NEW, NEW_SIDE, FOLDS, NETWORK = 224, 32, 1000, 512, 5, "mobilenet_v2"
FILMS_STUDY: dict[str, Any] = {"images": {"size": SIZE, "channels": "grey"}, "panels": {"by": "image"}}
FILMS_STUDY |= {"targets": {"label": ["covid", "no_finding", "pneumonia"]}}


def seconds(run: Callable[[], object]) -> float:
    """The wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_own_process(step: str, *arguments: Any) -> dict[str, float]:
    """The result of a step (`ALONE`) in a process of its own, so that its memory can be measured."""
    command = [sys.executable, __file__, "--alone", step, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def peak_memory(process: Path = Path("/proc/self")) -> float:
    """The peak resident memory of a process in MB (Linux)."""
    # getrusage would include the memory of the parent before exec
    status = (process / "status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024


# start


def measure_start(options: argparse.Namespace) -> None:
    """Print the seconds of whole processes."""
    commands = {
        "casewise --help": [sys.executable, "-m", "casewise.cli.main", "--help"],
        "python -c pass": [sys.executable, "-c", "pass"],
        "import casewise": [sys.executable, "-c", "import casewise"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(1 + 5 * options.rounds):
        for name, command in commands.items():
            times[name].append(seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)))  # noqa: B023
    # the first round fills the page cache; each import minus the plain start beside it, because other load slows both
    bare = times["python -c pass"][1:]
    alone = statistics.median(a - b for a, b in zip(times["import casewise"][1:], bare, strict=True))
    print(f"casewise --help {statistics.median(times['casewise --help'][1:]):.3f} s (aim: 0.3)")
    print(f"import casewise {alone:.3f} s without the start of Python (aim: 0.15)")
    code = f"import json, sys, casewise.cli.main; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    heavy = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    print(f"  the command line loads {', '.join(heavy) or 'no heavy package'} (aim: no torch)")


# ingest


def photograph(seed: int, folder: Path) -> Path:
    """Write one synthetic photograph of 3 to 5 MB: broad shading, skin-like texture and sensor noise."""
    rng = np.random.default_rng(seed)

    def layer(rows: int, columns: int, low: int, high: int) -> np.ndarray:
        cells = rng.integers(low, high, (rows, columns, 3), dtype=np.uint8)
        return np.asarray(Image.fromarray(cells).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)

    noise = rng.normal(0, 5, (HEIGHT // 2, WIDTH // 2, 1)).astype(np.int16)
    pixels = layer(17, 25, 60, 220) + layer(HEIGHT // 12, WIDTH // 12, 0, 60) - 30 + np.tile(noise, (2, 2, 1))
    path = folder / f"synthetic-{seed:04d}.jpg"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=88)
    return path


def with_pillow(path: Path, resample: Image.Resampling = Image.Resampling.LANCZOS) -> bytes:
    """Open, convert and resize, keeping the ratio; loading first prevents decoding at a reduced size."""
    image = Image.open(path).convert("RGB")
    scale = TILE / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), resample).tobytes()


def build(listing: str, folder: str) -> dict[str, float]:
    """Prepare the images of a list, in this process."""
    paths = [Path(line) for line in Path(listing).read_text().splitlines()]
    spent = seconds(lambda: prepare(paths, Preparation(), Path(folder), processes=WORKERS))
    return {"seconds": spent, "peak": peak_memory()}


def measure_ingest(options: argparse.Namespace) -> None:
    """Print images a second and the peak memory of a build."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, listing = Path(temporary), Path(temporary) / "paths.txt"
        paths = [photograph(seed, folder) for seed in range(max(2, options.share(PHOTOGRAPHS)))]
        rates: dict[str, list[float]] = {"casewise": [], "Pillow, Lanczos": [], "Pillow, bicubic": []}
        with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
            list(pool.map(with_pillow, paths[:WORKERS]))  # starts the workers
            for turn in range(options.rounds):
                ways: tuple[Callable[[], object], ...] = (
                    lambda turn=turn: prepare(paths, Preparation(), folder / f"{turn}", processes=WORKERS),  # type: ignore[misc]
                    lambda: list(pool.map(with_pillow, paths)),
                    # Pillow's default filter is faster
                    lambda: list(pool.map(partial(with_pillow, resample=Image.Resampling.BICUBIC), paths)),
                )
                for own, way in zip(rates.values(), ways, strict=True):
                    own.append(len(paths) / seconds(way))
        print(f"{len(paths)} synthetic JPEGs of {WIDTH} x {HEIGHT}, {WORKERS} workers")
        for name, own in rates.items():
            gain = statistics.median(a / b for a, b in zip(rates["casewise"], own, strict=True))
            ratio = "" if name == "casewise" else f"   casewise is {gain:.1f} times as fast (aim: 4)"
            print(f"  {name:<18}{statistics.median(own):7.1f} images/s{ratio}")
        count = options.share(BUILT)
        listing.write_text("\n".join(str(paths[n % len(paths)]) for n in range(count)))
        built = in_own_process("build", listing, folder / "memory")
        print(f"build of {count:,}: peak memory {built['peak']:.0f} MB (aim: 1,500)")


# predict


def planned_bundle(folder: Path, folds: int) -> Path:
    """The bundle of a planned study of phantoms; first weights are random but read as pretrained ones."""
    import torch
    from safetensors.torch import save_file

    from casewise.models.encoders import build_encoder
    from casewise.plugins.phantoms.chest import make_chest
    from casewise.run import run
    from casewise.study.loading import build_study

    torch.manual_seed(0)
    state = build_encoder({"name": NETWORK}, SIZE).network.body.state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{NETWORK}.safetensors")
    table = make_chest(folder / "training", subjects=40, size=(320, 320), seed=1)
    values = FILMS_STUDY | {"name": "predict", "synthetic": True, "cohort": table, "weights_dir": str(folder)}
    values |= {"split": {"test": 0, "folds": folds}, "budget": "1min", "audit": {"permutations": 99}}
    values |= {"evaluation": {"bootstrap_resamples": 200, "response": False, "counterfactual_cases": 1}}
    return run(build_study(values, source="the benchmark", folder=folder), folder / "run", show=False).folder / "bundle"


def new_films(folder: Path, count: int) -> list[Path]:
    """Synthetic films as JPEG files; a few are drawn, and each file has its own noise."""
    import pandas as pd

    from casewise.plugins.phantoms.chest import make_chest

    table = make_chest(folder / "drawn", subjects=20, size=(NEW_SIDE, NEW_SIDE), seed=2)
    names = pd.read_csv(table)["path"]
    drawn = [np.asarray(Image.open(table.parent / name).convert("L"), dtype=np.int16) for name in names]
    random, paths = np.random.default_rng(3), []
    for number in range(count):
        film = drawn[number % len(drawn)]
        paths.append(folder / f"film{number}.jpg")
        noisy = np.clip(film + random.normal(0, 3, film.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(paths[-1], quality=90)
    return paths


# The start of a script without casewise: it reads the files of weights that are its arguments.
PLAIN_START = """
import sys, torch, torchvision
from safetensors.torch import load_file
for path in sys.argv[1:]:
    network = torchvision.models.mobilenet_v2()
    body = {name.removeprefix("body."): values for name, values in load_file(path).items()}
    network.load_state_dict(body, strict=False)
"""


class PlainLoop:
    """A script without casewise for the same networks."""

    def __init__(self, model: TrainedModel) -> None:
        import torch

        chosen = [bundle for bundle in model.members if bundle.model == NETWORK]
        self.files = [str(bundle.folder / "model.safetensors") for bundle in chosen]
        self.networks = [bundle.load().to(memory_format=torch.contiguous_format) for bundle in chosen]
        self.size = int(chosen[0].settings["images"]["size"])
        self.mirrors = bool(chosen[0].settings["test_time_augmentation"])

    def predict(self, paths: list[Path]) -> np.ndarray:
        """The mean probabilities (N, K) over the networks."""
        import torch

        batches = []
        with torch.inference_mode():
            for start in range(0, len(paths), 2 * BATCH):
                panels = torch.stack([self._panel(path) for path in paths[start : start + 2 * BATCH]])
                views = [panels, panels.flip(-1)] if self.mirrors else [panels]
                batches.append(torch.stack([net(view).softmax(1) for net in self.networks for view in views]).mean(0))
        return torch.cat(batches).numpy()

    def _panel(self, path: Path) -> torch.Tensor:
        import torch

        film = Image.open(path).convert("L").resize((self.size, self.size), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(film).copy()).float().div(255).expand(3, -1, -1)


def _run_quietly(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure_predict(options: argparse.Namespace) -> None:
    """Print the seconds of `casewise predict` and of the loop, and the largest difference of a probability."""
    import pandas as pd

    from casewise.inference.model import load_bundle
    from casewise.inference.output_table import predict_to_file

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = planned_bundle(folder, FOLDS if options.share(FOLDS) == FOLDS else 2)
        paths, output = new_films(folder, options.share(NEW)), folder / "new.parquet"
        plain = PlainLoop(load_bundle(bundle))

        def predict(chosen: list[Path]) -> None:
            table = pd.DataFrame({"path": [str(path) for path in chosen], "subject": [path.stem for path in chosen]})
            predict_to_file(load_bundle(bundle), table, output, learner=NETWORK)

        predict(paths[:1])  # libraries are loaded before the clock starts
        words = ["predict", str(bundle), str(paths[0]), "--output", str(folder / "one.csv"), "--learner", NETWORK]
        one_film = [sys.executable, "-m", "casewise.cli.main", *words, "--quiet"]
        script = [sys.executable, "-c", PLAIN_START, *plain.files]
        own, other, starts = [], [], []
        for _ in range(options.rounds):
            starts.append([seconds(partial(_run_quietly, command)) for command in (one_film, script)])
            own.append(seconds(lambda: predict(paths)))
            start = time.perf_counter()
            values = plain.predict(paths)
            other.append(time.perf_counter() - start)
        rows = pd.read_parquet(output)
    names = [name for name in rows if name.startswith("probability of")]
    largest = float(np.abs(rows[names] - values).max().max())
    ratio = statistics.median(b / a for a, b in zip(own, other, strict=True))
    print(f"predict, {len(paths):,} films of {NEW_SIDE} px, {len(plain.networks)} networks")
    ours, plainly = (statistics.median(column) for column in zip(*starts, strict=True))
    excess = statistics.median(a / b for a, b in starts)
    print(f"  start: casewise {ours:.1f} s, plain script {plainly:.1f} s, {excess:.2f} times as long (aim: 5 s)")
    times = f"casewise {statistics.median(own):.1f} s, plain loop {statistics.median(other):.1f} s"
    print(f"  {times}: {ratio:.1f}× (aim: 4)")
    milliseconds = [1000 * statistics.median(each) / len(paths) for each in (own, other)]
    slower = statistics.median(a / b for a, b in zip(own, other, strict=True))
    by_image = f"casewise {milliseconds[0]:.0f} ms, plain loop {milliseconds[1]:.0f} ms"
    print(f"  an image: {by_image}, {slower:.2f} times as long (aim: 1.5)")
    # films are decoded at another scale
    print(f"  largest difference of a probability {largest:.1e}")


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "start": measure_start,
    "ingest": measure_ingest,
    "predict": measure_predict,
}
ALONE: dict[str, Callable[..., dict[str, float]]] = {"build": build}


def main() -> None:
    """Measure the requested parts and print."""
    parser = parser_of(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; by default all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="a tenth of the images")
    parser.add_argument("--alone", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        step, *arguments = options.alone
        print(json.dumps(ALONE[step](*arguments)))
        return
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}.")
    options.share = lambda count: max(1, count // 10) if options.short else count
    from users import warn_if_busy

    warn_if_busy()
    for part in options.parts or PARTS:
        print(f"\n{part}", flush=True)
        PARTS[part](options)


if __name__ == "__main__":
    main()
