"""The base class of every section of a study file, the types of values that they share, and seeds from values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
)

from casewise.errors import CasewiseError, Suggesting, cut, none_of
from casewise.metrics.registry import metric_names
from casewise.plugin import plugins
from casewise.study.yaml_text import Values


def _in_one_line(schema: Values) -> None:
    """Join the lines of the descriptions in a JSON schema."""
    for field in schema.get("properties", {}).values():
        field |= {name: " ".join(text.split()) for name, text in field.items() if name == "description"}


class StudyModel(Suggesting, BaseModel):
    """A section of the study file: unknown keys are refused, and values do not change after reading.

    The text below a field is its description in the reference pages and the JSON schema.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_extra=_in_one_line,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_is_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a setting has none; pydantic reads them as 1 and 0."""
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) for item in items):
            annotation: Any = cls.model_fields[info.field_name or ""].annotation
            types = _types_of(annotation)
            if types & {int, float} and not types & {bool, True, False}:
                raise ValueError("must be a number, and not true or false")
        return value

    def check_with(self, study: Any) -> None:
        """Check this section against the rest of the study; a section without such rules accepts any.

        Raises:
            ValueError: the section contradicts another one; the message begins with the key.
        """


Model = TypeVar("Model", bound=StudyModel)


def with_keys_of_plugins(core: type[Model], section: str = "") -> type[Model]:
    """The class of the study, or of a section, with the keys that plugins bring; a section's key may widen its own.

    Raises:
        CasewiseError: the key of a plugin is there already, or has no default.
    """
    owners = {} if section else dict.fromkeys(core.model_fields, "casewise")
    classes: list[type[StudyModel]] = []  # the last plugin first: fields of later bases come first
    for plugin in plugins():
        keys = plugin.section_keys(section) if section else plugin.study_keys()
        if not keys:
            continue
        if not (isinstance(keys, type) and issubclass(keys, StudyModel)):
            raise CasewiseError(f"The plugin {plugin.name} must return a subclass of StudyModel as its `study_keys`.")
        if needed := [name for name, field in keys.model_fields.items() if field.is_required()]:
            raise CasewiseError(f"The plugin {plugin.name} must give its key {needed[0]!r} a default.")
        if taken := [name for name in keys.model_fields if name in owners]:
            of = owners[taken[0]]
            raise CasewiseError(f"The plugin {plugin.name} has the key {taken[0]!r} of {of}. Remove the plugin.")
        owners |= dict.fromkeys(keys.model_fields, f"the plugin {plugin.name}")
        classes.insert(0, keys)
    bases: Any = (*classes, core)
    return create_model(core.__name__, __base__=bases, __module__=core.__module__, __doc__=core.__doc__)


@cache
def _types_of(annotation: Any) -> frozenset[Any]:
    """The types and values that an annotation consists of.

    >>> sorted(map(str, _types_of(int | Literal["auto"])))
    ["<class 'int'>", 'auto']
    """
    arguments = get_args(annotation)
    return frozenset().union(*map(_types_of, arguments)) if arguments else frozenset([annotation])


def refuse(problems: Mapping[str, object]) -> None:
    """Refuse the first problem that is one.

    >>> refuse({"lr: must be positive": 1 < 0})

    Raises:
        ValueError: with its message.
    """
    for message, is_so in problems.items():
        if is_so:
            raise ValueError(message)


def parse_range(value: Any) -> Any:
    """Read `0..4` as (0.0, 4.0); anything else is left to the type check.

    >>> parse_range("0..4")
    (0.0, 4.0)
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*\.\.\s*(-?\d+(?:\.\d+)?)\s*", value)
        if not match:
            raise ValueError("a range is written as two numbers, such as 0..4")
        return float(match[1]), float(match[2])
    return value


def parse_grid(value: Any) -> str:
    """Read rows and columns of a panel, such as 3x3; the sign × and spaces are accepted.

    >>> parse_grid("3 × 3")
    '3x3'
    """
    text = re.sub(r"\s", "", str(value)).lower().replace("×", "x")
    if not re.fullmatch(r"[1-8]x[1-8]", text):
        raise ValueError(f"{cut(value)} is not a grid; write rows x columns from 1 to 8, such as 3x3")
    return text


def parse_fraction(value: Any) -> Any:
    """Read `10%` as 0.1.

    >>> parse_fraction("10%")
    0.1
    """
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            fraction = float(value.strip()[:-1]) / 100
        except ValueError:
            raise ValueError("a fraction is written as 10% or 0.1") from None
        if not 0 <= fraction < 1:
            raise ValueError("must be at least 0% and below 100%")
        return fraction
    return value


def texts(value: Any) -> Any:
    """Turn numbers in `where` into text, because table cells are compared as text.

    >>> texts({"known": 1, "site": ["a", 2]})
    {'known': '1', 'site': ['a', '2']}
    """
    if not isinstance(value, dict):
        return value
    return {k: [str(i) for i in v] if isinstance(v, list) else str(v) for k, v in value.items()}


def check_metric(name: str) -> str:
    """Return the name of a registered metric."""
    if name not in metric_names():
        raise ValueError(f"the metric {none_of(name, metric_names())}")
    return name


RowFilter = Annotated[dict[str, str | list[str]], BeforeValidator(texts)]
Range = Annotated[tuple[float, float], BeforeValidator(parse_range)]
Fraction = Annotated[float, BeforeValidator(parse_fraction), Field(ge=0, lt=1)]
MetricName = Annotated[str, AfterValidator(check_metric), WithJsonSchema({"enum": metric_names(), "type": "string"})]
Level = Literal["image", "region", "case", "subject"]


def read_duration(value: Any) -> Any:
    """Seconds from a text such as `30min`; anything else is returned unchanged.

    >>> read_duration("30min"), read_duration("1.5 h"), read_duration("90s"), read_duration(60)
    (1800.0, 5400.0, 90.0, 60)
    """
    unit = r"s|secs?|seconds?|mins?|minutes?|h|hours?"
    stated = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*({unit})\s*", value) if isinstance(value, str) else None
    if isinstance(value, str) and stated is None:
        raise ValueError("write a number and its unit, such as 30min, 2h or 90s")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 60:
        raise ValueError(f"a number without a unit is in seconds, at least 60; for minutes write {value:g}min")
    seconds = float(stated[1]) * {"s": 1, "m": 60, "h": 3600}[stated[2][0]] if stated else value
    if stated and seconds < 60:
        raise ValueError("must be at least 60s, which is 1min")
    return seconds


def mixed_seed(*values: object) -> int:
    """One seed from several values, the same on every machine.

    >>> mixed_seed(1, "a") == mixed_seed(1, "a") != mixed_seed(1, "b")
    True
    """
    return int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:7], "big")
