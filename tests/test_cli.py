from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ["run", "check", "init", "phantom", "results", "backbones"]


def casewise(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "casewise.cli", *words], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str) -> None:
    done = casewise(*([command] if command else []), "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_importing_casewise_is_light() -> None:
    heavy = "('torch', 'pandas', 'numpy', 'rich')"
    code = f"import sys, casewise, casewise.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_judging_needs_no_network_library() -> None:
    code = (
        "import sys, casewise.evaluation.results, casewise.stacking, casewise.scores, casewise.split, casewise.cohort,"
        " casewise.study_file, casewise.report.page; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "nowhere.yaml"], "There is no study file nowhere.yaml"),
        (["check", "nowhere.yaml"], "There is no study file nowhere.yaml"),
        (["init", "onestep-psai"], "Did you mean 'onestep-pasi'"),
        (["phantom", "x", "--size", "big"], "written as width x height"),
        (["phantom", "x", "--labels", "wrong"], "--labels is true or shuffled"),
        (["rnu"], "No such command"),
        (["run"], "Missing argument"),
    ],
)
def test_mistakes_end_with_code_2_and_no_traceback(words: list[str], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "casewise.cli", *words], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_check_tells_the_split_without_training(tiny: Path) -> None:
    done = casewise("check", str(tiny))
    assert done.returncode == 0, done.stderr
    assert "8 subjects" in done.stdout
    assert "2 backbones × 2 folds = 4 networks" in done.stdout


def test_backbones_are_listed() -> None:
    done = casewise("backbones")
    assert done.stdout.splitlines()[0] == "alexnet"
    assert len(done.stdout.splitlines()) == 30


def test_version() -> None:
    from casewise import __version__

    assert casewise("--version").stdout.strip() == f"casewise {__version__}"
