"""The tables of a run from its typed results, each with the published values; no number is computed again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import pandas as pd

from casewise.errors import CasewiseError
from casewise.evaluation.figures import FOLD, ByMetric, Estimate
from casewise.evaluation.results import ClassFigures
from casewise.metrics.registry import columns, metric_of
from casewise.report.blocks import Cell, Row, Table
from casewise.report.context import SIDES
from casewise.report.formatting import MISSING, counted, display_name, plain
from casewise.report.sections.training import training_facts
from casewise.report.tables import MetricFormat, kind_report, metric_format
from casewise.study.learners import learner_name, the_learner
from casewise.study.presets.published import Publication, PublishedTable, named_in, publication, published_by
from casewise.study.weight_origins import origins_sentence

if TYPE_CHECKING:
    from casewise.analysis.run import Run
    from casewise.report.figures.agreement import Track

# A line of a table by column.
Line: TypeAlias = dict[str, float | int | str | bool | None]
# The records of a job on cases of its training, by the published stage.
OF_TRAINING = {"train": "on_training", "validation": "on_inner"}
CLASS_METRICS = ("precision", "recall", "f1", "auroc")


@dataclass(frozen=True)
class Paper:
    """A run compared with a publication.

    Attributes:
        references: the name of the publication; empty for what the study names.
    """

    run: Run
    references: str = ""

    @cached_property
    def published(self) -> Publication:
        return publication(self.references) if self.references else published_by(self.run.study)

    @property
    def stage(self) -> str:
        """The stage of the headline.

        Raises:
            CasewiseError: nothing was evaluated.
        """
        if self.run.results.main.stage is None:
            raise CasewiseError("no prediction has a reference value, so nothing was evaluated")
        return self.run.results.main.stage

    @property
    def learner(self) -> str:
        """The reported learner."""
        return self.run.results.main.learner or ""

    @property
    def classes(self) -> list[str]:
        """The classes of the primary outcome; empty for a number."""
        return list(self.run.study.classes_of(self.run.study.primary_outcome))

    @property
    def headline(self) -> str:
        """What the reported figures are of, for a caption."""
        run, outcome = self.run, self.run.study.primary_outcome
        figures = self.run.results.figures.of(self.stage, self.learner, outcome).values()
        sizes = [(figure.n_cases or 0, figure.n_subjects or 0) for figure in figures]
        cases, subjects = max(sizes, default=(0, 0))
        counts = f"{counted(cases, 'case')} of {counted(subjects, run.study.unit)}"
        return f"{display_name(run.study, outcome)} by {the_learner(self.learner)}, {SIDES[self.stage]} ({counts})"

    def stated(self, caption: str) -> str:
        """The caption of a figure, with the note that the images are synthetic if they are."""
        return caption + " Synthetic phantoms, not patients." * self.run.study.synthetic

    def targets(self, stage: str) -> list[str]:
        """The evaluated whole targets, the primary outcome first."""
        names = [key for key in self.run.results.figures.names("target", stage=stage) if "[" not in key]
        return sorted(names, key=lambda name: name != self.run.study.primary_outcome)

    def learners(self, stage: str, target: str) -> list[str]:
        """The learners that were evaluated, the best first by the metric that the report compares."""
        figures = {name: self.run.results.figures.of(stage, name, target) for name in self.run.learners}
        merit = kind_report(self.run.study.kind_of(target)).compared
        sign = -1 if metric_of(merit).larger_is_better else 1

        def rank(name: str) -> float:
            estimate = figures[name].get(merit)
            return float("inf") if estimate is None or estimate.value is None else sign * estimate.value

        return sorted((name for name in figures if figures[name]), key=rank)

    def tables_of(self, target: str, *stages: str) -> list[PublishedTable]:
        """The published tables about a target, of some stages or of all."""
        study = self.run.study
        about = [
            t for t in self.published.results if t.is_about(study, target) or (not t.classes and t.score == target)
        ]
        return [table for table in about if not stages or table.stage in stages]

    def beside(self, target: str, *stages: str) -> dict[str, dict[str, tuple[float, float | None]]]:
        """By learner and metric the published values of some stages; a later, more exact table replaces an earlier."""
        values: dict[str, dict[str, tuple[float, float | None]]] = {}
        for table in self.tables_of(target, *stages):
            for learner, metrics in table.learners.items():
                values.setdefault(named_in(learner, self.run.learners), {}).update(metrics)
        return values

    # ------------------------------------------------------------------------------------------------------- tables

    def design(self) -> Table:
        """Cohort, split and training of the run and of the publication."""
        ours, published = design(self.run), self.published.design
        rows = [(name, published.get(name, ""), ours.get(name, "")) for name in ours]
        caption = f"Design of {self.published.source or 'the publication'} and of this run."
        return Table.of(pd.DataFrame(rows, columns=["item", "published", "this run"]), caption)

    def results(self, target: str, stage: str, *, most: int | None = None) -> Table:
        """Every metric of every learner; in LaTeX the report's metrics, with each published value next to ours.

        Raises:
            CasewiseError: nothing was evaluated.
        """
        study, write = self.run.study, metric_format(self.run.study, target)
        learners = self.learners(stage, target)[:most]
        if not learners:
            raise CasewiseError(f"{target} was not evaluated {SIDES.get(stage, stage)}")
        published = {} if stage == "training" else self.beside(target, "test", "folds", "")
        where = "; ".join(sorted({t.cases for t in self.tables_of(target, "test", "folds", "") if t.cases}))
        data = [
            {
                "learner": name,
                "target": target,
                "stage": stage,
                "metric": metric,
                **_ours(figure),
                **_theirs(theirs),
                "published_cases": where if theirs else "",
            }
            for name in learners
            for metric, figure in self.run.results.figures.of(stage, name, target).items()
            for theirs in [published.get(name, {}).get(metric)]
        ]
        count = len(study.classes_of(target)) or None
        shown = list(columns("page", study.kind_of(target), count, stage=stage))
        with_values = {metric for name in learners for metric in published.get(name, {}) if "[" not in metric}
        shown += sorted(with_values - set(shown))
        heads, rows = ["Learner"], []
        for metric in shown:
            heads += [write.heading(metric), *[f"{write.heading(metric)}, published"] * (metric in with_values)]
        for name in learners:
            cells: list[Cell | str] = []
            for metric in shown:
                cells.append(write.cell(metric, self.run.results.figures.of(stage, name, target).get(metric)))
                if metric in with_values:
                    cells.append(_published_text(write, metric, published.get(name, {}).get(metric)))
            rows.append(Row(learner_name(name), cells))
        note = f" Published: {where}." if where and with_values else ""
        confidence = f"{100 * study.evaluation.confidence:g} %"
        pooled = stage == "oof" and self.run.results.sources
        note = " Pooled over the sources that were left out in turn." * bool(pooled) + note
        caption = (
            f"{display_name(study, target)}, {SIDES[stage]}; brackets: {confidence} intervals by {study.unit}.{note}"
        )
        return Table(heads, rows, self._synthetic(caption), data=pd.DataFrame(data))

    def _synthetic(self, caption: str) -> str:
        return caption + (" This run is of synthetic images, the publication of patients." * self.run.study.synthetic)

    def published_values(self) -> Table:
        """Every published value with the run's value, or the reason why the run has none; in LaTeX those with one.

        Raises:
            CasewiseError: there is no publication.
        """
        if not self.published.results:
            raise CasewiseError("the study names no publication (evaluation.references, or --references)")
        lines, rows = [], []
        for table in self.published.results:
            target = next((t for t in self.run.targets if table in self.tables_of(t)), None)
            for learner, metrics in table.learners.items():
                for metric, value in metrics.items():
                    where = {"table": table.table, "learner": learner, "metric": metric, "cases": table.cases}
                    ours = self._counterpart(table, target, learner, metric)
                    lines.append({**where, "published_stage": table.stage, **_theirs(value), **ours})
                    if ours["value"] is not None:
                        write = metric_format(self.run.study, str(target))
                        theirs = _published_text(write, metric, value)
                        low, high = (None if ours[end] is None else float(ours[end] or 0) for end in ("low", "high"))
                        figure = Estimate(float(ours["value"]), low, high, 0, rough=bool(ours["note"]))
                        side = SIDES.get(str(ours["stage"]), str(ours["stage"]))
                        names = [table.table, learner_name(learner), write.heading(metric)]
                        rows.append(Row(names[0], [*names[1:], theirs, write.cell(metric, figure), side]))
        left = len(lines) - len(rows)
        caption = f"Values of {self.published.source or 'the study file'}, beside those of this run."
        caption += f" Without a counterpart in this run: {left} of {len(lines)}, in the CSV with the reason." * (
            left > 0
        )
        heads = ["Table", "Learner", "Metric", "Published", "This run", "On"]
        rows = rows or [Row(MISSING, [MISSING] * (len(heads) - 1))]
        return Table(heads, rows, self._synthetic(caption), data=pd.DataFrame(lines))

    def _counterpart(self, table: PublishedTable, target: str | None, learner: str, metric: str) -> Line:
        missing = {"stage": "", "value": None, "low": None, "high": None}
        if target is None:
            what = f"the classes {', '.join(table.classes)}" if table.classes else table.score
            return {**missing, "note": f"this run does not predict {what}"}
        learner = named_in(learner, self.run.learners)
        if learner not in self.run.learners:
            return {**missing, "note": "not a learner of this run"}
        if table.stage in OF_TRAINING:
            return {**missing, "note": "see the table training"}
        if table.stage == "folds":
            mean = self.run.results.figures.of("oof", learner, target, FOLD, contrast="mean").get(metric)
            if mean is not None and mean.value is not None:
                return {**missing, "stage": "mean over folds", "value": mean.value, "note": ""}
            return {**missing, "note": "no mean over the folds"}
        figure = self.run.results.figures.of(self.stage, learner, target).get(metric)
        if figure is None or figure.value is None:
            return {**missing, "note": (figure.reason if figure else None) or "not evaluated"}
        ends = {"value": figure.value, "low": figure.low, "high": figure.high}
        return {"stage": self.stage, **ends, "note": "few subjects" if figure.rough else ""}

    def labels(self) -> Table:
        """The recorded targets on each side of the split.

        Raises:
            CasewiseError: the run has no record of them.
        """
        participants = self.run.results.participants
        entries = [c for c in participants.characteristics if c["what"] == "target"] if participants else []
        if participants is None or not entries:
            raise CasewiseError("the run has no record of its targets by side of the split")
        lines: list[Line] = []
        for entry in entries:
            for number, side in enumerate(participants.sides):
                values, where = entry["sides"][str(number)], f"{side['code']} {side['name']}".strip()
                about = {"target": entry["name"], "unit": entry["unit"], "side": where}
                if "counts" in values:
                    for level, count in zip(entry["levels"], values["counts"], strict=True):
                        lines.append({**about, "level": level["name"], "n": count, "missing": values["missing"]})
                else:
                    names = ("n", "missing", "mean", "sd", "median")
                    quartiles = {"lower_quartile": values.get("low"), "upper_quartile": values.get("high")}
                    lines.append({**about, **{name: values.get(name) for name in names}, **quartiles})
        return Table.of(pd.DataFrame(lines), "Recorded targets by side of the split.")

    def confusion(self, target: str, stage: str) -> Table:
        """The confusion counts of all learners.

        Raises:
            CasewiseError: the target has no classes.
        """
        entries = self._classes(target, stage)
        data = [
            {"learner": name, "reference": reference, "predicted": predicted, "count": count}
            for name, entry in entries.items()
            for reference, line in zip(entry.names, entry.confusion, strict=True)
            for predicted, count in zip(entry.names, line, strict=True)
        ]
        names = next(iter(entries.values())).names
        rows = [
            Row(learner_name(name) if not row else "", [plain(reference), *map(str, line)])
            for name, entry in entries.items()
            for row, (reference, line) in enumerate(zip(entry.names, entry.confusion, strict=True))
        ]
        caption = f"Confusion counts of {display_name(self.run.study, target)}, {SIDES[stage]}."
        return Table(["Learner", "Reference", *map(plain, names)], rows, caption, data=pd.DataFrame(data))

    def reports(self, target: str, stage: str) -> Table:
        """Precision, recall, F1 and support of each class and learner, with the published values.

        Raises:
            CasewiseError: the target has no classes.
        """
        published, write = {} if stage == "training" else self.beside(target, "test", ""), MetricFormat()
        data, rows = [], []
        stated = [m for m in CLASS_METRICS if any(k.startswith(f"{m}[") for v in published.values() for k in v)]
        for learner, entry in self._classes(target, stage).items():
            figures = self.run.results.figures.of(stage, learner, target)
            for name, support in zip(entry.names, entry.support, strict=True):
                line: Line = {"learner": learner, "class": name}
                cells: list[Cell | str] = [plain(name)]
                for metric in CLASS_METRICS:
                    key = f"{metric}[{name}]"
                    figure, theirs = figures.get(key), published.get(learner, {}).get(key)
                    ours = _ours(figure)
                    line |= {metric: ours["value"], f"{metric}_low": ours["low"], f"{metric}_high": ours["high"]}
                    cells.append(write.cell(metric, figure))
                    if metric in stated:
                        line[f"{metric}_published"] = theirs[0] if theirs else None
                        cells.append(_published_text(write, metric, theirs))
                data.append({**line, "support": support})
                rows.append(Row(learner_name(learner), [*cells, str(support)]))
        heads = ["Learner", "Class"]
        for metric in CLASS_METRICS:
            heads += [write.title(metric), *([f"{write.title(metric)}, published"] if metric in stated else [])]
        caption = self._synthetic(f"Classes of {display_name(self.run.study, target)}, {SIDES[stage]}.")
        return Table([*heads, "Support"], rows, caption, data=pd.DataFrame(data))

    def _classes(self, target: str, stage: str) -> Mapping[str, ClassFigures]:
        by_learner = self.run.results.classes.get(stage, {})
        entries = {
            name: by_learner[name][target]
            for name in self.learners(stage, target)
            if target in by_learner.get(name, {})
        }
        if not entries:
            raise CasewiseError(f"{target} has no classes")
        return entries

    def folds(self) -> Table:
        """Mean and standard deviation over the folds, with the published ones.

        Raises:
            CasewiseError: the run has no folds.
        """
        data, rows = [], []
        table = self.run.results.figures.select(population=FOLD)
        for cell, means in table.select(contrast="mean").cells.items():
            write, of = metric_format(self.run.study, cell.target), {"target": cell.target, "learner": cell.learner}
            deviations, by_fold = table.cells[cell._replace(contrast="sd")], table.select(**of, contrast="")
            for metric, mean in means.items():
                theirs, ends = (
                    self.beside(cell.target, "folds").get(cell.learner, {}).get(metric),
                    [mean.value, deviations[metric].value],
                )
                folds: Line = {f"fold_{at.group}": own[metric].value for at, own in by_fold.cells.items()}
                line: Line = {**of, "metric": metric, "mean": ends[0], "sd": ends[1]}
                data.append({**line, **_theirs(theirs), **folds})
                spread = [write.text(metric, value) for value in ends]
                names = [display_name(self.run.study, cell.target), learner_name(cell.learner), write.heading(metric)]
                ours = MISSING if MISSING in spread else " ± ".join(spread)
                rows.append([*names, ours, _published_text(write, metric, theirs)])
        if not data:
            raise CasewiseError("there are no metrics of single folds")
        heads = ["Target", "Learner", "Metric", "Mean ± SD", "Published"]
        if not any(row[-1] for row in rows):
            heads, rows = heads[:-1], [row[:-1] for row in rows]
        caption = self._synthetic("Mean ± standard deviation over the folds.")
        return Table(heads, [Row(row[0], row[1:]) for row in rows], caption, data=pd.DataFrame(data))

    def training(self) -> Table:
        """Each network on cases of its training and stopping, by fold, as its job recorded them.

        Raises:
            CasewiseError: no job recorded them.
        """
        target = self.run.study.primary_outcome
        data: list[Line] = []
        for stage, record in OF_TRAINING.items():
            published = self.beside(target, stage)
            for job in self.run.finished.jobs:
                for metric, value in (job.get(record) or {}).items():
                    if metric == "n" or not isinstance(value, (int, float)):
                        continue
                    about: Line = {
                        "network": job["model"],
                        "fold": str(job["fold"]),
                        "set": stage,
                        "n": job[record].get("n"),
                    }
                    theirs = published.get(str(job["model"]), {}).get(metric)
                    data.append({**about, "metric": metric, "value": float(value), **_theirs(theirs)})
        if not data:
            raise CasewiseError("no network was evaluated on cases of its training")
        return Table.of(pd.DataFrame(data), "Networks on cases of their own training, by fold.")

    def tracks(self) -> list[Track]:
        """The trajectories of the primary outcome by the reported learner.

        Raises:
            CasewiseError: the outcome has classes, or no subject has two recorded visits.
        """
        outcome = self.run.study.primary_outcome
        if self.run.study.classes_of(outcome):
            raise CasewiseError(f"{outcome} has classes, and no course over visits")
        if not (tracks := self.run.plot.tracks()):
            raise CasewiseError("no subject has two visits with a reference")
        return tracks

    def trajectories(self, *, names: bool) -> Table:
        """The values of every subject over the visits, with percent change, by model and reference.

        Raises:
            CasewiseError: the outcome has classes, or no subject has two recorded visits.
        """
        tracks = self.tracks()
        lines = [
            {
                "subject": track.subject if names else number,
                "visit": track.names[i] if names else i + 1,
                "days": float(track.days[i] - track.days[0]),
                "physician": track.physician[i],
                "model": track.model[i],
                "physician_change_percent": track.changes[0][i],
                "model_change_percent": track.changes[1][i],
            }
            for number, track in enumerate(tracks, 1)
            for i in range(len(track.names))
        ]
        who = f"{learner_name(self.learner)}, {SIDES[self.stage]}"
        caption = f"Values over the visits, and change from baseline in percent, by the reference and by {who}."
        return Table.of(pd.DataFrame(lines).round(6), self._synthetic(caption))

    def effects(self) -> Table:
        """Change from baseline by arm, and effects of the treatment, by reference, model and their difference.

        Raises:
            CasewiseError: the study has no arms, or too few subjects of them.
        """
        trials = self.run.results.trials or {}
        lines = [
            (stage, entry.baseline, at.visit, arm, at.subjects[arm], figure, outcome, diff.value, diff.low, diff.high)
            for stage, entry in trials.items()
            for at in entry.visits
            for figure, by_arm in (("change", at.change), ("effect", at.effect))
            for arm, outcomes in by_arm.items()
            for outcome, diff in outcomes.items()
        ]
        if not lines:
            raise CasewiseError("the run has no effects of a treatment (evaluation.arm)")
        name, entry = display_name(self.run.study, self.run.study.primary_outcome), next(iter(trials.values()))
        effect = f"effect: that change minus the one in the arm {entry.control}"
        caption = f"{name}: change since the baseline in points, and {effect}. Model: {learner_name(self.learner)}."
        columns = ["stage", "baseline", "visit", "arm", "n_subjects", "figure", "outcome", "value", "low", "high"]
        return Table.of(pd.DataFrame(lines, columns=columns), self._synthetic(caption))

    def responders(self) -> Table:
        """Share of responders by reference and model; of the reported learner also by arm, and minus the control's.

        Raises:
            CasewiseError: the run has no response.
        """
        results = self.run.results
        by_learner = results.response.get(self.stage, {})
        groups = [(learner, "all", entry.baseline, entry.by_visit or {}) for learner, entry in by_learner.items()]
        if trial := (results.trials or {}).get(self.stage):
            risks = {f"{arm} − {trial.control}": rates for arm, rates in trial.risk_differences.items()}
            by_arm = {**trial.responders, **risks}
            groups += [(self.learner, arm, trial.baseline, by_visit) for arm, by_visit in by_arm.items()]
        lines = [
            (learner, arm, baseline, visit, rates.n_subjects, threshold, rater, rate.value, rate.low, rate.high)
            for learner, arm, baseline, by_visit in groups
            for visit, rates in by_visit.items()
            for threshold, by_rater in rates.rates.items()
            for rater, rate in by_rater.items()
        ]
        if not lines:
            raise CasewiseError("the run has no response over time")
        side = SIDES[self.stage]
        caption = f"Share of subjects whose score fell by a threshold in percent since the baseline, {side}."
        columns = ["learner", "arm", "baseline", "visit", "n_subjects", "threshold", "rater", "value", "low", "high"]
        return Table.of(pd.DataFrame(lines, columns=columns), self._synthetic(caption))


def joined(papers: Sequence[Paper]) -> Table:
    """The learners of all runs on their primary outcomes, with the published values of each set.

    Raises:
        CasewiseError: nothing was evaluated.
    """
    data: list[Line] = []
    tables: list[tuple[list[str], Table]] = []
    compared: set[str] = set()
    for paper in papers:
        study, target, stage = paper.run.study, paper.run.study.primary_outcome, paper.stage
        sets = ("train", "validation", "test", "folds", "") if stage != "training" else ()
        published = {s: paper.beside(target, s) for s in sets if paper.tables_of(target, s)}
        kind, classes = study.kind_of(target), study.classes_of(target)
        metrics = columns("page", kind, len(classes) or None, stage=stage)
        for learner in paper.learners(stage, target):
            figures: ByMetric = paper.run.results.figures.of(stage, learner, target)
            for metric in (name for name in metrics if name in figures):
                about = {"run": study.name, "target": target, "classes": ", ".join(classes), "learner": learner}
                values = {
                    f"published_{s or 'value'}": p.get(learner, {}).get(metric, (None, None))[0]
                    for s, p in published.items()
                }
                data.append({**about, "stage": stage, "metric": metric, **_ours(figures[metric]), **values})
        tables.append(([study.name, display_name(study, target), SIDES[stage]], paper.results(target, stage)))
        compared.add(metric_format(study, target).heading(kind_report(kind).compared))
    every = list(dict.fromkeys(head for _, table in tables for head in table.columns))
    published_heads = {head for head in every if f"{head}, published" in every or head.endswith(", published")}
    heads = [head for head in every if not published_heads or head in published_heads | compared | {"Learner"}]
    rows = [
        Row(about_run[0], [*about_run[1:], row.name, *(by_head.get(head, "") for head in heads[1:])])
        for about_run, table in tables
        for row in table.rows
        for by_head in [dict(zip(table.columns[1:], row.cells, strict=True))]
    ]
    notes = [f"{about_run[0]}: {table.caption}" for about_run, table in tables]
    caption = " ".join(["Learners of all runs on their primary outcomes.", *notes])
    frame = pd.DataFrame(data).drop(columns=["n_cases", "reason"])
    return Table(["Run", "Target", "Stage", *heads], rows, caption, data=frame)


def _ours(figure: Estimate | None) -> Line:
    """A figure of the typed results as cells."""
    return dict(vars(figure)) if figure else dict.fromkeys(Estimate.__dataclass_fields__)


def _theirs(value: tuple[float, float | None] | None) -> dict[str, float | None]:
    return {"published": value[0] if value else None, "published_sd": value[1] if value else None}


def _published_text(write: MetricFormat, metric: str, value: tuple[float, float | None] | None) -> str:
    if value is None:
        return ""
    sd = "" if value[1] is None else f" ± {write.published(metric, value[1])}"
    return write.published(metric, value[0]) + sd


def design(run: Run) -> dict[str, str]:
    """The facts of the run's design that publications have, from its records and settings."""
    study, results, recipe = run.study, run.results, run.study.recipe
    sides = {side["code"]: side for side in results.participants.sides} if results.participants else {}
    whole, test = sides.get("all"), sides.get("test")
    jobs, stopping = run.finished.jobs, recipe.early_stopping
    epochs = sorted({int(job["epochs"]) for job in jobs if job.get("epochs") is not None})
    stages = ", ".join(f"{phase.epochs} with {phase.freeze} frozen" for phase in recipe.phases)
    nested = study.nested_cv
    limit = f"at most {recipe.epochs:,}" if not recipe.phases else stages
    stop = "none" if stopping.monitor == "none" else f"after {stopping.patience} epochs, on {stopping.monitor} subjects"
    facts = {
        "subjects": f"{whole['subjects']:,}" if whole else "",
        "cases": f"{whole['cases']:,}" if whole else "",
        "images": f"{whole['images']:,}" if whole else "",
        "test": f"{test['subjects']:,} subjects, {test['cases']:,} cases, by {study.split.by}"
        if test
        else "none: predicted out of fold",
        "folds": f"{run.finished.splits.folds}, by {study.split.by}"
        + (f"; {nested.folds} inner folds" if nested else ""),
        "networks": f"{len(study.trained)}: {', '.join(study.trained)}" if study.trained else "none",
        "image size": str(study.images.size),
        "weights": origins_sentence(run.finished.origins, study.unit).removeprefix("First weights: ").rstrip("."),
    }
    of_networks = {
        "optimizer": str(recipe.optimizer) + (f", momentum {recipe.momentum:g}" if recipe.optimizer == "sgd" else ""),
        "learning rate": f"{recipe.lr}; schedule {recipe.schedule}",
        **{name.lower(): text for name, text in training_facts(study, jobs).items()},
        "batch size": str(recipe.batch_size),
        "epochs": f"{_span(epochs)} trained; {limit}" if epochs else limit,
        "early stopping": stop,
    }
    facts |= of_networks if study.trained else {}
    if study.synthetic:
        facts = {"data": "synthetic phantoms, not patients", **facts}
    return {name: value for name, value in facts.items() if value}


def _span(values: Iterable[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
