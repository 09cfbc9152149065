"""Which images of a received study the model reads: the headers of its instances, and the rules of `select`.

A film or photograph is chosen by itself, and all that fit a slot are images of the case, as in the training table. A
scan is chosen as a series, and exactly one series must fit. Never chosen: secondary captures, localisers, and raw
films where the study has the same for presentation.

The view of a film is that of ViewPosition, else of ViewCodeSequence (CID 4010), else the only view that the description
of its series or protocol names; a body part that is not stated is looked for in AnatomicRegionSequence and the
descriptions, also that of the study.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.cohort.table import natural
from casewise.errors import CasewiseError, counted, cut, nearest, printable, shortened
from casewise.modalities.store.dicom_file import (
    DEFLATED,
    damage_named,
    head_of,
    is_dicom,
    quiet_pydicom,
    same_patient,
    text_of,
    whole_number,
)
from casewise.plugins.node.settings import SelectRule

if TYPE_CHECKING:
    from casewise.study.schema import Study

TAGS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "PatientID", "IssuerOfPatientID", "PatientName",
    "PatientBirthDate", "Modality", "BodyPartExamined", "AnatomicRegionSequence", "ViewPosition", "ViewCodeSequence",
    "SeriesDescription", "StudyDescription", "ProtocolName", "PixelSpacing", "ImagerPixelSpacing", "ImageType",
    "NumberOfFrames", "InstanceNumber", "SeriesNumber", "PresentationIntentType", "Manufacturer",
    "ManufacturerModelName", "InstitutionName", "StationName", "AccessionNumber", "ImageLaterality", "Laterality",
)  # fmt: skip
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# The meanings of codes of views by their letters, as ViewPosition states them.
VIEWS = {
    "anteroposterior": "AP",
    "posteroanterior": "PA",
    "lateral": "LAT",
    "leftlateral": "LL",
    "rightlateral": "RL",
    "craniocaudal": "CC",
    "mediolateraloblique": "MLO",
    "mediolateral": "ML",
    "lateromedial": "LM",
}
IN_DESCRIPTIONS = re.compile(r"\b(AP|PA|LAT|LATERAL|LL|RL|CC|MLO|ML|LM)\b", re.IGNORECASE)
# Series that a reason lists.
MOST_LISTED = 6


class SelectionError(CasewiseError):
    """The study has not the images that the model needs; the message says which ones it has, without names."""


class UnanswerableError(CasewiseError):
    """Nobody can be answered about the study, because it states no patient, or several."""


@dataclass(frozen=True)
class InstanceHeader:
    """What the header of an instance states.

    Attributes:
        person: what identifies the patient: identifier, name, date of birth.
        description: of the series, for rules; `title` is the same for messages, without names.
        words: descriptions of series, protocol and study.
        spacing: in mm between rows and between columns; empty if not stated.
        issuer: of the identifier of the patient; is_image: whether it may be chosen at all.
        scanner: manufacturer and model; site: institution and station.
    """

    path: Path
    series: str
    instance: str
    person: tuple[str, str, str]
    modality: str
    body_part: str = ""
    view: str = ""
    laterality: str = ""
    description: str = ""
    title: str = ""
    words: str = ""
    spacing: tuple[float, ...] = ()
    frames: int = 1
    order: tuple[int, int] = (0, 0)
    is_image: bool = True
    is_raw: bool = False
    scanner: str = ""
    site: str = ""
    accession: str = ""
    issuer: str = ""


def read_header(path: Path) -> InstanceHeader:
    """The header of an instance, without its pixels.

    Raises:
        ImageError: the file is damaged.
        UnanswerableError: it is no DICOM file, or lacks an identifier.
    """
    head = head_of(path)
    if not is_dicom(head) or DEFLATED in head:
        raise UnanswerableError(f"{path.name} is no DICOM file that can be read.")
    with damage_named(path):
        tags = quiet_pydicom().dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS), force=True)
        texts = {tag: text_of(tags, tag) for tag in TAGS if not tag.endswith("Sequence")}
        region, view_code = (_meaning(tags, name) for name in ("AnatomicRegionSequence", "ViewCodeSequence"))
        numbers = [whole_number(tags, name, 0) for name in ("SeriesNumber", "InstanceNumber", "NumberOfFrames")]
    if lacking := next((tag for tag in ("SOPInstanceUID", "SeriesInstanceUID") if not texts[tag]), ""):
        raise UnanswerableError(f"{path.name} has no {lacking}.")
    person = (texts["PatientID"], texts["PatientName"], texts["PatientBirthDate"])
    described = [texts[tag] for tag in ("SeriesDescription", "ProtocolName", "StudyDescription")]
    view = texts["ViewPosition"].upper() or VIEWS.get(re.sub(r"\W", "", view_code.lower()), view_code.upper())
    secondary = texts["SOPClassUID"].startswith(SECONDARY_CAPTURE) and texts["SOPClassUID"][25:26] in ("", ".")
    return InstanceHeader(
        path=path,
        series=texts["SeriesInstanceUID"],
        instance=texts["SOPInstanceUID"],
        person=person,
        modality=texts["Modality"].upper(),
        body_part=(texts["BodyPartExamined"] or region).upper(),
        view=view or _only_view(described[:2]),
        laterality=texts["ImageLaterality"] or texts["Laterality"],
        description=described[0],
        title=_nameless(described[0] or described[1], person),
        words=" ".join(filter(None, described)),
        spacing=_numbers(texts["PixelSpacing"] or texts["ImagerPixelSpacing"]),
        frames=max(1, numbers[2]),
        order=(numbers[0], numbers[1]),
        is_image=not secondary and "LOCALIZER" not in texts["ImageType"].upper(),
        is_raw=texts["PresentationIntentType"].upper() == "FOR PROCESSING",
        scanner=" ".join(filter(None, (texts["Manufacturer"], texts["ManufacturerModelName"]))),
        site=" ".join(filter(None, (texts["InstitutionName"], texts["StationName"]))),
        accession=texts["AccessionNumber"],
        issuer=texts["IssuerOfPatientID"],
    )  # fmt: skip


def _meaning(tags: Any, name: str) -> str:
    """The meaning of the first code of a sequence; empty without one."""
    items = tags.get(name) or []
    return text_of(items[0], "CodeMeaning") if len(items) else ""


def _only_view(described: Sequence[str]) -> str:
    """The view that the first description with views names, '' where it names several.

    >>> _only_view(["Chest pa", "AP and lateral"]), _only_view(["Chest PA + LAT"])
    ('PA', '')
    """
    for text in described:
        if views := {match.upper() for match in IN_DESCRIPTIONS.findall(text)}:
            return views.pop().replace("LATERAL", "LAT") if len(views) == 1 else ""
    return ""


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split("\\") if number)
    except ValueError:
        return ()


def _nameless(text: str, person: tuple[str, str, str]) -> str:
    """A text of a header for messages, withheld where it has a name or identifier of the patient in it.

    >>> _nameless("Thorax Doe, Jane", ("4711", "Doe^Jane", "")), _nameless("Thorax", ("4711", "Doe^Jane", ""))
    ('withheld', 'Thorax')
    """
    words = {word.casefold() for value in person for word in re.findall(r"\w{2,}", value)}
    hit = words & {word.casefold() for word in re.findall(r"\w{2,}", text)}
    return "withheld" if hit else shortened(printable(text), 40)


@dataclass(frozen=True)
class Slots:
    """What the cases of a model consist of.

    Attributes:
        names: the regions or sequences; one empty name where there are none.
        scans: whether an image is a whole series.
        optional: whether a case may lack some of them.
    """

    names: tuple[str, ...] = ("",)
    scans: bool = False
    optional: bool = False

    @classmethod
    def of(cls, study: Study) -> Slots:
        """Those of the study of a bundle."""
        from casewise.inference.resident import slots_of  # loads torch, which the process that receives does not need

        settings = study.modality_settings
        optional = study.missing_regions == "allow" or getattr(settings, "missing", "require") == "mask"
        return cls(tuple(slots_of(study)) or ("",), bool(getattr(settings, "sequences", None)), optional)

    def check(self, rules: Sequence[SelectRule]) -> None:
        """Check that the rules are about the slots of the model.

        Raises:
            CasewiseError: a rule names another slot, or a slot has no rule.
        """
        names = ", ".join(filter(None, self.names))
        for rule in rules:
            if rule.slot not in self.names:
                allowed = f"is none of {names}.{nearest(rule.slot, self.names)}" if names else "is none of the model's."
                raise CasewiseError(f"select: the slot {cut(rule.slot)} {allowed}")
        if lacking := [name for name in filter(None, self.names) if name not in {rule.slot for rule in rules}]:
            raise CasewiseError(f"select: no rule has the slot {cut(lacking[0])}. Slots of the model: {names}.")


@dataclass(frozen=True)
class Row:
    """An image of the case: a film, or the files of a scan in their order."""

    files: tuple[Path, ...]
    slot: str


@dataclass(frozen=True)
class Selection:
    """The images of a study that the model reads; `headers` are those of their instances."""

    rows: list[Row] = field(default_factory=list)
    headers: list[InstanceHeader] = field(default_factory=list)


def patient_of(headers: Sequence[InstanceHeader]) -> str:
    """The identifier of the patient of a study.

    Raises:
        UnanswerableError: there is none, or there are several patients.
    """
    if not same_patient((*header.person, header.issuer) for header in headers):
        raise UnanswerableError("The study names several patients. An answer is about one.")
    if not headers or not headers[0].person[0]:
        raise UnanswerableError("The study states no PatientID, so nobody is known whom an answer is about.")
    return headers[0].person[0]


def select(headers: Sequence[InstanceHeader], rules: Sequence[SelectRule], slots: Slots) -> Selection:
    """The images that the model reads.

    Args:
        rules: one for each slot; without any, every image fits.

    Raises:
        SelectionError: no image fits a slot, an image fits two, or several series fit where one scan is needed.
    """
    series: dict[str, list[InstanceHeader]] = {}
    for header in sorted(headers, key=lambda header: (header.order, natural(header.instance))):
        series.setdefault(header.series, []).append(header)
    groups, chosen, unfilled, slot_of = list(series.values()), Selection(), [], dict[Path, str]()
    for rule in rules or [SelectRule()]:
        fitting = list(_fitting(groups, rule, scans=slots.scans))
        if slots.scans and len(fitting) > 1:
            fits = f"{len(fitting)} series fit{f' {rule.slot}' if rule.slot else ''}, one is needed"
            raise SelectionError(f"{fits}: {'; '.join(map(_described, fitting))}.")
        images = [header for group in fitting for header in group]
        images = [header for header in images if not header.is_raw] or images
        files = tuple(header.path for header in images)
        if twice := [header for header in images if slot_of.setdefault(header.path, rule.slot) != rule.slot]:
            both = f"{slot_of[twice[0].path]} and {rule.slot}"
            raise SelectionError(f"An image fits {both}, so the rules do not tell them apart: {_described(twice)}.")
        if not files:
            unfilled.append(rule)
        chosen.rows.extend([Row(files, rule.slot)] if slots.scans and files else [Row((f,), rule.slot) for f in files])
        chosen.headers.extend(images)
    if unfilled and not (slots.optional and chosen.rows):
        rule, name = unfilled[0], f" for {unfilled[0].slot}" if unfilled[0].slot else ""
        listed = [f"{_described(group)} ({_mismatch(group, rule)})" for group in groups]
        more = f"; and {len(listed) - MOST_LISTED:,} more" if len(listed) > MOST_LISTED else ""
        has = "; ".join(listed[:MOST_LISTED]) or "no images"
        raise SelectionError(f"No image of the study suits the model{name}. It has {has}{more}.")
    return chosen


def _fitting(
    groups: Sequence[Sequence[InstanceHeader]], rule: SelectRule, *, scans: bool
) -> Iterator[list[InstanceHeader]]:
    """The series that fit a rule; of films those instances that do."""
    for group in groups:
        images = [header for header in group if header.is_image]
        if images and not _count_mismatch(images, rule):
            fitting = [header for header in images if not _header_mismatch(header, rule)]
            if fitting and (len(fitting) == len(images) or not scans):
                yield fitting


def _mismatch(group: Sequence[InstanceHeader], rule: SelectRule) -> str:
    """The first reason why a series does not fit a rule."""
    images = [header for header in group if header.is_image]
    if not images:
        return "not of an acquisition"
    return _count_mismatch(images, rule) or next(filter(None, (_header_mismatch(each, rule) for each in images)), "")


def _count_mismatch(images: Sequence[InstanceHeader], rule: SelectRule) -> str:
    count = sum(header.frames for header in images)
    if rule.slices and not rule.slices[0] <= count <= rule.slices[1]:
        return f"it has {counted(count, 'slice')}, allowed: {rule.slices[0]:,} to {rule.slices[1]:,}"
    return ""


def _header_mismatch(header: InstanceHeader, rule: SelectRule) -> str:
    """The first criterion of a rule that an image does not fit; empty if it fits."""
    for name, stated, allowed in (
        ("modality", header.modality, rule.modality),
        ("body part", header.body_part, rule.body_part),
        ("view", header.view, rule.view),
        ("laterality", header.laterality, rule.laterality),
    ):
        wanted = {_letters(each) for each in allowed}
        if not wanted or _letters(stated) in wanted:
            continue
        if name == "body part" and not stated and any(_has_word(header.words, each) for each in allowed):
            continue
        is_stated = f"is {_nameless(stated, header.person)}" if stated else "is not stated"
        return f"its {name} {is_stated}, allowed: {', '.join(allowed)}"
    if rule.description and not re.search(rule.description, header.description, re.IGNORECASE):
        return f"its description does not fit {rule.description!r}"
    if rule.spacing:
        low, high = rule.spacing
        if not header.spacing:
            return "its pixel spacing is not stated"
        if not all(low <= value <= high for value in header.spacing):
            return f"its pixel spacing of {max(header.spacing):g} mm is not {low:g} to {high:g}"
    return ""


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text).upper()


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def _described(group: Sequence[InstanceHeader]) -> str:
    """A series in words: modality, description, and the number of its images."""
    first = group[0]
    title = f" {first.title!r}" if first.title else ""
    return f"{shortened(printable(first.modality), 16) or 'a series'}{title}, {counted(len(group), 'image')}"
