"""How often do prediction intervals and sets contain the reference in studies of phantoms?

    python benchmarks/conformal.py [--studies 200] [--output docs/results/prediction-coverage.md]

The page follows, with its figures in braces. The models are those of a run without networks (`linear_pixels`).

# Coverage of prediction intervals and sets

How often the [prediction intervals and sets](../explanation-intervals.md) at 90 % contain the reference of cases of new
subjects.

Two populations are drawn by casewise's phantoms: trunk photographs of {psoriasis} subjects under treatment
(`severity`, a number from 0 to 72, and `redness`, three grades), and chest films of {chest} subjects (`finding`, three
classes with 50, 30 and 20 % of the subjects). A subject has 1 to {most} cases. Every study draws its subjects from a
population without replacement, and {new} other ones as new subjects. It is split, learned from and calibrated by the
code of a run: five folds by subject, the linear model on pixels (with one candidate, images of {side} px), out-of-fold
predictions, and quantiles by subject, case and class. New cases are predicted by the mean of the five models.

Coverage is a mean over subjects, and then over studies; ± is its 95 % Monte-Carlo interval over studies. Size is the
mean width of intervals, or the mean number of classes in a set. The last column is the coverage that the study itself
would report without a test set, cross-fitted.

{simulated}

By third of the reference, with intervals of one width and with those of a run ([other errors](interval-widths.md)):

{thirds}

Nothing was adjusted to reach a range: with few subjects of a class, coverage above 90 % is the price of a guarantee
without randomised sets. A quantile is the error of one of the subjects of a class, so it aims at the smallest
*m* / (*K* + 1) that is at least 90 %; a class with too few subjects is in every set; the mean of models usually errs
less than each of them; sets also contain the prediction, and two classes where none fits; those of grades have no gaps.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from interval_widths import THIRDS, constant, percent
from pages import head_of, publish, simulation_parser
from pages import table as table_of
from PIL import Image

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.calibration import coverage
from casewise.plugins.phantoms.scene import stream
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
# The aims: the mean coverage over studies, and that of each class.
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
    from casewise.plugins.phantoms.chest import draw_film
    from casewise.plugins.phantoms.psoriasis import course, draw_photograph

    rows: list[dict[str, Any]] = []
    table = folder / f"{kind}-{subjects}.csv"
    if table.exists():  # written last
        return table
    for number in range(subjects):
        random = stream(SEED, kind, number)
        visits = int(random.integers(1, MOST_CASES + 1))
        finding = str(random.choice(list(FINDINGS), p=list(FINDINGS.values())))
        grades = course(SEED, number, visits=visits).physician
        for visit in range(visits):
            path = folder / f"{kind}-{number}-{visit}.png"
            if kind == "chest":
                picture = draw_film(number, finding=finding, image=visit, seed=SEED, size=(64, 64)).picture
                labels: dict[str, Any] = {"finding": finding}
            else:
                picture = draw_photograph(number, visit, "trunk", seed=SEED, size=(48, 32)).picture
                grade = grades[visit]["trunk"]
                redness = ("none", "mild", "marked", "marked", "marked")[int(grade.erythema)]
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


def figures(own: Population, rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """By target, what one study gives.

    `coverage` of new subjects, `width` or `size`, `class NAME`, and `reported`, the cross-fitted coverage out of fold.
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
    record = constant(record)
    one_width = stages(pd.concat([oof, means]))
    for name in study.outputs:
        size = "size" if name in classes else "width"
        results[name] = {
            "coverage": new[name]["coverage"]["value"],
            "reported": reported[name]["coverage"]["value"],
            size: new[name][size]["value"],
        }
        for number, band in enumerate(one_width[name].get("bands", []), 1):
            results[name][f"constant {number}"] = band["coverage"]["value"]
            results[name]["constant width"] = one_width[name]["width"]["value"]
        for number, band in enumerate(new[name].get("bands", []), 1):
            results[name][f"third {number}"] = band["coverage"]["value"]
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
    for study, subjects in product(range(studies), SUBJECTS):
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


def simulated(table: pd.DataFrame) -> list[str]:
    """The sentences and tables of the page: what is outside the aims, coverage, and coverage by class."""
    overall, classes, outside, low = [], [], [], []
    for (target, subjects), rows in table.groupby(["target", "subjects"]):
        where, share = f"{target} with {subjects} subjects", rows["coverage"]
        mean = rows["size" if target in UNITS else "width"].mean()
        size = f"{mean:.2f} {UNITS[target]}" if target in UNITS else f"{mean:.1f} wide"
        overall.append([target, subjects, len(rows), percent(share), size, percent(rows["reported"])])
        if not LEAST <= share.mean() <= MOST:
            outside.append(f"{where} ({percent(share)})")
        for name in [name for name in rows.columns if name.startswith("class ") and rows[name].notna().any()]:
            label = name.removeprefix("class ")
            classes.append([target, label, subjects, rows[name].notna().sum(), percent(rows[name])])
            if rows[name].mean() < LEAST_OF_CLASS:
                low.append(f"{label} of {where}")
    return [
        f"Means outside {100 * LEAST:.0f} to {100 * MOST:.0f} %: {'; '.join(outside) or 'none'}. "
        f"Classes below {100 * LEAST_OF_CLASS:.0f} %: {'; '.join(low) or 'none'}.",
        "",
        *table_of(["target", "subjects", "studies", "coverage, %", "mean size", "reported out of fold, %"], overall),
        "",
        *table_of(["target", "class", "subjects", "studies", "coverage, %"], classes),
    ]


def phantom_thirds(table: pd.DataFrame) -> list[str]:
    """The table of the phantoms' severity by third of the reference, with one width and by case."""
    lines: list[list[object]] = []
    for (target, subjects), rows in table.groupby(["target", "subjects"]):
        if target in UNITS:
            continue
        for name, prefix, width in (("constant", "constant", "constant width"), ("by case", "third", "width")):
            shares = [percent(rows[f"{prefix} {number}"]) for number in (1, 2, 3)]
            lines.append([target, subjects, len(rows), name, *shares, f"{rows[width].mean():.1f}"])
    return table_of(["target", "subjects", "studies", "half widths", *THIRDS[1:], "mean width"], lines)


def main() -> None:
    """Simulate, print and write the page."""
    parser = simulation_parser(__doc__, STUDIES)
    parser.add_argument("--work", type=Path, help="a folder for populations and finished studies, to continue later")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, tables = (options.work or Path(temporary)).resolve(), []
        for kind, subjects in POPULATION.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            own = population(kind, subjects, folder / kind)
            settings = "-".join(map(str, (kind, subjects, SIDE, MOST_CASES, NEW, LEVEL, SEED)))
            tables.append(simulate(own, options.studies, folder / f"{settings}.jsonl"))
    figures_of_studies = pd.concat(tables, ignore_index=True)
    texts = {
        "simulated": "\n".join(simulated(figures_of_studies)),
        "thirds": "\n".join(phantom_thirds(figures_of_studies)),
    }
    facts = {"most": MOST_CASES, "new": NEW, "side": SIDE}
    publish(head_of(__doc__, **texts, **facts, **POPULATION), options.output)


if __name__ == "__main__":
    main()
