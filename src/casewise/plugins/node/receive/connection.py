"""A DICOM connection with limits: what a peer states or leaves out costs neither memory nor the places of others.

pynetdicom reads as many bytes as a peer states, for as long as it takes. These sockets, which it is given, read the
length of each PDU first, and end a connection that exceeds a limit (PS3.8, 9.3: a PDU has a head of 6 bytes).
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from casewise.plugins.node.node_log import log

# Bytes of the longest PDU that the node announces, and of the longest that it reads.
PDU, LONGEST_PDU = 2**17, 2**18
# Bytes of a command, and of all that is read before a connection is established.
LONGEST_COMMAND, LONGEST_NEGOTIATION = 2**16, 2**20
# Messages that wait while one is stored: without a negotiated window, a peer sends one at a time (PS3.7, D.3.3.3).
MOST_WAITING = 8
# Seconds until a connection is established, with the handshake of TLS, and for a PDU that has begun.
NEGOTIATION, PDU_SECONDS = 6.0, 20.0
HEAD = 6

if TYPE_CHECKING:
    _Socket = socket.socket
else:
    _Socket = object


class _LimitedSocket(_Socket):
    """A socket that reads PDUs of a bounded length within bounded time.

    Attributes:
        peer: its address; title: the AE title of an established connection.
        arriving, storing: bytes in memory of what has not arrived completely or waits, and of the object being stored.
    """

    peer, title, arriving, storing = "", "", 0, 0
    _ended: Callable[[], None] | None = None
    _begun = _pdu_begun = _message_begun = 0.0
    _established = _stopped = False
    _head, _left, _total = b"", 0, 0

    def begin(self, peer: str, ended: Callable[[], None]) -> None:
        """Start the time of the negotiation.

        Args:
            ended: called once when the connection is closed.
        """
        self.peer, self._ended, self._begun = peer, ended, time.monotonic()

    def establish(self, title: str) -> None:
        """Lift the limits of the negotiation."""
        self.title, self._established = title, True

    @property
    def memory(self) -> int:
        """Bytes that the connection needs; none once it was ended."""
        return 0 if self._stopped else self.arriving + self.storing

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Bytes of a PDU; pynetdicom asks for its head first."""
        self._check()
        if not self._pdu_begun:
            self._pdu_begun = time.monotonic()
        end = self._pdu_begun + PDU_SECONDS if self._established else self._begun + NEGOTIATION
        try:
            self.settimeout(max(end - time.monotonic(), 0.001))
            data = super().recv(size, flags)
        except TimeoutError:
            self.stop("it was too slow")
            raise
        self._total += len(data)
        if self._left:
            self._left -= len(data)
        else:
            self._head += data
        if len(self._head) == HEAD:
            (self._left,) = struct.unpack(">L", self._head[2:])
            self._head = b""
            if self._left > LONGEST_PDU:
                self.stop(f"it states a PDU of {self._left:,} bytes")
        if not self._established and self._total > LONGEST_NEGOTIATION:
            self.stop("its request is too long")
        self._check()
        if not self._left and not self._head:
            self._pdu_begun = 0.0
        return data

    def _check(self) -> None:
        if self._stopped:
            raise ConnectionAbortedError("The connection was ended.")

    def check_message(self, message: Any, waiting: list[Any], largest: int, seconds: float) -> None:
        """End the connection if what arrives is too large or takes too long.

        Args:
            message: of pynetdicom, as far as it arrived; waiting: complete ones that are not yet answered.
            largest: bytes of an object; seconds: in which it must arrive.
        """
        now = time.monotonic()
        self._message_begun = self._message_begun if message else now
        streams = [each.DataSet for _, each in waiting if getattr(each, "DataSet", None)]
        streams += [message.data_set] if message and message.data_set else []
        self.arriving = sum(stream.getbuffer().nbytes for stream in streams)
        if message and message.encoded_command_set.tell() > LONGEST_COMMAND:
            self.stop("its command is too long")
        elif self.arriving > largest:
            self.stop("an object is larger than the limit `receive.largest`")
        elif len(waiting) > MOST_WAITING:
            self.stop("it sends objects without waiting for answers")
        elif now - self._message_begun > seconds:
            self.stop("an object took too long")

    def stop(self, reason: str = "") -> None:
        """End the connection, from any thread; a reason is logged once."""
        if not self._stopped:
            self._stopped = True
            if reason:
                log.warning("the connection of %s was ended: %s", self.title or self.peer, reason)
            self.shutdown(socket.SHUT_RDWR)

    def shutdown(self, how: int) -> None:
        """Shut the connection down, also one that its peer has ended, so that pynetdicom closes it."""
        with suppress(OSError):
            super().shutdown(how)

    def close(self) -> None:
        """Close the socket."""
        ended, self._ended = self._ended, None
        if ended:
            ended()
        super().close()


class PlainConnection(_LimitedSocket, socket.socket):
    """A connection without encryption."""


class TlsConnection(_LimitedSocket, ssl.SSLSocket):  # type: ignore[misc]  # `recv` names its argument otherwise
    """A connection with TLS."""
