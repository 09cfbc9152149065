"""A node withholds confidence once recent studies of a source are unlike the training, until somebody confirms it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from casewise.inference.drift import FEWEST_CASES, FURTHER
from casewise.inference.flag_reasons import UNCONFIRMED
from casewise.plugins.node import service
from casewise.plugins.node.monitoring.of_node import monitor_node
from casewise.plugins.node.orthanc import OrthancStudy
from casewise.plugins.node.records import ANSWERS, study_folder, study_label
from casewise.plugins.node.service import Node
from casewise.plugins.node.settings import NodeSettings
from casewise.plugins.node.state import NodeState
from casewise.run import Run
from tests.film_files import film_bytes
from tests.plugins.node.films import node_settings
from tests.test_cli import casewise

pydicom = pytest.importorskip("pydicom", reason="the extra `node` is not installed")
pytest.importorskip("highdicom", reason="the extra `hospital` is not installed")
pytestmark = pytest.mark.plugins("hospital")

PATIENCE = 400.0
LOOKS: dict[str, Any] = {"West": lambda film: film, "East": lambda film: film // 3 + 80}


class Shelf:
    """Stands for Orthanc: studies of one image, in memory."""

    def __init__(self) -> None:
        self.films: dict[str, bytes] = {}

    def last_change(self) -> int:
        return len(self.films)

    def stable_since(self, number: int) -> tuple[list[str], int, bool]:
        return list(self.films)[max(number, 0) :], len(self.films), True

    def stable_studies(self) -> Iterator[tuple[str, str]]:
        yield from ((uid, "20260301T101010") for uid in list(self.films))

    def study(self, study: str) -> OrthancStudy:
        return OrthancStudy(study, study, "20260301T101010", True, {study: study})

    def same_uid(self, uid: str) -> int:
        return 1

    def download(self, instance: str, path: Path) -> None:
        path.write_bytes(self.films[instance])

    def store(self, path: Path) -> str:
        return path.parent.name


@contextmanager
def working(settings: NodeSettings, shelf: Shelf) -> Iterator[Node]:
    node = Node(settings, target=service.work)
    node.orthanc = shelf  # type: ignore[assignment]
    node.start()
    thread = threading.Thread(target=node.run)
    thread.start()
    try:
        yield node
    finally:
        node.worker.stop()
        thread.join()
        node.stop()


def send(run: Run, shelf: Shelf, look: str, numbers: range, site: str = "") -> list[str]:
    """Studies of a film each, by a subject each; their UIDs."""
    paths = run.files.cohort.read().drop_duplicates("subject")["path"].tolist()
    uids = []
    for number in numbers:
        uid = f"1.2.{len(shelf.films) + 1}"
        pixels = np.ascontiguousarray(LOOKS[look](np.asarray(Image.open(paths[number]).convert("L"))))
        about = {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1", "SOPInstanceUID": f"{uid}.1.1"}
        about |= {"PatientID": f"{look}{number}", "InstitutionName": site or look, "Manufacturer": "Acme"}
        shelf.films[uid] = film_bytes(pixels, **about)
        uids.append(uid)
    return uids


def wait(state: NodeState, count: int) -> None:
    end = time.monotonic() + PATIENCE
    while len(state.observations()) < count:
        assert time.monotonic() < end
        time.sleep(0.1)


def is_confident(settings: NodeSettings, state: NodeState, uid: str) -> bool:
    """Whether the report of a study states probabilities; the state and the report agree."""
    report = pydicom.dcmread(settings.folder / ANSWERS / study_folder(uid) / "sr.dcm").to_json()
    confident = "Probability of" in report
    assert (UNCONFIRMED in report) != confident
    observation = dict(state.observations())[study_label(uid)]
    assert observation.withheld != confident
    assert observation.probabilities  # outcomes can still be compared
    (event,) = [each for each in state.events(study_label(uid)) if each["event"] == "answered"]
    assert event["withheld"] != confident
    return confident


def test_a_source_is_withheld_by_itself_until_it_is_confirmed(tmp_path: Path, baseline_run: Run) -> None:
    shelf, bundle = Shelf(), baseline_run.folder / "bundle"
    settings = node_settings(tmp_path, bundle, select=[], source_confirmed="")
    west, east = list[str](), list[str]()
    for number in range(0, 34, 2):  # both at the same time
        west += send(baseline_run, shelf, "West", range(number, number + 2))
        east += send(baseline_run, shelf, "East", range(number, number + 2))
    with working(settings, shelf) as node:
        wait(node.state, len(shelf.films))
        confident = [is_confident(settings, node.state, uid) for uid in east]
        first = confident.index(False)
        assert first in (FEWEST_CASES - 1, FEWEST_CASES - 1 + FURTHER)
        assert not any(confident[first:])
        assert all(is_confident(settings, node.state, uid) for uid in west)
        (name,) = node.recent.warnings
        assert node.recent.warnings[name]["before"] == [study_label(uid) for uid in east[:first]]
    # it does not begin again, and a new source is answered for itself
    later = send(baseline_run, shelf, "East", range(34, 35))
    later += send(baseline_run, shelf, "West", range(34, 35))
    later += send(baseline_run, shelf, "East", range(35, 36), site="South")
    with working(settings, shelf) as node:
        wait(node.state, len(shelf.films))
        assert [is_confident(settings, node.state, uid) for uid in later] == [False, True, True]
        page = monitor_node(settings)
        assert "Sources unlike the training" in page.page.read_text()
        assert all(f"{term}" in page.page.read_text() for term in ("East", name, node.recent.warnings[name]["at"]))
    (tmp_path / "node.yaml").write_text(settings.model_dump_json(exclude_none=True))
    done = casewise("node", "status", str(tmp_path / "node.yaml"))
    assert done.returncode == 1
    assert name in done.stdout
    assert study_label(east[0]) in done.stdout
    assert "East" not in done.stdout
    # confirmed by the name of the source; every source would be, too
    for values, count in (({name: "A. Meyer, 34 films compared"}, 36), ("A. Meyer, 34 films compared", 37)):
        own = node_settings(tmp_path, bundle, select=[], source_confirmed=values)
        (uid,) = send(baseline_run, shelf, "East", range(count, count + 1))
        with working(own, shelf) as node:
            wait(node.state, len(shelf.films))
            assert is_confident(own, node.state, uid)
            report = pydicom.dcmread(own.folder / ANSWERS / study_folder(uid) / "sr.dcm").to_json()
            assert "A. Meyer" in report
            assert "source confirmed" in [each["event"] for each in node.state.events()]
            assert node.state.check_trail()[0] == []
    (uid,) = send(baseline_run, shelf, "East", range(38, 39))
    with working(settings, shelf) as node:  # the confirmation was taken back
        wait(node.state, len(shelf.films))
        assert not is_confident(settings, node.state, uid)
        assert "confirmation removed" in [each["event"] for each in node.state.events()]


@pytest.mark.parametrize("text", ["A. Meyer", {"abc": "A. Meyer"}])
def test_a_confirmation_has_a_name_and_a_reason(tmp_path: Path, text: Any) -> None:
    with pytest.raises(ValueError, match="NAME, REASON"):
        node_settings(tmp_path, tmp_path / "bundle", source_confirmed=text)
