"""The registry of target kinds by name; kinds are imported on first use, so that study files are read quickly."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from casewise.targets.protocol import TargetKind

T = TypeVar("T")

DEFAULT = "regression"
_MODULES = {
    "regression": "casewise.targets.number",
    "classification": "casewise.targets.classes",
    "ordinal": "casewise.targets.grades",
}
_REGISTRY: dict[str, TargetKind] = {}


def register_kind(kind: TargetKind) -> TargetKind:
    """Add a kind of target to the registry.

    Raises:
        ValueError: the name is taken.
    """
    if kind.name in _REGISTRY:
        raise ValueError(f"A kind of target named {kind.name!r} is registered already.")
    _REGISTRY[kind.name] = kind
    return kind


def unregister_kind(name: str) -> None:
    """Remove a kind, for tests that add one."""
    _REGISTRY.pop(name, None)


def kind_names() -> list[str]:
    """The names of all kinds, as the study file writes them."""
    return list(dict.fromkeys([*_MODULES, *_REGISTRY]))


def kind_named(name: str) -> TargetKind:
    """The kind of a name.

    Raises:
        KeyError: no such kind is registered.

    >>> kind_named("ordinal").width(5), kind_named("classification").columns(2)
    (4, ['p0', 'p1'])
    """
    if name not in _REGISTRY and name in _MODULES:
        importlib.import_module(_MODULES[name])
    return _REGISTRY[name]


def added_kinds() -> list[TargetKind]:
    """The registered kinds that are not built in: another process has to register them again."""
    return [kind for name, kind in _REGISTRY.items() if name not in _MODULES]


def by_form(name: str, options: Mapping[str, T]) -> T:
    """The option for a kind of target: that of its name, else that of its form, 'number' or 'classes'.

    >>> by_form("ordinal", {"number": "a mean", "classes": "shares"})
    'shares'
    """
    return options[name] if name in options else options[kind_named(name).form]
