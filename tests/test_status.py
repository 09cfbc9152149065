"""The status of a run: what is done, running, waiting or failed, read while another process works or after it."""

import os
import shutil
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from casewise.errors import RunError
from casewise.files import write_json
from casewise.pipeline.status import run_status
from casewise.run import Run
from casewise.run_folder import BundleFolder, RunFolder, folder
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


def test_a_damaged_run_is_named_and_has_its_exit_code(copied: RunFolder) -> None:
    with copied.predictions.path.open("ab") as file:
        file.write(b"x")
    status = run_status(copied)
    assert status.damaged
    assert copied.predictions.path.name in " ".join(status.lines())
    assert casewise("status", str(copied.path)).returncode == 2


def test_running_waiting_and_failed_jobs_are_told_apart(copied: RunFolder) -> None:
    for model, fold in (("linear_pixels", 0), ("linear_pixels", 1), ("kernel_features", 1)):
        forget(copied, model, fold)
    copied.job("linear_pixels", 0).write_progress(1, 4)
    write_json(copied.job("linear_pixels", 0).path / "spent.json", {"seconds": 30.0}, durable=False)
    copied.job("kernel_features", 1).write_failure("it diverged", transient=False)
    with copied.lock(), FileLock(copied.job("linear_pixels", 0).lock_path):
        status = run_status(copied)
        assert (status.running, status.waiting) == ({"linear_pixels, fold 1": 0.25}, ["linear_pixels, fold 2"])
        assert (status.failed, len(status.done)) == ({"kernel_features, fold 2": "it diverged"}, 3)
        assert status.seconds_left > 0
        assert status.lines()[-1].startswith("Time left for these jobs: about ")
    stopped = run_status(copied)
    assert not stopped.at_work
    assert (stopped.running, stopped.waiting) == ({}, ["linear_pixels, fold 1", "linear_pixels, fold 2"])
    assert "in the training" in stopped.lines()[-1]
    assert f"casewise run STUDY --output {copied.path}" in stopped.lines()[-1]


def test_the_time_left_follows_from_finished_jobs_and_is_shared_by_running_ones(copied: RunFolder) -> None:
    record = copied.job("linear_pixels", 0).record
    record.write(record.read() | {"seconds": 100.0})
    forget(copied, "linear_pixels", 1)
    copied.job("linear_pixels", 1).write_progress(1, 4)
    with copied.lock(), FileLock(copied.job("linear_pixels", 1).lock_path):
        assert run_status(copied).seconds_left == pytest.approx(75.0)


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
    assert 210 <= left < 3600  # a fourth took 30 s, so seven fourths remain


def test_another_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle.zip").touch()
    (tmp_path / "bundle").mkdir()
    BundleFolder(tmp_path / "bundle").manifest_path.touch()
    refused = {"": "is not a run folder", "nowhere": "There is no run folder", "bundle.zip": "a file"}
    for name, reason in {**refused, "bundle": "a bundle"}.items():
        with pytest.raises(RunError, match=reason):
            run_status(RunFolder(tmp_path / name))


def test_asking_does_not_stop_a_run_that_begins(copied: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MOMENT", 60)
    looking = FileLock(copied.path / ".lock", thread_local=False)
    looking.acquire()
    threading.Timer(0.1, looking.release).start()
    with copied.lock():
        assert not looking.is_locked


def verified_files(run: RunFolder) -> list[Path]:
    """The files of a run that are verified, of one job and without its bundle, whose manifest has tests of its own."""
    folders = [run.path, run.finished_jobs()[0].path]
    files = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file() and path.stat().st_size]
    return [path for path in files if path != run.training_table_path] + [run.bundle.manifest_path]


def test_every_missing_or_damaged_file_is_named(copied: RunFolder) -> None:
    unnoticed = []
    for path in verified_files(copied):
        data = path.read_bytes()
        for damaged in (b"", data[: len(data) // 2]):
            path.write_bytes(damaged)
            if not damaged:
                path.unlink()
            try:
                status = run_status(copied)
                text = " ".join(status.lines()) if status.damaged else ""
            except RunError as error:
                text = str(error)
            unnoticed += [] if path.stem in text else [(path.relative_to(copied.path), len(damaged), text)]
        path.write_bytes(data)
    assert unnoticed == []


def test_a_file_of_another_fold_is_damage(copied: RunFolder) -> None:
    first, second = (copied.job("linear_pixels", fold) for fold in (0, 1))
    shutil.copy(second.fingerprints.path, first.fingerprints.path)
    done = casewise("status", str(copied.path))
    assert done.returncode == 2
    assert "fold1/fingerprints.safetensors" in done.stdout.replace("\n", "").replace(" ", "")
