"""Findings, the verdict and the gate: what stops a run, what an `accept` does, and what is written."""

import json
from pathlib import Path

import numpy as np
import pytest

from casewise.audit.findings import CODES, Audit, Finding, is_code, read_audit
from casewise.errors import AuditError, CasewiseError
from casewise.run_folder import RunFolder

PAIRS = [(f"a{number}.png", f"b{number}.png") for number in range(7)]
TWINS = Finding(
    "twins-across-subjects", "error", "7 pairs are the same.", {"pairs": 7}, PAIRS, "Give both the same subject."
)
SOURCE = Finding("shortcut-source", "error", "source alone predicts label.", remedy="Study one source.")
WARNING = Finding("shortcut-sex", "warning", "sex alone predicts label.")
NOTE = Finding("twins-within-subject", "note", "2 pairs are copies.")


def test_an_error_stops_and_says_all_that_is_needed_to_go_on():
    with pytest.raises(AuditError) as stopped:
        Audit([TWINS, SOURCE, WARNING, NOTE]).gate({})
    told = str(stopped.value)
    assert isinstance(stopped.value, CasewiseError)
    assert "2 errors" in told
    for finding in (TWINS, SOURCE):
        assert finding.sentence in told
        assert finding.remedy in told
        assert f"accept: {{{finding.id}: " in told
    assert "a4.png = b4.png" in told
    assert "a5.png" not in told
    assert "and 2 more pairs" in told
    assert WARNING.sentence not in told
    assert NOTE.sentence not in told


def test_only_the_accepted_error_passes():
    audit = Audit([TWINS, SOURCE])
    with pytest.raises(AuditError) as stopped:
        audit.gate({"shortcut-source": "both sources are shown apart"})
    assert TWINS.sentence in str(stopped.value)
    assert SOURCE.sentence not in str(stopped.value)
    audit.gate({"shortcut-source": "shown apart", "twins-across-subjects": "one hospital's copies"})


def test_an_audit_is_written_as_plain_values_and_read_again(tmp_path: Path):
    odd = Finding("shortcut-age", "warning", "s", {"auc": np.float32(0.5), "p": float("nan"), "by": np.arange(2)})
    audit = Audit([odd, TWINS], {"twins": 1.5}, {"images": np.int64(3)})
    path = RunFolder(tmp_path).audit.write(audit.as_json({"twins-across-subjects": "why", "shortcut-x": "gone"}))
    told = json.loads(path.read_text())
    assert [finding["id"] for finding in told["findings"]] == ["twins-across-subjects", "shortcut-age"]
    assert told["findings"][1]["figures"] == {"auc": 0.5, "p": None, "by": [0, 1]}
    assert (told["accepted"], len(told["notes"])) == ({"twins-across-subjects": "why"}, 1)
    assert "shortcut-x" in told["notes"][0]
    again = read_audit(RunFolder(tmp_path).audit)
    assert (again.findings[0], again.facts, again.seconds) == (TWINS, {"images": 3}, {"twins": 1.5})
    assert again.verdict() == audit.verdict()


def test_findings_have_levels_and_names_that_exist():
    assert all(is_code(id) for id in CODES)
    with pytest.raises(ValueError, match="fatal"):
        Finding("shortcut-source", "fatal", "s")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="twin-problem"):
        Finding("twin-problem", "error", "s")
