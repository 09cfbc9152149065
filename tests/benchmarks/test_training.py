"""The benchmark of training: recipes are those of a study, ratios are of one round, and every aim is stated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.conftest import FOLDER


def test_the_schedule_has_an_aim_for_minutes_and_for_the_ratio(benchmark: Any) -> None:
    module = benchmark("training")
    assert module.AIMS == {"head": 60, "fine-tuning": 3, "schedule": 7, "all layers": 2}
    assert module.judged("schedule", 210.0, 1470.0) == "aim: at most 3.5 min and at least 7×; reached"
    assert module.judged("schedule", 211.0, 2000.0).endswith("missed")
    assert module.judged("schedule", 200.0, 1390.0).endswith("missed")
    assert module.judged("fine-tuning", 10.0, 29.0) == "aim: at least 3×; missed"
    assert module.judged("head", 1.0, 60.0).endswith("reached")


def test_what_a_phase_computes_once_is_extrapolated_once(benchmark: Any) -> None:
    # 10 seconds once, and 2 for each epoch
    assert benchmark("training").extrapolated(16.0, 28.0, 3, 100) == 210.0


def test_the_mean_of_ratios_is_geometric(benchmark: Any) -> None:
    module = benchmark("training")
    assert module.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert module.faster([1.0, 20.0, 6.0], [2.0, 10.0, 4.0]) == 1.5
    rates = {"casewise": [60.0], "fastai": [20.0], "lightning": [30.0]}
    text = "\n".join(module.lines_of({"mobilenet_v2": {"rates": rates, "preparation": 0.0041}}))
    assert "| mobilenet_v2 | 16.7 | 50.0 | 33.3 | 3.00 | 2.00 | 4.1 |" in text
    assert "missed: lightning 2.00." in text
    assert len({line.count("|") for line in text.split("\n\n")[0].splitlines()}) == 1


def here(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process, on small images."""
    monkeypatch.setattr(module.users, "in_own_process", lambda script, task: module.with_casewise(task))
    monkeypatch.setattr(module, "CORES", 1)


@pytest.mark.slow
def test_panels_are_trained_as_by_a_study(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = benchmark("training")
    here(module, monkeypatch)
    programs = []

    def measured(program: str, /, **task: Any) -> dict[str, float]:
        assert len(task["paths"]) == len(task["truth"]) == task["panels"] == 3 * module.PANEL_BATCH
        assert all(Path(path).is_file() for paths in task["paths"] for path in paths)
        programs.append(program)
        return {"rate": 1.0}

    monkeypatch.setattr(module.users, "measured", measured)
    monkeypatch.setattr(module, "SIZES", ((96, 64), (120, 80)))
    monkeypatch.setattr(module, "SLOT", 32)
    module.compare_panels(argparse.Namespace(short=True, panels=module.PANEL_BATCH, rounds=1))
    assert programs == ["panels", "panels"]
    assert capsys.readouterr().out.count("times as fast (aim: 2.5)") == 2


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
