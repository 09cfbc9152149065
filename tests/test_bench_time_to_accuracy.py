"""The benchmarks of times: sides share no subject, recipes are those of a study, and ratios are what they should be."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.files import parquet_bytes, write_atomic, write_json
from casewise.study.loading import build_study

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))


def cohort(folder: Path, pack: str = "covid-cxr") -> Path:
    """A table of 200 images of 80 subjects with two classes; 20 rows are copies."""
    rng = np.random.default_rng(2)
    subject = rng.integers(0, 80, 220)
    columns = {
        "path": [f"images/{n}.jpg" for n in range(220)],
        "subject": [f"s{n}" for n in subject],
        "label": np.where(subject % 3 == 0, "covid", "none"),
        "duplicate_of": ["images/0.jpg" if n >= 200 else "" for n in range(220)],
    }
    (folder / pack).mkdir(parents=True)
    pd.DataFrame(columns).to_csv(folder / pack / "cases.csv", index=False)
    return folder


def test_sides_share_no_subject_and_tuning_folds_only_train(benchmark: Any, tmp_path: Path) -> None:
    module = benchmark("time_to_accuracy")
    table = module.rows_of("covid-cxr", cohort(tmp_path))
    assert len(table) == 200
    assert sorted(set(table["fold"])) == [1, 2, 3, 4, 5]
    assert (table.groupby("subject")["fold"].nunique() == 1).all()
    for seed in range(6):
        train, held_out = module.sides_of(table, seed, 60, 25)
        assert not set(train["subject"]) & set(held_out["subject"])
        assert set(held_out["fold"]) == {seed % 3 + 1}
        assert (len(train), len(held_out)) == (60, 25)
        assert module.sides_of(table, seed, 60, 25)[0].equals(train)
    for seed in range(2):
        train, held_out = module.sides_of(table, seed, 20, 10, tuning=True)
        assert (set(train["fold"]), set(held_out["fold"])) == ({5 - seed}, {4 + seed})
    assert not module.sides_of(table, 0, 60, 25)[0].equals(module.sides_of(table, 3, 60, 25)[0])


def test_recipes_are_those_of_a_study_file(benchmark: Any) -> None:
    module = benchmark("time_to_accuracy")
    phases = {}
    for program in [name for name in module.PROGRAMS if name.startswith("casewise")]:
        values = {
            "name": "recipes",
            "cohort": "table.csv",
            "images": {"size": 224},
            "panels": {"by": "image"},
            "targets": {"label": {"classes": ["a", "b"]}},
            "backbones": ["mobilenet_v2"],
            "recipe": module.recipe_of(program, "mobilenet_v2"),
        }
        phases[program] = build_study(values, source="study.yaml", folder=Path()).recipe.phases
    assert [phase.freeze for phase in phases["casewise head"]] == ["all"]
    assert [phase.freeze for phase in phases["casewise upper"]] == ["all", "14 blocks"]
    assert [phase.freeze for phase in phases["casewise full"]] == ["all", "none"]


def options_of(folder: Path, **changes: Any) -> argparse.Namespace:
    values: dict[str, Any] = {
        "packs": ["covid-cxr"],
        "networks": ["mobilenet_v2"],
        "programs": ["fastai", "casewise head"],
        "seeds": 2,
        "images": 60,
        "held_out": 4,
        "epochs": 5,
        "threads": 2,
        "tuning": False,
        "aim": 4.0,
        "data": folder,
        "weights": folder,
        "out": folder / "out",
    }
    return argparse.Namespace(**{**values, **changes})


def finish(module: Any, task: dict[str, Any], right: list[bool], seconds: float) -> None:
    """Write a training whose first class has probability 0.9 where it is right."""
    labels = ["covid", "none", "covid", "none"]
    covid = [0.9 if (label == "covid") == ok else 0.1 for label, ok in zip(labels, right, strict=True)]
    columns = {"path": list("abcd"), "subject": ["s1", "s1", "s2", "s3"], "label": labels}
    rows = pd.DataFrame(columns).assign(p_covid=covid, p_none=[1 - value for value in covid])
    write_atomic(Path(task["predictions"]), parquet_bytes(rows))
    facts = {"settings": module.address(task), "seconds": seconds, "cpu_seconds": 2 * seconds, "load": 0.5}
    write_json(Path(task["predictions"]).with_suffix(".json"), facts)


def test_finished_trainings_are_judged_and_not_repeated(benchmark: Any, tmp_path: Path) -> None:
    module = benchmark("time_to_accuracy")
    (tmp_path / "mobilenet_v2.safetensors").write_bytes(b"weights")
    options = options_of(cohort(tmp_path))
    options.out.mkdir()
    tasks = module.tasks_of(options)
    assert [(task["seed"], task["program"]) for task in tasks] == [
        (0, "fastai"),
        (0, "casewise head"),
        (1, "fastai"),
        (1, "casewise head"),
    ]
    assert module.judged(tasks) == []
    finish(module, tasks[0], [True, True, False, False], 100.0)
    finish(module, tasks[1], [True, True, True, False], 10.0)
    assert [module.finished(task) is None for task in tasks] == [False, False, True, True]
    fastai, own = module.judged(tasks)
    assert (fastai["program"], fastai["accuracy"], fastai["seeds"]) == ("fastai", 0.5, 1)
    assert own["accuracy"] == 0.75
    assert own["gain"] == pytest.approx(0.25)
    assert own["low"] <= own["gain"] <= own["high"]
    assert own["fastai_seconds"] == own["fastai_cpu_seconds"] == pytest.approx(10.0)
    page = module.page_of([fastai, own], options, 0.5)
    assert "Every line of casewise reaches the aim." in page
    slower = {**own, "fastai_seconds": 3.0, "high": -0.01}
    assert "3.0 times as fast as fastai and less accurate than fastai" in module.page_of([fastai, slower], options, 0.5)
    assert "Nothing was compared" in module.page_of([fastai], options, 0.5)
    assert "Every line" not in module.page_of([fastai], options, 0.5)
    # other settings are another training
    changed = module.tasks_of(options_of(tmp_path, images=61))
    assert all(module.finished(task) is None for task in changed)
    moved = {**tasks[0], "data": "elsewhere", "memo": "elsewhere"}
    assert module.address(moved) == module.address(tasks[0])
    assert json.loads(json.dumps(tasks)) == tasks


@pytest.mark.parametrize(
    ("gain", "low", "high", "shown"),
    [
        (0.010, -0.019, 0.030, True),
        (-0.080, -0.170, 0.010, False),
        (0.010, -0.020, 0.030, False),
        (0.0, float("nan"), float("nan"), False),
        (-0.080, -0.170, -0.010, False),
    ],
)
def test_accuracy_is_shown_only_above_the_margin(
    benchmark: Any, tmp_path: Path, gain: float, low: float, high: float, shown: bool
) -> None:
    module = benchmark("time_to_accuracy")
    line = {"pack": "covid-cxr", "network": "mobilenet_v2", "program": "casewise head", "seeds": 1, "images": 4}
    line |= {"accuracy": 0.7, "auroc": 0.8, "seconds": 10.0, "cpu_seconds": 20.0}
    line |= {"gain": gain, "low": low, "high": high, "fastai_seconds": 10.0, "fastai_cpu_seconds": 10.0}
    page = module.page_of([line], options_of(tmp_path), 0.5)
    assert ("Every line of casewise reaches the aim." in page) == shown
    assert ("less accurate than fastai." in page) == (high < 0)
    assert ("not shown to lose at most 0.02 accuracy" in page) == (not shown and not high < 0)


def test_measurements_are_of_a_table_of_versions_and_of_a_source(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = benchmark("time_to_accuracy")
    (tmp_path / "mobilenet_v2.safetensors").write_bytes(b"weights")
    options = options_of(cohort(tmp_path))
    task = module.tasks_of(options)[0]
    addresses = [module.address(task)]
    assert set(module.versions()) == {"python", *module.LIBRARIES}
    assert {"casewise", "torch", "fastai"} <= set(module.LIBRARIES)
    assert module.versions()["torch"] != "absent"
    assert len(module.source()) == 64
    with monkeypatch.context() as patched:
        patched.setattr(module, "versions", lambda: {"torch": "0"})
        addresses.append(module.address(task))
    with monkeypatch.context() as patched:
        patched.setattr(module, "source", lambda: "0")
        addresses.append(module.address(task))
    with (tmp_path / "covid-cxr" / "cases.csv").open("a") as file:
        file.write("images/220.jpg,s1,none,\n")
    addresses.append(module.address(module.tasks_of(options)[0]))
    (tmp_path / "mobilenet_v2.safetensors").write_bytes(b"others")
    addresses.append(module.address(task))
    assert len(set(addresses)) == 5


def test_the_whole_measurement_takes_at_most_35_minutes(benchmark: Any, tmp_path: Path) -> None:
    module = benchmark("time_to_accuracy")
    for pack in module.PACKS.values():
        cohort(tmp_path, pack["folder"])
    both = options_of(tmp_path, packs=list(module.PACKS), programs=list(module.USUAL), seeds=5, images=module.SIZE)
    tasks = module.tasks_of(both)
    assert len(tasks) == 2 * 5 * len(module.USUAL)
    assert 0 < module.expected(tasks) <= 35 * 60
    assert module.expected(tasks[:4]) < module.expected(tasks)


def test_the_mean_of_ratios_is_geometric(benchmark: Any) -> None:
    module = benchmark("epoch_ratios")
    assert module.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    # a multiplication and an addition for each weight of a convolution and each place, three times
    assert module.operations("mobilenet_v2") == pytest.approx(3 * 2 * 0.30e9, rel=0.05)
    rates = {"casewise": [60.0], "fastai": [20.0], "lightning": [30.0]}
    result = {"rates": rates, "ratios": {"fastai": 3.0, "lightning": 2.0}, "way": "bf16", "step_seconds": 0.4}
    result["preparation_seconds"] = 0.0041
    text = "\n".join(module.lines_of({"mobilenet_v2": result}, 1e12))
    assert "| mobilenet_v2 | 16.7 | 50.0 | 33.3 | 3.00 | 2.00 |" in text
    assert "| mobilenet_v2 | 16.7 | 50.0 | 33.3 | 3.00 | 2.00 | 4.1 |" in text
    assert len({line.count("|") for line in text.split("\n\n")[0].splitlines()}) == 1
    assert "missed: lightning 2.00." in text
    assert "| mobilenet_v2 | bf16 | 80.0 | 60.0 | 75% |" in text


@pytest.mark.slow
def test_small_jobs_are_the_same_both_ways(benchmark: Any) -> None:
    module = benchmark("small_jobs")
    jobs = [module.SmallJob("squeezenet1_1", seed, 16) for seed in (1, 2)]
    seconds, cpu, losses = module.timed(jobs, workers=2, threads=1)
    assert set(losses) == {("squeezenet1_1", 1), ("squeezenet1_1", 2)}
    assert all(np.isfinite(list(losses.values())))
    assert min(seconds, cpu) > 0
