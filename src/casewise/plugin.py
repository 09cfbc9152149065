"""What a plugin may bring, and how plugins are found.

A plugin is a folder in `casewise.plugins`, or a package of somebody else that names its object in the entry points
`casewise.plugins`. The folders need no declaration: one that is removed is not there, and the rest works without it.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from casewise.errors import CasewiseError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.inference.bundle import Bundle
    from casewise.inference.model import TrainedModel
    from casewise.inference.new_cases import PredictedChunk
    from casewise.inference.predictor import Predictor
    from casewise.jobs.backends import Backend
    from casewise.jobs.plan import Job
    from casewise.modalities.base import Modality, PreparedCohort, Start
    from casewise.run_folder import RunFolder
    from casewise.study.model import StudyModel
    from casewise.study.schema import Study

GROUP = "casewise.plugins"
# Keys of the study file that plugins of casewise bring, for the message where a plugin is missing.
KEYS = {"reading": "readers", "tiles": "slides", "track": "tracking", "volumes": "volumes"}


@dataclass(frozen=True)
class Command:
    """A command of the command line: a function with the annotations of typer, or a group of them.

    Attributes:
        run: the function, or a `typer.Typer`.
        help: one line for the list of commands.
        after: the command that it follows in this list; without one of this name it follows all but groups.
        reads_extra: whether it answers words that are no argument of it, in `typer.Context.args`.
    """

    name: str
    run: Callable[..., Any]
    help: str
    after: str = ""
    reads_extra: bool = field(default=False, kw_only=True)


class ResultFolder(Protocol):
    """The files of one format of results.

    Attributes:
        files: how many were written; without: by case the reason why it has none.
    """

    folder: Path
    files: int
    without: dict[str, str]

    @property
    def title(self) -> str: ...


class ResultFolders(Protocol):
    """What writes the predictions of new cases in the formats of a plugin."""

    @property
    def folders(self) -> Sequence[ResultFolder]: ...

    def receive(self, chunk: PredictedChunk) -> None: ...


class NewStudy(Protocol):
    """A study that is not written yet.

    Attributes:
        files: their contents by name.
        understood: what was understood of the table, in lines; doubts: what a person should check.
    """

    files: dict[str, bytes]
    understood: list[str]
    doubts: list[str]


class Plugin:
    """What a plugin brings to casewise; a subclass overrides what it has, and imports it inside of the method.

    Attributes:
        name: as in messages; that of its folder in `casewise.plugins`.
        extra: the optional dependencies of casewise that it needs; empty if none.
        section: the key of `study_keys` with the settings of its modality; empty if it has none.
        report: the module with its section of the report, `section(context)`; empty if none. If the plugin has a
            modality, it stands in place of that on the input of the model, for studies of this modality.
        command: the name of its command, its line in the list of commands, and the command that it follows, if any; the
            function has this name, in the module `command` of the plugin.
    """

    name: str
    extra: str = ""
    section: str = ""
    report: str = ""
    command: tuple[str, ...] = ()

    @property
    def is_own(self) -> bool:
        """Whether it is part of casewise."""
        return type(self).__module__.startswith(f"{GROUP}.")

    @property
    def brings_modality(self) -> bool:
        """Whether it has a modality, without importing it."""
        return type(self).modality is not Plugin.modality

    def result_formats(self) -> Sequence[str]:
        """The names of formats in which `casewise predict --also NAME=FOLDER` writes new cases."""
        return ()

    def check_result_format(self, name: str) -> None:
        """Check that a format of `result_formats` can be written.

        Raises:
            CasewiseError: a package is missing.
        """

    def result_folders(
        self, model: TrainedModel, folders: Mapping[str, Path], *, names: bool, subject_system: str = ""
    ) -> AbstractContextManager[ResultFolders]:
        """What writes new cases in some of `result_formats`; the files appear when the block ends without an error.

        Args:
            folders: the folder of each format.
            names: whether the files have the names of subjects, visits and images, in place of hashes.
            subject_system: the URI of the system that identifies subjects, for formats that state it.
        """
        raise NotImplementedError

    def new_study(self, table: Path, images: Path | None, target: str, subject: str, folder: Path) -> NewStudy | None:
        """The study file for somebody's table and images, which is not written yet; None if it makes none.

        Args:
            images: their folder; None: that of the table.
            target: the column to predict; empty: the likeliest one.
            subject: the column that identifies people; empty: the likeliest one.
            folder: where the study is going to be.

        Raises:
            CasewiseError: the table or the images cannot be read, or there is nothing to predict.
        """
        return None

    def commands(self) -> Sequence[Command]:
        """Commands of the command line."""
        if not self.command:
            return ()
        name, *texts = self.command
        return [Command(name, getattr(import_module(f"{type(self).__module__}.command"), name), *texts)]

    def study_keys(self) -> type[StudyModel] | None:
        """A class whose fields are further keys of the study file."""
        return None

    def backends(self) -> Mapping[str, Callable[[str | None], Backend]]:
        """Where jobs are executed: for each name of `--backend`, what makes it for an address.

        Raises:
            CasewiseError: calling one, if its library is not installed.
        """
        return {}

    def before_jobs(self, folder: Path, jobs: Sequence[Job]) -> None:
        """Called before this machine begins jobs of a run folder, which an earlier run may still execute elsewhere."""

    def register(self) -> None:
        """Register kinds of targets, learners and metrics; called once, before the first study is read."""

    def planned_defaults(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Further defaults of a planned recipe, for the values of a study file."""
        return {}

    def modality(self) -> Modality | None:
        """The modality that it brings, whose name is that of the plugin."""
        return None

    def claim(self, files: Sequence[Path], study: Study) -> Start | None:
        """The beginning of a study of image files if some of them can only be of its modality; else None."""
        return None

    def refuse(self, study: Study, cohort: Cohort) -> None:
        """Refuse rows of a study of photographs whose files can only be of its modality.

        Raises:
            CohortError: naming the files.
        """

    def repeated(self, study: Study) -> Study:
        """The study for a repetition of its training, such as one that is not followed."""
        return study

    def check_study(self, study: Study) -> None:
        """Check before a run what this plugin needs for the study.

        Raises:
            StudyError: a package is missing.
        """

    def on_jobs_finished(self, study: Study, folder: RunFolder) -> None:
        """Called while networks train, each time some are finished; it must be quick and write into the folder only."""

    def on_trained(self, study: Study, folder: RunFolder, show: Show) -> None:
        """Called when all networks are trained."""

    def on_evaluated(self, study: Study, folder: RunFolder, show: Show) -> None:
        """Called when metrics and report are written."""


class Explainer(Plugin, ABC):
    """The plugin that computes saliency maps; there is at most one."""

    @abstractmethod
    def stored(self, folder: RunFolder) -> dict[str, Any] | None:
        """What the report shows of the maps of a run; None if there are none, or they are of other networks."""

    @abstractmethod
    def explain_case(self, folder: RunFolder, case: str, networks: Sequence[str], *, map_size: int) -> Any:
        """The maps of one case of a finished run, with a `figure`; nothing is written."""

    @abstractmethod
    def explainable(self, members: Sequence[Bundle]) -> list[str]:
        """The learners of a bundle that have maps of new cases."""

    @abstractmethod
    def target_of(self, study: Study, name: str) -> Any:
        """What maps of new cases explain, with `output` and `target`; an empty name: the primary outcome.

        Raises:
            CasewiseError: the networks do not predict it.
        """

    @abstractmethod
    def explain_new(
        self,
        predictors: Iterable[Predictor],
        prepared: PreparedCohort,
        target: Any,
        predicted: pd.DataFrame,
        *,
        side: int,
    ) -> Sequence[Any]:
        """The maps of new cases, each with `case`, `channel`, `native` (a `NativeMap`), `method`, `signed`, `flat`.

        Args:
            predictors: the networks of the learner's folds, one or more, on the CPU.
            target: from `target_of`.
            predicted: their rows of the predictions table, by which the explained class is chosen.
            side: the longest side of pictures in pixels.
        """

    @abstractmethod
    def overlay(self, picture: np.ndarray, values: np.ndarray, *, signed: bool) -> np.ndarray:
        """(H, W, 3) `uint8`: a map (H, W) over a picture (H, W) or (H, W, 3) `uint8`."""


def explainer() -> Explainer | None:
    """The plugin that computes saliency maps; None if it is not installed."""
    return next((plugin for plugin in plugins() if isinstance(plugin, Explainer)), None)


@lru_cache
def plugins() -> tuple[Plugin, ...]:
    """All plugins: those of casewise by name, then those of other packages.

    Raises:
        CasewiseError: a plugin cannot be imported; the message names its package.
    """
    own = [module.name for module in pkgutil.iter_modules(import_module(GROUP).__path__)]
    loaded = [_object(f"casewise.plugins.{name}", "plugin", "casewise") for name in sorted(own)]
    others = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    loaded += [_object(entry.module, entry.attr, entry.dist.name if entry.dist else entry.name) for entry in others]
    for number, plugin in enumerate(loaded):
        name = getattr(plugin, "name", "")
        if not name or name in [each.name for each in loaded[:number]]:
            of = type(plugin).__module__
            problem = f"has the name {name!r} of another one" if name else "has no `name`"
            raise CasewiseError(f"The plugin of {of} {problem}. Name it otherwise, or remove its package.")
    return tuple(loaded)


# By name of a plugin what went wrong when it registered its additions; empty if nothing did.
_registered: dict[str, str] = {}


def register_additions() -> None:
    """Let every plugin register what it adds, once.

    Raises:
        CasewiseError: a plugin could not, such as because a name is taken.
    """
    for plugin in plugins():
        if plugin.name not in _registered:
            _registered[plugin.name] = ""  # it may read a study itself
            try:
                plugin.register()
            except Exception as error:  # whatever a package of somebody else raises  # noqa: BLE001
                _registered[plugin.name] = f"{type(error).__name__}: {error}"
        if problem := _registered[plugin.name]:
            raise CasewiseError(
                f"The plugin {plugin.name} cannot register its additions ({problem}). Install a version for this "
                "casewise, or remove it."
            )


def modality_sections() -> dict[str, str]:
    """The section of the study file with the settings of each modality of a plugin; photographs have none."""
    return {plugin.name: plugin.section for plugin in plugins() if plugin.section}


def repeated(study: Study) -> Study:
    """The study for a repetition of its training: every plugin may change it."""
    for plugin in plugins():
        study = plugin.repeated(study)
    return study


def _object(module: str, attribute: str, package: str) -> Plugin:
    try:
        plugin = getattr(import_module(module), attribute or "plugin")
    except Exception as error:  # whatever a package of somebody else raises  # noqa: BLE001
        problem = f"{type(error).__name__}: {error}"
        if "partially initialized" in problem or "circular import" in problem:
            problem = f"{module} imports a module of casewise that asks for its plugins; import it inside of a method"
    else:
        if isinstance(plugin, Plugin):
            return plugin
        problem = f"{module}:{attribute} is a {type(plugin).__name__}, not a casewise.plugin.Plugin"
    raise CasewiseError(
        f"The plugin {module} of the package {package} cannot be used ({problem}). Install the package again in a "
        f"version for this casewise, or remove it: `pip uninstall {package}`."
    )
