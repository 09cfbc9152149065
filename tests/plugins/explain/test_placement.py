"""Where maps lie: the border, masks of films on tiles, and `casewise explain` of films with and without masks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.modalities.base import CaseMask
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.explain.command import explain_run
from casewise.plugins.explain.placement import border, dice_of, shares_of
from casewise.plugins.explain.report_section import placement_rows
from casewise.plugins.explain.run import ExplainSettings
from casewise.plugins.explain.saliency import SaliencyMap
from casewise.plugins.phantoms.chest import make_chest
from casewise.run import run
from casewise.run_folder import RunFolder
from tests.chest_study import FAST, chest_study
from tests.report_contexts import section_of

pytest.importorskip("pytorch_grad_cam", reason="the package that makes Grad-CAM is optional")


def saliency_of(values: np.ndarray, slots: list[int]) -> SaliencyMap:
    maps = values[None]
    peaks = (np.eye(2), np.eye(2))
    arrays = (np.array([slots]), maps[:, None], maps, maps[:, None], maps, np.ones(1))
    return SaliencyMap(0, *arrays, (2, 2), peaks, (1, 2))


def test_the_border_is_the_outer_eighth() -> None:
    ring = border((64, 64))
    assert ring.mean() == 1 - 0.75**2
    assert ring[7].all()
    assert not ring[8, 8:56].any()


def test_shares_are_of_each_image_of_a_panel_and_empty_slots_do_not_count() -> None:
    tile = np.zeros((16, 16))
    tile[0, 0] = 3.0
    tile[8, 8] = 1.0
    panel = np.concatenate([tile, np.ones((16, 16))], axis=1)
    assert shares_of(saliency_of(panel, [5, -1]), 0, None) == (0.75, 0.4375)
    planes = np.zeros((1, 16, 16), bool)
    planes[0, 8, 8] = True
    mask = CaseMask(np.array([5]), planes, marked=True)
    # the second image has no mask: only the first one counts
    assert shares_of(saliency_of(panel, [5, 9]), 0, mask) == (0.25, 1 / 256)
    assert shares_of(saliency_of(panel, [9, -1]), 0, mask) is None


def test_the_own_map_is_compared_outside_padding() -> None:
    planes, content = np.zeros((2, 1, 16, 16), bool)
    content[0, 4:12] = planes[0, 4:8] = True
    own = np.pad(planes[0, 4:12], ((4, 4), (0, 0)), "symmetric").astype(float)  # mirrored tissue is marked as well
    saliency = replace(saliency_of(np.hstack([own, own]), [5, -1]), own=np.hstack([own, own])[None])
    assert dice_of(saliency, 0, CaseMask(np.array([5]), planes, True, content)) == (1.0, 2 / 3)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chest(tmp_path_factory.mktemp("films"), subjects=12, size=(64, 72), seed=4)


@pytest.fixture(scope="module")
def finished(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on films, of which nine have a mask of the lungs."""
    table = pd.read_csv(films)
    table.loc[:2, "lung_mask"] = ""
    changed = films.with_name("nine.csv")
    table.to_csv(changed, index=False)
    study = chest_study(changed, audit={"mask": "lung_mask"}, **FAST)
    return run(study, tmp_path_factory.mktemp("finished") / "run").folder


def test_films_are_measured_against_the_masks_of_the_audit(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANDOMISED_CASES", "DELETED_CASES", "DRAWS", "FEWER_DRAWS"):
        monkeypatch.setattr(f"casewise.plugins.explain.localisation.{name}", 1)
    done = explain_run(finished, ExplainSettings(measure=True))
    assert (done.measures["meaning"], done.measures["column"]) == ("anatomy", "lung_mask")
    assert (done.measures["with_mask"], done.measures["cases"]) == (9, 12)
    content = json.loads((finished / "explanations.json").read_text())
    placement, anatomy = content["placement"], {"column": "lung_mask", "sample": 9}
    assert placement["regions"] == {"border": {"column": None, "sample": 12}, "anatomy": anatomy}
    figures = placement["networks"]["test_resnet"]
    assert figures["border"]["area"]["value"] == 0.4375
    for region, count in (("border", 12), ("anatomy", 9)):
        share, area = figures[region]["share"], figures[region]["area"]
        assert share["n_subjects"] == count
        if region == "border":  # the same for every image of one shape
            assert area["low"] is area["high"] is None
        else:
            assert 0 < area["low"] <= area["high"] < 1
        assert figures[region]["difference"]["value"] == pytest.approx(share["value"] - area["value"])
    # all masks are in the sample: the same shares as those measured
    measured = done.measures["networks"]["test_resnet"]["all"]
    assert figures["anatomy"]["share"]["value"] == pytest.approx(measured["share_inside"]["value"])
    assert figures["anatomy"]["area"]["value"] == pytest.approx(measured["mask_share"]["value"])
    lungs = [np.asarray(Image.open(finished_mask)).astype(bool).mean() for finished_mask in masks_of(finished)]
    assert figures["anatomy"]["area"]["value"] == pytest.approx(np.mean(lungs) * 64 / 72, abs=0.03)
    page, rows = section_of(done.report.read_text() if done.report else "", "saliency"), placement_rows(placement)
    assert [row.name for row in rows if row.name in page] == [row.name for row in rows]


def masks_of(finished: Path) -> list[Path]:
    opened = FinishedRun.open(RunFolder(finished))
    return [opened.study.cohort.parent / name for name in opened.cohort.images["lung_mask"] if name]
