"""Agreement of severity bands (Cohen's kappa), of readers with each other, and of learners with readers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import PLAN, Plan, by_subject, estimates
from casewise.evaluation.figures import READERS, ByMetric, Cell, Figures
from casewise.evaluation.results import GroupAgreement
from casewise.metrics.classes import category_agreement
from casewise.metrics.numbers import sum_by_subject
from casewise.predictions.conformal import number_of_band

_KAPPAS = ("kappa", "kappa_quadratic")


def group_agreement(
    truth: np.ndarray, predicted: np.ndarray, subjects: np.ndarray, plan: Plan = PLAN, *, n_groups: int
) -> GroupAgreement:
    """Confusion counts, agreement and kappas of reference and predicted groups, with intervals by subject.

    Rows of `confusion` are the reference groups, columns the predicted groups. Where all cases have
    the same reference or predicted group, the kappas are undefined, and the result says why.

    Args:
        truth, predicted: (N,) numbers of groups, from 0 to `n_groups` - 1.
    """
    truth, predicted = np.asarray(truth, dtype=int), np.asarray(predicted, dtype=int)
    cells = np.eye(n_groups * n_groups)[truth * n_groups + predicted]
    sums = sum_by_subject(cells, subjects)[:, None, :]
    presence = sums.reshape(len(sums), 1, n_groups, n_groups).sum(axis=-1) > 0
    subjects_of_group = presence.sum(axis=(0, 1))
    smallest = np.array([subjects_of_group[subjects_of_group > 0].min(initial=len(sums))])
    agreement = estimates(
        sums,
        category_agreement,
        lambda *_: "no cases",
        plan,
        n_cases=len(truth),
        presence=presence,
        rests_on={"kappa": smallest, "kappa_quadratic": smallest},
    )[0]
    confusion = sums.sum(axis=(0, 1)).reshape(n_groups, n_groups).astype(int)
    if reason := _single_group(confusion):
        agreement |= {k: replace(agreement[k], value=None, low=None, high=None, reason=reason) for k in _KAPPAS}
    return GroupAgreement(confusion.tolist(), **agreement)


def _single_group(confusion: np.ndarray) -> str:
    """Why kappa is undefined: the reference or the model uses a single group. Empty if both use several.

    >>> _single_group(np.array([[0, 0], [2, 3]])), _single_group(np.array([[1, 0], [2, 3]]))
    ('all cases are in one group of the reference: kappa would be 0 by construction', '')
    """
    reference, predicted = ((confusion.sum(axis=axis) > 0).sum() for axis in (1, 0))
    if max(reference, predicted) < 2:
        return "all cases are in one group, on both sides" if confusion.sum() else "no cases"
    if min(reference, predicted) > 1:
        return ""
    side = "model" if reference > 1 else "reference"
    return f"all cases are in one group of the {side}: kappa would be 0 by construction"


def band_of(values: np.ndarray, bands: Mapping[str, float]) -> np.ndarray:
    """The number of the band of each value, bands in rising order; a value below all bounds is in the lowest band.

    >>> band_of(np.array([-0.1, 0.99, 1.0, 40.0]), {"severe": 10, "clear": 0, "mild": 1})
    array([0, 0, 1, 2])
    """
    return number_of_band(values, sorted(bands.values())[1:])


def between_readers(readers: pd.DataFrame, plan: Plan = PLAN) -> Figures:
    """The agreement of each pair of readers, as figures whose `group` is 'first | second'.

    `readers` has one row for each case, target and reader, with `subject` and `value`. The first reader of a pair is
    the reference, so `bias` is the second minus the first.
    """
    cells: dict[Cell, ByMetric] = {}
    for target, rows in readers.groupby("target", sort=False):
        wide = rows.pivot(index=["case", "subject"], columns="reader", values="value")
        for first, second in itertools.combinations(wide.columns, 2):
            both = wide[[first, second]].dropna()
            if both.empty:
                continue
            truth, value = both.to_numpy(dtype=float).T
            figures = by_subject(truth, {str(second): value}, both.index.get_level_values("subject"), plan)
            cells[Cell(target=str(target), population=READERS, group=f"{first} | {second}")] = figures[str(second)]
    return Figures(cells)


def with_readers(rows: pd.DataFrame, readers: pd.DataFrame, plan: Plan = PLAN) -> Figures:
    """The agreement of each learner with each reader, as figures whose `contrast` is the reader.

    `rows` are the final rows of one stage. Readers score whole cases: predictions of a case's images are averaged, and
    predictions of single regions are left out.
    """
    cells: dict[Cell, ByMetric] = {}
    means = rows[rows["region"] == ""].groupby(["target", "case", "model"], sort=False)["y_pred"].mean()
    joined = readers.join(means.unstack(), on=["target", "case"], how="inner")
    for (target, reader), scored in joined.groupby(["target", "reader"], sort=False):
        predicted = {model: scored[model].to_numpy(dtype=float) for model in means.index.unique("model")}
        figures = by_subject(scored["value"].to_numpy(dtype=float), predicted, scored["subject"].to_numpy(), plan)
        for model, figure in figures.items():
            cells[Cell("", str(model), str(target), READERS, contrast=str(reader))] = figure
    return Figures(cells)


def by_key(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Keys of metrics.json with their rows: each target over all its regions, then each `target[region]`.

    >>> rows = pd.DataFrame({"target": ["pasi", "area", "area"], "region": ["", "trunk", "upper"]})
    >>> [key for key, _ in by_key(rows)]
    ['pasi', 'area', 'area[trunk]', 'area[upper]']
    """
    keyed: list[tuple[str, pd.DataFrame]] = []
    for target, target_rows in rows.groupby("target", sort=False):
        regional = target_rows[target_rows["region"] != ""].groupby("region", sort=False)
        keyed.append((str(target), target_rows))
        keyed += [(f"{target}[{region}]", region_rows) for region, region_rows in regional]
    return keyed
