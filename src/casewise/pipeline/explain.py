"""Explain a finished run: open it, compute saliency maps, and write the report again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from casewise.console import Show, Silent
from casewise.evaluation.results import read_results
from casewise.explain.finished_run import FinishedRun
from casewise.explain.run import Explanation, explain
from casewise.modalities.base import PreparedCohort
from casewise.pipeline.prepare import prepare
from casewise.pipeline.read import read
from casewise.pipeline.report import report
from casewise.predictions import table as prediction_table
from casewise.run_folder import RunFolder
from casewise.splits.grouped import read_splits
from casewise.study.loading import saved_study
from casewise.study.schema import Study


def explain_run(
    path: Path,
    *,
    cases: Sequence[str] = (),
    networks: Sequence[str] = (),
    output: Path | None = None,
    measure: bool = False,
    map_size: int = 0,
    show: Show | None = None,
) -> Explanation:
    """Explain cases of the finished run at `path` and write its report again; arguments as of `casewise.explain.run`.

    Raises:
        CasewiseError: there is no finished run, case or network of this name, files are missing or have changed, or
            the folder holds a comparison by image.
    """
    folder = RunFolder(path)
    check_run(folder)
    with folder.lock():
        run = open_finished(folder)
        explanation = explain(
            run, cases=cases, networks=networks, output=output, measure=measure, map_size=map_size, show=show
        )
        store = run.prepared.store
        page = report(run.study, run.cohort, run.predictions, run.results, store, folder, Silent())
    return replace(explanation, report=page)


def open_finished(folder: RunFolder) -> FinishedRun:
    """Open a finished run; checks its inputs again, and prepares missing images again.

    Raises:
        RunError: there is no finished run, or it belongs to another version or other data.
        CasewiseError: the table or the images have changed or are missing.
    """
    study = _read_study(folder)
    cohort = read(study, folder, Silent(), to_train=False)
    store = prepare(study, cohort, folder, Silent())
    predictions = prediction_table.check(folder.predictions.read())
    return FinishedRun(
        folder=folder,
        prepared=PreparedCohort(study, cohort, folder.images(study.images.store), store),
        splits=read_splits(folder.splits),
        predictions=predictions,
        final=prediction_table.final_rows(predictions),
        results=read_results(folder),
        fingerprint=str(folder.fingerprint.read()["fingerprint"]),
    )


def check_run(folder: RunFolder) -> None:
    """Check that a finished run is here, before a lock file is created."""
    folder.check_exists()
    folder.refuse_image_split()
    folder.check_finished()


def _read_study(folder: RunFolder) -> Study:
    """The study of the run."""
    check_run(folder)
    study = saved_study(folder.study.read(), source=str(folder.study.path))
    if study.weights_dir and not study.weights_dir.is_dir():
        # trained networks do not need their first weights
        study = study.model_copy(update={"weights_dir": None})
    return study
