"""The one place that knows which modality a study has."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from casewise.errors import StudyError, nearest
from casewise.plugin import KEYS, implementing
from casewise.study.schema import Study, register_settings

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.modalities.base import Modality, Start

_REGISTERED: dict[str, Modality] = {}


class ModalityPlugin(Protocol):
    """A plugin with a modality, whose name is the plugin's name."""

    name: str
    is_own: bool

    def modality(self) -> Modality | None:
        """The modality."""


class FileClaims(Protocol):
    """A plugin that recognises image files that only its modality can read."""

    def claim(self, files: Sequence[Path], study: Study) -> Start | None:
        """The beginning of a study of image files if some of them can only be of its modality; else None."""

    def refuse(self, study: Study, cohort: Cohort) -> None:
        """Refuse rows of a study of photographs whose files can only be of its modality.

        Raises:
            CohortError: naming the files.
        """


def register(modality: Modality) -> Modality:
    """Make a modality available to studies that name it as `modality:`; return it.

    A modality with an attribute `Settings`, a `casewise.study.schema.StudyModel`, adds a section of its name to the
    study file: `study.modality_settings`.
    """
    _REGISTERED[modality.name] = modality
    if settings := getattr(modality, "Settings", None):
        register_settings(modality.name, settings)
    return modality


def own_modalities() -> list[str]:
    """The modalities of casewise itself; others are code that its version does not describe."""
    return ["photographs", *(name for name, plugin in _of_plugins().items() if plugin.is_own)]


def modality_of(study: Study) -> Modality:
    """The modality of a study.

    Raises:
        StudyError: no modality has the name that the study states.
    """
    name, of_plugins = study.modality_name, _of_plugins()
    if name not in _REGISTERED:
        if name == "photographs":
            register(import_module("casewise.modalities.photographs.modality").MODALITY)
        elif name in of_plugins and (modality := of_plugins[name].modality()):
            if modality.name != name:
                raise StudyError(
                    f"modality: the plugin {name} has a modality named {modality.name!r}; both need the same name."
                )
            register(modality)
        else:
            names = list(dict.fromkeys(["photographs", *of_plugins, *_REGISTERED]))
            missing = " It is a plugin of casewise, which is not installed here." if name in KEYS.values() else ""
            raise StudyError(f"modality: {name!r} is none of {', '.join(names)}.{missing or nearest(name, names)}")
    return _REGISTERED[name]


def _of_plugins() -> dict[str, ModalityPlugin]:
    return {plugin.name: plugin for plugin in implementing(ModalityPlugin)}
