"""Installs the wheel in fresh environments and uses it there, far from the repository.

    python -m tests.install [--python 3.11 3.13] [--only EXTRA ...] [--versions pinned lowest newest locked]

Each extra is installed alone, then all together; `install.yaml` states what each is used for. `pinned` are the versions
of the constraints file, `lowest` the lower bounds of pyproject.toml, `newest` what the package index has, and `locked`
the files whose hashes are in requirements.lock.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = {
    "pinned": ("--constraint", str(ROOT / "constraints.txt")),
    "lowest": ("--resolution", "lowest-direct"),
    "newest": ("--upgrade",),
    "locked": ("--no-deps",),
}
ALL, CORE = "all", "core"


def uv(*words: str | Path) -> None:
    """Run uv, which must be installed."""
    subprocess.run(("uv", "--quiet", *map(str, words)), check=True)


def copy_of_source(folder: Path) -> Path:
    """A copy of what is packed, because building writes into the folder."""
    folder.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder)
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        kind, *names = line.split()
        for name in names[:1] if kind == "recursive-include" else names:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            (folder / name).parent.mkdir(exist_ok=True)
            copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return folder


def build(folder: Path) -> Path:
    """The wheel, made of the source distribution, which is made of the repository."""
    uv("build", "--out-dir", folder, copy_of_source(folder / "source"))
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, python: str, extras: list[str], versions: str, folder: Path) -> None:
    """A new environment with the wheel."""
    uv("venv", "--python", python, folder)
    if versions == "locked":
        uv("pip", "install", "--python", folder, "--require-hashes", "--requirement", ROOT / "requirements.lock")
    wanted = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    uv("pip", "install", "--python", folder, *VERSIONS[versions], wanted)


def use(environment: Path, extras: list[str], uses: dict[str, list[str]], folder: Path) -> str:
    """Run the commands of the core and of the extras; the first that fails, with the end of its output, or nothing."""
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables = inherited | {"PATH": path, "CASEWISE_CACHE": str(folder / "cache")}
    for command in (command for extra in ("", *extras) for command in uses[extra]):
        words = ["bash", "-uc", f"set -o pipefail; {command}"]
        done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            return "\n".join([f"$ {command}", *(done.stdout + done.stderr).splitlines()[-15:]])
    return ""


def main() -> int:
    """Every environment; 1 if one of them fails."""
    uses = yaml.safe_load((ROOT / "tests" / "install.yaml").read_text())
    extras = [extra for extra in uses if extra]
    parser = argparse.ArgumentParser(prog="python -m tests.install", description="Installs the wheel and uses it.")
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="versions, or paths of interpreters")
    parser.add_argument("--only", nargs="+", default=[CORE, *extras, ALL], choices=[CORE, *extras, ALL])
    parser.add_argument("--versions", nargs="+", default=["pinned"], choices=[*VERSIONS])
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="install-") as temporary:
        wheel = build(Path(temporary) / "dist")
        for number, (python, versions, name) in enumerate(product(options.python, options.versions, options.only)):
            wanted = {CORE: [], ALL: extras}.get(name, [name])
            folder, environment = Path(temporary) / str(number), Path(temporary) / f"environment-{number}"
            folder.mkdir()
            try:
                install(wheel, python, wanted, versions, environment)
                problem = use(environment, wanted, uses, folder)
            except subprocess.CalledProcessError as error:
                problem = f"the installation failed: {error}"
            print(f"{python}, {versions}, {name}: {problem or 'works'}", flush=True)
            failed += bool(problem)
            subprocess.run(["rm", "-rf", environment, folder], check=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
