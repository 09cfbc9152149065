"""The status of a run: what is done, running, waiting or failed, read while another process works or after it."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from casewise.console import Silent
from casewise.errors import AuditError, RunError
from casewise.files import write_json
from casewise.pipeline.status import recorded, run_status
from casewise.run import Run
from casewise.run_folder import RunFolder, folder
from tests.test_cli import casewise


@pytest.fixture
def copied(baseline_run: Run, tmp_path: Path) -> RunFolder:
    """A copy of a finished run of three learners on two folds."""
    shutil.copytree(baseline_run.folder, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def forget(run: RunFolder, model: str, fold: int) -> None:
    """Leave a job as it is before it has begun."""
    run.job(model, fold).record.remove()


def test_a_finished_run_is_finished(copied: RunFolder) -> None:
    status = run_status(copied)
    assert (len(status.done), status.jobs, status.at_work, status.unreported) == (6, 6, False, "")
    assert status.lines()[-1] == "The report is up to date with the results. No process is at work in the folder."
    done = casewise("status", str(copied.path))
    assert done.returncode == 0
    assert "6 done." in done.stdout.replace("\n", " ")


def test_running_waiting_and_failed_jobs_are_told_apart(copied: RunFolder) -> None:
    for model, fold in (("linear_pixels", 0), ("linear_pixels", 1), ("kernel_features", 1)):
        forget(copied, model, fold)
    copied.job("linear_pixels", 0).write_progress(1, 4)
    write_json(copied.job("linear_pixels", 0).path / "spent.json", {"seconds": 30.0}, durable=False)
    copied.job("kernel_features", 1).write_failure("it diverged", transient=False)
    with copied.lock(), FileLock(copied.job("linear_pixels", 0).lock_path):
        status = run_status(copied)
        assert status.running == {"linear_pixels, fold 1": 0.25}
        assert status.waiting == ["linear_pixels, fold 2"]
        assert status.failed == {"kernel_features, fold 2": "it diverged"}
        assert len(status.done) == 3
        assert status.seconds_left is not None
        assert status.seconds_left > 0
        assert status.lines()[-1].startswith("Time left for these jobs: about ")
        with pytest.MonkeyPatch.context() as patch:  # a folder that cannot be written to
            patch.setattr(folder.JobFolder, "at_work", lambda self: None)
            assert run_status(copied).interrupted == {}
    stopped = run_status(copied)
    assert not stopped.at_work
    assert stopped.running == {}
    assert stopped.waiting == ["linear_pixels, fold 1", "linear_pixels, fold 2"]
    assert stopped.interrupted == {"linear_pixels, fold 1": 0.25}
    assert "  waiting  linear_pixels, fold 1: stopped after 25% of its training" in stopped.lines()
    assert stopped.lines()[-1] == "No process is at work in the folder. Run the study again to continue."


def test_the_time_left_follows_from_finished_jobs_and_is_shared_by_running_ones(copied: RunFolder) -> None:
    record = copied.job("linear_pixels", 0).record
    record.write(record.read() | {"seconds": 100.0})
    forget(copied, "linear_pixels", 1)
    copied.job("linear_pixels", 1).write_progress(1, 4)
    with copied.lock(), FileLock(copied.job("linear_pixels", 1).lock_path):
        assert run_status(copied).seconds_left == pytest.approx(75.0)


def test_before_the_training_nothing_is_planned(copied: RunFolder) -> None:
    copied.metrics.remove()
    copied.fingerprint.remove()
    shutil.rmtree(copied.jobs_folder)
    with copied.lock():
        assert run_status(copied).lines()[-1].endswith("is planned yet. A process is at work in the folder.")
    assert run_status(copied).lines()[-1].endswith("No process is at work in the folder.")


def test_the_last_line_of_a_command_and_the_error_that_ended_it_are_shown(copied: RunFolder) -> None:
    assert not copied.activity.exists(), "the run finished"
    copied.metrics.remove()
    copied.fingerprint.remove()
    copied.splits.remove()

    def command() -> None:
        with copied.lock(), recorded(copied, Silent()) as show:
            show.line("cohort", "6 cases")
            assert run_status(copied).lines()[-1].endswith("at work in the folder. Its last line: cohort: 6 cases")
            with show.bar("audit"), show.bar("pairs"):
                assert " Its step: pairs. Its last line: cohort" in run_status(copied).lines()[-1]
            raise AuditError("One person has two names.")

    with pytest.raises(AuditError):
        command()
    line = run_status(copied).lines()[-1]
    assert line.endswith("No process is at work in the folder. The last command stopped: One person has two names.")
    with copied.lock(), recorded(copied, Silent()):
        pass
    assert not copied.activity.exists()


def test_a_run_goes_on_where_its_activity_cannot_be_recorded(copied: RunFolder) -> None:
    copied.metrics.remove()
    copied.activity.path.mkdir()
    with copied.lock(), recorded(copied, Silent()) as show:
        show.line("cohort", "6 cases \ud800")
        assert run_status(copied).last_line == ""
    assert copied.activity.path.is_dir()


def test_networks_that_a_command_does_not_train_are_counted_apart(copied: RunFolder) -> None:
    for fold in (0, 1):
        forget(copied, "linear_pixels", fold)
    copied.metrics.remove()
    with copied.lock(), recorded(copied, Silent(), ["linear_pixels:2"]):
        status = run_status(copied)
        assert (status.waiting, status.not_asked) == (["linear_pixels, fold 2"], ["linear_pixels, fold 1"])
        assert status.jobs == 6
        assert status.lines()[0].endswith("4 done, 1 waiting, 1 not asked for with --only.")
    assert len(run_status(copied).waiting) == 2


def test_time_in_which_nothing_ran_does_not_count(copied: RunFolder) -> None:
    job = copied.job("linear_pixels", 0)
    for fold in (0, 1):
        forget(copied, "linear_pixels", fold)
    job.mark.write("made from")
    os.utime(job.mark.path, (1, 1))
    write_json(job.path / "spent.json", {"seconds": 30.0}, durable=False)
    job.write_progress(1, 4)
    with copied.lock(), FileLock(job.lock_path):
        left = run_status(copied).seconds_left
    assert left is not None
    assert 210 <= left < 3600  # a fourth took 30 s, so seven fourths remain


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_another_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder"):
        run_status(RunFolder(tmp_path / name))
    assert not list(tmp_path.iterdir())
    (tmp_path / "bundle.zip").touch()
    with pytest.raises(RunError, match=r"bundle\.zip is a file"):
        run_status(RunFolder(tmp_path / "bundle.zip"))


def test_asking_does_not_stop_a_run_that_begins(copied: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MOMENT", 60)
    looking = FileLock(copied.path / ".lock", thread_local=False)
    looking.acquire()
    threading.Timer(0.1, looking.release).start()
    with copied.lock():
        assert not looking.is_locked
