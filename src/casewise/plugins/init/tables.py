"""The tables of a sponsor as one: the sheets of visits as rows, and several joined by subject and visit."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from casewise.cohort.clinical_words import BODY_PARTS, PART, RATER, SITE, VISIT, Words, plain_words, region_phrases
from casewise.cohort.table import Problems, names_text, read_text_table, rows_text
from casewise.cohort.table_formats import sheet_headings
from casewise.errors import CasewiseError, counted, cut
from casewise.names import heading_words, one_form, stored_path
from casewise.plugins.init.columns import Column
from casewise.plugins.init.joins.join_checks import check_letters
from casewise.plugins.init.key_names import names_visit, readings, words
from casewise.plugins.init.observations import analysed, observed
from casewise.plugins.init.row_per_case import by_rater, wide
from casewise.plugins.init.source import CENTRE, Source, check_subjects, key_columns, names_of_rows, rows_repeat
from casewise.plugins.init.table_dates import with_whole_years

# Columns that name their table, and nothing of its rows, such as `DOMAIN` of SDTM.
_NAMES_TABLE = re.compile(r"domain|crf|form( name)?")
_SHOWN = 5


def stated_sheets(tables: Path | Sequence[Path] | None, sheets: str | Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files of tables, and the sheet of each ('' is its first): `FILE.xlsx:SHEET`, or `sheets` in their order.

    Raises:
        CasewiseError: it is not clear which sheet is read from which table, or one is read twice.
    """
    files: list[Path] = []
    stated: list[str] = []
    for path in [tables] if isinstance(tables, Path) else tables or []:
        path = stored_path(path)
        file, mark, name = str(path).rpartition(":")
        is_part = bool(mark and name) and not path.exists() and Path(file).is_file()
        files.append(Path(file) if is_part else path)
        stated.append(one_form(name) if is_part else "")
    sheets = [sheets] if isinstance(sheets, str) else list(sheets)
    sheets = [one_form(name) for name in sheets if name]
    open_books = [i for i, file in enumerate(files) if not stated[i] and (_is_book(file) or len(files) == 1)]
    each = "State one for each workbook in the order of --table, or write --table FILE.xlsx:SHEET."
    if len(sheets) == 1 and len(set(files)) == len(files):
        sheets *= max(1, len(open_books))
    if sheets and len(sheets) != len(open_books):
        raise CasewiseError(f"--sheet names {len(sheets):,} of the sheets of {len(open_books):,} workbooks. {each}")
    for position, name in zip(open_books, sheets, strict=False):
        stated[position] = name
    pairs = list(zip(files, stated, strict=True))
    if twice := next((pair for pair in pairs if pairs.count(pair) > 1), None):
        which = f"its sheet {cut(twice[1])} is" if twice[1] else "its first sheet is" if _is_book(twice[0]) else "it is"
        raise CasewiseError(f"--table: {twice[0]} is named twice, and {which} read twice. {each}")
    return files, stated


def read_tables(paths: Sequence[Path], problems: Problems, *, sheets: Sequence[str] = (), subject: str = "") -> Source:
    """The tables as one, by the subject, or by subject and visit, of the one with the most rows.

    Args:
        sheets: the sheet of each table, as of `stated_sheets`.

    Raises:
        CasewiseError: a table cannot be read; rows or columns contradict each other.
    """
    groups: dict[tuple[str, ...], list[tuple[str, Source]]] = defaultdict(list)
    pairs = list(zip(paths, sheets or [""] * len(paths), strict=True))
    for path, sheet in itertools.chain.from_iterable(itertools.starmap(_sheets_of, pairs)):
        frame, notes = read_text_table(path, problems, sheet=sheet)
        if len(paths) > 1 and problems.hint:
            another = f"{problems.hint} `--table {path.name}:SHEET` reads another."
            notes = [another if note.startswith(problems.hint) else note for note in notes]
        problems.raise_any(path)
        cells = {str(name): [str(value).strip() for value in frame[name]] for name in frame.columns}
        notes = [*notes, *_spellings(frame)]
        groups[tuple(sorted(cells))].append((sheet, Source(path, cells, frame.index.tolist(), notes)))
    stacked = [_stacked(parts, subject) if len(parts) > 1 else parts[0][1] for parts in groups.values()]
    # tables are joined by a column that all have
    subject = subject if all(subject in source.cells for source in stacked) else ""
    sources = [_read_as_cases(source, subject) for source in stacked]
    if len(sources) == 1:
        return sources[0]
    first = max(sources, key=lambda source: (len(key_columns(source, source.roles(subject))), len(source.numbers)))
    whole = first
    for source in sources:
        if source is not first:
            whole = _merged(whole, source, subject)
    return whole


def _spellings(frame: pd.DataFrame) -> list[str]:
    """A note on cells that differ from others of their column in spaces around them alone; without what they say.

    >>> _spellings(pd.DataFrame({"Patient": ["P1", "P1 ", "P2"], "Sex": ["W", "w", "W"]}, index=[2, 3, 4]))
    ['Read without the spaces around them, as others of their column: Patient in row 3.']
    """
    shown: list[str] = []
    for name in frame.columns:
        texts = frame[name].astype(str)
        plain = set(texts)
        spaced = [row for row, text in texts.items() if text != text.strip() and text.strip() in plain]
        shown += [f"{name} in row {row}" for row in spaced]
    more = f"; and {len(shown) - _SHOWN:,} more" if len(shown) > _SHOWN else ""
    listed = "; ".join(shown[:_SHOWN]) + more
    return [f"Read without the spaces around them, as others of their column: {listed}."] if shown else []


def _read_as_cases(source: Source, subject: str) -> Source:
    """A table with a row for each case or image: only observations, codes and raters in columns, years in dates."""
    source = observed(with_whole_years(source), subject)
    return analysed(by_rater(wide(source, subject), subject), subject)


def _sheets_of(path: Path, sheet: str) -> list[tuple[Path, str]]:
    """A table and its sheet; of a workbook without a stated one all filled sheets that are visits or have one heading.

    Raises:
        CasewiseError: the sheets are named like visits, but have different headings.
    """
    headings = sheet_headings(path) if not sheet and _is_book(path) else {}
    headings = {name: sorted(heading) for name, heading in headings.items() if heading}
    alike = len({tuple(heading) for heading in headings.values()}) == 1
    if len(headings) < 2 or not (alike or all(map(names_visit, headings))):
        return [(path, sheet)]
    first, *others = headings
    if other := next((name for name in others if headings[name] != headings[first]), ""):
        differing = sorted(set(headings[first]) ^ set(headings[other]))
        raise CasewiseError(
            f"{path}: its sheets are named like visits, but only one of {cut(first)} and {cut(other)} has "
            f"{names_text(differing, 3)}. Give them the same columns, or name those that are meant, such as "
            f"--table {path.name}:{max(headings, key=lambda name: len(headings[name]))}."
        )
    return [(path, name) for name in headings]


def _stacked(parts: Sequence[tuple[str, Source]], subject: str) -> Source:
    """The rows of tables or sheets with the same columns as one table, with the visit or centre that their names state.

    The names are centres if they are no visits and subjects occur in several with other values.

    Args:
        parts: the sheet and the rows of each.

    Raises:
        CasewiseError: subjects do, and the names are no centres.
    """
    first, names = parts[0][1], _names_of_parts(parts)
    cells = {name: [value for _, source in parts for value in source.cells[name]] for name in first.cells}
    name_of_row = [name for name, (_, source) in zip(names, parts, strict=True) for _ in source.numbers]
    numbers = [number for _, source in parts for number in source.numbers]
    notes = list(dict.fromkeys(note for _, source in parts for note in source.notes))
    visits = all(map(names_visit, names)) and not any(Column(name, cells[name]).exactly(VISIT) for name in cells)
    source = Source(first.path, cells, numbers, notes, changed=True)
    kind = "sheets" if all(of_part.path == first.path for _, of_part in parts) else "tables"
    notes.append(f"The {kind} {names_text(names, 8)} have the same columns and were read as one table.")
    if visits:
        cells["visit"] = name_of_row
        notes.append(f"Visits: the names of these {kind}; a row has the visit of its own.")
    elif contradiction := _contradiction(source, name_of_row, subject):
        if not all(map(_may_be_centre, names)):
            raise CasewiseError(
                f"ONE PERSON OR SEVERAL? The {kind} {names_text(names, 8)} have the same columns, and {contradiction} "
                "with other values. Add to each a column that says what tells them apart: `hospital`, if numbers of "
                "subjects start again in each, or a column such as `region`, `visit` or `rater`."
            )
        cells[CENTRE] = name_of_row
        source.doubts.append(
            f"ONE PERSON OR SEVERAL? {contradiction[0].upper()}{contradiction[1:]} with other values, so that "
            f"the {kind} were read as centres with different people. If they are the same people, add to each a column "
            "that says what tells the rows apart, such as `region`, `visit` or `rater`."
        )
    else:
        rows = list(zip(*cells.values(), strict=True))
        first_table = dict(reversed(list(zip(rows, name_of_row, strict=True))))
        kept = [at for at, row in enumerate(rows) if first_table[row] == name_of_row[at]]
        if len(kept) < len(rows):
            notes.append(f"Rows that are the same in several {kind}, used once: {len(rows) - len(kept):,}.")
            cells = {name: [values[at] for at in kept] for name, values in cells.items()}
            source = replace(source, cells=cells, numbers=[numbers[at] for at in kept])
    return source


def _names_of_parts(parts: Sequence[tuple[str, Source]]) -> list[str]:
    """The sheet of each part, or what differs in the names of their files: `Kiel` and `Ulm` of `scores_Kiel.csv`."""
    if len({source.path for _, source in parts}) < len(parts):
        return [sheet or source.path.stem for sheet, source in parts]
    words = [re.findall(r"[^\W_]+", source.path.stem) for _, source in parts]
    start = _in_common(words)
    end = _in_common([own[start:][::-1] for own in words])
    names = [" ".join(own[start : len(own) - end]) for own in words]
    return names if all(names) and len(set(names)) == len(names) else [source.path.stem for _, source in parts]


def _in_common(words: Sequence[Sequence[str]]) -> int:
    """With how many equal words all begin."""
    return sum(1 for _ in itertools.takewhile(lambda of_all: len(set(of_all)) == 1, zip(*words, strict=False)))


def _may_be_centre(name: str) -> bool:
    """Whether the name of a table may be a hospital: no year, side, part of the body or rater."""
    column = Column(name, ())
    of_body = any(len(region_phrases(word)) > 1 or re.fullmatch(BODY_PARTS, word) for word in plain_words(name))
    return not (name.isdecimal() or of_body or column.named(RATER) or column.named(PART))


def _contradiction(source: Source, names: Sequence[str], subject: str) -> str:
    """A subject with rows of one visit that differ between tables of several names; '' if there is none."""
    if any(Column(name, values).exactly(SITE) for name, values in source.cells.items()):
        return ""
    keys = key_columns(source, source.roles(subject))
    of_case: dict[tuple[Words, ...], tuple[str, tuple[str, ...]]] = {}
    rows = zip(*source.cells.values(), strict=True)
    for case, name, row in zip(names_of_rows(source, keys), names, rows, strict=True) if keys else ():
        other, cells = of_case.setdefault(case, (name, row))
        if other != name and cells != row:
            subject = row[list(source.cells).index(keys["subject"])]
            return f"{keys['subject']} {cut(subject)} is in {other} and {name}"
    return ""


def _is_book(path: Path) -> bool:
    return path.suffix.casefold() == ".xlsx"


def _merged(main: Source, other: Source, subject: str) -> Source:
    """A table with the columns of another one that has a row for each subject, or each subject and visit.

    Raises:
        CasewiseError: the other one has several rows of a case, or has columns of the same names with other values.
    """
    of_main, of_other = (key_columns(each, each.roles(subject)) for each in (main, other))
    for each, keys in ((main, of_main), (other, of_other)):
        if not keys:
            raise CasewiseError(
                f"{each.path}: no column identifies the subjects, by which tables are joined; there are "
                f"{names_text(list(each.cells), 8)}. Name it `subject`, or state it with --subject. If the table is no "
                "list of subjects but explains visits or codes, leave it out."
            )
        check_subjects(each, keys["subject"])
    noun = "subject"
    if shared_key := _shared_number(main, other, of_main["subject"], of_other["subject"]):
        of_main, of_other = ({"subject": name} for name in shared_key)
        noun = shared_key[0]
    if sites := {of_main.get("site"), of_other.get("site")} - {None}:
        site = sites.pop()
        without = next((each for each in (main, other) if site not in each.cells), None)
        if sites or without is not None:
            raise CasewiseError(
                f"{(without or other).path}: numbers of subjects start again at each {site} of "
                f"{(main if 'site' in of_main else other).path.name}, and this table has no column {site}. Add it."
            )
        of_main, of_other = ({**keys, "site": str(site)} for keys in (of_main, of_other))
    start = ["subject", "site"] if "site" in of_main else ["subject"]
    shared = [start] + [[*start, "visit"]] * ("visit" in of_main and "visit" in of_other)
    shared += [[*start, "visit", "region"]] * (len(shared) > 1 and "region" in of_main and "region" in of_other)
    roles = next((each for each in shared if not rows_repeat(other, {role: of_other[role] for role in each})), [])
    if not roles:
        column = of_other["subject"]
        twice = next(name for name, count in Counter(other.cells[column]).items() if count > 1)
        rows = [n for n, cell in zip(other.numbers, other.cells[column], strict=True) if cell == twice]
        raise CasewiseError(
            f"{other.path}, {rows_text(rows, 3)}, {column}: {cut(twice)} has several rows. A further table has one "
            f"row for each subject{', or each subject and visit' * (len(shared) > 1)}, so that it can be joined to "
            f"{main.path.name}."
        )
    own = {
        role: dict(zip(names_of_rows(other, {role: of_other[role]}), other.cells[of_other[role]], strict=True))
        for role in roles
    }
    meaning = {role: readings(role, [name for (name,) in own[role]]) for role in roles}
    mine = names_of_rows(main, {role: of_main[role] for role in roles})
    by_end = not any(name[0] in meaning["subject"] for name in mine)
    if by_end:
        meaning["subject"] = _ends({name[0] for name in mine}, [name for (name,) in own["subject"]])
    index = {key: row for row, key in enumerate(names_of_rows(other, {role: of_other[role] for role in roles}))}
    row_of = [
        index.get(tuple(meaning[role].get(name, ()) for role, name in zip(roles, key, strict=True))) for key in mine
    ]
    if all(row is None for row in row_of):
        examples = [
            f"{names_text(list(dict.fromkeys(table.cells[key])), 3)} of {table.path.name} ({key})"
            for table, key in ((main, of_main["subject"]), (other, of_other["subject"]))
        ]
        raise CasewiseError(
            f"{other.path}: no row meets a row of {main.path.name}: {examples[0]} and {examples[1]} have no name in "
            "common. Name the subjects alike in both, or leave the table out."
        )
    columns = [name for name in other.cells if name not in {of_other[role] for role in roles}]
    cells, same, of_table = dict(main.cells), list[str](), list[str]()
    for name in columns:
        joined = ["" if row is None else other.cells[name][row] for row in row_of]
        if name not in cells:
            cells[name] = joined
            continue
        differ = [i for i, row in enumerate(row_of) if row is not None and joined[i] != cells[name][i]]
        constant = len(set(cells[name])) == len(set(other.cells[name])) == 1
        if differ and constant and _NAMES_TABLE.fullmatch(heading_words(name)):
            of_table.append(name)
            continue
        if differ:
            first = differ[0]
            clashing = [n for n in columns if n in main.cells]
            raise CasewiseError(
                f"{main.path.name} and {other.path.name} both have {names_text(clashing, 8)}, and {name} differs: "
                f"{cut(cells[name][first])} in row {main.numbers[first]} of the first, {cut(joined[first])} in row "
                f"{other.numbers[row_of[first] or 0]} of the second. Rename or remove one of the columns."
            )
        same.append(name)
    brought = [name for name in columns if name not in main.cells]
    lacking = list(dict.fromkeys(main.cells[of_main["subject"]][i] for i, row in enumerate(row_of) if row is None))
    unused = [
        " ".join(other.cells[of_other[role]][row] for role in roles)
        for row in range(len(other.numbers)) if row not in set(row_of)
    ]  # fmt: skip
    pairs = [
        (main.cells[of_main["subject"]][i], other.cells[of_other["subject"]][row])
        for i, row in enumerate(row_of) if by_end and row is not None
    ]  # fmt: skip
    doubts = check_letters(pairs, other.path.name, f"write the subjects of {other.path.name} as {main.path.name} does")
    if lacking:
        doubts.append(
            f"Without a row in {other.path.name}: {counted(len(lacking), 'row' if shared_key else noun)} "
            f"({names_text(lacking, 3)}). Their cells of {names_text(brought, 4)} are empty."
        )
    if unused:
        doubts.append(
            f"Rows of {other.path.name} that meet no row of {main.path.name}, which are not used: {len(unused):,} "
            f"({names_text(unused, 3)})."
        )
    spelled = {
        (main.cells[of_main[role]][i], other.cells[of_other[role]][row])
        for role in roles for i, row in enumerate(row_of)
        if row is not None and main.cells[of_main[role]][i] != other.cells[of_other[role]][row]
    }  # fmt: skip
    keys_text = " and ".join([noun, *roles[1:]])
    notes = [f"{other.path.name} was joined by {keys_text}: {names_text(brought, 8) or 'no further column'}."]
    if of_table:
        notes.append(f"Left out of {other.path.name}, because it names the table: {names_text(of_table, 3)}.")
    if spelled:
        shown = names_text([f"{b} is {a}" for a, b in sorted(spelled)], 3)
        notes.append(f"Spellings that differ between {main.path.name} and {other.path.name}: {shown}.")
    if same:
        notes.append(f"Columns of both tables with the same values: {names_text(same, 8)}.")
    return replace(
        main,
        cells=cells,
        notes=[*main.notes, *other.notes, *notes],
        doubts=[*main.doubts, *other.doubts, *doubts],
        labels=main.labels | other.labels,
        became=main.became | other.became,
        not_analysed=main.not_analysed | other.not_analysed,
        changed=True,
    )


def _shared_number(main: Source, other: Source, *subjects: str) -> tuple[str, str] | None:
    """Columns with the same heading, such as the accession number, by which rows meet where no subject does.

    One of the tables names no people, so that its numbers were read as subjects; strangers would meet by other numbers.
    """
    keys = [[words(cell) for cell in table.cells[key]] for table, key in zip((main, other), subjects, strict=True)]
    if {*keys[0]} & {*keys[1]} or _ends({*keys[0]}, sorted({*keys[1]})):
        return None
    for own, name in itertools.product(main.cells, other.cells):
        if _letters(own) != _letters(name) or {own, name}.isdisjoint(subjects):
            continue
        mine, theirs = ([words(cell) for cell in cells] for cells in (main.cells[own], other.cells[name]))
        if len({*theirs}) == len(theirs) < 2 * len({*mine} & {*theirs}):
            return own, name
    return None


def _letters(heading: str) -> str:
    """A heading without case and separators: `AccessionNumber` and `Accession Number` are alike."""
    return re.sub(r"[\W_]", "", heading).casefold()


def _ends(mine: Iterable[Words], names: Sequence[Words]) -> dict[Words, Words]:
    """The names that end as others do, each with the only one: `CW-01-007` and `007`; {} if an end is not clear."""
    pairs = {(a, b) for a in mine for b in names if a and b and (a[-len(b) :] == b or b[-len(a) :] == a)}
    left, right = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    return dict(pairs) if max([*left.values(), *right.values()], default=2) == 1 else {}
