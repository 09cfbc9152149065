"""Maps of all out-of-fold cases measured against the lesions' masks, and checked by randomising and deleting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.errors import RunError
from casewise.evaluation.bootstrap import Plan
from casewise.explain.aggregate import stronger, summary
from casewise.explain.case_selection import CasePrediction, about, said_of
from casewise.explain.deletion_curve import curves_of, deleted, panels_of
from casewise.explain.finished_run import FinishedRun
from casewise.explain.masks import check_lesions, lesion_of
from casewise.explain.methods.dispatch import explain
from casewise.explain.methods.randomise import randomised, resemblances
from casewise.explain.metrics import FIGURES, measured
from casewise.explain.saliency import LEAST_CONTRAST, LoadedModel, check_same, looks, places_of, rebuilt

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from casewise.explain.methods.target import ExplainTarget
    from casewise.models.backbones import Network

# Of each network: cases whose maps are compared with those of ever more random weights, and cases that are deleted.
COMPARED, DELETED = 4, 12
# How often all weights of a fold's network are drawn anew; seldomer where there are so many maps.
DRAWS, FEWER, MANY = 10, 5, 200


@dataclass(frozen=True, eq=False)
class Marked:
    """A case of a fold with a lesion on the slices looked at.

    Its panel row, what a network said of it, the mask on its slices, the slices in the places of each view (V, K).
    """

    row: int
    case: str
    subject: str
    said: CasePrediction
    mask: np.ndarray
    slots: np.ndarray


def measure(
    run: FinishedRun, models: Sequence[str], *, cells: int, tell: Callable[[int, int, str], None]
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Every figure with its interval, for `explanations.json`; and a row a case and network.

    Raises:
        CasewiseError: the study names no masks, they cannot be read, or none shows a lesion.
    """
    import pandas as pd

    column = check_lesions(run)
    plan = Plan(run.study.evaluation.bootstrap_resamples, run.study.evaluation.confidence, run.study.seed)
    sides = [run.splits.side.get(str(subject), -1) for subject in run.cohort.panels["subject"]]
    unseen = [row for row, side in enumerate(sides) if side >= 0]
    lesions = {row: lesion_of(run, row) for row in unseen}
    lost = sorted(str(run.cohort.panels["case"].iloc[row]) for row, lesion in lesions.items() if lesion.lost)
    masks = {row: lesion.mask for row, lesion in lesions.items() if lesion.mask.any()}
    if not masks:
        raise RunError(f"--measure: no mask in the column {column!r} shows a lesion on the slices of any case.")
    total, tables = len(models) * run.splits.folds, []
    told: dict[str, dict[str, Any]] = {}
    shown: set[int] = set()
    for number, model in enumerate(models):
        rows: list[dict[str, Any]] = []
        random: list[np.ndarray] = []
        sanity: dict[str, Any] = {}
        curves: list[dict[str, Any]] = []
        size, method = (0, 0), ""
        for fold in range(run.splits.folds):
            tell(number * run.splits.folds + fold, total, f"{model}, fold {fold + 1}")
            one = rebuilt(run, model, fold)
            marked, method = marked_in(run, one, masks), one.method
            shown |= {case.row for case in marked}
            if not marked:
                continue
            check_same(run, one, [case.row for case in marked])
            own, size = _rows(run, one, marked, cells)
            rows += own
            drawn = DRAWS if len(masks) * max(len(case.slots) for case in marked) <= MANY else FEWER
            random.append(np.stack([_random(run, one, marked, cells, draw) for draw in range(drawn)], axis=1))
            sanity = sanity or _sanity(run, one, marked[:COMPARED], cells)
            curves += curves_of(run, one, _some(marked, -(-DELETED // run.splits.folds), run.study.seed), cells)
        if not rows:
            told[model] = {"method": method, "all": None, "correct": None, "erroneous": None}
            continue
        table = pd.DataFrame(rows).assign(network=model)
        told[model] = {
            "method": method,
            "cells": list(size),
            **_summaries(table, random, plan),
            "sanity": sanity,
            "deletion": deleted(curves, plan),
        }
        tables.append(table)
    tell(total, total, "")
    if not tables:
        raise RunError(
            f"--measure: the lesions in the column {column!r} all lie outside the slices that the networks looked at "
            "out of fold."
        )
    found = {
        "column": column,
        "cases": len(unseen),
        "with_lesion": len(shown),
        "outside_window": len(set(masks) - shown),
        "lost_masks": lost,
        "cells": cells,
        "networks": told,
    }
    return found, pd.concat(tables, ignore_index=True)


def marked_in(run: FinishedRun, one: LoadedModel, masks: Mapping[int, np.ndarray]) -> list[Marked]:
    """The cases of a network's fold that have a lesion on the slices it looked at, and were predicted."""
    panels, sides = run.cohort.panels, run.splits.side
    mine = [row for row in masks if sides.get(str(panels["subject"].iloc[row])) == one.fold]
    found = []
    for row, slots in zip(mine, places_of(one, mine) if mine else [], strict=True):
        if masks[row][np.unique(slots)].any() and (said := said_of(run, one.model, row)) is not None:
            case, subject = str(panels["case"].iloc[row]), str(panels["subject"].iloc[row])
            found.append(Marked(row, case, subject, said, masks[row], slots))
    return found


def _some(marked: Sequence[Marked], most: int, seed: int) -> list[Marked]:
    """At most so many cases, drawn at random."""
    drawn = np.random.default_rng(seed).permutation(len(marked))[:most]
    return [marked[n] for n in sorted(drawn)]


def _rows(
    run: FinishedRun, one: LoadedModel, marked: Sequence[Marked], cells: int
) -> tuple[list[dict[str, Any]], tuple[int, int]]:
    """The figures of each case, the mean over views that show the lesion, in the order of `marked`; cells a side."""
    grid = (run.study.panels.rows, run.study.panels.columns)
    found: dict[int, dict[str, Any]] = {}
    size = (0, 0)
    for group in _by_class(marked):
        seen = looks(one, [case.row for case in group], about(run, group[0].said), cells=cells)
        for case, look in zip(group, seen, strict=True):
            size = look.cells
            each = [
                measured(values, case.mask, slots, grid=grid, peaks=look.peaks)
                for values, slots in zip(look.plain, case.slots, strict=True)
            ]
            shown = [figures for figures in each if figures["mask_share"] == figures["mask_share"]]
            empty, contrast = not bool(look.plain.max() > 0), float(look.contrast.mean())
            found[case.row] = {
                "case": case.case,
                "subject": case.subject,
                "fold": one.fold + 1,
                "right": case.said.right,
                "empty": empty,
                "flat": not empty and contrast < LEAST_CONTRAST,
                "contrast": contrast,
                **{name: float(np.mean([figures[name] for figures in shown])) for name in FIGURES},
            }
    return [found[case.row] for case in marked], size


def _random(run: FinishedRun, one: LoadedModel, marked: Sequence[Marked], cells: int, draw: int) -> np.ndarray:
    """Of each case hit, near, share inside and whether the map is empty with all weights drawn anew, (N, 4).

    Every fold and draw has a seed of its own.
    """
    seed = (run.study.seed * 1000 + one.fold) * 100 + draw
    (_, network), *_ = randomised(one.network, how="all", seed=seed)
    rows, _ = _rows(run, replace(one, predictor=replace(one.predictor, network=network)), marked, cells)
    return np.array([[row["hit"], row["near"], row["share_inside"], float(row["empty"])] for row in rows])


def _summaries(table: pd.DataFrame, random: Sequence[np.ndarray], plan: Plan) -> dict[str, Any]:
    """The figures over all cases, those named correctly and those named erroneously; and what is told of the maps."""
    drawn = np.concatenate(random)
    prior = stronger(table)
    found: dict[str, Any] = {}
    for name, rows in (("all", None), ("correct", True), ("erroneous", False)):
        # nothing is right or wrong of numbers
        mine = np.array([rows is None or right is rows for right in table["right"]])
        own = summary(table[mine], drawn[mine, :, :-1], prior=prior, plan=plan)
        found[name] = {key: figure.as_json() for key, figure in own.items()} or None
    return {
        **found,
        "prior": prior,
        "draws": drawn.shape[1],
        "empty_maps": int(table["empty"].sum()),
        "flat_maps": int(table["flat"].sum()),
        "random_weights_maps": int(drawn.shape[0] * drawn.shape[1]),
        "random_weights_empty": int(drawn[:, :, -1].sum()),
    }


def _by_class(marked: Iterable[Marked]) -> list[list[Marked]]:
    """The cases by the class that the network named: they are asked about together."""
    groups: dict[int | None, list[Marked]] = {}
    for case in marked:
        groups.setdefault(case.said.of, []).append(case)
    return list(groups.values())


def _sanity(run: FinishedRun, one: LoadedModel, marked: Sequence[Marked], cells: int) -> dict[str, Any]:
    """How much maps resemble those of the same network with more and more of its weights drawn anew."""
    total: dict[str, list[tuple[int, float | None, float, int]]] = {}
    for group in _by_class(marked):
        maps = partial(_maps, asked=about(run, group[0].said), cells=cells)
        for step in resemblances(one.network, panels_of(one, [case.row for case in group]), maps, seed=run.study.seed):
            total.setdefault(step.down_to, []).append((step.parts, step.spearman, step.ssim, len(group)))
    steps = []
    for name, each in total.items():
        known = [(rank, count) for _, rank, _, count in each if rank is not None]
        steps.append(
            {
                "down_to": name,
                "parts": each[0][0],
                "spearman": sum(rank * n for rank, n in known) / sum(n for _, n in known) if known else None,
                "ssim": float(np.average([s for _, _, s, _ in each], weights=[n for *_, n in each])),
            }
        )
    return {"cases": len(marked), "fold": one.fold + 1, "steps": steps}


def _maps(network: Network, panels: Tensor, *, asked: ExplainTarget, cells: int) -> Tensor:
    return explain(network, panels, output=asked, cells=cells)
