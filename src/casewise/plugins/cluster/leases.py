"""Which processes on other machines may train in a run folder: leases that one process grants, renews and withdraws.

A lock of a file does not suffice there. A network file system may keep the lock of a machine that is gone, or give each
machine a lock of its own. A machine that only lost its connection would continue to train while another one repeats its
job. Therefore a job on another machine holds a lease. Its process ends itself when the lease is withdrawn, and when it
has not been renewed for `EXPIRY` seconds, in whichever way the connection was lost. A job is given to another machine
`SAFE` seconds after its lease was withdrawn.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.errors import RunError

if TYPE_CHECKING:
    from casewise.jobs.plan import Job

log = logging.getLogger("casewise")

# The address of a Ray of this machine's own.
LOCAL = "local"
LEASES = ".leases"
# Seconds between two renewals of the leases, and between two looks of a process at its own.
BEAT = 2.0
LOOK = 0.5
# A process ends itself after this many seconds without a renewal; the others rely on it after `SAFE`.
EXPIRY = 20.0
SAFE = 30.0
# How long, in seconds, a file that another machine wrote may take until it is seen.
DELAY = 10.0


@dataclass(frozen=True)
class Leases:
    """The contents of the file of leases.

    Attributes:
        session: the run that grants them.
        beat: changes with every renewal.
        valid: the leases that hold.
        withdrawn: leases whose processes may not have ended yet.
    """

    session: str
    beat: int
    valid: frozenset[str]
    withdrawn: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Leases | None:
        """The leases; None if there is no such file, or not a whole one at this moment."""
        try:
            checksum, text = path.read_text(encoding="utf-8").partition("\n")[0].split(" ", 1)
            values = json.loads(text) if checksum == f"{zlib.crc32(text.encode()):08x}" else None
        except (OSError, ValueError):
            return None
        sets = {name: frozenset(values[name]) for name in ("valid", "withdrawn")} if values else {}
        return cls(**(values | sets)) if values else None

    def write(self, path: Path) -> None:
        """Write them in place: network file systems show a replaced file late. Half a file is recognised and ignored.

        Raises:
            OSError: the file cannot be written.
        """
        text = json.dumps(asdict(self), default=sorted)
        content = f"{zlib.crc32(text.encode()):08x} {text}\n".encode()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.write(handle, content)
            os.ftruncate(handle, len(content))
        finally:
            os.close(handle)


class Lessor:
    """Grants leases to the jobs of a run folder, and renews them in a thread until it is closed."""

    def __init__(self, folder: Path) -> None:
        """Begin to grant leases in `folder`.

        Raises:
            RunError: the folder cannot be written.
        """
        self.path, self.session = folder / LEASES, secrets.token_hex(8)
        self._valid, self._withdrawn = set[str](), set[str]()
        self._beat, self._last, self._lapse = 0, time.monotonic(), 0.0
        self._lock, self._over = threading.Lock(), threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def grant(self) -> str:
        """A new lease.

        Raises:
            RunError: the folder cannot be written.
        """
        lease = secrets.token_hex(8)
        with self._lock:
            self._valid.add(lease)
        self._write()
        return lease

    def withdraw(self, leases: Iterable[str]) -> None:
        """Withdraw leases; their processes have ended `SAFE` seconds later, whether they could read it or not."""
        leases = set(leases)
        with self._lock:
            self._valid -= leases
            self._withdrawn |= leases
        with suppress(RunError):  # they are then not renewed either
            self._write()

    def ended(self, lease: str) -> None:
        """Record that the process of a lease has ended."""
        with self._lock:
            self._valid.discard(lease)
            self._withdrawn.discard(lease)
        with suppress(OSError):
            _node_path(self.path, lease).unlink(missing_ok=True)

    def expired(self, since: float) -> bool:
        """Whether leases were not renewed, after `since` (`time.monotonic`), for so long that processes may end."""
        with self._lock:
            return self._lapse > since or time.monotonic() - self._last > EXPIRY / 2

    def node_of(self, lease: str) -> str:
        """The machine on which the process of a lease is, as `locked` was given it; empty before it has begun."""
        try:
            return _node_path(self.path, lease).read_text(encoding="utf-8")
        except OSError:
            return ""

    def close(self) -> None:
        """Withdraw all leases. The file stays where processes may not have ended, so that the next run waits."""
        self._over.set()
        self._thread.join()
        self.withdraw(self._valid)
        if not self._withdrawn:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(RunError):
                self._write()

    def _write(self) -> None:
        with self._lock:
            self._beat += 1
            try:
                Leases(self.session, self._beat, frozenset(self._valid), frozenset(self._withdrawn)).write(self.path)
            except OSError as error:
                raise RunError(
                    f"{self.path} could not be written: {error.strerror or error}. Check the disk and the permissions."
                ) from error
            now = time.monotonic()
            if now - self._last > EXPIRY / 2:
                self._lapse = now
            self._last = now


@contextmanager
def locked(path: Path, session: str, lease: str, node: str, expiry: float = EXPIRY) -> Iterator[None]:
    """Hold a lease while the block is executed: the process ends when the lease is withdrawn or not renewed.

    Args:
        node: the machine of this process, for `Lessor.node_of`.

    Raises:
        RunError: the folder of `path` is not the run's folder.
        LeaseError: the lease does not hold.
    """
    leases = _session_leases(path, session, lease)
    if lease not in leases.valid:
        raise LeaseError(lease)
    _node_path(path, lease).write_text(node, encoding="utf-8")
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(path, session, lease, leases.beat, expiry, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


class LeaseError(Exception):
    """A lease was withdrawn before its job began, or its machine does not see that it was granted."""


def _node_path(path: Path, lease: str) -> Path:
    return path.with_name(f"{LEASES}-{lease}")


def reads(path: Path, session: str) -> bool:
    """Whether this machine sees the leases of the run, and so its folder, at this path."""
    try:
        _session_leases(path, session)
    except RunError:
        return False
    return True


def _session_leases(path: Path, session: str, lease: str | None = None) -> Leases:
    """The leases of the run as this machine sees them, which may be some seconds late.

    Args:
        lease: wait until they name this lease, at most for `DELAY`.

    Raises:
        RunError: the folder of `path` is not the run's folder.
    """
    until = time.monotonic() + DELAY
    while True:
        leases = Leases.read(path)
        late = time.monotonic() > until
        if leases and leases.session == session:
            if late or lease is None or lease in leases.valid | leases.withdrawn:
                return leases
        elif late:
            raise RunError(
                f"{path.parent} on {socket.gethostname()} is not the run folder of the machine that began the run. The "
                "machines must share it, at the same path."
            )
        time.sleep(LOOK)


def _watch(path: Path, session: str, lease: str, beat: int, expiry: float, over: threading.Event) -> None:
    renewed = time.monotonic()
    while not over.wait(LOOK):
        leases = Leases.read(path)
        if leases and (leases.session != session or lease not in leases.valid):
            os._exit(1)
        if leases and leases.beat != beat:
            beat, renewed = leases.beat, time.monotonic()
        if time.monotonic() - renewed > expiry:
            os._exit(1)


def end_earlier(folder: Path, jobs: Iterable[Job], *, safe: float = SAFE) -> bool:
    """End what an earlier run that was killed may still execute on other machines; return whether it had to wait.

    The caller holds the lock of the run folder.
    """
    path = folder / LEASES
    if not path.exists():
        return False
    earlier = Leases.read(path)
    if earlier is None or earlier.valid or earlier.withdrawn:
        withdrawn = earlier.valid | earlier.withdrawn if earlier else frozenset(["unknown"])
        with suppress(OSError):  # the leases are then not renewed either
            Leases("", 0, frozenset(), withdrawn).write(path)
        log.warning(
            "%s: an earlier run was ended while it worked on other machines. Their processes end within %.0f s; "
            "this run waits for it.",
            folder,
            safe,
        )
        time.sleep(safe)
        for job in jobs:
            break_lock(job)
    for leftover in folder.glob(f"{LEASES}*"):
        if leftover.name != f"{LEASES}.lock":  # which `spread` holds
            with suppress(OSError):
                leftover.unlink(missing_ok=True)
    return True


def break_lock(job: Job) -> None:
    """Remove the lock of a job whose machine is gone: its file system may keep it for ever."""
    with suppress(OSError):
        job.folder.lock_path.unlink(missing_ok=True)
