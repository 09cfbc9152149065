"""A client's submission: images of one subject at one or several visits, under neutral names, and their checks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from starlette.concurrency import run_in_threadpool

from casewise.cohort.companions import companions, companions_text
from casewise.cohort.folder_layout import ENDINGS
from casewise.cohort.groups import spelled_alike
from casewise.cohort.table import natural
from casewise.errors import cut, nearest
from casewise.inference.stated import people_problem, stated_by
from casewise.modalities.store.readers import image_shape
from casewise.names import one_form
from casewise.plugins.serve.settings import ServiceSettings, shown_name
from casewise.web.settings import ServiceError

if TYPE_CHECKING:
    from starlette.datastructures import FormData, UploadFile
    from starlette.requests import Request


# The subject of every request; what the client calls the subject never reaches the prediction.
SUBJECT = "subject"
# Endings by which some readers recognise a file; the others are left out.
KEPT_ENDINGS = (".nii.gz", ".nii", *ENDINGS)
NEUTRAL = re.compile(r"upload-(\d+)")
# A stored file in a message, with the folder of its series if it has one.
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

    def named(self, text: str, folder: Path | None = None) -> str:
        """A message with the client's names instead of the neutral names of files, in `folder` if stated."""

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


def check_slots(submission: Submission, description: Mapping[str, Any]) -> None:
    """Check that every visit has the images that the model needs.

    Raises:
        ServiceError: a visit has no image or lacks one that the model needs, or has several files for a scan of NIfTI.
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
        ServiceError: an image has too many pixels, or a side is longer than any camera's.
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


def check_companions(submission: Submission, folder: Path, description: Mapping[str, Any]) -> None:
    """Check that every photograph is an image, and no mask, overlay or thumbnail of another one.

    Raises:
        ServiceError: one is; the answer would be about a drawing.
    """
    if description["modality"] != "photographs":
        return
    stored = {file.name: file.stored for file in submission.files}
    if belonging := companions(folder, list(stored), stored)[0]:
        text = f"Not images of their own: {companions_text(belonging.values())}. Leave them out."
        raise ServiceError(422, "not_an_image", text, list(belonging))


def check_person(submission: Submission, folder: Path) -> None:
    """Check that the DICOM images of all visits state one patient.

    Raises:
        ServiceError: images state different patients, whose results would be shown as one patient's.
    """
    if problem := people_problem(list(stated_by([folder / file.stored for file in submission.files])), "", ()):
        message = f"{submission.named(problem)} Send the images of each patient in a request of their own."
        raise ServiceError(422, "several_patients", message, submission.files_in(problem))


def into_series(submission: Submission, folder: Path) -> list[UploadedFile]:
    """One entry for each scan; DICOM files of a series are moved into a folder with the entry's name."""
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


# The field of images where a model has neither regions nor sequences.
IMAGE = "image"
MOST_VISITS, LONGEST_TEXT = 100, 200
# Bytes of a field without a file.
FIELD_BYTES = 16 * 1024
COPIED = 2**20
NUMBER, THOUSANDS = re.compile(r"[+-]?[0-9]{1,9}([.,][0-9]{1,20})?"), re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")
NUMBERED = re.compile(r"([1-9]\d{0,2})\.(.+)", re.DOTALL)


async def read_submission(
    request: Request, folder: Path, description: Mapping[str, Any], settings: ServiceSettings
) -> Submission:
    """The submission of a request; its images are in `folder`, under neutral names.

    Raises:
        ServiceError: the request is not a multipart form, has too many parts, an unknown field, or no image.
    """
    if not request.headers.get("content-type", "").casefold().startswith("multipart/form-data"):
        example = f"curl -F {(description['slots'] or [IMAGE])[0]}=@photograph.jpg"
        message = f"The request must be a multipart/form-data form with the images as files, such as `{example}`."
        raise ServiceError(415, "not_multipart", message)
    limits = {
        "max_files": settings.max_files,
        "max_fields": (3 + len(description["covariates"])) * MOST_VISITS,
        "max_part_size": FIELD_BYTES,
    }
    async with request.form(**limits) as form:
        return await run_in_threadpool(_stored, form, folder, description)


def _stored(form: FormData, folder: Path, description: Mapping[str, Any]) -> Submission:
    names: dict[int, str] = {}
    days: dict[int, float] = {}
    fields = {entry["name"]: entry for entry in description["covariates"]}
    given: dict[tuple[int, str], str] = {}
    options = {"target": "", "learner": ""}
    files: list[UploadedFile] = []
    positions_in_form: list[int] = []
    position_of = {id(value): position for position, (_, value) in enumerate(form.multi_items())}
    for named, value in sorted(form.multi_items(), key=_order):
        number, name = _numbered(named, description)
        if not isinstance(value, str):
            files.append(_file(value, named, number, name, len(files), folder, description))
            positions_in_form.append(position_of[id(value)])
        elif name in fields:
            given[number, name] = _covariate(value, number, fields[name])
        elif name == "visit":
            names[number] = _text(value, named)
        elif name == "day":
            days[number] = _number(value, f"The day of visit {number}", "bad_day")
        elif named in options:
            options[named] = _text(value, named)
        else:
            raise _unknown(named, description, is_file=False)
    if not files:
        raise ServiceError(422, "no_image", "No image was sent. Choose at least one file.")
    numbers = sorted({file.visit for file in files} | set(names) | set(days) | {key[0] for key in given})
    if len(numbers) > MOST_VISITS:
        raise ServiceError(413, "too_many_visits", f"The request has {len(numbers)} visits; at most {MOST_VISITS}.")
    positions = {number: position for position, number in enumerate(numbers)}
    visits = [
        Visit(names.get(n) or f"visit {n}", days.get(n), {name: given.get((n, name), "") for name in fields})
        for n in numbers
    ]
    for visit in visits:
        if unstated := [name for name, cell in visit.covariates.items() if not cell and not fields[name]["optional"]]:
            message = (
                f"{visit.name} has no {unstated[0]}, which no training case lacked. State {' and '.join(unstated)}."
            )
            raise ServiceError(422, "covariate_missing", message)
    if len({visit.name for visit in visits}) < len(visits):
        raise ServiceError(422, "same_visit", "Two visits have the same name. Give each its own.")
    if any(visit.day is None for visit in visits) and days:
        lacking = next(visit.name for visit in visits if visit.day is None)
        message = f"{lacking} has no day, and another visit has one. State the day of every visit, or none."
        raise ServiceError(422, "day_missing", message)
    stored = [
        UploadedFile(name, file.stored, file.slot, positions[file.visit])
        for name, file in zip(_distinct([file.name for file in files], positions_in_form), files, strict=True)
    ]
    return Submission(visits, stored, **options)


def _distinct(names: Sequence[str], positions: Sequence[int]) -> list[str]:
    """Names of files, equal ones numbered by their positions in the form.

    >>> _distinct(["a.jpg", "b.jpg", "a.jpg"], [2, 1, 0])
    ['a.jpg (2)', 'b.jpg', 'a.jpg (1)']
    """
    of_name: dict[str, list[int]] = {}
    for name, position in zip(names, positions, strict=True):
        of_name.setdefault(name, []).append(position)
    return [
        name if len(of_name[name]) == 1 else f"{name} ({1 + sorted(of_name[name]).index(position)})"
        for name, position in zip(names, positions, strict=True)
    ]


def _order(item: tuple[str, UploadFile | str]) -> tuple[tuple[object, ...], bytes]:
    """Sorts files by name and content, so that predictions do not depend on the order in which a client sends them."""
    _, value = item
    if isinstance(value, str):
        return natural(""), b""
    digest = hashlib.file_digest(value.file, "sha256").digest()  # type: ignore[arg-type]
    value.file.seek(0)
    return natural(value.filename), digest


def _numbered(field: str, description: Mapping[str, Any]) -> tuple[int, str]:
    """The number of the visit and the name of a field: `2.upper` is `upper` of the second visit, `upper` of the first.

    A region whose name looks like that is taken as it is.
    """
    match = NUMBERED.fullmatch(field)
    if match and field not in {*description["slots"], *(entry["name"] for entry in description["covariates"])}:
        return int(match[1]), match[2]
    return 1, field


def _file(
    upload: UploadFile, field: str, number: int, slot: str, count: int, folder: Path, description: Mapping[str, Any]
) -> UploadedFile:
    name = shown_name(upload.filename or "")
    allowed = description["slots"] or [IMAGE]
    if slot not in allowed:
        raise _unknown(field, description, is_file=True, file=name)
    stored, size = neutral_name(count, name), 0
    with (folder / stored).open("xb") as target:
        while chunk := upload.file.read(COPIED):
            size += target.write(chunk)
    if not size:
        raise ServiceError(422, "empty_file", f"{name}: the file is empty (0 bytes). Copy it again.", [name])
    return UploadedFile(name, stored, slot if description["slots"] else "", number)


def _unknown(field: str, description: Mapping[str, Any], *, is_file: bool, file: str = "") -> ServiceError:
    slots = description["slots"] or [IMAGE]
    options = slots if is_file else ["visit", "day", *(covariate["name"] for covariate in description["covariates"])]
    noun = "a field for files" if is_file else "a text field"
    if not is_file and _numbered(field, description)[1] in slots:
        message = f"{cut(field)} must be a file, such as `curl -F {field}=@photograph.jpg`, and was sent as text."
        return ServiceError(422, "unknown_field", message)
    allowed = f"There are {', '.join(options)}, for further visits with their number: 2.{options[0]}."
    allowed += "" if is_file else " /api/explain also takes target and learner."
    hint = nearest(field, options if is_file else [*options, "target", "learner"])
    message = f"{f'{file}: ' if file else ''}{cut(field)} is not the name of {noun}. {allowed}{hint}"
    return ServiceError(422, "unknown_field", message, [file] if file else [])


def _text(value: str, field: str) -> str:
    text = one_form(value).strip()
    if len(text) > LONGEST_TEXT or not text.isprintable():
        message = f"{cut(field)}: it must be at most {LONGEST_TEXT} printable characters on one line."
        raise ServiceError(422, "bad_text", message)
    return text


def _covariate(value: str, number: int, entry: Mapping[str, Any]) -> str:
    """The value of a covariate in the spelling of the training table, '' if missing."""
    what, levels = f"{entry['name']} of visit {number}", entry["levels"]
    cell = str(spelled_alike(pd.Series([_text(value, what)]), levels or ())[0])
    if cell and not levels:
        return f"{_number(cell, what, 'bad_covariate'):.12g}"
    if cell and cell not in levels:
        message = f"{what}: {cut(value)} was not in the training cases. Choose one of: {', '.join(levels)}."
        raise ServiceError(422, "bad_covariate", message + nearest(cell, levels))
    return cell


def _number(value: str, what: str, code: str) -> float:
    """A number, also with a decimal comma; not 1,000, which may mean 1 or 1000."""
    text = value.strip().replace("\N{MINUS SIGN}", "-")
    if not NUMBER.fullmatch(text) or THOUSANDS.fullmatch(text):
        message = f"{what}: {cut(value)} is not a number, such as 28 or 3.5"
        clash = " (1000 or 1.0 would be clear)" if THOUSANDS.fullmatch(text) else ""
        raise ServiceError(422, code, f"{message}{clash}.")
    return float(text.replace(",", "."))
