"""What a run says on the items about its evaluation: measures, performance, robustness."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.evaluation.figures import READERS, Estimate
from casewise.evaluation.results import Subgroup
from casewise.evaluation.subgroups import SIGNIFICANT
from casewise.metrics.registry import metric_of
from casewise.plugins.checklist.reading import (
    cell_text,
    evaluated_cases,
    facts_in,
    left_out_site,
    named_classes,
    place_of,
    tables_headed,
)
from casewise.report.context import EXTERNAL, METHODS, ReportContext, defined, terms_of
from casewise.report.formatting import capital, counted, group_label, listed, percent
from casewise.report.sections import counterfactuals
from casewise.report.sections.classes import FURTHER_FIGURES
from casewise.report.sections.learners import EXCEPT_ADDED, RULES, comparison_of, covariates_compared, is_gated
from casewise.report.sections.subgroups import heading
from casewise.report.tables import MetricFormat
from casewise.study.learners import learner_name, the_learner
from casewise.targets import kind_named

TRAINING_CASES = "The report has the figures of networks on the cases that they were trained on."
NO_TRAINING_CASES = "Performance on the cases that models were fitted to was not measured."


def measures(context: ReportContext) -> str:
    names = [name.partition("[")[0].removesuffix("_calibrated") for name in context.metrics.headline]
    entry = context.class_figures(context.stage, context.learner)
    names += [name for point in (entry.operating if entry else ()) for name in point.figures if name in FURTHER_FIGURES]
    titles = list(dict.fromkeys(metric_of(name).title for name in names))
    titles += ["agreement and kappas of severity bands"] * (context.metrics.bands is not None)
    titles += ["agreement on response"] * bool(context.metrics.response)
    return f"{listed(titles)}." if titles else ""


def measures_and_plots(context: ReportContext) -> str:
    """The measures, and whether calibration and net benefit were computed."""
    texts, by_stage = [measures(context)], context.metrics.calibration or {}
    if any(by_stage.values()):
        texts.append("Calibration: slope, intercept and a smoothed curve with its band.")
    entry = context.class_figures(context.stage, context.learner)
    if entry and entry.operating:
        texts.append("Sensitivity, specificity and precision at thresholds; curves of ROC and of precision and recall.")
    elif not context.classes:
        texts.append("Bias and limits of agreement with their plot; the error by range of the reference.")
    curves = [points for by_name in (context.metrics.decision_curves or {}).values() for points in by_name.values()]
    declared = sorted({point.threshold for points in curves for point in points if point.declared})
    if declared:
        plural = f"threshold{'s' * (len(declared) > 1)}"
        levels = listed([percent(threshold, 1).replace(".0 %", " %") for threshold in declared])
        texts.append(f"Net benefit at the declared {plural}: {levels}, beside treating all and none.")
    return " ".join(filter(None, texts))


def uncertainty(context: ReportContext) -> str:
    settings, unit = context.study.evaluation, context.study.unit
    text = (
        f"{percent(settings.confidence)} intervals by the jackknife, leaving out one {unit} at a time; of shares that"
    )
    text += f" are 0 or 1, binomial; of calibration and of differences between subgroups, by resampling {unit}s"
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
    added = EXCEPT_ADDED * covariates_compared(context)
    return (
        f"{added} other than the primary comparison, {the_learner(primary.learner)} with"
        f" {the_learner(primary.baseline)} ({RULES[primary.chosen_on]}){margin}, which is tested first, by itself"
    )


def performance(context: ReportContext) -> str:
    """The headline figures of the reported model, outside too."""
    texts = [_performance_at(context, stage) for stage in (context.stage, EXTERNAL)]
    shown = ". ".join(filter(None, texts))
    return f"{terms_of(context).heading}, {the_learner(context.learner)}. {shown}." if shown else ""


def performance_inside(context: ReportContext) -> str:
    text = _performance_at(context, context.stage)
    return f"{text}." if text else ""


def performance_by_group(context: ReportContext) -> str:
    """The performance, and whether it was shown to differ between subgroups."""
    return " ".join(filter(None, [performance(context), subgroups(context)]))


def variability(context: ReportContext) -> str:
    """Whether performance differs between left-out sources and subgroups."""
    return " ".join(filter(None, [sites(context), subgroups(context)]))


def subgroups(context: ReportContext) -> str:
    """Whether the performance was shown to differ between the subgroups that the study names, with their figures."""
    entry, texts = context.metrics.subgroups, list[str]()
    for column in entry.columns if entry else ():
        tested = {name: test.p_adjusted for name, test in column.tests.items() if test.p_adjusted is not None}
        differ = [metric_of(name).title for name, p in tested.items() if p < SIGNIFICANT]
        verdict = (
            f"{listed(differ)} differ{'s' * (len(differ) == 1)}"
            if differ
            else "not shown to differ"
            if tested
            else "not tested"
        )
        apart = [metric_of(name).title for name in column.tests if name not in tested]
        verdict += f"; not tested: {listed(apart)}" * bool(tested and apart)
        main = next(iter(entry.figures), "") if entry else ""
        groups = ", ".join(_group(context, group, main) for group in column.groups)
        shared = sum(group.n_subjects for group in column.groups) > context.headline_rows["subject"].nunique()
        note = f" Some {context.study.unit}s are in several groups, so these numbers exceed the total." * shared
        texts.append(f"By {heading(column).lower()} ({groups}): {verdict}.{note}")
    return " ".join(texts)


def _group(context: ReportContext, group: Subgroup, metric: str) -> str:
    """A group with its number of subjects and a figure."""
    figure = defined(group.metrics.get(metric))
    text = f", {_figure(context.write, metric, figure)}" if figure else ""
    apart = ", not compared" * (group.code != "value")
    return f"{group_label(group)}: {group.n_subjects:,}{text}{apart}"


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
    place = f"each {context.site} left out, mean within them" if within else place_of(context, stage)
    return f"{capital(place)} ({evaluated_cases(context, stage)}): {', '.join(texts)}" if texts else ""


def _figure(write: MetricFormat, metric: str, figure: Estimate) -> str:
    """A metric with its interval, which may be rough, or the reason why it has none."""
    bounds = write.bounds(metric, figure, words=True, short=True)
    small = f"{bounds}{', rough' * bool(figure.rough)}" if bounds else figure.reason
    return f"{write.title(metric)} {write.text(metric, figure.value, short=True)}" + (f" ({small})" if small else "")


def cross_table(context: ReportContext) -> str:
    """The confusion matrix of the reported model, or its severity bands beside the reference's; outside too."""
    bands, texts = context.metrics.bands, []
    for stage in (context.stage, EXTERNAL):
        entry, place = context.class_figures(stage, context.learner), capital(place_of(context, stage))
        of_bands = bands.stages.get(stage, {}).get(context.learner) if bands else None
        if entry:
            correct = sum(row[n] for n, row in enumerate(entry.confusion))
            rows = _counts(named_classes(context, entry.names), entry.confusion)
            texts.append(f"{place}, {correct:,} of {sum(entry.support):,} correct. {rows}.")
        elif bands and of_bands:
            texts.append(f"{place}, severity bands. {_counts(list(bands.lower_bounds), of_bands.confusion)}.")
    sides = "classes" if context.classes else "bands"
    order = f"Reference {sides}, each with the numbers of each of the predicted {sides} in the same order"
    return f"{learner_name(context.learner)}. {order}. {' '.join(texts)}" if texts else ""


def _counts(names: Sequence[str], rows: Sequence[Sequence[int]]) -> str:
    """The rows of a cross-tabulation."""
    lines = (f"{name}: {', '.join(map(str, counts))}" for name, counts in zip(names, rows, strict=True))
    return "; ".join(lines)


def external_cohort(context: ReportContext) -> str:
    texts = [_performance_at(context, stage) for stage in (EXTERNAL, context.stage)]
    return f"{'. '.join(filter(None, texts))}." if texts[0] else ""


def robustness(context: ReportContext) -> str:
    """The effect of altered images on the reported model, or on the most affected learner that was tested."""
    section = counterfactuals.section(context)
    if section is None:
        return ""
    texts = [f"{name}: {value}." for name, value in facts_in(section.blocks) if name in ("Cases", "Not tested")]
    for table in tables_headed(section.blocks, "Image"):
        texts.append(f"{table.columns[1]}: {table.caption.partition('. ')[0].lower()}.")
        texts.append("; ".join(f"{row.name} {cell_text(row.cells[0])}" for row in table.rows) + ".")
    return " ".join(["Altered images.", *texts])


def sites(context: ReportContext) -> str:
    if not (site := left_out_site(context)):
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
