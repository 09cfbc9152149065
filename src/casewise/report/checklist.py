"""Checklists of reporting guidelines, with what a run recorded on each item; everything else is left to the author.

A list is a file of `checklists`. An item names the fact of `FACTS` that says something about it, or none: then only the
author can fill it in. A fact never shows that an item is complete, and a fact that the run lacks leaves its item open.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from casewise.errors import CasewiseError, nearest
from casewise.evaluation.results import Headline
from casewise.files import guarded
from casewise.metrics.registry import metric_of
from casewise.report.caveats import result_line
from casewise.report.formatting import without_html
from casewise.report.markdown.runs import FinishedStudy, read_finished, stage_of
from casewise.report.templating import templates
from casewise.study.learners import baselines_among, without_baselines
from casewise.targets import kind_named

FOLDER = Path(__file__).parent / "checklists"
FORMATS = ("md", "html", "csv")
AUTHOR, RUN = "author", "run"

Fact = Callable[[FinishedStudy], "dict[str, Any] | None"]


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
    module = templates(html=False).get_template("checklist_facts.j2").module
    report = run.files.report_path.read_text(encoding="utf-8") if run.files.report_path.exists() else ""
    items = []
    for item in checklist.items:
        values = FACTS[item.fact][1](run) if item.fact else None
        if item.fact is None or values is None:
            items.append(item)
            continue
        text = " ".join(str(getattr(module, item.fact)(values)).split())
        section_id = FACTS[item.fact][0]
        shown = f'<section id="{section_id}"' in report
        items.append(replace(item, text=text, section_id=section_id if shown else ""))
    return Checklist(checklist.name, checklist.source, checklist.main_items, tuple(items))


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
    values = {"checklist": checklist, "study": run.study, "filled": sum(item.by == RUN for item in checklist.items)}
    page = templates(html=kind == "html").get_template(f"checklist.{kind}.j2").render(**values).strip("\n") + "\n"
    return page if kind == "html" else without_html(page)


def _main(run: FinishedStudy) -> Headline | None:
    """The headline, if anything was evaluated."""
    return run.metrics.main if run.metrics.main.metrics else None


def _entry(run: FinishedStudy) -> Mapping[str, Any]:
    """Confusion matrix and operating points of the learner of the headline; empty for numbers."""
    main = _main(run)
    return run.class_entry(str(main.stage), str(main.learner), main.target) if main else {}


def preparation(run: FinishedStudy) -> dict[str, Any]:
    images = run.study.images
    examined = {key: run.audit["facts"][key] for key in ("subjects", "images")} if run.audit else None
    levels = [finding["level"] for finding in run.audit["findings"]] if run.audit else []
    errors, warnings = (levels.count(level) for level in ("error", "warning"))
    return {"size": images.size, "examined": examined, "errors": errors, "warnings": warnings}


def missing_reference(run: FinishedStudy) -> dict[str, Any] | None:
    predictions = run.files.predictions
    main = _main(run)
    if main is None or not predictions.exists():
        return None
    table = predictions.read(["model", "stage", "target", "y_true"])
    rows = table[(table["stage"] == main.stage) & (table["target"] == main.target) & (table["model"] == main.learner)]
    if rows.empty:
        return None
    lacking = int(rows["y_true"].isna().sum())
    return {"target": main.target, "stage": main.stage, "predictions": len(rows), "lacking": lacking}


def partition(run: FinishedStudy) -> dict[str, Any]:
    counts = run.splits["n"]
    folds = [counts[key]["subjects"] for key in counts if key != "test"]
    test = counts.get("test", {}).get("subjects", 0)
    return {
        "subjects": test + sum(folds),
        "test": test,
        "folds": folds,
        "site": run.site,
        "column": run.study.split.column,
        "known": run.study.subjects_known,
    }


def disjointness(run: FinishedStudy) -> dict[str, Any] | None:
    return {"subjects": partition(run)["subjects"]} if run.study.subjects_known else None


def networks(run: FinishedStudy) -> dict[str, Any]:
    parameters = {job["model"]: job.get("parameters") for job in run.jobs}
    return {"networks": [{"name": name, "parameters": parameters.get(name)} for name in run.study.networks]}


def software(run: FinishedStudy) -> dict[str, Any] | None:
    record = run.files.fingerprint.read_if_exists()
    if not record:
        return None
    packages = [name for name in ("casewise", "torch", "torchvision", "timm") if record.get(name)]
    devices = sorted({f"{job['device']}, {job['precision']}" for job in run.jobs if job.get("device")})
    return {"versions": [f"{name} {record[name]}" for name in packages], "devices": devices}


def first_weights(run: FinishedStudy) -> dict[str, Any] | None:
    # the folder of a file is of no interest to a reader
    stated = {job["model"]: str(job["weights"]).split("/")[-1] for job in run.jobs if job.get("weights")}
    return {"weights": sorted(stated.items())} if stated else None


def training(run: FinishedStudy) -> dict[str, Any] | None:
    recipe = run.study.recipe
    epochs = [job["epochs"] for job in run.jobs if job.get("epochs") is not None]
    if not epochs:
        return None
    return {
        "networks": list(run.study.networks),
        "folds": int(run.splits["folds"]),
        "optimizer": recipe.optimizer,
        "batch_size": recipe.batch_size,
        "epochs": (min(epochs), max(epochs)),
        "stopped_on": recipe.early_stopping.monitor,
        "nested": run.study.nested_cv is not None,
    }


def selection(run: FinishedStudy) -> dict[str, Any] | None:
    main = _main(run)
    if not main or not main.chosen_on:
        return None
    figures = run.figures("oof" if main.chosen_on == "oof" else str(main.stage))
    learners = list(figures) if main.chosen_on == "stated" else without_baselines(figures)
    return {"learner": main.learner, "chosen_on": main.chosen_on, "learners": learners}


def combined_learners(run: FinishedStudy) -> dict[str, Any] | None:
    names = [name for name in run.figures(stage_of(run)) if name not in run.study.networks]
    stacked = [name for name in names if name in (run.files.stackers.read_if_exists() or {})]
    return {"learners": stacked, "baselines": run.study.stack_baselines} if stacked else None


def imbalance(run: FinishedStudy) -> dict[str, Any] | None:
    return {"code": run.study.recipe.imbalance} if run.study.classes_of(run.main_target) else None


def prediction(run: FinishedStudy) -> dict[str, Any]:
    return {
        "test": partition(run)["test"],
        "augmented": run.study.test_time_augmentation,
        "baselines": bool(baselines_among(run.figures(stage_of(run)))),
        "site": run.site,
    }


def output(run: FinishedStudy) -> dict[str, Any]:
    target, points = run.main_target, _entry(run).get("operating") or []
    has_range = target in run.study.targets or target in run.study.scores
    return {
        "target": target,
        "classes": run.study.classes_of(target),
        "range": run.study.range_of(target) if has_range and not run.study.classes_of(target) else None,
        "thresholds": len(points),
        "chosen_on": sorted({str(point["chosen_on"]) for point in points}),
    }


def measures(run: FinishedStudy) -> dict[str, Any] | None:
    main = _main(run)
    if not main:
        return None
    names = (name.partition("[")[0].removesuffix("_calibrated") for name in main.metrics or ())
    return {"titles": list(dict.fromkeys(metric_of(name).title for name in names))}


def uncertainty(run: FinishedStudy) -> dict[str, Any] | None:
    notes = {note.code: note.facts for note in run.metrics.notes}
    if "intervals" not in notes:
        return None
    return {
        "confidence": notes["intervals"]["confidence"],
        "resamples": notes.get("comparisons", {}).get("resamples"),
        "known": run.study.subjects_known,
    }


def performance(run: FinishedStudy) -> dict[str, Any] | None:
    line = result_line(run.study, run.metrics) if _main(run) else ""
    return {"line": line} if line else None


def confusion(run: FinishedStudy) -> dict[str, Any] | None:
    entry, main = _entry(run), _main(run)
    if not main or not entry.get("confusion"):
        return None
    correct = sum(row[n] for n, row in enumerate(entry["confusion"]))
    rows = list(zip(entry["names"], entry["confusion"], strict=True))
    return {"learner": main.learner, "rows": rows, "correct": correct, "total": sum(entry["support"])}


def participants(run: FinishedStudy) -> dict[str, Any]:
    entry = _entry(run)
    counts = run.splits["n"].values()
    return {
        "subjects": sum(side["subjects"] for side in counts),
        "cases": sum(side["cases"] for side in counts),
        "images": run.images(),
        "support": list(zip(entry["names"], entry["support"], strict=True)) if entry else [],
        "stage": main.stage if (main := _main(run)) else None,
        "known": run.study.subjects_known,
    }


def analyses(run: FinishedStudy) -> dict[str, Any] | None:
    fitted = [job["n_fitted"] for job in run.jobs if job.get("n_fitted") is not None]
    if not fitted:
        return None
    return {"fitted": (min(fitted), max(fitted)), **participants(run), "networks": len(run.jobs)}


def external_cohort(run: FinishedStudy) -> dict[str, Any] | None:
    main, figures = _main(run), run.figures("external")
    shown = figures.get(main.learner or "", {}).get(main.target) if main else None
    if not main or not main.metrics or not shown:
        return None
    headline = [name for name in kind_named(main.kind).headline if name in shown and shown[name].value is not None]
    entry = run.class_entry("external", str(main.learner), main.target)
    first = next(iter(shown.values()))
    return {
        "name": run.study.external_name,
        "subjects": first.n_subjects,
        "cases": first.n_cases,
        "support": list(zip(entry["names"], entry["support"], strict=True)) if entry else [],
        "figures": [(metric_of(name).title, shown[name], main.metrics.get(name) or {}) for name in headline],
        "known": run.study.subjects_known,
    }


def sites(run: FinishedStudy) -> dict[str, Any] | None:
    return {"site": run.site, "folds": int(run.splits["folds"])} if run.site else None


def readers(run: FinishedStudy) -> dict[str, Any] | None:
    compared = {score: list(columns) for score, columns in run.study.evaluation.readers.items()}
    return {"readers": sorted(compared.items())} if compared and run.metrics.get("readers") else None


def saliency(run: FinishedStudy) -> dict[str, Any] | None:
    content = run.files.explanations.read_if_exists() or {}
    if not content.get("shown") or not run.files.has_weights(content.get("weights_sha256")):
        return None
    cases = content["shown"]["cases"]
    methods = sorted({method for case in cases for method in case["methods"]})
    return {"methods": methods, "cases": len(cases), "measured": run.measured is not None}


# What a run can say: the section of the report where it stands, and the values of the sentence in
# `templates/checklist_facts.j2` that has the same name.
FACTS: dict[str, tuple[str, Fact]] = {
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
