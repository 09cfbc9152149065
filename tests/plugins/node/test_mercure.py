"""The node as a module of mercure: a folder of images in, a folder of answers out."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from casewise.run import Run
from tests.film_files import PEOPLE
from tests.plugins.node.films import RULE, studies
from tests.test_cli import casewise

pydicom = pytest.importorskip("pydicom", reason="the extra `node` is not installed")
pytest.importorskip("highdicom", reason="the extra `hospital` is not installed")
pytestmark = pytest.mark.plugins("hospital")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
        monkeypatch.setitem(os.environ, f"MERCURE_{name.upper()}_DIR", str(tmp_path / name))
    return tmp_path / "in", tmp_path / "out"


def write_task(folder: Path, **settings: Any) -> None:
    task = {"id": "4711", "info": {"uid": "1"}, "process": {"module_name": "casewise", "settings": settings}}
    (folder / "task.json").write_text(json.dumps(task))


def test_a_task(folders: tuple[Path, Path], chest_run: Run, chests: Path) -> None:
    incoming, outgoing = folders
    bundle = str(chest_run.folder / "bundle")
    write_task(incoming, bundle=bundle, select=[RULE], answer={"formats": ["sr", "fhir-r4"], "threads": 1})
    for uid, films in studies(chests, 3, [2]):
        for number, content in enumerate(films):
            (incoming / f"{uid}#{number}.dcm").write_bytes(content)
            (incoming / f"{uid}#{number}.tags").write_text("{}")
    before = sorted(incoming.iterdir())
    done = casewise("node", "mercure")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((outgoing / "result.json").read_text())
    assert [each["state"] for each in result["studies"]] == ["answered", "refused", "answered"]
    assert set(result["studies"][0]["predictions"]) == {"label"}
    reports = [pydicom.dcmread(path) for path in outgoing.glob("*.dcm")]
    assert {(r.StudyInstanceUID, r.PatientID, r.Modality) for r in reports} == {
        (f"1.2.826.{number}", f"P{number}", "SR") for number in (1, 2, 3)
    }
    assert len(list(outgoing.iterdir())) == 3 * 2 + 1
    assert sorted(incoming.iterdir()) == before
    assert not any(person in str(result) for person in ("P1", *PEOPLE))
    uids = {str(report.SOPInstanceUID) for report in reports}
    write_task(incoming, select=[RULE])
    assert casewise("node", "mercure", "--bundle", bundle).returncode == 0
    assert {str(pydicom.dcmread(path).SOPInstanceUID) for path in outgoing.glob("*.dcm")} == uids
    (incoming / "text.dcm").write_text("no image")
    done = casewise("node", "mercure", "--bundle", bundle)
    result = json.loads((outgoing / "result.json").read_text())
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert sorted(each["state"] for each in result["studies"]) == ["answered", "answered", "quarantined", "refused"]


def test_what_is_refused(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    incoming, _ = folders
    (tmp_path / "bundle").mkdir()
    for text, named in (
        ("[", "task.json"),
        ("[]", "process.settings"),
        ('{"process": {"settings": 5}}', "process.settings"),
        ('{"process": {}}', "bundle"),
        ('{"process": {"settings": {"bundle": "/nowhere"}}}', "/nowhere"),
        ('{"process": {"settings": {"bundle": "/nowhere", "sellect": []}}}', "sellect"),
    ):
        (incoming / "task.json").write_text(text)
        done = casewise("node", "mercure")
        assert (done.returncode, "Traceback" in done.stderr, named in done.stderr) == (2, False, True), text
    monkeypatch.delitem(os.environ, "MERCURE_OUT_DIR")
    done = casewise("node", "mercure")
    assert (done.returncode, "MERCURE_OUT_DIR" in done.stderr) == (2, True)
