"""A running service in tests: with a model, or with a worker that only pretends to have one."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from casewise.plugins.serve.pool import SUBMISSIONS, ServicePlan, WorkerPool, work
from casewise.plugins.serve.server import service
from casewise.plugins.serve.settings import ServiceSettings
from casewise.web.server import server_of

TOY: dict[str, Any] = {"title": "Toy", "notice": "Research software.", "slots": ["upper", "lower"]}
TOY |= {"targets_by_name": {}, "titles": {}, "endings": [".png"], "covariates": []}


@dataclass(frozen=True)
class Running:
    """A service that answers at `url`."""

    url: str
    port: int
    pool: WorkerPool
    folder: Path


@contextmanager
def running(settings: ServiceSettings, target: Callable[[Connection, ServicePlan], None] = work) -> Iterator[Running]:
    """A service on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listening, service(settings, target) as (app, pool, _):
        server = server_of(app, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            port = listening.getsockname()[1]
            yield Running(f"http://127.0.0.1:{port}", port, pool, pool.workers[0]._plan.folder)
        finally:
            server.should_exit = True
            thread.join()


def toy_work(connection: Connection, plan: ServicePlan) -> None:
    """A worker that does what the name of the first visit says: die, die once, wait for a file, or answer."""
    name = "another" if (plan.folder.parent / "changed").exists() else "first"
    connection.send_bytes(json.dumps({"ready": TOY | {"name": name}}).encode())
    while True:
        try:
            job = json.loads(connection.recv_bytes())
        except EOFError:
            return
        submission = SUBMISSIONS.validate_python(job["submission"])
        order, mark = submission.visits[0].name, plan.folder.parent / "died"
        if order == "die" or (order == "die once" and not mark.exists()):
            mark.touch()
            os._exit(1)
        if order == "wait":
            (plan.folder.parent / "waiting").touch()
            while not (plan.folder.parent / "go").exists():
                time.sleep(0.01)
        answer: dict[str, Any] = {"visits": [{"visit": order, "flags": []}], "pid": os.getpid()}
        connection.send_bytes(json.dumps({"answer": answer}).encode())
