"""What is predicted: outcomes and grades first, administration last; a question where two are equally likely."""

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from casewise.plugins.init.own_data import plan_study

VALUES = {
    "Vorstellung": ["Erstvorstellung", "Kontrolle"],
    "Behandlung": ["Salbe", "UV", "keine"],
    "Versicherung": ["AOK", "TK", "privat"],
    "arm": ["A", "B"],
    "referral": ["GP", "self"],
    "Schweregrad (0-3)": ["0", "1", "2", "3"],
    "Tumorstadium": ["I", "II", "III"],
    "Hauptdiagnose": ["Psoriasis", "Ekzem"],
    "PASIscore": ["1", "2", "3", "4"],
    "Gravité": ["0", "1", "2"],
    "Wert": ["0", "1", "2"],
    "Ausprägung": ["keine", "leicht", "mittel", "schwer"],
    "Form": ["rund", "flach"],
    "Geschlecht": ["m", "w"],
    "Fitzpatrick": ["1", "2", "3", "4"],
    "Behandlungserfolg": ["ja", "nein"],
    "contact dermatitis": ["yes", "no"],
    "drug": ["A", "B"],
    "melanoma": ["yes", "no"],
    "fraction": ["0", "0.5", "1"],
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    draw, folder = np.random.default_rng(1), tmp_path / "images"
    folder.mkdir()
    for number in range(24):
        Image.fromarray(draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"P{number:02}.png")
    return folder


def write_table(images: Path, *columns: str) -> Path:
    rows = pd.DataFrame({"patient": [path.stem for path in sorted(images.iterdir())]})
    rows["image"] = rows["patient"] + ".png"
    for name in columns:
        rows[name] = [VALUES[name][i % len(VALUES[name])] for i in range(len(rows))]
    rows.to_csv(table := images.parent / "table.csv", index=False)
    return table


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        (("Vorstellung", "Schweregrad (0-3)"), "Schweregrad (0-3)"),
        (("Behandlung", "Versicherung", "Tumorstadium"), "Tumorstadium"),
        (("referral", "Hauptdiagnose"), "Hauptdiagnose"),
        (("arm", "Form", "PASIscore"), "PASIscore"),
        (("Form", "Gravité"), "Gravité"),
        (("Form", "Wert"), "Wert"),
        (("Form", "Ausprägung"), "Ausprägung"),
        (("Vorstellung", "Form"), "Form"),
        (("Geschlecht", "Vorstellung"), "Vorstellung"),
        (("Behandlung", "Behandlungserfolg"), "Behandlungserfolg"),
        (("drug", "Form", "contact dermatitis"), "contact dermatitis"),
        (("Wert", "melanoma"), "melanoma"),
    ],
)
def test_outcomes_and_grades_come_before_administration(images: Path, columns: tuple[str, ...], chosen: str) -> None:
    study = plan_study(table=write_table(images, *columns), images=images, folder=images.parent / "study")
    assert study.target == chosen
    others = [name for name in columns if name not in (chosen, "Geschlecht")]
    assert all(name in study.doubts[0] for name in others)  # a doubt about what is predicted is the first
    assert set(study.as_likely) <= {"Form"}  # beside values in order


def test_people_are_described_and_not_predicted(images: Path) -> None:
    study = plan_study(table=write_table(images, "Fitzpatrick", "Form"), images=images, folder=images.parent / "study")
    assert (study.target, study.as_likely) == ("Form", [])
    study = plan_study(table=write_table(images, "fraction", "Form"), images=images, folder=images.parent / "other")
    assert (study.target, study.as_likely) == ("fraction", ["Form"])  # in the order of the table


def on_a_terminal(table: Path, images: Path, answers: list[str]) -> str:
    """What `casewise init --dry-run` prints on a terminal where the answers are typed."""
    user, program = pty.openpty()
    command = [sys.executable, "-m", "casewise", "init", "--table", str(table), "--images", str(images), "--dry-run"]
    with subprocess.Popen(command, stdin=program, stdout=program, stderr=program, close_fds=True) as process:
        os.close(program)
        printed = b""
        while True:
            try:
                if not select.select([user], [], [], 120)[0]:
                    process.kill()
                    break
                printed += os.read(user, 4096)
            except OSError:  # the program has ended
                break
            if printed.count(b"predicted? [1]:") > 2 - len(answers) and answers:
                os.write(user, answers.pop(0).encode() + b"\n")
    os.close(user)
    return printed.decode()


def test_of_two_equally_likely_columns_a_terminal_asks(images: Path) -> None:
    table = write_table(images, "Form", "Schweregrad (0-3)", "Tumorstadium")
    study = plan_study(table=table, images=images, folder=images.parent / "study")
    assert (study.target, study.as_likely) == ("Schweregrad (0-3)", ["Tumorstadium"])
    printed = on_a_terminal(table, images, ["7", "2"])
    assert "targets: {Tumorstadium:" in printed


@pytest.mark.parametrize(
    ("heads", "grades"),
    [
        (("paciente", "visita", "gravedad"), ["leve", "moderada", "grave", "muy grave"]),
        (("sujet", "visite", "Sévérité"), ["légère", "modérée", "sévère"]),
    ],
)
def test_spanish_and_french_tables_have_people_and_ordered_grades(
    images: Path, heads: tuple[str, str, str], grades: list[str]
) -> None:
    paths = [path.name for path in sorted(images.iterdir())]
    rows = pd.DataFrame({"image": paths, heads[0]: [f"X{i // 2:02}" for i in range(len(paths))]})
    rows[heads[1]] = [str(i % 2 + 1) for i in range(len(rows))]
    rows[heads[2]] = [grades[i // 2 % len(grades)] for i in range(len(rows))]
    rows.to_csv(table := images.parent / "table.csv", index=False)
    study = plan_study(table=table, images=images, folder=images.parent / "study")
    assert study.target == heads[2]
    settings = yaml.safe_load(study.text)
    (target,) = settings["targets"].values()
    assert (target["kind"], target["classes"]) == ("ordinal", grades)  # in rising order
    assert (settings["columns"]["subject"], settings["columns"]["visit"]) == heads[:2]
