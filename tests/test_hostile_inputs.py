"""Study files and tables as nobody should write them: typed errors, short messages, within limits."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from casewise.cohort.cohort import read_cohort
from casewise.errors import MESSAGE, CasewiseError, CohortError, StudyError
from casewise.study.loading import read_study
from tests.hostile_inputs import LINES, prepare

# Lines that are read, or are YAML of another kind.
READ = ("extends: o", "<<: {", "name: 2", "seed: 1:", "---", "...", "title: |", "%YAML")
GOOD = "cohort: cohort.csv\nbackbones: [resnet18]\ntargets: {a: 0..4}\n"


def read(folder: Path, text: str | bytes) -> Any:
    (folder / "study.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_study(folder / "study.yaml")


def refusal(folder: Path, text: str | bytes) -> str:
    with pytest.raises(StudyError) as caught:
        read(folder, text)
    assert len(str(caught.value)) <= MESSAGE
    return str(caught.value)


class TestStudies:
    @pytest.mark.parametrize("line", [line for line in LINES if not line.startswith(READ)])
    def test_each_is_refused_shortly(self, tmp_path: Path, line: str) -> None:
        assert refusal(tmp_path, f"{GOOD}{line}\n")

    def test_dates_are_text(self, tmp_path: Path) -> None:
        study = read(tmp_path, GOOD + "name: 2024-13-45\nwhere: {day: 2024-01-31}\n")
        assert (study.name, study.where) == ("2024-13-45", {"day": "2024-01-31"})

    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("panels: {augmentation: [flip]}", "panels.augmentation"),
            ("outputs: {a: 1}", "outputs"),
            ("targets: {a: {classes: [x, y], range: 5}}", "targets.a"),
            ("targets: {a: {kind: ordinal, range: 0..999999999}}", "targets.a"),
            ("targets: {a: {kind: regression}}", "targets.a"),
        ],
    )
    def test_values_of_another_form_name_their_key(self, tmp_path: Path, text: str, key: str) -> None:
        base = GOOD.replace("targets: {a: 0..4}\n", "") if text.startswith("targets") else GOOD
        assert f"{key}: " in refusal(tmp_path, f"{base}{text}\n")

    def test_an_indicator_needs_no_range(self, tmp_path: Path) -> None:
        study = read(tmp_path, GOOD.replace("0..4", "{column: side, equals: left}"))
        assert study.targets["a"].range == (0.0, 1.0)

    def test_messages_cut_what_they_quote(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, GOOD + f"seed: {'x' * 5000}\n{'k' * 900}: 1\ntitle: [{'y, ' * 3000}]\n")
        assert all(word not in message for word in ("x" * 81, "k" * 81))
        assert "seed: " in message

    def test_control_characters_are_shown_as_escapes(self) -> None:
        assert str(StudyError("a\x1b[31m\ud800\nb")) == "a\\x1b[31m\\ud800\nb"

    @pytest.mark.parametrize("make", [lambda p: os.mkfifo(p), lambda p: p.mkdir(), lambda p: p.symlink_to("/dev/zero")])
    def test_only_regular_files_are_read(self, tmp_path: Path, make: Any) -> None:
        for name in ("study.yaml", "cohort.csv"):
            make(tmp_path / name)
        with pytest.raises(StudyError):
            read_study(tmp_path / "study.yaml")
        (tmp_path / "good.yaml").write_text(GOOD)
        with pytest.raises(CohortError):
            read_cohort(read_study(tmp_path / "good.yaml"))

    def test_large_files_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("casewise.study.loading.LARGEST", 100)
        monkeypatch.setattr("casewise.cohort.table_formats.LARGEST", 100)
        assert "at most 100" in refusal(tmp_path, GOOD + "#" * 100)
        (tmp_path / "cohort.csv").write_text("path,subject,a\n" + "a.jpg,A,1\n" * 20)
        with pytest.raises(CohortError, match="at most 100"):
            read_cohort(read(tmp_path, GOOD))

    @pytest.mark.parametrize("path", ["a\0b", "\ud800", "d" * 5000])
    def test_paths_that_cannot_be(self, tmp_path: Path, path: str) -> None:
        with pytest.raises(CasewiseError):
            read_study(tmp_path / path)
        with pytest.raises(CasewiseError):
            read_cohort(read(tmp_path, yaml.safe_dump({**yaml.safe_load(GOOD), "cohort": path})))

    def test_a_long_path_of_a_folder(self, tmp_path: Path) -> None:
        prepare(tmp_path)
        values = yaml.safe_load((tmp_path / "good.yaml").read_text())
        with pytest.raises(CohortError, match="root"):
            read_cohort(read(tmp_path, yaml.safe_dump({**values, "root": "9" * 5000})))
