"""The story of a study, from the cohort table to the report; and of its repetition."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.analysis.run import Run
from casewise.errors import CasewiseError
from casewise.plugin import plugins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from casewise.console import Show
    from casewise.pipeline.read import RunInputs
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


def run(study: Study | Path | str, output: Path | str | None = None, *, show: Show | bool | None = None) -> Run:
    """Run a study or a study file; run again, it continues without training finished networks again.

    Args:
        study: a study, or the path of its file.
        output: the run folder; by default `runs/` and the study's name.
        show: where progress is reported; by default the screen of a notebook or an interactive session, and nowhere
            in a script. `True`: on the screen or terminal; `False`: nowhere.

    Returns:
        The finished run, as `open_run` gives it.

    Raises:
        CasewiseError: something in the study, the table, the images or the folder must be corrected first.
    """
    from casewise.models.threads import on_threads
    from casewise.pipeline.budget import show_time
    from casewise.pipeline.bundle import write_bundle
    from casewise.pipeline.evaluate import calibrated, decide, evaluate, score, stack
    from casewise.pipeline.finished import FinishedRun, report
    from casewise.pipeline.further_trainings import known_sources, seeds, trainings
    from casewise.pipeline.hooks import run_hooks
    from casewise.pipeline.image_checks import counterfactuals, input_checks
    from casewise.pipeline.status import unchanged_torch
    from casewise.pipeline.train import train

    study, folder, show = _resolve(study, output, show)
    with unchanged_torch(), folder.lock(), ExitStack() as computing:
        inputs = _prepare_run(study, folder, show)
        computing.enter_context(on_threads())
        inputs, predictions = train(inputs, show)
        study = inputs.study  # planned, and without networks that could not be trained
        stacked = stack(study, predictions, folder, show)
        counterfactuals(inputs, stacked, show)
        predictions = decide(study, stacked.rows, folder)
        predictions = score(study, predictions, folder)
        folder.conformal.write(calibrated(study, predictions))
        input_checks(inputs, show)
        results = evaluate(study, inputs.cohort, predictions, folder, show)
        fitted = sum(job["seconds"] or 0.0 for job in folder.job_records(study.learners))
        if (number := trainings(study, fitted)) > 1:
            results = seeds(inputs, results, number, show)
        if study.recipe.meant_for == "other_sources":
            results = known_sources(inputs, results, show)
        for plugin in run_hooks():
            results = plugin.further_results(inputs, results, show)
        finished = FinishedRun(folder, study, results, inputs.prepared)
        report(finished, show)
        write_bundle(finished, show)
        for plugin in run_hooks():
            plugin.on_evaluated(study, folder, show)
        show_time(inputs, show)
        done = Run(finished)
        show.line("result", done.headline or "nothing was evaluated")
        if compared := done.compared:
            show.line("", compared)
    return done


def train_only(
    study: Study | Path | str, only: Sequence[str], output: Path | str | None = None, *, show: Show | bool | None = None
) -> None:
    """Train some networks of a study and stop; `run` then continues with the others and the report.

    Args:
        only: names of networks, such as `resnet34`, or of one of its folds, `resnet34:2`.

    Raises:
        CasewiseError: as `run`; or the study has no such network.
    """
    from casewise.jobs.plan import named_jobs
    from casewise.pipeline.status import unchanged_torch
    from casewise.pipeline.train import train_only as train_named

    study, folder, show = _resolve(study, output, show)
    named_jobs(study, None, only)
    with unchanged_torch(), folder.lock():
        train_named(_prepare_run(study, folder, show, only), only, show)


def reproduce(
    finished: Run | Path | str,
    output: Path | str | None = None,
    *,
    tolerance: float = 0.0,
    show: Show | bool | None = None,
) -> Any:
    """Run the saved study of a finished run from scratch, with its compute plan, and compare both.

    The comparison is in `reproduction.json` of the new folder. An interrupted reproduction is continued.

    Args:
        finished: a finished run, or its folder.
        output: a new folder; by default the run's folder with `-reproduced` at the end of its name.
        tolerance: the largest absolute difference of a predicted value or probability that counts as equal.
        show: where progress is reported, as in `run`.

    Returns:
        The `Reproduction` of the plugin `reproduce`.

    Raises:
        CasewiseError: the run is not finished, its table, images or first weights are missing or have changed, or
            `output` has other files.
    """
    for plugin in plugins():
        if plugin.name == "reproduce":
            return plugin.reproduce(finished, output, tolerance=tolerance, show=show)
    raise CasewiseError("Runs are repeated by the plugin 'reproduce' of casewise, which is not installed here.")


def _resolve(
    study: Study | Path | str, output: Path | str | None, show: Show | bool | None
) -> tuple[Study, RunFolder, Show]:
    from casewise.console import shown_at
    from casewise.run_folder import RunFolder
    from casewise.study.loading import checked_study, read_study

    study = read_study(study) if isinstance(study, (str, Path)) else checked_study(study)
    return study, RunFolder(Path(output or Path("runs") / study.name)), shown_at(show)


def _prepare_run(study: Study, folder: RunFolder, show: Show, only: Sequence[str] = ()) -> RunInputs:
    """The story up to the training: the planned study, its cohort, its images and its split.

    Args:
        only: names of networks, whose folds are checked as soon as these are known.
    """
    from casewise.jobs.plan import named_jobs, refuse_other, with_plan
    from casewise.modalities.registry import modality_of
    from casewise.pipeline.audit import audit
    from casewise.pipeline.budget import clock
    from casewise.pipeline.read import RunInputs, plan, prepare, read, split
    from casewise.pipeline.recipe_plan import plan_recipe, refuse_changes
    from casewise.pipeline.train import weights

    began = clock()
    cohort = read(study, folder, show)
    splits = split(study, cohort, folder, show)
    named_jobs(study, splits.folds, only)
    weights(study, folder, show)
    study = plan(study, cohort, splits, folder, show)
    refuse_changes(study, folder)
    store = prepare(study, cohort, folder, show)
    cohort = modality_of(study).estimated(study, cohort, store, show)
    inputs = RunInputs(study, cohort, store, splits, folder, began)
    inputs = plan_recipe(inputs, show)
    refuse_other(folder, with_plan({"tiles": inputs.store.address}, inputs.study), inputs.study)
    audit(inputs, show)
    return inputs
