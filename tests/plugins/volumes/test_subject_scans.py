"""Intensities where a slice is a case: standardised by all slices of the subject, never by the lesion of one slice."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from casewise.cohort.cohort import read_cohort
from casewise.console import Silent
from casewise.errors import CasewiseError
from casewise.modalities.base import FittedPreprocessing, ImageFolder, PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.plugins.volumes.slice_store import SliceStore, open_slices
from casewise.plugins.volumes.standardise import SubjectScans, subject_scans, tables
from casewise.study.loading import read_study
from casewise.study.schema import Study

pytest.importorskip("SimpleITK")
SIDE, SLICES, SUBJECTS, LESION = 32, 5, 4, 3
STUDY = """
name: slices
synthetic: true
cohort: cohort.csv
columns: {{visit: {visit}}}
images: {{size: 32}}
volumes: {{sequences: [flair], slice_index: position, in_plane_size: 32, bias: none, smoothing: none}}
panels: {{by: case, grid: 1x1}}
targets: {{lesion: {{classes: {{absent: ["0"], present: ["1"]}}}}}}
split: {{test: 0, folds: 2, restarts: 10}}
backbones: [test_resnet]
weights: random
recipe: {{epochs: 1, batch_size: 4, schedule: cosine, early_stopping: {{monitor: none}}}}
"""


def slices_of_subject(subject: int) -> np.ndarray:
    """A body of two tissues at the subject's own gain; slice 3 is half lesion: (SLICES, SIDE, SIDE) `uint8`."""
    random, planes = np.random.default_rng(subject), np.zeros((SLICES, SIDE, SIDE))
    planes[:, 4:28, 4:28] = 60
    planes[:, 8:24, 8:24] = 90
    planes[LESION, 8:24, 8:24] = 150
    planes += random.integers(0, 5, planes.shape)
    return (planes * (1 + 0.2 * subject)).clip(0, 255).astype(np.uint8)


def prepared_in(folder: Path, visit: str) -> PreparedCohort:
    """The cohort prepared, with each slice a case (`visit: position`) or all slices of a subject one."""
    rows = []
    for subject in range(SUBJECTS):
        for position, plane in enumerate(slices_of_subject(subject)):
            name = f"s{subject}_{position}.png"
            Image.fromarray(plane).save(folder / name)
            lesion = int(position == LESION) if visit == "position" else subject % 2
            rows.append({"path": name, "subject": f"s{subject}", "sequence": "flair", "position": position})
            rows[-1] |= {"lesion": lesion}
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    (folder / "study.yaml").write_text(STUDY.format(visit=visit or '""'))
    study: Study = read_study(folder / "study.yaml")
    images, show = ImageFolder(folder / f"images-{visit}"), Silent()
    modality = modality_of(study)
    cohort = modality.read(study, read_cohort(study), images, show)
    return PreparedCohort(study, cohort, images, modality.prepare(study, cohort, images, show))


def stored(prepared: PreparedCohort) -> SliceStore:
    return open_slices(Path(prepared.store.folder), prepared.store.address)


def fitted_on(prepared: PreparedCohort, rows: np.ndarray) -> FittedPreprocessing:
    return modality_of(prepared.study).fit(prepared.store, prepared.study, rows, "test_resnet")


def inputs(prepared: PreparedCohort, fitted: FittedPreprocessing) -> np.ndarray:
    """All slices as networks see them, (N, H, W)."""
    data = modality_of(prepared.study).dataset(prepared.store, prepared.study, prepared.cohort.panels, None, fitted)
    values: Any = data.single_tiles(torch.arange(SUBJECTS * SLICES), torch.device("cpu"))
    return np.asarray(values[:, 0])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedCohort, PreparedCohort]:
    folders = [tmp_path_factory.mktemp(name) for name in ("slices", "scans")]
    return prepared_in(folders[0], "position"), prepared_in(folders[1], "")


def test_slices_are_standardised_as_the_scan_they_belong_to(both: tuple[PreparedCohort, PreparedCohort]) -> None:
    single, whole = both
    assert (len(stored(single).count), len(stored(whole).count)) == (SUBJECTS * SLICES, SUBJECTS)
    fitted, wanted = fitted_on(single, np.arange(2 * SLICES)), inputs(whole, fitted_on(whole, np.arange(2)))
    found = inputs(single, fitted)
    assert np.abs(found - wanted).mean() < 0.01
    assert np.abs(found - wanted).max() < 0.1

    def contrast(values: np.ndarray) -> np.ndarray:
        by_subject = values.reshape(SUBJECTS, SLICES, SIDE, SIDE)[:, :, 10:22, 10:22].mean(axis=(2, 3))
        return np.asarray(by_subject[:, LESION] - by_subject[:, 0])

    assert (contrast(found) > 0.9 * contrast(wanted)).all()
    # by its own landmarks the slice with the lesion loses most of the contrast
    of_slices = {key: value for key, value in fitted.items() if key != "landmarks"}
    assert (contrast(inputs(single, of_slices)) < 0.5 * contrast(wanted)).all()


def test_only_training_subjects_decide_the_scale_each_once(both: tuple[PreparedCohort, PreparedCohort]) -> None:
    single, _ = both
    every = fitted_on(single, np.arange(2 * SLICES))
    assert every["landmarks"] == "subject"
    assert fitted_on(single, np.array([0, *range(SLICES, 2 * SLICES)])) == every
    assert fitted_on(single, np.arange(SLICES)) != every


def test_landmarks_of_slices_never_replace_those_of_subjects(both: tuple[PreparedCohort, PreparedCohort]) -> None:
    single, whole = both
    fitted = fitted_on(single, np.arange(2 * SLICES))
    with pytest.raises(CasewiseError, match="visit"):
        inputs(whole, fitted)
    with pytest.raises(CasewiseError, match="visit"):
        modality_of(whole.study).preview(whole, 0, fitted)


def test_pooled_percentiles_are_those_of_all_voxels() -> None:
    random = np.random.default_rng(0)
    slices, at = [random.gamma(2, 50, 4000), random.normal(300, 20, 9000)], (np.arange(1000) + 0.5) / 10
    quantiles = np.stack([[np.percentile(values, at)] for values in slices])
    ranges, voxels = np.array([[[0.0, 600.0]], [[200.0, 400.0]]]), np.array([[len(values)] for values in slices])
    marks = (1.0, 10.0, 50.0, 90.0, 99.0)
    scans: SubjectScans = subject_scans(["b", "b"], ranges, quantiles, voxels, marks)
    expected = np.percentile(np.concatenate(slices), marks)
    np.testing.assert_allclose(scans.landmarks[0, 0] / 32767 * 600, expected, atol=1.0)
    blank = subject_scans(["b", "b"], ranges, quantiles, voxels * np.array([[1], [0]]), marks)
    assert np.isfinite(blank.landmarks).all()
    assert np.isnan(blank.spans[1]).all()
    assert not tables(blank.landmarks[:, 0], np.linspace(0, 1, 5), blank.spans[:, 0])[1].any()
