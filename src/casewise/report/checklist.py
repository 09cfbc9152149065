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
from casewise.evaluation.results import Headline
from casewise.files import guarded
from casewise.metrics.registry import metric_of
from casewise.report.blocks import Cell, Row, Section, Table, rendered
from casewise.report.caveats import result_line
from casewise.report.formatting import capital, counted, interval, listed, number, percent, without_html
from casewise.report.markdown.runs import FinishedStudy, read_finished, stage_of
from casewise.report.templating import plain_page
from casewise.report.terms import METHODS, SIDES, report_title
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


def filled(checklist: Checklist, run: FinishedStudy) -> Checklist:
    """The list with what the run recorded."""
    report = run.files.report_path.read_text(encoding="utf-8") if run.files.report_path.exists() else ""
    items = []
    for item in checklist.items:
        place, write = FACTS[item.fact] if item.fact else ("", lambda _: "")
        text = write(run)
        shown = bool(text) and f'<section id="{place}"' in report
        items.append(replace(item, text=text, section_id=place if shown else ""))
    return replace(checklist, items=tuple(items))


def write_checklist(folder: Path, name: str, kind: str = "md") -> str:
    """The filled list of a finished run as Markdown, as an HTML page whose table a word processor opens, or as CSV.

    Raises:
        CasewiseError: there is no such list or format.
        RunError: the folder holds no finished run.
    """
    if kind not in FORMATS:
        raise CasewiseError(f"--format: {kind!r} is none of {', '.join(FORMATS)}.{nearest(kind, FORMATS)}")
    run = read_finished(folder)
    checklist = filled(read_checklist(name), run)
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
    title = f"{checklist.name}: {report_title(run.study)}"
    if kind == "html":
        return plain_page(title, [section], kind="", style=STYLE, footer="")
    return without_html(f"# {' '.join(title.split())}\n\n{rendered([section], html=False).strip()}\n")


# What a run says on an item: a function each, empty where it says nothing.


def _main(run: FinishedStudy) -> Headline | None:
    """The headline, if anything was evaluated."""
    return run.metrics.main if run.metrics.main.metrics else None


def _entry(run: FinishedStudy) -> Mapping[str, Any]:
    """Confusion matrix and operating points of the learner of the headline; empty for numbers."""
    main = _main(run)
    return run.class_entry(str(main.stage), str(main.learner), main.target) if main else {}


def _people(run: FinishedStudy, subjects: int) -> str:
    unknown = "" if run.study.subjects_known else " (subjects were not known; each image counts as one)"
    return counted(subjects, "subject") + unknown


def _unit(run: FinishedStudy) -> str:
    return "subject" if run.study.subjects_known else "image"


def _support(entry: Mapping[str, Any]) -> str:
    """The number of cases of each class."""
    return ", ".join(f"{name} {count:,}" for name, count in zip(entry["names"], entry["support"], strict=True))


def _evaluated(run: FinishedStudy) -> str:
    entry, main = _entry(run), _main(run)
    return f" Evaluated {SIDES[str(main.stage)]}: {_support(entry)}." if entry and main else ""


def _span(values: Iterable[int]) -> str:
    """The smallest and the largest of some counts; empty without any."""
    return " to ".join(map(str, sorted({min(values), max(values)}))) if (values := list(values)) else ""


def _subjects(run: FinishedStudy) -> tuple[int, list[int]]:
    """The number of subjects in the test set and in each fold."""
    counts = {side: entry["subjects"] for side, entry in run.splits["n"].items()}
    return counts.pop("test", 0), list(counts.values())


def preparation(run: FinishedStudy) -> str:
    text = f"Images are prepared with a side of {run.study.images.size} pixels; the report prints all settings."
    if not run.audit:
        return text
    images, subjects = (counted(run.audit["facts"][f"{noun}s"], noun) for noun in ("image", "subject"))
    levels = [finding["level"] for finding in run.audit["findings"]]
    found = ", ".join(counted(levels.count(level), level) for level in ("error", "warning"))
    return f"{text} The audit examined {images} of {subjects}: {found}."


def missing_reference(run: FinishedStudy) -> str:
    predictions, main = run.files.predictions, _main(run)
    if main is None or not predictions.exists():
        return ""
    table = predictions.read(["model", "stage", "target", "y_true"])
    rows = table[(table["stage"] == main.stage) & (table["target"] == main.target) & (table["model"] == main.learner)]
    without = f"{int(rows['y_true'].isna().sum()):,} of {counted(len(rows), 'prediction')}"
    side = capital(SIDES[str(main.stage)])
    return (
        f"{side}, {without} without a reference value of {main.target}; these are not evaluated." if len(rows) else ""
    )


def partition(run: FinishedStudy) -> str:
    test, folds = _subjects(run)
    how = f" Each fold leaves out one {run.site}." if run.site else ""
    if run.study.split.column and not how:
        how = f" The column {run.study.split.column} of the table gives the split."
    return (
        f"{capital(_people(run, test + sum(folds)))}: {test or 'none'} in the test set, the others in"
        f" {counted(len(folds), 'fold')} of {listed(list(map(str, folds)))}.{how}"
    )


def disjointness(run: FinishedStudy) -> str:
    test, folds = _subjects(run)
    if not run.study.subjects_known:
        return ""
    count = counted(test + sum(folds), "subject")
    return f"The test set and the folds are disjoint by subject ({count}), as far as names tell subjects apart."


def networks(run: FinishedStudy) -> str:
    parameters = {job["model"]: job.get("parameters") for job in run.jobs}
    sizes = {name: f" ({parameters[name]:,} parameters)" if parameters.get(name) else "" for name in run.study.networks}
    return ", ".join(f"{name}{size}" for name, size in sizes.items()) + "."


def software(run: FinishedStudy) -> str:
    record = run.files.fingerprint.read_if_exists() or {}
    versions = [f"{name} {record[name]}" for name in ("casewise", "torch", "torchvision", "timm") if record.get(name)]
    devices = sorted({f"{job['device']}, {job['precision']}" for job in run.jobs if job.get("device")})
    trained = f"; trained on {'; '.join(devices)}" if devices else ""
    return f"{listed(versions)}{trained}." if versions else ""


def first_weights(run: FinishedStudy) -> str:
    # the folder of a file is of no interest to a reader
    stated = {job["model"]: str(job["weights"]).split("/")[-1] for job in run.jobs if job.get("weights")}
    return "; ".join(f"{name}: {weights}" for name, weights in sorted(stated.items())) + "." if stated else ""


def training(run: FinishedStudy) -> str:
    recipe = run.study.recipe
    epochs = _span(job["epochs"] for job in run.jobs if job.get("epochs") is not None)
    if not epochs:
        return ""
    stopping = {
        "none": "all of them kept",
        "inner": "stopped by the loss of inner subjects",
        "fold": "stopped by the loss of the fold that is evaluated",
    }[str(recipe.early_stopping.monitor)]
    nested = " Inner folds of the training subjects chose settings." if run.study.nested_cv is not None else ""
    return (
        f"{listed(list(run.study.networks))} in each of {counted(int(run.splits['folds']), 'fold')}:"
        f" {recipe.optimizer}, batches of {recipe.batch_size}, {epochs} epochs, {stopping}.{nested} The report lists all"
        " further settings."
    )


def selection(run: FinishedStudy) -> str:
    main = _main(run)
    if not main or not main.chosen_on:
        return ""
    figures = run.figures("oof" if main.chosen_on == "oof" else str(main.stage))
    learners = list(figures) if main.chosen_on == "stated" else without_baselines(figures)
    name = the_learner(str(main.learner), start=True)
    if len(learners) == 1:
        return f"{name} is the only learner."
    on = {"stated": "stated before any result", "oof": "chosen out of fold"}.get(
        main.chosen_on, f"chosen on {main.chosen_on}"
    )
    among = f"{counted(len(learners), 'learner')}: {listed(list(map(learner_name, learners)))}"
    return f"{name} was {on} among {among}."


def combined_learners(run: FinishedStudy) -> str:
    weights = run.files.stackers.read_if_exists() or {}
    stacked = [name for name in run.figures(stage_of(run)) if name not in run.study.networks and name in weights]
    what = "the networks and baselines" if run.study.stack_baselines else "the networks"
    return f"Predictions of {what} are combined by {listed(list(map(the_learner, stacked)))}." if stacked else ""


def imbalance(run: FinishedStudy) -> str:
    texts = {
        "none": "No correction was made for classes of different size.",
        "weights": "In training, all classes have the same total weight.",
        "sampling": "In training, all classes are drawn equally often.",
    }
    return texts[run.study.recipe.imbalance] if run.study.classes_of(run.main_target) else ""


def prediction(run: FinishedStudy) -> str:
    text = f"Out of fold, a case is predicted by the network that was not trained on its {run.site or 'subject'}"
    text += "; a case of the test set by the networks of all folds together." if _subjects(run)[0] else "."
    if not run.study.test_time_augmentation:
        return text
    baselines = bool(baselines_among(run.figures(stage_of(run))))
    whose, others = (" of a network", "; baselines read the image as it is") if baselines else ("", "")
    return f"{text} Each prediction{whose} is the mean over the image and its mirror image{others}."


def output(run: FinishedStudy) -> str:
    study, target, points = run.study, run.main_target, _entry(run).get("operating") or []
    if classes := study.classes_of(target):
        text = f"{target}: a probability of each of {listed(classes)}, and a class."
    elif target in study.targets or target in study.scores:
        low, high = study.range_of(target)
        text = f"{target}: a number from {low:g} to {high:g}."
    else:
        text = f"{target}: a number."
    on = sorted({str(point["chosen_on"]) for point in points})
    return f"{text} {counted(len(points), 'threshold')}, chosen on: {', '.join(on)}." if points else text


def measures(run: FinishedStudy) -> str:
    main = _main(run)
    names = (name.partition("[")[0].removesuffix("_calibrated") for name in (main.metrics if main else None) or ())
    titles = list(dict.fromkeys(metric_of(name).title for name in names))
    return f"{listed(titles)}." if titles else ""


def uncertainty(run: FinishedStudy) -> str:
    notes, unit = {note.code: note.facts for note in run.metrics.notes}, _unit(run)
    if "intervals" not in notes:
        return ""
    text = f"{percent(notes['intervals']['confidence'])} jackknife intervals, leaving out one {unit} at a time"
    if resamples := notes.get("comparisons", {}).get("resamples"):
        text += f"; differences of learners: {resamples:,} resamples of {unit}s, with intervals that hold for all pairs"
    return f"{text}. Intervals are conditional on the trained networks."


def performance(run: FinishedStudy) -> str:
    return result_line(run.study, run.metrics) if _main(run) else ""


def confusion(run: FinishedStudy) -> str:
    entry, main = _entry(run), _main(run)
    if not main or not entry.get("confusion"):
        return ""
    matrix = entry["confusion"]
    correct = sum(row[n] for n, row in enumerate(matrix))
    rows = "; ".join(f"{name} {', '.join(map(str, row))}" for name, row in zip(entry["names"], matrix, strict=True))
    return (
        f"{learner_name(str(main.learner))}: {correct:,} of {sum(entry['support']):,} correct. Reference and numbers of"
        f" each predicted class in the same order: {rows}."
    )


def participants(run: FinishedStudy) -> str:
    sides = run.splits["n"].values()
    subjects, cases = (sum(side[name] for side in sides) for name in ("subjects", "cases"))
    images = f", {counted(run.images(), 'image')}" if run.images() else ""
    return (
        f"{capital(_people(run, subjects))}, {counted(cases, 'case')}{images} in the split.{_evaluated(run)} Exclusions"
        " before the table was made are not known to the run."
    )


def analyses(run: FinishedStudy) -> str:
    fitted = _span(job["n_fitted"] for job in run.jobs if job.get("n_fitted") is not None)
    count = counted(len(run.jobs), "trained network")
    return f"{count}, each fitted on {fitted} {_unit(run)}s.{_evaluated(run)}" if fitted else ""


def external_cohort(run: FinishedStudy) -> str:
    main, figures = _main(run), run.figures("external")
    shown = figures.get(main.learner or "", {}).get(main.target) if main else None
    if not main or not main.metrics or not shown:
        return ""
    entry = run.class_entry("external", str(main.learner), main.target)
    first, texts = next(iter(shown.values())), []
    for name in kind_named(main.kind).headline:
        if name in shown and shown[name].value is not None:
            ends = interval(shown[name], 2, words=True)
            outside = number(shown[name].value, 2) + (f" ({ends})" if ends else "")
            inside = number((main.metrics.get(name) or {}).get("value"), 2)
            texts.append(f" {metric_of(name).title} {outside}, against {inside} in the own cohort.")
    support = f" ({_support(entry)})" if entry else ""
    people = f"{counted(first.n_cases, 'case')} of {_people(run, first.n_subjects)}"
    return f"{run.study.external_name}: {people}{support}.{''.join(texts)}"


def sites(run: FinishedStudy) -> str:
    folds = int(run.splits["folds"])
    return (
        f"Each of {counted(folds, run.site)} was left out in turn; the report has the figures of each."
        if run.site
        else ""
    )


def readers(run: FinishedStudy) -> str:
    compared = sorted(run.study.evaluation.readers.items())
    names = "; ".join(f"{score}: readers {listed(list(columns))}" for score, columns in compared)
    return f"{names}. The report has their agreement." if compared and run.metrics.get("readers") else ""


def saliency(run: FinishedStudy) -> str:
    content = run.files.explanations.read_if_exists() or {}
    if not content.get("shown") or not run.files.has_weights(content.get("weights_sha256")):
        return ""
    cases = content["shown"]["cases"]
    methods = sorted({method for case in cases for method in case["methods"]})
    masks = (
        "compared with masks, and with those of networks with random weights"
        if run.measured
        else "not compared with masks"
    )
    names = listed([METHODS.get(name, name) for name in methods])
    return f"{names} of {counted(len(cases), 'case')}. The maps were {masks}."


# What a run can say, and the section of the report where it stands.
FACTS: dict[str, tuple[str, Callable[[FinishedStudy], str]]] = {
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
