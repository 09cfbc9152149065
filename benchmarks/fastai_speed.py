"""The speed at which casewise and fastai train all parameters of a network: images a second, measured in turn.

    python benchmarks/fastai_speed.py [--rounds 3]

The images are a few hundred real radiographs, or synthetic photographs if those are missing. Image size, batch size and
augmentation are the same. Each program runs in a separate process. Imports and fastai's first steps, in which its
workers fill their queues, are not timed. Figures are printed, never asserted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastai_user
from fastai_user import BATCH, CLASSES, CORES, SEED, SIDE

if TYPE_CHECKING:
    import pandas as pd

PACK = Path(__file__).resolve().parents[2] / "shared" / "data" / "covid-cxr"
# The aim for casewise's images a second divided by fastai's.
NETWORKS = {"mobilenet_v2": 3.0, "resnet34": 2.5}


def table_of(data: Path, folder: Path) -> tuple[pd.DataFrame, Path]:
    """Images with path, subject and label, and the folder that contains the paths."""
    import pandas as pd

    from casewise.phantoms.psoriasis import make_psoriasis

    if (data / "cases.csv").is_file():
        rows = pd.read_csv(data / "cases.csv", dtype=str, keep_default_na=False)
        return rows.loc[rows["label"].isin(CLASSES), ["path", "subject", "label"]], data
    print(f"{data / 'cases.csv'} does not exist; synthetic photographs are used.")
    rows = pd.read_csv(make_psoriasis(folder, subjects=40, visits=1, size=(320, 320), seed=1), dtype=str)
    named = dict(zip(sorted(set(rows["region"])), CLASSES, strict=True))
    return rows[["path", "subject"]].assign(label=rows["region"].map(named)), folder


def casewise(task: dict[str, Any]) -> dict[str, Any]:
    """Images a second in the second epoch of a job's training, all parameters trained as in fastai.

    `preparation_seconds`: those of one image in the tile store, which is built before and not part of the rate.
    """
    import pandas as pd
    import torch

    from casewise.modalities.dataset import PanelData, open_tiles
    from casewise.modalities.store.preparation import Preparation
    from casewise.modalities.store.store_builder import prepare
    from casewise.models.backbones import build_network
    from casewise.models.outputs import outputs_of, width_of
    from casewise.study.loading import build_study
    from casewise.training.compute_plan import choose
    from casewise.training.cost import keep_memory
    from casewise.training.loop import TrainingContext, fit, standardise

    keep_memory()
    torch.set_num_threads(CORES)
    flip = "both" if task["flip_vert"] else "horizontal"
    study = build_study(
        {
            "name": "fastai-speed",
            "cohort": "table",
            "images": {"size": SIDE, "channels": "grey"},
            "panels": {"by": "image", "augmentation": "fastai-default", "flip": flip},
            "targets": {"label": {"classes": list(CLASSES)}},
            "backbones": [task["network"]],
            "recipe": {
                "optimizer": "adamw",
                "lr": 3e-4,
                "weight_decay": 0.01,
                "batch_size": BATCH,
                "epochs": 2,
                "schedule": "constant",
                "early_stopping": {"monitor": "none"},
            },
            "compute": {"jobs": 1},
        },
        source=__file__,
        folder=Path(),
    )
    table = pd.read_parquet(task["table"])
    rows = [row % len(table) for row in range(task["images"])]
    truth = torch.tensor([[float(CLASSES.index(table["label"].iloc[row]))] for row in rows])
    outputs = outputs_of(study)
    network = build_network(task["network"], width_of(outputs), dropout=study.recipe.dropout)
    standardise(network, truth, outputs)
    memo = Path(task["memo"]) if task.get("memo") else None
    choice = choose(network, study.compute, side=SIDE, batch=BATCH, threads=CORES, memo=memo)
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        tiles = Path(temporary) / "tiles"
        start = time.perf_counter()
        store = prepare(
            [Path(task["data"]) / path for path in table["path"]], Preparation(size=SIDE, channels="grey"), tiles
        )
        preparation = (time.perf_counter() - start) / len(table)
        train = PanelData(open_tiles(tiles, store.address), [[row] for row in rows], truth, study.panels)
        fit(
            network,
            study.recipe,
            train,
            PanelData(train.store, train.tiles[:1], truth[:1], study.panels),
            TrainingContext(
                outputs,
                Path(temporary),
                SEED,
                choice,
                tell=lambda *_: ends.append(time.perf_counter()),
                keep="last",
            ),
        )
    form = "channels-last" if choice.channels_last else "contiguous"
    rate = task["images"] / (ends[1] - ends[0])
    return {
        "rate": rate,
        "way": f"{choice.precision} {form}",
        "step_seconds": choice.step_seconds,
        "preparation_seconds": preparation,
    }


def main() -> None:
    """Measure both programs in turn and print their images a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--flip-vert",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fastai's vertical flip, which includes quarter turns",
    )
    parser.add_argument("--data", type=Path, default=PACK)
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(casewise(options.task)))
        return
    if not fastai_user.ready():
        return
    images = max(BATCH, options.images // BATCH * BATCH)
    print(f"{CORES} cores, {images} images of {SIDE} px in batches of {BATCH}, flip_vert={options.flip_vert}")
    with tempfile.TemporaryDirectory() as temporary:
        table, data = table_of(options.data, Path(temporary))
        rows = Path(temporary) / "table.parquet"
        table.sample(min(images, len(table)), random_state=SEED).reset_index(drop=True).to_parquet(rows)
        print(f"  {'images/s':<24}{'casewise':>9}{'fastai':>8}")
        for network, aim in NETWORKS.items():
            task = {"table": str(rows), "data": str(data), "images": images, "network": network}
            task["flip_vert"] = options.flip_vert
            fastai_rates, casewise_rates = [], []
            for _ in range(options.rounds):
                fastai_rates.append(fastai_user.in_own_process(fastai_user.__file__, task | {"way": "speed"})["rate"])
                result = fastai_user.in_own_process(__file__, task)
                casewise_rates.append(result["rate"])
            gain = statistics.median(
                casewise_rate / fastai_rate
                for casewise_rate, fastai_rate in zip(casewise_rates, fastai_rates, strict=True)
            )
            line = f"  {network:<24}{statistics.median(casewise_rates):>9.1f}{statistics.median(fastai_rates):>8.1f}"
            print(f"{line}   casewise ({result['way']}) is {gain:.1f} times as fast (aim: {aim:g})", flush=True)


if __name__ == "__main__":
    main()
