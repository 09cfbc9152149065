from pathlib import Path

import pytest
import torch
import yaml

from casewise.modalities.dataset import PanelData, encode_bags
from casewise.modalities.panels import augmented, plain
from casewise.models.backbones import build_network
from casewise.models.layers import BagPooling
from casewise.models.outputs import Output
from casewise.models.shared_parts import predict_together
from casewise.study.images import BAGS, POOLINGS
from casewise.study.schema import Panels, Recipe
from casewise.training.compute_plan import ComputePlan
from casewise.training.loop import fit
from casewise.training.stages import TrainingContext, learn

BAG = Panels(by="case", pooling="attention", bag=3)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", POOLINGS)
def test_every_pooling_is_a_study_setting_and_trains(name: str, tmp_path: Path) -> None:
    values = {"by": "case", "bag": 3} if name in BAGS else {"by": "image"}
    settings = Panels.model_validate({**values, "pooling": name})
    assert (settings.bags, settings.slots) == (name in BAGS, 3 if name in BAGS else 1)
    assert f"`{name}`" in (Panels.model_fields["pooling"].description or "")
    torch.manual_seed(0)
    store = torch.randint(1, 255, (8, 3, 32, 32), dtype=torch.uint8, generator=seeded())
    tiles = [[0, 1, 2], [3], [4, 5, 6, 7]] if name in BAGS else [[i] for i in range(8)]
    data = PanelData(store, tiles, torch.rand(len(tiles), 1), settings)
    network = build_network("resnet10t", 1, pooling=name if name in BAGS else "")
    before = {key: value.clone() for key, value in network.named_parameters()}
    recipe = Recipe.model_validate({"epochs": 1, "batch_size": 8, "early_stopping": {"monitor": "fold"}})
    learned = fit(network, recipe, data, data, TrainingContext((Output("one"),), tmp_path, 0, ComputePlan()))
    assert len(learned.history) == 1
    after = dict(network.named_parameters())
    assert all(not torch.equal(before[key], after[key]) for key in before if key.endswith("weight") and "head" in key)


@pytest.mark.parametrize("name", BAGS)
def test_weights_are_shares_of_what_is_there(name: str) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 4, 8, requires_grad=True)
    bags = features.masked_fill(torch.tensor([[False] * 4, [False] * 2 + [True] * 2]).unsqueeze(-1), torch.nan)
    pool = BagPooling(name, 8)
    weights = pool.weights(bags)
    assert torch.allclose(weights.sum(dim=1), torch.ones(2))
    assert weights[1, 2:].eq(0).all()
    assert weights[1, :2].gt(0).all()
    assert torch.allclose(pool(bags), (weights.unsqueeze(-1) * bags.nan_to_num()).sum(dim=1), atol=1e-6)
    if pool.kind.layers:
        assert torch.allclose(pool(bags), bags.nanmean(dim=1), atol=0.1)  # as `probe` expects
    pool(bags).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in [features, *pool.parameters()])


@pytest.mark.parametrize("name", BAGS)
def test_empty_places_and_order_change_nothing(name: str) -> None:
    torch.manual_seed(0)
    pool, features = BagPooling(name, 8), torch.randn(1, 3, 8)
    padded = torch.cat([features[:, [2, 0, 1]], torch.full((1, 2, 8), torch.nan)], dim=1)
    assert torch.allclose(pool(features), pool(padded), atol=1e-6)


def test_bags_hold_their_tiles_and_nan() -> None:
    store = torch.randint(1, 255, (6, 3, 8, 8), dtype=torch.uint8, generator=seeded())
    data = PanelData(store, [[0, 1, 2, 3, 4], [5]], torch.zeros(2, 1), BAG)
    slots, owner = data.views()
    assert (slots.tolist(), owner.tolist()) == ([[0, 1, 2, 3, 4], [5, -1, -1, -1, -1]], [0, 1])
    seen = data.plain_batch(slots, torch.device("cpu"))
    assert seen.shape == (2, 5, 3, 8, 8)
    assert seen[1, 1:].isnan().all()
    assert not seen[0].isnan().any()
    drawn, occupied = data.training_batch([0, 1], seeded(), torch.device("cpu"))
    assert drawn.shape == (2, 3, 3, 8, 8)
    assert occupied.tolist() == [[True, True, True], [True, False, False]]
    assert drawn[1, 1:].isnan().all()
    assert not drawn[0].isnan().any()
    varied = augmented(store, slots, BAG.model_copy(update={"brightness": 0.2, "rotate": 90.0}), seeded())
    assert varied.shape == plain(store, slots, BAG).shape
    assert varied[1, 1:].isnan().all()
    assert data.eval_batch_size(10, torch.device("cpu")) == 8


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_tile_without_finite_features_is_no_empty_slot(value: float) -> None:
    store = torch.randint(1, 255, (6, 3, 8, 8), dtype=torch.uint8, generator=seeded())
    data, broken = PanelData(store, [[0, 1, 2], [3], [4, 5]], torch.zeros(3, 1), BAG), store[1].float() / 255

    def layers(tiles: torch.Tensor) -> torch.Tensor:
        features = tiles.flatten(1)[:, :4].clone()
        features[(tiles == broken).flatten(1).all(dim=1), 1] = value
        return features

    features = encode_bags(layers, data, data.views()[0], torch.device("cpu"), torch.contiguous_format)
    for name in BAGS:
        assert BagPooling(name, 4)(features).isfinite().all(dim=1).tolist() == [False, True, True]


def test_a_network_sees_a_bag_as_its_tiles() -> None:
    torch.manual_seed(0)
    network, bags = build_network("resnet10t", 2, pooling="attention").eval(), torch.rand(2, 3, 3, 32, 32)
    bags[1, 1:] = torch.nan
    with torch.inference_mode():
        features = network.features(bags)
        assert torch.allclose(network(bags[:, 0]), network(bags[:, :1]), atol=1e-5)  # a single tile
        assert torch.allclose(features[0], network.features(bags[0]), atol=1e-5)
        assert features[1, 1:].isnan().all()
        shuffled = torch.stack([bags[0, [2, 0, 1]], bags[1, [1, 0, 2]]])
        assert torch.allclose(network(bags), network(shuffled), atol=1e-5)


def test_attention_learns_which_tile_matters(tmp_path: Path) -> None:
    """A case is positive where one of its five tiles is bright: the mean hardly tells, attention does."""
    torch.manual_seed(0)
    drawn, truth = torch.Generator().manual_seed(1), (torch.arange(40) % 2).float().unsqueeze(1)
    store = torch.randint(0, 40, (200, 3, 32, 32), dtype=torch.uint8, generator=drawn)
    store[torch.arange(1, 40, 2) * 5 + 2] += 180
    settings = Panels(by="case", pooling="attention", bag=5)
    data = PanelData(store, [list(range(5 * i, 5 * i + 5)) for i in range(40)], truth, settings)
    outputs = (Output("label", "classification", 2, True),)
    stated = "{optimizer: adam, lr: 0.01, schedule: constant, batch_size: 8, epochs: 15, tuning: head_only, "
    recipe = Recipe.model_validate(yaml.safe_load(stated + "early_stopping: {monitor: none}}"))
    network = build_network("resnet10t", 2, pooling="attention")
    course = TrainingContext(outputs, tmp_path, 0, ComputePlan(), 1e9, "last")
    learned = learn(network, recipe, data, data, [str(i) for i in range(40)], course)
    options = {"batch": 8, "channels_last": True, "flips": False}
    ((values, _),) = predict_together([learned.network], data, outputs, **options)
    assert (values.argmax(dim=1) == truth[:, 0]).float().mean() > 0.95
    bags = data.plain_batch(data.views()[0], torch.device("cpu"))
    weights = learned.network.head[0].weights(learned.network.features(bags))
    assert weights[1::2, 2].mean() > 2 * weights[1::2, 0].mean()
