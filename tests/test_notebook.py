"""The notebook page of the documentation: its code runs, and what it shows is of the kind that the page shows."""

import re
import sys
from pathlib import Path

import pytest

from tests.test_docs import DOCS

PAGE = DOCS / "tutorial-notebook.md"


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.syspath_prepend(str(DOCS))
    import executed_page

    yield executed_page
    sys.modules.pop("executed_page")


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
    here = Path.cwd()
    outputs = list(executed.execute(page, tmp_path))
    assert Path.cwd() == here
    assert ["picture" if o.picture else "text" if o.text else "" for o in outputs] == outputs_of(page)
    assert len(outputs) >= 12
    assert [path.name for path in (tmp_path / "runs").iterdir()]
    images = tmp_path / "images"
    images.mkdir()
    written = executed.with_outputs(page, outputs, images)
    assert outputs_of(written) == outputs_of(page)
    assert sorted(path.name for path in images.iterdir()) == sorted(
        path.name for path in (DOCS / "images").glob("notebook-*.png")
    )
    assert [cell["code"] for cell in executed.CELL.finditer(written)] == [
        cell["code"] for cell in executed.CELL.finditer(page)
    ]
