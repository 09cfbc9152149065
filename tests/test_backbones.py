"""The scaling of inputs, and parts held in eval mode."""

from typing import Any

import pytest
import torch

from casewise.errors import StudyError
from casewise.models.backbones import MEAN, STD, build_network

ENDS = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])


def scaled(name: str, **options: Any) -> torch.Tensor:
    """What the first layer sees of a black and of a white panel: (2, 3) means."""
    network = build_network(name, 1, **options).eval()
    seen: list[torch.Tensor] = []
    first = next(m for m in network.body.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda m, i: seen.append(i[0]))
    with torch.no_grad():
        network.features(ENDS)
    return seen[0].mean(dim=(2, 3))


@pytest.mark.parametrize("name", ["mobilenet_v2", "googlenet", "test_resnet", "cnn", "unet_encoder"])
def test_symmetric_is_minus_one_to_one(name: str) -> None:
    wanted = torch.tensor([[-1.0] * 3, [1.0] * 3])
    assert torch.allclose(scaled(name, scaling="symmetric"), wanted, atol=1e-6)


def test_the_library_s_own_is_the_default() -> None:
    wanted = (torch.tensor([[0.0] * 3, [1.0] * 3]) - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(scaled("mobilenet_v2"), wanted, atol=1e-6)
    assert torch.equal(scaled("mobilenet_v2"), scaled("mobilenet_v2", scaling="library"))
    assert torch.allclose(scaled("googlenet"), torch.tensor([[-1.0] * 3, [1.0] * 3]), atol=1e-5)


def test_another_scaling_is_refused() -> None:
    wrong: Any = "symetric"
    with pytest.raises(
        StudyError, match=r"must be one of library, symmetric, got 'symetric'\. Did you mean 'symmetric'"
    ):
        build_network("cnn", 1, scaling=wrong)


def test_what_is_held_stays_in_eval_mode_whoever_trains() -> None:
    network = build_network("mobilenet_v2", 1)
    outer = torch.nn.Sequential(network)
    network.keep_in_eval(["features.0.1"])
    outer.eval()
    outer.train()
    assert not network.body.features[0][1].training
    assert network.body.features[1].conv[0][1].training
    assert network.training
    network.keep_in_eval([])
    assert network.body.features[0][1].training


@pytest.mark.parametrize(
    ("name", "default", "stated"),
    [
        ("alexnet", [0.5, 0.5], [0.3, 0.3]),
        ("vgg11", [0.5, 0.5], [0.3, 0.0]),  # the second stands before the head, which has its dropout
        ("mobilenet_v2", [0.2], [0.0]),
        ("googlenet", [0.2], [0.0]),
        ("mnasnet0_5", [0.2], [0.0]),
        ("vit_tiny_patch16_224", None, None),  # its layers of dropout are not in use
    ],
)
def test_dropout_is_that_of_every_layer_which_the_library_uses(name: str, default: Any, stated: Any) -> None:
    def probabilities(**options: Any) -> tuple[list[float], float]:
        with torch.device("meta"):
            network = build_network(name, 1, **options)
        of_head, *of_body = [
            m.p for part in (network.head, network.body) for m in part.modules() if isinstance(m, torch.nn.Dropout)
        ]
        return of_body, of_head

    off = [0.0] * len(probabilities()[0])
    assert probabilities() == (off if default is None else default, 0.0)
    assert probabilities(dropout=0.3) == (off if stated is None else stated, 0.3)
    assert probabilities(dropout=0.0) == (off, 0.0)
