"""Fitting a head on a bank of features, linear or radial: the best candidates of each target, averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from casewise.models.linear import keep_only
from casewise.models.radial import FREQUENCIES, RadialBlock, RadialHead
from casewise.training.linear_models import Directions, LinearModel, linear_model

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from casewise.modalities.dataset import FeatureData
    from casewise.models.backbones import Network
    from casewise.models.feature_bank import FeatureSpec
    from casewise.models.outputs import Output

Values = TypeVar("Values")
# As many candidates as this are averaged, linear or radial: those with the smallest inner loss.
AVERAGED, AVERAGED_RADIAL = 4, 6
# Directions of the features of a radial candidate, between whose points distances are measured.
MOST_RADIAL_DIRECTIONS = 200


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


def blocks_of(network: Network, train: FeatureData) -> dict[FeatureSpec, NDArray[np.float32]]:
    """The features (N, W) `float32` of each candidate."""
    bank: Any = network.body
    blocks = np.split(train.features.numpy(), np.cumsum(bank.widths)[:-1], axis=1)
    return dict(zip(bank.specs, blocks, strict=True))


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
    blocks: Mapping[FeatureSpec, NDArray[np.float32]],
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
            spec: linear_model(
                block[scored].astype(float), labels[scored], groups[scored], output, standardise=standardise
            )
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


def fit_radial_head(
    network: Network, train: FeatureData, subjects: Sequence[str], outputs: Sequence[Output], *, seed: int
) -> LinearFit:
    """Replace the head of a network with a bank of features by one with a radial kernel, and reduce the bank to it.

    Candidates are the features that do not say where things are (`radial_candidates`). See
    `fit_head` for the arguments.
    """
    blocks = radial_candidates(blocks_of(network, train))
    fourier: dict[FeatureSpec, RadialBlock] = {}
    for spec, block in blocks.items():
        directions = Directions.of(block.astype(float), most=MOST_RADIAL_DIRECTIONS)
        fourier[spec] = RadialBlock(block.shape[1], len(directions.back), FREQUENCIES)
        fourier[spec].fill(directions.centre, directions.back, seed)
    with torch.no_grad():
        values = {spec: fourier[spec](torch.from_numpy(block)).numpy() for spec, block in blocks.items()}
    chosen = choose_candidates(network, values, train, subjects, outputs, averaged=AVERAGED_RADIAL, standardise=False)
    columns = keep_only(network, chosen.specs)
    bank: Any = network.body
    head = RadialHead(
        bank.widths, [len(fourier[spec].back) for spec in bank.specs], FREQUENCIES, network.target_mean.numel()
    )
    head.blocks = torch.nn.ModuleList(fourier[spec] for spec in bank.specs)
    set_weights(head.linear, bank.specs, [2 * FREQUENCIES] * len(bank.specs), chosen, outputs)
    network.head[-1] = head.double()
    return LinearFit(columns, chosen.records)


def radial_candidates(blocks: Mapping[FeatureSpec, Values]) -> dict[FeatureSpec, Values]:
    """The features that a radial kernel may read: no grids; of single channels only if no encoder reads all of them.

    >>> from casewise.models.feature_bank import FeatureSpec
    >>> specs = [FeatureSpec("statistics"), FeatureSpec("pixels", cells=8), FeatureSpec("features", (1,), ("conv1",))]
    >>> [spec.name for spec in radial_candidates(dict.fromkeys(specs))]
    ['statistics', 'conv1 in 1×1 cells of channel 2']
    >>> [spec.name for spec in radial_candidates(dict.fromkeys([*specs, FeatureSpec("features", (), ("conv1",))]))]
    ['statistics', 'conv1 in 1×1 cells']
    """
    without_place = {
        spec: values
        for spec, values in blocks.items()
        if spec.source != "pixels" and (spec.summary in ("moments", "covariance") or spec.cells == 1)
    }
    together = {spec: values for spec, values in without_place.items() if not spec.channels}
    return together if any(spec.source == "features" for spec in together) else without_place
