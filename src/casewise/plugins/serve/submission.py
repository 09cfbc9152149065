"""What a client sends: images of one subject at one or several visits, under neutral names, and their checks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.cohort.folder_layout import ENDINGS
from casewise.modalities.store.readers import image_shape
from casewise.plugins.serve.settings import Json, ServiceError

if TYPE_CHECKING:
    from casewise.study.schema import Study

# The subject of every request; what the client calls the subject never reaches the prediction.
SUBJECT = "subject"
# Endings by which some readers recognise a file; the others are left out.
KEPT_ENDINGS = (".nii.gz", ".nii", *ENDINGS)
NEUTRAL = re.compile(r"upload-(\d+)")
# A stored file, with the folder of its series, and a series alone, in messages.
STORED = re.compile(r"(series-\d+/)?upload-(\d+)(?:\.[a-z]+)*")
# A case in the table of a request, whose visits have numbers.
CASE = re.compile(rf"{SUBJECT}/visit (\d+)")
SERIES = re.compile(r"series-(\d+)")
# No camera has longer images; each line of a wider one would be a picture of its own.
LONGEST_SIDE = 32_768


@dataclass(frozen=True)
class UploadedFile:
    """An image of a request.

    Attributes:
        name: as the client gave it, for messages (see `casewise.plugins.serve.settings.shown_name`).
        stored: its name in the folder of the request, which says nothing about the client's.
        slot: its region or sequence; empty where the model has neither.
        visit: the number of its visit, from 0.
    """

    name: str
    stored: str
    slot: str
    visit: int


@dataclass(frozen=True)
class Visit:
    """A visit: its name, its day after the first one (None if not stated), and covariates (empty if missing)."""

    name: str
    day: float | None = None
    covariates: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Submission:
    """The images of one subject, and what is wanted.

    Attributes:
        target, learner: what is explained, and by which learner; empty for the defaults.
    """

    visits: Sequence[Visit]
    files: Sequence[UploadedFile]
    target: str = ""
    learner: str = ""

    def as_json(self) -> Json:
        """As plain values, for another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Submission:
        """The inverse of `as_json`."""
        visits = [Visit(**visit) for visit in values["visits"]]
        files = [UploadedFile(**file) for file in values["files"]]
        return cls(visits, files, values["target"], values["learner"])

    def named(self, text: str, folder: Path | None = None) -> str:
        """A message in which the client's names stand in place of the neutral ones of files, in `folder` if stated."""

        def name(match: re.Match[str]) -> str:
            number = int(match[2])
            return self.files[number].name if number < len(self.files) else match[0]

        def scan(match: re.Match[str]) -> str:
            slot = self.scans[int(match[1])] if int(match[1]) < len(self.scans) else ""
            return f"the files of {slot}" if slot else "the scan"

        if folder is not None:
            text = text.replace(f"{folder}/", "").replace(str(folder), "the upload")
        text = text.replace(" out of the table", " out")
        text = CASE.sub(lambda match: self.visits[int(match[1]) - 1].name, text)
        return SERIES.sub(scan, STORED.sub(name, text))

    @property
    def scans(self) -> list[str]:
        """The slots of the series, in the order of their folders (`series-N`)."""
        return [slot for _, slot in dict.fromkeys((file.visit, file.slot) for file in self.files)]

    def files_in(self, text: str) -> list[str]:
        """The client's names of the files that a message mentions by their neutral names."""
        numbers = dict.fromkeys(int(match[2]) for match in STORED.finditer(text))
        return [self.files[number].name for number in numbers if number < len(self.files)]


def neutral_name(number: int, name: str) -> str:
    """The name under which an uploaded file is stored; only an ending that readers know is kept.

    >>> neutral_name(2, "Jane Doe.JPG"), neutral_name(0, "scan.nii.gz"), neutral_name(1, "../a.php")
    ('upload-2.jpg', 'upload-0.nii.gz', 'upload-1')
    """
    ending = next((ending for ending in KEPT_ENDINGS if name.casefold().endswith(ending)), "")
    return f"upload-{number}{ending}"


def slots_of(study: Study) -> list[str]:
    """The regions or sequences of a case; empty where images have neither."""
    return list(study.regions) or [str(name) for name in getattr(study.modality_settings, "sequences", [])]


def slot_column(study: Study) -> str:
    """The heading of the region or sequence in the table of a request; empty where images have neither."""
    return "region" if study.regions else str(getattr(study.modality_settings, "column", ""))


def needed_columns(study: Study) -> set[str]:
    """Columns that the settings of the modality name, without which there are no cases."""
    column = getattr(study.modality_settings, "slice_index", None)
    return {str(column)} if column else set()


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
            message = f"The visit {visit.name!r} has no image of the {noun} {' and '.join(lacking)}."
            all_slots = f"The model needs every {noun}: {', '.join(slots)}."
            raise ServiceError(422, "missing_image", f"{message} {all_slots}")
        for slot in slots if description["series"] else []:
            own = [file for file in files if file.slot == slot]
            if len(own) > 1 and any(_is_nifti(file.stored) for file in own):
                remedy = "Give one NIfTI file, or the DICOM files of one series."
                message = f"The visit {visit.name!r} has {len(own)} files for {slot}. {remedy}"
                raise ServiceError(422, "several_scans", message, [file.name for file in own])


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
            limits = f"at most {limit:,} pixels and sides of {LONGEST_SIDE:,} are read. Save it smaller."
            message = f"{file.name}: it has {width:,} x {height:,} pixels; {limits}"
            raise ServiceError(413, "image_too_large", message, [file.name])


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
        series = folder / f"series-{number}"
        series.mkdir(exist_ok=True)
        for file in own:
            if (folder / file.stored).exists():  # a request that is repeated finds its files moved
                (folder / file.stored).replace(series / file.stored)
        scans.append(replace(own[0], stored=series.name))
    return scans


def _is_nifti(name: str) -> bool:
    return name.casefold().endswith((".nii", ".nii.gz"))
