"""The Lightning module: the loss of scored rows, the published optimiser and schedules, and the best epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from casewise.cohort.table import names_text
from casewise.errors import TrainingError
from casewise.modalities.dataset import Batches, EpochBatches
from casewise.models.backbones import Network, keep_statistics, set_momentum
from casewise.models.forward import forward, mean_over_views
from casewise.models.outputs import Output, hits
from casewise.study.schema import Recipe
from casewise.study.seeds import mixed_seed
from casewise.training.compute_plan import give_memory_back
from casewise.training.losses import Scaling, class_weights, loss_of
from casewise.training.lr_schedule import warmed_cosine
from casewise.training.micro_batches import forward_in_parts
from casewise.training.param_groups import parameter_groups

CASES_SHOWN = 5
# Steps of an epoch from which memory is given back before its evaluation.
STEPS_TO_TRIM = 10


class Training(LightningModule):
    """A network fitted to `train`; `stop` decides on the learning rate, the best epoch and the end.

    `parts`: the number of parts in which a batch is computed (`casewise.training.micro_batches`).
    """

    def __init__(
        self,
        network: Network | nn.Module,
        recipe: Recipe,
        train: Batches,
        stop: Batches,
        *,
        outputs: Sequence[Output],
        seed: int,
        channels_last: bool,
        parts: int = 1,
    ) -> None:
        super().__init__()
        self.network, self.recipe, self.outputs = network, recipe, tuple(outputs)
        if recipe.batch_norm_momentum:
            set_momentum(network, recipe.batch_norm_momentum)
        self.train_data, self.val_data = train, stop
        self.seed, self.parts = seed, parts
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.weights = class_weights(train.truth, self.outputs) if recipe.imbalance == "weights" else None
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self.best_loss, self.best_epoch = math.inf, -1
        self._losses: list[Tensor] = []
        self._right: list[Tensor] = []

    def configure_optimizers(self) -> Any:
        r = self.recipe
        if r.lr == "find":
            raise RuntimeError("the learning rate is found before training begins")
        groups = parameter_groups(self.network, r, r.lr)
        if r.optimizer == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, momentum=r.momentum, weight_decay=r.weight_decay)
        elif r.optimizer == "radam":
            optimizer = torch.optim.RAdam(groups, weight_decay=r.weight_decay, decoupled_weight_decay=True)
        else:
            kind = torch.optim.Adam if r.optimizer == "adam" else torch.optim.AdamW
            optimizer = kind(groups, weight_decay=r.weight_decay)
        self.base = [float(g["lr"]) for g in optimizer.param_groups]
        p = r.plateau
        # Stepped by hand in on_validation_epoch_end: Lightning steps it only after the checkpoint is written, so a
        # resumed job would miss one step and drift from an uninterrupted one.
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=p.factor, patience=p.patience, threshold=p.threshold
        )
        if r.schedule != "one-cycle":
            return optimizer
        steps = len(self._batches()) * r.epochs
        # torch divides by the steps of the rise minus one, so the rise must have at least two
        rise = max(0.25, 2.5 / steps)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.base, total_steps=steps, pct_start=min(rise, 0.9), cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def train_dataloader(self) -> Any:
        return DataLoader(self._batches(), batch_size=None)

    def _batches(self) -> EpochBatches:
        data = self.train_data
        shares = balanced(data.truth, self.outputs) if self.recipe.imbalance == "sampling" else None
        return EpochBatches(len(data), self.recipe.batch_size, self.seed, lambda: self.current_epoch, shares=shares)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave the numbers of views where they are: images are gathered on the CPU, and moved then."""
        return batch

    def val_dataloader(self) -> Any:
        slots, owner = self.val_data.views()
        size = self.val_data.eval_batch_size(self.recipe.batch_size, self.device)
        parts: Any = list(zip(slots.split(size), owner.split(size), strict=True))
        return DataLoader(parts, batch_size=None)

    def on_train_epoch_start(self) -> None:
        keep_statistics(self.network, only_frozen=self.recipe.batch_norm == "update")
        if self.recipe.schedule == "cosine" and not self.recipe.warmup:
            self._set_rates(0.5 * (1 + math.cos(math.pi * self.current_epoch / self.recipe.epochs)))
        self._losses, self._right = [], []

    def on_train_batch_start(self, rows: list[int], batch_number: int) -> None:
        r, steps = self.recipe, self._steps
        if r.schedule == "cosine" and r.warmup:
            step = self.current_epoch * steps + batch_number
            self._set_rates(warmed_cosine(step, r.warmup * steps, r.epochs * steps))

    def _set_rates(self, share: float) -> None:
        """Set the learning rate of every group to this fraction of its full rate."""
        for group, base in zip(self.optimizers().param_groups, self.base, strict=True):  # type: ignore[union-attr]
            group["lr"] = base * share

    def loss(self, raw: Tensor, truth: Tensor, *, plain: bool = False) -> Tensor:
        """Mean over targets of the loss on recorded labels; `plain` without label smoothing and class weights."""
        network: Any = self.network
        return loss_of(
            raw,
            truth,
            self.outputs,
            self.recipe,
            Scaling(network.target_mean, network.target_std),
            weights=self.weights,
            plain=plain,
        )

    def training_step(self, rows: list[int], batch_number: int) -> Tensor:
        # Seeded at every step: loaders draw from the same stream at moments that differ in a resumed job.
        seed_draws(mixed_seed(self.seed, "dropout", self.current_epoch, batch_number), self.device)
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, "panels", self.current_epoch, batch_number))
        with torch.autocast(self.device.type, enabled=False):  # coordinates of pixels need their precision
            panels, truth = self.train_data.training_batch(rows, generator, self.device)
        raw = forward_in_parts(self.network, self._shaped(panels), self.parts)
        loss = self.loss(raw, truth)
        if not torch.isfinite(loss):
            raise non_finite(self.train_data.names, rows, self.current_epoch, batch_number, self.recipe)
        self._losses.append(loss.detach())
        if (right := hits(raw.detach(), truth, self.outputs)) is not None:
            self._right.append(right)
        return loss

    def _shaped(self, panels: Tensor) -> Tensor:
        return panels.to(memory_format=self.format) if panels.ndim == 4 else panels

    def on_validation_epoch_start(self) -> None:
        self._predicted: list[tuple[Tensor, Tensor]] = []
        self._give_memory_back()

    def _give_memory_back(self) -> None:
        # Batches of evaluation need other blocks than steps; faulting these in again costs a third of a step.
        if self._steps >= STEPS_TO_TRIM and len(self.val_data) > self.recipe.batch_size:
            give_memory_back()

    def validation_step(self, batch: tuple[Tensor, Tensor], number: int) -> None:
        slots, owner = batch
        raw = forward(self.network, self.val_data, slots, self.device, self.format)
        self._predicted.append((raw.float(), owner.to(self.device)))

    def on_validation_epoch_end(self) -> None:
        predicted = mean_over_views(self._predicted, len(self.val_data))
        loss = float(self.loss(predicted, self.val_data.truth.to(predicted.device), plain=True))
        self.log("stop_loss", loss)
        # of the body's last layers, or of the head if it is trained alone; earlier groups may have smaller rates
        rate = float(self.optimizers().param_groups[-2:][0]["lr"])  # type: ignore[union-attr]
        train = float(torch.stack(self._losses).mean()) if self._losses else math.nan
        entry = {"epoch": self.current_epoch, "train_loss": train, "stop_loss": loss, "lr": rate}
        self.history.append(entry | self._accuracies(predicted))
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, self.current_epoch
            self.best = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        if self.recipe.schedule == "plateau":
            self.plateau.step(loss)

    def _accuracies(self, predicted: Tensor) -> dict[str, float]:
        """Accuracy for the primary outcome in the epoch's training batches, and on the cases for early stopping."""
        right_by_side = {"train_accuracy": torch.stack(self._right).sum(dim=0)} if self._right else {}
        if self.recipe.early_stopping.monitor != "none":
            right = hits(predicted, self.val_data.truth.to(predicted.device), self.outputs)
            right_by_side |= {} if right is None else {"stop_accuracy": right}
        counts = {name: count.tolist() for name, count in right_by_side.items()}
        return {name: right / count for name, (right, count) in counts.items() if count}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["casewise"] = {
            "history": self.history,
            "best": self.best,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "plateau": {k: v for k, v in self.plateau.state_dict().items() if k != "optimizer"},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["casewise"]
        self.history, self.best = state["history"], state["best"]
        self.best_loss, self.best_epoch = state["best_loss"], state["best_epoch"]
        self._plateau_state = state["plateau"]

    def on_train_start(self) -> None:
        self._steps = len(self._batches())
        if hasattr(self, "_plateau_state"):
            self.plateau.load_state_dict(self._plateau_state)


def balanced(truth: Tensor, outputs: Sequence[Output]) -> Tensor:
    """(P,) the share of draws of each row, so that all classes of the main target are drawn equally often."""
    classed = [i for i, output in enumerate(outputs) if output.classes]
    column = next((i for i in classed if outputs[i].main), classed[0])
    weights = class_weights(truth, outputs)[column]
    labels = truth[:, column]
    shares = torch.where(labels.isnan(), 1.0, weights[labels.nan_to_num().long()])
    return shares / shares.sum()


def non_finite(names: Sequence[str], rows: Sequence[int], epoch: int, batch: int, recipe: Recipe) -> TrainingError:
    """The error of a batch whose loss is not finite, with its cases; `epoch` and `batch` count from 0."""
    named = names_text(list(dict.fromkeys(names[row] for row in rows if names)), CASES_SHOWN)
    return TrainingError(
        f"the loss is no longer a number in epoch {epoch + 1}, batch {batch + 1} "
        f"(cases {named or 'not named'}). Lower recipe.lr (now {recipe.lr:g}), or look at these images"
    )


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed what layers on `device` draw, such as dropout.

    On a CPU `torch.manual_seed` would draw the same, but it also formats its call stack for each kind of accelerator,
    which takes as long as the step of a head.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
