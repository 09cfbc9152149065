"""How often do prediction intervals and sets contain the reference in studies of phantoms?

    python benchmarks/conformal.py [--studies 200] [--runs runs/auto] [--output docs/results/prediction-coverage.md]

Two populations are drawn once by the phantoms of casewise: trunk photographs under treatment (a number and grades), and
chest films (classes, one of them rare). Every study draws subjects of a population without replacement. Some of them
are its cohort, which is split, learned from and calibrated as in a run without networks (`linear_pixels`); the others
are new, and are predicted by the mean of the folds' models. With `--runs`, the page also has the figures that runs on
real images reported.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from conformal_page import STUDIES, page
from PIL import Image

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.conformal import coverage
from casewise.phantoms.draws import stream
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
# its bootstrap intervals are not used
PLAN = Plan(resamples=10)
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
# The only candidate of the learner (`casewise.models.feature_bank.FeatureSpec`).
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
    from casewise.phantoms.chest.cohort import draw_film
    from casewise.phantoms.psoriasis.cohort import draw_photograph
    from casewise.phantoms.psoriasis.severity import course

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
    from casewise.cohort.labels import label_table
    from casewise.console import Silent
    from casewise.modalities.base import StoreAddress
    from casewise.modalities.dataset import FeatureData
    from casewise.modalities.registry import modality_of
    from casewise.models.forward import compute_features
    from casewise.pipeline.prepare import prepare
    from casewise.pipeline.read import read
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
    from casewise.inference.to_table import prediction_rows
    from casewise.models.forward import predict
    from casewise.models.outputs import outputs_of
    from casewise.splits.grouped import split
    from casewise.training.linear_head import fit_head
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
            values = predict(network, read, outputs, batch=256, channels_last=False, bf16=False, flips=False)
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
    return float(pd.Series(np.asarray(inside, dtype=float)).groupby(rows["subject"].to_numpy()).mean().mean())


def least_share(rows: pd.DataFrame, entry: Mapping[str, Any]) -> float:
    """What the calibration would reach on average with one case of each subject: the next m / (K + 1)."""

    def share(subjects: int) -> float:
        return min(1.0, float(np.ceil(LEVEL * (subjects + 1) - ROUNDING)) / (subjects + 1))

    if "classes" not in entry:
        return share(entry["subjects"])
    shares = np.array([share(each["subjects"]) for each in entry["classes"]])
    return float(
        pd.Series(shares[rows["y_true"].to_numpy(dtype=int)]).groupby(rows["subject"].to_numpy()).mean().mean()
    )


def figures(own: Population, rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """By target, what one study gives.

    `coverage` of new subjects, `width` or `size`, `class NAME`; `reported`, the cross-fitted coverage out of fold; and
    where the coverage comes from: `least`, `single` and `mean` (see `least_share` and `by_quantile`).
    """
    from casewise.pipeline.conformal import calibrated

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


def main() -> None:
    """Simulate, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--studies", type=int, default=STUDIES, help="studies of each population and number of subjects"
    )
    parser.add_argument("--runs", type=Path, help="the folder of finished runs on real images")
    parser.add_argument("--work", type=Path, help="a folder for populations and finished studies, to continue later")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder, tables = options.work or Path(temporary), []
        for kind, subjects in POPULATION.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            own = population(kind, subjects, folder / kind)
            settings = "-".join(map(str, (kind, subjects, SIDE, MOST_CASES, NEW, LEVEL, SEED)))
            tables.append(simulate(own, options.studies, folder / f"{settings}.jsonl"))
            print(f"{kind}: {time.perf_counter() - start:.0f} s", flush=True)
    text = page(pd.concat(tables, ignore_index=True), options.runs, most=MOST_CASES, new=NEW, side=SIDE, **POPULATION)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
