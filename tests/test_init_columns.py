"""Which columns of a user's table are understood as what, and what is said of weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from casewise.initialise.columns import understand_columns
from casewise.initialise.recipe import weights_text
from casewise.study.model import read_duration


def test_a_column_that_counts_rows_is_no_subject_while_another_repeats() -> None:
    cells = {
        "Nr.": [str(number) for number in range(1, 13)],
        "Fall": [f"F{number // 2:03}" for number in range(12)],
        "Befund": ["krank", "gesund"] * 6,
    }
    roles = understand_columns(cells, target="Befund", files=[], numbers=list(range(12)))
    assert roles.subject == "Fall"
    assert any("'Nr.' counts the rows" in doubt for doubt in roles.doubts)
    without = {name: values for name, values in cells.items() if name != "Fall"}
    assert understand_columns(without, target="Befund", files=[], numbers=list(range(12))).subject == "Nr."
    gaps = {**cells, "Nr.": [str(3 * number) for number in range(12)]}
    assert understand_columns(gaps, target="Befund", files=[], numbers=list(range(12))).subject == "Nr."


def test_missing_weights_are_stated_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "mobilenet_v2" in weights_text("mobilenet_v2")
    monkeypatch.delenv("CASEWISE_WEIGHTS", raising=False)
    assert "names no folder" in weights_text("")
    monkeypatch.setenv("CASEWISE_WEIGHTS", str(tmp_path))
    assert f"{tmp_path}, which CASEWISE_WEIGHTS names, has none" in weights_text("")
    monkeypatch.setenv("CASEWISE_WEIGHTS", str(tmp_path / "typo"))
    assert "does not exist" in weights_text("")


@pytest.mark.parametrize(("written", "seconds"), [("30 mins", 1800), ("90 secs", 90)])
def test_plural_units_are_durations(written: str, seconds: float) -> None:
    assert read_duration(written) == seconds
