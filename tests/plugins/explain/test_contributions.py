"""Contributions of linear models: their maps add up to the output, and runs show them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import casewise
from casewise.models.linear import FeatureSpec, build_linear
from casewise.models.outputs import Output
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.explain.case_selection import explain_target
from casewise.plugins.explain.command import explain_run
from casewise.plugins.explain.methods.contributions import centre_at, contributions, directions
from casewise.plugins.explain.methods.target import ExplainTarget
from casewise.plugins.explain.run import ExplainSettings
from casewise.plugins.explain.saliency import SaliencyMap, load_model, saliency_maps
from casewise.run_folder import RunFolder
from casewise.study.loading import build_study
from tests.combinations import make_table, settings
from tests.plugins.explain.maps import without_a_sequence
from tests.test_baselines import write_study

OUTPUTS = (Output("extent"), Output("label", "classification", 3), Output("grade", "ordinal", 4))


def linear(
    specs: list[FeatureSpec], *, encoder: str = "", channels: int = 3, side: int = 48, sequences: int = 0
) -> Any:
    torch.manual_seed(0)
    plain, encoders = [spec.as_json() for spec in specs] or None, [{"name": encoder}] if encoder else []
    bank = {"encoders": encoders, "channels": channels, "specs": plain, "sequences": sequences}
    network = build_linear("linear_features", 7, bank, {"side": side}).eval()
    with torch.no_grad():
        network.head[-1].weight.copy_(torch.randn_like(network.head[-1].weight) / 20)
        network.target_mean.copy_(torch.randn(7))
        network.target_std.copy_(torch.rand(7) + 0.5)
        centre_at(network, network.features(torch.rand(4, channels, side, side)).mean(0))
    return network


@pytest.mark.parametrize(
    ("encoder", "channels", "sequences", "side"),
    [("", 3, 0, 50), ("resnet18", 3, 0, 96), ("mobilenet_v2", 3, 3, 70), ("mobilenet_v2", 2, 2, 64)],
)
def test_map_average_and_rest_add_up_to_the_output(encoder: str, channels: int, sequences: int, side: int) -> None:
    """With every candidate of pixels and features, every kind of target, and a missing sequence."""
    network = linear([], encoder=encoder, channels=channels, side=side, sequences=sequences)
    panels = torch.rand(2, channels, side, side)
    if sequences:
        panels[1, 0] = torch.nan
    with torch.no_grad():
        raw = network(panels).double()
    expected = {"extent": raw[:, 0], "label": raw[:, 2] - (raw[:, 1] + raw[:, 3]) / 2, "grade": raw[:, 4:].sum(dim=1)}
    for name, output in expected.items():
        target = ExplainTarget(OUTPUTS, name, class_index=1 if name == "label" else None)
        explained = contributions(network, panels, target)
        assert explained.maps.shape == panels.shape
        assert torch.allclose(explained.output, output, atol=1e-4)


def test_a_pixel_of_weight_stands_where_it_is() -> None:
    """A model that reads one cell has contributions in this cell alone, with the sign of the weight."""
    network = linear([FeatureSpec("pixels", cells=4)])
    with torch.no_grad():
        network.head[-1].weight.zero_()
        network.head[-1].weight[0, 16 + 6] = -2.0  # green, second row, third column
        centre_at(network, torch.zeros(48))
    explained = contributions(network, torch.ones(1, 3, 48, 48), ExplainTarget(OUTPUTS, "extent"))
    expected = torch.zeros(3, 48, 48, dtype=torch.float64)
    expected[1, 12:24, 24:36] = -2.0 * float(network.target_std[0]) / 144
    assert torch.allclose(explained.maps[0], expected, atol=1e-7)


def test_a_mirror_difference_contributes_on_both_sides_with_opposite_signs() -> None:
    network = linear([FeatureSpec("pixels", (), (), "asymmetry", 4)], channels=1)
    with torch.no_grad():
        network.head[-1].weight.zero_()
        network.head[-1].weight[0, 3] = 2.0  # second row, second column of two
        centre_at(network, torch.zeros(8))
    panel = torch.rand(1, 1, 48, 48)
    left, right = panel[0, 0, 12:24, 12:24].mean(), panel[0, 0, 12:24, 24:36].mean()
    explained = contributions(network, panel, ExplainTarget(OUTPUTS, "extent")).maps[0, 0]
    scale = 2.0 * float(network.target_std[0])
    assert float(explained[12:24, 12:24].sum()) == pytest.approx(scale * float(left), rel=1e-5)
    assert float(explained[12:24, 24:36].sum()) == pytest.approx(-scale * float(right), rel=1e-5)
    assert int((explained != 0).sum()) == 2 * 144


@pytest.mark.parametrize("summary", ["grid", "asymmetry", "moments", "covariance"])
def test_positions_of_a_map_are_its_own(summary: Any) -> None:
    """What is bright in one corner of the map contributes there, for each summary that has places."""
    network = linear([FeatureSpec("features", (), ("conv1",), summary, 2)], encoder="resnet18", side=128)
    with torch.no_grad():
        network.head[-1].weight[0].fill_(1.0)
        centre_at(network, torch.zeros(network.width))
    panels = network.body.encoder.mean.expand(1, 3, 128, 128).clone()  # 0 for the encoder
    panels[:, :, :32, :32] = torch.rand(3, 32, 32)
    explained = contributions(network, panels, ExplainTarget(OUTPUTS, "extent"))
    inside = explained.maps[..., :40, :40].abs().sum() / explained.maps.abs().sum()
    assert float(inside) > 0.5  # of a tenth of the area
    assert bool((explained.unplaced != 0).any()) == (summary == "moments")


def sums_of(run: Any, model: str, fold: int, rows: list[int]) -> list[tuple[SaliencyMap, float]]:
    """The maps of panel rows and, for each, the explained output by the network itself."""
    loaded, target = load_model(run, model, fold), explain_target(run)
    results = []
    for row in rows:
        data = loaded.predicted.subset([row])
        views, _ = data.views()
        with torch.no_grad():
            raw = loaded.network(data.plain_batch(views, torch.device("cpu"))).double()
        number = int(target.decide(raw)[0]) if target.output.classes else None
        to = directions(loaded.network, torch.zeros(1, 3, 4, 4), ExplainTarget(target.outputs, target.target, number))
        explained = ExplainTarget(target.outputs, target.target, class_index=number)
        results.append((saliency_maps(loaded, [row], explained)[0], float((raw @ to.T)[0, 0])))
    return results


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> Path:
    folder = tmp_path_factory.mktemp("linear")
    return casewise.run(write_study(folder, chests), folder / "run").folder


def test_a_run_shows_the_contributions_of_its_baseline(films: Path) -> None:
    run = FinishedRun.open(RunFolder(films))
    for saliency, output in sums_of(run, "linear_pixels", 0, [0, 1, 2]):
        assert saliency.output_sum.output == pytest.approx(output, abs=1e-4)
        assert np.abs(saliency.by_sequence).max() == pytest.approx(1)
        assert saliency.raw.min() >= 0
    done = explain_run(films, ExplainSettings())
    table = pd.read_parquet(done.table)
    assert set(table["method"]) == {"contributions"}
    total = table["average"] + table["placed"] + table["unplaced"]
    assert np.allclose(total, table["output"], atol=1e-6)
    stored = json.loads((films / "explanations.json").read_text())
    assert all(entry["maps"][0]["sum"] for case in stored["shown"]["cases"] for entry in case["rows"])
    assert "linear_pixels" in stored["placement"]["networks"]
    assert "Exact contributions" in done.report.read_text()


@pytest.mark.slow
def test_slices_and_sequences_have_contributions_of_their_own(tmp_path: Path) -> None:
    """The output of a scan is that of the mean features of its slices; a missing sequence has no map."""
    table = make_table(tmp_path, "volumes", "here", seed=2)
    without_a_sequence(table, 2)
    values = settings("volumes", "classes", table, "several") | {"backbones": []}
    values["volumes"] |= {"missing": "mask"}
    study = build_study(values, source="the test's study", folder=table.parent)
    folder = casewise.run(study, tmp_path / "run").folder
    run = FinishedRun.open(RunFolder(folder))
    rows, missing = list(range(len(run.cohort.panels))), 0
    for saliency, output in sums_of(run, "linear_pixels", 0, rows):
        assert saliency.output_sum.output == pytest.approx(output, abs=1e-4)
        assert saliency.by_sequence.shape[:2] == (len(saliency.slots), 2)
        missing += int(np.isnan(saliency.by_sequence).any())
    assert missing > 0
    assert any(explain_run(folder, ExplainSettings()).folder.rglob("*.nii.gz"))
