"""Immutable records, written to JSON and read from it, which are also mappings. Undefined values are None."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar, dataclass_transform

import numpy as np

_DIGITS = 6
T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Record(Mapping[str, Any]):
    """A base class that makes each subclass a frozen dataclass, which is also a mapping of its fields.

    As a mapping, and in JSON, a record has no optional fields that are None: fields whose default and value are None.
    """

    # for `from_json`: unknown keys are errors
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    def __getitem__(self, name: str) -> Any:
        if name not in iter(self):
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return (item.name for item in fields(self) if item.default is not None or getattr(self, item.name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Threshold(float):
    """A threshold; `plain` writes it with all its digits, because scores are compared with it."""

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> Any:  # `from_json` makes a threshold from a number
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(cls, core_schema.float_schema())


def plain(value: Any) -> Any:
    """Plain values for JSON: floats with six significant digits, records without optional fields that are None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: plain(content)
            for item in fields(value)
            if (content := getattr(value, item.name)) is not None or item.default is not None
        }
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, Threshold):
        return float(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{_DIGITS}g}")
    return int(value) if isinstance(value, np.integer) else value


@cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def from_json(kind: type[T], value: Any) -> T:
    """The record of type `kind` from values as `plain` gives them.

    Raises:
        ValueError: the values do not fit this type.
    """
    record: T = _adapter(kind).validate_python(value)  # type: ignore[arg-type]
    return record
