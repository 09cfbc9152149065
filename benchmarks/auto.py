"""Planned recipes on real packs: run the studies of `studies/auto`, and write how they compare with simple models.

    python benchmarks/auto.py [NAME ...] [--data ../shared/data] [--runs runs/auto] [--handwritten runs] [--output FILE]

Each study runs in `--runs`/NAME; a finished one is not run again. Its rows of the page are kept in benchmarks/auto with
the commit of their code, so that packs may be run on different days: the page has all packs that have rows. Figures
are compared with the aims of the project and never asserted. `--handwritten` has the run folders of the studies with a
recipe, by their names; without one, the figures of its page in docs/results are shown if there is one.

The head of the page follows.

# Planned recipes on real packs

Each study is at most eleven lines long. It states no recipe, no network and no size of images, except that of the
planes of scans ([planned recipes](../explanation-plan.md)). Figures are from cases that no model was trained on: out of
fold, or from the test set where the pack has an official one. The packs were run on different days: the table of times
names the version and the commit of each. In brackets 95 % intervals by subject. The reported
learner was stated in advance. The best baseline and the best network were chosen by their figures out of fold, which is
to their advantage. Differences are paired: both learners on the same cases and resamples of subjects. Intervals of
differences from a baseline hold for all pairs of learners of the study at once, except that of the primary comparison,
which has an interval of its own. The persons of oral, idrid and skin are not known: each image counts as a subject, so
that these figures may be too good and their intervals too narrow.

## What was chosen on these packs

These figures are not those of untouched data. The candidates of the linear models were compared on oral
and severity, the second, smaller side at which panels are read on severity, the mirror differences of volumes on
laterality, the width of the radial kernel and the number of its candidates on oral and hpylori, and the second encoder
on oral, hpylori, severity and laterality. It is left out with more than 1,000 panels because of its time; that it is
slightly better on covid-cxr had been seen. Of the short training, the average over positions was chosen on severity,
the learning rate and flips on severity, oral and hpylori, the number of epochs with flips on severity, the head of
volumes on two folds of laterality, and its first weights from a linear model on laterality; heads on averages start at
random, after both were tried on severity and oral. The absolute error as the measure of the weighted mean was chosen on
severity. The rounded mean as the decision of grades was chosen on idrid; on its test set the median would have been
better (0.70 against 0.68 in the run on which it was chosen). Several networks with different seeds, and the absolute
error as the loss of networks, were tried on severity and oral and not taken. Features averaged over flipped images
were compared with those of the image as it is on skin, oral, hpylori, idrid and severity. With those of the mirror
image, and where images have no upright position of all four flips, the mean of the linear and the kernel model had an
AUROC higher by 0.003, 0.002 and 0.001, a kappa higher by 0.018 (out of fold) and an error of extent lower by 0.017. Two
flips instead of four were worse on oral (-0.005). The rule for flips was made with the images of oral, hpylori, idrid,
severity and covid-cxr in view, without labels. Each choice was one of two to five values, by figures out of fold, so
expect a little optimism on severity, oral, hpylori, laterality, idrid and skin. Nothing was chosen on tumour, grade and
covid-cxr by their labels, but other studies of the same packs were known.

How images vary in training, MixUp, and the larger number of epochs were chosen on one half of the subjects of four
packs, in three folds, by the mean of the network and the kernel model minus the kernel model alone. Oral, AUROC: +0.003
with flips and 12 epochs, +0.011 with variation and 20 epochs, +0.010 with MixUp too; skin: +0.015 with variation,
+0.021 with MixUp too; severity, error of extent: +0.018 with flips, -0.139 with variation, -0.041 with MixUp too;
idrid, kappa: +0.021 with flips, +0.009 with variation, +0.006 with MixUp too. So numbers have no MixUp, grades flips
alone. Averages of the weights over the last steps changed nothing beside MixUp (oral +0.009, skin +0.020); half the
learning rate made oral (+0.011) no worse and skin (+0.010) worse. The other half judges in a table of its own.

A network is trained where at least 8 epochs fit into the budget: in these runs of 15 minutes on two cores, only on
grade. Elsewhere the planned learner combines the baselines.

## Planned recipe, linear baselines and network
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pages import head_of, page_parser, publish
from pages import table as table_of

import casewise
from casewise.analysis.run import Run
from casewise.errors import CasewiseError
from casewise.evaluation.figures import Figures
from casewise.evaluation.judges import Judgement
from casewise.files import checksum, json_hash, write_json
from casewise.metrics.registry import metric_of
from casewise.plugins.init.own_data import plan_study
from casewise.predictions.table import SAMPLE_KEY
from casewise.study.loading import read_study
from casewise.study.schema import Study
from casewise.targets import kind_named

ROOT = Path(__file__).resolve().parents[1]
# The rows of the packs that were run, and the predictions of an earlier commit on the same cases.
RECORDS = Path(__file__).with_name("auto")
BEFORE, BEFORE_COMMIT = Path(__file__).with_name("auto_before.npz"), "2dcffd7e"
MISSING = "–"
TEST = 0  # the fold of the test set
# Packs that are folders of images without a table, which `casewise init` writes.
FOLDERS = {"skin": "photographs-skin/images"}
# The studies with a recipe of the same pack.
HANDWRITTEN = {
    "laterality": ["lgg"],
    "tumour": ["lgg-tumour"],
    "grade": ["lgg-grade"],
    "severity": ["covid-severity", "covid-severity-pretrained"],
    "idrid": ["idrid"],
    "oral": ["oral"],
    "hpylori": ["hpylori", "hpylori-cnn"],
    "covid-cxr": ["covid-cxr"],
}
# What the project wants to reach: study, target, metric, stage, figure; None: at chance, as a negative control.
AIMS: list[tuple[str, str, str, str, float | None]] = [
    ("laterality", "side", "auroc", "oof", 0.98),
    ("tumour", "tumour", "auroc", "oof", 0.91),
    ("grade", "grade", "auroc", "oof", None),
    ("severity", "extent", "mae", "oof", 0.95),
    ("severity", "opacity", "mae", "oof", 0.70),
    ("severity", "brixia", "mae", "oof", 2.10),
    ("idrid", "dr_grade", "kappa_quadratic", "test", 0.74),
    ("idrid", "dr_grade", "kappa_quadratic", "oof", 0.80),
    ("oral", "label", "auroc", "oof", 0.95),
    ("oral", "label", "accuracy", "oof", 0.89),
    ("hpylori", "label", "auroc", "oof", 0.985),
    ("covid-cxr", "label", "auroc", "oof", 0.94),
    ("covid-cxr", "label", "accuracy", "oof", 0.83),
]
# By how much the reported learner may be below its best part: 1 % of a mean absolute error, else this difference.
TOLERANCE, TOLERANCE_MAE = 0.003, 0.01
CONTROLS = {name for name, *_, aim in AIMS if aim is None}
STAGES = {"test": "test set", "oof": "out of fold"}
SHOWN = {"classification": ("auroc", "accuracy"), "ordinal": ("kappa_quadratic",), "regression": ("mae",)}


# What the mean of networks and baselines should add to the best baseline, out of fold.
LEAST_GAIN, FEWEST_PACKS = 0.01, 3


# Where the variation of images in training, and its length, were chosen on half of the subjects.
HALVED = ("oral", "skin", "severity", "idrid")
# Where a rule was chosen by these very figures; the rounded mean alone changed whether the aim is reached.
CHOSEN = {("idrid", "oof")}
CHOSEN_HERE = ", with a rule chosen on these cases"


BUDGET = """# Time used by planned runs

Runs of `studies/budget`. Requested is the `budget`, expected what the run says before its networks
begin, used the time of the whole command, load the average of the minute before it, in which the run of
the line above may still have been under way.

"""
BUDGET_HEAD = ("study", "busy beside it, and load", "requested", "expected", "used", "share", "epochs")


@dataclass(frozen=True)
class Figure:
    """A metric of a target of a finished run, for the learner that the run reports."""

    name: str
    run: Run
    target: str
    metric: str
    stage: str

    @property
    def cases(self) -> str:
        """The cases that the figure is of, in words."""
        return STAGES[self.stage]

    @property
    def learner(self) -> str:
        """The learner of the headline, which is stated in advance and the same for all targets."""
        return str(self.run.results["main"]["learner"])

    @property
    def estimate(self) -> dict[str, Any]:
        """Value and interval."""
        return self.of(self.learner) or {"value": None}

    @property
    def cells(self) -> list[str]:
        """The first cells of its line of a table."""
        estimate = with_interval(self.estimate, self.metric)
        return [self.name, self.target, self.cases, metric_of(self.metric).title, estimate]

    @property
    def chance(self) -> str:
        """Whether the interval of the metric by which learners are chosen includes the value of guessing, in words."""
        merit = kind_named(self.run.study.kind_of(self.target)).merit
        entry, chance = self.of(self.learner, merit) or {}, metric_of(merit).chance
        low, high = entry.get("low"), entry.get("high")
        if chance is None or low is None or high is None:
            return "not known"
        if low <= chance <= high:
            return "at chance"
        return "above chance" if low > chance else "below chance"

    def of(self, learner: str, metric: str = "", stage: str = "") -> dict[str, Any] | None:
        """Value and interval of a learner; None if it was not evaluated."""
        entry = self.run.results.figures.of(stage or self.stage, learner, self.target).get(metric or self.metric)
        return dict(entry) if entry and entry.value is not None else None

    def best(self, learners: Sequence[str]) -> str | None:
        """The best of the learners by the merit out of fold, or at the stage if nothing is out of fold."""
        merit = kind_named(self.run.study.kind_of(self.target)).merit
        chosen_on = "oof" if "oof" in self.run.results.stages else self.stage
        values = {name: entry["value"] for name in learners if (entry := self.of(name, merit, chosen_on))}
        return max(values, key=lambda name: values[name]) if values else None


def folds_of(run: Run) -> dict[str, int]:
    """The fold of each subject, from 1; `TEST` of the test set."""
    return {name: TEST if side == "test" else int(side) for name, side in run.files.splits.read()["subjects"].items()}


def cases_of(study: Study, cohort: pd.DataFrame, side: Mapping[str, int], target: str) -> pd.DataFrame:
    """One row for each image with a label: path without the leading slash, subject, fold (`TEST`: test set), label."""
    values = cohort[target].astype(float)
    names = study.classes_of(target)
    labels = [names[int(value)] if names and value == value else value for value in values]
    absolute = [Path(path).resolve().as_posix().lstrip("/") for path in cohort["path"]]
    folds = [side[str(subject)] for subject in cohort["subject"]]
    columns = {"path": absolute, "subject": cohort["subject"].astype(str), "fold": folds, "label": labels}
    table = cohort[["case"]].assign(**columns, image=cohort["path"].astype(str))
    return table[values.notna().to_numpy()].reset_index(drop=True)


def split_of(table: pd.DataFrame) -> str:
    """What identifies images, labels and folds, wherever the images lie."""
    return json_hash(table.drop(columns="path").to_csv(index=False))


def figures(name: str, run: Run) -> Iterator[Figure]:
    """Every target that was evaluated, in the metrics of its kind, on the test set and out of fold."""
    for target in run.targets:
        for metric in SHOWN[run.study.kind_of(target)]:
            for stage in STAGES:
                if (figure := Figure(name, run, target, metric, stage)).of(figure.learner):
                    yield figure


def with_interval(entry: dict[str, Any] | None, metric: str, *, key: str = "value", sign: str = "") -> str:
    """A figure and its interval as text; `key`: where the figure is."""
    if not entry or entry.get(key) is None:
        return MISSING
    form = f"{sign}.3f"
    ends = [entry.get("low"), entry.get("high")]
    if None in ends or any(end != end for end in ends):  # NaN: no interval
        return f"{entry[key]:{form}} (no interval)"
    return f"{entry[key]:{form}} [{ends[0]:{form}}, {ends[1]:{form}}]"


def paired(first: Run, second: Run, figure: Figure, learners: tuple[str, str]) -> dict[str, Any] | None:
    """The second run's learner minus the first run's, on their common cases; None if there is none to compare.

    Where each case has one image in both runs, one of them may judge images and the other cases.
    """
    from casewise.analysis.plots import choose

    chosen = zip((first, second), learners, ("study", "planned"), strict=True)
    tables = [choose(run, name, figure.target, figure.stage).rows.assign(model=side) for run, name, side in chosen]
    if not any(table["case"].duplicated().any() for table in tables):
        tables = [table.assign(image="") for table in tables]
    both = tables[0].merge(tables[1], on=list(SAMPLE_KEY), suffixes=("", "_other"))
    if both.empty or not np.allclose(both["y_true"], both["y_true_other"]):
        return None
    rows = pd.concat([table.merge(both[list(SAMPLE_KEY)], on=list(SAMPLE_KEY)) for table in tables])
    gaps = judged(second.study, rows, figure.target).compare()
    return difference(gaps, figure.metric, "planned", "study")


def judged(study: Study, rows: pd.DataFrame, target: str) -> Judgement:
    """The judgement of learners' rows by the settings of a study."""
    from casewise.evaluation.bootstrap import Plan
    from casewise.evaluation.judges import judge_of

    settings = study.evaluation
    plan = Plan(settings.bootstrap_resamples, settings.confidence, study.seed)
    judge = judge_of(rows, study.classes_of(target) or None, study.positive_of(target))
    return judge.judge(rows, plan, whole=True)


def from_baseline(figure: Figure, baseline: str) -> dict[str, Any] | None:
    """The learner minus the baseline, by the run's intervals of this pair or all pairs; None if not compared.

    The pair of the primary comparison has an interval of its own, and the others have intervals that hold together.
    """
    gaps = figure.run.results.figures.contrasts(figure.stage, figure.target)
    return difference(gaps, figure.metric, figure.learner, baseline)


def baseline_rows(shown: Sequence[Figure]) -> Iterator[list[str]]:
    """For each figure the planned run beside its best baseline and its best network."""
    from casewise.study.learners import baselines_among

    for figure in shown:
        baselines = baselines_among(figure.run.results.learners(figure.stage))
        baseline, network = figure.best(baselines), figure.best(figure.run.study.networks)
        difference = from_baseline(figure, baseline) if baseline else None
        yield [
            *figure.cells,
            named(baseline, with_interval(figure.of(baseline or ""), figure.metric)),
            named(network, with_interval(figure.of(network or ""), figure.metric)),
            with_interval(difference, figure.metric, key="difference", sign="+"),
            worse(difference, figure.metric),
            figure.chance,
        ]


def difference(gaps: Figures, metric: str, learner: str, other: str) -> dict[str, Any] | None:
    """A learner minus another one; None if they were not compared."""
    gap = gaps.gap(metric, learner, other)
    if gap is None:
        return None
    return {"difference": gap.value, "low": gap.low, "high": gap.high, "distinguishable": not gap.open}


def untouched_rows(shown: Sequence[Figure]) -> Iterator[list[str]]:
    """The planned run beside its best baseline, on the half of the subjects on which no variation was chosen."""
    from casewise.analysis.plots import choose
    from casewise.study.learners import baselines_among

    for figure in shown:
        run, target = figure.run, figure.target
        baseline = figure.best(baselines_among(run.results.learners(figure.stage)))
        if figure.name not in HALVED or figure.stage != "oof" or baseline is None:
            continue
        rows = pd.concat([choose(run, name, target, "oof").rows for name in (figure.learner, baseline)])
        rows = rows[rows["subject"].astype(str).map(in_second_half)]
        half = judged(run.study, rows, target)
        estimates = [asdict(half.metrics[name][figure.metric]) for name in (figure.learner, baseline)]
        planned, other = (with_interval(each, figure.metric) for each in estimates)
        gap = difference(half.compare(), figure.metric, figure.learner, baseline)
        between = [with_interval(gap, figure.metric, key="difference", sign="+"), worse(gap, figure.metric)]
        yield [figure.name, target, metric_of(figure.metric).title, planned, named(baseline, other), *between]


def in_second_half(subject: str) -> bool:
    """Whether a subject is of the half on which no variation of images was chosen."""
    return hashlib.sha256(subject.encode()).digest()[-1] % 2 == 1


def worse(difference: dict[str, Any] | None, metric: str) -> str:
    """Whether the interval of a difference shows that the planned run is better or worse, in words."""
    if not difference or difference["low"] is None or difference["low"] != difference["low"]:
        return "not known"
    if not difference["distinguishable"]:
        return "not shown to differ"
    return "better" if (difference["difference"] > 0) == bool(metric_of(metric).larger_is_better) else "**worse**"


def handwritten_rows(shown: Sequence[Figure], folder: Path | None, pages: Path) -> Iterator[list[str]]:
    """For each figure the studies with a recipe that have it: from their run folders, else from their pages."""
    for figure in shown:
        for name in HANDWRITTEN.get(figure.name, []):
            try:
                other = Run.open((folder or Path("?")) / name) if folder else None
            except CasewiseError:
                other = None
            if other is None or figure.target not in other.targets:
                if value := on_page(pages / f"{name}.md", figure):
                    yield [*figure.cells, name, value, f"best learner of [its page]({name}.md)", MISSING, "not known"]
                continue
            learner = str(other.results["main"]["learner"])
            entry = Figure(name, other, figure.target, figure.metric, figure.stage).of(learner)
            gap = paired(other, figure.run, figure, (learner, figure.learner))
            text = with_interval(gap, figure.metric, key="difference", sign="+")
            yield [*figure.cells, name, with_interval(entry, figure.metric), learner, text, worse(gap, figure.metric)]


def on_page(page: Path, figure: Figure) -> str:
    """The best figure of the learners of a results page, with its interval; empty if the page has none of these cases.

    Pages have one table of learners, of the primary outcome, on the test set if there is one.
    """
    if figure.target != figure.run.study.primary_outcome or not page.is_file():
        return ""
    lines = page.read_text().splitlines()
    head = next((n for n, line in enumerate(lines) if line.casefold().startswith("| learner | kind |")), len(lines))
    cases = next((line for line in reversed(lines[:head]) if line), "")
    if STAGES[figure.stage] not in cases.casefold().partition(", the best ")[0]:
        return ""
    titles, _, *rows = ([cell.strip() for cell in line.split("|")] for line in lines[head:])
    rows = itertools.takewhile(lambda row: len(row) == len(titles), rows)
    entries = [dict(zip(map(str.casefold, titles), row, strict=True)) for row in rows]
    title = metric_of(figure.metric).title.casefold()
    # published figures are of other data
    learners = [entry for entry in entries if entry.get("kind") != "published"]
    values = [entry[title] for entry in learners if entry.get(title, MISSING) != MISSING]
    best = max if metric_of(figure.metric).larger_is_better else min
    return best(values, key=lambda text: float(text.split()[0]), default="")


def aim_rows(pack: str, shown: Sequence[Figure], untouched: Sequence[list[str]]) -> Iterator[list[str]]:
    """Every aim of a pack, beside the figure that was reached, and that of `untouched_rows`."""
    halves = {(target, title): planned for _, target, title, planned, *_ in untouched}
    by_key = {(figure.target, figure.metric, figure.stage): figure for figure in shown}
    for name, target, metric, stage, aim in AIMS:
        if name != pack:
            continue
        figure = by_key.get((target, metric, stage))
        if figure is None:
            yield [*aim_cells(name, target, metric, stage, aim), MISSING, "not evaluated", ""]
            continue
        larger, value = metric_of(metric).larger_is_better, figure.estimate["value"]
        reached = figure.chance == "at chance" if aim is None else (value >= aim if larger else value <= aim)
        decided = ("yes" if reached else "no") + (CHOSEN_HERE if (name, stage) in CHOSEN else "")
        half = halves.get((target, metric_of(metric).title), "") if stage == "oof" else ""
        estimate = with_interval(figure.estimate, metric)
        yield [*aim_cells(name, target, metric, stage, aim), estimate, decided, half]


def aim_cells(name: str, target: str, metric: str, stage: str, aim: float | None) -> list[str]:
    """The first cells of the line of an aim."""
    text = "at chance" if aim is None else f"{'≥' if metric_of(metric).larger_is_better else '≤'} {aim:g}"
    return [name, target, STAGES[stage], metric_of(metric).title, text]


def part_rows(shown: Sequence[Figure]) -> Iterator[list[str]]:
    """The reported learner beside its best part, chosen by the same figures, in the merit of each target."""
    from casewise.study.learners import baselines_among

    for figure in shown:
        run, stage = figure.run, figure.stage
        parts = [*baselines_among(run.results.learners(stage)), *run.study.networks]
        values = {name: entry["value"] for name in parts if (entry := figure.of(name))}
        if figure.metric == "accuracy" or not values:
            continue
        larger = metric_of(figure.metric).larger_is_better
        best = (max if larger else min)(values, key=lambda name: values[name])
        gap = figure.estimate["value"] - values[best]
        allowed = -TOLERANCE if larger else TOLERANCE_MAE * values[best]
        within = gap >= allowed if larger else gap <= allowed
        estimate = with_interval(figure.of(best), figure.metric)
        yield [*figure.cells, best, estimate, f"{gap:+.3f}", "yes" if within else "**no**"]


def within_lines(parts: Sequence[list[str]]) -> str:
    """How many targets are within the tolerance of their best part, and which are not."""
    beyond = [f"{name} ({target}, {cases})" for name, target, cases, *_, within in parts if within != "yes"]
    text = f"At most {TOLERANCE} below the best part (mean absolute error: {TOLERANCE_MAE:.0%} above it): "
    text += f"{len(parts) - len(beyond)} of {len(parts)} figures"
    return text + (f"; not {', '.join(beyond)}." if beyond else ".") + " The best part is known only afterwards."


def before_rows(shown: Sequence[Figure]) -> Iterator[list[str]]:
    """The planned run beside that of an earlier version, where cases and folds are the same."""
    recorded = np.load(BEFORE)
    for figure in shown:
        facts = json.loads(str(recorded["facts"])).get(figure.name)
        if facts is None or (figure.target, figure.stage) != (facts["target"], facts["stage"]):
            continue
        now, run = reference(figure), figure.run
        split = split_of(cases_of(run.study, run.files.cohort.read(), folds_of(run), figure.target))
        if json_hash("\n".join(now["key"])) != facts["keys"] or split != facts["split"]:
            yield [*figure.cells, "other cases or folds", MISSING, "not known"]
            continue
        before = now.assign(model="before", y_pred=recorded[f"{figure.name}_y"].astype(float))
        if f"{figure.name}_p" in recorded:
            shares = recorded[f"{figure.name}_p"].astype(float)
            before = before.assign(**{f"p{n}": shares[:, n] for n in range(shares.shape[1])})
        rows = pd.concat([now.assign(model="now"), before]).drop(columns="key")
        both = judged(figure.run.study, rows, figure.target)
        entry = asdict(both.metrics["before"][figure.metric])
        gap = difference(both.compare(), figure.metric, "now", "before")
        text = with_interval(gap, figure.metric, key="difference", sign="+")
        yield [*figure.cells, with_interval(entry, figure.metric), text, worse(gap, figure.metric)]


def reference(figure: Figure) -> pd.DataFrame:
    """The rows of the reported learner, in the order of the names of cases and images, which are their `key`."""
    from casewise.analysis.plots import choose

    rows = choose(figure.run, figure.learner, figure.target, figure.stage).rows
    return rows.assign(key=rows["case"] + "|" + rows["image"]).sort_values("key")


def gain_of(shown: Sequence[Figure]) -> float | None:
    """The AUROC of the primary outcome minus that of the best baseline; None for controls and other metrics."""
    from casewise.study.learners import baselines_among

    for figure in shown:
        primary = figure.target == figure.run.study.primary_outcome
        if figure.stage != "oof" or not primary or figure.metric != "auroc" or figure.name in CONTROLS:
            continue
        baseline = figure.best(baselines_among(figure.run.results.learners("oof")))
        if baseline and (gap := from_baseline(figure, baseline)):
            return float(gap["difference"])
    return None


def verdicts(words: Sequence[str]) -> str:
    """How often each of the verdicts of `worse` was reached.

    >>> verdicts(["better", "**worse**", "better"])
    'better 2, not shown to differ 0, worse 1 of 3'
    """
    plain = [word.strip("*") for word in words]
    named = ("better", "not shown to differ", "worse")
    return ", ".join(f"{verdict} {plain.count(verdict)}" for verdict in named) + f" of {len(plain)}"


def added_lines(gains: Mapping[str, float | None]) -> Iterator[str]:
    """Whether planned runs have the aimed difference from their best baseline, and on which packs they are below it."""
    gaps = {name: gap for name, gap in gains.items() if gap is not None}
    enough = [f"{name} {gap:+.3f}" for name, gap in gaps.items() if gap >= LEAST_GAIN]
    below = [f"{name} {gap:+.3f}" for name, gap in gaps.items() if gap < 0]
    reached = "reached" if len(enough) >= FEWEST_PACKS and not below else "not reached"
    yield f"The aim was an AUROC higher by {LEAST_GAIN:.3f} than that of the best baseline on {FEWEST_PACKS} packs or"
    yield f"more, and lower on none, whether or not a difference is shown: {reached}. Of {len(gaps)} packs with an"
    yield f"AUROC, without the control, higher by so much: {', '.join(enough) or 'none'}; lower: "
    yield f"{', '.join(below) or 'none'}."


def cost_cells(name: str, run: Run) -> list[str]:
    """Sizes, training time and the plan of a run."""
    plan = run.files.plan_page.path
    words = plan.read_text().splitlines()[0].removeprefix("# ") if plan.is_file() else MISSING
    images, table = run.files.cohort.read(), run.rows
    subjects = f"{table['subject'].nunique():,}" if run.study.subjects_known else "not known"
    return [name, f"{len(images):,}", subjects, clock(training_seconds(run)), words]


def training_seconds(run: Run) -> float:
    """The seconds of training of all learners on all folds."""
    return sum(float(record.get("seconds", 0.0)) for record in run.files.job_records(run.study.learners))


def clock(seconds: float | None) -> str:
    """Seconds as minutes and seconds.

    >>> clock(83.4), clock(None)
    ('1:23', 'not measured')
    """
    return "not measured" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def named(name: str | None, figure: str) -> str:
    """A figure and the learner that it is of."""
    return f"{name}: {figure}" if name else MISSING


def table(head: Sequence[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(table_of(head, rows)) + "\n"


def record_of(name: str, run: Run, handwritten: Path | None, pages: Path) -> dict[str, Any]:
    """The rows of a finished run on the page, by table, and the code that made them."""
    shown = list(figures(name, run))
    untouched = list(untouched_rows(shown))
    return {
        "baselines": list(baseline_rows(shown)),
        "gain": gain_of(shown),
        "parts": list(part_rows(shown)),
        "before": list(before_rows(shown)),
        "untouched": untouched,
        "handwritten": list(handwritten_rows(shown, handwritten, pages)),
        "aims": list(aim_rows(name, shown, untouched)),
        "costs": [*cost_cells(name, run), f"{casewise.__version__}, {commit()}"],
        "run": checksum(run.files.metrics.path),
    }


def recorded(record: dict[str, Any], file: Path) -> dict[str, Any]:
    """A record; with the code of the one in the file, if the run is the same."""
    earlier = json.loads(file.read_text()) if file.is_file() else {}
    if earlier.get("run") != record["run"]:
        return record
    return record | {"costs": [*record["costs"][:-1], earlier["costs"][-1]]}


def commit() -> str:
    """The last commit that changed the code or the studies, or that they have changes that are not committed."""
    code = ["--", "src", "studies"]
    ask = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    if ask(["git", "status", "--porcelain", *code]).stdout:
        return "changes that are not committed"
    return ask(["git", "log", "-1", "--format=%h", "--abbrev=8", *code]).stdout.strip()


def page(records: dict[str, dict[str, Any]], failed: dict[str, str]) -> str:
    """The page on all packs that have rows, by their names."""

    def rows(key: str) -> list[list[str]]:
        return [row for record in records.values() for row in record[key]]

    text = head_of(__doc__) + "\n"
    head = ["pack", "target", "cases", "metric", "planned", "best baseline", "best network alone", "planned − baseline"]
    text += f"The planned learner beside the best baseline: {verdicts([row[8] for row in rows('baselines')])}.\n\n"
    text += table([*head, "", "planned and guessing"], rows("baselines"))
    text += (
        "\n“At chance” means that the interval of the AUROC includes 0.5, or that of kappa (grades) or of the "
        "concordance (numbers) includes 0: nothing is shown to be learned.\n"
    )
    text += "\n" + "\n".join(added_lines({name: record["gain"] for name, record in records.items()})) + "\n"
    text += "\n## Reported learner and its best part\n\n" + within_lines(parts := rows("parts")) + "\n\n"
    head = ["pack", "target", "cases", "metric", "reported", "best part", "its figure", "reported − part", "within"]
    text += table(head, parts)
    text += f"\n## Before and now\n\nThe planned run of commit {BEFORE_COMMIT}, with a budget of 30 minutes instead of "
    text += "15, on the same cases. Differences are paired.\n\n"
    head = ["pack", "target", "cases", "metric", "planned now", "planned before", "now − before", ""]
    text += table(head, rows("before"))
    text += "\n## Subjects on which no variation was chosen\n\nOut of fold, of half of the subjects of each pack.\n\n"
    head = ["pack", "target", "metric", "planned", "best baseline", "planned − baseline", ""]
    text += table(head, rows("untouched"))
    text += "\n## Studies with a recipe\n\nPaired on common cases. Folds may differ: those of idrid are random in the\n"
    text += "study, and of neighbouring files in the planned run.\n\n"
    head = ["pack", "target", "cases", "metric", "planned", "study", "its figure", "of", "planned − study", ""]
    text += table(head, rows("handwritten"))
    text += (
        "\n## Aims\n\nAims are compared before rounding. Nothing was chosen by labels of tumour, grade and covid-cxr; "
    )
    text += "elsewhere “yes” is optimistic.\n\n"
    head = ["pack", "target", "cases", "metric", "aim", "planned", "reached", "half on which no variation was chosen"]
    absent = ([*aim_cells(*aim), MISSING, "not run", ""] for aim in AIMS if aim[0] not in records)
    text += table(head, [*rows("aims"), *absent])
    text += "\n## Time\n\nMinutes and seconds of training, summed over all learners and folds, which are trained side\n"
    text += "by side on as many cores as there are; longer where the machine did other work at the same time.\n\n"
    head = ["pack", "images", "subjects", "training", "plan", "version and commit"]
    text += table(head, (record["costs"] for record in records.values()))
    if failed:
        text += "\n## Not finished\n\n" + "".join(f"- {name}: {reason}\n" for name, reason in failed.items())
    return text


def is_finished(folder: Path, study: Path) -> bool:
    """Whether a study has been run since its file was last written."""
    from casewise.run_folder import RunFolder

    files = RunFolder(folder)
    done = files.metrics.exists() and files.report.path.is_file()
    return done and files.metrics.path.stat().st_mtime >= study.stat().st_mtime


def run_studies(names: Sequence[str], options: argparse.Namespace) -> tuple[dict[str, Run], dict[str, str]]:
    """Run the studies that are not finished; return all finished runs of `--studies`, and why others failed."""
    runs, failed = {}, {}
    for path in sorted(options.studies.glob("*.yaml")):
        folder = options.runs / path.stem
        if is_finished(folder, path):
            print(f"{path.stem}: {folder} is finished")
        elif path.stem not in names:
            failed[path.stem] = "not run"
            continue
        else:
            print(f"{path.stem}: {path}", flush=True)
            try:
                study = read_study(path, **changes_of(path, options))
                casewise.run(study, folder, show=True)
            except CasewiseError as error:
                print(f"{path.stem}: {error}", file=sys.stderr, flush=True)
                failed[path.stem] = " ".join(str(error).split())[:300]
                continue
        runs[path.stem] = casewise.Run.open(folder)
    return runs, failed


def changes_of(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What the study of a pack states otherwise: its table, and where its images and the weights are."""
    changes: dict[str, Any] = {"weights_dir": options.weights and options.weights.resolve()} if options.data else {}
    data = (options.data or ROOT.parent / "shared" / "data").resolve()
    if images := FOLDERS.get(path.stem):
        written = options.runs.resolve() / "tables" / path.stem
        if not written.is_dir():
            plan_study(table=None, images=data / images, folder=written).write()
        return changes | {"cohort": written / "cohort.csv", "root": data / images}
    cohort = read_study(path).cohort
    return changes | ({"cohort": data / cohort.parent.name / cohort.name} if options.data else {})


def budget_rows(minutes: Sequence[int], runs: Path) -> Iterator[list[str]]:
    """Runs of `studies/budget`: how many processes were busy beside them; time requested, expected and used; epochs."""
    from casewise.pipeline.recipe_plan import Forecast
    from casewise.run_folder import RunFolder

    for study, budget, busy in product(sorted((ROOT / "studies" / "budget").glob("*.yaml")), minutes, (0, 2)):
        folder = runs / f"{study.stem}-{budget}-{busy}"
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        load, began = os.getloadavg()[0], os.times().elapsed
        how = ["run", study, "--set", f"budget={budget}min", "--output", folder]
        subprocess.run([sys.executable, "-m", "casewise.cli.main", *how])
        used, _ = os.times().elapsed - began, [other.kill() for other in others]
        if not (plan := RunFolder(folder).recipe_plan.read_if_exists()) or not plan["forecast"]:
            yield [study.stem, f"{busy} and {load:.1f}", f"{60 * budget} s", "", "", "", "refused before its networks"]
            continue
        forecast = Forecast(**plan["forecast"])
        times = [f"{seconds:.0f} s" for seconds in (60 * budget, forecast.total, used)]
        yield [study.stem, f"{busy} and {load:.1f}", *times, f"{100 * used / 60 / budget:.0f} %", forecast.decided]


def kept(rows: list[list[str]]) -> str:
    """How many runs of `budget_rows` kept their budget, within 10 %, alone and beside busy processes."""
    text = []
    for where, busy in (("alone", "0 "), ("beside two busy processes", "2 ")):
        shares = [float(row[5].removesuffix(" %")) for row in rows if row[1].startswith(busy) and row[5]]
        within, longest = sum(share <= 110 for share in shares), max(shares, default=0)
        text.append(f"{where} {within} of {len(shares)} runs, the longest {longest:.0f} %")
    return f"Took at most 110 % of their budget: {'; '.join(text)}."


def main() -> None:
    """Run the studies, write and print the page."""
    parser = page_parser(__doc__)
    parser.add_argument("names", nargs="*", help="the studies to run, by the names of their files; by default all")
    parser.add_argument("--studies", type=Path, default=ROOT / "studies" / "auto", help="the folder of study files")
    parser.add_argument("--data", type=Path, help="the folder of the packs, if not the one that the studies state")
    parser.add_argument("--weights", type=Path, help="with --data: the folder of weights (WEIGHTS/mobilenet_v2.…)")
    parser.add_argument("--runs", type=Path, default=Path("runs/auto"))
    parser.add_argument("--records", type=Path, default=RECORDS, help="the rows of packs that were run before")
    parser.add_argument("--handwritten", type=Path, help="the folder of the runs of the studies with a recipe")
    parser.add_argument("--budget", type=int, nargs="+", metavar="MINUTES", help="the time that `studies/budget` use")
    options = parser.parse_args()
    if options.budget:
        rows = list(budget_rows(options.budget, options.runs))
        publish(f"{BUDGET}{kept(rows)}\n\n{table(BUDGET_HEAD, iter(rows))}", options.output)
        return
    studies = sorted(path.stem for path in options.studies.glob("*.yaml"))
    if unknown := sorted(set(options.names) - set(studies)):
        raise SystemExit(f"There is no study {unknown[0]} in {options.studies}; there are {', '.join(studies)}.")
    runs, failed = run_studies(options.names or studies, options)
    for name, run in runs.items():
        record = record_of(name, run, options.handwritten, ROOT / "docs" / "results")
        file = options.records / f"{name}.json"
        write_json(file, recorded(record, file))
    records = {path.stem: json.loads(path.read_text()) for path in sorted(options.records.glob("*.json"))}
    failed = {name: reason for name, reason in failed.items() if reason != "not run" or name not in records}
    publish(page(records, failed), options.output)
    if any(reason != "not run" for reason in failed.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
