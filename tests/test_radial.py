"""Models with a radial kernel: random Fourier features, their fit, and exact contributions."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from casewise.modalities.dataset import FeatureData
from casewise.models.build_model import network_from
from casewise.models.linear import GAMMA, FeatureSpec, RadialBlock, RadialHead, bank_facts, build_linear
from casewise.models.outputs import Output
from casewise.training.linear_models import fit_head

centre_at = pytest.importorskip("casewise.plugins.explain.methods.contributions").centre_at
contributions = pytest.importorskip("casewise.plugins.explain.methods.contributions").contributions
ExplainTarget = pytest.importorskip("casewise.plugins.explain.methods.target").ExplainTarget

OUTPUTS = (Output("extent"), Output("label", "classification", 3), Output("grade", "ordinal", 4))
LABEL = (Output("label", "classification", 2),)


def test_products_of_the_features_are_a_radial_kernel() -> None:
    random, block = np.random.default_rng(0), RadialBlock(12, 8, 4000)
    block.fill(random.normal(size=12), random.normal(size=(8, 12)) / 12, 0)
    values = torch.from_numpy(random.normal(size=(20, 12))).float()
    directions = (values - block.centre) @ block.back.T
    expected, features = torch.exp(-GAMMA * torch.cdist(directions, directions).square()), block(values)
    assert float((features @ features.T - expected).abs().max()) < 0.05


def bank(outputs: int, specs: list[FeatureSpec], *, encoder: str = "", side: int = 48) -> Any:
    torch.manual_seed(0)
    encoders = [{"name": encoder}] if encoder else []
    plain = {"encoders": encoders, "channels": 3, "specs": [spec.as_json() for spec in specs]}
    return build_linear("kernel_features", outputs, plain, {"side": side}).eval()


def test_a_label_that_no_line_separates_is_learned() -> None:
    """Images whose mean is in the middle against those that are dark or bright."""
    random = np.random.default_rng(1)
    means = torch.from_numpy(random.uniform(0.1, 0.9, 240)).float()
    panels = (means[:, None, None, None] + 0.05 * torch.randn(240, 3, 48, 48)).clamp(0, 1)
    labels = ((means > 0.35) & (means < 0.65)).float()[:, None]
    subjects, correct = [f"s{number // 2}" for number in range(240)], {}
    for name in ("linear", "radial"):
        network = bank(2, [FeatureSpec("features", (), ("conv1",), "grid", 1)], encoder="resnet18", side=128)
        with torch.no_grad():
            data = FeatureData(network.features(torch.nn.functional.interpolate(panels, size=128)), labels)
        train, rest = data.subset(range(160)), data.subset(range(160, 240))
        if name == "linear":
            fit_head(network, train, subjects[:160], LABEL)
        else:
            fit_head(network, train, subjects[:160], LABEL, is_radial=True)
        predicted = network.predict_head(rest.features).argmax(dim=1)
        correct[name] = float((predicted == rest.truth[:, 0]).float().mean())
    assert correct["radial"] > 0.85
    assert correct["radial"] > correct["linear"] + 0.1


def test_a_shared_fit_changes_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a store, with an empty one, after the linear model, after an interruption, and with damaged files."""
    random = np.random.default_rng(3)
    outputs = [Output("label", "classification", 2), Output("extent", "regression"), Output("grade", "ordinal", 3)]
    network = bank(5, [FeatureSpec("statistics"), FeatureSpec("pixels", cells=4)])
    with torch.no_grad():
        features = network.features(torch.rand(60, 3, 48, 48))
    truth = np.stack([random.integers(0, 2, 60), random.normal(size=60), random.integers(0, 3, 60)], axis=1)
    truth[:5, 1] = np.nan
    data, subjects = FeatureData(features, torch.from_numpy(truth).float()), [f"s{row // 2}" for row in range(60)]

    def fitted(*, is_radial: bool, data: FeatureData = data) -> list[torch.Tensor]:
        copied = deepcopy(network)
        result = fit_head(copied, data, subjects, outputs, is_radial=is_radial)
        losses = [list(each.losses.values()) for each in result.candidates]
        return [*copied.head.state_dict().values(), result.columns, torch.tensor(losses)]

    def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
        return len(first) == len(second) and all(map(torch.equal, first, second))

    monkeypatch.setenv("CASEWISE_FEATURE_CACHE", "0")
    alone = {is_radial: fitted(is_radial=is_radial) for is_radial in (False, True)}
    monkeypatch.delenv("CASEWISE_FEATURE_CACHE")
    monkeypatch.setenv("CASEWISE_CACHE", str(tmp_path))
    assert same(fitted(is_radial=False), alone[False])
    stored = sorted(tmp_path.rglob("*.safetensors"))
    assert len(stored) == 2 * 3
    assert same(fitted(is_radial=True), alone[True])  # reads these
    assert len(sorted(tmp_path.rglob("*.safetensors"))) == 2 * 3 + 3
    stored[0].unlink()
    stored[1].write_bytes(b"damaged")
    for is_radial in (False, True):
        assert same(fitted(is_radial=is_radial), alone[is_radial])
    # other labels have other models
    other = FeatureData(features, data.truth.flip(0))
    assert not same(fitted(is_radial=True, data=other), alone[True])


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("mixed", [{}, {"reads": [[0, 1], [1]], "is_partly_linear": True}])
def test_contributions_add_up_to_the_output(views: int, mixed: dict[str, Any]) -> None:
    """Of one image, and of several whose features are averaged; `mixed`: of joined vectors, with linear candidates."""
    network = bank(7, [FeatureSpec("statistics"), FeatureSpec("pixels", cells=4)])
    network.head[-1] = RadialHead(network.body.widths, [5, 4], 30, 7, **mixed)
    random = np.random.default_rng(0)
    with torch.no_grad():
        for block in network.head[-1].blocks:
            block.fill(random.normal(size=len(block.centre)), random.normal(size=tuple(block.back.shape)), 0)
        network.target_std.copy_(torch.rand(7) + 0.5)
        centre_at(network, network.features(torch.rand(4, 3, 48, 48)).mean(0))
        panels = torch.rand(views, 3, 48, 48)
        features = network.features(panels).mean(0)
        raw = network.predict_head(features[None]).double()[0]
    for name, output in {"extent": raw[0], "label": raw[2] - (raw[1] + raw[3]) / 2, "grade": raw[4:].sum()}.items():
        target = ExplainTarget(OUTPUTS, name, class_index=1 if name == "label" else None)
        explained = contributions(network, panels, target, at=features)
        assert float(explained.output.mean()) == pytest.approx(float(output), abs=1e-4)


def test_a_fitted_model_is_built_again_from_its_facts() -> None:
    specs = [FeatureSpec("features", (), (module,), "grid", 1) for module in ("conv1", "bn1")]
    network = bank(2, specs, encoder="resnet18", side=64)
    means = torch.linspace(0.1, 0.9, 60)
    with torch.no_grad():
        panels = means[:, None, None, None] + 0.05 * torch.randn(60, 3, 64, 64)
        data = FeatureData(network.features(panels), ((means > 0.35) & (means < 0.65)).float()[:, None])
    fitted = fit_head(network, data, [str(number) for number in range(60)], LABEL, is_radial=True)
    assert any("radial" in name for name in fitted.candidates[0].averaged)
    facts = {"name": "kernel_features", "outputs": 2, "side": 64, "pooling": "", "bank": bank_facts(network)}
    again = network_from({**facts, "radial": network.head[-1].facts})
    again.load_state_dict(network.state_dict())
    panels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.eval()(panels), network(panels))
