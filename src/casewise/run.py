"""The story of a study, from the cohort table to the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from casewise.console import Show
    from casewise.study.schema import Study


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: the run folder.
        predictions: one row for each case, target and learner.
        results: every metric with its interval, as in `metrics.json`.
        report: the path of the report, an HTML page.
    """

    folder: Path
    predictions: pd.DataFrame
    results: dict[str, Any]
    report: Path

    @property
    def metrics(self) -> pd.DataFrame:
        """Every metric: one row for each stage, learner, target and metric, with its interval."""
        import pandas as pd

        rows = [
            {"stage": stage, "learner": learner, "target": target, "metric": metric, **estimate}
            for stage, by_learner in self.results["metrics"].items()
            for learner, by_target in by_learner.items()
            for target, by_metric in by_target.items()
            for metric, estimate in by_metric.items()
        ]
        return pd.DataFrame(rows)

    @property
    def study(self) -> Study:
        """The study with every setting in force."""
        from casewise.run_folder import RunFolder
        from casewise.study.loading import saved_study

        file = RunFolder(self.folder).study
        return saved_study(file.read(), source=str(file.path))

    @property
    def headline(self) -> str:
        """One sentence on the primary outcome."""
        from casewise.report.caveats import result_line

        return result_line(self.study, self.results)

    def _repr_html_(self) -> str:
        """The headline and a link to the report, for notebooks."""
        from html import escape

        link = escape(self.report.resolve().as_uri(), quote=True)
        return f'<p>{escape(self.headline)}</p><p><a href="{link}">{escape(str(self.report))}</a></p>'


def run(study: Study | Path | str, folder: Path | str, *, show: Show | None = None) -> Run:
    """Run a study, or that of a study file, in `folder`; run again, it continues and repeats nothing that is finished.

    Raises:
        CasewiseError: something in the study, the table, the images or the folder must be corrected first.
    """
    from casewise.console import Silent
    from casewise.pipeline.audit import audit
    from casewise.pipeline.counterfactuals import counterfactuals
    from casewise.pipeline.prepare import plan, prepare
    from casewise.pipeline.read import read
    from casewise.pipeline.split import split
    from casewise.pipeline.stored_results import inputs_of_results, record_results, stored_results
    from casewise.pipeline.train import train
    from casewise.run_folder import RunFolder
    from casewise.study.loading import checked_study, read_study

    study = read_study(study) if isinstance(study, (str, Path)) else checked_study(study)
    show, run_folder = show or Silent(), RunFolder(Path(folder))
    with run_folder.lock():
        cohort = read(study, run_folder, show)
        study = plan(study, cohort, run_folder, show)
        store = prepare(study, cohort, run_folder, show)
        splits = split(study, cohort, run_folder, show)
        audit(study, cohort, store, splits, run_folder, show)
        predictions = train(study, cohort, store, splits, run_folder, show)
        counterfactuals(study, cohort, store, splits, run_folder, show)
        inputs = inputs_of_results(study, cohort, store, predictions, run_folder)
        if stored := stored_results(inputs, run_folder):
            show.line("results", "as computed before: nothing that they depend on has changed")
            finished = Run(run_folder.path, *stored, run_folder.report_path)
            show.line("result", finished.headline)
            return finished
        from casewise.pipeline.evaluate import evaluate
        from casewise.pipeline.image_split import image_split
        from casewise.pipeline.report import report
        from casewise.pipeline.score import score
        from casewise.pipeline.seeds import seeds
        from casewise.pipeline.stack import stack

        predictions = stack(study, predictions, run_folder, show)
        predictions = score(study, predictions, run_folder)
        results = evaluate(study, cohort, predictions, run_folder, show)
        if study.seeds > 1:
            results = seeds(study, cohort, store, splits, results, run_folder, show)
        if study.split.by == "image":
            results = image_split(study, cohort, store, splits, results, run_folder, show)
        page = report(study, cohort, predictions, results, store, run_folder, show)
        record_results(inputs, run_folder)
    return Run(run_folder.path, predictions, results, page)


def open_run(folder: Path | str) -> Run:
    """Open a finished run.

    Raises:
        RunError: the folder holds no finished run, or the comparison by image of one, or a file of it is damaged.
    """
    from casewise.run_folder import RunFolder

    files = RunFolder(Path(folder))
    files.refuse_image_split()
    files.check_finished()
    files.check_reported()
    return Run(files.path, files.predictions.read(), files.metrics.read(), files.report_path)
