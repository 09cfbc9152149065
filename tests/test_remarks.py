"""Caveats of learners that learned nothing, the line of results, and the record of the command."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.evaluation.bootstrap import mean_by_subject
from casewise.evaluation.caveats import guess, no_better
from casewise.evaluation.figures import Cell, Estimate, Figures
from casewise.evaluation.results import Headline, Results
from casewise.pipeline.status import environment
from casewise.report.caveats import result_line


def test_guessing_uses_training_subjects_only() -> None:
    truths, folds = [0.0, 2.0, 1.0, 10.0, 20.0, 9.0], [1, 1, 1, 2, 2, None]
    rows = pd.DataFrame({"stage": ["oof"] * 5 + ["test"], "y_true": truths, "outer_fold": folds, "target": "pasi"})
    rows["kind"] = "regression"
    subjects = [f"S{i}" for i in range(6)]
    rows = rows.assign(case=subjects, subject=subjects, region="", image="", model="net", y_pred=rows["y_true"] + 1)
    told = {each["stage"]: each for each in guess(rows, "pasi")}
    # the medians are 2 of all, 15 of fold 2 and 1 of fold 1: |9 − 2|, and (15 + 13 + 14 + 9 + 19) / 5
    assert {stage: note["error"] for stage, note in told.items()} == {"test": 7.0, "oof": 14.0}
    # errors of 1 against 15, 13, 14, 9 and 19
    paired = mean_by_subject(1 - np.array([15, 13, 14, 9, 19]), subjects[:5])
    assert told["oof"]["gaps"] == {"net": [paired.low, paired.high, paired.rough]}


def test_a_network_that_learned_nothing_is_found() -> None:
    for losses, nothing in (([1.4, 1.1], True), ([1.2, 0.6], False)):
        assert no_better({"history": [{"stop_loss": loss} for loss in losses]}) is nothing
    for loss, nothing in ((0.7, True), (0.6, False)):
        assert no_better({"history": [{"stop_loss": 0.1}], "guess_loss": 0.0})
        assert no_better({"inner": {"chosen": {"loss": loss, "guess_loss": 0.69}}}) is nothing
    assert no_better({"history": []}) is None


def line(outcome: str, stage: str, kind: str, figures: dict[str, Estimate], *, known: bool = True) -> str:
    """The line of results of a study whose headline has these figures."""
    main = Headline(outcome, stage, "net", None, kind)
    study: Any = SimpleNamespace(primary_outcome=outcome, external_name="", targets={}, scores={}, subjects_known=known)
    study.kind_of, study.classes_of, study.level_of = (lambda name: kind), (lambda name: []), (lambda name: "case")
    return result_line(study, Results(main, Figures({Cell(stage, "net", outcome): figures})))


def test_the_command_is_recorded_with_its_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/casewise", "run", "my study.yaml", "--jobs", "2"])
    assert environment(1.0)["command"] == "casewise run 'my study.yaml' --jobs 2"
    monkeypatch.setattr("sys.argv", ["/src/casewise/cli/main.py", "run", "s.yaml"])
    assert environment(1.0)["command"] == "casewise run s.yaml"
    monkeypatch.setattr("sys.argv", ["pytest"])
    assert "Python" in environment(1.0)["command"]
