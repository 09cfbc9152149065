"""The report of volumes: panels as networks see them, facts of preparation, nouns of scans."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from casewise.plugins.volumes import report_section
from casewise.plugins.volumes.preparation import central_panels, grid
from casewise.plugins.volumes.slice_store import SliceStore
from casewise.plugins.volumes.standardise import fit
from casewise.report.context import ReportContext
from casewise.study.schema import Study

BAGS = {"grid": "1x1", "pooling": "maps"}
PLAIN = {"sequences": ["T1", "T2"], "bias": "none", "smoothing": "none"}


def of_volumes(context: ReportContext, **changes: Any) -> ReportContext:
    """The same context as if its images were scans."""
    values = context.study.model_dump() | {
        "images": {"size": 32},
        "panels": {"by": "case", "grid": "3x3", "flip": "horizontal", "quarter_turns": True}
        | changes.pop("panels", {}),
        "volumes": PLAIN | changes,
        "regions": [],
        "external": None,
    }
    study, images = Study.model_validate(values), context.cohort_images
    images = images.assign(sequence=np.where(np.arange(len(images)) % 2, "T2", "T1"))
    panel = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (96, 1))
    return dataclasses.replace(
        context, study=study, cohort_images=images, grids=lambda case: [("T1", panel), ("T2", panel[:, ::-1])]
    )


@pytest.mark.parametrize(
    ("changes", "name", "fact"),
    [
        ({}, "Sequences", "T1 in 75, T2 in 75 of 150 cases"),
        (
            {"roi": "mask", "margin": 12},
            "Region",
            "around the mask in the column mask with a margin of 12 mm, resized to 32 × 32 pixels",
        ),
        ({"missing": "mask"}, "Missing sequences", report_section.MISSING["mask"].format(share="20 %")),
        ({"fusion": ["T2"]}, "Fusion", "T2 alone, as one channel"),
        ({}, "Prediction", "the central window"),
        ({"panels": BAGS}, "Prediction", "all slices of a case"),
    ],
)
def test_preparation_is_shown(report_of_classes: ReportContext, changes: dict[str, Any], name: str, fact: str) -> None:
    assert dict(report_section.preparation(of_volumes(report_of_classes, **changes)))[name] == fact


def test_central_panels_are_those_of_the_fold(report_of_classes: ReportContext) -> None:
    rng = np.random.default_rng(0)
    slices = rng.integers(0, 32768, (24, 2, 32, 32)).astype(np.uint16)
    marks = np.sort(rng.integers(0, 32768, (2, 2, 11)), axis=2).astype(np.float32)
    present = np.array([[True, True], [True, False]])
    first, count, affines = np.array([0, 12]), np.array([12, 12]), np.stack([np.eye(4)] * 2)
    store = SliceStore(slices, first, count, present, marks, affines, [], "", report_of_classes.study.cohort)
    study = of_volumes(report_of_classes, standardise="none", missing="mask").study
    plain = {"sequences": ["T1", "T2"], "standard": None}
    found, wanted = central_panels(study, store, 0, plain), grid(slices[1:10, 0] / 32767, rows=3, columns=3) * 255
    assert np.abs(found[0].pixels - wanted).max() <= 0.51
    assert [shown.name for shown in central_panels(study, store, 1, plain)] == ["T1"]
    nyul = of_volumes(report_of_classes, missing="mask").study
    scales = ([fit(marks[[row], 0]).tolist()] for row in (0, 1))
    first, other = (central_panels(nyul, store, 0, {"sequences": ["T1"], "standard": scale}) for scale in scales)
    assert not np.array_equal(first[0].pixels, other[0].pixels)
