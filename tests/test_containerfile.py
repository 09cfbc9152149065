"""The Containerfile, without a builder: its lines, and its node in an environment of the packages that it installs."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from casewise.run import Run
from tests.plugins.node.dicom_objects import free_port
from tests.plugins.node.films import RULE, chest_film

pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")
pytest.importorskip("highdicom", reason="the extra `hospital` is not installed")
pytestmark = pytest.mark.plugins("hospital", "node")
ROOT = Path(__file__).resolve().parents[1]
# What an environment with PyTorch for CPUs has not.
GPU = re.compile(r"nvidia|cuda|triton")
LARGEST_GB = 3.0


def lines_of(instruction: str) -> list[str]:
    text = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^{instruction} (.+)$", text, re.MULTILINE)


def copied() -> list[str]:
    """The files and folders of the project that it copies."""
    return [name for line in lines_of("COPY") if "--from" not in line for name in line.split()[:-1]]


def extras() -> list[str]:
    match = re.search(r'"\.\[([\w,]+)\]"', lines_of("RUN")[1])
    assert match is not None
    return match[1].split(",")


def environment_variables() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in lines_of("ENV") for pair in shlex.split(line))


def start_command() -> list[str]:
    return [*json.loads(lines_of("ENTRYPOINT")[-1]), *json.loads(lines_of("CMD")[-1])]


def packages() -> dict[str, metadata.Distribution]:
    """The packages that it installs besides casewise, of those that are installed here."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = [*project["dependencies"], *(each for name in extras() for each in project["optional-dependencies"][name])]
    waiting, examined = [(each, extra) for each in map(Requirement, stated) for extra in {"", *each.extras}], set()
    result: dict[str, metadata.Distribution] = {}
    for requirement, extra in waiting:
        name = canonicalize_name(requirement.name)
        if (name, extra) not in examined:
            examined.add((name, extra))
            result[name] = metadata.distribution(requirement.name)
            needed = map(Requirement, result[name].requires or ())
            needed = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})]
            waiting += [(each, inner) for each in needed for inner in {"", *each.extras}]
    return result


def gigabytes(distributions: Iterator[metadata.Distribution]) -> float:
    """The size of their files, without those for GPUs."""
    paths = [
        Path(str(file.locate())) for each in distributions for file in each.files or () if not GPU.search(str(file))
    ]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e9


def test_it_copies_what_exists_and_runs_without_rights() -> None:
    ignored = (ROOT / ".containerignore").read_text(encoding="utf-8").split()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == {
        Path(name).name for name in copied()
    }
    assert all((ROOT / name).exists() for name in copied())
    assert int(lines_of("USER")[-1].partition(":")[0]) > 0
    assert start_command() == ["casewise", "node", "start", "/node/node.yaml"]
    assert len(lines_of("FROM")) == 2


def test_its_ports_are_those_of_a_node() -> None:
    from casewise.plugins.node.settings import DicomReceive, WebReceive

    assert set(map(int, lines_of("EXPOSE")[-1].split())) == {DicomReceive().port, WebReceive().port}
    assert f":{WebReceive().port}/health" in environment_variables()["HEALTH"]


def test_its_packages_are_small_enough() -> None:
    size = gigabytes(iter(packages().values()))
    print(f"packages without those for GPUs: {size:.2f} GB")
    assert 0.5 < size < LARGEST_GB


def wait(condition: Callable[[], bool], patience: float = 300) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def environment(folder: Path) -> Path:
    """A virtual environment with casewise and these packages, and no others; they are links."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    installed = next(folder.glob("lib/python*/site-packages"))
    for package in packages().values():
        for name in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (installed / name).exists():
                (installed / name).symlink_to(Path(str(package.locate_file(name))))
    source = folder.parent / "source"
    for name in copied():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    words = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", str(source)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(folder), *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def states(*folders: Path) -> dict[Path, int]:
    """Each file of some folders with the time of its change."""
    return {path: path.lstat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


@pytest.mark.slow
def test_a_node_of_these_packages_answers_and_writes_nowhere_else(tmp_path: Path, chest_run: Run, chests: Path) -> None:
    installed, node, temporary = environment(tmp_path / "opt"), tmp_path / "node", tmp_path / "tmp"
    temporary.mkdir()
    shutil.copytree(chest_run.folder / "bundle", node / "bundle")
    port = free_port()
    settings: dict[str, Any] = {"bundle": "bundle", "folder": "work", "select": [RULE], "complete": {"quiet": 0.5}}
    settings |= {"receive": {"folder": "incoming", "web": {"port": port}}, "send": [{"folder": "outgoing"}]}
    settings |= {"answer": {"formats": ["sr", "summary-sc", "fhir-r4"], "threads": 1}}
    (node / "node.yaml").write_text(json.dumps(settings))
    variables = {**environment_variables(), "HOME": str(temporary), "TMPDIR": str(temporary)}
    variables |= {"PATH": f"{installed}/bin:{os.environ['PATH']}", "HEALTH": f"http://127.0.0.1:{port}/health"}
    before = states(installed, tmp_path / "source")
    command = [word.replace("/node/", f"{node}/") for word in start_command()]
    healthy = json.loads(lines_of("HEALTHCHECK")[0].partition("CMD ")[2])

    def run(words: list[str]) -> int:
        return subprocess.run([f"{installed}/bin/{words[0]}", *words[1:]], env=variables, cwd=node).returncode

    process = subprocess.Popen([f"{installed}/bin/{command[0]}", *command[1:]], env=variables, cwd=node)
    try:
        wait(lambda: process.poll() is not None or run(healthy) == 0)
        incoming = node / "incoming"
        (incoming / "film.dcm").write_bytes(chest_film(next(chests.parent.rglob("1.jpg")), 1))
        wait(lambda: len([path for path in node.glob("outgoing/*/*") if path.suffix != ".tmp"]) == 3)
        assert run(["casewise", "node", "status", str(node / "node.yaml")]) == 0
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 0
    assert states(installed, tmp_path / "source") == before
    written = {path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor_")}  # of PyTorch
    assert written <= {".cache", ".config", ".local"}
