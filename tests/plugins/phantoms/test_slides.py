"""The skin phantom: real slides of synthetic skin, whose classes differ where they should and nowhere else."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casewise.plugins.phantoms.cohort import MARK
from casewise.plugins.phantoms.slides import Section, Skin, make_regions, make_slide_phantom
from tests.phantom_files import rows_of

Slide = pytest.importorskip("casewise.plugins.slides.reader").Slide
TilePlan = pytest.importorskip("casewise.plugins.slides.tiles").TilePlan
plan_tiles = pytest.importorskip("casewise.plugins.slides.tiles").plan_tiles
SMALL = {"size": (640, 520), "mpp": 2.0}
COLUMNS = ("path", "subject", "visit", "label", "disease", "section", "source", "sex", "age", "mpp", "synthetic")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_slide_phantom(tmp_path_factory.mktemp("skin"), subjects=8, images=2, seed=3, **SMALL)


def test_columns_files_and_marks(cohort: Path) -> None:
    rows = rows_of(cohort)
    assert (len(rows), tuple(rows[0])) == (16, COLUMNS)
    assert [row["subject"] + row["visit"] + row["section"] for row in rows[:3]] == ["B000111", "B000112", "B000211"]
    assert Counter(row["label"] for row in rows) == {"normal": 8, "early": 4, "late": 4}
    assert all((row["label"] == "normal") == (row["disease"] == "normal") for row in rows)
    assert {row["disease"] for row in rows} == {"normal", "ssc"}
    assert {row["mpp"] for row in rows} == {"2.0"}
    note = json.loads((cohort.parent / "phantom.json").read_text())
    assert [one["finding"] for one in note["subjects"]] == [row["label"] for row in rows[::2]]
    assert all(one["bundle"] > 0 for one in note["subjects"])


def test_they_are_slides(cohort: Path) -> None:
    openslide = pytest.importorskip("openslide", reason="the package that reads slides is optional")
    for row in rows_of(cohort)[:3]:
        path = cohort.parent / row["path"]
        with Slide(path) as slide:
            assert (slide.facts.width, slide.facts.height) == SMALL["size"]
            assert slide.facts.mpp == pytest.approx(2.0)
            assert [round(level[2]) for level in slide.facts.levels] == [1, 4, 16]
            whole = np.asarray(slide.reduced(0, (0, 0, 640, 520)))
            small = np.asarray(slide.reduced(1, (0, 0, 160, 130)))
        assert (whole[..., 3] == 255).all()
        mean = whole[..., :3].reshape(130, 4, 160, 4, 3).mean(axis=(1, 3))
        assert np.abs(mean - small[..., :3]).mean() < 5
        with openslide.OpenSlide(path) as handle:
            assert handle.properties["tiff.ImageDescription"] == MARK


def test_the_skin_is_found_where_it_was_drawn(cohort: Path) -> None:
    pytest.importorskip("openslide", reason="the package that reads slides is optional")
    for row in rows_of(cohort)[::3]:
        planned = plan_tiles(cohort.parent / row["path"], TilePlan(side=32))
        with Image.open(cohort.parent / "masks" / row["subject"] / f"{row['section']}.png") as image:
            assert image.info["Description"] == MARK
            drawn = np.asarray(image) > 0
        found = planned.mask[8::16, 8::16][: drawn.shape[0], : drawn.shape[1]]
        drawn = drawn[: found.shape[0], : found.shape[1]]
        assert (found & drawn).sum() / (found | drawn).sum() > 0.8
        assert 0.3 < drawn.mean() < 0.6
        assert len(planned) > 60


def test_parts_of_a_section_join() -> None:
    section = Section(Skin(1, 0, "early"), 0, size=(900, 700), mpp=1.0)
    whole, tissue = section.paint(0, 0, 900, 700)
    part, inside = section.paint(301, 217, 256, 300)
    # Only the rim of shapes may differ that the part cuts through.
    assert (whole[217:517, 301:557] == part).mean() > 0.999
    assert np.array_equal(tissue[217:517, 301:557], inside)


def test_regions(tmp_path: Path) -> None:
    table = make_regions(tmp_path, subjects=2, images=4, size=(300, 300), classes=("normal", "late"), seed=2)
    rows = rows_of(table)
    assert tuple(rows[0]) == (*COLUMNS, "collagen_mask")
    assert [(row["section"], bool(row["collagen_mask"])) for row in rows[:4]] == [("1", True)] * 3 + [("2", False)]
    assert {row["label"] for row in rows} == {"normal", "late"}
    pictures = []
    for row in rows:
        with Image.open(tmp_path / row["path"]) as image:
            assert (image.size, image.mode, image.info["Description"]) == ((300, 300), "RGB", MARK)
            pictures.append(np.asarray(image))
        if row["collagen_mask"]:
            with Image.open(tmp_path / row["collagen_mask"]) as image:
                mask = np.asarray(image)
            assert mask.shape == (300, 300)
            assert mask.mean() > 0.2 * 255
            assert (pictures[-1][mask > 0][:, 1] > 215).mean() < 0.1  # gaps are pale
    assert len({picture.tobytes() for picture in pictures}) == len(rows)
    assert all((picture[..., 1] < 215).mean() > 0.4 for picture in pictures)
