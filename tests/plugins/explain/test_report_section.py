"""The section on saliency by its values: maps, where they lie, and their comparison with masks."""

import dataclasses
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from casewise.plugins.explain import report_section
from casewise.plugins.explain.outputs import save_scan
from casewise.report import page
from casewise.report.blocks import Pictures, Table
from casewise.report.context import ReportContext
from tests.report.shared import facts_of, flat
from tests.report_contexts import section_of

ORDERS = ("map", "random", "centre", "brightness")


def figure(value: float, low: float | None, high: float | None, *, rough: bool = False) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n_cases": 9, "n_subjects": 9, "rough": rough}


def measured_of(group: dict[str, Any] | None) -> dict[str, Any]:
    """Measures of one network with figures of the cases predicted correctly."""
    steps = [{"down_to": "head", "parts": 1, "spearman": None, "ssim": 1.0}]
    deletion: dict[str, Any] = {n: figure(0.4, 0.2, 0.6) for n in (*ORDERS, *(f"over_{n}" for n in ORDERS[1:]))}
    deletion |= {"cases": 4}
    network = {"correct": group, "erroneous": None, "all": group, "method": "rollout", "cells": [12, 14], "draws": 5}
    network |= {"empty_maps": 0, "flat_maps": 2, "random_weights_maps": 45, "random_weights_empty": 3}
    network |= {"sanity": {"cases": 4, "fold": 1, "steps": steps}, "deletion": deletion} if group else {}
    counts = {"with_mask": 9, "cases": 12, "outside_window": 1, "lost_masks": ["X/1"], "meaning": "lesion"}
    return counts | {"networks": {"<vit>": network}}


def group_of(**changes: dict[str, Any]) -> dict[str, Any]:
    names = (*report_section.HIT, *report_section.SHARE)
    return {name: figure(0.5, 0.3, 0.7) for name in names} | changes


def explained(context: ReportContext, folder: Path, **changes: Any) -> ReportContext:
    """The context with two maps of one case, one of them without its picture."""
    for name in ("input.png", "map.png"):
        Image.new("RGB", (8, 8), (200, 100, 0)).save(folder / name)
    entry = {"network": "<vit>", "method": "rollout", "file": "map.png", "predicted": "covid", "probability": 0.8}
    entry |= {"cells": [6, 7], "correct": True}
    entry["sum"] = {"output": 0.254, "average": -0.004, "placed": -0.014, "unplaced": 0.272}
    row: dict[str, Any] = {"name": "T1", "input": "input.png", "outlined": "lesion", "reference": "covid"}
    row |= {"maps": [entry, entry | {"correct": False, "file": "gone.png"}]}
    case = {"case": "S/1", "subject": "S", "visit": "1", "stage": "oof", "methods": ["rollout"], "rows": [row]}
    shown = {"rule": "cases named", "folder": str(folder), "target": context.study.primary_outcome, "cells": 0}
    return dataclasses.replace(context, explanations={"shown": shown | {"cases": [case]}, "measured": None} | changes)


@pytest.mark.parametrize(
    ("low", "high", "rough", "wanted"),
    [
        (0.1, 0.4, False, "more"),
        (-0.1, 0.2, False, "not shown to differ"),
        (-0.4, -0.1, False, "less"),
        (0.1, 0.4, True, "not shown to differ"),
        (None, None, False, "not shown to differ"),
    ],
)
def test_the_verdict_follows_the_interval(low: float | None, high: float | None, rough: bool, wanted: str) -> None:
    difference = figure(0.2, low, high, rough=rough)
    group = group_of(hit=figure(0.6, 0.4, 0.8), hit_over_prior=difference)
    row, _ = report_section.measured_rows(measured_of(group), report_section.HIT)
    assert row.name.endswith("predicted correctly")
    assert [cell.text for cell in row.cells[:2]] == ["9", "60 %"]
    assert (row.cells[5].text, row.cells[5].small.endswith(wanted)) == ("+20 points", True)
    figures = {"share": figure(0.5, 0.4, 0.6), "area": figure(0.3, None, None), "difference": difference}
    regions = {"anatomy": {"column": "lungs", "sample": 14, "of": 20}}
    placement = {"regions": regions, "networks": {"net": {"anatomy": figures | {"empty_maps": 1}}}}
    (row,) = report_section.placement_rows(placement)
    assert row.name == "net: anatomy (column lungs)"
    assert [cell.text for cell in row.cells] == ["9", "50 %", "30 %", "+20 points", "1"]
    assert row.cells[3].small.endswith(wanted)


def test_maps_stand_beside_images_and_lost_ones_are_left_out(report_of_classes: ReportContext, tmp_path: Path) -> None:
    context = explained(report_of_classes, tmp_path, measured=measured_of(group_of()))
    section = report_section.section(context)
    blocks = flat(section.blocks)
    (strip,) = (block for block in blocks if isinstance(block, Pictures))
    assert strip.caption == "Subject S, visit 1"
    added = "logit minus the mean of the others 0.25 = average image 0.00, on the map −0.01, rest +0.26"
    captions = [picture.caption for picture in strip.pictures]
    rollout = f"<vit>: attention rollout, 6 × 7 cells; covid (80 %), correct; {added}"
    assert captions == ["T1; reference: covid", rollout]
    facts = facts_of(section)
    assert (facts["Panels with a mask"], facts["Mask outside the panel"]) == ("9 of 12", "1 further panel")
    assert (facts["Cases shown"], facts["Green line"]) == ("cases named", "edge of the lesion")
    assert "12 × 14 cells; empty 0, nearly uniform 2" in facts["<vit>"]
    assert [len(block.rows) for block in blocks if isinstance(block, Table)] == [2, 2, 1, 1]
    text = page.render(context)
    assert section_of(text, "saliency").count("vit&gt;") > 1
    assert "<vit>" not in text


def test_a_scan_keeps_its_geometry(tmp_path: Path) -> None:
    affine = np.array([[0, -2.0, 0, 9], [0, 0, 3.5, -40], [-1.0, 0, 0, 7], [0, 0, 0, 1]])
    values = np.random.default_rng(3).random((4, 5, 6)).astype(np.float32)
    path = save_scan(tmp_path / "map.nii.gz", values, affine)
    image = nibabel.load(path)
    assert (np.asarray(image.dataobj) == values).all()
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    assert nibabel.aff2axcodes(image.affine) == nibabel.aff2axcodes(affine)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert save_scan(tmp_path / "again.nii.gz", values, affine).read_bytes() == path.read_bytes()
