"""The form that a reader fills in for each case: its fields follow from the targets of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError, cut, none_of
from casewise.files import json_hash
from casewise.plugins.readers.settings import PASI, Reading
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.study.schema import Study

# A number with this many values or fewer is chosen from options, one key each.
MOST_OPTIONS = 10
STEPS_OF_A_RANGE = 100
# The key of a comment, which no target can have.
COMMENT, LONGEST_COMMENT = "#comment", 2000


class FormError(CasewiseError):
    """A value that a field does not accept."""


@dataclass(frozen=True)
class Option:
    """A value that a reader may choose, and what it means."""

    value: str
    text: str = ""


@dataclass(frozen=True)
class FormField:
    """One value of a case, or of one region of it.

    Attributes:
        key: the target, with its region in brackets where it has one, such as `erythema[trunk]`.
        kind: of the target (see `casewise.targets`).
        options: the values; empty for a number that is typed.
        low, high, step: of a number.
    """

    key: str
    target: str
    region: str
    title: str
    kind: str
    options: tuple[Option, ...] = ()
    low: float = 0.0
    high: float = 1.0
    step: float = 1.0

    def checked(self, text: str) -> str:
        """The value as it is stored.

        Raises:
            FormError: it is none of the options, outside the range, or between two steps.
        """
        if self.options:
            values = [option.value for option in self.options]
            if text not in values:
                raise FormError(f"{self.title}: {none_of(text, values)}")
            return text
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        steps = (number - self.low) / self.step
        if not self.low <= number <= self.high or abs(steps - round(steps)) > 1e-6:
            limits = f"from {self.low:g} to {self.high:g} in steps of {self.step:g}"
            raise FormError(f"{self.title}: a number {limits} is needed, found {cut(text)}.")
        return f"{self.low + round(steps) * self.step:.10g}"

    def accepts(self, text: str) -> bool:
        """Whether `checked` would; values of an earlier form may not be accepted any more."""
        try:
            return bool(self.checked(text))
        except FormError:
            return False

    def code(self, text: str) -> float:
        """A stored value as a number: for classes and grades their position among the options.

        >>> grade = FormField("g", "g", "", "G", "ordinal", (Option("mild"), Option("severe")))
        >>> grade.code("severe"), FormField("n", "n", "", "N", "regression", high=8).code("2.5")
        (1.0, 2.5)
        """
        if kind_named(self.kind).form == "number":
            return float(text)
        return float([option.value for option in self.options].index(text))


@dataclass(frozen=True)
class Form:
    """The fields of a case, by region and in the order of the targets, and the reasons why it cannot be judged."""

    fields: tuple[FormField, ...]
    reasons: tuple[str, ...]
    pause: int = 50

    @property
    def version(self) -> str:
        """A checksum of everything that a reader sees of the form."""
        return json_hash(self.as_json())[:16]

    def as_json(self) -> dict[str, Any]:
        """The form as plain values, with the key of comments."""
        return asdict(self) | {"comment": COMMENT}

    def field(self, key: str) -> FormField:
        """The field of a key.

        Raises:
            FormError: there is none.
        """
        keys = {field.key: field for field in self.fields}
        if key not in keys:
            raise FormError(f"The form has no such field: {none_of(key, list(keys))}")
        return keys[key]

    def checked(self, key: str, value: str) -> str:
        """A value, a comment, or with an empty key a reason, as it is stored.

        Raises:
            FormError: the field does not accept it.
        """
        if key == COMMENT:
            if len(value) > LONGEST_COMMENT:
                raise FormError(f"A comment has at most {LONGEST_COMMENT:,} characters; this one has {len(value):,}.")
            return value
        if not key:
            if value not in self.reasons:
                raise FormError(f"The reason {none_of(value, self.reasons)}")
            return value
        return self.field(key).checked(value)


def form_of(study: Study) -> Form:
    """The form of a study: each target, for each region where it has one value a region."""
    reading: Reading = study.key("reading")
    names = reading.targets or list(study.targets)
    pasi = "pasi" in study.scores
    by_region: dict[str, list[FormField]] = {}
    for name in names:
        stated = reading.anchors.get(name, "pasi" if pasi and name in PASI else {})
        anchors = PASI.get(name, {}) if isinstance(stated, str) else stated
        regions = study.regions if study.level_of(name) == "region" else [""]
        for region in regions:
            field = _field(study, name, region, anchors)
            if not isinstance(stated, str):
                _check_anchors(field, anchors)
            by_region.setdefault(region, []).append(field)
    # values of the whole case come last
    ordered = sorted(by_region.items(), key=lambda entry: not entry[0])
    fields = tuple(field for _, of_region in ordered for field in of_region)
    return Form(fields, tuple(reading.reasons))


def _check_anchors(field: FormField, anchors: Mapping[str, str]) -> None:
    values = [option.value for option in field.options]
    if anchors and not values:
        raise CasewiseError(f"reading.anchors.{field.target}: its numbers are typed and show no meaning. Leave it out.")
    for value in anchors:
        if value not in values:
            raise CasewiseError(f"reading.anchors.{field.target}: {none_of(value, values)}")


def _field(study: Study, name: str, region: str, anchors: Mapping[str, str]) -> FormField:
    target, low_high = study.targets[name], study.range_of(name)
    key, title = f"{name}[{region}]" if region else name, name.replace("_", " ")
    if target.classes:
        options = tuple(Option(value, anchors.get(value, "")) for value in target.classes)
        return FormField(key, name, region, title, target.kind, options)
    low, high = low_high
    step = study.key("reading").steps.get(name, 1.0 if target.integer else _default_step(low, high))
    count = int((high - low) / step + 1e-6) + 1
    values = [f"{low + number * step:.10g}" for number in range(count)] if count <= MOST_OPTIONS else []
    options = tuple(Option(value, anchors.get(value, "")) for value in values)
    return FormField(key, name, region, title, target.kind, options, low, high, step)


def _default_step(low: float, high: float) -> float:
    """The largest power of ten that is at most a hundredth of a range.

    >>> _default_step(0, 1), _default_step(0, 18), _default_step(0, 72)
    (0.01, 0.1, 0.1)
    """
    return float(10.0 ** math.floor(math.log10((high - low) / STEPS_OF_A_RANGE) + 1e-9))
