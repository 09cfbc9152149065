"""What images state themselves in their DICOM headers: the patient, the day of the study and the modality."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from casewise.cohort.folder_layout import IMAGES, SLIDES, VOLUME_FILES
from casewise.errors import ImageError, cut
from casewise.modalities.store import dicom_file
from casewise.names import one_form

DAY, MODALITY = "StudyDate", "Modality"
# Modalities of one kind of image: projection radiographs.
_SAME_KIND = dict.fromkeys(("CR", "DX", "DR", "RG"), "CR")
# Said of anything: other, and captured from a screen or scanned, which does not tell what it shows.
UNSPECIFIC = ("OT", "SC")


@dataclass(frozen=True)
class _Stated:
    """What an image states; texts are empty where it states nothing.

    Attributes:
        name: of the file or folder.
        person: the values of `PERSON`.
        day: of the study.
        modality: such as CT.
    """

    name: str
    person: tuple[str, ...]
    day: str
    modality: str = ""


def stated_by(paths: Sequence[Path]) -> Iterator[_Stated]:
    """What images state; those that are not DICOM, or cannot be read, state nothing."""
    for path in paths:
        with suppress(ImageError, ImportError, OSError):
            # a series is of one patient and day
            file = next(iter(dicom_file.dicom_files(path)[0]), None) if path.is_dir() else path
            head = dicom_file.head_of(file) if file else b""
            if file is None or not dicom_file.is_dicom(head) or dicom_file.DEFLATED in head:
                continue
            with dicom_file.damage_named(file):
                tags = [*dicom_file.PERSON, DAY, MODALITY, "SpecificCharacterSet"]
                header = dicom_file.quiet_pydicom().dcmread(
                    file, stop_before_pixels=True, specific_tags=tags, force=True
                )
                texts = [one_form(dicom_file.text_of(header, tag)) for tag in (*dicom_file.PERSON, DAY, MODALITY)]
            yield _Stated(path.name, tuple(texts[:-2]), texts[-2], texts[-1].upper())


def people_problem(images: Sequence[_Stated], subject: str, subjects: Collection[str]) -> str:
    """Why the images of a case are not of its subject; empty if nothing is known against it.

    Args:
        subjects: the names of subjects that an image may state.
    """
    # an image of each person; all pairs, because one that states little is like several others
    first_of: dict[tuple[str, ...], _Stated] = {}
    for image in images:
        first_of.setdefault(image.person, image)
    for image, other in combinations(first_of.values(), 2):
        # what one of them does not state distinguishes nobody
        pairs = list(zip(image.person, other.person, strict=True))
        if not dicom_file.same_patient([[own or its for own, its in pairs], [its or own for own, its in pairs]]):
            return (
                f"{image.name} and {other.name} state different patients (identifier, name, date of birth or "
                "issuer). A case is one subject at one visit."
            )
    if wrong := next((image for image in images if subject != image.person[0] in subjects), None):
        return f"{wrong.name} states a PatientID that is another subject of these cases. Correct the subjects."
    return ""


def modalities_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """The modalities that images state, sorted; image files other than DICOM are not opened."""
    may_be = [path for path in paths if not path.name.casefold().endswith((*IMAGES, *SLIDES, *VOLUME_FILES))]
    with ThreadPoolExecutor() as pool:
        stated = pool.map(lambda path: next(stated_by([path]), None), may_be)
        return tuple(sorted({image.modality for image in stated if image and image.modality not in ("", *UNSPECIFIC)}))


def modality_problem(images: Sequence[_Stated], modalities: Sequence[str]) -> str:
    """Why images of a case are not of the modality of the training; empty if nothing is known against it.

    Args:
        modalities: those that training images stated; CR, DX, DR and RG are one.
    """
    # records of older versions may have unspecific ones
    expected = {_SAME_KIND.get(name, name) for name in modalities if name not in UNSPECIFIC}
    for image in images if expected else ():
        if image.modality not in ("", *UNSPECIFIC) and _SAME_KIND.get(image.modality, image.modality) not in expected:
            return (
                f"{image.name} states the modality {cut(image.modality)}, and the images of the training "
                f"{' or '.join(modalities)}. The model does not apply to it."
            )
    return ""


def unspecific(images: Iterable[_Stated], modalities: Sequence[str]) -> list[str]:
    """The names of images that state no certain modality, where the training images, which stated these, did."""
    specific = [name for name in modalities if name not in UNSPECIFIC]
    return [image.name for image in images if specific and image.modality in UNSPECIFIC]


def days_problem(images: Sequence[_Stated]) -> str:
    """Why the images of a case are not of one day; empty if nothing is known against it."""
    dated = [image for image in images if image.day]
    for image in dated[1:]:
        if image.day != dated[0].day:
            return (
                f"{dated[0].name} and {image.name} are of different days (StudyDate), and a case is one subject at one "
                "visit."
            )
    return ""
