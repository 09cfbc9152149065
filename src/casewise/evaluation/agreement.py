"""Agreement of groups (Cohen's kappa), between readers, and of learners with readers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from casewise.errors import CasewiseError, StudyError, nearest
from casewise.evaluation.bootstrap import PLAN, Plan, by_subject, estimates
from casewise.evaluation.results import Figures, GroupAgreement
from casewise.metrics.classes import category_agreement
from casewise.metrics.numbers import sum_by_subject

_KAPPAS = ("kappa", "kappa_quadratic")
READER_COLUMNS = ("case", "subject", "region", "image", "target", "reader", "value")


def group_agreement(
    truth: np.ndarray, predicted: np.ndarray, subjects: np.ndarray, plan: Plan = PLAN, *, n_groups: int
) -> GroupAgreement:
    """Confusion counts of two groupings, (N,) codes 0..K-1, with their agreement and kappas and intervals.

    Rows of `confusion` are the reference groups, columns the predicted ones. If one side puts all cases in one group,
    kappa is 0 whatever the other side does, so it is undefined, with the reason.
    """
    truth, predicted = np.asarray(truth, dtype=int), np.asarray(predicted, dtype=int)
    cells = np.eye(n_groups * n_groups)[truth * n_groups + predicted]
    sums = sum_by_subject(cells, subjects)[:, None, :]
    presence = sums.reshape(len(sums), 1, n_groups, n_groups).sum(axis=-1) > 0
    of_group = presence.sum(axis=(0, 1))
    smallest = np.array([of_group[of_group > 0].min(initial=len(sums))])
    agreement = estimates(
        sums,
        category_agreement,
        _one_group,
        plan,
        n_cases=len(truth),
        presence=presence,
        rests_on={"kappa": smallest, "kappa_quadratic": smallest},
    )[0]
    confusion = sums.sum(axis=(0, 1)).reshape(n_groups, n_groups).astype(int)
    if why := _one_sided(confusion):
        agreement |= {name: replace(agreement[name], value=None, low=None, high=None, reason=why) for name in _KAPPAS}
    return GroupAgreement(confusion.tolist(), **agreement)


def _one_sided(confusion: np.ndarray) -> str:
    """Why kappa cannot be read where one side uses a single group; empty if both use several.

    >>> _one_sided(np.array([[0, 0], [2, 3]])), _one_sided(np.array([[1, 0], [2, 3]]))
    ('all cases are in one group of the reference: kappa would be 0 by construction', '')
    """
    reference, predicted = ((confusion.sum(axis=axis) > 0).sum() for axis in (1, 0))
    if max(reference, predicted) < 2:
        return _one_group("", confusion)
    if min(reference, predicted) > 1:
        return ""
    side = "model" if reference > 1 else "reference"
    return f"all cases are in one group of the {side}: kappa would be 0 by construction"


def _one_group(_: str, sums: np.ndarray) -> str:
    return "no cases" if not sums.sum() else "all cases are in one group, on both sides"


def check_bands(bands: Mapping[str, float]) -> dict[str, float]:
    """Check severity bands (name -> lower bound) and return them in rising order.

    Raises:
        StudyError: fewer than two bands, or two with the same bound.
    """
    ordered = dict(sorted(bands.items(), key=lambda item: item[1]))
    if len(ordered) < 2 or len(set(ordered.values())) < len(ordered):
        raise StudyError(f"bands: at least two with different lower bounds are needed, not {dict(bands)}.")
    return ordered


def band_of(values: np.ndarray, bands: Mapping[str, float]) -> np.ndarray:
    """The number of the band of each value; a value below all bounds is in the lowest band.

    >>> band_of(np.array([-0.1, 0.99, 1.0, 40.0]), {"clear": 0, "mild": 1, "severe": 10})
    array([0, 0, 1, 2])
    """
    bounds = np.array(list(check_bands(bands).values()))
    # 0.1 * 3 must not miss a bound of 0.3
    return np.clip(np.searchsorted(bounds, np.asarray(values) + 1e-9, side="right") - 1, 0, None)


def check_readers(readers: pd.DataFrame, *, targets: Sequence[str] | None = None) -> pd.DataFrame:
    """Check the readers' table: one row for each case (region, image), target and reader.

    Columns are `case, subject, target, reader, value`, and if needed `region` and `image`. Rows without a value are
    left out.

    Raises:
        CasewiseError: a column is missing, a value is not a number, a reader scored a target of a case twice, or
            scored a target that is not in `targets`.
    """
    readers = readers.copy()
    for name in ("region", "image"):
        readers[name] = readers[name].fillna("") if name in readers.columns else ""
    absent = [name for name in READER_COLUMNS if name not in readers.columns]
    if absent:
        raise CasewiseError(f"The readers' table lacks the column(s) {', '.join(absent)}.")
    readers = readers.loc[readers["value"].notna(), list(READER_COLUMNS)].reset_index(drop=True)
    values = pd.to_numeric(readers["value"], errors="coerce")
    bad = readers[~np.isfinite(values)]
    if len(bad):
        row = bad.iloc[0]
        raise CasewiseError(
            f"Reader '{row['reader']}' scored {row['target']} of case '{row['case']}' as '{row['value']}'."
        )
    readers["value"] = values.astype(float)
    doubled = readers.duplicated(["case", "region", "image", "target", "reader"])
    if doubled.any():
        row = readers[doubled].iloc[0]
        raise CasewiseError(f"Reader '{row['reader']}' scored {row['target']} of case '{row['case']}' twice.")
    if targets is not None:
        for target in (target for target in readers["target"].unique() if target not in targets):
            raise CasewiseError(
                f"The readers scored '{target}', which was not predicted; there are {', '.join(targets)}."
                f"{nearest(target, targets)}"
            )
    return readers


def between_readers(
    readers: pd.DataFrame, plan: Plan = PLAN, *, only_cases: set[str] | None = None
) -> dict[str, dict[str, Figures]]:
    """The agreement of each pair of readers: target key -> 'first | second' -> metric -> estimate.

    Keys are the target, over all its regions, and `target[region]` for each. The first reader of a pair is the
    reference, so `bias` is the second minus the first.
    """
    readers = check_readers(readers)
    if only_cases is not None:
        readers = readers[readers["case"].isin(only_cases)]
    pairs_by_key: dict[str, dict[str, Figures]] = {}
    for key, rows in by_key(readers):
        wide = rows.pivot(index=["case", "subject", "region", "image"], columns="reader", values="value")
        index = wide.index.to_frame()
        pairs: dict[str, Figures] = {}
        for first, second in itertools.combinations(wide.columns, 2):
            both = wide[[first, second]].notna().all(axis=1).to_numpy()
            if both.any():
                pairs[f"{first} | {second}"] = by_subject(
                    wide.loc[both, first].to_numpy(dtype=float),
                    {str(second): wide.loc[both, second].to_numpy(dtype=float)},
                    index.loc[both, "subject"].to_numpy(),
                    plan,
                    cases=index.loc[both, "case"].to_numpy(),
                )[str(second)]
        if pairs:
            pairs_by_key[key] = pairs
    return pairs_by_key


def with_readers(
    rows: pd.DataFrame, readers: pd.DataFrame, plan: Plan = PLAN
) -> dict[str, dict[str, dict[str, Figures]]]:
    """The agreement of each learner with each reader: learner -> target key -> reader -> metric -> estimate.

    `rows` are the final rows of one stage (columns `model, case, subject, region, image, target, y_pred`). If the
    readers scored cases instead of single images, the predictions of a case's images are averaged.
    """
    readers = check_readers(readers)
    by_learner: dict[str, dict[str, dict[str, Figures]]] = {str(model): {} for model in rows["model"].unique()}
    sample = ["target", "case", "region", "image"]
    if not readers["image"].any():
        rows = rows.assign(image="").groupby(["model", *sample], sort=False)["y_pred"].mean().reset_index()
    wide = rows.pivot(index=sample, columns="model", values="y_pred")
    joined = readers.join(wide, on=sample, how="inner")
    for key, key_rows in by_key(joined):
        for reader, scored in key_rows.groupby("reader", sort=False):
            by_model = by_subject(
                scored["value"].to_numpy(dtype=float),
                {model: scored[model].to_numpy(dtype=float) for model in by_learner},
                scored["subject"].to_numpy(),
                plan,
                cases=scored["case"].to_numpy(),
            )
            for model, figures in by_model.items():
                by_learner[model].setdefault(key, {})[str(reader)] = figures
    return by_learner


def by_key(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each target key: the target over all its regions, then `target[region]` for each.

    >>> rows = pd.DataFrame({"target": ["pasi", "area", "area"], "region": ["", "trunk", "upper"]})
    >>> [key for key, _ in by_key(rows)]
    ['pasi', 'area', 'area[trunk]', 'area[upper]']
    """
    keyed = []
    for target, target_rows in rows.groupby("target", sort=False):
        keyed.append((str(target), target_rows))
        regional = target_rows[target_rows["region"] != ""]
        keyed += [
            (f"{target}[{region}]", region_rows) for region, region_rows in regional.groupby("region", sort=False)
        ]
    return keyed
