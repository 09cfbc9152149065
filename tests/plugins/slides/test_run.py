"""Slides through a whole run: cut, kept, audited, predicted tile by tile, drawn; and everything that can be wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.cohort.cohort import Cohort, read_cohort
from casewise.console import Silent
from casewise.errors import AuditError, CohortError, ImageError
from casewise.modalities.registry import modality_of
from casewise.modalities.store.readers import read_image
from casewise.modalities.store.store import open_store
from casewise.pipeline.audit import audit
from casewise.pipeline.read import RunInputs, prepare, read, split
from casewise.plugins.phantoms.pyramid import write_pyramid
from casewise.plugins.phantoms.slides import draw_region, make_slide_phantom
from casewise.plugins.slides import cohort as slides
from casewise.plugins.slides import tiles as slide_tiles
from casewise.run import Run, run
from casewise.run_folder import RunFolder
from casewise.study.loading import build_study
from casewise.study.schema import Study
from tests.chest_study import SMALL
from tests.plugins.slides.slide_tiles import read_tiles
from tests.report_contexts import section_of

openslide = pytest.importorskip("openslide", reason="the package that reads slides is optional")

SIDE = 32
NUMBER = {"disease": "0..1"}


@pytest.fixture(scope="module")
def skin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six subjects, two slides each, of 640 x 520 pixels at 2 µm."""
    folder = tmp_path_factory.mktemp("skin")
    return make_slide_phantom(
        folder, subjects=6, images=2, classes=("normal", "late"), size=(640, 520), mpp=2.0, seed=3
    )


def skin_study(table: Path, **changes: Any) -> Study:
    """Tiles of 32 pixels at 4 µm, at most six of a slide."""
    values = SMALL | {"name": "skin", "images": {"size": SIDE}, "tiles": {"mpp": 4.0, "max_tiles": 6}, "cohort": table}
    values |= {"targets": {"disease": {"classes": ["normal", "ssc"], "positive": "ssc"}}}
    values["recipe"] = SMALL["recipe"] | {"epochs": 1, "early_stopping": {"monitor": "none"}, "schedule": "cosine"}
    return build_study(values | changes, source="the test's study", folder=table.parent)


def cut(study: Study, folder: Path | None) -> Cohort:
    return slides.into_tiles(study, read_cohort(study), folder, Silent())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, skin: Path) -> Run:
    return run(skin_study(skin), tmp_path_factory.mktemp("done") / "run")


@pytest.fixture
def no_slide_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a slide was opened")

    monkeypatch.setattr(openslide, "OpenSlide", refuse)


def white(path: Path, **options: Any) -> Path:
    """A slide of bare glass."""
    write_pyramid(path, (640, 512), lambda x, y, w, h: np.full((h, w, 3), 244, np.uint8), mpp=2.0, **options)
    return path


def table_of(path: Path, rows: list[dict[str, Any]]) -> Path:
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


class TestWholeRun:
    def test_every_row_is_a_tile_and_its_pixels_are_those_of_the_slide(self, done: Run, skin: Path) -> None:
        images = pd.read_parquet(done.folder / "cohort.parquet")
        counts = images.groupby("path").size()
        assert len(counts) == 12
        assert (counts == 6).all()
        assert (images["image"] == np.arange(len(images))).all()
        assert (images["panel"] == images["image"]).all()
        assert (set(images["tile_side"]), set(images["slide_mpp"])) == ({64}, {"2"})
        assert (set(images["slide_size"]), set(images["section"])) == ({"640x520"}, {"1", "2"})
        store = open_store(done.folder / "tiles")
        assert len(store) == len(images)
        one = images[images["path"] == images["path"].iloc[-1]]
        expected = list(read_tiles(Path(one["path"].iloc[0]), one[list(slides.TILE)].to_numpy(), side=SIDE))
        assert np.array_equal(store.tiles[one["image"].to_numpy()], np.stack(expected))

    def test_a_case_is_predicted_once_by_the_mean_of_its_tiles(self, done: Run) -> None:
        table = done.rows
        assert (len(table), set(table["image"])) == (6, {""})
        tiles = pd.read_parquet(done.folder / "tiles.parquet")
        assert len(tiles) == 6 * 12
        means = tiles.groupby("case")[["p0", "p1"]].mean().loc[table["case"]]
        assert np.allclose(means.to_numpy(), table[["p0", "p1"]].to_numpy(), atol=1e-5)
        assert set(tiles["stage"]) == {"oof", "test"}
        assert tiles.loc[tiles["stage"] == "test", "outer_fold"].isna().all()
        assert set(tiles.loc[tiles["stage"] == "oof", "outer_fold"]) == {1, 2}

    def test_the_audit_looked_at_whole_slides(self, done: Run) -> None:
        found = json.loads((done.folder / "audit.json").read_text())
        assert found["facts"]["images"] == 12
        assert {"slide_vendor", "slide_mpp", "slide_magnification", "slide_size"} <= set(found["facts"]["columns"])
        assert not [one for one in found["findings"] if one["level"] == "error"]
        pictures = open_store(done.folder / "slides" / "pictures")
        assert set(pictures.index["format"]) == {"JPEG"}

    def test_a_second_run_reads_no_slide(self, done: Run, skin: Path, no_slide_is_read: None) -> None:
        again = run(skin_study(skin), done.folder)
        assert again.rows.equals(done.rows)


def test_attention_leaves_the_weight_of_every_tile(skin: Path, tmp_path: Path) -> None:
    study = skin_study(skin, panels={"by": "case", "pooling": "attention", "bag": 4})
    found = run(study, tmp_path / "run")
    tiles = pd.read_parquet(found.folder / "tiles.parquet")
    assert len(tiles) == 6 * 12
    assert "p0" not in tiles
    assert np.allclose(tiles.groupby("case")["weight"].sum(), 1, atol=1e-5)
    text = found.report.read_text()
    shown = section_of(text, "slides")
    assert shown.count("the slide</figcaption>") == shown.count("weight of each tile</figcaption>") >= 1


class TestKilled:
    def test_in_planning(self, skin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        study, planned, keep = skin_study(skin), [], slide_tiles.keep

        def killed(*given: Any) -> Any:
            if len(planned) == 5:
                raise KeyboardInterrupt
            planned.append(given[0].path)
            return keep(*given)

        monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
        monkeypatch.setattr(slide_tiles, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            cut(study, tmp_path)
        monkeypatch.setattr(slide_tiles, "keep", keep)
        before, later, plan = set(planned), [], slide_tiles.plan_tiles
        monkeypatch.setattr(slide_tiles, "plan_tiles", lambda path, *how: later.append(path) or plan(path, *how))
        whole = cut(study, tmp_path)
        assert (len(before), len(later)) == (5, 7)
        assert not before & set(later)
        monkeypatch.undo()
        assert whole.images.equals(cut(study, None).images)


class TestCut:
    def test_regions_stay_as_they_are(self, skin: Path, tmp_path: Path) -> None:
        rows = pd.read_csv(skin).assign(path=lambda t: [str(skin.parent / p) for p in t["path"]]).iloc[[0, 2]]
        region = tmp_path / "region.png"
        Image.fromarray(draw_region(1, finding="late", size=96)).save(region)
        own = {"path": str(region), "subject": "R1", "visit": 1, "disease": 1}
        table = table_of(tmp_path / "cases.csv", [*rows.assign(disease=0).to_dict("records"), own])
        study = skin_study(table, targets=NUMBER)
        cohort = cut(study, tmp_path / "slides")
        whole = cohort.images[cohort.images["tile_side"] < 0]
        assert whole["path"].tolist() == [str(region)]
        assert whole[["tile_x", "tile_y"]].to_numpy().tolist() == [[-1, -1]]
        assert modality_of(study).described(study, cohort.images) == "2 slides (12 tiles) and 1 image"
        assert cohort.images.loc[cohort.images["path"] == str(region), "slide_vendor"].tolist() == [""]
        store, last = prepare(study, cohort, RunFolder(tmp_path), Silent()), int(whole["image"].iloc[0])
        assert np.array_equal(store.tiles[last].transpose(1, 2, 0), read_image(region, size=SIDE))

    def test_a_damaged_plan_is_made_again(self, skin: Path, tmp_path: Path) -> None:
        study = skin_study(skin)
        first = cut(study, tmp_path)
        for number, path in enumerate(sorted(tmp_path.glob("*.npz"))):
            path.write_bytes(path.read_bytes()[:200] if number % 2 else b"nothing")
        assert cut(study, tmp_path).images.equals(first.images)


class TestBadInput:
    def test_all_problems_are_told_at_once(self, skin: Path, tmp_path: Path) -> None:
        good = skin.parent / pd.read_csv(skin)["path"].iloc[0]
        data = good.read_bytes()
        (tmp_path / "short.svs").write_bytes(data[: len(data) * 2 // 3])
        white(tmp_path / "glass.tiff")
        silent, picture = tmp_path / "silent.tiff", draw_region(1, finding="late", size=512)
        write_pyramid(silent, (512, 512), lambda x, y, w, h: picture[y : y + h, x : x + w], mpp=None)
        names = ["short.svs", "glass.tiff", "silent.tiff", str(good)]
        rows = [{"path": name, "subject": f"S{i}", "disease": i % 2} for i, name in enumerate(names)]
        study = skin_study(table_of(tmp_path / "cases.csv", rows), targets=NUMBER)
        with pytest.raises(ImageError) as caught:
            cut(study, tmp_path / "slides")
        first, *lines = str(caught.value).splitlines()
        assert first == "3 of 4 slides cannot be cut into tiles. The plans of the others are kept."
        for name, said in zip(names, ["cut short", "there is no tissue", "assume_mpp"], strict=False):
            assert sum(name in line and said in line for line in lines) == 1
        assert len(list((tmp_path / "slides").glob("*.npz"))) == 1
        table = table_of(tmp_path / "cases.csv", rows[2:])
        assumed = skin_study(table, targets=NUMBER, tiles={"mpp": 4.0, "assume_mpp": 2.0})
        notes = cut(assumed, tmp_path / "slides").notes
        assert any("1 of 2 slides (" in note and "/silent.tiff): " in note for note in notes)


def test_one_slide_under_two_subjects_stops_the_run(skin: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(skin).assign(path=lambda t: [str(skin.parent / p) for p in t["path"]])
    shutil.copy(rows["path"].iloc[0], tmp_path / "copy.tiff")
    again = rows.iloc[[0]].assign(path=str(tmp_path / "copy.tiff"), subject="B9999")
    pd.concat([rows, again]).to_csv(tmp_path / "cases.csv", index=False)
    study, folder = skin_study(tmp_path / "cases.csv"), tmp_path / "run"
    cohort = read(study, RunFolder(folder), Silent())
    tiles = prepare(study, cohort, RunFolder(folder), Silent())
    splits = split(study, cohort, RunFolder(folder), Silent())
    with pytest.raises(AuditError, match="same picture"):
        audit(RunInputs(study, cohort, tiles, splits, RunFolder(folder)), Silent())
    found = json.loads((folder / "audit.json").read_text())["findings"]
    twins = next(one for one in found if one["id"] == "twins-across-splits")
    assert twins["figures"]["pairs"] == 1
    assert sorted(twins["pairs"][0]) == sorted([rows["path"].iloc[0], str(tmp_path / "copy.tiff")])


def test_without_tiles_the_key_is_named(skin: Path, tmp_path: Path) -> None:
    study = skin_study(skin, tiles=None)
    with pytest.raises(CohortError, match=r"12 rows name whole slides .* Write for example `tiles: \{mpp: 1\.0\}`"):
        slides.refuse_slides(study, read_cohort(study))
