"""The file of a node: its model, its Orthanc, which images are read, what is answered, and to whom."""

from __future__ import annotations

import os
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from casewise.errors import CasewiseError, StudyError, cut, nearest, none_of
from casewise.files import read_regular
from casewise.inference.drift import confirmation
from casewise.inference.result_formats import format_owners
from casewise.run_folder.bundle_folder import public_key
from casewise.study.messages import sentences
from casewise.study.model import StudyModel, refuse
from casewise.study.yaml_text import mapping
from casewise.web.settings import is_local

# The largest file of a node that is read, in bytes.
LARGEST = 1_000_000
# Modalities of images: PS3.3, C.7.3.1.1.1. Whatever else stands there is not quoted in logs.
MODALITIES = re.compile(
    "BI|BMD|CR|CT|DG|DX|EPS|ES|GM|IO|IVOCT|IVUS|LS|MG|MR|NM|OAM|OCT|OPM?|OPT|OPTBSV|OPTENF|OT|PT|PX|RF|RG|RTIMAGE|SEG|SM|"
    "TG|US|VA|XA|XC"
)
# Prefix of formats that are not DICOM objects, which PACS do not take.
NOT_DICOM = "fhir"
# The name of the first partner, which stores the answers beside the images.
ORTHANC = "Orthanc"
# Keys of casewise 1.0, and what replaces them.
SUCCESSORS = {
    "receive": "Orthanc receives the images: state its address as `orthanc: {url: …}`, and ports, AE titles, users and "
    "TLS in its configuration (deploy/orthanc.json)",
    "complete": "Orthanc says when a study is complete: set StableAge in its configuration (deploy/orthanc.json)",
}
SENDERS = {
    "dicom": "Orthanc sends the answers: state `modality: NAME`, with NAME in DicomModalities of its configuration",
    "stow": "Orthanc sends the answers: state `dicomweb: NAME`, with NAME in DicomWeb.Servers of its configuration",
}


def _absolute(path: Path, info: ValidationInfo) -> Path:
    """A path that starts at the folder of the file."""
    return Path(os.path.abspath(Path((info.context or {}).get("folder", ".")) / path))


NodePath = Annotated[Path, AfterValidator(_absolute)]
# Of a partner in the configuration of Orthanc.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]*$")]


class OrthancSettings(StudyModel):
    """The Orthanc beside the node, which receives, stores and sends."""

    url: str = "http://127.0.0.1:8042"
    """The address of its REST interface. With https, the system must trust its certificate; another one can be named in
    the variable `SSL_CERT_FILE`."""
    credentials: NodePath | None = None
    """A file with one line `USER:PASSWORD`, of its `RegisteredUsers`."""
    timeout: float = Field(60, gt=0)
    """Seconds without any byte after which a request is given up, and repeated later."""
    poll: float = Field(2, gt=0)
    """Seconds between two looks at its changes."""
    since: date | None = None
    """A day, such as `2026-03-01`: studies to which nothing was added from this day on (as Orthanc states it) are left
    alone. Default: every study in Orthanc is answered."""
    largest: float = Field(8192, gt=0)
    """The largest study in MiB; a larger one is put in quarantine."""

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            address = urlsplit(value)
            valid = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
        except ValueError:
            valid = False
        refuse({"write an address such as http://127.0.0.1:8042": not valid or "?" in value or "#" in value})
        refuse({"put no password into the address; state a file as credentials": "@" in value})
        return value


def read_credentials(path: Path) -> str:
    """The line `USER:PASSWORD` in a file.

    Raises:
        StudyError: the file cannot be read, or has no such line.
    """
    try:
        text = read_regular(path, LARGEST).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise StudyError(f"orthanc.credentials: {path} cannot be read: {reason}.") from None
    user, colon, password = text.partition(":")
    if not (user and colon and password) or not text.isprintable():
        raise StudyError(f"orthanc.credentials: {path} must have one line, USER:PASSWORD.")
    return text


class SelectRule(StudyModel):
    """The images that the model reads; each condition that is stated must hold."""

    modality: list[str] = []
    """Of Modality, such as `[DX, CR]`."""
    body_part: list[str] = []
    """Of Body Part Examined, such as `[CHEST]`."""
    view: list[str] = []
    """Of View Position, such as `[PA, AP]`."""
    laterality: list[str] = []
    """Of Image Laterality, else of Laterality, such as `[L]`."""
    description: str = ""
    """A regular expression that occurs in the Series Description, in upper or lower case."""
    spacing: tuple[float, float] | None = None
    """The smallest and largest distance of two pixels in millimetres."""
    slices: tuple[int, int] | None = None
    """The smallest and largest number of slices or images of a series."""
    slot: str = ""
    """The slot of the model, where it reads several images of a case, such as `frontal`."""

    @field_validator("modality")
    @classmethod
    def _modalities(cls, values: list[str]) -> list[str]:
        wrong = [value for value in values if not MODALITIES.fullmatch(value)]
        refuse({f"{cut(wrong[:1])} is no modality of DICOM, such as DX, CR, CT or MR": wrong})
        return values

    @field_validator("description")
    @classmethod
    def _expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is not a regular expression ({error})") from None
        return value

    @field_validator("spacing", "slices")
    @classmethod
    def _increasing(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        refuse({"state the smaller number first, both above 0": value is not None and not 0 < value[0] <= value[1]})
        return value


class AnswerSettings(StudyModel):
    """What the node writes on a study."""

    formats: list[str] = Field(["sr"], min_length=1)
    """The formats, as of `casewise predict --also`: `sr`, `summary-sc`, `summary-pdf`, `fhir-r4`, `fhir`. One that
    cannot be written for a study keeps back no other; `casewise node status` then names the study."""
    subject_system: str = ""
    """The system of patient identifiers in FHIR, such as `urn:oid:1.2.3`."""
    abstain: bool = False
    """Whether an answer has no prediction where the bundle would abstain."""
    saliency: bool = True
    """Whether the summary shows a saliency map, if the model has one."""
    timeout: float = Field(900, gt=0)
    """Seconds after which the prediction of a study is stopped."""
    threads: int | None = Field(None, ge=1)
    """How many cores predict. Default: all."""


class SendRule(StudyModel):
    """A partner that receives answers: one of `modality`, `peer`, `dicomweb` and `folder`."""

    modality: Name = ""
    """A PACS by its name in `DicomModalities` of Orthanc, which sends it the answers with C-STORE."""
    peer: Name = ""
    """Another Orthanc by its name in `OrthancPeers`."""
    dicomweb: Name = ""
    """A server by its name in `DicomWeb.Servers` of Orthanc, which sends it the answers with STOW-RS."""
    folder: NodePath | None = None
    """A folder; each study has a subfolder of it."""
    formats: list[str] = []
    """Which answers. Default: all of `answer.formats` that the partner can take: FHIR goes into a folder only."""

    @property
    def kind(self) -> str:
        """The key that states the partner."""
        return next((kind for kind in ("modality", "peer", "dicomweb") if getattr(self, kind)), "folder")

    @property
    def partner(self) -> str:
        """The name of the partner, or the path of the folder."""
        return str(getattr(self, self.kind))

    @property
    def name(self) -> str:
        """For messages, and to recognise the partner after a restart."""
        return f"{self.kind} {self.partner}"

    @model_validator(mode="after")
    def _single(self) -> SendRule:
        kinds = [bool(self.modality), bool(self.peer), bool(self.dicomweb), self.folder is not None]
        refuse({"state one of modality, peer, dicomweb and folder": sum(kinds) != 1})
        unfit = [name for name in self.formats if name.startswith(NOT_DICOM) and not self.folder]
        refuse({f"formats: {', '.join(unfit)} can go into a folder only": unfit})
        return self


class Retry(StudyModel):
    """When what failed is tried again."""

    first: float = Field(10, gt=0)
    """Seconds until the second attempt; each wait is twice the one before."""
    longest: float = Field(3600, gt=0)
    """The longest wait in seconds."""
    give_up: float = Field(604_800, gt=0)
    """Seconds since the first failure after which a study is put in quarantine, where a person decides."""

    @model_validator(mode="after")
    def _increasing(self) -> Retry:
        refuse({"first: is longer than longest": self.first > self.longest})
        return self

    def wait(self, attempts: int) -> float:
        """Seconds to wait after so many attempts.

        >>> [Retry(first=10, longest=60).wait(attempts) for attempts in (1, 2, 3, 4, 5000)]
        [10.0, 20.0, 40.0, 60.0, 60.0]
        """
        return min(self.first * 2.0 ** min(max(attempts - 1, 0), 60), self.longest)


class Monitor(StudyModel):
    """How the node watches itself."""

    baseline: int = Field(200, ge=20)
    """The number of first studies with which later ones are compared, besides those of the training."""
    since: date | None = None
    """A day, such as `2026-03-01`, before which every change is accepted: earlier studies are left out, and the first
    ones from this day on (UTC) are the new baseline."""
    outcomes: NodePath | None = None
    """A table of outcomes that arrive later: the columns `study` or `accession`, `target` and `value`."""
    outcomes_after: int = Field(90, ge=0)
    """The age in days from which on a study is tested by its outcome: when nearly all outcomes are known. Some kinds of
    outcomes are known sooner than others, which would look like a change."""
    at: str = "02:00"
    """The time of day, on the clock of this computer, at which the page is written; if the node does not run then, it
    is written at its next start."""

    @property
    def since_seconds(self) -> float:
        """The start of the day `since` in seconds (UTC); 0 without one."""
        return datetime.combine(self.since, datetime.min.time(), UTC).timestamp() if self.since else 0.0

    @field_validator("at")
    @classmethod
    def _time(cls, value: str) -> str:
        refuse({"write a time such as 02:00 or 23:30": not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value)})
        return value


class ModelSettings(StudyModel):
    """The model, the images that it reads, and what it writes; also the settings of a mercure module."""

    bundle: NodePath
    """The trained model: a bundle."""
    trust: NodePath | None = None
    """A public key; a bundle that is not signed with its private key is refused."""
    select: list[SelectRule] = []
    """The images of a study that the model reads: one rule for each slot. Default: all images."""
    answer: AnswerSettings = AnswerSettings()
    """What the node writes on a study."""

    @model_validator(mode="after")
    def _own_slots(self) -> Self:
        slots = [rule.slot for rule in self.select]
        refuse({"select: with several rules, each needs a slot of its own": len(set(slots)) < len(slots)})
        return self

    def check_model(self) -> None:
        """Check that the bundle is there, and that every format can be written; no model is loaded.

        Raises:
            CasewiseError: it is not; a format is unknown, or a package is missing.
        """
        if not self.bundle.exists():
            raise CasewiseError(f"bundle: there is no {self.bundle}. `casewise bundle` writes one.")
        if self.trust:
            public_key(self.trust)
        owners = format_owners()
        if unknown := [name for name in self.answer.formats if name not in owners]:
            raise CasewiseError(f"answer.formats: {none_of(unknown[0], owners)}")
        for name in self.answer.formats:
            owners[name].check_result_format(name)


class NodeSettings(ModelSettings):
    """The file of a node, such as `node.yaml`. Paths start at its folder."""

    folder: NodePath = Path("node")
    """The folder with everything that the node writes: its state, answers and pages."""
    orthanc: OrthancSettings = OrthancSettings()
    """The Orthanc beside the node."""
    send: list[SendRule] = []
    """Who receives the answers besides Orthanc itself, which has all that are DICOM. Without any, FHIR stays in the
    folder `answers`."""
    retry: Retry = Retry()
    """When what failed is tried again."""
    keep: float = Field(30, gt=0)
    """Days for which answers stay in the folder `answers` after they were delivered."""
    monitor: Monitor = Monitor()
    """How the node watches itself."""
    source_confirmed: str | dict[str, str] = ""
    """Who confirms that the model may be used for the sources of the images, and why, as `NAME, REASON`; or this for
    single sources, by the name that `casewise node status` gives them. Without it, answers have no probability,
    interval or set once recent images of a source together are unlike those of the training."""

    @field_validator("source_confirmed")
    @classmethod
    def _confirmations(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        for text in [value] if isinstance(value, str) else value.values():
            try:
                confirmation(text)
            except CasewiseError as error:
                raise ValueError(str(error).partition(": ")[2]) from None
        return value

    @model_validator(mode="before")
    @classmethod
    def _removed(cls, values: Any) -> Any:
        """Refuse the keys of casewise 1.0 that Orthanc replaces."""
        if isinstance(values, dict):
            refuse({f"{key}: {successor}": key in values for key, successor in SUCCESSORS.items()})
            rules = [rule for rule in values.get("send") or [] if isinstance(rule, dict)]
            refuse({f"send.{key}: {text}": any(key in rule for rule in rules) for key, text in SENDERS.items()})
        return values

    @model_validator(mode="after")
    def _agree(self) -> NodeSettings:
        for number, rule in enumerate(self.send):
            unknown = [name for name in rule.formats if name not in self.answer.formats]
            there = ", ".join(self.answer.formats)
            refuse({f"send.{number}.formats: {cut(name)} is not in answer.formats: {there}": True for name in unknown})
            refuse({f"send.{number}: no format of answer.formats suits it": not self.formats_for(rule)})
        names = [rule.name for rule in self.send]
        refuse({f"send: {cut(name)} is stated twice": names.count(name) > 1 for name in names})
        return self

    def formats_for(self, rule: SendRule) -> list[str]:
        """The formats that a partner receives."""
        suitable = [name for name in self.answer.formats if rule.folder or not name.startswith(NOT_DICOM)]
        return rule.formats or suitable

    def routes(self) -> dict[str, list[str]]:
        """The formats that each partner receives, by its name; Orthanc comes first."""
        dicom = [name for name in self.answer.formats if not name.startswith(NOT_DICOM)]
        return {ORTHANC: dicom, **{rule.name: self.formats_for(rule) for rule in self.send}}

    def check_files(self) -> None:
        """Check credentials, folders and the model.

        Raises:
            CasewiseError: one cannot be used; the message begins with its key.
        """
        folders = {"folder": self.folder} | {f"send.{n}.folder": rule.folder for n, rule in enumerate(self.send)}
        for key, path in folders.items():
            if path and (problem := _folder_problem(path)):
                raise StudyError(f"{key}: {problem}")
        if self.orthanc.credentials:
            read_credentials(self.orthanc.credentials)
        self.check_model()

    def remarks(self) -> list[str]:
        """What others could read, and what is not there yet, in sentences."""
        lines, orthanc = [], self.orthanc
        if (outcomes := self.monitor.outcomes) and not outcomes.exists():
            lines.append(f"monitor.outcomes: {outcomes} does not exist yet.")
        if orthanc.url.startswith("http:") and not is_local(urlsplit(orthanc.url).hostname or ""):
            lines.append("orthanc.url: images and password are not encrypted. Keep the network to these two.")
        if (path := orthanc.credentials) and path.exists() and path.stat().st_mode & 0o004:
            lines.append(f"{path} can be read by everybody on this computer: `chmod o-rwx` it.")
        return lines


def _folder_problem(path: Path) -> str:
    """Why files cannot be written into a folder, which may be missing yet; empty if they can."""
    while not os.path.lexists(path):
        path = path.parent
    if not path.is_dir():
        return f"{path} is no folder. State another one."
    usable = os.access(path, os.R_OK | os.W_OK | os.X_OK)
    return "" if usable else f"{path} cannot be read and written. Check its permissions, and who runs the node."


def read_settings(path: Path | str) -> NodeSettings:
    """Read the file of a node; its paths become absolute.

    Raises:
        StudyError: the file is missing, is not YAML, or has invalid values; the message lists all problems by key.
    """
    path = Path(path)
    try:
        text = read_regular(path, LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StudyError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        hint = nearest(path.name, [p.name for p in path.parent.glob("*.y*ml")]) if path.parent.is_dir() else ""
        raise StudyError(f"The file of a node {path} cannot be read: {error.strerror or error}.{hint}") from None
    values: dict[str, Any] = mapping(text, str(path))
    try:
        return NodeSettings.model_validate(values, context={"folder": path.parent, "file": path})
    except ValidationError as error:
        lines = sentences(error.errors(include_url=False, include_context=False), values, NodeSettings)
        raise StudyError(f"{path} cannot be used:\n  " + "\n  ".join(lines)) from None
