"""A run's results as a Markdown page to keep with the study, optionally compared with other runs of the same cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from casewise.errors import RunError
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.figures import DESCRIPTIVE, ByMetric, Cell, Figures
from casewise.evaluation.judges import judge_of
from casewise.metrics.registry import columns
from casewise.predictions.table import final_rows
from casewise.report import blocks as doc
from casewise.report.context import SIDES, ReportContext, brackets, read_context, report_title
from casewise.report.first_screen import Screen, screen
from casewise.report.formatting import capital, escaped, without_html
from casewise.report.page import sections
from casewise.report.tables import VERDICTS, kind_report, metric_format
from casewise.run_folder.folder import check_page, write_page
from casewise.study.learners import learner_name
from casewise.study.schema import Study

# The columns of the table with the details that a page leaves out.
DETAILS = ["section", "part", "table", "row", "column", "value"]
KEYS = ("case", "region", "image", "target")
CAPTION = (
    "{target}, {side}. Difference: from the best learner of the table; none where the runs did not evaluate the same"
    " cases. Within one run, intervals are those of its report; between runs, they hold for all pairs of learners at"
    " once."
)


def write_results(run: Path, path: Path, *, others: Sequence[Path] = ()) -> Path:
    """Write `results_page`, and the tables that the report shows when the reader opens them as a CSV file next to it.

    Raises:
        RunError: as `results_page`, or as `write_page`.
    """
    table = path.with_suffix(".csv")
    check_page(path, ".md")
    contexts = _contexts(run, others)
    parts = _parts(contexts[0])
    text = page(contexts, parts, f"[{table.name}]({quote(table.name)})")
    write_page(table, pd.DataFrame(doc.folded(parts), columns=DETAILS).to_csv(index=False), ".csv")
    return write_page(path, text, ".md")


def results_page(run: Path, *, others: Sequence[Path] = ()) -> str:
    """The page for `run` in Markdown; one more section compares its learners with the learners of the runs in `others`.

    It has what the report shows before the reader opens details (`casewise.report.blocks.Fold`).

    Raises:
        RunError: a folder holds no finished run, a run without figures of the page's stage, or a run that was
            split by image for comparison only; a run in `others` shares no target with `run`, or is synthetic while
            `run` is not.
    """
    contexts = _contexts(run, others)
    return page(contexts, _parts(contexts[0]), "`--output page.md` writes them beside the page, as page.csv")


def _contexts(run: Path, others: Sequence[Path]) -> list[ReportContext]:
    return [read_context(folder) for folder in (run, *others)]


def _parts(context: ReportContext) -> list[doc.Section]:
    """The sections of the report without those that only its HTML page has, such as the section of single cases."""
    return [section for section in sections(context) if not section.page_only]


def page(contexts: Sequence[ReportContext], parts: Sequence[doc.Section], details: str) -> str:
    """The page of the first run.

    Args:
        contexts: the run, and others to compare with it.
        parts: the sections of the first run, below the summary.
        details: a text that says where the tables are that the page leaves out.
    """
    context = contexts[0]
    study, values = context.study, screen(context)
    head = [f"# {escaped(report_title(study))}"]
    head += ["**Synthetic phantom data, not patients.**"] if study.synthetic else []
    head += [escaped(values.lead), *([escaped(study.description)] if study.description.strip() else [])]
    summary = doc.Section("summary", "Result", [*_screen_blocks(values), doc.Text(brackets(context))])
    comparison = [compared_runs(contexts)] if len(contexts) > 1 else []
    text = doc.markdown_page(head, [summary, *comparison, *map(doc.without_folds, parts)])
    return f"{without_html(text)}\nFurther tables and definitions: {details}.\n"


def _screen_blocks(values: Screen) -> list[doc.Block]:
    """The first screen of the report as tables and lists."""
    sizes = [
        doc.Row(capital(s.cohort or "here"), [f"{s.text} {s.unit}", "; ".join(filter(None, (s.interval, s.note)))])
        for s in values.sizes
    ]
    names = [", ".join(filter(None, (r.name, r.note))) for r in values.rivals]
    rivals = [
        doc.Row(name, [r.text, r.interval, r.verdict_text], mark=r.reported)
        for name, r in zip(names, values.rivals, strict=True)
    ]
    blocks: list[doc.Block] = [
        *([doc.Text(values.external.text)] if values.external else []),
        doc.Text(values.evaluated),
    ]
    if sizes:
        blocks.append(doc.Table(["Where", "Figure", "Interval"], sizes, values.question))
    blocks += [doc.Text(text) for text in (values.guess, values.spread, values.calibration) if text]
    blocks += [values.failures] if values.failures else []
    if len(rivals) > 1:
        blocks.append(doc.Table(values.rival_heads, rivals, "Does something simpler do as well?"))
        blocks += [doc.Text(values.rivals_note)] if values.rivals_note else []
    blocks.append(doc.Text("Can it be trusted?"))
    blocks.append(doc.Items([statement.text for statement in (*values.flags, *values.trust)]))
    blocks.append(doc.Text(values.model))
    return blocks


# ------------------------------------------------------------------------------------------------------ other runs


def compared_runs(runs: Sequence[ReportContext]) -> doc.Section:
    """A table for each target that the first run shares with others: the learners of all runs.

    Raises:
        RunError: a run cannot be compared with the first one; the message names it and the reason.
    """
    first = runs[0]
    _check_comparable(runs)
    targets = _targets_of(first)
    compared = comparisons(runs, targets)
    described = [(run.study.name, " ".join(run.study.description.split())) for run in runs[1:]]
    blocks: list[doc.Block] = [doc.Text(f"{name}: {text}") for name, text in described if text]
    for target in targets:
        blocks += [doc.Heading(capital(target)), _target_table(runs, target, compared.get(target, Figures()))]
    return doc.Section("beside", f"Beside {', '.join(run.study.name for run in runs[1:])}", blocks)


def _target_table(runs: Sequence[ReportContext], target: str, compared: Figures) -> doc.Table:
    """A row for each learner of every run; names of learners of further runs end with the name of their study.

    `compared` are the differences between the learners, from `comparisons`.
    """
    first, stage = runs[0], runs[0].stage
    study, write = first.study, metric_format(first.study, target)
    metrics = columns("page", study.kind_of(target), len(study.classes_of(target)) or None, stage=stage)
    metric = kind_report(study.kind_of(target)).compared
    rows = []
    for number, run in enumerate(runs):
        for learner in run.metrics.learners(stage):
            figures = run.figures(stage, learner, target)
            if not figures:
                continue
            cells = [write.cell(name, figures.get(name)) for name in metrics]
            name = _row_name(learner, run.study, number)
            best = compared.best(metric)
            gap = compared.gap(metric, name, best)
            cell = doc.Cell("best") if name == best else write.difference(metric, gap)
            is_open = gap is not None and gap.reason == DESCRIPTIVE
            cells.append(replace(cell, small=f"{cell.small} {VERDICTS['descriptive']}") if is_open else cell)
            rows.append(doc.Row(_row_name(learner_name(learner), run.study, number), cells))
    heads = ["Learner", *(write.title(name) for name in metrics), f"Difference in {write.phrase(metric)}"]
    caption = CAPTION.format(target=capital(target), side=SIDES[stage])
    return doc.Table(heads, rows, caption)


def _row_name(learner: str, study: Study, number: int) -> str:
    return f"{learner} ({study.name})" if number else learner


def _targets_of(run: ReportContext) -> list[str]:
    """The evaluated targets and scores, without single regions of them; the primary outcome first."""
    evaluated = [key for key in run.metrics.figures.names("target", stage=run.stage) if "[" not in key]
    return sorted(evaluated, key=lambda name: name != run.outcome)


def _check_comparable(runs: Sequence[ReportContext]) -> None:
    """Check that the other runs can share the tables of the first one.

    Raises:
        RunError: naming the run and the reason.
    """
    first, targets = runs[0], _targets_of(runs[0])
    for run in runs[1:]:
        refusal = f"{run.source} cannot be compared with {first.source}"
        if first.stage not in run.metrics.stages:
            raise RunError(f"{refusal}, whose figures are {SIDES[first.stage]}: it has none of these. Leave it out.")
        if run.study.synthetic != first.study.synthetic:
            phantom = run.source if run.study.synthetic else first.source
            raise RunError(f"{refusal}: only {phantom} is of synthetic phantom data. Write two pages.")
        shared = [name for name in targets if name in _targets_of(run)]
        if not shared:
            evaluated = ", ".join(_targets_of(run))
            raise RunError(f"{refusal}: it evaluated {evaluated}, and nothing of {', '.join(targets)}. Leave it out.")
        for name in shared:
            first_scale, run_scale = (_scale(study, name) for study in (first.study, run.study))
            if first_scale != run_scale:
                raise RunError(f"{refusal}: there {name} is {run_scale}, here {first_scale}. Leave it out.")


def _scale(study: Study, target: str) -> str:
    """The values of a target in words."""
    names = study.classes_of(target) if target in study.targets else []
    return f"of the classes {', '.join(names)}" if names else "a number"


def comparisons(runs: Sequence[ReportContext], targets: Sequence[str]) -> dict[str, Figures]:
    """By target the differences between the learners of all runs, over the same resamples of subjects.

    Differences between learners of one run are the stored ones, so that a pair has one interval and one verdict.
    Targets whose cases differ between runs are left out, and all targets if the folds of a run are sources.
    """
    first = runs[0]
    comparisons: dict[str, Figures] = {}
    if any(run.by_site for run in runs):
        return {}
    named = [
        run.predictions.assign(model=[_row_name(name, run.study, number) for name in run.predictions["model"]])
        for number, run in enumerate(runs)
    ]
    rows = final_rows(pd.concat(named, ignore_index=True))
    rows = rows[rows["stage"] == first.stage]
    settings = first.study.evaluation
    plan = Plan(settings.bootstrap_resamples, settings.confidence, first.study.seed, first.study.unit)
    for target in targets:
        evaluated = rows[(rows["target"] == target) & rows["y_true"].notna()]
        if _same_cases(evaluated):
            compared = judge_of(evaluated).judge(evaluated, plan, whole=True).compare()
            comparisons[target] = Figures(
                (cell, _stored(runs, target, cell, own)) for cell, own in compared.cells.items()
            )
    return comparisons


def _stored(runs: Sequence[ReportContext], target: str, cell: Cell, own: ByMetric) -> ByMetric:
    """The differences of two learners of one run as that run stored them; other differences as they are."""
    for number, run in enumerate(runs):
        names = {_row_name(name, run.study, number): name for name in run.metrics.learners(runs[0].stage)}
        if cell.learner != cell.contrast and {cell.learner, cell.contrast} <= set(names):
            stored = run.metrics.figures.contrasts(runs[0].stage, target)
            pair = names[cell.learner], names[cell.contrast]
            return {metric: stored.gap(metric, *pair) or gap for metric, gap in own.items()}
    return own


def _same_cases(rows: pd.DataFrame) -> bool:
    """Whether several learners all have the same cases with the same reference."""
    keys = rows[[*KEYS]].astype(str).assign(y_true=rows["y_true"].round(6))
    cases = [
        frozenset(rows_of_learner.itertuples(index=False, name=None))
        for _, rows_of_learner in keys.groupby(rows["model"])
    ]
    return len(cases) > 1 and len(set(cases)) == 1
