"""Orthanc on loopback for tests, with the configuration that casewise ships."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.node.dicom_objects import free_port

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SHIPPED = Path(__file__).resolve().parents[3] / "deploy" / "orthanc.json"
USER = "casewise:a-long-password"


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc with its ports."""

    dicom: int
    web: int
    process: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web}"

    def ask(self, path: str, body: Any = None, method: str = "") -> Any:
        """The JSON that its REST interface answers; `body` is JSON, or bytes of a file."""
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        headers = {"Authorization": f"Basic {base64.b64encode(USER.encode()).decode()}"}
        with closing(http.client.HTTPConnection("127.0.0.1", self.web, timeout=60)) as connection:
            connection.request(method or ("GET" if body is None else "POST"), path, data, headers)
            answer = connection.getresponse()
            content = answer.read()
        assert answer.status == 200, content
        return json.loads(content) if content else None

    def store(self, *files: bytes) -> list[str]:
        """Store files; the IDs of their instances."""
        return [self.ask("/instances", file)["ID"] for file in files]

    def answers(self) -> dict[str, list[dict[str, Any]]]:
        """The tags of the answers of casewise, by Study Instance UID."""
        answers: dict[str, list[dict[str, Any]]] = {}
        for instance in self.ask("/instances"):
            tags = self.ask(f"/instances/{instance}/simplified-tags")
            if tags.get("Manufacturer") == "casewise":
                answers.setdefault(tags["StudyInstanceUID"], []).append(tags)
        return answers


def shipped_configuration() -> dict[str, Any]:
    """The configuration that casewise ships, without its comments."""
    text = re.sub(r"^\s*//.*$", "", SHIPPED.read_text(), flags=re.MULTILINE)
    configuration: dict[str, Any] = json.loads(re.sub(r"\$\{\w+:-(\w+)\}", r"\1", text))
    return configuration


@contextmanager
def running_orthanc(folder: Path, ports: tuple[int, int] | None = None, **settings: Any) -> Iterator[Orthanc]:
    """Run it, by default on free ports, with the shipped configuration but for what tests need.

    Args:
        ports: for DICOM and HTTP, such as those of a server that ran before.
    """
    program = shutil.which("Orthanc")
    if program is None:
        pytest.skip("the program Orthanc is not installed")
    dicom, web = ports or (free_port(), free_port())
    folder.mkdir(parents=True, exist_ok=True)
    user, password = USER.split(":")
    configuration = shipped_configuration() | {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "DicomPort": dicom,
        "HttpPort": web,
        "RemoteAccessAllowed": False,
        "RegisteredUsers": {user: password},
        "StableAge": 1,
        "DicomModalities": {},
        "Plugins": [str(PLUGIN)] if PLUGIN.exists() else [],
        **settings,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen([program, str(path)], stdout=log, stderr=log)
        pacs = Orthanc(dicom, web, process)
        try:
            for _ in range(300):
                try:
                    pacs.ask("/system")
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log.txt").read_text()[-2000:]
                    time.sleep(0.1)
            yield pacs
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
