"""Films as DICOM through whole runs: the same predictions as from their PNGs, and nobody's name anywhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.console import Terminal
from casewise.inference.model import load_bundle
from casewise.modalities.store.readers import read_image
from casewise.pipeline.read import validate
from casewise.run import Run, run
from tests.chest_study import THREE, chest_study
from tests.film_files import PEOPLE, write_film

explain_run = pytest.importorskip("casewise.plugins.explain.command").explain_run

pytest.importorskip("pydicom", reason="the package that reads DICOM is optional")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "covid-cxr"
# Every combination of the acceptance: depth, inverted or not, compression.
KINDS = [
    (bits, kind, compression)
    for bits in (12, 16)
    for kind in ("MONOCHROME1", "MONOCHROME2")
    for compression in ("jpeg_lossless", "rle")
]
CLOSE = 1e-3
STUDY: dict[str, Any] = {
    "baselines": {"off": "tests of networks"},
    "backbones": ["cnn"],
    "recipe": {"epochs": 1},
    "accept": {"shortcut-files": "real films are of two sources, whose shapes differ"},
}


def write_pairs(films: Sequence[np.ndarray], rows: pd.DataFrame, folder: Path) -> tuple[Path, Path]:
    """Tables of the same films as PNG (of 8 bits, or of all bits by turns) and as DICOM of every kind by turns."""
    rows = rows[["subject", "label"]].reset_index(drop=True)
    for number, film in enumerate(films):
        bits, kind, compression = KINDS[number % len(KINDS)]
        white = 2**bits - 1
        values = np.rint(film.astype(float) * white / 255).astype(np.uint16)
        whole = number // len(KINDS) % 2 == 1
        (folder / "png").mkdir(parents=True, exist_ok=True)
        Image.fromarray(values if whole else film).save(folder / "png" / f"{number}.png")
        stored = (white - values).astype(np.uint16) if kind == "MONOCHROME1" else values
        path = folder / "dcm" / f"{number}.dcm"
        write_film(path, stored, bits=bits, compression=compression, PhotometricInterpretation=kind)
    tables = []
    for suffix in ("png", "dcm"):
        tables.append(folder / f"{suffix}.csv")
        rows.assign(path=[f"{suffix}/{number}.{suffix}" for number in range(len(rows))]).to_csv(tables[-1], index=False)
    return tables[0], tables[1]


def largest_difference(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """The largest difference of predicted probabilities of the same cases."""
    assert one["case"].tolist() == other["case"].tolist()
    columns = [f"probability of {name}" for name in THREE]
    return float(np.abs(one[columns].to_numpy(float) - other[columns].to_numpy(float)).max())


def differences(jobs: Path, pngs: Path, dicoms: Path) -> list[float]:
    """For each network of a run, the largest difference of its predictions on PNGs and on DICOM files."""
    return [
        largest_difference(
            *(load_bundle(job).predict(pd.read_csv(table), root=table.parent) for table in (pngs, dicoms))
        )
        for job in sorted(jobs.glob("fold*"))
    ]


def real_films(count: int) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Real films of as many subjects, the classes by turns."""
    if not (DATA / "cases.csv").is_file():
        pytest.skip(f"the real films are not in {DATA}")
    rows = pd.read_csv(DATA / "cases.csv", dtype=str).drop_duplicates("subject")
    rows["turn"] = rows.groupby("label").cumcount()
    rows = rows.sort_values(["turn", "label"]).head(count)
    return [read_image(DATA / path, channels="grey")[..., 0] for path in rows["path"]], rows


def test_real_films_predict_as_their_png(film_run: tuple[Run, Path], tmp_path: Path) -> None:
    pngs, dicoms = write_pairs(*real_films(16), tmp_path)
    by_network = differences(film_run[0].folder / "jobs" / "cnn", pngs, dicoms)
    assert len(by_network) == 2
    assert max(by_network) <= CLOSE


@pytest.mark.slow
def test_eighty_real_films_predict_as_their_png(tmp_path: Path) -> None:
    pngs, dicoms = write_pairs(*real_films(80), tmp_path)
    finished, again = (run(chest_study(table, **STUDY), tmp_path / f"run-{table.stem}") for table in (pngs, dicoms))
    by_network = differences(finished.folder / "jobs" / "cnn", pngs, dicoms)
    assert len(by_network) == 2
    keys = [name for name in ("stage", "model", "target", "case") if name in finished.rows]
    both = finished.rows.merge(again.rows, on=keys, suffixes=("", "_dcm"), validate="one_to_one")
    assert len(both) == len(finished.rows) == len(again.rows)
    by_column = {name: float(np.abs(both[name] - both[f"{name}_dcm"]).max()) for name in ("y_pred", "p0", "p1", "p2")}
    print(f"largest differences of 80 films: {by_network} by network, {by_column} trained on each format")
    assert max(*by_network, *by_column.values()) <= CLOSE


@pytest.fixture(scope="module")
def film_run(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> tuple[Run, Path]:
    """A run of chest phantoms as DICOM films, whose tags name people."""
    folder = tmp_path_factory.mktemp("films")
    rows = pd.read_csv(chests, dtype=str)
    films = [read_image(chests.parent / path, channels="grey")[..., 0] for path in rows["path"]]
    _, dicoms = write_pairs(films, rows, folder)
    return run(chest_study(dicoms, backbones=["cnn"], recipe={"epochs": 1}), folder / "run"), folder


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
    explanation = explain_run(finished.folder, cases=[case], output=folder / "maps")
    assert explanation.figure is not None
    files = [path for path in (folder / "maps").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if not without_people(path.read_bytes())] == []
