"""timm's networks at any size of panel, and their published positions at another size."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from casewise.errors import StudyError, WeightsError
from casewise.models.backbones import Network, build_network
from casewise.models.weights import load_weights

NAME = "test_vit"  # of timm: 160 px, patches of 16


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


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
        body = timm.create_model(NAME, pretrained=False, num_classes=0).eval()
        network = built()
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

    def test_a_size_that_cannot_be_is_told(self) -> None:
        for name, side, published in (("test_coatnet", 100, 160), ("swin_tiny_patch4_window7_224", 90, 224)):
            words = f"{name} cannot be built for panels of {side} px .* published for {published} px"
            with pytest.raises(StudyError, match=words):
                built(side, name)
        assert build_network("test_coatnet", 1, side=192).body.training


class TestPositions:
    @pytest.mark.parametrize(("side", "patches"), [(192, 12), (100, 7), (160, 10)])
    def test_of_more_or_fewer_they_are_interpolated(self, side: int, patches: int, tmp_path: Path) -> None:
        rows = torch.linspace(0, 1, 10).view(10, 1, 1).expand(10, 10, 64)  # position tells the row
        given = torch.cat([torch.full((1, 1, 64), 5.0), rows.reshape(1, 100, 64)], dim=1)
        path = library_file(tmp_path, pos_embed=given)
        network = built(side)
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
        path = library_file(tmp_path)
        network = built(192, fusion=kind, sequences=2, missing="mask")
        said, _ = load_weights(network, str(path))
        assert "from 10×10 to 12×12 patches" in said
        assert ("adapted to 2 sequences" in said) == (kind == "early")
        shapes = {tuple(body.get_parameter("pos_embed").shape) for body in network.bodies}
        assert shapes == {(1, 145, 64)}
        with torch.no_grad():
            assert network(torch.rand(1, 2, 192, 192)).isfinite().all()

    @pytest.mark.parametrize("shape", [(1, 100, 64), (1, 101, 32), (1, 91, 64)])
    def test_what_is_no_square_of_patches_is_refused(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="pos_embed is"):
            load_weights(built(192), str(library_file(tmp_path, pos_embed=torch.zeros(shape))))
