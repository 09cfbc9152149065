"""Where first weights come from: what a run records and states, and images that a bundle was trained on."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file

from casewise.audit.fingerprints import joined, read_fingerprints
from casewise.errors import SplitError, WeightsError
from casewise.inference.model import load_bundle
from casewise.models.backbones import build_network
from casewise.pipeline.read import origin_lines
from casewise.plugins.phantoms.chest import make_chest
from casewise.report.context import read_context
from casewise.report.first_screen import screen
from casewise.run import run
from casewise.run_folder import BundleFolder, JobFolder, RunFolder
from casewise.study.sources import Origin
from casewise.study.weight_origins import (
    as_records,
    origins_of,
    origins_sentence,
    recorded_origins,
    tensors_sha256,
    unknown_origin,
)
from tests.chest_study import FAST, chest_study

LEARNER = "shufflenet_v2_x0_5"
CLEAR = Origin("published", "resnet18", images="ImageNet")


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with weights of nobody knows whom."""
    network = build_network(LEARNER, 1)
    file = tmp_path_factory.mktemp("weights") / f"{LEARNER}.safetensors"
    save_file({name: values.numpy() for name, values in network.body.state_dict().items()}, file)
    return file


@pytest.mark.parametrize(
    ("origin", "apart"),
    [
        (Origin("random"), True),
        (CLEAR, True),
        (Origin("published", "hf-hub:hospital/dino"), False),
        (Origin("bundle", "cnn/fold1", fingerprints=True), True),
        (Origin("bundle", "cnn/fold1"), False),
        (Origin("file", "a.pth"), False),
        (Origin("unrecorded"), False),
    ],
)
def test_one_doubtful_origin_makes_a_mixture_doubtful(origin: Origin, apart: bool) -> None:
    assert origin.is_apart == apart
    assert unknown_origin([CLEAR, origin]) != apart
    assert recorded_origins({"origins": json.loads(json.dumps(as_records([CLEAR, origin])))}) == [CLEAR, origin]
    sentence = origins_sentence([origin, CLEAR], "subject")
    assert sentence.count(".") >= 1
    assert origin.name in sentence
    assert "resnet18" in sentence


@pytest.mark.parametrize(
    ("clause", "kinds"),
    [
        ("random, as the study states", ["random"]),
        ("torchvision ResNet18_Weights.IMAGENET1K_V1", ["published"]),
        ("none: a linear model on pixels", []),
        ("bundle /data/fold1, itself from random, as the study states", ["unrecorded"]),
        ("mobilenet_v2, frozen: file /data/mobilenet_v2.safetensors", ["unrecorded"]),
        ("", ["unrecorded"]),
    ],
)
def test_records_of_casewise_1_0(clause: str, kinds: list[str]) -> None:
    assert [origin.kind for origin in recorded_origins({"weights": clause})] == kinds


def test_every_way_to_state_weights_has_an_origin(
    chests: Path, body: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASEWISE_WEIGHTS", str(body.parent))

    def origins(**settings: Any) -> list[Origin]:
        return origins_of(chest_study(chests, backbones=[LEARNER], **settings), LEARNER)

    digest = tensors_sha256(body)
    unknown = [Origin("file", body.name, digest)]
    for weights in (str(body), str(body.parent), "pretrained"):
        assert origins(weights=weights) == unknown
    monkeypatch.delenv("CASEWISE_WEIGHTS")
    assert origins(weights="pretrained", weights_dir=body.parent) == unknown
    assert origins(weights="random") == [Origin("random")]
    downloaded = origins(weights="pretrained")
    assert [(each.kind, each.images) for each in downloaded] == [("published", "ImageNet")]
    assert origins_of(chest_study(chests, backbones=["cnn"], weights="pretrained"), "cnn") == [Origin("random")]
    # a name that says "published" proves nothing
    renamed = tmp_path / "shufflenetv2_x0.5-f707e7126e.pth"
    torch.save({"a": torch.zeros(1)}, renamed)
    assert [each.kind for each in origins(weights=str(renamed))] == ["file"]


def test_an_exchanged_file_in_the_cache_is_refused(
    chests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("CASEWISE_WEIGHTS", raising=False)
    study = chest_study(chests, backbones=[LEARNER], weights="pretrained")
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    # other weights of the same network, which are not used
    torch.save({"a": torch.zeros(1)}, checkpoints / "shufflenetv2_x0.5-00000000.pth")
    assert [each.kind for each in origins_of(study, LEARNER)] == ["published"]
    exchanged = checkpoints / "shufflenetv2_x0.5-f707e7126e.pth"
    torch.save({"a": torch.zeros(1)}, exchanged)
    with pytest.raises(WeightsError, match=f"{exchanged.name} was changed"):
        origin_lines(study)
    encoders = chest_study(chests, backbones=["cnn"], weights="random", encoders=[LEARNER], baselines={"off": ""})
    with pytest.raises(WeightsError, match=f"{exchanged.name} was changed"):
        origin_lines(encoders)


def test_a_changed_file_in_the_cache_of_the_hub_is_refused(
    chests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    (repository / "blobs").mkdir(parents=True)
    (repository / "snapshots" / "a").mkdir(parents=True)
    (repository / "blobs" / ("0" * 64)).write_bytes(b"trained on these patients")
    (repository / "snapshots" / "a" / "model.safetensors").symlink_to(repository / "blobs" / ("0" * 64))
    study = chest_study(chests, backbones=["test_resnet"], weights="pretrained")
    with pytest.raises(WeightsError, match="SHA-256 differs"):
        origins_of(study, "test_resnet")


# --------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def pretrained(chests: Path, body: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose network begins with a file of unknown origin."""
    study = chest_study(chests, **FAST, backbones=[LEARNER], weights=str(body))
    return RunFolder(run(study, tmp_path_factory.mktemp("pretrained") / "run").folder)


def test_a_file_of_unknown_origin_is_on_the_first_screen(pretrained: RunFolder, body: Path) -> None:
    shown = screen(read_context(pretrained.path))
    (flag,) = (each for each in shown.flags if each.id == "first_weights")
    assert body.name in flag.text
    assert str(body.parent) not in flag.text
    assert "models that were not trained on" not in shown.evaluated
    bundle = BundleFolder(pretrained.path / "bundle")
    assert bundle.provenance.read()["networks"][0]["origins"][0]["kind"] == "file"
    assert body.name in bundle.about()["audited"]
    assert "unknown origin" in bundle.card.read()


def renamed(chests: Path, folder: Path, alter: Any = None, rows: slice = slice(None)) -> Path:
    """The cohort under new pseudonyms, with copies of its images."""
    table = pd.read_csv(chests).iloc[rows].reset_index(drop=True)
    names = {name: f"new{number}" for number, name in enumerate(table["subject"].unique())}
    folder.mkdir(exist_ok=True)
    for number, path in enumerate(table["image"] if "image" in table else table["path"]):
        picture = cv2.imread(str(chests.parent / path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(folder / f"{number}.png"), alter(picture) if alter else picture)
    table["image" if "image" in table else "path"] = [f"{number}.png" for number in range(len(table))]
    table["subject"] = table["subject"].map(names)
    table.to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


def _jpeg(picture: np.ndarray) -> np.ndarray:
    small = cv2.resize(picture, None, fx=1.5, fy=1.5)
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], -1))


@pytest.mark.parametrize(
    "alter", [None, _jpeg, lambda picture: picture[:, ::-1], np.rot90], ids=["same", "jpeg", "flip", "turn"]
)
def test_new_pseudonyms_do_not_hide_the_images_of_a_bundle(
    pretrained: RunFolder, chests: Path, tmp_path: Path, alter: Any
) -> None:
    member = BundleFolder(pretrained.path / "bundle").member(LEARNER, 1)
    study = chest_study(
        renamed(chests, tmp_path / "new", alter), **FAST, backbones=[LEARNER], weights=f"bundle:{member.path}"
    )
    with pytest.raises(SplitError, match=r"fingerprints.*subjects of this study"):
        run(study, tmp_path / "run")


def test_predict_names_pictures_of_the_training_under_other_names(
    pretrained: RunFolder, chests: Path, others: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_bundle(pretrained.path / "bundle")
    table = renamed(chests, tmp_path / "new", _jpeg, slice(3))
    model.predict(table)
    assert "Pictures of the training, by their fingerprints: 3 images (0.png, 1.png, 2.png)." in caplog.text
    assert "Names of the training" not in caplog.text
    caplog.clear()
    for chunk in model.predict_in_chunks(table.parent, size=1):
        assert not chunk.table["problem"].any()
    assert caplog.text.count("Pictures of the training, by their fingerprints: 3 images") == 1
    caplog.clear()
    model.predict(others)
    assert "Pictures of the training" not in caplog.text


def test_fingerprints_of_a_network_are_of_its_own_subjects(pretrained: RunFolder) -> None:
    facts = [pretrained.job(LEARNER, fold).facts.read() for fold in (0, 1)]
    prints = [read_fingerprints(pretrained.job(LEARNER, fold).fingerprints) for fold in (0, 1)]
    assert all(len(each["whole"]) <= 2 * len(fact["subjects"]) for each, fact in zip(prints, facts, strict=True))
    both = joined(prints)
    assert len(both["whole"]) > max(len(each["whole"]) for each in prints)
    assert set(prints[0]) == {"whole", "inset"}


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of other people."""
    table = make_chest(tmp_path_factory.mktemp("others"), subjects=24, size=(64, 64), seed=77)
    rows = pd.read_csv(table)
    rows.assign(subject="z" + rows["subject"].astype(str)).to_csv(table, index=False)
    return table


@pytest.fixture(scope="module")
def chained(pretrained: RunFolder, others: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on other people whose network begins with a network of the first run."""
    member = BundleFolder(pretrained.path / "bundle").member(LEARNER, 1)
    study = chest_study(others, **FAST, backbones=[LEARNER], weights=f"bundle:{member.path}")
    return RunFolder(run(study, tmp_path_factory.mktemp("chained") / "run").folder)


def test_a_bundle_carries_its_own_origin_and_images(
    pretrained: RunFolder, chained: RunFolder, chests: Path, body: Path, tmp_path: Path
) -> None:
    first, second = pretrained.job(LEARNER, 0), chained.job(LEARNER, 0)
    assert [(each["kind"], each["fingerprints"]) for each in second.record.read()["origins"]] == [
        ("bundle", True),
        ("file", False),
    ]
    assert body.name in " ".join(each.text for each in screen(read_context(chained.path)).flags)
    prints = [{tuple(row) for row in read_fingerprints(job.fingerprints)["whole"]} for job in (first, second)]
    assert prints[0] < prints[1]
    # the images of the first run are found through the second
    study = chest_study(renamed(chests, tmp_path / "new"), **FAST, backbones=[LEARNER], weights=f"bundle:{second.path}")
    with pytest.raises(SplitError, match="fingerprints"):
        run(study, tmp_path / "run")


def test_a_bundle_of_casewise_1_0_is_compared_by_names_and_says_so(
    pretrained: RunFolder, others: Path, tmp_path: Path
) -> None:
    folder = JobFolder(tmp_path / "fold1")
    folder.path.mkdir()
    source = BundleFolder(pretrained.path / "bundle").member(LEARNER, 1)
    folder.weights.path.write_bytes(source.weights.path.read_bytes())
    facts = {name: value for name, value in source.facts.read().items() if name != "origins"}
    folder.facts.path.write_text(json.dumps(facts))
    study = chest_study(others, **FAST, backbones=[LEARNER], weights=f"bundle:{folder.path}")
    assert [each.kind for each in origins_of(study, LEARNER)] == ["bundle", "unrecorded"]
    (line,) = origin_lines(study)
    assert line.startswith("WARNING")
    assert "without fingerprints, compared by subject names only" in line


def test_an_external_cohort_with_images_of_the_first_weights_is_refused(
    pretrained: RunFolder, chests: Path, others: Path, tmp_path: Path
) -> None:
    member = BundleFolder(pretrained.path / "bundle").member(LEARNER, 1)
    external = {"cohort": renamed(chests, tmp_path / "new", _jpeg), "name": "elsewhere"}
    study = chest_study(others, **FAST, backbones=[LEARNER], weights=f"bundle:{member.path}", external=external)
    with pytest.raises(SplitError, match=r"fingerprints.*external cohort.*subject: \[new"):
        run(study, tmp_path / "run")
