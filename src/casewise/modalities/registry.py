"""The one place that knows which modality a study has."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from casewise.errors import StudyError, nearest
from casewise.study.schema import register_settings

if TYPE_CHECKING:
    from casewise.modalities.base import Modality
    from casewise.study.schema import Study

BUILT_IN = ("photographs", "slides", "volumes")
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


def modality_of(study: Study) -> Modality:
    """The modality of a study.

    Raises:
        StudyError: no modality has the name that the study states.
    """
    name = study.modality_name
    if name not in _REGISTERED:
        if name not in BUILT_IN:
            names = list(dict.fromkeys([*BUILT_IN, *_REGISTERED]))
            raise StudyError(f"modality: {name!r} is none of {', '.join(names)}.{nearest(name, names)}")
        register(import_module(f"casewise.modalities.{name}.modality").MODALITY)
    return _REGISTERED[name]
