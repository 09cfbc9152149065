"""What is written over what: pages of the same format and folders of casewise, and nothing else."""

import os
from pathlib import Path

import pytest

from casewise.errors import RunError
from casewise.files import TEMPORARY
from casewise.run_folder import ExplanationFolder, RunFolder
from casewise.run_folder.folder import write_page


def test_a_page_replaces_only_a_page_of_its_format(tmp_path: Path) -> None:
    left = tmp_path / f"{TEMPORARY}{'0' * 16}-page.md"  # of a killed process
    left.touch()
    os.utime(left, (1, 1))
    page = write_page(tmp_path / "page.md", "first", ".md")
    assert not left.exists() or os.name == "nt"
    assert write_page(page, "second", ".md").read_text() == "second"
    for name in ("victim.csv", "photo.png", "study.yaml"):
        (tmp_path / name).write_text("precious")
        with pytest.raises(RunError):
            write_page(tmp_path / name, "page", ".md")
        assert (tmp_path / name).read_text() == "precious"
    with pytest.raises(RunError, match=r"page\.md"):
        write_page(tmp_path / "new.txt", "page", ".md")
    table = write_page(tmp_path / "list.csv", "item,section\n1,a\n", ".csv")
    assert write_page(table, "item,section\n2,b\n", ".csv").read_text().endswith("2,b\n")
    (tmp_path / "victim.csv").write_text("path,subject,label\n")
    for name in ("victim.csv", "."):
        with pytest.raises(RunError):
            write_page(tmp_path / name, "item,section\n", ".csv")


def test_the_report_of_a_run_is_never_replaced(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.study.write({})
    run.report.path.write_text("report")
    for path in (run.report.path, run.audit_page):
        with pytest.raises(RunError):
            write_page(path, "page", ".html")
    assert run.report.path.read_text() == "report"
    assert not run.audit_page.exists()
    assert write_page(tmp_path / "page.md", "page", ".md").exists()


def test_a_run_folder_is_new_empty_or_a_run(tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    (films / "a.png").write_bytes(b"image")
    with pytest.raises(RunError, match=r"a\.png"), RunFolder(films).lock():
        pass
    assert [path.name for path in films.iterdir()] == ["a.png"]
    with pytest.raises(RunError), RunFolder(films / "a.png").lock():
        pass
    run = RunFolder(tmp_path / "run")
    for _ in range(2):  # new, then one that has worked before
        with run.lock():
            run.cohort.path.touch()
            (run.path / "tiles").mkdir(exist_ok=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".DS_Store").touch()
    with RunFolder(tmp_path / "empty").lock():
        pass


@pytest.mark.plugins("explain")
def test_explanations_are_not_written_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"image")
    with pytest.raises(RunError, match=r"a\.png"):
        ExplanationFolder(tmp_path).begin()
    for _ in range(2):  # new, then interrupted before its table
        ExplanationFolder(tmp_path / "new").begin()
        (tmp_path / "new" / "P01").mkdir(exist_ok=True)
    ExplanationFolder(tmp_path).table.path.touch()
    ExplanationFolder(tmp_path).begin()
