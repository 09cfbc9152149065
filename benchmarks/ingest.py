"""The speed of preparing tiles from photographs, compared with plain Pillow, and of opening a finished store.

    python benchmarks/ingest.py [--images 24] [--rounds 5] [--memory-images 240]

Synthetic 4928 x 3264 JPEGs are written to a temporary folder. `prepare` and open → convert → resize with Pillow run in
turn with the same number of workers, each on every image in every round. Times are printed, never asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, SIDE = 4928, 3264, 128
WORKERS = 2
STORE = 2700


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


def plain(path: Path) -> bytes:
    """Open, convert and resize with Pillow, keeping the ratio; loading first prevents decoding at a reduced size."""
    image = Image.open(path).convert("RGB")
    scale = SIDE / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS).tobytes()


def plain_bicubic(path: Path) -> bytes:
    """The same with Pillow's default filter, which is faster."""
    image = Image.open(path).convert("RGB")
    scale = SIDE / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale))).tobytes()


def seconds(run: Callable[[], object]) -> float:
    """The wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(paths: list[Path], folder: Path, rounds: int) -> dict[str, list[float]]:
    """Images per second of each method, one value per round, in turn."""
    from casewise.modalities.store.preparation import Preparation
    from casewise.modalities.store.store_builder import prepare

    rates: dict[str, list[float]] = {"casewise": [], "Pillow, Lanczos": [], "Pillow, bicubic": []}
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        # start the workers and fill the page cache before measuring
        list(pool.map(plain, paths[:WORKERS]))
        for path in paths:
            path.read_bytes()
        for turn in range(rounds):
            target = folder / f"store-{turn}"
            ours = seconds(lambda target=target: prepare(paths, Preparation(), target, processes=WORKERS))  # type: ignore[misc]
            lanczos = seconds(lambda: list(pool.map(plain, paths)))
            bicubic = seconds(lambda: list(pool.map(plain_bicubic, paths)))
            for name, spent in zip(rates, (ours, lanczos, bicubic), strict=True):
                rates[name].append(len(paths) / spent)
    return rates


def peak_memory() -> float:
    """The peak resident memory of this process in MB; the build has no child processes."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would include the memory of the parent before exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def build_and_report(listing: Path, folder: Path) -> None:
    """Prepare the listed paths and print the time spent and the peak memory."""
    from casewise.modalities.store.preparation import Preparation
    from casewise.modalities.store.store_builder import prepare

    paths = [Path(line) for line in listing.read_text().splitlines()]
    imported = peak_memory()
    spent = seconds(lambda: prepare(paths, Preparation(), folder, processes=WORKERS))
    print(json.dumps({"seconds": spent, "peak_mb": peak_memory(), "imported_mb": imported}))


def in_own_process(paths: list[Path], folder: Path, store: str) -> dict[str, float]:
    """Run `build_and_report` in a separate process, so that its memory can be measured."""
    listing = folder / "paths.txt"
    listing.write_text("\n".join(map(str, paths)))
    command = [sys.executable, __file__, "--build", str(listing), str(folder / store)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
    result: dict[str, float] = json.loads(done.stdout)
    return result


def small_images(folder: Path) -> list[Path]:
    """As many small images as a finished store has entries."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"{number:04d}.jpg" for number in range(STORE)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (16, 24, 3), dtype=np.uint8)).save(path)
    return paths


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24, help="synthetic photographs to make")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-images", type=int, default=240, help="photographs in the measured build")
    parser.add_argument("--build", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        build_and_report(*options.build)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with ThreadPoolExecutor(WORKERS) as pool:
            paths = list(pool.map(lambda seed: photograph(seed, folder), range(options.images)))
        size = statistics.mean(path.stat().st_size for path in paths) / 1e6
        print(f"{len(paths)} synthetic JPEGs of {WIDTH} x {HEIGHT}, {size:.1f} MB each; {WORKERS} workers")
        rates = compare(paths, folder, options.rounds)
        for name, own in rates.items():
            # by round, because other load slows both methods
            gain = statistics.median(ours / rate for ours, rate in zip(rates["casewise"], own, strict=True))
            ratio = "" if name == "casewise" else f"   casewise is {gain:.1f} times as fast (aim: 4)"
            print(f"  {name:<18}{statistics.median(own):7.1f} images/s{ratio}")
        many = [paths[number % len(paths)] for number in range(options.memory_images)]
        built = in_own_process(many, folder, "store-memory")
        print(
            f"build of {len(many):,}: {built['seconds']:.1f} s, peak memory {built['peak_mb']:.0f} MB "
            f"({built['imported_mb']:.0f} before it began; aim: 1,500)"
        )
        small = small_images(folder / "small")
        in_own_process(small, folder, "store-small")
        opened = statistics.median(in_own_process(small, folder, "store-small")["seconds"] for _ in range(3))
        print(f"opening a finished store of {STORE:,}: {opened:.3f} s in a fresh process (aim: 0.2)")


if __name__ == "__main__":
    main()
