"""Tables with several rows or columns of one person for another reason than visits: raters, lesions, ranges, titles."""

from pathlib import Path

import pytest

from casewise.cohort.table import Problems
from casewise.cohort.table_formats import text_cells
from casewise.errors import CasewiseError
from tests.plugins.init.own_data import table_of
from tests.plugins.init.test_forms_of_hospitals import PEOPLE, Rows, joined, plan_of

VISITS = [(s, v) for s in PEOPLE for v in (1, 2)]


def test_raters_become_columns_of_which_one_is_the_target(tmp_path: Path) -> None:
    rows: Rows = [(f"S{s}", f"V{v}", rater, (s * v + len(rater)) % 4) for s, v in VISITS for rater in ("Ann", "B")]
    names = [f"S{s}/V{v}/{n}.png" for s, v in VISITS for n in (1, 2)]
    plan = plan_of(tmp_path, "subject,visit,Reader,grade", rows, names)
    for rater in ("Ann", "B"):
        expected = {f"S{s}/V{v}/{n}.png": str((s * v + len(rater)) % 4) for s, v in VISITS for n in (1, 2)}
        assert joined(tmp_path, f"grade_{rater}") == expected
    assert any("SEVERAL RATERS" in doubt and "readers: {grade_Ann: {B: grade_B}}" in doubt for doubt in plan.doubts)


def test_raters_of_a_long_table_become_columns(tmp_path: Path) -> None:
    rows: Rows = [
        (f"S{s}", code, rater, (s + len(code + rater)) % 5)
        for s in PEOPLE for code in ("ERY", "SCAL") for rater in ("INVESTIGATOR", "ASSESSOR")
    ]  # fmt: skip
    plan_of(tmp_path, "USUBJID,QSTESTCD,QSEVAL,QSSTRESN", rows, [f"S{s}.png" for s in PEOPLE])
    assert joined(tmp_path, "ERY_ASSESSOR") == {f"S{s}.png": str((s + 11) % 5) for s in PEOPLE}
    assert joined(tmp_path, "SCAL_INVESTIGATOR") == {f"S{s}.png": str((s + 16) % 5) for s in PEOPLE}


def test_raters_of_images_that_the_table_names_become_columns(tmp_path: Path) -> None:
    rows: Rows = [
        (f"S{s}", f"S{s}_{n}.png", rater, (s + n * len(rater)) % 4)
        for s in PEOPLE for n in (1, 2) for rater in ("A", "BB", "CCC")
    ]  # fmt: skip
    plan_of(tmp_path, "patient,photo,Auswerter,grade", rows, [f"S{s}_{n}.png" for s in PEOPLE for n in (1, 2)])
    assert joined(tmp_path, "grade_CCC") == {f"S{s}_{n}.png": str((s + n * 3) % 4) for s in PEOPLE for n in (1, 2)}


def test_a_rater_of_each_visit_stays_a_column(tmp_path: Path) -> None:
    rows: Rows = [(f"S{s}", f"V{v}", "AB"[v - 1], (s * v) % 4) for s, v in VISITS]
    plan = plan_of(tmp_path, "subject,visit,rater,grade", rows, [f"S{s}/V{v}.png" for s, v in VISITS])
    assert joined(tmp_path, "grade") == {f"S{s}/V{v}.png": str((s * v) % 4) for s, v in VISITS}
    assert not any("RATERS" in doubt for doubt in plan.doubts)


@pytest.mark.parametrize("word", ["lesion", "Zahn", "nevus"])
def test_columns_that_number_lesions_become_rows(word: str, tmp_path: Path) -> None:
    rows: Rows = [(f"P{s}", s % 4, (s + 1) % 4, (s + 2) % 4) for s in PEOPLE]
    names = [f"P{s}_{word[0]}{n}.png" for s in PEOPLE for n in (1, 2, 3)]
    plan_of(tmp_path, f"patient,{word}1_grade,{word}2_grade,{word}3_grade", rows, names)
    expected = {f"P{s}_{word[0]}{n}.png": str((s + n - 1) % 4) for s in PEOPLE for n in (1, 2, 3)}
    assert joined(tmp_path, "grade") == expected


def test_columns_that_number_lesions_are_refused_where_no_path_does(tmp_path: Path) -> None:
    rows: Rows = [(f"P{s}", s % 4, (s + 1) % 4) for s in PEOPLE]
    with pytest.raises(CasewiseError, match="No column of the table names the images"):
        plan_of(tmp_path, "patient,lesion1_grade,lesion2_grade", rows, [f"P{s}/{n}.png" for s in PEOPLE for n in "ab"])


def test_numbers_of_files_are_no_lesions_where_there_are_more_of_them(tmp_path: Path) -> None:
    rows: Rows = [(f"P{s}", n, (s + n) % 4) for s in PEOPLE for n in (1, 2)]
    names = [f"P{s}/{n}.png" for s in PEOPLE for n in (1, 2, 3, 4)]
    with pytest.raises(CasewiseError, match=r"LESION OR PHOTOGRAPH.*such as P1/1.png, but others, such as P1/3.png"):
        plan_of(tmp_path, "patient,lesion,grade", rows, names)
    plan_of(tmp_path, "patient,lesion,grade", rows, names, pattern="{subject}/{n}.png")
    assert joined(tmp_path, "grade") == {f"P{s}/{n}.png": str((s + n) % 4) for s in PEOPLE for n in (1, 2)}


@pytest.mark.parametrize("heads", ["patient,photo_from,photo_to,grade", "patient,Foto von,Foto bis,grade"])
def test_a_range_of_images_has_those_between_its_ends(heads: str, tmp_path: Path) -> None:
    ends, first = {}, 98
    for s in PEOPLE:
        ends[s], first = (first, first + s % 3 + 1), first + s % 3 + 2
    rows: Rows = [(s, f"IMG_{a:04}", f"IMG_{b:04}", s % 4) for s, (a, b) in ends.items()]
    names = [f"IMG_{n:04}.png" for n in range(98, first + 3)]
    plan = plan_of(tmp_path, heads, rows, names)
    expected = {f"IMG_{n:04}.png": str(s % 4) for s, (a, b) in ends.items() for n in range(a, b + 1)}
    assert joined(tmp_path, "grade") == expected
    assert "original_columns" not in plan.text  # a new table of ranges would lose what is between


@pytest.mark.parametrize(("a", "b", "text"), [(100, 112, "is in the ranges of both"), (109, 105, "is no range of")])
def test_ranges_that_overlap_or_run_backwards_are_refused(a: int, b: int, text: str, tmp_path: Path) -> None:
    rows: Rows = [(s, f"I{100 + s * 5}", f"I{104 + s * 5}", s % 4) for s in PEOPLE]
    rows[0] = (1, f"I{a}", f"I{b}", 1)
    with pytest.raises(CasewiseError, match=text):
        plan_of(tmp_path, "patient,from,to,grade", rows, [f"I{n}.png" for n in range(100, 160)])


def test_dates_have_the_order_in_which_the_paths_have_them(tmp_path: Path) -> None:
    days = {s: (s, s % 5 + 1) for s in PEOPLE if s != s % 5 + 1}
    rows: Rows = [(f"S{s}", f"{m:02}/{d:02}/2023", s % 4) for s, (m, d) in days.items()]
    names = [f"S{s}/2023-{m:02}-{d:02}/a.png" for s, (m, d) in days.items()]
    plan = plan_of(tmp_path, "subject,Exam date,grade", rows, names)
    assert joined(tmp_path, "grade") == {name: str(s % 4) for s, name in zip(days, names, strict=True)}
    assert any("begin with the month" in note for note in plan.understood)


def test_several_visits_beside_dates_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    rows: Rows = [(f"S{s}", f"{s:02}/{s % 5 + 1:02}/2023", s % 4) for s in PEOPLE]
    names = [f"S{s}/V{v}/a.png" for s in PEOPLE for v in (1, 2)]
    with pytest.raises(CasewiseError, match=r"(?s)ONE VALUE FOR ALL VISITS.*IS NOT USED"):
        plan_of(tmp_path, "subject,Exam date,grade", rows, names)


def test_sides_in_spanish_become_rows_and_a_word_of_every_heading_says_nothing(tmp_path: Path) -> None:
    rows: Rows = [(f"P{s}", s % 4, (s + 1) % 4) for s in PEOPLE]
    names = [f"P{s}/ojo_{side}.png" for s in PEOPLE for side in ("der", "izq")]
    plan_of(tmp_path, "paciente,grado ojo der,grado ojo izq", rows, names)
    expected = {f"P{s}/ojo_{side}.png": str((s + n) % 4) for s in PEOPLE for n, side in enumerate(("der", "izq"))}
    assert joined(tmp_path, "grado_ojo") == expected


@pytest.mark.parametrize("title", ["Study XY;Status:;12.3.2024;;", "Study XY;;;;\n;;;;\nExport;2024;;;"])
def test_titles_of_several_cells_are_above_the_headings(title: str, tmp_path: Path) -> None:
    text = f"{title}\npatient;age;sex;file;grade\nA;3;m;a.png;1\nB;4;f;b.png;2\n"
    cells = text_cells(tmp_path, text.encode(), Problems())
    assert cells.heading == ["patient", "age", "sex", "file", "grade"]
    assert cells.columns[0] == ["A", "B"]


def test_a_heading_of_fewer_cells_than_its_rows_is_no_title(tmp_path: Path) -> None:
    cells = text_cells(tmp_path, b"patient,file\nA,a.png,x\nB,b.png,y\n", Problems())
    assert cells.heading == ["patient", "file"]


def test_visits_that_only_numbers_join_are_shown_with_their_letters(tmp_path: Path) -> None:
    rows: Rows = [(f"S{s}", visit, s % 4) for s in PEOPLE for visit in ("Week 1", "Week 2")]
    plan = plan_of(tmp_path, "subject,visit,grade", rows, [f"S{s}/V{v}/a.png" for s in PEOPLE for v in (1, 2)])
    assert any("V1 in the paths is Week 1" in note for note in plan.understood)
    assert {row["visit"] for row in table_of(tmp_path / "study")} == {"Week 1", "Week 2"}


def test_a_part_of_a_folder_is_not_offered_as_a_folder_of_images(tmp_path: Path) -> None:
    rows: Rows = [(f"0{c}", f"00{s}", (s + c) % 4) for c in (1, 2, 3) for s in PEOPLE if s < 5]
    names = [f"{code}-00{s}/1.png" for code in ("HH", "KA", "MU") for s in PEOPLE if s < 5]
    with pytest.raises(CasewiseError, match="their names as they are in HH-001, KA-001") as refused:
        plan_of(tmp_path, "Centre,Patient,score", rows, names)
    assert "--images" not in str(refused.value)


def test_a_column_that_says_whether_there_is_a_tumour_is_no_number_of_it(tmp_path: Path) -> None:
    rows: Rows = [(f"S{s}", f"S{s}_{n}.png", (s + n) % 2) for s in PEOPLE for n in (0, 1)]
    plan = plan_of(tmp_path, "subject,file,tumor", rows, [f"S{s}_{n}.png" for s in PEOPLE for n in (0, 1)])
    assert plan.target == "tumor"


def test_rows_that_differ_only_by_what_is_predicted_are_refused(tmp_path: Path) -> None:
    rows: Rows = [(f"S{s}", n) for s in PEOPLE for n in (0, 1)]
    with pytest.raises(CasewiseError, match="No column of the table names the images"):
        plan_of(tmp_path, "subject,tumor", rows, [f"S{s}_{n}.png" for s in PEOPLE for n in (0, 1)])


def test_teeth_are_numbered_as_dentists_do(tmp_path: Path) -> None:
    rows: Rows = [(f"P{s}", tooth, (s + tooth) % 2) for s in PEOPLE for tooth in (11, 21, 48)]
    plan_of(tmp_path, "patient,Zahn,Karies", rows, [f"P{s}/{tooth}.png" for s in PEOPLE for tooth in (11, 21, 48)])
    assert joined(tmp_path, "Karies") == {
        f"P{s}/{tooth}.png": str((s + tooth) % 2) for s in PEOPLE for tooth in (11, 21, 48)
    }


def test_columns_that_number_photographs_become_rows(tmp_path: Path) -> None:
    rows: Rows = [(f"P{s}", s % 4, (s + 1) % 4) for s in PEOPLE]
    plan_of(tmp_path, "patient,Foto1 Grad,Foto2 Grad", rows, [f"P{s}_{n}.png" for s in PEOPLE for n in (1, 2)])
    assert joined(tmp_path, "grad") == {f"P{s}_{n}.png": str((s + n - 1) % 4) for s in PEOPLE for n in (1, 2)}


@pytest.mark.parametrize(("heads", "numbers"), [("patient,score_1,score_2", (1, 2)), ("patient,q7,q9", (7, 9))])
def test_columns_with_the_numbers_of_the_images_are_refused(
    heads: str, numbers: tuple[int, int], tmp_path: Path
) -> None:
    rows: Rows = [(f"P{s}", s % 4, (s + 1) % 4) for s in PEOPLE]
    first, names = heads.split(",")[1], [f"P{s}/img{n}.png" for s in PEOPLE for n in numbers]
    plan_of(tmp_path, heads, rows, names, target=first)  # all images have this value
    assert joined(tmp_path, first) == {f"P{s}/img{n}.png": str(s % 4) for s in PEOPLE for n in numbers}
    with pytest.raises(CasewiseError, match="have the numbers of the images of a row"):
        plan_of(tmp_path, heads, rows, names)


def test_columns_with_other_numbers_than_the_images_are_a_question(tmp_path: Path) -> None:
    rows: Rows = [(f"P{s}", s % 4, (s + 1) % 4) for s in PEOPLE]
    plan = plan_of(tmp_path, "patient,score_1,score_2", rows, [f"P{s}/{n}.png" for s in PEOPLE for n in (1, 2, 3)])
    assert any("Other candidates: 'score_2'" in doubt for doubt in plan.doubts)


def test_numbers_of_files_are_no_patients_with_letters_either(tmp_path: Path) -> None:
    rows: Rows = [(f"P{s}", s % 3) for s in PEOPLE]
    with pytest.raises(CasewiseError, match="PATIENTS OR PHOTOGRAPHS"):
        plan_of(tmp_path, "patient,grade", rows, [f"IMG_{n:03}.png" for n in range(3, 33)])


def test_rows_that_repeat_are_named_with_the_column_that_tells_them_apart(tmp_path: Path) -> None:
    places = ("arm", "back1")
    rows: Rows = [(f"P{s}", place, (s + len(place)) % 3) for s in PEOPLE for place in places]
    names = [f"P{s}/{place}.png" for s in PEOPLE for place in places]
    with pytest.raises(CasewiseError, match=r"Rows 2 and 3 have the same patient: if Mole tells .* as \{Mole\}"):
        plan_of(tmp_path, "patient,Mole,grade", rows, names)
    plan_of(tmp_path, "patient,Mole,grade", rows, names, pattern="{subject}/{Mole}.png")
    assert joined(tmp_path, "grade") == {f"P{s}/{p}.png": str((s + len(p)) % 3) for s in PEOPLE for p in places}


def test_rows_that_occur_twice_are_named(tmp_path: Path) -> None:
    rows: Rows = [(f"P{s}", s % 3) for s in (*PEOPLE, *PEOPLE)]
    with pytest.raises(CasewiseError, match="Rows 2 and 12 have the same patient: keep one of them"):
        plan_of(tmp_path, "patient,grade", rows, [f"P{s}/a.png" for s in PEOPLE])
