"""Linear probing: training starts with a head that is fitted to the features of the untrained body.

It prevents that the gradients of a random head distort pretrained features
(Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from casewise.modalities.dataset import PanelDataset
from casewise.models.backbones import Network
from casewise.models.outputs import Output
from casewise.targets import by_form
from casewise.training.feature_cache import features
from casewise.training.linear_models import group_folds

PENALTIES = np.logspace(0, 5, 11)
INVERSE_PENALTIES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
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
    start = 0
    for output_number, output in enumerate(outputs):
        truth = data.truth[:, output_number].double().numpy()
        scored = ~np.isnan(truth)
        rows, groups = values[scored], np.asarray(subjects)[scored]
        labels = truth[scored]
        if output.network_kind.standardised:
            labels = (labels - float(network.target_mean[start])) / float(network.target_std[start])
        fit_lines = by_form(output.kind, {"number": _ridge, "classes": _logistic, "ordinal": _steps})
        for column, line in enumerate(fit_lines(rows, labels, groups, output.classes)):
            if line is not None:
                weight = line[0] / spread
                with torch.no_grad():
                    linear.weight[start + column] = torch.from_numpy(weight).to(linear.weight)
                    linear.bias[start + column] = float(line[1] - weight @ centre)
        start += output.width


def _ridge(rows: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int) -> list[Line | None]:
    """One line for a number."""
    from sklearn.linear_model import RidgeCV

    folds = group_folds(groups)
    if not folds:
        return [None]
    ridge = RidgeCV(PENALTIES, cv=folds, scoring="neg_mean_squared_error").fit(rows, labels)
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
    losses = np.zeros(len(INVERSE_PENALTIES))
    for train, left_out in folds:
        for number, inverse in enumerate(INVERSE_PENALTIES):
            model = LogisticRegression(C=inverse, max_iter=300).fit(rows[train], labels[train])
            losses[number] += log_loss(labels[left_out], model.predict_proba(rows[left_out]), labels=present)
    inverse_penalty = INVERSE_PENALTIES[int(losses.argmin())]
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
