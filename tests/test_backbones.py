"""Bodies of networks: of libraries, the plain ones and transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from casewise.models.backbones import Network, build_network
from casewise.models.weights import NO_WEIGHTS, load_weights

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


PARAMETERS = {"cnn": 2486080, "unet_encoder": 4843552, "unet": 7899617, "unet_unpadded": 1999585, "unet_dense": 2513009}


@pytest.mark.plugins("published")
@pytest.mark.parametrize("name", PARAMETERS)
class TestEach:
    @pytest.mark.parametrize("size", [(33, 47), (200, 64)])
    def test_any_size_from_32_px(self, name: str, size: tuple[int, int]) -> None:
        network = build_network(name, 3).eval()
        size = (size[0] + 60, size[1] + 60) if name == "unet_unpadded" else size
        seen: list[torch.Size] = []
        network.body.features[-1].register_forward_hook(lambda m, i, o: seen.append(o.shape))
        with torch.no_grad():
            found = network(torch.rand(2, 3, *size))
            assert network.features(torch.rand(2, 1, *size)).shape == (2, network.width)
        assert found.shape == (2, 3)
        assert found.isfinite().all()
        assert min(seen[0][-2:]) > 1  # there is a map to explain

    def test_layers_weights_and_scaling(self, name: str) -> None:
        network = build_network(name, 2)
        assert float(network.mean.mean()) == float(network.std.mean()) == 0.5
        assert any(True for _ in network.body.named_buffers()) == (
            name == "unet_dense"
        )  # the others have no batch norm
        assert sum(p.numel() for p in network.body.parameters()) == PARAMETERS[name]
        points = dict(network.blocks)
        held = {id(p) for module in points.values() for p in module.parameters()}
        assert held == {id(p) for p in network.body.parameters()}
        assert (next(iter(points)), list(points)[-1]) == ("features.0", "classifier.0")
        network(torch.rand(4, 3, *2 * [96 if name == "unet_unpadded" else 64])).square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.plugins("published")
class TestUNet:
    @pytest.mark.parametrize(
        ("name", "size", "map_size"),
        [
            ("unet", (64, 96), (64, 96)),
            ("unet", (40, 47), (40, 47)),
            ("unet_unpadded", (128, 92), (36, 4)),
            ("unet_dense", (40, 47), (40, 47)),
        ],
    )
    def test_its_map_is_fine_and_classifies(self, name: str, size: tuple[int, int], map_size: tuple[int, int]) -> None:
        body: Any = build_network(name, 1).eval().body
        values = torch.rand(2, 3, *size)
        with torch.no_grad():
            found, before = body.map_of(values), body(values)
            assert found.shape == (2, 1, *map_size)
            assert 0 <= found.min() < found.max() <= 1
            body.map.weight.mul_(-1)
            assert not torch.equal(body(values), before)

    def test_a_dense_block_reads_what_all_layers_before_it_gave(self) -> None:
        block: Any = build_network("unet_dense", 1).eval().body.features[1][-1]
        maps = torch.rand(1, 32, 8, 8)
        with torch.no_grad():
            result = block(maps)
            assert result.shape == (1, 64, 8, 8)
            assert torch.equal(result[:, :32], maps)
            for number, layer in enumerate(block.layers):
                end = 32 + 8 * number
                torch.testing.assert_close(result[:, end : end + 8], layer(result[:, :end]))

    def test_a_concatenation_is_in_place(self) -> None:
        body: Any = build_network("unet", 1).eval().body
        with torch.no_grad():
            for enlarge in body.enlarge:
                enlarge.weight.zero_()
            values = torch.zeros(1, 3, 64, 64)
            dark = body.map_of(values)
            values[..., 20, 30] = 1.0
            rows, columns = torch.where((body.map_of(values) != dark)[0, 0])
        assert len(rows) > 0
        assert max((rows - 20).abs().max(), (columns - 30).abs().max()) <= 4  # four convolutions of 3 x 3


class TestWeights:
    @pytest.mark.parametrize("weights", ["pretrained", "folder"])
    def test_it_stays_random_and_says_so_where_others_are_pretrained(self, weights: str, tmp_path: Path) -> None:
        network = build_network("cnn", 2)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        stated = str(tmp_path) if weights == "folder" else weights
        assert load_weights(network, stated, folder=tmp_path) == (NO_WEIGHTS, [])
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
        assert load_weights(network, "random")[0] == "random, as the study states"


NAME = "test_vit"  # of timm: 160 px, patches of 16


def built(side: int | None = None, name: str = NAME, **options: Any) -> Network:
    torch.manual_seed(0)
    return build_network(name, 2, side=side, **options).eval()


def library_file(folder: Path, name: str = NAME, **changes: Tensor) -> Path:
    torch.manual_seed(7)
    tensors = build_network(name, 1).body.state_dict() | {"head.weight": torch.zeros(3, 64)} | changes
    path = folder / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    return path


class TestSize:
    def test_without_a_side_it_is_the_library_s(self) -> None:
        import timm

        torch.manual_seed(0)
        body, network = timm.create_model(NAME, pretrained=False, num_classes=0).eval(), built()
        panels = torch.rand(2, 3, 160, 160)
        with torch.no_grad():
            assert torch.equal(network.features(panels), body((panels - 0.5) / 0.5))
        assert set(network.body.state_dict()) == set(body.state_dict())

    @pytest.mark.parametrize(("side", "patches"), [(192, 12), (150, 10), (17, 2)])
    def test_any_side_gives_features_and_gradients(self, side: int, patches: int) -> None:
        network = built(side).train()
        assert network.body.pos_embed.shape[1] == patches**2 + 1
        network(torch.rand(2, 3, side, side)).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())

    @torch.no_grad()
    def test_a_panel_between_two_sizes_is_padded_at_its_end(self) -> None:
        network, whole = built(150), built(160)
        assert whole.load_state_dict(network.state_dict()).missing_keys == []
        panels = torch.rand(2, 3, 150, 150)
        padded = torch.nn.functional.pad(panels, (0, 10, 0, 10), value=0.5)  # the mean: 0 in normalised units
        assert torch.allclose(network.features(panels), whole.features(padded), atol=1e-6)


class TestPositions:
    @pytest.mark.parametrize(("side", "patches"), [(192, 12), (100, 7), (160, 10)])
    def test_of_more_or_fewer_they_are_interpolated(self, side: int, patches: int, tmp_path: Path) -> None:
        rows = torch.linspace(0, 1, 10).view(10, 1, 1).expand(10, 10, 64)  # position tells the row
        given = torch.cat([torch.full((1, 1, 64), 5.0), rows.reshape(1, 100, 64)], dim=1)
        path, network = library_file(tmp_path, pos_embed=given), built(side)
        said, _ = load_weights(network, str(path))
        found = network.body.pos_embed.detach()
        assert (found[0, 0] == 5).all()  # the class token has no place
        grid = found[0, 1:].reshape(patches, patches, 64)
        assert torch.allclose(grid, grid[:, :1, :1].expand_as(grid), atol=1e-5)
        assert (grid[1:, 0, 0] > grid[:-1, 0, 0]).all()
        assert float(grid.mean()) == pytest.approx(0.5, abs=0.01)
        if patches == 10:
            assert said == f"file {path}"
        else:
            assert said.endswith(f"; its position embeddings interpolated from 10×10 to {patches}×{patches} patches")

    @pytest.mark.parametrize("kind", ["early", "late", "late-shared"])
    def test_fused_networks_have_them_too(self, kind: Any, tmp_path: Path) -> None:
        path, network = library_file(tmp_path), built(192, fusion=kind, sequences=2, missing="mask")
        said, _ = load_weights(network, str(path))
        assert "from 10×10 to 12×12 patches" in said
        assert ("adapted to 2 sequences" in said) == (kind == "early")
        shapes = {tuple(body.get_parameter("pos_embed").shape) for body in network.bodies}
        assert shapes == {(1, 145, 64)}
        with torch.no_grad():
            assert network(torch.rand(1, 2, 192, 192)).isfinite().all()
