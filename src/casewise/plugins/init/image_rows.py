"""The images of a new study, with what is stated about each of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from casewise.plugins.init import image_files

T = TypeVar("T")
# What paths may state about an image.
ROW_FIELDS = ("label", "subject", "visit", "date", "sequence", "split")


@dataclass
class ImageRows:
    """The images, where what is stated about them comes from, and sentences on them.

    Attributes:
        sources: the row of the table of each image, from 0; empty without a table.
        paths: its path; '' if it is missing.
        fields: by subject, visit, date, sequence, split or label, what is stated about each image.
        others: further columns of the cohort table.
        origins: the column of the table, `the folder` or `file names` that a field comes from.
        subjects_known: every image of a person has the same subject.
        files: the columns of the table that name images.
        by_image: whether each image is predicted by itself.
        day_used: whether a column of days states the day of each visit.
        notes: sentences on how the table was read.
        stated_fields: the fields of a pattern that the user states.
        keys: the columns by which rows were joined to paths.
        problems: for each image what a cell names that was not found, or ''; empty if no column names images.
    """

    sources: list[int]
    paths: list[str]
    fields: dict[str, list[str]] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    subjects_known: bool = True
    files: list[image_files.FileColumn] = field(default_factory=list)
    by_image: bool = False
    day_used: bool = True
    notes: list[str] = field(default_factory=list)
    understood: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    changed: bool = False
    stated_fields: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> list[str]:
        """A field of each image; '' where nothing is stated."""
        return self.fields.get(name) or [""] * len(self.paths)

    def has(self, name: str) -> bool:
        return any(self[name])

    def of(self, column: Sequence[T]) -> list[T]:
        """The values of a column of the table, image by image."""
        return [column[source] for source in self.sources]

    def state(self, name: str, values: list[str], origin: str) -> None:
        self.fields[name], self.origins[name] = values, origin

    @property
    def present(self) -> list[int]:
        """The positions of images that are not missing."""
        return [position for position, path in enumerate(self.paths) if path]

    @property
    def subjects(self) -> int:
        return len({self["subject"][position] for position in self.present} - {""})

    def by_case(self, values: Iterable[T]) -> dict[tuple[str, str], set[T]]:
        """The different values of each subject and visit; `values` has one for each image."""
        cases: dict[tuple[str, str], set[T]] = defaultdict(set)
        for subject, visit, value in zip(self["subject"], self["visit"], values, strict=True):
            cases[subject, visit].add(value)
        return cases
