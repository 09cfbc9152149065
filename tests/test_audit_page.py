"""The page of the audit: every pair once, registered; self-contained, bounded, escaped; also where a run stops."""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.audit.findings import Audit
from casewise.audit.twin_findings import twin_findings
from casewise.audit.twins import find_twins
from casewise.console import Silent
from casewise.errors import AuditError
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.store_builder import prepare
from casewise.pipeline.audit import audit_alone
from casewise.plugins.phantoms.chest import make_chest
from casewise.plugins.phantoms.twins import plant_twins
from casewise.report.audit_page import write_audit_page
from casewise.run_folder import RunFolder
from casewise.study.schema import Study
from tests.chest_study import chest_study


def film(number: int) -> np.ndarray:
    noise = np.random.default_rng(number).standard_normal((160, 140))
    blurred = [(strength, cv2.GaussianBlur(noise, (0, 0), size)) for size, strength in ((2, 15), (8, 25))]
    return np.clip(130 + sum(k * each / each.std() for k, each in blurred), 0, 255).astype(np.uint8)


def audited(folder: Path, pairs: int) -> tuple[Audit, pd.DataFrame, Any]:
    pictures = [film(n) for n in range(pairs)]
    turned = [np.ascontiguousarray(np.rot90(picture[10:-10, 6:-6])) for picture in pictures]
    paths = [folder / f"<b>{'copy' if n >= pairs else 'film'} & {n}.png" for n in range(2 * pairs)]
    for path, picture in zip(paths, pictures + turned, strict=True):
        Image.fromarray(picture).save(path)
    store = prepare(paths, Preparation(size=96, channels="grey"), folder / "tiles")
    images = pd.DataFrame({"path": list(map(str, paths)), "subject": [f"s<{n}" for n in range(2 * pairs)]})
    twins = find_twins(store, images)
    assert len(twins) == pairs
    study = Study.model_validate(
        {"name": "t", "cohort": "t.csv", "backbones": ["resnet18"], "targets": {"score": {"range": (0, 4)}}}
    )
    sides = {subject: n % 2 for n, subject in enumerate(images["subject"])}
    return Audit(twin_findings(twins, images.assign(score=1.0), study, sides)), images, store


def test_every_pair_stands_once_with_its_difference_and_nothing_is_loaded(tmp_path: Path) -> None:
    audit, images, store = audited(tmp_path, 3)
    text = write_audit_page(audit, {}, images, store, tmp_path / "audit.html", title="Toy").read_text()
    assert text.count('<div class="panels">') == 3
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(source.startswith("data:") for source in sources)
    assert sum(source.startswith("data:image/jpeg") for source in sources) == 4 * 3
    assert "<b>" not in text
    assert "s&lt;0" in text


def test_the_page_is_there_when_the_run_stops(tmp_path: Path) -> None:
    table = make_chest(tmp_path / "films", subjects=12, size=(160, 160), seed=1)
    plant_twins(table, kinds=["framed", "negative"], each=2, seed=1)
    study = chest_study(table, images={"size": 96}, columns={"visit": "", "date": ""})
    lines: list[object] = []
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(AuditError):
        audit_alone(study, folder, Silent(), lines.append)
    assert folder.audit_page.read_text().count('<div class="panels">') == 4
    assert any(str(folder.audit_page) in str(line) for line in lines)


def test_decisions_stand_on_the_page_with_their_reasons(tmp_path: Path) -> None:
    table = make_chest(tmp_path / "films", subjects=12, size=(160, 160), seed=1)
    paths = pd.read_csv(table)["path"]
    rows = {"path": paths[:2], "decision": ["leave out", "keep"], "reason": ["a <i>copy</i>", "of another day"]}
    pd.DataFrame(rows).to_csv(tmp_path / "decisions.csv", index=False)
    study = chest_study(
        table,
        images={"size": 96},
        columns={"visit": "", "date": ""},
        audit={"decisions": tmp_path / "decisions.csv"},
        accept={},
    )
    folder = RunFolder(tmp_path / "run")
    audit_alone(study, folder, Silent(), lambda line: None)
    text = folder.audit_page.read_text()
    assert paths[0] in text
    assert "a &lt;i&gt;copy" in text
    assert "of another day" in text
