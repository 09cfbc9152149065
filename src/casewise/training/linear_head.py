"""Fitting a linear model on a bank of features: the best candidates of each target, averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from casewise.models.linear import keep_only
from casewise.training.linear_models import LinearModel, linear_model

if TYPE_CHECKING:
    from numpy.typing import NDArray
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
    blocks = blocks_of(network, train)
    chosen = choose_candidates(network, blocks, train, subjects, outputs, averaged=AVERAGED)
    columns = keep_only(network, chosen.specs)
    bank: Any = network.body
    set_weights(network.head[-1], bank.specs, bank.widths, chosen, outputs)
    return LinearFit(columns, chosen.records)


def blocks_of(network: Network, train: FeatureData) -> dict[FeatureSpec, NDArray[np.float64]]:
    """The features (N, W) of each candidate."""
    bank: Any = network.body
    blocks = np.split(train.features.numpy(), np.cumsum(bank.widths)[:-1], axis=1)
    return {spec: block.astype(float) for spec, block in zip(bank.specs, blocks, strict=True)}


@dataclass(frozen=True)
class Chosen:
    """The models that are averaged, one mapping for each target, and the record of all inner losses."""

    used: list[dict[FeatureSpec, LinearModel]]
    records: list[dict[str, Any]]

    @property
    def specs(self) -> list[FeatureSpec]:
        """All candidates that a target uses."""
        return list(dict.fromkeys(spec for by_spec in self.used for spec in by_spec))


def choose_candidates(
    network: Network,
    blocks: Mapping[FeatureSpec, NDArray[np.float64]],
    train: FeatureData,
    subjects: Sequence[str],
    outputs: Sequence[Output],
    *,
    averaged: int,
    standardise: bool = True,
) -> Chosen:
    """Fit every candidate to every target, and choose for each target those with the smallest inner loss."""
    groups = np.asarray(subjects, dtype=object)
    used: list[dict[FeatureSpec, LinearModel]] = []
    records, start = [], 0
    for number, output in enumerate(outputs):
        labels = train.truth[:, number].double().numpy()
        scored = ~np.isnan(labels)
        if output.network_kind.standardised:
            labels = (labels - float(network.target_mean[start])) / float(network.target_std[start])
        models = {
            spec: linear_model(block[scored], labels[scored], groups[scored], output, standardise=standardise)
            for spec, block in blocks.items()
        }
        order = sorted(models, key=lambda spec: models[spec].loss)[:averaged]
        used.append({spec: models[spec] for spec in order})
        losses = {spec.name: model.loss for spec, model in models.items()}
        records.append({"target": output.name, "losses": losses, "averaged": [spec.name for spec in order]})
        start += output.width
    return Chosen(used, records)


def set_weights(
    linear: Any, specs: Sequence[FeatureSpec], widths: Sequence[int], chosen: Chosen, outputs: Sequence[Output]
) -> None:
    """Fill a linear layer, whose input has the candidates `specs` side by side, with the mean of the chosen models."""
    weight, bias = np.zeros(tuple(linear.weight.shape)), np.zeros(len(linear.bias))
    row = 0
    for by_spec, output in zip(chosen.used, outputs, strict=True):
        column = 0
        for spec, width in zip(specs, widths, strict=True):
            if (model := by_spec.get(spec)) is not None:
                weight[row : row + output.width, column : column + width] = model.weight / len(by_spec)
                bias[row : row + output.width] += model.bias / len(by_spec)
            column += width
        row += output.width
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))
