"""Caveats as sentences, the result on an external cohort, and the line of results that the command line shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from casewise.evaluation.figures import Estimate
from casewise.evaluation.results import Results
from casewise.metrics.registry import columns
from casewise.report.context import EXTERNAL, SIDES, defined, quoted_figures
from casewise.report.formatting import capital, class_name, counted, listed, plain
from casewise.report.tables import MetricFormat, hardly_varies, metric_format, verdict
from casewise.study.learners import learner_name, the_learner
from casewise.study.schema import Study
from casewise.study.targets import own_heading
from casewise.targets import kind_named

Values = Mapping[str, Any]
MOST_SOURCES = 6
ENDS = {"from": min, "to": max}
NO_RESPONSE = {
    "physician_baseline_zero": "a baseline of zero",
    "baseline_not_scored": "a baseline without a reference value",
    "no_baseline": "no scored baseline visit",
}

# The most values of a column to state, first the values where the model does no better than the commonest class; the
# fewest predictions for a value or class to count; how far below the level a share of sets must be to be stated.
MOST_VALUES, FEWEST_ROWS, MISSED = 3, 10, 0.1


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
        f"{_side(c)}, not all learners predicted the same cases of {c['target']}; they are compared on shared cases."
    ),
    "response_left_out": lambda c: (
        f"{_side(c)}, the response leaves out {counted(len(c['subjects']), 'subject')} with {NO_RESPONSE[c['reason']]}."
    ),
    "readers_at_other_level": lambda c: (
        f"{_side(c)}, readers and learners are not compared: no reader's value is at the level of a prediction."
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


# ---------------------------------------------------------------------------------------------- the external cohort


@dataclass(frozen=True)
class _ExternalResult:
    """The primary metric of a learner on the external cohort and in the study.

    Attributes:
        code: `not_inside` (undefined in the study), `untested`, `rough`, `worse`, `better` or `open`.
        metric: the primary metric, or the first defined metric of the external table where it is undefined.
        absent, recognised: if a class has no external case, such classes, and how many cases of each other class were
            recognised.
        headline: the headline metrics that are defined outside.
    """

    code: str
    metric: str
    figure: Estimate
    inside: float | None
    headline: dict[str, Estimate]
    absent: list[str]
    recognised: list[str]


def external_result(study: Study, results: Results, learner: str, stage: str) -> _ExternalResult | None:
    """The results of a learner on the external cohort and in `stage`; None without an external evaluation.

    Where the primary metric is undefined outside, such as an AUROC without a case of one class, the first defined
    metric of the external table replaces it. Where sources were left out, the study's figure is the mean within them.
    """
    outcome, kind = study.primary_outcome, kind_named(study.kind_of(study.primary_outcome))
    outside = {
        name: figure for name, figure in results.figures.of(EXTERNAL, learner, outcome).items() if defined(figure)
    }
    of_table = columns("external", study.kind_of(outcome), len(study.classes_of(outcome)) or None)
    shown = [name for name in dict.fromkeys([kind.merit, *of_table]) if name in outside]
    if not shown:
        return None
    own = quoted_figures(study, results, learner, stage)
    inside = {name: figure.value for name in shown if (figure := defined(own.get(name)))}
    metric = next((name for name in shown if name in inside), shown[0])
    drop = results.drop(learner).get(metric)
    code = verdict(drop.low, drop.high, metric) if drop else "untested"
    if drop and drop.rough and code != "untested":
        code = "rough"
    entry = results.classes.get(EXTERNAL, {}).get(learner, {}).get(outcome)
    absent: list[str] = []
    recognised: list[str] = []
    if entry and not all(entry.support):
        for row, (label, support) in enumerate(zip(entry.names, entry.support, strict=True)):
            name = class_name(study, outcome, label)
            right = f"{entry.confusion[row][row]} of {support} of {name} recognised"
            (recognised if support else absent).append(right if support else name)
    return _ExternalResult(
        code=code if metric in inside else "not_inside",
        metric=metric,
        figure=outside[metric],
        inside=inside.get(metric),
        headline={name: outside[name] for name in dict.fromkeys([*kind.headline, metric]) if name in shown},
        absent=absent,
        recognised=recognised,
    )


# ------------------------------------------------------------------------------------------------ the line of results


def within_values(study: Study, results: Results) -> str:
    """How often the reported model is right within the values of a column that predicts the classes; empty without one.

    The text also gives how often naming the commonest class would be right, and where prediction sets seldom hold the
    true class. Values with one class, where naming it is always right, and values with few cases are left out.
    """
    within, main, sets = results.within_column, results.main, results.prediction_sets
    if within is None or (within.target, within.stage, within.learner) != (main.target, main.stage, main.learner):
        return ""
    groups = [
        (plain(name), group)
        for name, group in within.groups.items()
        if group.rows >= FEWEST_ROWS and group.of_commonest < group.rows
    ]
    groups.sort(key=lambda item: (item[1].right > item[1].of_commonest, -item[1].rows))
    right, missed = [], []
    for name, group in groups[:MOST_VALUES]:
        gap = group.right - group.of_commonest
        compared = "as many as" if gap == 0 else f"{'more' if gap > 0 else 'fewer'} than"
        commonest = class_name(study, main.target, group.commonest)
        recalls = {
            label: counts["found"] / counts["rows"]
            for label, counts in group.classes.items()
            if counts.get("rows", 0) >= FEWEST_ROWS and "found" in counts
        }
        of_worst = ""
        if len(recalls) > 1:
            worst = min(recalls, key=recalls.__getitem__)
            least, label = group.classes[worst], class_name(study, main.target, worst)
            among = f"of classes with {FEWEST_ROWS} or more, " if len(recalls) < len(group.classes) else ""
            of_worst = f" ({among}least often {label}, {least['found']:,} of {least['rows']:,})"
        right.append(
            f"{name}: {group.right:,} of {group.rows:,} right{of_worst}, {compared} the {group.of_commonest:,} of "
            f"always naming {commonest}"
        )
        for label, counts in group.classes.items():
            n_held, n_rows = counts.get("held"), counts.get("rows", 0)
            if sets and n_held is not None and n_rows >= FEWEST_ROWS and n_held < (sets.level - MISSED) * n_rows:
                missed.append(f"{n_held:,} of {n_rows:,} ({class_name(study, main.target, label)}, {name})")
    text = f" By {plain(within.column)}, which predicts the label, {'; '.join(right)}." if right else ""
    return text + (f" Prediction sets hold the true class of only {'; '.join(missed)}." if missed else "")


def result_line(study: Study, results: Results) -> str:
    """The main outcome in one line, for the learner of the headline; empty if nothing was evaluated.

    The result on an external cohort comes first. Where sources were left out, figures are means within them.
    """
    main = results.main
    if not results.headline:
        return ""
    stage, learner, name = str(main.stage), str(main.learner), learner_name(str(main.learner))
    kind, first = kind_named(main.kind), next(iter(results.headline.values()))
    unit, write = study.level_of(study.primary_outcome), metric_format(study, study.primary_outcome)
    whose = _counts(study, unit, first)
    pieces = []
    if external := external_result(study, results, learner, stage) if stage != EXTERNAL else None:
        cohort = f"external cohort {study.external_name}".strip()
        cases = _counts(study, unit, external.figure)
        headline = f"{cohort}, {cases}, {name}: {_figures(write, external.headline)}"
        pieces.append(", ".join([headline, *external.recognised]))
    else:
        whose = f"{whose}, {name}"
    if stage == "oof" and results.sources:
        site = (study.split.leave_out or "source").replace("_", " ")
        means = [text for metric in kind.headline if (text := _within(write, results, learner, metric))]
        by_class = ", ".join(means) or f"undefined within every {site}"
        misread = f"Pooled figures mix different networks. They must not be read as {kind.means}."
        pieces.append(f"each {site} left out, {whose}: {by_class}. {misread}")
    else:
        figures = {metric: figure for metric in kind.headline if (figure := defined(results.headline.get(metric)))}
        stops = stage == "validation" and study.recipe.early_stopping.monitor == "fold"
        validation = f"validation set{', whose loss stopped the training' if stops else ''}"
        sides = {"test": "test set", EXTERNAL: "external cohort", "validation": validation}
        side = sides.get(stage, "out of fold")
        pieces.append(f"{side}, {whose}: {_figures(write, figures)}")
    outcome = study.primary_outcome
    return f"{own_heading(study.targets.get(outcome), outcome) or outcome}, {'; '.join(pieces)}"


def _within(write: MetricFormat, results: Results, learner: str, metric: str) -> str:
    """A metric's mean over the sources that were left out, with its value in each or their range."""
    mean = results.over_sources(learner).get(metric)
    if mean is None or mean.value is None:
        return ""
    of_sources = {source: results.within_source(learner, source).get(metric) for source in results.sources}
    figures = {source: figure for source, figure in of_sources.items() if figure and figure.value is not None}
    missing = [source for source in of_sources if source not in figures]
    by_source = ", ".join(f"{source} {_figure(write, metric, figure)}" for source, figure in figures.items())
    if len(figures) > MOST_SOURCES:
        values = [figure.value for figure in figures.values() if figure.value is not None]
        by_source = " ".join(f"{word} {write.text(metric, of(values), short=True)}" for word, of in ENDS.items())
    undefined = f", undefined in {', '.join(missing)}" if missing else ""
    return f"{write.title(metric)} {_figure(write, metric, mean)} (mean of {len(figures)}; {by_source}{undefined})"


def _figures(write: MetricFormat, figures: Mapping[str, Estimate]) -> str:
    return ", ".join(f"{write.title(name)} {_figure(write, name, figure)}" for name, figure in figures.items())


def _figure(write: MetricFormat, metric: str, figure: Estimate) -> str:
    """A value with its interval, or the reason why it has none."""
    value, ends = write.text(metric, figure.value, short=True), write.bounds(metric, figure, short=True)
    if ends:
        return f"{value} {ends[:-1]}, rough]" if figure.rough else f"{value} {ends}"
    reason = "the predictions hardly vary" if hardly_varies(figure, metric) else figure.reason
    return f"{value} ({reason})" if reason else value


def _counts(study: Study, unit: str, figure: Estimate) -> str:
    count = figure.n_cases or 0
    if not study.subjects_known:
        return counted(count, unit)
    people = counted(figure.n_subjects or 0, "subject")
    return people if unit == "subject" else f"{counted(count, unit)} of {people}"
