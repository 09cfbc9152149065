"""Three-dimensional networks: what an inflated one computes, what is refused, studies with one, and its maps."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from casewise.errors import StudyError
from casewise.modalities.panels import fold, stacked
from casewise.models.backbones import Network, NetworkOptions, build_network
from casewise.models.freezing import split_at
from casewise.models.weights import load_weights
from casewise.plugins.phantoms.pancreas import make_pancreas
from casewise.plugins.volumes.inflated import inflate, inflated_tensors
from casewise.run import run
from casewise.run_folder import RunFolder
from casewise.study.learners import encoders_of
from casewise.study.loading import build_study
from casewise.study.schema import Panels
from casewise.study.sources import Body
from tests.chest_study import SMALL
from tests.plugins.volumes.test_fusion import library_file

FAMILIES = ["resnet18", "densenet121", "mobilenet_v2", "googlenet", "efficientnet_b0", "tf_efficientnet_lite0"]
ROWS = 3
SEQUENCES = {"sequences": ["T1", "T2"], "in_plane_size": 64, "bias": "none", "smoothing": "none"}
STUDY: dict[str, Any] = {key: SMALL[key] for key in ("synthetic", "weights", "audit", "compute")}
STUDY |= {"volumes": SEQUENCES, "images": {"size": 32}, "panels": {"by": "case", "grid": "3x3"}}
STUDY |= {"targets": {"grade": {"classes": ["normal", "high"], "positive": "high"}}}
STUDY |= {"name": "inflated", "split": {"test": 0, "folds": 2, "restarts": 20}, "backbones": ["inflated:test_resnet"]}
STUDY |= {"baselines": SMALL["baselines"], "accept": {"twins-across-subjects": "abdomens of 32 pixels look alike"}}
STUDY |= {"evaluation": {"bootstrap_resamples": 100, "response": False, "counterfactual_cases": 0}}
STUDY["recipe"] = {"epochs": 2, "batch_size": 4, "optimizer": "adam", "schedule": "cosine"}
STUDY["recipe"]["early_stopping"] = {"monitor": "none"}


def volume_network(name: str, **options: Any) -> Network:
    torch.manual_seed(0)
    return build_network(name, 2, fusion="early", sequences=2, rows=ROWS, **options).eval()


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_equal_slices_have_the_features_of_the_slice(name: str, tmp_path: Path) -> None:
    file, generator = library_file(name, tmp_path), torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    flat, deep = build_network(name, 2, fusion="early", sequences=2).eval(), volume_network(f"inflated:{name}")
    for network in (flat, deep):
        load_weights(network, str(file))
    slices = torch.rand(2, 2, 64, 64, generator=generator)
    expected = flat.features(slices)
    tolerance = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(deep.features(slices.repeat(1, 1, ROWS, ROWS)), expected, rtol=1e-3, atol=tolerance)


@torch.no_grad()
def test_slices_are_read_together() -> None:
    network, slices = volume_network("inflated:resnet18"), torch.rand(1, 9, 2, 32, 32)
    panels = [fold(slices[:, order], Panels(grid="3x3")) for order in ([*range(9)], [4, 1, 2, 3, 0, 5, 6, 7, 8])]
    features = [network.features(panel) for panel in panels]
    assert float((features[0] - features[1]).abs().max()) > 1e-3 * float(features[0].abs().max())


@pytest.mark.parametrize(
    "name", ["test_vit", "swin_tiny_patch4_window7_224", "timm:resnetblur18", "timm:hrnet_w18_small"]
)
def test_other_networks_are_refused(name: str) -> None:
    with pytest.raises(StudyError, match=f"inflated:{name}"):
        build_network(f"inflated:{name}", 2, fusion="early", sequences=2, rows=2)


@pytest.mark.parametrize(("depth", "step"), [(4, 1), (9, 2)])
@torch.no_grad()
def test_a_layer_is_a_convolution_over_slices_with_repeated_ends(depth: int, step: int) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1))
    inflate(body, f"a layer for {depth} slices")
    layer, volume = body[0], torch.rand(2, 2, depth, 8, 8)
    layer.weight.copy_(torch.rand_like(layer.weight))
    kernel = layer.weight.unflatten(2, (3, 3))
    ends = torch.cat([volume[:, :, :1], volume, volume[:, :, -1:]], dim=2)
    expected = functional.conv3d(ends, kernel, layer.bias, stride=(step, 2, 2), padding=(0, 1, 1))
    torch.testing.assert_close(layer(volume.flatten(2, 3)), expected.flatten(2, 3))
    assert expected.shape[2] == -(-depth // step)


@pytest.mark.parametrize(
    ("pool", "reduced"), [(nn.MaxPool2d(3, 2, 1), torch.amax), (nn.AvgPool2d(3, 2, 1), torch.mean)]
)
def test_pooling_combines_neighbouring_slices(pool: nn.Module, reduced: Any) -> None:
    body = nn.Sequential(pool, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    inflate(body, f"a pooling {type(pool).__name__}")
    volume = torch.rand(1, 2, 4, 8, 8)
    by_slice = torch.stack([pool(volume[:, :, at]) for at in (0, 0, 1, 2, 3, 3)])
    expected = torch.stack([reduced(by_slice[at : at + 3], 0) for at in range(4)], dim=2)
    torch.testing.assert_close(body[0](volume.flatten(2, 3)), expected.flatten(2, 3))


def test_slots_are_read_in_their_order() -> None:
    tiles = torch.rand(2, 9, 3, 4, 4)
    panels = fold(tiles, Panels(grid="3x3"))
    assert torch.equal(stacked(panels, 3), tiles.transpose(1, 2).flatten(2, 3))
    assert torch.equal(stacked(panels, 1), panels)


def test_a_plain_network_is_drawn_in_three_dimensions() -> None:
    network = volume_network("resnet18_3d")
    kernel = network.bodies[0].get_submodule("layer1.0.conv1").weight
    assert kernel.shape == (64, 64, 9, 3)
    assert not torch.allclose(kernel[:, :, :3], kernel[:, :, 3:6], atol=1e-3)
    inflated = volume_network("inflated:resnet18").bodies[0].get_submodule("layer1.0.conv1").weight
    assert torch.equal(inflated[:, :, :3], inflated[:, :, 3:6])
    assert network(torch.rand(2, 2, 96, 96)).shape == (2, 2)


def test_weights_with_a_depth_stay() -> None:
    body = volume_network("inflated:test_resnet").bodies[0]
    tensors, clause = inflated_tensors(body, dict(body.state_dict()))
    assert not clause
    assert all(torch.equal(tensors[key], value) for key, value in body.state_dict().items())


@torch.no_grad()
def test_both_parts_of_a_frozen_network_give_its_features() -> None:
    network, panels = volume_network("inflated:resnet18"), torch.rand(2, 2, 96, 96)
    first, rest = split_at(network, "4 blocks")
    assert torch.equal(rest(first(panels)), network.features(panels))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"panels": {"by": "case", "pooling": "maps"}}, "pooling: maps"),
        ({"panels": {"by": "case"}}, "1x1"),
        ({"recipe": {"pool": "map"}}, "recipe.pool"),
        ({"recipe": {"head": "fastai"}}, "recipe.head"),
        ({"volumes": None}, "inflated:resnet18' reads volumes"),
        ({"backbones": ["inflated:resnet"]}, "resnet"),
        ({"backbones": ["inflated:cnn"]}, "inflated:cnn"),
        ({"backbones": ["inflated:inflated:resnet18"]}, "inflated:inflated"),
        ({"encoders": ["inflated:resnet18"], "weights": "pretrained"}, "write resnet18"),
    ],
)
def test_what_a_volume_does_not_allow_is_refused(changes: dict[str, Any], key: str) -> None:
    values = {**STUDY, "cohort": "cohort.csv", "backbones": ["inflated:resnet18"], **changes}
    with pytest.raises(StudyError, match=key):
        build_study(
            {name: value for name, value in values.items() if value is not None}, source="a study", folder=Path()
        )


def test_baselines_read_single_slices_with_the_same_weights() -> None:
    values = {**STUDY, "cohort": "cohort.csv", "backbones": ["inflated:resnet34"], "weights": "pretrained"}
    assert encoders_of(build_study(values, source="a study", folder=Path())) == ["resnet34"]


def test_a_planned_study_has_a_grid() -> None:
    values = {key: value for key, value in STUDY.items() if key not in ("panels", "recipe")} | {"recipe": "auto"}
    study = build_study({**values, "cohort": "cohort.csv"}, source="a study", folder=Path())
    assert (study.panels.grid, study.panels.bags) == ("4x4", False)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape: Any = {"size": (48, 48), "slices": (10, 12), "lesion": "planted"}
    return make_pancreas(tmp_path_factory.mktemp("pancreas"), subjects=10, classes=("normal", "high"), seed=2, **shape)


@pytest.fixture(scope="module")
def finished(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run with early and late fusion of inflated networks."""
    values = {**STUDY, "cohort": cohort, "backbones": ["inflated:test_resnet", "inflated:test_resnet@late"]}
    study = build_study(values, source="a study", folder=cohort.parent)
    return RunFolder(run(study, tmp_path_factory.mktemp("runs") / "run").folder)


NETWORKS = ("inflated:test_resnet@early", "inflated:test_resnet@late")


def test_a_run_is_repeated_to_the_bit(finished: RunFolder, cohort: Path, tmp_path: Path) -> None:
    values = {**STUDY, "cohort": cohort, "backbones": ["inflated:test_resnet", "inflated:test_resnet@late"]}
    again = RunFolder(run(build_study(values, source="a study", folder=cohort.parent), tmp_path / "run").folder)
    first, second = (pd.read_parquet(folder.predictions.path) for folder in (finished, again))
    assert set(first["model"]) >= set(NETWORKS)
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_a_stored_network_is_explained_as_it_predicted(finished: RunFolder) -> None:
    """Explanations begin with a check that the loaded network repeats the stored predictions."""
    pytest.importorskip("pytorch_grad_cam", reason="the package that makes Grad-CAM is optional")
    from casewise.plugins.explain.command import explain_run
    from casewise.plugins.explain.run import ExplainSettings

    table = pd.read_parquet(explain_run(finished.path, ExplainSettings()).table)
    assert set(table["network"]) == set(NETWORKS)
    assert set(table["method"]) == {"grad-cam"}
    assert set(table["map_size"]) == {"6 x 6"}  # in the grid of the panel: nine slices of two by two cells


def test_grad_cam_lies_on_the_slice_that_decides() -> None:
    pytest.importorskip("pytorch_grad_cam", reason="the package that makes Grad-CAM is optional")
    from casewise.models.outputs import Output
    from casewise.plugins.explain.methods.target import ExplainTarget
    from tests.plugins.explain.maps import explain

    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1))

        def forward(self, panels: Tensor) -> Tensor:
            return self.map(panels).mean(dim=(2, 3))

    body = Cells()
    inflate(body, "cells")
    network = Network("cells", Body(body, 3, ((0,) * 3, (1,) * 3)), 1, NetworkOptions(rows=4)).eval()
    with torch.no_grad():
        network.head[-1].weight[:] = torch.tensor([[1.0, 0.0, 0.0]])  # type: ignore[union-attr]
    panels = torch.zeros(1, 3, 64, 64)
    panels[:, 0, 36:40, 20:24] = 1  # in slot 9 of 16, its second cell from above and from the left
    found = explain(network, panels, ExplainTarget((Output("extent"),), "extent"))[0]
    row, column = divmod(int(found.argmax()), 64)
    assert (row // 16, column // 16) == (2, 1)
    assert (32 <= row < 44, 16 <= column < 28) == (True, True)
    assert float(found[:12].max()) == 0  # slices far away do not count


@torch.no_grad()
def test_the_graph_of_an_export_computes_the_same() -> None:
    learner = pytest.importorskip("casewise.plugins.export.learner")
    from casewise.models.outputs import Output

    outputs = (Output("extent"), Output("density"))
    panels = torch.rand(3, 2, 96, 96)
    for fusion in ("early", "late"):
        network = build_network("inflated:test_resnet", 2, fusion=fusion, sequences=2, rows=3).eval()
        network.target_mean.fill_(2)
        graph = learner.LearnerGraph("network", [network], [0], outputs, [(-100, 100)] * 2, flips=False)
        torch.testing.assert_close(torch.cat(graph(panels), 1), network(panels))
        exported = torch.export.export(graph, (panels,), dynamic_shapes={"panels": ({0: torch.export.Dim("cases")},)})
        torch.testing.assert_close(exported.module()(panels[:2]), graph(panels[:2]))
