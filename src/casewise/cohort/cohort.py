"""The cohort: images, cases and recorded values of a study, read from its table and checked in one pass."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from casewise.cohort import checks
from casewise.cohort import targets as cohort_targets
from casewise.cohort.checks import STORED, closest
from casewise.cohort.groups import check_arm, check_covariates, check_subgroups
from casewise.cohort.identity import AS_WRITTEN, REFUSE, Declared
from casewise.cohort.missing_codes import code_doubts
from casewise.cohort.participants import Flow
from casewise.cohort.table import Problems, each, is_unsorted_date, names_text, natural, read_text_table
from casewise.cohort.visit_order import days_of_dated_visits, unordered_visits, visit_order
from casewise.errors import CohortError, counted, cut
from casewise.study.schema import Study
from casewise.targets import kind_named


@dataclass(frozen=True)
class Cohort:
    """Images, panels and cases of a study, with notes on exclusions and assumptions.

    Attributes:
        images: a row for each image: image (0..), path (absolute), subject, visit, case, day (or NaN), region ('' if
            none), panel, the targets, and the other columns of the table as text.
        panels: a row for each panel: panel (0..), case, subject, visit, day, region, tiles (list of image numbers, in
            the order of paths), the targets (NaN if not scored, or not the same in the whole panel).
        cases: a row for each case, ordered by subject, day and visit: case, subject, visit, day, and the targets of
            case and subject level.
        notes: sentences on what was left out or assumed.
        flow: the steps from the rows of the table to the cohort (see `casewise.cohort.participants`).
    """

    images: pd.DataFrame
    panels: pd.DataFrame
    cases: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    flow: list[dict[str, Any]] = field(default_factory=list)


def read_cohort(
    study: Study, *, to_learn: bool = True, labelled: bool = True, cells: pd.DataFrame | None = None
) -> Cohort:
    """Read and check the cohort table of a study (text, workbook or Parquet, one row for each image).

    With `to_learn` false the cohort is used for testing only: it may lack classes, and a class that the study does not
    name is a problem. With `labelled` false the labels of the table are not read: every target is NaN. `cells` are
    rows of the table that were read before, by their numbers; by default all are read.

    Raises:
        CohortError: with every problem of the table, each with its row (as a spreadsheet shows it) and remedy.
    """
    problems = Problems(section="external" if labelled and not to_learn else "")
    notes: list[str] = []
    if whole := cells is None:
        cells, notes = read_text_table(study.cohort, problems, sheet=study.sheet)
        notes += problems.doubts
    flow = Flow.of(cells, study)
    cells = checks.keep_rows(cells, study, problems, notes, flow)
    if "where" in problems.by_kind:
        # rows that should be left out would show problems that the study does not have
        problems.raise_any(study.cohort)
    classed = cohort_targets.class_columns(study, cells.columns.tolist()) if labelled else {}
    if to_learn:
        cells = cohort_targets.keep_classes(cells, study, classed, problems, notes, flow)
        cells = cohort_targets.drawn_rows(cells, study, classed, problems, flow)
        check_subgroups(study, cells, problems)
    else:
        cohort_targets.unknown_classes(cells, study, classed, problems)
    if cells.empty:
        problems.raise_any(study.cohort)
    columns = checks.find_columns(study, cells.columns.tolist(), problems)
    misnamed = "columns" in problems.by_kind
    targets = [name for name in study.targets if name not in STORED]
    values = {
        name: cohort_targets.read_target(name, study, cells, problems) if labelled else float("nan") for name in targets
    }
    cohort_targets.check_readers(study, cells, problems)
    if labelled:
        facts = [name for name in cells if name not in {*columns.values(), study.split.column}]
        notes += code_doubts(
            cells, facts, lambda rows: f"If so, empty the cells, or write {problems.setting(f'where_not: {rows}')}."
        )
    for heading in sorted(_mask_columns(study) & set(cells)):
        cells = cells.assign(**{heading: checks.mask_files(cells[heading], study, heading, problems)})
    if misnamed:
        # without a column, such as the visit, the cases would show problems that the table does not have
        problems.raise_any(study.cohort)
    # New cases are in no split, and file names do not identify people.
    people = study.subject_names if labelled and study.subjects_known else AS_WRITTEN
    images, marks = _standard_columns(cells, columns, study, problems, notes, people=people, whole=whole)
    for name, column in values.items():
        images[name] = column
    named = images[(images["subject"] != "") & (images["visit"] != "")].copy()
    _check_cases(named, columns, problems)
    _check_order(named, study, problems, to_learn=to_learn and labelled)
    for name in targets:
        named[name] = cohort_targets.resolve_target(name, study, named, problems, notes)
    if to_learn:
        cohort_targets.check_classes(named, study, problems)
    check_covariates(study, cells, named, list(columns.values()), problems, notes if to_learn and labelled else None)
    if to_learn:
        check_arm(study, cells, named, problems, notes)
    _check_regions(named, study, problems, notes)
    _check_baseline(named, study, problems, notes)
    labels = [column for name in targets for column in cohort_targets.target_columns(name, study) if column in cells]
    checks.check_same(cells, images, marks, labels if labelled else [], problems)
    problems.raise_any(study.cohort)
    cohort = _assembled(named, _others(cells, columns, study, notes), study, notes, labelled)
    return replace(cohort, flow=flow.steps)


def _mask_columns(study: Study) -> set[str]:
    """The columns that name masks, by the settings of every kind of image."""
    own = (getattr(study.modality_settings, name, None) for name in ("mask", "lesion"))
    return {str(column) for column in (study.images.mask, study.images.lesion, study.audit.mask, *own) if column}


def _standard_columns(
    cells: pd.DataFrame,
    columns: dict[str, str],
    study: Study,
    problems: Problems,
    notes: list[str],
    *,
    people: Declared,
    whole: bool,
) -> tuple[pd.DataFrame, pd.Series]:
    """Path, subject, visit, case, day and region row by row, and an identity of each file.

    Names of subjects that may mean one person are a problem, unless `people` states otherwise (see `check_alike`).
    Names that a spreadsheet altered are looked for in a `whole` table.
    """
    empty = pd.Series("", index=cells.index, dtype="str")
    paths, marks, subjects, regions, visits = empty, empty, empty, empty, empty + "1"
    days = pd.Series(float("nan"), index=cells.index)
    if "path" in columns:
        paths, marks = checks.check_files(cells[columns["path"]], study, problems, notes)
    if "subject" in columns:
        raw = cells[columns["subject"]]
        subjects = checks.read_names(raw, "subject", problems, notes, people if whole else None)
        checks.check_alike(raw, "subject", problems, people=people)
        if study.subject_names == AS_WRITTEN:
            notes.append("Names of subjects that differ in spelling are different people (subject_names: as_written).")
        elif study.subject_names != REFUSE:
            groups = "; ".join(" and ".join(group) for group in study.subject_names)
            notes.append(f"Different people, as the study states (subject_names): {groups}.")
    if "visit" in columns and cells[columns["visit"]].str.strip().any():
        raw = cells[columns["visit"]]
        visits = checks.read_names(raw, "visit", problems, notes, study.subject_names if whole else None)
        checks.check_alike(raw, "visit", problems, within=subjects)
    else:
        lacking = f"The column {columns['visit']} is empty" if "visit" in columns else "No column is read as the visit"
        notes.append(f"{lacking}: every subject is one case, at visit 1.")
    if "region" in columns:
        regions = checks.read_names(cells[columns["region"]], "region", problems, notes)
        for row, value in each(regions[(regions != "") & ~regions.isin(study.regions)]):
            text = f"{cut(value)} is none of {names_text(study.regions)}.{closest(value, study.regions)}"
            problems.add("region unknown", text, [row], "region")
    if role := next((role for role in ("day", "date") if role in columns), None):
        days = checks.read_days(cells[columns[role]], subjects, role, columns[role], problems)
    if role == "date":
        notes.append(f"Days are counted from each subject's first date (column {columns['date']}).")
    if not study.subjects_known:
        notes.append(f"{study.not_known}: one may be on both sides of a split, so results may be too optimistic.")
    values = {"path": paths, "subject": subjects, "visit": visits, "case": subjects + "/" + visits}
    return pd.DataFrame({**values, "day": days, "region": regions}, index=cells.index), marks


def _check_cases(images: pd.DataFrame, columns: dict[str, str], problems: Problems) -> None:
    """Every case is one visit of one subject on one day; the day is filled in from other rows of the case."""
    days, some_unknown = images.groupby("case", sort=False)["day"], images["day"].isna().any()
    for case, rows in images[days.transform("nunique") > 1].groupby("case", sort=False):
        column = columns.get("day") or columns.get("date")
        days_text = " and ".join(f"{day:g}" for day in rows["day"].dropna().drop_duplicates())
        role = "day" if "day" in columns else "date"
        as_visit = problems.setting(f"columns: {{visit: {column}}}")
        if "visit" in columns:
            remedy = "Correct the rows"
        elif some_unknown:
            remedy = f"Fill in the empty cells of {column} and write {as_visit}, or leave it unused: "
            remedy += problems.setting(f'columns: {{{role}: ""}}')
        else:
            remedy = f"Write {as_visit}"
        text = f"case {case} has the days {days_text}; a visit has one. {remedy}."
        problems.add("day twice", text, rows.index, column or "")
    images["day"] = days.transform("first")
    pairs = images.drop_duplicates(["subject", "visit"])
    days = pairs["visit"].map(days_of_dated_visits(pairs["visit"].drop_duplicates()))
    dated = pairs.assign(day=days)[days.notna()]
    for (subject, _), rows in dated[dated.duplicated(["subject", "day"], keep=False)].groupby(["subject", "day"]):
        text = f"subject {subject} has the visits {' and '.join(rows['visit'])}, which are one day in two forms. "
        problems.add(
            "visit twice", f"{text}Write one of them in all rows of the day.", rows.index, columns.get("visit", "")
        )
    for case, rows in pairs[pairs.duplicated("case", keep=False)].groupby("case", sort=False):
        text = f"two subjects have the case {case}. Leave '/' out of subjects and visits."
        problems.add("case twice", text, rows.index)


def _check_order(images: pd.DataFrame, study: Study, problems: Problems, *, to_learn: bool) -> None:
    """Visits without days are ordered by name, so their names must show the order, at least where it matters."""
    cases = images.drop_duplicates("case")
    by_name = cases["day"].isna().groupby(cases["subject"]).transform("any") & cases["subject"].duplicated(keep=False)
    named = cases[by_name & cases["visit"].map(is_unsorted_date).astype(bool)]
    if len(named):
        first = named.iloc[0]
        text = f"{cut(first['visit'])} of subject {first['subject']} looks like a date, and the order of such names is "
        text += "not the order in time. Write dates as 2024-02-01 (year-month-day), or add a `day` column."
        problems.add("visit order", text, named.index, "visit")
        return
    follows = study.evaluation.response and kind_named(study.kind_of(study.primary_outcome)).arithmetic
    if not to_learn or not (follows or study.evaluation.arm):
        return
    subjects = {subject: unordered_visits(rows) for subject, rows in cases[by_name].groupby("subject")["visit"]}
    if unclear := {subject: visits for subject, visits in subjects.items() if visits}:
        subject, visits = next(iter(unclear.items()))
        rows = cases.index[by_name & cases["subject"].isin(unclear) & cases["visit"].isin(visits)]
        text = f"the order in time of {names_text(visits, 5)} of subject {subject} is not known, and changes over time "
        text += "depend on it. Add a column `day` or `date`, or name the visits so that words and numbers state their "
        text += "order, such as screening, week 4, week 8, end of treatment"
        text += "." if study.evaluation.arm else "; or write `evaluation: {response: false}` in the study."
        problems.add("visit order", text, rows, "visit")


def _check_regions(images: pd.DataFrame, study: Study, problems: Problems, notes: list[str]) -> None:
    if not study.regions:
        return
    # a misspelt region is reported already, and may be the missing one
    wrong = (~images["region"].isin(study.regions)).groupby(images["case"]).transform("any")
    counts = images.groupby("case")["region"].transform("nunique")
    lacking = [
        (case, ", ".join(region for region in study.regions if region not in set(rows)), rows.index)
        for case, rows in images[~wrong & (counts < len(study.regions))].groupby("case", sort=False)["region"]
    ]
    if study.missing_regions == "allow" and lacking:
        named = names_text([f"{case} ({missing})" for case, missing, _ in lacking], 5)
        cases = counted(len(lacking), "case lacks a region and is", "cases lack a region and are")
        notes.append(f"{cases} predicted from the available ones: {named}.")
        return
    for case, missing, rows in lacking:
        text = f"case {case} has no image of region {missing}. Add it, or write `missing_regions: allow` in the study."
        problems.add("region missing", text, rows)


def _check_baseline(images: pd.DataFrame, study: Study, problems: Problems, notes: list[str]) -> None:
    baseline = study.evaluation.baseline
    if not study.evaluation.response or baseline == "first" or images.empty:
        return
    visits = sorted(images["visit"].unique(), key=visit_order)
    if baseline not in visits:
        hint = closest(baseline, visits)
        text = f"evaluation.baseline: there is no visit {cut(baseline)}.{hint} There are: {names_text(visits)}."
        problems.add("baseline", text)
        return
    has = images["visit"].eq(baseline).groupby(images["subject"]).transform("any")
    lacking = sorted(images.loc[~has, "subject"].unique(), key=natural)
    if lacking and study.evaluation.missing_baseline == "leave_out":
        subjects = counted(len(lacking), "subject has", "subjects have")
        notes.append(f"{subjects} no visit {cut(baseline)} and no change from baseline: {names_text(lacking)}.")
        return
    for subject in lacking:
        rows = images.index[images["subject"] == subject]
        text = f"subject {subject} has no visit {cut(baseline)}, the baseline. Add it, or write `evaluation: "
        problems.add("baseline", text + "{missing_baseline: leave_out}` in the study.", rows)


def _others(cells: pd.DataFrame, columns: dict[str, str], study: Study, notes: list[str]) -> dict[str, pd.Series]:
    """The columns of the table that are neither standard nor targets, unchanged; a reserved name is changed."""
    others: dict[str, pd.Series] = {}
    for column in cells.columns.tolist():
        target = column in study.targets
        if column not in STORED and not target:
            others[column] = cells[column]
        elif column not in columns.values() and not (target and column in cohort_targets.target_columns(column, study)):
            others[f"table_{column}"] = cells[column]
            notes.append(f"The table's column {column} is kept as table_{column}, because its name is reserved.")
    return others


def _assembled(
    images: pd.DataFrame, others: dict[str, pd.Series], study: Study, notes: list[str], labelled: bool
) -> Cohort:
    """Order and number images, panels and cases; nothing depends on the order of the table.

    Images are ordered by case, region and path, because slots are filled and batches drawn in the order of images.
    """
    targets = list(study.targets)
    cases = images.drop_duplicates("case")[["case", "subject", "visit", "day"]]
    dated = cases["day"].notna().groupby(cases["subject"]).transform("all")
    # if a day of a subject is unknown, its visits are ordered by name
    keys = [
        (natural(subject), day if by_day else 0.0, visit_order(visit))
        for subject, visit, day, by_day in zip(cases["subject"], cases["visit"], cases["day"], dated, strict=True)
    ]
    cases = cases.iloc[sorted(range(len(cases)), key=keys.__getitem__)].reset_index(drop=True)
    rank = {case: number for number, case in enumerate(cases["case"])}
    regions = {region: number for number, region in enumerate(study.regions)}
    positions = [
        (rank[case], regions.get(region, 0), natural(path))
        for case, region, path in zip(images["case"], images["region"], images["path"], strict=True)
    ]
    order = sorted(range(len(images)), key=positions.__getitem__)
    images, panels = with_panels(images.assign(**others).iloc[order].reset_index(drop=True), study)
    for name in targets:
        if study.level_of(name) in ("case", "subject"):
            cases[name] = cases["case"].map(images.groupby("case")[name].first())
    repeated = cases[cases["subject"].duplicated(keep=False)]
    undated = repeated[repeated["day"].isna().groupby(repeated["subject"]).transform("any")]
    if len(undated) and not study.subjects_guessed:
        visits = names_text(sorted({str(visit) for visit in undated["visit"]}, key=visit_order), 12)
        subjects = counted(undated["subject"].nunique(), "subject")
        notes.append(f"For {subjects} without all days, visits are ordered by name: {visits}.")
    if labelled:
        _note_unscored(images, panels, targets, notes)
    return Cohort(images=images, panels=panels, cases=cases, notes=notes)


def with_panels(images: pd.DataFrame, study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Number ordered rows as images and panels; return the images and the panels."""
    images = images.drop(columns=["image", "panel"], errors="ignore")
    images.insert(0, "image", range(len(images)))
    units = cohort_targets.level_keys(study.panels.by)
    panel = images.groupby(units, sort=False).ngroup() if units else images["image"]
    images.insert(list(images).index("region") + 1, "panel", panel)
    groups = images.groupby("panel", sort=True)
    panels = groups[["case", "subject", "visit", "day", "region"]].first().reset_index()
    panels["day"] = panels["day"].astype(float)
    if study.panels.by == "case":
        panels["region"] = ""
    panels["tiles"] = groups["image"].agg(list).to_list()
    for name in study.targets:
        panels[name] = groups[name].first().where(groups[name].nunique() < 2).to_numpy(dtype=float)
    return images, panels


def check_copied(study: Study, panels: pd.DataFrame) -> None:
    """Check that fixed copies can be made: a panel must show all of its tiles at once.

    Raises:
        CohortError: a panel has more tiles than slots.
    """
    slots, counts = study.panels.slots, panels["tiles"].map(len)
    if study.panels.fixed and counts.max() > slots:
        case, over = panels["case"][counts.idxmax()], int((counts > slots).sum())
        raise CohortError(
            f"{study.cohort}: {over:,} of {len(panels):,} panels (by: {study.panels.by}) have more tiles than the "
            f"{slots} they show at once, such as {case} with {counts.max()}, so panels.offline_copies cannot be made. "
            "Write `by: image` under panels, a larger `grid`, or leave it out."
        )


def _note_unscored(images: pd.DataFrame, panels: pd.DataFrame, targets: list[str], notes: list[str]) -> None:
    """Report cases and panels without a target; they are kept and can be predicted."""
    scored = images[targets].notna().any(axis=1).groupby(images["case"], sort=False).any()
    empty = panels[panels["case"].map(scored) & panels[targets].isna().all(axis=1)]
    if not scored.any():
        notes.append(f"No case has a target: fill in {names_text(targets)} to train.")
    elif not scored.all():
        cases = names_text(scored.index[~scored].tolist(), 5)
        notes.append(
            f"{(~scored).sum():,} of {len(scored):,} cases without a value of any target cannot be evaluated: {cases}."
        )
    if len(empty):
        named = names_text([f"{c} {r}".strip() for c, r in zip(empty["case"], empty["region"], strict=True)], 5)
        notes.append(f"{len(empty):,} of {len(panels):,} panels have no target, although their case has one: {named}.")
