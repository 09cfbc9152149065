"""The audit against what was planted: copies of films, a mark that follows the class, and nothing at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from casewise.audit.findings import Audit
from casewise.audit.run import audit
from casewise.cohort.cohort import read_cohort
from casewise.console import Silent
from casewise.pipeline.read import prepare
from casewise.plugins.phantoms.chest import make_chest
from casewise.run_folder import RunFolder
from casewise.study.loading import build_study

SEEDS = range(20)


def audited(table: Path, folder: Path) -> Audit:
    values: dict[str, Any] = {
        "name": "planted",
        "cohort": str(table),
        "columns": {"visit": "", "date": ""},
        "images": {"size": 128, "channels": "grey"},
        "panels": {"by": "image"},
        "targets": {"label": ["covid", "no_finding", "pneumonia"]},
        "audit": {"mask": "lung_mask"},
        "baselines": {"off": "tests of networks"},
        "backbones": ["test_resnet"],
        "weights": "random",
        "evaluation": {"response": False},
    }
    study = build_study(values, source="test", folder=folder)
    cohort = read_cohort(study)
    return audit(study, cohort, prepare(study, cohort, RunFolder(folder), Silent()), None)


@pytest.mark.slow
@pytest.mark.parametrize("marker", [None, "corner"])
def test_a_mark_that_follows_the_class_is_flagged_and_nothing_is_not(marker: str | None, tmp_path: Path) -> None:
    flagged = 0
    for seed in SEEDS:
        table = make_chest(tmp_path / f"films{seed}", subjects=90, size=(160, 160), seed=seed, marker=marker)  # type: ignore[arg-type]
        found = audited(table, tmp_path / f"tiles{seed}")
        flagged += bool(found.of("error") or found.of("warning"))
    assert flagged == len(SEEDS) if marker else flagged <= 1
