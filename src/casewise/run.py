"""The story of a study, from the cohort table to the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.console import Show, Silent
from casewise.errors import RunError
from casewise.study.schema import Study

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, every prediction, every figure with its interval."""

    folder: Path
    predictions: pd.DataFrame
    results: dict[str, Any]
    report: Path


def run(study: Study, folder: Path, *, show: Show | None = None) -> Run:
    """Run a study whole in `folder`; run again, it continues and redoes nothing that is finished.

    Raises:
        CasewiseError: something in the study, the table, the images or the folder must be mended first.
    """
    from casewise.pipeline import evaluate as evaluated
    from casewise.pipeline import image_split as claimed
    from casewise.pipeline import report as reported
    from casewise.pipeline import steps

    show = show or Silent()
    with only_run(folder):
        cohort = steps.read(study, folder, show)
        tiles = steps.prepare(study, cohort, folder, show)
        splits = steps.split(study, cohort, folder, show)
        steps.audit(study, cohort, tiles, splits, folder, show)
        predictions = steps.train(study, cohort, tiles, splits, folder, show)
        predictions = steps.stack(study, predictions, folder, show)
        predictions = steps.score(study, predictions, folder)
        results = evaluated.evaluate(study, cohort, predictions, folder, show)
        if study.split.by == "image":
            results = claimed.claim(study, cohort, tiles, splits, results, folder, show)
        report = reported.report(study, cohort, predictions, results, tiles, folder, show)
    return Run(folder, predictions, results, report)


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold the run folder; the hold ends with the process, however it ends.

    Raises:
        RunError: another run is working there, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise RunError(
            f"Another run is working in {folder}. Wait for it, stop it, or give another folder with --output."
        ) from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"{folder} cannot be written: {reason}. Give another folder with --output.") from error
    try:
        yield
    finally:
        lock.release()
