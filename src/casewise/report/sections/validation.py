"""Nested cross-validation, and leave-one-site-out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from casewise.cohort.dates import natural
from casewise.evaluation.headline import FITTED
from casewise.predictions.nested_cv import NESTED, chosen_networks
from casewise.report.blocks import Block, Cell, Facts, Row, Section, Table, Text
from casewise.report.formatting import MISSING, capital, counted, listed, number, rate
from casewise.report.tables import metric_format
from casewise.report.terms import terms_of
from casewise.study.learners import learner_name

if TYPE_CHECKING:
    from casewise.report.context import ReportContext

Job = Mapping[str, Any]

MOST_NETWORKS = 12
MOST_CANDIDATES = 200
NESTED_NOTE = (
    "The subjects of the fold itself took no part in its choices. Choices at an end of what was tried may be better"
    " beyond it."
)
PRUNING = (
    "After some epochs, candidates were compared by their mean loss over the inner folds; only those in the better half"
    " at the time were trained on (asynchronous successive halving). A rate that is better only late may have been"
    " stopped. The loss is the lowest of any epoch if the number of epochs is chosen, else that of the last one."
)
STOPPED = {"all_epochs": "trained to the end", "failed": "its loss was not a number"}
LEFT_OUT = (
    "Each {site} is predicted by networks that were not trained on it: performance cannot come from recognising the"
    " {site}. It can still come from something other than the disease that several share, such as a kind of device."
    " Figures over all classes are undefined where a class is missing."
)
FITTED_WEIGHTS = (
    "Combined learners with fitted weights do not estimate the performance in a new {site}: the weights for one {site}"
    " were fitted on predictions by networks that were trained on it."
)


# ------------------------------------------------------------------------------------------------------ nested CV


@dataclass(frozen=True)
class Tuning:
    """How inner folds chose: rates and folds, how often a choice lay at an end, and trainings that failed.

    `trained` and `every` are epochs of inner trainings, spent and without pruning; `candidates` are those of pruning.
    """

    rates: list[float]
    folds: int
    choices: int
    at_last_epoch: int
    at_edge_rate: int
    failed: int


def tuning(jobs: Sequence[Job], *, epochs: int, tuned_epochs: bool) -> Tuning | None:
    """How the inner folds of these jobs chose; None without them.

    Args:
        epochs: the most that were allowed; `tuned_epochs`: whether their number was chosen.
    """
    tuned = [job for job in jobs if job.get("inner")]
    if not tuned:
        return None
    inner = [job["inner"] for job in tuned]
    rates = [entry["lr"] for entry in inner[0]["rates"]]
    return Tuning(
        rates=rates,
        folds=inner[0]["folds"],
        choices=len(inner),
        at_last_epoch=sum(entry["chosen"]["epochs"] >= epochs for entry in inner) if tuned_epochs else 0,
        at_edge_rate=sum(entry["chosen"]["lr"] in (min(rates), max(rates)) for entry in inner) if len(rates) > 2 else 0,
        failed=sum("failed" in training for entry in inner for training in entry["trainings"]),
    )


def nested_section(context: ReportContext) -> Section | None:
    """What inner folds chose; None without nested cross-validation."""
    study, settings = context.study, context.study.nested_cv
    entry = tuning(context.jobs, epochs=study.recipe.epochs, tuned_epochs=bool(settings and settings.epochs))
    if settings is None or entry is None:
        return None
    chosen = (["number of epochs"] if settings.epochs else []) + (["learning rate"] if len(entry.rates) > 1 else [])
    facts = [
        ("Inner folds", str(entry.folds)),
        ("Chosen in them", listed(chosen) or "network"),
        ("Learning rates", listed([rate(value) for value in entry.rates], "or")),
        ("Choices at the last epoch tried", f"{entry.at_last_epoch} of {entry.choices}"),
        ("Choices at the lowest or highest rate", f"{entry.at_edge_rate} of {entry.choices}"),
        ("Inner trainings that failed", str(entry.failed)),
    ]
    blocks: list[Block] = [Facts(facts), choices(context), Text(NESTED_NOTE, note=True)]
    return Section("nested", "Nested cross-validation", blocks)


def choices(context: ReportContext) -> Table:
    """The choice of epochs and rate of each fold and network, and the network chosen where they are candidates."""
    study, networks = context.study, context.study.networks[:MOST_NETWORKS]
    chosen = {(str(job["fold"]), job["model"]): job["inner"]["chosen"] for job in context.jobs if job.get("inner")}
    choice, several = chosen_networks(context.jobs, study.networks), NESTED in context.learners
    rows = []
    for fold in sorted({fold for fold, _ in chosen}, key=natural):
        cells = [_choice(chosen.get((fold, network))) for network in networks]
        cells += [Cell(learner_name(choice["folds"][fold]["network"]))] if several else []
        rows.append(Row(f"Fold {fold}", cells))
    if several:
        losses = [Cell(number(choice["final"]["losses"].get(name), 3), "mean loss") for name in networks]
        rows.append(Row("New cases", [*losses, Cell(learner_name(choice["final"]["network"]))]))
    caption = f"The choices of the inner folds, for {len(networks)} of {counted(len(study.networks), 'network')}."
    return Table(["Fold", *networks, *(["Chosen"] if several else [])], rows, caption, wide=True)


def _choice(chosen: Job | None) -> Cell:
    if chosen is None:
        return Cell(MISSING)
    small = f"rate {rate(chosen['lr'])}, loss {number(chosen['loss'], 3)}"
    return Cell(counted(int(chosen["epochs"]), "epoch"), small, chosen["loss"])


# ------------------------------------------------------------------------------------------- leave-one-site-out


def left_out_section(context: ReportContext) -> Section | None:
    """Where each fold is one source: the reported learner's figures on every source, and all learners'."""
    metrics, by_source = source_metrics(context), context.metrics.by_site
    if not by_source:
        return None
    site, write, terms = context.site, metric_format(context.study, context.outcome), terms_of(context)
    name, brackets = learner_name(context.learner), f"Brackets: {terms.confidence} intervals."
    heads = [capital(site), "n", *map(write.title, metrics)]
    blocks: list[Block] = [
        Text(LEFT_OUT.format(site=site), note=True),
        Table(heads, source_rows(context), f"{name}. {brackets}", wide=True),
    ]
    if len(context.learners) > 1 and context.by_site:
        caption = f"{write.title(context.merit)} within each {site}, and the mean. {brackets}"
        blocks.append(Table(["Learner", "Mean", *by_source], learner_rows(context), caption, wide=True, sortable=True))
        if any(learner.startswith(FITTED) for learner in context.learners):
            blocks.append(Text(FITTED_WEIGHTS.format(site=site), note=True))
    return Section("left-out", "Leave-one-site-out", blocks)


def source_metrics(context: ReportContext) -> list[str]:
    """The metrics that the reported learner has in at least one source."""
    by_source = (context.metrics.by_site or {}).values()
    own = [by_learner.get(context.learner, {}) for by_learner in by_source]
    return [metric for metric in context.columns("external") if any(metric in figures for figures in own)]


def source_rows(context: ReportContext) -> list[Row]:
    """The reported learner's mean over the sources, if there is one, and a line for each source."""
    write, metrics = metric_format(context.study, context.outcome), source_metrics(context)
    means = (context.metrics.site_means or {}).get(context.learner, {})
    rows = []
    if means:
        rows.append(Row("mean", [Cell(""), *(write.cell(metric, means.get(metric)) for metric in metrics)]))
    for source, by_learner in (context.metrics.by_site or {}).items():
        figures = by_learner.get(context.learner, {})
        count = next((figure.n_cases for figure in figures.values()), None)
        rows.append(Row(source, [Cell(number(count, 0)), *(write.cell(m, figures.get(m)) for m in metrics)]))
    return rows


def learner_rows(context: ReportContext) -> list[Row]:
    """One line per learner, the best first: its merit averaged over the sources and in each."""
    write, metric, means = (
        metric_format(context.study, context.outcome),
        context.merit,
        context.metrics.site_means or {},
    )
    ranked = []
    for learner in context.learners:
        mean = means.get(learner, {}).get(metric)
        cells = [write.cell(metric, mean)]
        cells += [
            write.cell(metric, by.get(learner, {}).get(metric)) for by in (context.metrics.by_site or {}).values()
        ]
        rank = 2.0 if mean is None or mean.value is None else -mean.value
        ranked.append((rank, Row(learner_name(learner), cells, mark=learner == context.learner)))
    return [row for _, row in sorted(ranked, key=lambda pair: pair[0])]
