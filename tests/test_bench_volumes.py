"""The benchmark of volumes: both sides do the same work, and every part prints its table; no time is asserted."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

PLACE = Path(__file__).resolve().parents[1] / "benchmarks"
VIT, TILE, STACKS = "vit_tiny_patch16_224", 16, 3
FIGURE = re.compile(r"^  (.+?) +(\d+\.\d\d) (s|ms|panels/s)(?: +(.+))?$", re.MULTILINE)

pytest.importorskip("SimpleITK")


@pytest.fixture(scope="module")
def benchmark_files() -> Iterator[Any]:
    names = ("volumes_user", "volumes_casewise", "volumes")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLACE)
        loaded = [importlib.import_module(name) for name in names]
        for module in loaded:
            patch.setattr(module, "cores", lambda: 1)
        yield loaded[-1]
    for name in names:
        sys.modules.pop(name)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def slices(benchmark_files: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slices")
    benchmark_files.draw_slices(folder, STACKS, TILE)
    return folder


def figures(told: str) -> dict[str, str]:
    """What is said beside each figure of a table, by the row's name."""
    return {name: rest for name, _, _, rest in FIGURE.findall(told)}


def here(module: Any, *tasks: dict[str, Any]) -> list[Any]:
    """The tasks done in this process."""
    return [json.loads(json.dumps(module.answer(dict(task)))) for task in tasks]


def test_both_sides_prepare_the_same_slices(
    benchmark_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from casewise.plugins.phantoms.pancreas import make_pancreas
    from casewise.plugins.volumes.preprocess import Steps, prepare_case
    from casewise.plugins.volumes.reading.read_scan import read_scan

    own = sys.modules["volumes_casewise"]
    make_pancreas(tmp_path / "cohort", subjects=1, size=(48, 48), slices=(12, 12), seed=1)
    paths = [each[0] for each in own.cases_in(tmp_path / "cohort")[0].paths]
    steps = Steps(in_plane_size=48, size=48)
    prepared = prepare_case([read_scan(path) for path in paths], steps)
    theirs = own.by_simpleitk(paths, steps)
    for sequence, volume in enumerate(theirs):
        ours = prepared.slices[:, sequence].astype(float)
        # rows are from front to back there, columns from right to left; a shift by one pixel would give 0.95
        assert np.corrcoef(ours.ravel(), volume[:, ::-1, ::-1].ravel())[0, 1] > 0.98

    monkeypatch.setattr(benchmark_files, "in_own_processes", partial(here, benchmark_files))
    benchmark_files.compare_pair(tmp_path / "cohort", Namespace(rounds=1, size=48, slices=12))
    assert "aim: at most 1.3) as long as the calls of SimpleITK" in figures(capsys.readouterr().out)["casewise"]

    before = [path.stat() for path in paths]
    assert benchmark_files.blank(tmp_path / "cohort") == len(paths)
    for path, found in zip(paths, before, strict=True):
        assert not path.read_bytes().strip(b"\0")
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (found.st_size, found.st_mtime_ns)


def test_both_sides_lay_slices_out_alike(benchmark_files: Any, slices: Path) -> None:
    from casewise.plugins.volumes.dataset import slices_of

    own, user = sys.modules["volumes_casewise"], sys.modules["volumes_user"]
    store = own.store_of(slices)
    unstandardised = slices_of(store, [0, 1], {"standard": None})
    data = replace(own.data_of(store, 8), slices=unstandardised)
    stacks = [np.load(path) for path in sorted(slices.glob("*.npy"))]
    panel = data.plain_batch(torch.tensor([[1, 4]]), torch.device("cpu"))[0]
    assert np.allclose(panel.numpy(), user.as_grid(stacks[1][4:13] / np.float32(32767)))

    rows = [3, 0, 5]
    ours, _ = data.training_batch(rows, torch.Generator().manual_seed(7), torch.device("cpu"))
    assert torch.allclose(ours, own.divided(data, rows, torch.Generator().manual_seed(7)))
    varied, truth = user.Stacks(stacks, 8)[5]
    assert (varied.shape, varied.dtype, truth) == (ours.shape[1:], torch.float32, 2)


def test_training_is_compared_with_the_quicker_plain_loop(
    benchmark_files: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def alike(network: Any, options: list[Any], **_: Any) -> dict[Any, list[float]]:
        return {option: [1.0] for option in options}

    monkeypatch.setattr("casewise.training.compute_plan.step_seconds", alike)
    monkeypatch.setattr(benchmark_files, "in_own_processes", partial(here, benchmark_files))
    parts = ["--part", "training", "standardisation", "--steps", "1", "--rounds", "1"]
    benchmark_files.main([*parts, "--stacks", str(STACKS), "--tile", str(TILE), "--backbone", VIT])
    told = figures(capsys.readouterr().out)
    assert re.fullmatch(
        r"[\d.]+ times \(.+; aim: at least 1.5\) as fast as the faster plain loop", told["casewise, one job"]
    )
    assert "aim: less than 3 %" in told["its batch, looked up in the tables"]
    assert told["once for each fold"].startswith(f"{2 * STACKS} scans;")


def test_networks_that_differ_are_not_compared(benchmark_files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def weighed(*tasks: dict[str, Any]) -> list[Any]:
        choice = {"precision": "fp32", "channels_last": True, "threads": 1, "measured": []}
        rates = [{"rate": 1.0, "weights": 5 if task["what"] == "plain" else 6} for task in tasks]
        return [choice if task["what"] == "choose" else rate for task, rate in zip(tasks, rates, strict=True)]

    monkeypatch.setattr(benchmark_files, "in_own_processes", weighed)
    with pytest.raises(SystemExit, match="5 and 6 weights"):
        benchmark_files.main(["--part", "training", "--stacks", "1", "--tile", "8"])


def test_a_ratio_is_of_one_round(benchmark_files: Any) -> None:
    assert (
        benchmark_files.over([1.0, 20.0, 6.0], [2.0, 10.0, 4.0], "at most 1")
        == "1.50 times (0.50-2.00; aim: at most 1)"
    )


def test_a_second_run_reads_no_source(benchmark_files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark_files.main(["--part", "cases", "--cases", "1", "--rounds", "1", "--size", "32", "--slices", "9"])
    told = figures(capsys.readouterr().out)
    assert told["casewise, a second run"] == (
        "the same slices, after 2 sources were overwritten with zeros; readers imported: none"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another thing there")
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    import psutil

    words = ["--part", "pair", "--size", "64", "--slices", "12", "--cases", "1", "--rounds", "1000"]
    running = subprocess.Popen(
        [sys.executable, str(PLACE / "volumes.py"), *words],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that Ctrl-C goes to what it starts, too, as from a terminal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children: list[psutil.Process] = []
    # once the table is there, no process of the phantom writes into the folder that is removed
    while not (children and any(tmp_path.rglob("cohort.csv"))) and running.poll() is None:
        time.sleep(0.05)
        children = psutil.Process(running.pid).children()
    assert any(tmp_path.iterdir())
    os.killpg(running.pid, signal.SIGINT)
    told = running.communicate()[1]
    assert running.returncode == 130
    assert "Traceback" not in told
    assert not any(tmp_path.iterdir())
    assert not psutil.wait_procs(children, timeout=30)[1]
