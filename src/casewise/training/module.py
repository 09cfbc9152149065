"""The Lightning module: loss over what was scored, the published optimiser and schedules, the best epoch kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from casewise.models.backbones import Network, keep_statistics, set_momentum
from casewise.study import Recipe
from casewise.training.data import EpochBatches, PanelData, mixed_seed

LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": functional.mse_loss,
    "huber": functional.smooth_l1_loss,
    "l1": functional.l1_loss,
}


class Training(LightningModule):
    """A network being fitted to `train`, with `stop` deciding the learning rate, the best epoch and the end."""

    def __init__(
        self, network: Network, recipe: Recipe, train: PanelData, stop: PanelData, *, seed: int, channels_last: bool
    ) -> None:
        super().__init__()
        self.network, self.recipe = network, recipe
        if recipe.batch_norm_momentum:
            set_momentum(network, recipe.batch_norm_momentum)
        self.parts = (train, stop)
        self.seed = seed
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self.best_loss, self.best_epoch = math.inf, -1
        self._losses: list[Tensor] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        r = self.recipe
        head = list(self.network.head.parameters())
        groups = [
            {"params": [p for p in self.network.body.parameters() if p.requires_grad], "lr": r.lr},
            {"params": head, "lr": r.lr * r.head_lr},
        ]
        if r.optimizer == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, momentum=r.momentum, weight_decay=r.weight_decay)
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
        return optimizer

    def train_dataloader(self) -> Any:
        rows = EpochBatches(len(self.parts[0]), self.recipe.batch, self.seed, lambda: self.current_epoch)
        return DataLoader(rows, batch_size=None)

    def val_dataloader(self) -> Any:
        slots, owner = self.parts[1].views()
        size = 4 * self.recipe.batch
        parts: Any = list(zip(slots.split(size), owner.split(size), strict=True))
        return DataLoader(parts, batch_size=None)

    def on_train_epoch_start(self) -> None:
        if self.recipe.batch_norm == "eval":
            keep_statistics(self.network)
        if self.recipe.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * self.current_epoch / self.recipe.epochs))
            for group, base in zip(self.optimizers().param_groups, self.base, strict=True):  # type: ignore[union-attr]
                group["lr"] = base * factor
        self._losses = []

    def loss(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Mean over scored targets of the loss in standard deviations of each target."""
        network = self.network
        wanted = (truth - network.centre) / network.scale
        given = (predicted - network.centre) / network.scale
        scored = ~wanted.isnan()
        each = LOSSES[self.recipe.loss](given, torch.where(scored, wanted, given.detach()), reduction="none")
        return (each * scored).sum() / scored.sum().clamp(min=1)

    def training_step(self, rows: list[int], batch_number: int) -> Tensor:
        # Seeded at every step: loaders draw from the same stream at moments that differ in a resumed job.
        torch.manual_seed(mixed_seed(self.seed, "dropout", self.current_epoch, batch_number))
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, "panels", self.current_epoch, batch_number))
        panels, truth = self.parts[0].training_batch(rows, generator, self.device)
        loss = self.loss(self.network(panels.to(memory_format=self.format)), truth)
        self._losses.append(loss.detach())
        return loss

    def on_validation_epoch_start(self) -> None:
        self._predicted: list[tuple[Tensor, Tensor]] = []

    def validation_step(self, batch: tuple[Tensor, Tensor], number: int) -> None:
        slots, owner = batch
        panels = self.parts[1].plain_batch(slots, self.device).to(memory_format=self.format)
        self._predicted.append((self.network(panels).float(), owner.to(self.device)))

    def on_validation_epoch_end(self) -> None:
        predicted = averaged(self._predicted, len(self.parts[1]))
        loss = float(self.loss(predicted, self.parts[1].truth.to(predicted.device)))
        self.log("stop_loss", loss)
        rate = float(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        train = float(torch.stack(self._losses).mean()) if self._losses else math.nan
        self.history.append({"epoch": self.current_epoch, "train_loss": train, "stop_loss": loss, "lr": rate})
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, self.current_epoch
            self.best = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        if self.recipe.schedule == "plateau":
            self.plateau.step(loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["casewise"] = {
            "history": self.history,
            "best": self.best,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "plateau": {k: v for k, v in self.plateau.state_dict().items() if k != "optimizer"},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint["casewise"]
        self.history, self.best = kept["history"], kept["best"]
        self.best_loss, self.best_epoch = kept["best_loss"], kept["best_epoch"]
        self._plateau_state = kept["plateau"]

    def on_train_start(self) -> None:
        if hasattr(self, "_plateau_state"):
            self.plateau.load_state_dict(self._plateau_state)


def averaged(predicted: list[tuple[Tensor, Tensor]], panels: int) -> Tensor:
    """Mean prediction of each panel over its views: (P, T)."""
    values = torch.cat([p for p, _ in predicted])
    owner = torch.cat([o for _, o in predicted])
    sums = values.new_zeros(panels, values.shape[1]).index_add_(0, owner, values)
    return sums / torch.bincount(owner, minlength=panels).clamp(min=1).unsqueeze(1)


def predict(network: nn.Module, data: PanelData, *, batch: int, channels_last: bool, bf16: bool, flips: bool) -> Tensor:
    """Predict every panel of `data`: (P, T) in the targets' units; `flips` averages with the mirrored panel."""
    network.eval()
    device = next(network.parameters()).device
    form = torch.channels_last if channels_last else torch.contiguous_format
    slots, owner = data.views()
    found = []
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        for part, own in zip(slots.split(4 * batch), owner.split(4 * batch), strict=True):
            panels = data.plain_batch(part, device).to(memory_format=form)
            values = network(panels).float()
            if flips:
                values = (values + network(panels.flip(3)).float()) / 2
            found.append((values.cpu(), own))
    return averaged(found, len(data))
