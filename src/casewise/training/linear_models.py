"""Linear models on features that do not change: ridge for numbers, logistic for classes and for the steps of grades.

The penalty, and the candidates among several sets of features, are chosen by inner folds of the training subjects. With
more features than rows the models are fitted in the coordinates of the rows, which gives the same models in a fraction
of the time.

A model for other sources weighs the classes equally within each source, so that the source says nothing about the class
where a source has several. Inner folds that leave sources out instead of subjects chose worse penalties and candidates
(docs/results/travelling.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from casewise.modalities.dataset import FeatureData, PanelDataset
from casewise.models.backbones import Network
from casewise.models.linear import FREQUENCIES, FeatureSpec, RadialBlock, RadialHead, bank_of, keep_only
from casewise.models.outputs import Output, raw_columns
from casewise.predictions.penalised import PenalisedFit, subject_folds
from casewise.targets import by_form
from casewise.training.frozen_features import features
from casewise.training.losses import weights_within

INNER_FOLDS = 5
# Directions of smaller variance hardly change a penalised model.
MOST_DIRECTIONS = 400
# Penalties relative to the mean squared length of a row: strengths of ridge, inverse strengths of logistic regression.
RIDGE = np.logspace(-3, 3, 13).tolist()
LOGISTIC = np.logspace(-1, 3, 9).tolist()
# Penalties that are tried after the one with the smallest loss so far.
PATIENCE = 2
Form: TypeAlias = Literal["number", "classes", "ordinal"]


@dataclass(frozen=True)
class _LinearModel:
    """A linear model of one target: raw outputs are `values @ weight.T + bias`.

    Attributes:
        weight, bias: (O, W) and (O,) for features in their own units.
        loss: the mean loss over inner folds at the chosen penalty: squared error in variances, or the negative
            log-likelihood.
        penalty: the chosen one, relative to the mean squared length of a standardised row.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    loss: float
    penalty: float


@dataclass(frozen=True)
class Directions:
    """Standardised features in at most `MOST_DIRECTIONS` orthogonal directions, and the way back.

    `scores` is (N, R), scaled so that a row has a mean squared length of 1; `back` is (R, W).
    """

    scores: NDArray[np.float64]
    back: NDArray[np.float64]
    centre: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64], *, most: int = MOST_DIRECTIONS, standardise: bool = True) -> Directions:
        """At most `most` directions of features (N, W), which are divided by their deviation if `standardise`."""
        centre, spread = values.mean(axis=0), values.std(axis=0)
        steady = spread <= 1e-6 * max(1.0, float(np.abs(centre).max(initial=0.0)))
        scale = np.where(steady, 0.0, 1.0 / np.where(steady, 1.0, spread) if standardise else 1.0)
        standardised = (values - centre) * scale
        if not standardised.any():
            return cls(np.zeros((len(values), 1)), np.zeros((1, values.shape[1])), centre)
        if values.shape[1] > values.shape[0]:
            squares, left = np.linalg.eigh(standardised @ standardised.T)
            squares, left = squares[::-1][:most], left[:, ::-1][:, :most]
            kept = squares > 1e-8 * max(float(squares[0]), 1e-12)
            lengths, left = np.sqrt(squares[kept]), left[:, kept]
            scores, back = left * lengths, (left / lengths).T @ standardised
        else:
            squares, right = np.linalg.eigh(standardised.T @ standardised)
            right = right[:, ::-1][:, :most]
            scores, back = standardised @ right, right.T
        length = float(np.sqrt((scores**2).sum(axis=1).mean())) or 1.0
        return cls(scores / length, back * scale / length, centre)

    def in_own_units(self, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> tuple[np.ndarray, np.ndarray]:
        """Weights (O, R) of the directions as weights (O, W) and biases (O,) of the features."""
        own = weight @ self.back
        return own, bias - own @ self.centre


def linear_model(
    values: NDArray[np.float64],
    labels: NDArray[np.float64],
    groups: NDArray[np.object_],
    output: Output,
    *,
    weights: NDArray[np.float64] | None = None,
    standardise: bool = True,
) -> _LinearModel:
    """Fit the model of one target to features (N, W) of rows with labels (N,), of the subjects `groups` (N,).

    Numbers must be standardised labels; classes and grades are their numbers.

    Args:
        weights: of the rows (N,), for classes and grades; None: equal.
        standardise: whether features are divided by their deviation before they are penalised.
    """
    directions = Directions.of(values, standardise=standardise)
    penalties = by_form(output.kind, {"number": RIDGE, "classes": LOGISTIC})
    weights = np.ones(len(labels)) if weights is None else weights
    fit = PenalisedFit(_form(output), directions.scores, labels, penalties, output.classes, weights, patience=PATIENCE)
    penalty, loss = fit.choose(subject_folds(groups, INNER_FOLDS))
    own_weight, own_bias = directions.in_own_units(*fit.fit(penalty=penalty))
    return _LinearModel(own_weight, own_bias, loss / len(labels), penalty)


def _form(output: Output) -> Form:
    return by_form(output.kind, {"number": "number", "classes": "classes", "ordinal": "ordinal"})


# Penalties of a probed head: of ridge, and inverse ones of logistic regression.
PROBE_RIDGE = np.logspace(0, 5, 11).tolist()
PROBE_LOGISTIC = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
MOST_PROBE_STEPS = 300


def probe(
    network: Network,
    data: PanelDataset,
    subjects: Sequence[str],
    outputs: Sequence[Output],
    *,
    batch: int,
    cached_features: Tensor | None = None,
) -> None:
    """Set the network's head to linear models on its features: ridge for numbers, logistic for classes and grades.

    The penalty of each target is chosen by cross-validation over groups of the given (training) subjects.
    `cached_features` are the features of `data`, (P, width) or (P, K, width) for bags, if already computed.
    """
    by_panel = features(network, data, batch=batch) if cached_features is None else cached_features
    if network.pooling is not None:
        # a pooling with layers begins as the mean
        by_panel = by_panel.nanmean(dim=1) if network.pooling.kind.layers else network.pooling(by_panel)
    values = by_panel.double().numpy()
    centre, spread = values.mean(axis=0), values.std(axis=0) + 1e-6
    values = (values - centre) / spread
    linear = network.head[-1]
    assert isinstance(linear, torch.nn.Linear)
    for output, start, scored, labels in labelled(network, data.truth, outputs):
        rows, groups = values[scored], np.asarray(subjects)[scored]
        for column, line in enumerate(_probe_lines(_form(output), rows, labels, groups, output.classes)):
            if line is not None:
                weight = line[0] / spread
                with torch.no_grad():
                    linear.weight[start + column] = torch.from_numpy(weight).to(linear.weight)
                    linear.bias[start + column] = float(line[1] - weight @ centre)


def _probe_lines(
    form: Form, rows: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int
) -> list[tuple[np.ndarray, float] | None]:
    """One line for a number, for each class or for each step between grades; None where labels determine none."""
    if form == "ordinal":
        steps: list[tuple[np.ndarray, float] | None] = []
        for step in range(classes - 1):
            reached, passed = labels >= step, (labels > step).astype(float)
            below, above = _probe_lines("classes", rows[reached], passed[reached], groups[reached], 2)
            steps.append((above[0] - below[0], above[1] - below[1]) if below and above else None)
        return steps
    folds, present = subject_folds(groups, INNER_FOLDS), set(labels.tolist())
    if not folds if form == "number" else len(present) < 2:
        return [None] * max(1, classes)
    penalties: Sequence[float] = PROBE_RIDGE if form == "number" else PROBE_LOGISTIC
    fit = PenalisedFit(form, rows, labels, penalties, classes, fold_means=True, most_steps=MOST_PROBE_STEPS)
    lines = zip(*fit.fit(penalty=fit.choose(folds)[0]), strict=True)
    return [
        (weight, float(bias)) if form == "number" or label in present else None
        for label, (weight, bias) in enumerate(lines)
    ]


def labelled(
    network: Network, truth: Tensor, outputs: Sequence[Output]
) -> Iterator[tuple[Output, int, NDArray[np.bool_], NDArray[np.float64]]]:
    """Each target with its first raw output, the rows with a label (P,), and their labels, numbers standardised."""
    for number, (output, columns) in enumerate(zip(outputs, raw_columns(outputs), strict=True)):
        start, labels = columns.start, truth[:, number].double().numpy()
        scored = ~np.isnan(labels)
        if output.network_kind.standardised:
            labels = (labels - float(network.target_mean[start])) / float(network.target_std[start])
        yield output, start, scored, labels[scored]


Values = TypeVar("Values")
# As many candidates as this are averaged, linear or radial: those with the smallest inner loss.
AVERAGED, AVERAGED_RADIAL = 4, 6
# Directions of the features of a radial candidate, between whose points distances are measured.
MOST_RADIAL_DIRECTIONS = 200


@dataclass(frozen=True)
class CandidateLosses:
    """The inner loss of every candidate of a target by its name, and the names of those that are averaged."""

    target: str
    losses: dict[str, float]
    averaged: list[str]


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear model.

    Attributes:
        columns: the columns of the bank's features that it uses.
        candidates: for each target its candidates with their inner losses, in the order of the bank.
    """

    columns: Tensor
    candidates: list[CandidateLosses]


def fit_head(
    network: Network,
    train: FeatureData,
    subjects: Sequence[str],
    outputs: Sequence[Output],
    *,
    sources: Sequence[str] = (),
    seed: int = 0,
) -> LinearFit:
    """Fit the head of a network with a bank of features, and reduce the bank to what the head uses.

    For each target, the raw outputs of the `AVERAGED` candidates with the smallest inner loss are averaged.

    Args:
        train: the features of all candidates, and the labels.
        subjects: the subject of each row; inner folds keep the rows of a subject together.
        sources: the source of each row, if the model is for other sources: see `_choose_candidates`.
        seed: of the frequencies of a radial head; a linear one draws nothing.
    """
    chosen, records = _choose_candidates(
        network, blocks_of(network, train), train, subjects, outputs, averaged=AVERAGED, sources=sources
    )
    columns = keep_only(network, _specs(chosen))
    bank = bank_of(network)
    _set_weights(network.head[-1], bank.specs, bank.widths, chosen, outputs)
    return LinearFit(columns, records)


def blocks_of(network: Network, train: FeatureData) -> dict[FeatureSpec, NDArray[np.float32]]:
    """The features (N, W) `float32` of each candidate."""
    bank = bank_of(network)
    blocks = np.split(train.features.numpy(), np.cumsum(bank.widths)[:-1], axis=1)
    return dict(zip(bank.specs, blocks, strict=True))


# The models of one target that are averaged.
Models: TypeAlias = "dict[FeatureSpec, _LinearModel]"


def _specs(chosen: Sequence[Models]) -> list[FeatureSpec]:
    """All candidates that a target uses."""
    return list(dict.fromkeys(spec for by_spec in chosen for spec in by_spec))


def _choose_candidates(
    network: Network,
    blocks: Mapping[FeatureSpec, NDArray[np.float32]],
    train: FeatureData,
    subjects: Sequence[str],
    outputs: Sequence[Output],
    *,
    averaged: int,
    sources: Sequence[str] = (),
    standardise: bool = True,
) -> tuple[list[Models], list[CandidateLosses]]:
    """Fit every candidate to every target; for each target, those with the smallest inner loss, and all losses.

    Given `sources`, cases are weighted by class within each source.
    """
    groups = np.asarray(subjects, dtype=object)
    chosen, records = [], []
    for output, _, scored, labels in labelled(network, train.truth, outputs):
        weights = None
        if sources and output.classes:
            weights = weights_within(labels, np.asarray(sources, dtype=object)[scored].tolist())
        models = {
            spec: linear_model(
                block[scored].astype(float), labels, groups[scored], output, weights=weights, standardise=standardise
            )
            for spec, block in blocks.items()
        }
        order = sorted(models, key=lambda spec: models[spec].loss)[:averaged]
        chosen.append({spec: models[spec] for spec in order})
        losses = {spec.name: model.loss for spec, model in models.items()}
        records.append(CandidateLosses(output.name, losses, [spec.name for spec in order]))
    return chosen, records


def _set_weights(
    linear: Any,
    specs: Sequence[FeatureSpec],
    widths: Sequence[int],
    chosen: Sequence[Models],
    outputs: Sequence[Output],
) -> None:
    """Fill a linear layer, whose input has the candidates `specs` side by side, with the mean of the chosen models."""
    weight, bias = np.zeros(tuple(linear.weight.shape)), np.zeros(len(linear.bias))
    ends = dict(zip(specs, np.cumsum(widths), strict=True))
    row = 0
    for models, output in zip(chosen, outputs, strict=True):
        rows = slice(row, row := row + output.width)
        for spec in [spec for spec in specs if spec in models]:
            own_weight, own_bias = models[spec].weight / len(models), models[spec].bias / len(models)
            weight[rows, ends[spec] - own_weight.shape[1] : ends[spec]] = own_weight
            bias[rows] += own_bias
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))


def fit_radial_head(
    network: Network,
    train: FeatureData,
    subjects: Sequence[str],
    outputs: Sequence[Output],
    *,
    sources: Sequence[str] = (),
    seed: int,
) -> LinearFit:
    """Replace the head of a network with a bank of features by one with a radial kernel, and reduce the bank to it.

    Candidates are the features that do not say where things are (`_radial_candidates`). See
    `fit_head` for the arguments.
    """
    blocks = _radial_candidates(blocks_of(network, train))
    fourier: dict[FeatureSpec, RadialBlock] = {}
    for spec, block in blocks.items():
        directions = Directions.of(block.astype(float), most=MOST_RADIAL_DIRECTIONS)
        fourier[spec] = RadialBlock(block.shape[1], len(directions.back), FREQUENCIES)
        fourier[spec].fill(directions.centre, directions.back, seed)
    with torch.no_grad():
        values = {spec: fourier[spec](torch.from_numpy(block)).numpy() for spec, block in blocks.items()}
    chosen, records = _choose_candidates(
        network, values, train, subjects, outputs, averaged=AVERAGED_RADIAL, sources=sources, standardise=False
    )
    columns = keep_only(network, _specs(chosen))
    bank = bank_of(network)
    ranks = [len(fourier[spec].back) for spec in bank.specs]
    head = RadialHead(bank.widths, ranks, FREQUENCIES, network.target_mean.numel())
    head.blocks = torch.nn.ModuleList(fourier[spec] for spec in bank.specs)
    _set_weights(head.linear, bank.specs, [2 * FREQUENCIES] * len(bank.specs), chosen, outputs)
    network.head[-1] = head.double()
    return LinearFit(columns, records)


def _radial_candidates(blocks: Mapping[FeatureSpec, Values]) -> dict[FeatureSpec, Values]:
    """The features that a radial kernel may read: no grids; of single channels only if no encoder reads all of them.

    >>> from casewise.models.linear import FeatureSpec
    >>> specs = [FeatureSpec("statistics"), FeatureSpec("pixels", cells=8), FeatureSpec("features", (1,), ("conv1",))]
    >>> [spec.name for spec in _radial_candidates(dict.fromkeys(specs))]
    ['statistics', 'conv1 in 1×1 cells of channel 2']
    >>> [spec.name for spec in _radial_candidates(dict.fromkeys([*specs, FeatureSpec("features", (), ("conv1",))]))]
    ['statistics', 'conv1 in 1×1 cells']
    """
    without_place = {
        spec: values
        for spec, values in blocks.items()
        if spec.source != "pixels" and (spec.summary in ("moments", "covariance") or spec.cells == 1)
    }
    together = {spec: values for spec, values in without_place.items() if not spec.channels}
    return together if any(spec.source == "features" for spec in together) else without_place
