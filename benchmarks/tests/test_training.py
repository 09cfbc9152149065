"""The benchmark of training: recipes are those of a study, ratios are of one round, and every aim is stated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1]


def here(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process, on small images."""
    monkeypatch.setattr(module.users, "in_own_process", lambda script, task: module.with_casewise(task))
    monkeypatch.setattr(module, "CORES", 1)


def test_the_schedule_freezes_the_same_weights_on_both_sides(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = benchmark("training")
    here(module, monkeypatch)
    frozen = {"none": 0}

    def measured(program: str, /, **task: Any) -> dict[str, float]:
        monkeypatch.setattr(module.users, "seconds_of_loop", lambda *_: 1.0)
        result: dict[str, float] = module.users.loop_above_frozen(task)
        frozen[task["freeze"]] = int(result["frozen"])
        return result

    monkeypatch.setattr(module.users, "measured", measured)
    monkeypatch.setattr(module, "BIOPSY_SIDE", 32)
    monkeypatch.setattr(module, "HEAD", 3)
    monkeypatch.setattr(module, "FINE", 3)
    module.compare_schedule(argparse.Namespace(short=False, biopsies=4))
    assert frozen["none"] == 0 < frozen["10 layers"] < frozen["11 blocks"] < frozen["all"]
    assert capsys.readouterr().out.count("aim: ") == 6


def test_every_benchmark_of_make_bench_exists(benchmark: Any) -> None:
    listed = [words.split() for words in benchmark("all").BENCHMARKS]
    assert {name for name, *_ in listed} <= {path.name for path in FOLDER.glob("*.py")}
    for name, *options in listed:
        if name in ("speed.py", "training.py"):
            parts = [option for option in options if not option.startswith("-")]
            assert set(parts) <= set(benchmark(name.removesuffix(".py")).PARTS)


def test_steps_of_an_audit_and_of_ingest_run(
    capsys: pytest.CaptureFixture[str], benchmark: Any, tmp_path: Path
) -> None:
    from PIL import Image

    module = benchmark("speed")
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for number, path in enumerate(paths):
        Image.effect_noise((32, 32), 20 + 40 * (number > 0)).save(path)
    paths[2].write_bytes(paths[1].read_bytes())
    assert module.pairs_by_hand([str(path) for path in paths]) == 1
    (tmp_path / "paths.txt").write_text("\n".join(map(str, paths)))
    assert module.build(str(tmp_path / "paths.txt"), str(tmp_path / "store"))["peak"] > 0
