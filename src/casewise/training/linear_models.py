"""Linear models on features that do not change: ridge for numbers, logistic for classes and for the steps of grades.

The penalty, and the candidates among several sets of features, are chosen by inner folds of the training subjects. With
more features than rows the models are fitted in the coordinates of the rows, which gives the same models in a fraction
of the time. Fitted candidates are stored by content, as features are, so that two learners of a fold fit them once.

A model for other sources weighs the classes equally within each source, so that the source says nothing about the class
where a source has several. Inner folds that leave sources out instead of subjects chose worse penalties and candidates
(docs/results/travelling.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

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
from casewise.training.frozen_features import FeatureStore, digest, features, machine
from casewise.training.losses import weights_among, weights_within

INNER_FOLDS = 5
# Directions of smaller variance hardly change a penalised model. They are those of at most so many rows, because time
# grows with the cube of the number of rows or of features, whichever is smaller.
MOST_DIRECTIONS, MOST_DECOMPOSED = 400, 2_000
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
        left_out: (N, O) the raw outputs of each row, from the inner folds that it takes no part in.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    loss: float
    penalty: float
    left_out: NDArray[np.float64]

    def packed(self) -> Tensor:
        """All values in one row."""
        parts = [np.array([self.loss, self.penalty]), self.bias, self.weight.ravel(), self.left_out.ravel()]
        return torch.from_numpy(np.concatenate(parts))

    @classmethod
    def unpacked(cls, packed: Tensor, outputs: int, width: int) -> _LinearModel:
        """The packed model, with so many outputs of so many features."""
        ends = np.cumsum([2, outputs, outputs * width])
        (loss, penalty), bias, weight, left_out = np.split(packed.numpy(), ends)
        return cls(weight.reshape(outputs, width), bias, float(loss), float(penalty), left_out.reshape(-1, outputs))


@dataclass(frozen=True)
class Directions:
    """Standardised features in at most `MOST_DIRECTIONS` orthogonal directions, and the way back.

    `scores` is (N, R), scaled so that a row has a mean squared length of 1; `back` is (R, W).
    """

    scores: NDArray[np.float64]
    back: NDArray[np.float64]
    centre: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        values: NDArray[np.float64],
        *,
        most: int = MOST_DIRECTIONS,
        standardise: bool = True,
        blocks: Sequence[int] = (),
    ) -> Directions:
        """At most `most` directions of features (N, W), which are divided by their deviation if `standardise`.

        The features of several vectors side by side, of the widths `blocks`, have the same variance in all vectors.
        """
        centre, spread = values.mean(axis=0), values.std(axis=0)
        steady = spread <= 1e-6 * max(1.0, float(np.abs(centre).max(initial=0.0)))
        scale = np.where(steady, 0.0, 1.0 / np.where(steady, 1.0, spread) if standardise else 1.0)
        if len(blocks) > 1:
            scale = scale / np.repeat(np.sqrt(blocks), blocks)
        standardised = values - centre
        standardised *= scale
        if not standardised.any():
            return cls(np.zeros((len(values), 1)), np.zeros((1, values.shape[1])), centre)
        decomposed = standardised
        if min(values.shape) > MOST_DECOMPOSED:
            decomposed = standardised[:: -(-len(values) // MOST_DECOMPOSED)]
        if decomposed.shape[1] > decomposed.shape[0]:
            squares, left = np.linalg.eigh(decomposed @ decomposed.T)
            squares, left = squares[::-1][:most], left[:, ::-1][:, :most]
            kept = squares > 1e-8 * max(float(squares[0]), 1e-12)
            lengths, left = np.sqrt(squares[kept]), left[:, kept]
            back = (left / lengths).T @ decomposed
            scores = left * lengths if decomposed is standardised else standardised @ back.T
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
    directions: Directions,
    labels: NDArray[np.float64],
    groups: NDArray[np.object_],
    output: Output,
    *,
    weights: NDArray[np.float64] | None = None,
) -> _LinearModel:
    """Fit the model of one target to features of rows with labels (N,), of the subjects `groups` (N,).

    Numbers must be standardised labels; classes and grades are their numbers.

    Args:
        directions: of the features of these rows.
        weights: of the rows (N,), for classes and grades; None: equal.
    """
    penalties = by_form(output.kind, {"number": RIDGE, "classes": LOGISTIC})
    weights = np.ones(len(labels)) if weights is None else weights
    fit = PenalisedFit(_form(output), directions.scores, labels, penalties, output.classes, weights, patience=PATIENCE)
    penalty, loss, left_out = fit.cross_fitted(subject_folds(groups, INNER_FOLDS))
    own_weight, own_bias = directions.in_own_units(*fit.fit(penalty=penalty))
    return _LinearModel(own_weight, own_bias, loss / len(labels), penalty, left_out)


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


# As many candidates are averaged, even if fewer have a smaller inner loss: on few rows, one that fits well may do so by
# chance. Chosen with the rule itself out of fold on the packs of oral lesions and of severity.
FEWEST_AVERAGED, MOST_AVERAGED = 6, 8
# Directions of the features of a radial candidate, between whose points distances are measured.
MOST_RADIAL_DIRECTIONS = 200


@dataclass(frozen=True)
class _Candidate:
    """One input of a model on fixed features: a vector of the bank, or several that are joined, and its kernel."""

    specs: tuple[FeatureSpec, ...]
    is_radial: bool = False

    @property
    def name(self) -> str:
        """A short name for records."""
        return " + ".join(spec.name for spec in self.specs) + (", radial" if self.is_radial else "")


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
        candidates: for each target its candidates with their inner losses.
    """

    columns: Tensor
    candidates: list[CandidateLosses]


@dataclass(frozen=True)
class _Training:
    """Training rows: the vectors (N, W) of each spec, labels, the subject of each row, and sources if they count.

    If the rows are a sample, `population` has the labels of all rows that it was drawn from.
    """

    vectors: Mapping[FeatureSpec, NDArray[np.float32]]
    data: FeatureData
    subjects: Sequence[str]
    outputs: Sequence[Output]
    sources: Sequence[str] = ()
    population: Tensor | None = None

    @classmethod
    def of(cls, network: Network, data: FeatureData, *rest: Any) -> _Training:
        bank = bank_of(network)
        blocks = np.split(data.features.numpy(), np.cumsum(bank.widths)[:-1], axis=1)
        return cls(dict(zip(bank.specs, blocks, strict=True)), data, *rest)

    def values(self, candidate: _Candidate) -> NDArray[np.float32]:
        """The vectors of a candidate side by side."""
        vectors = [self.vectors[spec] for spec in candidate.specs]
        return np.concatenate(vectors, axis=1) if len(vectors) > 1 else vectors[0]

    def widths(self, candidate: _Candidate) -> list[int]:
        """Their widths."""
        return [self.vectors[spec].shape[1] for spec in candidate.specs]


@dataclass(frozen=True)
class _Target:
    """A target with its `labels`, `subjects` and `weights` (N,) of the rows that are `scored` (P,)."""

    output: Output
    scored: NDArray[np.bool_]
    labels: NDArray[np.float64]
    subjects: NDArray[np.object_]
    weights: NDArray[np.float64] | None

    @property
    def contents(self) -> list[str | Tensor]:
        """What decides a model of the target, besides the features of its rows."""
        arrays = [self.scored, self.labels, *([] if self.weights is None else [self.weights])]
        texts = [self.output.kind, str(self.output.classes), json.dumps(self.subjects.tolist())]
        return [*texts, *(torch.from_numpy(values) for values in arrays)]


@dataclass(frozen=True)
class _Inputs:
    """What a candidate reads of the training rows: `values` (P, W); without `blocks` they are not standardised.

    `address` is a hash of all that decides a model, besides its target.
    """

    values: NDArray[np.float32]
    blocks: Sequence[int]
    address: str
    _directions: dict[bytes, Directions] = field(default_factory=dict)  # by the rows of a target

    def fitted(self, target: _Target, store: FeatureStore, wait: float) -> _LinearModel | None:
        """The model of a target, from the store if it is there; None if another process fits it, see `store.step`."""

        def fit() -> Tensor:
            rows = target.scored.tobytes()
            if rows not in self._directions:
                values = self.values[target.scored].astype(float)
                self._directions[rows] = Directions.of(values, standardise=bool(self.blocks), blocks=self.blocks)
            directions, labels, subjects = self._directions[rows], target.labels, target.subjects
            return linear_model(directions, labels, subjects, target.output, weights=target.weights).packed()

        packed = store.step(digest([self.address, *target.contents]), fit, wait=wait)
        return None if packed is None else _LinearModel.unpacked(packed, target.output.width, self.values.shape[1])


# The models of one target that are averaged.
_Models: TypeAlias = "dict[_Candidate, _LinearModel]"


def fit_head(
    network: Network,
    train: FeatureData,
    subjects: Sequence[str],
    outputs: Sequence[Output],
    *,
    sources: Sequence[str] = (),
    population: Tensor | None = None,
    seed: int = 0,
    is_radial: bool = False,
) -> LinearFit:
    """Fit the head of a network with a bank of features, and reduce the bank to what the head uses.

    For each target, the raw outputs of some candidates are averaged, see `_averaged`.

    Args:
        train: the features of all candidates, and the labels.
        subjects: the subject of each row; inner folds keep the rows of a subject together.
        sources: the source of each row, if the model is for other sources: see `_choose_candidates`.
        population: if the rows are a sample, the labels (N, T) of all rows.
        seed: of the frequencies of radial kernels.
        is_radial: whether there are also candidates with a radial kernel, on features that do not say where things are.
    """
    training = _Training.of(network, train, subjects, outputs, sources, population)
    candidates = [_Candidate(specs) for specs in _inputs(training.vectors)]
    if is_radial:
        candidates += [_Candidate(specs, is_radial=True) for specs in _inputs(_without_place(training.vectors))]
    fourier = {candidate: _fourier(training, candidate, seed) for candidate in candidates if candidate.is_radial}
    chosen, records = _choose_candidates(network, training, candidates, fourier)
    used = list(dict.fromkeys(candidate for models in chosen for candidate in models))
    kept = keep_only(network, [spec for candidate in used for spec in candidate.specs])
    _set_head(network, chosen, outputs, {candidate: fourier.get(candidate) for candidate in used})
    return LinearFit(kept, records)


def _set_head(
    network: Network,
    chosen: Sequence[_Models],
    outputs: Sequence[Output],
    used: Mapping[_Candidate, RadialBlock | None],
) -> None:
    """Fill the head of a network, whose bank has what candidates read, with the mean of the models of each target.

    Args:
        used: the candidates, with the Fourier features of radial ones.
    """
    head: Any = network.head
    bank, linear, plain = bank_of(network), head[-1], head[-1]
    columns = dict(zip(bank.specs, torch.arange(bank.width).split(bank.widths), strict=True))
    places = {candidate: torch.cat([columns[spec] for spec in candidate.specs]) for candidate in used}
    if radial := {candidate: block for candidate, block in used.items() if block is not None}:
        mixed: Any = RadialHead(
            bank.widths,
            [len(block.back) for block in radial.values()],
            FREQUENCIES,
            len(linear.bias),
            reads=[[bank.specs.index(spec) for spec in candidate.specs] for candidate in radial],
            is_partly_linear=len(radial) < len(used),
        )
        mixed.blocks = torch.nn.ModuleList(radial.values())
        head[-1], linear, plain = mixed.double(), mixed.linear, mixed.plain
        angles = torch.arange(linear.in_features).split(2 * FREQUENCIES)
        places |= dict(zip(radial, angles, strict=True))
    with torch.no_grad():
        for layer in (linear, *([] if plain is None else [plain])):
            layer.weight.zero_()
        row = 0
        for models, output in zip(chosen, outputs, strict=True):
            rows = slice(row, row := row + output.width)
            linear.bias[rows] = torch.from_numpy(np.mean([model.bias for model in models.values()], axis=0))
            for candidate, model in models.items():
                layer = linear if candidate.is_radial else plain
                layer.weight[rows, places[candidate]] += torch.from_numpy(model.weight / len(models))


def _fourier(training: _Training, candidate: _Candidate, seed: int) -> RadialBlock:
    """The Fourier features of a radial candidate, for the directions of its training rows."""
    values = training.values(candidate)
    directions = Directions.of(
        values.astype(float),
        most=MOST_RADIAL_DIRECTIONS,
        blocks=training.widths(candidate),
    )
    block = RadialBlock(values.shape[1], len(directions.back), FREQUENCIES)
    block.fill(directions.centre, directions.back, seed)
    return block


def _choose_candidates(
    network: Network, training: _Training, candidates: Sequence[_Candidate], fourier: Mapping[_Candidate, RadialBlock]
) -> tuple[list[_Models], list[CandidateLosses]]:
    """Fit every candidate to every target; for each target, those that are averaged, and all losses.

    Given sources, cases are weighted by class within each source. Otherwise the classes of a sample weigh as they do
    among all rows.
    """
    groups, sources = (np.asarray(names, dtype=object) for names in (training.subjects, training.sources))
    targets = []
    for number, (output, _, scored, labels) in enumerate(labelled(network, training.data.truth, training.outputs)):
        weights = None
        if output.classes and len(sources):
            weights = weights_within(labels, sources[scored].tolist())
        elif output.classes and training.population is not None:
            weights = weights_among(labels, training.population[:, number].double().numpy())
        targets.append(_Target(output, scored, labels, groups[scored], weights))
    store, facts = FeatureStore.of_user(), json.dumps(machine(network))
    found: list[_Models] = [{} for _ in targets]
    for wait in (0, -1):  # first those that no other process is fitting, then the rest
        for candidate in candidates:
            if all(candidate in own for own in found):
                continue
            values, blocks = training.values(candidate), training.widths(candidate)
            if candidate.is_radial:
                with torch.no_grad():
                    values, blocks = fourier[candidate](torch.from_numpy(values)).numpy(), []
            inputs = _Inputs(values, blocks, digest([facts, str(blocks), torch.from_numpy(values)]))
            for own, target in zip(found, targets, strict=True):
                if candidate not in own and (model := inputs.fitted(target, store, wait)):
                    own[candidate] = model
    chosen, records = [], []
    for own, target in zip(found, targets, strict=True):
        models = {candidate: own[candidate] for candidate in candidates}
        order = _averaged(models, target)
        chosen.append({candidate: models[candidate] for candidate in order})
        losses = {candidate.name: model.loss for candidate, model in models.items()}
        records.append(CandidateLosses(target.output.name, losses, [candidate.name for candidate in order]))
    return chosen, records


def _averaged(models: _Models, target: _Target) -> list[_Candidate]:
    """The candidates whose mean output has the smallest inner loss, found one by one.

    The next one is that with which the mean is best (Caruana et al., "Ensemble selection from libraries of models",
    2004), so that a candidate that is worse alone is taken if it errs in other cases. From `FEWEST_AVERAGED` on, the
    mean must be better than without it, and there are at most `MOST_AVERAGED`.
    """
    output, labels = target.output, target.labels
    fit = PenalisedFit(_form(output), np.zeros((len(labels), 0)), labels, [], output.classes, target.weights)
    rows, chosen = np.arange(len(labels)), [min(models, key=lambda candidate: models[candidate].loss)]
    total = models[chosen[0]].left_out
    best = fit.loss(total, rows)
    while len(chosen) < min(MOST_AVERAGED, len(models)):
        losses = {
            candidate: fit.loss((total + model.left_out) / (len(chosen) + 1), rows)
            for candidate, model in models.items()
            if candidate not in chosen
        }
        following = min(losses, key=lambda candidate: losses[candidate])
        if len(chosen) >= FEWEST_AVERAGED and not losses[following] < best:
            break
        chosen.append(following)
        total, best = total + models[following].left_out, losses[following]
    return chosen


def _inputs(specs: Iterable[FeatureSpec]) -> list[tuple[FeatureSpec, ...]]:
    """What candidates read: each vector, and the means over the last maps of all encoders joined.

    >>> from casewise.models.linear import FeatureSpec
    >>> one, other = (FeatureSpec("features", (), ("conv1",), encoder=name) for name in ("resnet18", "resnet34"))
    >>> [len(specs) for specs in _inputs([one, other, FeatureSpec("statistics")])]
    [1, 1, 1, 2]
    """
    specs = list(specs)
    means = [spec for spec in specs if spec.source == "features" and spec.summary == "grid" and spec.cells == 1]
    whole = {spec.encoder: spec for spec in means if not (spec.side or spec.channels)}
    return [*((spec,) for spec in specs), *([tuple(whole.values())] if len(whole) > 1 else [])]


def _without_place(specs: Iterable[FeatureSpec]) -> list[FeatureSpec]:
    """The features that a radial kernel may read: no grids; of single channels only if no encoder reads all of them.

    >>> from casewise.models.linear import FeatureSpec
    >>> specs = [FeatureSpec("statistics"), FeatureSpec("pixels", cells=8), FeatureSpec("features", (1,), ("conv1",))]
    >>> [spec.name for spec in _without_place(specs)]
    ['statistics', 'conv1 in 1×1 cells of channel 2']
    >>> [spec.name for spec in _without_place([*specs, FeatureSpec("features", (), ("conv1",))])]
    ['statistics', 'conv1 in 1×1 cells']
    """
    without_place = [
        spec
        for spec in specs
        if spec.source != "pixels" and (spec.summary in ("moments", "covariance") or spec.cells == 1)
    ]
    together = [spec for spec in without_place if not spec.channels]
    return together if any(spec.source == "features" for spec in together) else without_place
