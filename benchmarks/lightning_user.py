"""Typical code of a Lightning and torchvision user: a training with held-out predictions, and its speed.

A data set that opens each file, torchvision's transforms, a `DataLoader` with two workers, a torchvision network with a
new last layer, AdamW with one cycle of the learning rate, and Lightning's `Trainer` with its defaults. Nothing is
validated during training, which is to its advantage.
"""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from fastai_user import BATCH, SIDE, WARM, WORKERS
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

RATE, WEIGHT_DECAY = 3e-4, 0.01


class Photographs(Dataset[tuple[Tensor, int]]):
    """Images of files with their class; `vary` augments them."""

    def __init__(self, paths: list[str], labels: list[int], *, vary: bool, flip_vert: bool) -> None:
        self.paths, self.labels = paths, labels
        flips: list[Any] = [transforms.RandomHorizontalFlip()]
        flips += [transforms.RandomVerticalFlip()] if flip_vert else []
        varied = [*flips, transforms.RandomRotation(10), transforms.ColorJitter(brightness=0.2, contrast=0.2)]
        normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.steps = transforms.Compose(
            [transforms.Resize((SIDE, SIDE)), *(varied if vary else []), transforms.ToTensor(), normalize]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[row]) as image:
            return self.steps(image.convert("RGB")), self.labels[row]


class Classifier(LightningModule):
    """A torchvision network with a new last layer."""

    def __init__(self, network: str, weights: str | None, *, classes: int, steps: int) -> None:
        super().__init__()
        self.network = models.get_model(network, weights=None)
        if weights:
            from safetensors.torch import load_file

            self.network.load_state_dict(load_file(weights))
        self.steps = steps
        renew_last_layer(self.network, classes)

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def predict_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        return self.network(batch[0]).softmax(dim=1)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def renew_last_layer(network: nn.Module, classes: int) -> None:
    """Replace the last layer of a torchvision network by a random one."""
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    name, last = layers[-1]
    parent, _, own = name.rpartition(".")
    new: nn.Module
    if isinstance(last, nn.Linear):
        new = nn.Linear(last.in_features, classes)
    else:
        new = nn.Conv2d(last.in_channels, classes, last.kernel_size)  # type: ignore[arg-type]
    setattr(network.get_submodule(parent), own, new)


def trainer(**settings: Any) -> Trainer:
    """Lightning's trainer without files and messages."""
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def train(task: dict[str, Any], train_rows: Any, held_out: Any, classes: list[str]) -> Any:
    """Train on the rows with the columns path and label; return the probabilities of the held-out ones (P, K)."""
    seed_everything(task["seed"], verbose=False)
    files = [[str(Path(task["data"]) / path) for path in rows["path"]] for rows in (train_rows, held_out)]
    labels = [[classes.index(label) for label in rows["label"]] for rows in (train_rows, held_out)]
    data = [
        Photographs(paths, numbers, vary=vary, flip_vert=task["flip_vert"])
        for paths, numbers, vary in zip(files, labels, (True, False), strict=True)
    ]
    loader = DataLoader(data[0], batch_size=BATCH, shuffle=True, num_workers=WORKERS, drop_last=True)
    module = Classifier(
        task["network"], task["weights"], classes=len(classes), steps=task["epochs"] * max(1, len(loader))
    )
    engine = trainer(max_epochs=task["epochs"])
    engine.fit(module, loader)
    predicted: Any = engine.predict(module, DataLoader(data[1], batch_size=BATCH, num_workers=WORKERS))
    return torch.cat(predicted).numpy()


def speed(task: dict[str, Any], paths: list[str], labels: list[int]) -> float:
    """Images a second of `task["steps"]` training steps, after the first ones, in which workers fill their queues."""
    steps = int(task["steps"])
    count = (WARM + steps + 3 * WORKERS) * BATCH
    rows = [row % len(paths) for row in range(count)]
    data = Photographs([paths[row] for row in rows], [labels[row] for row in rows], vary=True, flip_vert=False)

    class Clock(Callback):
        """The seconds between two steps."""

        start = seconds = 0.0

        def on_train_batch_end(self, engine: Trainer, *_: Any) -> None:
            if engine.global_step == WARM:
                self.start = time.perf_counter()
            if engine.global_step == WARM + steps:
                self.seconds = time.perf_counter() - self.start
                engine.should_stop = True

    clock = Clock()
    module = Classifier(task["network"], None, classes=max(labels) + 1, steps=count // BATCH)
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=WORKERS)
    trainer(max_steps=WARM + steps, callbacks=[clock]).fit(module, loader)
    return steps * BATCH / clock.seconds
