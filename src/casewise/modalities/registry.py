"""The one place that knows which modality a study has."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from casewise.errors import StudyError, nearest

if TYPE_CHECKING:
    from casewise.modalities.base import Modality
    from casewise.study.schema import Study

BUILT_IN = ("photographs", "slides", "volumes")
_REGISTERED: dict[str, Modality] = {}


def register(modality: Modality) -> Modality:
    """Make a modality available to studies that name it as `modality:`; return it."""
    _REGISTERED[modality.name] = modality
    return modality


def modality_of(study: Study) -> Modality:
    """The modality of a study.

    Raises:
        StudyError: no modality has the name that the study states.
    """
    name = study.modality_name
    if name not in _REGISTERED:
        if name not in BUILT_IN:
            names = [*BUILT_IN, *_REGISTERED]
            raise StudyError(f"modality: {name!r} is none of {', '.join(names)}.{nearest(name, names)}")
        register(import_module(f"casewise.modalities.{name}.modality").MODALITY)
    return _REGISTERED[name]
