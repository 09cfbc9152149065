"""The report of volumes: panels as networks see them, facts of preparation, nouns of scans; and saliency."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from PIL import Image

from casewise.plugins.volumes.preparation import central, central_panels, grid
from casewise.plugins.volumes.slice_store import SliceStore
from casewise.plugins.volumes.standardise import standard_scales
from casewise.report import page, terms
from casewise.report.context import ReportContext
from casewise.report.sections import saliency, volumes
from casewise.study.schema import Study
from tests.report_contexts import classes, section_of

PLAIN = {"sequences": ["T1", "T2"], "bias": "none", "smoothing": "none"}


def of_volumes(context: ReportContext, **changes: Any) -> ReportContext:
    """The same context as if its images were scans."""
    values = context.study.model_dump() | {
        "images": {"size": 32},
        "panels": {"by": "case", "grid": "3x3", "flip": "horizontal", "quarter_turns": True},
        "volumes": PLAIN | changes,
        "regions": [],
        "external": None,
    }
    study = Study.model_validate(values)
    images = context.cohort_images
    images = images.assign(sequence=np.where(np.arange(len(images)) % 2, "T2", "T1"))
    panel = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (96, 1))
    return dataclasses.replace(
        context, study=study, cohort_images=images, grids=lambda case: [("T1", panel), ("T2", panel[:, ::-1])]
    )


@pytest.fixture(scope="module")
def classed() -> ReportContext:
    return classes()


def test_scans_are_called_scans(classed: ReportContext) -> None:
    context = of_volumes(classed)
    assert terms.terms_of(context).picture == "scan"
    assert "(T1 and T2)" in terms.subject_matter(context)["pictures"]
    text = page.render(context)
    seen = section_of(text, "preparation")
    assert seen.count('class="panels"') == 1
    assert "photograph" not in text
    slices = of_volumes(classed, slice_index="slice_order", sequences=["T1"], fusion=["early"])
    assert terms.terms_of(slices).picture == "slice"


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        (
            {"standardise": "none", "bias": "n4", "roi": "none", "missing": "drop", "inference_windows": "all"},
            ["standardise-none", "bias-n4", "roi-none", "missing-drop", "windows-all"],
        ),
        (
            {"smoothing": "edge_preserving", "roi": "mask", "margin": 12, "missing": "mask", "sequence_dropout": 0.25},
            ["standardise-nyul", "smoothing-edge_preserving", "roi-mask", "missing-mask"],
        ),
    ],
)
def test_preparation_is_shown(classed: ReportContext, changes: dict[str, Any], facts: list[str]) -> None:
    seen = section_of(page.render(of_volumes(classed, **changes)), "preparation")
    for fact in facts:
        assert seen.count(f'data-fact="{fact}"') == 1


@pytest.mark.parametrize(
    ("fusion", "code"), [("early", "early"), ("late", "late"), ("late-shared", "shared"), ("T2", "single")]
)
def test_fusions_have_a_code(classed: ReportContext, fusion: str, code: str) -> None:
    values = volumes.section(of_volumes(classed, fusion=[fusion]))
    assert values is not None
    assert [found["code"] for found in values["fusions"]] == [code]


def test_single_cases_show_panels(classed: ReportContext) -> None:
    context = of_volumes(classed)
    shown = volumes.case_pictures(context, {"case": str(context.panels["case"].iloc[0])})
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
    scales = (standard_scales(marks[[row]], [0]) for row in (0, 1))
    first, other = (central_panels(nyul, store, 0, {"sequences": ["T1"], "standard": scale}) for scale in scales)
    assert not np.array_equal(first[0].pixels, other[0].pixels)


@pytest.mark.parametrize("count", [1, 9, 13])
def test_the_central_window_has_as_many_slices_before_as_after(count: int) -> None:
    found = central(count, 9)
    assert len(found) == 9
    assert abs(found[0] - (count - 1 - found[-1])) <= 1
    assert set(np.diff(found)) <= ({1} if count >= 9 else {0, 1})


def figure(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n_cases": 9, "n_subjects": 9, "rough": True}


def entry_of(group: str, over: dict[str, Any], **more: Any) -> dict[str, Any]:
    names = [*saliency.HIT, *saliency.SHARE]
    part = {name: figure(0.5, 0.3, 0.7) | {"rough": False} for name in names}
    part |= {"hit_over_random_weights": over, "hit_over_prior": over} | more
    return {group: part, "prior": {"hit": "tile_centre", "share": "panel_centre"}}


@pytest.mark.parametrize(
    ("low", "high", "rough", "code"),
    [(0.1, 0.4, False, "more"), (-0.1, 0.2, False, "same"), (-0.4, -0.1, False, "less"), (0.1, 0.4, True, "same")],
)
def test_the_verdict_follows_the_interval(low: float, high: float, rough: bool, code: str) -> None:
    hit = figure(0.6, 0.4, 0.8) | {"rough": rough}
    entry = entry_of("correct", figure(0.2, low, high) | {"rough": rough}, hit=hit)
    found = saliency.verdict("vit", entry, "lesion")
    assert (found["over_random"], found["over_prior"], found["group"], found["cases"]) == (code, code, "correct", 9)
    assert (found["figures"]["hit"]["value"], found["rough"], found["prior"]) == (0.6, rough, "tile_centre")
    assert saliency.verdict("vit", entry_of("all", figure(0, 0, 0)), "lesion")["group"] == "all"
    assert saliency.verdict("vit", {"all": None}, "lesion")["code"] == "unmeasured"
    assert "60 %" in saliency.sentence_of("vit", entry, "lesion")


def test_the_section_on_saliency(classed: ReportContext, tmp_path: Any) -> None:
    for name in ("input.png", "map.png"):
        Image.new("RGB", (8, 8), (200, 100, 0)).save(tmp_path / name)
    network = {"network": "<vit>", "method": "rollout", "file": "map.png", "predicted": "covid", "probability": 0.8}
    network |= {"cells": [6, 7]}
    row = {"name": "T1", "input": "input.png", "outlined": "lesion", "reference": "covid"}
    case = {"case": "S/1", "subject": "S", "visit": "1", "stage": "oof", "methods": ["rollout"]}
    steps = [{"down_to": "head", "parts": 1, "spearman": None, "ssim": 1.0}]
    orders = ("map", "random", "centre", "brightness")
    names = [*orders, "over_random", "over_centre", "over_brightness"]
    deletion = {name: figure(0.4, 0.2, 0.6) for name in names} | {"cases": 4, "shares": [0.0, 0.5, 1.0]}
    measurements = {
        **entry_of("correct", figure(0.2, 0.1, 0.3)),
        "all": entry_of("all", figure(0.2, 0.1, 0.3))["all"],
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
        "meaning": "lesion",
        "with_mask": 9,
        "cases": 12,
        "outside_window": 1,
        "lost_masks": ["X/1"],
        "cells": 0,
    }
    measured |= {"networks": {"<vit>": measurements}}
    maps = [network | {"correct": True}, network | {"correct": False, "file": "gone.png"}]
    shown = {"rule": "cases named", "folder": str(tmp_path), "target": classed.study.primary_outcome, "cells": 0}
    explanations = {"shown": shown | {"cases": [case | {"rows": [row | {"maps": maps}]}]}, "measured": measured}
    text = page.render(dataclasses.replace(classed, explanations=explanations))
    section = section_of(text, "saliency")
    assert 'data-code="map-methods"' in section, "how maps are read does not depend on where they lie"
    assert section.count("<b>correct</b>") == 1
    assert section.count('class="wrong"') == 0
    assert "6 × 7 cells" in section
    assert "12 × 14 cells, 2 nearly uniform" in section
    assert "3 of 45 maps" in section
    assert "vit&gt;" in section
    assert section.count("<svg") >= 1
    assert "<vit>" not in text
    values = saliency.section(dataclasses.replace(classed, explanations=explanations))
    assert values is not None
    assert values["outlined"]
    counts = {key: values["measured"][key] for key in ("with_mask", "cases", "outside", "lost")}
    assert counts == {"with_mask": 9, "cases": 12, "outside": 1, "lost": 1}
    assert 'id="saliency"' not in page.render(classed)
    gone = explanations | {"shown": explanations["shown"] | {"folder": str(tmp_path / "gone")}, "measured": None}
    assert saliency.section(dataclasses.replace(classed, explanations=gone)) is None


def test_slice_images_are_in_the_order_of_their_column(classed: ReportContext, tmp_path: Any) -> None:
    """Nothing says that a column of places runs from the feet to the head."""
    Image.new("RGB", (8, 8)).save(tmp_path / "input.png")
    row = {"name": "T1", "input": "input.png", "outlined": None, "reference": "covid", "maps": []}
    case = {"case": "S/1", "subject": "S", "visit": "1", "stage": "oof", "methods": ["rollout"], "rows": [row]}
    shown = {"rule": "cases named", "folder": str(tmp_path), "target": classed.study.primary_outcome, "cases": [case]}
    column = {"slice_index": "place", "sequences": ["T1"], "fusion": ["early"]}
    context = of_volumes(classed, **column)
    context = dataclasses.replace(context, explanations={"shown": shown | {"cells": 0}, "measured": None})
    text = page.render(context)
    for name in ("saliency", "preparation"):
        assert "in the order of the column place" in section_of(text, name).split("</p>")[0]
