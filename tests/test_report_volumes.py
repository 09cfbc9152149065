"""The report of volumes: panels as networks see them, preparation told, words of scans; and the explained section."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from casewise.modalities.volumes.preview import central, central_panels, grid
from casewise.modalities.volumes.slice_store import SliceStore
from casewise.modalities.volumes.standardise import standard_scales
from casewise.report import page
from casewise.report.context import ReportContext
from casewise.report.sections import cases, volumes
from casewise.report.sections import saliency as explained
from casewise.report.sections import terminology as words
from casewise.study.schema import Study
from tests.test_report_classes import toy

PLAIN = {"sequences": ["T1", "T2"], "bias": "none", "smoothing": "none"}


def of_volumes(material: ReportContext, **changes: Any) -> ReportContext:
    """The same material as if its images were scans."""
    values = material.study.model_dump() | {
        "images": {"size": 32},
        "panels": {"by": "case", "grid": "3x3", "flip": "horizontal", "quarter_turns": True},
        "volumes": PLAIN | changes,
        "regions": [],
        "external": None,
    }
    study = Study.model_validate(values)
    images = material.cohort_images
    images = images.assign(sequence=np.where(np.arange(len(images)) % 2, "T2", "T1"))
    panel = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (96, 1))
    return dataclasses.replace(
        material, study=study, cohort_images=images, grids=lambda case: [("T1", panel), ("T2", panel[:, ::-1])]
    )


@pytest.fixture(scope="module")
def classed() -> ReportContext:
    return toy()


def test_scans_are_told_as_scans(classed: ReportContext) -> None:
    material = of_volumes(classed)
    assert re.search(r"predicted from [\d,]+ scans \(T1 and T2\)", words.predicted(material))
    text = page.render(material)
    assert "What the model sees" in text
    assert 'alt="T1: 3 by 3 slices as the network sees them"' in text
    assert "photograph" not in text
    assert page._image_sections(material)["preparation"] is None
    slices = of_volumes(classed, slice_index="slice_order", sequences=["T1"], fusion=["early"])
    assert words.Words(slices).picture == "slice"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "standardised over patients (Nyúl and Udupa) by landmarks of the fold’s own training scans"),
        ({"standardise": "none"}, "not standardised over patients"),
        ({"bias": "n4"}, "N4, fitted on a grid up to four times coarser"),
        ({"smoothing": "edge_preserving"}, "edge-preserving"),
        ({"roi": "none"}, "networks see the whole plane, resized to 32 × 32 pixels"),
        ({"roi": "mask", "margin": 12}, "cut around the mask in the column mask, 12 mm more on each side"),
        ({"missing": "drop"}, "cases that lack one were left out"),
        (
            {"missing": "mask", "sequence_dropout": 0.25},
            "in training each sequence is hidden with a chance of 25 %, but one always stays",
        ),
        ({"fusion": ["late", "T2"]}, "late: a network for each sequence"),
        ({"inference_windows": "all"}, "in prediction the mean over all windows"),
    ],
)
def test_preparation_is_told(classed: ReportContext, changes: dict[str, Any], told: str) -> None:
    section = volumes.section(of_volumes(classed, **changes))
    assert section is not None
    assert told in " / ".join(text for _, text in section["facts"])


def test_confident_errors_show_panels(classed: ReportContext) -> None:
    material = of_volumes(classed)
    shown = cases.panels_of(material, {"case": str(material.panels["case"].iloc[0])})
    assert [name for name, _ in shown] == ["T1", "T2"]
    assert all(uri.startswith("data:image/jpeg") for _, uri in shown)


def test_central_panels_are_those_of_the_fold(classed: ReportContext) -> None:
    rng = np.random.default_rng(0)
    slices = rng.integers(0, 32768, (24, 2, 32, 32)).astype(np.uint16)
    marks = np.sort(rng.integers(0, 32768, (2, 2, 11)), axis=2).astype(np.float32)
    present = np.array([[True, True], [True, False]])
    store = SliceStore(
        slices,
        first=np.array([0, 12]),
        count=np.array([12, 12]),
        present=present,
        landmarks=marks,
        affines=np.stack([np.eye(4)] * 2),
        facts=[],
        notes=[],
        address="",
        folder=classed.study.cohort,
    )
    study = of_volumes(classed, standardise="none", missing="mask").study
    plain = {"sequences": ["T1", "T2"], "standard": None}
    found = central_panels(study, store, 0, plain)
    wanted = grid(slices[1:10, 0] / 32767, rows=3, columns=3) * 255
    assert np.abs(found[0].pixels - wanted).max() <= 0.51
    assert [shown.name for shown in central_panels(study, store, 1, plain)] == ["T1"]
    nyul = of_volumes(classed, missing="mask").study
    scales = (standard_scales(marks, np.array([row]), [0]) for row in (0, 1))
    first, other = (central_panels(nyul, store, 0, {"sequences": ["T1"], "standard": scale}) for scale in scales)
    assert not np.array_equal(first[0].pixels, other[0].pixels)


@pytest.mark.parametrize("count", [1, 4, 9, 10, 13, 20])
def test_the_central_window_has_as_many_slices_before_as_after(count: int) -> None:
    found = central(count, 9)
    assert len(found) == 9
    assert abs(found[0] - (count - 1 - found[-1])) <= 1
    assert set(np.diff(found)) <= ({1} if count >= 9 else {0, 1})


def figure(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n_cases": 9, "n_subjects": 9, "rough": True}


def told_of(group: str, over: dict[str, Any], **more: Any) -> dict[str, Any]:
    names = [*explained.HIT, *explained.SHARE]
    part = {name: figure(0.5, 0.3, 0.7) | {"rough": False} for name in names}
    part |= {"hit_over_random_weights": over, "hit_over_prior": over} | more
    return {group: part, "prior": {"hit": "tile_centre", "share": "panel_centre"}}


@pytest.mark.parametrize(
    ("low", "high", "rough", "said"),
    [
        (0.1, 0.4, False, "more often than with random weights, more often than at the middle of each slice"),
        (-0.1, 0.2, False, "not to be told apart from what it is with random weights"),
        (-0.4, -0.1, False, "less often than with random weights"),
        (0.1, 0.4, True, "not to be told apart"),
    ],
)
def test_the_sentence_follows_the_interval(low: float, high: float, rough: bool, said: str) -> None:
    told = told_of("correct", figure(0.2, low, high) | {"rough": rough}, hit=figure(0.6, 0.4, 0.8) | {"rough": rough})
    sentence = explained.sentence_of("vit", told)
    assert said in sentence
    assert "in 60 % of the 9 correctly named cases with a lesion (interval 40 to 80 %)" in sentence
    assert "50 % with random weights" in sentence
    assert ("do not show that what it learned points there" in sentence) is (low < 0 or rough)
    assert "no more often" not in sentence
    assert "of the 9 cases with a lesion" in explained.sentence_of("vit", told_of("all", figure(0, 0, 0)))
    assert "nothing could be measured" in explained.sentence_of("vit", {"all": None})


def test_the_explained_section(classed: ReportContext, tmp_path: Any) -> None:
    for name in ("input.png", "map.png"):
        Image.new("RGB", (8, 8), (200, 100, 0)).save(tmp_path / name)
    network = {"network": "<vit>", "method": "rollout", "file": "map.png", "named": "covid", "probability": 0.8}
    network |= {"cells": [6, 7]}
    row = {"name": "T1", "input": "input.png", "outlined": True, "truth": "covid"}
    case = {"case": "S/1", "subject": "S", "visit": "1", "stage": "oof", "methods": ["rollout"]}
    steps = [{"down_to": "head", "parts": 1, "spearman": None, "ssim": 1.0}]
    orders = ("map", "random", "centre", "brightness")
    names = [*orders, "over_random", "over_centre", "over_brightness"]
    deletion = {name: figure(0.4, 0.2, 0.6) for name in names} | {"cases": 4, "shares": [0.0, 0.5, 1.0]}
    network_told = {
        **told_of("correct", figure(0.2, 0.1, 0.3)),
        "all": told_of("all", figure(0.2, 0.1, 0.3))["all"],
        "erroneous": None,
        "method": "rollout",
        "cells": [12, 14],
        "draws": 5,
        "empty_maps": 0,
        "flat_maps": 2,
        "random_weights_maps": 45,
        "random_weights_empty": 3,
        "sanity": {"cases": 4, "fold": 1, "steps": steps},
        "deletion": deletion | {"curves": {key: [1.0, 0.5, 0.2] for key in orders}},
    }
    measured = {
        "column": "lesion",
        "with_lesion": 9,
        "cases": 12,
        "outside_window": 1,
        "lost_masks": ["X/1"],
        "cells": 0,
    }
    measured |= {"networks": {"<vit>": network_told}}
    maps = [network | {"right": True}, network | {"right": False, "file": "gone.png"}]
    shown = {"rule": "cases named", "folder": str(tmp_path), "target": classed.study.primary_outcome, "cells": 0}
    told = {"shown": shown | {"cases": [case | {"rows": [row | {"maps": maps}]}]}, "measured": measured}
    text = page.render(dataclasses.replace(classed, explanations=told))
    section = text[text.index('<section id="explained">') :]
    assert section.count("<b>correct</b>") == 1
    assert "erroneous</b>" not in section
    assert "A green line goes around the lesion" in section
    assert "9 of 12 cases" in section
    assert "1 further case has its lesion outside these slices" in section
    assert "Of 1 case nothing of what the mask marks" in section
    assert "attention rollout, 6 × 7 cells" in section
    assert "attention rollout, 12 × 14 cells, 2 nearly the same everywhere" in section
    assert "(5 draws a fold) 3 of 45 maps are empty" in section
    assert "vit&gt;, named correctly" in section
    assert section.count("<svg") >= 1
    assert "<vit>" not in text
    assert 'id="explained"' not in page.render(classed)
    gone = told | {"shown": told["shown"] | {"folder": str(tmp_path / "gone")}, "measured": None}
    assert explained.explained(dataclasses.replace(classed, explanations=gone)) is None


def test_slice_images_are_in_the_order_of_their_column(classed: ReportContext, tmp_path: Any) -> None:
    """Nothing says that a column of places runs from the feet to the head."""
    Image.new("RGB", (8, 8)).save(tmp_path / "input.png")
    row = {"name": "T1", "input": "input.png", "outlined": False, "truth": "covid", "maps": []}
    case = {"case": "S/1", "subject": "S", "visit": "1", "stage": "oof", "methods": ["rollout"], "rows": [row]}
    shown = {"rule": "cases named", "folder": str(tmp_path), "target": classed.study.primary_outcome, "cases": [case]}
    column = {"slice_index": "place", "sequences": ["T1"], "fusion": ["early"]}
    for changes, said in ((column, "in the order of the column place"), ({}, "from the feet to the head")):
        material = of_volumes(classed, **changes)
        material = dataclasses.replace(material, explanations={"shown": shown | {"cells": 0}, "measured": None})
        text = page.render(material)
        section = text[text.index('<section id="explained">') :]
        assert said in section[: section.index("</p>")]
        assert "stand there more than once" in section
        seen = text[text.index("<h2>What the model sees") :]
        assert said in seen[: seen.index("</p>")]
