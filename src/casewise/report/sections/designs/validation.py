"""Nested cross-validation, and leave-one-site-out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from casewise.cohort.table import natural
from casewise.evaluation.figures import KNOWN
from casewise.evaluation.headline import FITTED
from casewise.predictions.nested_cv import NESTED, chosen_networks
from casewise.report.blocks import Block, Cell, Facts, Row, Section, Table, Text
from casewise.report.context import ReportContext
from casewise.report.formatting import MISSING, capital, counted, listed, number, rate
from casewise.study.learners import learner_name

Job = Mapping[str, Any]

MOST_NETWORKS = 12
NESTED_NOTE = (
    "The subjects of the fold itself took no part in its choices. Choices at an end of what was tried may be better"
    " beyond it."
)
LEFT_OUT = (
    "Each {site} is predicted by models that this study did not train on it: performance cannot come from recognising"
    " the {site}. It can still come from something other than the disease that several share, such as a kind of device."
    " Without one of the classes a {site} has an accuracy, but no AUROC and no mean over the classes."
)
OF_KNOWN = (
    " Below each {site}: the same models in folds of subjects instead of {site}s."
    " Differences are not tested: chance and the number of training subjects are in them, too."
)
FOR_OTHERS = (
    "The models are meant for other {site}s: in training the classes that a {site} has weigh the same in it.",
    "With two {site}s each model learns from one, and cannot know what differs between {site}s.",
)
ONE_CLASS = "{sites} with one class only: {names}. There no weight can hide the class from the {site}."
FITTED_WEIGHTS = (
    "Combined learners with fitted weights do not estimate the performance in a new {site}: the weights for one {site}"
    " were fitted on predictions by networks that were trained on it."
)


# ------------------------------------------------------------------------------------------------------ nested CV


def nested_section(context: ReportContext) -> Section | None:
    """The choices of the inner folds; None without nested cross-validation."""
    study, settings = context.study, context.study.nested_cv
    inner = [job["inner"] for job in context.jobs if job.get("inner")]
    if settings is None or not inner:
        return None
    rates, count = [entry["lr"] for entry in inner[0]["rates"]], len(inner)
    chosen = (["number of epochs"] if settings.epochs else []) + (["learning rate"] if len(rates) > 1 else [])
    last = sum(entry["chosen"]["epochs"] >= study.recipe.epochs for entry in inner) if settings.epochs else 0
    failed = sum("failed" in training for entry in inner for training in entry["trainings"])
    ends = [entry["chosen"]["lr"] in (min(rates), max(rates)) for entry in inner] if len(rates) > 2 else []
    facts = [
        ("Inner folds", str(inner[0]["folds"])),
        ("Chosen in them", listed(chosen) or "network"),
        ("Learning rates", listed([rate(value) for value in rates], "or")),
        *([("Choices at the last epoch tried", f"{last} of {count}")] if settings.epochs else []),
        *([("Choices at the lowest or highest rate", f"{sum(ends)} of {count}")] if ends else []),
        ("Inner trainings that failed", str(failed)),
    ]
    blocks: list[Block] = [Facts(facts), _choices(context), Text(NESTED_NOTE, note=True)]
    return Section("nested", "Nested cross-validation", blocks)


def _choices(context: ReportContext) -> Table:
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
        rows.append(Row("New cases", [*losses, learner_name(choice["final"]["network"])]))
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
    metrics, sources = source_metrics(context), context.metrics.sources
    if not sources:
        return None
    site, write = context.site, context.write
    name = learner_name(context.learner)
    heads = [capital(site), "n", *map(write.title, metrics)]
    note = OF_KNOWN.format(site=site) if _of_known(context) else ""
    blocks: list[Block] = [
        Text(" ".join([LEFT_OUT.format(site=site), *for_other_sources(context)]), note=True),
        Table(heads, source_rows(context), f"{name}.{note}", wide=True),
    ]
    if len(context.learners) > 1 and context.by_site:
        caption = f"{write.title(context.merit)} within each {site}, and the mean."
        blocks.append(Table(["Learner", "Mean", *sources], learner_rows(context), caption, wide=True, sortable=True))
        if any(learner.startswith(FITTED) for learner in context.learners):
            blocks.append(Text(FITTED_WEIGHTS.format(site=site), note=True))
    return Section("left-out", "Leave-one-site-out", blocks)


def source_metrics(context: ReportContext) -> list[str]:
    """The metrics that the reported learner has in at least one source."""
    own = [context.metrics.within_source(context.learner, source) for source in context.metrics.sources]
    return [metric for metric in context.columns("external") if any(metric in figures for figures in own)]


def source_rows(context: ReportContext) -> list[Row]:
    """The reported learner's mean over the sources, if there is one, and a line for each source."""
    write, metrics = context.write, source_metrics(context)
    results, learner, has_known = context.metrics, context.learner, _of_known(context)
    means = results.over_sources(learner)

    def row(name: str, count: str, figures: Mapping[str, Any], *, inner: bool = False) -> Row:
        return Row(name, [count, *(write.cell(metric, figures.get(metric)) for metric in metrics)], inner=inner)

    rows = [row("mean", "", means)] if means else []
    if means and has_known:
        rows.append(row("known", "", results.over_sources(learner, KNOWN), inner=True))
    for source in results.sources:
        figures = results.within_source(learner, source)
        count = next((figure.n_cases for figure in figures.values()), None)
        rows.append(row(source, number(count, 0), figures))
        if has_known:
            rows.append(row("known", "", results.within_source(learner, source, KNOWN), inner=True))
    return rows


def _of_known(context: ReportContext) -> bool:
    """Whether there are also figures of models that were trained on other subjects of each source."""
    return bool(context.metrics.figures.select(population=KNOWN))


def for_other_sources(context: ReportContext) -> list[str]:
    """How models that are meant for other sources were trained, and the sources that still tell the class."""
    if context.study.recipe.meant_for != "other_sources":
        return []
    site, sources, sides = context.site, context.splits.get("left_out", []), context.splits["subjects"]
    rows = context.headline_rows
    classes = rows.groupby(rows["subject"].map(sides))["y_true"].nunique() if context.classes else {}
    single = [name for number, name in enumerate(sources, 1) if classes.get(number) == 1]
    sentences = [text.format(site=site) for text in FOR_OTHERS[: 1 if len(sources) > 2 else 2]]
    if single:
        sentences.append(ONE_CLASS.format(sites=capital(f"{site}s"), names=listed(single), site=site))
    return sentences


def learner_rows(context: ReportContext) -> list[Row]:
    """One line per learner, the best first: its merit averaged over the sources and in each."""
    write, metric = context.write, context.merit
    ranked = []
    for learner in context.learners:
        mean = context.metrics.over_sources(learner).get(metric)
        sources = [context.metrics.within_source(learner, source).get(metric) for source in context.metrics.sources]
        row = Row(learner_name(learner), [write.cell(metric, figure) for figure in (mean, *sources)])
        rank = 2.0 if mean is None or mean.value is None else -mean.value
        ranked.append((rank, replace(row, mark=learner == context.learner)))
    return [row for _, row in sorted(ranked, key=lambda pair: pair[0])]
