"""The wheel: it has every file of the package, and works where the repository is not."""

import os
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.install import copy_of_source

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", reason="setuptools, which builds the wheel, is not installed")
    source, target = copy_of_source(tmp_path_factory.mktemp("source") / "casewise"), tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", target, source], check=True)
    (file,) = target.glob("*.whl")
    return file


@pytest.mark.slow
def test_every_file_of_the_package_is_in_it(wheel: Path) -> None:
    files = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "casewise").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= set(ZipFile(wheel).namelist())


@pytest.mark.slow
@pytest.mark.plugins("phantoms", "init")
def test_it_works_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", "lib", wheel],
                   cwd=tmp_path, check=True)  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "lib")}

    def casewise(*words: str) -> str:
        command = [sys.executable, "-m", "casewise", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    place = "import casewise, casewise.plugins.serve; print(casewise.__file__)"
    done = subprocess.run([sys.executable, "-c", place], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert Path(done.stdout.decode().strip()).is_relative_to(tmp_path)
    casewise(
        "phantom", "films", "--kind", "chest", "--classes", "covid,no_finding", "--subjects", "40", "--size", "64x64"
    )
    casewise("init", "--table", "films/cases.csv", "--output", "study")
    study = tmp_path / "study" / "study.yaml"
    study.write_text(study.read_text() + "\nbackbones: []\n")
    casewise("run", "study/study.yaml", "--output", "run")
    casewise("predict", "run", "films/images", "--output", "new.csv")
    assert (tmp_path / "run" / "report.html").stat().st_size > 100_000
    assert len((tmp_path / "new.csv").read_text().splitlines()) > 40


def test_the_lock_file_has_the_pinned_versions_with_hashes() -> None:
    stated = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text().strip())
    assert len(entries) > 100
    for entry in entries:
        name, version = re.match(r"([\w.-]+)(?:\[[^]]*\])?==([\w.+]+)", entry).groups()  # type: ignore[union-attr]
        assert stated.get(name, version) == version
        assert "--hash=sha256:" in entry, name
