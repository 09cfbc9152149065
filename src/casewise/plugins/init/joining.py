"""Rows of a table joined to images by what folders and file names state: subject, visit, region and number.

Names are compared in words without case and leading zeros, so that `S-01` is `s1` and `Week 4` is `W04`. Two subjects
of the table, or two spellings in the paths, are never read as one person.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath

from casewise.cohort.checks import number
from casewise.cohort.clinical_words import (
    LETTERS_OF_VISITS,
    SITE,
    STRONG_SUBJECT,
    UNITS,
    WORD,
    Words,
    region_phrases,
    unaccented,
)
from casewise.cohort.folder_layout import OF_FILES, Pattern, find_region, stem_of
from casewise.cohort.table import names_text, read_dates
from casewise.cohort.visit_order import is_named_visit
from casewise.errors import CasewiseError, counted, cut
from casewise.names import heading_words, one_form
from casewise.plugins.init.columns import Column
from casewise.plugins.init.patterns import is_field

_DAYS = {"day": 1.0, "week": 7.0, "month": 365.25 / 12, "year": 365.25}
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})
_SINGLE = ("baseline", "screening")
_OF_VISITS = {*_DAYS, *_SINGLE, "visit", "time"}
# Paths that are looked at to find where the names stand, places that are tried for each column, and words of a name.
_SAMPLE, _MOST_PLACES, _MOST_WORDS = 600, 4, 8
# The share of the rows, or of the images, that must meet.
ENOUGH = 0.5
# Words before the number of a subject that are not part of the name, and the most letters apart from it that are.
OF_FILES_ONLY = re.compile(r"case|id|no|nr|num(ber)?|images?|img|photos?|pic|dsc[nf]?|foto|bild|scan|file")
_NO_NAME = re.compile(rf"{STRONG_SUBJECT}|{OF_FILES_ONLY.pattern}")
_LETTERS = 3
_MOST_IN_REGION = 3


_RESTART = ", and numbers of subjects start again at each site, so that the paths must state both"


@dataclass
class Joined:
    """The images of each row of a table.

    Attributes:
        paths: by row, from 0, its images.
        columns: the columns that were compared, by what they state.
        stated: by path, what it states that the table does not, such as the visit.
        visits: by path, how it writes the visit.
        pattern: what the paths were read as.
        absent: by column, the values that no path has, if no rows meet images.
    """

    paths: dict[int, list[str]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    stated: dict[str, dict[str, str]] = field(default_factory=dict)
    visits: dict[str, str] = field(default_factory=dict)
    pattern: str = ""
    absent: dict[str, list[str]] = field(default_factory=dict)
    understood: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


@lru_cache(100_000)
def words(text: str, role: str = "") -> Words:
    """A name in words: without case, separators and leading zeros; of visits with the usual word for each unit.

    >>> words("S-01") == words("s1"), words("W04", "visit") == words("Week 4", "visit"), words("1-11") == words("11-1")
    (True, True, False)
    >>> words("Follow-up 2", "visit") == words("followup_2", "visit")
    True
    """
    plain = str(int(value)) if (value := number(text)) is not None and value.is_integer() else one_form(text)
    if role == "visit" and (day := read_dates([plain]).get(plain)):
        return ("date", str(day))
    plain_words = (w.lstrip("0") or "0" if w.isdecimal() else w.casefold() for w in WORD.findall(plain))
    if role in ("region", "site"):  # `Köln` is `Koeln`
        return tuple(unaccented(w.translate(_UMLAUTS) if role == "site" else w) for w in plain_words)
    named = tuple(UNITS.get(unaccented(w), w) if role == "visit" else w for w in plain_words)
    if role == "visit" and not _OF_VISITS.intersection(named):  # `Follow-up` is `followup`
        runs = itertools.groupby(named, str.isdecimal)
        return tuple(itertools.chain.from_iterable(run if numbers else ["".join(run)] for numbers, run in runs))
    return named


def day_of_visit(name: str) -> int | None:
    """The day that a name of a visit states, from the baseline.

    >>> [day_of_visit(name) for name in ("week4", "Baseline", "Month 3", "D-7", "visit 2")]
    [28, 0, 91, -7, None]
    """
    named = words(name, "visit")
    if named[:1] == ("baseline",):
        return 0
    if len(named) == 2 and named[1].isdecimal():
        named = named if named[0] in _DAYS else named[::-1]
    if len(named) != 2 or named[0] not in _DAYS or not named[1].isdecimal():
        return None
    before = re.search(r"(?<![^\W\d_])-\d|^[A-Za-z]+ ?-\d", name) and named[0] == "day"
    return round(_DAYS[named[0]] * int(named[1])) * (-1 if before else 1)


def days_of_visits(visits: Sequence[str]) -> tuple[list[str], str]:
    """The day of each visit in text, and how it was made; all empty, with the reason, if a visit states none."""
    days = {visit: day_of_visit(visit) for visit in dict.fromkeys(visits)}
    unclear = [visit for visit, day in days.items() if day is None]
    if unclear:
        return [], f"Days: not created, because names of visits state none, such as {names_text(unclear, 3)}."
    shown = names_text([f"{visit} is day {day}" for visit, day in days.items()], 4)
    return [str(days[visit]) for visit in visits], f"Days: from the names of the visits: {shown}."


def _other_forms(role: str, name: Words, loose: bool, regions: Sequence[str]) -> Iterator[Words]:
    """Other ways in which a path may write the name of a subject, visit or region."""
    if role == "subject" and loose:
        yield from (name[start:] for start in range(1, len(name)))
    if role == "region":
        yield name[:1]
        yield (name[0][:1],)
        yield from region_phrases(" ".join(name))
        if 1 < len(name) <= _MOST_IN_REGION:  # `arm_L` is `left arm`
            forms = [[form[0] for form in region_phrases(word) if len(form) == 1] for word in name]
            for order in itertools.permutations(forms):
                yield from itertools.product(*order)
        if region := find_region(" ".join(name), list(regions)):
            yield words(region)
    if role == "visit":
        last = name[-1]
        if name in (("baseline",), ("0",)) or (len(name) == 2 and name[0] in _DAYS and last == "0"):
            yield from [("baseline",), ("0",), *((unit, "0") for unit in _DAYS)]
        elif len(name) == 1 and last.isdecimal():
            yield from ((unit, last) for unit in (*_DAYS, "visit", "time"))
        elif last.isdecimal() and name[0] != "date" and sum(map(str.isdecimal, name)) == 1:
            yield (last,)


def readings(
    role: str, names: Iterable[Words], *, loose: bool = False, regions: Sequence[str] = ()
) -> dict[Words, Words]:
    """The name that each spelling means: its own words, or another form that only one of the names has."""
    own = {name: name for name in names if name}
    others: dict[Words, set[Words]] = defaultdict(set)
    for name in own:
        for form in _other_forms(role, name, loose, regions):
            others[form].add(name)
    return {form: min(of_form) for form, of_form in others.items() if form and len(of_form) == 1} | own


@dataclass(frozen=True)
class _Place:
    """Where a name stands in all paths: in the folder or file counted from the end, and from which word or up to it."""

    segment: int
    word: int
    from_end: bool = False


class _Path:
    """A path in its folders and its name, each in words with their positions."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.segments = one_form(stem_of(path)).split("/")
        self._words: dict[int, list[re.Match[str]]] = {}

    def matches(self, segment: int) -> list[re.Match[str]]:
        if segment not in self._words:
            inside = -len(self.segments) <= segment
            self._words[segment] = list(WORD.finditer(self.segments[segment])) if inside else []
        return self._words[segment]

    def read(self, role: str, place: _Place, names_of: Mapping[Words, Words]) -> tuple[Words, int, int, int] | None:
        """The name at a place, the longest one, with its segment, first word and the word behind it."""
        matches = self.matches(place.segment)
        edge = len(matches) - place.word if place.from_end else place.word
        for length in range(min(_MOST_WORDS, len(matches)), 0, -1):
            first, end = (edge - length, edge) if place.from_end else (edge, edge + length)
            if first >= 0 and end <= len(matches):
                text = self.segments[place.segment][matches[first].start() : matches[end - 1].end()]
                if name := names_of.get(words(text, role)):
                    return name, place.segment, first, end
        return None

    def text(self, segment: int, first: int, end: int) -> str:
        matches = self.matches(segment)
        return self.segments[segment][matches[first].start() : matches[end - 1].end()]

    def lettered(self, role: str, segment: int, first: int, end: int) -> str:
        """The text of a name; of a visit with letters that touch its number, such as V of V1."""
        matches = self.matches(segment)
        while role == "visit" and first and matches[first - 1].end() == matches[first].start():
            first -= 1
        return self.text(segment, first, end)

    def whole(self, span: tuple[Words, int, int, int], taken: Set[tuple[int, int]]) -> str:
        """A subject with what stands before it: all words of a folder, of a file letters next to its number."""
        _, segment, first, end = span
        matches = self.matches(segment)
        while first and (segment, first - 1) not in taken:
            before, apart = matches[first - 1], matches[first].start() - matches[first - 1].end()
            letters = not before[0].isdecimal() and (apart == 0 or (apart == 1 and len(before[0]) <= _LETTERS))
            if not (letters if segment == -1 else apart <= 1):
                break
            first -= 1
        return self.text(segment, first, end)

    def around(self, segment: int, first: int, end: int) -> tuple[str, str]:
        """The characters before and behind a name: '' at an end, `a` for a letter or digit."""
        text, matches = self.segments[segment], self.matches(segment)
        before, after = text[: matches[first].start()][-1:], text[matches[end - 1].end() :][:1]
        return ("a" if before.isalnum() else before, "a" if after.isalnum() else after)


_Spans = dict[str, tuple[Words, int, int, int]]


class _Keys:
    """The key of each row in names by role, and the rows of each part of a key."""

    def __init__(self, cells: Mapping[str, Sequence[str]], columns: Mapping[str, str]) -> None:
        self.names = {role: [words(cell, role) for cell in cells[column]] for role, column in columns.items()}
        self.count = len(next(iter(cells.values())))
        self._cells = {role: cells[column] for role, column in columns.items()}
        self._indexes: dict[tuple[str, ...], dict[tuple[Words, ...], list[int]]] = {}

    def is_site(self, read: Mapping[str, _Spans]) -> bool:
        """Whether what was read may be sites: a number only before the subject, because others count photographs."""
        first = next(iter(read.values()), None)
        coded = any(not word.isdecimal() for name in self.names["site"] for word in name)
        return coded or first is None or first["site"][1:3] < first["subject"][1:3]

    def spells(self, role: str, each: _Path, read: Mapping[str, _Spans], row: int) -> bool:
        """Whether a path writes a name of its row as the table does."""
        span = read[each.path].get(role) if role in self._cells else None
        return span is not None and each.text(*span[1:]) == self._cells[role][row]

    def rows(self, key: Mapping[str, Words]) -> list[int]:
        roles = tuple(key)
        if roles not in self._indexes:
            index = self._indexes[roles] = defaultdict(list)
            for row, names in enumerate(zip(*(self.names[role] for role in roles), strict=True)):
                index[names].append(row)
        return self._indexes[roles].get(tuple(key.values()), [])


def join_images(
    cells: Mapping[str, Sequence[str]],
    paths: Sequence[str],
    columns: Mapping[str, str],
    *,
    regions: Sequence[str] = (),
    stated: Pattern | None = None,
) -> Joined:
    """Join the rows of a table to the images whose paths state their subject and, if they do, visit, region and number.

    Args:
        cells: the table by column.
        paths: of the images, with `/`.
        columns: the column of the subject, and those of visit, region and number if there are any.
        regions: of the study, which paths may name where the table does not.
        stated: the pattern of the paths; by default it is found from the names that occur in them.

    Raises:
        CasewiseError: the paths can be read in two ways, or two spellings would be one person.
    """
    keys = _Keys(cells, columns)
    split_paths = [_Path(path) for path in paths]
    best: dict[str, _Spans] = {}
    for loose in (False, True):
        names_of = {role: readings(role, keys.names[role], loose=loose, regions=regions) for role in columns}
        if regions and "region" not in columns:
            names_of["region"] = readings("region", map(words, regions))
        read = (
            _by_pattern(split_paths, names_of, stated) if stated else _by_places(split_paths, names_of, keys, columns)
        )
        if len(_assigned(read, keys, columns)) > len(_assigned(best, keys, columns)):
            best = read
        assigned = _assigned(best, keys, columns)
        if len(set(assigned.values())) >= ENOUGH * keys.count or len(assigned) >= ENOUGH * len(paths):
            break
    joined = Joined(columns=dict(columns))
    for path, row in assigned.items():
        joined.paths.setdefault(row, []).append(path)
    by_path = {each.path: each for each in split_paths}
    if not assigned:
        for role, column in columns.items():
            in_paths = {span[0] for each in split_paths for span in _occurring(each, role, names_of[role])}
            joined.absent[column] = [cell for cell in dict.fromkeys(cells[column]) if words(cell, role) not in in_paths]
    else:
        joined.columns = {role: columns[role] for role in best[next(iter(assigned))] if role in columns}
        joined.pattern = stated.text if stated else _pattern_text(by_path, best, assigned)
        # of fewer the join is not used
        used = len(set(assigned.values())) >= ENOUGH * keys.count or len(assigned) >= ENOUGH * len(paths)
        if used and not stated:
            _check_counters(split_paths, best, assigned, joined.pattern)
            _check_visits(split_paths, best, assigned, keys)
            _check_folders(joined, by_path, best, assigned, cells)
        several = _check_spellings(joined, by_path, best, assigned, cells, stated)
        if used and several:
            raise several
        if used and not stated:
            pairs = []
            for path, row in assigned.items():
                spans = best[path]
                taken = {(s, word) for role, (_, s, f, e) in spans.items() if role != "subject" for word in range(f, e)}
                pairs.append((cells[columns["subject"]][row], by_path[path].whole(spans["subject"], taken)))
            joined.doubts += check_letters(
                pairs, "the paths", f"state the letters of the paths, such as --pattern {joined.pattern!r}"
            )
        _add_stated(joined, by_path, best, assigned, regions, stated)
    return joined


def check_letters(pairs: Iterable[tuple[str, str]], other: str, remedy: str) -> list[str]:
    """A doubt on subjects of which one side has more words before the number, such as S01 and 01; [] if none has.

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


def met(joined: Joined, rows: int, images: int, *, both: bool = False) -> bool:
    """Whether enough of so many rows, or of the images, meet (or of both)."""
    shares = len(joined.paths) / rows, sum(map(len, joined.paths.values())) / images
    return (min if both else max)(shares) >= ENOUGH


def _assigned(read: Mapping[str, _Spans], keys: _Keys, columns: Mapping[str, str]) -> dict[str, int]:
    """The row of each path whose names only one row has."""
    rows = {}
    for path, spans in read.items():
        matches = keys.rows({role: spans[role][0] for role in columns if role in spans})
        if len(matches) == 1:
            rows[path] = matches[0]
    return rows


def _name_in_pattern(text: str, role: str, names_of: Mapping[Words, Words]) -> Words:
    """The name that a field of a stated pattern means; a letter of a unit is read where it is known to be a visit."""
    named = words(text, role)
    if role == "visit" and named and named[0] in LETTERS_OF_VISITS:
        named = (LETTERS_OF_VISITS[named[0]], *named[1:]) if named not in names_of else named
    return names_of.get(named, ("", text))


def _by_pattern(
    paths: Sequence[_Path], names_of: Mapping[str, Mapping[Words, Words]], stated: Pattern
) -> dict[str, _Spans]:
    """The names of the paths that match a pattern the user states; fields that the table lacks are left out."""
    result: dict[str, _Spans] = {}
    for each in paths:
        values = stated.read(each.path)
        if values is None:
            continue
        roles = {("number" if name in OF_FILES[:-1] else name): text for name, text in values.items()}
        roles["visit"] = roles.get("visit") or roles.get("date", "")
        spans: _Spans = {
            role: (_name_in_pattern(text, role, names_of[role]), 0, 0, 0)
            for role, text in roles.items()
            if text and role in names_of
        }
        result[each.path] = spans
    return result


def _by_places(
    paths: Sequence[_Path], names_of: Mapping[str, Mapping[Words, Words]], keys: _Keys, columns: Mapping[str, str]
) -> dict[str, _Spans]:
    """The names of the paths at the places where most rows meet images, of all columns that occur in the paths.

    Raises:
        CasewiseError: two columns may stand at each other's place.
    """
    sample = paths[:: max(1, len(paths) // _SAMPLE)]
    options = {role: _places(sample, role, spellings) for role, spellings in names_of.items()}
    ranked = []
    for chosen in itertools.product(*([*options[role], *([None] * (role != "subject"))] for role in names_of)):
        places = {role: place for role, place in zip(names_of, chosen, strict=True) if place is not None}
        if "subject" not in places:
            continue
        read = _read_at(sample, places, names_of)
        if "site" in places and not keys.is_site(read):
            continue
        if "visit" in places and any(_are_counters(sample, read, role) for role in ("visit", "subject")):
            continue
        rows = _assigned(read, keys, columns)
        of_table = sum(role in columns for role in places)
        # numbers of sites are few and small, so that one that is written as in the table comes first
        spelled = sum(each.path in rows and keys.spells("site", each, read, rows[each.path]) for each in sample)
        ranked.append(((len(set(rows.values())), of_table, len(rows), len(places), spelled), places, rows))
    if not ranked:
        return {}
    ranked.sort(key=lambda each: each[0], reverse=True)
    rank, places, rows = ranked[0]
    if other := next((p for r, p, other in ranked[1:] if r == rank and rank[2] and other != rows), None):
        first = sample[0]
        texts = [_text_at(first, _read_at([first], each, names_of).get(first.path, {})) for each in (places, other)]
        raise CasewiseError(
            f"The paths of the images, such as {first.path}, can be read as {' or as '.join(dict.fromkeys(texts))}: "
            f"the same numbers occur in several columns{_RESTART * ('site' in columns)}. State what they mean with "
            "--pattern, such as '{subject}/{visit}_{region}_{n}.jpg'."
        )
    read = _read_at(paths, places, names_of)
    # a name that is longer than those of the table is another one: `S01-2` is not `S01`
    edges = Counter(each.around(*read[each.path]["subject"][1:]) for each in sample if each.path in rows)
    usual = edges.most_common(1)[0][0] if edges else ("", "")
    return {p.path: read[p.path] for p in paths if p.path in read and p.around(*read[p.path]["subject"][1:]) == usual}


def _are_counters(paths: Iterable[_Path], read: Mapping[str, _Spans], role: str) -> bool:
    """Whether numbers of files that were read as visits, or subjects, count photographs, because folders hold both.

    Most subjects with several folders then have the same number in more than one. A number that was read as a subject
    may be one, unless the table has letters in its name.
    """
    other = "subject" if role == "visit" else "visit"
    folders: dict[Words, dict[str, set[Words]]] = defaultdict(lambda: defaultdict(set))
    for each in paths:
        if (spans := read.get(each.path)) is None:
            continue
        name, segment, first, end = spans[role]
        bare = all(match[0].isdecimal() for match in each.matches(segment)[first:end])
        if segment != -1 or not bare or (role == "subject" and all(word.isdecimal() for word in name)):
            return False
        taken = _taken(spans)
        others = [
            match[0]
            for of in range(-len(each.segments), -1)
            for word, match in enumerate(each.matches(of))
            if (of, word) not in taken
        ]
        folders[spans[other][0]][" ".join(others)].add(name)
    several = [list(names.values()) for names in folders.values() if len(names) > 1]
    crossed = [own for own in several if len(set.union(*own)) < sum(map(len, own))]
    return 2 * len(crossed) > len(several)


def _places(sample: Sequence[_Path], role: str, names_of: Mapping[Words, Words]) -> list[_Place]:
    """The places at which most paths have one of the names."""
    counts: Counter[_Place] = Counter()
    distinct: dict[_Place, set[Words]] = defaultdict(set)
    depth = max(len(each.segments) for each in sample)
    for segment in range(-1, -depth - 1, -1):
        most = min(_MOST_WORDS, max(len(each.matches(segment)) for each in sample))
        for word, from_end in itertools.product(range(most), (False, True)):
            place = _Place(segment, word, from_end)
            for each in sample:
                if span := each.read(role, place, names_of):
                    counts[place] += 1
                    distinct[place].add(span[0])
    order = sorted(counts, key=lambda place: (-counts[place], -len(distinct[place]), place.from_end))
    kept: dict[tuple[tuple[Words, int, int, int] | None, ...], _Place] = {}
    for place in order:
        kept.setdefault(tuple(each.read(role, place, names_of) for each in sample), place)
    return list(kept.values())[:_MOST_PLACES]


def _occurring(each: _Path, role: str, names_of: Mapping[Words, Words]) -> Iterator[tuple[Words, int, int, int]]:
    """The names of a column anywhere in a path."""
    for segment in range(-len(each.segments), 0):
        for word in range(len(each.matches(segment))):
            if span := each.read(role, _Place(segment, word), names_of):
                yield span


def _read_at(
    paths: Iterable[_Path], places: Mapping[str, _Place], names_of: Mapping[str, Mapping[Words, Words]]
) -> dict[str, _Spans]:
    """The names at these places of the paths that have all of them, in different words."""
    result: dict[str, _Spans] = {}
    for each in paths:
        spans: _Spans = {}
        for role, place in places.items():
            if (span := each.read(role, place, names_of[role])) is None:
                break
            spans[role] = span
        taken = [(segment, word) for _, segment, first, end in spans.values() for word in range(first, end)]
        if len(spans) == len(places) and len(set(taken)) == len(taken):
            result[each.path] = spans
    return result


def _text_at(each: _Path, spans: _Spans) -> str:
    """The path as a pattern: names as fields, other numbers as `*`."""
    segments = list(each.segments)
    by_segment: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for role, (_, segment, first, end) in spans.items():
        by_segment[segment].append((first, end, f"{{{'n' if role == 'number' else role}}}"))
    for segment in range(-1, -len(segments) - 1, -1):
        matches, text = each.matches(segment), segments[segment]
        taken = {word for first, end, _ in by_segment[segment] for word in range(first, end)}
        free = [(word, word + 1, "*") for word, m in enumerate(matches) if word not in taken and m[0].isdecimal()]
        for first, end, name in sorted([*by_segment[segment], *free], reverse=True):
            text = text[: matches[first].start()] + name + text[matches[end - 1].end() :]
        segments[segment] = text
    return "/".join(segments) + each.path[len(stem_of(each.path)) :].lower()


def _pattern_text(by_path: Mapping[str, _Path], read: Mapping[str, _Spans], assigned: Mapping[str, int]) -> str:
    """The pattern of most paths; what differs between them, other than by fields, is `*`."""
    texts = Counter(_text_at(by_path[path], read[path]) for path in itertools.islice(assigned, _SAMPLE))
    usual = texts.most_common(1)[0][0].split("/")
    alike = [each for text in texts if len(each := text.split("/")) == len(usual)]
    return "/".join(_common_level(level, own) for level, own in zip(zip(*alike, strict=True), usual, strict=True))


def _common_level(level: Sequence[str], usual: str) -> str:
    """The pattern of a folder or file of all paths, in which texts between fields are `*` where they differ.

    >>> _common_level(["{visit}a.jpg", "{visit}b.jpg"], "{visit}a.jpg"), _common_level(["left.png", "up.png"], "up.png")
    ('{visit}*.jpg', '*.png')
    """
    parts = [re.split(r"(\{\w+\})", each) for each in dict.fromkeys(level)]
    parts = [each for each in parts if each[1::2] == re.split(r"(\{\w+\})", usual)[1::2]]
    columns = [list(dict.fromkeys(texts)) for texts in zip(*parts, strict=True)]
    return "".join(
        texts[0] if len(texts) == 1 else _common_text(texts, PurePosixPath(usual).suffix) for texts in columns
    )


def _common_text(texts: Sequence[str], ending: str) -> str:
    """`*`, between the signs with which all texts begin or end, such as `_`, and before the ending of the file."""
    ending = ending if all(text.endswith(ending) for text in texts) else ""
    texts = [text.removesuffix(ending) for text in texts]
    start, end = texts[0][:1], texts[0][-1:]
    start = start if all(text.startswith(start) for text in texts) and not start.isalnum() else ""
    end = end if all(len(text) > 1 and text.endswith(end) for text in texts) and not end.isalnum() else ""
    return f"{start}*{end}{ending}".replace("**", "*")


def _check_spellings(
    joined: Joined,
    by_path: Mapping[str, _Path],
    read: Mapping[str, _Spans],
    assigned: Mapping[str, int],
    cells: Mapping[str, Sequence[str]],
    stated: Pattern | None,
) -> CasewiseError | None:
    """Say which names differ in spelling; refuse spellings that would make one subject of two.

    Returns:
        The refusal of subjects with images in several folders, if there are any.

    Raises:
        CasewiseError: a subject is written in several ways in the paths.
    """
    spellings: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    subjects: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
    for path, row in assigned.items():
        spans, values = read[path], (stated.read(path) or {}) if stated else {}
        for role, column in joined.columns.items():
            written = values.get(role, "") if stated else by_path[path].lettered(role, *spans[role][1:])
            if written and written != cells[column][row]:
                spellings[role][cells[column][row], written] = None
        name = ("", values.get("subject", "")) if stated else _whole_subject(by_path[path], spans)
        of_row = "-".join(cells[joined.columns[role]][row] for role in ("site", "subject") if role in joined.columns)
        subjects[of_row].setdefault(name, path)
    for role, pairs in spellings.items():
        shown = names_text([f"{text} in the paths is {cell}" for cell, text in pairs], 3)
        joined.understood.append(f"Spelling of {role}s: {shown}.")
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
    return _several_folders(joined.pattern, *folders[0], len(folders)) if folders else None


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


def _check_counters(
    paths: Sequence[_Path], read: Mapping[str, _Spans], assigned: Mapping[str, int], pattern: str
) -> None:
    """Refuse numbers of files as subjects where most such numbers are none of the table: they may count photographs.

    Raises:
        CasewiseError: fewer than half of the numbers at the place are subjects.
    """
    first = next(iter(assigned))
    _, segment, word, _ = read[first]["subject"]
    by_path = {each.path: each for each in paths}
    if segment != -1 or not all(by_path[path].text(*read[path]["subject"][1:]).isdecimal() for path in assigned):
        return
    numbers = [
        each.path for each in paths
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


def _check_visits(paths: Sequence[_Path], read: Mapping[str, _Spans], assigned: Mapping[str, int], keys: _Keys) -> None:
    """Refuse visits that agree in their numbers alone, where others have no image, and images no visit.

    Raises:
        CasewiseError: there are such visits, such as 1 to 4 of the table, and a baseline and weeks 1, 2 and 4.
    """
    if "visit" not in keys.names or any("visit" not in read[path] for path in assigned):
        return
    by_path = {each.path: each for each in paths}
    joined: dict[Words, tuple[str, str]] = {}
    for path in assigned:
        name, *span = read[path]["visit"]
        joined.setdefault(name, (by_path[path].text(*span), by_path[path].lettered("visit", *span)))
    # a date is no visit that has a kind
    kinds = [name for name in dict.fromkeys(keys.names["visit"]) if sum(map(str.isdecimal, name)) < 2]
    absent = [name for name in kinds if name not in joined]
    by_number = {name: written for name, (text, written) in joined.items() if len(words(text, "visit")) != len(name)}
    unused = next((each.path for each in paths if each.path not in assigned), "")
    if absent and unused and by_number:
        shown = names_text([f"{text} in the paths is {' '.join(name)}" for name, text in by_number.items()], 3)
        raise CasewiseError(
            f"VISITS OF DIFFERENT KINDS? Only numbers agree ({shown}), while {' '.join(absent[0])} of the table has no "
            f"image, and {unused} no row. Write the visits into the table as the folders name them."
        )


def _check_folders(
    joined: Joined,
    by_path: Mapping[str, _Path],
    read: Mapping[str, _Spans],
    assigned: Mapping[str, int],
    cells: Mapping[str, Sequence[str]],
) -> None:
    """Refuse images whose path names something else where the paths of most rows name the cell of a column.

    So a table of one hospital takes no photographs of another one with the same numbers.

    Raises:
        CasewiseError: there are some.
    """
    windows = {path: _free_windows(by_path[path], read[path]) for path in assigned}
    for column, values in cells.items():
        site = Column(column, ()).exactly(SITE)
        names = [words(value) for value in values]
        if column in joined.columns.values() or not any(name and (site or not _is_number(name)) for name in names):
            continue
        named = {path: windows[path][names[row]] for path, row in assigned.items() if names[row] in windows[path]}
        # a number in the name of a file rather counts photographs
        named = {p: span for p, span in named.items() if span[0] != -1 or not _is_number(names[assigned[p]])}
        around = {path: _around(by_path[path], read[path], span, numbers=site) for path, span in named.items()}
        if not around:
            continue
        usual = Counter(around.values()).most_common(1)[0][0]
        agreeing = [path for path, own in around.items() if own == usual]
        if len({assigned[path] for path in agreeing}) < max(2, ENOUGH * len(joined.paths)):
            continue
        other = [
            path for path, row in assigned.items()
            if names[row] and path not in named and _fits(by_path[path], read[path], usual, numbers=site)
        ]  # fmt: skip
        if other and not site and one_of_each(names, [words(cell) for cell in cells[joined.columns["subject"]]]):
            raise CasewiseError(
                f"WHICH NUMBER OF THE PEOPLE? The paths name the {column} of the table, and what was read as "
                f"{joined.columns['subject']} is not in all of them. Say so with --subject {cut(column)}, or with "
                "--pattern what the paths state."
            )
        if other:
            field_name, row = "_".join(heading_words(column).split()), assigned[other[0]]
            spans = {path: read[path] | {field_name: ((), *named[path])} for path in agreeing}
            pattern = _pattern_text(by_path, spans, dict.fromkeys(agreeing, 0))
            rows = counted(len({assigned[path] for path in agreeing}), "row")
            raise CasewiseError(
                f"OF ANOTHER {column.upper()}? The paths of {rows} name the {column} of the table, but "
                f"{counted(len(other), 'image')} would be joined to rows of another one, such as {other[0]} "
                f"to a row with {column} {cut(values[row])}. Repeat this with --pattern {pattern!r}, so "
                "that it counts too, or with '*' in its place if it says nothing."
            )


def one_of_each(first: Sequence[Words], second: Sequence[Words]) -> bool:
    """Whether each filled name of the first list goes with one of the second, and with no other."""
    pairs = {(a, b) for a, b in zip(first, second, strict=True) if a}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) > 1


def _is_number(name: Words) -> bool:
    return all(word.isdecimal() for word in name)


def _taken(spans: _Spans) -> set[tuple[int, int]]:
    """The words, by their segment and number, that name something else."""
    return {(segment, word) for _, segment, first, end in spans.values() for word in range(first, end)}


def _free_windows(each: _Path, spans: _Spans) -> dict[Words, tuple[int, int, int]]:
    """Where the names of up to four words stand in a path, besides those that were read."""
    taken, result = _taken(spans), dict[Words, tuple[int, int, int]]()
    for segment in range(-len(each.segments), 0):
        count = len(each.matches(segment))
        for first in range(count):
            for end in range(first + 1, min(first + 4, count) + 1):
                if (segment, end - 1) in taken:
                    break
                result.setdefault(words(each.text(segment, first, end)), (segment, first, end))
    return result


_Around = tuple[int, Words, Words]


def _free_words(each: _Path, spans: _Spans, segment: int, *, numbers: bool) -> list[tuple[int, str]]:
    """The words of a segment that were not read, with their numbers; `numbers` count too if they may be sites."""
    taken = _taken(spans)
    free = [(i, m[0].casefold()) for i, m in enumerate(each.matches(segment)) if (segment, i) not in taken]
    return [(i, word) for i, word in free if numbers or not word.isdecimal()]


def _around(each: _Path, spans: _Spans, span: tuple[int, int, int], *, numbers: bool) -> _Around:
    """The segment of a name, and the words before and behind it there."""
    segment, first, end = span
    free = _free_words(each, spans, segment, numbers=numbers)
    return segment, tuple(w for i, w in free if i < first), tuple(w for i, w in free if i >= end)


def _fits(each: _Path, spans: _Spans, around: _Around, *, numbers: bool) -> bool:
    """Whether a path has other words where the others have a name."""
    segment, before, behind = around
    free = tuple(w for _, w in _free_words(each, spans, segment, numbers=numbers))
    between = len(free) - len(before) - len(behind)
    return between > 0 and free[: len(before)] == before and free[len(before) + between :] == behind


def _whole_subject(each: _Path, spans: _Spans) -> tuple[str, str]:
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


def _add_stated(
    joined: Joined,
    by_path: Mapping[str, _Path],
    read: Mapping[str, _Spans],
    assigned: Mapping[str, int],
    regions: Sequence[str],
    stated: Pattern | None,
) -> None:
    """What the paths state beyond the table: the region of a study, the visit, and fields of a stated pattern."""
    names = {words(region): region for region in regions}
    for path in assigned:
        values = dict(stated.read(path) or {}) if stated else {}
        if "region" in read[path] and "region" not in joined.columns:
            values["region"] = names[read[path]["region"][0]]
        if "visit" in joined.columns:
            joined.visits[path] = values.get("visit", "") if stated else by_path[path].text(*read[path]["visit"][1:])
        joined.stated[path] = {name: text for name, text in values.items() if name not in joined.columns}
    if not stated and "visit" not in joined.columns:
        taken = {path: _taken(read[path]) for path in assigned}
        for path, visit in _visits([by_path[path] for path in assigned], taken).items():
            joined.stated[path]["visit"] = visit


def _visits(paths: Sequence[_Path], taken: Mapping[str, set[tuple[int, int]]], share: float = 1.0) -> dict[str, str]:
    """The visit that each path states, where a share of them does at one place in words that are not `taken`; or {}."""
    first, most_without = paths[0], round((1 - share) * len(paths))
    for segment in range(-len(first.segments), 0):
        for word in range(len(first.matches(segment))):
            visits, without = {}, 0
            for each in paths:
                matches = each.matches(segment)
                texts = [
                    each.text(segment, word, end)
                    for end in range(min(len(matches), word + 3), word, -1)
                    if not taken[each.path] & {(segment, w) for w in range(word, end)}
                ]
                visit, without = next(filter(is_visit if share == 1 else names_visit, texts), ""), without + 1
                if visit:
                    visits[each.path], without = visit, without - 1
                elif without > most_without:
                    break
            if len(visits) >= max(1, len(paths) - most_without):
                return visits
    return {}


def visits_in_paths(paths: Sequence[str], share: float = 1.0) -> dict[str, str]:
    """The visit that each path states, if at least a share of them states one at the same place; else {}.

    >>> visits_in_paths(["S1/week0/upper.jpg", "S1/week4/upper.jpg"])
    {'S1/week0/upper.jpg': 'week0', 'S1/week4/upper.jpg': 'week4'}
    """
    return _visits([_Path(path) for path in paths], {path: set() for path in paths}, share)


def names_visit(text: str) -> bool:
    """Whether a text, such as the name of a sheet, is a visit and nothing else, also one without a number.

    >>> [names_visit(text) for text in ("Week 4", "V2", "Follow-up", "End of treatment", "Sheet1", "scores")]
    [True, True, True, True, False, False]
    """
    return is_visit(text) or is_named_visit(text)


def is_visit(text: str) -> bool:
    """Whether a text names a visit: a unit of time with its number, a baseline, or a date.

    >>> [is_visit(text) for text in ("week4", "Baseline", "2024-01-31", "upper", "7")]
    [True, True, True, False, False]
    """
    named = words(text, "visit")
    if len(named) == 2 and named[1].isdecimal():
        return named[0] in (*_DAYS, "visit", "time", "date")
    return len(named) == 1 and named[0] in _SINGLE
