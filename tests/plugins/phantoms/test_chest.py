import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from casewise.errors import CasewiseError
from casewise.plugins.phantoms.chest import FINDINGS, Film, draw_film, make_chest
from casewise.plugins.phantoms.cohort import MARK
from casewise.plugins.phantoms.twins import TWIN_KINDS, plant_twins
from tests.phantom_files import rows_of

SMALL = (96, 96)
COLUMNS = ("path", "subject", "visit", "view", "label", "source", "sex", "age", "date", "lung_mask", "synthetic")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def reduced(picture: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(picture.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)


def alike(one: np.ndarray, two: np.ndarray) -> float:
    """Correlation of two pictures reduced to 32 pixels."""
    return float(np.corrcoef(reduced(one, 32).ravel(), reduced(two, 32).ravel())[0, 1])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chest(tmp_path_factory.mktemp("chest"), subjects=12, images=2, size=SMALL, seed=3)


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Film]]:
    """The same forty subjects with every finding."""
    numbers = range(40)
    return {f: [draw_film(number, finding=f, seed=5, size=SMALL) for number in numbers] for f in FINDINGS}


@pytest.fixture(scope="module")
def many() -> tuple[list[Film], np.ndarray]:
    """Films of 240 subjects, whose findings have nothing to do with their anatomy."""
    findings = np.arange(240) % len(FINDINGS)
    return [draw_film(n, finding=FINDINGS[k], seed=9, size=SMALL) for n, k in enumerate(findings)], findings


def test_columns_files_and_marks(cohort: Path) -> None:
    rows = rows_of(cohort)
    assert (len(rows), tuple(rows[0])) == (24, COLUMNS)
    assert [(row["subject"], row["visit"]) for row in rows[:3]] == [("C0001", "1"), ("C0001", "2"), ("C0002", "1")]
    assert Counter(row["label"] for row in rows) == dict.fromkeys(FINDINGS, 8)
    assert ({row["source"] for row in rows}, {row["view"] for row in rows}) == ({"north"}, {"PA"})
    assert {row["sex"] for row in rows} == {"F", "M"}
    assert all(18 <= int(row["age"]) <= 90 for row in rows)
    assert all(one["date"] < two["date"] for one, two in zip(rows[::2], rows[1::2], strict=True))
    assert {Path(row["path"]).suffix for row in rows} == {".jpg", ".png"}
    sizes = set()
    for row in rows:
        with Image.open(cohort.parent / row["path"]) as image:
            assert image.mode == "L"
            said = image.info["comment"].decode() if image.format == "JPEG" else image.info["Description"]
            assert said == MARK
            sizes.add(image.size)
        mask = pixels(cohort.parent / row["lung_mask"])
        assert (mask.shape, set(np.unique(mask))) == ((image.height, image.width), {0, 255})
        assert 0.12 < (mask > 0).mean() < 0.6
    assert len(sizes) > 12
    assert all(abs(width - 96) <= 8 and abs(height - 96) <= 8 for width, height in sizes)
    assert json.loads((cohort.parent / "phantom.json").read_text())["settings"]["images"] == 2


def test_the_sign_is_inside_the_lungs_and_is_all_that_differs(drawn: dict[str, list[Film]]) -> None:
    for well, *ill in zip(drawn["no_finding"], drawn["covid"], drawn["pneumonia"], strict=True):
        assert not well.sign.any()
        for film in ill:
            assert np.array_equal(film.lungs, well.lungs)
            assert np.array_equal(film.picture[~film.lungs], well.picture[~film.lungs])
            changed = film.picture.astype(int) - well.picture
            # What clips at black and white is less changed than it was meant to be.
            free = (film.picture > 0) & (film.picture < 255) & (well.picture > 0) & (well.picture < 255)
            assert np.abs(changed - film.sign)[free].max() <= 1.01
            assert film.sign.max() > 6


def auroc(features: list[Any], findings: np.ndarray, penalty: float) -> np.ndarray:
    """Out-of-fold one-vs-rest AUROC of ridge regression, by class."""
    from sklearn.linear_model import Ridge
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import KFold, cross_val_predict

    inputs = np.array([np.ravel(values) for values in features], dtype=float)
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-9)
    found = cross_val_predict(Ridge(penalty), inputs, np.eye(3)[findings], cv=KFold(5))
    return np.array([roc_auc_score(findings == kind, found[:, kind]) for kind in range(3)])


def test_thumbnail_and_border_do_not_tell_the_class(many: tuple[list[Film], np.ndarray]) -> None:
    films, findings = many
    thumbnails = [reduced(film.picture, 8) for film in films]
    sides = [(f.picture[:6], f.picture[-6:], f.picture[:, :6].T, f.picture[:, -6:].T) for f in films]
    borders = [[reduced(side, 8) for side in four] for four in sides]
    # The standard error of each is 0.04.
    assert np.abs(auroc(thumbnails, findings, 64) - 0.5).max() < 0.1
    assert np.abs(auroc(borders, findings, 256) - 0.5).max() < 0.1
    assert np.abs(auroc([film.picture.mean() for film in films], findings, 1) - 0.5).max() < 0.1


def test_marker_follows_the_class(tmp_path: Path) -> None:
    plain, marked = (
        make_chest(tmp_path / str(marker), subjects=6, size=(128, 128), seed=6, marker=marker)
        for marker in (None, "corner")
    )
    for one, two in zip(rows_of(plain), rows_of(marked), strict=True):
        before, after = pixels(plain.parent / one["path"]).astype(int), pixels(marked.parent / two["path"]).astype(int)
        spot = np.abs(after - before) > 20
        assert spot.any() == (one["label"] != "no_finding")
        # within a corner of a fifth of the film
        assert not spot[26:].any()
        assert not spot[:, 26:].any()


def _cropped(one: np.ndarray, two: np.ndarray) -> bool:
    return two.shape < one.shape and cv2.matchTemplate(one, two, cv2.TM_CCOEFF_NORMED).max() > 0.98


TWINS: dict[str, Callable[[np.ndarray, np.ndarray], bool]] = {
    "exact": np.array_equal,
    "resized": lambda one, two: two.shape < one.shape and alike(one, two) > 0.99,
    "recompressed": lambda one, two: two.shape == one.shape and alike(one, two) > 0.99,
    "cropped": _cropped,
    "flipped": lambda one, two: alike(one[:, ::-1], two) > 0.995 and alike(one, two) < 0.99,
    "brightness": lambda one, two: abs(two.mean() / one.mean() - 1) > 0.1 and alike(one, two) > 0.95,
    "turned": lambda one, two: any(alike(two, np.rot90(one, turns)) > 0.98 for turns in (1, 2, 3)),
    "negative": lambda one, two: two.shape == one.shape and abs(two.mean() + one.mean() - 255) < 2,
    "tilted": lambda one, two: two.shape == one.shape and two[0, 0] < 20,
    "zoomed": _cropped,
    "off-centre": _cropped,
    "framed": lambda one, two: two.shape > one.shape,
}


def test_twins_are_planted_as_said(tmp_path: Path) -> None:
    table = make_chest(tmp_path, subjects=20, size=(120, 96), seed=8)
    assert (tuple(TWINS), plant_twins(table, each=2, seed=1)) == (TWIN_KINDS, table)
    rows = rows_of(table)
    assert tuple(rows[0]) == (*COLUMNS, "twin_of", "twin_kind")
    twins, originals = rows[20:], {row["path"]: row for row in rows[:20]}
    assert [row["subject"] for row in twins] == [f"twin-{n:04d}" for n in range(1, 25)]
    assert Counter(row["twin_kind"] for row in twins) == dict.fromkeys(TWINS, 2)
    for row in twins:
        parent = originals[row["twin_of"]]
        assert row["label"] == parent["label"]
        one, two = pixels(tmp_path / parent["path"]), pixels(tmp_path / row["path"])
        assert TWINS[row["twin_kind"]](one, two), row["twin_kind"]
        assert pixels(tmp_path / row["lung_mask"]).shape == two.shape


def test_twins_go_into_phantoms_only(tmp_path: Path) -> None:
    real = tmp_path / "cases.csv"
    real.write_text("path,subject\na.png,1\n")
    with pytest.raises(CasewiseError, match="does not belong to a phantom"):
        plant_twins(real)
    assert real.read_text() == "path,subject\na.png,1\n"
    table = make_chest(tmp_path / "phantom", subjects=3, size=(48, 48))
    with pytest.raises(CasewiseError, match=r"'croped'\. Did you mean 'cropped'"):
        plant_twins(table, kinds=("croped",))
    with pytest.raises(CasewiseError, match="has 3 images to copy; 10 twins"):
        plant_twins(table)
    assert not (table.parent / "images" / "twin-0001").exists()
