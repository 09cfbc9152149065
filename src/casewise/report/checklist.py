"""Checklists of reporting guidelines, with what a run recorded on each item; everything else is left to the author.

A list is a file of `checklists`. An item names the fact of `FACTS` that says something about it, or none: then only the
author can fill it in. A fact never shows that an item is complete, and a fact that the run lacks leaves its item open.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from casewise.errors import CasewiseError, nearest
from casewise.evaluation.results import Figures, Headline
from casewise.files import guarded
from casewise.metrics.registry import metric_of
from casewise.report.blocks import Cell, Row, Section, Table, rendered
from casewise.report.caveats import result_line
from casewise.report.context import ReportContext, read_context
from casewise.report.formatting import capital, counted, interval, listed, number, percent, without_html
from casewise.report.templating import plain_page
from casewise.report.terms import METHODS, SIDES, report_title
from casewise.run_folder import RunFolder
from casewise.study.learners import baselines_among, learner_name, the_learner, without_baselines
from casewise.targets import kind_named

FOLDER = Path(__file__).parent / "checklists"
FORMATS = ("md", "html", "csv")
AUTHOR, RUN = "author", "run"

COLUMNS = ("Item", "Section", "Topic", "Filled in by", "What the run says", "Place in report.html")
CAPTION = (
    "What the run says does not show that an item is complete: check each one, complete it, and fill in those left to"
    " the author. Topics are shortened; the wording that counts is that of the publication: {source}."
)
# What a word processor understands.
STYLE = (
    "body{font-family:sans-serif;font-size:10pt}table{border-collapse:collapse}"
    "th,td{border:1px solid #888;padding:3pt 5pt;text-align:left;vertical-align:top}"
)


@dataclass(frozen=True)
class Item:
    """One item of a list.

    Attributes:
        topic: in our own words.
        fact: the name of what the run says about it; None where only the author can fill it in.
        text, section_id: what the run says, and the section of the report where it stands; empty if it says nothing.
    """

    id: str
    section: str
    topic: str
    fact: str | None = None
    text: str = ""
    section_id: str = ""

    @property
    def by(self) -> str:
        """Who fills the item in: `run`, which the author completes, or `author`."""
        return RUN if self.text else AUTHOR


@dataclass(frozen=True)
class Checklist:
    """A guideline's list: its name, its source, the number of its items without their parts, and the items."""

    name: str
    source: str
    main_items: int
    items: tuple[Item, ...]


def names() -> list[str]:
    """The lists that there are.

    >>> names()
    ['claim', 'stard-ai', 'tripod-ai']
    """
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_checklist(name: str) -> Checklist:
    """A list without anything filled in.

    Raises:
        CasewiseError: there is no such list.
    """
    import yaml

    if name not in names():
        raise CasewiseError(f"--of: {name!r} is none of {', '.join(names())}.{nearest(name, names())}")
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return Checklist(**{**values, "items": tuple(Item(**item) for item in values["items"])})


def filled(checklist: Checklist, context: ReportContext) -> Checklist:
    """The list with what the run recorded."""
    path = RunFolder(Path(context.source)).report_path
    report = path.read_text(encoding="utf-8") if path.exists() else ""
    items = []
    for item in checklist.items:
        place, write = FACTS[item.fact] if item.fact else ("", lambda _: "")
        text = write(context)
        shown = bool(text) and f'<section id="{place}"' in report
        items.append(replace(item, text=text, section_id=place if shown else ""))
    return replace(checklist, items=tuple(items))


def write_checklist(folder: Path, name: str, kind: str = "md") -> str:
    """The filled list of a finished run as Markdown, as an HTML page whose table a word processor opens, or as CSV.

    Raises:
        CasewiseError: there is no such list or format.
        RunError: the folder holds no finished context.
    """
    if kind not in FORMATS:
        raise CasewiseError(f"--format: {kind!r} is none of {', '.join(FORMATS)}.{nearest(kind, FORMATS)}")
    context = read_context(folder)
    checklist = filled(read_checklist(name), context)
    if kind == "csv":
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(("item", "section", "topic", "filled_in_by", "what_the_run_says", "place_in_the_report"))
        writer.writerows(
            [guarded(cell) for cell in (i.id, i.section, i.topic, i.by, i.text, i.section_id)] for i in checklist.items
        )
        return buffer.getvalue()
    count = f"{sum(item.by == RUN for item in checklist.items)} of {len(checklist.items)} items and parts of items"
    rows = [
        Row(item.id, [Cell(text) for text in (item.section, item.topic, item.by, item.text, item.section_id)])
        for item in checklist.items
    ]
    table = Table(COLUMNS, rows, CAPTION.format(source=checklist.source))
    section = Section("checklist", f"{count} filled in by the run", [table])
    title = f"{checklist.name}: {report_title(context.study)}"
    if kind == "html":
        return plain_page(title, [section], kind="", style=STYLE, footer="")
    return without_html(f"# {' '.join(title.split())}\n\n{rendered([section], html=False).strip()}\n")


# What a run says on an item: a function each, empty where it says nothing.


def _main(context: ReportContext) -> Headline | None:
    """The headline, if anything was evaluated."""
    return context.metrics.main if context.metrics.main.metrics else None


def _entry(context: ReportContext) -> Mapping[str, Any]:
    """Confusion matrix and operating points of the learner of the headline; empty for numbers."""
    main = _main(context)
    return context.class_entry(str(main.stage), str(main.learner), main.target) if main else {}


def _target(context: ReportContext) -> str:
    """The target of the headline; the primary outcome if there is none."""
    return context.metrics.main.target or context.outcome


def _figures(context: ReportContext, stage: str) -> dict[str, dict[str, Figures]]:
    """The figures of a stage by learner and target."""
    return context.metrics.metrics.get(stage, {})


def _site(context: ReportContext) -> str:
    """The source that each fold left out; empty if folds are of subjects."""
    how = str(context.splits.get("how") or "")
    return how.removeprefix("leave out ") if how.startswith("leave out ") else ""


def _people(context: ReportContext, subjects: int) -> str:
    unknown = "" if context.study.subjects_known else " (subjects were not known; each image counts as one)"
    return counted(subjects, "subject") + unknown


def _unit(context: ReportContext) -> str:
    return "subject" if context.study.subjects_known else "image"


def _support(entry: Mapping[str, Any]) -> str:
    """The number of cases of each class."""
    return ", ".join(f"{name} {count:,}" for name, count in zip(entry["names"], entry["support"], strict=True))


def _evaluated(context: ReportContext) -> str:
    entry, main = _entry(context), _main(context)
    return f" Evaluated {SIDES[str(main.stage)]}: {_support(entry)}." if entry and main else ""


def _span(values: Iterable[int]) -> str:
    """The smallest and the largest of some counts; empty without any."""
    return " to ".join(map(str, sorted({min(values), max(values)}))) if (values := list(values)) else ""


def _subjects(context: ReportContext) -> tuple[int, list[int]]:
    """The number of subjects in the test set and in each fold."""
    counts = {side: entry["subjects"] for side, entry in context.splits["n"].items()}
    return counts.pop("test", 0), list(counts.values())


def preparation(context: ReportContext) -> str:
    text = f"Images are prepared with a side of {context.study.images.size} pixels; the report prints all settings."
    if not context.audit:
        return text
    images, subjects = (counted(context.audit["facts"][f"{noun}s"], noun) for noun in ("image", "subject"))
    levels = [finding["level"] for finding in context.audit["findings"]]
    found = ", ".join(counted(levels.count(level), level) for level in ("error", "warning"))
    return f"{text} The audit examined {images} of {subjects}: {found}."


def missing_reference(context: ReportContext) -> str:
    table, main = context.predictions, _main(context)
    if main is None:
        return ""
    rows = table[(table["stage"] == main.stage) & (table["target"] == main.target) & (table["model"] == main.learner)]
    without = f"{int(rows['y_true'].isna().sum()):,} of {counted(len(rows), 'prediction')}"
    side = capital(SIDES[str(main.stage)])
    return (
        f"{side}, {without} without a reference value of {main.target}; these are not evaluated." if len(rows) else ""
    )


def partition(context: ReportContext) -> str:
    test, folds = _subjects(context)
    how = f" Each fold leaves out one {_site(context)}." if _site(context) else ""
    if context.study.split.column and not how:
        how = f" The column {context.study.split.column} of the table gives the split."
    return (
        f"{capital(_people(context, test + sum(folds)))}: {test or 'none'} in the test set, the others in"
        f" {counted(len(folds), 'fold')} of {listed(list(map(str, folds)))}.{how}"
    )


def disjointness(context: ReportContext) -> str:
    test, folds = _subjects(context)
    if not context.study.subjects_known:
        return ""
    count = counted(test + sum(folds), "subject")
    return f"The test set and the folds are disjoint by subject ({count}), as far as names tell subjects apart."


def networks(context: ReportContext) -> str:
    parameters = {job["model"]: job.get("parameters") for job in context.jobs}
    sizes = {
        name: f" ({parameters[name]:,} parameters)" if parameters.get(name) else "" for name in context.study.networks
    }
    return ", ".join(f"{name}{size}" for name, size in sizes.items()) + "."


def software(context: ReportContext) -> str:
    record = RunFolder(Path(context.source)).fingerprint.read_if_exists() or {}
    versions = [f"{name} {record[name]}" for name in ("casewise", "torch", "torchvision", "timm") if record.get(name)]
    devices = sorted({f"{job['device']}, {job['precision']}" for job in context.jobs if job.get("device")})
    trained = f"; trained on {'; '.join(devices)}" if devices else ""
    return f"{listed(versions)}{trained}." if versions else ""


def first_weights(context: ReportContext) -> str:
    # the folder of a file is of no interest to a reader
    stated = {job["model"]: str(job["weights"]).split("/")[-1] for job in context.jobs if job.get("weights")}
    return "; ".join(f"{name}: {weights}" for name, weights in sorted(stated.items())) + "." if stated else ""


def training(context: ReportContext) -> str:
    recipe = context.study.recipe
    epochs = _span(job["epochs"] for job in context.jobs if job.get("epochs") is not None)
    if not epochs:
        return ""
    stopping = {
        "none": "all of them kept",
        "inner": "stopped by the loss of inner subjects",
        "fold": "stopped by the loss of the fold that is evaluated",
    }[str(recipe.early_stopping.monitor)]
    nested = " Inner folds of the training subjects chose settings." if context.study.nested_cv is not None else ""
    return (
        f"{listed(list(context.study.networks))} in each of {counted(int(context.splits['folds']), 'fold')}:"
        f" {recipe.optimizer}, batches of {recipe.batch_size}, {epochs} epochs, {stopping}.{nested} The report"
        " lists all further settings."
    )


def selection(context: ReportContext) -> str:
    main = _main(context)
    if not main or not main.chosen_on:
        return ""
    figures = _figures(context, "oof" if main.chosen_on == "oof" else str(main.stage))
    learners = list(figures) if main.chosen_on == "stated" else without_baselines(figures)
    name = the_learner(str(main.learner), start=True)
    if len(learners) == 1:
        return f"{name} is the only learner."
    on = {"stated": "stated before any result", "oof": "chosen out of fold"}.get(
        main.chosen_on, f"chosen on {main.chosen_on}"
    )
    among = f"{counted(len(learners), 'learner')}: {listed(list(map(learner_name, learners)))}"
    return f"{name} was {on} among {among}."


def combined_learners(context: ReportContext) -> str:
    others = set(_figures(context, context.stage)) - set(context.study.networks)
    stacked = [name for name in context.learners if name in others and name in context.stackers]
    what = "the networks and baselines" if context.study.stack_baselines else "the networks"
    return f"Predictions of {what} are combined by {listed(list(map(the_learner, stacked)))}." if stacked else ""


def imbalance(context: ReportContext) -> str:
    texts = {
        "none": "No correction was made for classes of different size.",
        "weights": "In training, all classes have the same total weight.",
        "sampling": "In training, all classes are drawn equally often.",
    }
    return texts[context.study.recipe.imbalance] if context.study.classes_of(_target(context)) else ""


def prediction(context: ReportContext) -> str:
    text = f"Out of fold, a case is predicted by the network that was not trained on its {_site(context) or 'subject'}"
    text += "; a case of the test set by the networks of all folds together." if _subjects(context)[0] else "."
    if not context.study.test_time_augmentation:
        return text
    baselines = bool(baselines_among(_figures(context, context.stage)))
    whose, others = (" of a network", "; baselines read the image as it is") if baselines else ("", "")
    return f"{text} Each prediction{whose} is the mean over the image and its mirror image{others}."


def output(context: ReportContext) -> str:
    study, target, points = context.study, _target(context), _entry(context).get("operating") or []
    if classes := study.classes_of(target):
        text = f"{target}: a probability of each of {listed(classes)}, and a class."
    elif target in study.targets or target in study.scores:
        low, high = study.range_of(target)
        text = f"{target}: a number from {low:g} to {high:g}."
    else:
        text = f"{target}: a number."
    on = sorted({str(point["chosen_on"]) for point in points})
    return f"{text} {counted(len(points), 'threshold')}, chosen on: {', '.join(on)}." if points else text


def measures(context: ReportContext) -> str:
    main = _main(context)
    names = (name.partition("[")[0].removesuffix("_calibrated") for name in (main.metrics if main else None) or ())
    titles = list(dict.fromkeys(metric_of(name).title for name in names))
    return f"{listed(titles)}." if titles else ""


def uncertainty(context: ReportContext) -> str:
    settings, unit = context.study.evaluation, _unit(context)
    text = f"{percent(settings.confidence)} jackknife intervals, leaving out one {unit} at a time"
    if any(context.metrics.comparisons.values()):
        resamples = f"{settings.bootstrap_resamples:,} resamples of {unit}s"
        text += f"; differences of learners: {resamples}, with intervals that hold for all pairs"
    return f"{text}. Intervals are conditional on the trained networks."


def performance(context: ReportContext) -> str:
    return result_line(context.study, context.metrics) if _main(context) else ""


def confusion(context: ReportContext) -> str:
    entry, main = _entry(context), _main(context)
    if not main or not entry.get("confusion"):
        return ""
    matrix = entry["confusion"]
    correct = sum(row[n] for n, row in enumerate(matrix))
    rows = "; ".join(f"{name} {', '.join(map(str, row))}" for name, row in zip(entry["names"], matrix, strict=True))
    return (
        f"{learner_name(str(main.learner))}: {correct:,} of {sum(entry['support']):,} correct. Reference and numbers of"
        f" each predicted class in the same order: {rows}."
    )


def participants(context: ReportContext) -> str:
    sides = context.splits["n"].values()
    subjects, cases = (sum(side[name] for side in sides) for name in ("subjects", "cases"))
    rows = context.cohort_images
    rows = rows[rows["subject"].astype(str).isin(list(context.splits["subjects"]))]
    # A slide has one row for each tile.
    images = f", {counted(int(rows['path'].nunique()), 'image')}"
    return (
        f"{capital(_people(context, subjects))}, {counted(cases, 'case')}{images} in the split.{_evaluated(context)}"
        " Exclusions before the table was made are not known to the run."
    )


def analyses(context: ReportContext) -> str:
    fitted = _span(job["n_fitted"] for job in context.jobs if job.get("n_fitted") is not None)
    count = counted(len(context.jobs), "trained network")
    return f"{count}, each fitted on {fitted} {_unit(context)}s.{_evaluated(context)}" if fitted else ""


def external_cohort(context: ReportContext) -> str:
    main, figures = _main(context), _figures(context, "external")
    shown = figures.get(str(main.learner), {}).get(str(main.target)) if main else None
    if not main or not main.metrics or not shown:
        return ""
    entry = context.class_entry("external", str(main.learner), main.target)
    first, texts = next(iter(shown.values())), []
    for name in kind_named(main.kind).headline:
        if name in shown and shown[name].value is not None:
            ends = interval(shown[name], 2, words=True)
            outside = number(shown[name].value, 2) + (f" ({ends})" if ends else "")
            own = main.metrics.get(name)
            inside = number(own.value if own else None, 2)
            texts.append(f" {metric_of(name).title} {outside}, against {inside} in the own cohort.")
    support = f" ({_support(entry)})" if entry else ""
    people = f"{counted(first.n_cases, 'case')} of {_people(context, first.n_subjects)}"
    return f"{context.study.external_name}: {people}{support}.{''.join(texts)}"


def sites(context: ReportContext) -> str:
    folds = int(context.splits["folds"])
    return (
        f"Each of {counted(folds, _site(context))} was left out in turn; the report has the figures of each."
        if _site(context)
        else ""
    )


def readers(context: ReportContext) -> str:
    compared = sorted(context.study.evaluation.readers.items())
    names = "; ".join(f"{score}: readers {listed(list(columns))}" for score, columns in compared)
    return f"{names}. The report has their agreement." if compared and context.metrics.get("readers") else ""


def saliency(context: ReportContext) -> str:
    content = context.explanations or {}
    if not content.get("shown"):
        return ""
    cases = content["shown"]["cases"]
    methods = sorted({method for case in cases for method in case["methods"]})
    masks = (
        "compared with masks, and with those of networks with random weights"
        if content.get("measured")
        else "not compared with masks"
    )
    names = listed([METHODS.get(name, name) for name in methods])
    return f"{names} of {counted(len(cases), 'case')}. The maps were {masks}."


# What a run can say, and the section of the report where it stands.
FACTS: dict[str, tuple[str, Callable[[ReportContext], str]]] = {
    "preparation": ("training", preparation),
    "missing_reference": ("labels", missing_reference),
    "partition": ("labels", partition),
    "disjointness": ("labels", disjointness),
    "networks": ("training", networks),
    "software": ("training", software),
    "first_weights": ("training", first_weights),
    "training": ("training", training),
    "selection": ("learners", selection),
    "combined_learners": ("learners", combined_learners),
    "imbalance": ("training", imbalance),
    "prediction": ("training", prediction),
    "output": ("labels", output),
    "measures": ("glossary", measures),
    "uncertainty": ("summary", uncertainty),
    "performance": ("summary", performance),
    "confusion": ("classes", confusion),
    "participants": ("labels", participants),
    "analyses": ("training", analyses),
    "external_cohort": ("external", external_cohort),
    "sites": ("left-out", sites),
    "readers": ("agreement", readers),
    "saliency": ("saliency", saliency),
}
