"""Tables and folders whose names agree in part: sides, times, kinds of visits, counters, and fields of a pattern."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casewise.errors import CasewiseError
from casewise.plugins.init.new_study import NewStudy
from casewise.plugins.init.own_data import plan_study
from casewise.study.loading import read_study
from tests.plugins.init.own_data import table_of

Rows = list[tuple[object, ...]]


def pictures_at(folder: Path, names: list[str]) -> Path:
    """The folder with noise under these names."""
    draw = np.random.default_rng(7)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(folder / name)
    return folder


def plan_of(folder: Path, heads: str, rows: Rows, names: list[str], pattern: str = "", target: str = "") -> NewStudy:
    """The written study of a table and of noise under these names."""
    pictures_at(folder / "photos", names)
    lines = [heads, *(",".join(map(str, row)) for row in rows)]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    plan = plan_study(
        table=folder / "table.csv", images=folder / "photos", target=target, pattern=pattern, folder=folder / "study"
    )
    plan.write()
    return plan


def joined(folder: Path, column: str) -> dict[str, str]:
    return {row["path"]: row[column] for row in table_of(folder / "study") if row["path"]}


PEOPLE = range(1, 11)


@pytest.mark.parametrize(
    ("heads", "sides"),
    [
        ("patient,grade_OD,grade_OS", ("R", "L")),
        ("patient,grade rechts,grade links", ("right", "left")),
        ("patient,grade_before,grade_after", ("pre", "post")),
        ("patient,grade_vor,grade_nach", ("before", "after")),
        ("patient,grade_week0,grade_week4", ("week0", "week4")),
    ],
)
def test_columns_of_sides_and_times_become_rows(heads: str, sides: tuple[str, str], tmp_path: Path) -> None:
    values = {f"P{s:02}": (s % 4, (s * 3 + 1) % 4) for s in PEOPLE}
    names = [f"{subject}/{side}.png" for subject in values for side in sides]
    plan_of(tmp_path, heads, [(subject, *own) for subject, own in values.items()], names)
    expected = {f"{s}/{side}.png": str(own[i]) for s, own in values.items() for i, side in enumerate(sides)}
    assert joined(tmp_path, "grade") == expected


def test_columns_of_times_that_no_path_names_are_refused(tmp_path: Path) -> None:
    rows: Rows = [(f"P{s:02}", s % 4, (s * 3) % 4) for s in PEOPLE]
    names = [f"P{s:02}/{side}.png" for s in PEOPLE for side in ("a", "b")]
    with pytest.raises(CasewiseError, match="grade_baseline and grade_final have values of several images"):
        plan_of(tmp_path, "patient,grade_baseline,grade_final", rows, names)


def test_one_value_for_before_and_after_is_doubted(tmp_path: Path) -> None:
    names = [f"P{s:02}_{time}.png" for s in PEOPLE for time in ("vor", "nach")]
    plan = plan_of(tmp_path, "patient,grade", [(f"P{s:02}", s % 4) for s in PEOPLE], names)
    assert plan.doubts[0].startswith("ONE VALUE FOR ALL VISITS?") or any(
        doubt.startswith("ONE VALUE FOR ALL VISITS?") for doubt in plan.doubts
    )


@pytest.mark.parametrize(
    ("column", "cells", "written"),
    [
        ("eye", ("OD", "OS"), ("R", "L")),
        ("side", ("left", "right"), ("links", "rechts")),
        ("location", ("left arm", "right leg"), ("arm_L", "leg_R")),
        ("Lokalisation", ("linker Arm", "rechter Arm"), ("arm_li", "arm_re")),
    ],
)
def test_sides_meet_in_other_words(
    column: str, cells: tuple[str, str], written: tuple[str, str], tmp_path: Path
) -> None:
    rows: Rows = [(f"P{s:02}", cell, (s + i) % 4) for s in PEOPLE for i, cell in enumerate(cells)]
    names = [f"P{s:02}/{text}.png" for s in PEOPLE for text in written]
    plan_of(tmp_path, f"patient,{column},grade", rows, names)
    expected = {f"P{s:02}/{text}.png": str((s + i) % 4) for s in PEOPLE for i, text in enumerate(written)}
    assert joined(tmp_path, "grade") == expected


@pytest.mark.parametrize(
    ("cells", "folders"),
    [
        (("Baseline", "Week 1", "Week 2", "Week 4"), ("V1", "V2", "V3", "V4")),
        (("Week 0", "Week 1", "Week 2"), ("Visit 1", "Visit 2", "Visit 3")),
        (("Visit 1", "Visit 2", "Visit 3"), ("Baseline", "FU1", "FU2")),
        (("1", "2", "3", "4"), ("Baseline", "Week 1", "Week 2", "Week 4")),
        (("Cycle 1", "Cycle 2", "Cycle 4"), ("Week 1", "Week 4", "Week 12")),
        (("V1", "V2", "V3"), ("M0", "M1", "M3")),
    ],
)
def test_visits_of_different_kinds_are_not_joined_by_their_numbers(
    cells: tuple[str, ...], folders: tuple[str, ...], tmp_path: Path
) -> None:
    rows: Rows = [(f"P{s:02}", cell, (s + i) % 4) for s in PEOPLE for i, cell in enumerate(cells)]
    names = [f"P{s:02}/{text}/a.png" for s in PEOPLE for text in folders]
    with pytest.raises(CasewiseError, match=r"VISITS OF DIFFERENT KINDS|No column of the table names the images"):
        plan_of(tmp_path, "patient,visit,grade", rows, names)


def test_an_unscheduled_visit_is_not_another_one(tmp_path: Path) -> None:
    cells, folders = ("Baseline", "Week 4", "Unscheduled 4.01"), ("BL", "W4", "UNS12.01")
    rows: Rows = [(f"P{s:02}", cell, (s + i) % 4) for s in PEOPLE for i, cell in enumerate(cells)]
    plan_of(tmp_path, "patient,visit,grade", rows, [f"P{s:02}/{text}/a.png" for s in PEOPLE for text in folders])
    assert {path.split("/")[1] for path in joined(tmp_path, "grade")} == {"BL", "W4"}


@pytest.mark.parametrize("name", ["photo{}_x.png", "IMG_{:04}.png", "export/img {:03}.png"])
def test_numbers_of_photographs_are_no_patients(name: str, tmp_path: Path) -> None:
    rows: Rows = [(s, s % 4) for s in PEOPLE]
    names = [name.format(number) for number in range(1, 31)]
    with pytest.raises(CasewiseError, match=r"PATIENTS OR PHOTOGRAPHS\?|may name several") as caught:
        plan_of(tmp_path, "patient,grade", rows, names)
    pattern = str(caught.value).partition("--pattern '")[2].partition("'")[0]
    plan_of(tmp_path, "patient,grade", rows, names, pattern)
    assert len(joined(tmp_path, "grade")) == len(PEOPLE)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{hospital}/{subject}.png", "ONE PERSON OR SEVERAL"),
        ("{severiti}/{subject}.png", "is not a column of .* Did you mean 'severity'"),
    ],
)
def test_fields_of_a_pattern_that_the_table_lacks(pattern: str, said: str, tmp_path: Path) -> None:
    names = [f"{place}/{s:03}.png" for place in ("Bonn", "Ulm") for s in PEOPLE]
    with pytest.raises(CasewiseError, match=said):
        plan_of(tmp_path, "patient,severity", [(f"{s:03}", s % 4) for s in PEOPLE], names, pattern)


def test_another_column_of_subjects_is_offered(tmp_path: Path) -> None:
    visits = ("week0", "week4")
    rows: Rows = [(f"ABC-Q{3 * s}", 100 + s, visit, (s + i) % 4) for s in PEOPLE for i, visit in enumerate(visits)]
    names = [f"x/{100 + s}/{visit}/a.png" for s in PEOPLE for visit in visits]
    with pytest.raises(CasewiseError, match="repeat this with --subject SUBJID"):
        plan_of(tmp_path, "USUBJID,SUBJID,visit,grade", rows, names)


def test_people_of_several_cohorts_are_doubted(tmp_path: Path) -> None:
    names = [f"cohort_{place}/{s:03}.png" for place in "AB" for s in PEOPLE]
    rows: Rows = [(f"{s:03}", place, (s + i) % 4) for s in PEOPLE for i, place in enumerate("AB")]
    plan = plan_of(tmp_path, "patient,cohort,grade", rows, names, "cohort_{cohort}/{subject}.png")
    assert any(d.startswith("ONE PERSON OR SEVERAL?") and "{cohort}" in d for d in plan.doubts)
    assert len(joined(tmp_path, "grade")) == 20


@pytest.mark.parametrize(("others", "synthetic"), [("1", True), ("0", False)])
def test_a_table_of_phantoms_stays_one_of_synthetic_images(others: str, synthetic: bool, tmp_path: Path) -> None:
    names = [f"{s}.png" for s in PEOPLE]
    rows: Rows = [(name, s, s % 3, others if s > 4 else "1") for s, name in zip(PEOPLE, names, strict=True)]
    plan_of(tmp_path, "image,patient,grade,synthetic", rows, names)
    assert read_study(tmp_path / "study" / "study.yaml").synthetic == synthetic
