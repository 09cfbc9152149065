"""The machines of a Ray cluster: joining them, what they have in common, and which of them have room for a job."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to its makers otherwise
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from casewise.errors import CasewiseError, RunError, counted
from casewise.plugins.cluster.worker import NodeReport

if TYPE_CHECKING:
    from casewise.jobs.plan import Job

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
    if address == "local":
        import joblib

        # Ray listens on all interfaces: without a token, others on the network could start programs
        os.environ.setdefault("RAY_AUTH_MODE", "token")
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
    """The cores that a job takes: those of its threads; on GPUs no more than each GPU's share of its machine."""
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
