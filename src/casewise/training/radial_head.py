"""Fitting a model with a radial kernel on a bank of features: the best candidates of each target, averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from casewise.models.linear import keep_only
from casewise.models.radial import FREQUENCIES, RadialBlock, RadialHead
from casewise.training.linear_head import LinearFit, blocks_of, choose_candidates, set_weights
from casewise.training.linear_models import Directions

if TYPE_CHECKING:
    from casewise.modalities.dataset import FeatureData
    from casewise.models.backbones import Network
    from casewise.models.feature_bank import FeatureSpec
    from casewise.models.outputs import Output

Values = TypeVar("Values")
# As many candidates as this are averaged: those with the smallest inner loss.
AVERAGED = 6
# Directions of the features of a candidate, between whose points distances are measured.
MOST_DIRECTIONS = 200


def fit_radial_head(
    network: Network, train: FeatureData, subjects: Sequence[str], outputs: Sequence[Output], *, seed: int
) -> LinearFit:
    """Replace the head of a network with a bank of features by one with a radial kernel, and reduce the bank to it.

    Candidates are the features that do not say where things are (`radial_candidates`). See
    `casewise.training.linear_head.fit_head` for the arguments.
    """
    blocks = radial_candidates(blocks_of(network, train))
    fourier: dict[FeatureSpec, RadialBlock] = {}
    for spec, block in blocks.items():
        directions = Directions.of(block.astype(float), most=MOST_DIRECTIONS)
        fourier[spec] = RadialBlock(block.shape[1], len(directions.back), FREQUENCIES)
        fourier[spec].fill(directions.centre, directions.back, seed)
    with torch.no_grad():
        values = {spec: fourier[spec](torch.from_numpy(block)).numpy() for spec, block in blocks.items()}
    chosen = choose_candidates(network, values, train, subjects, outputs, averaged=AVERAGED, standardise=False)
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
