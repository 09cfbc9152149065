"""Deletion curves: the output of networks while pixels are set to black in the order of a map and of naive orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from casewise.evaluation.bootstrap import Plan, estimates, sum_by_subject
from casewise.models.outputs import value_columns, values_of
from casewise.plugins.explain.case_selection import predicted_target
from casewise.plugins.explain.methods.dispatch import explain
from casewise.plugins.explain.metrics import centre_prior, delete_pixels, random_map

if TYPE_CHECKING:
    from casewise.pipeline.finished import FinishedRun
    from casewise.plugins.explain.case_selection import MaskedCase
    from casewise.plugins.explain.saliency import LoadedModel

STEPS = 20
# By the network's map, by noise, by the distance to the centre of each slice, by brightness.
ORDERS = ("map", "random", "centre", "brightness")


def deletion_curves(
    run: FinishedRun, model: LoadedModel, cases: Sequence[MaskedCase], map_size: int
) -> list[dict[str, Any]]:
    """For each case one curve per order: the probability of the predicted class, or the predicted number."""
    results = []
    for case in cases:
        target = predicted_target(run, case.prediction)
        columns = value_columns(target.outputs)[[output.name for output in target.outputs].index(target.target)]
        column = columns.start + (target.class_index or 0)
        panels = model.first_panels([case.row])
        values = explain(model.network, panels, target=target, map_size=map_size)[0].numpy()
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

        curves = {
            name: delete_pixels(panel, order, predict, steps=STEPS, seed=run.study.seed)
            for name, order in orders.items()
        }
        results.append({"subject": case.subject, **curves})
    return results


def summarise_deletion(curves: Sequence[Mapping[str, Any]], plan: Plan) -> dict[str, Any] | None:
    """The mean areas under the curves, their differences to the map's, and the mean curves."""
    if not curves:
        return None
    terms = np.array([[1.0, *(curve[name].area for name in ORDERS)] for curve in curves])
    sums = sum_by_subject(terms, np.array([curve["subject"] for curve in curves]))[:, None, :]

    def means(totals: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):
            mean = totals[..., 1:] / totals[..., :1]
        areas = {name: mean[..., n] for n, name in enumerate(ORDERS)}
        return areas | {f"over_{name}": areas["map"] - areas[name] for name in ORDERS[1:]}

    areas = estimates(sums, means, lambda name, whole: "no case", plan, n_cases=len(curves))[0]
    mean_curves = {name: np.mean([curve[name].values for curve in curves], axis=0).tolist() for name in ORDERS}
    return {
        **{name: dict(estimate) for name, estimate in areas.items()},
        "cases": len(curves),
        "shares": curves[0]["map"].shares.tolist(),
        "curves": mean_curves,
    }
