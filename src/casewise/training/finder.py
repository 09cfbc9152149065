"""The learning-rate finder: the rate rises from step to step, and the loss tells where learning is fastest.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017 (the range test).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from casewise.errors import TrainingError
from casewise.study import Recipe
from casewise.training.data import Batches
from casewise.training.fit import quiet
from casewise.training.module import Training
from casewise.training.outputs import Output
from casewise.training.speed import Choice

if TYPE_CHECKING:
    from casewise.models.backbones import Network

SMOOTHING = 0.9
BLOWN_UP = 4.0


@dataclass(frozen=True)
class Found:
    """The curve of a range test and the rate chosen on it."""

    rates: list[float]
    losses: list[float]
    chosen: float


class Sweep(Callback):
    """Raises the rate after every batch and notes the loss; ends the training where the loss blows up."""

    def __init__(self, rates: np.ndarray) -> None:
        self.rates = rates
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, number: int) -> None:
        rate = self.rates[min(len(self.losses), len(self.rates) - 1)]
        for group, share in zip(trainer.optimizers[0].param_groups, self.shares(module), strict=True):
            group["lr"] = rate * share

    @staticmethod
    def shares(module: Any) -> list[float]:
        """Each group's rate as a share of the recipe's."""
        return [base / module.recipe.lr for base in module.base]

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, result: Any, batch: Any, number: int
    ) -> None:
        self.losses.append(float(result["loss"]))
        if self.losses[-1] > BLOWN_UP * min(self.losses) + 1:
            trainer.should_stop = True


def find_rate(
    network: Network | nn.Module,
    recipe: Recipe,
    train: Batches,
    *,
    outputs: Sequence[Output],
    seed: int,
    choice: Choice,
) -> Found:
    """Run the range test on a copy of the network; the network itself stays as it was.

    Raises:
        TrainingError: the loss falls nowhere on the range, so that nothing can be chosen.
    """
    quiet()
    finder = recipe.finder
    rates = np.geomspace(finder.low, finder.high, finder.steps)
    constant = recipe.model_copy(update={"lr": finder.low, "schedule": "constant", "epochs": 10**6})
    test = Training(
        copy.deepcopy(network),
        constant,
        train,
        train,
        outputs=outputs,
        seed=seed,
        channels_last=choice.channels_last,
    )
    sweep = Sweep(rates)
    trainer = Trainer(
        accelerator="gpu" if choice.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if choice.precision == "bf16" else "32-true",
        max_steps=finder.steps,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[sweep],
    )
    test.train()  # whatever mode the network was left in
    try:
        trainer.fit(test)
    except TrainingError:
        pass  # the loss left the numbers: the curve ends here
    except SystemExit as stopped:  # Lightning turns Ctrl-C into an exit of its own
        raise KeyboardInterrupt from stopped
    losses = sweep.losses
    chosen = steepest(rates[: len(losses)], np.array(losses))
    if chosen is None:
        told = f"{losses[0]:.3g} at {rates[0]:.1g}" if losses else "no number at the first step"
        raise TrainingError(
            f"the learning-rate finder found no rate between {finder.low:g} and {finder.high:g} at which the loss "
            f"falls ({told}). Give recipe.lr as a number, or widen recipe.finder"
        )
    return Found([float(r) for r in rates[: len(losses)]], [round(v, 6) for v in losses], chosen)


def smoothed(losses: np.ndarray) -> np.ndarray:
    """The exponential moving average of losses, corrected for its beginning.

    >>> smoothed(np.array([2.0, 2.0])).round(6).tolist()
    [2.0, 2.0]
    """
    found, mean = [], 0.0
    for step, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * float(loss)
        found.append(mean / (1 - SMOOTHING**step))
    return np.array(found)


def steepest(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """The rate at which the smoothed loss falls fastest before its least value; None where it does not fall.

    >>> rates = np.geomspace(1e-5, 1, 50)
    >>> losses = np.concatenate([np.ones(20), np.linspace(1, 0.2, 15), np.linspace(0.2, 9, 15)])
    >>> 1e-4 < steepest(rates, losses) < 1e-1
    True
    """
    usable = losses[np.isfinite(losses)]
    if len(usable) < 5:
        return None
    curve = smoothed(usable)
    least = int(curve.argmin())
    first = max(5, len(usable) // 6)
    noise = float(np.std(np.diff(usable[: max(least, 2 * first)]))) / math.sqrt(2)
    # how far the least of a moving average and the mean of the first losses part by noise alone
    chance = 3 * noise * math.sqrt((1 - SMOOTHING) / (1 + SMOOTHING) + 1 / first)
    if least < 3 or float(np.mean(usable[:first])) - curve[least] < max(0.01 * abs(curve[0]), chance):
        return None
    slope = np.gradient(curve[: least + 1], np.log(rates[: least + 1]))
    chosen = float(rates[int(slope.argmin())])
    # two significant digits: the curve says no more
    return float(f"{chosen:.1e}") if math.isfinite(chosen) else None
