"""Failures of the disk are sentences and lose nothing; the state before the last one; the checks of killed runs."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from casewise.cli import main as command_line
from casewise.errors import CasewiseError, RunError
from casewise.files import REMEDIES, TEMPORARY, staging_folder, storage_message, write_atomic, write_json
from casewise.inference.predictor import Predictor
from casewise.jobs.job import run_job
from casewise.jobs.plan import Job, JobInputs
from casewise.jobs.predict import FittedModel, predict
from casewise.run_folder import JobFolder, JsonFile, RunFolder, StateFile
from casewise.training.checkpoint import load_state, write_tensors
from casewise.training.compute_plan import ComputePlan
from tests.durability import checks
from tests.test_nested import material_of, small_study, small_table
from tests.test_training import same, trained


class TestState:
    def save(self, file: StateFile, number: int) -> None:
        write_tensors(file, {"number": torch.tensor([number])}, {})

    def number(self, file: StateFile) -> int:
        from safetensors.torch import load_file

        return int(load_file(file.verified())["number"])

    def test_the_state_before_is_kept_and_no_other(self, tmp_path: Path) -> None:
        file = StateFile(tmp_path / "state.safetensors")
        for number in range(4):
            self.save(file, number)
        assert sorted(os.listdir(tmp_path)) == ["checksums.json", "state-before.safetensors", "state.safetensors"]
        assert (self.number(file), self.number(StateFile(file.before.path))) == (3, 2)
        recorded = json.loads((tmp_path / "checksums.json").read_text())
        assert len(recorded["state-before.safetensors"]) <= 3
        assert checks.damage(tmp_path) == []
        file.remove()
        assert os.listdir(tmp_path) == ["checksums.json"]

    @pytest.mark.parametrize("how", ["damaged", "cut", "missing"])
    def test_it_is_used_where_the_last_is_damaged(
        self, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = StateFile(tmp_path / "state.safetensors")
        self.save(file, 1)
        self.save(file, 2)
        data = bytearray(file.path.read_bytes())
        data[-1] ^= 1
        {
            "damaged": lambda: file.path.write_bytes(data),
            "cut": lambda: file.path.write_bytes(data[: len(data) // 2]),
            "missing": file.path.unlink,
        }[how]()
        with caplog.at_level(logging.WARNING, "casewise"):
            assert file.intact()
        assert self.number(file) == 1
        assert not file.before.exists()
        assert "continues from the state that was saved before the last one" in caplog.text
        assert ("was changed or damaged" in caplog.text) == (how != "missing")
        self.save(file, 2)
        assert (self.number(file), self.number(StateFile(file.before.path))) == (2, 1)

    def test_a_damaged_state_does_not_replace_the_one_before(self, tmp_path: Path) -> None:
        file = StateFile(tmp_path / "state.safetensors")
        self.save(file, 1)
        self.save(file, 2)
        file.path.write_bytes(b"other")
        self.save(file, 3)
        assert (self.number(file), self.number(StateFile(file.before.path))) == (3, 1)

    def test_an_end_at_any_rename_leaves_a_state(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        replace, renames = os.replace, Counter[str]()

        class EndError(BaseException):
            pass

        def ended(source: Any, target: Any) -> None:
            renames["done"] += 1
            if renames["done"] == renames["end at"]:
                raise EndError
            replace(source, target)

        monkeypatch.setattr(os, "replace", ended)
        for end_at in range(1, 7):
            renames.clear()
            file = StateFile(tmp_path / str(end_at) / "state.safetensors")
            self.save(file, 1)
            self.save(file, 2)
            renames.update({"end at": renames["done"] + end_at})
            if end_at <= 4:  # two records, two states
                with pytest.raises(EndError):
                    self.save(file, 3)
            else:
                self.save(file, 3)
            renames["end at"] = 0
            assert checks.damage(file.path.parent) == []
            assert file.intact()
            assert self.number(file) == (3 if end_at > 4 else 2)

    def test_a_training_whose_last_state_is_damaged_ends_in_the_same_bits(self, tmp_path: Path) -> None:
        whole = trained(tmp_path / "whole", 4)
        trained(tmp_path / "cut", 3)
        state = tmp_path / "cut" / "state.safetensors"
        last, before = (
            len(load_state(path)["history"]) for path in (state, state.with_name("state-before.safetensors"))
        )
        assert (last, before) == (3, 2)
        state.write_bytes(state.read_bytes()[:-7])
        continued = trained(tmp_path / "cut", 4)
        assert whole.history == continued.history
        assert same(whole.network, continued.network)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Make room on the disk of run"),
        (errno.EDQUOT, "Make room on the disk of run"),
        (errno.EFBIG, "Make room on the disk of run"),
        (errno.EROFS, "Make run writable"),
        (errno.ESTALE, "Bring run back"),
        (errno.EIO, "Bring run back"),
        (errno.EACCES, "Check the permissions of run"),
        (errno.EMFILE, "Check run"),
    ],
)
def test_the_sentence_names_file_reason_and_remedy(number: int, remedy: str) -> None:
    sentence = storage_message(OSError(number, os.strerror(number)), Path("run") / "metrics.json")
    assert sentence.startswith(f"{Path('run') / 'metrics.json'} could not be written: {os.strerror(number)}. ")
    assert remedy in sentence
    assert sentence.endswith("then give the same command again; what is finished is kept.")


class TestVanishedFolder:
    @pytest.mark.parametrize("how", ["removed", "replaced by an empty folder"])
    def test_it_is_not_made_again(self, how: str, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path / "run")
        with pytest.raises(RunError, match="was removed, unmounted or replaced"), folder.lock():  # noqa: PT012
            folder.study.write({"name": "a"})
            folder.path.rename(tmp_path / "elsewhere")
            if how != "removed":
                folder.path.mkdir()
            JsonFile(folder.jobs_folder / "net" / "fold1" / "job.json").write({"name": "b"})
        assert not folder.path.exists() or os.listdir(folder.path) == []
        (tmp_path / "elsewhere").rename(folder.path) if how == "removed" else None

    def test_what_fails_afterwards_is_a_consequence(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path / "run")
        with pytest.raises(RunError, match="was removed, unmounted or replaced"), folder.lock():  # noqa: PT012
            shutil.rmtree(folder.path)
            raise RuntimeError("a library could not open its file")

    def test_other_folders_are_written_as_before(self, tmp_path: Path) -> None:
        with RunFolder(tmp_path / "run").lock():
            shutil.rmtree(tmp_path / "run")
            write_json(tmp_path / "runs" / "other.json", {})
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / ".lock").touch()
            RunFolder(tmp_path / "run").study.write({"name": "a"})
        assert (tmp_path / "runs" / "other.json").read_text().split() == ["{}"]
        assert RunFolder(tmp_path / "run").study.read() == {"name": "a"}


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


def test_a_failure_of_the_disk_in_any_command_has_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "page.md"))

    monkeypatch.setattr(command_line, "command_line", lambda: full)
    monkeypatch.setattr(sys, "argv", ["casewise", "results"])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "Traceback" not in said
    assert f"Make room on the disk of {tmp_path}" in " ".join(said.split())


def test_a_page_that_the_shell_cannot_write_has_a_sentence_too() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    sentence = "The output could not be written: No space left on device. Make room on the disk of its folder."
    assert command_line._storage_failure(full) == sentence
    assert command_line._storage_failure(OSError("of another kind")) is None
    assert command_line._storage_failure(BrokenPipeError(errno.EPIPE, "Broken pipe")) is None


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
def test_whichever_write_fails_the_old_or_the_new_file_is_there_and_it_can_be_written_again(
    number: int, tmp_path: Path
) -> None:
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
    assert total is not None
    assert total >= len(sentences) >= total - 4 > 2
    assert all(str(tmp_path) in sentence for sentence in sentences)
    assert all("then give the same command again" in sentence for sentence in sentences)


class TestChecks:
    def test_they_see_every_damage(self, tmp_path: Path) -> None:
        file = JsonFile(tmp_path / "metrics.json")
        file.write({"value": 1})
        write_atomic(tmp_path / "report.html", "<html></html>\n")
        assert checks.damage(tmp_path) == []
        spoilt = {
            "metrics.json": '{"value": 2}',
            "other.json": "{",
            "report.html": "<html>",
            "bundle.zip": "PK",
            "weights.safetensors": "unrecorded",
            "study.json.damaged-1": "",
        }
        for name, content in spoilt.items():
            path = tmp_path / name
            before = path.read_bytes() if path.exists() else None
            path.write_text(content)
            assert len(checks.damage(tmp_path)) == 1, name
            path.unlink() if before is None else path.write_bytes(before)
        assert checks.damage(tmp_path) == []


@pytest.mark.slow
def test_killed_runs_and_failed_disks_continue_to_the_same_bits(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.durability.harness import durability, summary; "
        "tallies = durability(Path(sys.argv[1]), kills=3, faults=2, seed=1, only='slides'); print(summary(tallies)); "
        "sys.exit(any(tally.failures for tally in tallies) or sum(tallies[0].kills.values()) < 3)"
    )
    root = Path(__file__).resolve().parents[1]
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True)
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
    study = small_study(
        small_table(tmp_path / "cohort"), nested_cv=None, recipe={"batch_size": 4, "lr": 0.01, **recipe}
    )
    inputs = material_of(study, tmp_path / "run")
    formats = []

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


@pytest.mark.skipif(os.name == "nt", reason="folders are not locked on this system")
def test_a_folder_of_results_that_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from casewise.files import staging_folder\n"
        "with staging_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'patient.json').write_text('{}')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    fhir, other = tmp_path / "fhir", tmp_path / f"{TEMPORARY}{'0' * 16}-sr"
    killed = subprocess.run([sys.executable, "-c", code, "fhir"], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / "patient.json").is_file()
    other.mkdir()
    (tmp_path / f"{TEMPORARY}{'1' * 16}-fhir").symlink_to(other, target_is_directory=True)
    with staging_folder(fhir) as own:
        assert own.stat().st_mode & 0o077 == 0
        (own / "a.json").write_text("{}")
        assert not left.exists()
        with staging_folder(fhir) as second:
            assert (own / "a.json").exists()  # a process at work keeps its folder
            assert second != own
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([other.name, f"{TEMPORARY}{'1' * 16}-fhir"])


def test_nothing_is_written_when_the_folder_of_unfinished_results_has_vanished(tmp_path: Path) -> None:
    with staging_folder(tmp_path / "fhir") as folder:
        write_atomic(folder / "a.json", "{}")
        shutil.rmtree(folder)
        with pytest.raises(RunError, match="was removed"):
            write_atomic(folder / "b.json", "{}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("broken", "value"), [("weights", np.nan), ("outputs", np.inf)])
def test_a_job_without_finite_numbers_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, value: float
) -> None:
    study = small_study(small_table(tmp_path / "cohort"), nested_cv=None, recipe={"batch_size": 4, "epochs": 1})
    inputs = material_of(study, tmp_path / "run")
    original = Predictor.predict_with_features

    def one_without_a_number(self: Predictor, dataset: Any) -> Any:
        values, features = original(self, dataset)
        values[0] = value
        return values, features

    def another_weight(job: Job, inputs: JobInputs, fitted: FittedModel) -> Any:
        predictions = predict(job, inputs, fitted)
        next(fitted.predictor.network.parameters()).data.fill_(value)
        return predictions

    if broken == "outputs":
        monkeypatch.setattr(Predictor, "predict_with_features", one_without_a_number)
    else:
        monkeypatch.setattr("casewise.jobs.job.predict", another_weight)
    job = Job("test_resnet", 0, JobFolder(tmp_path / "job"), "the test's")
    with pytest.raises(CasewiseError, match=r"test_resnet, fold 1: .*finite"):
        run_job(job, inputs, ComputePlan())
    assert not job.folder.record.exists()
