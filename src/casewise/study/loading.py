"""Reading a study file: YAML, the presets it extends, and named scores."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from casewise.errors import RunError, StudyError, cut, nearest, none_of
from casewise.files import PICTURES, TABLES, read_regular
from casewise.names import on_disk
from casewise.run_folder import RunFolder
from casewise.study.images import Panels
from casewise.study.messages import REMOVED, sentences
from casewise.study.recipe import Recipe
from casewise.study.schema import Study, study_model
from casewise.study.sources import check_networks, sources
from casewise.study.yaml_text import Values, mapping

PATHS = (
    *(("cohort",), ("root",), ("weights_dir",), ("images", "store")),
    *(("pretrain", "cohort"), ("external", "cohort"), ("external", "root"), ("compute", "plan")),
    ("audit", "decisions"),
)
# The largest study file that is read, in bytes.
LARGEST = 1_000_000
PRESETS = resources.files("casewise.study") / "presets"


def preset_names() -> list[str]:
    """The names of the presets."""
    return sorted(item.name.removesuffix(".yaml") for item in PRESETS.iterdir() if item.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML text of a preset.

    Raises:
        StudyError: there is no such preset.
    """
    if name not in preset_names():
        raise StudyError(f"The preset {none_of(name, preset_names())}")
    return (PRESETS / f"{name}.yaml").read_text()


def read_study(path: Path | str, *, settings: Sequence[str] = (), **changes: Any) -> Study:
    """Read a study file with everything it extends; relative paths start at the file's own folder.

    Args:
        settings: single settings that replace the file's, as `KEY=VALUE` with a value in YAML: `recipe.epochs=20`.
        changes: values that replace the file's, such as those given on the command line; sections are merged key by
            key, as with `extends`.

    Raises:
        StudyError: the file is missing, is not YAML, or has invalid values; the message lists all problems.
    """
    path = Path(path)
    _check_kind(path)
    changes = {key: value for key, value in changes.items() if value is not None}
    stated = mapping(_text(path), str(path))
    parent = stated.get("extends")
    values = _extended(dict(stated), str(path), folder=path.parent, chain=(str(path.resolve()),))
    stated, values, given = stated | changes, _merged(values, changes), dict(changes)
    for setting in map(_setting, settings):
        stated, values, given = (_merged(each, setting, whole=()) for each in (stated, values, given))
    values.setdefault("name", path.stem)
    try:
        study = build_study(values, source=str(path), folder=path.parent)
    except StudyError as error:
        lines = []
        for line in str(error).split("\n  "):
            keys = line.partition(": ")[0].split(".")
            inherited = _has(keys, values) and not _has(keys, stated)
            beside = " This was given beside the file, as an option or an argument." * _has(keys, given)
            lines.append(line + f" The key comes from `extends: {parent}`; write your own." * inherited + beside)
        raise StudyError("\n  ".join(lines)) from None
    if "budget" in values and study.networks and "auto" not in study.recipe.model_fields_set:
        raise StudyError(
            f"{path}: budget is for planned recipes, and the study states backbones. Write `auto: true` under recipe "
            "to plan what it does not state, or leave out budget."
        )
    return study


def _has(keys: list[str], values: Any) -> bool:
    for key in keys:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def _check_kind(path: Path) -> None:
    """Refuse a missing file, and a table, an image or a folder instead of a study file.

    Raises:
        StudyError: the message says what to write instead.
    """
    if os.path.isdir(path):
        own = next((path / inner for inner in ("study.yaml", "study.yml") if _is_file(path / inner)), None)
        if not own and (run := RunFolder(path)).is_own():
            raise StudyError(f"{path} is a run folder, not a study file. To continue the run, give {run.continuing}.")
        hint = f"Did you mean {own}?" if own else "Name a file with the text of a study."
        raise StudyError(f"The study file {path} is not a regular file but a folder. {hint}")
    if not _is_file(path):
        if os.path.exists(path):
            raise StudyError(f"The study file {path} is not a regular file. Name a file with the text of a study.")
        hint = nearest(path.name, [p.name for p in path.parent.glob("*.y*ml")]) if os.path.isdir(path.parent) else ""
        raise StudyError(f"There is no study file {path}.{hint}")
    for endings, kind, option in ((TABLES, "a table", f"--table {path}"), (PICTURES, "an image", "--images FOLDER")):
        if path.name.casefold().endswith(endings):
            raise StudyError(f"{path} is {kind}, not a study file. To write a study for it: `casewise init {option}`.")


def build_study(values: Values, *, source: str, folder: Path) -> Study:
    """Check plain values as a study.

    Raises:
        StudyError: lists every problem by field.
    """
    values = _expand(dict(values), source)
    _make_absolute(values, folder)
    model = study_model(str(values.get("modality", "")))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = sentences(error.errors(include_url=False, include_context=False), values, model)
        raise StudyError(f"{source} cannot be used:\n  " + "\n  ".join(lines)) from None


def checked_study(study: Study) -> Study:
    """Check a study whose settings were changed with `model_copy`, which checks nothing.

    Settings that were derived from others when the study was read (`outputs`, `primary_outcome`) stay as they were; the
    changes of `read_study` derive them again.

    Raises:
        StudyError: lists every problem by field.
    """
    settings = _plain(study)
    if not isinstance(settings, dict):
        raise StudyError(f"A study, or the path of a study file, is needed, not {cut(study)}.")
    return build_study(settings, source="The study", folder=Path())


_SECTIONS: dict[str, type[BaseModel]] = {"panels": Panels, "recipe": Recipe}
# Keys that a plugin brings to these sections, with the value that changes nothing; None: another key says whether they
# are used.
_UNUSED = {
    "panels.offline_copies": 0,
    "recipe.layer_decay": 1,
    "recipe.finder": None,
    "recipe.gradual_unfreezing": None,
}


def saved_study(values: Values, *, source: str = "The saved study") -> Study:
    """The study that a run saved, from the values of its JSON file; `source` names the file in messages.

    Raises:
        RunError: the study was saved by another version.
    """
    model = study_model(str(values.get("modality", "")))
    for path in REMOVED:
        values = _without(values, path)
    for key, unused in _UNUSED.items():
        section, name = key.split(".")
        stated = values.get(section, {}).get(name)
        if name not in _SECTIONS[section].model_fields and (unused is None or stated == unused):
            values = _without(values, [section, name])
    # a key of a plugin that is not installed and that the study does not use
    absent = {name for name in values if name not in model.model_fields}
    values = {name: value for name, value in values.items() if name not in absent or (value and name != "reading")}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"])) or "the file"
        if first["type"] == "extra_forbidden" and location in absent | _UNUSED.keys():
            raise RunError(
                f"{source} has the key {cut(location)} of a plugin that is not installed here, or of another version "
                "of casewise. Install the package of the plugin, or use the version that wrote it."
            ) from None
        raise RunError(
            f"{source} cannot be read by this version of casewise: {location}: {first['msg']}. Use the version that "
            "wrote it, or run the study again."
        ) from None


def _without(values: Any, path: Sequence[str]) -> Any:
    """Nested values without the key at a path, if it is there."""
    if not isinstance(values, dict):
        return values
    first, *rest = path
    kept = {key: value for key, value in values.items() if rest or key != first}
    return kept | ({first: _without(kept[first], rest)} if first in kept else {})


def _plain(value: Any) -> Any:
    """The settings that were given, with the names that no field has."""
    if isinstance(value, BaseModel):
        return {name: _plain(setting) for name, setting in vars(value).items() if name in value.model_fields_set}
    if isinstance(value, dict):
        return {name: _plain(setting) for name, setting in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _text(path: Path) -> str:
    try:
        return read_regular(path, LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StudyError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror or error}.") from None


def _is_file(path: Path) -> bool:
    """Whether there is a regular file; no file can have a path that is too long or has forbidden characters."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _extended(values: Values, source: str, *, folder: Path, chain: tuple[str, ...]) -> Values:
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if str(parent).endswith((".yaml", ".yml")):
        file = _path(folder / str(parent))
        if str(file) in chain:
            raise StudyError(f"{source}: extends {parent}, which extends this file again.")
        if not _is_file(file):
            raise StudyError(f"{source}: extends {parent}, but there is no file {file}.")
        below = _extended(mapping(_text(file), str(file)), str(file), folder=file.parent, chain=(*chain, str(file)))
        _make_absolute(below, file.parent)
    else:
        below = mapping(preset_text(str(parent)), f"preset {parent}")
    return _merged(below, values)


def _setting(text: str) -> Values:
    """A setting of the command line as values of a study file.

    >>> _setting("recipe.epochs=20")
    {'recipe': {'epochs': 20}}

    Raises:
        StudyError: it is not `KEY=VALUE`, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise StudyError(f"--set {cut(text)}: write KEY=VALUE, such as `--set recipe.epochs=20`.")
    values = mapping(f"{names[-1]}: {value}", f"--set {cut(text)}")
    for name in reversed(names[:-1]):
        values = {name: values}
    return values


# Sections of names, which a study replaces as a whole.
WHOLE = (
    *("targets", "scores", "where", "where_not", "pretrain", "external", "bands", "readers", "references", "accept"),
    "weights",
)


def _merged(below: Values, above: Values, *, whole: Collection[str] = WHOLE) -> Values:
    """Merge `above` into `below`; sections named in `whole` are replaced, settings are merged."""
    result = dict(below)
    for key, value in above.items():
        before = {"auto": True} if key == "recipe" and result.get(key) == "auto" else result.get(key)
        if isinstance(value, dict) and isinstance(before, dict) and key not in whole:
            result[key] = _merged(before, value, whole=whole)
        else:
            result[key] = value
    return result


def _expand(values: Values, source: str) -> Values:
    for section in (values, pretrain := values.get("pretrain")):
        if isinstance(section, dict) and isinstance(section.get("targets"), dict):
            targets = {name: _target(value) for name, value in section["targets"].items()}
            values |= {"pretrain": {**pretrain, "targets": targets}} if section is pretrain else {"targets": targets}
    if isinstance(values.get("scores"), str):
        values["scores"] = named_scores(values["scores"], source)
    groups = {name: names for library in sources() for name, names in library.groups.items()}
    for key in ("backbones", "encoders"):
        names = values.get(key)
        if isinstance(names, str):
            names = [name.strip() for name in names.split(",") if name.strip()]
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            names = [each for name in names for each in (groups.get(name, [name]) if key == "backbones" else [name])]
            values[key] = check_networks(list(dict.fromkeys(names)), source, encoders=key == "encoders")
    return values


def _target(value: Any) -> Any:
    """Expand a range or a list of classes into a target."""
    if isinstance(value, str):
        return {"range": value}
    return {"classes": value} if isinstance(value, list) else (value or {})


def named_scores(name: str, source: str) -> Values:
    """The formulas of a named score (`presets/scores/NAME.yaml`)."""
    folder = PRESETS / "scores"
    names = sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))
    if name not in names:
        raise StudyError(f"{source}: scores: the score {none_of(name, names)}")
    return mapping((folder / f"{name}.yaml").read_text(), f"score {name}")


def _path(path: Path) -> Path:
    """The path as the disk spells it: an editor may store another form of a letter than the disk has."""
    return Path(on_disk(str(path.resolve())))


def _make_absolute(values: Values, folder: Path) -> None:
    """Let the relative paths of a study start at a folder."""
    for *sections, key in PATHS:
        section = values
        for name in sections:
            if isinstance(section.get(name), dict):
                section[name] = dict(section[name])
            section = section.get(name) or {}
        if isinstance(section, dict) and isinstance(section.get(key), (str, Path)):
            section[key] = _path(folder / section[key])

    def source(weights: object) -> object:
        if not isinstance(weights, str) or weights in ("pretrained", "random"):
            return weights
        path = weights.removeprefix("bundle:")
        return f"{'bundle:' if weights != path else ''}{_path(folder / path)}"

    if isinstance(weights := values.get("weights"), dict):
        values["weights"] = {name: source(value) for name, value in weights.items()}
    elif weights is not None:
        values["weights"] = source(weights)
