"""Folds of neighbouring file numbers, where subjects are not known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from casewise.audit.file_order import streak_findings
from casewise.cohort.cohort import Cohort, read_cohort
from casewise.errors import CasewiseError, SplitError
from casewise.initialise.own_data import plan_study
from casewise.pipeline.validate import number_lines
from casewise.splits.assignment import needs_of_folds
from casewise.splits.file_numbers import assign_runs, file_series
from casewise.splits.grouped import split
from casewise.study.loading import read_study
from casewise.study.schema import Study

LABELS = ["a", "b"]


def cohort_of(folder: Path, names: list[str], labels: list[str], **stated: Any) -> tuple[Cohort, Study]:
    table = pd.DataFrame({"path": names, "subject": [f"x{i}" for i in range(len(names))], "label": labels})
    table["official"] = ["test" if row % 20 == 0 else "train" for row in range(len(names))]
    table["fold"] = [str(1 + row % 2) for row in range(len(names))]
    table.to_csv(folder / "cohort.csv", index=False)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    settings: dict[str, Any] = {"test": 0, "folds": 5, "by": "number", "restarts": 20} | stated.pop("split", {})
    study = Study(
        name="t",
        cohort=folder / "cohort.csv",
        targets={"label": {"classes": LABELS}},
        subjects_known=False,
        backbones=["resnet18"],
        split=settings,
        **stated,
    )
    return read_cohort(study), study


def streaks(count: int, length: int) -> list[str]:
    return [LABELS[(row // length) % 2] for row in range(count)]


def borders(sides: list[int]) -> int:
    return int((np.diff(sides) != 0).sum())


def test_neighbouring_numbers_are_in_one_fold(tmp_path: Path) -> None:
    cohort, study = cohort_of(tmp_path, [f"eye_{n}.png" for n in range(100)], streaks(100, 4))
    splits = split(cohort, study)
    sides = [splits.side[f"x{n}"] for n in range(100)]
    assert borders(sides) == 4
    assert np.bincount(sides).tolist() == [20] * 5
    assert splits.record["assignment"]["folds"]["runs"] == 5
    assert len(number_lines(splits)) == 1
    assert split(cohort, study).hash == splits.hash
    random = split(cohort, study.model_copy(update={"split": study.split.model_copy(update={"by": "subject"})}))
    assert borders([random.side[f"x{n}"] for n in range(100)]) > 40
    assert number_lines(random) == []


def test_more_runs_where_a_fold_would_lack_a_class(tmp_path: Path) -> None:
    labels = ["a"] * 40 + ["b"] * 60
    cohort, study = cohort_of(tmp_path, [f"{n}.png" for n in range(100)], labels)
    splits = split(cohort, study)
    assert splits.record["assignment"]["folds"]["runs"] > 5
    assert splits.record["classes_lacking"] == []
    assert borders([splits.side[f"x{n}"] for n in range(100)]) < 40


def test_folders_of_the_same_numbers_are_cut_at_the_same_numbers(tmp_path: Path) -> None:
    names = [f"a/{n}.png" for n in range(50)] + [f"b/{n}.png" for n in range(50)]
    cohort, study = cohort_of(tmp_path, names, ["a"] * 50 + ["b"] * 50)
    splits = split(cohort, study)
    of_folders = [[splits.side[f"x{n}"] for n in range(first, first + 50)] for first in (0, 50)]
    assert of_folders[0] == of_folders[1]
    assert sorted(np.bincount(of_folders[0]).tolist()) == [10] * 5
    assert borders(of_folders[0]) == 4


def test_folders_of_other_numbers_are_cut_by_themselves(tmp_path: Path) -> None:
    names = [f"{'ab'[n // 50]}/{n}.png" for n in range(100)]
    cohort, study = cohort_of(tmp_path, names, ["a"] * 50 + ["b"] * 50)
    splits = split(cohort, study)
    for first in (0, 50):
        sides = [splits.side[f"x{n}"] for n in range(first, first + 50)]
        assert sorted(np.bincount(sides).tolist()) == [10] * 5
        assert borders(sides) == 4


PAIRS = [
    ("{0:03}_left", "{0:03}_right"),
    ("left/{0}", "right/{0}"),
    ("Normal_100x_{0}", "Normal_400x_{0}"),
    ("100x/{0}", "400x/{0}"),
    ("p{0}_i1", "p{0}_i2"),
]


@pytest.mark.parametrize("test", [0, 0.1])
@pytest.mark.parametrize("pair", PAIRS)
def test_files_with_the_same_number_are_on_one_side(tmp_path: Path, pair: tuple[str, str], test: float) -> None:
    # a class of eight persons far apart needs many short runs
    labels = ["b" if person % 13 == 0 else "a" for person in range(100)]
    names = [f"{name.format(person)}.png" for person in range(100) for name in pair]
    cohort, study = cohort_of(tmp_path, names, [str(label) for label in np.repeat(labels, 2)], split={"test": test})
    splits = split(cohort, study)
    side = np.array([splits.side[f"x{row}"] for row in range(200)])
    assert (side[::2] == side[1::2]).all()
    assert set(range(5)) <= set(side.tolist())
    assert borders(side[::2].tolist()) < 60


def sides_of(paths: list[str], labels: Sequence[str] | np.ndarray, folds: int = 5) -> np.ndarray:
    records = np.array([[label == known for known in LABELS] for label in labels])
    needs = needs_of_folds(records, folds)
    side, how = assign_runs(paths, records.astype(float), [1 / folds] * folds, needs, restarts=20, seed=0)
    assert how["shortfall"] == 0
    return side


@pytest.mark.parametrize("name", ["p{0}_i{1}", "p{0}/{1}", "{2}/{1}", "{2}{2}_{1}"])
def test_persons_with_many_numbered_files_are_on_one_side(name: str) -> None:
    letters = [chr(97 + person) + chr(122 - person) for person in range(20)]
    paths = [f"{name.format(person, n, letters[person])}.png" for person in range(20) for n in range(9)]
    side = sides_of(paths, np.repeat([LABELS[person % 2] for person in range(20)], 9)).reshape(20, 9)
    assert (side == side[:, :1]).all()
    assert np.bincount(side[:, 0]).tolist() == [4] * 5


def test_a_small_series_is_with_the_numbers_of_a_large_one() -> None:
    paths = [f"left/{n}.png" for n in range(200)] + [f"right/{n}.png" for n in range(40)]
    side = sides_of(paths, ["a"] * 200 + ["b"] * 40)
    assert (side[:40] == side[200:]).all()
    assert borders(side[:200].tolist()) < 60


def test_folders_of_classes_are_divided() -> None:
    paths = [f"{label}{label}/{n}.png" for label in LABELS for n in range(2)] + [f"a/{n}.png" for n in range(30)]
    paths += [f"{folder}/{n}.png" for folder in "bcdefgh" for n in range(6)]
    classes = np.array([Path(path).parent.name for path in paths])
    records = classes[:, None] == np.unique(classes)
    needs = needs_of_folds(records, 2)
    side, how = assign_runs(paths, records.astype(float), [0.5, 0.5], needs, restarts=20, seed=0)
    assert how["shortfall"] == 0
    assert all(set(side[classes == name].tolist()) == {0, 1} for name in np.unique(classes))


def test_a_test_set_is_of_neighbours_too(tmp_path: Path) -> None:
    cohort, study = cohort_of(tmp_path, [f"{n}.png" for n in range(100)], streaks(100, 2), split={"test": 0.1})
    splits = split(cohort, study)
    tested = [n for n in range(100) if splits.side[f"x{n}"] == -1]
    assert len(tested) == 10
    assert np.diff(tested).tolist() == [1] * 9


def test_a_given_test_set_leaves_the_others_to_runs(tmp_path: Path) -> None:
    names, labels = [f"{n}.png" for n in range(100)], streaks(100, 4)
    cohort, study = cohort_of(tmp_path, names, labels, split={"column": "official"})
    sides = [side for n in range(100) if (side := split(cohort, study).side[f"x{n}"]) >= 0]
    assert (len(sides), borders(sides)) == (95, 4)
    cohort, study = cohort_of(tmp_path, names, labels, split={"column": "fold"})
    with pytest.raises(SplitError):
        split(cohort, study)


UNNUMBERED = ["left.png", *(f"{n}.png" for n in range(39))]
OF_RANDOM_SIGNS = [f"{chr(97 + n)}{n}{chr(122 - n)}.png" for n in range(20)]


@pytest.mark.parametrize("names", [UNNUMBERED, OF_RANDOM_SIGNS])
def test_files_without_numbers_are_refused(tmp_path: Path, names: list[str]) -> None:
    cohort, study = cohort_of(tmp_path, names, streaks(len(names), 1))
    with pytest.raises(SplitError):
        split(cohort, study)


def test_known_subjects_and_left_out_sources_are_refused() -> None:
    stated: dict[str, Any] = {"name": "t", "cohort": Path("c.csv"), "targets": {"label": {"classes": LABELS}}}
    sources: dict[str, Any] = {"split": {"by": "number", "leave_out": "site"}, "subjects_known": False}
    for more in ({"split": {"by": "number"}}, sources):
        with pytest.raises((CasewiseError, ValueError), match="number"):
            Study(**stated, **more)


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 60), st.integers(2, 4), st.integers(0, 9))
def test_every_side_has_files_and_every_file_a_side(count: int, folds: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 2, count)
    records = np.eye(2)[labels]
    needs = needs_of_folds(records.astype(bool), folds)
    paths = [f"f/{n}.png" for n in range(count)]
    side, how = assign_runs(paths, records, [1 / folds] * folds, needs, restarts=5, seed=seed)
    assert set(side.tolist()) == set(range(folds))
    assert borders(side.tolist()) < how["runs"]
    (rows,) = file_series(paths)
    assert rows.tolist() == list(range(count))


def test_streaks_are_reported_where_folds_are_random(tmp_path: Path) -> None:
    names = [f"IDRiD_{n:03}.jpg" for n in range(120)]
    cohort, study = cohort_of(tmp_path, names, streaks(120, 5), split={"by": "subject"})
    (finding,) = streak_findings(study, cohort)
    assert (finding.id, finding.level) == ("label-streaks", "warning")
    assert finding.figures["agreement"] == pytest.approx(96 / 119)
    assert finding.figures["expected"] == pytest.approx(0.5, abs=0.02)
    assert finding.figures["p"] == 0.001
    assert "by: number" in finding.remedy
    assert streak_findings(study, cohort)[0].figures == finding.figures
    by_number = study.model_copy(update={"split": study.split.model_copy(update={"by": "number"})})
    assert streak_findings(by_number, cohort) == []
    assert streak_findings(study.model_copy(update={"subjects_known": True}), cohort) == []


def test_labels_without_an_order_are_not_reported(tmp_path: Path) -> None:
    labels = [LABELS[label] for label in np.random.default_rng(3).integers(0, 2, 120)]
    cohort, study = cohort_of(tmp_path, [f"{n}.jpg" for n in range(120)], labels, split={"by": "subject"})
    assert streak_findings(study, cohort) == []


def test_folders_of_classes_are_no_streaks(tmp_path: Path) -> None:
    names = [f"{label}/{n}.jpg" for label in LABELS for n in range(40)]
    cohort, study = cohort_of(tmp_path, names, [name[0] for name in names], split={"by": "subject"})
    assert streak_findings(study, cohort) == []


@pytest.mark.parametrize(("pattern", "by"), [("f{}.png", "number"), ("{}", "subject")])
def test_a_new_study_of_numbered_images_keeps_neighbours_together(tmp_path: Path, pattern: str, by: str) -> None:
    (tmp_path / "in").mkdir()
    names = [pattern.format(n) if by == "number" else f"{chr(97 + n)}{chr(122 - n)}.png" for n in range(24)]
    for n, name in enumerate(names):
        Image.new("L", (16, 16), 10 * n).save(tmp_path / "in" / name)
    rows = ["file,grade", *(f"{name},{'ab'[n // 3 % 2]}" for n, name in enumerate(names))]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    plan_study(table=tmp_path / "t.csv", images=tmp_path / "in", folder=tmp_path / "study").write()
    study = read_study(tmp_path / "study" / "study.yaml")
    assert not study.subjects_known
    assert study.split.by == by
    assert split(read_cohort(study), study).folds == 5
