"""Checklists of reporting guidelines, with what a run recorded on each item; everything else is left to the author.

A list is a file of `lists`. An item names the fact of `FACTS` that says something about it, or none: then only the
author can fill it in. A fact never shows that an item is complete, and a fact that the run lacks leaves its item open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from casewise.cohort.participants import DEVICES, plain_name
from casewise.errors import CasewiseError, nearest
from casewise.evaluation.figures import READERS
from casewise.evaluation.results import ClassFigures
from casewise.evaluation.subgroups import SIGNIFICANT
from casewise.metrics.registry import metric_of
from casewise.predictions.table import CHOOSING
from casewise.report.blocks import Row, Section, Table, plain_page, rendered
from casewise.report.caveats import result_line
from casewise.report.context import EXTERNAL, METHODS, SIDES, ReportContext, defined, read_context, report_title
from casewise.report.formatting import capital, counted, group_label, listed, percent, without_html
from casewise.report.sections.learners import RULES, is_gated
from casewise.report.tables import metric_format
from casewise.run_folder import RunFolder
from casewise.study.learners import baselines_among, learner_name, learner_named, the_learner, without_baselines
from casewise.study.weight_origins import origins_sentence
from casewise.targets import kind_named

FOLDER = Path(__file__).parent / "lists"
FORMATS = ("md", "html", "csv")
AUTHOR, RUN = "author", "run"

# The headings of the columns, and their names in a CSV file.
COLUMNS = {
    "Item": "item",
    "Section": "section",
    "Topic": "topic",
    "Filled in by": "filled_in_by",
    "What the run says": "what_the_run_says",
    "Place in report.html": "place_in_the_report",
}
CAPTION = (
    "What the run says does not show that an item is complete: check each one, complete it, and fill in the items left"
    " to the author. Topics are shortened; the publication has the authoritative wording: {source}."
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
class _Checklist:
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


def read_checklist(name: str) -> _Checklist:
    """A list without anything filled in.

    Raises:
        CasewiseError: there is no such list.
    """
    import yaml

    if name not in names():
        raise CasewiseError(f"--of: {name!r} is none of {', '.join(names())}.{nearest(name, names())}")
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return _Checklist(**{**values, "items": tuple(Item(**item) for item in values["items"])})


def filled(checklist: _Checklist, context: ReportContext) -> _Checklist:
    """The list with what the run recorded."""
    path = RunFolder(Path(context.source)).report.path
    report = path.read_text(encoding="utf-8") if path.exists() else ""
    items = []
    for item in checklist.items:
        section_id, write = FACTS[item.fact] if item.fact else ("", lambda _: "")
        text = write(context)
        shown = bool(text) and f'<section id="{section_id}"' in report
        items.append(replace(item, text=text, section_id=section_id if shown else ""))
    return replace(checklist, items=tuple(items))


def write_checklist(folder: Path, name: str, kind: str = "md") -> str:
    """The filled list of a finished run as Markdown, as an HTML page whose table a word processor opens, or as CSV.

    Raises:
        CasewiseError: there is no such list or format.
        RunError: the folder holds no finished context.
    """
    if kind not in FORMATS:
        raise CasewiseError(f"--format: {kind!r} is none of {', '.join(FORMATS)}.{nearest(kind, FORMATS)}")
    empty = read_checklist(name)
    context = read_context(folder)
    checklist = filled(empty, context)
    cells = [(i.id, i.section, i.topic, i.by, i.text, i.section_id) for i in checklist.items]
    rows, data = [Row(name, texts) for name, *texts in cells], pd.DataFrame(cells, columns=[*COLUMNS.values()])
    table = Table([*COLUMNS], rows, CAPTION.format(source=checklist.source), data=data)
    if kind == "csv":
        return table.csv()
    count = f"{sum(item.by == RUN for item in checklist.items)} of {len(checklist.items)} items and parts of items"
    section = Section("checklist", f"{count} filled in by the run", [table])
    title = f"{checklist.name}: {report_title(context.study)}"
    if kind == "html":
        return plain_page(title, [section], style=STYLE)
    return without_html(f"# {' '.join(title.split())}\n\n{rendered([section], html=False).strip()}\n")


# What a run says on an item: a function each, empty where it says nothing.


def _headline(context: ReportContext) -> tuple[str, str, str]:
    """Stage, learner and target of the headline."""
    main = context.metrics.main
    return str(main.stage), str(main.learner), main.target or context.outcome


def _site(context: ReportContext) -> str:
    """The source that each fold left out; empty if folds are of subjects."""
    how = str(context.splits.get("how") or "")
    return how.removeprefix("leave out ") if how.startswith("leave out ") else ""


def _people(context: ReportContext, subjects: int) -> str:
    unknown = "" if context.study.subjects_known else " (subjects were not known)"
    return counted(subjects, context.study.unit) + unknown


def _support(entry: ClassFigures) -> str:
    """The number of cases of each class."""
    return ", ".join(f"{name} {count:,}" for name, count in zip(entry.names, entry.support, strict=True))


def _evaluated(context: ReportContext) -> str:
    stage, *rest = _headline(context)
    entry = context.class_figures(stage, *rest)
    return f" Evaluated {SIDES[stage]}: {_support(entry)}." if entry else ""


def _span(context: ReportContext, name: str) -> str:
    """The smallest and the largest of a count over the networks; empty without any."""
    values = [job[name] for job in context.jobs if job.get(name) is not None]
    return " to ".join(map(str, sorted({min(values), max(values)}))) if values else ""


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
    counts = ", ".join(counted(levels.count(level), level) for level in ("error", "warning"))
    return f"{text} The audit examined {images} of {subjects}: {counts}."


def missing_reference(context: ReportContext) -> str:
    (stage, learner, target), table = _headline(context), context.predictions
    rows = table[(table["stage"] == stage) & (table["target"] == target) & (table["model"] == learner)]
    if rows.empty:
        return ""
    without = f"{int(rows['y_true'].isna().sum()):,} of {counted(len(rows), 'prediction')}"
    return f"{capital(SIDES[stage])}, {without} without a reference value of {target}; these are not evaluated."


def partition(context: ReportContext) -> str:
    test, folds = _subjects(context)
    column = f" The column {context.study.split.column} of the table gives the split." * bool(
        context.study.split.column
    )
    if context.holdout:
        sizes = f"{folds[0]} in the training set, {folds[1]} in the validation set, {test or 'none'} in the test set"
        return f"{capital(_people(context, test + sum(folds)))}: {sizes}.{column}"
    how = f" Each fold leaves out one {_site(context)}." if _site(context) else ""
    how = how or column
    sizes = f"{counted(len(folds), 'fold')} of {listed(list(map(str, folds)))}"
    everyone = capital(_people(context, test + sum(folds)))
    return f"{everyone}: {test or 'none'} in the test set, the others in {sizes}.{how}"


def disjointness(context: ReportContext) -> str:
    test, folds = _subjects(context)
    count = counted(test + sum(folds), "subject")
    sides = "Training, validation and test sets" if context.holdout else "The test set and the folds"
    text = f"{sides} are disjoint by subject ({count}), as far as names tell subjects apart."
    return text if context.study.subjects_known else ""


def networks(context: ReportContext) -> str:
    parameters = {job["model"]: job.get("parameters") for job in context.jobs}
    sizes = {name: f" ({count:,} parameters)" for name, count in parameters.items() if count}
    models = [f"{name}{sizes.get(name, '')}" for name in context.study.trained]
    fixed = [learner_named(name).title(context.study) for name in baselines_among(context.learners)]
    return f"{listed([*models, *filter(None, fixed)])}." if models or fixed else ""


def software(context: ReportContext) -> str:
    record = RunFolder(Path(context.source)).fingerprint.read_if_exists() or {}
    versions = [f"{name} {record[name]}" for name in ("casewise", "torch", "torchvision", "timm") if record.get(name)]
    devices = sorted({f"{job['device']}, {job['precision']}" for job in context.jobs if job.get("device")})
    trained = f"; trained on {'; '.join(devices)}" if devices else ""
    return f"{listed(versions)}{trained}." if versions else ""


def first_weights(context: ReportContext) -> str:
    # the folder of a file is of no interest to a reader
    stated = {job["model"]: str(job["weights"]).split("/")[-1] for job in context.jobs if job.get("weights")}
    lines = "; ".join(f"{name}: {weights}" for name, weights in sorted(stated.items()))
    return f"{lines}. {origins_sentence(context.origins, context.study.unit)}".strip() if stated else ""


def training(context: ReportContext) -> str:
    recipe, epochs = context.study.recipe, _span(context, "epochs")
    if not epochs:
        return ""
    stopping = {
        "none": "all of them kept",
        "inner": "stopped by the loss of inner subjects",
        "fold": f"stopped by the loss of the {'validation set' if context.holdout else 'fold that is evaluated'}",
    }[context.stopped_on]
    nested = " Inner folds of the training subjects chose settings." if context.study.nested_cv is not None else ""
    folds = "" if context.holdout else f" in each of {counted(int(context.splits['folds']), 'fold')}"
    models = [*context.study.trained, *map(learner_name, baselines_among(context.learners))]
    trained = f"{listed(models)}{folds}; the networks"
    settings = f"{recipe.optimizer}, batches of {recipe.batch_size}, {epochs} epoch{'s' * (epochs != '1')}, {stopping}"
    return f"{trained}: {settings}.{nested} The report lists all further settings."


def selection(context: ReportContext) -> str:
    (stage, learner, _), chosen_on = _headline(context), context.metrics.main.chosen_on
    if not chosen_on:
        return ""
    learners = context.metrics.learners(chosen_on if chosen_on in CHOOSING else stage)
    learners = learners if chosen_on == "stated" else without_baselines(learners)
    name = the_learner(learner, start=True)
    if len(learners) == 1:
        return f"{name} is the only learner."
    on = {
        "stated": "stated before any result",
        "oof": "chosen out of fold",
        "validation": "chosen on the validation set",
    }.get(chosen_on, f"chosen on {chosen_on}")
    return f"{name} was {on} among {counted(len(learners), 'learner')}: {listed(list(map(learner_name, learners)))}."


def building(context: ReportContext) -> str:
    """How the model was built: training, the choice among learners, and how learners are combined."""
    return " ".join(filter(None, (training(context), selection(context), combined_learners(context))))


def combined_learners(context: ReportContext) -> str:
    others = set(context.metrics.learners(context.stage)) - set(context.study.trained)
    stacked = [name for name in context.learners if name in others and name in context.stackers]
    what = "the networks and baselines" if context.study.stack_baselines else "the networks"
    return f"Predictions of {what} are combined by {listed(list(map(the_learner, stacked)))}." if stacked else ""


def imbalance(context: ReportContext) -> str:
    texts = {
        "none": "No correction was made for classes of different size.",
        "weights": "In training, all classes have the same total weight.",
        "sampling": "In training, all classes are drawn equally often.",
        "within_sources": "In training, the classes that a source has weigh the same in it.",
    }
    return texts[context.study.recipe.balance] if context.study.classes_of(_headline(context)[2]) else ""


def prediction(context: ReportContext) -> str:
    parts = list(dict.fromkeys(learner_name(name) for weights in _combination(context) for name in weights))
    own, of_all = ("models", "the models") if parts else ("the network", "the networks")
    text = (
        f"Out of fold, a case is predicted by {own} that this study did not train on its {_site(context) or 'subject'}"
    )
    text += f"; a case of the test set by {of_all} of all folds together." if _subjects(context)[0] else "."
    if context.holdout:
        text = "A case is predicted by one network for each backbone, which was fitted on the training set."
    if parts:
        text += f" {the_learner(context.learner, start=True)} combines {listed(parts)}"
        crossed = " (in each fold, on predictions of the other folds)" if context.stage == "oof" else ""
        text += f"; its weights rest on their predictions out of fold{crossed}."
    if not context.study.test_time_augmentation:
        return text
    baselines = baselines_among(context.metrics.learners(context.stage))
    whose = " of a network" if baselines else ""
    others = "; maps of the frozen networks of baselines are averaged over its flips" if baselines else ""
    return f"{text} Each prediction{whose} is the mean over the image and its mirror image{others}."


def _combination(context: ReportContext) -> list[dict[str, float]]:
    """The weights by learner of each output, if the reported model combines learners."""
    entries = (context.stackers.get(context.learner) or {}).values()
    return [entry["weights"] for entry in entries if isinstance(entry, dict) and entry.get("weights")]


def output(context: ReportContext) -> str:
    study, (stage, learner, target) = context.study, _headline(context)
    text = f"{target}: a number."
    if classes := study.classes_of(target):
        text = f"{target}: a probability of each of {listed(classes)}, and a class."
    elif target in study.targets or target in study.scores:
        text = "{}: a number from {:g} to {:g}.".format(target, *study.range_of(target))
    entry = context.class_figures(stage, learner, target)
    if entry is None or not entry.operating:
        return text
    on = ", ".join(sorted({point.chosen_on for point in entry.operating}))
    return f"{text} {counted(len(entry.operating), 'threshold')}, chosen on: {on}."


def measures(context: ReportContext) -> str:
    names = (name.partition("[")[0].removesuffix("_calibrated") for name in context.metrics.headline)
    titles = list(dict.fromkeys(metric_of(name).title for name in names))
    return f"{listed(titles)}." if titles else ""


def measures_and_plots(context: ReportContext) -> str:
    """The measures, and whether calibration and net benefit were computed."""
    texts, by_stage = [measures(context)], context.metrics.calibration or {}
    if any(by_stage.values()):
        texts.append("Calibration: slope, intercept and a smoothed curve with its band.")
    curves = [points for by_name in (context.metrics.decision_curves or {}).values() for points in by_name.values()]
    declared = sorted({point.threshold for points in curves for point in points if point.declared})
    if declared:
        plural = f"threshold{'s' * (len(declared) > 1)}"
        levels = listed([percent(threshold, 1).replace(".0 %", " %") for threshold in declared])
        texts.append(f"Net benefit at the declared {plural}: {levels}, beside treating all and none.")
    return " ".join(filter(None, texts))


def uncertainty(context: ReportContext) -> str:
    settings, unit = context.study.evaluation, context.study.unit
    text = f"{percent(settings.confidence)} jackknife intervals, leaving out one {unit} at a time"
    if any(cell.contrast and not cell.group for cell in context.metrics.figures.select(population="").cells):
        resamples = f"{settings.bootstrap_resamples:,} resamples of {unit}s"
        text += f"; differences of learners: {resamples}, with intervals that hold for all pairs{_primary(context)}"
    return f"{text}. Intervals are conditional on the trained networks."


def _primary(context: ReportContext) -> str:
    """The primary comparison, the rule by which its simple model was chosen, and the margin; empty without one."""
    primary = context.metrics.primary
    if primary is None or not (is_gated(context, primary.stage) or is_gated(context, EXTERNAL)):
        return ""
    margin = f"; margin {primary.margin:g}" if primary.margin else ""
    return (
        f" other than the primary comparison, {the_learner(primary.learner)} with {the_learner(primary.baseline)}"
        f" ({RULES[primary.chosen_on]}){margin}, which is tested first, by itself"
    )


def performance(context: ReportContext) -> str:
    return result_line(context.study, context.metrics)


def performance_by_group(context: ReportContext) -> str:
    """The performance, and whether it was shown to differ between subgroups."""
    entry, text = context.metrics.subgroups, performance(context)
    if entry is None:
        return text
    for column in entry.columns:
        tested = {name: test.p_adjusted for name, test in column.tests.items() if test.p_adjusted is not None}
        differ = [metric_of(name).title for name, p in tested.items() if p < SIGNIFICANT]
        verdict = (
            f"{listed(differ)} differ{'s' * (len(differ) == 1)}"
            if differ
            else "not shown to differ"
            if tested
            else "not tested"
        )
        groups = ", ".join(f"{group_label(group)} {group.n_subjects:,}" for group in column.groups)
        text = f"{text.removesuffix('.')}. By {column.column} ({groups}): {verdict}."
    return text.removeprefix(". ")


def confusion(context: ReportContext) -> str:
    stage, learner, target = _headline(context)
    entry = context.class_figures(stage, learner, target)
    if entry is None:
        return ""
    correct = sum(row[n] for n, row in enumerate(entry.confusion))
    lines = zip(entry.names, entry.confusion, strict=True)
    rows = "; ".join(f"{name} {', '.join(map(str, counts))}" for name, counts in lines)
    right = f"{learner_name(learner)}: {correct:,} of {sum(entry.support):,} correct"
    return f"{right}. Reference and numbers of each predicted class in the same order: {rows}."


def participants(context: ReportContext) -> str:
    sides, rows = context.splits["n"].values(), context.cohort_images
    subjects, cases = (sum(side[name] for side in sides) for name in ("subjects", "cases"))
    rows = rows[rows["subject"].astype(str).isin(list(context.splits["subjects"]))]
    # A slide has one row for each tile.
    images = counted(int(rows["path"].nunique()), "image")
    everyone = f"{capital(_people(context, subjects))}, {counted(cases, 'case')}, {images} in the split."
    return f"{everyone}{_evaluated(context)} Exclusions before the table was made are not known to the run."


def characteristics(context: ReportContext) -> str:
    """The characteristics that are described for each side of the split, with those of everyone."""
    entry = context.metrics.participants
    texts = [_described(item, 0) for item in entry.characteristics] if entry else []
    return f"Of all: {'; '.join(texts)}. The report has each side of the split." if texts else ""


def data_outside(context: ReportContext) -> str:
    """The characteristics of the external cohort beside those of the study."""
    entry = context.metrics.participants
    outside = [i for i, side in enumerate(entry.sides) if side["code"] == "external"] if entry else []
    if entry is None or not outside:
        return ""
    own, other = entry.sides[0], entry.sides[outside[0]]
    sizes = (
        f"{counted(side['subjects'], context.study.unit)}, {counted(side['cases'], 'case')}" for side in (own, other)
    )
    texts = [
        f"{_described(item, 0)} against {_described(item, outside[0], named=False)}" for item in entry.characteristics
    ]
    return f"Here and in {context.study.external_name}: {' against '.join(sizes)}; {'; '.join(texts)}."


def devices(context: ReportContext) -> str:
    """The devices that columns of the table name; empty without such a column."""
    entry = context.metrics.participants
    items = [item for item in entry.characteristics if plain_name(item["name"]) in DEVICES] if entry else []
    texts = [_described(item, 0) for item in items]
    return f"{'; '.join(texts)}. {software(context)}".strip() if texts else software(context)


def _described(item: Mapping[str, Any], side: int, *, named: bool = True) -> str:
    """A characteristic on one side: mean and standard deviation, or the count of each value."""
    values = item["sides"][str(side)]
    if item["kind"] == "numbers":
        mean, spread = values.get("mean"), values.get("sd")
        text = (
            "no value" if mean is None else f"mean {mean:.3g}, " + ("no SD" if spread is None else f"SD {spread:.3g}")
        )
    else:
        counts = zip(map(group_label, item.get("levels", [])), values["counts"], strict=True)
        text = ", ".join(f"{name} {count:,}" for name, count in counts) or "no value"
    missing = f", {values['missing']:,} not recorded" if values["missing"] else ""
    return f"{item['name']}: {text}{missing}" if named else f"{text}{missing}"


def analyses(context: ReportContext) -> str:
    fitted, count = _span(context, "n_fitted"), counted(len(context.jobs), "trained network")
    return f"{count}, each fitted on {fitted} {context.study.unit}s.{_evaluated(context)}" if fitted else ""


def external_cohort(context: ReportContext) -> str:
    (_, learner, target), main = _headline(context), context.metrics.main
    shown = context.figures(EXTERNAL, learner, target)
    if not context.metrics.headline or not shown:
        return ""
    write = metric_format(context.study, target)
    entry, first, texts = context.class_figures(EXTERNAL, learner, target), next(iter(shown.values())), []
    for name in kind_named(main.kind).headline:
        if figure := defined(shown.get(name)):
            ends, own = write.bounds(name, figure, words=True, short=True), context.metrics.headline.get(name)
            outside = write.text(name, figure.value, short=True) + (f" ({ends})" if ends else "")
            inside = write.text(name, own.value if own else None, short=True)
            texts.append(f" {write.title(name)} {outside}, against {inside} in the own cohort.")
    support = f" ({_support(entry)})" if entry else ""
    people, level = _people(context, first.n_subjects or 0), context.study.level_of(target)
    if level not in ("subject", context.study.unit):
        people = f"{counted(first.n_cases or 0, level)} of {people}"
    return f"{context.study.external_name}: {people}{support}.{''.join(texts)}"


def sites(context: ReportContext) -> str:
    if not (site := _site(context)):
        return ""
    count = counted(int(context.splits["folds"]), site)
    return f"Each of {count} was left out in turn; the report has the figures of each."


def readers(context: ReportContext) -> str:
    compared = sorted(context.study.evaluation.readers.items())
    names = "; ".join(f"{score}: readers {listed(list(columns))}" for score, columns in compared)
    return (
        f"{names}. The report has their agreement."
        if compared and context.metrics.figures.select(population=READERS)
        else ""
    )


def saliency(context: ReportContext) -> str:
    content = context.explanations or {}
    if not content.get("shown"):
        return ""
    cases = content["shown"]["cases"]
    methods = sorted({method for case in cases for method in case["methods"]})
    compared = "compared with masks, and with maps of networks with random weights"
    masks = compared if content.get("measured") else "not compared with masks"
    names = listed([METHODS.get(name, name) for name in methods])
    return f"{names} of {counted(len(cases), 'case')}. The maps were {masks}."


# The facts that a run can state, and the section of the report where each stands.
SECTIONS: dict[str, tuple[Callable[[ReportContext], str], ...]] = {
    "training": (preparation, networks, software, first_weights, training, building, imbalance, prediction, analyses),
    "labels": (missing_reference, partition, disjointness, output, participants),
    "learners": (selection, combined_learners),
    "glossary": (measures, measures_and_plots),
    "summary": (uncertainty, performance),
    "subgroups": (performance_by_group,),
    "participants": (characteristics, data_outside, devices),
    "classes": (confusion,),
    "external": (external_cohort,),
    "left-out": (sites,),
    "agreement": (readers,),
    "saliency": (saliency,),
}
FACTS = {write.__name__: (section_id, write) for section_id, writers in SECTIONS.items() for write in writers}
