"""Maps of all out-of-fold cases measured against the lesions' masks, and checked by randomising and deleting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from casewise.errors import RunError
from casewise.evaluation.bootstrap import Estimate, Plan, estimates, sum_by_subject
from casewise.explain.measuring import FIGURES, Measured, deletion, measured, random_map, summary, table_of
from casewise.explain.methods import explain
from casewise.explain.randomise import randomised, resemblances
from casewise.explaining.chosen import Said, about, said_of
from casewise.explaining.finished import Finished
from casewise.explaining.looking import Rebuilt, check_same, looks, rebuilt
from casewise.explaining.masks import check_lesions, lesion_on_slices, on_panel
from casewise.training.outputs import value_columns, values_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from casewise.explain.asked import Asked
    from casewise.models.backbones import Network

# Of each network: cases whose maps are compared with those of ever more random weights, and cases that are deleted.
COMPARED, DELETED = 4, 12
STEPS = 20


@dataclass(frozen=True, eq=False)
class Marked:
    """A case of a fold with a lesion: its panel row, what a network said of it, and the mask on its slices."""

    row: int
    case: str
    subject: str
    said: Said
    mask: np.ndarray


def measure(
    run: Finished, models: Sequence[str], *, cells: int, tell: Callable[[int, int, str], None]
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Every figure with its interval, for `explanations.json`; and a row a case and network.

    Raises:
        CasewiseError: the study names no masks, they cannot be read, or none shows a lesion.
    """
    import pandas as pd

    column = check_lesions(run)
    plan = Plan(run.study.evaluation.resamples, run.study.evaluation.confidence, run.study.seed)
    masks = {row: lesion_on_slices(run, row) for row in range(len(run.cohort.panels))}
    if not any(mask.any() for mask in masks.values()):
        raise RunError(f"--measure: no mask in the column {column!r} shows a lesion on the slices of any case.")
    total, told, tables = len(models) * run.splits.folds, {}, []
    for number, model in enumerate(models):
        rows: list[dict[str, Any]] = []
        sanity: dict[str, Any] = {}
        curves: list[dict[str, Any]] = []
        for fold in range(run.splits.folds):
            tell(number * run.splits.folds + fold, total, f"{model}, fold {fold + 1}")
            marked = marked_in(run, model, fold, masks)
            if not marked:
                continue
            one = rebuilt(run, model, fold)
            check_same(run, one, [case.row for case in marked])
            rows += [*_rows(run, one, marked, cells), *_rows(run, one, marked, cells, random=True)]
            sanity = sanity or _sanity(run, one, marked[:COMPARED], cells)
            curves += _curves(run, one, marked[: -(-DELETED // run.splits.folds)], cells)
        table = pd.DataFrame(rows)
        told[model] = {
            "method": one.method,
            "all": _summary(table[~table["random"]], plan),
            "correct": _summary(table[~table["random"] & (table["right"] == True)], plan),  # noqa: E712 (may be None)
            "erroneous": _summary(table[~table["random"] & (table["right"] == False)], plan),  # noqa: E712
            "random_weights": _summary(table[table["random"]], plan),
            "sanity": sanity,
            "deletion": _deleted(curves, plan),
        }
        tables.append(table.drop(columns="method").assign(network=model))
    tell(total, total, "")
    sides = [run.splits.side.get(str(subject), -1) for subject in run.cohort.panels["subject"]]
    unseen = [row for row in masks if sides[row] >= 0]
    with_lesion = sum(bool(masks[row].any()) for row in unseen)
    found = {"column": column, "with_lesion": with_lesion, "cases": len(unseen), "cells": cells, "networks": told}
    return found, pd.concat(tables, ignore_index=True)


def marked_in(run: Finished, model: str, fold: int, masks: Mapping[int, np.ndarray]) -> list[Marked]:
    """The cases of a fold that have a lesion on their slices and were predicted."""
    panels, sides = run.cohort.panels, run.splits.side
    found = []
    for row, mask in masks.items():
        subject, case = str(panels["subject"].iloc[row]), str(panels["case"].iloc[row])
        if sides.get(subject) == fold and mask.any() and (said := said_of(run, model, row)) is not None:
            found.append(Marked(row, case, subject, said, mask))
    return found


def _rows(
    run: Finished, one: Rebuilt, marked: Sequence[Marked], cells: int, *, random: bool = False
) -> list[dict[str, Any]]:
    """The figures of each case; with `random` those of the same network with all its weights drawn anew."""
    if random:
        (_, network), *_ = randomised(one.network, how="all", seed=run.study.seed)
        one = replace(one, network=network)
    found = []
    for group in _by_class(marked):
        seen = looks(one, [case.row for case in group], about(run, group[0].said), cells=cells)
        for case, look in zip(group, seen, strict=True):
            each = [_measured(run, one, case, look.maps[view], slots) for view, slots in enumerate(look.slots)]
            shown = [m for m in each if m.mask_share == m.mask_share]
            figures = {name: float(np.mean([getattr(m, name) for m in shown])) if shown else np.nan for name in FIGURES}
            about_it = {"case": case.case, "subject": case.subject, "method": "map", "random": random}
            found.append({**about_it, "right": case.said.right, "fold": one.fold + 1, **figures})
    return found


def _measured(run: Finished, one: Rebuilt, case: Marked, values: np.ndarray, slots: np.ndarray) -> Measured:
    panels = run.study.panels
    mask = on_panel(case.mask, slots, rows=panels.rows, columns=panels.columns)
    return measured(
        case.case, case.subject, "map", values, mask, grid=(panels.rows, panels.columns), seed=run.study.seed
    )


def _by_class(marked: Iterable[Marked]) -> list[list[Marked]]:
    """The cases by the class that the network named: they are asked about together."""
    groups: dict[int | None, list[Marked]] = {}
    for case in marked:
        groups.setdefault(case.said.of, []).append(case)
    return list(groups.values())


def _summary(table: pd.DataFrame, plan: Plan) -> dict[str, Any] | None:
    if table.empty or table["mask_share"].isna().all():
        return None
    names = [field.name for field in fields(Measured)]
    rows = [Measured(**values) for values in table[names].to_dict("records")]
    return _plain(summary(table_of(rows), plan)["map"])


def _plain(found: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.as_json() for name, estimate in found.items()}


def _sanity(run: Finished, one: Rebuilt, marked: Sequence[Marked], cells: int) -> dict[str, Any]:
    """How much maps resemble those of the same network with more and more of its weights drawn anew."""
    total: dict[str, list[tuple[int, float | None, float, int]]] = {}
    for group in _by_class(marked):
        maps = partial(_maps, asked=about(run, group[0].said), cells=cells)
        for step in resemblances(one.network, _panels(one, [case.row for case in group]), maps, seed=run.study.seed):
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


def _maps(network: Network, panels: Tensor, *, asked: Asked, cells: int) -> Tensor:
    return explain(network, panels, output=asked, cells=cells)


def _panels(one: Rebuilt, rows: Sequence[int]) -> Tensor:
    """The first view of each row."""
    data = one.part(np.asarray(rows, dtype=np.intp))
    slots, owner = data.views()
    first = [int((owner == number).nonzero()[0]) for number in range(len(rows))]
    return data.plain_batch(slots[first], torch.device("cpu"))


def _curves(run: Finished, one: Rebuilt, marked: Sequence[Marked], cells: int) -> list[dict[str, Any]]:
    """What the network says of the class it named (or which number) as its map's pixels, or a random map's, go."""
    found = []
    for case in marked:
        asked = about(run, case.said)
        columns = value_columns(asked.outputs)[[output.name for output in asked.outputs].index(asked.target)]
        column = columns.start + (asked.of or 0)
        panels = _panels(one, [case.row])
        values = explain(one.network, panels, output=asked, cells=cells)[0].numpy()
        drawn = np.random.SeedSequence([run.study.seed, *case.case.encode()]).generate_state(1)[0]
        noise = random_map((values.shape[0], values.shape[1]), seed=int(drawn))

        def predicted(given: np.ndarray, column: int = column, asked: Any = asked) -> np.ndarray:
            with torch.inference_mode():
                raw = one.network(torch.from_numpy(np.ascontiguousarray(given)))
            return values_of(raw.float(), asked.outputs)[:, column].numpy()

        both = [
            deletion(panels[0].numpy(), one_map, predicted, steps=STEPS, seed=run.study.seed)
            for one_map in (values, noise)
        ]
        found.append({"subject": case.subject, "map": both[0], "random": both[1]})
    return found


def _deleted(curves: Sequence[dict[str, Any]], plan: Plan) -> dict[str, Any] | None:
    """The mean areas under the curves, their difference, and the mean curves."""
    if not curves:
        return None
    terms = np.array([[1.0, curve["map"].area, curve["random"].area] for curve in curves])
    sums = sum_by_subject(terms, np.array([curve["subject"] for curve in curves]))[:, None, :]

    def means(given: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):
            mean = given[..., 1:] / given[..., :1]
        return {"map": mean[..., 0], "random": mean[..., 1], "difference": mean[..., 0] - mean[..., 1]}

    found = estimates(sums, means, lambda name, whole: "no case", plan, n_cases=len(curves))[0]
    drawn = {name: np.mean([curve[name].values for curve in curves], axis=0).tolist() for name in ("map", "random")}
    return {**_plain(found), "cases": len(curves), "shares": curves[0]["map"].shares.tolist(), "curves": drawn}
