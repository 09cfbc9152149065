"""The images below a folder: image files, or scans (NIfTI files and folders of DICOM slices)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from casewise.cohort.dates import natural
from casewise.cohort.folder_layout import DICOM_SUFFIXES, ENDINGS, walk
from casewise.cohort.table import names_text
from casewise.errors import CasewiseError, counted
from casewise.modalities.store.dicom_file import damage, quiet_pydicom, text_of

VOLUME_FILES = (".nii.gz", ".nii")
# DICOM modalities whose files are single pictures; all others are slices of a scan.
PLANAR = ("CR", "DX", "DR", "MG", "RG", "IO", "PX", "XC", "OP", "ES", "GM", "SM", "DMS")
MASK_WORDS = ("mask", "seg", "segmentation", "lesion", "roi")
# Pictures whose colours are looked at.
_SAMPLE = 20


@dataclass(frozen=True)
class ImageFiles:
    """The images below `folder`: paths relative to it with `/`, in natural order, and the files that are none.

    `scans`: the paths are volumes, NIfTI files or folders of DICOM slices; else they are image files.
    """

    folder: Path
    paths: list[str]
    skipped: list[str]
    scans: bool

    @property
    def noun(self) -> str:
        return "scan" if self.scans else "image"


def stem_of(path: str) -> str:
    """A path without the ending of an image file; other dots belong to the name.

    >>> stem_of("a/T1.nii.gz"), stem_of("P1.2.JPG"), stem_of("series1")
    ('a/T1', 'P1.2', 'series1')
    """
    folded = path.casefold()
    ending = next((e for e in (*VOLUME_FILES, *DICOM_SUFFIXES, *ENDINGS) if folded.endswith(e)), "")
    return path[: len(path) - len(ending)]


def find_images(folder: Path) -> ImageFiles:
    """Find the images below a folder; if there are scans and image files, the more frequent kind counts.

    Raises:
        CasewiseError: the folder is missing, cannot be read, or contains no images.
    """
    images: list[str] = []
    scans: list[str] = []
    others: list[str] = []
    for here, paths, hidden in walk(folder):
        others += hidden
        slices = [path for path in paths if path.casefold().endswith(DICOM_SUFFIXES)]
        for path in paths:
            name = path.rpartition("/")[2].casefold()
            if name.endswith(VOLUME_FILES):
                (others if set(MASK_WORDS) & set(words_of(stem_of(name))) else scans).append(path)
            elif not name.endswith(DICOM_SUFFIXES):
                (images if name.endswith(ENDINGS) else others).append(path)
        # slices of scans, by the modality of the first file and their number
        if len(slices) > 2 and _dicom_value(folder / slices[0], "Modality") not in PLANAR:
            scans.append(here)
        else:
            images += slices
    if not images and not scans:
        names = f" It contains {counted(len(others), 'other file')}, such as {others[0]}." if others else ""
        raise CasewiseError(
            f"{folder} contains no images ({', '.join(dict.fromkeys([*ENDINGS, *VOLUME_FILES]))}).{names}"
        )
    volumes = len(scans) > len(images)
    paths, rest = (scans, images) if volumes else (images, scans)
    return ImageFiles(folder, sorted(paths, key=natural), sorted([*others, *rest]), volumes)


def words_of(text: str) -> list[str]:
    """The letters and digits between other characters.

    >>> words_of("t1-mask_2")
    ['t1', 'mask', '2']
    """
    return "".join(c if c.isalnum() else " " for c in text).split()


def _dicom_value(path: Path, tag: str) -> str:
    """A value of the header of a DICOM file; empty if there is none or the file is damaged."""
    try:
        pydicom = quiet_pydicom()
    except ImportError:
        raise CasewiseError(
            f"{path} is a DICOM file, and the package that reads it is missing: pip install 'casewise[volumes]'."
        ) from None
    try:
        return text_of(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[tag], force=True), tag)
    except damage():
        # `validate` names damaged files; here only their kind matters.
        return ""


def are_grey(images: ImageFiles) -> bool:
    """Whether a sample of the image files has no colours, as their headers state."""
    from PIL import Image

    if images.scans:
        return False
    for path in images.paths[:: max(1, len(images.paths) // _SAMPLE)]:
        try:
            if path.casefold().endswith(DICOM_SUFFIXES):
                grey = _dicom_value(images.folder / path, "SamplesPerPixel") == "1"
            else:
                with Image.open(images.folder / path) as picture:
                    grey = picture.mode in ("L", "1", "I;16", "I;16B", "I", "LA")
        except OSError:
            grey = False
        if not grey:
            return False
    return True


def skipped_text(images: ImageFiles) -> str:
    """A clause on the files that are no images; empty if there are none."""
    if not images.skipped:
        return ""
    names = names_text([path.rpartition("/")[2] for path in images.skipped], 3)
    return f"; {counted(len(images.skipped), 'other file')} not used ({names})"
