"""What `init` says about the cells of a hospital's table: notations, words for no value, dates, far numbers, counts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from casewise.cohort.missing_codes import far_numbers
from casewise.errors import CasewiseError
from casewise.plugins.init.columns import Column
from casewise.plugins.init.new_study import NewStudy
from casewise.plugins.init.own_data import plan_study
from tests.plugins.init.test_forms_of_hospitals import pictures_at

PEOPLE = [f"P-05{number:02}" for number in range(1, 31)]


def plan_of(folder: Path, target: str = "", photographs: int = 1, **columns: list[str]) -> NewStudy:
    """The study of thirty people with some photographs each, and further columns."""
    names = [[f"{person}_{n}.jpg" for person in PEOPLE] for n in range(1, photographs + 1)]
    pictures_at(folder / "Fotos", [name for own in names for name in own])
    frame = pd.DataFrame({"Patient": PEOPLE} | {f"Foto {n}": own for n, own in enumerate(names, 1)} | columns)
    frame.to_csv(folder / "Tabelle.csv", index=False)
    return plan_study(table=folder / "Tabelle.csv", images=folder / "Fotos", target=target, folder=folder / "study")


GRADES = [str(n % 4) for n in range(30)]
NUMBERS = [f"{2.5 * n + 3:g}" for n in range(30)]


@pytest.mark.parametrize(
    ("lone", "other", "said"), [("45 %", "%", "1 cell has a percent"), ("45", "", "has no percent")]
)
def test_the_cell_with_another_notation_is_named(lone: str, other: str, said: str, tmp_path: Path) -> None:
    cells = [number + ("" if other else " %") for number in NUMBERS]
    cells[4] = lone
    with pytest.raises(CasewiseError, match=said) as error:
        plan_of(tmp_path, "Anteil", Anteil=cells)
    assert f"row 6: '{lone}'" in str(error.value)
    assert "row 2" not in str(error.value)


@pytest.mark.parametrize(
    "word", ["n.b.", "n. b.", "n. d.", "ND", "NA", "k.A.", "nicht bestimmbar", "no consta", "N.D."]
)
@pytest.mark.parametrize("cells", [GRADES, NUMBERS])
def test_words_for_no_value_do_not_stop_init(word: str, cells: list[str], tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "Grad", Grad=[word, *cells[1:]])
    assert yaml.safe_load(plan.text)["where_not"] == {"Grad": [word]}


@pytest.mark.parametrize("word", ["o.B.", "normal", "unauffällig", "negativ"])
def test_words_for_a_normal_finding_are_values(word: str) -> None:
    assert word in Column("Befund", [word, "auffällig", word]).values


def test_two_letters_are_a_class_beside_texts() -> None:
    assert Column("Befund", ["DR", "ND", "DR"]).labels == ["DR", "ND", "DR"]


@pytest.mark.parametrize(
    ("form", "absent"), [("%d.%m.%Y", "31.02.2021"), ("%d.%m.%y", "31.02.2021"), ("%Y-%m-%d", "2021-02-31")]
)
def test_a_date_that_does_not_exist_is_named(form: str, absent: str, tmp_path: Path) -> None:
    days = [f"{day:{form}}" for day in pd.date_range("2021-01-03", periods=30, freq="9D")]
    days[7] = absent.replace("2021", "21") if "%y" in form else absent
    plan = plan_of(tmp_path, "Grad", Grad=GRADES, Untersuchungsdatum=days)
    (text,) = [own for own in plan.doubts if own.startswith("Date: 'Untersuchungsdatum' IS NOT USED")]
    assert f"do not exist: row 9: '{absent}'" in text
    assert "row 2" not in text
    assert "told apart" not in text


def test_a_number_far_beyond_all_others_is_doubted(tmp_path: Path) -> None:
    cells = NUMBERS.copy()
    cells[11] = "3540"
    plan = plan_of(tmp_path, "Anteil", Anteil=cells)
    (text,) = [own for own in plan.doubts if own.startswith("Anteil: 3540 in row 13")]
    assert "3 to 75.5" in text


def test_skewed_numbers_are_not_doubted() -> None:
    draw = np.random.default_rng(3)
    for size, sigma in ((40, 1.0), (70, 0.5), (70, 1.0), (70, 1.5), (300, 2.0)):
        doubted = sum(bool(far_numbers(np.exp(sigma * draw.standard_normal(size)).tolist())) for _ in range(200))
        assert doubted <= 4
    far = [far_numbers([*(100 * draw.beta(2, 4, 66)).tolist(), 3540.0]) for _ in range(100)]
    assert far.count([3540.0]) >= 98
    below = [far_numbers([*draw.normal(170, 9, 60).tolist(), 1.72]) for _ in range(100)]
    assert below.count([1.72]) >= 98


def test_rows_of_the_table_are_counted_and_not_photographs(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "Grad", photographs=3, Grad=["", "k.A.", *GRADES[2:]])
    assert any(own.startswith("Grad: 1 of 30 rows has no value and is not scored (row 2)") for own in plan.doubts)
    assert any(own.startswith("Grad: 1 row with 'k.A.' left out") for own in plan.doubts)


def test_body_and_laboratory_are_no_outcomes(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    plan = plan_of(
        tmp_path,
        Grad=GRADES,
        CRP=[f"{value:.1f}" for value in draw.lognormal(1, 1, 30)],
        Größe=[f"{value:.0f}" for value in draw.normal(172, 9, 30)],
        Leukozyten=[f"{value:.1f}" for value in draw.normal(7, 2, 30)],
        Helicobacter=["positiv" if n % 3 else "negativ" for n in range(30)],
    )
    assert plan.target == "Grad"
    assert yaml.safe_load(plan.text)["audit"]["outcomes"] == ["Helicobacter"]
    text = " ".join(plan.doubts)
    assert not any(repr(name) in text for name in ("CRP", "Größe", "Leukozyten"))


def test_a_laboratory_value_is_predicted_if_it_is_stated(tmp_path: Path) -> None:
    assert plan_of(tmp_path, "CRP", CRP=NUMBERS, Grad=GRADES).target == "CRP"
    (tmp_path / "alone").mkdir()
    assert plan_of(tmp_path / "alone", Hb=NUMBERS).target == "Hb"


def test_cells_that_are_read_without_spaces_are_noted_without_their_text(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "Grad", Grad=[*GRADES[:9], "1 ", *GRADES[10:]])
    (note,) = [own for own in plan.understood if own.startswith("Read without the spaces around them")]
    assert note.endswith(": Grad in row 11.")


def test_pictures_of_a_run_in_the_folder_are_no_images(tmp_path: Path) -> None:
    pictures_at(tmp_path / "Fotos" / "runs" / "x", [f"explanations/{n}.png" for n in range(9)])
    for name in ("study.json", "cohort.parquet"):
        (tmp_path / "Fotos" / "runs" / "x" / name).write_text("{}")
    plan = plan_of(tmp_path, "Grad", Grad=GRADES)
    assert not any("in no row" in own for own in plan.doubts)
