"""What processes on the machines of a Ray cluster do: look at the shared folder, measure plans, and attempt jobs."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from casewise.jobs.backends import Failure, attempt
from casewise.plugins.cluster.leases import locked, reads
from casewise.training.cost import keep_memory
from casewise.version import __version__

if TYPE_CHECKING:
    from casewise.jobs.plan import Job, JobInputs
    from casewise.run_folder import RunFolder
    from casewise.training.compute_plan import ComputePlan

# Registrations and inputs of jobs, pickled; None if images are prepared.
Inputs: TypeAlias = tuple[bytes, bytes] | None
# What the pixels of prepared images depend on.
IMAGE_LIBRARIES = (
    *("numpy", "scipy", "pillow", "pillow-heif", "simplejpeg", "opencv-python-headless", "openslide-bin", "SimpleITK"),
    *("nibabel", "pydicom", "pylibjpeg", "pylibjpeg-openjpeg", "pyjpegls"),
)
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
    def of_this(
        cls, *, shares: bool = True, missing: Sequence[str] = (), libraries: Sequence[str] = ("torch",)
    ) -> NodeReport:
        """The report of the machine of this process."""
        from casewise.training.compute_plan import cpu_name

        version_of = {"casewise": __version__, "Python": platform.python_version()}
        version_of |= {name: version for name in libraries for version in _version(name)}
        versions = ", ".join(f"{name} {version}" for name, version in version_of.items())
        return cls(socket.gethostname(), versions, cpu_name(), shares, tuple(missing))


def _version(library: str) -> list[str]:
    try:
        return [metadata.version(library)]
    except metadata.PackageNotFoundError:
        return []


def look(inputs: Inputs, path: str, session: str, needed: Sequence[Path], libraries: Sequence[str]) -> NodeReport:
    """Load the inputs, and report what this machine sees of the run whose leases are in the file at `path`."""
    _loaded(inputs)
    shares = reads(Path(path), session) and os.access(Path(path).parent, os.W_OK)
    missing = [str(path) for path in needed if not path.exists()]
    return NodeReport.of_this(shares=shares, missing=missing, libraries=libraries)


def work(inputs: Inputs, path: str, session: str, lease: str, call: bytes) -> tuple[Any, list[str]]:
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


def prepare_part(inputs: None, function: Callable[[list[Any]], None], items: list[Any]) -> None:
    """Do work on some images (see `casewise.modalities.store.workers`)."""
    function(items)


def plans_of(inputs: JobInputs, jobs: Sequence[Job], folder: RunFolder, threads: int) -> dict[str, ComputePlan]:
    """The compute plans of the networks, measured on this machine, whose own earlier measurements are used."""
    from casewise.jobs.compute_plans import compute_plans

    return compute_plans(jobs, inputs, folder, threads)


def _loaded(inputs: Inputs) -> Any:
    """The inputs, loaded once by each process, after what users have registered."""
    import ray.cloudpickle

    if inputs is None:
        return None
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
