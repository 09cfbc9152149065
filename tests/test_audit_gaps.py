"""Whether a column is filled in is evidence of its own, whatever it holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.audit.columns import FILLED, columns_with_gaps, label_gaps
from casewise.audit.probes import ALPHA, Labels, adjusted, probe
from casewise.report.blocks import Table
from casewise.report.context import read_context
from casewise.report.sections import labels
from casewise.report.sections.designs import covariates
from casewise.run import run
from casewise.run_folder import RunFolder
from tests.chest_study import FAST, chest_study
from tests.report.shared import blocks_of
from tests.test_audit_shortcuts import look, make, opened

Row = dict[str, Any]
CELLS = {
    "number": lambda random: f"{random.normal(50, 9):.3f}",
    "date": lambda random: f"20{random.integers(10, 24)}-{random.integers(1, 13):02}-{random.integers(1, 29):02}",
    "text": lambda random: "".join(random.choice(list("abcdefgh "), 20)).strip() + "x",
    "file": lambda random: f"masks/{random.integers(10**6)}.png",
    "level": lambda random: str(random.choice(["low", "high"])),
    "one value": lambda random: "done",
}


def gaps_in(label: str, cell: Any, missing: float = 0.9) -> Any:
    """A column `crp` of noise that is empty for most subjects of one class."""
    cells: dict[str, str] = {}

    def change(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        if row["subject"] not in cells:
            cells[row["subject"]] = "" if row["label"] == label and random.random() < missing else cell(random)
        row["crp"] = cells[row["subject"]]

    return change


@pytest.mark.parametrize(
    ("kind", "settings", "level"),
    [
        *((kind, {}, "warning") for kind in CELLS),
        ("number", {"covariates": ["crp"]}, "error"),
        ("level", {"covariates": ["crp"]}, "error"),
        ("number", {"audit": {"permutations": 199, "columns": ["crp"]}}, "error"),
    ],
)
def test_gaps_that_follow_the_class_are_a_finding(
    tmp_path: Path, kind: str, settings: dict[str, Any], level: str
) -> None:
    study = make(tmp_path, change=gaps_in("well", CELLS[kind]), **settings)
    found = look(study)
    (finding,) = (finding for finding in found.findings if finding.id == "shortcut-crp")
    assert finding.level == level
    assert finding.figures["value"] > 0.85
    (test,) = (test for test in found.tested if test["evidence"] == f"crp{FILLED}")
    assert test["by_filling"]
    assert test["p_adjusted"] <= ALPHA


def test_gaps_of_masks_and_of_named_columns(tmp_path: Path) -> None:
    study = make(tmp_path, change=gaps_in("well", CELLS["file"]), images={"lesion": "crp"})
    assert columns_with_gaps(study, opened(study)[0].images) == ["crp"]
    assert {f.id: f.level for f in look(study).findings}["shortcut-crp"] == "warning"
    named = study.model_copy(update={"audit": study.audit.model_copy(update={"outcomes": ["crp"]})})
    assert columns_with_gaps(named, opened(study)[0].images) == []


def test_gaps_that_follow_a_number(tmp_path: Path) -> None:
    def change(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        score = int(row["subject"][1:]) % 11
        row["score"] = score
        row["crp"] = "" if score < 5 and row["subject"] != "s1" else f"{random.normal():.3f}"

    study = make(tmp_path, change=change, targets={"score": {"range": [0, 10], "level": "image"}})
    figures = {finding.id: finding.figures for finding in look(study).findings}
    assert figures["shortcut-crp"]["metric"] == "r"
    assert figures["shortcut-crp"]["value"] > 0.6


def test_columns_with_the_same_gaps_are_tested_once(tmp_path: Path) -> None:
    change = gaps_in("well", CELLS["number"])

    def several(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        change(pixels, row, random)
        row["ldh"] = row["crp"] and f"{random.normal():.3f}"

    tested = [test["evidence"] for test in look(make(tmp_path, change=several)).tested]
    assert tested.count(f"crp{FILLED}") == 1
    assert f"ldh{FILLED}" not in tested


def test_gaps_at_random_seldom_alarm() -> None:
    """Twelve columns with gaps of every size, in 40 cohorts without a signal: alarms at the stated level at most."""
    alarms = 0
    for seed in range(40):
        random = np.random.default_rng([seed, 5])
        labels = Labels.of(np.repeat([0.0, 1.0], 40), range(80), ["ill", "well"], permutations=199, seed=seed)
        assert labels is not None
        filled = random.random((80, 12)) < np.linspace(0.1, 0.9, 12)
        answers = [probe(column[:, None].astype(float), labels, seed=seed) for column in filled.T]
        alarms += min(adjusted([answer for answer in answers if answer])) <= ALPHA
    assert alarms <= 3  # expected: 0.4; more in one of a thousand such tests


def test_gaps_at_random_are_no_finding(tmp_path: Path) -> None:
    def change(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        subject = np.random.default_rng(int(row["subject"][1:]))
        row.update({f"lab{n}": "" if subject.random() < 0.4 else f"{random.normal():.2f}" for n in range(6)})

    found = look(make(tmp_path, change=change))
    assert not [finding.id for finding in found.findings if "lab" in finding.id]
    assert {f"lab{n}{FILLED}" for n in range(6)} <= {str(test["evidence"]) for test in found.tested}


def test_the_report_has_the_gaps_by_outcome(chests: Path, tmp_path: Path) -> None:
    table = pd.read_csv(chests)
    random = np.random.default_rng(3)
    table["crp"] = random.normal(size=len(table)).round(3).astype(str)
    table.loc[table["label"] == "no_finding", "crp"] = ""
    table["full"] = "1"
    table.to_csv(chests.with_name("gaps.csv"), index=False)
    accept = {"shortcut-crp": "the test's", **FAST["accept"]}
    study = chest_study(
        chests.with_name("gaps.csv"), **{**FAST, "accept": accept}, covariates=["crp"], audit={"permutations": 199}
    )
    folder = RunFolder(run(study, tmp_path / "run").folder)
    context = read_context(folder.path)
    (shown,) = blocks_of(labels.section(context), Table)
    cells = {row.name: [cell.text for cell in row.cells] for row in shown.rows}
    assert list(cells) == ["crp"]
    none, every = (f"{count} of 8" for count in (0, 8))
    assert sorted(text.partition(" (")[0] for text in cells["crp"]) == [none, none, every]
    (gap,) = label_gaps(context.audit, "label", ["crp"])
    assert gap[:2] == ("crp", "auroc")
    assert gap[2] > 0.8
    section = covariates.section(context)
    assert section is not None
    assert any("crp" in str(block) and "filled in" in str(block) for block in section.blocks)
