"""`validate`: every image is opened, weights are looked for, and the classes of every fold are counted."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from casewise.console import Silent
from casewise.errors import ImageError, WeightsError
from casewise.modalities.store.store_builder import PROBLEMS
from casewise.pipeline.read import read, split, validate, weight_lines
from casewise.pipeline.train import missing_weights, weights
from casewise.run import run
from casewise.run_folder import RunFolder
from casewise.study.loading import build_study
from casewise.study.schema import Study
from casewise.study.split import Split
from casewise.study.weight_files import FirstWeights

CASES = 24


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two classes on 24 subjects, one image each."""
    monkeypatch.chdir(tmp_path)
    rng, rows = np.random.default_rng(0), []
    for number in range(CASES):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        rows.append({"path": f"{number}.png", "subject": f"s{number}", "label": "no" if number % 3 else "yes"})
    pd.DataFrame(rows).to_csv(tmp_path / "cohort.csv", index=False)
    values = {"name": "v", "cohort": tmp_path / "cohort.csv", "targets": {"label": {"classes": ["no", "yes"]}}}
    return Study.model_validate(values | {"backbones": ["resnet18"], "weights": "random", "split": {"folds": 3}})


class Bars(Silent):
    """Remembers the progress and the lines of each step."""

    def __init__(self) -> None:
        self.steps: dict[str, list[tuple[float, float]]] = {}
        self.lines: list[tuple[str, str]] = []

    def line(self, step: str, text: str) -> None:
        self.lines.append((step, text))

    def bar(self, step: str):  # type: ignore[no-untyped-def]
        from contextlib import nullcontext

        calls = self.steps.setdefault(step, [])
        return nullcontext(lambda done, total, text="": calls.append((done, total)))


def test_damaged_images_are_listed_in_order(study: Study, tmp_path: Path) -> None:
    for number in range(4, 7):
        path = tmp_path / f"{number}.png"
        path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ImageError) as caught:
        validate(study, Silent())
    lines = str(caught.value).splitlines()
    assert [line.split(".png")[0].split("/")[-1] for line in lines[1:]] == ["4", "5", "6"]
    assert not (tmp_path / PROBLEMS).exists()


def test_weights_are_looked_for(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("CASEWISE_WEIGHTS", raising=False)
    missing = FirstWeights("shufflenet_v2_x0_5").clause()
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "shufflenetv2_x0.5-f707e7126e.pth").touch()
    cached = FirstWeights("shufflenet_v2_x0_5").clause()
    save_file({"weight": torch.zeros(1)}, tmp_path / "shufflenet_v2_x0_5.safetensors")
    in_folder = FirstWeights("shufflenet_v2_x0_5", folder=tmp_path).clause()
    assert len({missing, cached, in_folder}) == 3
    assert str(tmp_path) in in_folder
    with pytest.raises(WeightsError):
        weight_lines(study.model_copy(update={"weights": str(tmp_path / "none.safetensors")}))
    with pytest.raises(WeightsError):
        validate(study.model_copy(update={"weights": f"bundle:{tmp_path}/no-run"}), Silent())
    assert len(weight_lines(study.model_copy(update={"backbones": ["resnet18", "resnet34", "cnn"]}))) == 1


def test_damaged_weights_stop_a_run_before_it_prepares_images(study: Study, tmp_path: Path) -> None:
    file = tmp_path / "half.safetensors"
    save_file({"weight": torch.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[:2000])
    damaged = study.model_copy(update={"weights": str(file)})
    for check in (lambda: weight_lines(damaged), lambda: run(damaged, tmp_path / "run")):
        with pytest.raises(WeightsError, match=r"half\.safetensors, which .* needs, is damaged"):
            check()
    assert not RunFolder(tmp_path / "run").audit.exists()


def test_trained_networks_need_no_weights_again(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("CASEWISE_WEIGHTS", raising=False)
    pretrained, folder = study.model_copy(update={"weights": "pretrained"}), RunFolder(tmp_path / "run")
    weights_file = folder.job("resnet18", 0).weights.path
    weights_file.parent.mkdir(parents=True)
    weights_file.write_bytes(b"")
    assert missing_weights(pretrained)[0].name == "resnet18"
    show = Bars()
    weights(pretrained, folder, show)
    assert show.lines == []
    with pytest.raises(WeightsError, match="none"):
        weights(pretrained.model_copy(update={"weights": str(tmp_path / "none.safetensors")}), folder, show)


def test_a_fold_without_a_class_is_a_warning_in_validate_and_in_the_log(study: Study, tmp_path: Path) -> None:
    table = pd.read_csv(tmp_path / "cohort.csv")
    table["label"] = ["yes" if number < 2 else "no" for number in range(CASES)]
    table.to_csv(tmp_path / "cohort.csv", index=False)
    two = study.model_copy(update={"split": Split(folds=2, test=0)})
    assert not any("WARNING" in line or "several" in line for line in validate(two, Silent()))
    three = study.model_copy(update={"split": Split(folds=3, test=0)})
    (line,) = [line for line in validate(three, Silent()) if line.startswith("WARNING")]
    assert all(words in line for words in ("label", "no yes", "2 subjects"))
    show = Bars()
    split(three, read(three, None, Silent()), RunFolder(tmp_path / "run"), show)
    assert sum("WARNING" in text and "no yes" in text for _, text in show.lines) == 1


def test_classes_are_counted_on_each_side_in_a_table(tmp_path: Path) -> None:
    subjects = [f"P{number}" for number in range(12)]
    rows = pd.DataFrame({"subject": subjects + subjects[:2], "label": ["no", "yes"] * 6 + ["yes", "no"]})
    rows["path"], rows["visit"] = [f"{number}.png" for number in range(14)], [1] * 12 + [2] * 2
    rows.to_csv(tmp_path / "cohort.csv", index=False)
    for number in range(14):
        Image.fromarray(np.full((8, 8), 10 * number, np.uint8)).save(tmp_path / f"{number}.png")
    values = {"name": "v", "cohort": tmp_path / "cohort.csv", "targets": {"label": {"classes": ["no", "yes"]}}}
    values |= {"weights": "random", "synthetic": True, "split": {"test": 0, "folds": 2, "restarts": 5}}
    lines = validate(build_study(values, source="the test's study", folder=tmp_path), Silent())
    start = next(n for n, line in enumerate(lines) if line.startswith("classes"))
    head, no, yes, several = (line.split() for line in lines[start + 1 : start + 5])
    assert lines[start] == "classes    label: subjects / cases of each class"
    assert head == ["fold", "1", "fold", "2"]
    assert (no[0], yes[0], several[:2]) == ("no", "yes", ["in", "several"])
    assert [sum(int(each) for each in row[1::3]) for row in (no, yes)] == [7, 7]  # subjects; two are in both classes
    assert sum(map(int, several[2:])) == 2
