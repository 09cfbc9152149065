"""The spread over seeds: the study is trained again with other seeds, on the same split and the same images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import evaluate
from casewise.evaluation.results import Metrics, OverSeeds, Results, Seeds, write_results
from casewise.pipeline.evaluate import outcomes
from casewise.pipeline.train import train_again

if TYPE_CHECKING:
    from collections.abc import Sequence

    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.modalities.base import ImageStore
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study

# Only the points of these evaluations are used.
FEWEST = Plan(resamples=1)


def seeds(
    study: Study,
    cohort: Cohort,
    store: ImageStore,
    splits: Splits,
    results: Results,
    folder: RunFolder,
    show: Show,
) -> Results:
    """Train the study with `study.seeds` - 1 further seeds; return `results` with the spread over seeds."""
    numbers = [study.seed + further for further in range(study.seeds)]
    points = [_points(results.metrics)]
    for position, seed in enumerate(numbers[1:], start=2):
        show.line("seeds", f"training {position} of {len(numbers)}, with seed {seed}")
        points.append(_trained_points(study, seed, cohort, store, splits, folder, show))
    spread: dict[str, dict[str, dict[str, dict[str, OverSeeds]]]] = {}
    for (stage, learner, target, metric), value in points[0].items():
        values = [value, *(other.get((stage, learner, target, metric)) for other in points[1:])]
        by_target = spread.setdefault(stage, {}).setdefault(learner, {}).setdefault(target, {})
        by_target[metric] = OverSeeds(values, **spread_of(values))
    notes = [
        replace(note, facts={"seeds": len(numbers)}) if note.code == "conditional_on_networks" else note
        for note in results.notes
    ]
    return write_results(folder, replace(results, seeds=Seeds(numbers, spread), notes=notes))


def spread_of(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean, extremes and standard deviation (n - 1) of the values of all seeds; None if one of them is undefined.

    >>> spread_of([0.5, 0.75])["sd"], spread_of([0.5, None])["max"]
    (0.1767766952966369, None)
    """
    defined = [value for value in values if value is not None]
    if len(defined) < max(len(values), 2):
        return dict.fromkeys(("mean", "min", "max", "sd"))
    figures = np.asarray(defined, dtype=float)
    extremes = {"min": float(figures.min()), "max": float(figures.max())}
    return {"mean": float(figures.mean()), **extremes, "sd": float(figures.std(ddof=1))}


def _trained_points(
    study: Study, seed: int, cohort: Cohort, store: ImageStore, splits: Splits, folder: RunFolder, show: Show
) -> dict[tuple[str, str, str, str], float | None]:
    """The points of all metrics after a training with another seed, with the compute plan of the run."""
    from casewise.jobs.compute_plans import recorded_plans

    plans = recorded_plans(folder, study.networks)
    any_machine = dict.fromkeys(("device", "precision", "memory_format", "threads"), "auto")
    other = study.model_copy(
        update={
            "seed": seed,
            "external": None,
            "compute": study.compute.model_copy(update={"plan": plans, **any_machine}),
        }
    )
    predictions = train_again(other, cohort, store, splits, folder.seed(seed), show)
    return _points(evaluate(predictions, outcomes(study, predictions), FEWEST).metrics)


def _points(metrics: Metrics) -> dict[tuple[str, str, str, str], float | None]:
    """The value of every metric of the stages that all seeds have, by stage, learner, target and metric."""
    return {
        (stage, learner, target, metric): estimate.value
        for stage, by_learner in metrics.items()
        if stage != "external"
        for learner, by_target in by_learner.items()
        for target, by_metric in by_target.items()
        for metric, estimate in by_metric.items()
    }
