"""The encoders of the baseline on features: their maps, weights, bundles, and what is said where weights are missing.

Their weights are random, in files as users place them.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import casewise
from casewise.console import Silent
from casewise.errors import RunError, StudyError, WeightsError
from casewise.files import checksum
from casewise.jobs import fitting
from casewise.modalities.dataset import FeatureData
from casewise.models.build_model import network_facts
from casewise.models.encoders import build_encoder, encoder_facts, load_encoders
from casewise.models.feature_maps import feature_maps, widest
from casewise.models.linear import FeatureSpec, bank_facts, bank_of, build_linear, candidates, keep_only
from casewise.pipeline.bundle import archive_run
from casewise.pipeline.read import encoder_lines
from casewise.run_folder import BundleFolder
from casewise.study.learners import encoders_of
from casewise.study.loading import read_study
from casewise.study.weight_files import file_name
from tests.test_baselines import write_study

HUB = "hf-hub:hospital/dino"
# a transformer with register tokens and patches of 14 pixels, as DINOv2 has them
CONFIG = {
    "architecture": "test_vit",
    "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 140, 140]},
    "model_args": {"patch_size": 14, "reg_tokens": 4, "img_size": 140},
}
SMALL = ["timm:test_vit", "timm:test_resnet"]


def weights_of(facts: dict[str, Any], folder: Path, side: int = 140) -> None:
    torch.manual_seed(5)
    body = build_encoder(facts, side).network.body
    state = {key: value.contiguous() for key, value in body.state_dict().items()}
    save_file(state, folder / f"{file_name(facts['name'])}.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights with three encoders."""
    weights = tmp_path_factory.mktemp("weights")
    (weights / "hospital_dino.json").write_text(json.dumps(CONFIG))
    for name in [*SMALL, HUB]:
        weights_of(encoder_facts(name, weights), weights)
    return weights


@pytest.mark.parametrize(
    ("name", "side", "read_at", "cells", "stages"),
    [
        ("timm:vit_small_patch14_reg4_dinov2", 100, 126, 9, False),
        ("timm:test_vit", 100, 128, 8, False),
        ("timm:swin_tiny_patch4_window7_224", 128, 224, 7, True),
        ("timm:test_convnext", 64, None, 4, True),
    ],
)
def test_tokens_of_blocks_are_maps(name: str, side: int, read_at: int | None, cells: int, stages: bool) -> None:
    """At a side that the patches divide, without class and register tokens, wherever the channels are."""
    encoder = build_encoder({"name": name}, side)
    assert encoder.side == read_at
    maps = encoder.block_maps()
    body: Any = encoder.network.body
    assert [entry.module for entry in maps] == [info["module"] for info in body.feature_info]
    assert [entry.channels for entry in maps] == [info["num_chs"] for info in body.feature_info]
    last = maps[-1].module
    with torch.no_grad():
        tokens = encoder.maps([last], torch.rand(1, 3, side, side))[last]
    assert tokens.shape == (1, maps[-1].channels, cells, cells)
    specs = [spec for spec in candidates([encoder], 0, side) if spec.source == "features"]
    assert {spec.cells for spec in specs if spec.summary == "grid" and spec.modules == (last,)} == {1, 3, 4}
    assert sum(spec.summary == "moments" for spec in specs) == 1
    named = {module for spec in specs for module in spec.modules}
    assert named <= set(encoder.blocks)
    assert (len(named) == 2) != stages


def test_tokens_are_where_their_patches_are(folder: Path) -> None:
    """A bright square changes its own cell of the map most, also if panels are resized to the patches."""
    encoder = build_encoder(encoder_facts(HUB, folder), 128)
    assert (encoder.side, encoder.network.mean.flatten().tolist()) == (126, pytest.approx([0.1, 0.2, 0.3]))
    panels = torch.zeros(2, 3, 128, 128)
    panels[1, :, 100:124, 4:28] = 1
    with torch.no_grad():
        maps = encoder.maps(["blocks.0"], panels)["blocks.0"]
    change = torch.nn.functional.adaptive_avg_pool2d((maps[1] - maps[0]).abs().mean(0, keepdim=True), 3)[0]
    assert int(change.argmax()) == 6
    # a head over a map reads blocks of transformers, and neither the hidden layers of their perceptrons nor attention
    body = build_encoder({"name": "timm:test_vit"}, 160).network.body
    assert widest(feature_maps(body, side=160), 16).module == "blocks.5"


def linear(folder: Path, names: list[str], side: int = 64) -> Any:
    facts = [encoder_facts(name, folder) for name in names]
    return build_linear("linear_features", 1, {"encoders": facts, "channels": 3, "specs": None}, {"side": side})


def test_candidates_of_all_encoders_stand_side_by_side(folder: Path) -> None:
    network = linear(folder, [*SMALL, HUB])
    origin = load_encoders(network.body, folder)
    assert origin.count(str(folder)) == 3
    specs = network.body.specs
    assert {spec.encoder for spec in specs if spec.source == "features"} == {*SMALL, HUB}
    assert len({spec.name for spec in specs}) == len(specs)
    panels = torch.rand(2, 3, 64, 64)
    features = network.features(panels)
    assert features.shape == (2, sum(network.body.widths))
    alone = linear(folder, [HUB])
    load_encoders(alone.body, folder)
    starts = np.cumsum([0, *network.body.widths])
    first = next(number for number, spec in enumerate(specs) if spec.encoder == HUB)
    own = sum(n for spec, n in zip(alone.body.specs, alone.body.widths, strict=True) if spec.source == "features")
    assert torch.equal(features[:, starts[first] :], alone.features(panels)[:, -own:])


def test_encoders_without_a_chosen_candidate_are_removed(folder: Path) -> None:
    network = linear(folder, [*SMALL, HUB])
    load_encoders(network.body, folder)
    panels = torch.rand(2, 3, 64, 64)
    before, chosen = network.features(panels), [spec for spec in network.body.specs if spec.encoder == HUB][:2]
    columns = keep_only(network, [FeatureSpec("statistics"), *chosen])
    assert torch.equal(network.features(panels), before[:, columns])
    assert [encoder.name for encoder in network.body.encoders] == [HUB]
    again = build_linear("linear_features", 1, json.loads(json.dumps(bank_facts(network))), {"side": 64})
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.features(panels), network.features(panels))


def study_file(place: Path, cohort: Path, folder: Path, encoders: str) -> Path:
    return write_study(place, cohort, encoders=encoders, weights="pretrained", weights_dir=str(folder))


def test_features_of_baselines_are_computed_once_for_equal_candidates_weights_and_pixels(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASEWISE_CACHE", str(tmp_path))
    computed: list[str] = []

    def compute(network: Any, data: Any) -> torch.Tensor:
        computed.append(network.body.encoders[0].name)
        return torch.zeros(len(data), 3)

    monkeypatch.setattr(fitting, "compute_features", compute)
    study = SimpleNamespace(model_dump=lambda mode: {}, modality_name="photographs")

    def features_of(learner: str, network: Any, pixels: float = 0.0) -> None:
        inputs = SimpleNamespace(store=SimpleNamespace(address=str(pixels)), study=study)
        planned: Any = SimpleNamespace(job=SimpleNamespace(model=learner), inputs=inputs)
        panels = FeatureData(torch.full((2, 1), pixels), torch.zeros(2, 1), ["a", "b"])
        fitting.feature_data(planned, network, SimpleNamespace(panels=panels, preprocessing={}))  # type: ignore[arg-type]

    network = linear(folder, [HUB])
    load_encoders(network.body, folder)
    for learner in ("linear_features", "kernel_features"):
        features_of(learner, network)
    assert computed == [HUB]
    features_of("linear_features", network, pixels=1.0)
    with torch.no_grad():
        next(network.body.encoders[0].network.body.parameters()).add_(1)
    features_of("linear_features", network)
    features_of("linear_features", linear(folder, [SMALL[0]]))
    assert computed == [*[HUB] * 3, SMALL[0]]


def offline(*args: Any, **kwargs: Any) -> None:
    raise OSError("Name or service not known")


@pytest.mark.parametrize("name", [HUB, "mobilenet_v2"])
def test_a_missing_download_names_each_way(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the encoder keeps no random weights in silence."""
    import huggingface_hub

    facts: dict[str, Any] = {"name": name, "architecture": "test_vit"} if name == HUB else {"name": name}
    network = build_linear("linear_features", 1, {"encoders": [facts], "channels": 3, "specs": None}, {"side": 64})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    cache = "TORCH_HOME" if name == "mobilenet_v2" else "HF_HOME"
    bank: Any = network.body
    with pytest.raises(WeightsError) as error:
        load_encoders(bank, tmp_path)
    for way in (f"{file_name(name)}.safetensors", str(tmp_path), "weights_dir", "connection", cache, "encoders: ["):
        assert way in str(error.value)
    if name == HUB:
        with pytest.raises(WeightsError, match=r"hospital_dino\.json"):
            encoder_facts(name, tmp_path)


def test_a_repository_is_read_from_the_hub(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    files = {"model.safetensors": folder / "hospital_dino.safetensors", "config.json": folder / "hospital_dino.json"}
    asked = set()

    def download(repository: str, name: str, *, revision: str | None) -> str:
        asked.add((repository, revision))
        return str(files[name])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    bank: Any = linear(tmp_path / "none", [f"{HUB}@v1"]).body
    assert "hospital_dino.safetensors" in load_encoders(bank, tmp_path / "none")
    body, weight = bank.encoders[0].network.body, "blocks.0.norm1.weight"
    assert torch.equal(body.state_dict()[weight], load_file(files["model.safetensors"])[weight])
    assert bank.encoders[0].facts["mean"] == pytest.approx([0.1, 0.2, 0.3])
    assert asked == {("hospital/dino", "v1")}


def test_foreign_files_are_refused(tmp_path: Path, chests: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "hospital_dino.safetensors").write_bytes((folder / "test_resnet.safetensors").read_bytes())
    study = read_study(study_file(tmp_path, chests, tmp_path, f"['{HUB}']"))
    with pytest.raises(WeightsError, match=r"hospital_dino\.json"):
        encoder_lines(study)
    (tmp_path / "hospital_dino.json").write_text(json.dumps({"architectures": ["Dinov2Model"]}))
    assert len(encoder_lines(study)) == 1
    with pytest.raises(WeightsError, match="format of timm"):
        encoder_facts(HUB, tmp_path)
    (tmp_path / "hospital_dino.json").write_text(json.dumps(CONFIG))
    with pytest.raises(WeightsError, match="does not belong"):
        load_encoders(linear(tmp_path, [HUB]).body, tmp_path)


def test_a_study_names_its_encoders(tmp_path: Path, chests: Path, folder: Path) -> None:
    study = read_study(study_file(tmp_path, chests, folder, "mobilenet_v2, timm:test_vit"))
    assert encoders_of(study) == ["mobilenet_v2", "timm:test_vit"]
    assert [str(folder) in line for line in encoder_lines(study)] == [False, True]
    default = study.model_copy(update={"encoders": []})
    encoders = network_facts(default, "linear_features")["bank"]["encoders"]
    assert [facts["name"] for facts in encoders] == encoders_of(default) == ["mobilenet_v2"]
    text = (tmp_path / "study.yaml").read_text().replace("backbones: []", "backbones: [cnn]")
    (tmp_path / "study.yaml").write_text(text + "\nbaselines: {off: none wanted}\n")
    with pytest.raises(StudyError, match="encoders"):
        read_study(tmp_path / "study.yaml")


@pytest.mark.parametrize(("flips", "views"), [("horizontal", [(), (3,)]), ("both", [(), (2,), (3,), (2, 3)])])
def test_maps_of_flipped_panels_are_flipped_back_and_averaged(
    folder: Path, flips: Any, views: list[tuple[int, ...]]
) -> None:
    specs = [
        FeatureSpec("features", (), (module,), "grid", cells, flips=each)
        for module, cells in (("layer1", 1), ("layer3", 2))
        for each in ("none", flips)
    ]
    network = build_linear(
        "linear_features",
        1,
        {"encoders": [encoder_facts("timm:test_resnet", folder)], "channels": 3, "specs": [s.as_json() for s in specs]},
        {"side": 140},
    )
    load_encoders(bank_of(network), folder)
    panels = torch.rand(2, 3, 140, 140, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        parts = [bank_of(network.eval()).parts(panels.flip(axes)) for axes in views]
    for plain, (_, mean, _, _) in zip(views, parts, strict=True):
        assert torch.allclose(mean, parts[0][1], atol=1e-5), plain
    back = [of[2].reshape(2, -1, 2, 2).flip(axes).flatten(1) for axes, of in zip(views, parts, strict=True)]
    assert torch.allclose(parts[0][1], torch.stack([of[0] for of in parts]).mean(0), atol=1e-5)
    assert torch.allclose(parts[0][3], torch.stack(back).mean(0), atol=1e-5)
    assert not torch.allclose(parts[0][3], parts[0][2], atol=1e-3)
    assert [FeatureSpec.of(spec.as_json()) for spec in specs] == specs


def test_all_models_of_a_run_share_the_file_of_an_encoder(tmp_path: Path, folder: Path, chests: Path) -> None:
    """And a file that was changed is noticed, and made again by the run."""
    study = study_file(tmp_path, chests, folder, f"[{SMALL[0]}]")
    first = casewise.run(study, tmp_path / "run")
    (file,) = (tmp_path / "run" / "encoders").iterdir()
    (shared,) = (tmp_path / "run" / "bundle" / "encoders").iterdir()
    assert file.name == shared.name == f"{checksum(file)}.safetensors"
    weights = list((tmp_path / "run" / "jobs").rglob("model.safetensors"))
    assert not any(name.startswith("body.encoder") for each in weights for name in load_file(each))
    predicted = casewise.load_bundle(tmp_path / "run").predict(chests, learner="all")
    archive = archive_run(tmp_path / "run", tmp_path / "model.zip", Silent())
    pd.testing.assert_frame_equal(casewise.load_bundle(archive).predict(chests, learner="all"), predicted)

    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.unlink()  # the bundle keeps the file that it shares
    file.write_bytes(content)
    assert casewise.load_bundle(tmp_path / "run").predict(chests, learner="all").equals(predicted)
    second = casewise.run(study, tmp_path / "run")
    assert checksum(file) == file.stem
    pd.testing.assert_frame_equal(second.predictions, first.predictions)
    shared.unlink()
    shared.write_bytes(content)
    with pytest.raises(RunError, match=shared.name):
        casewise.load_bundle(tmp_path / "run")


@pytest.mark.parametrize("stated", ["../../jobs/x", "0" * 64])
def test_an_encoder_that_a_bundle_does_not_have_is_refused(
    tmp_path: Path, folder: Path, chests: Path, stated: str
) -> None:
    run = casewise.run(study_file(tmp_path, chests, folder, f"[{SMALL[0]}]"), tmp_path / "run")
    bundle = BundleFolder(run.folder / "bundle")
    member = bundle.member("linear_features", 1)
    facts = json.loads(member.facts.path.read_text())
    facts["network"]["bank"]["encoders"][0]["sha256"] = stated
    member.facts.path.unlink()
    member.facts.path.write_text(json.dumps(facts))
    bundle.manifest_path.unlink()
    bundle.write_manifest("1.0.0", "a stranger")
    with pytest.raises(RunError, match=r"no checksum|states .*encoders/0000"):
        casewise.load_bundle(bundle.path)
