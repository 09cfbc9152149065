"""The places of images in a case, its regions or sequences, and the checks of what was uploaded for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.modalities.store.readers import image_shape
from casewise.plugins.serve.settings import ServiceError
from casewise.plugins.serve.submission import Submission, UploadedFile, series_name

if TYPE_CHECKING:
    from casewise.study.schema import Study

# No camera has longer images; each line of a wider one would be a picture of its own.
LONGEST_SIDE = 32_768


def slots_of(study: Study) -> list[str]:
    """The regions or sequences of a case; empty where images have neither."""
    return list(study.regions) or [str(name) for name in getattr(study.modality_settings, "sequences", [])]


def slot_column(study: Study) -> str:
    """The heading of the region or sequence in the table of a request; empty where images have neither."""
    return "region" if study.regions else str(getattr(study.modality_settings, "column", ""))


def needed_columns(study: Study) -> set[str]:
    """Columns that the settings of the modality name, without which there are no cases."""
    settings = study.modality_settings
    needed = {str(settings.slice_index)} if getattr(settings, "slice_index", None) else set()
    return needed | ({"box_x0"} if getattr(settings, "roi", "") == "box" else set())


def check_slots(submission: Submission, description: Mapping[str, Any]) -> None:
    """Check that every visit has the images that the model needs.

    Raises:
        ServiceError: an image has no region or an unknown one, a visit lacks one, or a scan was given twice.
    """
    slots = description["slots"]
    noun = "sequence" if description["series"] else "region"
    for number, visit in enumerate(submission.visits):
        files = [file for file in submission.files if file.visit == number]
        if not files:
            raise ServiceError(422, "no_image", f"The visit {visit.name!r} has no image. Add one, or leave it out.")
        lacking = [slot for slot in slots if slot not in {file.slot for file in files}]
        if lacking and description["all_slots"]:
            raise ServiceError(
                422,
                "missing_image",
                f"The visit {visit.name!r} has no image of the {noun} {' and '.join(lacking)}. The model needs every "
                f"{noun}: {', '.join(slots)}.",
            )
        if description["series"]:
            _check_single(files, visit.name)


def _check_single(files: list[UploadedFile], visit: str) -> None:
    by_slot: dict[str, list[UploadedFile]] = {}
    for file in files:
        by_slot.setdefault(file.slot, []).append(file)
    for slot, own in by_slot.items():
        if len(own) > 1 and any(_is_nifti(file.stored) for file in own):
            raise ServiceError(
                422,
                "several_scans",
                f"The visit {visit!r} has {len(own)} files for {slot}. Give one NIfTI file, or the DICOM files of one "
                "series.",
                [file.name for file in own],
            )


def check_pixels(submission: Submission, folder: Path, limit: int, description: Mapping[str, Any]) -> None:
    """Check the stated size of each photograph before it is decoded; slides and scans are read in pieces.

    Raises:
        ServiceError: an image is too large, or its side is longer than any camera's or 0.
    """
    if description["modality"] != "photographs":
        return
    for file in submission.files:
        shape = image_shape(folder / file.stored)
        if shape is None:  # the preparation says why
            continue
        width, height = shape
        if width * height > limit or max(shape) > LONGEST_SIDE:
            raise ServiceError(
                413,
                "image_too_large",
                f"{file.name}: it has {width:,} x {height:,} pixels; at most {limit:,} pixels and sides of "
                f"{LONGEST_SIDE:,} are read. Save it smaller.",
                [file.name],
            )


def into_series(submission: Submission, folder: Path) -> list[UploadedFile]:
    """One entry for each scan; DICOM files of a series are moved into a folder, whose name is that of the entry."""
    by_scan: dict[tuple[int, str], list[UploadedFile]] = {}
    for file in submission.files:
        by_scan.setdefault((file.visit, file.slot), []).append(file)
    scans = []
    for number, own in enumerate(by_scan.values()):
        if len(own) == 1 and _is_nifti(own[0].stored):
            scans.append(own[0])
            continue
        series = folder / series_name(number)
        series.mkdir(exist_ok=True)
        for file in own:
            if (folder / file.stored).exists():  # a request that is repeated finds its files moved
                (folder / file.stored).replace(series / file.stored)
        scans.append(replace(own[0], stored=series.name))
    return scans


def _is_nifti(name: str) -> bool:
    return name.casefold().endswith((".nii", ".nii.gz"))
