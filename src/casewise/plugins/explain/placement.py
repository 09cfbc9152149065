"""Where maps lie: the share at the border of the image, and inside masks, on a random sample of out-of-fold images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from casewise.evaluation.bootstrap import Plan, estimates, sum_by_subject
from casewise.modalities.base import CaseMask
from casewise.modalities.mask_labels import check_wanted
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.explain.case_selection import predicted_target, prediction_of
from casewise.plugins.explain.methods.target import ExplainTarget
from casewise.plugins.explain.metrics import by_slice, share_inside
from casewise.plugins.explain.results import Record
from casewise.plugins.explain.saliency import SaliencyMap, check_reproduces, load_model, maps_by_row
from casewise.study.learners import name_of_fold

# The number of images of each sample.
SAMPLE = 60
# The width of the border as a share of each side of the image: the audit examines the same border.
BORDER = 1 / 8


def border(shape: tuple[int, int]) -> np.ndarray:
    """The pixels (H, W) whose centre lies within an eighth of the width or the height from an edge.

    In an image whose sides are multiples of eight this is 1 − (6/8)² = 43.75 % of the area.

    >>> border((8, 8)).mean(), border((16, 8))[:, 3].sum()
    (np.float64(0.4375), np.int64(4))
    """
    rows, columns = ((np.abs((np.arange(side) + 0.5) / side - 0.5) > 0.5 - BORDER) for side in shape)
    return rows[:, None] | columns[None]


def placement(
    run: FinishedRun, models: Sequence[str], *, map_size: int, progress: Callable[[int, int, str], None]
) -> Record:
    """The share of each network's maps in each region, with the region's share of the area, with intervals.

    Regions are the border (see `border`) of each image as the network sees it, with its padding, and each kind of mask
    that the study names. Every region has a random sample of its own, without regard to predictions: of all
    out-of-fold images, or of those with a mask. Explained is the predicted class.

    Returns:
        `regions`: by name the column, and the number of panels of the sample; `networks`: by name and region the mean
        share of the map, the mean share of the area, and their paired difference; for a U-Net with its own map, the
        mean Dice of this map and the masks, and the mean Dice of a map that marks everything.
    """
    rows_by_region, masks = _samples(run)
    plan = Plan(run.study.evaluation.bootstrap_resamples, run.study.evaluation.confidence, run.study.seed)
    rows = sorted(set().union(*rows_by_region.values()))
    networks: dict[str, Record] = {}
    folds = run.splits.folds
    for number, model in enumerate(models):
        maps: dict[int, SaliencyMap] = {}
        for fold in range(folds):
            progress(number * folds + fold, len(models) * folds, name_of_fold(model, fold, alone=run.splits.holdout))
            if targets := _targets(run, model, fold, rows):
                loaded = load_model(run, model, fold, map_size=map_size)
                check_reproduces(run, loaded, list(targets))
                maps |= maps_by_row(loaded, targets)
        own = {row: saliency for row, saliency in maps.items() if saliency.own is not None}
        networks[model] = {}
        for region, region_rows in rows_by_region.items():
            of_region = masks.get(region, {})
            if figures := _figures(run, maps, region_rows, of_region, SHARES, plan):
                networks[model][region] = figures
            if of_region and (figures := _figures(run, own, region_rows, of_region, DICE, plan)):
                networks[model][region] |= {"own": figures}
    progress(len(models) * folds, len(models) * folds, "")
    columns = run.modality.mask_columns(run.study)
    regions = {
        region: {"column": columns.get(region), "sample": len(sample)}  # type: ignore[call-overload]
        for region, sample in rows_by_region.items()
    }
    return {"regions": regions, "networks": networks}


def out_of_fold_rows(run: FinishedRun) -> list[int]:
    """The panel rows of the subjects who are in a fold."""
    sides = [run.splits.side.get(str(subject), -1) for subject in run.cohort.panels["subject"]]
    return [row for row, side in enumerate(sides) if side >= 0]


def _samples(run: FinishedRun) -> tuple[dict[str, list[int]], dict[str, dict[int, CaseMask]]]:
    """The panel rows of the sample of each region, and the masks of these rows."""
    rows = _random_order(run, out_of_fold_rows(run))
    samples = {"border": rows[:SAMPLE]}
    masks: dict[str, dict[int, CaseMask]] = {}
    for meaning, column in run.modality.mask_columns(run.study).items():
        if column not in run.cohort.images:
            continue
        masked: dict[int, CaseMask] = {}
        labels: set[int] = set()
        for row in rows:
            # masks of scans take long to read, so not all of them are
            if len(masked) == SAMPLE:
                break
            mask = run.modality.mask(run.prepared, row, meaning)
            labels |= mask.labels
            if mask.planes.any():
                masked[row] = mask
        if not masked:
            check_wanted(run.study.images.labels_in(column), labels, f"the masks of column {column!r}")
        masks[meaning], samples[meaning] = masked, list(masked)
    return samples, masks


def _random_order(run: FinishedRun, rows: Sequence[int]) -> list[int]:
    """Panel rows in random order, first one of each subject, then a second one of each, and so on."""
    drawn = np.random.default_rng(run.study.seed).permutation(np.asarray(rows, dtype=int))
    subjects = run.cohort.panels["subject"].iloc[drawn].astype(str)
    turn = subjects.groupby(subjects.to_numpy(), sort=False).cumcount().to_numpy()
    return [int(row) for row in drawn[np.argsort(turn, kind="stable")]]


def _targets(run: FinishedRun, model: str, fold: int, rows: Sequence[int]) -> dict[int, ExplainTarget]:
    """The rows that the network of a fold predicted out of fold, with the predicted class."""
    predictions = {row: prediction_of(run, model, row) for row in rows}
    return {row: predicted_target(run, p) for row, p in predictions.items() if p is not None and p.fold == fold}


def _figures(
    run: FinishedRun,
    maps: dict[int, SaliencyMap],
    rows: Sequence[int],
    masks: Mapping[int, CaseMask],
    measures: Measures,
    plan: Plan,
) -> Record | None:
    """The means of two measures of one network and region, and their difference; None if no map shows the region."""
    terms, subjects, empty = [], [], 0
    for row in rows:
        if row not in maps:
            continue
        pairs = [measures.of(maps[row], view, masks.get(row)) for view in range(len(maps[row].raw))]
        visible = np.array([pair for pair in pairs if pair is not None])
        if len(visible):
            terms.append([1.0, *visible.mean(axis=0)])
            subjects.append(str(run.cohort.panels["subject"].iloc[row]))
            empty += maps[row].empty
    if not terms:
        return None
    sums = sum_by_subject(np.array(terms), np.array(subjects))[:, None, :]

    def means(totals: np.ndarray) -> dict[str, np.ndarray]:
        first, second = totals[..., 1] / totals[..., 0], totals[..., 2] / totals[..., 0]
        return {measures.first: first, measures.second: second, "difference": first - second}

    figures = estimates(sums, means, lambda name, whole: "no map", plan, n_cases=len(terms))[0]
    return {**{name: dict(estimate) for name, estimate in figures.items()}, "empty_maps": empty}


def shares_of(saliency: SaliencyMap, view: int, mask: CaseMask | None) -> tuple[float, float] | None:
    """The share of a map and of the area inside a mask, or at the border of each image; None if it shows no mask."""
    slots = saliency.slots[view] if mask is None else mask.positions(saliency.slots[view])
    slot_maps, planes = by_slice(saliency.raw[view], slots, grid=saliency.grid)
    inside = np.broadcast_to(border(slot_maps.shape[1:]), slot_maps.shape) if mask is None else mask.planes[planes]
    return (share_inside(slot_maps, inside), float(inside.mean())) if inside.any() else None


def dice_of(saliency: SaliencyMap, view: int, mask: CaseMask | None) -> tuple[float, float] | None:
    """The Dice, without padding, of a U-Net's own map (from 0.5 on) and of everything; None if it shows no mask."""
    assert saliency.own is not None
    assert mask is not None
    own, planes = by_slice(saliency.own[view], mask.positions(saliency.slots[view]), grid=saliency.grid)
    compared = ~np.isnan(own) & (True if mask.content is None else mask.content[planes])
    marked, inside = own[compared] >= 0.5, mask.planes[planes][compared]
    if not (total := inside.sum()):
        return None
    return float(2 * (marked & inside).sum() / (marked.sum() + total)), float(2 * total / (inside.size + total))


@dataclass(frozen=True)
class Measures:
    """Two measures, by name, that are compared; `of` computes both for a view of a map and its mask, if any."""

    first: str
    second: str
    of: Callable[[SaliencyMap, int, CaseMask | None], tuple[float, float] | None]


SHARES, DICE = Measures("share", "area", shares_of), Measures("dice", "everything", dice_of)
