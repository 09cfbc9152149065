"""A new modality is one class: spectrograms of signals, from the table to the report and to new cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.cohort.cohort import Cohort
from casewise.console import Show
from casewise.errors import ImageError, StudyError
from casewise.inference.model import load_bundle
from casewise.modalities.base import ImageFolder, ImageStore, Noun, PreparedCohort
from casewise.modalities.photographs.modality import Photographs
from casewise.modalities.registry import modality_of, register
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.store_builder import prepare
from casewise.run import Run, run
from casewise.study.loading import read_study
from casewise.study.schema import Study, StudyModel

STUDY = """
name: murmurs
modality: spectrograms
spectrograms: {{floor: 50}}
synthetic: true
cohort: {cohort}
images: {{size: 32, channels: grey}}
panels: {{by: case}}
targets: {{murmur: {{classes: [none, present]}}}}
split: {{folds: 2, restarts: 5, test: 0}}
backbones: [shufflenet_v2_x0_5]
weights: random
recipe: {{epochs: 2, batch_size: 8, schedule: cosine, early_stopping: {{monitor: none}}}}
stack: []
evaluation: {{bootstrap_resamples: 100}}
compute: {{precision: fp32, memory_format: channels_last, save_every: 0}}
"""
SAMPLES, WINDOW = 2048, 64


class SpectrogramSettings(StudyModel):
    """The section `spectrograms` of a study file."""

    floor: int = 60


class Spectrograms(Photographs):
    """Every row of the table is a signal, an `.npy` file; a network sees the power of its frequencies over time."""

    name = "spectrograms"
    Settings = SpectrogramSettings

    def noun(self, study: Study) -> Noun:
        return Noun("signal", "signals")

    def picture_noun(self, study: Study) -> Noun:
        return self.noun(study)

    def read(self, study: Study, cohort: Cohort, folder: ImageFolder | None, show: Show) -> Cohort:
        for path in cohort.images["path"]:
            if not str(path).endswith(".npy"):
                raise ImageError(f"{path}: this is no signal. Name a .npy file.")
        return cohort

    def prepare(self, study: Study, cohort: Cohort, folder: ImageFolder, show: Show, step: str = "tiles") -> ImageStore:
        pictures = folder.of("spectrograms")
        pictures.mkdir(parents=True, exist_ok=True)
        files = [pictures / f"{number}.png" for number in range(len(cohort.images))]
        for path, file in zip(cohort.images["path"], files, strict=True):
            if not file.is_file():
                Image.fromarray(spectrogram(np.load(path))).save(file)
        with show.bar(step):
            return prepare(files, Preparation(size=study.images.size, channels="grey"), folder.of("tiles"))

    def picture(self, prepared: PreparedCohort, image: int) -> np.ndarray | None:
        return np.repeat(prepared.store.tiles[image].transpose(1, 2, 0), 3, axis=2)


register(Spectrograms())


def spectrogram(signal: np.ndarray) -> np.ndarray:
    """Frequencies upwards, time to the right; `uint8` on a logarithmic scale."""
    power = np.abs(np.fft.rfft(signal.reshape(-1, WINDOW) * np.hanning(WINDOW), axis=1)).T[::-1]
    return np.asarray(np.clip(60 * np.log10(1 + power), 0, 255), dtype=np.uint8)


def write_signals(folder: Path, subjects: int, seed: int) -> Path:
    """A table of heart sounds, two a subject; those of even subjects have a murmur of high frequency."""
    folder.mkdir()
    draw, rows = np.random.default_rng(seed), []
    for number in range(subjects):
        for side in ("left", "right"):
            signal = draw.normal(0, 0.3, SAMPLES) + np.sin(np.arange(SAMPLES) / 9)
            if number % 2 == 0:
                signal += np.sin(np.arange(SAMPLES) * 1.5)
            name = f"{seed}-{number}-{side}.npy"
            np.save(folder / name, signal)
            label = "present" if number % 2 == 0 else "none"
            rows.append({"path": name, "subject": f"S{seed}{number:02}", "visit": side, "murmur": label})
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
    return folder / "cases.csv"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("murmurs")
    (folder / "study.yaml").write_text(STUDY.format(cohort=write_signals(folder / "signals", 16, 1)))
    return run(read_study(folder / "study.yaml"), folder / "run")


def test_a_new_modality_goes_from_the_table_to_the_report(finished: Run) -> None:
    assert json.loads((finished.folder / "splits.json").read_text())["folds"] == 2
    assert set(finished.rows["target"]) == {"murmur"}
    rows = finished.rows[finished.rows["stage"] == "oof"]
    assert rows["model"].value_counts().to_dict() == {"linear_pixels": 32, "shufflenet_v2_x0_5": 32}
    page = finished.report.read_text()
    assert "32 signals" in page
    assert "photograph" not in page


def test_a_bundle_predicts_new_cases_and_checks_them(finished: Run, tmp_path: Path) -> None:
    model = load_bundle(finished.folder)
    assert model.members[0].study(tmp_path / "new" / "cases.csv").modality_settings.floor == 50
    table = write_signals(tmp_path / "new", 3, 5)
    pd.read_csv(table).drop(columns="murmur").to_csv(table, index=False)
    found = model.predict(table)
    cases = sorted(f"S5{n:02}/{side}" for n in range(3) for side in ("left", "right"))
    for learner in ("linear_pixels", "shufflenet_v2_x0_5"):
        assert sorted(found.loc[found["learner"] == learner, "case"]) == cases
    assert len(found) == 2 * len(cases)
    (tmp_path / "new" / "a.jpg").write_bytes(b"no signal")
    pd.read_csv(table).replace({"path": {"5-0-left.npy": "a.jpg"}}).to_csv(table, index=False)
    with pytest.raises(ImageError, match="no signal"):
        model.predict(table)
    with pytest.raises(StudyError, match="spectrograms"):
        modality_of(Study.model_construct(modality="spectograms", volumes=None, tiles=None))
    assert np.allclose(found[["probability of none", "probability of present"]].sum(axis=1), 1)
