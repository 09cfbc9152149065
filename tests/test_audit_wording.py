"""What the audit claims: codes of the label, borders with and without their appearance, sentences of all evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from casewise.audit import regions
from casewise.audit.columns import repeats
from casewise.audit.probes import Labels, ProbeResult
from casewise.audit.sentences import shortcut_sentence
from casewise.audit.shortcuts import Evidence, Kind, ShortcutTest
from tests.test_audit_shortcuts import look, make

Row = dict[str, Any]
GRADES = np.repeat([0.0, 1.0], 12)


@pytest.mark.parametrize(("column", "level"), [("source", "error"), ("label_source", "warning"), ("ward", "warning")])
def test_a_source_that_goes_with_the_label_one_to_one_stays_a_shortcut(tmp_path: Path, column: str, level: str) -> None:
    def change(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        row[column] = 1 + (row["label"] == "ill")

    found = {finding.id: finding for finding in look(make(tmp_path, change=change)).findings}
    assert found[f"shortcut-{column}"].level == level
    assert found[f"shortcut-{column}"].figures["value"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("taken_from", ("covid-dataset", "no finding archive")),
        ("covid_site", ("1", "0")),
        ("folder", ("covid", "no finding")),
    ],
)
def test_a_collection_called_after_its_class_is_not_the_label_in_other_words(
    name: str, values: tuple[str, str]
) -> None:
    cells = [values[0]] * 12 + [values[1]] * 12
    assert not repeats(name, cells, GRADES, ["covid", "no_finding"])


def test_a_border_without_its_appearance_states_the_border_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(pixels: np.ndarray, row: Row, random: np.random.Generator) -> None:
        if row["label"] == "ill":
            pixels += 45
            stripe = random.normal(15, 20)
            pixels[:, :6] += stripe
            pixels[:, -6:] -= stripe

    # only the brightness and contrast of the picture are made equal, so that something remains
    monkeypatch.setattr(regions, "without", lambda features, covariates: features)
    found = look(make(tmp_path, change=change))
    finding = next(finding for finding in found.findings if finding.id == "shortcut-border")
    as_it_is = finding.figures["as_it_is"]
    assert as_it_is["value"] > finding.figures["value"]
    assert f"{as_it_is['value']:.2f}" in finding.sentence
    assert "brightness" in finding.sentence
    values = {test["evidence"]: test["value"] for test in found.tested if test["evidence"].startswith("border")}
    assert values[finding.figures["evidence"]] == finding.figures["value"]
    assert values[as_it_is["evidence"]] == as_it_is["value"]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_evidence_has_a_sentence_with_one_verb(kind: Kind) -> None:
    result = ProbeResult(0.9, {"ill": 0.9, "well": 0.9}, np.zeros(9), np.zeros((40, 2)))
    evidence, labels = (
        Evidence("ward", kind, np.arange(40), np.zeros((40, 1))),
        Labels.of(np.repeat([0.0, 1.0], 20), range(40), ("ill", "well"), permutations=9, seed=0),
    )
    assert labels is not None
    answer = ShortcutTest(evidence, "label", labels, result, p=0.001, within="ill")
    sentence = shortcut_sentence(answer, source="site")
    assert sentence.count(" predicts ") == 1
    assert "AUROC 0.90 (chance 0.50, p = 0.001)" in sentence
