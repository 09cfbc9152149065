"""Golden figures of short studies: splits and metrics must not change unnoticed.

`make golden` writes them again after a change that is meant to move figures: read the difference before committing it.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from casewise.run import Run

FOLDER = Path(__file__).parent / "golden"
METRICS = ("accuracy", "auroc", "log_loss", "mae", "ccc")
# Processors round differently, which epochs of training amplify. Other labels, pixels or splits change more.
TOLERANCE = 0.01


def _splits(run: Run) -> dict[str, str]:
    """The cases of each stage and fold."""
    rows = run.predictions.drop_duplicates(["stage", "fold", "case"]).fillna({"fold": 0})
    groups = rows.groupby(["stage", "fold"])["case"]
    return {f"{stage} {fold}": " ".join(sorted(cases)) for (stage, fold), cases in groups}


def _figures(run: Run) -> dict[str, str]:
    """Value and interval of each learner's metrics."""
    rows = run.metrics[run.metrics["metric"].isin(METRICS)]
    names = rows[["learner", "target", "stage", "metric"]].agg(" ".join, axis=1)
    values = (f"{value:.4f} [{low:.4f}, {high:.4f}]" for value, low, high in rows[["value", "low", "high"]].to_numpy())
    return dict(zip(names, values, strict=True))


def check_figures(name: str, run: Run) -> None:
    """Compare a run with `golden/figures-NAME.json`."""
    path = FOLDER / f"figures-{name}.json"
    actual: dict[str, Any] = {"splits": _splits(run), "figures": _figures(run)}
    if os.environ.get("CASEWISE_GOLDEN"):
        path.write_text(json.dumps(actual, indent=1) + "\n")
    golden = json.loads(path.read_text())
    assert actual["splits"] == golden["splits"]
    assert actual["figures"].keys() == golden["figures"].keys()
    for figure, text in golden["figures"].items():
        assert _numbers(actual["figures"][figure]) == pytest.approx(_numbers(text), abs=TOLERANCE, nan_ok=True), figure


def _numbers(text: str) -> list[float]:
    return [float(number.strip("[],")) for number in text.split()]
