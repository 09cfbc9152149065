"""What networks say as more and more of what a map points at is blackened, beside maps that know nothing of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from casewise.evaluation.bootstrap import Plan, estimates, sum_by_subject
from casewise.explain.case_selection import about
from casewise.explain.methods.dispatch import explain
from casewise.explain.metrics import centre_prior, deletion, random_map
from casewise.models.outputs import value_columns, values_of

if TYPE_CHECKING:
    from torch import Tensor

    from casewise.explain.finished_run import FinishedRun
    from casewise.explain.localisation import Marked
    from casewise.explain.saliency import LoadedModel

STEPS = 20
# By the network's map; by noise, by the middle of each slice, by how bright a pixel is.
ORDERS = ("map", "random", "centre", "brightness")


def curves_of(run: FinishedRun, one: LoadedModel, marked: Sequence[Marked], cells: int) -> list[dict[str, Any]]:
    """For each case a curve for each of `ORDERS`: what the network says of the class it named, or which number."""
    found = []
    for case in marked:
        asked = about(run, case.said)
        columns = value_columns(asked.outputs)[[output.name for output in asked.outputs].index(asked.target)]
        column = columns.start + (asked.of or 0)
        panels = panels_of(one, [case.row])
        values = explain(one.network, panels, output=asked, cells=cells)[0].numpy()
        shape = (values.shape[0], values.shape[1])
        drawn = np.random.SeedSequence([run.study.seed, *case.case.encode()]).generate_state(1)[0]
        panel = panels[0].numpy()
        maps = {
            "map": values,
            "random": random_map(shape, seed=int(drawn)),
            "centre": centre_prior(shape, grid=(run.study.panels.rows, run.study.panels.columns)),
            "brightness": panel[~np.isnan(panel).all(axis=(1, 2))].mean(axis=0),
        }

        def predicted(given: np.ndarray, column: int = column, asked: Any = asked) -> np.ndarray:
            with torch.inference_mode():
                raw = one.network(torch.from_numpy(np.ascontiguousarray(given)))
            return values_of(raw.float(), asked.outputs)[:, column].numpy()

        curves = {
            name: deletion(panel, order, predicted, steps=STEPS, seed=run.study.seed) for name, order in maps.items()
        }
        found.append({"subject": case.subject, **curves})
    return found


def panels_of(one: LoadedModel, rows: Sequence[int]) -> Tensor:
    """The first view of each row."""
    data = one.panels.subset(rows)
    slots, owner = data.views()
    first = [int((owner == number).nonzero()[0]) for number in range(len(rows))]
    return data.plain_batch(slots[first], torch.device("cpu"))


def deleted(curves: Sequence[Mapping[str, Any]], plan: Plan) -> dict[str, Any] | None:
    """The mean areas under the curves, how far the map's lies from each of the others, and the mean curves."""
    if not curves:
        return None
    terms = np.array([[1.0, *(curve[name].area for name in ORDERS)] for curve in curves])
    sums = sum_by_subject(terms, np.array([curve["subject"] for curve in curves]))[:, None, :]

    def means(given: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):
            mean = given[..., 1:] / given[..., :1]
        areas = {name: mean[..., n] for n, name in enumerate(ORDERS)}
        return areas | {f"over_{name}": areas["map"] - areas[name] for name in ORDERS[1:]}

    found = estimates(sums, means, lambda name, whole: "no case", plan, n_cases=len(curves))[0]
    drawn = {name: np.mean([curve[name].values for curve in curves], axis=0).tolist() for name in ORDERS}
    told = {name: figure.as_json() for name, figure in found.items()}
    return {**told, "cases": len(curves), "shares": curves[0]["map"].shares.tolist(), "curves": drawn}
