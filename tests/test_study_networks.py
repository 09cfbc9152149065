"""Which networks a study trains: backbones, fusions, weights by backbone, and what tells them apart on disk."""

from pathlib import Path
from typing import Any

import pytest

from casewise.errors import StudyError
from casewise.inference.run_members import job_fingerprint
from casewise.models.backbones import build_network
from casewise.study.loading import read_study
from casewise.study.schema import Study

pytestmark = pytest.mark.plugins("volumes")
TABLE = """
cohort: cohort.csv
volumes: {{sequences: [T1, T2], fusion: {fusion}}}
panels: {{by: case, grid: 3x3}}
targets: {{grade: [normal, high]}}
backbones: {backbones}
weights: {weights}
"""


def stated(folder: Path, backbones: str, *, fusion: str = "[early]", weights: Any = "random") -> Study:
    path = folder / "study.yaml"
    path.write_text(TABLE.format(backbones=backbones, fusion=fusion, weights=weights))
    return read_study(path)


def test_a_backbone_with_a_fusion_of_its_own_stands_beside_the_others(tmp_path: Path) -> None:
    study = stated(tmp_path, "[alexnet, resnet18, resnet18@late, resnet18@T1]")
    assert study.networks == ["alexnet@early", "resnet18@early", "resnet18@late", "resnet18@T1"]
    assert [study.fusion_of(name) for name in study.networks] == ["early", "early", "late", "T1"]
    assert study.network_noun == "pairing"


def test_one_fusion_alone_is_not_in_the_names_but_known(tmp_path: Path) -> None:
    study = stated(tmp_path, "[resnet18@T2, alexnet@T2]")
    assert study.networks == ["resnet18", "alexnet"]
    assert [study.fusion_of(name) for name in study.networks] == ["T2", "T2"]


@pytest.mark.parametrize(
    ("backbones", "told"),
    [
        ("[resnet18@lat]", "'resnet18@lat': the name after @ is one of early, late, late-shared, T1, T2.*Did you"),
        ("[resnet18, alexnet@T1, resnet18@early]", "'resnet18@early' is listed twice"),
        ("[resnet19@late]", "there is no backbone 'resnet19'"),
        ("[vit_tiny_patch16_224.augreg_in21kk]", "has no weights .*vit_tiny_patch16_224.augreg_in21k'"),
    ],
)
def test_mistyped_pairings_are_refused(tmp_path: Path, backbones: str, told: str) -> None:
    with pytest.raises(StudyError, match=told):
        stated(tmp_path, backbones)


@pytest.mark.parametrize("one", ["[resnet18]", "[resnet18@T1]"])
def test_networks_of_another_fusion_are_never_taken_for_the_same(tmp_path: Path, one: str) -> None:
    fingerprints = set()
    for fusion in ("early", "late", "T1", "T2"):
        study = stated(tmp_path, one.replace("T1", fusion), fusion=f"[{fusion}]")
        fingerprints.add(job_fingerprint("run", study, "resnet18", ""))
    assert len(fingerprints) == 4


def test_weights_are_stated_by_backbone(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"")
    weights = "{alexnet: random, resnet18: mine.safetensors}"
    study = stated(tmp_path, "[alexnet, resnet18, resnet18@late]", weights=weights)
    assert study.weights_of("alexnet@early") == "random"
    assert study.weights_of("resnet18@late") == str(tmp_path.resolve() / "mine.safetensors")


def test_other_weights_make_other_networks_and_leave_the_rest_alone(tmp_path: Path) -> None:
    one = stated(tmp_path, "[alexnet, resnet18]", weights="{alexnet: random, resnet18: random}")
    two = stated(tmp_path, "[alexnet, resnet18]", weights="{alexnet: pretrained, resnet18: random}")
    assert job_fingerprint("run", one, "alexnet", "") != job_fingerprint("run", two, "alexnet", "")
    assert job_fingerprint("run", one, "resnet18", "") == job_fingerprint("run", two, "resnet18", "")


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ("{resnet18: random}", "weights: nothing is stated for alexnet; write pretrained, random or a file"),
        ("{resnet18: random, alexnt: random}", "'alexnt' is none of the study's backbones. Did you mean 'alexnet'"),
    ],
)
def test_weights_by_backbone_leave_none_out(tmp_path: Path, weights: str, told: str) -> None:
    with pytest.raises(StudyError, match=told):
        stated(tmp_path, "[alexnet, resnet18]", weights=weights)


@pytest.mark.parametrize("preset", ["ipmn-mri", "ipmn-mri-transformer"])
def test_the_presets_hold_both_published_tables(tmp_path: Path, preset: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"extends: {preset}\ncohort: cohort.csv\n")
    study = read_study(path)
    early = [name.removesuffix("@early") for name in study.networks if name.endswith("@early")]
    ways = [name.partition("@")[2] for name in study.networks if name.startswith("vit_base_patch16_224@")]
    of_images = {"alexnet", "densenet121", "resnet18", "mobilenet_v2", "efficientnet_b5"}
    assert set(early) == {"vit_base_patch16_224"} | of_images
    assert ways == ["early", "T1", "T2", "late"]
    assert (study.split.folds, study.recipe.batch_size, study.panels.grid, study.images.size) == (10, 8, "3x3", 64)
    assert study.nested_cv
    assert not study.nested_cv.among


def test_the_literal_preset_of_onestep_pasi_lacks_only_the_limit(tmp_path: Path) -> None:
    studies = []
    for preset in ("onestep-pasi", "onestep-pasi-as-published"):
        (tmp_path / "study.yaml").write_text(f"extends: {preset}\ncohort: visits.csv\n")
        studies.append(read_study(tmp_path / "study.yaml").model_dump(mode="json"))
    limited, literal = studies
    assert (limited["recipe"].pop("clip_gradients"), literal["recipe"].pop("clip_gradients")) == (1.0, None)
    assert limited == literal


def of_networks(folder: Path, settings: str) -> Study:
    (folder / "own.yaml").write_text(
        "extends: onestep-pasi\ncohort: visits.csv\nbackbones: [squeezenet1_1, resnet18]\nrecipe: {networks: "
        f"{{{settings}}}}}\n"
    )
    return read_study(folder / "own.yaml")


def test_a_network_may_have_settings_of_its_own(tmp_path: Path) -> None:
    own = of_networks(tmp_path, "squeezenet1_1: {clip_gradients: 0.5, optimizer: adam}")
    recipe, other = (own.of_learner(name).recipe for name in own.networks)
    assert (recipe.clip_gradients, recipe.optimizer, recipe.lr, recipe.networks) == (0.5, "adam", 0.01, {})
    assert other == own.recipe.model_copy(update={"networks": {}})
    none = of_networks(tmp_path, "")
    prints = [[job_fingerprint("run", study, name, "") for name in study.networks] for study in (own, none)]
    assert prints[0][0] != prints[1][0]
    assert prints[0][1] == prints[1][1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("squeezenet1_2: {lr: 1}", "squeezenet1_1"),
        ("squeezenet1_1: {epochs: 3}", "cannot differ between networks"),
        ("squeezenet1_1: {lr: -1}", "squeezenet1_1.*lr"),
        ("squeezenet1_1: {lr: find}", "squeezenet1_1.*lr"),
    ],
)
def test_settings_of_a_network_that_are_refused(tmp_path: Path, settings: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        of_networks(tmp_path, settings)


def test_a_backbone_may_state_its_published_weights(tmp_path: Path) -> None:
    name = "timm:vit_tiny_patch16_224.augreg_in21k"
    assert stated(tmp_path, f"['{name}', {name.removeprefix('timm:')}]").networks == [name, name.removeprefix("timm:")]
    network = build_network(name, 2, side=32)
    assert (network.name, network.head[-1].in_features) == (name, 192)
