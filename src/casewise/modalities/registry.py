"""The one place that knows which modality a study has."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from casewise.errors import StudyError, nearest
from casewise.plugin import KEYS, plugins
from casewise.study.schema import register_settings

if TYPE_CHECKING:
    from casewise.modalities.base import Modality
    from casewise.study.schema import Study

_REGISTERED: dict[str, Modality] = {}


def register(modality: Modality) -> Modality:
    """Make a modality available to studies that name it as `modality:`; return it.

    A modality with an attribute `Settings`, a `casewise.study.schema.StudyModel`, adds a section of its name to the
    study file: `study.modality_settings`.
    """
    _REGISTERED[modality.name] = modality
    if settings := getattr(modality, "Settings", None):
        register_settings(modality.name, settings)
    return modality


def modality_names() -> list[str]:
    """The modalities of casewise and of its plugins; others are registered by programs."""
    return ["photographs", *(plugin.name for plugin in plugins() if plugin.section)]


def modality_of(study: Study) -> Modality:
    """The modality of a study.

    Raises:
        StudyError: no modality has the name that the study states.
    """
    name = study.modality_name
    if name not in _REGISTERED:
        _register_plugins()
    if name not in _REGISTERED:
        names = list(_REGISTERED)
        missing = " It is a plugin of casewise, which is not installed here." if name in KEYS.values() else ""
        raise StudyError(f"modality: {name!r} is none of {', '.join(names)}.{missing or nearest(name, names)}")
    return _REGISTERED[name]


def _register_plugins() -> None:
    """Register photographs, and the modalities of plugins; those that have another of the same name are kept."""
    photographs = import_module("casewise.modalities.photographs.modality").MODALITY
    for modality in (photographs, *(plugin.modality() for plugin in plugins())):
        if modality is not None and modality.name not in _REGISTERED:
            register(modality)
