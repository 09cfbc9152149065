"""A process in place of one with a model, which does what the PatientID of a study says; it imports little."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from casewise.plugins.node.worker import NodePlan


def toy(connection: Connection, plan: NodePlan) -> None:
    """Die, die once, hang, fail, leave it to a person, or answer."""
    import pydicom

    connection.send_bytes(b'{"ready": {"title": "toy", "checksum": "abc"}}')
    while True:
        job = json.loads(connection.recv_bytes())
        film, mark = pydicom.dcmread(job["files"][0]), plan.folder.parent / "died"
        name = str(film.PatientID)
        if name == "die" or (name == "die once" and not mark.exists()):
            mark.touch()
            os._exit(1)
        if name == "hang":
            (plan.folder.parent.parent / "hangs").touch()
            time.sleep(60)
        path = answer_to(film, job["content"], Path(job["folder"]))
        answer: dict[str, Any] = {"answers": [["sr.dcm", "sr", str(path), digest(path)]]}
        answer |= {"observation": '{"at": 1.0}', "accession": "c47f5b18b8a4", "unwritten": {}}
        replies = {"fault": {"failed": "x", "fault": True}, "person": {"unanswerable": "y"}}
        connection.send_bytes(json.dumps(replies.get(name, answer)).encode())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def answer_to(film: Any, content: str, folder: Path) -> Path:
    """Write a report about the study of a film, whose identifiers follow from the content."""
    del film.PixelData
    uid = f"2.25.{int(content[:30], 16)}"
    film.Modality, film.Manufacturer, film.SOPClassUID = "SR", "casewise", "1.2.840.10008.5.1.4.1.1.88.33"
    film.SOPInstanceUID, film.SeriesInstanceUID = uid, f"{uid}.1"
    film.file_meta.MediaStorageSOPClassUID, film.file_meta.MediaStorageSOPInstanceUID = film.SOPClassUID, uid
    film.SeriesDescription = str(time.time())  # a repeat is another file
    folder.mkdir(parents=True, exist_ok=True)
    film.save_as(folder / "sr.dcm")
    return folder / "sr.dcm"


def loads_for_ever(_: Connection, plan: NodePlan) -> None:
    """Load a model for a long time."""
    (plan.folder.parent / "loads").touch()
    time.sleep(600)


def main() -> None:
    """Run a node with this process: FILE of its settings."""
    import functools

    from casewise.console import Silent
    from casewise.plugins.node import service
    from casewise.plugins.node.settings import read_settings

    service.Node = functools.partial(service.Node, target=toy)  # type: ignore[assignment, misc]
    service.run_node(read_settings(sys.argv[1]), Silent())


if __name__ == "__main__":
    main()
