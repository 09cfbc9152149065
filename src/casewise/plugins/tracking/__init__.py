"""Trackers that a study names: TensorBoard and MLflow.

Trackers may be servers that many people read. They get settings, losses and metrics by the names of learners, folds and
targets, and no name of a subject, case or file, and no image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.plugin import Plugin

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


class _Tracking(Plugin):
    name = "tracking"
    extra = "track"
    keys = (("", "study_keys:TrackingKeys"),)

    def repeated(self, study: Study) -> Study:
        return study.model_copy(update={"track": []})

    def check_study(self, study: Study) -> None:
        from casewise.plugins.tracking.sending import check_packages

        check_packages(study)

    def on_jobs_finished(self, study: Study, folder: RunFolder) -> None:
        if trackers(study):
            from casewise.plugins.tracking.sending import job_units, send_missing

            send_missing(study, folder, job_units(folder, study), local=True)

    def on_trained(self, study: Study, folder: RunFolder, show: Show) -> None:
        if trackers(study):
            _send(study, folder, show, results=False)

    def on_evaluated(self, study: Study, folder: RunFolder, show: Show) -> None:
        if trackers(study):
            _send(study, folder, show, results=True)


def trackers(study: Study) -> list[str]:
    """The trackers of a study, as `track` states them."""
    return list(study.key("track"))


def _send(study: Study, folder: RunFolder, show: Show, *, results: bool) -> None:
    from casewise.plugins.tracking.sending import job_units, results_unit, send_missing

    with show.bar("track"):
        units = [*job_units(folder, study), *([results_unit(folder, study)] if results else [])]
        lines = send_missing(study, folder, units)
    for line in lines:
        show.line("track", line)


plugin = _Tracking()
