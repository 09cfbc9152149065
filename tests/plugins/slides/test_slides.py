"""Slides: what they say about themselves, their pixels, planned tiles, and every way to be no slide."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from casewise.errors import ImageError
from casewise.modalities.store.pixels import LANCZOS
from casewise.plugins.phantoms.pyramid import write_pyramid
from casewise.plugins.slides import modality as pieces
from casewise.plugins.slides import reader as slides
from casewise.plugins.slides import tiles as slide_tiles
from casewise.plugins.slides.reader import Slide, companion_files, is_slide, slide_facts
from casewise.plugins.slides.tiles import TilePlan, plan_tiles
from casewise.plugins.slides.tissue_mask import read_thumbnail
from tests.plugins.slides.slide_tiles import read_tiles
from tests.test_readers import difference, profile_with_red_and_green_exchanged

pytest.importorskip("openslide", reason="the package that reads slides is optional")

WIDTH, HEIGHT = 1024, 768
APERIO = "Aperio Image Library\r\n1024x768 |AppMag = {power}|MPP = {mpp}"


def scene(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Pink tissue, smoothly uneven and without symmetry, on white glass: two pieces, the left one larger."""
    picture = np.full((height, width, 3), 245, np.uint8)
    cells = np.random.default_rng(1).integers(0, 90, (9, 12, 3), dtype=np.uint8)
    tissue = cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC) // 2 + np.array([190, 70, 130], np.uint8)
    where = np.zeros((height, width), np.uint8)
    cv2.rectangle(where, (width // 16, height // 6), (width // 2, height * 5 // 6), 1, -1)
    cv2.circle(where, (width * 3 // 4, height // 2), height // 5, 1, -1)
    picture[where > 0] = tissue[where > 0]
    return picture


def write(path: Path, picture: np.ndarray | None = None, **options: Any) -> Path:
    """Write a picture as a pyramid of three levels at half a micron."""
    shown = scene() if picture is None else picture
    settings: dict[str, Any] = {"mpp": 0.5, "quality": 95} | options
    size = shown.shape[1], shown.shape[0]
    write_pyramid(path, size, lambda x, y, w, h: np.ascontiguousarray(shown[y : y + h, x : x + w]), **settings)
    return path


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("slides") / "a.tiff")


@pytest.fixture(scope="module")
def aperio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aperio")
    return write(folder / "a.svs", description=APERIO.format(power=20, mpp=0.5), mpp=None)


@pytest.fixture(scope="module")
def nameless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide that says nothing of its resolution, and has one level."""
    return write(tmp_path_factory.mktemp("nameless") / "a.tiff", mpp=None, levels=1)


def test_facts(pyramid: Path, aperio: Path, nameless: Path) -> None:
    facts = slide_facts(pyramid)
    assert (facts.width, facts.height, facts.vendor) == (WIDTH, HEIGHT, "generic-tiff")
    assert (facts.levels, facts.mpp) == (((1024, 768, 1.0), (256, 192, 4.0), (64, 48, 16.0)), pytest.approx(0.5))
    assert facts.magnification is None
    assert (facts.bytes, facts.notes) == (pyramid.stat().st_size, ())
    facts = slide_facts(aperio)
    assert (facts.vendor, facts.mpp, facts.magnification) == ("aperio", 0.5, 20.0)
    facts = slide_facts(nameless)
    assert (facts.mpp, facts.magnification, len(facts.levels)) == (None, None, 1)


def test_a_slide_is_told_by_its_content(pyramid: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "a.dat"
    renamed.write_bytes(pyramid.read_bytes())
    (tmp_path / "cut.svs").write_bytes(pyramid.read_bytes()[:-300])
    assert is_slide(pyramid)
    assert is_slide(renamed)
    assert is_slide(tmp_path / "cut.svs")
    for name in ("a.jpg", "b.svs", "a.png", "plain.tiff"):
        Image.new("RGB", (300, 300)).save(tmp_path / name, format="JPEG" if name == "b.svs" else None)
        assert not is_slide(tmp_path / name)
    (tmp_path / "text.svs").write_text("path,subject\n")
    assert not any(is_slide(path) for path in (tmp_path / "text.svs", tmp_path, tmp_path / "missing.svs"))


BAD: dict[str, tuple[Callable[[Path, bytes], object], str]] = {
    "folder": (lambda path, _: path.mkdir(), "this is a folder"),
    "missing": (lambda path, data: path.with_name("a.svz").write_bytes(data), r"no such file\. Did you mean 'a\.svz'"),
    "empty": (lambda path, _: path.write_bytes(b""), "0 bytes"),
    "text": (lambda path, _: path.write_text("path,subject\n" * 9), "a text file, not a slide"),
    "photograph": (lambda path, _: Image.new("RGB", (9, 9)).save(path, "JPEG"), "a JPEG, PNG or WebP, not a slide"),
    "plain TIFF": (lambda path, _: Image.new("RGB", (9, 9)).save(path, "TIFF"), "this TIFF is not a slide"),
    "half": (lambda path, data: path.write_bytes(data[: len(data) // 2]), "cut short .* its directory 1 is at"),
    "nearly whole": (lambda path, data: path.write_bytes(data[:-300]), "cut short .* its directory 3 is at"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_slide_is_named(pyramid: Path, tmp_path: Path, name: str) -> None:
    make, message = BAD[name]
    make(tmp_path / "a.svs", pyramid.read_bytes())
    with pytest.raises(ImageError, match=message) as caught:
        slide_facts(tmp_path / "a.svs")
    assert str(tmp_path / "a.svs") in str(caught.value)


def test_damage_is_found_while_reading_and_placed(pyramid: Path, tmp_path: Path) -> None:
    data = bytearray(pyramid.read_bytes())
    # The second tile of level 0.
    at = data.index(b"\xff\xd8\xff", data.index(b"\xff\xd8\xff") + 9)
    data[at : at + 400] = bytes(400)
    path = tmp_path / "a.tiff"
    path.write_bytes(data)
    assert slide_facts(path).width == WIDTH
    read = read_tiles(path, np.array([[0, 0, 128], [128, 0, 128], [256, 0, 128]]), side=128)
    assert next(read).shape == next(read).shape == (3, 128, 128)
    with pytest.raises(ImageError, match=r"a\.tiff: 128 x 128 pixels at x 256, y 0 of level 0 .* copy it again"):
        next(read)


def test_no_read_is_larger_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat, path = np.full((9, 9, 3), 200, np.uint8), tmp_path / "a.tiff"
    write_pyramid(path, (6000, 3000), lambda x, y, w, h: cv2.resize(flat, (w, h)), mpp=0.5, levels=1)
    boxes: list[tuple[int, int, int, int]] = []
    real = Slide.region
    monkeypatch.setattr(Slide, "region", lambda self, level, box: boxes.append(box) or real(self, level, box))
    with Slide(path) as slide:
        picture, seen, downsample = read_thumbnail(slide)
        assert slide.memory < 300 * 2**20
    assert picture.shape == (500, 1000, 3)
    assert (seen.shape, downsample) == ((500, 1000), 6.0)
    assert seen.all()
    assert len(list(read_tiles(path, np.array([[0, 0, 3000], [2999, 0, 3000]]), side=64))) == 2
    assert max(max(width, height) for _, _, width, height in boxes) <= slides.BLOCK
    # Nothing is read twice: the thumbnail and twice half of the slide.
    assert sum(width * height for _, _, width, height in boxes) == 2 * 6000 * 3000


@pytest.mark.parametrize(
    ("plan", "slide", "span", "note"),
    [
        (TilePlan(side=64), "aperio", 64, ""),
        (TilePlan(side=64, mpp=1.0), "aperio", 128, "no level has 1 µm per pixel; level 0 is read and reduced by 2.00"),
        (TilePlan(side=64, mpp=0.25), "aperio", 32, "no level is as fine as 0.25 µm per pixel; level 0 .* by 2.00"),
        (TilePlan(side=64, magnification=4), "aperio", 320, "no level has 4x; level 1 is read and reduced by 1.25"),
        (TilePlan(side=64, level=1), "aperio", 256, ""),
        (TilePlan(side=16, level=2), "nameless", 16, "no level 2; level 0, the coarsest, is used"),
        (TilePlan(side=8, level=3), "aperio", 128, "no level 3; level 2, the coarsest, is used"),
        (TilePlan(side=64, mpp=1.0, assume_mpp=0.25), "nameless", 256, "0.25 µm, as .*in the study, is assumed"),
        (TilePlan(side=64, mpp=2.0, assume_mpp=9.0), "aperio", 256, ""),
    ],
)
def test_resolution_and_side(plan: TilePlan, slide: str, span: int, note: str, request: pytest.FixtureRequest) -> None:
    planned = plan_tiles(request.getfixturevalue(slide), plan)
    assert set(planned.boxes[:, 2]) == {span}
    if note:
        assert re.search(note, " ".join(planned.notes))
    else:
        assert planned.notes == ()


def test_a_resolution_that_is_not_said_is_never_guessed(nameless: Path, pyramid: Path, tmp_path: Path) -> None:
    bare = write(tmp_path / "a.svs", description="Aperio Image Library\r\n1x1 |AppMag = 20", mpp=None)
    facts = slide_facts(bare)
    assert (facts.mpp, facts.magnification) == (None, 20.0)
    with pytest.raises(ImageError, match=r"magnification, 20: state `magnification` instead.* `assume_mpp`"):
        plan_tiles(bare, TilePlan(mpp=1.0))
    with pytest.raises(ImageError, match=r"State `level` instead.* `assume_mpp`"):
        plan_tiles(nameless, TilePlan(mpp=1.0))
    with pytest.raises(ImageError, match=r"states its mpp, 0\.5: state `mpp` instead"):
        plan_tiles(pyramid, TilePlan(magnification=10))
    with pytest.raises(ImageError, match="State `level` instead"):
        plan_tiles(nameless, TilePlan(magnification=10))


def test_tiles_lie_on_the_tissue_in_raster_order(pyramid: Path) -> None:
    planned = plan_tiles(pyramid, TilePlan(side=32, min_tissue=0.8))
    boxes = planned.boxes
    assert boxes.dtype == np.int64
    assert len(planned) == planned.candidates == len(boxes) == len(planned.shares)
    assert boxes.tolist() == sorted(boxes.tolist(), key=lambda box: (box[1], box[0]))
    assert (boxes[:, :2] % 32 == 0).all()
    assert (planned.shares >= 0.8).all()
    picture = scene()
    white = [(picture[y : y + s, x : x + s] > 240).all(axis=2).mean() for x, y, s in boxes.tolist()]
    assert max(white) < 0.3
    # Most of the tissue is on them.
    assert len(boxes) * 32 * 32 > 0.85 * (picture < 240).any(axis=2).sum()
    assert (planned.mask.shape, planned.downsample) == ((HEIGHT, WIDTH), 1.0)


def test_at_most_so_many_are_spread_over_the_tissue(pyramid: Path) -> None:
    every, some = plan_tiles(pyramid, TilePlan(side=32)), plan_tiles(pyramid, TilePlan(side=32, max_tiles=40))
    assert (len(some), some.candidates) == (40, len(every))
    assert {tuple(box) for box in some.boxes} <= {tuple(box) for box in every.boxes}
    assert np.array_equal(some.boxes, plan_tiles(pyramid, TilePlan(side=32, max_tiles=40)).boxes)
    # In each part of the slide as many as its share of the tissue, within the rounding of a few runs of the curve.
    for axis, middle in ((0, WIDTH // 2), (0, WIDTH // 4), (1, HEIGHT // 2)):
        expected = (every.boxes[:, axis] < middle).mean()
        assert (some.boxes[:, axis] < middle).mean() == pytest.approx(expected, abs=0.08)
    assert len(plan_tiles(pyramid, TilePlan(side=32, max_tiles=10**6))) == len(every)


def test_a_slide_without_tissue_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(240, 248, (600, 800, 3), dtype=np.uint8)
    path = write(tmp_path / "empty.tiff", noise)
    with pytest.raises(ImageError, match=r"empty\.tiff: there is no tissue on this slide\. Leave it out"):
        plan_tiles(path, TilePlan(side=64))
    assert len(plan_tiles(path, TilePlan(side=64, min_tissue=0))) == 12 * 9


def test_tiles_of_a_level_are_its_pixels(pyramid: Path) -> None:
    for level, times in ((0, 1), (1, 4)):
        boxes = np.array([[0, 0, 64], [40, 80, 64], [136, 64, 64]]) * times
        with Slide(pyramid) as slide:
            regions = (slide.region(level, (x // times, y // times, 64, 64)) for x, y, _ in boxes.tolist())
            stored = [region.convert("RGB") for region in regions]
        for tile, expected in zip(read_tiles(pyramid, boxes, side=64), stored, strict=True):
            assert tile.dtype == np.uint8
            assert np.array_equal(tile, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("span", [40, 64, 97, 128, 256, 300, 511])
def test_tiles_of_any_resolution_lie_where_they_should(pyramid: Path, span: int) -> None:
    picture, boxes = Image.fromarray(scene()), np.array([[64, 130, span], [101, 203, span]])
    for (x, y, _), tile in zip(boxes.tolist(), read_tiles(pyramid, boxes, side=64), strict=True):
        expected = picture.resize((64, 64), LANCZOS, box=(x, y, x + span, y + span))
        assert difference(tile.transpose(1, 2, 0), np.asarray(expected)) < 1.5


def test_a_colour_profile_is_applied(pyramid: Path) -> None:
    image = Image.new("RGB", (4, 4), (220, 30, 40))
    with Slide(pyramid) as slide:
        assert slide.in_srgb(image).getpixel((0, 0)) == (220, 30, 40)
    with Slide(pyramid) as slide:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_with_red_and_green_exchanged()))
        handle, slide._slide = slide._slide, SimpleNamespace(color_profile=profile)
        assert np.abs(np.asarray(slide.in_srgb(image)).astype(int) - (30, 220, 40)).max() <= 3
        slide._slide = handle


def test_a_level_without_room_for_a_tile_is_refused_with_the_levels_there_are(pyramid: Path) -> None:
    levels = r"0 of 1,024 x 768, 1 of 256 x 192, 2 of 64 x 48 px"
    with pytest.raises(ImageError, match=rf"64 px at level 2 \(it has the levels {levels}\) is 1,024 px wide"):
        plan_tiles(pyramid, TilePlan(side=64, level=2))


class TestSlidesOfSeveralFiles:
    """Their names, times and contents; what OpenSlide makes of them is not of interest here."""

    @staticmethod
    def made(folder: Path, kind: str, data: bytes = b"pixels") -> tuple[Path, Path]:
        """The file that is named, and one that holds pixels."""
        folder.mkdir(exist_ok=True)
        if kind == "mrxs":
            (folder / "a").mkdir(exist_ok=True)
            named, beside = folder / "a.mrxs", folder / "a" / "Data0000.dat"
            named.write_bytes(b"a preview")
        elif kind == "vms":
            named, beside = folder / "a.vms", folder / "other_0_0.jpg"
            named.write_text("[Virtual Microscope Specimen]\r\nNoLayers=1\r\nImageFile=other_0_0.jpg\r\n")
        else:
            named, beside = folder / "1.dcm", folder / "2.dcm"
            named.write_bytes(bytes(128) + b"DICM" + b"..1.2.840.10008.5.1.4.1.1.77.1.6..")
        beside.write_bytes(data)
        return named, beside

    @pytest.mark.parametrize("kind", ["mrxs", "vms", "dcm"])
    def test_a_replaced_file_is_another_plan_and_other_tiles(self, tmp_path: Path, kind: str) -> None:
        named, beside = self.made(tmp_path, kind)
        assert companion_files(named) == [beside]
        plan, piece = slide_tiles.name_of(named, TilePlan()), pieces.SlideTile(named, 0, 0, 64)
        assert plan == slide_tiles.name_of(named, TilePlan())
        beside.write_bytes(b"other pixels")
        assert plan != slide_tiles.name_of(named, TilePlan())
        assert str(piece) != str(pieces.SlideTile(named, 0, 0, 64))
