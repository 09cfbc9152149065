"""A fair comparison of readers and model: each reader against the mean of the others, the model against the same.

A reader who belongs to a reference is nearer to it than anybody else. Therefore each reader is compared with the mean
of the other readers, and the model with that same mean, on the same cases. Of numbers and grades the error is the
distance from the mean of the others; of classes it is the share of the others who disagree. The difference is the
model's error minus the reader's: below 0 where the model is nearer to the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from casewise.evaluation.agreement import by_key
from casewise.evaluation.bootstrap import PLAN, Plan, mean_by_subject
from casewise.evaluation.figures import Estimate
from casewise.evaluation.record import Record
from casewise.plugins.readers.statistics.agreement import leaving_out, mean_of_others, ratings_of, undefined
from casewise.plugins.readers.statistics.coefficients import CLASSES
from casewise.plugins.readers.statistics.multi_reader import METRICS, ModalityComparison, compare_modalities
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.plugins.readers.form import FormField

Verdict = Literal["better", "not worse", "not shown"]
# Kinds of session: without anything of the model, the same in cases with doubtful labels, and with its predictions.
BLIND, DOUBTFUL, AIDED = "blind", "doubtful", "aided"


@dataclass(frozen=True)
class ModelPredictions:
    """The predictions that are compared with readers.

    Attributes:
        name: of the model, in words.
        source: what the cases were to the model, such as `out of fold`.
        rows: `case`, `region`, `target`, `value` (numbers of classes from 0); where they exist `image`, and `truth`
            (the study's reference).
        reference: what the truth rests on, where it does not depend on these readers; only then is it compared with.
        positive: the number of the positive one of two classes, by target; 1 where it is not stated.
    """

    name: str
    source: str
    rows: pd.DataFrame
    reference: str = ""
    positive: Mapping[str, int] = field(default_factory=dict)


def aligned(units: pd.MultiIndex, rows: pd.DataFrame, column: str, kind: str) -> np.ndarray:
    """A column of `ModelPredictions.rows` in the order of `units`, (N,), NaN where there is none.

    Where a case has one reading but predictions of several images, these are averaged; of classes the commonest counts.
    Images are matched by their paths, or by their names where these are unique in the case.
    """
    by_image = any(units.get_level_values("image")) and "image" in rows
    own = _images_as_read(units, rows[["case", "image"]]) if by_image else ""
    by_unit = rows.assign(image=own).dropna(subset=[column]).groupby(["case", "image", "region"])[column]
    values = by_unit.agg(lambda x: x.mode().iloc[0]) if kind == CLASSES else by_unit.mean()
    return values.reindex(units.droplevel("subject")).to_numpy(dtype=float)


def _images_as_read(units: pd.MultiIndex, predicted: pd.DataFrame) -> list[str | None]:
    """The path in `units` of each predicted image; None where there is none."""
    read = units.to_frame(index=False)[["case", "image"]].drop_duplicates()

    def by_name(images: pd.DataFrame) -> pd.DataFrame:
        names = images["image"].map(lambda image: Path(image).name)
        return images.assign(name=names).drop_duplicates().drop_duplicates(["case", "name"], keep=False)

    unique = by_name(predicted).merge(by_name(read), on=["case", "name"], suffixes=("", "_read"))
    paths = {(row.case, row.image): row.image_read for row in unique.itertuples()}
    paths |= {(case, image): image for case, image in zip(read["case"], read["image"], strict=True)}
    return [paths.get(key) for key in zip(predicted["case"], predicted["image"], strict=True)]


class ReaderDuel(Record):
    """A reader and the model against the other readers, on the cases that all of them have.

    `reader` and `model` are errors; `difference` is the model's minus the reader's.
    """

    reader: Estimate
    model: Estimate
    difference: Estimate
    verdict: Verdict


class Duel(Record):
    """All readers of one target key, and the mean over them; `margin` is what was stated in advance, if anything."""

    kind: str
    margin: float | None
    readers: dict[str, ReaderDuel]
    mean: ReaderDuel


def verdict(difference: Estimate, margin: float | None = None) -> Verdict:
    """The verdict by the upper end of a difference of errors: below 0, below the margin, or neither.

    >>> verdict(Estimate(-0.2, -0.6, 0.2, 20, 20, False), 0.5)
    'not worse'
    """
    if difference.high is None:
        return "not shown"
    if difference.high < 0:
        return "better"
    return "not worse" if margin is not None and difference.high < margin else "not shown"


def errors(values: np.ndarray, model: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The errors of readers and model against the other readers, (N, R) each; NaN where either is undefined.

    Args:
        values: (N, R) readings, NaN where there is none.
        model: (N,) predictions.

    >>> of_readers, of_model = errors(np.array([[1.0, 2.0, 3.0]]), np.array([2.5]), "regression")
    >>> of_readers.tolist(), of_model.tolist()
    ([[1.5, 0.0, 1.5]], [[0.0, 0.5, 1.0]])
    """
    if kind == CLASSES:
        others = np.stack([np.delete(values, reader, axis=1) for reader in range(values.shape[1])], axis=1)
        read = (~np.isnan(others)).sum(axis=2)
        differ = [((others != x) & ~np.isnan(others)).sum(axis=2) for x in (values[..., None], model[:, None, None])]
        of_reader, of_model = (np.where(read > 0, errors / np.maximum(read, 1), np.nan) for errors in differ)
    else:
        reference = mean_of_others(values)
        of_reader, of_model = np.abs(values - reference), np.abs(model[:, None] - reference)
    missing = np.isnan(values) | np.isnan(model)[:, None]
    of_reader, of_model = (np.where(missing, np.nan, errors) for errors in (of_reader, of_model))
    return of_reader, of_model


def duel(
    rows: pd.DataFrame, predicted: pd.DataFrame, kind: str, *, margin: float | None = None, plan: Plan = PLAN
) -> Duel:
    """Compare readers and model on one target key.

    Args:
        rows: of the readings table, of one target.
        predicted: rows of `ModelPredictions` of this target.
        kind: `regression`, `ordinal` or `classification`.
        margin: the largest difference of errors that does not matter, stated before the readings were seen.
    """
    ratings = ratings_of(rows)
    model = aligned(ratings.units, predicted, "value", kind)
    of_reader, of_model = errors(ratings.first, model, kind)
    by_reader = {
        name: _compared(of_reader[:, [n]], of_model[:, [n]], ratings.subjects, kind, margin, plan)
        for n, name in enumerate(ratings.readers)
    }
    return Duel(kind, margin, by_reader, _compared(of_reader, of_model, ratings.subjects, kind, margin, plan))


def duels(
    readings: pd.DataFrame,
    fields: Sequence[FormField],
    model: ModelPredictions,
    margins: Mapping[str, float],
    plan: Plan = PLAN,
) -> dict[str, Duel]:
    """The duel by target key, for each target over its regions and for each of several; margins are by target."""
    kinds = {field.target: kind_named(field.kind).metrics_of for field in fields}
    result = {}
    for key, rows in by_key(readings[readings["target"].isin(kinds)]):
        target = str(rows["target"].iloc[0])
        predicted = model.rows[model.rows["target"] == target]
        several = readings.loc[readings["target"] == target, "region"].nunique() > 1
        if len(predicted) and (several or "[" not in key):
            result[key] = duel(rows, predicted, kinds[target], margin=margins.get(target), plan=plan)
    return result


class AgainstReference(Record):
    """Readers, model, and readers with the model against a reference, each comparison by metric.

    Attributes:
        model: the model's calls minus the readers'.
        aided: readers in sessions with the model minus without.
    """

    model: list[ModalityComparison]
    aided: list[ModalityComparison] | None = None


def against_reference(
    readings: pd.DataFrame, fields: Sequence[FormField], model: ModelPredictions, plan: Plan = PLAN
) -> dict[str, AgainstReference]:
    """The comparison by targets of two classes whose reference depends on no reader."""
    two = [field.target for field in fields if kind_named(field.kind).metrics_of == CLASSES and len(field.options) == 2]
    result = {}
    for target in dict.fromkeys(two if model.reference and "truth" in model.rows else ()):
        of_target = readings[readings["target"] == target]
        blind = of_target[of_target["kind"] == BLIND]
        rows = model.rows[model.rows["target"] == target]
        if blind.empty or not rows["truth"].notna().any():
            continue
        ratings, positive = ratings_of(blind), model.positive.get(target, 1)
        value, truth = (_calls(aligned(ratings.units, rows, name, CLASSES), positive) for name in ("value", "truth"))
        readers, subjects = _calls(ratings.first, positive), ratings.subjects

        def compared(first: np.ndarray, second: np.ndarray) -> list[ModalityComparison]:
            return [compare_modalities(metric, truth, first, second, subjects, plan) for metric in METRICS]  # noqa: B023

        with_model = None
        aided = of_target[(of_target["kind"] == AIDED) & of_target["reader"].isin(ratings.readers)]
        if len(aided):
            second = ratings_of(aided)
            both = [name in second.readers for name in ratings.readers]
            table = pd.DataFrame(second.first, second.units, second.readers).reindex(ratings.units)
            with_model = compared(_calls(table.to_numpy(float), positive), readers[:, both])
        result[target] = AgainstReference(compared(value[:, None], readers), with_model)
    return result


def _calls(values: np.ndarray, positive: int) -> np.ndarray:
    """1 where the positive class is called, 0 where the other one is, NaN where neither is."""
    return np.where(np.isnan(values), np.nan, values == positive)


def _compared(
    reader: np.ndarray, model: np.ndarray, subjects: np.ndarray, kind: str, margin: float | None, plan: Plan
) -> ReaderDuel:
    """Errors (N, k) of k readers, averaged over cases and then over readers."""
    rows = ~np.isnan(reader).all(axis=1)
    reader, model, of_subjects = reader[rows], model[rows], subjects[rows]
    defined = ~np.isnan(reader).all(axis=0)
    if not defined.any():
        none = undefined("no case was read by another reader and predicted")
        return ReaderDuel(none, none, none, "not shown")
    name = "share" if kind == CLASSES else "mae"

    def figure(values: np.ndarray, of_figure: str) -> Estimate:
        if values.shape[1] == 1:
            return mean_by_subject(values[:, 0], of_subjects, plan, name=of_figure)
        return leaving_out(lambda kept: {of_figure: _mean(values[kept])}, of_subjects, plan)[of_figure]

    of_readers, of_model = (figure(errors[:, defined], name) for errors in (reader, model))
    difference = figure((model - reader)[:, defined], "difference")
    return ReaderDuel(of_readers, of_model, difference, verdict(difference, margin))


def _mean(values: np.ndarray) -> float:
    """The mean over columns of their means over rows; NaN if a column has no value."""
    count = (~np.isnan(values)).sum(axis=0)
    return float((np.nansum(values, axis=0) / np.where(count > 0, count, np.nan)).mean())
