"""The loss of a batch: numbers in standard deviations of each target, classes by cross-entropy, grades step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from casewise.study.schema import Recipe
from casewise.training.outputs import Output, raw_parts

LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": functional.mse_loss,
    "huber": functional.smooth_l1_loss,
    "l1": functional.l1_loss,
}


def loss_of(
    raw: Tensor,
    truth: Tensor,
    outputs: Sequence[Output],
    recipe: Recipe,
    *,
    centre: Tensor,
    scale: Tensor,
    weights: Sequence[Tensor] | None = None,
    plain: bool = False,
) -> Tensor:
    """Mean loss over the targets of what was scored.

    Args:
        raw: (B, W) the network's outputs; those of numbers in the targets' units.
        truth: (B, T), NaN where not scored; class numbers for classes and grades.
        centre, scale: (W,) of each raw output, from the training folds.
        weights: for each target (K,) weights of its classes (empty for numbers).
        plain: without label smoothing and class weights: what decides when to stop.
    """
    total = raw.new_zeros(())
    numbers: list[tuple[Tensor, Tensor]] = []
    start = 0
    for place, (part, output) in enumerate(zip(raw_parts(raw, outputs), outputs, strict=True)):
        wanted = truth[:, place]
        here = slice(start, start + output.width)
        start += output.width
        if output.kind == "regression":
            numbers.append(((part[:, 0] - centre[here]) / scale[here], (wanted - centre[here]) / scale[here]))
            continue
        scored = ~wanted.isnan()
        if not scored.any():
            continue
        chosen, label = part[scored].float(), wanted[scored].long()
        weight = weights[place].to(chosen) if weights is not None and not plain else None
        if output.kind == "classification":
            smoothing = 0.0 if plain else recipe.label_smoothing
            total = total + functional.cross_entropy(chosen, label, weight=weight, label_smoothing=smoothing)
        else:
            total = total + _graded(chosen, label, weight)
    if numbers:
        given, wanted = (torch.stack(side, dim=1) for side in zip(*numbers, strict=True))
        scored = ~wanted.isnan()
        each = LOSSES[recipe.loss](given, torch.where(scored, wanted, given.detach()), reduction="none")
        total = total + len(numbers) * (each * scored).sum() / scored.sum().clamp(min=1)
    return total / len(outputs)


def _graded(logits: Tensor, grade: Tensor, weight: Tensor | None) -> Tensor:
    """Negative log-likelihood of grades: every step up to the true grade is passed, the next one is not."""
    steps = torch.arange(logits.shape[1], device=logits.device)
    reached = steps <= grade.unsqueeze(1)
    passed = (steps < grade.unsqueeze(1)).to(logits)
    each = functional.binary_cross_entropy_with_logits(logits, passed, reduction="none") * reached
    if weight is None:
        return each.sum(dim=1).mean()
    return (each.sum(dim=1) * weight[grade]).sum() / weight[grade].sum()


def class_counts(truth: Tensor, output: Output) -> Tensor:
    """(K,) how many rows carry each class."""
    labels = truth[~truth.isnan()].long()
    return torch.bincount(labels, minlength=output.classes).float()


def class_weights(truth: Tensor, outputs: Sequence[Output]) -> list[Tensor]:
    """For each target the weights that give every class the same say: rows / (classes × rows of the class).

    >>> class_weights(torch.tensor([[0.0], [0.0], [0.0], [1.0]]), [Output("label", "classification", 2)])[0].tolist()
    [0.6666666865348816, 2.0]
    """
    found = []
    for place, output in enumerate(outputs):
        counts = class_counts(truth[:, place], output) if output.classes else torch.zeros(0)
        found.append(counts.sum() / (output.classes * counts.clamp(min=1)) if output.classes else counts)
    return found


def guess_loss(train: Tensor, judged: Tensor, outputs: Sequence[Output], recipe: Recipe) -> float:
    """The loss on `judged` of always saying the training rows' mean or shares of classes: what learning must beat."""
    total = 0.0
    for place, output in enumerate(outputs):
        known = judged[~judged[:, place].isnan(), place]
        fitted = train[~train[:, place].isnan(), place]
        if output.kind == "regression":
            spread = fitted.std(correction=0).clamp(min=1e-6)
            given = (fitted.mean() - known) / spread
            total += float(LOSSES[recipe.loss](given, torch.zeros_like(given))) if len(known) else 0.0
        elif len(known):
            shares = class_counts(fitted, output)
            shares = (shares / shares.sum()).clamp(min=1e-6)
            total += float(-shares[known.long()].log().mean())
    return total / len(outputs)
