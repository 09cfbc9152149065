"""The REST interface of Orthanc: changes, the images of a study, storing answers, and jobs that forward them."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from casewise.errors import CasewiseError, cut, printable, shortened
from casewise.plugins.node.settings import read_credentials

if TYPE_CHECKING:
    from casewise.plugins.node.settings import OrthancSettings

# Bytes of JSON that are read at most; changes and studies of one request.
LARGEST_JSON, PAGE = 2**28, 100
# Modalities of objects without an image to predict: PS3.3, C.7.3.1.1.1.
NO_IMAGES = (
    "SR", "PR", "KO", "DOC", "SEG", "REG", "FID", "RWV", "PLAN", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "ECG",
    "EEG", "EMG", "EOG", "RESP", "HD", "AU", "SMR", "STAIN", "ASMT", "CTPROTOCOL", "XAPROTOCOL", "MRS", "TEXTUREMAP",
)  # fmt: skip
# Where Orthanc lists partners of a kind, and what sends them an instance.
PARTNERS = {
    "modality": ("/modalities", "/store"),
    "peer": ("/peers", "/store"),
    "dicomweb": ("/dicom-web/servers", "/stow"),
}
# The manufacturer and the modality of pages of casewise.
PAGES = ("casewise", "OT")


class OrthancError(CasewiseError):
    """A request that Orthanc did not fulfil.

    Attributes:
        status: of HTTP; 0 if Orthanc cannot be reached.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_away(self) -> bool:
        """Whether Orthanc takes no request now: it cannot be reached, is busy, or refuses the user."""
        return self.status in (0, 401, 403, 429, 502, 503, 504)


@dataclass(frozen=True)
class OrthancStudy:
    """The images of a study in Orthanc; answers of casewise and objects without images are left out.

    Attributes:
        id: in Orthanc; uid: its Study Instance UID.
        updated: the time of its last new instance, as Orthanc states it.
        stable: whether no instance has arrived for the `StableAge` of Orthanc.
        images: by the ID of each instance a name of its file that is new whenever it is replaced.
    """

    id: str
    uid: str
    updated: str
    stable: bool
    images: Mapping[str, str]
    size: int = 0

    @property
    def content(self) -> str:
        """A hash of the images."""
        return hashlib.sha256(json.dumps(sorted(self.images.items())).encode()).hexdigest()


class Orthanc:
    """Orthanc as a client sees it; every request has a time-out.

    Raises:
        StudyError: the credentials cannot be read.
    """

    def __init__(self, settings: OrthancSettings) -> None:
        self._address, self._timeout = urlsplit(settings.url), settings.timeout
        self._headers = {"Accept": "application/json"}
        if settings.credentials:
            token = base64.b64encode(read_credentials(settings.credentials).encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        self._context = ssl.create_default_context() if self._address.scheme == "https" else None

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Report a connection that fails in the block.

        Raises:
            OrthancError: with what to do.
        """
        url = f"{self._address.scheme}://{self._address.netloc}"
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            text = f"orthanc.url: the certificate of {url} is not trusted ({error.verify_message})."
            raise OrthancError(
                f"{text} Name the file with the one that signed it in the variable SSL_CERT_FILE."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise OrthancError(f"orthanc.url: Orthanc at {url} cannot be reached ({reason}).") from error

    @contextmanager
    def _request(self, path: str, body: bytes | None = None) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request, whose content is not read yet.

        Raises:
            OrthancError: there is none, or one that is not a success.
        """
        host, port = str(self._address.hostname), self._address.port
        with self._reaching():
            connection: http.client.HTTPConnection = http.client.HTTPConnection(host, port, timeout=self._timeout)
            if self._context:
                connection = http.client.HTTPSConnection(host, port, timeout=self._timeout, context=self._context)
        with closing(connection):
            with self._reaching():
                target = self._address.path.rstrip("/") + path
                connection.request("GET" if body is None else "POST", target, body, self._headers)
                answer = connection.getresponse()
                detail = "" if answer.status == 200 else _detail(answer.read(LARGEST_JSON))
            if answer.status in (401, 403):
                detail = "the user and password in orthanc.credentials are not among its RegisteredUsers"
            if answer.status != 200:
                text = f"Orthanc answers status {answer.status}{detail and f': {detail}'}."
                raise OrthancError(text, answer.status)
            yield answer

    def ask(self, path: str, body: Any = None) -> Any:
        """The JSON that answers a request; with a body, of JSON or bytes, a POST.

        Raises:
            OrthancError: there is no answer, or one that is not a success.
        """
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        with self._request(path, data) as answer, self._reaching():
            content = answer.read(LARGEST_JSON)
        try:
            return json.loads(content or b"null")
        except ValueError:
            raise OrthancError("orthanc.url: its answer is not JSON. Is it the address of Orthanc?") from None

    def last_change(self) -> int:
        """The number of the last change."""
        return int(self.ask("/changes?last")["Last"])

    def stable_since(self, number: int) -> tuple[list[str], int, bool]:
        """The studies that became stable after a change, the last change that was read, and whether it is the last."""
        page = self.ask(f"/changes?since={number}&limit={PAGE}")
        ids = [change["ID"] for change in page["Changes"] if change["ChangeType"] == "StableStudy"]
        return list(dict.fromkeys(ids)), max(int(page["Last"]), number), bool(page["Done"])

    def stable_studies(self) -> Iterator[tuple[str, str]]:
        """The studies to which no instance is being added, with the time of their last new instance."""
        start = 0
        while page := self.ask(f"/studies?expand&since={start}&limit={PAGE}"):
            yield from ((study["ID"], study.get("LastUpdate", "")) for study in page if study["IsStable"])
            start += len(page)

    def study(self, study: str) -> OrthancStudy | None:
        """A study with its images; None if Orthanc does not have it."""
        try:
            about, series, instances = (
                self.ask(f"/studies/{study}{resource}") for resource in ("", "/series", "/instances")
            )
        except OrthancError as error:
            if error.status == 404:
                return None
            raise
        chosen = {each["ID"] for each in series if _may_have_images(each["MainDicomTags"])}
        files = [each for each in instances if each["ParentSeries"] in chosen]
        images = {each["ID"]: str(each.get("FileUuid") or each["FileSize"]) for each in files}
        uid, size = str(about["MainDicomTags"]["StudyInstanceUID"]), sum(int(each["FileSize"]) for each in files)
        return OrthancStudy(study, uid, about.get("LastUpdate", ""), bool(about["IsStable"]), images, size)

    def same_uid(self, uid: str) -> int:
        """How many studies have this Study Instance UID: one for each patient that it names."""
        return sum(each["Type"] == "Study" for each in self.ask("/tools/lookup", uid.encode()))

    def download(self, instance: str, path: Path) -> None:
        """Write the file of an instance to the disk, in pieces."""
        with self._request(f"/instances/{instance}/file") as answer, path.open("wb") as file:
            while True:
                with self._reaching():  # a full disk is no fault of Orthanc
                    piece = answer.read(2**20)
                if not piece:
                    break
                file.write(piece)
            if answer.length:
                raise OrthancError("Orthanc ended the connection within a file.")

    def store(self, path: Path) -> str:
        """Store a file, unless Orthanc has its UID already; the ID of its instance."""
        answer = self.ask("/instances", path.read_bytes())
        if answer["Status"] not in ("Success", "AlreadyStored"):
            raise OrthancError(f"Orthanc does not store the answer ({cut(answer['Status'])}).", 409)
        return str(answer["ID"])

    def forward(self, kind: str, name: str, instance: str) -> str:
        """Let Orthanc send an instance to a partner; the ID of its job."""
        room, action = PARTNERS[kind]
        body = {"Resources": [instance], "Synchronous": False}
        return str(self.ask(f"{room}/{quote(name, safe='')}{action}", body)["ID"])

    def job(self, job: str) -> tuple[str, str]:
        """The state of a job, and what went wrong; no state for one that Orthanc has forgotten."""
        try:
            about = self.ask(f"/jobs/{job}")
        except OrthancError as error:
            if error.status == 404:
                return "", ""
            raise
        failed = int((about.get("Content") or {}).get("FailedInstancesCount") or 0) > 0
        problem = str(about.get("ErrorDetails") or about.get("ErrorDescription") or "for an unknown reason")
        if about["State"] == "Success" and failed:
            return "Failure", "The partner did not take it."
        return str(about["State"]), f"Orthanc could not send it: {shortened(printable(problem))}"

    def reach(self, kind: str, name: str) -> None:
        """Reach Orthanc, or a partner if one is stated, without sending anything.

        Raises:
            OrthancError: Orthanc does not know it, or it cannot be reached.
        """
        names = self.ask(PARTNERS[kind][0]) if kind else self.ask("/system") and []
        if kind and name not in names:
            raise OrthancError(f"Orthanc has no such {kind} in its configuration, only: {', '.join(names) or 'none'}.")
        if kind == "modality":
            self.ask(f"/modalities/{quote(name, safe='')}/echo", {})
        elif kind == "peer":
            self.ask(f"/peers/{quote(name, safe='')}/system")


def _may_have_images(tags: Mapping[str, str]) -> bool:
    """Whether a series may have images that are predicted; pages of casewise are none."""
    modality = tags.get("Modality", "").strip().upper()
    return modality not in NO_IMAGES and (tags.get("Manufacturer", "").strip(), modality) != PAGES


def _detail(content: bytes) -> str:
    """What Orthanc says about an error, without values of tags."""
    try:
        about = json.loads(content)
        return cut(about.get("Details") or about.get("Message") or "")
    except (ValueError, AttributeError):
        return ""
