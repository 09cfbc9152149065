"""Repeated trainings of a study: with other seeds and folds, and with every source among the training cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from casewise.console import Show, shown
from casewise.errors import CasewiseError
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import evaluate as evaluate_predictions
from casewise.evaluation.figures import KNOWN, SEED, ByMetric, Cell, Estimate, Figures
from casewise.evaluation.metrics_file import write_results
from casewise.evaluation.results import Results
from casewise.modalities.registry import modality_of
from casewise.pipeline.evaluate import left_out_sources, outcomes, within_sources
from casewise.pipeline.read import RunInputs
from casewise.pipeline.train import train_again
from casewise.splits.grouped import Splits, other_folds, split
from casewise.splits.learnable import check_learnable
from casewise.study.schema import Study

# Only point estimates are used, for which one resample is enough.
FEWEST = Plan(resamples=1)
# Trainings by default, the share of the budget for the further ones, and how many further ones give an interval.
MOST, SHARE, FEWEST_FURTHER = 5, 0.1, 2


def trainings(study: Study, seconds: float) -> int:
    """How often a study is trained, if its learners were fitted in so many seconds.

    A planned study without networks is trained `MOST` times, if this takes a tenth of its budget at most, and less
    often if that still gives an interval.
    """
    if study.seeds > 1 or not study.recipe.auto or study.networks or study.external:
        return study.seeds
    further = min(MOST - 1, int(SHARE * study.budget / max(seconds, 1e-9)))
    return 1 + further if further >= FEWEST_FURTHER else 1


@shown("seeds")
def seeds(inputs: RunInputs, results: Results, number: int, show: Show) -> Results:
    """Train the study with `number` - 1 further seeds, and folds by them; return `results` with the spread."""
    study, whole = inputs.study, modality_of(inputs.study).whole(inputs.study, inputs.cohort)
    numbers = [study.seed + further for further in range(number)]
    trained, further = [results.figures], list[Splits]()
    for position, seed in enumerate(numbers[1:], start=2):
        splits = other_folds(inputs.splits, whole, study.model_copy(update={"seed": seed}))
        try:
            check_learnable(splits, whole.panels, study)
        except CasewiseError:  # a finished run does not end at folds that nobody asked for
            splits = inputs.splits
        further.append(splits)
        folds = ", in other folds" * (further[-1].side != inputs.splits.side)
        show.line("seeds", f"training {position} of {len(numbers)}, with seed {seed}{folds}")
        trained.append(_trained_figures(replace(inputs, splits=further[-1]), seed, show))
    cells: dict[Cell, ByMetric] = {}
    for cell, by_metric in results.figures.select(population="", contrast="").cells.items():
        if cell.stage != "external":
            at = cell._replace(population=SEED)
            values = {metric: [_value(figures, cell, metric) for figures in trained] for metric in by_metric}
            spreads = {metric: _spread_of(own) for metric, own in values.items()}
            for number, seed in enumerate(numbers):
                cells[at._replace(group=str(seed))] = _points({name: own[number] for name, own in values.items()})
            for end in ("mean", "min", "max", "sd"):
                cells[at._replace(contrast=end)] = _points({name: spread[end] for name, spread in spreads.items()})
    differ = any(splits.side != inputs.splits.side for splits in further)
    figures = results.figures | Figures(cells)
    return write_results(inputs.folder, replace(results, figures=figures, other_folds=differ or None))


def _value(figures: Figures, cell: Cell, metric: str) -> float | None:
    figure = figures.cells.get(cell, {}).get(metric)
    return figure.value if figure else None


def _points(values: Mapping[str, float | None]) -> ByMetric:
    """Figures without intervals."""
    return {name: Estimate(value, None, None) for name, value in values.items()}


def _spread_of(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean, extremes and standard deviation (n - 1) of the values of all seeds; None if one of them is undefined.

    >>> _spread_of([0.5, 0.75])["sd"], _spread_of([0.5, None])["max"]
    (0.1767766952966369, None)
    """
    defined = [value for value in values if value is not None]
    if len(defined) < max(len(values), 2):
        return dict.fromkeys(("mean", "min", "max", "sd"))
    figures = np.asarray(defined, dtype=float)
    extremes = {"min": float(figures.min()), "max": float(figures.max())}
    return {"mean": float(figures.mean()), **extremes, "sd": float(figures.std(ddof=1))}


def _trained_figures(inputs: RunInputs, seed: int, show: Show) -> Figures:
    """The figures after a training with another seed, with the compute plan of the run."""
    study = _as_trained(inputs).model_copy(update={"seed": seed})
    predictions = train_again(replace(inputs, study=study, folder=inputs.folder.seed(seed)), show)
    return evaluate_predictions(predictions, outcomes(study, predictions), FEWEST).figures


def _as_trained(inputs: RunInputs) -> Study:
    """The study with the compute plan of its run, without an external cohort."""
    from casewise.jobs.compute_plans import recorded_plans

    study = inputs.study
    any_machine = dict.fromkeys(("device", "precision", "threads"), "auto")
    plan = {"plan": recorded_plans(inputs.folder, study.trained), **any_machine}
    return study.model_copy(update={"external": None, "compute": study.compute.model_copy(update=plan)})


def known_sources(inputs: RunInputs, results: Results, show: Show) -> Results:
    """Train the study again, split by subject, so that each source is known; return `results` with these figures too.

    They are means within each source, like the figures for left-out sources, and can be compared with them.
    """
    study, cohort, folder = inputs.study, inputs.cohort, inputs.folder.known_sources
    show.line("sources", "every learner is fitted again, in folds of subjects, to compare known with other sources")
    subjects = cohort.images["subject"].nunique()
    by_subject = {"leave_out": None, "test": 0.0, "folds": min(study.split.folds, subjects)}
    whole = modality_of(study).whole(study, cohort)
    splits = split(whole, study.model_copy(update={"split": study.split.model_copy(update=by_subject)}))
    check_learnable(splits, whole.panels, study)
    further = replace(inputs, study=_as_trained(inputs), splits=splits, folder=folder)
    figures = within_sources(study, train_again(further, show), left_out_sources(inputs.folder))
    return write_results(inputs.folder, replace(results, figures=results.figures | figures.placed(population=KNOWN)))
