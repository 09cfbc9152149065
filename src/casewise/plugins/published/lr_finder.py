"""The learning-rate finder: the rate increases from step to step, and the rate where the loss falls fastest is chosen.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017 (the range test).
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from casewise.errors import TrainingError
from casewise.plugins.published.settings import keys_of
from casewise.training.loop import Learner, Training, TrainingContext, naming

if TYPE_CHECKING:
    from casewise.modalities.dataset import Batches
    from casewise.study.schema import Recipe

# The range of rates that are tried.
LOWEST, HIGHEST = 1e-7, 1.0
DIVERGED = 4.0
# Decades of the rate over which the loss is averaged on either side, independent of the number of steps.
WIDTH = 0.25
# The smallest ratio of a fall to its noise; it is large because the minimum of a whole curve is used.
CLEAR = 5.0


@dataclass(frozen=True)
class RateSearch:
    """The curve of a range test, measured and smoothed, and the chosen rate."""

    rates: list[float]
    losses: list[float]
    chosen: float
    smoothed: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Fall:
    """The deepest fall of a smoothed loss: its first and last step, its depth, and the noise of the curve."""

    curve: np.ndarray
    begin: int
    end: int
    depth: float
    noise: float

    @property
    def clear(self) -> bool:
        return self.depth > CLEAR * self.noise and self.depth > 0.01 * abs(self.curve[0]) and self.begin <= self.end


def _swept(
    network: Learner, recipe: Recipe, rates: np.ndarray, train: Batches, context: TrainingContext
) -> list[float]:
    """The losses of a copy of the network at one rising rate after another, up to the first that is not finite."""
    constant = recipe.model_copy(update={"lr": float(rates[0]), "schedule": "constant", "clip_gradients": None})
    training = Training(copy.deepcopy(network), constant, train, context)
    training.rates = [rate / float(rates[0]) for rate in training.rates]
    losses: list[float] = []
    batches = (
        (epoch, number, rows) for epoch in itertools.count() for number, rows in enumerate(training.batches(epoch))
    )
    for rate, (epoch, number, rows) in zip(rates, batches, strict=False):
        training.set_rates(float(rate))
        loss = float(training.step(rows, epoch, number)[0])
        if not math.isfinite(loss):
            break
        losses.append(loss)
        # the median of the last three, because a single batch may be an outlier
        if np.median(losses[-3:]) > DIVERGED * min(losses) + 1:
            break
    return losses


def find_rate(network: Learner, recipe: Recipe, train: Batches, context: TrainingContext) -> RateSearch:
    """Run the range test on a copy of the network; the network itself is unchanged.

    Raises:
        TrainingError: the loss does not fall clearly anywhere on the range, so that no rate can be chosen.
    """
    steps = keys_of(recipe).finder.steps
    rates = np.geomspace(LOWEST, HIGHEST, steps)
    with naming(network):
        losses = np.array(_swept(network, recipe, rates, train, context))
        rates = rates[: len(losses)]
        fall, rate = deepest(rates, losses), steepest(rates, losses)
        if fall is None or rate is None:
            raise TrainingError(
                f"the learning-rate finder found no rate between {LOWEST:g} and {HIGHEST:g} at which the loss "
                "clearly falls. State recipe.lr (safe values are 0.0003 for the adam family and 0.01 for sgd), or "
                f"increase recipe.finder.steps (now {steps}) to average more batches"
            )
    return RateSearch(rates.tolist(), losses.round(6).tolist(), rate, fall.curve.round(6).tolist())


def weights(rates: np.ndarray) -> np.ndarray:
    """(steps, steps) the weight of each loss in each smoothed loss: a normal curve over the logarithm of the rate.

    >>> weights(np.geomspace(1e-7, 1, 60)).sum(1).round(6).tolist() == [1.0] * 60
    True
    """
    log_rates = np.log10(rates)
    width = max(WIDTH, 1.5 * float(log_rates[1] - log_rates[0]))
    kernel = np.exp(-0.5 * ((log_rates[:, None] - log_rates) / width) ** 2)
    return np.asarray(kernel / kernel.sum(1, keepdims=True))


def _without_outliers(losses: np.ndarray) -> np.ndarray:
    """The losses with single outliers limited to three deviations from the median of the five around them.

    >>> _without_outliers(np.array([2.0, 2.1, 2.0, 0.1, 2.1, 2.0, 1.9, 2.0])).min().round(1).item()
    1.8
    """
    middle = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(losses, 2, mode="edge"), 5), axis=1)
    far = 3 * 1.4826 * np.median(np.abs(losses - middle))
    return np.clip(losses, middle - far, middle + far)


def deepest(rates: np.ndarray, losses: np.ndarray) -> _Fall | None:
    """The fall from the initial level to the minimum of the smoothed loss; None with fewer than five losses.

    It begins after the last step with less than a tenth of its depth, and ends at the first with nine tenths.
    """
    steps = len(losses)
    if steps < 5:
        return None
    first = max(5, steps // 6)
    # Losses after a divergence must not affect the fall before it.
    losses = np.minimum(losses, losses[: 2 * first].max())
    kernel, limited = weights(rates), _without_outliers(losses)
    curve = kernel @ limited
    least = int(curve.argmin())

    def passed(level: float, fraction: float) -> int:
        above = np.flatnonzero(curve[:least] > level - fraction * (level - curve[least]))
        return int(above[-1]) + 1 if len(above) else 0

    level = float(np.median(limited[:first]))
    flat = max(first, passed(level, 0.5))
    level = float(np.mean(limited[:flat]))
    # Noise of the original losses, from their differences, which a slow fall hardly affects.
    single = float(np.std(np.diff(losses[: max(least + 1, steps // 2, 3)]))) / np.sqrt(2)
    noise = single * float(np.sqrt((kernel[least] ** 2).sum() + 1 / flat))
    begin = passed(level, 0.1)
    depth = level - float(curve[least])
    end = begin + int(np.argmax(curve[begin:] <= level - 0.9 * depth))
    # The first rates cannot be chosen, because no loss precedes them.
    return _Fall(curve, max(begin, 3, steps // 10), end, depth, noise)


def steepest(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """The rate at which the smoothed loss falls fastest within its clear fall; None where none is clear.

    >>> rates = np.geomspace(1e-5, 1, 50)
    >>> losses = np.concatenate([np.ones(20), np.linspace(1, 0.2, 15), np.linspace(0.2, 9, 15)])
    >>> 1e-3 < steepest(rates, losses) < 2e-2
    True
    """
    fall = deepest(rates, losses)
    if fall is None or not fall.clear:
        return None
    slope = np.gradient(fall.curve, np.log(rates))[fall.begin : fall.end + 1]
    # the curve is not more precise than two significant digits
    return float(f"{float(rates[fall.begin + int(slope.argmin())]):.1e}")
