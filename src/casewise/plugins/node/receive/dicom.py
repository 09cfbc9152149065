"""Images that partners send with C-STORE: a DICOM server that answers with success only what is safely stored.

Objects that are no images are accepted as well (see `inbox`).
"""

from __future__ import annotations

import io
import logging
import os
import socket
import ssl
import threading
from socketserver import BaseServer
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError, cut, printable
from casewise.plugins.node.receive.data_set import RefusedError
from casewise.plugins.node.receive.inbox import FullError, Inbox
from casewise.web.settings import location_of

try:
    from pynetdicom import AE, AllStoragePresentationContexts, evt
    from pynetdicom.transport import ThreadedAssociationServer
except ImportError as error:
    raise CasewiseError("DICOM connections need pynetdicom: pip install 'casewise[node]'") from error

if TYPE_CHECKING:
    from casewise.plugins.node.settings import DicomReceive

log = logging.getLogger("casewise.node")
# Status codes of C-STORE: PS3.4, table B.2-1, and PS3.7, annex C.
SUCCESS, FULL, DAMAGED = 0x0000, 0xA700, 0xC000
VERIFICATION = "1.2.840.10008.1.1"
# The transfer syntaxes that are accepted, those preferred first: uncompressed, then without loss, then with loss.
SYNTAXES = (
    *("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"),
    *("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.80"),
    *("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"),
    "1.2.840.10008.1.2.4.91",
)
# Seconds: for the handshake of TLS and the negotiation, for an answer, and of silence until a connection is closed.
NEGOTIATION, ANSWER, SILENCE = 15.0, 60.0, 120.0
PDU = 131_072


class DicomReceiver:
    """A server for C-STORE and C-ECHO.

    Args:
        inbox: what is received goes there.
    """

    def __init__(self, settings: DicomReceive, inbox: Inbox) -> None:
        self._settings, self._inbox = settings, inbox
        self._server: _Server | None = None
        # its messages quote what is received
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)

    @property
    def port(self) -> int:
        """The port at which it listens."""
        return int(self._server.server_address[1]) if self._server else self._settings.port

    def start(self) -> None:
        """Listen, in threads.

        Raises:
            CasewiseError: the port or a certificate cannot be used.
        """
        settings = self._settings
        entity = AE(ae_title=settings.ae_title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(settings.allowed)
        entity.maximum_associations, entity.maximum_pdu_size = settings.associations, PDU
        entity.acse_timeout, entity.dimse_timeout, entity.network_timeout = NEGOTIATION, ANSWER, SILENCE
        for each in AllStoragePresentationContexts:
            entity.add_supported_context(str(each.abstract_syntax), list(SYNTAXES))
        entity.add_supported_context(VERIFICATION)
        context = settings.tls.server() if settings.tls else None
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store), (evt.EVT_REJECTED, _log_rejected)]
        handlers.append((evt.EVT_PDU_RECV, self._check_size))
        try:
            address = (settings.host, settings.port)
            server = entity.make_server(address, ssl_context=context, evt_handlers=handlers, server_class=_Server)
        except OSError as error:
            reason = f"{settings.host} port {settings.port} cannot be used ({error.strerror or error})"
            raise CasewiseError(f"receive.dicom: {reason}. Choose another port, or 0 for a free one.") from error
        assert isinstance(server, _Server)
        self._server = server
        threading.Thread(target=server.serve_forever, name="dicom-receiver", daemon=True).start()

    def stop(self) -> None:
        """End all connections; what was not answered with success is sent again by its sender."""
        if self._server:
            server, self._server = self._server, None
            for association in server.active_associations:
                association.abort()
            server.shutdown()

    def _store(self, event: Any) -> int:
        """Answer a C-STORE with its status."""
        partner = printable(str(event.assoc.requestor.ae_title)).strip()
        try:
            data = event.request.DataSet or io.BytesIO()
            data.seek(0)
            stated = (str(event.request.AffectedSOPClassUID), str(event.request.AffectedSOPInstanceUID))
            self._inbox.receive(data, str(event.context.transfer_syntax), f"dicom {partner}", stated)
        except RefusedError as error:
            log.warning("from %s, an object was refused: %s", partner, error)
            return DAMAGED
        except FullError as error:
            log.error("from %s, an image could not be stored: %s", partner, error)
            return FULL
        except Exception as error:  # noqa: BLE001 (its message may quote data of a patient)
            log.error("from %s, an image could not be stored: %s", partner, location_of(error))
            return FULL
        return SUCCESS

    def _check_size(self, event: Any) -> None:
        """End a connection whose object is larger than any that is accepted, before memory is full."""
        message = event.assoc.dimse.message
        if message and message.data_set.seek(0, os.SEEK_END) > self._inbox.largest:
            partner = printable(str(event.assoc.requestor.ae_title)).strip()
            log.warning("from %s, an object was refused: it is larger than the limit `receive.largest`", partner)
            event.assoc.abort()


class _Server(ThreadedAssociationServer):
    """A server in which no client that does not finish the handshake of TLS keeps others waiting."""

    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; the handshake follows in its thread."""
        assert self.socket is not None
        client, address = self.socket.accept()
        if self.ssl_context:
            client = self.ssl_context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        return client, address

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Do the handshake, and answer."""
        if isinstance(request, ssl.SSLSocket):
            try:
                request.settimeout(NEGOTIATION)
                request.do_handshake()
                request.settimeout(SILENCE)
            except OSError as error:
                log.warning("a connection was refused: %s", cut(getattr(error, "reason", None) or error))
                self.shutdown_request(request)
                return
        super().process_request_thread(request, client_address)

    def shutdown(self) -> None:
        """Accept no more connections."""
        BaseServer.shutdown(self)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a connection that failed, without a traceback."""
        log.warning("a connection failed")


def _log_rejected(event: Any) -> None:
    request = event.assoc.requestor.primitive
    titles = [cut(printable(str(title))) for title in (request.calling_ae_title, request.called_ae_title)]
    log.warning("a connection of %s, which calls %s, was rejected", *titles)
