"""Attention rollout: the definition by hand, every kind of head, and a network left as it was."""

from typing import Any

import pytest
import torch

from casewise.models.backbones import Network, NetworkOptions
from casewise.models.outputs import Output
from casewise.plugins.explain.methods.dispatch import method_for, patch_centres
from casewise.plugins.explain.methods.rollout import rollout_by_sequence
from casewise.plugins.explain.methods.target import ExplainTarget
from casewise.study.sources import Body
from tests.plugins.explain.maps import explain


def rolled_out(network: Network, panels: torch.Tensor) -> torch.Tensor:
    """The mean over sequences: (B, h, w)."""
    return rollout_by_sequence(network, panels).nanmean(dim=1)


def tiny_vit(**options: Any) -> Network:
    """A transformer of three blocks on 48 × 32 pixels, 6 × 4 patches."""
    import timm

    settings = {"img_size": (48, 32), "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 0}
    name = options.pop("name", "vit_tiny_patch16_224")
    body: Any = timm.create_model(name, **(settings | options))
    return Network("tiny", Body(body, 24), 2, NetworkOptions())


def seen_by_hand(network: Network, panels: torch.Tensor) -> torch.Tensor:
    """The whole product of layers (B, N, N), from queries and keys computed here."""
    body: Any = network.body
    kept: list[torch.Tensor] = []

    def look(part: Any, given: Any, _: Any) -> None:
        size, tokens, width = given[0].shape
        queries, keys, _values = part.qkv(given[0]).reshape(size, tokens, 3, part.num_heads, -1).permute(2, 0, 3, 1, 4)
        kept.append((queries @ keys.transpose(-2, -1) / (width / part.num_heads) ** 0.5).softmax(dim=-1))

    hooks = [block.attn.register_forward_hook(look) for block in body.blocks]
    with torch.no_grad():
        network.eval().features(panels)
    for hook in hooks:
        hook.remove()
    product = torch.eye(kept[0].shape[-1]).expand(len(panels), -1, -1)
    for weights in kept:
        mixed = 0.5 * weights.mean(dim=1) + 0.5 * torch.eye(weights.shape[-1])
        product = mixed / mixed.sum(dim=-1, keepdim=True) @ product
    return product


@pytest.fixture
def panels() -> torch.Tensor:
    return torch.rand(2, 3, 48, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("options", "read", "prefix"),
    [
        ({}, [0], 1),
        ({"reg_tokens": 4}, [0], 5),
        ({"class_token": False, "global_pool": "avg"}, list(range(24)), 0),
        ({"global_pool": "avg"}, list(range(1, 25)), 1),
        ({"name": "deit_tiny_distilled_patch16_224"}, [0, 1], 2),
        ({"dynamic_img_size": True}, [0], 1),
    ],
    ids=["class", "registers", "mean", "mean-with-class", "distilled", "dynamic"],
)
def test_it_is_a_product_of_layers(panels: torch.Tensor, options: dict[str, Any], read: list[int], prefix: int) -> None:
    network = tiny_vit(**options)
    assert method_for(network) == "rollout"
    rows = seen_by_hand(network, panels)[:, read].mean(dim=1)[:, prefix:]
    wanted, found = (rows / rows.sum(dim=1, keepdim=True)).reshape(2, 6, 4), rolled_out(network, panels)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
    assert torch.allclose(found.sum(dim=(1, 2)), torch.ones(2))


def test_patches_of_a_padded_panel_stay_where_they_are() -> None:
    """A panel of 44 pixels has 6 patches of 8, the last of which stands half over the edge."""
    network = tiny_vit(dynamic_img_size=True, dynamic_img_pad=True, img_size=(48, 48))
    with torch.no_grad():
        found = explain(network, torch.rand(1, 3, 44, 44), ExplainTarget((Output("extent"),), "extent"))
        rolled = rolled_out(network, torch.rand(1, 3, 44, 44))
    assert (found.shape, rolled.shape) == ((1, 44, 44), (1, 6, 6))
    middles = patch_centres((6, 6), (44, 44), (8, 8))
    assert middles[0].tolist() == [3.5, 11.5, 19.5, 27.5, 35.5, 43.5]
    assert patch_centres((5, 5), (44, 44), (8, 8)) is None
