"""Reads a multipart request into a submission, whose files lie in a folder of their own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from starlette.concurrency import run_in_threadpool

from casewise.cohort.groups import spelled_alike
from casewise.cohort.table import natural
from casewise.errors import cut, nearest
from casewise.plugins.serve.settings import ServiceError, shown_name
from casewise.plugins.serve.submission import Submission, UploadedFile, Visit, neutral_name

if TYPE_CHECKING:
    from starlette.datastructures import FormData, UploadFile
    from starlette.requests import Request

    from casewise.plugins.serve.settings import ServiceSettings

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
        ServiceError: the request is no multipart form, has too many parts, an unknown field, or no image.
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
    for field, value in sorted(form.multi_items(), key=_order):
        number, name = _numbered(field, description)
        if not isinstance(value, str):
            files.append(_file(value, field, number, name, len(files), folder, description))
        elif name in fields:
            given[number, name] = _covariate(value, number, fields[name])
        elif name == "visit":
            names[number] = _text(value, field)
        elif name == "day":
            days[number] = _number(value, f"The day of visit {number}", "bad_day")
        elif field in options:
            options[field] = _text(value, field)
        else:
            raise _unknown(field, description, is_file=False)
    if not files:
        raise ServiceError(422, "no_image", "The request has no image. Send at least one file.")
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
    stored = [UploadedFile(file.name, file.stored, file.slot, positions[file.visit]) for file in files]
    return Submission(visits, stored, **options)


def _order(item: tuple[str, UploadFile | str]) -> tuple[tuple[object, ...], bytes]:
    """Sorts files by name and content, so that nothing depends on the order in which a client sends them."""
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
    options = (
        slots
        if is_file
        else ["visit", "day", *(each["name"] for each in description["covariates"]), "target", "learner"]
    )
    noun = "a file" if is_file else "a text field"
    allowed = f"There are {', '.join(options)}, for further visits with their number: 2.{options[0]}."
    message = f"{f'{file}: ' if file else ''}{cut(field)} is not the name of {noun}. {allowed}{nearest(field, options)}"
    return ServiceError(422, "unknown_field", message, [file] if file else [])


def _text(value: str, field: str) -> str:
    text = value.strip()
    if len(text) > LONGEST_TEXT or not text.isprintable():
        message = f"{cut(field)}: it must be at most {LONGEST_TEXT} printable characters on one line."
        raise ServiceError(422, "bad_text", message)
    return text


def _covariate(value: str, number: int, entry: Mapping[str, Any]) -> str:
    """The value of a covariate in the spelling of the training table, '' if missing."""
    what, levels = f"{entry['name']} of visit {number}", entry["levels"]
    cell = str(spelled_alike(pd.Series([_text(value, what)]))[0])
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
