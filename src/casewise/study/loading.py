"""Reading a study file: YAML, presets it extends, named scores, and errors a person can mend."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from casewise.errors import StudyError, nearest
from casewise.study.schema import Part, Study


class _Loader(yaml.SafeLoader):
    """YAML 1.2 truth values: `on`, `off`, `yes` and `no` are words (`early_stopping: {monitor: inner}` is a key)."""


def _once(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    """A mapping whose keys stand once; YAML would let the last of two win silently."""
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
    for key, (place, _) in zip(keys, node.value, strict=True):
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(
                problem=f"the key {key!r} stands twice", problem_mark=place.start_mark
            )
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _once)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:bool"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)

PATHS: tuple[tuple[str, ...], ...] = (
    ("cohort",),
    ("root",),
    ("weights_dir",),
    ("images", "store"),
    ("pretrain", "cohort"),
    ("external", "cohort"),
    ("external", "root"),
)
PRESETS = resources.files("casewise.study") / "presets"


def preset_names() -> list[str]:
    """Names of the presets that come with casewise."""
    return sorted(item.name.removesuffix(".yaml") for item in PRESETS.iterdir() if item.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML text of a preset.

    Raises:
        StudyError: there is no preset of that name.
    """
    if name not in preset_names():
        raise StudyError(
            f"There is no preset {name!r}; there are {', '.join(preset_names())}.{nearest(name, preset_names())}"
        )
    return (PRESETS / f"{name}.yaml").read_text()


def read_study(path: Path | str, **changes: Any) -> Study:
    """Read a study file with everything it extends; relative paths are taken from the file's own folder.

    Args:
        changes: values set over the file's, such as those given on the command line.

    Raises:
        StudyError: the file is missing, is no YAML, or says something that cannot be; all problems are listed.
    """
    path = Path(path)
    if not path.is_file():
        hint = nearest(path.name, [p.name for p in path.parent.glob("*.y*ml")]) if path.parent.is_dir() else ""
        raise StudyError(f"There is no study file {path}.{hint}")
    own = _mapping(_text(path), str(path))
    parent = str(own.get("extends", ""))
    values = _extended(dict(own), str(path), folder=path.parent, seen=(str(path.resolve()),))
    for key, value in changes.items():
        if value is not None:
            values[key] = value
    values.setdefault("name", path.stem)
    try:
        return build_study(values, source=str(path), folder=path.parent)
    except StudyError as error:
        first, *lines = str(error).split("\n  ")
        if not parent:
            raise
        raise StudyError("\n  ".join([first, *(_inherited(line, values, own, parent) for line in lines)])) from None


def build_study(values: dict[str, Any], *, source: str, folder: Path) -> Study:
    """Check plain values as a study.

    Raises:
        StudyError: listing every problem by field.
    """
    values = _expand(dict(values), source)
    for keys in PATHS:
        _absolute(values, keys, folder)
    _absolute_weights(values, folder)
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        lines = _sentences(error.errors(), values)
        raise StudyError(f"{source} cannot be used:\n  " + "\n  ".join(lines)) from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StudyError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror}.") from None


def _mapping(text: str, source: str) -> dict[str, Any]:
    try:
        values = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise StudyError(f"{source}{where}: not valid YAML: {getattr(error, 'problem', error)}.") from None
    if not isinstance(values, dict):
        raise StudyError(f"{source}: a study file is a list of 'key: value' lines, found {type(values).__name__}.")
    return values


def _extended(values: dict[str, Any], source: str, *, folder: Path, seen: tuple[str, ...]) -> dict[str, Any]:
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if str(parent).endswith((".yaml", ".yml")):
        file = (folder / str(parent)).resolve()
        if str(file) in seen:
            raise StudyError(f"{source}: extends {parent}, which extends this file again.")
        if not file.is_file():
            raise StudyError(f"{source}: extends {parent}, but there is no file {file}.")
        below = _extended(_mapping(_text(file), str(file)), str(file), folder=file.parent, seen=(*seen, str(file)))
        for keys in PATHS:
            _absolute(below, keys, file.parent)
        _absolute_weights(below, file.parent)
    else:
        below = _mapping(preset_text(str(parent)), f"preset {parent}")
    return _merged(below, values)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay `above` over `below`; what names things (targets, scores, readers) is replaced whole, settings are merged."""
    result = dict(below)
    for key, value in above.items():
        whole = key in (
            "targets",
            "scores",
            "where",
            "where_not",
            "pretrain",
            "external",
            "bands",
            "readers",
            "references",
            "accept",
            "weights",
        )
        if isinstance(value, dict) and isinstance(result.get(key), dict) and not whole:
            result[key] = _merged(result[key], value)
        else:
            result[key] = value
    return result


def _expand(values: dict[str, Any], source: str) -> dict[str, Any]:
    targets = values.get("targets")
    if isinstance(targets, dict):
        values["targets"] = {name: _target(value) for name, value in targets.items()}
    if isinstance(values.get("pretrain"), dict) and isinstance(values["pretrain"].get("targets"), dict):
        inner = {name: _target(value) for name, value in values["pretrain"]["targets"].items()}
        values["pretrain"] = {**values["pretrain"], "targets": inner}
    if isinstance(values.get("scores"), str):
        values["scores"] = named_scores(values["scores"], source)
    names = values.get("backbones")
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        from casewise.models.registry import ALL29, check_backbones

        names = [n for name in names for n in (ALL29 if name == "all29" else [name])]
        values["backbones"] = check_backbones(list(dict.fromkeys(names)), source)
    return values


def _target(value: Any) -> Any:
    """A range alone or a list of classes alone is a target too."""
    if isinstance(value, str):
        return {"range": value}
    return {"classes": value} if isinstance(value, list) else (value or {})


def named_scores(name: str, source: str) -> dict[str, Any]:
    """The formulas of a score that comes with casewise (`presets/scores/NAME.yaml`)."""
    folder = PRESETS / "scores"
    names = sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))
    if name not in names:
        raise StudyError(
            f"{source}: scores: there is no score {name!r}; there are {', '.join(names)}." + nearest(name, names)
        )
    return _mapping((folder / f"{name}.yaml").read_text(), f"score {name}")


def _absolute(values: dict[str, Any], keys: tuple[str, ...], folder: Path) -> None:
    for key in keys[:-1]:
        if not isinstance(values.get(key), dict):
            return
        values[key] = values = dict(values[key])
    if isinstance(values.get(keys[-1]), (str, Path)):
        values[keys[-1]] = (folder / values[keys[-1]]).resolve()


def _absolute_weights(values: dict[str, Any], folder: Path) -> None:
    weights = values.get("weights", "pretrained")
    if isinstance(weights, dict):
        values["weights"] = {name: _absolute_source(value, folder) for name, value in weights.items()}
    else:
        values["weights"] = _absolute_source(weights, folder)


def _absolute_source(weights: Any, folder: Path) -> Any:
    """`pretrained` and `random` as they are, a file or a bundle with its whole path."""
    if not isinstance(weights, str) or weights in ("pretrained", "random"):
        return weights
    rest = weights.removeprefix("bundle:")
    return ("bundle:" if weights.startswith("bundle:") else "") + str((folder / rest).resolve())


def _inherited(line: str, values: dict[str, Any], own: dict[str, Any], parent: str) -> str:
    """A problem, and where its key comes from if it stands in the preset and not in the study's own file."""
    place, _, _ = line.partition(": ")
    keys = place.split(".")
    if not _stands(keys, values) or _stands(keys, own):
        return line
    targets = values.get("targets")
    value = next(iter(targets), "…") if isinstance(targets, dict) and "is no target" in line else "…"
    for key in reversed(keys[1:]):
        value = f"{{{key}: {value}}}"
    kind = "file" if parent.endswith((".yaml", ".yml")) else "preset"
    return f"{line} The key comes from the {kind} {parent}; write your own: `{keys[0]}: {value}`."


def _stands(keys: list[str], values: Any) -> bool:
    for key in keys:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def _sentences(problems: Sequence[Any], values: dict[str, Any]) -> list[str]:
    """One sentence for each place: of a setting that may be of several kinds, what each of them would take."""
    placed: dict[tuple[Any, ...], list[Any]] = {}
    for problem in problems:
        loc = _written(problem["loc"], values)
        placed.setdefault(loc, []).append({**problem, "loc": loc})
    lines = []
    for several in placed.values():
        told = list(dict.fromkeys(_sentence(problem) for problem in several))
        if len(told) > 1 and all("input should be " in line for line in told):
            ends = [line.partition("input should be ")[2].partition(", found ")[0].rstrip(".") for line in told]
            start, _, rest = told[0].partition("input should be ")
            found = rest.partition(", found ")[2]
            told = [f"{start}input should be {' or '.join(ends)}{f', found {found}' if found else '.'}"]
        lines += told
    return sorted(set(lines))


def _written(loc: tuple[Any, ...], values: Any) -> tuple[Any, ...]:
    """A place as the study file has it, without the kinds that a setting may be of."""
    kept: list[Any] = []
    for part in loc:
        there = isinstance(values, dict) and part in values
        kind = isinstance(part, str) and re.fullmatch(
            r"(constrained-\w+|float|int|str|bool|(literal|list|dict|tuple|function-\w+)\b.*)", part
        )
        if kind and not there:
            continue
        kept.append(part)
        inside = isinstance(values, (list, tuple)) and isinstance(part, int) and part < len(values)
        values = values[part] if there or inside else None
    return tuple(kept)


def _sentence(problem: Any) -> str:
    place = _place(problem["loc"])
    found = problem.get("input")
    if problem["type"] in ("model_type", "model_attributes_type"):
        names = _fields(problem["loc"])
        shown = ", ".join(names[:4])
        return f"{place}: takes settings of its own ({shown} …), such as `{{{names[0]}: …}}`, found {found!r}."
    if problem["type"] == "dict_type":
        key = problem["loc"][-1]
        return f"{place}: takes names with what they stand for, `{key}: {{name: …}}`, found {found!r}."
    if problem["type"] == "string_type" and problem["loc"][0] == "accept":
        return f"{place}: needs a reason in words, found {found!r}."
    if problem["type"] == "extra_forbidden":
        return f"{place}: there is no such setting.{nearest(problem['loc'][-1], _fields(problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"{place}: is missing."
    text = re.sub(r", unable to parse string as .*$", "", problem["msg"].removeprefix("Value error, "))
    if not place:
        return text + ("" if text.endswith(("?", ".")) else ".")
    shown = "" if isinstance(found, (dict, list)) else f", found {found!r}"
    # What was found stands before the hint, which ends with a mark of its own.
    text, hint = re.fullmatch(r"(.*?)( Did you mean [^?]*\?)?", text, re.DOTALL).groups("")  # type: ignore[union-attr]
    return f"{place}: {text[0].lower() + text[1:].rstrip('.')}{shown}.{hint}"


def _place(loc: tuple[Any, ...]) -> str:
    """A place in words; phases are counted from 1, as in the report.

    >>> _place(("recipe", "phases", 1, "freeze")), _place(("recipe", "phases", 0)), _place(("split", "test"))
    ('recipe.phases, phase 2: freeze', 'recipe.phases, phase 1', 'split.test')
    """
    place = ".".join(str(part) for part in loc)
    if tuple(loc[:2]) == ("recipe", "phases") and len(loc) > 2 and isinstance(loc[2], int):
        rest = ".".join(str(part) for part in loc[3:])
        return f"recipe.phases, phase {loc[2] + 1}" + (f": {rest}" if rest else "")
    return place


def _fields(place: tuple[Any, ...]) -> list[str]:
    """The settings that exist at `place` of a study file."""
    from typing import get_args

    model: Any = Study
    for part in place:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            continue
        options = [field.annotation, *get_args(field.annotation)]
        inner = [o for o in options if isinstance(o, type) and issubclass(o, Part)]
        model = inner[0] if inner else model
    return list(model.model_fields)
