"""The file of a node: defaults, paths, and what is refused with which key."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from casewise.errors import StudyError
from casewise.plugins.node.credentials import read_token
from casewise.plugins.node.settings import NodeSettings, read_settings
from tests.plugins.node.dicom_objects import certificate

FULL = """
bundle: grades.zip
trust: key.pub
folder: node
receive:
  dicom: {port: 11112, ae_title: CASEWISE, host: 0.0.0.0, allowed: [PACS]}
  folder: incoming
  web: {port: 8104, tokens: {pacs: token-file}}
complete: {quiet: 30, instances: 4}
select:
  - {modality: [DX, CR], body_part: [CHEST], view: [PA, AP], description: "^chest", spacing: [0.05, 0.5], slot: ""}
answer: {formats: [sr, summary-sc, fhir-r4], subject_system: "urn:oid:1.2.3", abstain: false, saliency: true}
send:
  - {dicom: {host: 127.0.0.1, port: 4242, ae_title: ORTHANC}}
  - {stow: "http://127.0.0.1:8042/dicom-web/studies", token: token-file, formats: [sr]}
  - {folder: outgoing, formats: [fhir-r4]}
retry: {first: 10, longest: 3600, give_up: 604800}
monitor: {baseline: 200, outcomes: outcomes.csv, at: "02:00"}
"""


def written(folder: Path, text: str) -> NodeSettings:
    (folder / "node.yaml").write_text(text)
    return read_settings(folder / "node.yaml")


def test_a_full_file(tmp_path: Path) -> None:
    (tmp_path / "token-file").write_text("a-long-token\n")
    (tmp_path / "token-file").chmod(0o600)
    settings = written(tmp_path, FULL)
    assert settings.bundle == tmp_path / "grades.zip"
    assert settings.receive.folder == tmp_path / "incoming"
    assert settings.receive.web is not None
    assert settings.receive.web.web_settings(1).tokens == {"pacs": "a-long-token"}
    assert [settings.formats_for(rule) for rule in settings.send] == [["sr", "summary-sc"], ["sr"], ["fhir-r4"]]
    assert settings.send[0].name == "ORTHANC@127.0.0.1:4242"
    assert len({rule.name for rule in settings.send}) == 3
    settings.check_files()
    assert len(settings.remarks()) == 2
    assert [settings.receive.web.web_settings(n * 2**20).upload_seconds for n in (1, 4096)] == [300, 4096]


def test_defaults(tmp_path: Path) -> None:
    settings = written(tmp_path, "bundle: ../b.zip\nreceive: {folder: in}")
    assert settings.bundle == tmp_path.parent / "b.zip"
    assert settings.folder == tmp_path / "node"
    assert (settings.complete.quiet, settings.complete.instances, settings.retry.first) == (30, None, 10)
    assert settings.answer.formats == ["sr"]
    assert settings.remarks() == []


REFUSED = {
    "bundel": ("bundel: b.zip", "bundel"),
    "no receiver": ("bundle: b.zip\nreceive: {}", "receive"),
    "unknown key": ("receive: {dicom: {ae_tittle: A}}", "ae_title"),
    "AE title": ("receive: {dicom: {ae_title: ABCDEFGHIJKLMNOPQ}}", "receive.dicom.ae_title"),
    "AE title with a backslash": ("receive: {dicom: {allowed: ['A\\B']}}", "receive.dicom.allowed"),
    "port": ("receive: {dicom: {port: 70000}}", "receive.dicom.port"),
    "open DICOM": ("receive: {dicom: {host: 0.0.0.0}}", "allowed"),
    "open web": ("receive: {web: {host: 0.0.0.0}}", "tokens"),
    "TLS without key": ("receive: {dicom: {tls: {certificate: a.pem}}}", "receive.dicom.tls"),
    "TLS of a receiver": ("receive: {dicom: {tls: {ca: a.pem}}}", "receive.dicom"),
    "folder in folder": ("receive: {folder: node/in}", "receive.folder"),
    "folder with the node": ("receive: {folder: a}\nfolder: a/b", "is folder"),
    "folder sent into": ("receive: {folder: a}\nsend: [{folder: a/b}]", "send.0.folder"),
    "folder of a partner": ("receive: {folder: a/b}\nsend: [{folder: a}]", "send.0.folder"),
    "folder with the file": ("receive: {folder: .}\nfolder: ../a\nbundle: ../b.zip", "this file"),
    "folder with the bundle": ("receive: {folder: in}\nbundle: in/b.zip", "bundle"),
    "folder in the bundle": ("receive: {folder: b/in}\nbundle: b", "bundle"),
    "folder with the key": ("receive: {folder: in}\ntrust: in/a.pub", "trust"),
    "folder with a token": ("receive: {folder: in, web: {tokens: {a: in/a}}}", "receive.web.tokens.a"),
    "folder with a certificate": (
        "receive: {folder: in, dicom: {tls: {certificate: in/a, key: k}}}",
        "receive.dicom.tls.certificate",
    ),
    "folder with the token of a partner": (
        "receive: {folder: in}\nsend: [{stow: 'https://a', token: in/x/a}]",
        "send.0.token",
    ),
    "folder with the outcomes": ("receive: {folder: in}\nmonitor: {outcomes: in/a.csv}", "monitor.outcomes"),
    "no partner": ("send: [{formats: [sr]}]", "send.0"),
    "two partners": ("send: [{folder: a, stow: 'http://a'}]", "send.0"),
    "FHIR to a PACS": ("answer: {formats: [fhir]}\nsend: [{stow: 'http://a'}]", "send.0"),
    "FHIR stated for a PACS": ("answer: {formats: [fhir]}\nsend: [{stow: 'http://a', formats: [fhir]}]", "send.0"),
    "unknown format": ("send: [{folder: a, formats: [srr]}]", "srr"),
    "same partner": ("send: [{folder: a}, {folder: a}]", "send"),
    "address": ("send: [{stow: 'ftp://a'}]", "send.0"),
    "password in address": ("send: [{stow: 'https://a:b@c/d'}]", "send.0"),
    "token on an open line": ("send: [{stow: 'http://pacs/d', token: t}]", "send.0"),
    "token without stow": ("send: [{folder: a, token: t}]", "send.0"),
    "TLS of http": ("send: [{stow: 'http://a/d', tls: {}}]", "send.0"),
    "expression": ("select: [{description: '('}]", "select.0.description"),
    "spacing": ("select: [{spacing: [1, 0.1]}]", "select.0.spacing"),
    "slots": ("select: [{slot: a}, {slot: a}]", "select"),
    "seconds": ("complete: {quiet: 0}", "complete.quiet"),
    "truth value": ("retry: {first: true}", "retry.first"),
    "text": ("retry: {first: 10min}", "retry.first"),
    "time": ("monitor: {at: '25:00'}", "monitor.at"),
    "not a mapping": ("- a", "node.yaml"),
    "not YAML": ("a: [", "line"),
}


@pytest.mark.parametrize(("text", "key"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_names_its_key(tmp_path: Path, text: str, key: str) -> None:
    try:
        stated = yaml.safe_load(text)
    except yaml.YAMLError:
        stated = None
    if isinstance(stated, dict):
        text = yaml.safe_dump({"bundle": "b.zip", "receive": {"folder": "in"}} | stated)
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


def test_tokens(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for content in (b"", b"\n", b"two words", b"a\nb", b"\xff", b"a\0b"):
        path.write_bytes(content)
        with pytest.raises(StudyError, match="token"):
            read_token(path, "token")
    path.write_text("short")
    settings = written(tmp_path, "bundle: b.zip\nreceive: {web: {tokens: {a: token}}}")
    with pytest.raises(StudyError, match=r"receive\.web\.tokens"):
        settings.check_files()


def test_certificates(tmp_path: Path) -> None:
    certificate(tmp_path, "own")
    certificate(tmp_path, "other")
    tls = "{certificate: own.pem, key: %s.key, ca: %s.pem}"
    text = "bundle: b.zip\nreceive: {dicom: {tls: %s}}\nsend: [{stow: 'https://a/b', tls: %s}]"
    written(tmp_path, text % (tls % ("own", "own"), tls % ("own", "other"))).check_files()
    for first, second, key in (
        (tls % ("other", "own"), "{}", r"receive\.dicom: tls\.certificate"),
        (tls % ("own", "none"), "{}", r"receive\.dicom: tls\.ca"),
        (tls % ("own", "own"), tls % ("none", "own"), r"send\.0: tls\.certificate"),
    ):
        with pytest.raises(StudyError, match=key):
            written(tmp_path, text % (first, second)).check_files()


def test_a_folder_of_incoming_files_by_another_name(tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tmp_path)
    with pytest.raises(StudyError, match=r"receive\.folder"):
        written(tmp_path, "bundle: b.zip\nfolder: ../a\nreceive: {folder: alias}")


@pytest.mark.parametrize("key", ["folder", "receive.folder"])
def test_folders_that_cannot_be_used(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "file/in" if key == "folder" else "file"
    inner = f"folder: {name}\nreceive: {{folder: in}}" if key == "folder" else f"receive: {{folder: {name}}}"
    settings = written(tmp_path, f"bundle: b.zip\n{inner}")
    settings.check_files()
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=f"^{re.escape(key)}: .*file"):
        settings.check_files()
    (tmp_path / "file").unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StudyError, match=r"folder: "):
        settings.check_files()
    assert not (tmp_path / "node").exists()


def test_a_secret_in_an_address_is_no_name(tmp_path: Path) -> None:
    settings = written(
        tmp_path, "bundle: b.zip\nreceive: {folder: in}\nsend: [{stow: 'http://pacs/studies?apikey=SECRET#x'}]"
    )
    assert settings.send[0].name == "http://pacs/studies"
    assert "SECRET" not in " ".join(settings.remarks())


@pytest.mark.parametrize(
    "changes",
    [
        {"retry": {"first": 7200, "longest": 60}},
        {"select": [{"modality": ["Xray"]}]},
        {"monitor": {"at": "2am"}},
    ],
)
def test_settings_that_cannot_be_meant(tmp_path: Path, changes: dict[str, object]) -> None:
    values = {"bundle": "a.zip", "receive": {"folder": "incoming"}, **changes}
    with pytest.raises(ValueError, match=next(iter(changes))):
        NodeSettings.model_validate(values, context={"folder": tmp_path})
