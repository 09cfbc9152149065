"""The loop that trains networks and heads; after an interruption it continues to the same bits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from casewise.cohort.table import names_text
from casewise.errors import SplitError, TrainingError
from casewise.modalities.dataset import Batches, PanelDataset, epoch_batches, standard, steps_of
from casewise.modalities.device import to_device
from casewise.models.backbones import Network, keep_statistics, set_momentum
from casewise.models.outputs import Output, hits, raw_columns
from casewise.models.shared_parts import forward, mean_over_views
from casewise.models.threads import on_threads
from casewise.run_folder import TrainingFolder
from casewise.study.learners import is_registered
from casewise.study.model import mixed_seed
from casewise.study.schema import Recipe
from casewise.training.checkpoint import load_state, save_state
from casewise.training.compute_plan import ComputePlan
from casewise.training.cost import give_memory_back
from casewise.training.frozen_features import MEMORY, SharedFeatures, UpperLayers
from casewise.training.losses import Scaling, balanced, class_weights, loss_of
from casewise.training.rates import cosine_share, optimizer_of, parameter_groups

Tell = Callable[[int, float], None]
Learner: TypeAlias = "Network | UpperLayers"
CASES_SHOWN = 5
# Steps of an epoch from which memory is given back before its evaluation.
STEPS_TO_TRIM = 10
# Training time for each second that is spent on saving states.
SAVING = 20
# Panels whose own statistics are compared with the stored ones of batch norms.
COMPARED = 32


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
        frozen_once: compute the output of frozen layers once instead of at every step; the result is the same.
        until: the epoch of the recipe after which training ends; the schedule still spans all epochs.
        memory: the bytes for values that are computed once (`casewise.training.frozen_features.Buffer`).
        shared: the panels of the study, whose features in frozen networks are shared between folds and runs.
        sources: the source of each training row, if the network is for other sources (`losses.balanced`).
    """

    outputs: Sequence[Output]
    folder: Path
    seed: int
    choice: ComputePlan
    save_every: float = 30.0
    keep: Literal["best", "last"] = "best"
    tell: Tell | None = None
    until: int | None = None
    memory: int = field(default=MEMORY, kw_only=True)
    shared: SharedFeatures | None = field(default=None, kw_only=True)
    sources: Sequence[str] = field(default=(), kw_only=True)
    frozen_once: bool = field(default=True, kw_only=True)

    @property
    def files(self) -> TrainingFolder:
        """The files of the folder."""
        return TrainingFolder(self.folder)

    @property
    def memory_format(self) -> torch.memory_format:
        """The format of panels and weights."""
        return torch.channels_last if self.choice.channels_last else torch.contiguous_format

    def after(self, done: int) -> TrainingContext:
        """The same context, whose progress includes the `done` epochs of earlier stages."""
        tell = self.tell
        return replace(self, tell=(lambda epoch, loss: tell(done + epoch, loss)) if tell else None)


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a step: panels, of bags the occupied slots, and the share of other panels that is mixed in."""

    panels: Tensor
    occupied: Tensor | None
    share: float
    others: Tensor


@dataclass(frozen=True)
class Fitted:
    """A fitted network, with the weights of its best epoch, and its history."""

    network: Learner
    history: list[dict[str, float]]
    best_epoch: int
    best_loss: float


class Training:
    """A network with its optimiser, which is trained on `train` batch by batch.

    The draws of a step depend on the seed, the epoch and the number of the batch alone, so that training can continue
    from the end of any epoch.
    """

    def __init__(self, network: Learner, recipe: Recipe, train: Batches, context: TrainingContext) -> None:
        self.device, self.format = torch.device(context.choice.device), context.memory_format
        self.network: Any = network.to(self.device).to(memory_format=self.format)  # type: ignore[call-overload]
        self.recipe, self.data, self.context = recipe, train, context
        if recipe.batch_norm_momentum:
            set_momentum(network, recipe.batch_norm_momentum)
        weighted = recipe.imbalance == "weights"
        self.weights = [w.to(self.device) for w in class_weights(train.truth, context.outputs)] if weighted else None
        drawn = recipe.imbalance == "sampling" or (
            context.sources and any(output.classes for output in context.outputs)
        )
        self.shares = balanced(train.truth, context.outputs, context.sources) if drawn else None
        self.steps = steps_of(len(train), recipe.batch_size)
        groups = parameter_groups(network, recipe, float(recipe.lr))
        self.optimizer = optimizer_of(groups, recipe, fused=context.choice.fused)
        self.trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        plateau = recipe.plateau
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=plateau.factor, patience=plateau.patience, threshold=plateau.threshold
        )
        self.cycle: Any = None
        if recipe.schedule == "one-cycle":
            steps = self.steps * recipe.epochs
            # torch divides by the steps of the rise minus one, so the rise must have at least two
            rise = min(max(0.25, 2.5 / steps), 0.9)
            self.cycle = torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer, max_lr=self.rates, total_steps=steps, pct_start=rise, cycle_momentum=False
            )
        self.history: list[dict[str, float]] = []
        self.best_loss, self.best_epoch, self.best = math.inf, -1, dict[str, Tensor]()

    def set_rates(self, share: float) -> None:
        """Set the learning rate of every group to this fraction of its full rate."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share

    def batches(self, epoch: int) -> list[list[int]]:
        """Put the modules in training mode; the rows of every batch of an epoch."""
        self.network.train()
        # not in the head, which has no statistics from first weights
        keep_statistics(self.network.body, only_frozen=self.recipe.batch_norm == "update")
        return epoch_batches(len(self.data), self.recipe.batch_size, self.context.seed, epoch, shares=self.shares)

    def step(
        self, rows: list[int], epoch: int, number: int, inputs: _Inputs | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Take a step of the optimiser; return loss, raw outputs, labels, the loss's part of masks, gradient norm.

        The norm is taken over all trained weights, before it is limited.
        The labels are on the CPU, the others on the device, for which the host does not wait. `inputs`: if they are
        already prepared.
        """
        inputs = inputs or self._inputs(rows, epoch, number)
        # `torch.manual_seed` also formats its call stack, which takes as long as the step of a head
        seed_layers = torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed
        seed_layers(mixed_seed(self.context.seed, "dropout", epoch, number))
        panels, occupied, share, others = inputs.panels, inputs.occupied, inputs.share, inputs.others
        truth = self.data.truth[rows]
        with self._precision():
            panels, masks = panels.tensor_split((-2,), dim=1) if self.data.masked else (panels, panels)
            panels = panels.to(memory_format=self.format) if panels.ndim == 4 else panels
            compute = self.network.outputs_and_map if self.data.masked else self.network
            outputs = split_batch(self.network, panels, self.context.choice.parts, compute, occupied)
            raw, logits = outputs if self.data.masked else (outputs, outputs)
            loss, of_masks = self.loss(raw, truth), torch.zeros(())
            if share:
                loss = loss.lerp(self.loss(raw, truth[others]), share)
            if self.data.masked:
                of_masks = self.recipe.mask_loss * self.network.body.mask_loss(logits, masks)
                loss = loss + of_masks
        self.optimizer.zero_grad()
        loss.backward()
        if self.recipe.clip_gradients:
            norm = torch.nn.utils.clip_grad_norm_(self.trained, self.recipe.clip_gradients)
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.trained if p.grad is not None])
        self.optimizer.step()
        if self.cycle:
            self.cycle.step()
        return loss.detach(), raw.detach(), truth, of_masks.detach(), norm

    def _inputs(self, rows: list[int], epoch: int, number: int) -> _Inputs:
        generator = torch.Generator().manual_seed(mixed_seed(self.context.seed, "panels", epoch, number))
        panels, occupied = self.data.training_batch(rows, generator, self.device)
        share, others = self._mixing(len(panels), generator, epoch, number)
        if share:
            panels = panels.lerp(panels[to_device(others, self.device)], share)
            # a slot that is empty in one of two bags is empty in their mixture
            occupied = occupied if occupied is None else occupied & occupied[others]
        return _Inputs(panels, occupied, share, others)

    def _prepared(self, batches: list[list[int]], epoch: int) -> Iterator[_Inputs | None]:
        """The inputs of each step of an epoch; on a CPU, which would have no core for them, each step prepares its own.

        For a GPU a thread prepares the inputs of a step while the host starts the operations of the one before.
        """
        if self.device.type == "cpu":
            yield from [None] * len(batches)
            return
        with ThreadPoolExecutor(1) as thread:
            following = thread.submit(self._inputs, batches[0], epoch, 0)
            for number, rows in enumerate([*batches[1:], None], start=1):
                inputs = following.result()
                if rows is not None:
                    following = thread.submit(self._inputs, rows, epoch, number)
                yield inputs

    def _mixing(self, rows: int, generator: torch.Generator, epoch: int, number: int) -> tuple[float, Tensor]:
        """The share of another panel in each panel of a batch, at most a half, and the numbers of the others (B,)."""
        if not self.recipe.mixup:
            return 0.0, torch.arange(rows)
        random = np.random.default_rng(mixed_seed(self.context.seed, "mixup", epoch, number))
        share = float(random.beta(self.recipe.mixup, self.recipe.mixup))
        return min(share, 1 - share), torch.randperm(rows, generator=generator)

    def loss(self, raw: Tensor, truth: Tensor, *, plain: bool = False) -> Tensor:
        """Mean loss over targets on labels (B, T) of the CPU; `plain` without label smoothing and class weights."""
        scaling = Scaling(self.network.target_mean, self.network.target_std)
        return loss_of(raw, truth, self.context.outputs, self.recipe, scaling, weights=self.weights, plain=plain)

    def run_epoch(self, stop: Batches) -> None:
        """Train and evaluate one epoch, and add it to the history; the best one's weights are kept.

        Raises:
            TrainingError: a loss of the epoch is not finite; there is no state to continue from.
        """
        epoch, recipe, batches = len(self.history), self.recipe, self.batches(len(self.history))
        results = []
        for number, (rows, inputs) in enumerate(zip(batches, self._prepared(batches, epoch), strict=True)):
            if recipe.schedule == "cosine":
                self.set_rates(cosine_share(recipe, epoch, number, self.steps))
            results.append(self.step(rows, epoch, number, inputs))
        losses, raw, truth, of_masks, norms = zip(*results, strict=True)
        mean_loss = self._mean_of_finite(torch.stack(losses), batches)
        masks = float(torch.stack(of_masks).mean())
        # Batches of evaluation need other blocks than steps; faulting these in again costs a third of a step.
        if self.steps >= STEPS_TO_TRIM and len(stop) > recipe.batch_size and not _is_linear(self.network):
            give_memory_back()
        predicted = self._predicted(stop)
        loss = float(self.loss(predicted, stop.truth, plain=True))
        # of the body's last layers, or of the head if it is trained alone; earlier groups may have smaller rates
        rate = float(self.optimizer.param_groups[-2:][0]["lr"])
        entry = {"epoch": epoch, "train_loss": mean_loss - masks, "stop_loss": loss, "lr": rate}
        entry |= {"mask_loss": masks} if self.data.masked else {}
        entry |= _gradient_facts(torch.stack(norms).tolist(), recipe.clip_gradients)
        right = {"train_accuracy": hits(torch.cat(raw), torch.cat(truth).to(self.device), self.context.outputs)}
        if recipe.early_stopping.monitor != "none":
            right["stop_accuracy"] = hits(predicted, stop.truth.to(self.device), self.context.outputs)
        counts = {name: count.tolist() for name, count in right.items() if count is not None}
        self.history.append(entry | {name: hit / count for name, (hit, count) in counts.items() if count})
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, epoch
            if self.context.keep == "best":
                self.best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        if recipe.schedule == "plateau":
            self.plateau.step(loss)

    def _mean_of_finite(self, losses: Tensor, batches: list[list[int]]) -> float:
        """The mean of an epoch's losses, read once an epoch, because the host waits for the device to read them."""
        finite = losses.isfinite().tolist()
        if not all(finite):
            number = finite.index(False)
            names = list(dict.fromkeys(self.data.names[row] for row in batches[number] if self.data.names))
            raise TrainingError(
                f"the loss is no longer a number in epoch {len(self.history) + 1}, batch {number + 1} "
                f"(cases {names_text(names, CASES_SHOWN) or 'not named'}). Lower recipe.lr (now {self.recipe.lr:g}), "
                "or look at these images"
            )
        return float(losses.mean())

    @torch.no_grad()
    def _predicted(self, data: Batches) -> Tensor:
        """The raw outputs of every panel, averaged over its views."""
        self.network.eval()
        slots, owner = data.views()
        size = data.eval_batch_size(self.recipe.batch_size, self.device)
        predicted = []
        with self._precision():
            for view_slots, panel_numbers in zip(slots.split(size), owner.split(size), strict=True):
                raw = forward(self.network, data, view_slots, self.device, self.format)
                predicted.append((raw.float(), to_device(panel_numbers, self.device)))
        return mean_over_views(predicted, len(data))

    def _precision(self) -> torch.autocast:
        bf16 = self.context.choice.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16, cache_enabled=False)

    @property
    def stopped(self) -> bool:
        """Whether early stopping has ended the training."""
        if self.context.keep == "last" or not self.history:
            return False
        last = self.history[-1]
        patience = self.recipe.early_stopping.patience
        return not math.isfinite(last["stop_loss"]) or last["epoch"] - self.best_epoch >= patience

    def state(self) -> Mapping[str, object]:
        """The state from which training continues after this epoch."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau.state_dict(),
            "cycle": self.cycle.state_dict() if self.cycle else None,
            "history": self.history,
            "best": [self.best, self.best_loss, self.best_epoch],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.network.load_state_dict(state["network"])
        numbered = {int(number): values for number, values in state["optimizer"]["state"].items()}
        self.optimizer.load_state_dict(state["optimizer"] | {"state": numbered})
        self.plateau.load_state_dict(state["plateau"])
        if self.cycle:
            self.cycle.load_state_dict(state["cycle"])
        self.history = state["history"]
        self.best, self.best_loss, self.best_epoch = state["best"]


def fit(network: Learner, recipe: Recipe, train: Batches, stop: Batches, context: TrainingContext) -> Fitted:
    """Train until the stopping loss no longer falls, then put the best epoch's weights into the network.

    With `context.keep == "last"` all epochs are trained, and the weights of the last one are kept. The state is saved
    at the end of an epoch, in about a twentieth of the time at most, unless every epoch is saved.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    training, file = Training(network, recipe, train, context), context.files.state
    if file.intact():
        training.load(load_state(file.path))
    saved, interval = time.monotonic(), context.save_every
    # threads wait for each other longer than the step of a linear head takes
    with naming(network), on_threads(1) if _is_linear(network) else nullcontext():
        while len(training.history) < (context.until or recipe.epochs) and not training.stopped:
            training.run_epoch(stop)
            start = time.monotonic()
            # not after early stopping has decided, since nothing follows
            if start - saved >= interval and not training.stopped:
                save_state(file, training.state())
                saved = time.monotonic()
                interval = max(interval, SAVING * (saved - start)) if interval else interval
            if context.tell:
                context.tell(len(training.history), training.history[-1]["train_loss"])
        history, best = training.history, context.keep == "best"
        if not all(math.isfinite(h["train_loss"] + h["stop_loss"]) for h in history) or (best and not training.best):
            in_training = not all(math.isfinite(h["train_loss"]) for h in history)
            raise TrainingError(
                f"the loss {'in training' if in_training else 'after an epoch'} is no longer a "
                f"number after {len(history)} epochs. Lower recipe.lr (now {recipe.lr:g})"
            )
    if best:
        network.load_state_dict(training.best)
    return Fitted(network.eval(), history, training.best_epoch, training.best_loss)


@torch.no_grad()
def statistics_agreement(
    network: Network, data: PanelDataset, device: torch.device, batch: int = COMPARED
) -> float | None:
    """Correlation between features by the stored statistics of batch norms and features by a batch's own statistics.

    The batch has panels from all over the data, without variations; the network does not change. None: the network has
    no batch norm in its body, there are fewer than two panels, or features are no numbers.

    Args:
        batch: panels in memory at once, as in a step of the training; at most 32 are compared.
    """
    norms = [module for module in network.body.modules() if isinstance(module, _BatchNorm)]
    slots, _ = data.views()
    if not norms or len(slots) < 2:
        return None
    count = min(COMPARED, len(slots), max(2, batch))
    slots = slots[torch.linspace(0, len(slots) - 1, count).round().long()]
    panels = data.single_tiles(slots[:, 0], device) if data.bags else data.plain_batch(slots, device)
    was_training = network.training
    network.to(device).eval()
    stored = network.features(panels)
    for module in norms:
        module.train()
    with _running_statistics_kept(network):
        own = network.features(panels)
    network.train(was_training)
    value = float(torch.corrcoef(torch.stack([stored.flatten(), own.flatten()]).double())[0, 1])
    if not (torch.isfinite(stored).all() and torch.isfinite(own).all()):
        return None
    return value if math.isfinite(value) else 0.0  # features that do not vary agree with nothing


def _gradient_facts(norms: Sequence[float], limit: float | None) -> dict[str, float]:
    """Median and 5 % and 95 % quantiles of the gradient norms of an epoch's steps, and the share above the limit.

    >>> _gradient_facts([0.5, 2.0, 4.0], limit=1.0)["limited_steps"]
    0.6666666666666666
    >>> _gradient_facts([3.0], limit=None)
    {'gradient_norm': 3.0, 'gradient_norm_q05': 3.0, 'gradient_norm_q95': 3.0}
    >>> _gradient_facts([math.inf], limit=1.0)
    {'limited_steps': 1.0}
    """
    values = np.array(norms)
    facts = {"limited_steps": float((~(values <= limit)).mean())} if limit else {}
    if len(finite := values[np.isfinite(values)]):  # a sum of squares may overflow although the loss is a number
        names = ("gradient_norm", "gradient_norm_q05", "gradient_norm_q95")
        facts |= dict(zip(names, np.quantile(finite, (0.5, 0.05, 0.95)).tolist(), strict=True))
    return facts


@contextmanager
def naming(network: nn.Module) -> Iterator[None]:
    """Add the network's name to an error of its training."""
    try:
        yield
    except TrainingError as error:
        remedy = "" if is_registered(str(network.name)) else f", or take {network.name} out of `backbones`"
        raise TrainingError(f"{network.name}: {error}{remedy}.") from None


def _is_linear(network: nn.Module) -> bool:
    """Whether a linear head is trained alone, on one vector of features a panel."""
    return isinstance(network, UpperLayers) and network.is_linear


def standardise(network: Network, truth: Tensor, outputs: Sequence[Output]) -> None:
    """Set the mean and standard deviation of the network's numbers, from its training labels; classes have none.

    Raises:
        SplitError: no training subject has a recorded value of a target.
    """
    centre, scale = standard(truth.numpy())
    for column, (output, columns) in enumerate(zip(outputs, raw_columns(outputs), strict=True)):
        if truth[:, column].isnan().all():
            raise SplitError(
                f"No training subject has {output.name!r} recorded. Hold out fewer subjects (`split`), or leave it out."
            )
        if output.network_kind.standardised:
            network.target_mean[columns.start] = float(centre[column])
            network.target_std[columns.start] = float(scale[column])


def split_batch(
    network: nn.Module,
    panels: Tensor,
    parts: int,
    compute: Callable[..., Any] | None = None,
    occupied: Tensor | None = None,
) -> Any:
    """The outputs (B, W) of a batch of panels (B, ...), or what `compute` returns, in `parts` of nearly equal size.

    A part is computed a second time when its gradients are needed, so that memory holds the intermediate values of one
    part at a time. The loss is computed on the whole batch, so gradients are equal up to rounding to gradients without
    parts, except with batch norm in training mode, which normalises each part by itself, and for the draws of dropout.
    `occupied`: the slots of bags that hold an image, (B, K).

    >>> network = nn.Linear(3, 2)
    >>> split_batch(network, torch.ones(5, 3), 2).shape
    torch.Size([5, 2])
    """
    # A part of one panel has no statistics for a batch norm.
    parts = max(1, min(parts, len(panels) // 2))
    inputs = [panels] if occupied is None else [panels, occupied]
    if parts == 1:
        return (compute or network)(*inputs)
    by_part = [
        checkpoint(
            compute or network,
            *part,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _running_statistics_kept(network)),
        )
        for part in zip(*(values.tensor_split(parts) for values in inputs), strict=True)
    ]
    several = isinstance(by_part[0], tuple)
    return tuple(map(torch.cat, zip(*by_part, strict=True))) if several else torch.cat(by_part)


@contextmanager
def _running_statistics_kept(network: nn.Module) -> Iterator[None]:
    """The second computation of a part must not count a second time in the running statistics of batch norms."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [(module, module.momentum, module.num_batches_tracked) for module in norms]
    for module in norms:
        module.momentum = 0.0
        if module.num_batches_tracked is not None:
            module.num_batches_tracked = module.num_batches_tracked.clone()
    try:
        yield
    finally:
        for module, momentum, count in before:
            module.momentum, module.num_batches_tracked = momentum, count
