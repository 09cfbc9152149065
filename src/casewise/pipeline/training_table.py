"""Following a training: `training.csv`, a row for each network and epoch, and the hooks of plugins."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError
from casewise.files import guarded, write_atomic
from casewise.plugin import plugins

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.run_folder import JobFolder, RunFolder
    from casewise.study.schema import Study

COLUMNS = (
    *("model", "fold", "epoch", "phase", "train_loss", "stop_loss", "lr"),
    *("train_accuracy", "stop_accuracy", "kept", "job_seconds"),
)


def finished(folder: RunFolder, learners: Sequence[str]) -> Iterator[tuple[str, str, JobFolder]]:
    """The jobs that have a record: learner, fold (from 1, or `all`), and folder."""
    for name in learners:
        for job in folder.finished_jobs(name):
            yield name, job.path.name.removeprefix("fold"), job
        if (final := folder.final_job(name)).record.exists():
            yield name, "all", final


def epochs_of(fold: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of one network; learners that are fitted without epochs have none.

    >>> record = {"model": "cnn", "seconds": 3.5, "best_epoch": 1, "history": [{"train_loss": 0.5, "stop_loss": 0.75}]}
    >>> [epochs_of("2", record)[0][name] for name in ("fold", "epoch", "train_loss", "kept", "phase")]
    ['2', 1, 0.5, True, None]
    """
    # without early stopping, the cases evaluated after an epoch are a single training panel
    absent = ("stop_loss", "stop_accuracy") if record.get("stopped_on") == "none" else ()
    return [
        {
            **dict.fromkeys(COLUMNS),
            **{name: value for name, value in entry.items() if name in COLUMNS and name not in absent},
            "model": record["model"],
            "fold": fold,
            "epoch": number,
            "phase": entry["phase"] + 1 if "phase" in entry else None,
            "kept": number == record.get("best_epoch"),
            "job_seconds": record.get("seconds"),
        }
        for number, entry in enumerate(record.get("history") or [], start=1)
    ]


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as CSV; empty cells are values that were not recorded, and numbers keep all their digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in COLUMNS])
    return buffer.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else guarded(str(value))


def write_training_table(folder: RunFolder, learners: Sequence[str]) -> None:
    """Write `training.csv` of the networks that are finished; a table with the same content is kept.

    Raises:
        RunError: the record of a network is damaged, or the folder cannot be written.
    """
    jobs = [(fold, job.record.read()) for _, fold, job in finished(folder, learners)]
    text = csv_text(row for fold, record in jobs for row in epochs_of(fold, record))
    path = folder.training_table_path
    # bytes: a program may have saved the table in another encoding
    if not (path.is_file() and path.read_bytes() == text.encode()):
        write_atomic(path, text)


def record_trained(study: Study, folder: RunFolder, show: Show) -> None:
    """Write the table of the training, and let plugins follow it.

    Raises:
        RunError: a record is damaged, or the table cannot be written.
    """
    write_training_table(folder, study.learners)
    for plugin in plugins():
        plugin.on_trained(study, folder, show)


def following(study: Study, folder: RunFolder, tell: Callable[[float, str], None]) -> Callable[[float, str], None]:
    """`tell`, which also writes the table of the training and calls plugins as networks are finished.

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
                for plugin in plugins():
                    plugin.on_jobs_finished(study, folder)

    return follow
