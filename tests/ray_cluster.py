"""A Ray cluster of several machines on this one, and what runs in it."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 5,
}
# One for all clusters of a process, because Ray reads it once.
TOKEN = secrets.token_hex(32)
OPTIONS = {"include_dashboard": False, "object_store_memory": 80_000_000}


@dataclass(frozen=True)
class RayMachines:
    """A cluster whose head has no cores; each of its `machines` has one."""

    address: str
    machines: list[Any]

    def processes(self, machine: int) -> list[psutil.Process]:
        """The raylet of a machine and everything that it started."""
        raylet = psutil.Process(self.machines[machine].all_processes["raylet"][0].process.pid)
        return [raylet, *raylet.children(recursive=True)]

    def jobs(self, machine: int, run: Path) -> dict[Path, psutil.Process]:
        """The folders of the jobs whose lock a process of the machine holds, with this process."""
        holding = {}
        for process in self.processes(machine):
            with suppress(psutil.Error):
                for file in process.open_files():
                    path = Path(file.path)
                    if re.fullmatch(r"fold\d+", path.parent.name) and path.name == ".lock" and run in path.parents:
                        holding[path.parent] = process
        return holding


@contextmanager
def ray_machines(count: int) -> Iterator[RayMachines]:
    """Start a cluster of so many machines with one core each, and end it."""
    # as a user would do for a cluster: without a token, others on the network could start programs
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": HEALTH, **OPTIONS})
    try:
        yield RayMachines(cluster.address, [cluster.add_node(num_cpus=1, **OPTIONS) for _ in range(count)])
    finally:
        cluster.shutdown()
