"""Tests whether the fast paths change results: the same study with all of them on and off, over five seeds.

    python benchmarks/fast_paths.py [--study studies/hpylori.yaml] [--seeds 5] [--output docs/results/fast-paths.md]

Both sides of a seed have the same split, copies and order of panels. On: the output of frozen layers is cached,
precision and memory format are chosen by measurement, freed memory is kept. Off: every layer at every step, fp32, the
default memory format and allocator. The study is shortened to two folds and few epochs. Runs are kept in
`runs/fast-paths` and continued.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SHORT = {
    # with one of the five seeds the audit reports an error
    "accept": {"shortcut-border": "Windows are cut from tissue: their border shows the same tissue as the rest."},
    "panels": {"offline_copies": 1},
    "split": {"folds": 2, "test": 0},
    "recipe": {"phases": [{"epochs": 10, "freeze": "all", "lr": 0.001}, {"epochs": 4, "freeze": "11 blocks"}]},
}
SIDES: dict[str, dict[str, Any]] = {
    "on": {},
    "off": {"frozen_once": False, "precision": "fp32", "memory_format": "contiguous", "keep_memory": False},
}
FIGURES = {"auroc": "AUROC", "accuracy": "accuracy"}


def write_study(study: Path, folder: Path, *, side: str, seed: int) -> Path:
    """A shortened copy of the study with one seed and the fast paths on or off."""
    import yaml

    name = f"fast-paths-{side}-{seed}"
    values = {"extends": str(study.resolve()), "name": name, "seed": seed, "compute": SIDES[side], **SHORT}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def measured(run: Path) -> dict[str, float]:
    """The results of a finished run and the cost of its networks."""
    metrics = json.loads((run / "metrics.json").read_text())
    result = {name: float(metrics["main"]["metrics"][name]["value"]) for name in FIGURES}
    jobs = [json.loads(path.read_text()) for path in sorted(run.glob("jobs/*/*/job.json"))]
    for number, name in enumerate(("head", "fine-tuning")):
        result[name] = sum(job["phases"][number]["core_seconds"] for job in jobs)
    phases = [phase for job in jobs for phase in job["phases"]]
    result["stopped"] = sum(phase.get("stretches", 1) > 1 for phase in phases)
    return result


def page(title: str, sides: dict[str, list[dict[str, float]]]) -> str:
    """The Markdown page: results of each seed, paired differences with intervals, and the cost of each side."""
    import numpy as np
    from scipy import stats

    lines = [
        "# Do the fast paths change results?",
        "",
        f"{title}: the study shortened to two folds, one copy of each image, 10 epochs of the head and 4 of "
        "fine-tuning above the eleventh block, with all fast paths on and off, from the same seeds, splits and copies. "
        "Out of fold. By `python benchmarks/fast_paths.py --output docs/results/fast-paths.md`.",
        "",
        "| seed | " + " | ".join(f"{name}, {side}" for name in FIGURES.values() for side in SIDES) + " |",
        "|---" * (1 + 2 * len(FIGURES)) + "|",
    ]
    count = len(sides["on"])
    for seed in range(count):
        cells = [f"{sides[side][seed][name]:.3f}" for name in FIGURES for side in SIDES]
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    lines.append("")
    for name, words in FIGURES.items():
        on, off = (np.array([entry[name] for entry in sides[side]]) for side in SIDES)
        difference = on - off
        low, high = stats.t.interval(0.95, count - 1, difference.mean(), stats.sem(difference))
        lines.append(
            f"- {words}, on minus off: {difference.mean():+.4f}, 95 % interval over seeds [{low:+.4f}, {high:+.4f}]; "
            f"the standard deviation between seeds is {off.std(ddof=1):.4f} with them off."
        )
    lines.append("")
    whole = [seed for seed in range(count) if not any(sides[side][seed]["stopped"] for side in SIDES)]
    for name in ("head", "fine-tuning") if whole else ():
        on, off = (sum(sides[side][seed][name] for seed in whole) for side in SIDES)
        lines.append(
            f"- {name}: {on:.0f} core-seconds with fast paths, {off:.0f} without: {off / on:.1f} times as many."
        )
    if left_out := [str(seed) for seed in range(count) if seed not in whole]:
        lines.append(
            f"- Core-seconds exclude seed {', '.join(left_out)}, where a phase was interrupted on one side. Delete its "
            "folders in `runs/fast-paths` to measure it."
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run both sides for every seed and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("studies/hpylori.yaml"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    folder = Path("runs/fast-paths")
    folder.mkdir(parents=True, exist_ok=True)
    sides: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for seed in range(options.seeds):
        for side in SIDES:
            study = write_study(options.study, folder, side=side, seed=seed)
            run = folder / study.stem
            subprocess.run(
                [sys.executable, "-m", "casewise.cli.main", "run", str(study), "--output", str(run)], check=True
            )
            sides[side].append(measured(run))
    import yaml

    text = page(str(yaml.safe_load(options.study.read_text())["title"]), sides)
    print(text)
    if options.output:
        options.output.write_text(text)
        print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
