"""Films as DICOM files: the same pixels as a PNG of the film, whatever the encoding, and every way to be no film."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from casewise.errors import ImageError
from casewise.modalities.store.film import film_columns
from casewise.modalities.store.readers import open_source, read_image
from tests.film_files import PEOPLE, film_bytes, write_film

pydicom = pytest.importorskip("pydicom", reason="the package that reads DICOM is optional")


def film(bits: int, width: int = 60, height: int = 50, seed: int = 0) -> np.ndarray:
    """Stored values from 0 to the maximum of their depth, without symmetry."""
    cells = np.random.default_rng(seed).integers(0, 255, (7, 9), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    values = (smooth - smooth.min()) / np.ptp(smooth) * (2**bits - 1)
    return np.rint(values).astype(np.uint8 if bits <= 8 else np.uint16)


def grey(data: bytes) -> np.ndarray:
    source = open_source(Path("a.dcm"), data)
    return np.asarray(source.read((source.width, source.height), "grey")[..., 0])


def as_png(pixels: np.ndarray, folder: Path) -> np.ndarray:
    """What is read from a PNG with these pixels."""
    path = folder / "copy.png"
    Image.fromarray(pixels).save(path)
    return read_image(path, channels="grey")[..., 0]


@pytest.fixture
def root_log() -> Iterator[list[str]]:
    """What a log file of the program would contain, as a list that grows."""
    lines: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    yield lines
    logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("compression", ["", "rle", "jpeg_lossless", "jpeg2000"])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_film_reads_as_its_png(bits: int, kind: str, compression: str, tmp_path: Path) -> None:
    pixels = film(bits)
    stored = pixels if kind == "MONOCHROME2" else ((2**bits - 1) - pixels).astype(pixels.dtype)
    data = film_bytes(stored, bits=bits, compression=compression, PhotometricInterpretation=kind)
    assert np.array_equal(grey(data), as_png(pixels, tmp_path))


def test_the_depth_without_a_window_and_values_below_zero(tmp_path: Path) -> None:
    for bits in (10, 14):  # depths that a PNG does not have
        read = grey(film_bytes(film(bits), bits=bits))
        assert (int(read.min()), int(read.max())) == (0, 255)
    pixels = film(12)
    usual = grey(film_bytes(pixels, bits=12))
    assert np.array_equal(usual, as_png(pixels, tmp_path))
    # 12 bits in a file that states 16; a window without width; signed; overlays, once stored in unused bits of pixels
    assert np.array_equal(grey(film_bytes(pixels, bits=16)), usual)
    assert np.array_equal(grey(film_bytes(pixels, bits=12, WindowCenter=0, WindowWidth=0)), usual)
    assert np.array_equal(grey(film_bytes(pixels.astype(np.int16))), usual)
    assert np.array_equal(grey(film_bytes((pixels + (np.uint16(1) << 12)).astype(np.uint16), bits=12)), usual)
    negative = grey(film_bytes((pixels.astype(np.int16) - 1024).astype(np.int16)))
    assert (int(negative.min()), int(negative.max())) == (0, 255)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, lambda values: (values - 1000) / 999),
        ({"VOILUTFunction": "LINEAR_EXACT"}, lambda values: (values - 1000) / 1000),
        ({"VOILUTFunction": "SIGMOID"}, lambda values: 1 / (1 + np.exp(-4 * (values - 1500) / 1000))),
        ({"RescaleSlope": 2, "RescaleIntercept": -100}, lambda values: (2 * values - 1100) / 999),
    ],
)
def test_the_first_window_states_black_and_white(tags: dict[str, Any], expected: Any) -> None:
    pixels = film(12)
    tags |= {"bits": 12, "WindowCenter": [1500, 300], "WindowWidth": [1000, 200]}
    read = grey(film_bytes(pixels, **tags)).astype(float)
    assert np.abs(read - np.clip(expected(pixels.astype(float)), 0, 1) * 255).max() <= 0.5 + 1e-6
    inverted = grey(film_bytes(pixels, **tags, PhotometricInterpretation="MONOCHROME1"))
    assert np.abs(inverted - (255 - read)).max() <= 1


def test_a_table_of_values_precedes_a_window() -> None:
    item = pydicom.Dataset()
    item.LUTDescriptor = [4096, 0, 8]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = (np.arange(4096)[::-1] // 16).astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    pixels = film(12)
    read = grey(film_bytes(pixels, bits=12, VOILUTSequence=[item], WindowCenter=1, WindowWidth=2))
    assert np.array_equal(read, (4095 - pixels.astype(int)) // 16)


def test_padding_is_black_and_does_not_set_the_depth() -> None:
    pixels = film(12)
    pixels[:5] = 65535
    read = grey(film_bytes(pixels, PixelPaddingValue=65535))
    assert not read[:5].any()
    assert int(read.max()) == 255
    inverted = grey(film_bytes(film(12), bits=12, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0))
    assert not inverted[film(12) == 0].any()


def test_colours(tmp_path: Path) -> None:
    rgb = np.stack([film(8, seed=seed) for seed in range(3)], axis=-1)
    profile, planar = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), {"PlanarConfiguration": 1}
    ways = [({"ICCProfile": profile}, rgb), (planar, rgb.transpose(2, 0, 1)), ({"compression": "rle"}, rgb)]
    for tags, stored in ways:
        sides = {"Rows": 50, "Columns": 60, "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
        path = write_film(tmp_path / "a.dcm", np.ascontiguousarray(stored), **sides, **tags)
        assert np.array_equal(read_image(path), rgb)
    ycbcr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    path = write_film(tmp_path / "a.dcm", ycbcr, PhotometricInterpretation="YBR_FULL")
    assert np.abs(read_image(path).astype(int) - rgb).max() <= 3
    image = Image.fromarray(rgb)
    image.save(tmp_path / "a.jpg", quality=95, subsampling=0)
    tags = {"compression": "jpeg", "jpeg": (tmp_path / "a.jpg").read_bytes(), "PhotometricInterpretation": "YBR_FULL"}
    path = write_film(tmp_path / "a.dcm", rgb, **tags)
    assert np.abs(read_image(path).astype(int) - read_image(tmp_path / "a.jpg")).max() <= 4
    wide = (rgb.astype(np.uint16) << 8) + 7
    assert np.array_equal(read_image(write_film(tmp_path / "a.dcm", wide)), rgb)


@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleSlope": "1e400"},
        {"RescaleSlope": "0"},
        {"RescaleSlope": "1e308", "RescaleIntercept": "1e308"},
        {"RescaleIntercept": "1e308", "WindowCenter": "500", "WindowWidth": "900"},
        {"WindowCenter": "nan", "WindowWidth": "20"},
        {"PhotometricInterpretation": "CMYK"},
        {"SharedFunctionalGroupsSequence": [pydicom.Dataset()]},
        {"Rows": 500},
        {"Rows": 0},
        {"Rows": 60000, "Columns": 60000},
        {"NumberOfFrames": 3},
        {"BitsStored": 4, "HighBit": 3, "BitsAllocated": 12},
    ],
    ids=str,
)
def test_impossible_films_are_refused(tags: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    pydicom.config.settings.writing_validation_mode, before = 0, pydicom.config.settings.writing_validation_mode
    try:
        write_film(path, film(12), bits=12, **tags) if "BitsStored" not in tags else write_film(path, film(12), **tags)
    finally:
        pydicom.config.settings.writing_validation_mode = before
    with pytest.raises(ImageError) as caught:
        read_image(path)
    check_message(caught.value, path)


def check_message(error: ImageError, path: Path) -> None:
    """The message names the file, and nobody."""
    text = str(error)
    assert text.startswith(str(path))
    assert len(text) < 400
    assert not any(word in text for word in PEOPLE)


@pytest.mark.parametrize("compression", ["", "rle", "jpeg_lossless"])
def test_truncated_and_damaged_films(compression: str, tmp_path: Path, root_log: list[str], recwarn: Any) -> None:
    data, path = film_bytes(film(12), bits=12, compression=compression), tmp_path / "film.dcm"
    for length in (140, 300, 600, len(data) // 2, len(data) - 200):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError) as caught:
            read_image(path)
        check_message(caught.value, path)
    rng = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(data)
        for place in rng.integers(128, len(data), 8):
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            read_image(path)
        except ImageError as error:
            check_message(error, path)
    assert not root_log
    assert not recwarn.list


def test_files_without_pixels_and_unknown_compression(tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    report = {"SOPClassUID": pydicom.uid.BasicTextSRStorage, "Rows": None, "Columns": None}
    path.write_bytes(film_bytes(film(8), **report))
    with pytest.raises(ImageError, match="no image"):
        read_image(path)
    data = pydicom.dcmread(write_film(path, film(8)))
    del data.PixelData
    data.save_as(path)
    with pytest.raises(ImageError, match="no pixels"):
        read_image(path)
    data = pydicom.dcmread(write_film(path, film(8), compression="rle"))
    data.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    data.save_as(path)
    with pytest.raises(ImageError, match=r"casewise\[dicom\]") as caught:
        read_image(path)
    check_message(caught.value, path)
    data = pydicom.dcmread(write_film(path, film(8)))
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    data.save_as(path)
    with pytest.raises(ImageError, match="deflated"):
        read_image(path)


def test_a_jpeg_in_a_film_that_claims_more_pixels_than_its_bytes_hold(tmp_path: Path) -> None:
    image = Image.fromarray(film(8))
    image.save(tmp_path / "a.jpg")
    tags = {"compression": "jpeg", "jpeg": (tmp_path / "a.jpg").read_bytes(), "Rows": 17000, "Columns": 17000}
    path = write_film(tmp_path / "a.dcm", film(8), **tags)
    with pytest.raises(ImageError, match="cannot"):
        read_image(path)


def test_columns_of_a_film_name_nobody(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.dcm", film(8))
    columns = film_columns(path)
    assert columns | {"laterality": "L", "view": "PA", "modality": "DX", "manufacturer": "Acme"} == columns
    assert not any(word in str(columns) for word in PEOPLE)
    Image.fromarray(film(8)).save(tmp_path / "a.png")
    assert (film_columns(tmp_path / "a.png"), film_columns(tmp_path / "missing.dcm")) == ({}, {})


def table_of(entries: np.ndarray, *, depth: int = 16, first: int = 0, count: int | None = None) -> Any:
    """An item of a LUT sequence."""
    item = pydicom.Dataset()
    count = len(entries) if count is None else count
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [count, first, depth])
    item.add_new("LUTData", "US", entries.astype(int).tolist())
    return item


RAMP = np.linspace(0, 1, 4096)


@pytest.mark.parametrize(
    "tags",
    [
        {"VOILUTSequence": [table_of(RAMP * 4095)]},
        {"VOILUTSequence": [table_of(RAMP * 1023)]},
        {"VOILUTSequence": [table_of(np.arange(4096), first=0, count=4096)]},
        {"ModalityLUTSequence": [table_of(RAMP * 4095)]},
        {"VOILUTSequence": [table_of(RAMP * 65535, first=64512)], "RescaleSlope": 1, "RescaleIntercept": -1024},
        {"VOILUTSequence": [table_of(np.full(4096, 30000))]},
        {"VOILUTSequence": [table_of(60000 + np.arange(4096) // 4)]},
        {"RescaleSlope": "0.1", "RescaleIntercept": 0, "WindowCenter": 2000, "WindowWidth": 4000},
        {"WindowCenter": 40000, "WindowWidth": 1000},
        {"WindowCenter": -5000, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 60000, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 32768, "WindowWidth": 65536},
        {"WindowCenter": [0, 2048], "WindowWidth": [0, 4096]},
        {"PixelPaddingRangeLimit": 2000},
    ],
    ids=str,
)
def test_a_stated_range_that_is_not_for_the_values_leaves_no_black_film(tags: dict[str, Any]) -> None:
    expected = grey(film_bytes(film(12), bits=12)).astype(int)
    assert np.abs(grey(film_bytes(film(12), bits=12, **tags)) - expected).max() <= 1
    inverted = grey(film_bytes(film(12), bits=12, **tags, PhotometricInterpretation="MONOCHROME1")).astype(int)
    assert np.abs(inverted - (255 - expected)).max() <= 1


def test_entries_of_8_bits_two_to_a_word() -> None:
    item = table_of(np.arange(255, -1, -1).astype(np.uint8).view("<u2"), depth=8, count=256)
    assert np.array_equal(grey(film_bytes(film(8), VOILUTSequence=[item])), 255 - film(8))


@pytest.mark.parametrize(
    ("stored", "tags"),
    [
        (film(12), {"VOILUTSequence": [table_of(RAMP[:1024] * 65535, count=4096)]}),
        (film(12), {"VOILUTSequence": [table_of(RAMP * 65535, first=10000)]}),
        (film(12), {"VOILUTSequence": [table_of(RAMP * 4095, depth=8)]}),
        (film(12), {"PresentationLUTShape": "INVERSE"}),
        (np.full((50, 60), 77, np.uint16), {"PixelPaddingValue": 77}),
        (film(12), {"HighBit": 15}),
        (film(12), {"HighBit": 9}),
        (film(16).view(np.int16), {"bits": 16}),
        (film(14), {}),
    ],
    ids=[
        "short-table",
        "table-elsewhere",
        "deep-table",
        "polarities",
        "padding",
        "HighBit",
        "low-HighBit",
        "sign",
        "BitsStored",
    ],
)
def test_films_that_contradict_themselves_are_refused(stored: np.ndarray, tags: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    write_film(path, stored, **{"bits": 12} | tags)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    check_message(caught.value, path)


def test_bits_and_signs_of_stored_values() -> None:
    usual = grey(film_bytes(film(12), bits=12))
    left = (film(12) << 4).astype(np.uint16)
    assert np.array_equal(grey(film_bytes(left, bits=12, HighBit=15)), usual)
    packed = pydicom.dcmread(io.BytesIO(film_bytes(left, bits=16, compression="rle")))
    packed.BitsStored, stream = 12, io.BytesIO()
    packed.save_as(stream)
    assert np.array_equal(grey(stream.getvalue()), usual)
    signed = (film(12).astype(np.int32) - 2048) & 0xFFF
    read = grey(film_bytes(signed.astype(np.int16), bits=12))
    assert np.abs(read.astype(int) - usual).max() <= 1
    # padding of another sign than that of the pixels, without a window
    padded = film(12).astype(np.int16) - 1024
    padded[:5] = -2000
    data = film_bytes(padded, bits=16, PixelPaddingValue=None)
    header = pydicom.dcmread(io.BytesIO(data))
    header.add_new("PixelPaddingValue", "US", 63536)
    stream = io.BytesIO()
    header.save_as(stream)
    assert not grey(stream.getvalue())[:5].any()
    assert int(grey(stream.getvalue())[5:].min()) == 0


@pytest.mark.parametrize(
    "tags", [{}, {"PhotometricInterpretation": "MONOCHROME1"}, {"WindowCenter": "130", "WindowWidth": "260"}]
)
def test_jpeg_extended_of_12_bits_reads_as_its_uncompressed_twin(tmp_path: Path, tags: dict[str, str]) -> None:
    pytest.importorskip("SimpleITK", reason="the package that decodes JPEG of 12 bits is optional")
    from casewise.modalities.store.dicom_pixels import decoded, read_tags

    compressed = pydicom.dcmread(pydicom.data.get_testdata_file("JPEG-lossy.dcm", download=False))
    for name, value in tags.items():
        setattr(compressed, name, value)
    compressed.save_as(tmp_path / "compressed.dcm")
    with open(tmp_path / "compressed.dcm", "rb") as file:
        stored = decoded(read_tags(file, pixels=True)).stored[0]
    assert (stored[420, 140], stored[230, 120]) == (244, 95)  # as the tests of pydicom state
    plain = compressed
    plain.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    plain.PixelData = stored.astype("<u2").tobytes()
    plain["PixelData"].VR, plain["PixelData"].is_undefined_length = "OW", False
    plain.save_as(tmp_path / "plain.dcm")
    pictures = [read_image(tmp_path / f"{name}.dcm", channels="grey") for name in ("compressed", "plain")]
    assert np.array_equal(*pictures)


def test_jpeg_data_of_8_bits_in_a_film_of_12_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("SimpleITK", reason="the package that decodes JPEG of 12 bits is optional")
    film_of_12 = pydicom.dcmread(pydicom.data.get_testdata_file("JPEG-lossy.dcm", download=False))
    packed = io.BytesIO()
    Image.fromarray(film(8)).save(packed, "JPEG")
    film_of_12.Rows, film_of_12.Columns = 50, 60
    film_of_12.PixelData = pydicom.encaps.encapsulate([packed.getvalue()])
    film_of_12["PixelData"].is_undefined_length = True
    film_of_12.save_as(tmp_path / "film.dcm")
    with pytest.raises(ImageError, match=r"states 12 bits a pixel \(BitsStored\), and its JPEG data state 8"):
        read_image(tmp_path / "film.dcm")
