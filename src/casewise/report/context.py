"""The data of a report: the artefacts of a run, which learner, stage and rows it is about, and the study's terms."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from casewise.errors import RunError
from casewise.evaluation.caveats import constant_folds, no_better
from casewise.evaluation.figures import ByMetric, Estimate
from casewise.evaluation.metrics_file import read_results
from casewise.evaluation.results import ClassFigures, Results
from casewise.inference.explainer import explainer
from casewise.metrics.registry import columns
from casewise.modalities.registry import modality_of
from casewise.predictions.table import INTERNAL
from casewise.report.formatting import capital, case_label, counted, display_name, is_number, outcome_words, plain
from casewise.report.tables import MetricFormat, metric_format
from casewise.run_folder import RunFolder
from casewise.study.learners import in_order, learner_name, without_baselines
from casewise.study.loading import saved_study
from casewise.study.schema import Study
from casewise.study.sources import Origin
from casewise.study.targets import Kind
from casewise.study.weight_origins import run_origins
from casewise.targets import kind_named

EXTERNAL = "external"


# The content of a JSON file of the run.
Json = dict[str, Any]


@dataclass(frozen=True)
class ReportContext:
    """The source of everything in a report; nothing is trained or predicted for it.

    Attributes:
        cohort_images, panels, cases: the tables of `casewise.cohort.cohort.Cohort`.
        splits: the content of `splits.json`.
        predictions: the predictions table (out of fold and test).
        metrics: the content of `metrics.json`.
        jobs: one entry per network, with its history.
        origins: where the first weights of all learners come from.
        notes: what was left out or assumed, for `casewise.report.caveats.sentences`.
        stackers: for each combined learner and output its coefficients.
        environment: versions, processor, date, command and seconds.
        audit: the content of `audit.json`; None where the run made no audit.
        explanations: the content of `explanations.json`; None where nothing was explained.
        plan: the planned recipe in words; empty where the study states its recipe.
        tile_predictions: the content of `tiles.parquet`; None where no case has several panels.
        tiles: image numbers -> (n, C, H, W) uint8.
        photograph: image number -> (h, w, 3) uint8, or None where the file cannot be shown.
        slide: path -> what is kept of a slide that was cut into tiles, or None.
        source: the folder of the run, for messages.
        grids: case -> name and panel (H, W) `uint8` of each sequence as the fold's networks see it; of images nothing.
    """

    study: Study
    cohort_images: pd.DataFrame
    panels: pd.DataFrame
    cases: pd.DataFrame
    splits: Json
    predictions: pd.DataFrame
    metrics: Results
    jobs: list[Json]
    origins: Sequence[Origin] = ()
    notes: Sequence[Mapping[str, Any] | str] = field(default_factory=list)
    stackers: Json = field(default_factory=dict)
    environment: Json = field(default_factory=dict)
    audit: Json | None = None
    explanations: Json | None = None
    plan: str = ""
    tile_predictions: pd.DataFrame | None = None
    tiles: Callable[[list[int]], Any] = lambda _: None
    photograph: Callable[[int], np.ndarray | None] = lambda _: None
    slide: Callable[[str], Any] = lambda _: None
    grids: Callable[[str], list[tuple[str, np.ndarray]]] = lambda _: []
    source: str = ""

    @property
    def outcome(self) -> str:
        """The primary outcome."""
        return self.study.primary_outcome

    @property
    def kind(self) -> Kind:
        """The kind of the primary outcome: a number, a class or a grade."""
        return self.study.kind_of(self.outcome)

    @property
    def classes(self) -> list[str]:
        """The classes of the primary outcome; none if it is a number."""
        return self.study.classes_of(self.outcome)

    def columns(self, table: str, stage: str = "oof") -> list[str]:
        """The metrics that a table shows for the primary outcome at a stage (see `metrics.records.TABLES`)."""
        return columns(table, self.kind, len(self.classes) or None, stage=stage)

    @property
    def class_columns(self) -> list[str]:
        """The metrics of the tables of single classes, of all targets that have classes."""
        return self._columns_of("classes", with_classes=True)

    def number_columns(self, table: str) -> list[str]:
        """The metrics that a table shows for all targets that are numbers."""
        return self._columns_of(table, with_classes=False)

    def _columns_of(self, table: str, *, with_classes: bool) -> list[str]:
        targets = [self.outcome, *self.study.scores, *self.study.targets]
        kinds = [self.study.kind_of(name) for name in targets if bool(self.study.classes_of(name)) is with_classes]
        return list(dict.fromkeys(metric for kind in kinds for metric in columns(table, kind, stage=self.stage)))

    @property
    def merit(self) -> str:
        """The metric by which learners are ranked."""
        return kind_named(self.kind).merit

    @property
    def stopped_on(self) -> str:
        """The subjects whose loss stopped training: inner subjects, the predicted fold's subjects, or none."""
        return str(self.study.recipe.early_stopping.monitor)

    @cached_property
    def stage(self) -> str:
        """The stage of the headline in `metrics.json`; without a headline `test` if it has predictions, else `oof`."""
        available = [s for s in INTERNAL if (self.predictions["stage"] == s).any()]
        stage = self.metrics.main.stage
        return stage if stage in available else (available or ["oof"])[0]

    @property
    def stages(self) -> list[str]:
        """The stages with predictions, the one the report is about first."""
        order = dict.fromkeys([self.stage, *INTERNAL, "training"])
        return [s for s in order if (self.predictions["stage"] == s).any()]

    @property
    def holdout(self) -> bool:
        """Whether one validation set takes the place of folds."""
        return self.study.split.holdout

    @property
    def one_image_each(self) -> bool:
        """Whether subjects differ in their number of images, so that the audit's tests use one image of each."""
        images = self.cohort_images.drop_duplicates("path")
        return self.study.unit != "image" and bool(images.groupby("subject").size().nunique() > 1)

    @property
    def stopped_on_validation(self) -> bool:
        """Whether the figures of the report are of a validation set whose loss stopped networks."""
        return self.stage == "validation" and self.stopped_on == "fold" and bool(self.study.trained)

    @property
    def choosing(self) -> str:
        """The stage on which learners are compared and chosen."""
        return "validation" if self.holdout else "oof"

    @property
    def choosing_stage(self) -> str:
        """`choosing` if it has predictions, else the stage of the report."""
        return self.choosing if self.choosing in self.stages else self.stage

    @cached_property
    def learners(self) -> list[str]:
        """Learners with predictions: networks in the study's order, baselines, then combined ones."""
        return in_order(self.study, self.predictions["model"])

    @property
    def candidates(self) -> list[str]:
        """The learners that the report can be about: all but the baselines, unless there are no others."""
        return without_baselines(self.learners)

    @cached_property
    def learner(self) -> str:
        """The learner of the headline (see `casewise.evaluation.headline`)."""
        main = self.metrics.main
        if main.target == self.outcome and main.learner in self.learners:
            return main.learner
        figures = {name: self.metric(self.choosing, name, self.merit) for name in self.candidates}
        merits = {name: figure.value for name, figure in figures.items() if figure}
        return max(merits, key=lambda name: merits[name] or 0.0) if merits else self.candidates[0]

    def figures(self, stage: str, learner: str, key: str = "") -> ByMetric:
        """All figures of one learner for the primary outcome, or for a target key such as `composite[upper]`."""
        return self.metrics.figures.of(stage, learner, key or self.outcome)

    def metric(self, stage: str, learner: str, metric: str) -> Estimate | None:
        """One figure of the primary outcome with its interval, or None if it is missing or undefined."""
        return defined(self.figures(stage, learner).get(metric))

    @cached_property
    def write(self) -> MetricFormat:
        """The format of the metrics of the primary outcome."""
        return metric_format(self.study, self.outcome)

    @property
    def quoted(self) -> Mapping[str, Estimate]:
        """The quoted figures of the shown learner: where sources were left out, the means within them."""
        return quoted_figures(self.study, self.metrics, self.learner, self.stage)

    def class_figures(self, stage: str, learner: str, key: str = "") -> ClassFigures | None:
        """Confusion matrix, curves and operating points of one learner, of the primary outcome or another key."""
        return self.metrics.classes.get(stage, {}).get(learner, {}).get(key or self.outcome)

    def range_of(self, target: str) -> tuple[float, float]:
        """The declared range of a target or score; 0 to 1 if the study declares none."""
        declared = target in self.study.targets or target in self.study.scores
        return self.study.range_of(target) if declared else (0.0, 1.0)

    @cached_property
    def final(self) -> pd.DataFrame:
        """One row per learner, stage, case, region, image and target (see `casewise.predictions.table.final_rows`)."""
        from casewise.predictions.table import final_rows

        return final_rows(self.predictions)

    def rows(self, stage: str, learner: str, target: str | None = None) -> pd.DataFrame:
        """Predictions of `target` (the primary outcome by default) by one learner with a known reference value."""
        table = self.final
        target_rows = table["target"] == (target or self.outcome)
        rows = table[target_rows & (table["stage"] == stage) & (table["model"] == learner)]
        return rows.dropna(subset=["y_true", "y_pred"]).reset_index(drop=True)

    @cached_property
    def headline_rows(self) -> pd.DataFrame:
        """The rows the report is about: primary outcome, shown learner, first stage."""
        return self.rows(self.stage, self.learner)

    @cached_property
    def repeated(self) -> bool:
        """Whether any subject has more than one visit; False for guessed subjects, whose visits are single images."""
        return not self.study.subjects_guessed and bool((self.cases.groupby("subject")["case"].nunique() > 1).any())

    @property
    def by_site(self) -> bool:
        """Whether the report's figures are out of fold with a source left out in each fold."""
        return self.stage == "oof" and bool(self.metrics.sources)

    @property
    def site(self) -> str:
        """The noun for the source that is left out in each fold."""
        return str(self.study.split.leave_out or "source").replace("_", " ")

    def constant_class(self, stage: str, learner: str) -> str:
        """The class that the learner predicts for every case; empty if it predicts several."""
        entry = self.class_figures(stage, learner)
        return (entry.constant_class or "") if entry else ""


def defined(figure: Estimate | None) -> Estimate | None:
    """The figure if it has a value."""
    return figure if figure and is_number(figure.value) else None


def quoted_figures(study: Study, results: Results, learner: str, stage: str) -> Mapping[str, Estimate]:
    """The figures of the primary outcome that are quoted: out of fold with sources left out, the means within them."""
    if stage == "oof" and results.sources:
        return results.over_sources(learner)
    return results.figures.of(stage, learner, study.primary_outcome)


def read_context(folder: Path) -> ReportContext:
    """The content of a finished run without its pictures.

    Raises:
        RunError: there is no such folder or no finished run, its metrics are of other predictions, it was split by
            image for comparison only, or nothing was evaluated.
    """
    from casewise.cohort.cohort import with_panels

    files = RunFolder(folder)
    files.check_exists()
    files.refuse_image_split()
    files.check_finished()
    study = saved_study(files.study.read(), source=str(files.study.path))
    images, panels = with_panels(files.cohort.read(), study)
    metrics = read_results(files)
    if not metrics.stages:
        raise RunError(f"{folder}: no prediction has a reference value, so nothing was evaluated for a page.")
    return ReportContext(
        study=study,
        cohort_images=images,
        panels=panels,
        cases=panels.drop_duplicates("case").reset_index(drop=True),
        splits=files.splits.read(),
        predictions=files.predictions.read(),
        metrics=metrics,
        jobs=files.job_records(study.trained),
        origins=run_origins(files, study),
        notes=metrics.notes,
        stackers=files.stackers.read_if_exists() or {},
        environment=files.environment.read_if_exists() or {},
        audit=files.audit.read_if_exists(),
        explanations=maps.stored(files) if (maps := explainer()) else None,
        source=str(folder),
    )


# Names of studies that say nothing in a title.
NO_NAMES = ("study", "my study", "test", "test study", "untitled", "default", "config", "cohort", "data", "example")
SHORTEST_NAME = 3
METHODS = {"rollout": "attention rollout", "grad-cam": "Grad-CAM", "contributions": "exact contributions"}
SIDES = {
    "test": "on the test set",
    "oof": "out of fold",
    "validation": "on the validation set",
    "training": "on the training set",
    "external": "on the external cohort",
}
# Of the response over time; "all" are the subjects out of fold and of the test set together.
RESPONSE_SIDES = {**SIDES, "all": "of all subjects, out of fold and of the test set"}


@dataclass(frozen=True)
class _Unlearned:
    """The evidence that the networks behind the figures may have learned nothing.

    Attributes:
        constant: whether the reported learner predicts nearly the same for every case of `count` folds. Else `count`
            networks never performed better than guessing.
        of: all folds, or all networks.
        whose: the networks: the `own` ones of the learner, those that it uses (`combined`), or all of the `study`.
        inner: whether they are the inner networks that chose the settings.
    """

    constant: bool
    count: int
    of: int
    whose: str = "own"
    inner: bool = False


@dataclass(frozen=True)
class Terms:
    """The terms that the report uses for a study.

    Attributes:
        label: the primary outcome's name; `heading` has a capital.
        noun: for the unit of one prediction of the primary outcome.
        case: the noun for a case; a visit if subjects have several.
        picture: the noun for one image.
        digits: decimals of the primary outcome.
        confidence: of the intervals, such as `95 %`.
    """

    label: str
    heading: str
    noun: str
    case: str
    picture: str
    digits: int
    confidence: str


def visit_noun(context: ReportContext) -> str:
    """The word for a visit: the position of a slice, if each slice of a scan is a case of its own."""
    return "position" if modality_of(context.study).position(context.study) else "visit"


def case_title(context: ReportContext, row: Mapping[str, Any]) -> str:
    """The case of a row, as the page names it."""
    return capital(case_label(row, known=context.study.subjects_known, visit_noun=visit_noun(context)))


def titled(context: ReportContext, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the column `title`: their cases as the page names them."""
    return rows.assign(title=[case_title(context, row) for row in rows.to_dict("records")])


def terms_of(context: ReportContext) -> Terms:
    """The terms of a study."""
    study = context.study
    label, case = display_name(study, context.outcome), visit_noun(context) if context.repeated else "case"
    noun = {"region": "region", "image": "image"}.get(study.level_of(context.outcome), case)
    digits = context.write.digits("mae")
    confidence = f"{100 * study.evaluation.confidence:g} %"
    return Terms(label, capital(label), noun, case, modality_of(study).picture_noun(study).singular, digits, confidence)


def report_title(study: Study) -> str:
    """The study's title; without one, what is predicted from which images, after a name that says something."""
    if study.title.strip():
        return study.title.strip()
    images = modality_of(study).picture_noun(study).plural
    what = f"{outcome_words(study, study.primary_outcome)} predicted from {images}"
    name = plain(study.name).replace("-", " ").strip()
    says_more = len(name) > SHORTEST_NAME and name.lower() not in NO_NAMES and name.lower() not in what.lower()
    return f"{capital(name)}: {what}" if says_more else capital(what)


def unlearned(context: ReportContext) -> _Unlearned | None:
    """Evidence that the networks behind the figures may have learned nothing; None without any.

    Either the reported learner predicts nearly the same for every case of a fold, or half of its networks, or most of
    all networks, never performed better than guessing. A network is evaluated by the loss that stops it, or by the loss
    of the inner networks that chose its settings. A combined learner is made of all networks.
    """
    constant, folds = constant_folds(context.predictions, context.outcome, context.learner)
    if constant:
        return _Unlearned(constant=True, count=constant, of=folds)
    inner = context.study.nested_cv is not None
    if not inner and context.stopped_on == "none":
        return None
    judged = [(str(job["model"]), failed) for job in context.jobs if (failed := no_better(job)) is not None]
    own, every = [failed for model, failed in judged if model == context.learner], [failed for _, failed in judged]
    if own and 2 * sum(own) >= len(own):
        return _Unlearned(constant=False, count=sum(own), of=len(own), whose="own", inner=inner)
    if 2 * sum(every) > len(every):
        whose = "study" if context.learner in context.study.learners else "combined"
        return _Unlearned(constant=False, count=sum(every), of=len(every), whose=whose, inner=inner)
    return None


def evaluated_on(context: ReportContext, stage: str) -> str:
    """The cases that figures are of, within a caption; pooled over the sources where each fold leaves one out."""
    pooled = f", pooled over each {context.site}" if context.by_site and stage == "oof" else ""
    fitted = ", where the models were fitted" if stage == "training" else ""
    stops = stage == "validation" and context.stopped_on == "fold"
    return SIDES[stage] + pooled + (", which stopped the training" if stops else fitted)


def without_folds(context: ReportContext, text: str) -> str:
    """A static note; in a hold-out design, which has no folds, without its sentences about them."""
    sentences = re.split(r"(?<=\.) ", text)
    return " ".join(sentence for sentence in sentences if not (context.holdout and "fold" in sentence.lower()))


def evaluated(context: ReportContext) -> str:
    """The shown learner, where it is evaluated, and on how many cases and subjects; the beginning of a caption."""
    rows = context.headline_rows
    return f"{learner_name(context.learner)}, {evaluated_on(context, context.stage)}: {counted_cases(context, rows)}."


def counted_cases(context: ReportContext, rows: pd.DataFrame) -> str:
    """The number of these rows of predictions, and of their subjects where those are known."""
    subjects = f" of {counted(int(rows['subject'].nunique()), 'subject')}" if context.study.subjects_known else ""
    return counted(len(rows), terms_of(context).noun) + subjects


def brackets(context: ReportContext) -> str:
    """The sentence that explains the brackets of every table."""
    return f"Brackets: {terms_of(context).confidence} intervals by {context.study.unit}."
