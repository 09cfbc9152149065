"""Fitting one network with Lightning's Trainer; after an interruption it continues to the same bits."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from casewise.errors import SplitError, TrainingError
from casewise.modalities.dataset import Batches, standard
from casewise.models.backbones import Network, out_of_place
from casewise.models.outputs import Output
from casewise.run_folder import TrainingFolder
from casewise.study.schema import Recipe
from casewise.training.checkpoint import SafetensorsCheckpoints
from casewise.training.compute_plan import ComputePlan
from casewise.training.feature_cache import MEMORY
from casewise.training.feature_sharing import SharedFeatures
from casewise.training.module import Training
from casewise.training.param_groups import HeadOnly

Tell = Callable[[int, float], None]


@dataclass(frozen=True)
class Fitted:
    """A fitted network, with the weights of its best epoch, and its history."""

    network: Network | HeadOnly
    history: list[dict[str, float]]
    best_epoch: int
    best_loss: float


class Saver(Callback):
    """Writes the state of the job every `seconds`, at the end of an epoch.

    Saving takes at most about a twentieth of the time, unless `seconds` is 0, which saves after every epoch.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self.last = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        # Not after early stopping has decided: a resumed job would train one epoch more than an uninterrupted one.
        if time.monotonic() - self.last < self.seconds or trainer.should_stop:
            return
        start = time.monotonic()
        trainer.save_checkpoint(self.path)
        self.last = time.monotonic()
        if self.seconds:
            self.seconds = max(self.seconds, 20 * (self.last - start))

    @property
    def state_key(self) -> str:
        return "saver"


class Ticker(Callback):
    """Reports the number of epochs done and the training loss after each epoch."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        history: Any = module.history
        self.tell(trainer.current_epoch + 1, history[-1]["train_loss"])


@dataclass(frozen=True)
class TrainingContext:
    """The settings of the training of a network.

    Attributes:
        folder: the folder of the state during training; without a state, training starts from the beginning.
        choice: the plan of computation on this machine.
        save_every: seconds between two saved states; 0 saves after every epoch.
        keep: `best` stops early and takes the weights of the best epoch; `last` trains all epochs and takes the weights
        of the last.
        tell: called after each epoch with the number of epochs done and the training loss.
        frozen_once: compute the output of frozen layers once instead of at every step.
        until: the epoch of the recipe after which training ends; the schedule is that of all epochs.
        memory: the bytes for values that are computed once (`casewise.training.feature_cache.Buffer`).
        shared: the panels of the study, whose features in frozen networks are shared between folds and runs.
    """

    outputs: Sequence[Output]
    folder: Path
    seed: int
    choice: ComputePlan
    save_every: float = 30.0
    keep: Literal["best", "last"] = "best"
    tell: Tell | None = None
    frozen_once: bool = True
    until: int | None = None
    memory: int = field(default=MEMORY, kw_only=True)
    shared: SharedFeatures | None = field(default=None, kw_only=True)

    @property
    def files(self) -> TrainingFolder:
        """The files of the folder."""
        return TrainingFolder(self.folder)

    def after(self, done: int) -> TrainingContext:
        """The same context, whose progress includes the `done` epochs of earlier stages."""
        tell = self.tell
        return replace(self, tell=(lambda epoch, loss: tell(done + epoch, loss)) if tell else None)


def fit(network: Network | HeadOnly, recipe: Recipe, train: Batches, stop: Batches, context: TrainingContext) -> Fitted:
    """Train until the stopping loss no longer falls, then put the best epoch's weights into the network.

    With `context.keep == "last"` all epochs are trained, and the weights of the last one are kept.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    quiet()
    state, choice, keep = context.files.state, context.choice, context.keep
    network = network.to(memory_format=torch.channels_last if choice.channels_last else torch.contiguous_format)  # type: ignore[call-overload]
    module = Training(
        network,
        recipe,
        train,
        stop,
        outputs=context.outputs,
        seed=context.seed,
        channels_last=choice.channels_last,
        parts=choice.parts,
    )
    stopping = EarlyStopping(
        "stop_loss", patience=recipe.early_stopping.patience, min_delta=0.0, check_on_train_epoch_end=False
    )
    trainer = Trainer(
        accelerator="gpu" if choice.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if choice.precision == "bf16" else "32-true",
        max_epochs=context.until or recipe.epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        gradient_clip_val=recipe.clip_gradients,
        plugins=[SafetensorsCheckpoints()],
        default_root_dir=context.folder,
        callbacks=[
            *([stopping] if keep == "best" else []),
            Saver(state.path, context.save_every),
            *([Ticker(context.tell)] if context.tell else []),
        ],
    )
    # Lightning keeps the mode, and the network is in eval mode after its features were computed.
    module.train()
    try:
        with naming(network), out_of_place(network):
            trainer.fit(module, ckpt_path=str(state.path) if state.intact() else None)
    except SystemExit as stopped:  # Lightning raises SystemExit on Ctrl-C
        raise KeyboardInterrupt from stopped
    return finished(network, recipe, module, keep)


@contextmanager
def naming(network: Any) -> Iterator[None]:
    """Add the network's name to an error of its training."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{network.name}: {error}, or take {network.name} out of `backbones`.") from None


def finished(network: Any, recipe: Recipe, module: Training, keep: Literal["best", "last"]) -> Fitted:
    """The fitted network, with the weights of its best epoch unless the last is kept.

    Raises:
        TrainingError: a loss of the history is not finite.
    """
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
    """Set the mean and standard deviation of the network's numbers, from its training labels; classes have none.

    Raises:
        SplitError: no training subject has a recorded value of a target.
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
