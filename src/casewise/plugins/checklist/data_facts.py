"""What a run says on the items about its data: participants, images, missing values, partitions."""

from __future__ import annotations

from casewise.cohort.participants import DEVICES, plain_name
from casewise.plugins.checklist.reading import (
    cell_text,
    evaluated_sides,
    facts_in,
    not_known,
    tables_headed,
    without_test,
)
from casewise.report.blocks import Cell, Row, Table
from casewise.report.context import EXTERNAL, SIDES, ReportContext, counted_cases
from casewise.report.formatting import capital, class_name, counted, display_name, listed, plain
from casewise.report.sections import labels, participants, training

COLUMNS_READ = (
    "Models of covariates read the columns {columns}: numbers by a curve, categories each by itself, in a linear or"
    " logistic regression whose penalty is chosen on training cases; models of images read no column."
)
NO_COLUMNS = "Images are the only predictors: no model reads a column of the table."
NO_DEVICE = "No column that the run describes names the devices of capture."
COVARIATES_FILLED = (
    "In models of covariates, a missing number is the median of the training cases with an indicator, and a missing"
    " category a category of its own; models of images read no column."
)
NO_COVARIATES = "No model reads columns of the table, so no predictor was imputed."


def preparation(context: ReportContext) -> str:
    text = f"Images are prepared with a side of {context.study.images.size} pixels; the report prints all settings."
    if not context.audit:
        return text
    study, facts = context.study, context.audit["facts"]
    people = f" of {counted(facts['subjects'], study.unit)}" if study.unit != "image" else ""
    levels = [finding["level"] for finding in context.audit["findings"]]
    counts = ", ".join(counted(levels.count(level), level) for level in ("error", "warning"))
    return f"{text} The audit examined {counted(facts['images'], 'image')}{people}: {counts}."


def predictors(context: ReportContext) -> str:
    """How images and columns are prepared that models read."""
    entry = context.metrics.added_value
    if entry is None:
        return f"{preparation(context)} {NO_COLUMNS}"
    columns = listed([f"{plain(name)} ({kind})" for name, kind in entry.columns.items()])
    return f"{preparation(context)} {COLUMNS_READ.format(columns=columns)}"


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
    gaps = tables_headed(labels.section(context).blocks, "Column")
    rows = [row for table in _participants(context, "Step") for row in table.rows]
    lost = [_step(row) for row in rows if row.name == participants.STEPS["images"]]
    return " ".join(
        [
            f"Without a reference value of {name}: {'; '.join(without)}.",
            "They are not evaluated, and a target is fitted only to cases that have it.",
            *_missing_parts(context),
            f"Not recorded: {listed(empty)}." if empty else "Described columns that are no targets have no gaps.",
            *(f"Empty cells by {name} ({' / '.join(table.columns[1:])}): {_gaps(table)}." for table in gaps),
            COVARIATES_FILLED if context.study.covariates else NO_COVARIATES,
            *(f"{text}." for text in lost or [participants.FLOW_NOTE.rstrip(".")]),
        ]
    )


def _missing_parts(context: ReportContext) -> list[str]:
    """Of a score, the missing values of the targets that it follows from, and images that show nothing."""
    texts = []
    own = context.predictions[context.predictions["stage"].eq(context.stage)]
    own = own[own["model"].eq(context.learner)]
    for name in context.study.parts_of(context.outcome) if context.outcome not in context.study.targets else ():
        values = own.loc[own["target"].eq(name), "y_true"]
        texts.append(f"{display_name(context.study, name)} {values.isna().sum():,} of {len(values):,}")
    lacking = [f"Its parts without a value: {', '.join(texts)}."] if texts else []
    findings = (context.audit or {}).get("findings", [])
    blank = [len(each["figures"]["images"]) for each in findings if each["id"] == "blank-images"]
    return [
        *lacking,
        *(f"Images that show nothing stay in, also of evaluated cases: {count:,}." for count in blank),
    ]


def _gaps(table: Table) -> str:
    return "; ".join(f"{row.name} {' / '.join(cell.text for cell in row.cells)}" for row in table.rows)


def partition(context: ReportContext) -> str:
    blocks, sources = training.split(context), context.splits.get("left_out") or []
    names = {f"fold {number}": f"fold {number} ({source})" for number, source in enumerate(sources, start=1)}
    rows = [
        f"{names.get(row.name, row.name)}: {', '.join(map(_under_head, table.columns[1:], row.cells))}"
        for table in tables_headed(blocks, "Side")
        for row in table.rows
    ]
    how = [f"{name}: {text}" for name, text in facts_in(blocks) if name != "Manifest"]
    outside = context.rows(EXTERNAL, context.learner)
    apart = f" {context.study.external_name} ({counted_cases(context, outside)}) is external: it is only evaluated."
    apart *= len(outside) > 0
    sides = f"{capital('; '.join(rows))}.{without_test(context)}{apart}{not_known(context)}"
    return f"{sides} {'. '.join(how)}.".strip()


def disjointness(context: ReportContext) -> str:
    study, without = context.study, without_test(context)
    subjects = sum(entry["subjects"] for entry in context.splits["n"].values())
    sides = ["training set", "validation set"] if context.holdout else ["folds"]
    sides = sides if without else [*sides, "test set"]
    by_name = ", as far as names tell subjects apart" * study.subjects_known
    text = f"The {listed(sides)} are disjoint by {study.unit} ({counted(subjects, study.unit)}){by_name}."
    return f"{text}{without}{not_known(context)}"


def _under_head(head: str, cell: Cell) -> str:
    return f"{head.lower()} {cell.text}"


def _step(row: Row) -> str:
    """A step of the flow: what it leaves out, and what remains."""
    lost, left = map(cell_text, row.cells)
    return f"{row.name}: {f'{lost} left out, {left} remain' if lost else left}"


def _participants(context: ReportContext, head: str) -> list[Table]:
    section = participants.section(context)
    return tables_headed(section.blocks, head) if section else []


def flow(context: ReportContext) -> str:
    """The steps from the table to the evaluated cases, with what each left out."""
    cohorts: list[str] = []
    for table in _participants(context, "Step"):
        cohorts.append(f"{f'{table.caption} ' * bool(cohorts)}{'; '.join(map(_step, table.rows))}.")
    if not cohorts:
        return ""
    unknown = f"{not_known(context)} Exclusions before the table was made are not known to the run."
    return f"{' '.join(cohorts)}{evaluated_sides(context)}{unknown}"


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
    return f"{heads}: {'; '.join(texts.values())}. {_counted_once(context)}{not_known(context)}{more}" if texts else ""


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
    return f"{f'{heads}: ' + '; '.join(named) + '.' if named else NO_DEVICE} {software(context)}".strip()


def software(context: ReportContext) -> str:
    """Versions and machine of the run, and the devices of its networks."""
    record = [f"{name} {value}" for name, value in context.environment.items()]
    devices = sorted({f"{job['device']}, {training.compute_plan(job)}" for job in context.jobs if job.get("device")})
    trained = f"; networks trained on {'; '.join(devices)}" if devices else ""
    return f"{', '.join(record)}{trained}." if record else ""


def analyses(context: ReportContext) -> str:
    fitted, count = span_of(context, "n_fitted"), counted(len(context.jobs), "trained network")
    return (
        f"{f'{count}, each fitted on {fitted} {context.study.unit}s.' * bool(fitted)}{evaluated_sides(context)}".strip()
    )


def span_of(context: ReportContext, name: str) -> str:
    """The smallest and the largest of a count over the networks; empty without any."""
    values = [job[name] for job in context.jobs if job.get(name) is not None]
    return " to ".join(map(str, sorted({min(values), max(values)}))) if values else ""
