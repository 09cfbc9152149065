"""Fitting a linear model on a bank of features: the best candidates of each target, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from casewise.models.linear import keep_only
from casewise.training.linear_models import LinearModel, linear_model

if TYPE_CHECKING:
    from torch import Tensor

    from casewise.modalities.dataset import FeatureData
    from casewise.models.backbones import Network
    from casewise.models.feature_bank import FeatureSpec
    from casewise.models.outputs import Output

# As many candidates as this are averaged: those with the smallest inner loss.
AVERAGED = 4


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear model.

    Attributes:
        columns: the columns of the bank's features that it uses.
        candidates: for each target its candidates with their inner losses, in the order of the bank.
    """

    columns: Tensor
    candidates: list[dict[str, Any]]


def fit_head(network: Network, train: FeatureData, subjects: Sequence[str], outputs: Sequence[Output]) -> LinearFit:
    """Fit the head of a network with a bank of features, and reduce the bank to what the head uses.

    For each target, the raw outputs of the `AVERAGED` candidates with the smallest inner loss are averaged.

    Args:
        train: the features of all candidates, and the labels.
        subjects: the subject of each row; inner folds keep the rows of a subject together.
    """
    bank: Any = network.body
    blocks = np.split(train.features.numpy(), np.cumsum(bank.widths)[:-1], axis=1)
    groups = np.asarray(subjects, dtype=object)
    used: dict[int, dict[FeatureSpec, LinearModel]] = {}
    records, start = [], 0
    for number, output in enumerate(outputs):
        labels = train.truth[:, number].double().numpy()
        scored = ~np.isnan(labels)
        if output.network_kind.standardised:
            labels = (labels - float(network.target_mean[start])) / float(network.target_std[start])
        models = [linear_model(block[scored].astype(float), labels[scored], groups[scored], output) for block in blocks]
        order = sorted(range(len(models)), key=lambda candidate: models[candidate].loss)[:AVERAGED]
        used[number] = {bank.specs[candidate]: models[candidate] for candidate in order}
        losses = {spec.name: model.loss for spec, model in zip(bank.specs, models, strict=True)}
        records.append({"target": output.name, "losses": losses, "averaged": [bank.specs[c].name for c in order]})
        start += output.width
    chosen = {spec for by_spec in used.values() for spec in by_spec}
    columns = keep_only(network, [spec for spec in bank.specs if spec in chosen])
    _set_head(network, [used[number] for number in range(len(outputs))], outputs)
    return LinearFit(columns, records)


def _set_head(network: Network, used: Sequence[dict[FeatureSpec, LinearModel]], outputs: Sequence[Output]) -> None:
    bank: Any = network.body
    weight, bias = np.zeros((network.target_mean.numel(), bank.width)), np.zeros(network.target_mean.numel())
    row = 0
    for by_spec, output in zip(used, outputs, strict=True):
        column = 0
        for spec, width in zip(bank.specs, bank.widths, strict=True):
            if (model := by_spec.get(spec)) is not None:
                weight[row : row + output.width, column : column + width] = model.weight / len(by_spec)
                bias[row : row + output.width] += model.bias / len(by_spec)
            column += width
        row += output.width
    linear: Any = network.head[-1]
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))
