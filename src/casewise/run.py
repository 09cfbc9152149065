"""The story of a study, from the cohort table to the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from casewise.analysis.run import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.modalities.base import ImageStore
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study


def run(study: Study | Path | str, output: Path | str | None = None, *, show: Show | bool | None = None) -> Run:
    """Run a study, or that of a study file; run again, it continues and repeats nothing that is finished.

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
    from casewise.pipeline.bundle import write_bundle
    from casewise.pipeline.combine import conformal, decide, score, stack
    from casewise.pipeline.evaluate import evaluate
    from casewise.pipeline.finished import inputs_of_results, record_results, stored_results
    from casewise.pipeline.further_trainings import image_split, seeds
    from casewise.pipeline.image_checks import counterfactuals, input_checks
    from casewise.pipeline.report import report
    from casewise.pipeline.status import recorded, timed, unchanged_torch
    from casewise.pipeline.train import train
    from casewise.plugin import plugins

    study, run_folder, show = _places(study, output, show)
    with unchanged_torch(), run_folder.lock(), timed(run_folder), recorded(run_folder, show) as show:
        study, cohort, store, splits = _begun(study, run_folder, show)
        study, predictions = train(study, cohort, store, splits, run_folder, show)
        counterfactuals(study, cohort, store, splits, predictions, run_folder, show)
        inputs = inputs_of_results(study, cohort, store, predictions, run_folder)
        if stored := stored_results(inputs, run_folder, show):
            predictions, results = stored
        else:
            predictions = stack(study, predictions, run_folder, show)
            predictions = decide(study, predictions, run_folder)
            predictions = score(study, predictions, run_folder)
            conformal(study, predictions, run_folder)
            input_checks(study, cohort, store, splits, predictions, run_folder)
            results = evaluate(study, cohort, predictions, run_folder, show)
            if study.seeds > 1:
                results = seeds(study, cohort, store, splits, results, run_folder, show)
            if study.split.by == "image":
                results = image_split(study, cohort, store, splits, results, run_folder, show)
            report(study, cohort, predictions, results, store, run_folder, show)
            record_results(inputs, run_folder)
        write_bundle(run_folder, show)
        for plugin in plugins():
            plugin.on_evaluated(study, run_folder, show)
        finished = Run(run_folder.path, predictions, results, run_folder.report_path)
        show.line("result", finished.headline or "nothing was evaluated")
    return finished


def train_only(
    study: Study | Path | str,
    only: Sequence[str],
    output: Path | str | None = None,
    *,
    show: Show | bool | None = None,
) -> None:
    """Train some networks of a study and stop; `run` then continues with the others and the report.

    Args:
        only: names of networks, such as `resnet34`, or of one of its folds, `resnet34:2`.

    Raises:
        CasewiseError: as `run`; or the study has no such network.
    """
    from casewise.pipeline.status import recorded, unchanged_torch
    from casewise.pipeline.train import train_only as train_named

    study, run_folder, show = _places(study, output, show)
    with unchanged_torch(), run_folder.lock(), recorded(run_folder, show, only) as show:
        train_named(*_begun(study, run_folder, show, only), run_folder, show, only)


def _places(
    study: Study | Path | str, output: Path | str | None, show: Show | bool | None
) -> tuple[Study, RunFolder, Show]:
    from casewise.console import shown_at
    from casewise.run_folder import RunFolder
    from casewise.study.loading import checked_study, read_study

    study = read_study(study) if isinstance(study, (str, Path)) else checked_study(study)
    return study, RunFolder(Path(output or Path("runs") / study.name)), shown_at(show)


def _begun(
    study: Study, run_folder: RunFolder, show: Show, only: Sequence[str] = ()
) -> tuple[Study, Cohort, ImageStore, Splits]:
    """The story up to the training: the planned study, its cohort, its images and its split.

    Args:
        only: names of networks, which are checked as soon as the folds are known.
    """
    from casewise.jobs.plan import named_jobs
    from casewise.pipeline.audit import audit
    from casewise.pipeline.read import plan, prepare, read, split
    from casewise.pipeline.recipe_plan import plan_recipe
    from casewise.pipeline.train import weights

    cohort = read(study, run_folder, show)
    splits = split(study, cohort, run_folder, show)
    if not study.recipe.auto:  # whose networks are planned later
        named_jobs(study, splits.folds, only)
    weights(study, run_folder, show)
    study = plan(study, cohort, splits, run_folder, show)
    store = prepare(study, cohort, run_folder, show)
    study = plan_recipe(study, cohort, store, splits, run_folder, show)
    audit(study, cohort, store, splits, run_folder, show)
    return study, cohort, store, splits
