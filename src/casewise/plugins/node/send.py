"""Partners that receive the answers of a node: by C-STORE, by STOW-RS, or in a folder."""

from __future__ import annotations

import http.client
import json
import logging
import re
import secrets
import ssl
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from casewise.errors import CasewiseError, cut, none_of, printable
from casewise.files import checksum, make_folder, write_atomic
from casewise.inference.result_formats import format_owners
from casewise.modalities.store.dicom_file import damage, quiet_pydicom
from casewise.plugins.node.credentials import read_token
from casewise.plugins.node.node_log import log
from casewise.plugins.node.queue.records import study_label
from casewise.plugins.node.settings import NodeSettings
from casewise.web.settings import location_of

if TYPE_CHECKING:
    from casewise.plugins.node.queue.records import Delivery
    from casewise.plugins.node.queue.study_queue import StudyQueue
    from casewise.plugins.node.settings import DicomPartner, SendRule

# Seconds until a partner that does not answer is given up for now.
TIMEOUT = 30
# Status of C-STORE: PS3.7, annex C, and PS3.4, table B.2-1. These may succeed later.
DUPLICATE, PROCESSING_FAILURE, OUT_OF_RESOURCES = 0x0111, 0x0110, 0xA700
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
# Status of HTTP that may be another one later: a time-out, too early, and those that concern every answer, such as a
# wrong token, a server at work or too many requests.
RETRYABLE_STATUS, GONE_STATUS = (408, 425), (401, 403, 404, 429)
# Bytes of an answer of a server that are read.
LONGEST_ANSWER = 2**20
# So many answers in a row that a partner fails to take are a fault of the partner; a fault of casewise is not met more
# often with an answer.
MOST_FAILURES = MOST_FAULTS = 3


class DeliveryError(CasewiseError):
    """An answer that a partner did not take.

    Attributes:
        retryable: whether a later attempt may succeed.
        gone: whether the partner takes nothing now, such as without a connection, so that all answers for it can wait.
        duplicate: whether the partner has an object with this UID, and does not replace it.
    """

    def __init__(self, message: str, *, retryable: bool, gone: bool = False, duplicate: bool = False) -> None:
        super().__init__(message)
        self.retryable, self.gone, self.duplicate = retryable, gone, duplicate


class Partner(ABC):
    """A partner.

    Attributes:
        name: for messages, and in the queue.
        formats: of the answers that it receives.
    """

    def __init__(self, name: str, formats: Sequence[str]) -> None:
        self.name, self.formats = name, tuple(formats)

    @abstractmethod
    def deliver(self, path: Path) -> None:
        """Send a file; a repeat replaces what the partner has.

        Raises:
            DeliveryError: it was not taken.
        """

    @abstractmethod
    def check(self) -> None:
        """Reach the partner without sending anything.

        Raises:
            DeliveryError: it cannot be reached.
        """


class StorePartner(Partner):
    """A PACS, by C-STORE."""

    def __init__(self, name: str, formats: Sequence[str], settings: DicomPartner) -> None:
        super().__init__(name, formats)
        self._settings = settings
        self._context = settings.tls.client() if settings.tls else None
        try:
            import pynetdicom
        except ImportError as error:
            raise CasewiseError("send.dicom needs pynetdicom: pip install 'casewise[node]'") from error
        self._network: Any = pynetdicom
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # its messages quote what is sent

    def _associate(self, abstract_syntax: str, syntaxes: Sequence[str]) -> Any:
        """A connection for one kind of object.

        Raises:
            DeliveryError: the partner cannot be reached, or rejects it.
        """
        settings = self._settings
        entity = self._network.AE(ae_title=settings.calling)
        entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = TIMEOUT
        for syntax in syntaxes:
            entity.add_requested_context(abstract_syntax, [syntax])
        tls = {"tls_args": (self._context, settings.host)} if self._context else {}
        try:
            connection = entity.associate(settings.host, settings.port, ae_title=settings.ae_title, **tls)
        except OSError as error:  # such as a host without an address
            text = f"{settings.host} cannot be reached ({error.strerror or type(error).__name__})."
            raise DeliveryError(text, retryable=True, gone=True) from error
        if connection.is_established:
            return connection
        if connection.is_rejected:
            remedy = f"It must allow the AE title {settings.calling}, and be called {settings.ae_title}."
            raise DeliveryError(f"The partner rejects the connection. {remedy}", retryable=True, gone=True)
        if connection.rejected_contexts and not connection.accepted_contexts:
            raise DeliveryError("The partner does not accept objects of this kind.", retryable=False)
        problem = f"{settings.host} port {settings.port} cannot be reached{' with TLS' if tls else ''}."
        raise DeliveryError(problem, retryable=True, gone=True)

    def deliver(self, path: Path) -> None:
        dataset = _read(path)
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        syntaxes = [EXPLICIT, IMPLICIT] if syntax in (EXPLICIT, IMPLICIT) else [syntax]
        connection = self._associate(str(dataset.SOPClassUID), syntaxes)
        try:
            status = connection.send_c_store(dataset).get("Status")
        except (ValueError, RuntimeError, AttributeError, OSError) as error:
            text = f"The object could not be sent ({type(error).__name__})."
            raise DeliveryError(text, retryable=isinstance(error, (RuntimeError, OSError))) from error
        finally:
            if connection.is_established:
                connection.release()
        check_store_status(status)

    def check(self) -> None:
        connection = self._associate("1.2.840.10008.1.1", [IMPLICIT])
        status = connection.send_c_echo().get("Status")
        connection.release()
        if status != 0:
            raise DeliveryError("The partner does not answer C-ECHO.", retryable=True, gone=True)


def check_store_status(status: int | None) -> None:
    """Return for a status of C-STORE that means success, also with a warning.

    >>> check_store_status(0xB000)

    Raises:
        DeliveryError: for any other; None is a connection that ended.
    """
    if status is None:
        raise DeliveryError("The connection ended before an answer.", retryable=True)
    if status in (0x0000, 0x0001) or 0xB000 <= status <= 0xBFFF or status in (0x0107, 0x0116):
        return
    later = status == PROCESSING_FAILURE or OUT_OF_RESOURCES <= status <= OUT_OF_RESOURCES + 0xFF
    duplicate = status == DUPLICATE
    text = " It has an object with this UID, and does not replace it." if duplicate else ""
    raise DeliveryError(f"The partner answers status {status:#06x}.{text}", retryable=later, duplicate=duplicate)


class StowPartner(Partner):
    """A server that takes objects with STOW-RS: PS3.18, 10.5."""

    def __init__(self, name: str, formats: Sequence[str], rule: SendRule) -> None:
        super().__init__(name, formats)
        self._address = urlsplit(rule.stow)
        self._headers = {"Accept": "application/dicom+json"}
        if rule.token:
            self._headers["Authorization"] = f"Bearer {read_token(rule.token, 'send.token')}"
        self._context: ssl.SSLContext | None = None
        if self._address.scheme == "https":
            self._context = rule.tls.client() if rule.tls else ssl.create_default_context()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._address.hostname or "", self._address.port
        if self._context:
            return http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=self._context)
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT)

    def _request(self, method: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        target = (self._address.path or "/") + (f"?{self._address.query}" if self._address.query else "")
        connected = False
        try:
            with closing(self._connection()) as connection:
                connection.connect()
                connected = True
                connection.request(method, target, body, self._headers | headers)
                answer = connection.getresponse()
                return answer.status, answer.read(LONGEST_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
            problem = "ends the connection" if connected else "cannot be reached"
            text = f"{self._address.netloc} {problem} ({cut(printable(str(reason)))})."
            raise DeliveryError(text, retryable=True, gone=not connected) from error

    def deliver(self, path: Path) -> None:
        _read(path)
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = head + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        check_stow_answer(*self._request("POST", body, {"Content-Type": kind}))

    def check(self) -> None:
        status, _ = self._request("OPTIONS", None, {})
        if status >= 500 or status in (401, 403):
            raise DeliveryError(f"The server answers status {status}.", retryable=True, gone=True)


def check_stow_answer(status: int, body: bytes) -> None:
    """Return for the answer to one object that was stored.

    Raises:
        DeliveryError: it was not; 202 and 409 state a reason as that of C-STORE.
    """
    if status == 200:
        return
    if status in (202, 409):
        reason = _failure(body)
        if reason is not None:
            check_store_status(reason)
        if status == 202:
            return
    gone = status in GONE_STATUS
    later = gone or status >= 500 or status in RETRYABLE_STATUS
    text = " The token is missing or wrong." if status in (401, 403) else ""
    raise DeliveryError(f"The server answers status {status}.{text}", retryable=later, gone=gone)


def _failure(body: bytes) -> int | None:
    """The reason why an object was not stored; None if the answer has none."""
    if match := re.search(rb'tag="00081197"[^>]*>\s*<Value[^>]*>\s*(\d{1,5})', body):  # as XML
        return int(match[1])
    try:
        answer = json.loads(body)
        items = [item for tag in ("00081198", "0008119A") for item in answer.get(tag, {}).get("Value", [])]
        return int(items[0].get("00081197", {}).get("Value", [0xC000])[0]) if items else None
    except (ValueError, AttributeError, TypeError, LookupError):
        return None


class FolderPartner(Partner):
    """A folder: each study has a subfolder with its present answers; a file appears complete."""

    def __init__(self, name: str, formats: Sequence[str], folder: Path) -> None:
        super().__init__(name, formats)
        self._folder = folder

    def deliver(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DeliveryError(f"The answer {path} cannot be read: {error.strerror}.", retryable=False) from error
        folder = self._folder / path.parent.name
        try:
            write_atomic(folder / path.name, content)
            for other in folder.iterdir():
                # names are such as sr.dcm and summary-sc-2.dcm; whatever else is there is not of the node
                style = re.sub(r"-\d+$", "", other.stem)
                if style in self.formats and not (path.parent / other.name).exists():
                    other.unlink(missing_ok=True)
        except (CasewiseError, OSError) as error:
            text = str(error) if isinstance(error, CasewiseError) else f"{folder} cannot be changed: {error.strerror}."
            raise DeliveryError(text, retryable=True, gone=True) from error

    def check(self) -> None:
        try:
            make_folder(self._folder)
        except OSError as error:
            raise DeliveryError(
                f"{self._folder} cannot be made: {error.strerror}.", retryable=True, gone=True
            ) from error


def _read(path: Path) -> Any:
    """The data set of an answer.

    Raises:
        DeliveryError: it is no DICOM file.
    """
    try:
        return quiet_pydicom().dcmread(path)
    except damage() as error:
        raise DeliveryError(f"The answer {path.name} is no DICOM file, or is gone.", retryable=False) from error


def partners(settings: NodeSettings) -> list[Partner]:
    """The partners of a node.

    Raises:
        CasewiseError: a token or certificate cannot be used, or a package is missing.
    """
    result: list[Partner] = []
    for rule in settings.send:
        name, formats = rule.name, settings.formats_for(rule)
        if rule.dicom:
            result.append(StorePartner(name, formats, rule.dicom))
        elif rule.folder:
            result.append(FolderPartner(name, formats, rule.folder))
        else:
            result.append(StowPartner(name, formats, rule))
    return result


def routes(receivers: Sequence[Partner]) -> dict[str, Sequence[str]]:
    """The formats that each partner receives, for `StudyQueue`."""
    return {partner.name: partner.formats for partner in receivers}


def send_due(queue: StudyQueue, partner: Partner, now: float) -> int:
    """Send a partner the answers that are due; how many it received.

    An answer that the partner fails to take keeps back no other. If it takes nothing, all wait.
    """
    count = failures = 0
    for delivery in queue.deliveries(partner.name, now):
        label, name = study_label(delivery.study), delivery.answer.name
        try:
            _send(partner, delivery)
        except DeliveryError as error:
            log.warning("study %s: %s was not delivered to %s: %s", label, name, partner.name, error)
            queue.not_delivered(delivery, str(error), final=not error.retryable, gone=error.gone)
            failures = failures + 1 if error.retryable else 0
            if error.gone or failures == MOST_FAILURES:
                queue.pause(partner.name)
                break
        else:
            queue.delivered(delivery)
            log.info("study %s: %s delivered to %s", label, name, partner.name)
            count, failures = count + 1, 0
    return count


def _send(partner: Partner, delivery: Delivery) -> None:
    answer = delivery.answer
    try:
        if checksum(answer.path) != answer.sha256:
            raise DeliveryError(f"The answer {answer.name} has changed on the disk.", retryable=False)
    except OSError as error:
        raise DeliveryError(f"The answer {answer.name} cannot be read: {error.strerror}.", retryable=False) from error
    try:
        partner.deliver(answer.path)
    except DeliveryError as error:
        # of a study that was answered once, it is this answer, sent by a process that was killed before it noted so
        if not (error.duplicate and delivery.version == 1):
            raise
    except Exception as error:  # its message may quote data of a patient
        text = f"A fault of casewise ({location_of(error)}). Please report it."
        raise DeliveryError(text, retryable=delivery.attempts + 1 < MOST_FAULTS) from error


def check_formats(names: Sequence[str]) -> None:
    """Check that every format can be written.

    Raises:
        CasewiseError: a format is unknown, or a package is missing.
    """
    owners = format_owners()
    if unknown := [name for name in names if name not in owners]:
        raise CasewiseError(f"answer.formats: {none_of(unknown[0], owners)}")
    for name in names:
        owners[name].check_result_format(name)
