"""`casewise predict` on synthetic films beside a plain torch loop with the same networks.

    python benchmarks/predict.py [--films 1000] [--side 512] [--folds 5] [--repeats 3] [--bundle BUNDLE]

Without `--bundle`, a planned study of chest phantoms is trained first: three baselines and one network for each fold,
with first weights that are random but read as pretrained ones, so that nothing is downloaded. The plain loop decodes
each film with Pillow, resizes it, applies every network in turn in single precision, in batches of 64, and averages
over the folds; the mirrored film is averaged where the bundle does so. Its networks are in memory before it begins, and
those of `predict` are not. Both take turns, and both predict every network. Times are printed, never asserted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

if TYPE_CHECKING:
    from casewise.inference.model import TrainedModel

BATCH, SUBJECTS, SIZE = 64, 40, 224


def made_bundle(folder: Path, folds: int) -> Path:
    """The bundle of a planned study of phantoms."""
    from safetensors.torch import save_file

    from casewise.models.encoders import build_encoder
    from casewise.plugins.phantoms.chest import make_chest
    from casewise.run import run
    from casewise.study.loading import build_study

    torch.manual_seed(0)
    state = build_encoder({"name": "mobilenet_v2"}, SIZE).network.body.state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "mobilenet_v2.safetensors")
    table = make_chest(folder / "training", subjects=SUBJECTS, size=(320, 320), seed=1)
    values = {
        "name": "predict",
        "synthetic": True,
        "cohort": table,
        "images": {"channels": "grey", "size": SIZE},
        "panels": {"by": "image"},
        "targets": {"label": ["covid", "no_finding", "pneumonia"]},
        "split": {"test": 0, "folds": folds},
        "weights_dir": str(folder),
        "budget": "1min",
        "audit": {"permutations": 99},
        "evaluation": {"bootstrap_resamples": 200, "response": False, "counterfactual_cases": 1},
    }
    return run(build_study(values, source="the benchmark", folder=folder), folder / "run", show=True).folder / "bundle"


def films(folder: Path, count: int, side: int) -> list[Path]:
    """Synthetic films as JPEG files; a few are drawn, and each file has its own noise."""
    from casewise.plugins.phantoms.chest import make_chest

    table = make_chest(folder / "drawn", subjects=20, size=(side, side), seed=2)
    drawn = []
    for name in pd.read_csv(table)["path"]:
        with Image.open(table.parent / name) as picture:
            drawn.append(np.asarray(picture.convert("L"), dtype=np.int16))
    random = np.random.default_rng(3)
    (folder / "films").mkdir()
    paths = []
    for number in range(count):
        film = drawn[number % len(drawn)]
        noisy = np.clip(film + random.normal(0, 3, film.shape), 0, 255).astype(np.uint8)
        paths.append(folder / "films" / f"film{number}.jpg")
        Image.fromarray(noisy).save(paths[-1], quality=90)
    return paths


class PlainLoop:
    """What a script without casewise would do with the same networks."""

    def __init__(self, model: TrainedModel) -> None:
        self.members = [(bundle, bundle.load().to(memory_format=torch.contiguous_format)) for bundle in model.members]
        self.size = int(model.members[0].settings["images"]["size"])

    def predict(self, paths: list[Path]) -> dict[str, np.ndarray]:
        """By learner the mean probabilities (N, K) over its folds."""
        batches: dict[str, list[Any]] = {bundle.model: [] for bundle, _ in self.members}
        with torch.inference_mode():
            for start in range(0, len(paths), BATCH):
                panels = torch.stack([self._panel(path) for path in paths[start : start + BATCH]])
                sums: dict[str, list[Any]] = {name: [] for name in batches}
                for bundle, network in self.members:
                    values = network(panels).softmax(1)
                    if bundle.settings["test_time_augmentation"]:
                        values = (values + network(panels.flip(-1)).softmax(1)) / 2
                    sums[bundle.model].append(values)
                for name, values in sums.items():
                    batches[name].append(torch.stack(values).mean(0))
        return {name: torch.cat(values).numpy() for name, values in batches.items()}

    def _panel(self, path: Path) -> torch.Tensor:
        with Image.open(path) as picture:
            film = picture.convert("L").resize((self.size, self.size), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(film).copy()).float().div(255).expand(3, -1, -1)


def predicted(bundle: Path, paths: list[Path], output: Path) -> None:
    """`casewise predict`, from the folder of the bundle to the file."""
    from casewise.inference.model import load_bundle
    from casewise.inference.prediction_file import predict_to_file

    table = pd.DataFrame({"path": [str(path) for path in paths], "subject": [path.stem for path in paths]})
    predict_to_file(load_bundle(bundle), table, output, learner="networks")


def differences(loop: dict[str, np.ndarray], output: Path) -> float:
    """The largest difference of a probability; the films are decoded at another scale."""
    rows = pd.read_parquet(output)
    names = [name for name in rows if name.startswith("probability of")]
    return max(
        float(np.abs(rows.loc[rows["learner"] == key, names] - values).max().max()) for key, values in loop.items()
    )


def main() -> None:
    """Measure and print."""
    from casewise.inference.model import load_bundle

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=1000)
    parser.add_argument("--side", type=int, default=512, help="pixels of a film")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bundle", type=Path, help="a bundle of grey images of one target of classes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = arguments.bundle or made_bundle(folder, arguments.folds)
        paths = films(folder, arguments.films, arguments.side)
        plain, output = PlainLoop(load_bundle(bundle)), folder / "new.parquet"
        seconds: dict[str, list[float]] = {"casewise predict": [], "plain torch loop": []}
        cpu: dict[str, list[float]] = {name: [] for name in seconds}
        predicted(bundle, paths[:1], output)  # libraries are loaded before the clock starts
        for _ in range(arguments.repeats):
            for name in seconds:
                start, before = time.perf_counter(), time.process_time()
                if name == "casewise predict":
                    predicted(bundle, paths, output)
                else:
                    loop = plain.predict(paths)
                seconds[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - before)
        largest = differences(loop, output)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"{len(paths):,} films of {arguments.side} px, {len(plain.members)} networks, {torch.get_num_threads()} threads"
    )
    for name, median in medians.items():
        print(f"  {name:<18}{median:>9.1f} s{statistics.median(cpu[name]):>9.1f} s of CPU")
    ratio, of_cpu = (
        statistics.median(b / a for a, b in zip(*values.values(), strict=True)) for values in (seconds, cpu)
    )
    print(f"  ratio {ratio:.1f} (aim: 4), of CPU {of_cpu:.1f}; largest difference of a probability {largest:.1e}")


if __name__ == "__main__":
    main()
