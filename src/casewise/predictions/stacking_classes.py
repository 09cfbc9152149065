"""Stackers of classes: the mean of the learners' probabilities, and a logistic regression on their logarithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from casewise.errors import CasewiseError
from casewise.predictions.table import probability_columns, with_decisions
from casewise.predictions.weighted_mean import weights_of_classes

LEARNERS = {"mean": "mean_of_learners", "weighted": "meta_learner_weighted", "logistic": "meta_learner_logistic"}
INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0)
_SAMPLE = ["case", "region", "image"]
_LEAST = 1e-6


def stack_classes(
    oof: pd.DataFrame, means: pd.DataFrame, learners: Sequence[str], names: Sequence[str]
) -> tuple[list[pd.DataFrame], dict[str, dict[str, Any]]]:
    """Combine the base learners' class probabilities of one target; return the combined rows and the coefficients.

    Rows of the stage 'oof' are cross-fitted: those of a fold come from a stacker fitted on the other folds; `logistic`,
    whose weights are of either sign, has none (see `casewise.predictions.stacking.Stacker`). At other stages the
    stacker is fitted on all out-of-fold rows and applied to the means over the folds' networks.

    Raises:
        CasewiseError: a base learner lacks rows that the others have; fewer than two folds have a reference value.
    """
    columns = [c for c in probability_columns(oof) if oof[c].notna().any()]
    rows, probabilities = _wide(oof, learners, columns)
    truth = rows["y_true"].to_numpy(dtype=float)
    scored, folds = np.isfinite(truth), rows["outer_fold"].to_numpy()
    subjects = rows["subject"].to_numpy()
    if len(set(folds[scored])) < 2:
        raise CasewiseError(f"stack: '{rows['target'].iloc[0]}' is recorded in one fold; a stacker needs two.")
    unseen = [_wide(stage_rows, learners, columns) for _, stage_rows in means.groupby("stage", sort=False)]
    tables: list[pd.DataFrame] = []
    coefficients: dict[str, dict[str, Any]] = {}
    for name in names:
        crossed: np.ndarray | None = None
        if name == "mean":
            coefficients[name] = {"weights": dict.fromkeys(learners, 1 / len(learners)), "intercept": 0.0}
            crossed = probabilities.mean(axis=1)
        elif name == "weighted":
            crossed = np.empty(probabilities.shape[::2])
            for fold in set(folds):
                train = scored & (folds != fold)
                fold_weights = weights_of_classes(probabilities[train], truth[train], subjects[train])
                crossed[folds == fold] = np.einsum("nlk,l->nk", probabilities[folds == fold], fold_weights)
            weights = weights_of_classes(probabilities[scored], truth[scored], subjects[scored])
            coefficients[name] = {
                "weights": dict(zip(learners, weights.tolist(), strict=True)),
                "intercept": 0.0,
                "n_rows": int(scored.sum()),
            }
        else:
            coefficients[name] = _fitted(probabilities[scored], truth[scored].astype(int), subjects[scored])
            coefficients[name] |= {"learners": list(learners), "n_rows": int(scored.sum())}
        others = [(stage_rows, combine_classes(coefficients[name], new)) for stage_rows, new in unseen]
        for stage_rows, values in [*([(rows, crossed)] if crossed is not None else []), *others]:
            combined = stage_rows.assign(model=LEARNERS[name])
            combined[columns] = values
            tables.append(with_decisions(combined))
    return tables, coefficients


def combine_classes(coefficients: Mapping[str, Any], probabilities: np.ndarray) -> np.ndarray:
    """The probabilities (N, K) of a meta learner, from an entry of `StackingResult.coefficients` of classes.

    `probabilities` is (N, learners, K), the learners in the order of the entry's `weights` or `learners`.

    >>> combine_classes({"weights": {"a": 0.5, "b": 0.5}}, np.array([[[0.2, 0.8], [0.6, 0.4]]]))
    array([[0.4, 0.6]])
    """
    if "weights" in coefficients:
        return np.asarray(np.einsum("nlk,l->nk", probabilities, np.array(list(coefficients["weights"].values()))))
    return _combined(coefficients, probabilities)


def _combined(fitted: Mapping[str, Any], probabilities: np.ndarray) -> np.ndarray:
    """Probabilities (N, K) of a logistic stacker from the learners' (N, learners, K)."""
    scores = _features(probabilities) @ np.array(fitted["coefficients"]).T + np.array(fitted["intercepts"])
    scores -= scores.max(axis=1, keepdims=True)
    shares = np.exp(scores)
    return shares / shares.sum(axis=1, keepdims=True)


def _features(probabilities: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities, (N, learners × K)."""
    return np.log(np.clip(probabilities, _LEAST, 1.0)).reshape(len(probabilities), -1)


def _fitted(probabilities: np.ndarray, truth: np.ndarray, subjects: np.ndarray) -> dict[str, Any]:
    """A logistic regression with a penalty chosen over groups of subjects; one row of coefficients for each class."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import GroupKFold

    features, k = _features(probabilities), probabilities.shape[2]
    present = sorted(set(truth.tolist()))
    if len(present) < 2:
        raise CasewiseError("stack: the training folds hold one class only; a logistic stacker needs two.")
    losses = np.zeros(len(INVERSE_PENALTIES))
    folds = min(5, len(set(subjects)))
    for train, left_out in GroupKFold(folds).split(features, truth, subjects) if folds > 1 else ():
        if len(set(truth[train].tolist())) < len(present):
            continue
        for number, inverse in enumerate(INVERSE_PENALTIES):
            model = LogisticRegression(C=inverse, max_iter=1000).fit(features[train], truth[train])
            losses[number] += log_loss(truth[left_out], model.predict_proba(features[left_out]), labels=present)
    inverse = INVERSE_PENALTIES[int(losses.argmin())]
    model = LogisticRegression(C=inverse, max_iter=1000).fit(features, truth)
    coefficients, intercepts = np.zeros((k, features.shape[1])), np.full(k, -30.0)
    if len(present) == 2:
        for label, sign in zip(present, (-0.5, 0.5), strict=True):
            coefficients[label], intercepts[label] = sign * model.coef_[0], sign * model.intercept_[0]
    else:
        coefficients[present], intercepts[present] = model.coef_, model.intercept_
    return {"inverse_penalty": inverse, "coefficients": coefficients.tolist(), "intercepts": intercepts.tolist()}


def _wide(predictions: pd.DataFrame, learners: Sequence[str], columns: list[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """One row for each sample, and the learners' probabilities, (N, learners, K)."""
    rows = predictions.drop_duplicates(_SAMPLE).reset_index(drop=True)
    index = pd.MultiIndex.from_frame(rows[_SAMPLE])
    probabilities = []
    for learner in learners:
        learner_table = predictions[predictions["model"] == learner].set_index(_SAMPLE)[columns].reindex(index)
        lacking = index[learner_table[columns[0]].isna()]
        if len(lacking):
            raise CasewiseError(
                f"stack: {learner} lacks {len(lacking)} of {len(index)} predictions of '{rows['target'].iloc[0]}' that "
                f"other learners have, the first being of case '{lacking[0][0]}'. Finish its jobs or leave it out."
            )
        probabilities.append(learner_table.to_numpy(dtype=float))
    return rows, np.stack(probabilities, axis=1)
