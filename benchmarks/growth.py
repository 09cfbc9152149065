"""How the cost grows with the rows of a table, with images, folds and backbones: CPU seconds and peak memory.

    python benchmarks/growth.py [--large] [--skip-runs]

Every measurement is a process of its own. CPU seconds are those of the process and its children.

Rows: tables of 500, 2,000 and 8,000 rows; with `--large` of 2,000, 20,000 and 200,000, which takes most of an hour.
Every row has an image of its own, a synthetic JPEG of 64 × 64 pixels, and four rows are one subject. Measured are
reading the table, preparing the images, the split (with 50 restarts), the audit, and the evaluation of predictions of
two learners for as many cases. The exponent is that of the cost between two sizes: 1 is linear; a step with a fixed
cost has less. The comparison of the hashes of all images with all others is quadratic, and has a row of its own. Local
features are compared in at most 30,000 different images, so that the audit of 200,000 rows costs less for each row.

Runs: a whole run of a small network (audit, training, evaluation, report) with 120 images, 2 folds and 1 backbone; then
with ten times the images, twice the folds, and a second backbone of about the same size. The ratio is that of the CPU
seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SMALL, LARGE = (500, 2_000, 8_000), (2_000, 20_000, 200_000)
ROWS_OF_SUBJECT, SIDE = 4, 64
RUNS: dict[str, tuple[int, int, int]] = {
    "as it is": (120, 2, 1),
    "images × 10": (1200, 2, 1),
    "folds × 2": (120, 4, 1),
    "backbones × 2": (120, 2, 2),
}


def cpu_seconds() -> float:
    """The CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_megabytes() -> float:
    """The peak memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would include the memory of the parent before exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def write_cohort(folder: Path, rows: int) -> Path:
    """Write `rows` images and their table."""
    import cv2
    import numpy as np

    lines = ["subject,case,path,label,site,age"]
    for row in range(rows):
        random = np.random.default_rng([7, row])
        broad = cv2.resize(random.integers(0, 255, (8, 8), dtype=np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        noise = random.integers(-12, 12, (SIDE, SIDE))
        path = folder / f"images/{row // 1000:03d}/{row:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), (broad + noise).clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
        subject = row // ROWS_OF_SUBJECT
        of_subject = np.random.default_rng([3, subject])
        site, age = "ABC"[of_subject.integers(3)], of_subject.integers(20, 90)
        label = ("normal", "ill")[subject * 7919 % 2]
        lines.append(f"S{subject:06d},C{row},{path.relative_to(folder)},{label},{site},{age}")
    table = folder / "cases.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def study_of(table: Path, **changes: Any) -> Any:
    """The study of a table."""
    from casewise.study.loading import build_study

    values: dict[str, Any] = {
        "name": "growth",
        "synthetic": True,
        "cohort": str(table),
        "images": {"size": SIDE, "channels": "grey"},
        "panels": {"by": "image"},
        "targets": {"label": ["normal", "ill"]},
        "backbones": ["test_resnet"],
        "weights": "random",
        "split": {"test": 0.2, "folds": 5, "restarts": 50},
        "baselines": {"off": "a measurement of networks"},
        "evaluation": {"response": False},
    }
    return build_study(values | changes, source="benchmark", folder=table.parent)


def measure_rows(folder: Path) -> dict[str, Any]:
    """The cost of the steps for the cohort in `folder`."""
    import numpy as np
    import pandas as pd

    from casewise.audit import twins
    from casewise.audit.run import audit
    from casewise.console import Silent
    from casewise.evaluation import results
    from casewise.pipeline.evaluate import outcomes
    from casewise.pipeline.prepare import prepare
    from casewise.pipeline.read import read
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import split

    costs: dict[str, Any] = {}

    def measured(name: str, step: Callable[[], Any]) -> Any:
        start = cpu_seconds()
        value = step()
        costs[name] = {"seconds": cpu_seconds() - start, "peak": peak_megabytes()}
        return value

    study = study_of(folder / "cases.csv")
    cohort = measured("table", lambda: read(study, None, Silent()))
    store = measured("images", lambda: prepare(study, cohort, RunFolder(folder / "run"), Silent()))
    sides = measured("split", lambda: split(cohort, study)).side
    compare, spent = twins.close_pairs, [0.0]

    def timed(*arguments: Any, **options: Any) -> Any:
        start = cpu_seconds()
        pairs = compare(*arguments, **options)
        spent[0] += cpu_seconds() - start
        return pairs

    twins.close_pairs = timed
    measured("audit", lambda: audit(study, cohort, store, sides))
    costs["  of which hashes"] = {"seconds": spent[0], "peak": 0.0}
    random = np.random.default_rng(0)
    of_learners = [made_predictions(cohort.panels, model, random) for model in ("test_resnet", "mobilenet_v2")]
    predictions = pd.concat(of_learners, ignore_index=True)
    measured("evaluation", lambda: results.evaluate(predictions, outcomes(study, predictions)))
    return costs


def made_predictions(panels: Any, model: str, random: Any) -> Any:
    """Predictions of a learner for every case, better than chance."""
    import numpy as np
    import pandas as pd

    truth = panels["label"].to_numpy(float)
    second = 1 / (1 + np.exp(-(truth - 0.5 + random.normal(size=len(truth)))))
    return pd.DataFrame(
        {
            "case": panels["case"].astype(str).to_numpy(),
            "subject": panels["subject"].astype(str).to_numpy(),
            "visit": "1",
            "day": np.nan,
            "region": "",
            "image": [str(number) for number in range(len(panels))],
            "model": model,
            "stage": "oof",
            "outer_fold": pd.array(np.unique(panels["subject"], return_inverse=True)[1] % 5, dtype="Int64"),
            "inner_fold": pd.array([pd.NA] * len(panels), dtype="Int64"),
            "target": "label",
            "y_true": truth,
            "y_pred": (second > 0.5).astype(float),
            "kind": "classification",
            "p0": 1 - second,
            "p1": second,
        }
    )


def measure_run(folder: Path, folds: int, backbones: int) -> dict[str, Any]:
    """The cost of a whole run on the cohort in `folder`."""
    from casewise.run import run

    study = study_of(
        folder / "cases.csv",
        backbones=["test_resnet", "test_byobnet"][:backbones],
        split={"test": 0.2, "folds": folds, "restarts": 50},
        recipe={"epochs": 4, "batch_size": 16},
        compute={"jobs": 1, "precision": "fp32", "memory_format": "channels_last", "threads": 1},
    )
    start = cpu_seconds()
    run(study, folder / f"run-{folds}-{backbones}")
    return {"run": {"seconds": cpu_seconds() - start, "peak": peak_megabytes()}}


def in_own_process(*arguments: Any) -> dict[str, Any]:
    """The result of a measurement in a process of its own, with a cache of its own."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--measure", *map(str, arguments)]
        environment = os.environ | {"CASEWISE_CACHE": cache, "MPLBACKEND": "Agg"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    costs: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return costs


def rows_table(sizes: tuple[int, ...]) -> None:
    """Measure and print the costs by the number of rows."""
    costs = []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_cohort(Path(folder), rows)
            costs.append(in_own_process("rows", folder))
        print(f"  {rows:,} rows measured", flush=True)
    print(f"CPU seconds by rows{'':<9}" + "".join(f"{rows:>12,}" for rows in sizes) + "   exponents")
    for step in costs[0]:
        seconds = [max(cost[step]["seconds"], 0.01) for cost in costs]
        exponents = [
            math.log(seconds[n + 1] / seconds[n]) / math.log(sizes[n + 1] / sizes[n]) for n in range(len(sizes) - 1)
        ]
        powers = "  ".join(f"{exponent:.2f}" for exponent in exponents)
        print(f"  {step:<26}" + "".join(f"{value:>12.1f}" for value in seconds) + f"   {powers}")
    print("peak memory in MB, after the step")
    for step in costs[0]:
        if not step.startswith(" "):
            print(f"  {step:<26}" + "".join(f"{cost[step]['peak']:>12,.0f}" for cost in costs))


def runs_table() -> None:
    """Measure and print the costs of whole runs."""
    print("a whole run               CPU seconds     ratio   peak MB")
    first = 0.0
    for name, (images, folds, backbones) in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            write_cohort(Path(folder), images)
            cost = in_own_process("run", folder, folds, backbones)["run"]
        first = first or cost["seconds"]
        print(f"  {name:<24}{cost['seconds']:>11.1f}{cost['seconds'] / first:>10.2f}{cost['peak']:>10,.0f}", flush=True)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="tables of up to 200,000 rows")
    parser.add_argument("--rows", type=int, nargs="+", help="other sizes of tables")
    parser.add_argument("--skip-runs", action="store_true", help="measure rows only")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        kind, folder, *numbers = options.measure
        costs = measure_rows(Path(folder)) if kind == "rows" else measure_run(Path(folder), *map(int, numbers))
        print(json.dumps(costs))
        return
    rows_table(tuple(options.rows) if options.rows else LARGE if options.large else SMALL)
    if not options.skip_runs:
        runs_table()


if __name__ == "__main__":
    main()
