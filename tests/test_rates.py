"""Rates by depth and by step: every weight that learns in one group, and a schedule that knows the step alone."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from casewise.models.backbones import Network, build_network
from casewise.models.freezing import freeze
from casewise.plugins.published.layer_rates import layer_rates
from casewise.plugins.published.unfreezing import unfreeze
from casewise.study.schema import Recipe
from casewise.training.rates import parameter_groups, warmed_cosine


class TestSchedule:
    @given(st.integers(0, 50), st.integers(1, 500))
    def test_it_rises_then_falls(self, warmup: int, rest: int) -> None:
        total = warmup + rest
        shares = [warmed_cosine(step, warmup, total) for step in range(total)]
        assert all(0 < share <= 1 for share in shares)
        assert (shares[:warmup], shares[warmup]) == ([(step + 1) / warmup for step in range(warmup)], 1)
        assert all(a > b for a, b in zip(shares[warmup:], shares[warmup + 1 :], strict=False))
        assert warmed_cosine(total, warmup, total) == pytest.approx(0)

    def test_without_a_warm_up_it_is_torch_s_cosine(self) -> None:
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=0.3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
        for step in range(12):
            assert 0.3 * warmed_cosine(step, 0, 12) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
            # as training without a warm-up has it, to the bit
            assert warmed_cosine(step, 0, 12) == 0.5 * (1 + math.cos(math.pi * step / 12))
            optimizer.step()
            schedule.step()


def rates_of(network: Network, decay: float, **options: Any) -> dict[str, float]:
    """The rate of every weight by its name; fails where one is in no group or in two."""
    groups = layer_rates(network, 0.1, decay, **options)
    found: dict[int, float] = {}
    for group in groups:
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = group["lr"]
    learning = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert set(found) == {id(parameter) for parameter in learning.values()}
    return {name: found[id(parameter)] for name, parameter in learning.items()}


class TestLayers:
    @pytest.mark.parametrize("prefix", ["", "bodies.0.", "bodies.1."])
    def test_a_transformer(self, prefix: str) -> None:
        options: Any = {"fusion": "late", "sequences": 2, "missing": "mask"} if prefix else {}
        network = build_network("vit_tiny_patch16_224", 2, side=64, **options)
        found = rates_of(network, 0.5)
        for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"):
            assert found[f"body.{prefix}{name}"] == pytest.approx(0.1 * 0.5**13)
        for block in range(12):
            for name in ("norm1.weight", "attn.qkv.weight", "mlp.fc2.bias"):
                assert found[f"body.{prefix}blocks.{block}.{name}"] == pytest.approx(0.1 * 0.5 ** (12 - block))
        assert found[f"body.{prefix}norm.weight"] == found["head.1.weight"] == 0.1
        if prefix:
            assert found["body.missing_token"] == 0.1
        names = [group["name"] for group in layer_rates(network, 0.1, 0.5)]
        assert names == ["embedding", *[f"blocks.{i}" for i in range(12)], "behind", "head"]

    @pytest.mark.parametrize("kind", [None, "late"])
    @pytest.mark.parametrize("name", ["mobilenet_v2", "test_resnet"])
    def test_others_by_their_blocks(self, name: str, kind: Any) -> None:
        network = build_network(name, 2, fusion=kind, sequences=2, missing="mask" if kind else "require")
        found, points = rates_of(network, 0.8, head_lr=3.0), [point for point, _ in network.blocks]
        prefixes = [f"bodies.{i}." for i in range(len(network.bodies))] if kind else [""]
        for key, rate in found.items():
            for prefix in prefixes:
                if key.startswith(f"body.{prefix}"):
                    own = key.removeprefix(f"body.{prefix}")
                    place = next((i for i, p in enumerate(points) if own.startswith(f"{p}.")), None)
                    if place is not None:
                        assert rate == pytest.approx(0.1 * 0.8 ** (len(points) - place))
        assert found["head.1.bias"] == pytest.approx(0.3)
        if kind:
            assert found["body.missing_token"] == 0.1

    def test_what_is_frozen_is_in_no_group(self) -> None:
        network = build_network("test_vit", 1, fusion="late", sequences=2, missing="mask")
        freeze(network, "blocks.1")
        names = [group["name"] for group in layer_rates(network, 0.1, 0.5)]
        assert names == [*[f"blocks.{i}" for i in range(2, 6)], "behind", "head"]
        rates_of(network, 0.5)
        freeze(network, "all")
        assert [group["name"] for group in layer_rates(network, 0.1, 0.5)] == ["behind", "head"]


class TestRecipe:
    def test_what_stands_in_learns_with_the_body(self) -> None:
        network = build_network("cnn", 1, fusion="late", sequences=2, missing="mask")
        for groups in (1, 3, 0):
            unfreeze(network, groups, 3)
            assert network.missing_token.requires_grad == (groups > 0)
            placed = {id(p) for g in parameter_groups(network, Recipe(layer_decay=0.5), 0.1) for p in g["params"]}
            assert placed == {id(p) for p in network.parameters() if p.requires_grad}
