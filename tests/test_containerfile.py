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

import pytest
import yaml

from casewise.run import Run
from tests.plugins.node.films import chest_film, node_values
from tests.plugins.node.orthanc import Orthanc, running_orthanc, shipped_configuration

pytest.importorskip("highdicom", reason="the extra `hospital` is not installed")
pytestmark = pytest.mark.plugins("hospital", "node")
ROOT = Path(__file__).resolve().parents[1]
# What an environment with PyTorch for CPUs has not.
GPU = re.compile(r"nvidia|cuda|triton")
LARGEST_GB = 3.0


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "orthanc") as pacs:
        yield pacs


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
    assert start_command() == ["casewise", "node", "run", "/node/node.yaml"]
    assert len(lines_of("FROM")) == 2


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
def test_a_node_of_these_packages_answers_and_writes_nowhere_else(
    tmp_path: Path, chest_run: Run, chests: Path, orthanc: Orthanc
) -> None:
    installed, node, temporary = environment(tmp_path / "opt"), tmp_path / "node", tmp_path / "tmp"
    temporary.mkdir()
    shutil.copytree(chest_run.folder / "bundle", node / "bundle")
    answer = {"formats": ["sr", "summary-sc", "fhir-r4"], "threads": 1}
    values = node_values(orthanc, Path("bundle"), node) | {"answer": answer, "send": [{"folder": "outgoing"}]}
    (node / "node.yaml").write_text(json.dumps(values | {"folder": "work"}))
    variables = {**environment_variables(), "HOME": str(temporary), "TMPDIR": str(temporary)}
    variables |= {"PATH": f"{installed}/bin:{os.environ['PATH']}"}
    before = states(installed, tmp_path / "source")

    def words_of(words: list[str]) -> list[str]:
        return [f"{installed}/bin/{words[0]}", *(word.replace("/node/", f"{node}/") for word in words[1:])]

    def run(words: list[str]) -> int:
        return subprocess.run(words_of(words), env=variables, cwd=node).returncode

    process = subprocess.Popen(words_of(start_command()), env=variables, cwd=node)
    try:
        orthanc.store(chest_film(next(chests.parent.rglob("1.jpg")), 1))
        wait(lambda: process.poll() is not None or len(list(node.glob("outgoing/*/*"))) == 3)
        assert run(json.loads(lines_of("HEALTHCHECK")[0].partition("CMD ")[2])) == 0
        assert run(["casewise", "node", "status", "/node/node.yaml"]) == 0
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 0
    assert states(installed, tmp_path / "source") == before
    written = {path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor_")}  # of PyTorch
    assert written <= {".cache", ".config", ".local"}


def test_the_compose_file_fits_the_image_and_the_configuration() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert (ROOT / "deploy" / services["casewise"]["build"]).resolve() == ROOT
    ports = {each.rpartition(":")[2] for each in services["orthanc"]["ports"]}
    configuration = shipped_configuration()
    assert ports == {str(configuration["DicomPort"]), str(configuration["HttpPort"])}
    assert configuration["StorageDirectory"] in " ".join(services["orthanc"]["volumes"])
    assert "ports" not in services["casewise"]
