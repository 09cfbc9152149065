"""A bundle as a folder and as a zip file: what was changed by one byte, or made by a stranger, is refused."""

import hashlib
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from casewise.errors import RunError
from casewise.files import TEMPORARY, json_text
from casewise.run_folder import BundleFolder
from casewise.run_folder.bundle_folder import MARK, checked_manifest, extract, is_archive, is_safe, write_archive

TEXTS = {"bundle.json": '{"a": 1}', "MODEL_CARD.md": "# Card\n", "members/net/fold1/model.json": "{}"}
WEIGHTS = "members/net/fold1/model.safetensors"


@pytest.fixture
def bundle(tmp_path: Path) -> BundleFolder:
    folder = BundleFolder(tmp_path / "bundle")
    for name, text in TEXTS.items():
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text(text)
    (folder.path / WEIGHTS).write_bytes(bytes(range(256)))
    folder.write_manifest("1.0", "inputs")
    return folder


def test_a_zip_file_holds_the_bundle_and_is_the_same_twice(bundle: BundleFolder, tmp_path: Path) -> None:
    left = tmp_path / f"{TEMPORARY}{'0' * 16}-a.zip"  # of a killed process
    left.touch()
    os.utime(left, (1, 1))
    path = write_archive(bundle, tmp_path / "a.zip")
    assert not left.exists() or os.name == "nt"
    assert is_archive(path)
    unpacked = extract(path, tmp_path / "away")
    names = {*TEXTS, WEIGHTS, "manifest.json"}
    assert {p.relative_to(unpacked.path).as_posix() for p in unpacked.path.rglob("*") if p.is_file()} == names
    for name in names:
        assert (unpacked.path / name).read_bytes() == (bundle.path / name).read_bytes()
    assert write_archive(unpacked, tmp_path / "b.zip").read_bytes() == path.read_bytes()


def test_every_changed_byte_of_a_zip_file_is_noticed(bundle: BundleFolder, tmp_path: Path) -> None:
    data, changed = write_archive(bundle, tmp_path / "a.zip").read_bytes(), tmp_path / "changed.zip"
    for position in range(len(data)):
        changed.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(RunError):
            extract(changed, tmp_path / "away")
    for end in (0, 3, 100, len(data) - 1):
        changed.write_bytes(data[:end])
        with pytest.raises(RunError):
            extract(changed, tmp_path / "away")
    assert not (tmp_path / "away").exists()


def test_every_changed_byte_of_a_folder_is_noticed(bundle: BundleFolder) -> None:
    bundle.verify()
    for name in (*TEXTS, WEIGHTS, "manifest.json"):
        path = bundle.path / name
        data = path.read_bytes()
        for position in range(0, len(data), max(1, len(data) // 50)):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            with pytest.raises(RunError):
                bundle.verify()
        path.write_bytes(data + b"\n")
        with pytest.raises(RunError):
            bundle.verify()
        path.unlink()
        with pytest.raises(RunError, match="manifest" if name == "manifest.json" else name):
            bundle.verify()
        path.write_bytes(data)
    bundle.verify()


def test_a_link_in_place_of_a_file_is_refused(bundle: BundleFolder, tmp_path: Path) -> None:
    path = bundle.path / "bundle.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(RunError, match=r"bundle\.json"):
        bundle.verify()


@pytest.mark.parametrize("data", [b"", b"null", b"[" * 5000])
def test_a_manifest_that_is_none_is_no_traceback(data: bytes) -> None:
    with pytest.raises(RunError):
        checked_manifest(data, "it")


def sealed(path: Path, fill: Callable[[zipfile.ZipFile], None]) -> Path:
    """A zip file with the mark of a bundle, whatever it contains."""
    with zipfile.ZipFile(path, "w") as archive:
        fill(archive)
        archive.comment = MARK + b"0" * 64
    data = path.read_bytes()[:-64]
    path.write_bytes(data + hashlib.sha256(data).hexdigest().encode())
    return path


def manifest_of(files: dict[str, bytes]) -> str:
    entries = {n: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for n, data in files.items()}
    content = {"format": 1, "casewise": "1.0", "made_from": "", "files": entries}
    return json_text({**content, "sha256": hashlib.sha256(json_text(content).encode()).hexdigest()})


def archive_of(path: Path, files: dict[str, bytes], *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    def fill(archive: zipfile.ZipFile) -> None:
        archive.writestr("manifest.json", manifest_of(files))
        for name, data in entries:
            archive.writestr(name, data)

    return sealed(path, fill)


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "/etc/evil.json", "a/../../evil.json", "C:/evil.json", "a\\..\\evil.json", "evil.py", "evil.pkl"],
)
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    assert not is_safe(name)
    path = archive_of(tmp_path / "a.zip", {name: b"x"}, (name, b"x"))
    with pytest.raises(RunError):
        extract(path, tmp_path / "inside" / "away")
    assert not list(tmp_path.rglob("evil*"))
    with pytest.raises(RunError, match="no bundle has"):
        checked_manifest(manifest_of({name: b"x"}).encode(), "it")


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def compressed(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def test_links_bombs_and_what_the_manifest_does_not_list_are_refused(tmp_path: Path) -> None:
    huge = bytes(8 * 2**20)
    cases = {
        "link": archive_of(tmp_path / "1.zip", {"a.json": b"/etc/passwd"}, (link("a.json"), b"/etc/passwd")),
        "unpacked": archive_of(tmp_path / "2.zip", {"a.json": huge}, (compressed("a.json"), huge)),
        "does not list": archive_of(tmp_path / "3.zip", {}, ("a.json", b"x")),
        "missing": archive_of(tmp_path / "4.zip", {"a.json": b"x"}),
        "another size": archive_of(tmp_path / "5.zip", {"a.json": b"x"}, ("a.json", b"xy")),
        "changed": archive_of(tmp_path / "6.zip", {"a.json": b"x"}, ("a.json", b"y")),
        "has no manifest": sealed(tmp_path / "7.zip", lambda archive: archive.writestr("a.json", b"x")),
    }
    for message, path in cases.items():
        with pytest.raises(RunError, match=message):
            extract(path, tmp_path / "away" / message.replace(" ", "-"))
    with zipfile.ZipFile(tmp_path / "8.zip", "w") as plain:
        plain.writestr("manifest.json", manifest_of({}))
    with pytest.raises(RunError, match="is not a bundle"):
        extract(tmp_path / "8.zip", tmp_path / "away" / "plain")


def half_replaced(bundle: BundleFolder) -> None:
    with bundle.replacing() as other:
        (other.path / "bundle.json").write_text("half")
        raise KeyError


def test_a_bundle_is_replaced_whole_or_not_at_all(bundle: BundleFolder) -> None:
    before = bundle.manifest_path.read_bytes()
    with pytest.raises(KeyError):
        half_replaced(bundle)
    assert bundle.manifest_path.read_bytes() == before
    with bundle.replacing() as other:
        (other.path / "bundle.json").write_text("{}")
        other.write_manifest("1.0", "other inputs")
    bundle.verify()
    assert bundle.is_made_from("other inputs")
    assert not bundle.is_made_from("inputs")
    assert [path.name for path in bundle.path.parent.iterdir()] == ["bundle"]
