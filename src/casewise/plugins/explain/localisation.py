"""Localisation: maps of all out-of-fold cases against masks, with randomisation and deletion as checks.

Means of the measures have intervals by subject and differences to random weights, chance and priors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from casewise.errors import RunError
from casewise.evaluation.bootstrap import PLAN, Estimate, Plan, draw, estimates, sum_by_subject, with_intervals
from casewise.evaluation.intervals import FEWEST
from casewise.modalities.base import CaseMask
from casewise.modalities.mask_labels import check_wanted
from casewise.models.outputs import value_columns, values_of
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.explain.case_selection import MaskedCase, mask_to_measure, predicted_target, prediction_of
from casewise.plugins.explain.methods.randomise import fully_randomised, similarities
from casewise.plugins.explain.metrics import MEASURES, centre_prior, delete_pixels, measure_map, random_map
from casewise.plugins.explain.placement import out_of_fold_rows
from casewise.plugins.explain.results import Record
from casewise.plugins.explain.saliency import LoadedModel, check_reproduces, load_model, maps_by_row
from casewise.study.learners import name_of_fold

PRIORS = ("tile_centre", "panel_centre")
RANDOM = ("random_weights_hit", "random_weights_share")
# Paired differences: the first minus the second.
DIFFERENCES = {
    "hit_over_random_weights": ("hit", "random_weights_hit"),
    "hit_over_prior": ("hit", "prior_hit"),
    "hit_over_chance": ("hit", "chance_hit"),
    "share_over_random_weights": ("share_inside", "random_weights_share"),
    "share_over_prior": ("share_inside", "prior_share"),
}
HITS = ("hit", "random_weights_hit", "prior_hit", "chance_hit", "tile_centre_hit", "panel_centre_hit")


def stronger_prior(table: pd.DataFrame) -> dict[str, str]:
    """The centre prior with the larger mean over all cases, by `hit` and by `share`: the reference for a network.

    >>> import pandas as pd
    >>> stronger_prior(pd.DataFrame({"tile_centre_hit": [0.1], "panel_centre_hit": [0.4], "tile_centre_share": [0.2],
    ...     "panel_centre_share": [0.1]}))
    {'hit': 'panel_centre', 'share': 'tile_centre'}
    """
    return {name: max(PRIORS, key=lambda prior: float(table[f"{prior}_{name}"].mean())) for name in ("hit", "share")}


def summary(
    table: pd.DataFrame, random_weights: np.ndarray, *, prior: Mapping[str, str], plan: Plan = PLAN
) -> dict[str, Estimate]:
    """The mean over panels of every measure and of every paired difference, with intervals by subject.

    Resamples draw subjects and, within each fold, networks with random weights. If all cases hit or none does,
    resamples do not vary, and the interval is Clopper and Pearson's (1934) over subjects.

    Args:
        table: one row per panel with `subject`, `fold` and the `MEASURES`; rows with NaN are left out.
        random_weights: (N, D, 2), the measures of `RANDOM` of each row for D networks with random weights.
        prior: the entry of `PRIORS` that `prior_hit` and `prior_share` refer to, by `hit` and `share`.
    """
    defined = table["mask_share"].notna().to_numpy()
    table, random_weights = table[defined], random_weights[defined]
    if table.empty:
        return {}
    values_by_measure = {name: table[name].to_numpy(dtype=float) for name in MEASURES}
    values_by_measure |= {
        f"prior_{name}": table[f"{prior[name]}_{name}"].to_numpy(dtype=float) for name in ("hit", "share")
    }
    subjects = table["subject"].astype(str).to_numpy()
    sums = sum_by_subject(np.column_stack([np.ones(len(table)), *values_by_measure.values()]), subjects)
    counts = draw(len(sums), plan)
    totals = counts @ sums
    samples = {name: totals[:, n + 1] / totals[:, 0] for n, name in enumerate(values_by_measure)}
    points = {name: float(values.mean()) for name, values in values_by_measure.items()}
    folds = sum_by_subject(table["fold"].to_numpy(dtype=float), subjects) / sums[:, 0]
    weights = _network_weights(folds, random_weights.shape[1], plan)
    for position, name in enumerate(RANDOM):
        values = random_weights[:, :, position]
        by_subject = sum_by_subject(values, subjects)
        resampled = sum(
            ((counts[:, folds == fold] @ by_subject[folds == fold]) * shares).sum(axis=1)
            for fold, shares in weights.items()
        )
        samples[name], points[name] = resampled / totals[:, 0], float(values.mean())
        values_by_measure[name] = values.mean(axis=1)
    for name, (first, second) in DIFFERENCES.items():
        samples[name], points[name] = samples[first] - samples[second], points[first] - points[second]
    estimates = with_intervals(
        {name: np.array([value]) for name, value in points.items()},
        {name: values[:, None] for name, values in samples.items()},
        lambda name, learner: "no case has a mask",
        plan,
        n_subjects=len(sums),
        n_cases=len(table),
    )[0]
    return _exact_intervals(estimates, values_by_measure, plan)


def _network_weights(folds: np.ndarray, draws: int, plan: Plan) -> dict[float, np.ndarray]:
    """The share of each random network of a fold in each resample: (resamples, draws)."""
    rng = np.random.default_rng([plan.seed, draws])
    even = np.full(draws, 1 / draws)
    return {float(f): rng.multinomial(draws, even, size=plan.resamples) / draws for f in np.unique(folds)}


def _exact_intervals(
    estimates: dict[str, Estimate], values_by_measure: Mapping[str, np.ndarray], plan: Plan
) -> dict[str, Estimate]:
    """Exact intervals where all or no cases hit, which resampling cannot give, and for differences of such rates."""
    tail = (1 - plan.confidence) / 2
    exact = set()
    for name in HITS:
        estimate = estimates[name]
        if (count := estimate.n_subjects or 0) < FEWEST:
            continue
        bound = tail ** (1 / count)
        if bool((values_by_measure[name] == 0).all()):
            estimates[name] = replace(estimate, low=0.0, high=1 - bound, reason=None)
        elif bool((values_by_measure[name] == 1).all()):
            estimates[name] = replace(estimate, low=bound, high=1.0, reason=None)
        else:
            continue
        exact.add(name)
    for name, pair in DIFFERENCES.items():
        first, second = (estimates[rate] for rate in pair)
        if exact & set(pair) and None not in (first.low, first.high, second.low, second.high):
            low, high = first.low - second.high, first.high - second.low  # type: ignore[operator]
            estimates[name] = replace(estimates[name], low=low, high=high, reason=None)
    return estimates


# Cases of each network for the randomisation check, and for deletion.
RANDOMISED_CASES, DELETED_CASES = 4, 12
# Networks with random weights per fold, and fewer of them where there are many maps.
DRAWS, FEWER_DRAWS, MANY_MAPS = 10, 5, 200
STEPS = 20
# Deletion by the network's map, by noise, by the distance to the centre of each slice, by brightness.
ORDERS = ("map", "random", "centre", "brightness")


@dataclass
class _Measurements:
    """Values collected over the folds of one network."""

    rows: list[Record]
    random_weights: list[np.ndarray]
    sanity: Record
    deletion: list[Record]
    map_size: tuple[int, int] = (0, 0)
    method: str = ""


def measure(
    run: FinishedRun, models: Sequence[str], *, map_size: int, progress: Callable[[int, int, str], None]
) -> tuple[Record, pd.DataFrame]:
    """Measure the maps of all out-of-fold cases.

    Returns:
        Every measure with its interval, for `explanations.json`; and a table with one row per case and network.

    Raises:
        CasewiseError: the study names no masks, they cannot be read, or none marks anything.
    """
    meaning, column = mask_to_measure(run)
    plan = Plan(run.study.evaluation.bootstrap_resamples, run.study.evaluation.confidence, run.study.seed)
    out_of_fold = out_of_fold_rows(run)
    case_masks = {row: run.modality.mask(run.prepared, row, meaning) for row in out_of_fold}
    lost_cases = sorted(str(run.cohort.panels["case"].iloc[row]) for row, mask in case_masks.items() if mask.lost)
    masks = {row: mask for row, mask in case_masks.items() if mask.planes.any()}
    labels = frozenset[int]().union(*(mask.labels for mask in case_masks.values()))
    check_wanted(run.study.images.labels_in(column), labels, f"the masks of column {column!r}")
    if not masks:
        raise RunError(f"--measure: no mask in the column {column!r} marks anything on the images of any case.")
    total, tables = len(models) * run.splits.folds, []
    networks: dict[str, Record] = {}
    visible: set[int] = set()
    for number, model in enumerate(models):
        collected = _Measurements([], [], {}, [])
        for fold in range(run.splits.folds):
            progress(number * run.splits.folds + fold, total, name_of_fold(model, fold, alone=run.splits.holdout))
            visible |= _measure_fold(run, load_model(run, model, fold, map_size=map_size), masks, collected)
        if not collected.rows:
            networks[model] = {"method": collected.method, "all": None, "correct": None, "erroneous": None}
            continue
        table = pd.DataFrame(collected.rows).assign(network=model)
        networks[model] = {
            "method": collected.method,
            "cells": list(collected.map_size),
            **_summaries(table, np.concatenate(collected.random_weights), plan),
            "sanity": collected.sanity,
            "deletion": _summarise_deletion(collected.deletion, plan),
        }
        tables.append(table)
    progress(total, total, "")
    if not tables:
        raise RunError(
            f"--measure: all masks in the column {column!r} lie outside the images that the networks saw out of fold."
        )
    results = {
        "meaning": meaning,
        "column": column,
        "cases": len(out_of_fold),
        "with_mask": len(visible),
        "outside_window": len(set(masks) - visible),
        "lost_masks": lost_cases,
        "cells": map_size,
        "networks": networks,
    }
    return results, pd.concat(tables, ignore_index=True)


def _measure_fold(
    run: FinishedRun, model: LoadedModel, masks: Mapping[int, CaseMask], collected: _Measurements
) -> set[int]:
    """Add the measurements of one fold's network; returns the panel rows with a visible mask."""
    cases = _masked_cases(run, model, masks)
    collected.method = model.method
    if cases:
        check_reproduces(run, model, [case.row for case in cases])
        rows, collected.map_size = _measure_cases(run, model, cases)
        collected.rows += rows
        draws = DRAWS if len(masks) * max(len(case.slots) for case in cases) <= MANY_MAPS else FEWER_DRAWS
        random = [_with_random_weights(run, model, cases, draw) for draw in range(draws)]
        collected.random_weights.append(np.stack(random, axis=1))
        collected.sanity = collected.sanity or _sanity_check(run, model, cases[:RANDOMISED_CASES])
        deleted = _sample(cases, -(-DELETED_CASES // run.splits.folds), run.study.seed)
        collected.deletion += _deletion_areas(run, model, deleted)
    return {case.row for case in cases}


def _masked_cases(run: FinishedRun, model: LoadedModel, masks: Mapping[int, CaseMask]) -> list[MaskedCase]:
    """The predicted cases of a network's fold with a mask on the images or slices that it sees."""
    panels, sides = run.cohort.panels, run.splits.side
    rows = [row for row in masks if sides.get(str(panels["subject"].iloc[row])) == model.fold]
    cases = []
    for row, slots in zip(rows, model.slots(rows) if rows else [], strict=True):
        prediction, planes = prediction_of(run, model.model, row), masks[row].planes
        positions = masks[row].positions(slots)
        if planes[positions[positions >= 0]].any() and prediction is not None:
            case, subject = str(panels["case"].iloc[row]), str(panels["subject"].iloc[row])
            cases.append(MaskedCase(row, case, subject, prediction, planes, positions))
    return cases


def _sample(cases: Sequence[MaskedCase], count: int, seed: int) -> list[MaskedCase]:
    """At most `count` random cases, in their order."""
    selected = np.random.default_rng(seed).permutation(len(cases))[:count]
    return [cases[n] for n in sorted(selected)]


def _measure_cases(
    run: FinishedRun, model: LoadedModel, cases: Sequence[MaskedCase]
) -> tuple[list[Record], tuple[int, int]]:
    """The measures of each case, the mean over views that show the mask, in order; and the size of a map."""
    maps = maps_by_row(model, {case.row: predicted_target(run, case.prediction) for case in cases})
    measures = []
    for case in cases:
        saliency = maps[case.row]
        views = [
            measure_map(values, case.mask, slots, grid=saliency.grid, peaks=saliency.peaks)
            for values, slots in zip(saliency.raw, case.slots, strict=True)
        ]
        visible = [view for view in views if not np.isnan(view["mask_share"])]
        measures.append(
            {
                "case": case.case,
                "subject": case.subject,
                "fold": model.fold + 1,
                "correct": case.prediction.correct,
                "empty": saliency.empty,
                "flat": not saliency.empty and saliency.flat,
                "contrast": float(saliency.contrast.mean()),
                **{name: float(np.mean([view[name] for view in visible])) for name in MEASURES},
            }
        )
    return measures, saliency.map_size


def _with_random_weights(run: FinishedRun, model: LoadedModel, cases: Sequence[MaskedCase], draw: int) -> np.ndarray:
    """Hit, share inside and whether the map is empty, for each case with random weights, (N, 3).

    Every fold and draw has its own seed.
    """
    seed = (run.study.seed * 1000 + model.fold) * 100 + draw
    network = fully_randomised(model.network, seed=seed)
    rows, _ = _measure_cases(run, replace(model, predictor=replace(model.predictor, network=network)), cases)
    return np.array([[row["hit"], row["share_inside"], float(row["empty"])] for row in rows])


def _summaries(table: pd.DataFrame, random_weights: np.ndarray, plan: Plan) -> Record:
    """The measures over all, correctly predicted and erroneously predicted cases, and counts of uninformative maps."""
    prior = stronger_prior(table)
    groups: Record = {}
    for name, correct in (("all", None), ("correct", True), ("erroneous", False)):
        # predictions of numbers are neither correct nor erroneous
        member = np.array([correct is None or value is correct for value in table["correct"]])
        estimates = summary(table[member], random_weights[member, :, :-1], prior=prior, plan=plan)
        groups[name] = {key: dict(estimate) for key, estimate in estimates.items()} or None
    return {
        **groups,
        "prior": prior,
        "draws": random_weights.shape[1],
        "empty_maps": int(table["empty"].sum()),
        "flat_maps": int(table["flat"].sum()),
        "random_weights_maps": int(random_weights.shape[0] * random_weights.shape[1]),
        "random_weights_empty": int(random_weights[:, :, -1].sum()),
    }


def _sanity_check(run: FinishedRun, model: LoadedModel, cases: Sequence[MaskedCase]) -> Record:
    """The similarity of maps to the maps of the same network with more and more randomised layers."""
    by_step: dict[str, list[tuple[int, float | None, float, int]]] = {}
    groups: dict[int | None, list[MaskedCase]] = {}
    for case in cases:
        groups.setdefault(case.prediction.class_index, []).append(case)
    for group in groups.values():
        panels = model.first_panels([case.row for case in group])
        target = predicted_target(run, group[0].prediction)
        maps_of = partial(model.saliency_method(panels).explain, target=target)
        for step in similarities(model.network, panels, maps_of, seed=run.study.seed):
            by_step.setdefault(step.down_to, []).append((step.groups, step.spearman, step.ssim, len(group)))
    steps = []
    for name, entries in by_step.items():
        ranks = [(rank, count) for _, rank, _, count in entries if rank is not None]
        steps.append(
            {
                "down_to": name,
                "groups": entries[0][0],
                "spearman": sum(rank * n for rank, n in ranks) / sum(n for _, n in ranks) if ranks else None,
                "ssim": float(np.average([ssim for _, _, ssim, _ in entries], weights=[n for *_, n in entries])),
            }
        )
    return {"cases": len(cases), "fold": model.fold + 1, "steps": steps}


def _deletion_areas(run: FinishedRun, model: LoadedModel, cases: Sequence[MaskedCase]) -> list[Record]:
    """For each case and order the area under the curve of the predicted class's probability, or of the number."""
    results, shares = [], np.linspace(0, 1, STEPS + 1)
    for case in cases:
        target = predicted_target(run, case.prediction)
        columns = value_columns(target.outputs)[[output.name for output in target.outputs].index(target.target)]
        column = columns.start + (target.class_index or 0)
        panels = model.first_panels([case.row])
        values = model.saliency_method(panels).explain(model.network, panels, target)[0].numpy()
        shape = (values.shape[0], values.shape[1])
        seed = np.random.SeedSequence([run.study.seed, *case.case.encode()]).generate_state(1)[0]
        panel, settings = panels[0].numpy(), model.panels.settings
        orders = {
            "map": values,
            "random": random_map(shape, seed=int(seed)),
            "centre": centre_prior(shape, grid=(settings.rows, settings.columns)),
            "brightness": panel[~np.isnan(panel).all(axis=(1, 2))].mean(axis=0),
        }

        def predict(inputs: np.ndarray, column: int = column, outputs: Any = target.outputs) -> np.ndarray:
            with torch.inference_mode():
                raw = model.network(torch.from_numpy(np.ascontiguousarray(inputs)))
            return values_of(raw.float(), outputs)[:, column].numpy()

        areas = {
            name: float(np.trapezoid(delete_pixels(panel, order, predict, steps=STEPS, seed=run.study.seed), shares))
            for name, order in orders.items()
        }
        results.append({"subject": case.subject, **areas})
    return results


def _summarise_deletion(areas_by_case: Sequence[Mapping[str, Any]], plan: Plan) -> Record | None:
    """The mean areas under the curves, and their differences to the map's."""
    if not areas_by_case:
        return None
    terms = np.array([[1.0, *(case[name] for name in ORDERS)] for case in areas_by_case])
    sums = sum_by_subject(terms, np.array([case["subject"] for case in areas_by_case]))[:, None, :]

    def means(totals: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):
            mean = totals[..., 1:] / totals[..., :1]
        areas = {name: mean[..., n] for n, name in enumerate(ORDERS)}
        return areas | {f"over_{name}": areas["map"] - areas[name] for name in ORDERS[1:]}

    areas = estimates(sums, means, lambda name, whole: "no case", plan, n_cases=len(areas_by_case))[0]
    return {**{name: dict(estimate) for name, estimate in areas.items()}, "cases": len(areas_by_case)}
