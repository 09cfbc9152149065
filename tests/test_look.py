"""`casewise look`: panels of training cases of each class, as they are and varied, before anything is trained."""

import json
import re
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest

from tests.conftest import absolute
from tests.test_cli import casewise

CLASSES = """
cohort: cases.csv
synthetic: true
images: {size: 32}
targets: {label: [no_finding, covid, pneumonia]}
split: {test: 25%, folds: 2, restarts: 20}
backbones: [cnn]
weights: random
"""
NUMBERS = """
extends: onestep-pasi
cohort: cases.csv
synthetic: true
images: {size: 32}
split: {test: 0, folds: 2, restarts: 20}
backbones: [cnn]
weights: random
"""


def look(folder: Path, study: str, table: Path, *options: str) -> CompletedProcess[str]:
    """The command on a study of this table."""
    absolute(table).to_csv(folder / "cases.csv", index=False)
    (folder / "study.yaml").write_text(study)
    return casewise("look", str(folder / "study.yaml"), "--output", str(folder / "run"), *options)


def page_of(folder: Path, study: str, table: Path, *options: str) -> str:
    """The page that the command writes."""
    done = look(folder, study, table, *options)
    assert done.returncode == 0, done.stderr
    assert f"panels: {folder / 'run' / 'look.html'}" in done.stdout
    return (folder / "run" / "look.html").read_text()


def strips(page: str) -> list[tuple[str, int]]:
    """The caption of each strip of pictures, and how many it has."""
    found = re.findall(r'<p class="step">(.*?)</p>\s*<div class="views">(.*?)</div>', page, flags=re.DOTALL)
    return [(caption, pictures.count("<img")) for caption, pictures in found]


def test_every_class_is_shown_as_it_is_and_varied(chests: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path, CLASSES.replace("backbones", "panels: {rotate: 10}\nbackbones"), chests)
    headings = re.findall(r"<h3>(.*?)</h3>", page)
    assert [heading.split(":")[0] for heading in headings] == ["No finding", "Covid", "Pneumonia"]
    assert all(count == 5 for _, count in strips(page))
    # the cases stand below their class, and none is of the test set
    table = pd.read_csv(chests, dtype=str)
    sides = json.loads((tmp_path / "run" / "splits.json").read_text())["subjects"]
    label_of = dict(zip(table["subject"], table["label"], strict=True))
    for heading, part in zip(headings, page.split("<h3>")[1:], strict=True):
        for caption, _ in strips(part):
            subject = caption.split(",")[0].removeprefix("Subject ")
            assert sides[subject] != "test"
            assert label_of[subject].replace("_", " ") == heading.split(":")[0].lower()


def test_the_number_of_cases_is_stated(chests: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path, CLASSES, chests, "--cases", "1")
    assert len(strips(page)) == 3
    assert re.search(r"Covid: 1 of \d+ training panels", page)


def test_without_variations_the_page_says_so(chests: Path, tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        CLASSES.replace(
            "backbones", "panels: {shuffle: false, rotate: 0, brightness: 0, contrast: 0, vary_shape: false}\nbackbones"
        ),
        chests,
    )
    assert all(count == 1 for _, count in strips(page))
    assert "Nothing varies in training" in page


def test_a_validation_set_is_not_shown(chests: Path, tmp_path: Path) -> None:
    study = CLASSES.replace("{test: 25%, folds: 2, restarts: 20}", "{test: 0, validation: 30%}")
    page = page_of(tmp_path, study, chests, "--cases", "20")
    sides = json.loads((tmp_path / "run" / "splits.json").read_text())["subjects"]
    shown = {caption.split(",")[0].removeprefix("Subject ") for caption, _ in strips(page)}
    assert shown == {name for name, side in sides.items() if side == "training"} | {
        name for name, side in sides.items() if side == "train"
    }
    assert len(shown) < len(sides)


def test_a_variation_of_a_later_phase_is_shown(chests: Path, tmp_path: Path) -> None:
    plain = "panels: {shuffle: false, rotate: 0, brightness: 0, contrast: 0, vary_shape: false}\n"
    phases = "recipe: {phases: [{epochs: 1, freeze: all}, {epochs: 1, variations: {rotate: 20}}]}\n"
    page = page_of(tmp_path, CLASSES.replace("backbones", f"{plain}{phases}backbones"), chests, "--cases", "1")
    assert "Nothing varies" not in page
    assert all(count == 5 for _, count in strips(page))


def test_numbers_go_from_the_lowest_to_the_highest(phantom: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path, NUMBERS, phantom)
    values = [float(heading.split()[-1]) for heading in re.findall(r"<h3>(.*?)</h3>", page)]
    assert len(values) > 2
    assert values == sorted(values)
    assert "from the lowest to the highest" in page


@pytest.mark.parametrize("cases", ["0", "many"])
def test_a_wrong_number_of_cases_is_refused(cases: str, chests: Path, tmp_path: Path) -> None:
    done = look(tmp_path, CLASSES, chests, "--cases", cases)
    assert done.returncode == 2
    assert "--cases" in done.stderr
