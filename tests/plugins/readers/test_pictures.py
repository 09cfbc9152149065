"""What a reader's browser gets of photographs, films and scans: the right pixels, and nothing else of the file."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from casewise.errors import ImageError
from casewise.plugins.readers.rating.pictures import FILM_SIDE, PHOTO_SIDE, read_picture
from tests.film_files import PEOPLE, write_film
from tests.plugins.readers.rating import film, photograph, scan


def shown(path: Path) -> np.ndarray:
    """The values of a film or scan as the page shows them, in units of the file: (slices, height, width)."""
    picture = read_picture(path)
    slices, height, width = picture.shape
    planes = [np.frombuffer(picture.body(index)[0], "<u2").reshape(height, width) for index in range(slices)]
    return np.stack(planes) * picture.slope + picture.intercept


def window(path: Path) -> tuple[float, float]:
    picture = read_picture(path)
    return picture.low * picture.slope + picture.intercept, picture.high * picture.slope + picture.intercept


def test_a_photograph_is_upright_small_and_has_no_metadata(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0132] = 6, "Plantedname", "2020:01:01 10:00:00"
    pixels = np.zeros((1500, 3000, 3), np.uint8)
    pixels[:, :1500] = (200, 30, 30)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, comment=b"Plantedname")
    picture = read_picture(tmp_path / "a.jpg")
    content, media_type = picture.body(0)
    image = Image.open(io.BytesIO(content))
    assert (media_type, picture.kind) == ("image/jpeg", "photo")
    assert image.size == (PHOTO_SIDE // 2, PHOTO_SIDE) == (picture.shape[2], picture.shape[1])
    assert not dict(image.getexif())
    assert "comment" not in image.info
    assert b"Plantedname" not in content
    red = np.asarray(image)[..., 0].mean(axis=1)
    assert red[:1000].mean() > 190 > 10 > red[1400:].mean()


def test_a_film_keeps_its_bits_and_its_window(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 30), np.uint16)
    path = write_film(tmp_path / "a.dcm", pixels, bits=12, WindowCenter=1000, WindowWidth=600)
    assert np.array_equal(shown(path)[0], pixels)
    assert window(path) == pytest.approx((700, 1300))
    content = read_picture(path).body(0)[0]
    assert len(content) == 2 * pixels.size
    assert not any(text.encode() in content for text in PEOPLE)


def test_the_values_of_a_film_are_those_of_its_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 30), np.uint16)
    slope = write_film(tmp_path / "a.dcm", pixels, bits=12, RescaleSlope=2.5, RescaleIntercept=-1000)
    assert shown(slope)[0] == pytest.approx(pixels * 2.5 - 1000)
    assert window(slope) == pytest.approx(np.percentile(pixels * 2.5 - 1000, [0.5, 99.5]), abs=3)
    inverse = write_film(
        tmp_path / "b.dcm", pixels, bits=12, PhotometricInterpretation="MONOCHROME1", WindowCenter=1000, WindowWidth=600
    )
    assert shown(inverse)[0] == pytest.approx(pixels)  # in units of the file, but dark where they are large
    picture = read_picture(inverse)
    codes = np.frombuffer(picture.body(0)[0], "<u2").reshape(40, 30)
    assert np.corrcoef(codes.ravel(), pixels.ravel())[0, 1] == pytest.approx(-1)
    assert sorted(window(inverse)) == pytest.approx([700, 1300])
    assert picture.low < picture.high


def test_padding_is_black_and_outside_of_the_percentiles(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(1000, 1100, (60, 60), np.uint16)
    pixels[:30] = 4095
    picture = read_picture(write_film(tmp_path / "a.dcm", pixels, bits=12, PixelPaddingValue=4095))
    codes = np.frombuffer(picture.body(0)[0], "<u2").reshape(60, 60)
    assert codes[:30].max() == 0
    assert picture.high - picture.low < 101


def test_films_of_other_formats(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (40, 30)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert np.array_equal(shown(tmp_path / "a.png")[0], deep)
    Image.fromarray((deep >> 8).astype(np.uint8)).save(tmp_path / "b.png")
    picture = read_picture(tmp_path / "b.png")
    assert (picture.kind, picture.low, picture.high) == ("grey", 0, 255)
    assert np.array_equal(shown(tmp_path / "b.png")[0], deep >> 8)
    pytest.importorskip("SimpleITK", reason="the encoder of lossless JPEG is optional")
    lossless = write_film(tmp_path / "c.dcm", deep >> 4, bits=12, compression="jpeg_lossless")
    assert read_picture(lossless).kind == "grey"
    colours = write_film(tmp_path / "d.dcm", np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8))
    assert read_picture(colours).kind == "photo"


def test_a_large_film_is_reduced_by_a_whole_factor(tmp_path: Path) -> None:
    pixels = np.tile(np.array([[0, 100], [200, 300]], np.uint16), (FILM_SIDE // 2 + 1, 4))
    picture = read_picture(write_film(tmp_path / "a.dcm", pixels, bits=12))
    assert picture.shape == (1, FILM_SIDE // 2 + 1, 4)
    assert np.unique(np.frombuffer(picture.body(0)[0], "<u2")).tolist() == [150]


def test_slices_of_a_scan_lie_as_readers_expect(tmp_path: Path) -> None:
    pytest.importorskip("nibabel", reason="scans are optional")
    path = scan(tmp_path / "a.nii.gz", (20, 24, 9))
    picture = read_picture(path)
    assert (picture.kind, picture.shape, picture.spacing) == ("volume", (9, 24, 20), (1, 1))
    values = shown(path)
    # from the head down; the front at the top; the patient's right (large x in RAS) at the left
    assert values[0].min() == 800
    assert values[0, 0, 0] == 800 + 10 * 23 + 19
    assert values[-1, -1, -1] == 0
    with pytest.raises(IndexError):
        picture.body(9)


def test_coronal_slices_have_the_head_at_the_top(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="scans are optional")
    z = np.indices((10, 4, 12))[2]
    affine = np.diag([1.0, 6.0, 2.0, 1.0])
    nibabel.Nifti1Image(z.astype(np.float32) / 7, affine).to_filename(tmp_path / "a.nii")
    picture = read_picture(tmp_path / "a.nii")
    assert (picture.shape, picture.spacing) == ((4, 12, 10), (2, 1))
    assert shown(tmp_path / "a.nii")[0, :, 0] == pytest.approx(np.arange(12)[::-1] / 7, abs=1e-4)


@pytest.mark.parametrize("axes", ["LPS", "PIR", "SAL"])
def test_any_orientation_and_scale_give_the_same_slices(tmp_path: Path, axes: str) -> None:
    nibabel = pytest.importorskip("nibabel", reason="scans are optional")
    path = scan(tmp_path / "a.nii.gz", (20, 24, 9))
    stored = nibabel.load(path)
    target = nibabel.orientations.axcodes2ornt(axes)
    turned = stored.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(stored.affine), target))
    turned.header.set_slope_inter(-2.0, 7.0)
    turned = nibabel.Nifti1Image(np.asarray(turned.dataobj).astype(np.float32) * -2 + 7, turned.affine, turned.header)
    turned.set_data_dtype(np.int16)
    turned.to_filename(tmp_path / "b.nii")
    picture = read_picture(tmp_path / "b.nii")
    assert (picture.shape, picture.spacing) == (read_picture(path).shape, (1, 1))
    assert shown(tmp_path / "b.nii") == pytest.approx(shown(path) * -2 + 7, abs=0.5)
    assert picture.low < picture.high


def write_slices(folder: Path, series: str, **tags: Any) -> None:
    for number in (2, 0, 1):
        pixels = np.full((10, 12), 100 * number + 24, np.uint16)
        place = {"ImagePositionPatient": [0, 0, 4.0 * number], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        place |= {"PixelSpacing": [1, 1], "SeriesInstanceUID": series, "SOPInstanceUID": f"{series}.{number}"}
        place |= {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "RescaleSlope": 1, "RescaleIntercept": -1024}
        path = folder / f"{series}-{number}.dcm"
        write_film(path, pixels, WindowCenter=[40, 400], WindowWidth=[350, 1500], **place, **tags)


def test_of_several_series_none_is_chosen_in_silence(tmp_path: Path) -> None:
    pytest.importorskip("SimpleITK", reason="scans are optional")
    write_slices(tmp_path / "scan", "1.2.3")
    write_slices(tmp_path / "scan", "1.2.4", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert read_picture(tmp_path / "scan").shape == (3, 10, 12)
    write_slices(tmp_path / "scan", "1.2.5")
    with pytest.raises(ImageError):
        read_picture(tmp_path / "scan")


def test_a_folder_of_slices_is_one_scan(tmp_path: Path) -> None:
    pytest.importorskip("SimpleITK", reason="scans are optional")
    write_slices(tmp_path / "scan", "1.2.3")
    path = tmp_path / "scan"
    picture = read_picture(path)
    assert picture.shape == (3, 10, 12)
    assert shown(path)[:, 0, 0].tolist() == [-800, -900, -1000]
    assert window(path) == pytest.approx((-135, 215))


def test_damage_is_an_error(tmp_path: Path) -> None:
    whole = film(tmp_path / "a.dcm", 0).read_bytes()
    files = {"b.dcm": whole[:-1000], "c.jpg": b"", "d.jpg": b"\xff\xd8\xff" + bytes(100), "e.nii.gz": b"\x1f\x8b no"}
    photo = photograph(tmp_path / "f.jpg", 0).read_bytes()
    files |= {"f.jpg": photo[: len(photo) // 2], "g.nii": bytes(400)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError):
            read_picture(tmp_path / name)
    (tmp_path / "empty").mkdir()
    for missing in ("none.jpg", "empty", "none.nii.gz"):
        with pytest.raises(ImageError):
            read_picture(tmp_path / missing)
