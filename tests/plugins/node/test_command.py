"""The commands of a node."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from casewise.inference.model import load_bundle
from casewise.plugins.node.audit_trail import AuditTrail
from casewise.plugins.node.monitoring.observation import Observation, identifier_hash, salt_of
from casewise.plugins.node.queue.study_queue import StudyQueue, StudyState, study_label
from casewise.plugins.node.settings import Retry
from casewise.run import Run
from tests.plugins.node.dicom_objects import free_port
from tests.plugins.node.films import RULE
from tests.test_cli import casewise

OBSERVATION = Observation(
    1.0, predictions={"label": "covid"}, probabilities={"label": {"covid": 0.75, "pneumonia": 0.25}}
)
UIDS = {"1.2.1": StudyState.SENT, "1.2.2": StudyState.QUARANTINED, "1.2.3": StudyState.FAILED}


def node_file(folder: Path, bundle: Path, /, **changes: Any) -> str:
    values: dict[str, Any] = {"bundle": str(bundle), "receive": {"folder": "incoming"}, "select": [RULE]}
    path = folder / "node.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The file of a node with three studies."""
    queue = StudyQueue(tmp_path / "node", retry=Retry(first=1000))
    for uid in UIDS:
        queue.add_instance(uid, "s", f"{uid}.1", queue.folder / "a.dcm", "ab", "test")
    queue.complete_ready(0, 1, time.time())
    while study := queue.claim(time.time()):
        if UIDS[study.uid] == StudyState.SENT:
            queue.predicted(study, [], OBSERVATION)
        elif UIDS[study.uid] == StudyState.QUARANTINED:
            queue.quarantine(study, "two patients")
        else:
            queue.failed(study, "no memory")
    queue.close()
    return node_file(tmp_path, tmp_path / "bundle")


def test_status_names_what_needs_a_person(file: str) -> None:
    done = casewise("node", "status", file)
    assert done.returncode == 1
    assert "1 sent" in done.stdout
    for uid, state in UIDS.items():
        assert (study_label(uid) in done.stdout) is (state != StudyState.SENT)
        assert uid not in done.stdout.split()
    assert {"two", "no", "memory"} <= set(done.stdout.split())
    assert {"1.2.2", "1.2.3"} <= set(casewise("node", "status", file, "--uids").stdout.split())


def test_a_study_is_put_back(file: str) -> None:
    for name in ("1.2.2", study_label("1.2.3")):
        done = casewise("node", "retry", file, name)
        assert (done.returncode, done.stdout.split()[-1]) == (0, "complete")
    assert casewise("node", "retry", file, "9.9").returncode == 2
    assert casewise("node", "retry", file).returncode == 2
    assert casewise("node", "status", file).returncode == 0


def test_all_studies_are_put_back(file: str) -> None:
    done = casewise("node", "retry", file, "--all")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert casewise("node", "retry", file, "--all").stdout == ""


def test_studies_are_discarded(file: str) -> None:
    assert casewise("node", "discard", file).returncode == 2
    assert casewise("node", "discard", file, "1.2.1").returncode == 2
    assert casewise("node", "discard", file, "1.2.2", study_label("1.2.3")).returncode == 0
    done = casewise("node", "status", file)
    assert (done.returncode, "2 discarded" in done.stdout) == (0, True)


def test_status_compares_the_audit_trail_with_the_queue(file: str, tmp_path: Path) -> None:
    casewise("node", "retry", file, "1.2.2")
    queue = StudyQueue(tmp_path / "node")
    trail = AuditTrail(queue)
    trail.write()
    queue.close()
    assert casewise("node", "status", file).returncode == 0
    trail.path.write_bytes(trail.path.read_bytes().replace(b"memory", b"money"))
    assert casewise("node", "status", file).returncode == 1


def test_a_node_that_never_ran(tmp_path: Path) -> None:
    file = node_file(tmp_path, tmp_path / "bundle")
    for words in (["node", "status"], ["node", "retry"], ["monitor"]):
        done = casewise(*words, file, *(["1.2"] if words[-1] == "retry" else []))
        assert done.returncode == 2
        assert "node start" in done.stderr
    assert not (tmp_path / "node").exists()


@pytest.mark.plugins("hospital")
def test_check(tmp_path: Path, chest_run: Run) -> None:
    pytest.importorskip("highdicom", reason="the extra `node` is not installed")
    pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")
    bundle = chest_run.folder / "bundle"
    partner = {"dicom": {"host": "127.0.0.1", "port": free_port(), "ae_title": "NOBODY"}}
    file = node_file(tmp_path, bundle, send=[{"folder": "outgoing"}, partner])
    done = casewise("node", "check", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert "NOBODY" in done.stdout
    assert not (tmp_path / "node").exists()
    assert casewise("node", "check", file, "--partners").returncode == 1
    for changes, key in (
        ({"select": [{"slot": "front"}]}, "select"),
        ({"answer": {"formats": ["xml"]}}, "formats"),
        ({"trust": "no.pub"}, "no.pub"),
        ({"bundle": "nowhere"}, "nowhere"),
        ({"recieve": {}}, "receive"),
    ):
        refused = casewise("node", "check", node_file(tmp_path, bundle, **changes))
        assert refused.returncode == 2
        assert key in refused.stderr
        assert "Traceback" not in refused.stderr


def test_monitor(file: str, tmp_path: Path, chest_run: Run) -> None:
    pytest.importorskip("pydicom", reason="the extra `node` is not installed")
    bundle, page = chest_run.folder / "bundle", tmp_path / "page.html"
    queue = StudyQueue(tmp_path / "node")
    queue.add_instance("1.2.4", "s", "1.2.4.1", queue.folder / "a.dcm", "ab", "test")
    queue.complete_ready(0, 1, time.time())
    while (study := queue.claim(time.time())) and study.uid != "1.2.4":
        queue.release(study)
    assert study is not None
    own = replace(OBSERVATION, bundle=load_bundle(bundle).checksum)
    queue.predicted(study, [], own, accession=identifier_hash(salt_of(tmp_path / "node"), "A4"))
    queue.close()

    def monitored(*words: str, **monitor: str) -> str:
        done = casewise("monitor", node_file(tmp_path, bundle, monitor=monitor), *words)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    assert "1 study that another bundle predicted" in " ".join(monitored().split()).replace(
        "before 1 January 1970 ", ""
    )
    assert (tmp_path / "node" / "monitoring.html").exists()
    assert "Outcomes" in monitored(outcomes="later.csv")
    table = tmp_path / "outcomes.csv"
    table.write_text("study,target,value\n1.2.4,label,pneumonia\n")
    words = ["--page", str(page), "--quiet"]
    assert len(monitored(*words, outcomes=table.name).splitlines()) == 1
    assert "Wrong label" in page.read_text()
    assert "1 March 2026" in monitored(since="2026-03-01")
    for head, cell, used in (("accession", "A4", True), ("accession", "A1", False), ("study", "1.2.1", False)):
        table.write_text(f"{head},target,value\n{cell},label,pneumonia\n")
        monitored(*words, outcomes=table.name)
        assert ("Wrong label" in page.read_text(), "Not used" in page.read_text()) == (used, not used)


def test_errors_of_a_bundle_are_those_out_of_fold(chest_run: Run) -> None:
    from casewise.plugins.node.monitoring.of_node import errors_of

    model = load_bundle(chest_run.folder / "bundle")
    figures = chest_run.results.figures("oof", model.headline, "label")
    accuracy = figures["accuracy"].value
    assert accuracy is not None
    assert errors_of(model) == {"label": pytest.approx(1 - accuracy, abs=1e-5)}


def test_status_names_a_format_that_could_not_be_written(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path / "node")
    queue.add_instance("1.2.1", "s", "1", queue.folder / "a.dcm", "ab", "test")
    queue.complete_ready(0, 1, time.time())
    study = queue.claim(time.time())
    assert study is not None
    queue.predicted(study, [], OBSERVATION, unwritten={"summary-sc": "A fault."})
    queue.close()
    done = casewise("node", "status", node_file(tmp_path, tmp_path / "bundle"))
    assert done.returncode == 1
    assert {study.label, "summary-sc:", "sent"} <= set(done.stdout.split())
