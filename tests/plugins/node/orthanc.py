"""A real PACS for tests: Orthanc on loopback, with DICOMweb."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.node.dicom_objects import free_port

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass(frozen=True)
class Orthanc:
    """A running PACS with its ports."""

    dicom: int
    web: int

    def ask(self, path: str, body: Any = None, method: str = "") -> Any:
        """The JSON that its REST interface answers; `body` is JSON, or bytes of a file."""
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        with closing(http.client.HTTPConnection("127.0.0.1", self.web, timeout=60)) as connection:
            connection.request(method or ("GET" if body is None else "POST"), path, data)
            answer = connection.getresponse()
            content = answer.read()
        assert answer.status == 200, content
        return json.loads(content) if content else None

    def tags(self, instance: str) -> dict[str, Any]:
        """The tags of an instance by their names."""
        tags: dict[str, Any] = self.ask(f"/instances/{instance}/simplified-tags")
        return tags


@contextmanager
def running_orthanc(
    folder: Path,
    modalities: Mapping[str, tuple[str, str, int]] | None = None,
    ports: tuple[int, int] | None = None,
    **settings: Any,
) -> Iterator[Orthanc]:
    """Run it, by default on free ports.

    Args:
        ports: for DICOM and HTTP, such as those of a server that ran before.
        modalities: AE title, host and port of those that it may send to, and that may send to it, by name.
    """
    program = shutil.which("Orthanc")
    if program is None:
        pytest.skip("the program Orthanc is not installed")
    dicom, web = ports or (free_port(), free_port())
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "DicomCheckCalledAet": True,
        "HttpPort": web,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {name: list(values) for name, values in (modalities or {}).items()},
        "Plugins": [str(PLUGIN)] if PLUGIN.exists() else [],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **settings,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen([program, str(path)], stdout=log, stderr=log)
        pacs = Orthanc(dicom, web)
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
