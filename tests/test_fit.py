"""Images of different shapes: the plan of `images.fit`, bars in training, and the shape as a shortcut."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from casewise.audit import regions
from casewise.audit.findings import Finding
from casewise.audit.shortcuts import find_shortcuts
from casewise.cohort.cohort import Cohort, read_cohort
from casewise.console import Silent
from casewise.errors import StudyError
from casewise.inference.bundle import Bundle
from casewise.inference.new_cases import NewTable
from casewise.modalities.base import StoreAddress
from casewise.modalities.dataset import PanelData
from casewise.modalities.photographs.modality import Photographs, planned
from casewise.modalities.shape_variation import Bars, Stretch, open_shapes, stretches
from casewise.modalities.store.pixels import content_box, fit
from casewise.modalities.store.preparation import Fit, Padding, Preparation
from casewise.modalities.store.store import TileStore
from casewise.pipeline.read import plan, prepare, read
from casewise.plugins.phantoms.chest import make_chest
from casewise.run import Run, run
from casewise.run_folder import RunFolder
from casewise.splits.grouped import TEST, Splits
from casewise.study.images import Images, Panels
from casewise.study.schema import Study
from tests.chest_study import chest_study

SIZE = 64
UNSTATED = {"precision": "auto"}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Square chest phantoms, of which those of covid lack a fifth of their height."""
    table = make_chest(tmp_path_factory.mktemp("films"), subjects=90, size=(80, 80), seed=3)
    for row in pd.read_csv(table).itertuples():
        for name in (row.path, row.lung_mask):
            path = table.parent / str(name)
            with Image.open(path) as image:
                square = np.asarray(image.resize((80, 80), Image.Resampling.BILINEAR))
            Image.fromarray(square[8:72] if row.label == "covid" else square).save(path)
    return table


def prepared(table: Path, folder: Path, **images: Any) -> tuple[Study, Cohort, TileStore]:
    study = chest_study(table, images={"size": SIZE, **images}, columns={"visit": "", "date": ""})
    cohort = read_cohort(study)
    study = plan(study, cohort, None, RunFolder(folder), Silent())
    store = prepare(study, cohort, RunFolder(folder), Silent())
    return study, cohort, store


def shape_finding(study: Study, cohort: Cohort, store: TileStore) -> Finding | None:
    found = find_shortcuts(study, cohort, store).findings
    return next((finding for finding in found if finding.id == "shortcut-shape"), None)


def bars(store: TileStore) -> int:
    """The number of tiles that their image does not fill."""
    boxes = [store.content(row) for row in range(len(store))]
    return sum(any(side.stop - side.start < store.preparation.size for side in box) for box in boxes)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(80, 80)] * 3, ("pad", "black")),
        ([(4288, 2848), (1072, 712)], ("pad", "black")),
        ([(80, 80), (80, 79)], ("stretch", "auto")),
        ([(80, 60), (60, 80)], ("stretch", "auto")),
        ([(90, 30), (30, 30)], ("pad", "reflect")),
        ([(90, 30), *[(30, 31)] * 40], ("stretch", "auto")),
        ([], ("pad", "black")),
    ],
)
def test_shapes_alone_decide_the_plan(sizes: list[tuple[int, int]], expected: tuple[str, str]) -> None:
    images, reason = planned(Images(size=128), sizes)
    assert (images.fit, images.padding) == expected
    assert bool(reason) == (len(set(sizes)) > 1 and sizes[0] != (4288, 2848))


def test_what_is_stated_is_kept() -> None:
    sizes = [(80, 60), (60, 60)]
    assert planned(Images(fit="pad"), sizes)[0].padding == "reflect"
    assert planned(Images(fit="pad", padding="black"), sizes)[0].padding == "black"
    assert planned(Images(padding="reflect"), [(80, 60)])[0].padding == "reflect"


def test_labels_do_not_change_the_plan(films: Path, tmp_path: Path) -> None:
    table = pd.read_csv(films, dtype=str)
    table["path"] = [str(films.parent / path) for path in table["path"]]
    table["label"] = np.random.default_rng(0).permutation(table["label"])
    table.to_csv(tmp_path / "cases.csv", index=False)
    study, _, _ = prepared(films, tmp_path / "a")
    other, _, _ = prepared(tmp_path / "cases.csv", tmp_path / "b")
    assert study.images.fit == other.images.fit == "stretch"


def test_the_test_set_takes_no_part_in_the_plan(films: Path, tmp_path: Path) -> None:
    study = chest_study(films, images={"size": SIZE}, columns={"visit": "", "date": ""})
    cohort = read_cohort(study)
    covid = set(cohort.images.loc[cohort.images["label"] == 0, "subject"])
    side = {name: TEST if name in covid else n % 2 for n, name in enumerate(sorted(set(cohort.images["subject"])))}
    folder = RunFolder(tmp_path)
    # all others are squares
    assert plan(study, cohort, Splits(side, 2, {}), folder, Silent()).images.fit == "pad"
    mixed = {name: TEST if number % 9 == 0 else number % 2 for number, name in enumerate(sorted(side))}
    assert plan(study, cohort, Splits(mixed, 2, {}), folder, Silent()).images.fit == "stretch"


def test_the_planned_default_leaves_no_bars_and_the_shape_is_told(films: Path, tmp_path: Path) -> None:
    study, cohort, store = prepared(films, tmp_path)
    assert bars(store) == 0
    assert (regions.pictures(store, np.arange(len(store)))[:, 0] > 0).any(axis=1).all()
    finding = shape_finding(study, cohort, store)
    assert (finding.level, finding.figures["by_class"]["covid"]) == ("warning", 1.0)


@pytest.mark.parametrize("padding", ["black", "reflect"])
def test_bars_that_follow_the_class_stop_a_run(films: Path, tmp_path: Path, padding: str) -> None:
    study, cohort, store = prepared(films, tmp_path, fit="pad", padding=padding)
    assert bars(store) == 30
    finding = shape_finding(study, cohort, store)
    assert finding.level == "error"
    assert "images: {fit: stretch}" in finding.remedy


def test_the_audit_sees_black_bars_at_the_border(films: Path, tmp_path: Path) -> None:
    study, cohort, store = prepared(films, tmp_path, fit="pad", padding="black")
    tests = {test["evidence"]: test for test in find_shortcuts(study, cohort, store).tested}
    seen = tests["border"]["by_class"]["covid"]
    # before, bars were cropped off: that is what a picture for the audit alone still has
    hidden = {test["evidence"]: test for test in find_shortcuts(study, cohort, replace(store, overview=True)).tested}
    assert seen > 0.99
    assert hidden["border"]["by_class"]["covid"] < 0.8
    assert "shape" not in hidden


@pytest.mark.parametrize("fit_as", ["pad", "stretch"])
@pytest.mark.parametrize("padding", ["black", "reflect"])
def test_masks_lie_where_the_image_lies(tmp_path: Path, fit_as: Fit, padding: Padding) -> None:
    """The mask that the audit hides and the same mask prepared as an image mark the same area."""
    mask = np.zeros((60, 100), np.uint8)
    mask[5:30, 40:95] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    index, preparation = pd.DataFrame({"width": [100], "height": [60]}), Preparation(96, fit_as, padding, "grey")
    store = TileStore(np.zeros((1, 1, 96, 96), np.uint8), index, "", preparation, tmp_path)  # type: ignore[arg-type]
    found, problem = regions._mask(tmp_path / "mask.png", Path("a.png"), store, 0)
    assert problem == ""
    assert ((fit(mask[..., None], preparation)[..., 0] > 127) == found).mean() > 0.95


@hypothesis_settings(deadline=None, max_examples=40)
@given(
    shapes=st.lists(st.tuples(st.integers(4, 40), st.integers(4, 40)), min_size=1, max_size=8), seed=st.integers(0, 99)
)
def test_bars_are_drawn_anew_and_nothing_but_the_image_is_in_them(shapes: list[tuple[int, int]], seed: int) -> None:
    side = 32
    boxes = torch.tensor([content_box(width, height, side, "pad") for width, height in shapes])
    # the content of tile i has the values 10 (i + 1) and above, all padding is 0
    tiles = torch.zeros(len(shapes), 3, side, side)
    for number, (top, left, height, width) in enumerate(boxes.tolist()):
        tiles[number, :, top : top + height, left : left + width] = 10.0 * (number + 1) + torch.rand(height, width)
    varied = Bars(boxes).varied(tiles, torch.arange(len(shapes)), torch.Generator().manual_seed(seed))
    assert varied.shape == tiles.shape
    floor = torch.arange(1, len(shapes) + 1).view(-1, 1, 1, 1) * 10.0
    assert ((varied >= floor - 1e-3) & (varied <= floor + 1.001)).all()
    again = Bars(boxes).varied(tiles, torch.arange(len(shapes)), torch.Generator().manual_seed(seed))
    assert torch.equal(varied, again)


def test_shapes_vary_between_those_of_training_images_alone() -> None:
    """Images that are held out do not decide how others are stretched."""
    aspects, store = np.array([1.0, 1.2, 1.5, 9.0, 0.1]), torch.zeros((5, 1, 8, 8), dtype=torch.uint8)
    shapes = stretches(aspects)
    panels = PanelData(store, [[row] for row in range(5)], torch.zeros(5, 1), Panels(by="image"), shapes=shapes)
    training = panels.subset([0, 1, 2])
    expected = stretches(aspects[:3])
    assert training.shapes.lowest == pytest.approx(expected.lowest)
    assert training.shapes.highest == pytest.approx(expected.highest)
    assert torch.equal(training.shapes.aspects, shapes.aspects), "rows are those of the store"
    assert panels.subset([3]).shapes is None
    assert panels.subset([]).shapes is None


@pytest.fixture(scope="module")
def finished(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with an external cohort of one shape, which alone would be padded."""
    folder = tmp_path_factory.mktemp("finished")
    others = make_chest(folder / "others", subjects=24, size=(80, 80), seed=4)
    square = pd.read_csv(others, dtype=str).query("label != 'covid'").head(12)
    square["path"] = [str(others.parent / path) for path in square["path"]]
    wide = []
    for number, path in enumerate(square["path"]):
        target = folder / f"{number}.png"
        Image.fromarray(cv2.imread(path, cv2.IMREAD_GRAYSCALE)[20:60]).save(target)
        wide.append(str(target))
    square.assign(path=wide, subject=[f"other{n}" for n in range(12)]).to_csv(folder / "wide.csv", index=False)
    columns, accepted = {"visit": "", "date": ""}, {"shortcut-files": "planted", "shortcut-border": "planted"}
    external = {"cohort": str(folder / "wide.csv"), "name": "wide", "columns": columns}
    study = chest_study(films, images={"size": 32}, columns=columns, accept=accepted, external=external)
    return run(study, folder / "run")


def test_the_plan_is_recorded_and_other_cohorts_follow_it(finished: Run) -> None:
    assert finished.study.images.fit == "stretch"
    marker = json.loads((finished.folder / "tiles" / "store.json").read_text())
    assert marker["preparation"]["fit"] == "stretch"
    outside = json.loads((finished.folder / "tiles-external" / "store.json").read_text())
    assert outside["preparation"]["fit"] == "stretch"
    facts = RunFolder(finished.folder).job("test_resnet", 0).facts.read()
    assert facts["settings"]["images"]["fit"] == "stretch"
    assert "stretched to a square" in finished.report.read_text()


def test_new_cases_are_prepared_as_in_training(finished: Run, films: Path, tmp_path: Path) -> None:
    one = pd.read_csv(films, dtype=str).query("label == 'covid'").head(1)
    one = one.assign(path=str(films.parent / one["path"].iat[0])).drop(columns="label")
    one.to_csv(tmp_path / "a.csv", index=False)
    bundle = Bundle.open(RunFolder(finished.folder).job("test_resnet", 0).path)
    store = NewTable(bundle.study(tmp_path / "a.csv"), own=True).prepared(tmp_path).store
    assert store.preparation.fit == "stretch"


def test_a_stated_compute_plan_is_checked_before_any_image_is_read(films: Path, tmp_path: Path) -> None:
    columns = {"visit": "", "date": ""}
    with pytest.raises(StudyError, match="test_resnet"):
        read(chest_study(films, compute={"plan": {"test_resnett": {}}, **UNSTATED}, columns=columns), None, Silent())
    with pytest.raises(StudyError, match=r"compute\.plan"):
        read(chest_study(films, compute={"plan": tmp_path / "none", **UNSTATED}, columns=columns), None, Silent())
    with pytest.raises(StudyError) as error:
        chest_study(films, compute={"plan": {"test_resnet": {"precision": "fp16"}}, **UNSTATED})
    assert "compute.plan.test_resnet.precision" in str(error.value)
    assert "lax-or-strict" not in str(error.value)


@pytest.mark.parametrize(("wanted", "width", "height"), [(2.0, 1.0, 0.5), (0.5, 0.5, 1.0), (1.0, 1.0, 1.0)])
def test_a_stretched_image_shows_a_crop_of_another_shape(wanted: float, width: float, height: float) -> None:
    """Of a square image, a crop of the wanted aspect ratio fills the tile, at a random position."""
    ramp = torch.linspace(0, 1, 64)
    tiles = torch.stack([ramp.expand(64, 64), ramp.view(-1, 1).expand(64, 64)]).expand(6, 2, 64, 64)
    varied = Stretch(torch.ones(6), wanted, wanted).varied(tiles, torch.arange(6), torch.Generator().manual_seed(0))
    across, down = varied[:, 0, 0, -1] - varied[:, 0, 0, 0], varied[:, 1, -1, 0] - varied[:, 1, 0, 0]
    torch.testing.assert_close(across, torch.full((6,), width), atol=0.02, rtol=0)
    torch.testing.assert_close(down, torch.full((6,), height), atol=0.02, rtol=0)
    positions = varied[:, 0 if width < 1 else 1].amin(dim=(1, 2))
    assert (len(positions.unique()) > 1) == (wanted != 1)


def test_stretched_images_of_all_classes_vary_alike(films: Path, tmp_path: Path) -> None:
    """In training, square films look as those that were wider, unless the study says otherwise."""
    study, cohort, store = prepared(films, tmp_path)
    shapes = open_shapes(store.folder)
    assert shapes.lowest < shapes.highest
    address = StoreAddress(store.folder, store.address)
    for vary in (True, False):
        panels = study.panels.model_copy(update={"vary_shape": vary})
        data = Photographs().dataset(
            address, study.model_copy(update={"panels": panels}), cohort.panels, np.zeros((len(cohort.panels), 1)), {}
        )
        assert (data.shapes is not None, data.varied) == (vary, vary)
