"""Static marks: found by kind and only where they are, tested against the label, and masked alike in all images."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.audit.shortcuts import find_shortcuts
from casewise.errors import StudyError
from casewise.inference.bundle import settings_of
from casewise.modalities.overlays import find_overlays, overlays_in_files
from casewise.modalities.registry import modality_of
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.readers import open_source, read_bytes
from casewise.plugins.phantoms.chest import make_chest
from casewise.study.schema import Study
from tests.test_audit_shortcuts import levels, look, make, opened

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
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
    assert 45 <= sum([*first.values(), *second.values()]) <= 66  # 80 % of 72
    assert sum(len(counts) == 2 for counts in kinds(films["chance"])) == len(kinds(films["chance"])) > 0
