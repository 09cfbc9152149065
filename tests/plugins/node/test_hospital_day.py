"""Days of a hospital: a real PACS sends studies to a node and receives its answers, while both are killed and end."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from casewise.plugins.node.audit_trail import AuditTrail
from casewise.plugins.node.queue.study_queue import StudyQueue, StudyState
from casewise.run import Run
from tests.film_files import PEOPLE
from tests.plugins.node.dicom_objects import free_port
from tests.plugins.node.films import RULE, studies
from tests.plugins.node.orthanc import Orthanc, running_orthanc

pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")
pytest.importorskip("highdicom", reason="the extra `node` is not installed")
pytestmark = pytest.mark.plugins("hospital", "explain")
PATIENCE = 300.0


def wait(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@dataclass
class Hospital:
    """A PACS and a node, each a program that may be started and killed.

    Attributes:
        port: of the node; ports: of the PACS, for DICOM and HTTP.
    """

    folder: Path
    port: int
    ports: tuple[int, int]
    process: subprocess.Popen[bytes] | None = None

    @property
    def pacs(self) -> Orthanc:
        return Orthanc(*self.ports)

    @contextmanager
    def running_pacs(self) -> Iterator[Orthanc]:
        """The PACS until the block ends; what it stores remains."""
        modalities = {"node": ("CASEWISE", "127.0.0.1", self.port)}
        with running_orthanc(self.folder / "orthanc", modalities, self.ports, OverwriteInstances=True) as pacs:
            yield pacs

    def write_settings(self, bundle: Path, formats: Sequence[str]) -> None:
        values: dict[str, Any] = {"bundle": str(bundle), "folder": "node", "select": [RULE], "complete": {"quiet": 1}}
        values |= {"receive": {"dicom": {"port": self.port, "allowed": ["ORTHANC"]}}}
        values |= {"send": [{"dicom": {"host": "127.0.0.1", "port": self.ports[0], "ae_title": "ORTHANC"}}]}
        values |= {"answer": {"formats": list(formats), "threads": 1}, "retry": {"first": 0.5, "longest": 2}}
        (self.folder / "node.yaml").write_text(yaml.safe_dump(values))

    @property
    def log(self) -> str:
        path = self.folder / "node" / "node.log"
        return path.read_text() if path.exists() else ""

    def start_node(self) -> None:
        """Start the node, and wait until it receives."""
        starts = self.log.count("is ready")
        command = [
            sys.executable,
            "-m",
            "casewise.cli.main",
            "node",
            "start",
            str(self.folder / "node.yaml"),
            "--quiet",
        ]
        self.process = subprocess.Popen(command)
        wait(lambda: self.log.count("is ready") > starts)

    def kill_node(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end_node(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0

    def send(self, images: Sequence[str]) -> None:
        """Let the PACS send images to the node until they have arrived."""

        def arrived() -> bool:
            try:
                job = self.pacs.ask("/modalities/node/store", {"Resources": list(images), "Synchronous": True})
            except (AssertionError, OSError):  # the node does not answer, or the PACS is gone
                time.sleep(0.5)
                return False
            return bool(job["InstancesCount"] == len(images) and job["FailedInstancesCount"] == 0)

        wait(arrived)


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    hospital = Hospital(tmp_path, free_port(), (free_port(), free_port()))
    yield hospital
    if hospital.process is not None and hospital.process.poll() is None:
        hospital.kill_node()


def all_answered(queue: StudyQueue, count: int) -> bool:
    return queue.counts()[StudyState.SENT] == count


def check_pacs(pacs: Orthanc, count: int, unfit: Sequence[int], classes: Sequence[str]) -> None:
    """Check that each study in the PACS has one of each answer, about its patient, and joined to its request."""
    details = [pacs.ask(f"/studies/{name}") for name in pacs.ask("/studies")]
    assert len(details) == count
    for study in details:
        uid = study["MainDicomTags"]["StudyInstanceUID"]
        number = int(uid.rpartition(".")[2])
        instances = [name for series in study["Series"] for name in pacs.ask(f"/series/{series}")["Instances"]]
        tags = {name: pacs.tags(name) for name in instances}
        answers = {name: each for name, each in tags.items() if each["Manufacturer"] == "casewise"}
        assert sorted(each["SOPClassUID"] for each in answers.values()) == sorted(classes)
        for each in tags.values():
            assert (each["PatientID"], each["AccessionNumber"]) == (f"P{number}", f"A{number}")
        report = next(each for each in answers.values() if each["Modality"] == "SR")
        assert ("No image of the study suits" in str(report)) is (number in unfit)
        referenced = str(report["CurrentRequestedProcedureEvidenceSequence"])
        assert all(each["SOPInstanceUID"].startswith(uid) for each in tags.values() if each not in answers.values())
        assert uid in referenced


SR, SC = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7"


def test_a_morning(hospital: Hospital, chest_run: Run, chests: Path) -> None:
    count, unfit = 12, [3, 5, 10]
    hospital.write_settings(chest_run.folder / "bundle", ["sr", "summary-sc"])
    with hospital.running_pacs() as pacs:
        hospital.start_node()
        for _, films in studies(chests, count, unfit):
            hospital.send([pacs.ask("/instances", film)["ID"] for film in films])
        queue = StudyQueue(hospital.folder / "node")
        wait(lambda: all_answered(queue, count))
        queue.close()
        check_pacs(pacs, count, unfit, [SR, SC])
        whole = [
            name for study in pacs.ask("/studies") for name in pacs.ask(f"/studies/{study}/instances?expand=false")
        ]
        hospital.send([name if isinstance(name, str) else name["ID"] for name in whole])  # with the answers of the node
        hospital.end_node()
    queue = StudyQueue(hospital.folder / "node")
    events = [event for _, _, event, _ in queue.events()]
    assert (events.count("predicted"), events.count("not kept"), queue.counts()[StudyState.SENT]) == (
        *(count, 2 * count),
        count,
    )
    queue.close()
    assert not any(person in hospital.log for person in ("P1", *PEOPLE))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "kills"), [(200, 5)])
def test_a_hospital_day(hospital: Hospital, chest_run: Run, chests: Path, count: int, kills: int) -> None:
    """Every tenth study fits no rule, while the node is killed twelve times and the PACS is gone twice."""
    unfit, rng = list(range(7, count + 1, 10)), random.Random(7)
    hospital.write_settings(chest_run.folder / "bundle", ["sr"])
    with hospital.running_pacs() as pacs:
        arrived = studies(chests, count, unfit)
        by_study = [[pacs.ask("/instances", film)["ID"] for film in films] for _, films in arrived]
    sending = threading.Thread(target=lambda: [hospital.send(images) for images in by_study], daemon=True)
    queue = StudyQueue(hospital.folder / "node")
    for gone in range(2):
        with hospital.running_pacs():
            hospital.start_node()
            if not gone:
                sending.start()
            for _ in range(kills):
                time.sleep(rng.uniform(1, 10))
                hospital.kill_node()
                hospital.start_node()
        time.sleep(rng.uniform(3, 10))  # the PACS is gone, and the node at work
        hospital.kill_node()
    with hospital.running_pacs() as pacs:
        hospital.start_node()
        sending.join(1200)
        wait(lambda: all_answered(queue, count), 1200)
        hospital.end_node()
        check_pacs(pacs, count, unfit, [SR])
    events = [event for _, _, event, _ in queue.events()]
    trail = AuditTrail(queue)
    assert (trail.verify(), len(trail.path.read_text().splitlines())) == ([], len(events))
    queue.close()
    assert (events.count("quarantined"), events.count("delivered")) == (0, count)
    assert not any(person in hospital.log for person in ("P1", *PEOPLE))
