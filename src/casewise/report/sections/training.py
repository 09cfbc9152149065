"""How networks were trained: settings, curves, phases, performance on training cases, seeds, cost and versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from casewise.cohort.table import natural
from casewise.console import duration
from casewise.errors import gigabytes
from casewise.evaluation.caveats import changed_features, changed_features_text
from casewise.evaluation.figures import SEED, Estimate
from casewise.evaluation.intervals import over_trainings
from casewise.plugin import implementing
from casewise.predictions.table import INTERNAL
from casewise.report.blocks import (
    Block,
    Cell,
    Code,
    Facts,
    Fold,
    Heading,
    Items,
    Plot,
    Plots,
    Row,
    Section,
    Table,
    Text,
)
from casewise.report.caveats import sentences
from casewise.report.context import SIDES, ReportContext, terms_of
from casewise.report.figures import learners as draw
from casewise.report.formatting import (
    MISSING,
    capital,
    counted,
    display_name,
    frozen_label,
    is_number,
    listed,
    number,
    percent,
    rate,
    span,
)
from casewise.report.tables import MetricFormat
from casewise.study.learners import learner_name, the_learner
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.study.schema import Study

Job = Mapping[str, Any]

RATES = ("accuracy", "sensitivity", "specificity")
# Records of a job on cases that it was trained on, and on those that decided when to stop.
TRAINED_ON = {"on_training": "training cases", "on_inner": "cases that decided when to stop"}
HELD_OUT = {"oof": "held-out cases, out of fold", "test": "the test set"}
TUNING = {
    "full": "all parameters",
    "head_only": "only the heads, on features computed once",
}
MOST_CURVES = 12
CURVES = (
    "Loss, and accuracy if recorded, by epoch; one line per network. Grey: training, on images as it varies them."
    "{stopping}{phases} A few of the largest losses may lie above a plot."
)
STOPPING = " Blue: subjects that decide when to stop, with a dot at the epoch kept, else the last."
PHASES = (
    "Parameters in each phase, and its mean cost over the networks. Core-seconds: the time that"
    " processor cores worked. Running statistics: means and variances that batch normalisation keeps and no optimiser"
    " changes; Keras counts them among the non-trainable parameters."
)
PERFORMANCE = (
    "Performance on training cases says nothing about new patients. It is the mean over the networks of the folds, with"
    " the lowest and the highest; brackets of held-out cases are {confidence} intervals by {unit}."
)
SEEDS = (
    "{side}: lowest and highest value over trainings with the seeds {seeds} {folds}, and their standard"
    " deviation, which is rough for few trainings.{brackets} All other figures of this page are of the first seed,"
    " and their intervals are for its models."
)
SAME = "on the same split"
_BRACKETS = " In brackets: {confidence} interval for other subjects, of the mean over trainings."
MEMORY = " Peak memory: resident, of the process of a network."
NORMS = " Gradient norm: median over the steps of an epoch, lowest and highest of all epochs{limited}."
LIMITED = "; limited: steps whose norm was above the limit and was scaled down to it"
LOSSES = {"mse": "mean squared error", "huber": "smooth L1", "l1": "absolute error"}
# Share of limited steps from which a limit sets the length of most steps.
MOST_LIMITED = 0.5
BY_SUBJECT = "Split by subject."


def section(context: ReportContext) -> Section:
    """How the networks were trained, and everything that is needed to train them again."""
    import yaml

    notes = sentences(context.notes)
    stated = context.study.model_dump(mode="json", exclude_defaults=True)
    settings = yaml.safe_dump(stated, sort_keys=False, allow_unicode=True, width=100)
    folds: list[tuple[str, list[Block]]] = [
        ("Curves of the training", curves(context)),
        ("Training phases: parameters, frozen layers and cost", phases(context)),
        ("Training and held-out performance", _train_and_held_out(context)),
        ("Variation between trainings with different seeds", seeds(context)),
        ("Networks, split, machine and versions", [*networks(context), *split(context), *machine(context)]),
        ("Exclusions and assumptions", [Items(notes)] if notes else []),
    ]
    blocks: list[Block] = [Facts(_scheme(context)), *(Fold(summary, inside) for summary, inside in folds if inside)]
    study: list[Block] = [Text("All others are the defaults; `study.json` has every one.", note=True), Code(settings)]
    blocks.append(Fold("Settings of the study as run, other than the defaults", study, page_only=True))
    return Section("training", "Training and settings", blocks)


class TrainingReport(Protocol):
    """A plugin that trains networks, and what the section on training shows of it."""

    def training_facts(self, study: Study) -> Mapping[str, str]:
        """By name the facts of a study that uses the plugin; they replace facts of the same name."""
        return {}

    def training_curves(self, context: ReportContext) -> list[Block]:
        """Blocks that follow the training curves."""
        return []


def _scheme(context: ReportContext) -> list[tuple[str, str]]:
    """Facts about the training: the networks, their learning rates and the time."""
    study, plan = context.study, context.plan
    recipe, nested = study.recipe, study.nested_cv
    lr = listed([rate(value) for value in study.rates], "or")
    lr += ", chosen for each fold in its inner folds" if nested and len(nested.lr) > 1 else ""
    by_name = (
        {}
        if not study.trained
        else {
            "Trained": f"in {counted(len(recipe.phases), 'phase')}" if recipe.phases else TUNING.get(recipe.tuning, ""),
            "Learning rate": f"{lr}; schedule {recipe.schedule}",
        }
    )
    for method in implementing(TrainingReport):
        by_name |= method.training_facts(study)
    facts = list((by_name | training_facts(study, context.jobs)).items())
    for name in context.study.trained:
        if own := recipe.own_settings(name):
            facts.append((f"Differs for {learner_name(name)}", ", ".join(f"{key} {own[key]}" for key in own)))
    if recipe.label_smoothing and context.classes and study.trained:
        facts.append(("Label smoothing", f"{recipe.label_smoothing:g}"))
    if recipe.mixup and study.trained:
        facts.append(("Mixed images", f"in pairs, with their losses; beta distribution with {recipe.mixup:g}"))
    if sampled := [job["fitted_to"] for job in context.jobs if job.get("fitted_to")]:
        counts = (span([int(record[name]) for record in sampled]) for name in ("panels", "of"))
        text = "fitted to {} of the {} training panels of a fold, a random sample by subject and class"
        facts.append(("Models on fixed features", text.format(*counts)))
    if lowest := changed_features(context.jobs):
        text = changed_features_text({learner_name(name): value for name, value in lowest.items()})
        facts.append(("First weights", f"{text}."))
    if context.jobs:
        seconds = sum(job.get("seconds") or 0 for job in context.jobs)
        fitted = counted(len(context.jobs), "network" if study.trained else "model")
        facts.append(("Cost", f"{fitted}, {duration(seconds)} of training"))
    if plan:
        facts.insert(0, ("Plan", plan.removeprefix("planned: ")))
    return facts


def training_facts(study: Study, jobs: Sequence[Job]) -> dict[str, str]:
    """By name: the loss of numbers, how gradients were limited, and the epoch whose weights were kept."""
    recipe, facts = study.recipe, {}
    if study.trained and any(kind_named(study.kind_of(name)).form == "number" for name in study.outputs):
        facts["Loss of numbers"] = f"{LOSSES[recipe.loss]}, of targets standardised by the training {study.unit}s"
    if study.trained and recipe.clip_gradients:
        facts["Gradients"] = f"limited to a norm of {recipe.clip_gradients:g}"
        if shares := {
            name: share for name, own in by_model(jobs).items() if (share := _limited_share(own)) is not None
        }:
            low, high = min(shares, key=shares.__getitem__), max(shares.values())
            differ = percent(shares[low]) != percent(high)
            most = f"{percent(shares[low])} to {percent(high)}" if differ else percent(high)
            lowest = f", fewest of {the_learner(low)}" if differ else ""
            facts["Gradients"] += f", which was exceeded in {most} of the steps, as a mean over epochs{lowest}"
            if recipe.optimizer == "sgd" and high >= MOST_LIMITED:
                facts["Gradients"] += "; such steps do not grow with the gradient"
    if study.trained and recipe.early_stopping.monitor != "none":
        facts["Weights kept"] = "of the epoch with the lowest loss on the cases that decide when to stop"
    return facts


def _limited_share(jobs: Sequence[Job]) -> float | None:
    """The share of steps whose gradient was limited, as a mean over epochs; None if it was not recorded."""
    shares = [entry["limited_steps"] for entry in _epochs(jobs) if "limited_steps" in entry]
    return sum(shares) / len(shares) if shares else None


def _epochs(jobs: Sequence[Job]) -> list[Job]:
    """The records of all epochs of all folds."""
    return [entry for job in jobs for entry in job.get("history") or []]


def by_model(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    """The jobs of each network, in the order of their folds."""
    by_model: dict[str, list[Job]] = {}
    for job in jobs:
        by_model.setdefault(str(job["model"]), []).append(job)
    return {name: sorted(of_model, key=lambda job: natural(job.get("fold", ""))) for name, of_model in by_model.items()}


# ----------------------------------------------------------------------------------------------------------- curves


def curves(context: ReportContext) -> list[Block]:
    """The training curves, and the curves of plugins."""
    jobs = by_model(context.jobs)
    order = sorted(jobs, key=lambda name: name != context.learner)
    drawn = [name for name in order if any(job.get("history") for job in jobs[name])][:MOST_CURVES]
    plots = [
        Plot(
            draw.training(learner_name(name), jobs[name], name=f"curve{i}"),
            f"Loss by epoch of {the_learner(name)}, one line per network.",
        )
        for i, name in enumerate(drawn)
    ]
    stopping = STOPPING if any(job.get("stopped_on") != "none" for name in drawn for job in jobs[name]) else ""
    phases = " Dashed: a further phase." * (len(context.study.recipe.phases) > 1)
    caption = CURVES.format(stopping=stopping, phases=phases)
    blocks: list[Block] = [Heading("Training curves"), Plots(plots, caption, "multiples")] if plots else []
    return blocks + [block for method in implementing(TrainingReport) for block in method.training_curves(context)]


# ------------------------------------------------------------------------------------------------------------ phases


def phases(context: ReportContext) -> list[Block]:
    """The table of phases: sizes, which folds share, and means over the folds; nothing without phases."""
    rows, recipe = [], context.study.recipe
    for network, jobs in by_model(job for job in context.jobs if job.get("phases")).items():
        rows.append(Row(learner_name(network), [""] * 9, mark=network == context.learner))
        for index, records in enumerate(zip(*(job["phases"] for job in jobs), strict=False)):
            first, stated = records[0], recipe.phases[index].lr if index < len(recipe.phases) else None
            sizes = [int(first.get(name) or 0) for name in ("frozen", "trainable", "running_statistics")]
            lr, cores = stated or recipe.lr, _mean(records, "core_seconds")
            texts = [f"{size:,}" for size in (sum(sizes), *sizes)]
            texts += [MISSING if isinstance(lr, str) else rate(lr), span([int(record["epochs"]) for record in records])]
            # core-seconds are never minutes and hours: they add up over cores
            seconds = [duration(_mean(records, "seconds")), number(cores, 0 if cores >= 100 else 1)]
            last = str(first.get("last_frozen") or "")
            how = [f"up to {last}"] if last not in ("", "body") else []
            how += dict.fromkeys(str(record.get("way", "")) for record in records)
            name = f"{index + 1}. {frozen_label(first['freeze'])} ({'; '.join(how)})"
            cells = [*texts, number(_mean(records, "rows"), 0), *seconds]
            rows.append(Row(name, cells, inner=True))
    heads = ["Network, phase", "Parameters", "Frozen", "Trainable", "Running statistics", "Learning rate", "Epochs"]
    table = Table([*heads, "Panels an epoch", "Time", "Core-seconds"], rows, PHASES, wide=True)
    return [Heading("Training phases"), table] if rows else []


def _mean(records: Sequence[Job], name: str) -> float:
    values = [float(record[name]) for record in records if is_number(record.get(name))]
    return sum(values) / len(values) if values else float("nan")


# ------------------------------------------------------------------------------ training and held-out performance


def _train_and_held_out(context: ReportContext) -> list[Block]:
    """Each network on training cases, on those that decided when to stop, and on held-out cases.

    Nothing where no network was evaluated on cases that it was trained on.
    """
    by_network = by_model(job for job in context.jobs if any(job.get(side) for side in TRAINED_ON))
    if not by_network or not context.classes:
        return []
    columns, write, rows = (RATES if len(context.classes) == 2 else RATES[:1]), MetricFormat(), []
    for network in sorted(by_network, key=lambda name: (name != context.learner, natural(name))):
        rows.append(Row(learner_name(network), [""] * (1 + len(columns)), mark=network == context.learner))
        for side, name in TRAINED_ON.items():
            if records := [job[side] for job in by_network[network] if job.get(side)]:
                rates = [_rate_cell(write, column, records) for column in columns]
                rows.append(Row(name, [number(_mean(records, "n"), 0), *rates], inner=True))
        for stage, name in HELD_OUT.items():
            figures, entry = context.figures(stage, network), context.class_figures(stage, network)
            if entry and stage in context.stages:
                cells = [Cell(f"{sum(entry.support):,}"), *(write.cell(m, figures.get(m)) for m in columns)]
                rows.append(Row(name, cells, inner=True))
    caption = PERFORMANCE.format(confidence=terms_of(context).confidence, unit=context.study.unit)
    table = Table(["Network, evaluated on", "n", *map(write.title, columns)], rows, caption, wide=True)
    return [Heading("Training and held-out performance"), table]


def _rate_cell(write: MetricFormat, name: str, records: Sequence[Job]) -> Cell:
    """The mean of a rate over networks, with its range in words."""
    if not (values := [float(record[name]) for record in records if is_number(record.get(name))]):
        return Cell(MISSING)
    smallest, largest = (write.text(name, end, unit=False) for end in (min(values), max(values)))
    return Cell(write.text(name, _mean(records, name)), f"{smallest} to {largest}", _mean(records, name))


# ------------------------------------------------------------------------------------------------------------- seeds


def seeds(context: ReportContext) -> list[Block]:
    """The primary outcome over trainings with several seeds, a row per learner; nothing for a single training.

    The figures are of the test set if there is one, otherwise out of fold.
    """
    figures = context.metrics.figures.select(population=SEED)
    stages = figures.names("stage", population=SEED)
    stage = next((stage for stage in INTERNAL if stage in stages), None)
    if stage is None:
        return []
    write, columns = context.write, context.columns("learners", stage)
    rows, seeds = [], figures.names("group", population=SEED)
    for learner in figures.names("learner", population=SEED, stage=stage):
        own = [figures.of(stage, learner, context.outcome, SEED, seed) for seed in seeds]
        sd = figures.of(stage, learner, context.outcome, SEED, contrast="sd")
        first, level = context.figures(stage, learner), context.study.evaluation.confidence
        cells = [
            _seed_cell(write, metric, sd.get(metric), [values.get(metric) for values in own], first.get(metric), level)
            for metric in columns
        ]
        rows.append(Row(learner_name(learner), cells, mark=learner == context.learner))
    confidence = terms_of(context).confidence
    # there are none for two trainings or few subjects
    brackets = (
        _BRACKETS.format(confidence=confidence) if any("[" in cell.small for row in rows for cell in row.cells) else ""
    )
    folds = "in folds of their own, with the same test set if there is one" if context.metrics.other_folds else SAME
    caption = SEEDS.format(folds=folds, side=capital(SIDES[stage]), seeds=listed(seeds), brackets=brackets)
    table = Table(["Learner", *map(write.title, columns)], rows, caption, wide=True)
    return [Heading("Variation between trainings"), table]


def _seed_cell(
    write: MetricFormat,
    metric: str,
    sd: Estimate | None,
    seeds: Sequence[Estimate | None],
    first: Estimate | None,
    level: float,
) -> Cell:
    """The lowest and the highest value over the seeds, with their standard deviation; a dash if one is undefined.

    The mean follows with its interval for other subjects and trainings, if the figure of the `first` seed has one.
    """
    if sd is None or sd.value is None:
        return Cell(MISSING)
    values = [figure.value for figure in seeds if figure and figure.value is not None]
    ends = [write.text(metric, value, unit=False) for value in (min(values), max(values))]
    scale, unit = (100, " %") if write.in_percent(metric) else (1, "")
    deviation = number(scale * sd.value, write.digits(metric) + 1)
    small = f"SD {deviation}{unit}"
    if first and (interval := over_trainings(metric, first, values, level)):
        bounds = write.bounds(metric, Estimate(None, *interval))
        small += f", mean {write.text(metric, sum(values) / len(values))} {bounds}" if bounds else ""
    return Cell(f"{ends[0]} to {ends[1]}{unit}", small, values[0])


# ---------------------------------------------------------------------------------------- networks, split, machine


def networks(context: ReportContext) -> list[Block]:
    """The table of networks, and the origins of their first weights."""
    if not context.jobs:
        return []
    memory = any(is_number(job.get("peak_memory_mb")) for job in context.jobs)
    heads = ["Backbone", "Networks", "Parameters", "Epochs", "Epoch kept", "Time"]
    recorded = {name for entry in _epochs(context.jobs) for name in entry}
    norms, limited = "gradient_norm" in recorded, "limited_steps" in recorded
    heads += ["Gradient norm"] * norms + ["Limited steps"] * limited
    heads += [*(["Peak memory"] if memory else []), "Compute plan"]
    caption = "All networks." + (MEMORY if memory else "")
    caption += NORMS.format(limited=LIMITED if limited else "") if norms else ""
    return [
        Heading("Networks"),
        Table(heads, _job_rows(context.jobs, context.learner, norms=norms, limited=limited), caption, wide=True),
        Heading("First weights"),
        Facts(_weight_origins(context.jobs)),
    ]


def _job_rows(jobs: Sequence[Job], learner: str, *, norms: bool, limited: bool) -> list[Row]:
    """One line per backbone: networks, size, epochs, time, how it was computed; gradients and memory if recorded."""
    rows, memory = [], any(is_number(job.get("peak_memory_mb")) for job in jobs)
    for model, own in by_model(jobs).items():
        epochs, best = ([job[name] for job in own if is_number(job.get(name))] for name in ("epochs", "best_epoch"))
        size, seconds = own[0].get("parameters") or 0, sum(job.get("seconds") or 0 for job in own)
        plans = sorted({compute_plan(job) for job in own})
        peaks = [float(job["peak_memory_mb"]) for job in own if is_number(job.get("peak_memory_mb"))]
        share = _limited_share(own)
        peak = Cell(gigabytes(max(peaks)), value=max(peaks)) if peaks else Cell(MISSING)
        cells = [
            Cell(str(len(own)), value=len(own)),
            Cell(f"{size / 1e6:.1f} M" if size else MISSING, value=size),
            Cell(span(epochs), value=max(epochs, default=0)),
            Cell(span(best), value=max(best, default=0)),
            Cell(duration(seconds), value=seconds),
            *([_norm_cell(own)] if norms else []),
            *([Cell(percent(share), value=-1.0 if share is None else share)] if limited else []),
            *([peak] if memory else []),
            Cell("; ".join(plans), value=plans[0]),
        ]
        rows.append(Row(learner_name(model), cells, mark=model == learner))
    return rows


def _norm_cell(jobs: Sequence[Job]) -> Cell:
    """The median norm of the gradients, over all epochs of a backbone's networks, with the lowest and the highest."""
    if not (norms := [entry["gradient_norm"] for entry in _epochs(jobs) if "gradient_norm" in entry]):
        return Cell(MISSING)
    return Cell(f"{median(norms):.3g}", f"{min(norms):.3g} to {max(norms):.3g}", median(norms))


def compute_plan(job: Job) -> str:
    """Precision, memory format and threads of a job, as its record states them.

    >>> compute_plan({"precision": "fp32", "memory_format": "channels-last", "threads": 1})
    'fp32, channels-last, 1 thread'
    """
    named = [str(job.get(name, MISSING)) for name in ("precision", "memory_format")]
    return ", ".join([*named, *([counted(job["threads"], "thread")] if job.get("threads") else [])])


def _weight_origins(jobs: Iterable[Job]) -> list[tuple[str, str]]:
    """The backbones that share an origin of their first weights, and this origin."""
    origins: dict[str, dict[str, None]] = {}
    for job in jobs:
        origins.setdefault(str(job.get("weights", MISSING)), {})[learner_name(str(job["model"]))] = None
    names = {origin: ", ".join(of) if len(of) < 6 else f"{len(of)} backbones" for origin, of in origins.items()}
    return [(name, origin) for origin, name in names.items()]


def split(context: ReportContext) -> list[Block]:
    """The sides of the split, and how it was made."""
    study, splits = context.study, context.splits
    rows = [
        Row(side, [f"{counts.get(key, 0):,}" for key in ("subjects", "cases", "panels")])
        for side, counts in splits.get("n", {}).items()
        if isinstance(counts, dict) and counts.get("subjects")
    ]
    facts = [("Manifest", f"SHA-256 {splits.get('hash', 'not recorded')}")]
    if str(splits.get("how") or "").startswith("column "):
        facts.append(("Imported from", f"{splits['how']} of the cohort table"))
    elif splits.get("left_out"):
        facts.append(("Folds", f"each {context.site} was left out once"))
    elif splits.get("balance"):
        facts.append(("Stratified by", display_name(study, str(splits["balance"]))))
    names = {"test": "Test set", "validation": "Validation set", "folds": "Folds"}
    facts += [(names[side], _assignment(entry)) for side, entry in (splits.get("assignment") or {}).items()]
    caption = BY_SUBJECT if study.subjects_known else f"{study.not_known}: one person may be on two sides."
    heads = ["Side", f"{capital(study.unit)}s", "Cases", "Panels"]
    return [Heading("Split"), Table(heads, rows, caption), Facts(facts)]


def _assignment(entry: Job) -> str:
    """How the subjects were divided: among how many candidates, and the imbalance of the chosen one."""
    tried, other = listed([f"{count:,} {name}" for name, count in entry["candidates"].items()]), entry.get("unequal")
    texts = [
        f"best of {tried} assignments: {entry['method']}",
        f"imbalance {percent(entry['imbalance'], 1)}",
        f"{percent(other['equal'], 1)} with equal and {percent(other['imbalance'], 1)} with unequal sizes"
        if other
        else "",
        f"{entry['runs']} runs of neighbouring numbers" if entry.get("runs") else "",
        "no candidate has every class on every side" if entry.get("shortfall") else "",
    ]
    return "; ".join(filter(None, texts))


def machine(context: ReportContext) -> list[Block]:
    """The environment of the run."""
    facts = [
        ("time in which models were fitted", f"{duration(value)} in total") if key == "seconds" else (key, str(value))
        for key, value in context.environment.items()
    ]
    return [Heading("Machine and versions"), Facts(facts)] if facts else []
