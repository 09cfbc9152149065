"""The audit against what was planted: copies of films, a mark that follows the class, and nothing at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from casewise.audit.findings import Audit
from casewise.audit.run import audit
from casewise.audit.twins import find_twins
from casewise.cohort.cohort import Cohort, read_cohort
from casewise.console import Silent
from casewise.modalities.store.store import TileStore
from casewise.pipeline.read import prepare
from casewise.plugins.phantoms.chest import make_chest, plant_twins
from casewise.run_folder import RunFolder
from casewise.study.loading import build_study
from casewise.study.schema import Study

SEEDS = range(20)
# The share of copies that must be found; 0.95 for the other kinds.
REQUIRED = {"exact": 1.0, "turned": 0.98, "negative": 0.98, "tilted": 0.9, "zoomed": 0.9, "off-centre": 0.9}


def prepared(table: Path, folder: Path, size: int) -> tuple[Study, Cohort, TileStore]:
    values: dict[str, Any] = {
        "name": "planted",
        "cohort": str(table),
        "columns": {"visit": "", "date": ""},
        "images": {"size": size, "channels": "grey"},
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
    return study, cohort, prepare(study, cohort, RunFolder(folder), Silent())


def audited(table: Path, folder: Path) -> Audit:
    study, cohort, tiles = prepared(table, folder, 128)
    return audit(study, cohort, tiles, None)


@pytest.mark.slow
def test_planted_copies_are_found_among_two_thousand_films(tmp_path: Path) -> None:
    table = make_chest(tmp_path / "films", subjects=2000, size=(192, 192), seed=7)
    plant_twins(table, each=60, seed=8)
    _, cohort, tiles = prepared(table, tmp_path, 160)
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    truth = {row.path: (row.twin_of, row.twin_kind) for row in rows.itertuples() if row.twin_of}
    place = {str(path): number for number, path in enumerate(cohort.images["path"])}
    absolute = {path: str((table.parent / path).resolve()) for path in rows["path"]}
    pairs = {frozenset((twin.i, twin.j)) for twin in find_twins(tiles, cohort.images)}
    found = {
        copy: frozenset((place[absolute[copy]], place[absolute[original]])) in pairs
        for copy, (original, _) in truth.items()
    }
    for kind in sorted({kind for _, kind in truth.values()}):
        share = [found[copy] for copy, (_, k) in truth.items() if k == kind]
        assert sum(share) >= REQUIRED.get(kind, 0.95) * len(share), kind
    family = {copy: original for copy, (original, _) in truth.items()}
    same = {number: family.get(path, path) for path, number in ((p, place[a]) for p, a in absolute.items())}
    false = {number for pair in pairs if len({same[number] for number in pair}) > 1 for number in pair}
    assert len(false) <= 0.01 * 2000


@pytest.mark.slow
@pytest.mark.parametrize("marker", [None, "corner"])
def test_a_mark_that_follows_the_class_is_flagged_and_nothing_is_not(marker: str | None, tmp_path: Path) -> None:
    flagged = 0
    for seed in SEEDS:
        table = make_chest(tmp_path / f"films{seed}", subjects=90, size=(160, 160), seed=seed, marker=marker)  # type: ignore[arg-type]
        found = audited(table, tmp_path / f"tiles{seed}")
        flagged += bool(found.of("error") or found.of("warning"))
    assert flagged == len(SEEDS) if marker else flagged <= 1
