"""Paths of images in words with their positions, names that are read in them, and the pattern that they follow.

Dates in a path are written as 2024-01-31, in whatever form the path has them.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TypeAlias

from casewise.cohort.clinical_words import WORD, Words
from casewise.cohort.folder_layout import Pattern, stem_of
from casewise.names import one_form
from casewise.plugins.init.key_names import is_visit, names_visit, words
from casewise.plugins.init.path_dates import PathDate, dates_in

# Paths that are looked at to find where the names stand, and words of a name.
SAMPLE, MOST_WORDS = 600, 8
_LETTERS = 3
# A name with the segment in which it stands, its first word and the word behind it; several by what they state.
Span: TypeAlias = tuple[Words, int, int, int]
Spans: TypeAlias = dict[str, Span]


@dataclass(frozen=True)
class Place:
    """Where a name stands in all paths: in the folder or file counted from the end, and from which word or up to it."""

    segment: int
    word: int
    from_end: bool = False


class PathWords:
    """A path in its folders and its name, each in words with their positions; `dates` as from `dates_in`."""

    def __init__(self, path: str, dates: Mapping[int, Sequence[PathDate]] = MappingProxyType({})) -> None:
        self.path = path
        self.segments = segments_of(path)
        self._words: dict[int, list[re.Match[str]]] = {}
        self._dates: dict[int, list[PathDate]] = {}
        self._written: dict[tuple[int, int], str] = {}
        for segment, own in dates.items():
            text, moved = self.segments[segment], list[PathDate]()
            for each in reversed(own):
                written = date.fromordinal(each.day).isoformat() if each.day else text[each.start : each.end]
                by = len(written) - (each.end - each.start)
                moved = [PathDate(d.start + by, d.end + by, d.day) for d in moved]
                moved.insert(0, PathDate(each.start, each.start + len(written), each.day))
                text = text[: each.start] + written + text[each.end :]
            for each, before in zip(moved, own, strict=True):
                self._written[segment, each.start] = self.segments[segment][before.start : before.end]
            self.segments[segment], self._dates[segment] = text, moved

    @property
    def dated(self) -> str:
        """The path with its dates as 2024-01-31."""
        return "/".join(self.segments) + self.path[len(stem_of(self.path)) :]

    def matches(self, segment: int) -> list[re.Match[str]]:
        if segment not in self._words:
            inside = -len(self.segments) <= segment
            self._words[segment] = list(WORD.finditer(self.segments[segment])) if inside else []
        return self._words[segment]

    def read(self, role: str, place: Place, names_of: Mapping[Words, Words]) -> Span | None:
        """The name at a place, the longest one, with its segment, first word and the word behind it."""
        matches = self.matches(place.segment)
        edge = len(matches) - place.word if place.from_end else place.word
        for length in range(min(MOST_WORDS, len(matches)), 0, -1):
            first, end = (edge - length, edge) if place.from_end else (edge, edge + length)
            if first >= 0 and end <= len(matches) and not self._divides_date(place.segment, first, end):
                text = self.text(place.segment, first, end, as_written=role != "visit")
                if name := names_of.get(words(text, role)):
                    return name, place.segment, first, end
        return None

    def text(self, segment: int, first: int, end: int, *, as_written: bool = False) -> str:
        """The text of some words; `as_written`: with dates in the form of the path."""
        matches = self.matches(segment)
        start, behind = matches[first].start(), matches[end - 1].end()
        text = self.segments[segment][start:behind]
        for own in reversed(self._dates.get(segment, ())) if as_written else ():
            if start <= own.start and own.end <= behind:
                text = text[: own.start - start] + self._written[segment, own.start] + text[own.end - start :]
        return text

    def lettered(self, role: str, segment: int, first: int, end: int) -> str:
        """The text of a name; of a visit with letters that touch its number, such as V of V1."""
        matches = self.matches(segment)
        while role == "visit" and first and matches[first - 1].end() == matches[first].start():
            first -= 1
        return self.text(segment, first, end, as_written=role != "visit")

    def whole(self, span: Span, taken: Set[tuple[int, int]]) -> str:
        """A subject with what stands before it: all words of a folder, of a file letters next to its number."""
        _, segment, first, end = span
        matches = self.matches(segment)
        while first and (segment, first - 1) not in taken:
            before, apart = matches[first - 1], matches[first].start() - matches[first - 1].end()
            letters = not before[0].isdecimal() and (apart == 0 or (apart == 1 and len(before[0]) <= _LETTERS))
            if not (letters if segment == -1 else apart <= 1):
                break
            first -= 1
        return self.text(segment, first, end, as_written=True)

    def _divides_date(self, segment: int, first: int, end: int) -> bool:
        """Whether words have a part of a date."""
        matches = self.matches(segment)
        start, behind = matches[first].start(), matches[end - 1].end()
        return any(
            start < own.end and own.start < behind and not (start <= own.start and own.end <= behind)
            for own in self._dates.get(segment, ())
        )

    def words_of_dates(self, segment: int) -> list[tuple[int, int, int]]:
        """Of each date in a folder or file its first word, the one behind it, and its ordinal day; 0 if not known."""
        matches = self.matches(segment)
        return [
            (inside[0], inside[-1] + 1, own.day)
            for own in self._dates.get(segment, ())
            if (inside := [n for n, word in enumerate(matches) if own.start <= word.start() < own.end])
        ]

    def dates(self) -> dict[tuple[int, int], int]:
        """The dates in the path as ordinal days, by the segment and the first word of each.

        >>> paths_in_words(["S1/2024-01-31/a_20240201_2.jpg"])[0].dates()
        {(-2, 0): 738916, (-1, 1): 738917}
        """
        segments = range(-len(self.segments), 0)
        return {(at, first): day for at in segments for first, _, day in self.words_of_dates(at) if day}

    def date_texts(self) -> dict[tuple[int, int], str]:
        """The text of each date in the path, whether or not its day is known, by the segment and the first word."""
        segments = range(-len(self.segments), 0)
        return {(at, first): self.text(at, first, end) for at in segments for first, end, _ in self.words_of_dates(at)}

    def around(self, segment: int, first: int, end: int) -> tuple[str, str]:
        """The characters before and behind a name: '' at an end, `a` for a letter or digit."""
        text, matches = self.segments[segment], self.matches(segment)
        before, after = text[: matches[first].start()][-1:], text[matches[end - 1].end() :][:1]
        return ("a" if before.isalnum() else before, "a" if after.isalnum() else after)


def segments_of(path: str) -> list[str]:
    """The folders of a path and the name of its file without ending."""
    return one_form(stem_of(path)).split("/")


def paths_in_words(paths: Sequence[str], days: frozenset[int] = frozenset()) -> list[PathWords]:
    """All paths of a folder, in words; `days` of the table show the order of day and month in dates."""
    return list(_in_words(tuple(paths), days))


@lru_cache(4)
def _in_words(paths: tuple[str, ...], days: frozenset[int]) -> list[PathWords]:
    dates = dates_in([segments_of(path) for path in paths], days)
    return [PathWords(path, own) for path, own in zip(paths, dates, strict=True)]


@dataclass(frozen=True)
class Matched:
    """Paths in which names of a table were read, and the rows that they belong to.

    Attributes:
        paths: all paths, by their text.
        read: the names in each path that was read.
        rows: the row of each path whose names only one row has, from 0.
        cells: the table by column.
        columns: the columns that the paths of rows state, by what they state.
        stated: the pattern of the paths, if the user states it.
    """

    paths: Mapping[str, PathWords]
    read: Mapping[str, Spans]
    rows: Mapping[str, int]
    cells: Mapping[str, Sequence[str]]
    columns: Mapping[str, str]
    stated: Pattern | None = None

    def text(self, path: str, role: str) -> str:
        """A name as a path writes it."""
        return self.paths[path].text(*self.read[path][role][1:], as_written=role != "visit")

    def cell(self, path: str, role: str) -> str:
        """The cell of a path's row."""
        return self.cells[self.columns[role]][self.rows[path]]

    def values(self, path: str) -> Mapping[str, str]:
        """What a path states by a pattern of the user; {} without one."""
        return (read_stated(self.stated, self.paths[path]) or {}) if self.stated else {}

    @property
    def pattern(self) -> str:
        """What the paths of rows were read as."""
        return self.stated.text if self.stated else pattern_text(self.paths, self.read, self.rows)


def read_stated(stated: Pattern, path: PathWords) -> dict[str, str] | None:
    """What a path states by a pattern of the user, with dates as 2024-01-31; None if it does not match."""
    return stated.read(path.dated if "date" in stated.fields else path.path)


def taken_words(spans: Spans) -> set[tuple[int, int]]:
    """The words, by their segment and number, that name something else."""
    return {(segment, word) for _, segment, first, end in spans.values() for word in range(first, end)}


def occurring(each: PathWords, role: str, names_of: Mapping[Words, Words]) -> Iterator[Span]:
    """The names of a column anywhere in a path."""
    for segment in range(-len(each.segments), 0):
        for word in range(len(each.matches(segment))):
            if span := each.read(role, Place(segment, word), names_of):
                yield span


def text_at(each: PathWords, spans: Spans) -> str:
    """The path as a pattern: names as fields, other numbers as `*`."""
    segments = list(each.segments)
    by_segment: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for role, (_, segment, first, end) in spans.items():
        by_segment[segment].append((first, end, f"{{{'n' if role == 'number' else role}}}"))
    for segment in range(-1, -len(segments) - 1, -1):
        matches, text = each.matches(segment), segments[segment]
        taken = {word for first, end, _ in by_segment[segment] for word in range(first, end)}
        free = [(first, end, "*") for first, end, _ in each.words_of_dates(segment) if first not in taken]
        taken |= {word for first, end, _ in free for word in range(first, end)}
        free += [(word, word + 1, "*") for word, m in enumerate(matches) if word not in taken and m[0].isdecimal()]
        for first, end, name in sorted([*by_segment[segment], *free], reverse=True):
            text = text[: matches[first].start()] + name + text[matches[end - 1].end() :]
        segments[segment] = text
    return "/".join(segments) + each.path[len(stem_of(each.path)) :].lower()


def pattern_text(by_path: Mapping[str, PathWords], read: Mapping[str, Spans], assigned: Mapping[str, int]) -> str:
    """The pattern of most paths; what differs between them, other than by fields, is `*`."""
    texts = Counter(text_at(by_path[path], read[path]) for path in itertools.islice(assigned, SAMPLE))
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


def visits_beside(
    paths: Sequence[PathWords], taken: Mapping[str, set[tuple[int, int]]], share: float = 1.0
) -> dict[str, str]:
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
                if (segment, word) not in taken[each.path]:
                    visit = visit or each.date_texts().get((segment, word), "")
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
    return visits_beside(paths_in_words(paths), {path: set() for path in paths}, share)
