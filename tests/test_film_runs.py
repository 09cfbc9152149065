"""Films as DICOM through a whole run: nobody's name is anywhere."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from casewise.console import Terminal
from casewise.inference.model import load_bundle
from casewise.modalities.store.readers import read_image
from casewise.pipeline.read import validate
from casewise.run import run
from tests.chest_study import chest_study
from tests.film_files import PEOPLE, write_film

explain_run = pytest.importorskip("casewise.plugins.explain.command").explain_run
ExplainSettings = pytest.importorskip("casewise.plugins.explain.run").ExplainSettings

pytest.importorskip("pydicom", reason="the package that reads DICOM is optional")

# Every combination of depth, inverted or not, and compression.
KINDS = list(product((12, 16), ("MONOCHROME1", "MONOCHROME2"), ("jpeg_lossless", "rle")))


def without_people(data: bytes) -> bool:
    return not any(word.encode() in data for word in PEOPLE)


def test_a_run_and_its_maps_name_nobody(tmp_path: Path, chests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of chest phantoms as DICOM films, whose tags name people."""
    rows = pd.read_csv(chests, dtype=str)
    for number, path in enumerate(rows["path"]):
        bits, kind, compression = KINDS[number % len(KINDS)]
        white, film = 2**bits - 1, read_image(chests.parent / path, channels="grey")[..., 0].astype(float)
        values = np.rint(film * white / 255).astype(np.uint16)
        stored = (white - values).astype(np.uint16) if kind == "MONOCHROME1" else values
        tags = {"bits": bits, "compression": compression, "PhotometricInterpretation": kind}
        write_film(tmp_path / "dcm" / f"{number}.dcm", stored, **tags)
    assert not without_people((tmp_path / "dcm" / "0.dcm").read_bytes())
    rows = rows[["subject", "label"]].assign(path=[f"dcm/{n}.dcm" for n in range(len(rows))])
    rows.to_csv(tmp_path / "dcm.csv", index=False)
    study = chest_study(tmp_path / "dcm.csv", backbones=["cnn"], recipe={"epochs": 1})
    lines, finished = validate(study, Terminal()), run(study, tmp_path / "run")
    predicted = load_bundle(finished.folder / "jobs" / "cnn" / "fold1").predict(tmp_path / "dcm")
    assert len(predicted) == len(rows)
    model = load_bundle(finished.folder)
    assert model.modalities == ("DX",)
    write_film(tmp_path / "ct" / "a.dcm", np.eye(64, dtype=np.uint16) * 900, bits=12, Modality="CT")
    other = model.predict(tmp_path / "ct")
    assert other["prediction"].isna().all()
    assert other["problem"].str.contains("modality 'CT'").all()
    case = str(finished.predictions.query("stage == 'oof'")["case"].iloc[0])
    assert explain_run(finished.folder, ExplainSettings(cases=[case], output=tmp_path / "run" / "maps"))
    files = [path for path in finished.folder.rglob("*") if path.is_file()]
    assert {finished.report, *(tmp_path / "run" / "maps").glob("*.html")} <= set(files)
    assert [path for path in files if not without_people(path.read_bytes())] == []
    captured = capsys.readouterr()
    assert without_people("\n".join([*lines, predicted.to_csv(), captured.out, captured.err]).encode())
