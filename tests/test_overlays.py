"""Static marks: found by kind and only where they are, tested against the label, and masked alike in all images."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import binom

from casewise.audit.probes import Labels, probe
from casewise.audit.shortcuts import find_shortcuts
from casewise.cohort.cohort import Cohort, read_cohort
from casewise.console import Silent
from casewise.inference.bundle import settings_of
from casewise.modalities.overlays import find_overlays
from casewise.modalities.registry import modality_of
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.readers import open_source, read_bytes
from casewise.modalities.store.store import TileStore
from casewise.modalities.store.store_builder import prepare
from casewise.plugins.phantoms.chest import make_chest
from casewise.run_folder import ImageFolder
from casewise.study.schema import Study
from tests.test_audit_shortcuts import SIZE, corner, look, make

BOX = (0.03, 0.75, 0.5, 0.97)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """Tables of films without a watermark, with two kinds by chance, and with two kinds that go with the class."""
    tables = {}
    for watermark in (None, "chance", "class"):
        options = {"subjects": 72, "size": (128, 128), "seed": 3, "classes": ("covid", "no_finding")}
        table = make_chest(tmp_path_factory.mktemp("films") / "cohort", watermark=watermark, **options)
        rows = pd.read_csv(table)
        tables[str(watermark)] = rows.assign(path=[str(table.parent / path) for path in rows["path"]], table=str(table))
    return tables


def study_of(films: pd.DataFrame, **images: object) -> Study:
    target = {"classes": ["covid", "no_finding"]}
    return Study.model_validate(
        {"name": "t", "cohort": films["table"].iloc[0], "targets": {"label": target}, "backbones": ["resnet18"]}
        | {"audit": {"permutations": 199}, "images": {"size": 128, "fit": "stretch", **images}}
    )


def stored(study: Study) -> tuple[Cohort, TileStore]:
    cohort, folder = read_cohort(study), study.cohort.parent
    return cohort, prepare([Path(p) for p in cohort.images["path"]], Preparation.of(study.images), folder / "tiles")


def planned(films: pd.DataFrame, **images: object) -> Study:
    study = study_of(films, **images)
    return modality_of(study).planned(study, read_cohort(study), ImageFolder(study.cohort.parent), Silent())


def kinds(films: pd.DataFrame) -> list[dict[str, int]]:
    pictures = [np.asarray(Image.open(path).convert("L")) for path in films["path"]]
    squares = np.array([cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA) for picture in pictures])
    marks = find_overlays(squares, [picture.shape[::-1] for picture in pictures])
    assert all(mark.place.startswith("lower left") for mark in marks)
    return [films["label"][mark.carriers].value_counts().to_dict() for mark in marks]


def test_each_kind_of_mark_is_named_with_the_images_that_have_it(films: dict[str, pd.DataFrame]) -> None:
    assert kinds(films["None"]) == []  # aligned anatomy alone is no mark
    first, second = kinds(films["class"])
    assert {*first} | {*second} == {"covid", "no_finding"}
    assert len(first) == len(second) == 1
    assert 50 <= sum([*first.values(), *second.values()]) <= 65  # 80 % of 72
    assert [len(counts) for counts in kinds(films["chance"])] == [2, 2]


def test_a_mark_is_a_finding_only_with_the_class_and_none_once_it_is_masked(films: dict[str, pd.DataFrame]) -> None:
    by_chance, with_class = (
        find_shortcuts(study, *stored(study)) for study in (study_of(films[name]) for name in ("chance", "class"))
    )
    assert "shortcut-overlay" not in {finding.id for finding in by_chance.findings}
    assert len(by_chance.overlays) == 2
    finding = next(f for f in with_class.findings if f.id == "shortcut-overlay")
    assert finding.level == "error"
    (own, of_own), (other, _) = finding.figures["with_mark"].values()
    assert {own == 0, other == 0} == {True, False}
    assert of_own == 36
    masked = planned(films["class"], mask_overlays=True)
    assert len(masked.images.mask_overlays) == 2
    cohort, store = stored(masked)
    after = find_shortcuts(masked, cohort, store)
    assert {f.id for f in after.findings} & {"shortcut-overlay", "overlays-masked"} == {"overlays-masked"}
    assert after.overlays == []


def test_an_association_by_chance_is_seldom_found() -> None:
    false = 0
    for seed in range(60):
        random = np.random.default_rng([seed, 5])
        marked = (random.random(80) < 0.3).astype(float)
        labels = Labels.of(random.permutation(80) % 2 * 1.0, range(80), ["a", "b"], permutations=99, seed=seed)
        false += probe(marked[:, None], labels, seed=seed).p <= 0.05
    assert false <= binom.ppf(0.999, 60, 0.05)


def test_every_image_is_masked_alike_also_with_the_settings_of_a_bundle(films: dict[str, pd.DataFrame]) -> None:
    study = planned(films["class"], mask_overlays=[BOX])
    again = Study.model_validate(
        {"name": "new", "cohort": study.cohort, "backbones": ["resnet18"], **settings_of(study, "resnet18")}
    )
    assert again.images.mask_overlays == [BOX]
    for path in films["class"]["path"][:4]:
        source = read_bytes(Path(path))
        tiles = [open_source(Path(path), source).tile(Preparation.of(s.images)) for s in (study, again)]
        assert np.array_equal(*tiles)
        assert (tiles[0][:, 96:124, 4:64] == 128).all()
    plain = Preparation(128, "stretch")
    assert plain.fingerprint() != Preparation.of(study.images).fingerprint()
    with pytest.raises(ValueError, match="is not a box"):
        study_of(films["class"], mask_overlays=[[0.5, 0, 0.2, 1]])


@pytest.mark.parametrize("kind", ["tag", "texture"])
def test_a_border_like_the_inside_stops_no_run(tmp_path: Path, kind: str) -> None:
    def change(pixels: np.ndarray, row: dict[str, Any], random: np.random.Generator) -> None:
        if kind == "tag":
            corner(pixels, row, random)
        else:  # dots everywhere, bright or dark, which mean and contrast of the whole do not show
            dots = 60.0 * (random.random((SIZE, SIZE)) < 0.03)
            pixels += (dots - dots.mean()) * (1 if row["label"] == "ill" else -1)

    border = next(f for f in look(make(tmp_path, change=change)).findings if f.id == "shortcut-border")
    assert border.level == ("error" if kind == "tag" else "warning")
    assert ("upper left corner" in border.sentence) == (kind == "tag")
    assert (border.figures["inside"]["value"] > border.figures["value"] - 0.03) == (kind == "texture")
