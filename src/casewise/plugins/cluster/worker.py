"""What processes on the machines of a Ray cluster do: look at the shared folder, measure plans, and attempt jobs."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.jobs.backends import Failure, attempt
from casewise.plugins.cluster.leases import locked, reads
from casewise.training.cost import keep_memory
from casewise.version import __version__

if TYPE_CHECKING:
    from casewise.jobs.plan import Job, JobInputs
    from casewise.run_folder import RunFolder
    from casewise.training.compute_plan import ComputePlan

# The inputs that this process has loaded, by the hash of their bytes.
_LOADED: dict[str, Any] = {}


@dataclass(frozen=True)
class NodeReport:
    """What a machine of the cluster is like.

    Attributes:
        shares: whether it sees the run folder as the machine that began the run does, and can write there.
        missing: folders of prepared images that it does not see.
    """

    host: str
    versions: str
    processor: str
    shares: bool = True
    missing: tuple[str, ...] = ()

    @classmethod
    def of_this(cls, *, shares: bool = True, missing: Sequence[str] = ()) -> NodeReport:
        """The report of the machine of this process."""
        from casewise.training.compute_plan import cpu_name

        versions = f"casewise {__version__}, Python {platform.python_version()} and torch {metadata.version('torch')}"
        return cls(socket.gethostname(), versions, cpu_name(), shares, tuple(missing))


def look(inputs: tuple[bytes, bytes], path: str, session: str, folders: Sequence[Path]) -> NodeReport:
    """Load the inputs, and report what this machine sees of the run whose leases are in the file at `path`."""
    _loaded(inputs)
    shares = reads(Path(path), session) and os.access(Path(path).parent, os.W_OK)
    return NodeReport.of_this(shares=shares, missing=[str(folder) for folder in folders if not folder.exists()])


def work(inputs: tuple[bytes, bytes], path: str, session: str, lease: str, call: bytes) -> tuple[Any, list[str]]:
    """Execute a pickled function of this module with a lease; return its result and the warnings of casewise."""
    import ray
    import ray.cloudpickle

    with locked(Path(path), session, lease, ray.get_runtime_context().get_node_id()), _warnings() as warnings:
        loaded = _loaded(inputs)
        function, arguments = ray.cloudpickle.loads(call)
        return function(loaded, *arguments), warnings


def attempt_of(inputs: JobInputs, job: Job, plan: ComputePlan, side_by_side: int) -> Failure | None:
    """Execute a job, unless another machine finished it just before it was lost."""
    return None if job.intact() else attempt(job, inputs, plan, side_by_side)


def plans_of(inputs: JobInputs, jobs: Sequence[Job], folder: RunFolder, threads: int) -> dict[str, ComputePlan]:
    """The compute plans of the networks, measured on this machine, whose own earlier measurements are used."""
    from casewise.jobs.compute_plans import compute_plans

    return compute_plans(jobs, inputs, folder, threads)


def _loaded(inputs: tuple[bytes, bytes]) -> Any:
    """The inputs, loaded once by each process, after what users have registered."""
    import ray.cloudpickle

    registrations, pickled = inputs
    key = hashlib.sha256(registrations + pickled).hexdigest()
    if key not in _LOADED:
        ray.cloudpickle.loads(registrations).register()
        _LOADED.clear()
        _LOADED[key] = ray.cloudpickle.loads(pickled)
        if _LOADED[key].study.compute.keep_memory:
            keep_memory()
    return _LOADED[key]


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect warnings, which the machine that began the run shows."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    log, collector = logging.getLogger("casewise"), Collector(logging.WARNING)
    log.addHandler(collector)
    try:
        yield messages
    finally:
        log.removeHandler(collector)
