"""The other side of comparisons: code as users of fastai and of plain PyTorch write it.

fastai: `ImageDataLoaders` of a table, `Resize(224)`, `aug_transforms`, ImageNet's `Normalize`, `vision_learner` and
`fine_tune`. PyTorch: a `DataLoader` and a loop in fp32 with the defaults of PyTorch. Both read the image files in every
epoch, with two workers. Each measurement (`PROGRAMS`) runs in a process of its own; the first steps, in which workers
fill their queues, are not timed. fastai is installed with `pip install 'casewise[bench]'`.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

CORES, WORKERS, BATCH, SIDE, WARM, SEED = 2, 2, 32, 224, 3, 0
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def has_fastai() -> bool:
    """Whether fastai is installed; a sentence is printed if it is not."""
    if not (installed := find_spec("fastai") is not None):
        print("fastai is not installed: pip install 'casewise[bench]'. Nothing was compared with it.")
    return installed


def ready(cores: int = CORES) -> None:
    """Limit this process to the first so many of its cores, and warn of other load.

    Programs that run at the same time need cores of their own: `taskset -c 1 python ...`.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    warn_if_busy()


def warn_if_busy() -> None:
    """Say when other processes use more than a third of a core for a second: ratios would be unreliable.

    The system's load average would still count what has ended in the last minutes.
    """
    cores = psutil.cpu_count() or 1
    if (busy := psutil.cpu_percent(1.0) / 100 * cores) > 0.3:
        print(f"Other processes use {busy:.1f} of {cores} cores, so these ratios are unreliable.", flush=True)


def in_own_process(script: str, task: dict[str, Any], python: str = sys.executable) -> dict[str, Any]:
    """Run `script --task` in a process of its own, with a task as JSON; return the JSON of its last line.

    `cores` is added: how many cores the process used on average. Much less than it may use means that others ran there.
    """
    start, before = time.perf_counter(), os.times()
    # Importing fastai warns of features that PyTorch will remove.
    command = [python, "-W", "ignore::FutureWarning", script, "--task"]
    completed = subprocess.run(command, input=json.dumps(task), stdout=subprocess.PIPE, text=True)
    if completed.returncode:
        raise SystemExit(f"{' '.join(command)} failed; see above.")
    after, result = os.times(), json.loads(completed.stdout.splitlines()[-1])
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {**result, "cores": used / (time.perf_counter() - start)}


def measured(program: str, /, **task: Any) -> dict[str, Any]:
    """The measurement of one program (`PROGRAMS`), in a process of its own."""
    return in_own_process(__file__, {"program": program, **task})


def images_needed(steps: int, batch: int = BATCH, workers: int = WORKERS) -> int:
    """More images than are timed, so that the workers are equally busy at the beginning and the end."""
    return (WARM + steps + 3 * workers) * batch


class Clock:
    """The seconds between the ends of two steps."""

    def __init__(self, steps: int) -> None:
        self.last, self.start, self.seconds = WARM + steps, 0.0, 0.0

    def ended(self, step: int) -> bool:
        """Note the end of a step, counted from 1; whether it is the last that is timed."""
        if step in (WARM, self.last) and torch.cuda.is_available():
            torch.cuda.synchronize()
        if step == WARM:
            self.start = time.perf_counter()
        if step == self.last:
            self.seconds = time.perf_counter() - self.start
        return step == self.last


# fastai


def fastai_learner(
    rows: Any, data: str, network: str, weights: str | None, *, numbers: bool = False, workers: int = WORKERS
) -> Any:
    """A fastai user's learner from a table with the columns path, label and is_valid; labels are classes or numbers.

    Networks that torchvision does not have are timm's, with the input statistics that timm states.
    """
    from fastai.vision import all as fastai
    from torchvision import models

    def network_of(pretrained: bool = False, **_: Any) -> Any:
        from safetensors.torch import load_file

        model = models.get_model(network, weights=None)
        if pretrained:
            model.load_state_dict(load_file(str(weights)))
        return model

    statistics = [fastai.Normalize.from_stats(*IMAGENET)] if hasattr(models, network) else []
    loaders = fastai.ImageDataLoaders.from_df(
        rows,
        path=data,
        fn_col="path",
        label_col="label",
        valid_col="is_valid",
        y_block=fastai.RegressionBlock() if numbers else None,
        item_tfms=fastai.Resize(SIDE),
        batch_tfms=[*fastai.aug_transforms(), *statistics],
        bs=BATCH,
        seed=SEED,
        num_workers=workers,
    )
    if not hasattr(models, network):
        options = {"pretrained_cfg_overlay": {"file": str(weights)}, **side_of(network)}
        return fastai.vision_learner(loaders, network, pretrained=bool(weights), metrics=[], **options)
    # fastai has the cut of ResNets; for other networks its users state it here.
    meta = fastai.model_meta.get(getattr(models, network), {"cut": -1, "split": fastai.default_split})
    fastai.model_meta[network_of] = {"cut": meta["cut"], "split": meta["split"]}
    return fastai.vision_learner(loaders, network_of, pretrained=bool(weights), metrics=[])


def side_of(network: str) -> dict[str, int]:
    """timm's option for the size of images, which transformers need if it is not their own."""
    return {"img_size": SIDE} if network.startswith("vit") else {}


def fastai_fold(task: dict[str, Any]) -> dict[str, Any]:
    """Train on all folds but one by `fine_tune`; write the held-out predictions (CSV), and return the seconds.

    Images are read in this process, which has one thread: seconds of wall clock are those of one core. Trained on is a
    random `share` of the images.
    """
    import pandas as pd
    from fastai.vision.all import set_seed

    from casewise.files import write_atomic

    set_seed(SEED)
    torch.set_num_threads(1)
    table = pd.read_csv(task["table"], dtype={"subject": str, "case": str, "image": str}, keep_default_na=False)
    start = time.perf_counter()
    rows = table.assign(is_valid=table["fold"] == task["fold"])
    rows = pd.concat([rows[rows["is_valid"]], rows[~rows["is_valid"]].sample(frac=task["share"], random_state=SEED)])
    learner = fastai_learner(rows, task["data"], task["network"], task["weights"], numbers=task["numbers"], workers=0)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(task["epochs"])
        values, _ = learner.get_preds(ds_idx=1)
    names = ["prediction"] if task["numbers"] else [f"p_{name}" for name in learner.dls.vocab]
    held_out = learner.dls.valid_ds.items[["path", "subject", "fold", "label"]].reset_index(drop=True)
    predictions = held_out.join(pd.DataFrame(values.numpy(), columns=names))
    write_atomic(Path(task["predictions"]), predictions.to_csv(index=False))
    return {"seconds": time.perf_counter() - start}


def fastai_speed(task: dict[str, Any]) -> dict[str, Any]:
    """Images a second while all parameters are trained, with `mixed` in mixed precision."""
    import pandas as pd
    from fastai.vision.all import Callback, CancelFitException, set_seed

    clock = Clock(task["steps"])

    class Watch(Callback):
        """Stops after the timed steps."""

        def after_batch(self) -> None:
            if clock.ended(self.iter + 1):
                raise CancelFitException

    set_seed(SEED)
    workers = task.get("workers", WORKERS)
    count = images_needed(task["steps"], workers=workers)
    rows = [row % len(task["paths"]) for row in range(count + BATCH)]
    table = pd.DataFrame({"path": [task["paths"][n] for n in rows], "label": [str(task["labels"][n]) for n in rows]})
    learner = fastai_learner(table.assign(is_valid=table.index >= count), "/", task["network"], None, workers=workers)
    learner = learner.to_fp16() if task.get("mixed") else learner
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, cbs=Watch())
    return {"rate": task["steps"] * BATCH / clock.seconds}


# a plain loop


class PlainPanels(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Panels of 2x2 photographs, which are opened, padded, rotated, varied in light, and pasted in random order."""

    def __init__(self, paths: list[list[str]], truth: list[list[float]], side: int) -> None:
        from torchvision import transforms

        self.paths, self.truth, self.side = paths, truth, side
        rotation = transforms.RandomRotation(180, interpolation=transforms.InterpolationMode.BILINEAR)
        self.vary = transforms.Compose([rotation, transforms.ColorJitter(brightness=0.2, contrast=0.2)])
        self.finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*IMAGENET)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        from PIL import Image, ImageOps

        side = self.side
        panel = Image.new("RGB", (2 * side, 2 * side))
        slots = random.sample([(0, 0), (side, 0), (0, side), (side, side)], 4)
        for path, slot in zip(self.paths[row], slots, strict=False):
            panel.paste(self.vary(ImageOps.pad(Image.open(path).convert("RGB"), (side, side))), slot)
        return self.finish(panel), torch.tensor(self.truth[row])


def seconds_of_loop(
    model: nn.Module, data: Dataset[Any], criterion: nn.Module, optimizer: torch.optim.Optimizer, batch: int, steps: int
) -> float:
    """The seconds of the timed steps of a plain loop."""
    clock = Clock(steps)
    for step, (images, truth) in enumerate(DataLoader(data, batch_size=batch, shuffle=True, num_workers=WORKERS), 1):
        optimizer.zero_grad()
        criterion(model(images), truth).backward()
        optimizer.step()
        if clock.ended(step):
            break
    return clock.seconds


def loop_of_panels(task: dict[str, Any]) -> dict[str, Any]:
    """Panels a second of a plain loop that trains all parameters."""
    from torchvision import models

    batch, steps = task["batch"], task["panels"] // task["batch"]
    rows = [row % len(task["paths"]) for row in range(images_needed(steps, batch))]
    truth = [task["truth"][row] for row in rows]
    data = PlainPanels([task["paths"][row] for row in rows], truth, task["side"])
    model = models.get_model(task["network"], weights=None, num_classes=len(truth[0])).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return {"rate": steps * batch / seconds_of_loop(model, data, nn.MSELoss(), optimizer, batch, steps)}


PROGRAMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "fastai": fastai_speed,
    "fastai fold": fastai_fold,
    "panels": loop_of_panels,
}

if __name__ == "__main__":
    task = json.load(sys.stdin)
    print(json.dumps(PROGRAMS[task["program"]](task)))
