"""What a plugin can do in the course of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from casewise.plugin import implementing

if TYPE_CHECKING:
    from casewise.audit.findings import Finding
    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.evaluation.results import Results
    from casewise.pipeline.read import RunInputs
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study


class RunHooks(Protocol):
    """A plugin that follows runs."""

    def repeated(self, study: Study) -> Study:
        """The study for a repetition of its training, such as one that is not followed."""
        return study

    def check_study(self, study: Study) -> None:
        """Check before a run what this plugin needs for the study.

        Raises:
            StudyError: a package is missing.
        """

    def on_jobs_finished(self, study: Study, folder: RunFolder) -> None:
        """Called while networks train, each time some are finished; it must be quick and write into the folder only."""

    def on_trained(self, study: Study, folder: RunFolder, show: Show) -> None:
        """Called when all networks are trained."""

    def findings(self, study: Study, cohort: Cohort, splits: Splits) -> list[Finding]:
        """Findings of the audit on what the plugin adds to the study.

        Raises:
            CasewiseError: it cannot be added.
        """
        return []

    def further_results(self, inputs: RunInputs, results: Results, show: Show) -> Results:
        """The results with figures of further trainings."""
        return results

    def on_evaluated(self, study: Study, folder: RunFolder, show: Show) -> None:
        """Called when metrics and report are written."""


def run_hooks() -> list[RunHooks]:
    """The plugins that follow runs."""
    return implementing(RunHooks)


def repeated(study: Study) -> Study:
    """The study for a repetition of its training: every plugin may change it."""
    for plugin in run_hooks():
        study = plugin.repeated(study)
    return study
