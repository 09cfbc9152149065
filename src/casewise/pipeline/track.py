"""Following a run: the table of its training, and what its study's trackers get of it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from casewise.errors import CasewiseError
from casewise.tracking.sending import check_packages, send_missing
from casewise.tracking.training_table import write_training_table
from casewise.tracking.units import job_units, results_unit

if TYPE_CHECKING:
    from collections.abc import Callable

    from casewise.console import Show
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study

__all__ = ["check_packages", "following", "track", "track_training"]


def track_training(study: Study, folder: RunFolder, show: Show) -> None:
    """Write the table of the training, and send what the study's trackers lack of it.

    Raises:
        RunError: a record is damaged, or the table cannot be written.
    """
    write_training_table(folder, study.learners)
    if study.track:
        _send(study, folder, show, results=False)


def track(study: Study, folder: RunFolder, show: Show) -> None:
    """Send settings and metrics of a finished run to the study's trackers, and what they lack of its training."""
    if study.track:
        _send(study, folder, show, results=True)


def _send(study: Study, folder: RunFolder, show: Show, *, results: bool) -> None:
    with show.bar("track"):
        units = [*job_units(folder, study), *([results_unit(folder, study)] if results else [])]
        lines = send_missing(study, folder, units)
    for line in lines:
        show.line("track", line)


def following(study: Study, folder: RunFolder, tell: Callable[[float, str], None]) -> Callable[[float, str], None]:
    """`tell`, which also writes the table of the training and the files of TensorBoard as networks are finished.

    It is called by a thread that watches the jobs; a failure there is reported when the training is finished.
    """
    written = [0]

    def follow(done: float, text: str) -> None:
        tell(done, text)
        count = sum(len(folder.finished_jobs(name)) for name in study.networks)
        if count > written[0]:
            written[0] = count
            with suppress(CasewiseError, OSError):
                write_training_table(folder, study.learners)
                if study.track:
                    send_missing(study, folder, job_units(folder, study), local=True)

    return follow
