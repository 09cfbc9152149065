"""How often do prediction intervals and sets contain the reference in studies of phantoms?

    python benchmarks/conformal.py [--studies 200] [--runs runs/auto] [--output docs/results/prediction-coverage.md]

Two populations are drawn once by the phantoms of casewise: trunk photographs under treatment (a number and grades), and
chest films (classes, one of them rare). Every study draws subjects of a population without replacement. Some of them
are its cohort, which is split, learned from and calibrated as in a run without networks (`linear_pixels`); the others
are new, and are predicted by the mean of the folds' models. With `--runs`, the page also has the figures that runs on
real images reported.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pages import parser_of, publish
from pages import table as table_of
from PIL import Image

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.calibration import coverage
from casewise.plugins.phantoms.draws import stream
from casewise.predictions.conformal import ROUNDING, interval, probabilities
from casewise.predictions.table import mean_over_folds

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.modalities.dataset import FeatureData
    from casewise.models.backbones import Network
    from casewise.study.schema import Study

LEVEL = 0.9
SUBJECTS = (60, 120, 240)
NEW = 100
MOST_CASES = 4
POPULATION = {"psoriasis": 500, "chest": 800}
SIDE = 32
SEED = 15
LEARNER = "linear_pixels"
FINDINGS = {"no_finding": 0.5, "pneumonia": 0.3, "covid": 0.2}
# Its bootstrap intervals are not used.
PLAN = Plan(resamples=10)
UNITS = {"redness": "grades", "finding": "classes"}
STAGES = {"test": "test set", "external": "external cohort"}
# The acceptance: the mean coverage over studies, and that of each class.
STUDIES = 200
LEAST, MOST, LEAST_OF_CLASS = 0.88, 0.92, 0.85
STUDY = """
name: {kind}
synthetic: true
cohort: {cohort}
images: {{size: {side}}}
panels: {{by: image}}
targets: {targets}
split: {{test: 0, folds: 5, restarts: 20}}
backbones: []
weights: random
evaluation: {{response: false}}
"""
# The only candidate of the learner (`casewise.models.linear.FeatureSpec`).
READS = {
    "psoriasis": {"source": "statistics", "channels": [], "modules": [], "summary": "grid", "cells": 1},
    "chest": {"source": "pixels", "channels": [0], "modules": [], "summary": "grid", "cells": 8},
}
TARGETS = {
    "psoriasis": "{severity: {range: [0, 72]}, redness: {kind: ordinal, classes: [none, mild, marked]}}",
    "chest": "{finding: [no_finding, pneumonia, covid]}",
}


@dataclass(frozen=True)
class Population:
    """Subjects of a phantom with all of their cases: what the learner reads of every image, and the labels."""

    study: Study
    cohort: Cohort
    features: FeatureData


def drawn(kind: str, subjects: int, folder: Path) -> Path:
    """The table of a population: subjects with one to `MOST_CASES` visits, an image each."""
    from casewise.plugins.phantoms.chest.cohort import draw_film
    from casewise.plugins.phantoms.psoriasis.cohort import course, draw_photograph

    rows: list[dict[str, Any]] = []
    table = folder / f"{kind}-{subjects}.csv"
    if table.exists():  # written last
        return table
    for number in range(subjects):
        random = stream(SEED, kind, number)
        visits = int(random.integers(1, MOST_CASES + 1))
        finding = str(random.choice(list(FINDINGS), p=list(FINDINGS.values())))
        grades = course(SEED, number, visits=visits, regions=("trunk",)).physician
        for visit in range(visits):
            path = folder / f"{kind}-{number}-{visit}.png"
            if kind == "chest":
                picture = draw_film(number, finding=finding, image=visit, seed=SEED, size=(64, 64)).picture
                labels: dict[str, Any] = {"finding": finding}
            else:
                picture = draw_photograph(number, visit, "trunk", seed=SEED, size=(48, 32)).picture
                grade = grades[visit]["trunk"]
                redness = ("none", "mild", "marked", "marked", "marked")[grade.erythema]
                labels = {"severity": grade.composite, "redness": redness}
            Image.fromarray(picture).save(path)
            rows.append({"path": path, "subject": f"S{number:04d}", "visit": visit + 1, **labels})
    pd.DataFrame(rows).to_csv(table, index=False)
    return table


def population(kind: str, subjects: int, folder: Path) -> Population:
    """A population, drawn, read and prepared as a run does it."""
    from casewise.cohort.targets import label_table
    from casewise.console import Silent
    from casewise.modalities.base import StoreAddress
    from casewise.modalities.dataset import FeatureData
    from casewise.modalities.registry import modality_of
    from casewise.models.shared_parts import compute_features
    from casewise.pipeline.read import prepare, read
    from casewise.run_folder import RunFolder
    from casewise.study.loading import read_study

    path = folder / f"{kind}.yaml"
    text = STUDY.format(kind=kind, cohort=drawn(kind, subjects, folder), side=SIDE, targets=TARGETS[kind])
    path.write_text(text, encoding="utf-8")
    study, run_folder = read_study(path), RunFolder(folder / kind)
    cohort = read(study, run_folder, Silent())
    store = prepare(study, cohort, run_folder, Silent())
    study = study.of_learner(LEARNER)
    panels, address = cohort.panels, StoreAddress(store.folder, store.address)
    data = modality_of(study).dataset(address, study, panels, label_table(panels, study), {})
    features = compute_features(learner(study), data)
    return Population(study, cohort, FeatureData(features, data.truth, data.names))


def learner(study: Study) -> Network:
    """The linear model on pixels before it is fitted; with one candidate, so that it is fitted fast."""
    from casewise.models.build_model import network_facts, network_from

    facts = network_facts(study, LEARNER)
    return network_from(facts | {"bank": facts["bank"] | {"specs": [READS[study.name]]}})


def restricted(cohort: Cohort, subjects: Sequence[str]) -> Cohort:
    """The cohort of some subjects."""
    tables = {name: getattr(cohort, name) for name in ("images", "panels", "cases")}
    return replace(cohort, **{name: table[table["subject"].isin(set(subjects))] for name, table in tables.items()})


def predictions(own: Population, learned: Sequence[str], new: Sequence[str], seed: int) -> pd.DataFrame:
    """Rows out of fold of the subjects `learned`, and those of the new subjects by the model of every fold.

    The folds are those of a run, and so are the models and the rows.
    """
    from casewise.inference.predictor import prediction_rows
    from casewise.models.outputs import outputs_of
    from casewise.models.shared_parts import predict_together
    from casewise.splits.grouped import split
    from casewise.training.linear_models import fit_head
    from casewise.training.loop import standardise

    study, outputs = own.study.model_copy(update={"seed": seed}), outputs_of(own.study)
    splits = split(restricted(own.cohort, learned), study)
    subject, tables = own.cohort.panels["subject"].astype(str), []
    for fold in range(splits.folds):
        fit_rows, *predicted_rows = (
            np.flatnonzero(subject.isin(set(names))) for names in (splits.training(fold), splits.subjects(fold), new)
        )
        network = learner(study)
        train = own.features.subset(fit_rows.tolist())
        standardise(network, train.truth, outputs)
        columns = fit_head(network, train, subject.iloc[fit_rows].tolist(), outputs).columns
        for stage, rows in zip(("oof", "test"), predicted_rows, strict=True):
            read = own.features.subset(rows.tolist())
            read = replace(read, features=read.features[:, columns])
            values = predict_together([network], read, outputs, batch=256, channels_last=False, flips=False)[0][0]
            panels = own.cohort.panels.iloc[rows]
            tables.append(prediction_rows(panels, study, values.numpy(), stage=stage, model=LEARNER, fold=fold))
    return pd.concat(tables, ignore_index=True)


def by_quantile(rows: pd.DataFrame, entry: Mapping[str, Any]) -> float:
    """The share of rows that their quantile covers, as a mean over subjects; sets are not extended by anything."""
    if "classes" in entry:
        truth = rows["y_true"].to_numpy(dtype=int)
        limits = np.array([np.inf if each["quantile"] is None else each["quantile"] for each in entry["classes"]])
        inside = 1 - probabilities(rows)[np.arange(len(rows)), truth] <= limits[truth] + ROUNDING
    else:
        low, high = interval(rows["y_pred"].to_numpy(dtype=float), entry)
        inside = (rows["y_true"] >= low - ROUNDING) & (rows["y_true"] <= high + ROUNDING)
    return _over_subjects(rows, inside)


def _over_subjects(rows: pd.DataFrame, values: np.ndarray | pd.Series) -> float:
    return float(pd.Series(np.asarray(values, dtype=float)).groupby(rows["subject"].to_numpy()).mean().mean())


def least_share(rows: pd.DataFrame, entry: Mapping[str, Any]) -> float:
    """What the calibration would reach on average with one case of each subject: the next m / (K + 1)."""

    def share(subjects: int) -> float:
        return min(1.0, float(np.ceil(LEVEL * (subjects + 1) - ROUNDING)) / (subjects + 1))

    if "classes" not in entry:
        return share(entry["subjects"])
    shares = np.array([share(each["subjects"]) for each in entry["classes"]])
    return _over_subjects(rows, shares[rows["y_true"].to_numpy(dtype=int)])


def figures(own: Population, rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """By target, what one study gives.

    `coverage` of new subjects, `width` or `size`, `class NAME`; `reported`, the cross-fitted coverage out of fold; and
    where the coverage comes from: `least`, `single` and `mean` (see `least_share` and `by_quantile`).
    """
    from casewise.pipeline.evaluate import calibrated

    study = own.study
    classes = {name: study.classes_of(name) for name in study.outputs if study.classes_of(name)}
    oof, tested = rows[rows["stage"] == "oof"], rows[rows["stage"] == "test"]
    record, means = calibrated(study, oof), mean_over_folds(tested)

    def stages(table: pd.DataFrame) -> dict[str, Any]:
        targets = coverage(table, LEARNER, record, classes, PLAN)["targets"]
        return {name: next(iter(entry["stages"].values())) for name, entry in targets.items()}

    new, reported, results = stages(pd.concat([oof, means])), stages(oof), {}
    for name in study.outputs:
        entry, size = record["learners"][LEARNER][name], "size" if name in classes else "width"
        of_target = means[means["target"] == name]
        results[name] = {
            "coverage": new[name]["coverage"]["value"],
            "reported": reported[name]["coverage"]["value"],
            size: new[name][size]["value"],
            "least": least_share(of_target, entry),
            "single": by_quantile(tested[tested["target"] == name], entry),
            "mean": by_quantile(of_target, entry),
        }
        for label, figure in new[name].get("by_class", {}).items():
            results[name][f"class {label}"] = figure["value"] if figure else np.nan
    return results


def simulate(own: Population, studies: int, file: Path) -> pd.DataFrame:
    """The figures of every study, a row for each target: `subjects`, `study`, `target` and those of `figures`.

    Finished studies are in `file`, one target a line, and are not repeated.
    """
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    results = [json.loads(line) for line in lines]
    finished = {(result["subjects"], result["study"]) for result in results}
    names = np.array(sorted(set(own.cohort.panels["subject"].astype(str))))
    for study in range(studies):
        for subjects in SUBJECTS:
            if (subjects, study) in finished:
                continue
            order = np.random.default_rng([SEED, subjects, study]).permutation(names)
            rows = predictions(own, order[:subjects].tolist(), order[subjects : subjects + NEW].tolist(), study)
            of_targets = figures(own, rows).items()
            of_study = [{"subjects": subjects, "study": study, "target": name, **each} for name, each in of_targets]
            results += of_study
            with file.open("a", encoding="utf-8") as stored:
                stored.write("".join(f"{json.dumps(result)}\n" for result in of_study))
    table = pd.DataFrame(results)
    return table[(table["study"] < studies) & table["subjects"].isin(SUBJECTS)]


@dataclass(frozen=True)
class Figure:
    """The mean of a figure over studies, with its 95 % Monte-Carlo interval."""

    value: float
    half_width: float
    studies: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """That of the studies with the figure, (S,)."""
        values = np.asarray([value for value in values if not np.isnan(value)])
        deviation = values.std(ddof=1) if len(values) > 1 else np.nan
        return cls(float(values.mean()), float(1.96 * deviation / np.sqrt(len(values))), len(values))

    @property
    def percent(self) -> str:
        """As text."""
        return f"{100 * self.value:.1f} ± {100 * self.half_width:.1f}"


def simulated(table: pd.DataFrame) -> list[str]:
    """The tables of the simulation: coverage, by class, and where it comes from."""
    groups = dict(list(table.groupby(["target", "subjects"])))
    overall, classes, steps = [], [], []
    for (target, subjects), rows in groups.items():
        figure = {name: Figure.of(rows[name].tolist()) for name in rows.columns[3:] if rows[name].notna().any()}
        wide, of_classes = figure.get("width"), figure.get("size")
        size = f"{wide.value:.1f} wide" if wide else f"{of_classes.value:.2f} {UNITS[target]}"
        cells = [figure["coverage"].percent, size, figure["reported"].percent]
        overall.append([target, subjects, len(rows), *cells])
        classes += [
            [target, name.removeprefix("class "), subjects, each.studies, each.percent]
            for name, each in figure.items()
            if name.startswith("class ")
        ]
        steps.append([target, subjects, *[figure[name].percent for name in ("least", "single", "mean", "coverage")]])
    return [
        *table_of(["target", "subjects", "studies", "coverage, %", "mean size", "reported out of fold, %"], overall),
        "",
        "## By class",
        "",
        *table_of(["target", "class", "subjects", "studies", "coverage, %"], classes),
        "",
        "## Where the coverage comes from",
        "",
        *table_of(["target", "subjects", "least, %", "single models, %", "their mean, %", "with all rules, %"], steps),
    ]


def verdict(table: pd.DataFrame) -> str:
    """What is inside the range of the acceptance and what is not, with the figures that are outside."""
    # rows of a study share its subjects
    every = Figure.of(table.groupby("study")["coverage"].mean().tolist())
    by_cell = {key: Figure.of(rows["coverage"].tolist()) for key, rows in table.groupby(["target", "subjects"])}
    outside = [
        f"{target} with {subjects} subjects ({figure.percent})"
        for (target, subjects), figure in by_cell.items()
        if not LEAST <= figure.value <= MOST
    ]
    classes = {
        (target, name.removeprefix("class "), subjects): Figure.of(rows[name].tolist())
        for (target, subjects), rows in table.groupby(["target", "subjects"])
        for name in rows.columns
        if name.startswith("class ") and rows[name].notna().any()
    }
    lowest = min(classes, key=lambda key: classes[key].value)
    low = [key for key, figure in classes.items() if figure.value < LEAST_OF_CLASS]
    fewest = min(len(rows) for _, rows in table.groupby(["target", "subjects"]))
    rough = f"**Unfinished: in places only {fewest} of {STUDIES} studies; differences of a few % may be chance.** "
    return (
        (rough if fewest < STUDIES else "")
        + f"Overall, the mean coverage in these two populations is {every.percent} %. "
        + f"Of {len(by_cell)} pairs of a target and a number of "
        f"subjects, {len(by_cell) - len(outside)} lie within {100 * LEAST:.0f} to {100 * MOST:.0f} %. "
        + (f"Outside: {'; '.join(outside)}. " if outside else "")
        + f"The lowest coverage of a class is {classes[lowest].percent} % "
        + f"({lowest[0]} {lowest[1]}, {lowest[2]} subjects); "
        + (f"{len(low)} of {len(classes)} are" if low else "none is")
        + f" below {100 * LEAST_OF_CLASS:.0f} %."
    )


def observed(runs: Path | None) -> list[str]:
    """What runs on real images reported of their primary outcome; a sentence where there is none."""
    from casewise.run_folder import RunFolder

    rows, low = [], []
    for path in sorted(runs.iterdir()) if runs and runs.is_dir() else []:
        results = RunFolder(path).metrics.read_if_exists() or {}
        target = (results.get("main") or {}).get("target")
        entry = results.get("prediction_sets", {}).get("targets", {}).get(target)
        for stage, of_stage in (entry or {}).get("stages", {}).items():
            if not (share := of_stage["coverage"]):
                continue
            size = of_stage.get("size") or of_stage["width"]
            by_class = {name: each for name, each in of_stage.get("by_class", {}).items() if each}
            lowest = min(by_class, key=lambda name: by_class[name]["value"], default=None)
            least = f"{lowest}: {_share(by_class[lowest])}, n = {by_class[lowest]['n_subjects']}" if lowest else "–"
            side = "out of fold, cross-fitted" if stage == "oof" else STAGES[stage]
            if share["value"] < LEAST:
                contains = share["high"] is not None and share["high"] >= results["prediction_sets"]["level"]
                ends = "contains" if contains else "does not contain"
                low.append(f"{path.name} ({side}, {100 * share['value']:.1f} %; its interval {ends} the level)")
            rows.append([path.name, target, side, share["n_subjects"], _share(share), f"{size['value']:.2f}", least])
    if not rows:
        return ["No folder of runs on real images was given (`--runs`), so there are none on this page."]
    text = f"Below {100 * LEAST:.0f} %: {'; '.join(low)}." if low else f"None is below {100 * LEAST:.0f} %."
    heads = ["run", "target", "cases", "subjects", "coverage, %", "mean size", "lowest class"]
    return [*table_of(heads, rows), "", text]


def _share(figure: Mapping[str, Any]) -> str:
    ends = "" if figure["low"] is None else f" [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"
    return f"{100 * figure['value']:.1f}{ends}"


PAGE = """# Coverage of prediction intervals and sets

How often the [prediction intervals and sets](../explanation-intervals.md) at 90 % contain the reference of cases of new
subjects. By `python benchmarks/conformal.py --runs runs/auto --output docs/results/prediction-coverage.md`.

{verdict}

## Simulated studies of phantoms

Two populations are drawn by casewise's phantoms: trunk photographs of {psoriasis} subjects under treatment
(`severity`, a number from 0 to 72, and `redness`, three grades), and chest films of {chest} subjects (`finding`, three
classes with 50, 30 and 20 % of the subjects). A subject has 1 to {most} cases. Every study draws its subjects from a
population without replacement, and {new} other ones as new subjects. It is split, learned from and calibrated by the
code of a run: five folds by subject, the linear model on pixels (with one candidate, images of {side} px), out-of-fold
predictions, and quantiles by subject and class. New cases are predicted by the mean of the five models.

Coverage is a mean over subjects, and then over studies; ± is its 95 % Monte-Carlo interval over studies. Size is the
mean width of intervals, or the mean number of classes in a set. The last column is the coverage that the study itself
would report without a test set, cross-fitted.

{simulated}

- *Least*: what the calibration would reach with one case of each subject, because a quantile is the error of one of *K*
  subjects: the smallest *m* / (*K* + 1) that is at least 90 %, with the *K* of the true class. A class with too few
  subjects is in every set and counts as 100 %.
- *Single models*: the quantile alone, on new cases predicted by the model of one fold (the mean over folds).
- *Their mean*: the quantile alone, on the mean of the models, which is what new cases get.
- *With all rules*: sets also contain the prediction, and those of grades have no gaps. For numbers nothing is added.

Rounding and the rules only make intervals and sets larger. That the mean of models errs less than one of them is usual
and not proven. Nothing was adjusted to reach a range: with few subjects of a class, coverage above 90 % is the price of
a guarantee without randomised sets.

## Real images

What finished runs reported for their primary outcome, with intervals by subject (by image where subjects are unknown).
Only figures of a test set are of cases that no network, stacker or calibration has used. The report and the result page
of a run have the same figures in the section on prediction intervals or sets, for every class.

{observed}
"""


def page(table: pd.DataFrame, runs: Path | None, **settings: int) -> str:
    """The page in Markdown, from the figures of every study (`conformal.simulate`).

    Args:
        runs: the folder of finished runs on real images, if there is one.
        settings: the numbers that the page states.
    """
    return PAGE.format(
        verdict=verdict(table),
        simulated="\n".join(simulated(table)),
        observed="\n".join(observed(runs)),
        **settings,
    )


def main() -> None:
    """Simulate, print and write the page."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--studies", type=int, default=STUDIES, help="studies of each population and number of subjects"
    )
    parser.add_argument("--runs", type=Path, help="the folder of finished runs on real images")
    parser.add_argument("--work", type=Path, help="a folder for populations and finished studies, to continue later")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder, tables = (options.work or Path(temporary)).resolve(), []
        for kind, subjects in POPULATION.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            own = population(kind, subjects, folder / kind)
            settings = "-".join(map(str, (kind, subjects, SIDE, MOST_CASES, NEW, LEVEL, SEED)))
            tables.append(simulate(own, options.studies, folder / f"{settings}.jsonl"))
            print(f"{kind}: {time.perf_counter() - start:.0f} s", flush=True)
    text = page(pd.concat(tables, ignore_index=True), options.runs, most=MOST_CASES, new=NEW, side=SIDE, **POPULATION)
    publish(text, options.output)


if __name__ == "__main__":
    main()
