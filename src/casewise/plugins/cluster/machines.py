"""The machines of a Ray cluster: joining them, which of them have room for a job, and what their processes do.

A process there looks at the shared folder, measures compute plans, and attempts jobs.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to its makers otherwise
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import ray.cloudpickle

from casewise.errors import CasewiseError, RunError, counted
from casewise.jobs.backends import Failure, attempt
from casewise.plugins.cluster.leases import LOCAL, locked, reads
from casewise.training.cost import keep_memory
from casewise.version import __version__

if TYPE_CHECKING:
    from casewise.jobs.plan import Job, JobInputs
    from casewise.run_folder import RunFolder
    from casewise.training.compute_plan import ComputePlan

log = logging.getLogger("casewise")

# How long, in seconds, to reach a cluster.
REACH = 5.0
# Bytes of memory for objects of a Ray of this machine's own, where only the inputs are.
OBJECTS = 500 * 2**20


class Task(NamedTuple):
    """Something to execute in the cluster, with the cores and GPUs that it takes; `call` is a pickled function."""

    name: str
    call: bytes
    cpus: int
    gpus: int
    job: Job | None = None
    moves: int = 0


def connect(address: str) -> None:
    """Join the cluster at `address`, or start Ray on this machine if it is `local`.

    Raises:
        CasewiseError: there is none, or it cannot be joined.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        import joblib

        options |= {"num_cpus": joblib.cpu_count(), "include_dashboard": False, "object_store_memory": OBJECTS}
    elif address != "auto":
        reach(address)
    try:
        ray.init(address=address, **options)
    except (SystemExit, Exception) as error:  # Ray raises many kinds, and ends the process for some
        raise CasewiseError(
            f"--address {address}: no Ray cluster could be joined: {last_line(error)}. `ray start --head` starts one "
            "and prints its address; all machines need the same versions of Ray and Python."
        ) from error


def reach(address: str) -> None:
    """Check that something answers at `host:port`; Ray itself would wait for minutes and end the process.

    Raises:
        CasewiseError: nothing answers, or the address has another form.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise CasewiseError(
            f"--address {address}: not the address of a Ray cluster, which is HOST:PORT, such as 10.0.0.5:6379, or "
            "auto. Start the run on a machine of the cluster."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
    except OSError as error:
        raise CasewiseError(
            f"--address {address}: no Ray cluster was reached: {error.strerror or 'it does not answer'}. Start one "
            "with `ray start --head`, which prints its address."
        ) from error


def nodes_alive() -> Mapping[str, Mapping[str, Any]]:
    """The resources of every machine of the cluster that is connected, with its `host`, by Ray's name of it."""
    return {
        node["NodeID"]: {**node["Resources"], "host": node.get("NodeManagerHostname") or node["NodeManagerAddress"]}
        for node in ray.nodes()
        if node["Alive"]
    }


def cores_of(threads: int, gpus: int, nodes: Mapping[str, Mapping[str, Any]]) -> int:
    """The cores that a job takes: one per thread; on GPUs at most each GPU's share of its machine."""
    if not gpus:
        return threads
    shares = [int(node.get("CPU", 0) // node["GPU"]) for node in nodes.values() if node.get("GPU", 0) >= 1]
    return max(1, min(threads, max(shares, default=1)))


def check_room(tasks: Sequence[Task], nodes: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that every task has room on some machine.

    Raises:
        RunError: one has not.
    """
    for task in tasks:
        if not fits(task, nodes):
            most = max((int(node.get("CPU", 0)) for node in nodes.values()), default=0)
            need = f"{counted(task.cpus, 'core')}{' and a GPU' if task.gpus else ''}"
            raise RunError(
                f"No machine of the Ray cluster has the {need} that a task takes; the largest has "
                f"{counted(most, 'core')}. What is finished is kept. Add machines, or state fewer threads "
                "(`compute: {threads: 1}`), and run again."
            )


def refuse(reports: Sequence[NodeReport], this: NodeReport, folder: Path) -> None:
    """Check what the machines of a cluster have reported against this one.

    Raises:
        RunError: no machine has reported, or some lack the folder, other files, or have other versions.
    """
    if not reports:
        raise RunError("No machine of the Ray cluster has a free core. Add machines with `ray start`.")
    problems = []
    if blind := [report.host for report in reports if not report.shares]:
        problems.append(
            f"{folder} is not a shared folder: {', '.join(blind)} of the Ray cluster does not see the files that "
            "this machine writes there, or cannot write. Name one that all machines have at the same path, with "
            "--output, or for prepared images with `images.store`."
        )
    for report in reports:
        if report.shares and report.missing:
            problems.append(
                f"{', '.join(report.missing)} is not on {report.host} of the Ray cluster. Images and prepared images "
                "must be in folders that all machines have at the same path: see `images.store`."
            )
        if report.versions != this.versions:
            problems.append(
                f"{report.host} of the Ray cluster has {report.versions}, and this machine has {this.versions}. "
                "Results depend on them: install the same versions on every machine."
            )
    if problems:
        raise RunError("\n".join(problems))
    processors = sorted({report.processor for report in reports})
    if len(processors) > 1:
        log.warning(
            "The machines of the Ray cluster have different processors (%s). The last bits of what they compute "
            "depend on them.",
            "; ".join(processors),
        )


def fits(task: Task, nodes: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(rooms(node, task.cpus, task.gpus) for node in nodes.values())


def rooms(node: Mapping[str, Any], cpus: int, gpus: int) -> int:
    """How many tasks a machine has room for."""
    rooms = int(node.get("CPU", 0) // cpus)
    return min(rooms, int(node.get("GPU", 0) // gpus)) if gpus else rooms


def last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")


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
    """A report on a machine of the cluster.

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
    if inputs is None:
        return None
    registrations, pickled = inputs
    key = hashlib.sha256(registrations + pickled).hexdigest()
    if key not in _LOADED:
        ray.cloudpickle.loads(registrations).register()
        _LOADED.clear()
        _LOADED[key] = ray.cloudpickle.loads(pickled)
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
