"""Copies that the audit finds are left out by one command, in a file of decisions that the study names."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from casewise.cohort.cohort import read_cohort
from casewise.cohort.decisions import add_decisions, name_in_study, read_decisions
from casewise.console import Silent
from casewise.errors import AuditError, CasewiseError, CohortError
from casewise.pipeline.audit import audit_alone
from casewise.run_folder import RunFolder
from casewise.study.loading import read_study

STUDY = """
cohort: cases.csv
synthetic: true
images: {size: 32}
targets: {label: [no_finding, covid, pneumonia]}
split: {test: 0, folds: 2, restarts: 20}
backbones: [cnn]
weights: random
"""


@pytest.fixture
def study_file(chests: Path, tmp_path: Path) -> Path:
    """24 films, one of them again under another name, and one again with another label."""
    with chests.open(newline="") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    for row in rows:
        target = tmp_path / row["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(chests.parent / row["path"], target)
    first = rows[0]
    other = next(label for label in ("covid", "pneumonia") if label != rows[1]["label"])
    copies = [(first, "again.png", first["label"]), (rows[1], "relabelled copy.png", other)]
    for number, (row, name, label) in enumerate(copies):
        shutil.copyfile(tmp_path / row["path"], tmp_path / name)
        rows.append(row | {"path": name, "subject": f"copy{number}", "label": label})
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(first))
        writer.writeheader()
        writer.writerows(rows)
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def audited(study_file: Path, *, resolve: bool = True) -> list[str]:
    lines: list[str] = []
    folder = RunFolder(study_file.parent / "run")
    audit_alone(
        read_study(study_file), folder, Silent(), lambda line: lines.append(str(line)),
        resolve=study_file if resolve else None,
    )  # fmt: skip
    return lines


def test_copies_are_left_out_and_the_audit_passes(study_file: Path) -> None:
    with pytest.raises(AuditError, match="twins-across-subjects"):
        audited(study_file, resolve=False)
    lines = audited(study_file)
    assert f"next: casewise run {study_file}" in lines
    decisions = read_decisions(study_file.parent / "study-decisions.csv")
    with (study_file.parent / "cases.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    # of two labels none is known to be right
    assert set(decisions["path"]) == {"again.png", "relabelled copy.png", table[1]["path"]}
    assert decisions["reason"].str.contains("the same picture as").all()
    study = read_study(study_file)
    cohort = read_cohort(study)
    assert len(cohort.images) == len(table) - 3
    assert any("3 of 26 rows were left out by `audit.decisions`" in note for note in cohort.notes)
    audited(study_file, resolve=False)  # nothing is left to refuse
    before = (study_file.read_text(), (study_file.parent / "study-decisions.csv").read_text())
    audited(study_file)
    assert (study_file.read_text(), (study_file.parent / "study-decisions.csv").read_text()) == before


def test_an_image_that_is_to_stay_stays(study_file: Path) -> None:
    decisions = study_file.parent / "study-decisions.csv"
    decisions.write_text("path,decision,reason\nagain.png,keep,a twin of another person\n")
    with pytest.raises(AuditError, match="twins-across-subjects"):
        audited(study_file)
    table = read_decisions(decisions).set_index("path")
    assert table.loc["again.png", "decision"] == "keep"
    assert len(table) == 3


@pytest.mark.parametrize(
    "section", ["audit: {permutations: 99}\n", "audit:\n  permutations: 99\n", "audit:  # ours\n    permutations: 99\n"]
)
def test_decisions_join_the_settings_of_the_audit(section: str, study_file: Path) -> None:
    text = study_file.read_text()
    study_file.write_text(text + section)
    lines = audited(study_file)
    assert not any("into the section `audit`" in line for line in lines)
    study = read_study(study_file)
    assert (study.audit.permutations, study.audit.decisions.name) == (99, "study-decisions.csv")
    assert study_file.read_text().startswith(text)
    audited(study_file, resolve=False)  # nothing is left to refuse


@pytest.mark.parametrize(
    "text",
    [
        "cohort: a.csv\naudit: {}\n",
        "cohort: a.csv\r\naudit: {permutations: 99}\r\nseed: 3\r\n",
        "cohort: a.csv\r\naudit:\r\n\r\n  permutations: 99\r\n",
        "cohort: a.csv\r\n",
    ],
)
def test_lines_of_a_study_end_as_they_did(text: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes(text.encode())
    assert name_in_study(file, tmp_path / "study-decisions.csv")
    written = file.read_bytes().decode()
    assert "decisions: study-decisions.csv" in written
    assert ", }" not in written
    assert written.count("\n") == written.count("\r\n") if "\r\n" in text else "\r\n" not in written


def test_other_decisions_stay_named(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    for text in ("cohort: a.csv\naudit: {decisions: own.csv}\n", "cohort: a.csv\naudit: [decisions]\n"):
        file.write_text(text)
        assert not name_in_study(file, tmp_path / "study-decisions.csv")
        assert file.read_text() == text


@pytest.mark.parametrize(
    "change", [lambda text: "{" + ", ".join(text.split("\n")) + "}", lambda text: f"{text}\n...\n"]
)
def test_a_study_that_takes_no_further_line_stays_as_it_is(change: Any, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(change("cohort: a.csv\nname: b"))
    before = file.read_text()
    assert not name_in_study(file, tmp_path / "study-decisions.csv")
    assert file.read_text() == before


def test_other_spellings_of_a_path_are_the_same_image(tmp_path: Path) -> None:
    file = tmp_path / "decisions.csv"
    file.write_text(f"path,decision,reason\n./a.png,keep,x\n{tmp_path}/in/b.png,keep,y\n")
    added, kept = add_decisions(file, {"a.png": "z", "in/b.png": "z", "c.png": "z"}, tmp_path)
    assert (added, kept) == (1, ["a.png", "in/b.png"])


def test_only_copies_are_left_out(study_file: Path) -> None:
    """Photographs of one person on two sides of a stated split are no copies."""
    table = study_file.parent / "cases.csv"
    rows = [row for row in csv.DictReader(table.open(newline="")) if not row["subject"].startswith("copy")]
    for number, row in enumerate(rows):
        row["subject"], row["side"] = f"S{number // 2}", ("train", "test")[number % 2]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    study_file.write_text(STUDY.replace("split: {test: 0, folds: 2, restarts: 20}", "split: {column: side}"))
    with pytest.raises(CasewiseError):
        audited(study_file)
    assert not (study_file.parent / "study-decisions.csv").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,decision\na.png,keep\n", "column reason: is missing"),
        ("path,decision,reason\na.png,drop,x\n", "row 2, decision: must be 'leave out' or 'keep', found 'drop'"),
        ("path,decision,reason\na.png,keep,x\na.png,leave out,y\n", "rows 2, 3: one image, decided twice"),
        ("path,decision,reason\nnone.png,leave out,x\n", "no row has path 'none.png'"),
    ],
)
def test_wrong_decisions_are_refused(text: str, said: str, study_file: Path) -> None:
    (study_file.parent / "study-decisions.csv").write_text(text)
    study_file.write_text(study_file.read_text() + "audit: {decisions: study-decisions.csv}\n")
    with pytest.raises(CohortError) as caught:
        read_cohort(read_study(study_file))
    assert said in " ".join(str(caught.value).split())


def test_a_mistyped_name_of_decisions_names_its_key(study_file: Path) -> None:
    (study_file.parent / "study-decisions.csv").write_text("path,decision,reason\n")
    study_file.write_text(study_file.read_text() + "audit: {decisions: study-decision.csv}\n")
    with pytest.raises(CohortError, match=r"audit\.decisions: there is no table .*Did you mean .*study-decisions\.csv"):
        read_cohort(read_study(study_file))
