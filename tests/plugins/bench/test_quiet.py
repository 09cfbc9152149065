"""Benchmarks say when other processes use the processor."""

from __future__ import annotations

import psutil
import pytest

from casewise.plugins.bench.cpu import busy_cores, warn_if_busy, warning_if_busy


@pytest.mark.parametrize(("percent", "sentence"), [(10.0, None), (62.5, "Other processes use 2.5 of 4 cores")])
def test_a_busy_machine_is_named(
    percent: float, sentence: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds: percent if seconds > 0 else None)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr("casewise.plugins.bench.cpu.BUSY", 0.5)
    warn_if_busy()
    printed = capsys.readouterr().out
    assert printed.startswith(sentence) if sentence else not printed
    assert (warning_if_busy() is None) == (sentence is None)


def test_the_use_of_this_machine_is_measured() -> None:
    assert 0 <= busy_cores(0.05) <= (psutil.cpu_count() or 1)
