"""The run folder: what is written stays, what is damaged is set aside, what was killed is swept."""

import errno
import inspect
import json
import os
import shutil
import stat
from pathlib import Path

import pandas as pd
import pytest

from casewise.errors import DamagedError, RunError
from casewise.files import TEMPORARY, replacing, write_atomic
from casewise.run_folder import BundleFolder, ExplanationFolder, JobFolder, RunFolder, TextFile
from casewise.run_folder.artefact import CHECKSUMS, Part
from casewise.run_folder.job_folder import PretrainingFolder


def is_file(attribute: object) -> bool:
    return isinstance(attribute, (property, Part))


def file_names() -> set[str]:
    """The name of every file and folder that the run folder owns."""
    own = [RunFolder(Path()), JobFolder(Path()), PretrainingFolder(Path()), ExplanationFolder(Path())]
    own.append(BundleFolder(Path()))
    names = {CHECKSUMS, "jobs", ".lock"}
    for folder in own:
        for name in [name for name in dir(type(folder)) if is_file(inspect.getattr_static(folder, name))]:
            value = getattr(folder, name)
            for each in value if isinstance(value, tuple) else (value,):
                path = each if isinstance(each, Path) else getattr(each, "path", Path())
                names |= {path.name} - {""}
    return names


def test_the_file_and_its_folder_are_brought_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def replaced(source: Path, target: Path) -> None:
        order.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replaced)
    write_atomic(tmp_path / "file", "text")
    assert order == ["file", "replace", "folder"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "private", "text")
        os.umask(0o002)
        with replacing(tmp_path / "shared") as temporary:
            temporary.unlink()
            handle = os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600)  # as a library may write it
            os.close(handle)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("private", "shared")]
    assert modes == [0o600, 0o664]


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    target, job = write_atomic(tmp_path / "precious", "text"), JobFolder(tmp_path / "job")
    job.path.mkdir()
    for name in (".progress.partial", "progress.json", "spent.json"):
        (job.path / name).symlink_to(target)
    job.write_progress(1, 2)
    assert target.read_text() == "text"
    assert not job.progress_path.is_symlink()


def test_temporary_files_of_killed_processes_are_swept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    (folder.path / "explanations").mkdir(parents=True)
    for path in (folder.path, folder.explanation_folder.path):
        (path / f"{TEMPORARY}0011-model.safetensors").write_bytes(b"half")
        (path / ".something-else").write_bytes(b"kept")
    with folder.lock():
        assert sorted(path.name for path in folder.path.iterdir()) == [".lock", ".something-else", "explanations"]
    assert [path.name for path in folder.explanation_folder.path.iterdir()] == [".something-else"]
    for owner in (folder, folder.image_split):
        finished, other = (owner.job("cnn", fold) for fold in (0, 1))
        finished_job(finished.path)
        other.path.mkdir()
        for job in (finished, other):
            (job.path / f"{TEMPORARY}0033-external.parquet").write_bytes(b"half")
        with folder.lock():
            assert not list(finished.path.glob(f"{TEMPORARY}*"))
            assert list(other.path.glob(f"{TEMPORARY}*"))  # it may be in training
    job = JobFolder(tmp_path / "job")
    (job.path / "stage0").mkdir(parents=True)
    (job.path / "stage0" / f"{TEMPORARY}0022-state.safetensors").write_bytes(b"half")
    job.sweep()
    assert not list(job.path.glob("stage0/*"))


@pytest.mark.parametrize("final", [False, True])
def test_the_states_of_a_job_that_was_killed_after_its_record_are_removed(tmp_path: Path, final: bool) -> None:
    folder = RunFolder(tmp_path / "run")
    done, other = (folder.final_job(name) if final else folder.job(name, 0) for name in ("done", "other"))
    finished_job(done.path)
    for job in (done, other):
        (job.path / "stage0").mkdir(parents=True)
        for state in (job.path / "state.safetensors", job.path / "stage0" / "state.safetensors"):
            state.write_bytes(b"a state")
    files = {path.name for path in done.path.iterdir()} - {"state.safetensors", "stage0"}
    with folder.lock():
        assert not list(done.path.rglob("state.safetensors"))
        assert {path.name for path in done.path.iterdir()} - {"stage0", ".lock"} == files - {".lock"}
        assert len(list(other.path.rglob("state.safetensors"))) == 2  # it continues from them


def test_the_tenth_fold_comes_after_the_ninth(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for fold in (9, 1, 0, 8):
        finished_job(folder.job("cnn", fold).path)
    names = [job.path.name for job in folder.finished_jobs()]
    assert names == ["fold1", "fold2", "fold9", "fold10"]


def test_an_edited_file_is_refused_and_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write({"metrics": {}, "notes": []})
    folder.metrics.path.write_text('{"metrics": {"better": 1}, "notes": []}')
    with pytest.raises(DamagedError):
        folder.metrics.read()
    assert folder.metrics.read_or_none() is None
    assert (tmp_path / "metrics.json.damaged-1").is_file()
    assert "metrics.json.damaged-1" in caplog.text
    folder.metrics.write({"metrics": {}, "notes": ["new"]})
    assert folder.metrics.read()["notes"] == ["new"]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe"])
def test_a_damaged_json_file_without_a_checksum_is_no_traceback(tmp_path: Path, content: bytes) -> None:
    for file in (RunFolder(tmp_path).fingerprint, RunFolder(tmp_path).splits, JobFolder(tmp_path).record):
        file.path.write_bytes(content)
        with pytest.raises(DamagedError):
            file.read()
        assert file.peek() is None
        assert file.read_or_none() is None
        with pytest.raises(RunError):
            file.read()


def test_a_kill_between_checksum_and_move_leaves_a_folder_that_fits(tmp_path: Path) -> None:
    file, replace = RunFolder(tmp_path).compute, os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target) == file.path:
            raise KeyboardInterrupt
        replace(source, target)

    file.write({"a": 1}, "inputs 1")
    for number in (2, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                file.write({"a": number}, f"inputs {number}")
        assert (file.read(), file.made_from()) == ({"a": 1}, "inputs 1")
    file.write({"a": 4}, "inputs 4")
    assert (file.read(), file.made_from()) == ({"a": 4}, "inputs 4")


def test_a_step_is_computed_again_only_if_its_inputs_or_its_file_changed(tmp_path: Path) -> None:
    file, numbers = RunFolder(tmp_path).compute, iter(range(9))

    def step(inputs: str) -> int:
        return int(file.step(inputs, lambda: {"number": next(numbers)})["number"])

    assert [step(inputs) for inputs in ("a", "a", "b", "b", "a")] == [0, 0, 1, 1, 2]
    file.path.write_text('{"number": 7}')
    assert file.made_from() == ""
    assert [step("a"), step("a")] == [3, 3]
    assert (tmp_path / f"{file.path.name}.damaged-1").is_file()
    file.remove()
    assert step("a") == 4


def test_what_a_file_of_casewise_1_was_made_from_is_in_a_file_next_to_it(tmp_path: Path) -> None:
    job = JobFolder(tmp_path)
    table = pd.DataFrame({"y_pred": [2.0]})
    job.external_predictions.write(table)
    TextFile(tmp_path / "external-made-from").write("inputs")
    written = {name: list(checksums) for name, checksums in json.loads((tmp_path / CHECKSUMS).read_text()).items()}
    (tmp_path / CHECKSUMS).write_text(json.dumps(written))
    assert job.external_predictions.step("inputs", lambda: pytest.fail("computed again")).equals(table)
    with job.external_predictions.path.open("ab") as file:
        file.write(b" ")
    assert job.external_predictions.made_from() == ""


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_file_without_a_recorded_checksum_is_damaged(tmp_path: Path, content: bytes | None) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write({"metrics": {}, "notes": []})
    if content is None:
        (tmp_path / CHECKSUMS).unlink()
    else:
        (tmp_path / CHECKSUMS).write_bytes(content)
    with pytest.raises(DamagedError):
        folder.metrics.read()
    assert not list(tmp_path.glob("*.damaged-*"))  # a reader may not hold the lock
    assert folder.metrics.read_or_none() is None
    assert (tmp_path / "metrics.json.damaged-1").is_file()
    folder.metrics.write({"metrics": {}, "notes": []})
    assert (tmp_path / f"{CHECKSUMS}.damaged-1").is_file() == (content == b"")


def test_facts_and_weights_may_be_copied_without_checksums(tmp_path: Path) -> None:
    job, copy = finished_job(tmp_path / "job"), JobFolder(tmp_path / "copy")
    copy.path.mkdir()
    for name in (job.facts.path.name, job.weights.path.name):
        shutil.copy(job.path / name, copy.path / name)
    assert copy.facts.read() == {"subjects": []}
    assert copy.weights.verified().is_file()
    job.facts.path.write_text('{"subjects": ["another"]}')
    with pytest.raises(DamagedError):
        job.facts.read()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_unreadable_is_not_missing_nor_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    job = finished_job(tmp_path)

    def unreadable(path: Path, *arguments: object, **options: object) -> object:
        raise OSError(number, os.strerror(number))

    for name in ("open", "stat"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, unreadable)
            for read in (lambda: job.intact("f"), job.weights.intact, job.record.read_or_none, job.predictions.read):
                with pytest.raises(RunError, match=str(tmp_path)) as refused:
                    read()
                assert not isinstance(refused.value, DamagedError)
    assert job.intact("f")
    assert not list(tmp_path.glob("*.damaged-*"))


def finished_job(path: Path) -> JobFolder:
    job = JobFolder(path)
    with job.weights.replacing() as temporary:
        temporary.write_bytes(b"weights")
    job.facts.write({"subjects": []})
    job.predictions.write(pd.DataFrame({"y_true": [1.0], "y_pred": [2.0]}))
    job.finish({"model": "m", "fold": 1, "fingerprint": "f"})
    return job


def test_a_finished_job_is_intact_and_made_of_the_same_inputs(tmp_path: Path) -> None:
    job = finished_job(tmp_path)
    assert job.finished("f")
    assert job.intact("f")
    assert not job.intact("g")
    assert job.record.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "job.json"])
def test_a_damaged_job_is_done_again(tmp_path: Path, name: str) -> None:
    job = finished_job(tmp_path)
    (tmp_path / name).write_bytes(b"")
    assert not job.intact("f")
    assert (tmp_path / f"{name}.damaged-1").is_file()
    assert not job.record.exists()
