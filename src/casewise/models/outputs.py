"""The network's side of each kind of target: the meaning of raw outputs, their loss, and the loss of guessing.

Grades follow CORN (Shi, Cao, Raschka, "Deep neural networks for rank-consistent ordinal regression based on
conditional probabilities", 2023): output k is the probability of passing grade k, given that all lower grades are
passed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from casewise.study.schema import Recipe, Study
from casewise.targets import DEFAULT, TargetKind, kind_named

LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": functional.mse_loss,
    "huber": functional.smooth_l1_loss,
    "l1": functional.l1_loss,
}


@dataclass(frozen=True)
class Output:
    """One target of a network: its kind, its number of classes, and whether it is the main outcome."""

    name: str
    kind: str = DEFAULT
    classes: int = 0
    main: bool = False

    @property
    def target_kind(self) -> TargetKind:
        """The kind of target."""
        return kind_named(self.kind)

    @property
    def network_kind(self) -> NetworkKind:
        """The network's side of the kind."""
        return NETWORK_KINDS[self.kind]

    @property
    def width(self) -> int:
        """The number of its raw outputs."""
        return self.target_kind.width(self.classes)


@dataclass(frozen=True)
class Scored:
    """One target in a batch.

    `raw` (B, width) raw outputs, for numbers in the target's units; `truth` (B,), NaN where not scored;
    `mean`, `std` (width,) of each raw output, from the training folds; `weight` (K,) of the classes or None;
    `rows` the numbers of the scored rows, known without a look at the device, or None if all are scored.
    """

    output: Output
    raw: Tensor
    truth: Tensor
    mean: Tensor
    std: Tensor
    weight: Tensor | None = None
    rows: Tensor | None = None


class NetworkKind(Protocol):
    """The network's side of a kind of target.

    `standardised`: raw outputs are in the target's units, so that the network gets the mean and standard deviation of
    the training rows. `last`: its loss is added after the other kinds' (the order of a sum decides its last bits).
    """

    standardised: bool
    last: bool

    def decode(self, raw: Tensor) -> Tensor:
        """Raw outputs (B, width) as predicted values (B, V)."""

    def decided(self, raw: Tensor) -> Tensor:
        """The predicted class or grade, (B,) `int64`; 0 for numbers."""

    def score(self, raw: Tensor, classes: Tensor) -> Tensor:
        """The value that explanations differentiate, (B,); it increases with the evidence for `classes`."""

    def loss(self, batch: Sequence[Scored], recipe: Recipe) -> Tensor:
        """The summed loss of all targets of this kind in a batch."""

    def guess_loss(self, fitted: Tensor, validation: Tensor, output: Output, recipe: Recipe) -> float:
        """The loss on `validation` of always predicting the mean or the class shares of `fitted`; NaN-free rows."""


class NumberOutput:
    """Numbers, in standard deviations of each target; the loss is the mean over all scored values of all numbers."""

    standardised, last = True, True

    def decode(self, raw: Tensor) -> Tensor:
        """The number as it is."""
        return raw

    def decided(self, raw: Tensor) -> Tensor:
        """A number has no class."""
        return torch.zeros(len(raw), dtype=torch.int64, device=raw.device)

    def score(self, raw: Tensor, classes: Tensor) -> Tensor:
        """The number itself."""
        return raw[:, 0]

    def loss(self, batch: Sequence[Scored], recipe: Recipe) -> Tensor:
        """The mean over scored values, times the number of targets."""
        predicted = torch.stack([(target.raw[:, 0] - target.mean) / target.std for target in batch], dim=1)
        expected = torch.stack([(target.truth - target.mean) / target.std for target in batch], dim=1)
        scored = ~expected.isnan()
        filled = torch.where(scored, expected, predicted.detach())
        elementwise = LOSSES[recipe.loss](predicted, filled, reduction="none")
        return len(batch) * (elementwise * scored).sum() / scored.sum().clamp(min=1)

    def guess_loss(self, fitted: Tensor, validation: Tensor, output: Output, recipe: Recipe) -> float:
        """The loss of always predicting the mean."""
        spread = fitted.std(correction=0).clamp(min=1e-6)
        error = (fitted.mean() - validation) / spread
        return float(LOSSES[recipe.loss](error, torch.zeros_like(error))) if len(validation) else 0.0


class _ClassOutput:
    """Classes by softmax and cross-entropy."""

    standardised, last = False, False

    def decode(self, raw: Tensor) -> Tensor:
        """Probabilities."""
        return functional.softmax(raw.float(), dim=1)

    def decided(self, raw: Tensor) -> Tensor:
        """The most probable class."""
        return raw.argmax(dim=1)

    def score(self, raw: Tensor, classes: Tensor) -> Tensor:
        """The class's raw output before softmax (Selvaraju et al. 2017, section 3)."""
        return raw.gather(1, classes[:, None])[:, 0]

    def loss(self, batch: Sequence[Scored], recipe: Recipe) -> Tensor:
        """The sum of the targets' mean losses over their scored rows; 0 where nothing is scored."""
        total = batch[0].raw.new_zeros(())
        for target in batch:
            rows, raw, truth = target.rows, target.raw, target.truth
            if rows is not None:
                # Selecting all rows would give the same values, in a quarter of the step of a head.
                raw, truth = raw[rows], truth[rows]
            if len(truth):
                weight = None if target.weight is None else target.weight.to(raw.device, torch.float32)
                total = total + self._loss(raw.float(), truth.long(), weight, recipe)
        return total

    def guess_loss(self, fitted: Tensor, validation: Tensor, output: Output, recipe: Recipe) -> float:
        """The loss of always predicting the shares of the classes."""
        if not len(validation):
            return 0.0
        shares = class_counts(fitted, output)
        shares = (shares / shares.sum()).clamp(min=1e-6)
        return float(-shares[validation.long()].log().mean())

    def _loss(self, raw: Tensor, label: Tensor, weight: Tensor | None, recipe: Recipe) -> Tensor:
        return functional.cross_entropy(raw, label, weight=weight, label_smoothing=recipe.label_smoothing)


class _GradeOutput(_ClassOutput):
    """Grades by a chain of conditional probabilities, learned step by step."""

    def decode(self, raw: Tensor) -> Tensor:
        """Probabilities of the grades."""
        passed = functional.sigmoid(raw.float()).cumprod(dim=1)
        padded = functional.pad(functional.pad(passed, (1, 0), value=1.0), (0, 1), value=0.0)
        return (padded[:, :-1] - padded[:, 1:]).clamp(min=0)

    def decided(self, raw: Tensor) -> Tensor:
        """The median grade: the number of grades that are passed with a probability above one half."""
        return (functional.sigmoid(raw).cumprod(dim=1) > 0.5).sum(dim=1)

    def score(self, raw: Tensor, classes: Tensor) -> Tensor:
        """The logarithm of the grade's probability: lower grades are passed, this one is not."""
        # in logarithms, so that a grade with probability near 1 has a gradient
        passed = functional.pad(functional.logsigmoid(raw).cumsum(dim=1), (1, 0))
        stopped = functional.pad(functional.logsigmoid(-raw), (0, 1))
        return (passed + stopped).gather(1, classes[:, None])[:, 0]

    def _loss(self, raw: Tensor, label: Tensor, weight: Tensor | None, recipe: Recipe) -> Tensor:
        """Negative log-likelihood: every step up to the true grade is passed, the next one is not."""
        steps = torch.arange(raw.shape[1], device=raw.device)
        reached = steps <= label.unsqueeze(1)
        passed = (steps < label.unsqueeze(1)).to(raw)
        step_losses = functional.binary_cross_entropy_with_logits(raw, passed, reduction="none") * reached
        if weight is None:
            return step_losses.sum(dim=1).mean()
        return (step_losses.sum(dim=1) * weight[label]).sum() / weight[label].sum()


NETWORK_KINDS: dict[str, NetworkKind] = {
    "regression": NumberOutput(),
    "classification": _ClassOutput(),
    "ordinal": _GradeOutput(),
}


def outputs_of(study: Study) -> tuple[Output, ...]:
    """The targets of the networks of a study, in order."""
    return tuple(
        Output(name, study.kind_of(name), len(study.classes_of(name)), name == study.primary_outcome)
        for name in study.outputs
    )


def width_of(outputs: Sequence[Output]) -> int:
    """The number of raw outputs of a network.

    >>> width_of([Output("extent"), Output("label", "classification", 3), Output("grade", "ordinal", 5)])
    8
    """
    return sum(output.width for output in outputs)


def split_raw(raw: Tensor, outputs: Sequence[Output]) -> list[Tensor]:
    """Split raw outputs (B, width) by target."""
    return list(raw.split([output.width for output in outputs], dim=1))


def values_of(raw: Tensor, outputs: Sequence[Output]) -> Tensor:
    """Raw outputs (B, W) as predictions (B, V): numbers unchanged, classes and grades as probabilities.

    >>> values_of(torch.zeros(1, 2), [Output("grade", "ordinal", 3)]).tolist()
    [[0.5, 0.25, 0.25]]
    """
    columns = zip(split_raw(raw, outputs), outputs, strict=True)
    return torch.cat([output.network_kind.decode(target_raw) for target_raw, output in columns], dim=1)


def value_columns(outputs: Sequence[Output]) -> list[slice]:
    """The columns of each target in `values_of`."""
    return _slices([len(output.target_kind.columns(output.classes)) for output in outputs])


def raw_columns(outputs: Sequence[Output]) -> list[slice]:
    """The columns of each target in the raw outputs of a network."""
    return _slices([output.width for output in outputs])


def _slices(widths: Sequence[int]) -> list[slice]:
    return [slice(end - width, end) for width, end in zip(widths, accumulate(widths), strict=True)]


def hits(raw: Tensor, truth: Tensor, outputs: Sequence[Output]) -> Tensor | None:
    """The numbers of rows with a correct main target and with a recorded one: (2,) `int64`, without synchronisation.

    None if the main target is a number.

    Args:
        raw: (B, W) raw outputs.
        truth: (B, T) numbers of classes, NaN where not scored.

    >>> label = Output("label", "classification", 2, True)
    >>> hits(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([[0.0], [1.0]]), [label])
    tensor([1, 2])
    """
    column = next((i for i, output in enumerate(outputs) if output.main and output.classes), None)
    if column is None:
        return None
    target_raw, recorded = split_raw(raw, outputs)[column].float(), truth[:, column]
    decided = outputs[column].network_kind.decided(target_raw)
    return torch.stack([(decided == recorded).sum(), (~recorded.isnan()).sum()])


def class_counts(truth: Tensor, output: Output) -> Tensor:
    """(K,) the number of rows of each class; empty for numbers."""
    labels = truth[~truth.isnan()].long() if output.classes else torch.zeros(0, dtype=torch.long)
    return torch.bincount(labels, minlength=output.classes).float()
