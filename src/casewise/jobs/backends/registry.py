"""Where jobs are executed: the one list of back ends, and the choice of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from casewise.errors import CasewiseError, cut, nearest
from casewise.jobs.backends.local import LocalBackend
from casewise.plugin import plugins

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.jobs.backends.base import Backend

DEFAULT = "local"


def _local(address: str | None) -> Backend:
    if address is not None:
        raise CasewiseError(
            f"--address {address}: the back end 'local' is this machine and has no address. "
            "For a Ray cluster, add `--backend ray`."
        )
    return LocalBackend()


# From the name of a back end of the core to what makes it for an address; plugins have others.
BACKENDS: dict[str, Callable[[str | None], Backend]] = {"local": _local}

_CHOSEN: ContextVar[Backend | None] = ContextVar("backend", default=None)


def backend_named(name: str, address: str | None = None) -> Backend:
    """The back end of this name, not yet connected.

    Raises:
        CasewiseError: there is none, it has no address, or its library is not installed.

    >>> type(backend_named("local")).__name__
    'LocalBackend'
    """
    backends = dict(BACKENDS)
    for plugin in plugins():
        backends |= plugin.backends()
    if name not in backends:
        raise CasewiseError(f"--backend: {cut(name)} is none of {', '.join(backends)}.{nearest(name, backends)}")
    return backends[name](address)


@contextmanager
def executing_on(name: str, address: str | None = None, show: Show | None = None) -> Iterator[Backend]:
    """Execute all jobs of the block on this back end: `local`, this machine, or `ray`, a Ray cluster.

    Args:
        address: that of the cluster, `HOST:PORT` or `auto` for the one of this machine; by default Ray is started here.
        show: where it is reported which machines these are.

    Raises:
        CasewiseError: as `backend_named`, or the back end cannot be reached.
    """
    with backend_named(name, address) as backend:
        if show and backend.notice:
            show.line(name, backend.notice)
        token = _CHOSEN.set(backend)
        try:
            yield backend
        finally:
            _CHOSEN.reset(token)


def chosen_backend() -> Backend:
    """The back end of `executing_on`; outside it, this machine."""
    return _CHOSEN.get() or LocalBackend()
