"""Linear models on features that do not change: ridge for numbers, logistic for classes and for the steps of grades.

The penalty, and the candidates among several sets of features, are chosen by inner folds of the training subjects. With
more features than rows the models are fitted in the coordinates of the rows, which gives the same models in a fraction
of the time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from casewise.modalities.dataset import PanelDataset
from casewise.models.backbones import Network
from casewise.models.linear import FREQUENCIES, RadialBlock, RadialHead, bank_of, keep_only
from casewise.models.outputs import Output
from casewise.targets import by_form
from casewise.training.frozen_features import features

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casewise.modalities.dataset import FeatureData
    from casewise.models.linear import FeatureSpec


INNER_FOLDS = 5
# Directions of smaller variance hardly change a penalised model.
MOST_DIRECTIONS = 400
# Penalties relative to the mean squared length of a row: strengths of ridge, inverse strengths of logistic regression.
RIDGE = np.logspace(-3, 3, 13)
LOGISTIC = np.logspace(-1, 3, 9)
# Penalties that are tried after the one with the smallest loss so far.
PATIENCE = 2
# The most steps of the solver from one inverse strength to the next.
MOST_STEPS = 100
# The logit of a class without training rows, and the least log-likelihood that is counted.
ABSENT = -12.0
# Weights (O, R) and biases (O,) of outputs that are linear in R directions.
Lines: TypeAlias = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class LinearModel:
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
    standardise: bool = True,
) -> LinearModel:
    """Fit the model of one target to features (N, W) of rows with labels (N,), of the subjects `groups` (N,).

    Numbers must be standardised labels; classes and grades are their numbers.

    Args:
        standardise: whether features are divided by their deviation before they are penalised.
    """
    directions = Directions.of(values, standardise=standardise)
    problems: dict[str, type[_Ridge | _Logistic]] = {"number": _Ridge, "classes": _Logistic, "ordinal": _Steps}
    problem = by_form(output.kind, problems)(output.classes)
    folds = [problem.losses(directions.scores, labels, train, left_out) for train, left_out in group_folds(groups)]
    losses = losses_until_they_rise(folds) or [0.0]
    chosen = int(np.argmin(losses))
    every = np.arange(len(labels))
    weight, bias = problem.fit(directions.scores, labels, every, problem.penalties[chosen])
    own_weight, own_bias = directions.in_own_units(weight, bias)
    return LinearModel(own_weight, own_bias, float(losses[chosen]) / len(labels), float(problem.penalties[chosen]))


def losses_until_they_rise(folds: Sequence[Iterable[float]]) -> list[float]:
    """The sums over folds of the losses at one penalty after another, up to `PATIENCE` after the smallest.

    >>> losses_until_they_rise([[3.0, 1.0, 2.0, 2.5, 9.0], [3.0, 1.0, 2.0, 2.5, 9.0]])
    [6.0, 2.0, 4.0, 5.0]
    """
    sums: list[float] = []
    for of_folds in zip(*folds, strict=True):
        sums.append(float(sum(of_folds)))
        if len(sums) > PATIENCE + int(np.argmin(sums)):
            break
    return sums


def group_folds(groups: NDArray[np.object_]) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Inner folds that keep the rows of a subject together; none for a single subject."""
    from sklearn.model_selection import GroupKFold

    folds = min(INNER_FOLDS, len(set(groups)))
    return list(GroupKFold(folds).split(groups, groups=groups)) if folds > 1 else []


class _Ridge:
    """One number: all penalties from one decomposition."""

    penalties = RIDGE

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def _weights(self, scores: np.ndarray, labels: np.ndarray, penalties: np.ndarray) -> Lines:
        """(P, R) and (P,)."""
        centre, mean = scores.mean(axis=0), float(labels.mean())
        left, lengths, right = np.linalg.svd(scores - centre, full_matrices=False)
        projected = left.T @ (labels - mean)
        shrunk = lengths[:, None] / (lengths[:, None] ** 2 + penalties) * projected[:, None]
        weight = (right.T @ shrunk).T
        return weight, mean - weight @ centre

    def losses(self, scores: np.ndarray, labels: np.ndarray, train: np.ndarray, left_out: np.ndarray) -> list[float]:
        """The summed squared error of the left-out rows at each penalty, in variances of all labels."""
        weight, bias = self._weights(scores[train], labels[train], self.penalties)
        errors = scores[left_out] @ weight.T + bias - labels[left_out, None]
        squared: list[float] = ((errors**2).sum(axis=0) / max(float(labels.var()), 1e-12)).tolist()
        return squared

    def fit(self, scores: np.ndarray, labels: np.ndarray, rows: np.ndarray, penalty: float) -> Lines:
        """Weights (1, R) and bias (1,)."""
        return self._weights(scores[rows], labels[rows], np.array([penalty]))


class _Logistic:
    """Classes by multinomial regression; a class without rows keeps a bias that never chooses it.

    The inner losses are those of a path from strong to weak penalties, each model fitted from the one before; the model
    of the chosen penalty is fitted from zero.
    """

    penalties = LOGISTIC

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def path(self, scores: np.ndarray, labels: np.ndarray, rows: np.ndarray, penalties: np.ndarray) -> Iterator[Lines]:
        """Weights (K, R) and biases (K,); of two classes, each has half of the line between them."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        present = sorted(set(labels[rows].astype(int).tolist()))
        absent = np.full(self.classes, ABSENT)
        if len(present) == 1:
            absent[present[0]] = 0.0
            yield from [(np.zeros((self.classes, scores.shape[1])), absent)] * len(penalties)
            return
        model = LogisticRegression(max_iter=MOST_STEPS, tol=1e-4, warm_start=True)
        for penalty in penalties:
            with warnings.catch_warnings():
                # weak penalties need more steps, and stopping early is a penalty of its own
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.set_params(C=penalty).fit(scores[rows], labels[rows].astype(int))
            coefficients, intercepts = np.asarray(model.coef_), np.asarray(model.intercept_)
            if len(present) == 2:
                coefficients = np.stack([-coefficients[0] / 2, coefficients[0] / 2])
                intercepts = np.array([-intercepts[0] / 2, intercepts[0] / 2])
            weight, bias = np.zeros((self.classes, scores.shape[1])), absent.copy()
            weight[present], bias[present] = coefficients, intercepts
            yield weight, bias

    def loss(self, raw: np.ndarray, labels: np.ndarray) -> float:
        """The summed negative log-likelihood of classes (N,), each counted up to `ABSENT`."""
        from scipy.special import log_softmax

        chosen = log_softmax(raw, axis=1)[np.arange(len(labels)), labels.astype(int)]
        return float(-np.maximum(chosen, ABSENT).sum())

    def fit(self, scores: np.ndarray, labels: np.ndarray, rows: np.ndarray, penalty: float) -> Lines:
        """Weights (O, R) and biases (O,)."""
        return next(self.path(scores, labels, rows, np.array([penalty])))

    def losses(
        self, scores: np.ndarray, labels: np.ndarray, train: np.ndarray, left_out: np.ndarray
    ) -> Iterator[float]:
        """The loss of the left-out rows at one penalty after another."""
        for weight, bias in self.path(scores, labels, train, self.penalties):
            yield self.loss(scores[left_out] @ weight.T + bias, labels[left_out])


class _Steps(_Logistic):
    """Grades: one line for each step, fitted on the rows that reach it."""

    def path(self, scores: np.ndarray, labels: np.ndarray, rows: np.ndarray, penalties: np.ndarray) -> Iterator[Lines]:
        """Weights (K − 1, R) and biases (K − 1,) of the logits of passing each grade."""
        paths: list[Iterable[Lines]] = []
        for step in range(self.classes - 1):
            reached = rows[labels[rows] >= step]
            passed = (labels > step).astype(float)
            nothing = [(np.zeros((2, scores.shape[1])), np.zeros(2))] * len(penalties)
            paths.append(_Logistic(2).path(scores, passed, reached, penalties) if len(reached) else nothing)
        for lines in zip(*paths, strict=True):
            biases = np.clip([bias[1] - bias[0] for _, bias in lines], ABSENT, -ABSENT)
            yield np.stack([weight[1] - weight[0] for weight, _ in lines]), biases

    def loss(self, raw: np.ndarray, labels: np.ndarray) -> float:
        """The summed negative log-likelihood of grades (N,)."""
        steps, grade = np.arange(self.classes - 1), labels[:, None]
        signed = np.where(steps < grade, raw, -raw)
        return float((np.logaddexp(0.0, -signed) * (steps <= grade)).sum())


# Penalties of a probed head: of ridge, and inverse ones of logistic regression.
PROBE_RIDGE = np.logspace(0, 5, 11)
PROBE_LOGISTIC = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
Line: TypeAlias = tuple[np.ndarray, float]


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
    `cached_features` are those of `data`, (P, width) or (P, K, width) of bags, if they were computed before.
    """
    by_panel = features(network, data, batch=batch) if cached_features is None else cached_features
    # attention pooling begins as the mean
    values = (by_panel.nanmean(dim=1) if by_panel.ndim == 3 else by_panel).double().numpy()
    centre, spread = values.mean(axis=0), values.std(axis=0) + 1e-6
    values = (values - centre) / spread
    linear = network.head[-1]
    assert isinstance(linear, torch.nn.Linear)
    for output, start, scored, labels in labelled(network, data.truth, outputs):
        rows, groups = values[scored], np.asarray(subjects)[scored]
        fit_lines = by_form(output.kind, {"number": _ridge, "classes": _logistic, "ordinal": _steps})
        for column, line in enumerate(fit_lines(rows, labels, groups, output.classes)):
            if line is not None:
                weight = line[0] / spread
                with torch.no_grad():
                    linear.weight[start + column] = torch.from_numpy(weight).to(linear.weight)
                    linear.bias[start + column] = float(line[1] - weight @ centre)


def labelled(
    network: Network, truth: Tensor, outputs: Sequence[Output]
) -> Iterator[tuple[Output, int, NDArray[np.bool_], NDArray[np.float64]]]:
    """Each target with its first raw output, the rows with a label (P,), and their labels, numbers standardised."""
    start = 0
    for number, output in enumerate(outputs):
        labels = truth[:, number].double().numpy()
        scored = ~np.isnan(labels)
        if output.network_kind.standardised:
            labels = (labels - float(network.target_mean[start])) / float(network.target_std[start])
        yield output, start, scored, labels[scored]
        start += output.width


def _ridge(rows: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int) -> list[Line | None]:
    """One line for a number."""
    from sklearn.linear_model import RidgeCV

    folds = group_folds(groups)
    if not folds:
        return [None]
    ridge = RidgeCV(PROBE_RIDGE, cv=folds, scoring="neg_mean_squared_error").fit(rows, labels)
    return [(ridge.coef_, float(ridge.intercept_))]


def _logistic(rows: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int) -> list[Line | None]:
    """One line for each class; classes without cases keep their random line."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    labels = labels.astype(int)
    present = sorted(set(labels.tolist()))
    fitted_lines: list[Line | None] = [None] * classes
    if len(present) < 2:
        return fitted_lines
    # a fold without all classes on its training side is not informative about the penalty
    folds = [(t, v) for t, v in group_folds(groups) if len(set(labels[t].tolist())) == len(present)]
    losses = np.zeros(len(PROBE_LOGISTIC))
    for train, left_out in folds:
        for number, inverse in enumerate(PROBE_LOGISTIC):
            model = LogisticRegression(C=inverse, max_iter=300).fit(rows[train], labels[train])
            losses[number] += log_loss(labels[left_out], model.predict_proba(rows[left_out]), labels=present)
    inverse_penalty = PROBE_LOGISTIC[int(losses.argmin())]
    model = LogisticRegression(C=inverse_penalty, max_iter=300).fit(rows, labels)
    if len(present) == 2:
        # one line separates two classes: half of it for each
        weight, bias = model.coef_[0] / 2, float(model.intercept_[0]) / 2
        fitted_lines[present[0]], fitted_lines[present[1]] = (-weight, -bias), (weight, bias)
    else:
        for line, label in enumerate(present):
            fitted_lines[label] = (model.coef_[line], float(model.intercept_[line]))
    return fitted_lines


def _steps(rows: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int) -> list[Line | None]:
    """One line for each step between grades, fitted on the rows that reach it."""
    fitted_lines: list[Line | None] = []
    for step in range(classes - 1):
        reached = labels >= step
        lines = _logistic(rows[reached], (labels[reached] > step).astype(int), groups[reached], 2)
        below, above = lines
        both = below is not None and above is not None
        fitted_lines.append((above[0] - below[0], above[1] - below[1]) if both and above and below else None)
    return fitted_lines


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
    network: Network, train: FeatureData, subjects: Sequence[str], outputs: Sequence[Output], *, seed: int = 0
) -> LinearFit:
    """Fit the head of a network with a bank of features, and reduce the bank to what the head uses.

    For each target, the raw outputs of the `AVERAGED` candidates with the smallest inner loss are averaged.

    Args:
        train: the features of all candidates, and the labels.
        subjects: the subject of each row; inner folds keep the rows of a subject together.
        seed: of the frequencies of a radial head; a linear one draws nothing.
    """
    blocks = blocks_of(network, train)
    chosen = choose_candidates(network, blocks, train, subjects, outputs, averaged=AVERAGED)
    columns = keep_only(network, chosen.specs)
    bank = bank_of(network)
    set_weights(network.head[-1], bank.specs, bank.widths, chosen, outputs)
    return LinearFit(columns, chosen.records)


def blocks_of(network: Network, train: FeatureData) -> dict[FeatureSpec, NDArray[np.float32]]:
    """The features (N, W) `float32` of each candidate."""
    bank = bank_of(network)
    blocks = np.split(train.features.numpy(), np.cumsum(bank.widths)[:-1], axis=1)
    return dict(zip(bank.specs, blocks, strict=True))


@dataclass(frozen=True)
class Chosen:
    """The models that are averaged, one mapping for each target, and the record of all inner losses."""

    used: list[dict[FeatureSpec, LinearModel]]
    records: list[CandidateLosses]

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
    records = []
    for output, _, scored, labels in labelled(network, train.truth, outputs):
        models = {
            spec: linear_model(block[scored].astype(float), labels, groups[scored], output, standardise=standardise)
            for spec, block in blocks.items()
        }
        order = sorted(models, key=lambda spec: models[spec].loss)[:averaged]
        used.append({spec: models[spec] for spec in order})
        losses = {spec.name: model.loss for spec, model in models.items()}
        records.append(CandidateLosses(output.name, losses, [spec.name for spec in order]))
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
    bank = bank_of(network)
    head = RadialHead(
        bank.widths, [len(fourier[spec].back) for spec in bank.specs], FREQUENCIES, network.target_mean.numel()
    )
    head.blocks = torch.nn.ModuleList(fourier[spec] for spec in bank.specs)
    set_weights(head.linear, bank.specs, [2 * FREQUENCIES] * len(bank.specs), chosen, outputs)
    network.head[-1] = head.double()
    return LinearFit(columns, chosen.records)


def radial_candidates(blocks: Mapping[FeatureSpec, Values]) -> dict[FeatureSpec, Values]:
    """The features that a radial kernel may read: no grids; of single channels only if no encoder reads all of them.

    >>> from casewise.models.linear import FeatureSpec
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
