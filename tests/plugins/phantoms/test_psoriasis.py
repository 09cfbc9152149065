from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casewise.plugins.phantoms.psoriasis import draw_photograph, make_psoriasis
from casewise.plugins.phantoms.psoriasis.cohort import COLUMNS, PsoriasisSettings, labels_of
from casewise.plugins.phantoms.psoriasis.photograph import Photograph, draw, threshold
from casewise.plugins.phantoms.psoriasis.severity import AREA_EDGES, Grades, Severity, course, weighted_score
from casewise.plugins.phantoms.psoriasis.subjects import anatomy, subject
from tests.phantom_files import rows_of

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


@settings(max_examples=30, deadline=None)
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


def small(shot: Photograph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the picture at 64 pixels as logarithms, and where it is plaque and healthy skin."""
    shrunk = [
        cv2.resize(values.astype(np.float32), (64, 42), interpolation=cv2.INTER_AREA)
        for values in (shot.picture, shot.skin, shot.plaque)
    ]
    return np.log(shrunk[0] + 4), (shrunk[2] > 0.8), (shrunk[1] > 0.95) & (shrunk[2] < 0.05)


@pytest.mark.parametrize(
    ("component", "measure", "least"),
    [
        ("erythema", lambda log, plaque, healthy: np.subtract(*(_red(log)[m].mean() for m in (plaque, healthy))), 0.06),
        ("scaling", lambda log, plaque, healthy: (log[..., 2] - log[..., 0])[plaque].mean(), 0.02),
        ("induration", lambda log, plaque, healthy: log.mean(-1)[plaque].std(), 0.004),
    ],
)
def test_every_component_shows_at_64_pixels(
    pictured: dict[tuple[str, float], Photograph], component: str, measure: Any, least: float
) -> None:
    """Redness grows with erythema, scale whitens, thickness gives relief."""
    values = [measure(*small(shot)) for (name, _), shot in pictured.items() if name == component]
    assert len(values) == 4
    assert np.diff(values).min() > least


def _red(log: np.ndarray) -> np.ndarray:
    return np.asarray(log[..., 0] - log[..., 1])


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


@pytest.mark.parametrize("size", [(24, 24), (1400, 930)])
def test_any_size(size: tuple[int, int]) -> None:
    shot = draw_photograph(1, 0, "lower", 2, size=size)
    assert shot.picture.shape == (size[1], size[0], 3)
    assert shot.picture.dtype == np.uint8
    assert shot.skin.shape == shot.plaque.shape == (size[1], size[0])
    assert shot.skin.any()
