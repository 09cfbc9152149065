"""Checks of a join of rows and images: what would make one person of two, or give a row the images of another one."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from casewise.cohort.clinical_words import SITE, STRONG_SUBJECT, Words, region_phrases
from casewise.cohort.folder_layout import OF_FILES
from casewise.cohort.table import names_text
from casewise.errors import CasewiseError, counted, cut
from casewise.names import heading_words
from casewise.plugins.init.columns import Column
from casewise.plugins.init.joins.path_pattern import Matched, pattern_text
from casewise.plugins.init.joins.path_words import PathWords, Spans, taken_words
from casewise.plugins.init.key_names import is_number, is_visit, one_of_each, words
from casewise.plugins.init.word_forms import is_field

# The share of the rows, or of the images, that must meet.
ENOUGH = 0.5
# Words before the number of a subject that are not part of the name.
OF_FILES_ONLY = re.compile(r"case|id|no|nr|num(ber)?|images?|img|photos?|pic|dsc[nf]?|foto|bild|scan|file")
_OF_PLACES = ("subject", "site", "region")
_NO_NAME = re.compile(rf"{STRONG_SUBJECT}|{OF_FILES_ONLY.pattern}")


def check_letters(pairs: Iterable[tuple[str, str]], other: str, remedy: str) -> list[str]:
    """A doubt on subjects where one side has more words before the number, such as S01 and 01; [] if none has.

    Args:
        pairs: names of the table, each with the name of `other` that it was joined to.
        remedy: what to do if they are the same people; stands in the middle of a sentence.

    Raises:
        CasewiseError: letters before the number differ, as of S01 and P01, or between the subjects of one side.

    >>> check_letters([("S01", "s-1"), ("S02", "Patient S02")], "the paths", "")
    []
    >>> len(check_letters([("ABC-1-S01", "S01"), ("ABC-2-S02", "S02")], "the paths", ""))
    1
    """
    examples: dict[tuple[Words, Words], tuple[str, str]] = {}
    longer = set()
    for pair in dict.fromkeys(pairs):
        left, right = map(words, pair)
        while left and right and left[-1] == right[-1]:
            left, right = left[:-1], right[:-1]
        left, right = (tuple(w for w in side if not _NO_NAME.fullmatch(w)) for side in (left, right))
        if left or right:
            examples.setdefault((left, right), pair)
            longer.add(pair[0])
    sides: tuple[dict[Words, tuple[str, str]], ...] = ({}, {})
    for both, pair in examples.items():
        for side, beginning in zip(sides, both, strict=True):
            if letters := tuple(word for word in beginning if not word.isdecimal()):
                side.setdefault(letters, pair)
    differing = next((pair for (a, b), pair in examples.items() if a and b and not (a[-1] + b[-1]).isdecimal()), None)
    several = next((list(side.values())[:2] for side in sides if len(side) > 1), [])
    if refused := [differing] if differing else several:
        shown = " and ".join(f"{cut(name)} of the table with {cut(text)} of {other}" for name, text in refused)
        raise CasewiseError(
            f"DIFFERENT PEOPLE? The letters before the numbers of subjects differ, and {shown} would be joined by the "
            f"number alone. If they are the same people, {remedy}, or give them the same names. If not, name the table "
            "or the folder that belongs to them."
        )
    if not examples:
        return []
    name, text = next(iter(examples.values()))
    return [
        f"THE SAME PEOPLE? {cut(name)} of the table was joined with {cut(text)} of {other}: only their ends are equal "
        f"(of {counted(len(longer), 'subject')}). Check that they are the same people."
    ]


def check_spellings(matched: Matched, pattern: str) -> tuple[list[str], CasewiseError | None]:
    """Refuse spellings that would make one subject of two.

    Returns:
        Which names differ in spelling, and the refusal of subjects with images in several folders, if there are any.

    Raises:
        CasewiseError: a subject is written in several ways in the paths.
    """
    spellings: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    subjects: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
    for path in matched.rows:
        each, spans, values = matched.paths[path], matched.read[path], matched.values(path)
        for role in matched.columns:
            written = values.get(role, "") if matched.stated else each.lettered(role, *spans[role][1:])
            if written and written != (cell := matched.cell(path, role)):
                spellings[role][cell, written] = None
        name = ("", values.get("subject", "")) if matched.stated else _whole_subject(each, spans)
        of_row = "-".join(matched.cell(path, role) for role in ("site", "subject") if role in matched.columns)
        subjects[of_row].setdefault(name, path)
    understood = []
    for role, pairs in spellings.items():
        shown = names_text([f"{text} in the paths is {cell}" for cell, text in pairs], 3)
        understood.append(f"Spelling of {role}s: {shown}.")
    folders = []
    for subject, names in subjects.items():
        both = " and ".join(list(names.values())[:2])
        if len(names) > 1 and (
            len({own for _, own in names}) > 1 or any(re.search(r"\d", start) for start, _ in names)
        ):
            raise CasewiseError(
                f"Subject {cut(subject)} of the table has images under {counted(len(names), 'name')}: {both}. If these "
                "are several people, give each a name of its own in the table, and if not, rename the folders or "
                "files; or state with --pattern where the subject stands, such as '*/{subject}/{visit}/*.jpg'."
            )
        if len(names) > 1 and not all(_is_known(word) for start, _ in names for word in re.split("[/-]", start)):
            folders.append((subject, list(names.values())[:2]))
    return understood, _several_folders(pattern, *folders[0], len(folders)) if folders else None


def _is_known(word: str) -> bool:
    """Whether a word of a folder states a view, a visit or a region, so that it is the same person in each."""
    return not word or is_field(word) or is_visit(word) or len(region_phrases(word)) > 1


def _several_folders(pattern: str, subject: str, paths: Sequence[str], count: int) -> CasewiseError:
    """The refusal of folders that may be views of one person, or hospitals whose numbers start again.

    Args:
        paths: two images of a subject in different folders.
        count: of subjects with such images.
    """
    first, second = (path.split("/") for path in paths)
    level = next(i for i, (own, other) in enumerate(zip(first, second, strict=False)) if own != other)
    levels = pattern.split("/")
    any_folder = "/".join([*levels[:level], "*", *levels[level + 1 :]])
    # a part of a folder, such as HH of HH-001, is no folder that can be named
    one_of_them = "" if "{" in levels[level] else "name one of them with --images, or "
    shown = names_text([first[level], second[level]], 2)
    return CasewiseError(
        f"ONE PERSON OR SEVERAL? Images of {counted(count, 'subject')} of the table lie in several folders, such as "
        f"{' and '.join(paths)} of {cut(subject)}. If these are the same people, repeat this with --pattern "
        f"{any_folder!r}. If the folders are hospitals whose numbers start again, {one_of_them}"
        f"add a column `hospital` to the table, with their names as they are in {shown}."
    )


def check_counters(matched: Matched, pattern: str) -> None:
    """Refuse numbers of files as subjects where most such numbers are none of the table: they may count photographs.

    Raises:
        CasewiseError: fewer than half of the numbers at the place are subjects.
    """
    assigned, first = matched.rows, next(iter(matched.rows))
    _, segment, word, _ = matched.read[first]["subject"]
    if segment != -1 or not all(matched.text(path, "subject").isdecimal() for path in assigned):
        return
    numbers = [
        path for path, each in matched.paths.items()
        if word < len(each.matches(segment)) and each.matches(segment)[word][0].isdecimal()
    ]  # fmt: skip
    if len(assigned) < ENOUGH * len(numbers):
        other = next(path for path in numbers if path not in assigned)
        raise CasewiseError(
            f"PATIENTS OR PHOTOGRAPHS? Of {counted(len(numbers), 'image')} with a number, such as {first} and {other}, "
            f"only {len(assigned):,} have one of the table, so that the numbers may count photographs. If they are "
            f"the patients' numbers, say so with --pattern {pattern!r}; if not, add a column with the names of the "
            "files to the table."
        )


def check_visits(matched: Matched, visits: Sequence[Words]) -> None:
    """Refuse visits that agree in their numbers alone, where others have no image, and images no visit.

    Args:
        visits: of the rows of the table; empty if it has none.

    Raises:
        CasewiseError: there are such visits, such as 1 to 4 of the table, and a baseline and weeks 1, 2 and 4.
    """
    if not visits or any("visit" not in matched.read[path] for path in matched.rows):
        return
    joined: dict[Words, tuple[str, str]] = {}
    for path in matched.rows:
        name, *span = matched.read[path]["visit"]
        joined.setdefault(name, (matched.text(path, "visit"), matched.paths[path].lettered("visit", *span)))
    # a date is no visit that has a kind
    kinds = [name for name in dict.fromkeys(visits) if sum(map(str.isdecimal, name)) < 2]
    absent = [name for name in kinds if name not in joined]
    by_number = {name: written for name, (text, written) in joined.items() if len(words(text, "visit")) != len(name)}
    numbered = sorted(int(name[0]) for name in kinds if len(name) == 1 and name[0].isdecimal())
    # numbers of visits, while 0, 4 and 8 of a column `visit` may be weeks
    of_column = unit_of(matched.columns["visit"]) if numbered == list(range(1, len(kinds) + 1)) else ""
    units = {name: unit_of(" ".join(name)) or of_column for name in by_number}
    unlike = [name for name, written in by_number.items() if units[name] and unit_of(written) not in ("", units[name])]
    unused = next((path for path in matched.paths if path not in matched.rows), "")
    if absent and by_number and (unused or unlike):
        shown = names_text([f"{text} in the paths is {' '.join(name)}" for name, text in by_number.items()], 3)
        no_row = f", and {unused} no row" if unused else ""
        raise CasewiseError(
            f"VISITS OF DIFFERENT KINDS? Only numbers agree ({shown}), while {' '.join(absent[0])} of the table has no "
            f"image{no_row}. Write the visits into the table as the folders name them."
        )


def unit_of(visit: str) -> str:
    """The unit of a visit, such as week; '' if it states none."""
    return next((word for word in words(visit, "visit") if not word.isdecimal()), "")


def check_shifted(matched: Matched, pattern: str) -> None:
    """Refuse numbers of visits or photographs that are the numbers of the table, all moved by the same step.

    Raises:
        CasewiseError: there are such numbers, such as 1 to 3 of the table, and 0 to 2 of the paths.
    """
    for role, column in matched.columns.items():
        of_table, letters = _whole_numbers(matched.cells[column]) if role not in _OF_PLACES else ([], "")
        in_paths, written = _whole_numbers(_texts_at(matched, role)) if of_table else ([], "")
        moved = {b - a for a, b in zip(of_table, in_paths, strict=False)}
        # the letters are the same on both sides, so that a user may mean the same visits
        if letters and (matched.stated or letters != written):
            continue
        if len(of_table) == len(in_paths) > 1 and len(moved) == 1 and moved != {0}:
            of_rows, of_images = (
                names_text([f"{before}{number}" for number in numbers], 4)
                for before, numbers in ((letters, of_table), (written, in_paths))
            )
            again = f" If they are the same ones, repeat this with --pattern {pattern!r}." if letters else ""
            raise CasewiseError(
                f"OFF BY {abs(moved.pop())}? {column} of the table is {of_rows}, and the paths have {of_images} in its "
                f"place, so that images would get the values of another {column}. If {written}{in_paths[0]} of the "
                f"paths is {letters}{of_table[0]} of the table, write the numbers of the paths into the table.{again}"
            )


def _whole_numbers(texts: Iterable[str]) -> tuple[list[int], str]:
    """The different whole numbers of the filled texts that are not rare, sorted, and the letters before all of them.

    [] if one is another text.
    """
    filled = Counter(text.strip() for text in texts if text.strip())
    fewest = max(filled.values(), default=0) / 5
    read = {text: match for text in filled if (match := re.fullmatch(r"([^\W\d_]*)[ _-]?(\d+)", text))}
    letters = {match[1].casefold() for match in read.values()}
    if len(read) < len(filled) or len(letters) != 1:
        return [], ""
    return sorted({int(match[2]) for text, match in read.items() if filled[text] > fewest}), letters.pop().upper()


def _texts_at(matched: Matched, role: str) -> Iterator[str]:
    """What all paths have in the place of a name, with letters that touch it."""
    _, segment, first, end = next(iter(matched.read.values())).get(role, ((), 0, 0, 0))
    for path, each in matched.paths.items():
        if matched.stated:
            values = matched.values(path)
            yield next((values[name] for name in (OF_FILES[:-1] if role == "number" else [role]) if name in values), "")
        elif end <= len(each.matches(segment)):
            yield each.lettered(role, segment, first, end)


def check_folders(matched: Matched) -> None:
    """Refuse images whose path names something else where the paths of most rows name the cell of a column.

    So a table of one hospital takes no photographs of another one with the same numbers.

    Raises:
        CasewiseError: there are some.
    """
    assigned, by_path, read = matched.rows, matched.paths, matched.read
    windows = {path: _free_windows(by_path[path], read[path]) for path in assigned}
    for column, values in matched.cells.items():
        site = Column(column, ()).exactly(SITE)
        names = [words(value) for value in values]
        if column in matched.columns.values() or not any(name and (site or not is_number(name)) for name in names):
            continue
        named = {path: windows[path][names[row]] for path, row in assigned.items() if names[row] in windows[path]}
        # a number in the name of a file rather counts photographs
        named = {p: span for p, span in named.items() if span[0] != -1 or not is_number(names[assigned[p]])}
        around = {path: _around(by_path[path], read[path], span, numbers=site) for path, span in named.items()}
        if not around:
            continue
        usual = Counter(around.values()).most_common(1)[0][0]
        agreeing = [path for path, own in around.items() if own == usual]
        if len({assigned[path] for path in agreeing}) < max(2, ENOUGH * len(set(assigned.values()))):
            continue
        other = [
            path for path, row in assigned.items()
            if names[row] and path not in named and _fits(by_path[path], read[path], usual, numbers=site)
        ]  # fmt: skip
        if (
            other
            and not site
            and one_of_each(names, [words(cell) for cell in matched.cells[matched.columns["subject"]]])
        ):
            raise CasewiseError(
                f"WHICH NUMBER OF THE PEOPLE? The paths name the {column} of the table, and what was read as "
                f"{matched.columns['subject']} is not in all of them. Say so with --subject {cut(column)}, or with "
                "--pattern what the paths state."
            )
        if other:
            field_name, row = "_".join(heading_words(column).split()), assigned[other[0]]
            spans = {path: read[path] | {field_name: ((), *named[path])} for path in agreeing}
            pattern = pattern_text(by_path, spans, dict.fromkeys(agreeing, 0))
            rows = counted(len({assigned[path] for path in agreeing}), "row")
            raise CasewiseError(
                f"OF ANOTHER {column.upper()}? The paths of {rows} name the {column} of the table, but "
                f"{counted(len(other), 'image')} would be joined to rows of another one, such as {other[0]} "
                f"to a row with {column} {cut(values[row])}. Repeat this with --pattern {pattern!r}, so "
                "that it counts too, or with '*' in its place if it says nothing."
            )


def _free_windows(each: PathWords, spans: Spans) -> dict[Words, tuple[int, int, int]]:
    """Where the names of up to four words stand in a path, besides those that were read."""
    taken, result = taken_words(spans), dict[Words, tuple[int, int, int]]()
    for segment in range(-len(each.segments), 0):
        count = len(each.matches(segment))
        for first in range(count):
            for end in range(first + 1, min(first + 4, count) + 1):
                if (segment, end - 1) in taken:
                    break
                result.setdefault(words(each.text(segment, first, end)), (segment, first, end))
    return result


_Around = tuple[int, Words, Words]


def _free_words(each: PathWords, spans: Spans, segment: int, *, numbers: bool) -> list[tuple[int, str]]:
    """The words of a segment that were not read, with their numbers; `numbers` count too if they may be sites."""
    taken = taken_words(spans)
    free = [(i, m[0].casefold()) for i, m in enumerate(each.matches(segment)) if (segment, i) not in taken]
    return [(i, word) for i, word in free if numbers or not word.isdecimal()]


def _around(each: PathWords, spans: Spans, span: tuple[int, int, int], *, numbers: bool) -> _Around:
    """The segment of a name, and the words before and behind it there."""
    segment, first, end = span
    free = _free_words(each, spans, segment, numbers=numbers)
    return segment, tuple(w for i, w in free if i < first), tuple(w for i, w in free if i >= end)


def _fits(each: PathWords, spans: Spans, around: _Around, *, numbers: bool) -> bool:
    """Whether a path has other words where the others have a name."""
    segment, before, behind = around
    free = tuple(w for _, w in _free_words(each, spans, segment, numbers=numbers))
    between = len(free) - len(before) - len(behind)
    return between > 0 and free[: len(before)] == before and free[len(before) + between :] == behind


def _whole_subject(each: PathWords, spans: Spans) -> tuple[str, str]:
    """What a path states before the subject, and the name of the subject as it is written with what joins it.

    Words before it in its own folder or file count only with a number, because they may be views.
    """
    _, segment, first, end = spans["subject"]
    taken = {(s, word) for role, (_, s, f, e) in spans.items() if role != "subject" for word in range(f, e)}
    parts = [
        "-".join(m[0] for word, m in enumerate(each.matches(level)) if (level, word) not in taken)
        for level in range(-len(each.segments), segment)
    ]
    matches = each.matches(segment)
    own = each.segments[segment][matches[first].start() : matches[end - 1].end()]
    while end < len(matches) and matches[end].start() == matches[end - 1].end() and (segment, end) not in taken:
        own, end = own + matches[end][0], end + 1
    before = "-".join(m[0] for word, m in enumerate(matches[:first]) if (segment, word) not in taken)
    return "/".join([*parts, before if re.search(r"\d", before) else ""]), own
