"""Failures of the disk are sentences and lose nothing; the state before the last one; the checks of killed runs."""

import errno
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from casewise.cli import main as command_line
from casewise.errors import RunError
from casewise.files import REMEDIES, TEMPORARY, read_regular, storage_message
from casewise.jobs.job import run_job
from casewise.jobs.plan import Job, JobInputs
from casewise.jobs.predict import FittedModel, predict
from casewise.run_folder import JobFolder, JsonFile, RunFolder
from casewise.training.compute_plan import ComputePlan
from tests.durability import checks
from tests.test_nested import material_of, small_study, small_table


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Make room on the disk of run"),
        (errno.EFBIG, "Lift the limit on the size of a file"),
        (errno.EROFS, "Make run writable"),
        (errno.EIO, "Bring run back"),
        (errno.EMFILE, "Check run"),
    ],
)
def test_the_sentence_names_file_reason_and_remedy(number: int, remedy: str) -> None:
    sentence = storage_message(OSError(number, os.strerror(number)), Path("run") / "metrics.json")
    assert sentence.startswith(f"{Path('run') / 'metrics.json'} could not be written: {os.strerror(number)}. ")
    assert remedy in sentence
    assert sentence.endswith("then give the same command again; what is finished is kept.")
    absent = storage_message(OSError(errno.ENOENT, os.strerror(errno.ENOENT)), Path("/proc/x"))
    assert not os.path.isdir("/proc") or "/proc takes no new files: choose another folder" in absent


@pytest.mark.parametrize("number", sorted(REMEDIES.keys() - {errno.ENOENT}))
def test_a_failure_of_the_disk_in_a_run_is_a_sentence(number: int, tmp_path: Path) -> None:
    path = tmp_path / "run" / "tiles" / "a.npy"
    with pytest.raises(RunError, match=r"a\.npy could not be written"), RunFolder(tmp_path / "run").lock():
        raise OSError(number, os.strerror(number), str(path))


def test_a_fault_of_casewise_keeps_its_traceback(tmp_path: Path) -> None:
    missing = FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "run" / "a.json"))
    for error in (missing, ValueError("a"), OSError("without a number")):
        with pytest.raises(type(error)) as raised, RunFolder(tmp_path / "run").lock():
            raise error
        assert raised.value is error


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/page.md"), "Make room on the disk of runs"),
        (OSError(errno.ENAMETOOLONG, "File name too long", 300 * "x"), f"{300 * 'x'} has a name"),
        (OSError(errno.EISDIR, "Is a directory", "runs"), "runs is a folder"),
        (MemoryError(), "not enough memory"),
        (ImportError("x.so: failed to map segment from shared object"), "not enough memory"),
    ],
)
def test_a_failure_of_the_disk_or_the_memory_in_any_command_has_exit_code_2(
    error: Exception, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise error

    monkeypatch.setattr(command_line, "command_line", lambda: full)
    monkeypatch.setattr(sys, "argv", ["casewise", "results"])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "Traceback" not in said
    assert remedy in " ".join(said.split())


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_bytes(bytes(1000))
    tracemalloc.start()
    assert read_regular(tmp_path / "cohort.csv", 200_000_000) == bytes(1000)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def fail_from(nth: int, number: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Let the n-th and all later openings for writing, renames and syncs fail; return their count."""
    count = Counter[str]()

    def failing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if name != "open" or given[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                count["operations"] += 1
                if count["operations"] >= nth:
                    raise OSError(number, os.strerror(number), str(given[0]))
            return function(*given, **named)

        return call

    for name in ("open", "replace", "fsync"):
        monkeypatch.setattr(os, name, failing(name, getattr(os, name)))
    return lambda: count["operations"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_whichever_write_fails_the_old_or_the_new_file_is_there_and_rewritten(number: int, tmp_path: Path) -> None:
    sentences: list[str] = []
    total = None
    for nth in range(10_000, 0, -1):
        if total is not None and nth > total:
            continue
        file = JsonFile(tmp_path / str(nth) / "study.json")
        file.write({"version": 1})
        with pytest.MonkeyPatch.context() as patched:
            operations = fail_from(nth, number, patched)
            try:
                file.write({"version": 2})
                silent = True
            except RunError as error:
                sentences.append(str(error))
                silent = False
        total = total or operations()
        assert file.read()["version"] == 2 if silent else file.read()["version"] in (1, 2)
        assert checks.damage(file.path.parent) == []
        file.write({"version": 2})
        assert file.read() == {"version": 2}
        assert not list(file.path.parent.glob(f"{TEMPORARY}*"))
    # only folders may be left to the system to bring to the disk
    assert total >= len(sentences) >= total - 4 > 2
    assert all(str(tmp_path) in sentence for sentence in sentences)
    assert all("then give the same command again" in sentence for sentence in sentences)


@pytest.mark.slow
def test_killed_runs_and_failed_disks_continue_to_the_same_bits(tmp_path: Path) -> None:
    words = ["--kills", "3", "--faults", "2", "--seed", "1", "--only", "slides", "--folder", str(tmp_path)]
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "tests.durability", *words]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "3 kills" in ended.stdout


@pytest.mark.parametrize(
    "recipe",
    [
        {
            "phases": [{"epochs": 1, "freeze": "all"}, {"epochs": 1, "freeze": "none"}],
            "schedule": "cosine",
            "early_stopping": {"monitor": "none"},
        },
        {"tuning": "gradual_unfreezing", "gradual_unfreezing": {"groups": 2, "epochs": 1}},
    ],
)
def test_a_job_that_ended_after_its_last_epoch_predicts_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]
) -> None:
    study = small_study(small_table(tmp_path / "cohort"), nested_cv=None, recipe={"batch_size": 4, "lr": 0.01} | recipe)
    inputs, formats = material_of(study, tmp_path / "run"), []

    def note(job: Job, inputs: JobInputs, fitted: FittedModel) -> Any:
        weights = [value for value in fitted.predictor.network.parameters() if value.ndim == 4]
        formats.append([value.is_contiguous(memory_format=torch.channels_last) for value in weights])
        if len(formats) == 1:
            raise KeyboardInterrupt
        return predict(job, inputs, fitted)

    monkeypatch.setattr("casewise.jobs.job.predict", note)
    job, whole = (Job("test_resnet", 0, JobFolder(tmp_path / name), "the test's") for name in ("job", "whole"))
    with pytest.raises(KeyboardInterrupt):
        run_job(job, inputs, ComputePlan())
    for each in (job, whole):
        run_job(each, inputs, ComputePlan())
    assert all(map(all, formats))
    for file in ("model.safetensors", "distance.safetensors", "predictions.parquet"):
        assert checks.sha256(job.folder.path / file) == checks.sha256(whole.folder.path / file), file
