"""The parts of a plugin, and the search for plugins.

A plugin is a folder in `casewise.plugins`, or a package of somebody else that names its object in the entry points
`casewise.plugins`. The folders need no declaration: one that is removed is not there, and the rest works without it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from operator import attrgetter
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from casewise.errors import CasewiseError

if TYPE_CHECKING:
    from pydantic import BaseModel

GROUP = "casewise.plugins"
# Keys of the study file, and backbones, that plugins of casewise bring, for the message where a plugin is missing.
KEYS = {"reading": "readers", "tiles": "slides", "track": "tracking", "volumes": "volumes"}
KEYS |= dict.fromkeys(("recipe.finder", "recipe.gradual_unfreezing", "recipe.layer_decay"), "published")
KEYS |= dict.fromkeys(("panels.offline_copies", "backbones.unet_encoder"), "published")
KEYS |= dict.fromkeys(("backbones.resnet18_3d", "backbones.resnet34_3d"), "volumes")
KEYS |= dict.fromkeys((f"backbones.unet{kind}" for kind in ("", "_unpadded", "_dense")), "published")


@dataclass(frozen=True)
class Command:
    """A command of the command line: a function with the annotations of typer, or a group of them.

    Attributes:
        run: the function, or a `typer.Typer`.
        help: one line for the list of commands.
        after: the command before it in this list; if there is none of this name, it comes last, before the groups.
        reads_extra: whether it handles words that are not arguments of it, in `typer.Context.args`.
    """

    name: str
    run: Callable[..., Any]
    help: str
    after: str = ""
    reads_extra: bool = field(default=False, kw_only=True)


class Plugin:
    """A plugin: its name, command, study keys and registrations; a subclass overrides what it has.

    What else a plugin can do is a protocol next to the code that calls it, such as `casewise.pipeline.hooks.RunHooks`.
    A plugin takes part in a protocol by having at least one of its methods; it inherits the others from the protocol.
    It imports what it needs inside its methods.

    Attributes:
        name: the plugin's folder name in `casewise.plugins`; appears in messages.
        extra: the optional dependencies of casewise that it needs; empty if none.
        section: the key of `study_keys` with the settings of its modality; empty if it has none.
        report: the module with its section of the report, `section(context)`; empty if none. If the plugin has a
            modality, its section replaces the section on the input of the model, for studies of this modality.
        command: the name of its command, its line in the list of commands, and the command that it follows, if any; the
            function has this name, in the module `command` of the plugin.
        functions: methods of protocols, each with its function in a module of the plugin as `module:function`, which is
            imported when it is called.
        keys: by section of the study file (the study itself: "") the class with its keys, as `module:class`.
    """

    name: str
    extra: str = ""
    section: str = ""
    report: str = ""
    command: tuple[str, ...] = ()
    functions: tuple[tuple[str, str], ...] = ()
    keys: tuple[tuple[str, str], ...] = ()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not (path := dict(self.functions).get(name)):
            raise AttributeError(name)
        return lambda *values, **options: self._named(path)(*values, **options)

    def _named(self, path: str) -> Any:
        """What `module:name` states, of a module of the plugin."""
        module, _, name = path.partition(":")
        return attrgetter(name)(import_module(f"{type(self).__module__}.{module}"))

    @property
    def is_own(self) -> bool:
        """Whether it is part of casewise."""
        return type(self).__module__.startswith(f"{GROUP}.")

    @property
    def brings_modality(self) -> bool:
        """Whether it has a modality, without importing it."""
        return hasattr(self, "modality")

    def commands(self) -> Sequence[Command]:
        """Commands of the command line."""
        if not self.command:
            return ()
        name, *texts = self.command
        return [Command(name, self._named(f"command:{name}"), *texts)]

    def study_keys(self) -> type[BaseModel] | None:
        """A subclass of `casewise.study.model.StudyModel` whose fields are further keys of the study file."""
        return self.section_keys("")

    def section_keys(self, section: str) -> type[BaseModel] | None:
        """The same for further keys of a section; they may widen keys of casewise, and check the whole section."""
        path = dict(self.keys).get(section)
        return self._named(path) if path else None

    def planned_defaults(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Further defaults of a planned recipe, for the values of a study file."""
        return {}

    def register(self) -> None:
        """Register kinds of targets, learners and metrics; called once, before the first study is read."""


Hook = TypeVar("Hook")


def implementing(protocol: type[Hook]) -> list[Hook]:
    """The plugins that have a method of a protocol; each gets the protocol's own for methods that it leaves out."""
    names = [name for name in vars(protocol) if not name.startswith("_")]
    chosen = [plugin for plugin in plugins() if any(hasattr(plugin, name) for name in names)]
    for plugin in chosen:
        for name in names:
            if not hasattr(plugin, name):
                setattr(plugin, name, MethodType(getattr(protocol, name), plugin))
    return [cast(Hook, plugin) for plugin in chosen]


@lru_cache
def plugins() -> tuple[Plugin, ...]:
    """All plugins: casewise's own by name, then plugins of other packages.

    Raises:
        CasewiseError: a plugin cannot be imported; the message names its package.
    """
    own = [module.name for module in pkgutil.iter_modules(import_module(GROUP).__path__)]
    loaded = [_object(f"casewise.plugins.{name}", "plugin", "casewise") for name in sorted(own)]
    others = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    loaded += [_object(entry.module, entry.attr, entry.dist.name if entry.dist else entry.name) for entry in others]
    for number, plugin in enumerate(loaded):
        name = getattr(plugin, "name", "")
        if not name or name in [plugin.name for plugin in loaded[:number]]:
            of = type(plugin).__module__
            problem = f"has the name {name!r} of another one" if name else "has no `name`"
            raise CasewiseError(f"The plugin of {of} {problem}. Name it otherwise, or remove its package.")
    return tuple(loaded)


# By plugin the error of its registration; empty without one.
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
