"""Every part that can be named in a study passes the same checks."""

import pytest
import torch

from casewise.cohort.targets import study_scores
from casewise.modalities.dataset import PanelData, epoch_batches
from casewise.models.backbones import build_network
from casewise.models.feature_maps import spatial_maps
from casewise.models.outputs import Output
from casewise.models.sources.torchvision import ALL29
from casewise.study.loading import PRESETS, named_scores, preset_names, preset_text, read_study
from casewise.study.schema import Recipe, Study
from casewise.study.scores import check_scores
from casewise.study.sources import listed_names
from casewise.training.compute_plan import ComputePlan
from casewise.training.loop import TrainingContext, fit

LARGE = {"vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn", "resnet101", "resnet152"}
LARGE |= {"wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "densenet169", "resnet50", "densenet121", "alexnet"}
NAMES = [
    pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in [*ALL29, "vit_tiny_patch16_224.augreg_in21k"]
]


@pytest.mark.parametrize("name", listed_names())
def test_weights_are_loaded_as_they_are_stored(name: str) -> None:
    # by name alone: a file of tensors has no versions of classes, which MNASNet of torchvision demands
    with torch.device("meta"):
        network = build_network(name, 2)
    loaded = network.load_state_dict(dict(network.state_dict()), assign=True)
    assert not [*loaded.missing_keys, *loaded.unexpected_keys]


@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_builds_takes_a_step_and_predicts(name: str) -> None:
    torch.manual_seed(0)
    side = 224 if "224" in name else 128
    network, panels = build_network(name, 4).train(), torch.rand(2, 3, side, side)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    before = {k: v.clone() for k, v in network.named_parameters()}
    network(panels).square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    optimizer.step()
    assert any(not torch.equal(before[k], v) for k, v in network.named_parameters() if k.startswith("body."))
    assert not torch.equal(before["head.1.weight"], network.head[1].weight)
    network.eval()
    with torch.no_grad():
        features, found, first = network.features(panels), network(panels), network(panels[:1])
    assert (features.shape, found.shape) == ((2, network.width), (2, 4))
    assert found.isfinite().all()
    assert torch.allclose(first, found[:1], atol=1e-4)  # the other panels of a batch do not matter
    points = [point for point, _ in network.blocks]
    assert len(points) == len(set(points)) >= 3
    counted = {id(p) for _, m in network.blocks for p in m.parameters()}
    loose = {id(p) for p in network.body.parameters()} - counted
    assert len(loose) <= 4  # class tokens and position embeddings stand outside blocks
    assert spatial_maps(network.body, side=side, channels=3)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "googlenet", "mobilenet_v3_small"])
def test_a_last_batch_of_one_is_dealt_with(name: str, tmp_path) -> None:
    store = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    data = PanelData(store, [[i] for i in range(5)], torch.rand(5, 1), Study.model_fields["panels"].default)
    network, recipe = build_network(name, 1), Recipe(epochs=1, batch_size=4)
    fitted = fit(network, recipe, data, data, TrainingContext([Output("one")], tmp_path, 0, ComputePlan()))
    assert (len(fitted.history), [len(batch) for batch in epoch_batches(5, 4, 0, 1)]) == (1, [5])
    assert sorted(row for batch in epoch_batches(9, 4, 0, 1) for row in batch) == list(range(9))


@pytest.mark.plugins("volumes")
@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_reads_as_a_study(preset: str, tmp_path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"extends: {preset}\ncohort: cohort.csv\n")
    study = read_study(path)
    assert study.backbones
    assert preset_text(preset).startswith("#")
    levels = {n: "region" if study.level_of(n) == "region" else "case" for n in study.outputs}
    check_scores(study_scores(study), targets=levels, regions=study.regions)


@pytest.mark.parametrize("name", sorted(p.name.removesuffix(".yaml") for p in (PRESETS / "scores").iterdir()))
def test_a_named_score_parses(name: str) -> None:
    assert named_scores(name, "test")
