"""Networks that predict together: files are read once, and what they have in common is built and computed once."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from casewise.inference import ensemble as members
from casewise.inference.model import load_bundle
from casewise.modalities.dataset import PanelData
from casewise.models import shared_parts
from casewise.models.backbones import build_network
from casewise.models.linear import FeatureSpec, bank_facts, build_linear
from casewise.models.outputs import Output
from casewise.models.shared_parts import (
    JointFeatures,
    SharedParts,
    SharedStart,
    groups_of,
    in_batches,
    predict_together,
)
from casewise.run import Run
from casewise.run_folder import WeightsFile
from casewise.study.images import Panels

SPECS = [FeatureSpec("features", (), ("layer2",), "grid", 2), FeatureSpec("features", (), ("layer3",), "moments")]
SPECS += [FeatureSpec("pixels", cells=8), FeatureSpec("statistics")]


def model(specs: list[FeatureSpec], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    bank = {"encoders": [{"name": "timm:test_resnet"}], "channels": 3, "specs": [spec.as_json() for spec in specs]}
    return build_linear("linear_features", 1, bank, {"side": 64}).eval()


def loaded(parts: SharedParts, network: Any) -> Any:
    facts = {"name": "linear_features", "outputs": 1, "side": 64, "bank": bank_facts(network)}
    again = parts.network(facts, network.state_dict())
    again.load_state_dict(network.state_dict())
    return again.eval()


def panels() -> PanelData:
    store = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return PanelData(store, [[number] for number in range(5)], torch.zeros(5, 0), Panels(by="image"))


def test_features_of_equal_encoders_are_computed_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = model(SPECS[:3]), model(SPECS[1:])
    second.body.encoder.load_state_dict(first.body.encoder.state_dict())
    parts, data = SharedParts(), panels()
    networks = [loaded(parts, network) for network in (first, second)]
    assert networks[0].body.encoders[0] is networks[1].body.encoders[0]
    passes = []
    hook = networks[0].body.encoders[0].network.body.layer2.register_forward_hook(lambda *_: passes.append(1))
    joint = JointFeatures(networks, data)
    for network, alone in zip(networks, (first, second), strict=True):
        with torch.no_grad():
            expected = alone.features(data.plain_batch(data.views()[0], torch.device("cpu")))
        assert torch.allclose(joint.of(network).features, expected, atol=1e-5)
    hook.remove()
    assert len(passes) == 1


def test_the_weights_of_a_shared_encoder_are_kept_once() -> None:
    parts, network = SharedParts(), model(SPECS)
    facts = {"name": "linear_features", "outputs": 1, "side": 64, "bank": bank_facts(network)}
    files = [{name: values.clone() for name, values in network.state_dict().items()} for _ in range(2)]
    shared = [parts.network(facts, tensors).body.encoder.state_dict() for tensors in files]
    names = [name for name in files[1] if name.startswith("body.encoder.")]
    assert len(names) == len(shared[0]) > 0
    for name in names:
        own = shared[0][name.removeprefix("body.encoder.")].data_ptr()
        assert files[0][name].data_ptr() == files[1][name].data_ptr() == own
        assert torch.equal(files[1][name], network.state_dict()[name])


def test_encoders_of_other_weights_are_not_shared() -> None:
    parts = SharedParts()
    networks = [loaded(parts, model(SPECS, seed)) for seed in (0, 1)]
    assert networks[0].body.encoders[0] is not networks[1].body.encoders[0]
    assert len(groups_of(networks)) == 2
    data = panels()
    features = [JointFeatures(networks, data).of(network).features for network in networks]
    assert not torch.allclose(features[0], features[1])


def test_networks_of_equal_facts_have_their_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    built, build = [], shared_parts.network_from
    monkeypatch.setattr(shared_parts, "network_from", lambda facts: built.append(facts) or build(facts))
    parts, facts = SharedParts(), {"name": "cnn", "outputs": 1, "side": 32}
    first, second = parts.network(facts, {}), parts.network(facts, {})
    with torch.no_grad():
        first.target_mean.fill_(3.0)
    assert (len(built), float(second.target_mean[0])) == (1, 0.0)
    assert parts.network(facts, {}, own=False) is parts.network(facts, {}, own=False)


def test_a_bundle_reads_files_and_computes_features_once(monkeypatch: pytest.MonkeyPatch, baseline_run: Run) -> None:
    read: list[Path] = []
    passes: list[int] = []
    read_bytes, compute = WeightsFile.read_bytes, shared_parts.compute_features
    monkeypatch.setattr(WeightsFile, "read_bytes", lambda file: read.append(file.path) or read_bytes(file))
    monkeypatch.setattr(
        shared_parts, "compute_features", lambda network, data: passes.append(len(data)) or compute(network, data)
    )
    loaded_model = load_bundle(baseline_run.folder / "bundle")
    assert len(loaded_model.members) == 6
    images = sorted(str(path) for path in baseline_run.study.cohort.parent.rglob("*.png"))[:6]
    tables = [chunk.table for chunk in loaded_model.predict_in_chunks(images, learner="all", size=2)]
    assert len(read) == len(set(read)) == 14  # weights and distances of six networks, their encoder, and the look
    assert (passes, sum(len(table) for table in tables)) == ([2, 2, 2], 6 * 4)


def test_predictions_of_the_test_set_are_those_of_the_run(monkeypatch: pytest.MonkeyPatch, baseline_run: Run) -> None:
    rows = baseline_run.rows[baseline_run.rows["stage"] == "test"]
    subjects, cohort = set(rows["subject"]), baseline_run.files.cohort.read()
    table = cohort[cohort["subject"].astype(str).isin(subjects)][["path", "subject", "visit"]]
    for kept in (members.KEPT_BYTES, 0):
        monkeypatch.setattr(members, "KEPT_BYTES", kept)
        new = load_bundle(baseline_run.folder).predict(table, learner="all")
        for learner, of_learner in new.groupby("learner"):
            run_rows = rows[(rows["model"] == learner) & rows["outer_fold"].isna()]
            if run_rows.empty:  # rows of folds, whose mean is taken
                run_rows = rows[rows["model"] == learner].groupby("case", as_index=False)[["p0", "p1", "p2"]].mean()
            expected = run_rows.set_index("case").loc[of_learner["case"], ["p0", "p1", "p2"]]
            names = [name for name in new.columns if name.startswith("probability of")]
            assert np.abs(of_learner[names].to_numpy() - expected.to_numpy()).max() < 1e-6


def tuned_copy(network: Any, seed: int, frozen: tuple[str, ...]) -> Any:
    """A copy of a network whose modules outside of `frozen` have other weights."""
    other = deepcopy(network)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in other.named_parameters():
            if not name.startswith(frozen):
                value.add_(torch.randn_like(value) * 0.01)
    return other


def test_equal_first_layers_are_computed_once_and_to_the_bit() -> None:
    torch.manual_seed(0)
    first = build_network("timm:test_resnet", 2, side=64).eval()
    kept = tuple(f"body.{name}" for name in ("conv1", "bn1", "layer1", "layer2"))
    networks = [first, *(tuned_copy(first, seed, kept) for seed in (1, 2))]
    shared = SharedStart.of(networks)
    assert shared.start.at.startswith("layer2")
    data, outputs = panels(), (Output("a"), Output("b"))
    options: dict[str, Any] = {"batch": 1, "channels_last": False, "flips": True}
    passes = []
    first.body.layer1.register_forward_hook(lambda *_: passes.append(1))
    together = predict_together(networks, data, outputs, **options, shared=shared)
    assert len(passes) == 4  # two batches, each also mirrored
    for network, (values, features) in zip(networks, together, strict=True):
        expected = predict_together([network], data, outputs, **options)[0]
        assert torch.equal(values, expected[0])
        assert torch.equal(features, expected[1])
    assert not torch.equal(together[0][0], together[1][0])
    assert SharedStart.of([first, tuned_copy(first, 3, ())]) is None
    assert SharedStart.of([first]) is None


def test_half_as_many_views_are_computed_together_where_memory_runs_out() -> None:
    sizes: list[int] = []

    def compute(views: torch.Tensor) -> torch.Tensor:
        sizes.append(len(views))
        if len(views) > 3:
            raise torch.OutOfMemoryError
        return 2.0 * views

    views = torch.arange(14).view(7, 2)
    assert torch.equal(in_batches(compute, views, 8), 2.0 * views)
    assert sizes == [7, 4, 2, 2, 2, 1]
    with pytest.raises(torch.OutOfMemoryError):
        in_batches(lambda views: compute(torch.zeros(4, 2)), views, 8)
