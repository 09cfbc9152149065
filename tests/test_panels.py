import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from casewise.modalities.dataset import PanelData
from casewise.modalities.panels import EMPTY, augmented, chunks, draw, plain
from casewise.modalities.shape_variation import Bars, ShapeVariation, Stretch
from casewise.study.schema import Panels

STORE = torch.randint(1, 256, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
MANY = torch.full((400, 1), 4)
PASI = Panels(by="region", grid="2x2", shuffle=True, rotate=180, brightness=0.2, contrast=0.2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 30), st.integers(1, 9))
def test_chunks_show_every_tile_once(count: int, slots: int) -> None:
    found = chunks(list(range(count)), slots)
    assert all(len(view) == slots for view in found)
    shown = [t for view in found for t in view if t != EMPTY]
    assert (shown, len(found)) == (list(range(count)), -(-count // slots))


@given(st.integers(1, 9), st.integers(0, 50))
def test_drawn_slots_hold_different_tiles(count: int, seed: int) -> None:
    found = draw(list(range(count)), PASI, seeded(seed))
    shown = [t for t in found if t != EMPTY]
    assert len(found) == 4
    assert len(set(shown)) == len(shown) == min(count, 4)


def test_empty_slots_are_black_and_tiles_lie_row_by_row() -> None:
    panel = plain(STORE, torch.tensor([[4, 5, EMPTY, 6]]), PASI)[0]
    assert panel.shape == (3, 32, 32)
    assert torch.equal(panel[:, :16, :16], STORE[4] / 255)
    assert torch.equal(panel[:, :16, 16:], STORE[5] / 255)
    assert panel[:, 16:, :16].abs().max() == 0
    assert torch.equal(panel[:, 16:, 16:], STORE[6] / 255)
    slots, still = torch.tensor([[4, 5, EMPTY, 6]]), Panels(by="case", grid="2x2")
    assert torch.equal(augmented(STORE, slots, still, seeded()), plain(STORE, slots, still))
    varied = augmented(STORE, slots, PASI, seeded(1))[0]
    assert 0 <= varied.min() <= varied.max() <= 1
    assert varied[:, 16:, :16].abs().max() == 0
    assert torch.equal(varied, augmented(STORE, slots, PASI, seeded(1))[0])
    assert not torch.equal(varied, augmented(STORE, slots, PASI, seeded(2))[0])


def test_the_black_around_a_photograph_stays_black_under_brightness_and_contrast() -> None:
    store = STORE.clone()
    store[0, :, :4] = 0
    only = Panels(by="image", brightness=0.5, contrast=0.5)
    panel = augmented(store, torch.tensor([[0]]), only, seeded())[0]
    assert panel[:, :4].abs().max() == 0
    assert panel[:, 4:].max() > 0


@pytest.mark.parametrize(
    ("flip", "shares"),
    [
        ("horizontal", {"left-right": 1 / 2}),
        ("vertical", {"up-down": 1 / 2}),
        ("both", {"left-right": 1 / 4, "up-down": 1 / 4, "half turn": 1 / 4}),
        ("dihedral", dict.fromkeys(["left-right", "up-down", "half turn", *"abcd"], 1 / 16)),
    ],
)
def test_flips(flip: str, shares: dict[str, float]) -> None:
    tile = STORE[4] / 255
    views = {"left-right": tile.flip(2), "up-down": tile.flip(1), "half turn": tile.flip((1, 2))}
    turned = {"a": tile.rot90(1, (1, 2)), "b": tile.rot90(3, (1, 2)), "c": tile.mT, "d": tile.mT.flip((1, 2))}
    seen = augmented(STORE, MANY, Panels(flip=flip), seeded())
    for name, view in (views | turned | {"itself": tile}).items():
        share = 1 - sum(shares.values()) if name == "itself" else shares.get(name, 0)
        assert ((seen - view).abs().amax((1, 2, 3)) < 1e-6).float().mean() == pytest.approx(share, abs=0.06), name


NAMED = {"augmentation": "fastai-default"}


@pytest.mark.parametrize(
    ("settings", "means", "pixels"),
    [
        (PASI, [0.30685, 0.42041, 0.25743, 0.42689, 0.49342, 0.28676], [0.4949, 0.576, 0.3969, 0.4953, 0.7319, 0.3046]),
        (
            Panels(by="image", flip="both", rotate=20, translate=0.1, zoom=0.2, brightness=0.3),
            [0.42646, 0.61662, 0.36735, 0.4554, 0.5415, 0.33346],
            [0.3819, 0.6668, 0.3031, 0.5708, 0.5458, 0.3552],
        ),
    ],
    ids=["psoriasis", "turned and shifted"],
)
def test_former_settings_draw_what_they_drew(settings: Panels, means: list[float], pixels: list[float]) -> None:
    """Figures of the code before perspective, enlarging and shares came in: finished studies can be run again."""
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    store = torch.stack([torch.stack([40 + 10 * k + 6 * x + 3 * y, 200 - 5 * x + 2 * k, 30 + 9 * y]) for k in range(6)])
    slots = torch.tensor([[0, 1, 2, EMPTY], [3, 4, EMPTY, 5]] if settings.slots == 4 else [[0], [3]])
    generator, drawn_before = seeded(7), seeded(7)
    found = augmented((store % 256).byte(), slots, settings, generator)
    torch.rand(slots.numel(), 8, generator=drawn_before)
    assert torch.equal(generator.get_state(), drawn_before.get_state())
    assert found.mean(dim=(2, 3)).flatten().tolist() == pytest.approx(means, abs=1e-4)
    assert [*found[0, :, 5, 9].tolist(), *found[1, :, 9, 5].tolist()] == pytest.approx(pixels, abs=1e-3)


def test_the_named_set_is_what_it_says() -> None:
    named = Panels.model_validate(NAMED)
    assert (named.rotate, named.flip, named.zoom_in, named.perspective) == (10, "dihedral", 0.1, 0.2)
    assert (named.brightness, named.contrast, named.probability, named.padding_mode) == (0.2, 0.2, 0.75, "reflect")
    found = augmented(STORE, torch.arange(9).unsqueeze(1), named, seeded())
    assert 0 <= found.min() <= found.max() <= 1
    own = Panels.model_validate({**NAMED, "flip": "horizontal", "perspective": 0})
    assert (own.flip, own.perspective, own.zoom_in) == ("horizontal", 0, 0.1)


def test_a_change_that_is_not_drawn_leaves_the_tile_as_it_is() -> None:
    settings = Panels.model_validate(NAMED | {"flip": "none", "probability": 1e-9})
    seen = augmented(STORE, MANY, settings, seeded())
    assert (seen - STORE[4] / 255).abs().max() < 1e-5
    # the enlarged part of a tile may be anywhere: its mean varies as the picture does
    enlarged = Panels.model_validate(NAMED | {"flip": "none", "rotate": 0, "perspective": 0, "probability": 1})
    still = enlarged.model_copy(update={"augmentation": "as_stated"})
    ramp = torch.arange(16, dtype=torch.uint8).mul(10).expand(5, 3, 16, 16).contiguous()
    bare = {"brightness": 0.0, "contrast": 0.0, "zoom_in": 1.0}
    both = [one.model_copy(update=bare) for one in (enlarged, still)]
    spread = [augmented(ramp, MANY, one, seeded())[:, 0].mean((1, 2)) for one in both]
    assert spread[0].std() > 0.03 > 1e-3 > spread[1].std()


def test_a_share_of_tiles_varies() -> None:
    still = STORE[4] / 255

    def changed(settings: Panels) -> torch.Tensor:
        return (augmented(STORE, MANY, settings, seeded(3)) - still).abs().amax(dim=(1, 2, 3)) > 1e-4

    moved, toned = changed(Panels(rotate=30, probability=0.4)), changed(Panels(brightness=0.3, probability=0.4))
    assert moved.float().mean() == pytest.approx(0.4, abs=0.08)
    assert toned.float().mean() == pytest.approx(0.4, abs=0.08)
    assert (moved & toned).float().mean() == pytest.approx(0.16, abs=0.06)  # each is drawn on its own
    assert changed(Panels(rotate=30)).float().mean() > 0.98
    assert torch.equal(changed(Panels(rotate=30, brightness=0.3, probability=0.4)), moved | toned)


def test_the_edge_is_black_or_mirrored() -> None:
    white = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    black = augmented(white, MANY * 0, Panels(rotate=30, translate=0.2), seeded())
    assert black.amin() == 0
    settings = Panels(rotate=30, translate=0.2, perspective=0.3, padding_mode="reflect")
    mirrored = augmented(white, MANY * 0, settings, seeded())
    assert mirrored.amin() > 0.999


def test_a_cpu_evaluates_fewer_views_together_if_they_are_large() -> None:
    def together(side: int, panels: Panels, batch: int = 32, device: str = "cpu") -> int:
        store = torch.zeros((1, 3, side, side), dtype=torch.uint8)
        return PanelData(store, [[0]], torch.zeros(1, 1), panels).eval_batch_size(batch, torch.device(device))

    assert (together(32, Panels(by="image")), together(224, Panels(by="image"))) == (4 * 32, 16)
    assert together(112, Panels(grid="2x2", by="region")) == 16
    assert together(4000, Panels(by="image")) == 1
    assert together(224, Panels(by="image"), batch=2) == 8
    assert together(224, Panels(by="image"), device="meta") == 4 * 32


@pytest.mark.parametrize(
    "shapes",
    [
        None,
        Bars(torch.tensor([[0, 4, 16, 8], [2, 0, 12, 16], [0, 0, 16, 16]])),
        Stretch(torch.tensor([0.5, 1.0, 2.0]), 0.5, 2.0),
    ],
)
def test_panels_are_made_on_the_device_of_the_network(shapes: ShapeVariation | None) -> None:
    # a tensor on "meta" has no values, and an operation refuses tensors of two devices as on a GPU
    settings = Panels.model_validate({**NAMED, "grid": "1x2", "by": "region", "shuffle": True})
    store = torch.randint(0, 255, (3, 3, 16, 16), dtype=torch.uint8)
    data = PanelData(store, [[0, 1], [2]], torch.zeros(2, 1), settings, shapes=shapes)
    panels, _ = data.training_batch([0, 1], torch.Generator(), torch.device("meta"))
    plain_panels = data.plain_batch(data.views()[0], torch.device("meta"))
    assert [value.device.type for value in (panels, plain_panels)] == ["meta"] * 2
    assert panels.shape == plain_panels.shape == (2, 3, 16, 32)
    with pytest.raises(RuntimeError, match="device"):
        _ = panels + torch.zeros(panels.shape)
