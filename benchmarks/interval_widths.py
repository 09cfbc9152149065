"""How often do prediction intervals of numbers contain the reference in each band of it, by how their width is chosen?

    python benchmarks/interval_widths.py [--studies 50] [--output docs/results/interval-widths.md]
    python benchmarks/interval_widths.py --runs FOLDER ...

The page follows, with its figures in braces. With `--runs`, the same is printed of the numbers of finished runs.

# Widths of prediction intervals

How often [prediction intervals](../explanation-intervals.md) at 90 % contain the reference, overall and in the lower,
middle and upper third of the reference, by how their width is chosen:

- constant: one half width for all cases;
- scaled: a multiple of the error to expect at the prediction;
- by case, as in a run: such a multiple for each third of the reference.

Errors are drawn for numbers from 0 to 72: normal with a standard deviation of 6, growing with the number (1 plus a
quarter of it), skewed (exponential), or shared in part by the four visits of a subject. References have a gamma
distribution with a mean of 12; for errors of one size they are uniform. {studies} studies of each kind, with {new} new
subjects each. ± is the 95 % Monte-Carlo interval over studies. The last column is the share of studies whose report,
out of fold, says of a third that the aim is missed.

{finding}

{table}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pages import head_of, publish, simulation_parser
from pages import table as table_of

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.calibration import coverage
from casewise.predictions.conformal import fit, number_of_band, thirds, with_sets
from casewise.predictions.table import final_rows
from casewise.report.sections.calibration import missed

LEVEL, SEED, NEW = 0.9, 15, 400
STUDIES = 50
# Errors and numbers of subjects.
KINDS = (
    *(("one size", subjects) for subjects in (30, 60, 240)),
    *(("growing", subjects) for subjects in (30, 60, 240)),
    *(("skewed", subjects) for subjects in (30, 60, 240)),
    *(("four visits", subjects) for subjects in (40, 120)),
)
THIRDS = ("coverage, %", "lower third", "middle third", "upper third")
# Its bootstrap intervals are not used.
PLAN = Plan(resamples=10)


def percent(values: pd.Series) -> str:
    """The mean over the studies with a figure, and half of its 95 % Monte-Carlo interval."""
    return f"{100 * values.mean():.1f} ± {196 * values.sem():.1f}"


def constant(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of `casewise.predictions.conformal.fit` whose intervals have one half width for each target."""
    learners = {
        learner: {
            target: {name: value for name, value in entry.items() if name not in ("bands", "scale")}
            for target, entry in own.items()
        }
        for learner, own in record["learners"].items()
    }
    return {**record, "learners": learners}


def errors_of(kind: str, random: np.random.Generator, subjects: int, stage: str) -> pd.DataFrame:
    """Rows of the predictions table with drawn numbers, predicted with the errors of a kind in `KINDS`."""
    visits = 4 if "visits" in kind else 1
    number = np.repeat(np.arange(subjects), visits)
    count = len(number)
    truth = np.clip(random.gamma(1.5, 8, count), 0, 72) if kind != "one size" else random.uniform(0, 72, count)
    if kind == "growing":
        error = random.normal(0, 1 + 0.25 * truth)
    elif kind == "skewed":
        error = random.exponential(5, count) - 5
    elif visits > 1:
        error = random.normal(0, 1 + 0.15 * truth.reshape(-1, visits).mean(axis=1))[number] + random.normal(0, 2, count)
    else:
        error = random.normal(0, 6, count)
    missing = pd.array([pd.NA] * count, dtype="Int64")
    return pd.DataFrame(
        {
            "case": [f"{stage}{position}" for position in range(count)],
            "subject": [f"{stage}{each}" for each in number],
            "visit": "",
            "day": 0.0,
            "region": "",
            "image": "",
            "model": "net",
            "target": "score",
            "kind": "regression",
            "stage": stage,
            "inner_fold": missing,
            "outer_fold": pd.array(number % 5 + 1, dtype="Int64") if stage == "oof" else missing,
            "y_true": truth,
            "y_pred": np.clip(truth + error, 0, 72),
        }
    )


def covered(rows: pd.DataFrame, bounds: Sequence[float]) -> tuple[list[float], float]:
    """The share of covered rows, of all and by band of the reference (NaN without rows), and the mean width."""
    right = ((rows["y_true"] >= rows["low"] - 1e-9) & (rows["y_true"] <= rows["high"] + 1e-9)).to_numpy(dtype=float)
    band = number_of_band(rows["y_true"].to_numpy(), bounds)
    own = [right[band == number] for number in range(len(bounds) + 1)]
    shares = [float(each.mean()) if len(each) else np.nan for each in (right, *own)]
    return shares, float((rows["high"] - rows["low"]).mean())


def simulated(kind: str, subjects: int, studies: int) -> pd.DataFrame:
    """The figures of every study, a row for each kind of width."""
    results: list[dict[str, Any]] = []
    for study in range(studies):
        random = np.random.default_rng([SEED, subjects, study])
        oof, new = errors_of(kind, random, subjects, "oof"), errors_of(kind, random, NEW, "test")
        ranges, bounds = {"score": (0.0, 72.0)}, thirds(new["y_true"].to_numpy())
        record = fit(oof, ranges, LEVEL)
        records = {"constant": constant(record), "scaled": fit(oof, ranges, LEVEL, {"score": []}), "by case": record}
        for name, own in records.items():
            shares, width = covered(with_sets(new, own), bounds)
            bands = coverage(oof, "net", own, {}, PLAN)["targets"]["score"].stages["oof"].bands or []
            said = any(missed(band.coverage, LEVEL) for band in bands)
            figures = dict(zip(THIRDS, shares, strict=True)) | {"width": width, "said": said}
            results.append({"errors": kind, "subjects": subjects, "widths": name, **figures})
    return pd.DataFrame(results)


def of_runs(folders: Sequence[Path]) -> list[str]:
    """The coverage of every number of finished runs, of the reported learner out of fold, by third of the reference."""
    lines: list[list[object]] = []
    for folder in folders:
        rows = final_rows(pd.read_parquet(folder / "predictions.parquet"))
        rows = rows[(rows["stage"] == "oof") & (rows["kind"] == "regression")].dropna(subset=["y_true", "y_pred"])
        stored = json.loads((folder / "conformal.json").read_text())
        learner = json.loads((folder / "metrics.json").read_text())["main"]["learner"]
        for target, own in rows[rows["model"] == learner].groupby("target", sort=False):
            ranges = {target: tuple(stored["learners"][learner][target]["range"])}
            for name, bounds in (("constant", None), ("scaled", {target: list[float]()}), ("by case", None)):
                record = fit(own, ranges, stored["level"], bounds)
                bands = _crossed(own, record, one_width=name == "constant")
                bound = thirds(own["y_true"].to_numpy())
                shares, width = covered(bands, bound)
                cells = [f"{100 * share:.0f}" for share in shares]
                cells += ["–"] * (4 - len(cells))
                lines.append([folder.name, target, own["subject"].nunique(), name, *cells, f"{width:.2f}"])
    return table_of(["run", "target", "subjects", "half widths", *THIRDS, "mean width"], lines)


def _crossed(rows: pd.DataFrame, record: Mapping[str, Any], *, one_width: bool) -> pd.DataFrame:
    """The rows of each fold with the intervals of the other folds."""
    (own,) = record["learners"].values()
    ((target, entry),) = own.items()
    bounds = {target: [band["upper"] for band in entry.get("bands", ())[:-1]]}
    tables = []
    for fold in rows["outer_fold"].unique():
        others = fit(rows[rows["outer_fold"] != fold], {target: entry["range"]}, record["level"], bounds)
        tables.append(with_sets(rows[rows["outer_fold"] == fold], constant(others) if one_width else others))
    return pd.concat(tables, ignore_index=True)


def main() -> None:
    """Simulate, print and write the page."""
    parser = simulation_parser(__doc__, STUDIES)
    parser.add_argument("--runs", type=Path, nargs="+", help="finished runs: print only their coverage")
    options = parser.parse_args()
    if options.runs:
        print("\n".join(of_runs(options.runs)))
        return
    table = pd.concat([simulated(kind, subjects, options.studies) for kind, subjects in KINDS], ignore_index=True)
    lines, lowest = [], dict[str, float]()
    for (kind, subjects, name), rows in table.groupby(["errors", "subjects", "widths"], sort=False):
        cells = [percent(rows[column]) for column in THIRDS]
        lines.append([kind, subjects, name, *cells, f"{rows['width'].mean():.1f}", percent(rows["said"])])
        lowest[str(name)] = min(lowest.get(str(name), 1.0), *(rows[column].mean() for column in THIRDS))
    finding = "; ".join(f"{name} {100 * value:.1f} %" for name, value in lowest.items())
    heads = ["errors", "subjects", "widths", *THIRDS, "mean width", "said to miss, %"]
    text = "\n".join(table_of(heads, lines))
    finding = f"The lowest mean coverage of all rows and thirds: {finding}."
    publish(head_of(__doc__, table=text, finding=finding, studies=options.studies, new=NEW), options.output)


if __name__ == "__main__":
    main()
