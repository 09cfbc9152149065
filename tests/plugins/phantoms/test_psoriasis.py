import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casewise.plugins.phantoms.psoriasis import (
    AREA_EDGES,
    Severity,
    course,
    draw_photograph,
    make_psoriasis,
    weighted_score,
)
from tests.phantom_files import rows_of

REGIONS = ("upper", "trunk", "lower")
SMALL = (123, 82)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_psoriasis(tmp_path_factory.mktemp("phantom"), subjects=4, visits=3, size=SMALL, seed=3, processes=1)


def test_counts_columns_and_label_ranges(cohort: Path) -> None:
    rows = rows_of(cohort)
    columns = "path subject visit day region erythema induration scaling area skin_tone site synthetic"
    assert " ".join(rows[0]) == columns
    cases = defaultdict(list)
    for row in rows:
        cases[row["subject"], row["visit"]].append(row)
        assert (cohort.parent / row["path"]).is_file()
        assert row["path"].startswith(f"images/{row['subject']}/{row['visit']}/{row['region']}_")
        assert int(row["day"]) == 7 * int(row["visit"].removeprefix("week"))
        assert all(0 <= int(row[name]) <= 4 for name in ("erythema", "induration", "scaling"))
        assert 0 <= int(row["area"]) <= 6
        assert 1 <= int(row["skin_tone"]) <= 6
    for case in cases.values():
        assert [row["region"] for row in case] == ["upper"] * 4 + ["trunk"] * 2 + ["lower"] * 2
        for region in REGIONS:
            own = [[r[n] for n in ("erythema", "induration", "scaling", "area")] for r in case if r["region"] == region]
            assert own == own[:1] * len(own)
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
        for index in (0, 2):
            truth = person["visits"][index]["regions"]["trunk"]
            visit = int(person["visits"][index]["visit"].removeprefix("week")) // 4
            shot = draw_photograph(number, visit, "trunk", 1, seed=3, size=(246, 163))
            assert shot.share == pytest.approx(truth["covered_share"], abs=0.002)
            assert not (shot.plaque & ~shot.skin).any()
            assert 0.12 < shot.skin.mean() < 0.8


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 6))
def test_covered_share_lies_in_the_band_of_the_area_grade(area: float) -> None:
    severity = Severity(2.0, 1.0, 1.0, area)
    grade = int(severity.graded().area)
    if grade == 0:
        assert (severity.share, severity.graded()) == (0, (0, 0, 0, 0))
    else:
        assert AREA_EDGES[grade - 1] <= severity.share <= AREA_EDGES[grade]


def test_courses_are_those_of_a_trial() -> None:
    courses = [course(1, number, visits=6) for number in range(60)]
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
    assert (len(courses[0].truth), courses[0].truth[:3]) == (6, course(1, 0, visits=3).truth)
