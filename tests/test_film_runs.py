"""Films as DICOM through a whole run: nobody's name is anywhere."""

from __future__ import annotations

import io
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from casewise.console import Terminal
from casewise.inference.model import load_bundle
from casewise.modalities.store.readers import read_image
from casewise.pipeline.read import validate
from casewise.run import Run, run
from tests.chest_study import chest_study
from tests.film_files import PEOPLE, write_film

explain_run = pytest.importorskip("casewise.plugins.explain.command").explain_run
ExplainSettings = pytest.importorskip("casewise.plugins.explain.run").ExplainSettings

pytest.importorskip("pydicom", reason="the package that reads DICOM is optional")

# Every combination of depth, inverted or not, and compression.
KINDS = list(product((12, 16), ("MONOCHROME1", "MONOCHROME2"), ("jpeg_lossless", "rle")))


@pytest.fixture(scope="module")
def film_run(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> tuple[Run, Path]:
    """A run of chest phantoms as DICOM films, whose tags name people."""
    folder = tmp_path_factory.mktemp("films")
    rows = pd.read_csv(chests, dtype=str)
    for number, path in enumerate(rows["path"]):
        bits, kind, compression = KINDS[number % len(KINDS)]
        white = 2**bits - 1
        film = read_image(chests.parent / path, channels="grey")[..., 0].astype(float)
        values = np.rint(film * white / 255).astype(np.uint16)
        stored = (white - values).astype(np.uint16) if kind == "MONOCHROME1" else values
        tags = {"bits": bits, "compression": compression, "PhotometricInterpretation": kind}
        write_film(folder / "dcm" / f"{number}.dcm", stored, **tags)
    table = folder / "dcm.csv"
    rows[["subject", "label"]].assign(path=[f"dcm/{n}.dcm" for n in range(len(rows))]).to_csv(table, index=False)
    return run(chest_study(table, backbones=["cnn"], recipe={"epochs": 1}), folder / "run"), folder


def without_people(data: bytes) -> bool:
    return not any(word.encode() in data for word in PEOPLE)


def test_nobody_is_named_in_the_folder_of_a_run(film_run: tuple[Run, Path], capsys: pytest.CaptureFixture[str]) -> None:
    finished, folder = film_run
    assert not without_people((folder / "dcm" / "0.dcm").read_bytes())
    files = [path for path in finished.folder.rglob("*") if path.is_file()]
    assert finished.report in files
    assert [path for path in files if not without_people(path.read_bytes())] == []
    lines = validate(chest_study(folder / "dcm.csv", backbones=["cnn"]), Terminal())
    assert without_people("\n".join(lines).encode())
    captured = capsys.readouterr()
    assert without_people((captured.out + captured.err).encode())


def test_a_folder_of_films_is_predicted(film_run: tuple[Run, Path]) -> None:
    _, folder = film_run
    model = load_bundle(folder / "run" / "jobs" / "cnn" / "fold1")
    from_folder = model.predict(folder / "dcm")
    rows = pd.read_csv(folder / "dcm.csv", dtype=str)
    assert len(from_folder) == len(rows)
    stream = io.StringIO()
    from_folder.to_csv(stream)
    assert without_people(stream.getvalue().encode())


def test_films_are_explained(film_run: tuple[Run, Path]) -> None:
    finished, folder = film_run
    case = str(finished.predictions.query("stage == 'oof'")["case"].iloc[0])
    explain_run(finished.folder, ExplainSettings(cases=[case], output=folder / "maps"))
    files = [path for path in (folder / "maps").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if not without_people(path.read_bytes())] == []
