"""The loss of a batch over all targets, the weights of classes, and the loss of guessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from casewise.modalities.device import to_device
from casewise.models.outputs import NetworkKind, Output, Scored, class_counts, raw_columns, split_raw
from casewise.study.schema import Recipe


@dataclass(frozen=True)
class Scaling:
    """(W,) mean and standard deviation of the training labels, for each raw output."""

    mean: Tensor
    std: Tensor


def loss_of(
    raw: Tensor,
    truth: Tensor,
    outputs: Sequence[Output],
    recipe: Recipe,
    scaling: Scaling,
    *,
    weights: Sequence[Tensor] | None = None,
    plain: bool = False,
) -> Tensor:
    """The mean loss over targets of scored rows; the host does not wait for the device of the outputs.

    Args:
        raw: (B, W) the network's outputs, for numbers in the targets' units.
        truth: (B, T) on the CPU, NaN where not scored; class numbers for classes and grades.
        scaling: of the network's outputs.
        weights: for each target (K,) weights of its classes (empty for numbers).
        plain: without label smoothing and class weights, as for early stopping.
    """
    by_kind: dict[NetworkKind, list[Scored]] = {}
    by_target = zip(outputs, split_raw(raw, outputs), raw_columns(outputs), strict=True)
    scored, labels = ~truth.isnan(), to_device(truth, raw.device)
    for column, (output, target_raw, columns) in enumerate(by_target):
        weight = weights[column] if weights is not None and not plain else None
        chosen = None if scored[:, column].all() else to_device(scored[:, column].nonzero()[:, 0], raw.device)
        mean, std = scaling.mean[columns], scaling.std[columns]
        target = Scored(output, target_raw, labels[:, column], mean, std, weight, chosen)
        by_kind.setdefault(output.network_kind, []).append(target)
    settings = recipe.model_copy(update={"label_smoothing": 0.0}) if plain else recipe
    total = raw.new_zeros(())
    for kind in sorted(by_kind, key=lambda kind: kind.last):
        total = total + kind.loss(by_kind[kind], settings)
    return total / len(outputs)


def class_weights(truth: Tensor, outputs: Sequence[Output]) -> list[Tensor]:
    """For each target the weights by which all classes have the same influence: rows / (classes × rows of the class).

    >>> import torch
    >>> class_weights(torch.tensor([[0.0], [0.0], [0.0], [1.0]]), [Output("label", "classification", 2)])[0].tolist()
    [0.6666666865348816, 2.0]
    """
    counts = [class_counts(truth[:, column], output) for column, output in enumerate(outputs)]
    return [target_counts.sum() / (len(target_counts) * target_counts.clamp(min=1)) for target_counts in counts]


def weights_within(labels: NDArray[np.float64], sources: Sequence[str]) -> NDArray[np.float64]:
    """(N,) weights by which the classes that a source has weigh the same in it, and a source as its number of rows.

    The mean weight is 1. Where a source has one class only, nothing is balanced, and the source still tells the class.

    >>> weights_within(np.array([0.0, 0, 0, 1, 1]), ["a", "a", "a", "a", "b"]).round(2).tolist()
    [0.67, 0.67, 0.67, 2.0, 1.0]
    """
    names, weights = np.asarray(sources, dtype=object), np.empty(len(labels))
    for source in set(sources):
        rows = np.flatnonzero(names == source)
        _, classes, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)
        weights[rows] = len(rows) / (len(counts) * counts[classes])
    return weights


def weights_among(labels: NDArray[np.float64], population: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) weights by which classes have the same shares of the labels (N,) as of a population; the mean is 1.

    >>> weights_among(np.array([0.0, 0, 1, 1]), np.array([0.0, 0, 0, 1, np.nan])).tolist()
    [1.5, 1.5, 0.5, 0.5]
    """
    classes, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    total = (population[:, None] == classes).sum(axis=0)
    return np.asarray((total / total.sum() * len(labels) / counts)[numbers])


def balanced(truth: Tensor, outputs: Sequence[Output], sources: Sequence[str] = ()) -> Tensor:
    """(P,) the share of draws of each row, so that all classes of the main target are drawn equally often.

    Given the source of each row, they are drawn equally often within each source. Copies of all rows may follow them.
    """
    classed = [i for i, output in enumerate(outputs) if output.classes]
    column = next((i for i in classed if outputs[i].main), classed[0])
    labels = truth[:, column]
    scored = ~labels.isnan()
    shares = torch.ones(len(labels))
    if sources:
        names = np.resize(np.asarray(sources, dtype=object), len(labels))[scored.numpy()].tolist()
        shares[scored] = torch.from_numpy(weights_within(labels[scored].double().numpy(), names)).float()
    else:
        shares[scored] = class_weights(truth, outputs)[column][labels[scored].long()]
    return shares / shares.sum()


def guess_loss(train: Tensor, validation: Tensor, outputs: Sequence[Output], recipe: Recipe) -> float:
    """The loss on `validation` of always predicting the training rows' mean or shares of classes."""
    total = 0.0
    for column, output in enumerate(outputs):
        labelled = validation[~validation[:, column].isnan(), column]
        fitted = train[~train[:, column].isnan(), column]
        total += output.network_kind.guess_loss(fitted, labelled, output, recipe)
    return total / len(outputs)
