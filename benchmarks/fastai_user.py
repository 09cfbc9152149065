"""What a fastai user writes: a learner from a table, a fold trained, its speed. Each runs in a process of its own.

`ImageDataLoaders` of a table with a column of held-out rows, `Resize(224)`, `aug_transforms`, ImageNet's `Normalize`,
`vision_learner` from the given weights, `fine_tune`, and the last epoch's network. fastai's vertical flip, which the
published study used, turns by quarters as well. fastai comes with `pip install 'casewise[bench]'`.
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
    """Whether fastai is there; keeps to the cores that are compared, and warns where they have other work."""
    if not find_spec("fastai"):
        print("fastai is not installed: pip install 'casewise[bench]'. Nothing was measured.")
        return False
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 1:
        # Threads that wait for each other lose far more than their share, on whichever side has more of them.
        print(f"The machine has other work (load {load:.1f}): its ratios mislead; measure when it is quiet.")
    return True


def apart(script: str, task: dict[str, Any]) -> dict[str, Any]:
    """Do a task of a script (`script --task JSON`) in a process of its own; its last line tells what was found."""
    # fastai's import warns of what PyTorch means to give up.
    command = [sys.executable, "-W", "ignore::FutureWarning", script, "--task", json.dumps(task)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed; see above.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def make_learner(rows: Any, data: str, network: str, weights: str | None, *, flip_vert: bool) -> Any:
    """A fastai user's learner from a table with the columns path, label and is_valid."""
    from fastai.vision import all as fastai
    from torchvision import models

    def network_of(pretrained: bool = False, **_: Any) -> Any:
        from safetensors.torch import load_file

        found = models.get_model(network, weights=None)
        if pretrained:
            found.load_state_dict(load_file(str(weights)))
        return found

    # fastai knows where to cut the ResNets; for networks that it does not know, its users say so here.
    known = fastai.model_meta.get(getattr(models, network), {"cut": -1, "split": fastai.default_split})
    fastai.model_meta[network_of] = {"cut": known["cut"], "split": known["split"]}
    loaders = fastai.ImageDataLoaders.from_df(
        rows,
        path=data,
        fn_col="path",
        label_col="label",
        valid_col="is_valid",
        item_tfms=fastai.Resize(SIDE),
        batch_tfms=[*fastai.aug_transforms(flip_vert=flip_vert), fastai.Normalize.from_stats(*fastai.imagenet_stats)],
        bs=BATCH,
        seed=SEED,
    )
    metrics = [fastai.accuracy, fastai.RocAuc()]
    return fastai.vision_learner(loaders, network_of, pretrained=bool(weights), metrics=metrics)


def train(task: dict[str, Any]) -> dict[str, Any]:
    """Train one fold, write the held-out predictions, and tell the seconds and the images a second."""
    import pandas as pd
    from fastai.vision.all import Callback, set_seed

    from casewise.files import parquet_bytes, write_atomic

    class Clock(Callback):
        """Seconds of each epoch's training part; tells how far the fold is."""

        def __init__(self) -> None:
            self.spent: list[float] = []

        def before_train(self) -> None:
            self.begun = time.perf_counter()

        def after_train(self) -> None:
            self.spent.append(time.perf_counter() - self.begun)
            told = f"  fold {task['fold']}, epoch {len(self.spent)}: {self.spent[-1]:.0f} s"
            print(told, file=sys.stderr, flush=True)

    set_seed(SEED)
    table = pd.read_parquet(task["table"])
    rows = table.assign(is_valid=table["fold"] == task["fold"])
    begun = time.perf_counter()
    learner = make_learner(rows, task["data"], task["network"], task["weights"], flip_vert=task["flip_vert"])
    clock = Clock()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(task["epochs"], cbs=clock)
        values, _ = learner.get_preds(ds_idx=1)
    spent = time.perf_counter() - begun
    held_out = learner.dls.valid_ds.items[["path", "subject", "fold", "label"]].reset_index(drop=True)
    names = [f"p_{name}" for name in learner.dls.vocab]
    predictions = held_out.join(pd.DataFrame(values.numpy(), columns=names))[[*held_out, *names]]
    write_atomic(Path(task["predictions"]), parquet_bytes(predictions))
    trained = len(learner.dls.train) * BATCH
    # The first epoch trains the head alone.
    return {"seconds": spent, "rate": trained / statistics.median(clock.spent[1:]), "images": trained}


def speed(task: dict[str, Any]) -> dict[str, Any]:
    """Images a second while all parameters are trained, after the first steps."""
    import pandas as pd
    from fastai.vision.all import Callback, CancelFitException, set_seed

    steps = task["images"] // BATCH

    class Clock(Callback):
        """Takes the time between two steps and stops there."""

        def after_batch(self) -> None:
            if self.iter + 1 == WARM:
                self.begun = time.perf_counter()
            if self.iter + 1 == WARM + steps:
                self.spent = time.perf_counter() - self.begun
                raise CancelFitException

    set_seed(SEED)
    table = pd.read_parquet(task["table"])
    # Longer than what is timed, so that the workers are as busy at its end as at its beginning.
    wanted = (WARM + steps + 3 * WORKERS) * BATCH
    rows = pd.concat([table] * (wanted // len(table) + 1), ignore_index=True)[: wanted + BATCH]
    rows["is_valid"] = rows.index >= wanted
    learner = make_learner(rows, task["data"], task["network"], None, flip_vert=task["flip_vert"])
    clock = Clock()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, cbs=clock)
    return {"rate": steps * BATCH / clock.spent}


if __name__ == "__main__":
    asked = json.loads(sys.argv[sys.argv.index("--task") + 1])
    print(json.dumps({"train": train, "speed": speed}[asked["way"]](asked)))
