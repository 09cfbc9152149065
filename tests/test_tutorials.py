"""The code of the tutorials and of the notebook page runs, and prints what they show."""

import re
import socket
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.test_docs import DOCS

# Tutorials that share a folder are executed one after the other.
TUTORIALS = [("photographs", "serve"), ("xrays",), ("slides",), ("volumes",)]
LARGEST_PICTURE, LARGEST_ALL = 150_000, 1_500_000


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DOCS))
    return import_module("tutorial_commands")


def text(name: str) -> str:
    return (DOCS / f"tutorial-{name}.md").read_text(encoding="utf-8")


def check(commands: Any, folder: Path, names: tuple[str, ...]) -> int:
    """Execute tutorials, and compare what is printed with what they show; the number of compared blocks."""
    compared = 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with commands.Shell(folder, port=port) as shell:
        for name in names:
            for run, shown, printed in shell.execute(text(name)):
                assert commands.is_shown(shown, printed), f"{run}\nshows\n{shown}\nand prints\n{printed}"
                compared += bool(shown)
    return compared


@pytest.mark.slow
@pytest.mark.parametrize("names", TUTORIALS, ids=["+".join(names) for names in TUTORIALS])
def test_a_tutorial_is_true(commands: Any, tmp_path: Path, names: tuple[str, ...]) -> None:
    assert check(commands, tmp_path, names) >= 5


PAGE = DOCS / "tutorial-notebook.md"


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DOCS))
    return import_module("executed_page")


def outputs_of(page: str) -> list[str]:
    """`text`, `picture` or nothing for each block."""
    blocks = re.findall(r"^```python\n.*?^```\n(\n<!-- output -->\n.*?<!-- end of output -->)?", page, re.M | re.S)
    return ["picture" if "](images/" in block else "text" if block else "" for block in blocks]


@pytest.mark.slow
def test_the_code_of_the_page_runs_and_shows_what_the_page_shows(executed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page = PAGE.read_text(encoding="utf-8")
    stated = ("subjects=24", "epochs: 20", '"epochs": 20', "resamples: 500")
    for setting, quicker in zip(stated, ("subjects=12", "epochs: 2", '"epochs": 2', "resamples: 100"), strict=True):
        assert setting in page
        page = page.replace(setting, quicker)
    here, outputs = Path.cwd(), list(executed.execute(page, tmp_path))
    assert Path.cwd() == here
    assert ["picture" if o.picture else "text" if o.text else "" for o in outputs] == outputs_of(page)
    assert len(outputs) >= 12
    assert [path.name for path in (tmp_path / "runs").iterdir()]
    images = tmp_path / "images"
    images.mkdir()
    written = executed.with_outputs(page, outputs, images)
    assert outputs_of(written) == outputs_of(page)
    assert {path.name for path in images.iterdir()} == {path.name for path in (DOCS / "images").glob("notebook-*.png")}
    assert [c["code"] for c in executed.CELL.finditer(written)] == [c["code"] for c in executed.CELL.finditer(page)]
