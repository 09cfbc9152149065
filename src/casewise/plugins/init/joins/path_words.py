"""Paths of images in words with their positions, and names that are read in them.

Dates in a path are written as 2024-01-31, in whatever form the path has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from types import MappingProxyType
from typing import TypeAlias

from casewise.cohort.clinical_words import WORD, Words
from casewise.cohort.folder_layout import stem_of
from casewise.names import one_form
from casewise.plugins.init.joins.path_dates import PathDate, dates_in
from casewise.plugins.init.key_names import is_visit, names_visit, words

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

    def goes_on(self, segment: int, first: int, end: int) -> bool:
        """Whether a number behind a point follows a name, so that it is another one, such as V2.1."""
        matches = self.matches(segment)
        return re.match(r"\.\d", self.segments[segment][matches[end - 1].end() :]) is not None

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


def taken_words(spans: Spans) -> set[tuple[int, int]]:
    """The words, by their segment and number, that name something else."""
    return {(segment, word) for _, segment, first, end in spans.values() for word in range(first, end)}


def occurring(each: PathWords, role: str, names_of: Mapping[Words, Words]) -> Iterator[Span]:
    """The names of a column anywhere in a path."""
    for segment in range(-len(each.segments), 0):
        for word in range(len(each.matches(segment))):
            if span := each.read(role, Place(segment, word), names_of):
                yield span


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
