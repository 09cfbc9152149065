"""Good files of every kind that the product reads, tiny and synthetic: what is mutated."""

import gzip
import io
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from casewise.study.schema import Study
from tests.combinations import KINDS, make_table, settings
from tests.film_files import film_bytes

SIDES = (40, 28)


@dataclass(frozen=True)
class Sample:
    """The bytes of a good file and how its name ends."""

    data: bytes
    ending: str


def picture() -> np.ndarray:
    """(28, 40, 3) `uint8`, smooth with some noise."""
    x, y = np.meshgrid(np.linspace(0, 200, SIDES[0]), np.linspace(0, 50, SIDES[1]))
    noise = np.random.default_rng(1).integers(0, 6, (*x.shape, 3))
    return (np.stack([x, y, x + y], axis=-1) + noise).astype(np.uint8)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@cache
def images() -> list[Sample]:
    """Image files of every format, also of those that are refused."""
    image, exif = Image.fromarray(picture()), Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray(picture()[..., 0].astype(np.uint16) * 256)
    samples = [
        Sample(_saved(image, "JPEG", exif=exif), ".jpg"),
        Sample(_saved(image, "JPEG", progressive=True, quality=60), ".jpg"),
        Sample(_saved(image.convert("CMYK"), "JPEG"), ".jpg"),
        Sample(_saved(image, "PNG", exif=exif), ".png"),
        Sample(_saved(grey16, "PNG"), ".png"),
        Sample(_saved(image.quantize(16), "PNG"), ".png"),
        Sample(_saved(image, "TIFF", compression="tiff_lzw"), ".tif"),
        Sample(_saved(image, "TIFF", compression="jpeg"), ".tif"),
        Sample(_saved(grey16, "TIFF"), ".tif"),
        Sample(_saved(image, "WEBP"), ".webp"),
        Sample(_saved(image, "BMP"), ".bmp"),
        Sample(_saved(image, "GIF"), ".gif"),
    ]
    if find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        samples.append(Sample(_saved(image, "HEIF"), ".heic"))
    return samples


@cache
def films() -> list[Sample]:
    """DICOM files of one image, compressed in several ways."""
    grey, deep = picture()[..., 0], picture()[..., 0].astype(np.uint16) * 10
    jpeg = _saved(Image.fromarray(grey), "JPEG")
    made = [
        film_bytes(deep, WindowCenter=900, WindowWidth=1200),
        film_bytes(picture()),
        film_bytes(deep, compression="rle"),
        film_bytes(grey, compression="jpeg", jpeg=jpeg),
        film_bytes(deep, preamble=False),
        film_bytes(np.stack([grey, grey]), NumberOfFrames=2),
    ]
    made += [film_bytes(np.tile(deep, (3, 2)), compression="jpeg2000")] if find_spec("openjpeg") else []
    return [Sample(data, ".dcm") for data in made]


@cache
def series() -> list[list[bytes]]:
    """Scans as DICOM: a series of slices, and one file of many frames."""
    from tests.plugins.volumes.test_dicom import multi_frame, volume
    from tests.plugins.volumes.test_dicom import series as write_series

    with tempfile.TemporaryDirectory() as folder:
        slices = write_series(Path(folder) / "slices", volume()[:4])
        frames = multi_frame(Path(folder) / "frames.dcm", volume()[:4], [2, 0, 1, 3])
        return [[path.read_bytes() for path in slices], [frames.read_bytes()]]


@cache
def scans() -> list[Sample]:
    """NIfTI files: floats, scaled integers, version 2, and compressed ones."""
    import nibabel

    rng = np.random.default_rng(2)
    values, affine = rng.integers(0, 300, (12, 10, 5)), np.diag([1.0, 1.0, 3.0, 1.0])
    first = nibabel.Nifti1Image(values.astype(np.float32), affine)
    scaled = nibabel.Nifti1Image(values.astype(np.int16), affine)
    scaled.header.set_slope_inter(0.5, 3)
    second = nibabel.Nifti2Image(values.astype(np.uint8), affine)
    plain = [each.to_bytes() for each in (first, scaled, second)]
    return [*(Sample(data, ".nii") for data in plain), *(Sample(gzip.compress(d, 1), ".nii.gz") for d in plain[:2])]


@cache
def slides() -> list[Sample]:
    """Pyramids as TIFF."""
    with tempfile.TemporaryDirectory() as folder:
        make_table(Path(folder), "slides", "slide", seed=1)
        return [Sample((Path(folder) / f"slide{number}.tiff").read_bytes(), ".tiff") for number in (0, 1)]


@cache
def weights() -> list[Sample]:
    """Files of tensors: safetensors, and PyTorch's own."""
    import torch
    from safetensors.torch import save

    tensors = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.zeros(2, dtype=torch.float16)}
    stream = io.BytesIO()
    torch.save(tensors, stream)
    return [Sample(save(tensors), ".safetensors"), Sample(stream.getvalue(), ".pth")]


@dataclass(frozen=True)
class Folders:
    """Folders that a run leaves.

    Attributes:
        bundle: a bundle of one network with random weights.
        archive: the same as one zip file.
        tiles: prepared photographs.
    """

    bundle: Path
    archive: Path
    tiles: Path


def make_folders(folder: Path) -> Folders:
    """Write them, without training."""
    bundle, archive = make_bundle(folder)
    return Folders(bundle, archive, make_tiles(folder))


def _photographs(folder: Path) -> Study:
    from casewise.study.loading import build_study

    table = make_table(folder, "photographs", "here", seed=3)
    values = {**settings("photographs", "number", table, "new-cases"), "targets": KINDS}
    return build_study(values, source="the study", folder=folder)


def make_bundle(folder: Path) -> tuple[Path, Path]:
    """A bundle of one network with random weights, which predicts a number, classes and grades; its zip file."""
    from casewise.files import checksum
    from casewise.inference.bundle import Bundle, ComputeFacts, as_json, output_facts, settings_of, shared_outputs
    from casewise.inference.ensemble import Combination
    from casewise.models.build_model import network_facts, network_of, scaled_facts
    from casewise.models.outputs import outputs_of
    from casewise.run_folder import BundleFolder
    from casewise.run_folder.bundle_folder import write_archive
    from casewise.run_folder.job_folder import JobFolder
    from casewise.training.checkpoint import write_tensors

    study = _photographs(folder)
    network, job = network_of(study, "test_resnet"), JobFolder(folder / "job")
    job.path.mkdir()
    write_tensors(job.weights, network.state_dict(), {})
    sha256 = checksum(job.weights.path)
    facts = Bundle(
        folder=job.path,
        model="test_resnet",
        fold=0,
        network=scaled_facts(network_facts(study, "test_resnet"), network),
        outputs=output_facts(study, outputs_of(study), network),
        settings=settings_of(study, "test_resnet"),
        fitted={},
        compute=ComputeFacts(),
        batch_size=4,
        subjects=frozenset({"A"}),
        stop_subjects=frozenset(),
        origin={"weights": "random", "split": "0", "synthetic": True, "weights_sha256": sha256},
    )
    bundle = BundleFolder(folder / "bundle")
    member = bundle.member("test_resnet", 1)
    member.path.mkdir(parents=True)
    shutil.copy(job.weights.path, member.weights.path)
    member.facts.path.write_text(json.dumps(as_json(facts)))
    entry = {"learner": "test_resnet", "fold": 1}
    about: dict[str, Any] = {"format": 1, "members": [entry], "learners": ["test_resnet"], "folds": 1, "final": "folds"}
    about |= {"combination": asdict(Combination(headline="test_resnet")), "synthetic": True}
    about |= {"outputs": shared_outputs(facts.outputs), "settings": facts.settings}
    bundle.facts.path.write_text(json.dumps(about))
    bundle.provenance.path.write_text(json.dumps({"split": "0", "networks": [{**entry, "weights_sha256": sha256}]}))
    bundle.card.path.write_text("# Card\n")
    bundle.write_manifest("0", "inputs")
    return bundle.path, write_archive(bundle, folder / "bundle.zip")


def _prepared(study: Study, folder: Path) -> Path:
    """The folder with the prepared images of a study."""
    from casewise.cohort.cohort import read_cohort
    from casewise.console import Silent
    from casewise.modalities.base import ImageFolder
    from casewise.modalities.registry import modality_of

    cohort = modality_of(study).read(study, read_cohort(study), ImageFolder(folder), Silent())
    modality_of(study).prepare(study, cohort, ImageFolder(folder / "images"), Silent())
    return folder / "images"


def make_tiles(folder: Path) -> Path:
    """Prepared photographs, and their folder."""
    return next(path.parent for path in _prepared(_photographs(folder), folder).rglob("*.npy"))


def make_slices(folder: Path) -> Path:
    """Prepared slices of a few scans, and their folder."""
    from casewise.study.loading import build_study

    table = make_table(folder, "volumes", "here", seed=3)
    table.write_text("\n".join(table.read_text().splitlines()[:7]) + "\n")
    study = build_study(settings("volumes", "number", table, "new-cases"), source="the study", folder=folder)
    return next(path.parent for path in _prepared(study, folder).rglob("slices.json"))
