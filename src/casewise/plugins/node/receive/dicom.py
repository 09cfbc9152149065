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
from functools import partial
from socketserver import BaseServer
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError, cut, printable
from casewise.plugins.node.node_log import log
from casewise.plugins.node.receive.connection import NEGOTIATION, PDU, PlainConnection, TlsConnection
from casewise.plugins.node.receive.data_set import RefusedError
from casewise.plugins.node.receive.inbox import FullError, Inbox
from casewise.web.settings import location_of, seconds_for
from casewise.web.waiting import Waiting

try:
    from pynetdicom import AE, AllStoragePresentationContexts, evt
    from pynetdicom.transport import ThreadedAssociationServer
except ImportError as error:
    raise CasewiseError("DICOM connections need pynetdicom: pip install 'casewise[node]'") from error

if TYPE_CHECKING:
    from casewise.plugins.node.settings import DicomReceive

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
# Seconds: for an answer, and of silence until a connection is closed.
ANSWER, SILENCE = 60.0, 60.0
# Connections that are not established yet.
MOST_PENDING = 32
# Objects of the largest size that may be in memory at the same time, of all connections.
LARGEST_AT_ONCE = 4
# Messages that the node answers, as pynetdicom names them.
OFFERED = ("C_STORE_RQ", "C_ECHO_RQ")
# The state of pynetdicom's machine in which it waits for the end of a connection (PS3.8, table 9-5).
CLOSING = "Sta13"


Connection = PlainConnection | TlsConnection


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
        # pynetdicom also counts connections that have sent nothing
        entity.maximum_associations, entity.maximum_pdu_size = 2**16, PDU
        entity.acse_timeout, entity.dimse_timeout, entity.network_timeout = NEGOTIATION, ANSWER, SILENCE
        for each in AllStoragePresentationContexts:
            entity.add_supported_context(str(each.abstract_syntax), list(SYNTAXES))
        entity.add_supported_context(VERIFICATION)
        context = settings.tls.server() if settings.tls else None
        if context:
            context.sslsocket_class = TlsConnection
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store), (evt.EVT_REJECTED, self._rejected)]
        handlers += [(evt.EVT_REQUESTED, self._requested), (evt.EVT_ACCEPTED, self._accepted)]
        handlers += [(evt.EVT_DATA_RECV, self._check_data), (evt.EVT_DIMSE_RECV, _check_kind)]
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
            server.end_connections()
            for association in server.active_associations:
                association.abort()
            server.shutdown()

    def _requested(self, event: Any) -> None:
        """Reject a request where there is no place."""
        connection = _connection(event)
        if connection and self._server and not self._server.take_place(connection, self._settings.associations):
            event.assoc.acse.send_reject(0x02, 0x03, 0x02)
            self._rejected(event)
            event.assoc.kill()

    def _accepted(self, event: Any) -> None:
        if connection := _connection(event):
            connection.establish(_title(event))
            if self._server:
                self._server.waiting.remove(connection)

    def _rejected(self, event: Any) -> None:
        if self._server and (connection := _connection(event)):
            self._server.give_place(connection)
        request = event.assoc.requestor.primitive
        titles = [cut(printable(str(title))) for title in (request.calling_ae_title, request.called_ae_title)]
        log.warning("a connection of %s, which calls %s, was rejected", *titles)

    def _store(self, event: Any) -> int:
        """Answer a C-STORE with its status."""
        partner, connection = _title(event), _connection(event)
        try:
            data = event.request.DataSet or io.BytesIO()
            size = data.seek(0, os.SEEK_END)
            if connection:
                connection.arriving, connection.storing = 0, size
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
        finally:
            if connection:
                connection.storing = 0
        return SUCCESS

    def _check_data(self, event: Any) -> None:
        """End a connection that needs more memory or time than any object that is accepted."""
        connection, largest, dimse = _connection(event), self._inbox.largest, event.assoc.dimse
        if connection is None:
            return
        if event.assoc.dul.state_machine.current_state == CLOSING:
            connection.stop()
        connection.check_message(dimse.message, list(dimse.msg_queue.queue), largest, seconds_for(largest))
        if self._server:
            self._server.limit_memory(LARGEST_AT_ONCE * largest)


def _connection(event: Any) -> Connection | None:
    """The connection of an event, unless it is closed."""
    connection = event.assoc.dul.socket and event.assoc.dul.socket.socket
    return connection if isinstance(connection, Connection) else None


def _title(event: Any) -> str:
    return printable(str(event.assoc.requestor.ae_title)).strip()


def _check_kind(event: Any) -> None:
    """End a connection that sends a message which the node does not offer."""
    kind, connection = type(event.message).__name__, _connection(event)
    if kind not in OFFERED and connection:
        connection.stop(f"it sends {kind}, and the node takes C-STORE and C-ECHO only")


class _Server(ThreadedAssociationServer):
    """A server in which no client that does not finish the handshake of TLS keeps others waiting."""

    daemon_threads = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.waiting, self._lock = Waiting[Connection](MOST_PENDING), threading.Lock()
        self._connections, self._places = set[Connection](), dict[Connection, str]()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; the handshake follows in its thread."""
        assert self.socket is not None
        client, address = self.socket.accept()
        connection: Connection
        if self.ssl_context:
            wrapped = self.ssl_context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
            assert isinstance(wrapped, TlsConnection)
            connection = wrapped
        else:
            connection = PlainConnection(fileno=client.detach())
        connection.begin(str(address[0]), partial(self._forget, connection))
        with self._lock:
            self._connections.add(connection)
        if oldest := self.waiting.add(connection, connection.peer):
            oldest.stop("it sent no request, and many others wait")
        return connection, address

    def _forget(self, connection: Connection) -> None:
        self.waiting.remove(connection)
        self.give_place(connection)
        with self._lock:
            self._connections.discard(connection)

    def take_place(self, connection: Connection, places: int) -> bool:
        """Whether one of the places is free for a connection; of one address at most three quarters."""
        with self._lock:
            own = sum(peer == connection.peer for peer in self._places.values())
            if len(self._places) >= places or own >= max(1, places * 3 // 4):
                return False
            self._places[connection] = connection.peer
            return True

    def give_place(self, connection: Connection) -> None:
        """Free the place of a connection."""
        with self._lock:
            self._places.pop(connection, None)

    def limit_memory(self, most: int) -> None:
        """End the connection that needs the most memory if all together need too much."""
        with self._lock:
            connections = list(self._connections)
        if sum(each.memory for each in connections) > most:
            largest = max(connections, key=lambda each: each.memory)
            largest.stop("objects that arrive at the same time need too much memory")

    def end_connections(self) -> None:
        """End all connections."""
        with self._lock:
            connections = list(self._connections)
        for each in connections:
            each.stop()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Do the handshake, and answer."""
        if isinstance(request, ssl.SSLSocket):
            try:
                request.settimeout(NEGOTIATION)
                request.do_handshake()
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
