"""Sentences on the problems of a study file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, get_args, get_origin

from casewise.errors import counted, cut, nearest, shortened
from casewise.plugin import KEYS
from casewise.study.model import StudyModel
from casewise.study.yaml_text import Values

# keys with problems that a message shows, and characters of each sentence
_SHOWN, _LINE = 12, 400
# the type of a problem whose value may be a password
PRIVATE = "private_value"
# settings of version 1.0 that are gone, and what holds in their place
REMOVED = {
    ("compute", "frozen_once"): "frozen layers are computed once wherever that gives the same result",
    ("compute", "keep_memory"): "freed memory is always kept for the next step",
    ("compute", "memory_format"): "tensors are always in the format channels_last",
    ("evaluation", "target_sensitivities"): "a threshold is chosen for a sensitivity of 0.9, besides Youden's",
    ("reading", "pause"): "a pause is suggested after every 50 cases",
    ("recipe", "finder", "low"): "rates from 1e-7 to 1 are tried",
    ("recipe", "finder", "high"): "rates from 1e-7 to 1 are tried",
    ("tiles", "overlap"): "tiles of a slide lie side by side",
}
# The values of settings that are gone, which identified networks in version 1.0 and still do.
FIXED: Mapping[str, Values] = {"finder": {"low": 1e-7, "high": 1.0}}
# names of other libraries for a setting
_OTHER_NAMES = {
    "class_weight": "recipe.imbalance",
    "class_weights": "recipe.imbalance",
    "augment": "panels.augmentation",
    "learning_rate": "recipe.lr",
}
# names that pydantic adds to a location for the options of a union
UNION_OPTION = r"(constrained-\w+|float|int|str|bool|(literal|list|dict|tuple|function-\w+|lax-or-strict)\b.*)"


def sentences(problems: Sequence[Any], values: Values, study: type[StudyModel]) -> list[str]:
    """One sentence for each key with a problem; for a key of several types, the values that each accepts."""
    by_location: dict[tuple[Any, ...], list[Any]] = {}
    for problem in problems:
        loc = _written_location(problem["loc"], values)
        by_location.setdefault(loc, []).append({**problem, "loc": loc})
    lines: list[str] = []
    for several in list(by_location.values())[:_SHOWN]:
        messages = list(dict.fromkeys(sentence(problem, study) for problem in several))
        if len(messages) > 1 and all("input should be " in line for line in messages):
            ends = [line.partition("input should be ")[2].partition(", found ")[0].rstrip(".") for line in messages]
            start, _, rest = messages[0].partition("input should be ")
            value = rest.partition(", found ")[2]
            messages = [f"{start}input should be {' or '.join(ends)}{f', found {value}' if value else '.'}"]
        hint = _option_hint(several, messages)
        lines += [shortened(_in_words(message), _LINE) + hint for message in messages]
    unshown = len(by_location) - _SHOWN
    return sorted(set(lines)) + ([f"and {counted(unshown, 'more key')} with problems."] if unshown > 0 else [])


# The words of pydantic, and ours.
_WORDS = (
    (", unable to interpret input", ""),
    ("a valid boolean", "true or false"),
    ("a valid integer", "a whole number"),
    ("a valid number", "a number"),
    ("a valid string", "a text"),
    ("a valid list", "a list"),
    ("greater than or equal to ", "at least "),
    ("less than or equal to ", "at most "),
    ("greater than ", "above "),
    ("less than ", "below "),
)
_ITEMS = re.compile(r"(list|tuple|dictionary) should have at (least|most) (\d+) items? after validation, not \d+")


def _in_words(message: str) -> str:
    """A message of pydantic in our words.

    >>> _in_words("recipe.epochs: input should be greater than or equal to 1, found 0.")
    'recipe.epochs: must be at least 1, found 0.'
    """
    start, says, rest = message.partition(": input should be ")
    if not says:
        return _ITEMS.sub(lambda match: f"needs at {match[2]} {counted(int(match[3]), 'value')}", message)
    rule, before, value = rest.partition(", found ")
    for theirs, ours in _WORDS:
        rule = rule.replace(theirs, ours)
    return f"{start}: must be {rule}{before}{value}"


def _option_hint(several: Sequence[Any], messages: Sequence[str]) -> str:
    """The option that a value is most similar to, of those that the messages list in quotes."""
    text = " ".join(messages)
    if "Did you mean" in text or not any(problem["type"] == "literal_error" for problem in several):
        return ""
    options = re.findall(r"'([^']+)'", text.partition("input should be ")[2].partition(", found ")[0])
    return nearest(several[0].get("input"), options)


def _written_location(loc: tuple[Any, ...], values: Any) -> tuple[Any, ...]:
    """A location as in the study file, without the options of unions."""
    written: list[Any] = []
    for key in loc:
        is_key = isinstance(values, dict) and key in values
        if isinstance(key, str) and re.fullmatch(UNION_OPTION, key) and not is_key:
            continue
        written.append(key)
        is_item = isinstance(values, (list, tuple)) and isinstance(key, int) and key < len(values)
        values = values[key] if is_key or is_item else None
    return tuple(written)


def sentence(problem: Any, study: type[StudyModel]) -> str:
    """One problem in words."""
    loc = _location_text(problem["loc"])
    value = problem.get("input")
    kind = problem["type"]
    if kind in ("model_type", "model_attributes_type"):
        names = _keys_at(problem["loc"], study)
        return f"{loc}: needs settings ({', '.join(names[:4])} …), such as `{{{names[0]}: …}}`, found {cut(value)}."
    if kind == "dict_type":
        return f"{loc}: needs names with values, `{problem['loc'][-1]}: {{name: …}}`, found {cut(value)}."
    if kind == "string_type" and problem["loc"][0] == "accept":
        return f"{loc}: needs a reason in words, found {cut(value)}."
    if kind == "extra_forbidden":
        name = str(problem["loc"][-1])
        if plugin := KEYS.get(".".join(map(str, problem["loc"]))):
            return f"{loc}: belongs to the plugin {plugin!r} of casewise, which is not installed here."
        if reason := REMOVED.get(tuple(problem["loc"])):
            return f"{loc}: this setting of casewise 1.0 is gone: {reason}. Remove the line."
        own_hint = nearest(name, _keys_at(problem["loc"][:-1], study))
        return f"{loc}: there is no such setting.{_hint_elsewhere(name, study) or own_hint}"
    if kind == "missing":
        return f"{loc}: is missing."
    text = re.sub(r", unable to parse string as .*$", "", problem["msg"].removeprefix("Value error, "))
    if not loc:
        return text + ("" if text.endswith(("?", ".")) else ".")
    shown = "" if isinstance(value, (dict, list)) or problem["type"] == PRIVATE else f", found {cut(value)}"
    # the value is placed before the hint, which ends with a question mark
    text, hint = re.fullmatch(r"(.*?)( Did you mean [^?]*\?)?", text, re.DOTALL).groups("")  # type: ignore[union-attr]
    return f"{loc}: {text[0].lower() + text[1:].rstrip('.')}{shown}.{hint}"


def _location_text(loc: tuple[Any, ...]) -> str:
    """A location in words; phases are counted from 1, as in the report.

    >>> _location_text(("recipe", "phases", 1, "freeze")), _location_text(("split", "test"))
    ('recipe.phases, phase 2: freeze', 'split.test')
    """
    if tuple(loc[:2]) == ("recipe", "phases") and len(loc) > 2 and isinstance(loc[2], int):
        rest = ".".join(shortened(str(key)) for key in loc[3:])
        return f"recipe.phases, phase {loc[2] + 1}" + (f": {rest}" if rest else "")
    return ".".join(shortened(str(key)) for key in loc)


def _keys_at(loc: tuple[Any, ...], study: type[StudyModel]) -> list[str]:
    """The keys that exist at a location of a study file."""
    model: Any = study
    for key in loc:
        field = getattr(model, "model_fields", {}).get(key)
        if field is None:
            continue
        options = [field.annotation, *get_args(field.annotation)]
        inner = [o for o in options if isinstance(o, type) and issubclass(o, StudyModel)]
        model = inner[0] if inner else model
    return list(model.model_fields)


def _hint_elsewhere(name: str, study: type[StudyModel]) -> str:
    """A hint at the settings of this name in other sections; '' without any.

    >>> from casewise.study.schema import Study
    >>> _hint_elsewhere("epochs", Study), _hint_elsewhere("seed", Study)
    (' Did you mean recipe.epochs?', ' Did you mean seed, at the top of the study?')
    """
    places = _settings_named(name, study)
    paths = [path for rank, path in places if rank == min(places)[0]]
    if name in _OTHER_NAMES:
        paths = [_OTHER_NAMES[name]]
    at_top = ", at the top of the study" if paths == [name] else ""
    return f" Did you mean {' or '.join(paths[:3])}{at_top}?" if paths else ""


def _settings_named(name: str, section: type[StudyModel], prefix: str = "", rank: int = 0) -> list[tuple[int, str]]:
    """The settings of this name in a section and those within it, which rank lower; optional ones rank lowest."""
    places = [(rank, prefix + name)] if name in section.model_fields else []
    for key, field in section.model_fields.items():
        options = get_args(field.annotation) if get_origin(field.annotation) is UnionType else ()
        for option in (field.annotation, *options):
            if isinstance(option, type) and issubclass(option, StudyModel):
                places += _settings_named(name, option, f"{prefix}{key}.", rank + (2 if options else 1))
    return places
