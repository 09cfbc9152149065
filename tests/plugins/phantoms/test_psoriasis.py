from __future__ import annotations

import itertools
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from casewise.errors import CasewiseError
from casewise.plugins.phantoms.folder import MARK
from casewise.plugins.phantoms.psoriasis import draw_photograph, make_psoriasis
from casewise.plugins.phantoms.psoriasis.cohort import COLUMNS, PsoriasisSettings, labels_of
from casewise.plugins.phantoms.psoriasis.photograph import Photograph, draw, threshold
from casewise.plugins.phantoms.psoriasis.poses import PHOTOGRAPHS
from casewise.plugins.phantoms.psoriasis.severity import AREA_EDGES, Grades, Severity, course, weighted_score
from casewise.plugins.phantoms.psoriasis.subjects import anatomy, subject
from tests.phantom_files import contents, rows_of

REGIONS = ("upper", "trunk", "lower")
SMALL = (123, 82)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_psoriasis(tmp_path_factory.mktemp("phantom"), subjects=4, visits=5, size=SMALL, seed=3, processes=1)


@pytest.fixture(scope="module")
def pictured() -> dict[tuple[str, float], Photograph]:
    """The same back of the same subject under the same lamp, one component of the severity varied at a time."""
    who = subject(0, 3)
    body = anatomy(0, who, "trunk", 2)
    middle = Severity(2.0, 1.5, 1.5, 3.0)
    return {
        (name, value): draw(
            0, who, body, key=(who.name, 0, "trunk", 2), severity=replace(middle, **{name: value}), size=(492, 326)
        )
        for name, values in {
            "erythema": (1, 2, 3, 4),
            "induration": (0, 1, 2.5, 4),
            "scaling": (0, 1, 2.5, 4),
            "area": (0, 1, 2, 3, 4, 5, 5.8),
        }.items()
        for value in values
    }


def test_counts_columns_and_label_ranges(cohort: Path) -> None:
    rows = rows_of(cohort)
    assert tuple(rows[0]) == COLUMNS
    cases = defaultdict(list)
    for row in rows:
        cases[row["subject"], row["visit"]].append(row)
        assert (cohort.parent / row["path"]).is_file()
        assert row["path"].startswith(f"images/{row['subject']}/{row['visit']}/{row['region']}_")
        assert int(row["day"]) == 7 * int(row["visit"].removeprefix("week"))
        assert all(0 <= int(row[name]) <= 4 for name in ("erythema", "induration", "scaling"))
        assert 0 <= int(row["area"]) <= 6
        assert 1 <= int(row["skin_tone"]) <= 6
        assert row["synthetic"] == "1"
    for case in cases.values():
        assert [row["region"] for row in case] == ["upper"] * 4 + ["trunk"] * 2 + ["lower"] * 2
        for region in REGIONS:
            assert (
                len({(r["erythema"], r["induration"], r["scaling"], r["area"]) for r in case if r["region"] == region})
                == 1
            )
    assert len({row["path"] for row in rows}) == len(rows)
    assert {row["subject"] for row in rows if row["visit"] == "week0"} == {"S01", "S02", "S03", "S04"}


def test_head_adds_one_photograph_and_changes_no_other(cohort: Path, tmp_path: Path) -> None:
    table = make_psoriasis(tmp_path, subjects=1, visits=2, size=SMALL, seed=3, head=True, processes=1)
    rows = rows_of(table)
    assert len(rows) == 2 * (sum(PHOTOGRAPHS.values()))
    assert {row["region"] for row in rows} == {*REGIONS, "head"}
    without = {row["path"]: row for row in rows_of(cohort)}
    for row in rows:
        if row["region"] != "head":
            assert row == without[row["path"]]
            assert (tmp_path / row["path"]).read_bytes() == (cohort.parent / row["path"]).read_bytes()


def test_same_bytes_in_any_number_of_processes_and_for_any_number_of_subjects(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    one, two, fewer = tmp_path / "one", tmp_path / "two", tmp_path / "fewer"
    make_psoriasis(one, subjects=2, visits=1, size=(60, 40), processes=1, progress=lambda *at: seen.append(at))
    make_psoriasis(two, subjects=2, visits=1, size=(60, 40), processes=2)
    make_psoriasis(fewer, subjects=1, visits=1, size=(60, 40), processes=1)
    assert contents(one) == contents(two)
    pictures = {name: data for name, data in contents(fewer).items() if name.endswith(".jpg")}
    assert len(pictures) == 8
    assert pictures.items() <= contents(one).items()
    assert seen == [(done, 16) for done in range(1, 17)]


def test_another_seed_gives_other_pictures() -> None:
    shots = [draw_photograph(0, 0, "upper", seed=seed, size=SMALL).picture for seed in (0, 0, 1)]
    assert np.array_equal(shots[0], shots[1])
    assert not np.array_equal(shots[0], shots[2])


def test_everything_says_that_it_is_synthetic(cohort: Path) -> None:
    for path in cohort.parent.rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.getexif()[0x010E] == MARK
            assert image.info["comment"] == MARK.encode()
            assert image.size == SMALL
    note = json.loads((cohort.parent / "phantom.json").read_text())
    assert note["synthetic"] is True
    assert note["complete"] is True
    assert note["seed"] == 3
    assert MARK in (cohort.parent / "README.txt").read_text()
    assert not list(cohort.parent.rglob("*.partial"))


def test_truth_in_the_note_is_the_truth_of_the_pictures_and_close_to_the_labels(cohort: Path) -> None:
    note = json.loads((cohort.parent / "phantom.json").read_text())
    labels = {(row["subject"], row["visit"], row["region"]): row for row in rows_of(cohort)}
    for number, person in enumerate(note["subjects"]):
        for visit in person["visits"]:
            for region, truth in visit["regions"].items():
                row = labels[person["subject"], visit["visit"], region]
                for name, grade in truth["physician"].items():
                    assert int(row[name]) == grade
                    assert abs(grade - truth["severity"][name]) <= 1.2
        truth = person["visits"][0]["regions"]["trunk"]
        shot = draw_photograph(number, 0, "trunk", 1, seed=3, size=(246, 163))
        assert shot.share == pytest.approx(truth["covered_share"], abs=0.002)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 6))
def test_covered_share_lies_in_the_band_of_the_area_grade(area: float) -> None:
    severity = Severity(2.0, 1.0, 1.0, area)
    grade = severity.grades.area
    if grade == 0:
        assert severity.share == 0
        assert severity.grades == Grades(0, 0, 0, 0)
    else:
        assert AREA_EDGES[grade - 1] <= severity.share <= AREA_EDGES[grade]


@given(st.integers(1, 400), st.floats(0, 1))
def test_threshold_keeps_exactly_the_share(count: int, share: float) -> None:
    field = np.random.default_rng(count).permutation(count).astype(np.float32)
    kept = int((field > threshold(field, share)).sum())
    assert kept == (0 if share == 0 else max(round(count * share), 1))


def test_drawn_mask_covers_the_share(pictured: dict[tuple[str, float], Photograph]) -> None:
    for area in (0, 1, 2, 3, 4, 5, 5.8):
        shot = pictured["area", area]
        assert shot.share == pytest.approx(Severity(2, 1.5, 1.5, area).share, abs=0.001)
        assert not (shot.plaque & ~shot.skin).any()
        assert 0.12 < shot.skin.mean() < 0.8


def test_plaques_shrink_inside_their_own_outline(pictured: dict[tuple[str, float], Photograph]) -> None:
    shots = [pictured["area", area].plaque for area in (1, 2, 3, 4, 5, 5.8)]
    assert all((small <= large).all() for small, large in itertools.pairwise(shots))


def small(shot: Photograph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the picture at 64 pixels as logarithms, and where it is plaque and healthy skin."""
    shrunk = [
        cv2.resize(values.astype(np.float32), (64, 42), interpolation=cv2.INTER_AREA)
        for values in (shot.picture, shot.skin, shot.plaque)
    ]
    return np.log(shrunk[0] + 4), (shrunk[2] > 0.8), (shrunk[1] > 0.95) & (shrunk[2] < 0.05)


def test_redness_grows_with_erythema_and_survives_64_pixels(pictured: dict[tuple[str, float], Photograph]) -> None:
    redness = []
    for grade in (1, 2, 3, 4):
        log, plaque, healthy = small(pictured["erythema", grade])
        red = log[..., 0] - log[..., 1]
        redness.append(red[plaque].mean() - red[healthy].mean())
    assert np.diff([0.0, *redness]).min() > 0.06


def test_scale_whitens_and_survives_64_pixels(pictured: dict[tuple[str, float], Photograph]) -> None:
    whiteness = []
    for grade in (0, 1, 2.5, 4):
        log, plaque, _ = small(pictured["scaling", grade])
        whiteness.append((log[..., 2] - log[..., 0])[plaque].mean())
    assert np.diff(whiteness).min() > 0.02


def test_thickness_gives_relief_and_survives_64_pixels(pictured: dict[tuple[str, float], Photograph]) -> None:
    relief = []
    for grade in (0, 1, 2.5, 4):
        log, plaque, _ = small(pictured["induration", grade])
        relief.append(log.mean(-1)[plaque].std())
    assert np.diff(relief).min() > 0.004


def test_subjects_have_lasting_features_of_their_own() -> None:
    first, other = subject(0, 0), subject(0, 1)
    assert first == subject(0, 0)
    assert first.backdrop != other.backdrop
    moles = [anatomy(0, who, "trunk", 1).maps["marks"] for who in (first, first, other)]
    assert np.array_equal(moles[0], moles[1])
    assert not np.array_equal(moles[0], moles[2])


def test_courses_are_those_of_a_trial() -> None:
    courses = [course(1, number, visits=6, regions=REGIONS) for number in range(60)]
    baseline = np.array([weighted_score(one.physician[0]) for one in courses])
    last = np.array([weighted_score(one.physician[-1]) for one in courses])
    change = 1 - last / baseline
    assert 0.65 <= (change >= 0.9).mean() <= 0.85
    assert 0.05 <= ((change > 0.2) & (change < 0.85)).mean() <= 0.3
    assert 0.03 <= (change < 0).mean() <= 0.15
    assert baseline.min() < 8
    assert baseline.max() > 35
    assert {len(one.attended) for one in courses} == {5, 6}
    assert all(one.attended[0] == 0 for one in courses)
    assert len(courses[0].truth) == 6
    assert courses[0].truth[:3] == course(1, 0, visits=3, regions=REGIONS).truth


def concordance(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.cov(a, b, bias=True)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2))


def test_shuffled_labels_are_another_subjects_and_say_nothing_of_the_pictures() -> None:
    chosen = PsoriasisSettings(30, 6, SMALL, labels="shuffled")
    courses = [course(0, number, visits=6, regions=REGIONS) for number in range(30)]
    labels = labels_of(chosen, courses)
    own = [sorted(map(str, one.physician)) for one in courses]
    given_ = [sorted(map(str, sequence)) for sequence in labels]
    assert sorted(own) == sorted(given_)
    assert all(a != b for a, b in zip(own, given_, strict=True))
    real = np.array([[weighted_score(grades) for grades in one.physician] for one in courses]).ravel()
    false = np.array([[weighted_score(grades) for grades in sequence] for sequence in labels]).ravel()
    assert abs(concordance(real, false)) < 0.2


def test_learnable_for_unseen_subjects() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score
    from sklearn.model_selection import GroupKFold, cross_val_predict

    features, targets, groups = [], [], []
    for number in range(20):
        who, body = subject(5, number), anatomy(5, subject(5, number), "trunk", 2)
        sick = course(5, number, visits=4, regions=REGIONS)
        for visit in range(4):
            shot = draw(
                5, who, body, key=(who.name, visit, "trunk", 2), severity=sick.truth[visit]["trunk"], size=SMALL
            )
            log = small(shot)[0]
            red, light = (log[..., 0] - log[..., 1]).ravel(), cv2.Laplacian(log.mean(-1), cv2.CV_32F).ravel()
            features.append(
                [
                    *np.histogram(red, np.linspace(-0.4, 1.4, 19))[0] ** 0.5,
                    *np.percentile(red, np.arange(50, 100, 7)),
                    *np.percentile(light, (5, 25, 75, 95)),
                ]
            )
            grades = sick.physician[visit]["trunk"]
            targets.append([grades.erythema, grades.induration, grades.scaling, grades.area])
            groups.append(number)
    inputs = np.array(features)
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-6)
    found = cross_val_predict(Ridge(30.0), inputs, targets, groups=groups, cv=GroupKFold(5))
    scores = r2_score(targets, found, multioutput="raw_values")
    assert scores[0] > 0.3, scores
    assert scores[3] > 0.5, scores
    assert scores.min() > 0.2, scores


@pytest.mark.parametrize("size", [(24, 24), (64, 96), (300, 200), (1400, 930)])
def test_any_size(size: tuple[int, int]) -> None:
    shot = draw_photograph(1, 0, "lower", 2, size=size)
    assert shot.picture.shape == (size[1], size[0], 3)
    assert shot.picture.dtype == np.uint8
    assert shot.skin.shape == shot.plaque.shape == (size[1], size[0])
    assert shot.skin.any()


def test_mistakes_are_told(tmp_path: Path) -> None:
    for wrong, message in (
        ({"subjects": 0}, "subjects must be 1 or more; found 0"),
        ({"visits": 0}, "visits must be 1 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"size": (5000, 100)}, "24 to 4928 pixels a side; found 5000x100"),
        ({"labels": "shufled"}, "Did you mean 'shuffled'"),
        ({"labels": "shuffled", "subjects": 1}, "two or more subjects"),
    ):
        with pytest.raises(CasewiseError, match=message):
            make_psoriasis(tmp_path / "new", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()
    with pytest.raises(CasewiseError, match=r"no photograph trunc 1.*Did you mean 'trunk'"):
        draw_photograph(0, 0, "trunc")


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "visits.csv").write_text("path,subject\n")
    with pytest.raises(CasewiseError, match="not a psoriasis phantom"):
        make_psoriasis(tmp_path, subjects=1, visits=1, size=SMALL, processes=1)
    assert (tmp_path / "visits.csv").read_text() == "path,subject\n"


def test_an_interrupted_phantom_has_no_table_and_can_be_drawn_again(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_psoriasis(tmp_path, subjects=1, visits=1, size=SMALL, processes=1, progress=stop)
    assert not (tmp_path / "visits.csv").exists()
    assert json.loads((tmp_path / "phantom.json").read_text())["complete"] is False
    assert len(rows_of(make_psoriasis(tmp_path, subjects=1, visits=1, size=SMALL, processes=1))) == 8
