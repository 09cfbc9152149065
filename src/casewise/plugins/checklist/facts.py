"""What a run says on an item of a checklist: a function for each fact, empty where the run says nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from casewise.cohort.participants import DEVICES, plain_name
from casewise.evaluation.figures import READERS, Estimate
from casewise.evaluation.headline import FITTED
from casewise.evaluation.subgroups import SIGNIFICANT
from casewise.metrics.registry import metric_of
from casewise.predictions.table import CHOOSING
from casewise.report.blocks import Block, Cell, Facts, Fold, Row, Table
from casewise.report.caveats import result_line
from casewise.report.context import EXTERNAL, METHODS, SIDES, ReportContext, counted_cases, defined, evaluated_on
from casewise.report.first_screen import model, weights
from casewise.report.formatting import capital, class_name, counted, display_name, group_label, listed, percent, plain
from casewise.report.sections import counterfactuals, labels, participants, training
from casewise.report.sections.classes import DECISIONS
from casewise.report.sections.learners import RULES, comparison_of, is_gated
from casewise.report.statements import unlike_folds, weights_differ
from casewise.report.tables import MetricFormat
from casewise.run_folder import RunFolder
from casewise.study.learners import (
    baselines_among,
    combined_learners,
    learner_name,
    learner_named,
    the_learner,
    without_baselines,
)
from casewise.study.weight_origins import origins_sentence
from casewise.targets import Classes, kind_named

COVARIATES_FILLED = (
    "In models of covariates, a missing number is the median of the training cases with an indicator, and a missing"
    " category a category of its own; models of images read no column."
)
NO_COVARIATES = "No model reads columns of the table, so no predictor was imputed."
TRAINING_CASES = "The report has the figures of networks on the cases that they were trained on."
NO_TRAINING_CASES = "Performance on the cases that models were fitted to was not measured."


def _tables(blocks: Sequence[Block], head: str) -> list[Table]:
    """The tables of blocks of the report, also of folded ones, whose first column has this heading."""
    shown = [inner for block in blocks for inner in (block.blocks if isinstance(block, Fold) else [block])]
    return [block for block in shown if isinstance(block, Table) and block.columns[0] == head]


def _facts(blocks: Sequence[Block]) -> list[tuple[str, str]]:
    return [fact for block in blocks if isinstance(block, Facts) for fact in block.facts]


def _text(cell: Cell) -> str:
    return f"{cell.text} ({cell.small})" if cell.small else cell.text


def _under_head(head: str, cell: Cell) -> str:
    return f"{head.lower()} {cell.text}"


def _step(row: Row) -> str:
    """A step of the flow: what it leaves out, and what remains."""
    lost, left = map(_text, row.cells)
    return f"{row.name}: {f'{lost} left out, {left} remain' if lost else left}"


def _participants(context: ReportContext, head: str) -> list[Table]:
    section = participants.section(context)
    return _tables(section.blocks, head) if section else []


def _site(context: ReportContext) -> str:
    """The source that each fold left out; empty if folds are of subjects."""
    how = str(context.splits.get("how") or "")
    return how.removeprefix("leave out ") if how.startswith("leave out ") else ""


def _not_known(context: ReportContext) -> str:
    """A sentence where subjects are guessed, or each image is a subject of its own; otherwise empty."""
    own = ": each image counts as a subject" * (context.study.unit == "image")
    return "" if context.study.subjects_known else f" {context.study.not_known}{own}."


def _named(context: ReportContext, names: Sequence[str]) -> list[str]:
    """Classes of the primary outcome within a sentence."""
    return [class_name(context.study, context.outcome, name) for name in names]


def _cases(context: ReportContext, stage: str) -> str:
    """The cases on which the reported model is evaluated, also by class."""
    count = counted_cases(context, context.rows(stage, context.learner))
    entry = context.class_figures(stage, context.learner)
    names = zip(_named(context, entry.names), entry.support, strict=True) if entry else ()
    return ": ".join(filter(None, [count, ", ".join(f"{name} ({support:,})" for name, support in names)]))


def _place(context: ReportContext, stage: str) -> str:
    name = f" {context.study.external_name}" if stage == EXTERNAL else ""
    return f"{evaluated_on(context, stage)}{name}"


def _evaluated(context: ReportContext) -> str:
    stages = [stage for stage in (context.stage, EXTERNAL) if len(context.rows(stage, context.learner))]
    return "".join(f" Evaluated {_place(context, stage)}: {_cases(context, stage)}." for stage in stages)


def _span(context: ReportContext, name: str) -> str:
    """The smallest and the largest of a count over the networks; empty without any."""
    values = [job[name] for job in context.jobs if job.get(name) is not None]
    return " to ".join(map(str, sorted({min(values), max(values)}))) if values else ""


def preparation(context: ReportContext) -> str:
    text = f"Images are prepared with a side of {context.study.images.size} pixels; the report prints all settings."
    if not context.audit:
        return text
    study, facts = context.study, context.audit["facts"]
    people = f" of {counted(facts['subjects'], study.unit)}" if study.unit != "image" else ""
    levels = [finding["level"] for finding in context.audit["findings"]]
    counts = ", ".join(counted(levels.count(level), level) for level in ("error", "warning"))
    return f"{text} The audit examined {counted(facts['images'], 'image')}{people}: {counts}."


def missing_data(context: ReportContext) -> str:
    """Missing reference values, cells and images: how many, and how they were handled."""
    entry, name = context.metrics.participants, display_name(context.study, context.outcome)
    if entry is None:
        return ""
    units = {"subject": context.study.unit}
    without = [
        f"{SIDES[stage]} {each['cases'] - each['cases_with_reference']:,} of {counted(each['cases'], 'case')}"
        for stage, each in entry.evaluated.items()
    ]
    empty = [
        f"{plain(item['name'])} of {counted(item['sides']['0']['missing'], units.get(item['unit'], item['unit']))}"
        for item in entry.characteristics
        if item["what"] == "column" and item["sides"]["0"]["missing"]
    ]
    gaps = _tables(labels.section(context).blocks, "Column")
    rows = [row for table in _participants(context, "Step") for row in table.rows]
    lost = [_step(row) for row in rows if row.name == participants.STEPS["images"]]
    return " ".join(
        [
            f"Without a reference value of {name}: {'; '.join(without)}.",
            "They are not evaluated, and a target is fitted only to cases that have it.",
            f"Not recorded: {listed(empty)}." if empty else "Described columns that are no targets have no gaps.",
            *(f"Empty cells by {name} ({' / '.join(table.columns[1:])}): {_gaps(table)}." for table in gaps),
            COVARIATES_FILLED if context.study.covariates else NO_COVARIATES,
            *(f"{text}." for text in lost or [participants.FLOW_NOTE.rstrip(".")]),
        ]
    )


def _gaps(table: Table) -> str:
    return "; ".join(f"{row.name} {' / '.join(cell.text for cell in row.cells)}" for row in table.rows)


def partition(context: ReportContext) -> str:
    blocks, sources = training.split(context), context.splits.get("left_out") or []
    names = {f"fold {number}": f"fold {number} ({source})" for number, source in enumerate(sources, start=1)}
    rows = [
        f"{names.get(row.name, row.name)}: {', '.join(map(_under_head, table.columns[1:], row.cells))}"
        for table in _tables(blocks, "Side")
        for row in table.rows
    ]
    how = [f"{name}: {text}" for name, text in _facts(blocks) if name != "Manifest"]
    return f"{capital('; '.join(rows))}.{_without_test(context)}{_not_known(context)} {'. '.join(how)}.".strip()


def _without_test(context: ReportContext) -> str:
    return "" if context.splits["n"].get("test", {}).get("subjects") else " There is no test set."


def disjointness(context: ReportContext) -> str:
    study, without = context.study, _without_test(context)
    subjects = sum(entry["subjects"] for entry in context.splits["n"].values())
    sides = ["training set", "validation set"] if context.holdout else ["folds"]
    sides = sides if without else [*sides, "test set"]
    by_name = ", as far as names tell subjects apart" * study.subjects_known
    text = f"The {listed(sides)} are disjoint by {study.unit} ({counted(subjects, study.unit)}){by_name}."
    return f"{text}{without}{_not_known(context)}"


def networks(context: ReportContext) -> str:
    parameters = {job["model"]: job.get("parameters") for job in context.jobs}
    sizes = {name: f" ({count:,} parameters)" for name, count in parameters.items() if count}
    models = [f"{name}{sizes.get(name, '')}" for name in context.study.trained]
    fixed = [learner_named(name).title(context.study) for name in baselines_among(context.learners)]
    return f"{listed([*models, *filter(None, fixed)])}." if models or fixed else ""


def software(context: ReportContext) -> str:
    """Versions and machine of the run, and the devices of its networks."""
    record = [f"{name} {value}" for name, value in context.environment.items()]
    devices = sorted({f"{job['device']}, {training.compute_plan(job)}" for job in context.jobs if job.get("device")})
    trained = f"; networks trained on {'; '.join(devices)}" if devices else ""
    return f"{', '.join(record)}{trained}." if record else ""


def first_weights(context: ReportContext) -> str:
    # the folder of a file is of no interest to a reader
    stated = {job["model"]: str(job["weights"]).split("/")[-1] for job in context.jobs if job.get("weights")}
    lines = "; ".join(f"{name}: {weights}" for name, weights in sorted(stated.items()))
    return f"{lines}{'. ' * bool(lines)}{origins_sentence(context.origins, context.study.unit)}"


def fitting(context: ReportContext) -> str:
    recipe, epochs = context.study.recipe, _span(context, "epochs")
    models = [*context.study.trained, *map(learner_name, baselines_among(context.learners))]
    folds = "" if context.holdout else f" in each of {counted(int(context.splits['folds']), 'fold')}"
    if not epochs:
        return f"{capital(listed(models))}{folds}. No network was trained." if models else ""
    stopping = {
        "none": "all of them kept",
        "inner": "stopped by the loss of inner subjects",
        "fold": f"stopped by the loss of the {'validation set' if context.holdout else 'fold that is evaluated'}",
    }[context.stopped_on]
    nested = " Inner folds of the training subjects chose settings." if context.study.nested_cv is not None else ""
    trained = f"{listed(models)}{folds}; the networks"
    settings = f"{recipe.optimizer}, batches of {recipe.batch_size}, {epochs} epoch{'s' * (epochs != '1')}, {stopping}"
    return f"{trained}: {settings}.{nested} The report lists all further settings."


def selection(context: ReportContext) -> str:
    chosen_on, name = context.metrics.main.chosen_on, the_learner(context.learner, start=True)
    if not chosen_on:
        return ""
    every = context.metrics.learners(chosen_on if chosen_on in CHOOSING else context.stage)
    learners = every if chosen_on == "stated" else without_baselines(every)
    if len(learners) == 1:
        return f"{name} is the only learner{' that is no baseline' * (len(every) > 1)}."
    on = {
        "stated": "stated before any result",
        "oof": "chosen out of fold",
        "validation": "chosen on the validation set",
    }.get(chosen_on, f"chosen on {chosen_on}")
    return f"{name} was {on} among {counted(len(learners), 'learner')}: {listed(list(map(learner_name, learners)))}."


def building(context: ReportContext) -> str:
    """How the model was built: training, the choice among learners, and how learners are combined."""
    return " ".join(filter(None, (fitting(context), selection(context), ensembles(context))))


def ensembles(context: ReportContext) -> str:
    others = set(context.metrics.learners(context.stage)) - set(context.study.trained)
    stacked = [name for name in context.learners if name in others and name in context.stackers]
    what = "the networks and baselines" if context.study.stack_baselines else "the networks"
    what = what if context.study.trained else "the models"
    combined = f"Predictions of {what} are combined by {listed(list(map(the_learner, stacked)))}."
    return combined + _weights(context) if stacked else ""


def _weights(context: ReportContext) -> str:
    """The weights in the reported model; empty if it has none."""
    parts = ", ".join(f"{name} {weight}" for name, weight in weights(context))
    fitted = " for new cases, chosen out of fold" * context.learner.startswith(FITTED)
    of_folds = unlike_folds(context) or "folds have others" * weights_differ(context)
    text = f" Weights in {the_learner(context.learner)}{fitted}: {parts}"
    return "; ".join(filter(None, [text, of_folds])) + "." if parts else ""


def imbalance(context: ReportContext) -> str:
    texts = {
        "none": "No correction was made for classes of different size.",
        "weights": "In training, all classes have the same total weight.",
        "sampling": "In training, all classes are drawn equally often.",
        "within_sources": "In training, the classes that a source has weigh the same in it.",
    }
    return texts[context.study.recipe.balance] if context.classes else ""


def prediction(context: ReportContext) -> str:
    """Which models predict a case, how they are combined, and how one class follows."""
    study, combined, tested = context.study, context.learner in context.stackers, not _without_test(context)
    one, every = ("models", "the models") if combined or not study.trained else ("the network", "the networks")
    unseen = f"that this study did not train on its {_site(context) or study.unit}"
    text = f"Out of fold, a case is predicted by {one} {unseen}"
    text += f"; a case of the test set by {every} of all folds together." if tested else "."
    if context.holdout:
        kind = "one network for each backbone" if study.trained else "models"
        text = f"A case is predicted by {kind}, fitted on the training set."
    if combined:
        parts = listed([learner_name(name) for name in combined_learners(study)])
        text += f" {the_learner(context.learner, start=True)} combines {parts}.{_weights(context)}"
    return f"{text}{_rule(context)}{_mirrored(context)}"


def _mirrored(context: ReportContext) -> str:
    """The views of an image over which predictions and frozen features are averaged; empty if it is seen once."""
    if not context.study.test_time_augmentation:
        return ""
    baselines = baselines_among(context.metrics.learners(context.stage))
    frozen = any(learner_named(name).encoders(context.study) for name in baselines)
    mirrored = " Each prediction of a network is the mean over the image and its mirror image."
    flipped = " Maps of the frozen networks of baselines are averaged over the flips of the image."
    return mirrored * bool(context.study.trained) + flipped * frozen


def _rule(context: ReportContext) -> str:
    """How one class or grade follows from the probabilities; empty for numbers."""
    if rule := context.study.decisions.get(context.outcome):
        tuned = " on the expected grade, which have the highest weighted kappa out of fold" * (rule == "kappa")
        return f" The predicted grade follows from the probabilities: {DECISIONS.get(rule, rule)}{tuned}."
    return " The predicted class is the most probable one." if context.kind == Classes.name else ""


def output(context: ReportContext) -> str:
    study, target, name = context.study, context.outcome, capital(display_name(context.study, context.outcome))
    text = f"{name}: a number."
    if context.classes:
        text = f"{name}: a probability of each of {listed(_named(context, context.classes))}.{_rule(context)}"
    elif target in study.targets or target in study.scores:
        text = "{}: a number from {:g} to {:g}.".format(name, *study.range_of(target))
    entry = context.class_figures(context.stage, context.learner)
    if entry is None or not entry.operating:
        return text
    on = ", ".join(sorted({point.chosen_on for point in entry.operating}))
    return f"{text} {counted(len(entry.operating), 'threshold')}, chosen on: {on}."


def full_model(context: ReportContext) -> str:
    """What the reported model consists of, and where the run keeps it."""
    kept = " The folder “bundle” of the run has all its trained models; “casewise predict” applies them to new cases."
    return model(context) + _weights(context) + kept * RunFolder(Path(context.source)).bundle.exists()


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
    if any(comparison_of(context, stage) for stage in [*context.stages, EXTERNAL]):
        resamples = f"{settings.bootstrap_resamples:,} resamples of {unit}s"
        text += f"; differences of learners: {resamples}, with intervals that hold for all pairs{_primary(context)}"
    return f"{text}. Intervals are for these trained models."


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


def performance_inside(context: ReportContext) -> str:
    text = _performance_at(context, context.stage)
    return f"{text}." if text else ""


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
        groups = ", ".join(f"{group_label(group)}: {group.n_subjects:,}" for group in column.groups)
        shared = sum(group.n_subjects for group in column.groups) > context.headline_rows["subject"].nunique()
        note = f" Some {context.study.unit}s are in several groups, so these numbers exceed the total." * shared
        text = f"{text.removesuffix('.')}. By {column.column} ({groups}): {verdict}.{note}"
    return text.removeprefix(". ")


def performance_by_partition(context: ReportContext) -> str:
    """The headline figures of the reported model on every side of the split that was predicted."""
    texts = [f"{text}." for stage in [*context.stages, EXTERNAL] if (text := _performance_at(context, stage))]
    if texts and "training" not in context.stages:
        fitted = any(job.get("on_training") for job in context.jobs)
        texts.append(TRAINING_CASES if fitted else NO_TRAINING_CASES)
    return " ".join(texts)


def _performance_at(context: ReportContext, stage: str) -> str:
    """The headline figures at a stage with their intervals and cases; empty without figures."""
    within = context.by_site and stage == "oof"
    figures = context.quoted if within else context.figures(stage, context.learner)
    shown = {name: figures.get(name) for name in kind_named(context.kind).headline}
    texts = [_figure(context.write, name, figure) for name, figure in shown.items() if figure and defined(figure)]
    place = f"each {context.site} left out, mean within them" if within else _place(context, stage)
    return f"{capital(place)} ({_cases(context, stage)}): {', '.join(texts)}" if texts else ""


def _figure(write: MetricFormat, metric: str, figure: Estimate) -> str:
    """A metric with its interval, which may be rough, or the reason why it has none."""
    bounds = write.bounds(metric, figure, words=True, short=True)
    small = f"{bounds}{', rough' * bool(figure.rough)}" if bounds else figure.reason
    return f"{write.title(metric)} {write.text(metric, figure.value, short=True)}" + (f" ({small})" if small else "")


def confusion(context: ReportContext) -> str:
    """The confusion matrix of the reported model, and of the external cohort."""
    texts = []
    for stage in (context.stage, EXTERNAL):
        if entry := context.class_figures(stage, context.learner):
            correct = sum(row[n] for n, row in enumerate(entry.confusion))
            lines = zip(_named(context, entry.names), entry.confusion, strict=True)
            rows = "; ".join(f"{name}: {', '.join(map(str, counts))}" for name, counts in lines)
            texts.append(f"{capital(_place(context, stage))}, {correct:,} of {sum(entry.support):,} correct. {rows}.")
    order = "Reference classes, each with the numbers of each predicted class in the same order"
    return f"{learner_name(context.learner)}. {order}. {' '.join(texts)}" if texts else ""


def flow(context: ReportContext) -> str:
    """The steps from the table to the evaluated cases, with what each left out."""
    cohorts: list[str] = []
    for table in _participants(context, "Step"):
        cohorts.append(f"{f'{table.caption} ' * bool(cohorts)}{'; '.join(map(_step, table.rows))}.")
    if not cohorts:
        return ""
    unknown = f"{_not_known(context)} Exclusions before the table was made are not known to the run."
    return f"{' '.join(cohorts)}{_evaluated(context)}{unknown}"


def exclusions(context: ReportContext) -> str:
    """The steps that left out rows of a table, with their reasons; empty without any."""
    rows = [row for table in _participants(context, "Step") for row in table.rows]
    return " ".join(f"{_step(row)}." for row in rows if row.cells[0].text and not row.inner)


def characteristics(context: ReportContext) -> str:
    """The characteristics on each side of the split."""
    heads, texts = _by_side(context)
    entry = context.metrics.participants
    few = entry is not None and not any(item["what"] == "column" for item in entry.characteristics)
    more = f" {participants.COLUMNS_NOTE}" * few
    return f"{heads}: {'; '.join(texts.values())}. {_counted_once(context)}{_not_known(context)}{more}" if texts else ""


def _counted_once(context: ReportContext) -> str:
    unit = context.study.unit
    several = f", except where another unit is named: one {unit} can be in several such groups" * (unit != "image")
    return f"Numbers: mean (standard deviation). Each {unit} counts once{several}."


def _by_side(context: ReportContext, *, folds: bool = True) -> tuple[str, dict[str, str]]:
    """The headings of the sides, and the text of each characteristic; without `folds` all and the external cohort."""
    tables, targets = _participants(context, "Characteristic"), context.study.targets
    titles = {capital(display_name(context.study, name)): name for name in targets}
    texts: dict[str, str] = {}
    heads: list[str] = []
    for table in tables:
        shown = [n for n, head in enumerate(table.columns[1:]) if folds or not n or head.startswith("External")]
        heads, name = [table.columns[1 + n] for n in shown], ""
        for row in table.rows:
            values = [row.cells[n].text for n in shown]
            if not row.inner:
                name = row.name
                texts[name] = f"{name} {' / '.join(values)}" if any(values) else f"{name}:"
                continue
            target = titles.get(name.partition(" (by ")[0])
            label = class_name(context.study, target, row.name) if target else row.name
            texts[name] += f"{',' * (texts[name][-1] != ':')} {label} ({' / '.join(values)})"
    return " / ".join(heads), texts


def data_outside(context: ReportContext) -> str:
    """The characteristics of the external cohort compared with all cases of the study."""
    heads, texts = _by_side(context, folds=False)
    return f"{heads}: {'; '.join(texts.values())}. {_counted_once(context)}" if " / " in heads else ""


def devices(context: ReportContext) -> str:
    """The devices that columns of the table name; empty without such a column."""
    heads, texts = _by_side(context, folds=False)
    named = [text for name, text in texts.items() if plain_name(name.partition(" (by ")[0]) in DEVICES]
    return " ".join(filter(None, [f"{heads}: {'; '.join(named)}." if named else "", software(context)]))


def analyses(context: ReportContext) -> str:
    fitted, count = _span(context, "n_fitted"), counted(len(context.jobs), "trained network")
    return f"{f'{count}, each fitted on {fitted} {context.study.unit}s.' * bool(fitted)}{_evaluated(context)}".strip()


def external_cohort(context: ReportContext) -> str:
    texts = [_performance_at(context, stage) for stage in (EXTERNAL, context.stage)]
    return f"{'. '.join(filter(None, texts))}." if texts[0] else ""


def robustness(context: ReportContext) -> str:
    """The effect of altered images on the reported model, or on the most affected learner that was tested."""
    section = counterfactuals.section(context)
    if section is None:
        return ""
    texts = [f"{name}: {value}." for name, value in _facts(section.blocks) if name in ("Cases", "Not tested")]
    for table in _tables(section.blocks, "Image"):
        texts.append(f"{table.columns[1]}: {table.caption.partition('. ')[0].lower()}.")
        texts.append("; ".join(f"{row.name} {_text(row.cells[0])}" for row in table.rows) + ".")
    return " ".join(["Altered images.", *texts])


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
    "training": (preparation, partition, disjointness, networks, software, first_weights, fitting, building),
    "labels": (imbalance, output),
    "learners": (selection, ensembles, prediction),
    "glossary": (measures, measures_and_plots),
    "summary": (uncertainty, performance, performance_inside, performance_by_partition, full_model),
    "subgroups": (performance_by_group,),
    "participants": (missing_data, flow, exclusions, characteristics, data_outside, devices, analyses),
    "classes": (confusion,),
    "external": (external_cohort,),
    "altered-images": (robustness,),
    "left-out": (sites,),
    "agreement": (readers,),
    "saliency": (saliency,),
}
FACTS = {write.__name__: (section_id, write) for section_id, writers in SECTIONS.items() for write in writers}
