"""Typical code of a fastai user: a learner from a table, the training of a fold, and its speed, in separate processes.

`ImageDataLoaders` of a table with a column of held-out rows, `Resize(224)`, `aug_transforms`, ImageNet's `Normalize`,
`vision_learner` from the given weights, `fine_tune`, and the last epoch's network. fastai's vertical flip, which the
published study used, includes quarter turns. fastai is installed with `pip install 'casewise[bench]'`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CORES, WORKERS, BATCH, SIDE, WARM, SEED = 2, 2, 32, 224, 2, 0
CLASSES = ("covid", "no_finding", "pneumonia")


def ready() -> bool:
    """Whether fastai is installed; limit this process to `CORES`, and warn of other load."""
    if not find_spec("fastai"):
        print("fastai is not installed: pip install 'casewise[bench]'. Nothing was measured.")
        return False
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    from casewise.plugins.bench.cpu import warn_if_busy

    warn_if_busy()
    return True


def in_own_process(script: str, task: dict[str, Any]) -> dict[str, Any]:
    """Run a task of a script (`script --task JSON`) in a separate process; return the JSON of its last line."""
    # Importing fastai warns of features that PyTorch will remove.
    command = [sys.executable, "-W", "ignore::FutureWarning", script, "--task", json.dumps(task)]
    completed = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if completed.returncode:
        raise SystemExit(f"{' '.join(command)} failed; see above.")
    result: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    return result


def make_learner(
    rows: Any,
    data: str,
    network: str,
    weights: str | None,
    *,
    flip_vert: bool,
    numbers: bool = False,
    workers: int | None = None,
) -> Any:
    """A fastai user's learner from a table with the columns path, label and is_valid; labels are classes or numbers.

    `workers`: the processes that read images, fastai's default if None.
    """
    from fastai.vision import all as fastai
    from torchvision import models

    def network_of(pretrained: bool = False, **_: Any) -> Any:
        from safetensors.torch import load_file

        model = models.get_model(network, weights=None)
        if pretrained:
            model.load_state_dict(load_file(str(weights)))
        return model

    # fastai has the cut of ResNets; for other networks its users state it here.
    meta = fastai.model_meta.get(getattr(models, network), {"cut": -1, "split": fastai.default_split})
    fastai.model_meta[network_of] = {"cut": meta["cut"], "split": meta["split"]}
    loaders = fastai.ImageDataLoaders.from_df(
        rows,
        path=data,
        fn_col="path",
        label_col="label",
        valid_col="is_valid",
        y_block=fastai.RegressionBlock() if numbers else None,
        item_tfms=fastai.Resize(SIDE),
        batch_tfms=[*fastai.aug_transforms(flip_vert=flip_vert), fastai.Normalize.from_stats(*fastai.imagenet_stats)],
        bs=BATCH,
        seed=SEED,
        **({} if workers is None else {"num_workers": workers}),
    )
    metrics = [fastai.mae] if numbers else [fastai.accuracy, *([fastai.RocAuc()] if loaders.c > 2 else [])]
    return fastai.vision_learner(loaders, network_of, pretrained=bool(weights), metrics=metrics)


def train(task: dict[str, Any]) -> dict[str, Any]:
    """Train one fold, write the held-out predictions, and return the seconds and the images a second."""
    import pandas as pd
    import torch
    from fastai.vision.all import Callback, set_seed

    from casewise.files import parquet_bytes, write_atomic

    class Clock(Callback):
        """The seconds of the training part of each epoch; prints the progress."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def before_train(self) -> None:
            self.start = time.perf_counter()

        def after_train(self) -> None:
            self.seconds.append(time.perf_counter() - self.start)
            progress = f"  fold {task['fold']}, epoch {len(self.seconds)}: {self.seconds[-1]:.0f} s"
            print(progress, file=sys.stderr, flush=True)

    set_seed(SEED)
    table = pd.read_parquet(task["table"])
    rows = table.assign(is_valid=table["fold"] == task["fold"])
    start = time.perf_counter()
    numbers, workers = task.get("numbers", False), task.get("workers")
    if workers == 0:
        torch.set_num_threads(CORES)
    learner = make_learner(
        rows,
        task["data"],
        task["network"],
        task["weights"],
        flip_vert=task["flip_vert"],
        numbers=numbers,
        workers=workers,
    )
    clock = Clock()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(task["epochs"], cbs=clock)
        values, _ = learner.get_preds(ds_idx=1)
    seconds = time.perf_counter() - start
    held_out = learner.dls.valid_ds.items[["path", "subject", "fold", "label"]].reset_index(drop=True)
    names = ["prediction"] if numbers else [f"p_{name}" for name in learner.dls.vocab]
    predictions = held_out.join(pd.DataFrame(values.numpy(), columns=names))[[*held_out, *names]]
    write_atomic(Path(task["predictions"]), parquet_bytes(predictions))
    trained = len(learner.dls.train) * BATCH
    # The first epoch trains the head alone.
    return {"seconds": seconds, "rate": trained / statistics.median(clock.seconds[1:]), "images": trained}


def speed(task: dict[str, Any]) -> dict[str, Any]:
    """Images a second while all parameters are trained, after the first steps."""
    import pandas as pd
    from fastai.vision.all import Callback, CancelFitException, set_seed

    steps = task["images"] // BATCH

    class Clock(Callback):
        """The seconds between two steps; stops at the second one."""

        def after_batch(self) -> None:
            if self.iter + 1 == WARM:
                self.start = time.perf_counter()
            if self.iter + 1 == WARM + steps:
                self.seconds = time.perf_counter() - self.start
                raise CancelFitException

    set_seed(SEED)
    table = pd.read_parquet(task["table"])
    # Longer than the timed part, so that the workers are equally busy at its beginning and end.
    count = (WARM + steps + 3 * WORKERS) * BATCH
    rows = pd.concat([table] * (count // len(table) + 1), ignore_index=True)[: count + BATCH]
    rows["is_valid"] = rows.index >= count
    learner = make_learner(rows, task["data"], task["network"], None, flip_vert=task["flip_vert"])
    clock = Clock()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, cbs=clock)
    return {"rate": steps * BATCH / clock.seconds}


if __name__ == "__main__":
    task = json.loads(sys.argv[sys.argv.index("--task") + 1])
    print(json.dumps({"train": train, "speed": speed}[task["way"]](task)))
