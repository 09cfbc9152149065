"""Models of covariates, alone and joined to the images, as one more baseline and one more stacker.

Both are penalised regressions: linear for a number, logistic for each step between grades, for two classes, and for
each of several classes against the others. The joined model reads the prediction of the image model besides. Its
weight is at least 0: networks have seen the labels of every fold but their own, so that a weight below 0 would find
signal where there is none (see `casewise.predictions.stacking`).

A number is also read through a restricted cubic spline with three knots (Harrell, Regression Modeling Strategies,
2015, section 2.4). Everything is fitted on training rows: the median that replaces a missing number, which an
indicator marks, the categories, the range and the knots. A category that the training rows lack counts as their mean,
and a number beyond their range as its end. Where values are missing, both models are also fitted with drawn ones
(`without_gaps`): what they then predict worse was known from the gaps alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from casewise.errors import CasewiseError, cut
from casewise.files import PLAIN_NUMBER
from casewise.predictions.nested_cv import NESTED
from casewise.predictions.penalised import Lines, PenalisedFit, subject_folds
from casewise.predictions.stacking import check_subjects, decided, sample_values
from casewise.predictions.table import SAMPLE_KEY, final_rows, probability_columns, with_mean_distances
from casewise.study.learners import COVARIATES, JOINED
from casewise.targets import by_form, kind_named

if TYPE_CHECKING:
    from casewise.study.schema import Study

Array: TypeAlias = np.ndarray

# The kinds of covariates.
NUMBER, CATEGORY = "number", "category"
# A model as plain values, as `_fit` makes it.
Entry: TypeAlias = Mapping[str, Any]
KNOTS = (0.1, 0.5, 0.9)
# Penalties as shares of the number of rows.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
REGION = "region"
_LEAST = 1e-6
# The image models that a study states without choosing on results, in this order.
_STATED = (NESTED, "meta_learner_weighted", "mean_of_learners")


@dataclass(frozen=True)
class Encoding:
    """The encoding of a column as numbers, fitted on training rows.

    Attributes:
        levels: the categories in the training rows; '' stands for a missing value. Empty for a number.
        fill: the median of a number.
        limits: the smallest and the largest number; values outside count as the nearer limit.
        knots: of the spline of a number; empty if they coincide.
        marks_missing: whether a missing number has an indicator, as training rows had one.
        centre: the means of the encoded columns.
        scale: the standard deviations of those that are numbers, else 1.
    """

    name: str
    levels: Sequence[str] = ()
    fill: float = 0.0
    limits: Sequence[float] = ()
    knots: Sequence[float] = ()
    marks_missing: bool = False
    centre: Sequence[float] = ()
    scale: Sequence[float] = ()

    @classmethod
    def fit(cls, name: str, kind: str, cells: Sequence[str]) -> Encoding:
        """From the cells of training rows, '' where missing."""
        if kind == CATEGORY:
            encoding = cls(name, sorted(set(cells)))
        else:
            values = _numbers(cells)
            present = values[np.isfinite(values)]
            quantiles = np.quantile(present, KNOTS).tolist() if len(present) else []
            knots = quantiles if len(set(quantiles)) == len(KNOTS) else []
            fill = float(np.median(present)) if len(present) else 0.0
            limits = [float(present.min()), float(present.max())] if len(present) else [fill, fill]
            encoding = cls(name, (), fill, limits, knots, bool(np.isnan(values).any()))
        raw = encoding._raw(cells)
        deviations = raw.std(axis=0) if kind == NUMBER else np.ones(raw.shape[1])
        if encoding.marks_missing:
            deviations[-1] = 1.0
        scale = np.where(deviations > 0, deviations, 1.0).tolist()
        return cls(**{**asdict(encoding), "centre": raw.mean(axis=0).tolist(), "scale": scale})

    def joined(self, other: Encoding) -> Encoding:
        """One that knows what the training rows of two targets have."""
        limits = [min(self.limits[0], other.limits[0]), max(self.limits[1], other.limits[1])] if self.limits else []
        marks_missing = self.marks_missing or other.marks_missing
        return replace(self, levels=sorted({*self.levels, *other.levels}), limits=limits, marks_missing=marks_missing)

    def encode(self, cells: Sequence[str]) -> Array:
        """(N, W) of cells; a row of a category that the training rows lack is 0."""
        encoded = (self._raw(cells) - np.array(self.centre)) / np.array(self.scale)
        return np.where(self._unknown(cells)[:, None], 0.0, encoded)

    def flag(self, cell: str) -> str:
        """Why the value of a new case is not used as it is; empty if it is."""
        if cell == "":
            return f"{self.name} is missing" + ("" if self.levels else f", and counts as {self.fill:g}")
        if not self.levels and np.isnan(_numbers([cell])).any():
            return f"{self.name} {cut(cell)} is not a number, and counts as {self.fill:g}"
        if self.levels:
            return f"{self.name} {cut(cell)} was not in the training cases" if self._unknown([cell])[0] else ""
        low, high = self.limits
        outside = not low <= float(cell) <= high
        return f"{self.name} {cut(cell)} is outside {low:g} to {high:g}, the range in training" if outside else ""

    def _raw(self, cells: Sequence[str]) -> Array:
        if self.levels:
            return np.array([[cell == level for level in self.levels] for cell in cells], dtype=float)
        values = _numbers(cells)
        missing, values = np.isnan(values), np.nan_to_num(values, nan=self.fill).clip(self.limits[0], self.limits[1])
        columns = [values]
        if self.knots:
            columns.append(_spline(values, self.knots))
        if self.marks_missing:
            columns.append(missing.astype(float))
        return np.stack(columns, axis=1)

    def _unknown(self, cells: Sequence[str]) -> Array:
        return np.array([bool(self.levels) and cell not in self.levels for cell in cells], dtype=bool)


def _numbers(cells: Sequence[str]) -> Array:
    """(N,) numbers, NaN where a cell is none or too large for one."""
    values = np.array([float(cell) if PLAIN_NUMBER.fullmatch(cell) else np.nan for cell in cells], dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _spline(values: Array, knots: Sequence[float]) -> Array:
    """The curved term of a restricted cubic spline with three knots, in the unit of the values; linear outside.

    >>> _spline(np.array([0.0, 1.0, 3.0, 4.0]), [0, 1, 2]).round(3).tolist()
    [0.0, 0.25, 3.0, 4.5]
    """
    first, middle, last = knots
    cubes = [np.maximum(values - knot, 0.0) ** 3 for knot in knots]
    curve = cubes[0] - cubes[1] * (last - first) / (last - middle) + cubes[2] * (middle - first) / (last - middle)
    return np.asarray(curve / (last - first) ** 2)


@dataclass(frozen=True)
class CovariateFit:
    """The rows of both models, and their record as plain values (`covariates.json`).

    The record has `images`, the learners whose mean is the image model; `columns`, the kind of each; and `models`, by
    learner and target the encodings and coefficients.
    """

    rows: pd.DataFrame
    record: Mapping[str, Any]


def image_model(study: Study, predictions: pd.DataFrame) -> list[str]:
    """The learners whose mean is the image model: one that the study states, without any choice on results.

    It is the nested choice, the weighted mean or the mean of the learners; else the networks; else the last baseline.
    Where sources are left out, weights were fitted on networks that were trained on the source, and do not count.
    """
    present = set(predictions["model"])
    stated = [name for name in _STATED if not (study.split.leave_out and name.startswith("meta_learner"))]
    combined = [name for name in stated if name in present]
    return combined[:1] or [name for name in study.networks if name in present] or study.learners[-1:]


def fit_covariates(
    predictions: pd.DataFrame,
    images: Sequence[str],
    cells: pd.DataFrame,
    columns: Mapping[str, str],
    ranges: Mapping[str, tuple[float, float]],
) -> CovariateFit:
    """Fit the model of covariates and the one that joins them to the images, and predict every stage.

    Rows at stage 'oof' are cross-fitted: a fold's rows come from models fitted on the rows of the other folds. Other
    stages are predicted by models of all out-of-fold rows, from the means over the networks of the folds.

    Args:
        images: the learners whose mean is the image model.
        cells: the covariates by case (`casewise.cohort.groups.covariates_by_case`).
        columns: the kind of each covariate.
        ranges: by target.

    Raises:
        SplitError: a subject is in two folds, or out of fold and in the test set.
        CasewiseError: the image model lacks rows, or a target has reference values in fewer than two folds.
    """
    single = predictions[predictions["model"].isin(list(images))]
    oof = single[(single["stage"] == "oof") & single["inner_fold"].isna()]
    fresh = single[single["stage"] != "oof"]
    check_subjects(oof, fresh)
    means = final_rows(fresh)
    tables: list[pd.DataFrame] = []
    models: dict[str, dict[str, Entry]] = {COVARIATES: {}, JOINED: {}}
    for target, limits in ranges.items():
        rows, values, names = sample_values(oof[oof["target"] == target], images)
        image_values, folds = values.mean(axis=1), rows["outer_fold"].to_numpy()
        scored = rows["y_true"].notna().to_numpy()
        if len(set(folds[scored])) < 2:
            raise CasewiseError(f"covariates: the scored rows of '{target}' are in fewer than two folds.")
        kinds = {**columns, **({REGION: CATEGORY} if (rows["region"] != "").any() else {})}
        of_stages = [sample_values(own, images) for _, own in means[means["target"] == target].groupby("stage")]
        for learner in models:
            joined = learner == JOINED
            crossed = np.empty(image_values.shape)
            for fold in set(folds):
                own, train = folds == fold, scored & (folds != fold)
                entry = _fit(rows[train], image_values[train], cells, kinds, limits, joined=joined)
                crossed[own] = _predict(entry, _cells(rows[own], cells), image_values[own])
            entry = _fit(rows[scored], image_values[scored], cells, kinds, limits, joined=joined)
            models[learner][target] = entry
            outputs = [(rows, crossed)]
            outputs += [(new, _predict(entry, _cells(new, cells), v.mean(axis=1))) for new, v, _ in of_stages]
            for own_rows, predicted in outputs:
                table = decided(own_rows, learner, names, predicted).drop(columns="distance", errors="ignore")
                tables.append(with_mean_distances(table, single) if joined else table)
    record = {"images": list(images), "columns": dict(columns), "models": models}
    return CovariateFit(pd.concat(tables, ignore_index=True), record)


def without_gaps(cells: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Cells whose missing values are drawn from the other cases, so that nothing shows which were missing.

    A median in their place would show it, because a curve sets it apart from the values beside it.

    >>> without_gaps(pd.DataFrame({"sex": ["f", "", "f"]}), seed=1)["sex"].tolist()
    ['f', 'f', 'f']
    """
    rng, filled = np.random.default_rng(seed), {}
    for name, own in cells.items():
        present = own[own != ""].to_numpy()
        drawn = rng.choice(present, len(own)) if len(present) else own
        filled[name] = own.where(own != "", drawn)
    return cells.assign(**filled)


def with_covariates(rows: pd.DataFrame, record: Mapping[str, Any], cells: pd.DataFrame) -> pd.DataFrame:
    """Rows of one stage, one per sample and learner, and the rows of both models; unchanged without a record."""
    if not record:
        return rows
    tables, images = [rows], list(record["images"])
    for learner, by_target in record["models"].items():
        for target, entry in by_target.items():
            single = rows[(rows["target"] == target) & rows["model"].isin(images)]
            first = single[single["model"] == images[0]].reset_index(drop=True)
            number_form = kind_named(str(first["kind"].iloc[0])).form == "number"
            shares = [name for name in probability_columns(first) if first[name].notna().any()]
            columns = ["y_pred"] if number_form else shares
            means = single.groupby(list(SAMPLE_KEY), sort=False)[[*columns, "distance"]].mean()
            means = means.reindex(pd.MultiIndex.from_frame(first[list(SAMPLE_KEY)]))
            values = means[columns].to_numpy(dtype=float)
            whole = ~np.isnan(values).any(axis=1) if columns else np.zeros(len(first), dtype=bool)
            predicted = np.full(values.shape, np.nan)
            predicted[whole] = _predict(entry, _cells(first[whole], cells), values[whole])
            table = decided(first, learner, columns, predicted) if columns else first.assign(model=learner)
            tables.append(table.assign(distance=means["distance"].to_numpy() if learner == JOINED else np.nan))
    return pd.concat(tables, ignore_index=True)


def encodings_of(record: Mapping[str, Any]) -> list[Encoding]:
    """How each covariate is read, as the training rows of all targets decided; none without a record."""
    encodings: dict[str, Encoding] = {}
    for entry in record["models"][COVARIATES].values() if record else ():
        for encoding in _encodings(entry):
            earlier = encodings.get(encoding.name)
            encodings[encoding.name] = earlier.joined(encoding) if earlier else encoding
    return list(encodings.values())


def flags_of(record: Mapping[str, Any], cells: pd.DataFrame) -> dict[str, list[str]]:
    """By case, what was imputed or is unknown among its covariates; with the target where targets differ."""
    by_target = {target: _encodings(entry) for target, entry in record["models"][COVARIATES].items()}
    flags: dict[str, list[str]] = {str(case): [] for case in cells.index}
    for case, own in cells.iterrows():
        for entries in zip(*by_target.values(), strict=True):
            reasons = [encoding.flag(own[encoding.name]) for encoding in entries]
            differ, by_reason = len(set(reasons)) > 1, zip(by_target, reasons, strict=True)
            texts = (f"{reason} ({target})" if differ else reason for target, reason in by_reason if reason)
            flags[str(case)] += dict.fromkeys(texts)
    return flags


def _encodings(entry: Entry) -> list[Encoding]:
    return [Encoding(**column) for column in entry["columns"] if column["name"] != REGION]


def _cells(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The covariates of rows of the predictions table, with their region."""
    return cells.loc[rows["case"].astype(str)].assign(**{REGION: rows["region"].to_numpy()})


def _fit(
    rows: pd.DataFrame,
    image_values: Array,
    cells: pd.DataFrame,
    kinds: Mapping[str, str],
    limits: Sequence[float],
    *,
    joined: bool,
) -> Entry:
    """The encodings and coefficients of one model and target, from scored rows and the image model's values (N, K)."""
    own = _cells(rows, cells)
    encodings = [Encoding.fit(name, kind, own[name].tolist()) for name, kind in kinds.items()]
    kind, truth = kind_named(str(rows["kind"].iloc[0])), rows["y_true"].to_numpy(dtype=float)
    two = kind.form == "classes" and image_values.shape[1] == 2
    form = "steps" if two else by_form(kind.name, {"number": "number", "ordinal": "steps", "classes": "classes"})
    outcomes = {
        "number": truth[:, None],
        "steps": truth[:, None] > np.arange(image_values.shape[1] - 1),
        "classes": truth[:, None] == np.arange(image_values.shape[1]),
    }[form].astype(float)
    image = _image_features(image_values, form)
    centre, scale = image.mean(axis=0), np.where(image.std(axis=0) > 0, image.std(axis=0), 1.0)
    features, subjects = _encoded(encodings, own), rows["subject"].to_numpy()
    models = []
    for number_of, outcome in enumerate(outcomes.T):
        read = np.column_stack([features, (image - centre)[:, number_of] / scale[number_of]]) if joined else features
        models.append(_fit_one(read, outcome, subjects, linear=form == "number", joined=joined))
    return {
        "columns": [asdict(encoding) for encoding in encodings],
        "form": form,
        "coefficients": [coefficients.tolist() for coefficients, _, _ in models],
        "intercepts": [intercept for _, intercept, _ in models],
        "penalties": [penalty for _, _, penalty in models],
        "image": {"centre": centre.tolist(), "scale": scale.tolist()} if joined else None,
        "low": float(limits[0]),
        "high": float(limits[1]),
        "n_rows": len(rows),
        "n_subjects": len(set(subjects)),
    }


def _predict(entry: Entry, cells: pd.DataFrame, image_values: Array) -> Array:
    """(N, K) the predictions of a model: numbers within their range, or probabilities."""
    features = _encoded([Encoding(**column) for column in entry["columns"]], cells)
    scores = np.tile(np.array(entry["intercepts"]), (len(features), 1))
    coefficients = np.array(entry["coefficients"], dtype=float)
    scores += features @ coefficients[:, : features.shape[1]].T
    if image := entry["image"]:
        values = (_image_features(image_values, entry["form"]) - image["centre"]) / image["scale"]
        scores += values * coefficients[:, -1]
    if entry["form"] == "number":
        return np.clip(scores, entry["low"], entry["high"])
    shares = 1 / (1 + np.exp(-scores))
    if entry["form"] == "classes":
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))
    above = np.minimum.accumulate(shares, axis=1)
    ends = [np.ones((len(above), 1)), above, np.zeros((len(above), 1))]
    return np.asarray(-np.diff(np.hstack(ends), axis=1))


def _encoded(encodings: Sequence[Encoding], cells: pd.DataFrame) -> Array:
    return np.hstack([encoding.encode(cells[encoding.name].tolist()) for encoding in encodings])


def _image_features(values: Array, form: str) -> Array:
    """The joined model's input from the image model: its number, or the logits of each step or class, (N, S)."""
    if form == "number":
        return values
    shares = values if form == "classes" else 1 - np.cumsum(values, axis=1)[:, :-1]
    shares = np.clip(shares, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(shares / (1 - shares)))


def _fit_one(
    features: Array, outcome: Array, subjects: Array, *, linear: bool, joined: bool
) -> tuple[Array, float, float]:
    """The coefficients, the intercept and the penalty, which is chosen by the loss on subjects left out."""
    penalties = PENALTIES if linear else [1 / penalty for penalty in PENALTIES]
    form: Literal["number", "classes"] = "number" if linear else "classes"
    fit = _Outcome(
        form, features, outcome, penalties, 0 if linear else 2, per_row=True, solver="newton-cholesky", joined=joined
    )
    penalty, _ = fit.choose(subject_folds(subjects))
    weight, bias = fit.fit(penalty=penalty)
    # of two classes, each has half of the line between them
    coefficients, intercept = (weight[0], bias[0]) if linear else (weight[1] - weight[0], bias[1] - bias[0])
    return coefficients, float(intercept), PENALTIES[list(penalties).index(penalty)]


@dataclass(frozen=True)
class _Outcome(PenalisedFit):
    """A number or two classes; the last feature of a `joined` model has a weight of at least 0."""

    joined: bool = False

    def path(self, rows: Array, penalties: Sequence[float]) -> Iterator[Lines]:
        """See `PenalisedFit.path`; rows of one class have the smoothed log odds of their share."""
        share, width = self.labels[rows].mean(), self.values.shape[1]
        if self.classes and share in (0.0, 1.0):
            odds = np.log((share * len(rows) + 0.5) / ((1 - share) * len(rows) + 0.5))
            yield from [(np.zeros((2, width)), np.array([-odds, odds]) / 2)] * len(penalties)
            return
        for penalty, (weight, bias) in zip(penalties, super().path(rows, penalties), strict=True):
            if self.joined and weight[-1, -1] < 0:
                # the best fit with a weight of at least 0, since the loss is convex
                rest = replace(self, values=self.values[:, :-1], joined=False)
                weight, bias = rest.fit(rows, penalty)
                weight = np.pad(weight, ((0, 0), (0, 1)))
            yield weight, bias
