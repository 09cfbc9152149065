"""Jobs on the machines of a Ray cluster, which share the run folder."""

from __future__ import annotations

import os
import secrets
import sys
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
    from casewise.plugins.cluster.leases import LOCAL

    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    if address == LOCAL:
        # Ray listens on all interfaces: without a token, others on the network could start programs. Ray reads these
        # when it is imported, and again in every process that it starts.
        if sys.modules.get("ray") and os.environ.get("RAY_AUTH_MODE") != "token":
            raise CasewiseError(
                "--backend ray: Ray was imported before it could be closed to other computers. Import it later, or set "
                "RAY_AUTH_MODE=token and a secret RAY_AUTH_TOKEN before `import ray`."
            )
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
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
