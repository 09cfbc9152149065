"""Linear baselines: their models, their jobs, and what the report says of them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge

import casewise
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import Outcomes, evaluate
from casewise.jobs.fitting import FoldData, fit_on_features
from casewise.modalities.dataset import PanelData
from casewise.models.backbones import build_network
from casewise.models.feature_maps import feature_maps, widest
from casewise.models.linear import FeatureSpec, build_linear
from casewise.models.outputs import Output
from casewise.report.tables import verdict
from casewise.study.loading import build_study, read_study
from casewise.study.schema import Panels
from casewise.training.linear_models import MOST_DECOMPOSED, RIDGE, Directions, fit_head, linear_model
from tests.golden_figures import check_figures
from tests.prediction_rows import prediction_rows

STUDY = """
name: floors
synthetic: true
cohort: {cohort}
images: {{size: 32}}
targets: {{label: [no_finding, covid, pneumonia]}}
split: {{test: 0, folds: 2, restarts: 20}}
backbones: []
weights: random
audit: {{permutations: 99}}
evaluation: {{bootstrap_resamples: 200, response: false, counterfactual_cases: 0}}
"""


def write_study(folder: Path, cohort: Path, **changes: str) -> Path:
    text = STUDY.format(cohort=cohort)
    for key, value in changes.items():
        lines = [line for line in text.splitlines() if not line.startswith(f"{key}:")]
        text = "\n".join([*lines, f"{key}: {value}"])
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def labels_of(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    return random.normal(size=(count, 300)), np.array([f"s{number // 2}" for number in range(count)], dtype=object)


def test_more_features_than_rows_give_the_same_ridge_model() -> None:
    """The model in the coordinates of the rows is that of the standardised features."""
    random = np.random.default_rng(0)
    values, subjects = labels_of(random, 60)
    labels = values[:, 0] + 0.1 * random.normal(size=60)
    model = linear_model(Directions.of(values), labels, subjects, Output("extent"))
    standardised = (values - values.mean(axis=0)) / values.std(axis=0)
    strength = model.penalty * (standardised**2).sum(axis=1).mean()
    expected = Ridge(alpha=strength).fit(standardised, labels)
    assert np.allclose(values @ model.weight[0] + model.bias[0], expected.predict(standardised), atol=1e-6)
    assert model.penalty in RIDGE


def test_directions_are_found_in_a_sample_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    random, sides, eigh = np.random.default_rng(0), list[int](), np.linalg.eigh
    values = random.normal(size=(4_100, 20)) @ random.normal(size=(20, 2_100)) + random.normal(size=2_100)
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: [sides.append(len(matrix)), eigh(matrix)][1])
    directions = Directions.of(values)
    assert max(sides) <= MOST_DECOMPOSED
    assert directions.scores.shape == (4_100, 20)
    assert np.isclose((directions.scores**2).sum(axis=1).mean(), 1)
    assert np.allclose(directions.scores, (values - directions.centre) @ directions.back.T)
    kept = directions.scores @ np.linalg.lstsq(directions.scores, values - directions.centre)[0]
    assert np.allclose(kept, values - directions.centre)


def test_a_sample_of_many_panels_is_fitted_with_the_shares_of_all_classes() -> None:
    """One in forty panels, the darkest ones, has the label: all of these are in the sample, and seldom predicted."""
    drawn = torch.Generator().manual_seed(0)
    store = torch.randint(100, 200, (400, 3, 16, 16), dtype=torch.uint8, generator=drawn)
    labels = (torch.arange(400) % 40 == 0).float().unsqueeze(1)
    store[::40] -= 40
    panels = PanelData(
        store, [[row] for row in range(400)], labels, Panels(by="image"), [f"c{row}" for row in range(400)]
    )
    subjects, output = [f"s{row // 2}" for row in range(320)], Output("label", "classification", 2)
    specs = [FeatureSpec("pixels", cells=2).as_json(), FeatureSpec("statistics").as_json()]
    network = build_linear("linear_pixels", 2, {"encoders": [], "channels": 3, "specs": specs}, {"side": 16})
    study = build_study(
        {"name": "sample", "cohort": "none.csv", "targets": {"label": ["no", "yes"]}}, source="test", folder=Path()
    )
    job = SimpleNamespace(model="linear_pixels", fold=0)
    planned: Any = SimpleNamespace(job=job, inputs=SimpleNamespace(study=study, store=SimpleNamespace(address="")))
    data = FoldData(panels, np.arange(320), np.arange(0), subjects, {}, [])
    learned, predicted_from = fit_on_features(fit_head, planned, network, (output,), data, most=80)
    assert learned.records["fitted_to"] == {"panels": 80, "of": 320}
    with torch.no_grad():
        raw = learned.network(panels.plain_batch(panels.views()[0], torch.device("cpu")))
        assert torch.allclose(learned.network.predict_head(predicted_from.subset(range(400)).features), raw)
        shares = raw.softmax(dim=1)[:, 1]
    assert bool((shares[320::40] > shares[321]).all())
    assert abs(float(shares.mean()) - 0.025) < 0.015


@pytest.mark.parametrize("output", [Output("label", "classification", 3), Output("grade", "ordinal", 3)])
def test_a_class_without_training_rows_is_never_predicted_above_others(output: Output) -> None:
    random = np.random.default_rng(1)
    values, subjects = labels_of(random, 40)
    model = linear_model(Directions.of(values), random.integers(0, 2, 40).astype(float), subjects, output)
    raw = torch.from_numpy(values @ model.weight.T + model.bias)
    decided = output.network_kind.decided(raw)
    assert set(decided.tolist()) <= {0, 1}


def test_a_grid_over_a_map_keeps_where_things_are() -> None:
    torch.manual_seed(0)
    average, grid = (build_network("resnet18", 1, map_cells=cells).eval() for cells in (0, 3))
    grid.load_state_dict({k: v for k, v in average.state_dict().items() if "head" not in k}, strict=False)
    panels = torch.zeros(2, 3, 96, 96)
    panels[0, :, 20:40, 20:40] = panels[1, :, 20:40, 52:72] = 1
    with torch.no_grad():
        apart = [float((f[0] - f[1]).norm() / f.norm()) for f in (average.features(panels), grid.features(panels))]
    assert apart[1] > 2 * apart[0]


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 512), ("vgg11_bn", 512), ("densenet121", 1024), ("mobilenet_v2", 1280)]
)
def test_the_head_of_fastai_reads_the_last_map_of_any_shape(name: str, width: int) -> None:
    network = build_network(name, 3, head="fastai", dropout=0.4).eval()
    panels, maps = torch.rand(2, 3, 64, 96), []
    network.body.get_submodule(network.read_map).register_forward_hook(lambda m, i, output: maps.append(output.clone()))
    with torch.no_grad():
        features = network.features(panels)
        assert (network(panels).shape, network(panels[..., :32, :32]).shape) == ((2, 3), (2, 3))
    assert maps[0].shape == (2, width, 2, 3)
    assert torch.equal(features, torch.cat((maps[0].amax((2, 3)), maps[0].mean((2, 3))), 1))
    network.features(panels).sum().backward()
    assert all(parameter.grad is not None for parameter in network.body.parameters())  # nothing behind the map
    assert build_network(name, 3, head="fastai", side=32).read_map == network.read_map
    assert [layer.p for layer in network.head if isinstance(layer, torch.nn.Dropout)] == [0.2, 0.4]
    assert sum(p.numel() for p in network.head.parameters()) == 2 * width * (512 + 2) + 512 * (3 + 2)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "squeezenet1_1", "vit_tiny_patch16_224"])
def test_maps_of_encoders_are_read_at_a_stride(name: str) -> None:
    encoder = build_network(name, 1, side=224)
    found = widest(feature_maps(encoder.body), 16)
    assert found.stride == 16
    network = build_network(name, 2, map_cells=3, side=224).eval()
    with torch.no_grad():
        features = network.features(torch.rand(1, 3, 224, 224))
    assert (features.shape, network.read_map) == ((1, found.channels * 9), found.module)


def test_a_study_without_networks_reports_its_baselines(baseline_run: Any) -> None:
    learners = {"linear_pixels", "linear_features", "kernel_features", "mean_of_learners"}
    assert set(baseline_run.rows["model"]) == learners
    assert baseline_run.results["main"]["learner"] in learners


def table_of(truth: np.ndarray, predictions: dict[str, np.ndarray]) -> pd.DataFrame:
    names = [f"s{number}" for number in range(len(truth))]
    options = {"folds": np.arange(len(truth)) % 2 + 1, "target": "extent", "case": [f"{name}/1" for name in names]}
    return pd.concat([prediction_rows(names, truth, y, model=model, **options) for model, y in predictions.items()])


@pytest.mark.parametrize(("good", "code"), [("net", "better"), ("linear_pixels", "worse")])
def test_the_headline_is_compared_with_the_baseline(good: str, code: str) -> None:
    random = np.random.default_rng(3)
    truth, bad = random.normal(size=60), "linear_pixels" if good == "net" else "net"
    predictions = {good: truth + 0.1 * random.normal(size=60), bad: truth + random.normal(size=60)}
    table = table_of(truth, predictions)
    outcomes, plan = Outcomes("extent"), Plan(200, 0.95, 0)
    results = evaluate(table, outcomes, plan)
    assert results["main"]["learner"] == "net"
    assert (results.primary.learner, results.primary.baseline) == ("net", "linear_pixels")
    gap = results.figures.contrasts("oof", "extent").gap("ccc", "net", "linear_pixels")
    assert verdict(gap.low, gap.high, "ccc") == code


def test_intervals_other_than_the_primary_one_allow_for_the_choice_among_learners() -> None:
    random, widths = np.random.default_rng(5), []
    truth, names = random.normal(size=60), [f"net{number}" for number in range(12)]
    predictions = {name: truth + random.normal(size=60) for name in [*names, "linear_pixels"]}
    for learners in (("net0", "linear_pixels"), tuple(predictions)):
        table = table_of(truth, {name: predictions[name] for name in learners})
        results = evaluate(table, Outcomes("extent"), Plan(200, 0.95, 0))
        gaps = results.figures.contrasts("oof", "extent")
        pairs = [gaps.gap("ccc", name, "linear_pixels") for name in ("net0", learners[-2])]
        widths.append([pair.high - pair.low for pair in pairs])
    assert widths[1][0] == pytest.approx(widths[0][0], rel=1e-4)
    # with more learners, one of them is better by chance more often
    assert widths[1][1] > 1.2 * widths[1][0]


def test_baselines_are_switched_off_with_a_reason(tmp_path: Path, chests: Path) -> None:
    study = read_study(write_study(tmp_path, chests, baselines="{off: as published}", backbones="[cnn]"))
    assert study.learners == ["cnn"]
    with pytest.raises(casewise.CasewiseError, match="reason"):
        read_study(write_study(tmp_path, chests, baselines="none"))


def test_golden_figures_of_baselines(baseline_run: Any) -> None:
    check_figures("baselines", baseline_run)
