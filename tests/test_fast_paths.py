"""The benchmark of the fast paths: what was stopped and continued is not compared in time."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

PLACE = Path(__file__).resolve().parents[1] / "benchmarks" / "fast_paths.py"


@pytest.fixture(scope="module")
def benchmark_file() -> Any:
    spec = importlib.util.spec_from_file_location("fast_paths", PLACE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def finished(folder: Path, seconds: float, **told: object) -> Path:
    """The folder of a run of one network in two phases, the first of which may have been stopped."""
    job = folder / "jobs" / "cnn" / "fold1"
    job.mkdir(parents=True)
    phases = [{"core_seconds": seconds, "stretches": 1, **told}, {"core_seconds": 2 * seconds}]
    (job / "job.json").write_text(json.dumps({"phases": phases}))
    figures = {name: {"value": 0.8 + seconds / 1000} for name in ("auroc", "accuracy")}
    (folder / "metrics.json").write_text(json.dumps({"main": {"metrics": figures}}))
    return folder


@pytest.mark.parametrize("told", [{"stretches": 2}])
def test_a_continued_phase_is_no_time_of_one_stretch(
    tmp_path: Path, benchmark_file: Any, told: dict[str, object]
) -> None:
    off = [benchmark_file.measured(finished(tmp_path / f"off{i}", 30.0 + i)) for i in range(3)]
    on = [
        benchmark_file.measured(finished(tmp_path / f"on{i}", 3.0 * (1 + i), **(told if i == 1 else {})))
        for i in range(3)
    ]
    page = benchmark_file.page("A study", {"on": on, "off": off})
    (head,) = [line for line in page.splitlines() if line.startswith("- head:")]
    assert [float(number) for number in re.findall(r"\d+(?:\.\d+)?", head)] == [12, 62, 5.2]
    assert "seed 1," in page
    alone = benchmark_file.page("A study", {"on": [on[1], on[1]], "off": off[:2]})
    assert "- head:" not in alone
    assert "seed 0, 1," in alone
    assert "seed 1," not in benchmark_file.page("A study", {"on": on[::2], "off": off[::2]})
