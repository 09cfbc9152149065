"""The file of a node: what it receives, when a study is complete, what it answers, and to whom."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from casewise.errors import CasewiseError, StudyError, cut, nearest
from casewise.files import read_regular
from casewise.plugins.node.credentials import NodePath, Tls, read_token
from casewise.study.messages import sentences
from casewise.study.model import StudyModel, refuse
from casewise.study.yaml_text import mapping
from casewise.web.settings import WebSettings, is_local, seconds_for

# The largest file of a node that is read, in bytes.
LARGEST = 1_000_000
# Modalities of images: PS3.3, C.7.3.1.1.1. Whatever else stands there is not quoted in logs.
MODALITIES = re.compile(
    "BI|BMD|CR|CT|DG|DX|EPS|ES|GM|IO|IVOCT|IVUS|LS|MG|MR|NM|OAM|OCT|OPM?|OPT|OPTBSV|OPTENF|OT|PT|PX|RF|RG|RTIMAGE|SEG|SM|"
    "TG|US|VA|XA|XC"
)
# How the names of formats begin that are no DICOM objects, which PACS do not take.
NOT_DICOM = "fhir"


def _title(value: str) -> str:
    """An AE title: PS3.5, 6.2, VR AE."""
    title = value.strip()
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", title):
        raise ValueError("an AE title has 1 to 16 characters of ASCII without a backslash")
    return title


AeTitle = Annotated[str, AfterValidator(_title)]
Port = Annotated[int, Field(ge=0, le=65535)]


class DicomReceive(StudyModel):
    """Images that are sent to the node with C-STORE."""

    port: Port = 11112
    """The port; 0 for a free one."""
    ae_title: AeTitle = "CASEWISE"
    """The AE title of the node, by which partners must call it."""
    host: str = "127.0.0.1"
    """The address at which the node listens: 127.0.0.1 for this computer only, 0.0.0.0 for all of its networks."""
    allowed: list[AeTitle] = []
    """The AE titles that may send; others are rejected. Needed unless `host` is of this computer."""
    tls: Tls | None = None
    """Encryption. An AE title is no secret, so `tls` with `ca` is what keeps others away."""
    associations: int = Field(10, ge=1, le=100)
    """How many connections may be open at a time; at most three quarters of them come from one address."""

    @model_validator(mode="after")
    def _closed(self) -> DicomReceive:
        _refuse_open(self, "`allowed` the AE titles that may", self.allowed)
        return self


@dataclass(frozen=True, kw_only=True)
class NodeWebSettings(WebSettings):
    """`receive.web` for the server, with the secrets that its files hold."""

    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def tokens(self) -> dict[str, str]:
        """The token of each client."""
        return self.secrets


class WebReceive(StudyModel):
    """Images that are sent to the node with DICOMweb (STOW-RS), and its state for monitoring systems."""

    port: Port = 8104
    """The port; 0 for a free one."""
    host: str = "127.0.0.1"
    """The address at which the node listens, as in `receive.dicom`."""
    tokens: dict[str, NodePath] = {}
    """For each client, the file with its token, which it sends as `Authorization: Bearer TOKEN`. Needed unless `host`
    is of this computer."""
    tls: Tls | None = None
    """Encryption; without it, others on the network can read tokens and images."""

    @model_validator(mode="after")
    def _closed(self) -> WebReceive:
        _refuse_open(self, "`tokens` a file for each client that may", self.tokens)
        return self

    def web_settings(self, largest: int) -> NodeWebSettings:
        """The settings of the server.

        Args:
            largest: bytes of a request, for which there is time at 1 MiB a second.

        Raises:
            CasewiseError: a token cannot be read, or is too short.
        """
        secrets = {name: read_token(path, f"receive.web.tokens.{name}") for name, path in self.tokens.items()}
        if len(set(secrets.values())) < len(secrets):
            raise StudyError("receive.web.tokens: two clients have the same token. Give each one of its own.")
        settings = NodeWebSettings(
            host=self.host,
            port=self.port,
            max_bytes=largest,
            upload_seconds=seconds_for(largest),
            secrets=secrets,
        )
        try:
            settings.check()
        except CasewiseError as error:
            raise StudyError(f"receive.web.tokens: {str(error).partition(': ')[2]}") from None
        return settings


def _refuse_open(receiver: DicomReceive | WebReceive, remedy: str, permitted: object) -> None:
    """Refuse a receiver that everybody on the network can use, and one with an encryption that cannot be used."""
    problem = f"with the host {cut(receiver.host)}, other computers can send to the node; state under {remedy}"
    needed = not is_local(receiver.host) and not permitted
    refuse({f"{problem}, or use the host 127.0.0.1": needed})
    refuse({"tls: a receiver needs certificate and key": receiver.tls is not None and not receiver.tls.certificate})


class Receive(StudyModel):
    """The ways on which images arrive; at least one."""

    dicom: DicomReceive | None = None
    """C-STORE."""
    folder: NodePath | None = None
    """A folder for files of images, or subfolders of them. A file that did not change for 2 seconds is taken into the
    queue and removed, also a DICOM object without an image, such as a report. What is no image, or only the beginning
    of one, stays until it did not change for 10 minutes; then it is moved to `refused`."""
    web: WebReceive | None = None
    """STOW-RS at `/studies`, and `/health`, `/ready` and `/metrics`."""
    largest: float = Field(512, gt=0)
    """The largest image, and the largest request of STOW-RS, in MiB. All connections together need at most eight times
    so much memory; an image or request may take a second for each MiB, at least 300."""

    @property
    def largest_bytes(self) -> int:
        """The limit in bytes."""
        return int(self.largest * 2**20)

    @model_validator(mode="after")
    def _any(self) -> Receive:
        refuse({"state dicom, folder or web": not (self.dicom or self.folder or self.web)})
        return self


class Complete(StudyModel):
    """When all images of a study have arrived."""

    quiet: float = Field(30, gt=0)
    """Seconds without a new image. Images that arrive later are added, and the study is predicted again."""
    instances: int | None = Field(None, ge=1)
    """With so many images, a study is complete at once."""


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


class DicomPartner(StudyModel):
    """A partner that stores answers sent with C-STORE."""

    host: str
    """Its address."""
    port: int = Field(104, ge=1, le=65535)
    """Its port."""
    ae_title: AeTitle
    """Its AE title."""
    calling: AeTitle = "CASEWISE"
    """The AE title by which the node introduces itself."""
    tls: Tls | None = None
    """Encryption; `tls: {}` trusts the certificates of the system."""


class SendRule(StudyModel):
    """A partner that receives answers: `dicom`, `stow` or `folder`."""

    dicom: DicomPartner | None = None
    """A PACS that is sent DICOM answers with C-STORE."""
    stow: str = ""
    """The address of a server that takes DICOM answers with STOW-RS, such as `https://pacs/dicom-web/studies`."""
    token: NodePath | None = None
    """With `stow`: the file with a token that is sent as `Authorization: Bearer TOKEN`."""
    tls: Tls | None = None
    """With `stow` and https: the certificates."""
    folder: NodePath | None = None
    """A folder; each study has a subfolder of it."""
    formats: list[str] = []
    """Which answers. Default: all of `answer.formats` that the partner can take: no FHIR with `dicom` and `stow`."""

    @property
    def name(self) -> str:
        """For messages, and to recognise the partner after a restart; the query of an address may be a secret."""
        if self.dicom:
            return f"{self.dicom.ae_title}@{self.dicom.host}:{self.dicom.port}"
        return urlsplit(self.stow)._replace(query="", fragment="").geturl() if self.stow else f"folder {self.folder}"

    @model_validator(mode="after")
    def _single(self) -> SendRule:
        kinds = [self.dicom is not None, bool(self.stow), self.folder is not None]
        refuse({"state one of dicom, stow and folder": sum(kinds) != 1})
        if self.stow:
            try:
                address = urlsplit(self.stow)
                valid = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
            except ValueError:
                valid = False
            refuse({"stow: write an address such as https://pacs/dicom-web/studies": not valid})
            refuse({"stow: put no password into the address; state a token": "@" in self.stow})
        refuse({"token: belongs to stow": self.token is not None and not self.stow})
        https = self.stow.startswith("https:")
        refuse({"tls: belongs to stow with https; write that of dicom under it": self.tls is not None and not https})
        refuse({"token: needs https, or a host of this computer": self.token is not None and not self._private()})
        unfit = [name for name in self.formats if name.startswith(NOT_DICOM) and not self.folder]
        refuse({f"formats: {', '.join(unfit)} can go into a folder only": unfit})
        return self

    def _private(self) -> bool:
        address = urlsplit(self.stow)
        return address.scheme == "https" or is_local(address.hostname or "")


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

    @field_validator("at")
    @classmethod
    def _time(cls, value: str) -> str:
        refuse({"write a time such as 02:00 or 23:30": not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value)})
        return value


class NodeSettings(StudyModel):
    """The file of a node, such as `node.yaml`. Paths start at its folder."""

    bundle: NodePath
    """The trained model: a bundle."""
    trust: NodePath | None = None
    """A public key; a bundle that is not signed with its private key is refused."""
    folder: NodePath = Path("node")
    """The folder with everything that the node writes: queue, received images, answers, audit trail and pages."""
    receive: Receive
    """The ways on which images arrive."""
    complete: Complete = Complete()
    """When all images of a study have arrived."""
    select: list[SelectRule] = []
    """The images of a study that the model reads: one rule for each slot. Default: all images."""
    answer: AnswerSettings = AnswerSettings()
    """What the node writes on a study."""
    send: list[SendRule] = []
    """Who receives the answers. Without any, they stay in the folder `answers`."""
    retry: Retry = Retry()
    """When what failed is tried again."""
    keep: float = Field(30, gt=0)
    """Days for which images and answers stay on the disk after a study was sent."""
    monitor: Monitor = Monitor()
    """How the node watches itself."""

    @model_validator(mode="after")
    def _agree(self, info: ValidationInfo) -> NodeSettings:
        for number, rule in enumerate(self.send):
            unknown = [name for name in rule.formats if name not in self.answer.formats]
            there = ", ".join(self.answer.formats)
            refuse({f"send.{number}.formats: {cut(name)} is not in answer.formats: {there}": True for name in unknown})
            refuse({f"send.{number}.dicom: is this node's own port, receive.dicom": self._is_own(rule)})
            refuse({f"send.{number}: no format of answer.formats suits it": not self.formats_for(rule)})
        receivers = (self.receive.dicom, self.receive.web)
        ports = [each.port for each in receivers if each]
        refuse({"receive: dicom and web need ports of their own": len(set(ports)) < len(ports)})
        names = [rule.name for rule in self.send]
        refuse({f"send: {cut(name)} is stated twice": names.count(name) > 1 for name in names})
        slots = [rule.slot for rule in self.select]
        refuse({"select: with several rules, each needs a slot of its own": len(set(slots)) < len(slots)})
        self._check_incoming((info.context or {}).get("file"))
        return self

    def _is_own(self, rule: SendRule) -> bool:
        """Whether answers would come back to this node."""
        own = self.receive.dicom
        return bool(own and rule.dicom and rule.dicom.port == own.port and is_local(rule.dicom.host))

    def _check_incoming(self, file: Path | None) -> None:
        """Refuse a folder of incoming files with what the node needs in it, or in what the node or a partner writes."""
        incoming = self.receive.folder
        if incoming is None:
            return
        real = Path(os.path.realpath(incoming))
        for key, path in [("this file", file), *_paths(self)]:
            if key == "receive.folder" or path is None:
                continue
            other = Path(os.path.realpath(path))
            taken = f"receive.folder: {incoming} contains {path}, which is {key}, and files in it are taken away"
            refuse({f"{taken}; choose another folder": other.is_relative_to(real)})
            refuse({f"receive.folder: {incoming} is in {key}; choose another folder": real.is_relative_to(other)})

    def formats_for(self, rule: SendRule) -> list[str]:
        """The formats that a partner receives."""
        suitable = [name for name in self.answer.formats if rule.folder or not name.startswith(NOT_DICOM)]
        return rule.formats or suitable

    def check_files(self) -> None:
        """Check tokens, certificates and folders.

        Raises:
            StudyError: one cannot be used; the message begins with its key.
        """
        for key, path in (("folder", self.folder), ("receive.folder", self.receive.folder)):
            if path and (problem := _folder_problem(path)):
                raise StudyError(f"{key}: {problem}")
        if self.receive.web:
            self.receive.web.web_settings(self.receive.largest_bytes)
        receivers = {"receive.dicom": self.receive.dicom, "receive.web": self.receive.web}
        tls = [(key, each.tls, True) for key, each in receivers.items() if each and each.tls]
        for number, rule in enumerate(self.send):
            key = f"send.{number}"
            if rule.token:
                read_token(rule.token, f"{key}.token")
            stated = rule.dicom.tls if rule.dicom else rule.tls
            tls += [(key, stated, False)] if stated else []
        for key, each, receives in tls:
            try:
                each.server() if receives else each.client()
            except StudyError as error:
                raise StudyError(f"{key}: {error}") from None

    def remarks(self) -> list[str]:
        """What another computer on the network could read, and what is not there yet, in sentences."""
        lines = []
        if (outcomes := self.monitor.outcomes) and not outcomes.exists():
            lines.append(f"monitor.outcomes: {outcomes} does not exist yet.")
        for key, each in {"receive.dicom": self.receive.dicom, "receive.web": self.receive.web}.items():
            if each and not each.tls and not is_local(each.host):
                lines.append(f"{key}: images are received without encryption. State `tls`.")
        for rule in self.send:
            host = rule.dicom.host if rule.dicom else urlsplit(rule.stow).hostname or "localhost"
            encrypted = rule.dicom.tls is not None if rule.dicom else rule.stow.startswith("https:")
            if not encrypted and not is_local(host):
                lines.append(f"send: answers go to {rule.name} without encryption.")
        secrets = {path for key, path in _paths(self.model_dump()) if "token" in key or key.endswith("tls.key")}
        readable = [str(path) for path in sorted(secrets) if path.exists() and path.stat().st_mode & 0o004]
        lines += [f"{path} can be read by everybody on this computer: `chmod o-rwx` it." for path in readable]
        return lines


def _paths(value: object, key: str = "") -> Iterator[tuple[str, Path]]:
    """The paths in settings, by key."""
    if isinstance(value, Path):
        yield key, value
    entries = dict(enumerate(value)) if isinstance(value, list) else value
    for name, each in dict(entries).items() if isinstance(entries, (StudyModel, dict)) else ():
        yield from _paths(each, f"{key}.{name}" if key else str(name))


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
