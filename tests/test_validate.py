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
from casewise.study.schema import Study
from casewise.study.split import Split
from casewise.study.weight_files import origin_of_weights

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
    missing = origin_of_weights("shufflenet_v2_x0_5", "pretrained", None)
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "shufflenetv2_x0.5-f707e7126e.pth").touch()
    cached = origin_of_weights("shufflenet_v2_x0_5", "pretrained", None)
    save_file({"weight": torch.zeros(1)}, tmp_path / "shufflenet_v2_x0_5.safetensors")
    in_folder = origin_of_weights("shufflenet_v2_x0_5", "pretrained", tmp_path)
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


def test_missing_weights_stop_a_run_before_all(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def offline(*_: object, **__: object) -> None:
        tried.append(len(tried))
        raise OSError("Name or service not known")

    tried: list[int] = []
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("CASEWISE_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(timm, "create_model", offline)
    changes = {"weights": "pretrained", "backbones": ["resnet18", "resnet34"], "encoders": ["timm:test_vit"]}
    pretrained = Study.model_validate({**study.model_dump(exclude_unset=True), **changes})
    assert missing_weights(pretrained) == (["resnet18", "resnet34"], ["timm:test_vit"])
    assert any("NOT on this computer" in line for line in weight_lines(pretrained))
    with pytest.raises(WeightsError) as error:
        run(pretrained, tmp_path / "run")
    for way in ("resnet18.safetensors", "CASEWISE_WEIGHTS", "bundle:PATH", "weights: random", "resnet34", "test_vit"):
        assert way in str(error.value)
    assert tried == [0]
    folder = RunFolder(tmp_path / "run")
    assert not folder.audit.exists()
    assert not folder.images(None).of("tiles").exists()


def test_trained_networks_need_no_weights_again(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("CASEWISE_WEIGHTS", raising=False)
    pretrained, folder = study.model_copy(update={"weights": "pretrained"}), RunFolder(tmp_path / "run")
    weights_file = folder.job("resnet18", 0).weights.path
    weights_file.parent.mkdir(parents=True)
    weights_file.write_bytes(b"")
    assert missing_weights(pretrained)[0] == ["resnet18"]
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


@pytest.mark.parametrize("key", ["images.lesion", "images.mask", "audit.mask"])
def test_masks_of_every_use_are_checked(study: Study, tmp_path: Path, key: str) -> None:
    labels = np.zeros((40, 50), np.uint8)
    labels[5:20, 5:20], labels[25:35, 20:40] = 1, 2
    Image.fromarray(labels).save(tmp_path / "mask.png")
    pd.read_csv(tmp_path / "cohort.csv").assign(area="mask.png").to_csv(tmp_path / "cohort.csv", index=False)
    section, name = key.split(".")

    def masked(**images: object) -> Study:
        settings = {"images": {"size": 32, **images}}
        settings[section] = settings.get(section, {}) | {name: "area"}
        settings |= {"backbones": ["unet"]} if key == "images.mask" else {}
        return Study.model_validate({**study.model_dump(exclude_unset=True), **settings})

    validate(masked(mask_labels=[1, 2]), Silent())
    with pytest.raises(ImageError, match=r"mask_labels: no label 7 .* 1, 2 occur"):
        validate(masked(mask_labels=[7]), Silent())
    Image.fromarray(labels[:30]).save(tmp_path / "mask.png")
    with pytest.raises(ImageError, match=rf"{key}: 24 of 24 masks"):
        validate(masked(), Silent())
