"""A Ray cluster of several machines on this one, and what runs in it."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HEALTH = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000}
HEALTH |= {"health_check_timeout_ms": 3000, "health_check_failure_threshold": 3}
OPTIONS = {"num_cpus": 1, "include_dashboard": False, "include_log_monitor": False, "object_store_memory": 80_000_000}
PORTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")


@dataclass(frozen=True)
class RayMachines:
    """A cluster; each of its `machines` has one core, and the last one is its head."""

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
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # a machine that is busy with other tests: patience, and no lower priority for the processes of jobs
    os.environ.update(RAY_agent_register_timeout_ms="200000", RAY_worker_niceness="0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"_system_config": HEALTH, **OPTIONS, **_ports()})
    try:
        others = [cluster.add_node(**OPTIONS, **_ports()) for _ in range(count - 1)]
        yield RayMachines(cluster.address, [*others, cluster.head_node])
    finally:
        cluster.shutdown()


def _ports() -> dict[str, int]:
    """Free ports for the parts of a machine: on a busy one, Ray does not wait until they choose theirs."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in PORTS]
        return {name: bound.getsockname()[1] for name, bound in zip(PORTS, sockets, strict=True)}
