"""Stackers: models that combine the predictions of base learners into a meta learner, for each target.

The plain mean of the base learners is one of them. Nothing is fitted for it, and it is often the best on small cohorts.

Source: the publication of the preset `onestep-pasi`, "Learning Model Architecture". It speaks of logistic regressions;
it predicts a number, so these are linear regressions. For classes, a logistic regression combines the logarithms of the
learners' probabilities.

The weighted mean has weights of at least 0 that sum to 1, fitted on out-of-fold predictions.
With few learners it is hard to overfit, and a learner that adds nothing has the weight 0 (Breiman, "Stacked
regressions", 1996). Numbers have the weights with the smallest absolute error, which is what they are judged by, and
classes those with the largest likelihood of the mixture of probabilities, by the EM algorithm.

The predictions on which weights are fitted come from networks that have seen the labels of the cases that the weights
are then judged on. This alone makes fitted weights look better than they are, so they are used only if they are clearly
better than equal weights on subjects left out (`benchmarks/null.py` measures how often signal is found where there is
none; with weights halfway from equal to fitted ones, it was in 12 % of studies of 60 subjects and 8 networks). Learners
that are clearly worse than the best one have no part in equal weights: a poor network would make the mean worse than
the best of its members. Where the best one is not clearly better than a guess, they must be worse by more, since a
choice among learners without signal finds some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from casewise.errors import CasewiseError, RunError, SplitError
from casewise.predictions.nested_cv import NESTED
from casewise.predictions.penalised import PenalisedFit, subject_folds
from casewise.predictions.table import CHOOSING, COLUMNS, SAMPLE_KEY, final_rows, probability_columns, with_decisions
from casewise.targets import kind_named

# The coefficients of one stacker for one target, as plain values.
Fitted: TypeAlias = Mapping[str, Any]
# Those of all combined learners, by learner and target, as `stackers.json` holds them.
Coefficients: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class _Stacker:
    """How one kind of meta learner is fitted.

    Weights are equal (`equal`, the plain mean), at least 0 with the sum 1 (`weighted`), or of either sign. Networks
    have seen the labels of every fold but their own, so the mean of a fold's predictions falls where its labels rise.
    Weights of either sign invert this and find signal where there is none: they have no out-of-fold predictions.
    """

    learner: str
    ridge: bool = False
    intercept: bool = False
    equal: bool = False
    weighted: bool = False

    @property
    def either_sign(self) -> bool:
        """Whether weights may be negative, so that only cases which no network has seen can judge them."""
        return not (self.equal or self.weighted)


STACKERS: Mapping[str, _Stacker] = {
    "linear": _Stacker("meta_learner"),
    "linear+intercept": _Stacker("meta_learner_w_intercept", intercept=True),
    "ridge": _Stacker("meta_learner_ridge", ridge=True),
    "ridge+intercept": _Stacker("meta_learner_ridge_w_intercept", ridge=True, intercept=True),
    "logistic": _Stacker("meta_learner_logistic", intercept=True),
    "mean": _Stacker("mean_of_learners", equal=True),
    "weighted": _Stacker("meta_learner_weighted", weighted=True),
}
EITHER_SIGN = tuple(name for name, stacker in STACKERS.items() if stacker.either_sign)
META_LEARNERS = tuple(stacker.learner for stacker in STACKERS.values())

# penalties as shares of the features' mean sum of squares, so that one grid suits a score of 0-4 and one of 0-72
_PENALTIES = np.logspace(-6, 1, 29)


@dataclass(frozen=True)
class StackingResult:
    """The meta learners' rows, and their coefficients by meta learner and target (plain values for JSON).

    `crossed` are the coefficients without the cases of a fold, by its number in `outer_fold`; -1 for a validation set.
    """

    rows: pd.DataFrame
    coefficients: dict[str, dict[str, Fitted]] = field(default_factory=dict)
    crossed: dict[int, dict[str, dict[str, Fitted]]] = field(default_factory=dict)

    def of_altered(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The meta learners' rows for altered images of held-out cases, which their coefficients have not seen.

        Args:
            rows: of the base learners, with the column `alteration`.
        """
        by_fold = rows.groupby([rows["outer_fold"].fillna(-1), "alteration"], sort=False)
        tables = [with_combined(altered, self.crossed.get(int(fold), {})) for (fold, _), altered in by_fold]
        combined = pd.concat(tables, ignore_index=True)
        return combined[combined["model"].isin(META_LEARNERS)]


def stack(
    predictions: pd.DataFrame, names: Sequence[str], *, ranges: Mapping[str, tuple[float, float]]
) -> StackingResult:
    """Fit stackers on the out-of-fold predictions of the base learners and return the rows of the meta learners.

    One stacker is fitted for each target in `ranges`, on all rows (case, region, image) with a reference value. Its
    features are the base learners' out-of-fold predictions of that target. At the stages 'test' and 'external' they are
    the means over the networks of each base learner's folds. Rows at stage 'oof' are cross-fitted: a fold's rows come
    from a stacker fitted on the other folds, which has not seen their subjects. The base networks of the other folds
    have, so a stacker with weights of either sign has no such rows. Predictions are clipped to the range of the target.

    Ridge regression chooses its penalty by the squared error over groups of subjects.

    Raises:
        SplitError: a subject is in two folds, or out of fold and in the test set.
        CasewiseError: a base learner lacks rows that the others have; a target has too few reference values or folds.
    """
    predictions = predictions[~predictions["model"].isin(META_LEARNERS) & predictions["target"].isin(list(ranges))]
    learners = [str(model) for model in predictions["model"].unique()]
    choosing = next((stage for stage in CHOOSING if (predictions["stage"] == stage).any()), "oof")
    oof = predictions[(predictions["stage"] == choosing) & predictions["inner_fold"].isna()]
    fresh = predictions[predictions["stage"] != choosing]
    if choosing == "oof":
        check_subjects(oof, fresh)
    means = final_rows(fresh)
    tables: list[pd.DataFrame] = [predictions.iloc[:0][list(COLUMNS)]]
    coefficients: dict[str, dict[str, Fitted]] = {STACKERS[name].learner: {} for name in names}
    without: dict[int, dict[str, dict[str, Fitted]]] = {}
    for target, limits in ranges.items():
        of_target = oof[oof["target"] == target]
        if of_target.empty:
            raise CasewiseError(f"stack: there are no predictions of '{target}' at stage 'oof'.")
        rows, values, columns = sample_values(of_target, learners)
        of_stages = means[means["target"] == target].groupby("stage", sort=False)
        unseen = [sample_values(of_stage, learners) for _, of_stage in of_stages]
        for name in names:
            stacker = STACKERS[name]
            crossed, entry, by_fold = _stacked(stacker, rows, values, learners, limits)
            coefficients[stacker.learner][target] = entry
            for fold, of_fold in by_fold.items():
                without.setdefault(fold, {}).setdefault(stacker.learner, {})[target] = of_fold
            combined = [] if crossed is None else [(rows, crossed)]
            combined += [(new_rows, _combine(entry, new_values)) for new_rows, new_values, _ in unseen]
            tables += [decided(own, stacker.learner, columns, outputs) for own, outputs in combined]
    return StackingResult(pd.concat(tables[1:] or tables, ignore_index=True), coefficients, without)


def _stacked(
    stacker: _Stacker, rows: pd.DataFrame, values: np.ndarray, learners: list[str], limits: Sequence[float]
) -> tuple[np.ndarray | None, Fitted, dict[int, Fitted]]:
    """The cross-fitted predictions (N, K), the coefficients of all rows, and those without each fold.

    With weights of either sign there are no such predictions, and only the coefficients of all rows.
    """
    truth, folds = rows["y_true"].to_numpy(dtype=float), rows["outer_fold"].to_numpy()
    scored = np.isfinite(truth)
    if stacker.equal and pd.isna(folds).all():  # nothing is fitted on a validation set
        entry = _fitted(stacker, rows[scored], values[scored], learners, limits)
        return _combine(entry, values), entry, {-1: entry}
    if len(set(folds[scored])) < 2:
        target = rows["target"].iloc[0]
        raise CasewiseError(f"stack: the scored rows of '{target}' are in fewer than two folds; a stacker needs two.")

    def fitted(train: np.ndarray) -> Fitted:
        return _fitted(stacker, rows[train], values[train], learners, limits)

    if stacker.either_sign:
        return None, fitted(scored), {}
    if stacker.equal and values.shape[2] > 1:
        entry = fitted(scored)
        return values.mean(axis=1), entry, {int(fold): entry for fold in set(folds)}
    by_fold = {int(fold): fitted(scored & (folds != fold)) for fold in set(folds)}
    crossed = np.empty(values.shape[::2])
    for fold, entry in by_fold.items():
        crossed[folds == fold] = _combine(entry, values[folds == fold])
    entry = dict(fitted(scored))
    if stacker.weighted:
        entry["weights_by_fold"] = {str(fold): by_fold[fold]["weights"] for fold in sorted(by_fold)}
    return crossed, entry, by_fold


def _fitted(
    stacker: _Stacker, rows: pd.DataFrame, values: np.ndarray, learners: list[str], limits: Sequence[float]
) -> Fitted:
    """The coefficients of a stacker that is fitted on rows of one target with a reference."""
    truth, subjects = rows["y_true"].to_numpy(dtype=float), rows["subject"].to_numpy()
    if kind_named(str(rows["kind"].iloc[0])).form == "number":
        return _fit(stacker, values[:, :, 0], truth, subjects, learners, limits)
    return _fit_classes(stacker, values, truth.astype(int), subjects, learners)


def _combine(entry: Mapping[str, Any], values: np.ndarray) -> np.ndarray:
    """The predictions (N, K) of a meta learner from its learners' predictions (N, learners, K)."""
    return combine(entry, values[:, :, 0])[:, None] if "low" in entry else _combine_classes(entry, values)


def decided(rows: pd.DataFrame, learner: str, columns: list[str], values: np.ndarray) -> pd.DataFrame:
    """Rows of a meta learner with its numbers or probabilities."""
    rows = rows.assign(model=learner)
    rows[columns] = values
    return with_decisions(rows)


def combine(coefficients: Mapping[str, Any], features: np.ndarray) -> np.ndarray:
    """The predictions of a meta learner, from an entry of `StackingResult.coefficients`.

    `features` is (N, learners), in the order of `coefficients['weights']`.

    >>> entry = {"weights": {"a": 0.5, "b": 0.5}, "intercept": 1.0, "low": 0, "high": 4}
    >>> combine(entry, np.array([[1., 2.], [4., 6.]]))
    array([2.5, 4. ])
    """
    weights = np.array(list(coefficients["weights"].values()))
    return np.clip(features @ weights + coefficients["intercept"], coefficients["low"], coefficients["high"])


def _fit(
    stacker: _Stacker,
    features: np.ndarray,
    truth: np.ndarray,
    subjects: np.ndarray,
    learners: list[str],
    limits: Sequence[float],
) -> Fitted:
    from sklearn.linear_model import LinearRegression, Ridge

    choice: Fitted = {}
    if stacker.equal or stacker.weighted:
        equal = np.full(features.shape[1], 1 / features.shape[1])
        weights, intercept = equal if stacker.equal else weights_of_numbers(features, truth, subjects), 0.0
    else:
        model = LinearRegression(fit_intercept=stacker.intercept)
        if stacker.ridge:
            penalty, folds = _penalty(stacker, features, truth, subjects)
            choice = {"penalty": float(penalty), "penalty_chosen_over": folds}
            # with singular values, identical learners cause no warning
            model = Ridge(alpha=penalty, fit_intercept=stacker.intercept, solver="svd")
        model.fit(features, truth)
        weights, intercept = model.coef_, model.intercept_
    return {
        "weights": dict(zip(learners, map(float, weights), strict=True)),
        "intercept": float(intercept),
        "n_rows": len(truth),
        "n_subjects": len(set(subjects)),
        **choice,
        **dict(zip(("low", "high"), map(float, limits), strict=True)),
    }


def _penalty(stacker: _Stacker, features: np.ndarray, truth: np.ndarray, subjects: np.ndarray) -> tuple[float, str]:
    """Choose the ridge penalty by the squared error on subjects left out; with one subject there is no choice."""
    centred = features - features.mean(axis=0) if stacker.intercept else features
    scale = float((centred**2).sum(axis=0).mean()) or 1.0
    folds = subject_folds(subjects)
    if not folds:
        return scale * float(np.median(_PENALTIES)), "nothing: one subject"
    # penalties are scaled with the number of rows
    by_row = (_PENALTIES * scale / len(truth)).tolist()
    fit = PenalisedFit("number", features, truth, by_row, per_row=True, intercept=stacker.intercept)
    return fit.choose(folds)[0] * len(truth), f"{len(folds)} groups of subjects"


def sample_values(predictions: pd.DataFrame, learners: Sequence[str]) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """One row for each sample of one target, the learners' values, (N, learners, K), and the columns of these."""
    columns = [name for name in probability_columns(predictions) if predictions[name].notna().any()] or ["y_pred"]
    kept, key = list(COLUMNS) if columns == ["y_pred"] else list(predictions.columns), list(SAMPLE_KEY)
    rows = predictions.drop_duplicates(key)[kept].reset_index(drop=True)
    index, values = pd.MultiIndex.from_frame(rows[key]), []
    for learner in learners:
        own = predictions[predictions["model"] == learner].set_index(key)[columns].reindex(index)
        lacking = index[own[columns[0]].isna()]
        if len(lacking):
            target, stage = rows[["target", "stage"]].iloc[0]
            raise CasewiseError(
                f"stack: {learner} lacks {len(lacking)} of {len(index)} predictions of '{target}' at stage '{stage}' "
                f"that other learners have, the first of case '{lacking[0][0]}'. Finish its jobs or leave it out."
            )
        values.append(own.to_numpy(dtype=float))
    return rows, np.stack(values, axis=1), columns


def check_subjects(oof: pd.DataFrame, fresh: pd.DataFrame) -> None:
    """Refuse a subject on both sides, on which the stacker would be fitted and evaluated."""
    folds = oof[["subject", "outer_fold"]].drop_duplicates()
    if folds["outer_fold"].isna().any():
        raise CasewiseError("stack: some out-of-fold predictions have no fold.")
    twice = folds.loc[folds["subject"].duplicated(), "subject"]
    if len(twice):
        where = sorted(map(str, folds.loc[folds["subject"] == twice.iloc[0], "outer_fold"]))
        raise SplitError(f"stack: subject '{twice.iloc[0]}' is in the folds {', '.join(where)}; it may be in one only.")
    both = sorted(set(folds["subject"]) & set(fresh["subject"]))
    if both:
        stage = fresh.loc[fresh["subject"] == both[0], "stage"].iloc[0]
        raise SplitError(f"stack: subject '{both[0]}' is out of fold and at stage '{stage}'; it may be in one only.")


INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0)
# Probabilities below this have its logarithm.
_LEAST = 1e-6


def _fit_classes(
    stacker: _Stacker, probabilities: np.ndarray, truth: np.ndarray, subjects: np.ndarray, learners: list[str]
) -> Fitted:
    if stacker.equal:
        return {"weights": dict.fromkeys(learners, 1 / len(learners)), "intercept": 0.0}
    if stacker.weighted:
        weights = _weights_of_classes(probabilities, truth, subjects).tolist()
        return {"weights": dict(zip(learners, weights, strict=True)), "intercept": 0.0, "n_rows": len(truth)}
    return {**_logistic(probabilities, truth, subjects), "learners": learners, "n_rows": len(truth)}


def _combine_classes(coefficients: Mapping[str, Any], probabilities: np.ndarray) -> np.ndarray:
    """The probabilities (N, K) of a meta learner, from an entry of `StackingResult.coefficients` of classes.

    `probabilities` is (N, learners, K), the learners in the order of the entry's `weights` or `learners`.

    >>> _combine_classes({"weights": {"a": 0.5, "b": 0.5}}, np.array([[[0.2, 0.8], [0.6, 0.4]]]))
    array([[0.4, 0.6]])
    """
    if "weights" in coefficients:
        return np.asarray(np.einsum("nlk,l->nk", probabilities, np.array(list(coefficients["weights"].values()))))
    scores = _features(probabilities) @ np.array(coefficients["coefficients"]).T + np.array(coefficients["intercepts"])
    scores -= scores.max(axis=1, keepdims=True)
    shares = np.exp(scores)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _features(probabilities: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities, (N, learners × K)."""
    return np.log(np.clip(probabilities, _LEAST, 1.0)).reshape(len(probabilities), -1)


def _logistic(probabilities: np.ndarray, truth: np.ndarray, subjects: np.ndarray) -> Fitted:
    """A logistic regression with a penalty chosen over groups of subjects; one row of coefficients for each class."""
    features, k = _features(probabilities), probabilities.shape[2]
    present = sorted(set(truth.tolist()))
    if len(present) < 2:
        raise CasewiseError("stack: the training folds hold one class only; a logistic stacker needs two.")
    fit = PenalisedFit("classes", features, truth, INVERSE_PENALTIES, k, fold_means=True, most_steps=1000)
    inverse, _ = fit.choose(subject_folds(subjects))
    coefficients, intercepts = fit.fit(penalty=inverse)
    intercepts[np.setdiff1d(np.arange(k), present)] = -30.0
    return {"inverse_penalty": inverse, "coefficients": coefficients.tolist(), "intercepts": intercepts.tolist()}


def by_weight(names: Sequence[str], learner: str, coefficients: Coefficients) -> list[str]:
    """Learners in an order in which they say more about another one: itself first, then by their weights in it.

    >>> by_weight(["a", "b"], "weighted_mean", {"weighted_mean": {"score": {"weights": {"a": 0.1, "b": 0.9}}}})
    ['b', 'a']
    """
    fits = [entry.get("weights") or {} for entry in coefficients.get(learner, {}).values()]
    return sorted(names, key=lambda name: (name != learner, -sum(weights.get(name, 0.0) for weights in fits)))


def with_combined(rows: pd.DataFrame, coefficients: Coefficients, nested: str = "") -> pd.DataFrame:
    """Rows of single learners, each case, region, image and target once, and rows of the combined learners.

    Args:
        rows: rows of the predictions table of one stage, of one fold or means over the folds.
        coefficients: of the stackers; their predictions are those that the run would have made of a test case.
        nested: the network that nested cross-validation chose for new cases; empty without nested cross-validation.

    Raises:
        RunError: a stacker combines a learner that is not in `rows`.
    """
    tables = [rows]
    for learner, by_target in coefficients.items():
        tables += [_combined(rows, learner, target, entry) for target, entry in by_target.items()]
    if nested:
        tables.append(rows[rows["model"] == nested].assign(model=NESTED))
    return pd.concat(tables, ignore_index=True)


def _combined(rows: pd.DataFrame, learner: str, target: str, entry: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of one stacker and target."""
    names = list(entry.get("weights") or entry["learners"])
    single = rows[(rows["target"] == target) & rows["model"].isin(names)]
    if lacking := [name for name in names if name not in set(single["model"])]:
        raise RunError(f"{learner} combines {lacking[0]}, which has no predictions of {target}.")
    key = list(SAMPLE_KEY)
    first = single[single["model"] == names[0]].reset_index(drop=True)
    index = pd.MultiIndex.from_frame(first[key])
    columns = [name for name in probability_columns(first) if first[name].notna().any()]
    if kind_named(str(first["kind"].iloc[0])).form == "number":
        columns = ["y_pred"]
    if not columns:  # the first learner gave no number
        return first.assign(model=learner)
    own = [single[single["model"] == name].set_index(key)[columns].reindex(index).to_numpy(float) for name in names]
    rows = decided(first, learner, columns, _combine(entry, np.stack(own, axis=1)))
    if "distance" in rows:
        rows["distance"] = single.groupby(key, sort=False)["distance"].mean().reindex(index).to_numpy()
    return rows


ROUNDS = 500
# Rounds of least squares in which the errors of the round before are the weights of the rows.
REWEIGHTED = 50
# Errors below this share of the mean error have no more weight.
SMALLEST = 1e-3
# The weight of the sum in the least squares of numbers, relative to the size of the predictions.
SUM = 1e3
# Groups of subjects that are left out, and the standard errors by which fitted weights must be better than equal ones.
GROUPS, CLEARLY = 5, 2.0
# Standard errors by which a learner must be worse than the best one to have no weight: `CLEARLY` if the best one is
# clearly better than a guess without images, else more, since without signal some of several are worse by two.
FAR_WORSE = 3.0
# With fewer subjects, the standard error of a gain is itself too uncertain.
FEWEST_SUBJECTS = 10


def weights_of_numbers(predicted: np.ndarray, truth: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """The weights (L,) of predictions (N, L), of the smallest absolute error if clearly better than equal ones.

    >>> truth = np.arange(20.0)
    >>> predicted = np.stack([truth, 19 - truth], axis=1)
    >>> weights_of_numbers(predicted, truth, np.arange(20)).round(2).tolist()
    [1.0, 0.0]
    >>> weights_of_numbers(predicted[:, [0, 0]], truth, np.arange(20)).tolist()
    [0.5, 0.5]
    """
    return _if_clearly_better(
        lambda rows: _least_absolute_error(predicted[rows], truth[rows]),
        lambda weights: np.abs(predicted @ weights - truth),
        np.abs(np.median(truth) - truth),
        predicted.shape[1],
        subjects,
    )


def _weights_of_classes(probabilities: np.ndarray, truth: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """The weights (L,) of probabilities (N, L, K), of the largest likelihood if clearly better than equal ones.

    >>> sure = np.tile([[[0.9, 0.1], [0.5, 0.5]], [[0.1, 0.9], [0.5, 0.5]]], (10, 1, 1))
    >>> _weights_of_classes(sure, np.tile([0, 1], 10), np.arange(20)).round(2).tolist()
    [1.0, 0.0]
    """
    likelihood = np.maximum(probabilities[np.arange(len(truth)), :, truth.astype(int)], 1e-9)
    shares = np.bincount(truth.astype(int)) / max(len(truth), 1)
    return _if_clearly_better(
        lambda rows: _largest_likelihood(likelihood[rows]),
        lambda weights: -np.log(likelihood @ weights),
        -np.log(shares[truth.astype(int)]),
        likelihood.shape[1],
        subjects,
    )


def _if_clearly_better(
    fit: Callable[[np.ndarray], np.ndarray],
    loss: Callable[[np.ndarray], np.ndarray],
    guess: np.ndarray,
    n_learners: int,
    subjects: np.ndarray,
) -> np.ndarray:
    """Fitted weights, if they have a clearly smaller loss (N,) than equal ones on groups of subjects left out.

    Otherwise learners that are clearly worse than the best one have the weight 0, and the others equal weights.
    `guess` is the loss (N,) of a constant.
    """
    from sklearn.model_selection import GroupKFold

    numbers = np.unique(subjects, return_inverse=True)[1]
    n_subjects = int(numbers.max(initial=-1)) + 1
    if n_subjects < FEWEST_SUBJECTS:
        return np.full(n_learners, 1 / n_learners)
    alone = [loss(weights) for weights in np.eye(n_learners)]
    best = min(alone, key=lambda own: float(own.mean()))
    errors = CLEARLY if _is_above(guess - best, numbers, CLEARLY) else FAR_WORSE
    kept = np.array([not _is_above(own - best, numbers, errors) for own in alone])
    gain = loss(equal := kept / kept.sum())
    for fitted_on, left_out in GroupKFold(GROUPS).split(gain, groups=numbers):
        gain[left_out] -= loss(fit(fitted_on))[left_out]
    return fit(np.arange(len(gain))) if _is_above(gain, numbers, CLEARLY) else equal


def _is_above(differences: np.ndarray, numbers: np.ndarray, errors: float) -> bool:
    """Whether the mean of differences (N,), of the subjects `numbers`, is above 0 by so many standard errors."""
    n_subjects = int(numbers.max()) + 1
    deviation = np.bincount(numbers, differences - differences.mean())
    error = np.sqrt((deviation**2).sum() * n_subjects / (n_subjects - 1)) / len(differences)
    return bool(differences.mean() > errors * error)


def _least_absolute_error(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The weights (L,) with the smallest absolute error of predictions (N, L), by reweighted least squares."""
    from scipy.optimize import nnls

    learners = predicted.shape[1]
    size = SUM * max(float(np.abs(predicted).mean()), 1e-9) * len(truth) ** 0.5
    weights, scale = np.full(learners, 1 / learners), np.ones(len(truth))
    for _ in range(REWEIGHTED):
        rows = np.vstack([predicted * scale[:, None], np.full(learners, size)])
        weights, _ = nnls(rows, np.append(truth * scale, size))
        if not weights.sum() > 0:
            return np.full(learners, 1 / learners)
        weights = weights / weights.sum()
        errors = np.abs(predicted @ weights - truth)
        if not errors.any():
            break
        # at most 1, so that the sum keeps its weight
        least = max(SMALLEST * float(errors.mean()), np.finfo(float).tiny)
        scale = np.sqrt(least / np.maximum(errors, least))
    return np.asarray(weights)


def _largest_likelihood(likelihood: np.ndarray) -> np.ndarray:
    """The weights (L,) of the mixture with the largest likelihood of the classes recorded, (N, L) for each learner."""
    weights = np.full(likelihood.shape[1], 1 / likelihood.shape[1])
    for _ in range(ROUNDS):
        shares = weights * likelihood
        weights = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    return weights
