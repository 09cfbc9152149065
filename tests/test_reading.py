"""Commands that read a finished run refuse a missing or damaged part by name, and change nothing in its folder."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import casewise
from casewise.analysis.comparison import compare
from casewise.console import Silent
from casewise.errors import DamagedError, RunError
from casewise.inference.model import load_bundle
from casewise.pipeline.bundle import archive_run
from casewise.pipeline.status import run_status
from casewise.report.results_page import results_page
from casewise.run import Run, reproduce, run
from casewise.run_folder import RunFolder

write_checklist = pytest.importorskip("casewise.plugins.checklist.filling").write_checklist
explain_run = pytest.importorskip("casewise.plugins.explain.command").explain_run
ExplainSettings = pytest.importorskip("casewise.plugins.explain.run").ExplainSettings
export = pytest.importorskip("casewise.plugins.export.command").export_run

JOB = "jobs/linear_pixels/fold1"
PARTS = ("audit.json", "cohort.parquet", "conformal.json", "counterfactuals.parquet", "fingerprint.json")
PARTS += ("input-checks.json", "metrics.json", "predictions.parquet", "splits.json", "stackers.json", "study.json")
PARTS += (f"{JOB}/model.json", f"{JOB}/job.json")


def readers(folder: Path, output: Path) -> dict[str, Callable[[], object]]:
    """Every command that reads a finished run, and writes elsewhere if at all."""
    return {
        "open_run": lambda: casewise.open_run(folder),
        "results": lambda: results_page(folder),
        "checklist": lambda: write_checklist(folder, "claim"),
        "bundle": lambda: archive_run(folder, output / "model.zip", Silent()),
        "explain": lambda: explain_run(folder, ExplainSettings()),
        "predict": lambda: load_bundle(folder),
        "export": lambda: export(folder, output / "graphs"),
        "compare": lambda: compare(folder, folder),
        "reproduce": lambda: reproduce(folder, output / "again"),
    }


def states(folder: Path) -> dict[str, str]:
    """The name of every file and folder, with a hash of its content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def status_of(folder: Path) -> str:
    """Why the run is not finished: an error, or a line of its status."""
    try:
        return run_status(RunFolder(folder)).unreported
    except RunError as error:
        return str(error)


@pytest.fixture
def copied(baseline_run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(baseline_run.folder, tmp_path / "run"))


def damages(path: Path) -> Iterator[str]:
    """Flip a byte of a file, cut it, and remove it, one after the other; then it is as before."""
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    yield "changed"
    path.write_bytes(content[:middle])
    yield "changed"
    path.unlink()
    yield "missing"
    path.write_bytes(content)


def test_every_part_of_the_results_is_recorded(baseline_run: Run) -> None:
    recorded = set(baseline_run.results["made_from"])
    assert recorded > set(PARTS) - {"metrics.json", f"{JOB}/job.json"}
    assert not any(name.endswith("job.json") for name in recorded)  # it has the seconds of the training


@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_or_missing_part_is_refused_by_name_and_unchanged(name: str, copied: Path, tmp_path: Path) -> None:
    for what in damages(copied / name):
        before = states(copied)
        for reader, read in readers(copied, tmp_path / "elsewhere").items():
            with pytest.raises(RunError, match=Path(name).name) as refused:
                read()
            text = str(refused.value)
            assert what in text, (reader, text)
            assert "un the study again" in text or "casewise run" in text, (reader, text)
            assert isinstance(refused.value, DamagedError) or what == "missing", reader
        assert Path(name).name in status_of(copied)
        assert states(copied) == before
    assert not (tmp_path / "elsewhere").exists()
    assert status_of(copied) == ""


def test_a_run_without_a_job_is_refused(copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied / JOB)
    before = states(copied)
    for read in readers(copied, tmp_path / "elsewhere").values():
        with pytest.raises(RunError, match=JOB):
            read()
    assert states(copied) == before


@pytest.mark.parametrize("name", ["model.safetensors", "distance.safetensors"])
def test_networks_without_a_file_are_not_bundled(name: str, copied: Path, tmp_path: Path) -> None:
    (copied / JOB / name).unlink()
    before = states(copied)
    with pytest.raises(RunError, match=rf"{name} is missing. Run the study again"):
        readers(copied, tmp_path / "elsewhere")["bundle"]()
    assert states(copied) == before
    assert results_page(copied)  # whose figures need no weights


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        ("audit.json", "findings"),
        ("conformal.json", "predictions"),
        ("cohort.parquet", "cohort"),
        ("splits.json", "splits"),
    ],
)
def test_a_run_that_is_open_refuses_what_was_damaged_since(name: str, attribute: str, copied: Path) -> None:
    opened = casewise.open_run(copied)
    for _ in damages(copied / name):
        before = states(copied)
        with pytest.raises(RunError, match=name):
            getattr(opened, attribute)
        assert states(copied) == before


def test_a_part_that_only_some_studies_have_counts_once_it_is_recorded(copied: Path, tmp_path: Path) -> None:
    folder = RunFolder(copied)
    assert casewise.open_run(copied).left_out == {}
    folder.left_out.write({"networks": {"cnn": {"1": "it diverged"}}})
    folder.metrics.write(folder.metrics.read() | {"made_from": folder.evaluated_files()})
    folder.check_finished()
    folder.left_out.path.unlink()
    for read in readers(copied, tmp_path / "elsewhere").values():
        with pytest.raises(RunError, match=r"left-out.json is missing. Run the study again"):
            read()


def test_a_damaged_bundle_of_a_run_is_not_used_and_is_written_again(copied: Path, tmp_path: Path) -> None:
    facts = copied / "bundle" / "bundle.json"
    content = facts.read_text()
    assert '"synthetic": true' in content
    facts.write_text(content.replace('"synthetic": true', '"synthetic": null'))
    before = states(copied)
    with pytest.raises(RunError, match=r"bundle.json"):
        load_bundle(copied)
    assert states(copied) == before
    archive_run(copied, tmp_path / "model.zip", Silent())
    assert facts.read_text() == content
    assert load_bundle(copied).about["synthetic"] is True


def test_running_the_study_again_mends_what_is_missing(baseline_run: Run, copied: Path, tmp_path: Path) -> None:
    for name in PARTS:
        if name != "study.json":
            (copied / name).unlink()
    shutil.rmtree(copied / JOB)
    again = run(baseline_run.study, copied)
    assert again.results.figures == baseline_run.results.figures
    assert all((copied / name).is_file() for name in PARTS)
    assert set(again.results["made_from"]) == set(baseline_run.results["made_from"])
    casewise.open_run(copied)
    archive_run(copied, tmp_path / "model.zip", Silent())
    (copied / "input-checks.json").unlink()  # alone, it is no reason to train or audit
    run(baseline_run.study, copied)
    assert load_bundle(copied).limits is not None
