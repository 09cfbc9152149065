"""Classes in the cohort table: which rows are taken, which spellings mean a class, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.cohort.cohort import Cohort, read_cohort
from casewise.cohort.targets import nearly
from casewise.errors import CohortError
from casewise.study.schema import Study

THREE = ["covid", "no_finding", "pneumonia"]
CHEST = [*["covid"] * 3, *["no_finding"] * 3, *["pneumonia"] * 4, *["sars"] * 2, ""]


def table(folder: Path, labels: list[str], *, subjects: list[str] | None = None, **columns: list[Any]) -> Path:
    """A table with an image a row; every row a subject of its own unless `subjects` says otherwise."""
    names = subjects or [f"P{row:02}" for row in range(len(labels))]
    lines = [",".join(["path", "subject", "visit", "label", *columns])]
    for row, (name, label) in enumerate(zip(names, labels, strict=True)):
        (folder / f"{row}.jpg").write_bytes(b"x")
        lines.append(",".join([f"{row}.jpg", name, str(row), label, *(str(cells[row]) for cells in columns.values())]))
    (folder / "c.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "c.csv"


def read(path: Path, label: Any, *, to_learn: bool = True, **values: Any) -> Cohort:
    target = label if isinstance(label, dict) and ("kind" in label or "level" in label) else {"classes": label}
    study = {"name": "s", "cohort": path, "backbones": ["alexnet"], "panels": {"by": "image"}}
    return read_cohort(Study.model_validate(study | {"targets": {"label": target}} | values), to_learn=to_learn)


def problems(path: Path, label: Any, **values: Any) -> str:
    with pytest.raises(CohortError) as told:
        read(path, label, **values)
    return str(told.value)


class TestWhatIsRead:
    def test_values_are_class_numbers_in_the_studys_order(self, tmp_path: Path) -> None:
        found = read(table(tmp_path, CHEST[:10]), ["pneumonia", "covid", "no_finding"])
        assert found.images["label"].tolist() == [1.0] * 3 + [2.0] * 3 + [0.0] * 4
        assert found.panels["label"].tolist() == found.images["label"].tolist()
        assert not any("left out" in note for note in found.notes)

    def test_a_sample_is_drawn_by_the_seed_whatever_the_order(self, tmp_path: Path) -> None:
        found = read(table(tmp_path, CHEST[:10]), THREE, sample={"pneumonia": 2})
        assert (found.images["label"].tolist().count(2.0), len(found.images)) == (2, 8)
        step = found.flow[-1]
        assert (step["code"], step["rows"], step["values"]) == ("sample", 2, ["pneumonia: 2"])
        names = [path.name for path in found.images["path"].map(Path)]
        lines = (tmp_path / "c.csv").read_text().splitlines()
        (tmp_path / "c.csv").write_text("\n".join([lines[0], *lines[:0:-1]]))
        again = read(tmp_path / "c.csv", THREE, sample={"pneumonia": 2})
        assert sorted(path.name for path in again.images["path"].map(Path)) == sorted(names)
        draws = {(*read(tmp_path / "c.csv", THREE, sample={"pneumonia": 2}, seed=s).images["path"],) for s in range(5)}
        assert len(draws) > 1
        too_many = problems(tmp_path / "c.csv", THREE, sample={"pneumonia": 5})
        assert "5 rows of 'pneumonia' cannot be drawn, for 4" in too_many

    def test_a_subset_leaves_other_rows_out_and_counts_them(self, tmp_path: Path) -> None:
        found = read(table(tmp_path, CHEST), ["covid", "no_finding"])
        known = found.images["label"].dropna()
        assert known.tolist() == [0.0] * 3 + [1.0] * 3
        assert len(found.images) == 7  # and the row without a label, which can be predicted
        assert np.isnan(found.images["label"].iloc[-1])
        note = "6 rows of classes that the study does not list are left out: pneumonia (4), sars (2)."
        assert note in found.notes

    def test_where_not_takes_several_values_and_refuses_what_is_not_there(self, tmp_path: Path) -> None:
        path = table(tmp_path, CHEST[:10])
        found = read(path, ["covid", "pneumonia"], where_not={"path": ["0.jpg", "9.jpg"], "label": "no_finding"})
        assert sorted(Path(p).name for p in found.images["path"]) == ["1.jpg", "2.jpg", "6.jpg", "7.jpg", "8.jpg"]
        said = problems(path, ["covid", "pneumonia"], where_not={"path": ["00.jpg"]})
        assert "where_not: no row has path '00.jpg'. Did you mean '0.jpg'?" in said


class TestWhatIsRefused:
    @pytest.mark.parametrize("other", ["No Finding", "no-finding", "NO_FINDING", "nofinding"])
    def test_two_spellings_are_suggested_as_one(self, tmp_path: Path, other: str) -> None:
        said = problems(table(tmp_path, [*CHEST[:6], other, other]), ["covid", "no_finding"])
        assert f"rows 8-9, label: {other!r} looks like the class 'no_finding'." in said
        assert f"`classes: {{no_finding: [no_finding, {other}]}}`" in said
        remedied = read(table(tmp_path, [*CHEST[:6], other]), {"covid": "covid", "no_finding": ["no_finding", other]})
        assert remedied.images["label"].tolist() == [0.0] * 3 + [1.0] * 4

    def test_signs_tell_classes_apart(self, tmp_path: Path) -> None:
        path = table(tmp_path, ["HER2+", "HER2+", "HER2-", "HER2-", "none", "none"])
        assert read(path, ["HER2+", "HER2-"]).images["label"].tolist() == [0, 0, 1, 1]
        found = read(path, ["HER2+", "none"])
        assert "2 rows of classes that the study does not list are left out: HER2- (2)." in found.notes

    def test_a_grade_that_is_none(self, tmp_path: Path) -> None:
        said = problems(table(tmp_path, [*"0120127", "1.5"]), {"kind": "ordinal", "range": (0, 2)})
        assert "row 8, label: '7' is none of the grades 0, 1, 2." in said
        assert "row 9, label: '1.5' is none of the grades" in said

    def test_a_class_of_one_subject(self, tmp_path: Path) -> None:
        subjects = [*"ABCDEF", *["G"] * 4]
        said = problems(table(tmp_path, CHEST[:10], subjects=subjects), ["covid", "no_finding", "pneumonia"])
        assert "rows 8-11, label: the class 'pneumonia' has one subject (G), and none is left for evaluation." in said
        kept = read(table(tmp_path, CHEST[:10], subjects=subjects), ["covid", "no_finding"])
        assert kept.cases["subject"].nunique() == 6

    def test_labels_that_differ_within_a_subject(self, tmp_path: Path) -> None:
        path = table(tmp_path, ["covid", "covid", "no_finding", "no_finding"], subjects=["A", "B", "A", "C"])
        classes = {"classes": ["covid", "no_finding"]}
        said = problems(path, {**classes, "level": "subject"})
        assert "rows 2, 4, label: covid and no_finding in subject A; it is at subject level." in said
        assert read(path, {**classes, "level": "image"}).images["label"].notna().all()


class TestAnotherCohort:
    def test_an_unknown_class_is_named_with_the_known_ones(self, tmp_path: Path) -> None:
        said = problems(table(tmp_path, [*CHEST[:6], "covd"]), ["covid", "no_finding"], to_learn=False)
        assert "row 8, label: the networks were not trained on the class 'covd', only on covid, no_finding." in said
        assert "Did you mean 'covid'?" in said
        assert "where_not: {label: " in said


@pytest.mark.parametrize("slip", ["covdi", "covd", "covidd", "ccovid", "ocvid", "cobid", "Covdi"])
def test_a_slip_in_a_cell_is_refused_with_the_nearest_class(tmp_path: Path, slip: str) -> None:
    path = table(tmp_path, [*CHEST[:10], slip])
    said = problems(path, ["covid", "no_finding"])
    assert f"{slip!r} looks like the class 'covid'" in said
    assert f"`where_not: {{label: {slip}}}`" in said
    # the same class, left out by name
    kept = read(path, ["covid", "no_finding"], where_not={"label": slip})
    assert (kept.images["label"] == 0).sum() == 3


@pytest.mark.parametrize(
    ("one", "two"),
    [
        *[("typical", "atypical"), ("type A", "type B"), ("grade I", "grade V"), ("AML", "ALL"), ("T1", "T2")],
        *[("male", "female"), ("normal", "abnormal"), ("hypoplasia", "hyperplasia"), ("benign", "malign")],
    ],
)
def test_other_classes_are_no_slips(one: str, two: str) -> None:
    assert not nearly(one, two)
    assert not nearly(two, one)
