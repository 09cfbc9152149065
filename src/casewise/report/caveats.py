"""Caveats as sentences, from their codes; and the one line of results that the command line shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from casewise.metrics.registry import metric_of
from casewise.report.context import EXTERNAL
from casewise.report.external_validation import ExternalResult, external_result
from casewise.report.formatting import capital, counted, interval, listed, number, percent
from casewise.report.tables import hardly_varies
from casewise.report.terms import SIDES
from casewise.study.learners import learner_name, the_learner
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.evaluation.results import Results
    from casewise.study.schema import Study

Values = Mapping[str, Any]
MOST_SOURCES = 6
NO_RESPONSE = {
    "physician_baseline_zero": "a baseline of zero",
    "baseline_not_scored": "a baseline without a reference value",
    "no_baseline": "no scored baseline visit",
}


def _side(c: Values) -> str:
    return capital(SIDES[c["stage"]])


# Sentences of caveats that neither a statement of the first screen nor a table says; the others have none.
SENTENCES: dict[str, Callable[[Values], str]] = {
    "nothing_judged": lambda c: "Nothing could be evaluated: no prediction has a reference value.",
    "stage_without_truth": lambda c: f"{_side(c)}, no case has a reference value, so nothing is evaluated.",
    "without_truth": lambda c: (
        f"{_side(c)}, {c['missing']} of {counted(c['total'], 'prediction')} of {c['target']} without a reference value."
    ),
    "missing_regions": lambda c: (
        f"Of {c['score']}, {counted(c['cases'], 'case')} predicted but not evaluated, because a region is missing."
    ),
    "class_missing": lambda c: (
        f"{_side(c)}, no case of {c['target']} is {listed(c['classes'], 'or')}: metrics over all classes are left out."
    ),
    "different_cases": lambda c: (
        f"{_side(c)}, not all learners predicted the same cases of {c['target']}; those of all learners are compared."
    ),
    "response_left_out": lambda c: (
        f"{_side(c)}, the response leaves out {counted(len(c['subjects']), 'subject')} with {NO_RESPONSE[c['reason']]}."
    ),
    "readers_at_other_level": lambda c: (
        f"{_side(c)}, readers and learners are not compared: no reader's value is at the level of a prediction."
    ),
    "test_below_oof": lambda c: (
        f"The {metric_of(c['metric']).phrase} of {the_learner(c['learner'])} falls from {c['oof']['value']:.2f} out of"
        f" fold to {c['test']['value']:.2f} on the test set, beyond chance."
    ),
    "auroc_parts": lambda c: (
        f"AUROC of {c['target']} by {the_learner(c['learner'])}: {c['within']:.2f} within folds, {c['pooled']:.2f}"
        " pooled over different networks. Read the first."
    ),
    "temperature_at_bound": lambda c: (
        f"{_side(c)}, scaled probabilities of {c['target']} by {the_learner(c['learner'])} are unreliable: the"
        " temperature is at a bound."
    ),
}


def sentences(notes: Iterable[Values | str]) -> list[str]:
    """The sentences of caveats that have one (see `SENTENCES`); a text is returned unchanged.

    >>> sentences([{"code": "stage_without_truth", "stage": "test"}, {"code": "macro_means"}, "Text."])
    ['On the test set, no case has a reference value, so nothing is evaluated.', 'Text.']
    """
    shown = (note for note in notes if isinstance(note, str) or note["code"] in SENTENCES)
    return [note if isinstance(note, str) else SENTENCES[note["code"]](note) for note in shown]


def result_line(study: Study, results: Results) -> str:
    """The main outcome in one line, for the learner of the headline; empty if nothing was evaluated.

    The result on an external cohort comes first. Where sources were left out, figures are means within them.
    """
    main = results.get("main")
    if not main or not main["metrics"]:
        return ""
    stage, learner, figures = main["stage"], main["learner"], main["metrics"]
    headline = kind_named(main["kind"]).headline
    block = results.get("classes", {}).get(stage, {}).get(learner, {}).get(study.primary_outcome)
    unit = study.level_of(study.primary_outcome) if block else "case"
    first = next(iter(figures.values()))
    cases = _counts(unit, sum(block["support"]) if block else first["n_cases"], first["n_subjects"])
    name = learner_name(learner)
    external = external_result(study, results, learner, stage) if stage != EXTERNAL else None
    pieces = [_external(external, unit, name)] if external else []
    whose = cases if external else f"{cases}, {name}"
    if stage == "oof" and results.get("site_means"):
        site = (study.split.leave_out or "source").replace("_", " ")
        means = [text for metric in headline if (text := _within(results, learner, metric))]
        told = ", ".join(means) or f"undefined within every {site}"
        misread = f"Pooled figures mix different networks. They must not be read as {kind_named(main['kind']).means}."
        pieces.append(f"each {site} left out, {whose}: {told}. {misread}")
    else:
        defined = {
            metric: figures[metric] for metric in headline if (figures.get(metric) or {}).get("value") is not None
        }
        place = {"test": "test set", EXTERNAL: "external cohort"}.get(stage, "out of fold")
        pieces.append(f"{place}, {whose}: {_figures(defined)}")
    return f"{study.primary_outcome}, {'; '.join(pieces)}"


def _external(result: ExternalResult, unit: str, learner: str) -> str:
    """The figures on the external cohort; if a class is absent there, also what became of the others."""
    cohort = " ".join(filter(None, ["external cohort", result.name]))
    line = f"{cohort}, {_counts(unit, result.cases, result.figure.n_subjects)}, {learner}: {_figures(result.headline)}"
    if classes := result.classes:
        recalls = [f"{each.recalled} of {each.cases} of {each.name} recognised" for each in classes.recalls]
        common = classes.predicted
        line = ", ".join([line, *recalls, f"{percent(common.cases / common.of)} predicted as {common.name}"])
    return line


def _within(results: Mapping[str, Any], learner: str, metric: str) -> str:
    """A metric's mean over the sources that were left out, with its value in each or their range."""
    mean = results["site_means"].get(learner, {}).get(metric)
    if not mean or mean["value"] is None:
        return ""
    each = {source: results["by_site"][source][learner][metric] for source in mean["sources"]}
    if len(each) > MOST_SOURCES:
        values = [figure["value"] for figure in each.values()]
        by_source = f"from {number(min(values), 2)} to {number(max(values), 2)}"
    else:
        by_source = ", ".join(f"{source} {_figure(figure)}" for source, figure in each.items())
    undefined = f", undefined in {', '.join(mean['undefined'])}" if mean["undefined"] else ""
    return f"{metric_of(metric).title} {_figure(mean)} (mean of {len(each)}; {by_source}{undefined})"


def _figures(figures: Mapping[str, Values]) -> str:
    return ", ".join(
        f"{metric_of(name).title} "
        + (f"{number(f['value'], 2)} (the predictions hardly vary)" if hardly_varies(f, name) else _figure(f))
        for name, f in figures.items()
    )


def _figure(figure: Values) -> str:
    """A value with its interval, or the reason why it has none."""
    value, ends = number(figure["value"], 2), interval(figure, 2)
    if ends:
        return f"{value} {ends[:-1]}, rough]" if figure.get("rough") else f"{value} {ends}"
    return f"{value} ({figure['reason']})" if figure.get("reason") else value


def _counts(unit: str, count: int, subjects: int) -> str:
    people = counted(subjects, "subject")
    return people if unit == "subject" else f"{counted(count, unit)} of {people}"
