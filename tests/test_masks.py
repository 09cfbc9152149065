"""Masks that train the map of a U-Net: tiles, augmentation, loss, studies that are refused, stale networks."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from casewise.audit.regions import read_masks
from casewise.console import Silent
from casewise.errors import CohortError, ImageError, RunError
from casewise.modalities.base import PreparedCohort
from casewise.modalities.dataset import PanelData
from casewise.modalities.mask_labels import marked_labels
from casewise.modalities.masks import mask_on_tiles, training_masks
from casewise.modalities.panels import augmented, plain
from casewise.modalities.shape_variation import Bars, Stretch
from casewise.modalities.store.store import TileStore
from casewise.models.backbones import build_network
from casewise.models.outputs import Output
from casewise.pipeline.finished import FinishedRun
from casewise.pipeline.read import prepare, read, validate
from casewise.plugins.published.unet import UNet
from casewise.plugins.volumes.native_space import _stack_masks
from casewise.run import Run, run
from casewise.run_folder import RunFolder
from casewise.study.loading import build_study
from casewise.study.schema import Panels, Recipe, Study
from casewise.training.compute_plan import ComputePlan
from casewise.training.loop import Training, TrainingContext

pytestmark = pytest.mark.plugins("published")
OUTPUTS = (Output("label", "classification", 2),)


def squares(count: int, side: int = 32, **settings: Any) -> PanelData:
    """Dark noise with a bright square, which is all that the masks mark; every fourth mask is unknown."""
    store = torch.randint(20, 90, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    masks = torch.ones(count, side, side, dtype=torch.uint8)
    for number in range(count):
        at = slice(8 + number % 5, 20 + number % 5)
        store[number, :, at, at] += 120
        masks[number, at, at] = 2
    masks[3::4] = 0
    truth = (torch.arange(count) % 2).float()[:, None]
    return PanelData(store, [[n] for n in range(count)], truth, Panels(by="image", **settings), masks=masks)


def training(data: PanelData, folder: Path, *, parts: int = 1, name: str = "unet", **recipe: Any) -> Training:
    torch.manual_seed(0)
    settings = {"epochs": 50, "batch_size": 6, "lr": 0.001, "optimizer": "adam", "schedule": "constant"} | recipe
    stated = Recipe.model_validate(settings | {"early_stopping": {"monitor": "none"}})
    plan = ComputePlan("cpu", "fp32", channels_last=True, threads=1, parts=parts)
    return Training(build_network(name, 2), stated, data, TrainingContext(OUTPUTS, folder, 0, plan, keep="last"))


def weights_of(training: Training) -> torch.Tensor:
    return torch.cat([values.flatten() for values in training.network.state_dict().values()])


@pytest.mark.parametrize("further", [{}, {"padding_mode": "reflect", "probability": 0.5}, {"brightness": 0.3}])
@pytest.mark.parametrize("shapes", [None, "bars", "stretch"])
def test_masks_move_with_their_tiles(further: dict[str, Any], shapes: str | None) -> None:
    seeded = torch.Generator().manual_seed(1)
    marked = torch.randint(0, 2, (6, 32, 32), dtype=torch.uint8, generator=seeded)
    store, slots = (255 * marked)[:, None].expand(-1, 3, -1, -1), torch.tensor([[0, 1], [2, 3], [4, 5], [5, -1]])
    moves: dict[str, Any] = {"rotate": 40, "flip": "both", "translate": 0.2, "zoom_in": 0.3, "perspective": 0.2}
    settings = Panels(grid="1x2", **moves, **further)
    boxes = torch.tensor([[0, 4, 32, 24], [4, 0, 24, 32]] * 3)
    varied = {"bars": Bars(boxes), "stretch": Stretch(torch.linspace(0.5, 2, 6), 0.5, 2.0)}.get(shapes or "")
    draws = [torch.Generator().manual_seed(7) for _ in range(2)]
    both = augmented(store, slots, settings, draws[0], shapes=varied, masks=marked + 1)
    assert both.shape == (4, 5, 32, 64)
    assert torch.equal(both[:, :3], augmented(store, slots, settings, draws[1], shapes=varied))
    same = torch.isclose(both[:, 3], both[:, 0], atol=1e-6)
    assert same.all() == ("brightness" not in further)
    assert (both[:, 4] >= both[:, 3] - 1e-6).all()
    assert not both[3, :, :, 32:].any()  # nothing is known of an empty slot
    assert not torch.equal(both, plain(store, slots, settings, masks=marked + 1))


def test_only_known_pixels_count_and_unpadded_maps_are_of_the_middle() -> None:
    logits, masks = torch.randn(2, 1, 4, 4), torch.zeros(2, 2, 8, 8)
    masks[0, 0, :, :4] = masks[0, 1] = 1
    true, found = masks[:1, :1, 2:6, 2:6], logits[:1].sigmoid()
    expected = torch.nn.functional.binary_cross_entropy(found, true)
    expected += 1 - (2 * (found * true).sum() + 1) / (found.sum() + true.sum() + 1)
    assert torch.isclose(UNet.mask_loss(logits[:1], masks[:1]), expected)
    assert torch.isclose(UNet.mask_loss(logits, masks), expected / 2)  # of one of two images
    assert float(UNet.mask_loss(logits[1:], masks[1:])) == 0


def test_masks_teach_the_map(tmp_path: Path) -> None:
    data = squares(20)
    taught = training(data.subset(range(12)), tmp_path)
    for _ in range(7):
        taught.run_epoch(data.subset([0]))
    with torch.no_grad():
        logits = taught.network.outputs_and_map(data.store[12:].float() / 255)[1][:, 0]
    marked, true = logits > 0, data.store[12:, 0] > 120
    dice = float(2 * (marked & true).sum() / (marked.sum() + true.sum()))
    assert dice > max(0.8, 0.2 + float(2 * true.sum() / (true.numel() + true.sum())))
    losses = [entry["mask_loss"] for entry in taught.history]
    assert losses[-1] < 0.5 * losses[0]


def test_images_without_masks_train_as_with_labels_alone(tmp_path: Path) -> None:
    data = squares(6, flip="both")
    unknown = PanelData(data.store, data.tiles, data.truth, data.settings, masks=torch.zeros_like(data.masks))
    alone = PanelData(data.store, data.tiles, data.truth, data.settings)
    results = []
    for panels in (alone, unknown, data):
        one = training(panels, tmp_path)
        assert (float(one.step([0, 1, 2, 3], 0, 0)[3]) > 0) == (panels is data)
        results.append(weights_of(one))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_parts_of_a_batch_and_the_weight_of_masks(tmp_path: Path) -> None:
    data = squares(6)
    steps = {
        key: training(data, tmp_path, parts=parts, mask_loss=weight).step([0, 1, 2, 3], 0, 0)
        for key, parts, weight in (("whole", 1, 1.0), ("parts", 2, 1.0), ("heavy", 1, 3.0))
    }
    whole, parts, heavy = (steps[key] for key in ("whole", "parts", "heavy"))
    assert torch.allclose(whole[0], parts[0], rtol=1e-5)
    assert torch.allclose(heavy[0] - whole[0], 2 * whole[3], rtol=1e-4)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs of 40 x 30 pixels with a bright square, of which nine have a mask."""
    folder, random, rows = tmp_path_factory.mktemp("masks"), np.random.default_rng(0), ["path,subject,label,mask"]
    for number in range(12):
        picture, mask = random.integers(20, 90, (30, 40, 3), dtype=np.uint8), np.zeros((30, 40), np.uint8)
        mask[8:20, 10 + number : 22 + number] = 255
        picture[mask > 0] += 100
        Image.fromarray(picture).save(folder / f"{number}.png")
        Image.fromarray(mask).save(folder / f"m{number}.png")
        rows.append(f"{number}.png,S{number},{'ab'[number % 2]},{f'm{number}.png' if number % 4 else ''}")
    (folder / "cases.csv").write_text("\n".join(rows))
    return folder


def study_of(cohort: Path, table: str = "cases.csv", **changes: Any) -> Study:
    recipe = {"epochs": 6, "batch_size": 6, "lr": 0.001, "optimizer": "adam", "schedule": "constant"}
    values: dict[str, Any] = {"name": "masks", "synthetic": True, "cohort": cohort / table, "weights": "random"}
    values |= {"images": {"size": 32, "fit": "pad", "mask": "mask"}, "panels": {"by": "image", "flip": "both"}}
    values |= {"targets": {"label": ["a", "b"]}, "split": {"folds": 2, "test": 0}, "backbones": ["unet"]}
    values |= {"recipe": recipe | {"early_stopping": {"monitor": "none"}}, "baselines": {"off": "a test of networks"}}
    values |= {"evaluation": {"bootstrap_resamples": 100, "response": False, "counterfactual_cases": 0}}
    values |= {"audit": {"permutations": 99}, "compute": {"precision": "fp32"}}
    for section, value in changes.items():
        both_mappings = isinstance(value, dict) and isinstance(values.get(section), dict)
        values[section] = values[section] | value if both_mappings else value
    return build_study(values, source="the test's study", folder=cohort)


@pytest.fixture(scope="module")
def finished(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(study_of(cohort), tmp_path_factory.mktemp("finished") / "run")


@pytest.mark.plugins("explain")
def test_the_report_shows_the_map_and_its_agreement(finished: Run) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="the package that makes Grad-CAM is optional")
    from casewise.plugins.explain.command import explain_run
    from casewise.plugins.explain.run import ExplainSettings

    explain_run(finished.folder, ExplainSettings())
    stored = finished.files.explanations.read()
    figures = stored["placement"]["networks"]["unet"]["segmentation"]["own"]
    assert figures["dice"]["n_cases"] == 9
    assert figures["dice"]["value"] > figures["everything"]["value"]
    shown = [entry for case in stored["shown"]["cases"] for row in case["rows"] for entry in row["maps"]]
    assert all((finished.folder / stored["shown"]["folder"] / entry["own"]).exists() for entry in shown)
    page = (finished.folder / "report.html").read_text()
    assert page.count("own map, trained with the masks of mask") == len(shown)


def test_masks_lie_on_tiles_as_images_do(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # a finished run is not trained
    monkeypatch.setattr("casewise.pipeline.read.training_masks", lambda *_: pytest.fail("all masks are read"))
    (file,) = (finished.folder / "masks").glob("*.npy")
    codes, tiles = np.load(file), np.load(next((finished.folder / "tiles").glob("tiles-*.npy")))
    assert codes.shape == (12, 32, 32)
    assert codes[:4, 16, 0].tolist() == [0, 1, 1, 1]
    assert not codes[:, 0].any()  # a bar, of which nothing is known
    inside = mask_on_tiles(FinishedRun.open(finished.files).prepared, 1, "mask", "segmentation").content
    assert inside is not None
    assert (inside[0] == (codes[1] > 0)).all()
    bright = tiles[1:4, 1] > 100
    assert ((codes[1:4] == 2) == bright).mean() > 0.97


@pytest.mark.parametrize("defect", ["changed", "size", "colour", "missing", "empty"])
def test_defects_of_masks_are_named_and_changed_ones_make_networks_stale(
    finished: Run, cohort: Path, defect: str, tmp_path: Path
) -> None:
    table, file = cohort / f"{defect}.csv", cohort / f"{defect}.png"
    mask = np.zeros((30, 40), np.uint8)
    defects = {"size": mask[:15, :20], "colour": np.dstack([mask, mask, mask + 200])}
    Image.fromarray(defects.get(defect, mask)).save(file)
    name = "absent.png" if defect == "missing" else file.name
    rows = (cohort / "cases.csv").read_text()
    table.write_text(re.sub(r"m\d+\.png" if defect == "empty" else "m5.png", "" if defect == "empty" else name, rows))
    study = study_of(cohort, table.name)
    if defect == "changed":
        with pytest.raises(RunError, match="masks"):
            run(study, finished.folder)
        return
    with pytest.raises(ImageError) as error:
        run(study, tmp_path / "run")
    expected = {"size": "20×15.*40×30", "colour": file.name, "missing": name, "empty": "'mask'"}[defect]
    error.match(expected)
    assert defect == "empty" or "5.png" in str(error.value)
    with pytest.raises(ImageError) as early:
        validate(study, Silent())
    assert str(early.value) == str(error.value)


def areas(**labels: Any) -> np.ndarray:
    """(30, 40) with an area of 50 pixels for each label `first`, `second` on a background."""
    values = np.full((30, 40), labels.get("background", 0), labels.get("dtype", np.uint8))
    values[5:10, 5:15], values[20:25, 20:30] = labels.get("first", 1), labels.get("second", 2)
    return values


def palette_of(values: np.ndarray, *colours: int, **saved: Any) -> Image.Image:
    picture = Image.fromarray(values, "P")
    picture.putpalette(list(colours))
    picture.info |= saved
    return picture


BLOB = np.exp(-((np.mgrid[:30, :40][0] - 15) ** 2 + (np.mgrid[:30, :40][1] - 20) ** 2) / 200)
HALO = np.where(areas() > 0, 255, 0).astype(np.uint8)
WHITE, BLACK, RED, GREEN = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0)
COLOURED = np.array([BLACK, RED, GREEN], np.uint8)[areas()]
DRAWN = np.where(areas() > 0, 255, 0).astype(np.uint8)
BLACK_ON_CLEAR = np.dstack([np.zeros((30, 40, 3), np.uint8), DRAWN])
# Pictures of masks, and how many pixels they mark; a text is in the refusal.
MASKS: dict[str, tuple[Any, int | str]] = {
    "labels": (areas(), 100),
    "black_and_white": (DRAWN, 100),
    "one_bit": (Image.fromarray(DRAWN).convert("1"), 100),
    "deep_1_1000": (areas(second=1000, dtype=np.uint16), 100),
    "deep_1_60000": (areas(second=60000, dtype=np.uint16), 100),
    "deep_3_4096": (areas(first=3, second=4096, dtype=np.uint16), 100),
    "void_255": (areas(second=255), 100),
    "instances": ((np.arange(30)[:, None] // 6 * 5 + np.arange(40) // 8 + 1).astype(np.uint8), 1200),
    "empty": (areas(first=0, second=0), 0),
    "grey_in_colours": (np.dstack([areas()] * 3), 100),
    "palette": (palette_of(areas(), *BLACK, *RED, *GREEN), 100),
    "palette_white_first": (palette_of(np.where(areas() > 0, 0, 1).astype(np.uint8), *WHITE, *BLACK), 100),
    "palette_background_last": (palette_of(areas(background=3), *GREEN, *RED, *WHITE, *BLACK), 100),
    "palette_without_black": (palette_of(areas(), *GREEN, *RED, *WHITE), "index 0"),
    "palette_all_black": (palette_of(areas(), *BLACK * 3), "black"),
    "black_on_clear": (BLACK_ON_CLEAR, 100),
    "red_on_clear": (np.dstack([np.where(areas()[..., None] > 0, RED, WHITE).astype(np.uint8), DRAWN]), 100),
    "nothing_drawn": (np.full((30, 40, 4), (255, 255, 255, 0), np.uint8), 0),
    "opaque": (np.dstack([areas()] * 3 + [np.full((30, 40), 255, np.uint8)]), 100),
    "grey_on_clear": (np.dstack([areas(), DRAWN]), 100),
    "soft_alpha": (np.dstack([np.zeros((30, 40, 3), np.uint8), (255 * BLOB).astype(np.uint8)]), "transparent"),
    "colours": (COLOURED, "colours"),
    "colours_on_clear": (np.dstack([COLOURED, DRAWN]), "colours"),
    "probabilities": ((255 * BLOB).astype(np.uint8), "probability"),
    "deep_probabilities": ((65535 * BLOB).astype(np.uint16), "probability"),
    "soft_edges": (Image.fromarray(HALO).resize((37, 27), Image.Resampling.BILINEAR).resize((40, 30)), "soft edges"),
    "noise_at_both_ends": (HALO ^ np.random.default_rng(0).integers(0, 4, HALO.shape, np.uint8), "compression"),
    "palette_of_soft_edges": (Image.fromarray((255 * BLOB).astype(np.uint8)).convert("P"), "probability"),
    "labels_100_200": (areas(first=100, second=200), 100),
    "jpeg": (Image.fromarray(HALO), "compression"),
    "half_size": (DRAWN[::2, ::2], "20×15"),
    "turned": (DRAWN.T, "30×40"),
    "negative": (areas(first=-1, dtype=np.int32), "negative"),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedCohort:
    study, folder = study_of(cohort), RunFolder(tmp_path_factory.mktemp("prepared") / "run")
    read_cohort = read(study, folder, Silent())
    return PreparedCohort(study, read_cohort, folder.images(None), prepare(study, read_cohort, folder, Silent()))


def consumers(prepared: PreparedCohort, path: Path, *, size: int, labels: Any = None) -> dict[str, Any]:
    """Functions that mark the pixels of one mask, for the first image, for each use of masks."""
    images = prepared.study.images.model_copy(update={"mask_labels": labels, "size": size})
    audit = prepared.study.audit.model_copy(update={"mask": "mask"})
    study = prepared.study.model_copy(update={"images": images, "audit": audit})
    table = prepared.cohort.images.assign(mask=[str(path), *[""] * 11], position=range(12))
    changed = replace(prepared, study=study, cohort=replace(prepared.cohort, images=table))
    store = prepared.store
    assert isinstance(store, TileStore)

    def slices() -> np.ndarray:
        scan = _stack_masks(table, "mask", "position", path.parent, (1.0, 1.0))
        assert scan is not None
        return marked_labels(scan.values, labels)

    return {
        "audit": lambda: read_masks(study, table, store)[1],
        "explain": lambda: mask_on_tiles(changed, 0, "mask", "segmentation").planes,
        "training": lambda: np.load(training_masks(changed, Silent())) == 2,
        "slices": slices,
    }


@pytest.mark.plugins("volumes")
@pytest.mark.parametrize("name", MASKS)
def test_every_use_of_masks_marks_the_same_pixels(name: str, prepared: PreparedCohort, tmp_path: Path) -> None:
    picture, expected = MASKS[name]
    path = tmp_path / f"{name}.{'jpg' if name == 'jpeg' else 'tif' if name == 'negative' else 'png'}"
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path)
    verdicts: dict[str, Any] = {}
    for use, marks in consumers(prepared, path, size=32).items():
        try:
            verdicts[use] = int(marks().sum())
        except (ImageError, CohortError) as error:
            verdicts[use] = str(error)
            assert str(path) in verdicts[use]
    if isinstance(expected, str):
        assert [use for use, verdict in verdicts.items() if expected not in str(verdict)] == []
        return
    assert verdicts["slices"] == expected
    if 0 < expected < 1200:  # tiles are 32 pixels for 40, pictures of the audit 96
        assert verdicts["explain"] == verdicts["training"] == pytest.approx(0.64 * expected, rel=0.15)
        # the audit also counts pixels that are marked in part
        assert expected * 0.64 * 9 <= verdicts["audit"] <= expected * 0.64 * 9 * 1.6
    else:
        assert "marks" in verdicts["audit"]


@pytest.mark.plugins("volumes")
@pytest.mark.parametrize(
    ("labels", "share"), [([1], 1), ([2], 1), ({"mask": [2]}, 1), ({"mask": [1, 2]}, 2), (None, 2), ([7], 0)]
)
def test_labels_that_count_are_a_setting(labels: Any, share: int, prepared: PreparedCohort, tmp_path: Path) -> None:
    Image.fromarray(areas()).save(tmp_path / "labels.png")
    uses = consumers(prepared, tmp_path / "labels.png", size=32, labels=labels)
    if isinstance(labels, dict):
        del uses["slices"]  # receives the labels of its column
    if not share:
        with pytest.raises(CohortError, match=r"mask_labels: no label 7 .*1, 2"):
            uses["audit"]()
        assert not uses["explain"]().any()
        return
    marked = {use: int(marks().sum()) for use, marks in uses.items()}
    assert marked["explain"] == marked["training"] == pytest.approx(32 * share, rel=0.15)
    assert 288 * share <= marked["audit"] <= 288 * share * 1.6
    assert isinstance(labels, dict) or marked["slices"] == 50 * share
