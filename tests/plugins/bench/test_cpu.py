"""`casewise bench cpu`: every fast path is measured and told; no time is asserted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from casewise.errors import CasewiseError
from casewise.plugins.bench import cpu
from casewise.plugins.bench.cpu import BenchmarkResult, Row, bench_cpu
from casewise.plugins.bench.worker import Worker
from casewise.study.schema import Compute

PATHS = [
    "images decoded once",
    "freed memory kept",
    "channels-last",
    "bfloat16",
    "bfloat16",
    "parallel jobs with one core each",
    "head only, features cached",
    "above 3 blocks, activations cached",
]
WORDS = [sys.executable, "-m", "casewise.cli.main", "bench", "cpu", "--backbone", "cnn", "--size", "32"]


@pytest.fixture(scope="module")
def measured() -> BenchmarkResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "ROUNDS", 1)
        patch.setattr("joblib.cpu_count", lambda: 2)
        return bench_cpu(backbone="cnn", size=32, batch=4, images=8)


def test_every_fast_path_has_its_row(measured: BenchmarkResult) -> None:
    assert [row.name.partition(":")[0] for row in measured.rows] == PATHS
    for row in measured.rows:
        assert row.without > 0
        if row.seconds is None:
            assert row.note
            continue
        assert row.seconds > 0
        assert row.ratio == pytest.approx(row.without / row.seconds)
    assert not [row.note for row in measured.rows[6:] if row.note]


def test_what_switches_a_fast_path_off_is_a_key_of_the_study(measured: BenchmarkResult) -> None:
    switches = {row.switch for row in measured.rows if row.switch.startswith("compute: {")}
    assert len(switches) == 5
    for text in switches:
        name, _, value = text.removeprefix("compute: {").removesuffix("}").partition(": ")
        assert getattr(Compute.model_validate({name: {"false": False}.get(value, value)}), name) is not None


def test_the_table_tells_machine_and_choice(measured: BenchmarkResult) -> None:
    lines = str(measured).splitlines()
    assert "2 cores" in lines[0]
    assert "torch 2." in lines[0]
    assert "random weights" in lines[1]
    assert "cnn, 2 jobs at a time: " in lines[-1]
    table = lines[lines.index("") + 1 :][: 1 + len(PATHS)]
    assert [table[0].find("disabled by")] * 5 == [line.find("compute: {") for line in table[2:7]]


def test_what_a_machine_has_not_is_left_open() -> None:
    row = Row("bfloat16: a step", None, 0.5, "compute: {precision: fp32}", "this processor has none of its own")
    assert row.ratio is None
    assert "–" in str(BenchmarkResult([row], [], ""))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"backbone": "mobilenet_v3"}, ("--backbone", "'mobilenet_v3'", "'mobilenet_v2'")),
        ({"images": 16}, ("--images", "32", "16")),
        ({"size": 31}, ("--size", "32", "31")),
        ({"batch": 1}, ("--batch-size", "2", "1")),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(CasewiseError) as refused:
        bench_cpu(**options)
    assert all(text in str(refused.value) for text in named)


def test_a_size_that_a_network_cannot_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CasewiseError, match=r"--size: alexnet .*32"):
        Worker(backbone="alexnet", size=32, batch=4, images=str(tmp_path), keep=False)


def test_a_mistake_ends_with_code_2() -> None:
    done = subprocess.run([*WORDS, "--images", "3"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --images")


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another thing there")
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    import psutil

    places = {**os.environ, "TMPDIR": str(tmp_path)}
    running = subprocess.Popen(
        [*WORDS, "--images", "32"],
        env=places,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs ignore Ctrl-C, and so would what they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children: list[psutil.Process] = []
    while len(children) < 2 and running.poll() is None:
        time.sleep(0.05)
        children = psutil.Process(running.pid).children()
    assert any(tmp_path.iterdir())
    running.send_signal(signal.SIGINT)
    told = running.communicate()[1]
    assert running.returncode == 130
    assert "Traceback" not in told
    assert not any(tmp_path.iterdir())
    assert not psutil.wait_procs(children, timeout=60)[1]


def test_bench_alone_shows_its_commands() -> None:
    done = subprocess.run(WORDS[:4], capture_output=True, text=True, timeout=60)
    assert "cpu" in done.stdout + done.stderr
