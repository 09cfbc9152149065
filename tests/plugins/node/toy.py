"""A process in place of one with a model, which does what the name of a study says; it imports little."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from casewise.plugins.node.worker import NodePlan


def toy(connection: Connection, plan: NodePlan) -> None:
    """Die, die once, hang, fail, leave it to a person, or answer."""
    connection.send_bytes(b'{"ready": {"title": "toy", "checksum": "abc"}}')
    while True:
        job = json.loads(connection.recv_bytes())
        mark = plan.folder.parent / "died"
        if job["uid"] == "die" or (job["uid"] == "die once" and not mark.exists()):
            mark.touch()
            os._exit(1)
        if job["uid"] == "hang":
            (plan.folder.parent / "hangs").touch()
            time.sleep(60)
        answer: dict[str, Any] = {"answers": [["sr.dcm", "sr", "/a/sr.dcm", "ab"]], "observation": '{"at": 1.0}'}
        answer |= {"accession": "c47f5b18b8a4", "unwritten": {}}
        replies = {"fault": {"failed": "x", "fault": True}, "person": {"unanswerable": "y"}}
        connection.send_bytes(json.dumps(replies.get(job["uid"], answer)).encode())


def dies_of_sigterm(connection: Connection, plan: NodePlan) -> None:
    """Hang with the first study; another process would load its model for a long time."""
    if (plan.folder.parent / "hangs").exists():
        time.sleep(600)
    connection.send_bytes(b'{"ready": {"title": "toy", "checksum": "abc"}}')
    connection.recv_bytes()
    (plan.folder.parent / "hangs").touch()
    time.sleep(600)


def loads_for_ever(_: Connection, plan: NodePlan) -> None:
    """Load a model for a long time."""
    (plan.folder.parent / "loads").touch()
    time.sleep(600)
