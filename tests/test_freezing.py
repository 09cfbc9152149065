"""Freeze points, what freezing keeps, and the published counts of parameters."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from casewise.errors import StudyError
from casewise.models.backbones import Network, build_network
from casewise.models.freezing import freeze, frozen_end, layers, parameter_counts
from casewise.study.recipe import FreezePoint, read_freeze_point


def mobilenet(outputs: int = 1) -> Network:
    return build_network("mobilenet_v2", outputs)


class TestNotation:
    @pytest.mark.parametrize(
        ("stated", "read", "shown"),
        [
            ("none", FreezePoint("none"), "none"),
            ("all", FreezePoint("all"), "all"),
            (10, FreezePoint("layers", count=10), "10 layers"),
            (" 1 layer", FreezePoint("layers", count=1), "1 layer"),
            ("11 blocks", FreezePoint("blocks", count=11), "11 blocks"),
            ("30%", FreezePoint("percent", count=30), "30%"),
            ("features.6", FreezePoint("name", name="features.6"), "features.6"),
            ("body.layer1", FreezePoint("name", name="layer1"), "layer1"),
            ("body", FreezePoint("all"), "all"),
        ],
    )
    def test_what_can_be_said(self, stated: Any, read: FreezePoint, shown: str) -> None:
        assert (read_freeze_point(stated), str(read)) == (read, shown)
        assert read_freeze_point(shown) == read
        assert read_freeze_point(read) is read

    @pytest.mark.parametrize(
        ("stated", "told"),
        [
            (True, "phase 2, freeze: must be none, all, `10 layers`.*got True"),
            ([3], r"got \[3\]"),
            ("10 bloks", "Did you mean 'blocks'"),
            ("features..6", "got 'features..6'"),
        ],
    )
    def test_what_cannot(self, stated: Any, told: str) -> None:
        with pytest.raises(StudyError, match=told):
            read_freeze_point(stated, "phase 2, freeze")


class TestPoints:
    @pytest.mark.parametrize("name", ["test_resnet", "vit_tiny_patch16_224"])
    def test_each_layer_more_freezes_more_and_only_from_the_input(self, name: str) -> None:
        network, held = build_network(name, 1), 0
        total = len(layers(network))
        for count in range(1, total + 1, 1 + total // 30):
            freeze(network, count)
            learns = [p.requires_grad for p in network.body.parameters()]
            assert learns == sorted(learns)  # frozen first, then those that learn
            assert held_layers(network) == count
            frozen = parameter_counts(network.body).frozen
            assert frozen > held
            held = frozen
        for norm in (m for m in network.body.modules() if isinstance(m, nn.BatchNorm2d)):
            assert not norm.training or norm.weight.requires_grad
        assert all(p.requires_grad for p in network.head.parameters())

    @pytest.mark.parametrize("name", ["resnet18", "cnn", "vit_tiny_patch16_224"])
    def test_blocks_and_names_agree(self, name: str) -> None:
        one, two = build_network(name, 1), build_network(name, 1)
        for place, (point, _) in enumerate(one.blocks, start=1):
            freeze(one, f"{place} blocks")
            freeze(two, point)
            assert (one.frozen_eval, parameter_counts(one)) == (two.frozen_eval, parameter_counts(two))

    def test_a_name_means_that_part_and_nothing_behind_it(self) -> None:
        network = mobilenet().train()
        assert (freeze(network, "features.0.0"), parameter_counts(network).frozen) == ("features.0.0", 864)
        assert network.body.features[0][1].training
        assert freeze(network, "1 layer") == "features.0.1"  # with its norm
        assert parameter_counts(network).frozen == 864 + 64

    def test_the_last_layer_is_all_of_it(self) -> None:
        for upto in ("52 layers", "19 blocks", "features", "features.18", "all", "body"):
            network = mobilenet().train()
            assert freeze(network, upto) == "body"
            assert not any(m.training for m in network.body.modules())
            assert network.head.training
            assert frozen_end(network, upto) == len(list(network.body.modules()))


def held_layers(network: Network) -> int:
    return sum(not module.weight.requires_grad for _, module in layers(network))  # type: ignore[union-attr]


def split_state(network: Network, upto: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and statistics of the body before and behind a freeze point, cloned."""
    end = frozen_end(network, upto)
    found: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for place, (name, module) in enumerate(network.body.named_modules()):
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        found[place >= end].update({f"{name}.{key}": value.detach().clone() for key, value in own})
    return found


class TestTraining:
    @pytest.mark.parametrize("upto", ["10 layers", "all"])
    def test_steps_change_nothing_frozen_and_everything_else(self, upto: str) -> None:
        torch.manual_seed(0)
        network = mobilenet()
        freeze(network, upto)
        held, learning = split_state(network, upto)
        assert any("running_mean" in key for key in held)
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
        for _ in range(3):
            network.train()
            network(torch.rand(4, 3, 64, 64)).square().mean().backward()
            optimizer.step()
        assert all(p.grad is None for p in network.parameters() if not p.requires_grad)
        held_after, after = split_state(network, upto)
        assert all(torch.equal(held[key], held_after[key]) for key in held)
        assert not any(torch.equal(learning[key], after[key]) for key in learning)

    def test_chance_in_frozen_parts_is_off(self) -> None:
        torch.manual_seed(0)
        network, panels = build_network("efficientnet_b0", 1).train(), torch.rand(2, 3, 64, 64)
        seen: list[Tensor] = []
        network.body.features[5].register_forward_hook(lambda m, i, o: seen.append(o.detach()))
        freeze(network, "features.5")
        for _ in range(2):
            network.train()(panels)
        assert torch.equal(*seen)
        freeze(network, "none")
        for _ in range(2):
            network.train()(panels)
        assert not torch.equal(*seen[2:])
