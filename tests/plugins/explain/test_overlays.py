"""Pictures and volumes of maps: what is drawn where, the same bytes each time, nothing half written."""

from pathlib import Path

import nibabel
import numpy as np

from casewise.plugins.explain.outputs import save_scan
from casewise.plugins.explain.overlays import FigureRow, overlay, side_by_side


def test_nothing_is_laid_over_where_the_map_is_0_or_unknown() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    assert (overlay(picture, np.zeros((6, 7))) == picture).all()
    assert (overlay(picture, np.full((6, 7), np.nan)) == picture).all()
    values = np.zeros((6, 7))
    values[2, 3] = 1
    changed = (overlay(picture, values) != picture).any(axis=2)
    assert changed.sum() == 1
    assert changed[2, 3]


def rows() -> list[FigureRow]:
    rng = np.random.default_rng(2)
    picture = rng.integers(0, 256, (24, 24), dtype=np.uint8)
    maps = {"ViT, rollout": rng.random((24, 24)), "AlexNet, Grad-CAM": rng.random((24, 24))}
    return [
        FigureRow("P1/1", picture, maps, dict.fromkeys(maps, True), "covid", dict.fromkeys(maps, "covid")),
        FigureRow("P2/1", picture, maps, {"ViT, rollout": False}, "none", dict.fromkeys(maps, "pneumonia")),
    ]


def test_the_figure_tells_methods_cases_and_what_was_right() -> None:
    figure = side_by_side(rows())
    texts = [axes.get_title() for axes in figure.axes] + [axes.get_ylabel() for axes in figure.axes]
    assert {"ViT, rollout", "AlexNet, Grad-CAM", "P1/1", "P2/1"} <= set(texts)
    labels = [axes.get_xlabel() for axes in figure.axes]
    judged = [label.partition("\n")[2] for label in labels if "predicted" in label]
    assert sorted(judged) == ["", "correct", "correct", "erroneous"]


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
