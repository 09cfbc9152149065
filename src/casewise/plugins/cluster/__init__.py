"""Jobs on the machines of a Ray cluster, which share the run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.errors import CasewiseError
from casewise.plugin import Plugin

if TYPE_CHECKING:
    from casewise.jobs.backends import Backend
    from casewise.jobs.plan import Job


class _Cluster(Plugin):
    name = "cluster"
    extra = "ray"

    def backends(self) -> Mapping[str, Callable[[str | None], Backend]]:
        return {"ray": _ray}

    def before_jobs(self, folder: Path, jobs: Sequence[Job]) -> None:
        from casewise.plugins.cluster.leases import end_earlier

        end_earlier(folder, jobs)


def _ray(address: str | None) -> Backend:
    try:
        from casewise.plugins.cluster.backend import RayBackend
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise CasewiseError(
            "--backend ray needs Ray, which is not installed: `pip install 'casewise[ray]'`, on every machine."
        ) from error
    return RayBackend(address)


plugin = _Cluster()
