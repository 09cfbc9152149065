"""Training of a head on features in memory: the steps of `fit` without Lightning's cost of a step.

A step of a head takes less than a millisecond, and Lightning's loop around it takes several times as long. This loop
has the batches, seeds, losses, schedules and early stopping of `Training`, and gives the bits of `fit`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from casewise.modalities.dataset import FeatureData
from casewise.models.outputs import Output, hits
from casewise.study.schema import Recipe
from casewise.study.seeds import mixed_seed
from casewise.training.checkpoint import SafetensorsCheckpoints
from casewise.training.feature_cache import FixedData, Upper
from casewise.training.fit import Fitted, Saver, Ticker, TrainingContext, finished, naming
from casewise.training.module import Training, non_finite, seed_draws
from casewise.training.param_groups import HeadOnly

Features = FeatureData | FixedData
# In the file of the state: Lightning's states of other trainings lack it.
MARK = "head_loop"


class HeadTraining(Training):
    """`Training` of a head, which needs no Trainer: it keeps the epoch and the optimiser itself."""

    network: HeadOnly | Upper
    train_data: Features

    def __init__(
        self,
        network: HeadOnly | Upper,
        recipe: Recipe,
        train: Features,
        stop: Features,
        *,
        outputs: Sequence[Output],
        seed: int,
        bf16: bool,
    ) -> None:
        super().__init__(network, recipe, train, stop, outputs=outputs, seed=seed, channels_last=False)
        device = network.target_mean.device
        self.to(device)
        values = train.features if isinstance(train, FeatureData) else train.values
        # Copied only if the device has a memory of its own.
        self.values, self.truth = values.to(device), train.truth.to(device)
        self.precision: AbstractContextManager[Any] = (
            torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()
        )
        self.draws = any(isinstance(module, nn.Dropout) and module.p for module in network.head.modules())
        self.classes_shown = hits(torch.zeros(0, len(network.target_mean)), train.truth[:0], self.outputs) is not None
        configured = self.configure_optimizers()
        self.optimizer: torch.optim.Optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
        self.cycle = configured["lr_scheduler"]["scheduler"] if isinstance(configured, dict) else None
        if device.type == "cpu":
            # At every step it loads the driver's library to look for a GPU; it matters only for graphs of a GPU.
            self.optimizer.__dict__["_accelerator_graph_capture_health_check"] = lambda: None
        self.trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.val_parts: list[tuple[Tensor, Tensor]] = self.val_dataloader().dataset
        self.epoch = 0

    @property
    def current_epoch(self) -> int:
        return self.epoch

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        return self.optimizer

    def _give_memory_back(self) -> None:
        """A head needs next to nothing."""

    def log(self, *_: Any, **__: Any) -> None:
        """The history has the loss already."""

    def train_epoch(self) -> None:
        """One pass over the training rows.

        Raises:
            TrainingError: the loss of a batch is not finite.
        """
        self.network.train()
        self.on_train_epoch_start()
        epoch_rows = list(self._batches())
        received = [
            self._step(torch.tensor(rows, device=self.device), number) for number, rows in enumerate(epoch_rows)
        ]
        # Looked at once an epoch, because a look at every step would wait for a GPU.
        bad = torch.nonzero(~torch.isfinite(torch.stack(self._losses)))
        if len(bad):
            number = int(bad[0])
            raise non_finite(self.train_data.names, epoch_rows[number], self.epoch, number, self.recipe)
        if self.classes_shown:
            order = torch.tensor([row for rows in epoch_rows for row in rows], device=self.device)
            right = hits(torch.cat(received), self.truth[order], self.outputs)
            assert right is not None
            self._right.append(right)

    def _step(self, rows: Tensor, number: int) -> Tensor:
        """One step of the optimiser; the raw outputs of its rows (B, W)."""
        self.on_train_batch_start([], number)
        if self.draws:
            seed_draws(mixed_seed(self.seed, "dropout", self.epoch, number), self.device)
        network = self.network
        # Networks compute their head in single precision too.
        raw = network.head(self.values.index_select(0, rows).float()) * network.target_std + network.target_mean
        with self.precision:
            loss = self.loss(raw, self.truth.index_select(0, rows))
        self.optimizer.zero_grad()
        loss.backward()
        if self.recipe.clip_gradients:
            torch.nn.utils.clip_grad_norm_(self.trained, self.recipe.clip_gradients)
        self.optimizer.step()
        if self.cycle:
            self.cycle.step()
        self._losses.append(loss.detach())
        return raw.detach()

    @torch.no_grad()
    def validate(self) -> float:
        """Evaluate the cases of early stopping, and add the epoch to the history; return their loss."""
        self.network.eval()
        self.on_validation_epoch_start()
        with self.precision:
            for number, batch in enumerate(self.val_parts):
                self.validation_step(batch, number)
        self.on_validation_epoch_end()
        return self.history[-1]["stop_loss"]


class HeadLoop:
    """The epochs of a head, with early stopping and a state from which a killed training continues.

    It has those members of Lightning's Trainer that `Saver` and `Ticker` use.
    """

    def __init__(self, module: HeadTraining, patience: int | None) -> None:
        """`patience`: epochs without a better loss before training ends; None trains all epochs."""
        self.module, self.patience = module, patience
        self.first, self.waited, self.best = 0, 0, math.inf
        self.should_stop = False

    @property
    def current_epoch(self) -> int:
        return self.module.epoch

    def run(self, epochs: int, callbacks: Sequence[Any]) -> None:
        """Train up to an epoch."""
        self.module.on_train_start()
        for epoch in range(self.first, epochs):
            self.module.epoch = epoch
            self.module.train_epoch()
            self._judge(self.module.validate())
            for callback in callbacks:
                callback.on_train_epoch_end(self, self.module)
            if self.should_stop:
                break

    def _judge(self, loss: float) -> None:
        if self.patience is None:
            return
        if loss < self.best:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        self.should_stop = not math.isfinite(loss) or self.waited >= self.patience

    def save_checkpoint(self, path: Path) -> None:
        """Write the state after an epoch."""
        module = self.module
        state: dict[str, Any] = {
            MARK: {"epochs": module.epoch + 1, "waited": self.waited, "best": self.best},
            "head": module.network.state_dict(),
            "optimizer": module.optimizer.state_dict(),
            "cycle": module.cycle.state_dict() if module.cycle else None,
        }
        module.on_save_checkpoint(state)
        SafetensorsCheckpoints().save_checkpoint(state, path)

    def load_checkpoint(self, path: Path) -> None:
        """Continue from a state; one of another kind of training is ignored."""
        state = SafetensorsCheckpoints().load_checkpoint(path)
        if MARK not in state:
            return
        module, progress = self.module, state[MARK]
        self.first, self.waited, self.best = progress["epochs"], progress["waited"], progress["best"]
        module.network.load_state_dict(state["head"])
        module.optimizer.load_state_dict(state["optimizer"])
        if module.cycle:
            module.cycle.load_state_dict(state["cycle"])
        module.on_load_checkpoint(state)


def fit_head(
    network: HeadOnly | Upper, recipe: Recipe, train: Features, stop: Features, context: TrainingContext
) -> Fitted:
    """`fit` of a head on features: the same arguments, errors and results, to the bit, in less time.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    state, keep = context.files.state, context.keep
    module = HeadTraining(
        network,
        recipe,
        train,
        stop,
        outputs=context.outputs,
        seed=context.seed,
        bf16=context.choice.precision == "bf16",
    )
    loop = HeadLoop(module, recipe.early_stopping.patience if keep == "best" else None)
    if state.intact():
        loop.load_checkpoint(state.path)
    callbacks = [Saver(state.path, context.save_every), *([Ticker(context.tell)] if context.tell else [])]
    with naming(network), _threads(1 if module.values.ndim == 2 else None):
        loop.run(context.until or recipe.epochs, callbacks)
    return finished(network, recipe, module, keep)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Compute with a number of threads; None changes nothing.

    Threads wait for each other longer than the step of a linear head takes; the heads of bags have more to compute.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
