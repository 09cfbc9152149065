"""DICOM: slices in space whatever files are called, the scanner's numbers, and every way to be no volume."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.errors import ImageError
from casewise.plugins.volumes.reading.dicom import read_dicom
from casewise.plugins.volumes.reading.scans import Scan
from tests.film_files import jpeg_lossless

nibabel = pytest.importorskip("nibabel", reason="the package that reads NIfTI is optional")

pydicom = pytest.importorskip("pydicom", reason="the package that reads DICOM is optional")

ROWS, COLUMNS, DEPTH = 6, 5, 7
TO_RAS = np.diag([-1.0, -1.0, 1.0])
# Direction cosines of rows and of columns, LPS: axial, coronal, sagittal, and one that is oblique to all.
PLANES = {
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    "oblique": ((0.8, 0.6, 0.0), (-0.36, 0.48, 0.8)),
}
GRAY16: dict[str, Any] = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
PLACED: dict[str, Any] = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}


def volume(seed: int = 1) -> np.ndarray:
    """Pixels as (slices, rows, columns)."""
    return np.random.default_rng(seed).integers(0, 900, (DEPTH, ROWS, COLUMNS)).astype(np.int16)


def one_file(path: Path, pixels: np.ndarray, **tags: Any) -> Path:
    """Write one DICOM file with these pixels; tags that are None are left out."""
    said = GRAY16 | {"SOPClassUID": pydicom.uid.MRImageStorage, "SOPInstanceUID": pydicom.uid.generate_uid()}
    said |= {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2", "FrameOfReferenceUID": "1.2.9", "Modality": "MR"}
    said |= {"SeriesNumber": 4, "SeriesDescription": "t1_vibe", "PatientID": "P7", "SamplesPerPixel": 1}
    said |= {"Rows": pixels.shape[-2], "Columns": pixels.shape[-1], "PhotometricInterpretation": "MONOCHROME2"}
    said |= {"PixelSpacing": [1.5, 0.75], "SliceThickness": 3} | tags
    data = pydicom.Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag, value in said.items():
            if value is not None:
                setattr(data, tag, value)
        data.PixelData = pixels.tobytes()
        data["PixelData"].VR = "OW"
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        path.parent.mkdir(parents=True, exist_ok=True)
        pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def place(plane: str, k: float, gap: float = 4.0) -> list[float]:
    """Where the first pixel of slice k lies, LPS."""
    row, column = map(np.array, PLANES[plane])
    return list(np.array([10.0, -20.0, 30.0]) + np.cross(row, column) * gap * k)


def series(folder: Path, pixels: np.ndarray | None = None, plane: str = "axial", **tags: Any) -> list[Path]:
    """Write a series whose files are in an order of their own: their names say nothing of the positions."""
    pixels = volume() if pixels is None else pixels
    names = np.random.default_rng(5).permutation(len(pixels))
    own = {"InstanceNumber": 1, "ImageOrientationPatient": [*PLANES[plane][0], *PLANES[plane][1]]} | tags
    return [
        one_file(folder / f"{names[k]:03d}.dcm", part, **{"ImagePositionPatient": place(plane, k)} | own)
        for k, part in enumerate(pixels)
    ]


def multi_frame(path: Path, pixels: np.ndarray, order: list[int], plane: str = "axial", **tags: Any) -> Path:
    """Write one enhanced file; frame i shows slice order[i], with a slope of its own."""
    frames = []
    for k in order:
        frame, position, scaling = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        position.ImagePositionPatient = place(plane, k)
        scaling.RescaleSlope, scaling.RescaleIntercept = 1 + k, -k
        frame.PlanePositionSequence = [position]
        frame.PixelValueTransformationSequence = [scaling]
        frames.append(frame)
    shared, turned, measures = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    turned.ImageOrientationPatient = [*PLANES[plane][0], *PLANES[plane][1]]
    measures.PixelSpacing, measures.SliceThickness = [1.5, 0.75], 3
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turned], [measures]
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    kind = {"SOPClassUID": pydicom.uid.EnhancedMRImageStorage, "NumberOfFrames": len(order)}
    return one_file(path, pixels[order], PixelSpacing=None, SliceThickness=None, **kind, **groups, **tags)


def brightest(scan: Scan) -> np.ndarray:
    """Where the brightest voxel lies, mm in RAS."""
    return (scan.affine @ [*np.unravel_index(scan.values.argmax(), scan.shape), 1.0])[:3]


@pytest.mark.parametrize(
    ("plane", "letters"), [("axial", "LPS"), ("coronal", "LIP"), ("sagittal", "PIR"), ("oblique", "")]
)
def test_a_marked_voxel_is_found_at_its_millimetres(tmp_path: Path, plane: str, letters: str) -> None:
    pixels = volume()
    pixels[2, 4, 3] = 9999
    series(tmp_path, pixels, plane)
    scan = read_dicom(tmp_path)
    assert (scan.shape, scan.spacing) == ((COLUMNS, ROWS, DEPTH), pytest.approx((0.75, 1.5, 4.0)))
    assert not letters or "".join(nibabel.aff2axcodes(scan.affine)) == letters
    row, column = map(np.array, PLANES[plane])
    there = TO_RAS @ (np.array(place(plane, 2)) + 3 * 0.75 * row + 4 * 1.5 * column)
    np.testing.assert_allclose(brightest(scan), there, atol=1e-6)
    np.testing.assert_array_equal(scan.values, pixels.transpose(2, 1, 0))


def test_slope_and_intercept_of_each_slice(tmp_path: Path) -> None:
    for k, part in enumerate(volume()):
        scale = {"RescaleSlope": k + 1, "RescaleIntercept": -k}
        series(tmp_path / str(k), part[None], ImagePositionPatient=place("axial", k), **scale)
    wanted = [part * (k + 1.0) - k for k, part in enumerate(volume())]
    np.testing.assert_array_equal(read_dicom(tmp_path).values, np.transpose(wanted, (2, 1, 0)))


def test_many_frames_that_do_not_say_where(tmp_path: Path) -> None:
    path = one_file(tmp_path / "a.dcm", volume(), NumberOfFrames=DEPTH, **PLACED)
    with pytest.raises(ImageError, match=r"frame 1: it does not state its position in the patient \(ImagePosition"):
        read_dicom(path)
    path = multi_frame(tmp_path / "a.dcm", volume(), [0, 1, 2])
    data = pydicom.dcmread(path)
    data.PerFrameFunctionalGroupsSequence = list(data.PerFrameFunctionalGroupsSequence)[:2]
    data.save_as(path)
    with pytest.raises(ImageError, match="2 functional groups, fewer than frames"):
        read_dicom(path)


def test_several_series(tmp_path: Path) -> None:
    series(tmp_path / "b" / "deep", volume(1), SeriesInstanceUID="1.1", SeriesNumber=3, SeriesDescription="t1_vibe fs")
    series(tmp_path / "a", volume(2), SeriesInstanceUID="1.2", SeriesNumber=4, SeriesDescription="AX T2W haste")
    third = {"SeriesInstanceUID": "1.3", "SeriesNumber": 5, "SeriesDescription": "T2*", "ProtocolName": "gre"}
    series(tmp_path / "c", volume(3), **third)
    with pytest.raises(ImageError) as caught:
        read_dicom(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: the folder mixes 3 series, and the table does not name one.")
    assert str(caught.value).endswith(
        "\n  series 3 't1_vibe fs' (MR, 7 slices)\n  series 4 'AX T2W haste' (MR, 7 slices)"
        "\n  series 5 'T2*' (MR, 7 slices)"
    )
    for name, seed in (("T1", 1), ("T2", 2), ("haste", 2), ("GRE", 3), ("T2star", 3), ("t1 vibe", 1)):
        np.testing.assert_array_equal(read_dicom(tmp_path, sequence=name).values, volume(seed).transpose(2, 1, 0))
    assert read_dicom(tmp_path, sequence="T1").notes == (
        "series 3 't1_vibe fs' (MR, 7 slices) was taken; left aside: series 4 'AX T2W haste' (MR, 7 slices), series 5 "
        "'T2*' (MR, 7 slices)",
    )
    with pytest.raises(ImageError, match="more than one of them is named by the sequence 'MR'"):
        read_dicom(tmp_path, sequence="MR")
    with pytest.raises(ImageError, match="none of them is named by the sequence 'FLAIR'"):
        read_dicom(tmp_path, sequence="FLAIR")


@pytest.mark.parametrize(("lost", "told"), [([3], "1 slice is missing"), ([1, 4], "2 slices")])
def test_missing_slices(tmp_path: Path, lost: list[int], told: str) -> None:
    files = series(tmp_path)
    for k in lost:
        files[k].unlink()
    with pytest.raises(ImageError, match=f"{told}.* lie 4 mm apart, but (8|12) mm between") as caught:
        read_dicom(tmp_path)
    # It names the two files between which it is missing.
    assert files[lost[0] - 1].name in str(caught.value)
    assert files[next(k for k in range(lost[0], DEPTH) if k not in lost)].name in str(caught.value)


def test_uneven_slices_and_rounded_ones(tmp_path: Path) -> None:
    for k, part in enumerate(volume()):
        series(tmp_path / str(k), part[None], ImagePositionPatient=place("axial", k + (0.02 if k % 2 else 0)))
    assert read_dicom(tmp_path).spacing[2] == pytest.approx(4)
    series(tmp_path / "3", volume()[3:4], ImagePositionPatient=place("axial", 3.3))
    with pytest.raises(
        ImageError, match=r"unevenly spaced: slices lie 3.92 mm apart, but 5.2 mm between 2/000\.dcm and 3/"
    ):
        read_dicom(tmp_path)


def test_doubled_positions(tmp_path: Path) -> None:
    series(tmp_path / "a", EchoTime=4.6)
    series(tmp_path / "b", volume(2), EchoTime=9.2)
    with pytest.raises(ImageError, match=r"slice positions are taken .* They differ in EchoTime 4\.6 and 9\.2\."):
        read_dicom(tmp_path)


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ({"ImagePositionPatient": None}, r"does not state its position in the patient \(ImagePositionPatient\)"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not at right angles"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "its pixels are colours"),
        ({"Rows": 40000, "Columns": 40000}, "claim more than 2 GB"),
        ({"Rows": 0}, "each side must be at least 1"),
        ({"Rows": 60}, "its pixels are cut short"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "it is a mosaic"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
        ({"RescaleIntercept": 1e308}, "RescaleIntercept is 1e"),
        ({"RescaleSlope": "1e400"}, "RescaleSlope"),
        ({"RescaleIntercept": "nan"}, "RescaleIntercept"),
        ({"PixelSpacing": [1.5, -1]}, "PixelSpacing"),
        ({"NumberOfFrames": 30000}, "claim more than"),
    ],
)
def test_files_that_cannot_be(tmp_path: Path, tags: dict[str, Any], told: str) -> None:
    path = one_file(tmp_path / "a.dcm", volume()[0], **PLACED | tags)
    with pytest.raises(ImageError, match=told) as caught:
        read_dicom(path)
    assert "a.dcm" in str(caught.value)


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    path = series(tmp_path)[3]
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ImageError, match=rf"{path.name}"):
        read_dicom(tmp_path)


@pytest.mark.parametrize("tag", [b"\x40\x00\x75\x02", b"\x00\x52\x29\x92"])
def test_sequences_nested_without_end(tmp_path: Path, tag: bytes) -> None:
    path = one_file(tmp_path / "a.dcm", volume()[0], **PLACED)
    data = path.read_bytes()
    pixels, item = data.index(b"\xe0\x7f\x10\x00"), tag + b"SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(data[:pixels] + item * 5000 + data[pixels:])
    with pytest.raises(ImageError, match=r"a\.dcm: its DICOM sequences are nested too deeply"):
        read_dicom(path)


def test_compressed_without_loss(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="the package that reads volumes is optional")
    for path in series(tmp_path, RescaleSlope=0.5, RescaleIntercept=-3):
        data = pydicom.dcmread(path)
        image, writer = sitk.GetImageFromArray(data.pixel_array[None]), sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.SetFileName(str(tmp_path / "packed"))
        writer.Execute(image)
        packed = pydicom.dcmread(tmp_path / "packed")
        data.PixelData, data.file_meta.TransferSyntaxUID = packed.PixelData, packed.file_meta.TransferSyntaxUID
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.save_as(path)
        (tmp_path / "packed").unlink()
    assert data.file_meta.TransferSyntaxUID == pydicom.uid.JPEGLosslessSV1
    np.testing.assert_array_equal(read_dicom(tmp_path).values, volume().transpose(2, 1, 0) * 0.5 - 3)


def test_a_damaged_file_is_named_without_the_text_of_its_tags(tmp_path: Path) -> None:
    from casewise.modalities.store.dicom_file import damage_named

    for error in (ValueError("'Doe^Jane'"), KeyError("Doe^Jane"), EOFError("Doe^Jane"), RuntimeError("Doe^Jane")):
        with pytest.raises(ImageError) as caught, damage_named(tmp_path / "a.dcm"):
            raise error
        text = str(caught.value)
        assert text.startswith(str(tmp_path / "a.dcm"))
        assert "Doe" not in text
        assert type(error).__name__ not in text


def tissue() -> np.ndarray:
    """Smooth values of a CT scan, (slices, rows, columns) `int16`."""
    ramp = np.add.outer(np.arange(DEPTH) * 40, np.add.outer(np.arange(ROWS) * 150, np.arange(COLUMNS) * 90))
    return (ramp - 1000).astype(np.int16)


@pytest.mark.parametrize("tags", [{}, {"PixelPaddingValue": -2000}, {"padding": 63536}])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_background_and_sets_no_range(tmp_path: Path, tags: dict[str, Any], kind: str) -> None:
    pixels = tissue()
    pixels[:, 0] = -2000
    stated = {name: value for name, value in tags.items() if name != "padding"}
    for path in series(tmp_path, pixels, Modality="CT", PhotometricInterpretation=kind, **stated):
        data = pydicom.dcmread(path)
        if "padding" in tags:
            data.add_new("PixelPaddingValue", "US", tags["padding"])
            data.save_as(path)
    expected = tissue().astype(float)[:, 1:]
    low, high = expected.min(), expected.max()
    scan = read_dicom(tmp_path)
    values = scan.values.transpose(2, 1, 0)
    assert (values[:, 0] == low).all()
    np.testing.assert_array_equal(values[:, 1:], expected if kind == "MONOCHROME2" else low + high - expected)
    assert any("padding" in note for note in scan.notes)


def table_of(entries: np.ndarray) -> Any:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), 0, 16])
    item.add_new("LUTData", "US", entries.astype(int).tolist())
    return item


def test_a_modality_lut_and_floating_point(tmp_path: Path) -> None:
    series(tmp_path / "table", ModalityLUTSequence=[table_of(np.arange(900) * 3)], PixelRepresentation=0)
    np.testing.assert_array_equal(read_dicom(tmp_path / "table").values, 3 * volume().transpose(2, 1, 0))
    for path in series(tmp_path / "float"):
        data = pydicom.dcmread(path)
        data.FloatPixelData = (data.pixel_array / 4).astype(np.float32).tobytes()
        data.BitsAllocated = 32
        del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
        data.save_as(path)
    np.testing.assert_array_equal(read_dicom(tmp_path / "float").values, volume().transpose(2, 1, 0) / 4)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_lossless_jpeg_reads_as_uncompressed(tmp_path: Path, kind: str) -> None:
    """Frames with their own slopes, and MONOCHROME1, which the decoder would invert."""
    pytest.importorskip("SimpleITK", reason="the package that reads volumes is optional")
    from pydicom.encaps import encapsulate

    order = [3, 1, 0, 2, 4, 5, 6]
    path = multi_frame(tmp_path / "a.dcm", volume(), order, PhotometricInterpretation=kind)
    expected = read_dicom(path).values
    data = pydicom.dcmread(path)
    data.PixelData = encapsulate([jpeg_lossless(volume()[k]) for k in order])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
    data.save_as(path)
    np.testing.assert_array_equal(read_dicom(path).values, expected)


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ({}, {"PhotometricInterpretation": "MONOCHROME1"}),
        ({"RescaleType": "HU"}, {"RescaleType": "US"}),
        ({"Units": "BQML"}, {"Units": "CNTS"}),
        ({}, {"ModalityLUTSequence": [table_of(np.arange(900))]}),
    ],
)
def test_slices_that_are_not_on_one_scale(tmp_path: Path, first: dict[str, Any], other: dict[str, Any]) -> None:
    for k, pixels in enumerate(volume()):
        tags = other if k == 3 else first
        series(tmp_path / str(k), pixels[None], ImagePositionPatient=place("axial", k), **tags)
    with pytest.raises(ImageError, match="not on one scale"):
        read_dicom(tmp_path, voxels=False)


def test_real_world_values_that_differ_between_slices(tmp_path: Path) -> None:
    for k, pixels in enumerate(volume()):
        mapping = pydicom.Dataset()
        mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = k + 1.0, -float(k)
        tags = {"RealWorldValueMappingSequence": [mapping]}
        series(tmp_path / str(k), pixels[None], ImagePositionPatient=place("axial", k), **tags)
    expected = [pixels * (k + 1.0) - k for k, pixels in enumerate(volume())]
    np.testing.assert_array_equal(read_dicom(tmp_path).values, np.transpose(expected, (2, 1, 0)))


def test_the_bits_of_stored_values(tmp_path: Path) -> None:
    unsigned = volume().astype(np.uint16)
    bits = {"BitsStored": 12, "PixelRepresentation": 0}
    series(tmp_path / "left", (unsigned << 4).astype(np.uint16), HighBit=15, **bits)
    series(tmp_path / "overlay", unsigned | np.uint16(0x8000) * (unsigned % 2), HighBit=11, **bits)
    for name in ("left", "overlay"):
        np.testing.assert_array_equal(read_dicom(tmp_path / name).values, volume().transpose(2, 1, 0))
    signed = np.tile(tissue(), (1, 6, 4))
    series(tmp_path / "sign", signed.view(np.uint16), Modality="CT", PixelRepresentation=0)
    with pytest.raises(ImageError, match="PixelRepresentation"):
        read_dicom(tmp_path / "sign")


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"PatientID": "P8"}, "different patients"),
        ({"PatientName": "Doe^John"}, "different patients"),
        ({"StudyInstanceUID": "1.3"}, "different examinations"),
    ],
)
@pytest.mark.parametrize("uid", ["1.2.3", ""])
def test_two_patients_are_not_one_volume(tmp_path: Path, tags: dict[str, Any], message: str, uid: str) -> None:
    pixels = volume()
    files = series(tmp_path / "scan", pixels, SeriesInstanceUID=uid, PatientName="Doe^Jane")
    own = {"SeriesInstanceUID": uid, "PatientName": "Doe^Jane", "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]} | tags
    one_file(files[3], pixels[3], **{"ImagePositionPatient": place("axial", 3)} | own)
    with pytest.raises(ImageError, match=message):
        read_dicom(tmp_path / "scan")
