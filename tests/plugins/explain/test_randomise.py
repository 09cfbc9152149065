"""A network that learned is explained by what it learned: maps point at what decides, and no longer once it is gone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from casewise.models.backbones import Network, NetworkOptions, build_network
from casewise.models.outputs import Output
from casewise.plugins.explain.methods.randomise import fully_randomised, randomised, similarities, spearman, ssim
from casewise.plugins.explain.methods.target import ExplainTarget
from casewise.plugins.explain.metrics import hit
from casewise.study.sources import Body
from tests.plugins.explain.maps import explain

SIDE = 48
LABEL = ExplainTarget((Output("label", "classification", 3),), "label")
NORMAL = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Panels with a bright blob in each quarter, masks of the one that decides, and the classes.

    Three blobs are green and say nothing; the fourth is red, blue or green too, which is the class: without the third
    class a network need only look for one colour, and nothing would speak for the other. All are equally bright, so
    that a network that learned nothing finds the right one by chance only.
    """
    generator = torch.Generator().manual_seed(seed)
    grid = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij"))
    panels = 0.1 * torch.rand(count, 3, SIDE, SIDE, generator=generator)
    labels, masks = torch.randint(3, (count,), generator=generator), torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for number in range(count):
        for place, quarter in enumerate(torch.randperm(4, generator=generator).tolist()):
            corner = torch.tensor([quarter // 2, quarter % 2]) * (SIDE // 2)
            centre = corner + torch.randint(6, SIDE // 2 - 6, (2,), generator=generator)
            inside = ((grid - centre[:, None, None]) ** 2).sum(dim=0) <= 36
            if place == 0:
                masks[number] = inside
            panels[number, (0, 2, 1)[int(labels[number])] if place == 0 else 1][inside] = 0.9
    return panels, masks, labels


def convolutions() -> Network:
    layers: list[nn.Module] = []
    for place, (before, width) in enumerate(((3, 8), (8, 16), (16, 16))):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(), *([nn.MaxPool2d(2)] if place < 2 else [])]
    body = nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network("toy", Body(body, 16, NORMAL), 3, NetworkOptions())


def transformer() -> Network:
    import timm

    body: Any = timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, patch_size=6, embed_dim=32, depth=2, num_heads=2, num_classes=0
    )
    return Network("toy transformer", Body(body, 32, NORMAL), 3, NetworkOptions())


def fused() -> Network:
    return build_network("mobilenet_v3_small", 2, fusion="late", sequences=2, missing="mask")


def learned(make: Callable[[], Network], steps: int, *, count: int = 256) -> Network:
    torch.manual_seed(0)
    network = make()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    panels, _, labels = blobs(count, 1)
    for step in range(steps):
        rows = torch.randperm(count, generator=torch.Generator().manual_seed(step))[:32]
        loss = nn.functional.cross_entropy(network(panels[rows]), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    optimiser.zero_grad()
    return network.eval()


@pytest.fixture(scope="module")
def tested() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return blobs(120, 7)


@pytest.fixture(scope="module")
def cnn() -> Network:
    torch.set_num_threads(1)
    return learned(convolutions, 150)


def hits(network: Network, panels: torch.Tensor, masks: torch.Tensor) -> float:
    """How often the peak of the map lies in the blob that decides."""
    maps = explain(network, panels, LABEL).numpy()
    return float(np.mean([hit(one, mask) for one, mask in zip(maps, masks.numpy(), strict=True)]))


def check(network: Network, tested: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> tuple[float, list[float]]:
    panels, masks, labels = tested
    with torch.no_grad():
        right = network(panels).argmax(dim=1) == labels
    assert right.float().mean() > 0.95
    right &= labels < 2
    found = hits(network, panels[right], masks[right])
    chance = [hits(fully_randomised(network, seed=seed), panels[right][:40], masks[right][:40]) for seed in range(10)]
    return found, chance


def test_grad_cam_points_at_what_decides_and_at_chance_without_the_weights(cnn: Network, tested: Any) -> None:
    found, chance = check(cnn, tested)
    assert found >= 0.95
    # one of four blobs, or none of them
    assert np.mean(chance) < 0.35


@pytest.mark.slow
def test_rollout_points_at_what_decides(tested: Any) -> None:
    found, chance = check(learned(transformer, 250, count=1500), tested)
    assert found >= 0.95
    assert np.mean(chance) < 0.6


def test_maps_lose_their_likeness_with_the_weights(cnn: Network, tested: Any) -> None:
    asked, panels = ExplainTarget(LABEL.outputs, "label", class_index=1), tested[0][tested[2] == 1][:12]

    def maps_of(network: Network, given: torch.Tensor) -> torch.Tensor:
        return explain(network, given, asked)

    told = similarities(cnn, panels, maps_of, seed=1)
    assert [one.down_to for one in told] == ["head", "0.6", "0.3", "0.0", "body"]
    assert [step.groups for step in told] == [1, 2, 3, 4, 5]
    assert all(one.ssim < 0.9 for one in told)
    assert told[-1].ssim < 0.3
    assert told[-1].spearman is None or abs(told[-1].spearman) < 0.6


@pytest.mark.parametrize("make", [transformer, lambda: build_network("resnet18", 2), fused])
def test_everything_learned_is_drawn_anew_part_by_part(make: Callable[[], Network]) -> None:
    network = make()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7.0)
    left = []
    for _, changed in randomised(network, seed=3):
        left.append(sum(int((p == 7).all()) for p in changed.parameters()))
        assert all(p.isfinite().all() for p in changed.parameters())
    assert (left, left[0], left[-1]) == (sorted(left, reverse=True), len(list(network.parameters())) - 2, 0)


def test_spearman_and_ssim_of_known_maps() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    one, other = rng.random((20, 20)), rng.random((20, 20)).round(1)
    assert spearman(one, other) == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic)
    assert spearman(one, -one) == pytest.approx(-1)
    assert np.isnan(spearman(one, np.ones((20, 20))))
    assert ssim(one, one) == pytest.approx(1)
    assert abs(ssim(one, rng.random((20, 20)))) < 0.15
    # two flat maps differ in brightness only
    flat = ssim(np.full((20, 20), 0.2), np.full((20, 20), 0.6))
    assert flat == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4))
