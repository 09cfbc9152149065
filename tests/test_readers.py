"""Reading images: scaled decoding, orientation, modes, colour, and every way to be no image."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin

from casewise.errors import ImageError
from casewise.modalities.store.pixels import LANCZOS, reduced
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.readers import PIXEL_LIMIT, decode_jpeg, fit, image_facts, open_source, read_image

FORMATS = {"JPEG": "jpg", "PNG": "png", "TIFF": "tif", "WebP": "webp"}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A coloured, uneven picture without symmetry, so that a wrong turn shows."""
    cells = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, *, orientation: int | None = None, **options: Any) -> Path:
    """Save with an EXIF orientation."""
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    image.save(path, **options)
    return path


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference in grey levels of images of the same shape."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def decoded_whole(path: Path, size: int) -> np.ndarray:
    """What Pillow makes of the file with full decoding and its own turning."""
    with Image.open(path) as image:
        whole = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(whole.resize(reduced(*whole.size, size), LANCZOS))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(1600, 1000), (803, 801)])
def test_scaled_decoding_is_close_to_full_decoding(tmp_path: Path, shape: tuple[int, int], orientation: int) -> None:
    path = save(picture(*shape), tmp_path / "a.jpg", orientation=orientation, quality=90)
    source = open_source(path, path.read_bytes())
    assert source.scale(source.target(64)) >= 4
    scaled = read_image(path, size=64)
    assert scaled.dtype == np.uint8
    assert difference(scaled, decoded_whole(path, 64)) < 0.7
    turned, facts = orientation >= 5, image_facts(path)
    assert (facts["width"], facts["height"]) == (shape[::-1] if turned else shape)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("name", ["PNG", "TIFF", "WebP"])
def test_every_format_is_turned_once(tmp_path: Path, name: str, orientation: int) -> None:
    options = {"lossless": True} if name == "WebP" else {}
    path = save(picture(60, 40), tmp_path / f"a.{FORMATS[name]}", orientation=orientation, **options)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(read_image(path), expected)
    facts = image_facts(path)
    assert facts["format"] == name
    assert (facts["height"], facts["width"]) == expected.shape[:2]


def test_a_png_may_tell_its_orientation_after_its_pixels(tmp_path: Path) -> None:
    path = save(picture(60, 40), tmp_path / "a.png", orientation=6)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    length, end = 12 + struct.unpack(">I", data[start : start + 4])[0], data.index(b"IEND") - 4
    path.write_bytes(data[:start] + data[start + length : end] + data[start : start + length] + data[end:])
    assert np.array_equal(read_image(path), np.asarray(picture(60, 40).transpose(Image.Transpose.ROTATE_270)))


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic(tmp_path: Path, orientation: int) -> None:
    heif, original = pytest.importorskip("pillow_heif", reason="HEIC is optional"), picture(240, 160)
    exif = Image.Exif()
    exif[0x0112] = orientation
    heif.from_pillow(original).save(tmp_path / "plain.heic", quality=95, exif=exif.tobytes())
    read = read_image(tmp_path / "plain.heic")
    expected = original if orientation == 1 else original.transpose(Image.Transpose.ROTATE_270)
    assert difference(read, np.asarray(expected)) < 4
    assert image_facts(tmp_path / "plain.heic")["format"] == "HEIC"


def test_size_reduces_and_never_enlarges(tmp_path: Path) -> None:
    path = save(picture(300, 200), tmp_path / "a.png")
    assert read_image(path, size=30).shape == (20, 30, 3)
    assert read_image(path, size=3000).shape == read_image(path).shape == (200, 300, 3)
    assert read_image(path, size=30, channels="grey").shape == (20, 30, 1)


def test_grey_is_the_luma_of_the_colours(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (4, 4), (200, 100, 50)), tmp_path / "a.png")
    assert read_image(path, channels="grey")[0, 0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


def rgba(alpha: int) -> Image.Image:
    return Image.new("RGBA", (4, 4), (200, 100, 50, alpha))


PALETTE = Image.new("RGB", (4, 4), (200, 100, 50)).quantize(4)


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (rgba(255), {}, (200, 100, 50)),
        (rgba(51), {}, (40, 20, 10)),
        (rgba(0), {}, (0, 0, 0)),
        (Image.new("LA", (4, 4), (200, 51)), {}, (40, 40, 40)),
        (Image.new("RGB", (4, 4), (9, 8, 7)), {"transparency": (9, 8, 7)}, (0, 0, 0)),
        (Image.new("L", (4, 4), 200), {}, (200, 200, 200)),
        (Image.new("1", (4, 4), 1), {}, (255, 255, 255)),
        (PALETTE, {}, (200, 100, 50)),
        (PALETTE, {"transparency": PALETTE.getpixel((0, 0))}, (0, 0, 0)),
    ],
    ids=["opaque", "alpha", "clear", "grey alpha", "clear colour", "grey", "1-bit", "palette", "clear palette"],
)
def test_modes(tmp_path: Path, image: Image.Image, options: dict[str, Any], expected: tuple[int, int, int]) -> None:
    path = save(image, tmp_path / "a.png", **options)
    read = read_image(path)
    assert read.shape == (4, 4, 3)
    assert np.abs(read.astype(int) - expected).max() <= 1
    assert read_image(path, size=2).shape == (2, 2, 3)


@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
@pytest.mark.parametrize(("white", "levels"), [(65535, 65535), (4095, 4095), (255, 255), (9000, 65535)])
def test_sixteen_bits_by_the_depth_of_the_values(tmp_path: Path, white: int, levels: int, byte_order: str) -> None:
    values = np.array([[0, white // 2, white]], byte_order)
    expected = np.round(np.array([0, white // 2, white]) * 255 / levels)
    mode = "I;16" if byte_order == "<u2" else "I;16B"
    image = Image.frombytes(mode, (3, 1), values.tobytes())
    for name in ("a.tif", "a.png"):
        assert read_image(save(image, tmp_path / name))[0, :, 0].tolist() == expected.tolist()


def profile_with_red_and_green_exchanged() -> bytes:
    """An RGB profile in which the first channel is sRGB's green, and the second its red."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    for entry in range(132, 132 + 12 * count, 12):
        name = bytes(data[entry : entry + 4])
        if name in {b"rXYZ", b"gXYZ"}:
            data[entry : entry + 4] = b"gXYZ" if name == b"rXYZ" else b"rXYZ"
    return bytes(data).replace("sRGB".encode("utf-16-be"), "Test".encode("utf-16-be"))


def test_a_colour_profile_is_applied(tmp_path: Path) -> None:
    profile = profile_with_red_and_green_exchanged()
    path = save(Image.new("RGB", (64, 64), (220, 30, 40)), tmp_path / "a.png", icc_profile=profile)
    assert np.abs(read_image(path).astype(int) - (30, 220, 40)).max() <= 3
    assert np.abs(read_image(path, size=8).astype(int) - (30, 220, 40)).max() <= 3


@pytest.mark.parametrize(
    "profile",
    [b"nonsense", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()],
    ids=["nonsense", "srgb"],
)
def test_srgb_and_damaged_profiles_change_nothing(tmp_path: Path, profile: bytes) -> None:
    path = save(picture(20, 20), tmp_path / "a.png", icc_profile=profile)
    assert np.array_equal(read_image(path), np.asarray(picture(20, 20)))


def jpeg(width: int = 400, height: int = 300, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture(width, height).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
def test_a_cut_jpeg_is_not_filled_with_grey(tmp_path: Path, kept: float, size: int | None, progressive: bool) -> None:
    data, path = jpeg(progressive=progressive), tmp_path / "a.jpg"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageError, match=r"a\.jpg: the JPEG is cut short .*Copy it again"):
        read_image(path, size=size)


@pytest.mark.parametrize("size", [None, 16])
def test_cmyk_and_lab(tmp_path: Path, size: int | None) -> None:
    path = save(Image.new("CMYK", (400, 300), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=95)
    assert image_facts(path)["mode"] == "CMYK"
    assert np.abs(read_image(path, size=size).astype(int) - (255, 0, 0)).max() <= 3
    assert read_image(save(Image.new("LAB", (4, 4), (255, 128, 128)), tmp_path / "a.tif")).min() >= 250


@pytest.mark.parametrize("name", ["PNG", "TIFF", "WebP"])
def test_other_formats_cut_short(tmp_path: Path, name: str) -> None:
    path = save(picture(200, 200), tmp_path / f"a.{FORMATS[name]}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=f"the {name} is (cut short|damaged).*Copy it again"):
        read_image(path)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.JPG").write_bytes(jpeg())
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("path,subject\nü.jpg,7\n")
    os.mkfifo(tmp_path / "pipe")
    for name, found in {
        "IMG_2.JPG": r"IMG_2\.JPG: there is no such file\.$",
        "img_1.jpg": r"img_1\.jpg: there is no such file\. Did you mean 'IMG_1\.JPG'\?",
        "nowhere/a.jpg": "The folder .*nowhere does not exist",
        "empty.jpg": r"the file is empty \(0 bytes\)\. Copy it again",
        "text.jpg": r"this is a text file, not an image that can be read \(JPEG, PNG",
        "": "this is a folder",
        "pipe": "a device or a pipe",
    }.items():
        with pytest.raises(ImageError, match=found):
            read_image(tmp_path / name)


def png_claiming(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("1", (8, 8)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


@pytest.mark.parametrize("side", [17_400, 30_000])
def test_decompression_bomb(tmp_path: Path, side: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_claiming(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=f"a.png: it claims .* = {side * side:,} pixels; at most {PIXEL_LIMIT:,}"):
            read_image(path)
        with pytest.raises(ImageError, match="at most"):
            image_facts(path)
    body = b"VP8X" + struct.pack("<IB3x", 10, 0) + (2**17 - 1).to_bytes(3, "little") * 2 + bytes(200)
    (tmp_path / "a.webp").write_bytes(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body)
    with pytest.raises(ImageError, match=f"a.webp: it claims more pixels than the {PIXEL_LIMIT:,}"):
        read_image(tmp_path / "a.webp")


@given(st.integers(1, 400), st.integers(1, 400), st.integers(8, 64), st.sampled_from([1, 3]))
def test_fit_keeps_the_ratio_on_black(width: int, height: int, size: int, channels: int) -> None:
    tile = fit(np.full((height, width, channels), 255, np.uint8), Preparation(size))
    assert (tile.shape, tile.dtype) == ((size, size, channels), np.uint8)
    rows, columns = np.flatnonzero(tile.any(axis=(1, 2))), np.flatnonzero(tile.any(axis=(0, 2)))
    tall, wide = len(rows), len(columns)
    assert max(tall, wide) == size
    # The image is a full white rectangle, and its ratio is that of the source to the nearest pixel.
    assert (tile[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 255).all()
    assert abs(min(tall, wide) - max(1, size * min(width, height) / max(width, height))) <= 0.5
    # Centred: the borders on the two sides differ by at most one pixel.
    assert abs(rows[0] - (size - 1 - rows[-1])) <= 1
    assert abs(columns[0] - (size - 1 - columns[-1])) <= 1


def claiming(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    place = next(i for i in range(2, len(data)) if data[i : i + 2] in (b"\xff\xc0", b"\xff\xc2"))
    return data[: place + 5] + struct.pack(">HH", height, width) + data[place + 9 :]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(17_000, 17_000), (17_000, 40), (60, 17_000), (60, 80)])
def test_a_jpeg_that_claims_more_pixels_than_it_holds(size: tuple[int, int], mode: str, progressive: bool) -> None:
    stream = io.BytesIO()
    picture(60, 40).convert(mode).save(stream, "JPEG", progressive=progressive)
    for target in (8, 32):
        with pytest.raises(ImageError):
            open_source(Path("a.jpg"), claiming(stream.getvalue(), *size)).tile(Preparation(target))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_ends_in_grey_is_whole(progressive: bool, tmp_path: Path) -> None:
    """Grey as decoders fill it in, in an exif preview as well."""
    grey = Image.new("RGB", (320, 240), (128, 128, 128))
    grey.paste(picture(320, 90), (0, 0))
    thumbnail = io.BytesIO()
    grey.resize((32, 24)).save(thumbnail, "JPEG")
    for options in ({}, {"comment": thumbnail.getvalue()}, {"restart_marker_blocks": 4}):
        path = save(grey, tmp_path / "a.jpg", progressive=progressive, optimize=True, **options)
        assert difference(read_image(path), np.asarray(grey)) < 5
        # more data follows, such as the gain map of a phone
        path.write_bytes(path.read_bytes() + thumbnail.getvalue())
        assert difference(read_image(path), np.asarray(grey)) < 5
    for value in (0, 128, 255):
        blank = save(Image.new("L", (900, 800), value), tmp_path / "a.jpg", optimize=True, progressive=progressive)
        assert np.unique(read_image(blank, size=64)).tolist() == [value]


def camera_picture(options: dict[str, Any]) -> bytes:
    """A JPEG with detail everywhere, as cameras and scanners write it."""
    stream, rng = io.BytesIO(), np.random.default_rng(5)
    pixels = np.asarray(picture(480, 320), np.int16) + rng.integers(-12, 12, (320, 480, 1))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=88, **options)
    return stream.getvalue()


JPEGS = {"plain": {}, "optimised": {"optimize": True}, "progressive": {"progressive": True}, "restarts": {}}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("zeroed", [True, False])
def test_a_jpeg_damaged_inside_its_data_is_refused(kind: str, zeroed: bool) -> None:
    options = {"restart_marker_rows": 1} if kind == "restarts" else JPEGS[kind]
    data = camera_picture(options)
    assert open_source(Path("a.jpg"), data).tile(Preparation(64)).shape == (3, 64, 64)
    refused = 0
    for start in range(len(data) // 4, len(data) * 3 // 4, len(data) // 16):
        damaged = data[:start] + (bytes(600) if zeroed else b"") + data[start + 600 :]
        for size in (32, 480):
            try:
                open_source(Path("a.jpg"), damaged).tile(Preparation(size))
            except ImageError:
                refused += 1
    assert refused >= (10 if kind == "progressive" else 15)


def test_a_few_bytes_that_no_picture_needs_are_no_damage() -> None:
    """As some cameras write them before the end; and fill bytes, which the standard allows."""
    data = camera_picture({})
    whole = open_source(Path("a.jpg"), data).tile(Preparation(64))
    for more in (bytes(8), b"\xff" * 40):
        padded = data[:-2] + more + data[-2:]
        assert np.array_equal(open_source(Path("a.jpg"), padded).tile(Preparation(64)), whole)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_decoded_once_to_the_pixels_of_pillow(
    mode: str, subsampling: int, progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = (640, 911)
    stream, noise = io.BytesIO(), np.random.default_rng(1).integers(0, 40, (side[1], side[0], 3), dtype=np.uint8)
    drawn = Image.fromarray(np.asarray(picture(*side)) // 2 + noise).convert(mode)
    drawn.save(stream, "JPEG", quality=85, subsampling=subsampling, progressive=progressive)
    data, expected = stream.getvalue(), {}
    for scale in (1, 2, 4, 8):
        with Image.open(io.BytesIO(data)) as image:
            image.draft(None, (side[0] // scale, side[1] // scale))
            expected[scale] = np.asarray(image)
    for scale, pixels in expected.items():
        image, lost = decode_jpeg(data, mode, side, scale)
        assert (image.mode, lost, np.array_equal(np.asarray(image), pixels)) == (mode, False, True)

    def refuse(*_: Any) -> None:
        raise AssertionError("decoded a second time")

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", refuse)
    for size in (32, 2000):
        source = open_source(Path("a.jpg"), data)
        assert source.read(source.target(size), "rgb").shape[2] == 3
