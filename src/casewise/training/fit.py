"""Fitting one network with Lightning's Trainer; killed at any moment, it continues to the same bits."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from casewise.errors import SplitError, TrainingError
from casewise.modalities.dataset import Batches, standard
from casewise.models.backbones import Network
from casewise.models.outputs import Output
from casewise.run_folder import TrainingFolder
from casewise.study.schema import Recipe
from casewise.training.checkpoint import SafetensorsCheckpoints
from casewise.training.compute_plan import ComputePlan
from casewise.training.module import Training
from casewise.training.param_groups import HeadOnly


@dataclass(frozen=True)
class Fitted:
    """A fitted network (holding its best epoch) and how it got there."""

    network: Network | HeadOnly
    history: list[dict[str, float]]
    best_epoch: int
    best_loss: float


class Saver(Callback):
    """Writes the state of the job every `seconds` at the end of an epoch, where nothing is half done.

    Saving takes at most about a twentieth of the time, unless `seconds` is 0, which saves after every epoch.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self.last = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        # Not when early stopping has spoken: a continued job would train one epoch more than an uninterrupted one.
        if time.monotonic() - self.last < self.seconds or trainer.should_stop:
            return
        begun = time.monotonic()
        trainer.save_checkpoint(self.path)
        self.last = time.monotonic()
        if self.seconds:
            self.seconds = max(self.seconds, 20 * (self.last - begun))

    @property
    def state_key(self) -> str:
        return "saver"


class Ticker(Callback):
    """Reports the job's progress after each epoch."""

    def __init__(self, tell: Any) -> None:
        self.tell = tell

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.tell(trainer.current_epoch + 1)


def fit(
    network: Network | HeadOnly,
    recipe: Recipe,
    train: Batches,
    stop: Batches,
    *,
    outputs: Sequence[Output],
    folder: Path,
    seed: int,
    choice: ComputePlan,
    save_every: float = 30.0,
    tell: Any = None,
    keep: Literal["best", "last"] = "best",
    until: int | None = None,
) -> Fitted:
    """Train until the stopping loss no longer falls, then put the best epoch's weights into the network.

    With `keep="last"` all epochs are trained and the last one's weights stay, whatever `stop` says.

    Args:
        folder: where the state is kept while training; removed state means starting anew.
        tell: called with the number of epochs done after each.
        until: end after so many epochs; the rate falls as over all of the recipe's.
    """
    quiet()
    state = TrainingFolder(folder).state
    network = network.to(memory_format=torch.channels_last if choice.channels_last else torch.contiguous_format)  # type: ignore[call-overload]
    module = Training(network, recipe, train, stop, outputs=outputs, seed=seed, channels_last=choice.channels_last)
    stopping = EarlyStopping(
        "stop_loss", patience=recipe.early_stopping.patience, min_delta=0.0, check_on_train_epoch_end=False
    )
    trainer = Trainer(
        accelerator="gpu" if choice.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if choice.precision == "bf16" else "32-true",
        max_epochs=until or recipe.epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        plugins=[SafetensorsCheckpoints()],
        default_root_dir=folder,
        callbacks=[
            *([stopping] if keep == "best" else []),
            Saver(state.path, save_every),
            *([Ticker(tell)] if tell else []),
        ],
    )
    # Lightning leaves the mode as it is, and computing features has left the network in eval mode.
    module.train()
    try:
        trainer.fit(module, ckpt_path=str(state.path) if state.intact() else None)
    except SystemExit as stopped:  # Lightning turns Ctrl-C into an exit of its own
        raise KeyboardInterrupt from stopped
    except TrainingError as error:
        raise TrainingError(f"{network.name}: {error}, or take {network.name} out of `backbones`.") from None
    if not all(math.isfinite(h["train_loss"] + h["stop_loss"]) for h in module.history) or (
        keep == "best" and not module.best
    ):
        raise TrainingError(
            f"{network.name}: the loss on the subjects that decide when to stop is no longer a number after "
            f"{len(module.history)} epochs. Lower recipe.lr (now {recipe.lr:g}), or take {network.name} out of "
            "`backbones`."
        )
    if keep == "best":
        network.load_state_dict(module.best)
    return Fitted(network.eval(), module.history, module.best_epoch, module.best_loss)


def standardise(network: Network, truth: torch.Tensor, outputs: Sequence[Output]) -> None:
    """Set the mean and standard deviation of the network's numbers, from its training labels; classes stay as they are.

    Raises:
        SplitError: a target is recorded for nobody who is trained on.
    """
    centre, scale = standard(truth.numpy())
    start = 0
    for column, output in enumerate(outputs):
        if truth[:, column].isnan().all():
            raise SplitError(
                f"No training subject of a fold has {output.name!r} recorded. Lower split.folds or leave it out."
            )
        if output.network_kind.standardised:
            network.target_mean[start] = float(centre[column])
            network.target_std[start] = float(scale[column])
        start += output.width


def quiet() -> None:
    """Silence Lightning's tips and device lists; real problems raise."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
