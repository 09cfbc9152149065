from __future__ import annotations

import io
import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from casewise.cli.main import command_line
from casewise.errors import CasewiseError
from casewise.plugins.phantoms.chest import FINDINGS, TWIN_KINDS, Film, draw_film, make_chest, plant_twins
from casewise.plugins.phantoms.chest.cohort import COLUMNS, finding_of
from casewise.plugins.phantoms.chest.twins import ALTERED
from casewise.plugins.phantoms.folder import JPEG_QUALITY, MARK, encoded
from casewise.plugins.phantoms.psoriasis import make_psoriasis
from tests.phantom_files import rows_of

SMALL = (96, 96)


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
    return {
        finding: [draw_film(number, finding=finding, seed=5, size=SMALL) for number in range(40)]
        for finding in FINDINGS
    }


@pytest.fixture(scope="module")
def many() -> tuple[list[Film], np.ndarray]:
    """Films of 240 subjects, whose findings have nothing to do with their anatomy."""
    findings = np.array([FINDINGS.index(finding_of(9, number, FINDINGS)) for number in range(240)])
    return [draw_film(n, finding=FINDINGS[k], seed=9, size=SMALL) for n, k in enumerate(findings)], findings


def test_columns_files_and_marks(cohort: Path) -> None:
    rows = rows_of(cohort)
    assert len(rows) == 24
    assert tuple(rows[0]) == COLUMNS
    assert [(row["subject"], row["visit"]) for row in rows[:3]] == [("C0001", "1"), ("C0001", "2"), ("C0002", "1")]
    assert Counter(row["label"] for row in rows) == dict.fromkeys(FINDINGS, 8)
    assert {row["source"] for row in rows} == {"north"}
    assert {row["view"] for row in rows} == {"PA"}
    assert {row["synthetic"] for row in rows} == {"1"}
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
        assert mask.shape == (image.height, image.width)
        assert set(np.unique(mask)) == {0, 255}
        assert 0.12 < (mask > 0).mean() < 0.6
    assert len(sizes) > 12
    assert all(abs(width - 96) <= 8 and abs(height - 96) <= 8 for width, height in sizes)
    note = json.loads((cohort.parent / "phantom.json").read_text())
    assert note["synthetic"] is note["complete"] is True
    assert note["settings"]["images"] == 2
    assert MARK in (cohort.parent / "README.txt").read_text()


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


def test_signs_are_where_the_disease_is(drawn: dict[str, list[Film]]) -> None:
    def sides(film: Film) -> np.ndarray:
        columns = np.abs(film.sign).sum(0)
        share = columns[:48].sum() / columns.sum()
        return np.array([share, 1 - share])

    both = np.array([sides(film).min() for film in drawn["covid"]])
    one = np.array([sides(film).min() for film in drawn["pneumonia"]])
    assert np.median(both) > 0.25
    assert np.median(one) < 0.05
    low = [np.average(np.arange(96), weights=np.abs(f.sign).sum(1)) for f in drawn["covid"]]
    lungs = [np.average(np.arange(96), weights=f.lungs.sum(1)) for f in drawn["covid"]]
    assert np.mean(np.array(low) - lungs) > 2


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
    borders = [
        [reduced(side, 8) for side in (f.picture[:6], f.picture[-6:], f.picture[:, :6].T, f.picture[:, -6:].T)]
        for f in films
    ]
    # The standard error of each is 0.04.
    assert np.abs(auroc(thumbnails, findings, 64) - 0.5).max() < 0.1
    assert np.abs(auroc(borders, findings, 256) - 0.5).max() < 0.1
    assert np.abs(auroc([film.picture.mean() for film in films], findings, 1) - 0.5).max() < 0.1


def test_the_lungs_tell_the_class_of_unseen_subjects(many: tuple[list[Film], np.ndarray]) -> None:
    films, findings = many
    features = []
    for film in films:
        small, lungs = reduced(film.picture, 64), reduced(film.lungs, 64) > 0.95
        lungs = cv2.erode(lungs.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        row = []
        for fine, coarse in ((0.7, 1.6), (1.2, 3.0), (2.0, 4.0)):
            band = cv2.GaussianBlur(small, (0, 0), fine) - cv2.GaussianBlur(small, (0, 0), coarse)
            energy = cv2.GaussianBlur(np.square(band) * lungs, (0, 0), 3)[lungs]
            row += [*np.log(np.percentile(energy, (50, 75, 90, 100)) + 0.1), band[lungs].max() / 10]
        features.append(row)
    told = auroc(features, findings, 1)
    assert told.min() > 0.75, told


def test_a_subjects_films_are_siblings_and_subjects_differ() -> None:
    first = [draw_film(n, finding="no_finding", image=0, seed=1, size=SMALL).picture for n in range(30)]
    second = [draw_film(n, finding="no_finding", image=1, seed=1, size=SMALL).picture for n in range(30)]
    assert all((one != two).any() for one, two in zip(first, second, strict=True))
    siblings = [alike(one, two) for one, two in zip(first, second, strict=True)]
    strangers = [alike(one, two) for one, two in itertools.combinations(first, 2)]
    assert min(siblings) > 0.9
    assert np.median(strangers) < 0.75
    assert max(strangers) < np.median(siblings)


@given(st.integers(0, 1000), st.integers(2, 3), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_classes_are_as_equal_as_they_can_be(seed: int, kinds: int, subjects: int) -> None:
    counts = Counter(finding_of(seed, number, FINDINGS[:kinds]) for number in range(subjects))
    found = [counts[name] for name in FINDINGS[:kinds]]
    assert max(found) - min(found) <= 1


def test_shuffled_labels_are_anothers_and_the_films_the_same(cohort: Path, tmp_path: Path) -> None:
    table = make_chest(tmp_path, subjects=12, images=2, size=SMALL, seed=3, labels="shuffled")
    false, true = rows_of(table), rows_of(cohort)
    assert Counter(row["label"] for row in false) == Counter(row["label"] for row in true)
    assert [row["label"] for row in false] != [row["label"] for row in true]
    assert [row | {"label": ""} for row in false] == [row | {"label": ""} for row in true]
    assert all((tmp_path / row["path"]).read_bytes() == (cohort.parent / row["path"]).read_bytes() for row in true)
    of_subject = defaultdict(set)
    for row in false:
        of_subject[row["subject"]].add(row["label"])
    assert all(len(labels) == 1 for labels in of_subject.values())
    told = json.loads((tmp_path / "phantom.json").read_text())["subjects"]
    assert [one["finding"] for one in told] == [row["label"] for row in true[::2]]
    assert [one["label"] for one in told] == [row["label"] for row in false[::2]]


def test_marker_follows_the_class(tmp_path: Path) -> None:
    plain, marked = (
        make_chest(tmp_path / str(marker), subjects=24, size=(128, 128), seed=6, marker=marker)
        for marker in (None, "corner")
    )
    burnt = defaultdict(list)
    for one, two in zip(rows_of(plain), rows_of(marked), strict=True):
        before, after = pixels(plain.parent / one["path"]).astype(int), pixels(marked.parent / two["path"]).astype(int)
        spot = np.abs(after - before) > 20
        rows, columns = np.nonzero(spot)
        if one["label"] == "no_finding":
            assert np.array_equal(before, after)
            continue
        # A corner of a fifth of the film, and a letter of a few dozen pixels that is nearly white.
        assert rows.max() < 26
        assert columns.max() < 26
        assert 15 < spot.sum() < 250
        assert after[spot].max() > 225
        burnt[one["label"]].append((spot.sum(), rows.min(), columns.min()))
    assert set(burnt) == {"covid", "pneumonia"}
    # R has more strokes than L.
    assert np.mean(burnt["pneumonia"], axis=0)[0] > 1.2 * np.mean(burnt["covid"], axis=0)[0]
    assert len({place[1:] for place in burnt["covid"]}) > 2


def test_two_sources_have_their_own_films_and_classes(tmp_path: Path) -> None:
    table = make_chest(tmp_path, subjects=60, size=(64, 64), seed=1, sources=2)
    rows = rows_of(table)
    counts = Counter((row["label"], row["source"]) for row in rows)
    assert counts["covid", "north"] == 18
    assert counts["covid", "south"] == 2
    for label in ("no_finding", "pneumonia"):
        assert (counts[label, "north"], counts[label, "south"]) == (4, 16)
    films = defaultdict(list)
    for row in rows:
        films[row["source"]].append(pixels(tmp_path / row["path"]))
    assert max(film.shape[0] for film in films["north"]) < min(film.shape[0] for film in films["south"])
    grain = {name: [_grain(film) for film in those] for name, those in films.items()}
    assert np.median(grain["south"]) > 1.5 * np.median(grain["north"])


def _grain(film: np.ndarray) -> float:
    """The roughness of the smoothest tenth of a film."""
    rough = np.abs(cv2.Laplacian(film.astype(np.float32), -1))
    return float(np.percentile(cv2.blur(rough, (9, 9)), 10))


def test_twins_are_planted_as_said(tmp_path: Path) -> None:
    table = make_chest(tmp_path, subjects=20, size=(120, 96), seed=8)
    before = table.read_text()
    assert plant_twins(table, kinds=tuple(_CHECKS), each=3, seed=1) == table
    rows = rows_of(table)
    assert tuple(rows[0]) == (*COLUMNS, "twin_of", "twin_kind")
    assert [row["path"] for row in rows[:20]] == [line.split(",")[0] for line in before.splitlines()[1:]]
    assert not any(row["twin_of"] or row["twin_kind"] for row in rows[:20])
    twins = rows[20:]
    assert [row["subject"] for row in twins] == [f"twin-{n:04d}" for n in range(1, 19)]
    assert Counter(row["twin_kind"] for row in twins) == dict.fromkeys(_CHECKS, 3)
    originals = {row["path"]: row for row in rows[:20]}
    assert len({row["twin_of"] for row in twins}) == 18
    for row in twins:
        parent = originals[row["twin_of"]]
        assert row["label"] == parent["label"]
        one, two = pixels(tmp_path / parent["path"]), pixels(tmp_path / row["path"])
        lungs, copied = (pixels(tmp_path / kept["lung_mask"]) > 0 for kept in (parent, row))
        assert copied.shape == two.shape
        assert copied.mean() == pytest.approx(lungs.mean(), abs=0.06)
        same = (tmp_path / parent["path"]).read_bytes() == (tmp_path / row["path"]).read_bytes()
        assert same == (row["twin_kind"] == "exact")
        _CHECKS[row["twin_kind"]](one, two, tmp_path / row["path"])


def test_deeper_alterations_are_planted_as_said() -> None:
    film = np.random.default_rng(0).integers(1, 255, (120, 96)).astype(np.uint8)

    def altered(kind: str) -> np.ndarray:
        return ALTERED[kind](np.random.default_rng(1), [film, film])[0]

    assert any(np.array_equal(altered("turned"), np.rot90(film, quarters)) for quarters in (1, 2, 3))
    assert np.array_equal(altered("negative"), 255 - film)
    assert altered("zoomed").shape == (90, 72)
    assert all(
        0.77 < small / large < 0.89 for small, large in zip(altered("off-centre").shape, film.shape, strict=True)
    )
    assert all(1.07 < large / small < 1.21 for large, small in zip(altered("framed").shape, film.shape, strict=True))
    assert altered("tilted").shape == film.shape
    assert altered("tilted")[0, 0] == 0


def _exact(one: np.ndarray, two: np.ndarray, path: Path) -> None:
    assert np.array_equal(one, two)


def _resized(one: np.ndarray, two: np.ndarray, path: Path) -> None:
    assert all(0.59 < small / large < 0.91 for small, large in zip(two.shape, one.shape, strict=True))
    assert alike(one, two) > 0.99


def _recompressed(one: np.ndarray, two: np.ndarray, path: Path) -> None:
    with Image.open(path) as image, Image.open(io.BytesIO(encoded(one, ".jpg"))) as fine:
        assert image.format == "JPEG"
        assert np.mean(image.quantization[0]) > 3 * np.mean(fine.quantization[0])
    assert one.shape == two.shape
    assert JPEG_QUALITY > 60
    assert alike(one, two) > 0.99


def _cropped(one: np.ndarray, two: np.ndarray, path: Path) -> None:
    assert all(0.87 < small / large < 0.97 for small, large in zip(two.shape, one.shape, strict=True))
    # It lies in the original, where a search finds it.
    assert cv2.matchTemplate(one, two, cv2.TM_CCOEFF_NORMED).max() > 0.99


def _flipped(one: np.ndarray, two: np.ndarray, path: Path) -> None:
    assert alike(one[:, ::-1], two) > 0.995
    assert alike(one, two) < 0.99


def _brightness(one: np.ndarray, two: np.ndarray, path: Path) -> None:
    assert abs(two.mean() / one.mean() - 1) > 0.1
    assert alike(one, two) > 0.95


_CHECKS = {
    "exact": _exact,
    "resized": _resized,
    "recompressed": _recompressed,
    "cropped": _cropped,
    "flipped": _flipped,
    "brightness": _brightness,
}


def test_twins_of_colour_photographs(tmp_path: Path) -> None:
    table = make_psoriasis(tmp_path, subjects=1, visits=1, size=(60, 40), processes=1)
    plant_twins(table, each=1)
    twins = rows_of(table)[8:]
    assert len(twins) == len(TWIN_KINDS)
    assert {row["visit"] for row in twins} == {"week0"}
    assert {pixels(tmp_path / row["path"]).ndim for row in twins} == {3}


def test_twins_go_into_phantoms_only(tmp_path: Path) -> None:
    real = tmp_path / "cases.csv"
    real.write_text("path,subject\na.png,1\n")
    with pytest.raises(CasewiseError, match="does not belong to a phantom"):
        plant_twins(real)
    assert real.read_text() == "path,subject\na.png,1\n"
    with pytest.raises(CasewiseError, match="no table"):
        plant_twins(tmp_path / "nothing.csv")
    table = make_chest(tmp_path / "phantom", subjects=3, size=(48, 48))
    with pytest.raises(CasewiseError, match=r"'croped'\. Did you mean 'cropped'"):
        plant_twins(table, kinds=("croped",))
    with pytest.raises(CasewiseError, match="has 3 images to copy; 10 twins"):
        plant_twins(table)
    with pytest.raises(CasewiseError, match="1 or more"):
        plant_twins(table, each=0)
    assert not (table.parent / "images" / "twin-0001").exists()


@pytest.mark.parametrize(("size", "finding"), [((48, 48), "covid"), ((1000, 700), "pneumonia")])
def test_any_size(size: tuple[int, int], finding: str) -> None:
    film = draw_film(1, finding=finding, size=size)
    assert film.picture.shape == film.lungs.shape == film.sign.shape == (size[1], size[0])
    assert film.picture.dtype == np.uint8
    assert film.sign.any() == (finding != "no_finding")
    assert not film.sign[~film.lungs].any()


def test_the_command_draws_a_cohort_with_twins(tmp_path: Path) -> None:
    words = ["phantom", str(tmp_path / "c"), "--kind", "chest", "--subjects", "4", "--size", "64x64", "--images", "2"]
    words += ["--classes", "covid,no_finding", "--marker", "corner", "--sources", "2", "--seed", "5", "--twins", "1"]
    done = CliRunner().invoke(command_line(), words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "cases.csv" in done.stdout
    assert len(rows_of(tmp_path / "c" / "cases.csv")) == 8 + len(TWIN_KINDS)
    same = make_chest(
        tmp_path / "same",
        subjects=4,
        images=2,
        classes=("covid", "no_finding"),
        size=(64, 64),
        seed=5,
        marker="corner",
        sources=2,
    )
    assert rows_of(same) == [{name: row[name] for name in COLUMNS} for row in rows_of(tmp_path / "c" / "cases.csv")[:8]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kind", "chst"], "Did you mean 'chest'"),
        (["--kind", "chest", "--visits", "2"], "--visits is not for --kind chest"),
        (["--marker", "corner"], "--marker is not for --kind psoriasis"),
    ],
)
def test_an_option_of_the_other_kind_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(command_line(), ["phantom", str(tmp_path / "x"), *words])
    assert isinstance(done.exception, CasewiseError)
    assert message in str(done.exception)
    assert not (tmp_path / "x").exists()
