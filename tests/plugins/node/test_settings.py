"""The file of a node: defaults, paths, and what is refused with which key."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import yaml

from casewise.errors import StudyError
from casewise.plugins.node.settings import NodeSettings, read_credentials, read_settings

FULL = """
bundle: grades.zip
trust: key.pub
folder: node
orthanc: {url: "http://orthanc:8042/base", credentials: secret, timeout: 30, poll: 1, since: 2026-03-01, largest: 100}
select:
  - {modality: [DX, CR], body_part: [CHEST], view: [PA, AP], description: "^chest", spacing: [0.05, 0.5], slot: ""}
answer: {formats: [sr, summary-sc, fhir-r4], subject_system: "urn:oid:1.2.3", abstain: false, saliency: true}
send:
  - {modality: PACS}
  - {dicomweb: ARCHIVE, formats: [sr]}
  - {peer: OTHER}
  - {folder: outgoing, formats: [fhir-r4]}
retry: {first: 10, longest: 3600, give_up: 604800}
monitor: {baseline: 200, outcomes: outcomes.csv, at: "02:00"}
"""


def written(folder: Path, text: str) -> NodeSettings:
    (folder / "node.yaml").write_text(text)
    return read_settings(folder / "node.yaml")


def test_a_full_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("casewise:word\n")
    (tmp_path / "secret").chmod(0o644)
    settings = written(tmp_path, FULL)
    assert (settings.bundle, settings.orthanc.credentials) == (tmp_path / "grades.zip", tmp_path / "secret")
    assert settings.orthanc.since == date(2026, 3, 1)
    assert settings.routes() == {
        "Orthanc": ["sr", "summary-sc"],
        "modality PACS": ["sr", "summary-sc"],
        "dicomweb ARCHIVE": ["sr"],
        "peer OTHER": ["sr", "summary-sc"],
        f"folder {tmp_path / 'outgoing'}": ["fhir-r4"],
    }
    assert len(settings.remarks()) == 3


REFUSED = {
    "bundel": ("bundel: b.zip", "bundel"),
    "unknown key": ("orthanc: {adress: A}", "adress"),
    "no partner": ("send: [{formats: [sr]}]", "send.0"),
    "two partners": ("send: [{folder: a, modality: A}]", "send.0"),
    "FHIR to a PACS": ("answer: {formats: [fhir]}\nsend: [{modality: A}]", "send.0"),
    "FHIR stated for a PACS": ("answer: {formats: [fhir]}\nsend: [{modality: A, formats: [fhir]}]", "send.0"),
    "unknown format": ("send: [{folder: a, formats: [srr]}]", "srr"),
    "name of a partner": ("send: [{modality: ../changes}]", "send.0.modality"),
    "same partner": ("send: [{folder: a}, {folder: a}]", "send"),
    "address": ("orthanc: {url: 'ftp://a'}", "orthanc.url"),
    "address without host": ("orthanc: {url: localhost}", "orthanc.url"),
    "password in address": ("orthanc: {url: 'https://a:b@c/d'}", "orthanc.url"),
    "question in address": ("orthanc: {url: 'https://c/d?a=b'}", "orthanc.url"),
    "port": ("orthanc: {url: 'http://c:99999'}", "orthanc.url"),
    "expression": ("select: [{description: '('}]", "select.0.description"),
    "modality": ("select: [{modality: [Xray]}]", "select.0.modality"),
    "spacing": ("select: [{spacing: [1, 0.1]}]", "select.0.spacing"),
    "slots": ("select: [{slot: a}, {slot: a}]", "select"),
    "truth value": ("retry: {first: true}", "retry.first"),
    "text": ("retry: {first: 10min}", "retry.first"),
    "order": ("retry: {first: 7200, longest: 60}", "retry"),
    "time": ("monitor: {at: '25:00'}", "monitor.at"),
    "not a mapping": ("- a", "node.yaml"),
    "not YAML": ("a: [", "line"),
    # keys of casewise 1.0, each with its successor
    "receive": ("receive: {dicom: {port: 11112}}", "orthanc: {url"),
    "complete": ("complete: {quiet: 30}", "StableAge"),
    "send.dicom": ("send: [{dicom: {host: a, ae_title: B}}]", "modality: NAME"),
    "send.stow": ("send: [{folder: x}, {stow: 'https://a', token: t}]", "dicomweb: NAME"),
}


@pytest.mark.parametrize(("text", "key"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_names_its_key(tmp_path: Path, text: str, key: str) -> None:
    try:
        stated = yaml.safe_load(text)
    except yaml.YAMLError:
        stated = None
    if isinstance(stated, dict):
        text = yaml.safe_dump({"bundle": "b.zip"} | stated)
    with pytest.raises(StudyError) as raised:
        written(tmp_path, text)
    assert str(tmp_path / "node.yaml") in str(raised.value)
    assert key in str(raised.value)


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("")
    with pytest.raises(StudyError, match=r"node\.yaml"):
        read_settings(tmp_path / "nod.yaml")
    with pytest.raises(StudyError):
        read_settings(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"bundle: \xe4")
    with pytest.raises(StudyError, match="UTF-8"):
        read_settings(tmp_path / "latin.yaml")


def test_credentials(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    for content in (None, b"", b"\n", b"user", b"user:", b":word", b"a:b\nc:d", b"a:\xff", b"a:b\0"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(StudyError, match=r"orthanc\.credentials"):
            read_credentials(path)
    path.write_text("user:pass:word é\n")
    assert read_credentials(path) == "user:pass:word é"


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for text, key in (
        ("folder: file/in", r"^folder: .*file"),
        ("send: [{folder: file}]", r"^send\.0\.folder: .*file"),
        ("", r"^bundle"),
    ):
        with pytest.raises(Exception, match=key):
            written(tmp_path, f"bundle: b.zip\n{text}").check_files()
    assert not (tmp_path / "node").exists()
