from __future__ import annotations

import pytest
import torch

from casewise.models.attention import GatedAttention
from casewise.panels import augmented, plain
from casewise.study import Panels
from casewise.training.data import PanelData

BAG = Panels(by="case", gather="attention", bag=3)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_weights_are_shares_of_what_is_there() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 4, 8)
    features[1, 2:] = torch.nan
    weights = GatedAttention(8, 4).weights(features)
    assert torch.allclose(weights.sum(dim=1), torch.ones(2))
    assert weights[1, 2:].eq(0).all()
    assert weights[1, :2].gt(0).all()


def test_empty_places_and_order_change_nothing() -> None:
    torch.manual_seed(0)
    pool, features = GatedAttention(8, 4), torch.randn(1, 3, 8)
    padded = torch.cat([features[:, [2, 0, 1]], torch.full((1, 2, 8), torch.nan)], dim=1)
    assert torch.allclose(pool(features), pool(padded), atol=1e-6)


def test_untrained_attention_is_nearly_the_mean() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 5, 8)
    assert torch.allclose(GatedAttention(8)(features), features.mean(dim=1), atol=0.05)


def test_gradients_pass_empty_places() -> None:
    pool, features = GatedAttention(8, 4), torch.randn(1, 3, 8)
    features[0, 2] = torch.nan
    pool(features).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pool.parameters())


def test_bags_hold_their_tiles_and_nan() -> None:
    store = torch.randint(1, 255, (6, 3, 8, 8), dtype=torch.uint8, generator=seeded())
    data = PanelData(store, [[0, 1, 2, 3, 4], [5]], torch.zeros(2, 1), BAG)
    slots, owner = data.views()
    assert slots.tolist() == [[0, 1, 2, 3, 4], [5, -1, -1, -1, -1]]
    assert owner.tolist() == [0, 1]
    seen = data.plain_batch(slots, torch.device("cpu"))
    assert seen.shape == (2, 5, 3, 8, 8)
    assert seen[1, 1:].isnan().all()
    assert not seen[0].isnan().any()
    drawn, _ = data.training_batch([0, 1], seeded(), torch.device("cpu"))
    assert drawn.shape == (2, 3, 3, 8, 8)
    assert drawn[1, 1:].isnan().all()
    assert not drawn[0].isnan().any()
    varied = augmented(store, slots, BAG.model_copy(update={"brightness": 0.2, "rotate": 90.0}), seeded())
    assert varied.shape == plain(store, slots, BAG).shape
    assert varied[1, 1:].isnan().all()
    assert data.at_once(10) == 8


@pytest.mark.parametrize("wrong", [{"by": "image"}, {"grid": "2x2"}, {"shuffle": True}])
def test_attention_needs_whole_cases(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="gather: attention"):
        Panels.model_validate({"by": "case", "gather": "attention", **wrong})


def test_max_needs_single_images() -> None:
    with pytest.raises(ValueError, match="gather: max"):
        Panels(by="case", gather="max")
