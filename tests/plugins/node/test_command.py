"""The commands of a node."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from casewise.inference.model import load_bundle
from casewise.plugins.node.monitoring.observation import Observation, identifier_hash, salt_of
from casewise.plugins.node.orthanc import OrthancStudy
from casewise.plugins.node.records import NodeStudy, StudyAnswer, StudyState, study_label
from casewise.plugins.node.settings import Retry
from casewise.plugins.node.state import NodeState
from casewise.run import Run
from tests.plugins.node.dicom_objects import free_port
from tests.plugins.node.films import RULE
from tests.plugins.node.orthanc import USER, Orthanc
from tests.test_cli import casewise

OBSERVATION = Observation(
    1.0, predictions={"label": "covid"}, probabilities={"label": {"covid": 0.75, "pneumonia": 0.25}}
)
UIDS = {"1.2.1": StudyState.ANSWERED, "1.2.2": StudyState.QUARANTINED, "1.2.3": StudyState.FAILED}


def node_file(folder: Path, bundle: Path, /, **changes: Any) -> str:
    values: dict[str, Any] = {"bundle": str(bundle), "select": [RULE]}
    path = folder / "node.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return str(path)


def arrive(state: NodeState, uid: str) -> NodeStudy:
    """A study that waits for its prediction."""
    state.arrived(OrthancStudy(f"id-{uid}", uid, "20260301T101010", True, {"a": "b"}))
    return next(study for study in state.studies() if study.uid == uid)


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The file of a node with three studies."""
    state = NodeState(tmp_path / "node", Retry(first=1000))
    for uid, end in UIDS.items():
        study = arrive(state, uid)
        if end == StudyState.ANSWERED:
            state.answered(study, StudyAnswer((), OBSERVATION), "abc", {})
        elif end == StudyState.QUARANTINED:
            state.quarantine(study, "two patients")
        else:
            state.failed(study, "no memory")
    state.close()
    return node_file(tmp_path, tmp_path / "bundle")


def test_studies_are_put_back_and_discarded(file: str) -> None:
    done = casewise("node", "retry", file, "1.2.2")
    assert (done.returncode, done.stdout.split()[-1]) == (0, "waiting")
    assert casewise("node", "retry", file, "9.9").returncode == 2
    assert casewise("node", "retry", file).returncode == 2
    assert casewise("node", "status", file).returncode == 0
    done = casewise("node", "retry", file, "--all")
    assert (done.returncode, done.stdout.split()[0]) == (0, study_label("1.2.3"))
    assert casewise("node", "retry", file, "--all").stdout == ""
    assert casewise("node", "discard", file).returncode == 2
    assert casewise("node", "discard", file, "1.2.1").returncode == 2
    assert casewise("node", "discard", file, "1.2.2", study_label("1.2.3")).returncode == 0
    assert "2 discarded" in casewise("node", "status", file).stdout


@pytest.mark.plugins("hospital")
def test_check(tmp_path: Path, chest_run: Run, orthanc: Orthanc) -> None:
    pytest.importorskip("highdicom", reason="the extra `hospital` is not installed")
    bundle = chest_run.folder / "bundle"
    (tmp_path / "credentials").write_text(USER)
    (tmp_path / "credentials").chmod(0o600)
    own = {"url": orthanc.url, "credentials": "credentials"}
    file = node_file(tmp_path, bundle, orthanc=own, send=[{"folder": "outgoing"}])
    done = casewise("node", "check", file, "--partners")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "node").exists()
    for changes in (
        {"send": [{"modality": "NOBODY"}], "orthanc": own},
        {"send": [{"dicomweb": "NOBODY"}], "orthanc": own},
        {"orthanc": {"url": f"http://127.0.0.1:{free_port()}"}},
        {"orthanc": {"url": orthanc.url}},
    ):
        file = node_file(tmp_path, bundle, **changes)
        assert casewise("node", "check", file).returncode == 0
        done = casewise("node", "check", file, "--partners")
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        assert done.stderr
    for changes, key in (
        ({"select": [{"slot": "front"}]}, "select"),
        ({"answer": {"formats": ["xml"]}}, "formats"),
        ({"trust": "no.pub"}, "no.pub"),
        ({"bundle": "nowhere"}, "nowhere"),
        ({"receive": {"folder": "incoming"}}, "receive: Orthanc"),
    ):
        refused = casewise("node", "check", node_file(tmp_path, bundle, **changes))
        assert refused.returncode == 2
        assert key in refused.stderr
        assert "Traceback" not in refused.stderr


def test_monitor(file: str, tmp_path: Path, chest_run: Run) -> None:
    pytest.importorskip("pydicom", reason="the extra `node` is not installed")
    bundle, page = chest_run.folder / "bundle", tmp_path / "page.html"
    state = NodeState(tmp_path / "node")
    own = replace(OBSERVATION, bundle=load_bundle(bundle).checksum)
    answer = StudyAnswer((), own, identifier_hash(salt_of(tmp_path / "node"), "A4"))
    state.answered(arrive(state, "1.2.4"), answer, "abc", {})
    state.close()

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
    figures = chest_run.results.figures.of("oof", model.headline, "label")
    accuracy = figures["accuracy"].value
    assert accuracy is not None
    assert errors_of(model) == {"label": pytest.approx(1 - accuracy, abs=1e-5)}
