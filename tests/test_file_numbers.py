"""Folds of neighbouring file numbers, where subjects are not known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casewise.audit.subjects import streak_findings
from casewise.cohort.cohort import Cohort, read_cohort
from casewise.errors import SplitError
from casewise.pipeline.read import number_lines
from casewise.splits.assignment import needs_of_folds
from casewise.splits.file_numbers import MOST_OF_PERSON, assign_runs, file_runs, series_of
from casewise.splits.grouped import split
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
    values: dict[str, Any] = {"name": "t", "cohort": folder / "cohort.csv", "backbones": ["resnet18"]}
    values |= {"targets": {"label": {"classes": LABELS}}, "subjects_known": False, "split": settings}
    study = Study(**values, **stated)
    return read_cohort(study), study


def streaks(count: int, length: int) -> list[str]:
    return [LABELS[(row // length) % 2] for row in range(count)]


def borders(sides: list[int]) -> int:
    return int((np.diff(sides) != 0).sum())


def test_neighbouring_numbers_are_in_one_fold(tmp_path: Path) -> None:
    cohort, study = cohort_of(tmp_path, [f"eye_{n}.png" for n in range(100)], streaks(100, 4))
    splits = split(cohort, study)
    sides = [splits.side[f"x{n}"] for n in range(100)]
    assert (borders(sides), np.bincount(sides).tolist()) == (4, [20] * 5)
    assert (splits.record["assignment"]["folds"]["runs"], len(number_lines(splits))) == (5, 1)
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


@pytest.mark.parametrize("name", ["class{}/{:03}.jpg", "{}_{:03}.jpg"])
def test_a_class_named_by_a_number_is_no_person(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [(number, file) for number in range(10) for file in range(30)]
    monkeypatch.setattr("tests.test_file_numbers.LABELS", [f"c{number}" for number in range(10)])
    labels = [f"c{number}" for number, _ in files]
    cohort, study = cohort_of(tmp_path, [name.format(*file) for file in files], labels)
    splits = split(cohort, study)
    assert splits.record["classes_lacking"] == []
    sides = np.array([splits.side[f"x{row}"] for row in range(len(files))]).reshape(10, 30)
    assert all(np.bincount(row, minlength=5).tolist() == [6] * 5 for row in sides)


PAIRS = [("{0:03}_left", "{0:03}_right"), ("left/{0}", "right/{0}"), ("100x/{0}", "400x/{0}")]
PAIRS += [("Normal_100x_{0}", "Normal_400x_{0}"), ("p{0}_i1", "p{0}_i2")]


@pytest.mark.parametrize("pair", PAIRS)
def test_files_with_the_same_number_are_on_one_side(tmp_path: Path, pair: tuple[str, str]) -> None:
    # a class of eight persons far apart needs many short runs
    labels = ["b" if person % 13 == 0 else "a" for person in range(100)]
    names = [f"{name.format(person)}.png" for person in range(100) for name in pair]
    cohort, study = cohort_of(tmp_path, names, [str(label) for label in np.repeat(labels, 2)], split={"test": 0.1})
    splits = split(cohort, study)
    side = np.array([splits.side[f"x{row}"] for row in range(200)])
    assert (side[::2] == side[1::2]).all()
    assert set(range(5)) <= set(side.tolist())
    assert borders(side[::2].tolist()) < 60


def sides_of(paths: list[str], labels: Sequence[str] | np.ndarray, folds: int = 5) -> np.ndarray:
    records = np.array([[label == known for known in sorted(set(labels))] for label in labels])
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


def test_a_test_set_is_of_neighbours_too(tmp_path: Path) -> None:
    cohort, study = cohort_of(tmp_path, [f"{n}.png" for n in range(100)], streaks(100, 2), split={"test": 0.1})
    splits = split(cohort, study)
    tested = [n for n in range(100) if splits.side[f"x{n}"] == -1]
    assert (len(tested), np.diff(tested).tolist()) == (10, [1] * 9)


def test_a_given_test_set_leaves_the_others_to_runs(tmp_path: Path) -> None:
    names, labels = [f"{n}.png" for n in range(100)], streaks(100, 4)
    cohort, study = cohort_of(tmp_path, names, labels, split={"column": "official"})
    splits = split(cohort, study)
    sides = [side for n in range(100) if (side := splits.side[f"x{n}"]) >= 0]
    assert (len(sides), borders(sides)) == (95, 4)
    cohort, study = cohort_of(tmp_path, names, labels, split={"column": "fold"})
    with pytest.raises(SplitError):
        split(cohort, study)


# Class folders with one or two long series of numbers, names of few files, and some without a number.


def test_cuts_are_at_gaps_in_the_numbers() -> None:
    numbers = [*range(1, 17), *range(50, 74), *range(100, 120)]
    run, _ = file_runs([f"{n}.png" for n in numbers], np.zeros((60, 0), bool), 3)
    assert [run[:16].tolist(), run[16:40].tolist(), run[40:].tolist()] == [[0] * 16, [1] * 24, [2] * 20]
    labels = np.array(["a"] * 18 + ["b"] * 22)[:, None] == LABELS
    run, _ = file_runs([f"{n}.png" for n in range(40)], labels, 2)
    assert run.tolist() == [0] * 18 + [1] * 22


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_classes_that_are_numbered_from_the_start_are_cut_each_by_itself(share: float) -> None:
    random, counts = np.random.default_rng(0), {"benign": 400, "malignant": 200, "normal": 120}
    names = [
        f"{name}/{name} ({n}).png" for name, count in counts.items() for n in range(count) if random.random() < share
    ]
    classes = np.array([name.partition("/")[0] for name in names])
    side = sides_of(names, classes, 3)
    for name in counts:
        of_class = np.bincount(side[classes == name], minlength=3)
        assert of_class.min() > 0.6 * of_class.mean()


@pytest.mark.parametrize("present", [1.0, 0.6])
def test_both_images_of_a_person_stay_together_where_they_are_the_classes(present: float) -> None:
    random = np.random.default_rng(1)
    pairs = [(f"{n:03}_before.png", f"{n:03}_after.png") for n in range(90)]
    pairs = [pair if random.random() < present else pair[:1] for pair in pairs]
    names = [path for pair in pairs for path in pair]
    sides = sides_of(names, ["before" if "before" in path else "after" for path in names], 3)
    side = dict(zip(names, sides.tolist(), strict=True))
    assert all(len({side[path] for path in pair}) == 1 for pair in pairs)


@st.composite
def numbered_files(draw: st.DrawFn) -> list[str]:
    lengths = draw(st.lists(st.integers(1, 60), min_size=1, max_size=12))
    names = [f"{chr(97 + s % 3)}/{chr(97 + s) * 2}{s // 6 * '_'}" for s in range(len(lengths))]
    step = draw(st.integers(1, 3))
    return [f"{name}{n * step + n // 7}.png" for name, count in zip(names, lengths, strict=True) for n in range(count)]


@settings(max_examples=60, deadline=None)
@given(numbered_files(), st.integers(2, 5), st.sampled_from([1, 2, 4]), st.randoms(use_true_random=False))
def test_runs_are_contiguous_limited_and_of_any_order(paths: list[str], sides: int, factor: int, random: Any) -> None:
    holders = np.array([[path[0] == folder for folder in "abc"] for path in paths])
    run, units = file_runs(paths, holders, sides, factor)
    assert sorted(set(run.tolist())) == list(range(int(run.max()) + 1))  # every file has one run
    series: dict[str, list[int]] = {}
    for row, path in enumerate(paths):
        series.setdefault(series_of(path), []).append(run[row])
    assert all(borders(own) == len(set(own)) - 1 for own in series.values())  # contiguous: numbers rise within a series
    assert np.bincount(run).max() <= 1.5 * len(paths) / (sides * factor) + max(MOST_OF_PERSON, len(paths) / sides)
    assert int(run.max()) < units <= len(paths)
    order = random.sample(range(len(paths)), len(paths))
    assert (file_runs([paths[row] for row in order], holders[order], sides, factor)[0] == run[order]).all()


def test_streaks_are_reported_where_folds_are_random(tmp_path: Path) -> None:
    names = [f"IDRiD_{n:03}.jpg" for n in range(120)]
    cohort, study = cohort_of(tmp_path, names, streaks(120, 5), split={"by": "subject"})
    (finding,), _ = streak_findings(study, cohort)
    assert (finding.id, finding.level) == ("label-streaks", "warning")
    assert finding.figures["agreement"] == pytest.approx(96 / 119)
    assert (finding.figures["expected"], finding.figures["p"]) == (pytest.approx(0.5, abs=0.02), 0.001)
    assert "by: number" in finding.remedy
    assert streak_findings(study, cohort)[0][0].figures == finding.figures
    by_number = study.model_copy(update={"split": study.split.model_copy(update={"by": "number"})})
    assert streak_findings(by_number, cohort) == ([], [])
    assert streak_findings(study.model_copy(update={"subjects_known": True}), cohort) == ([], [])


def streaks_of(folder: Path, names: list[str], labels: list[str]) -> tuple[list[float], list[str]]:
    """The p-value of each finding, and what is not tested."""
    cohort, study = cohort_of(folder, names, labels, split={"by": "subject"})
    findings, not_tested = streak_findings(study, cohort)
    return [finding.figures["p"] for finding in findings], not_tested


def test_folders_of_classes_are_tested_where_they_share_a_numbering(tmp_path: Path) -> None:
    labels = streaks(120, 4)
    shared = [f"{label}/{n}.jpg" for n, label in enumerate(labels)]
    assert streaks_of(tmp_path, shared, labels) == ([0.001], [])
    # eight names without a number have no neighbours
    assert streaks_of(tmp_path, [*shared, *(f"a/{8 * letter}.jpg" for letter in "stuvwxyz")], [*labels, *"aaaaaaaa"])[0]
    each = [f"{label}/{n}.jpg" for label in LABELS for n in range(40)]
    one_by_one = [f"{label}/{n}.jpg" for n, label in enumerate(streaks(120, 30))]
    for names in (each, one_by_one):
        expected: tuple[list[float], list[str]] = ([], ["label from neighbouring file numbers"])
        assert streaks_of(tmp_path, names, [name[0] for name in names]) == expected


def test_no_streaks_are_found_in_numbers_without_signal(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    alarms = 0
    for _ in range(40):
        labels = random.choice(LABELS, 60, p=[0.7, 0.3]).tolist()
        p_values, not_tested = streaks_of(tmp_path, [f"{label}/{n}.jpg" for n, label in enumerate(labels)], labels)
        alarms += len(p_values)
        assert not_tested == []
    assert alarms <= 2  # 0.4 are expected at p <= 0.01
