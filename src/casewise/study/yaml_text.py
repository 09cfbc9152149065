"""The YAML of study files: plain values within limits, so that no text can exhaust time or memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from casewise.errors import StudyError, cut, shortened
from casewise.names import one_form

# Levels of nesting, and values with repeated anchors counted each time, of the largest study file.
DEEPEST, MOST_VALUES = 30, 30_000
LARGEST_NUMBER = 2**63
# The keys and values of a study file.
Values = dict[str, Any]
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}


class _Loader(_SafeLoader):  # type: ignore[misc]
    """Mappings, lists, texts, decimal numbers and truth values.

    Dates are text, as are `1:30`, `010` and `0x10`, which YAML would read as 90, 8 and 16; `on`, `off`, `yes` and `no`
    are words.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            raise _Refused(f"{cut(node.value)} is no {node.tag.rpartition(':')[2]}", node.start_mark) from None


class _Refused(yaml.constructor.ConstructorError):
    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


def _unique_keys(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    """A mapping without duplicate keys; YAML would silently keep the last one."""
    keys = set()
    before: yaml.Node | None = None
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise _Refused("a key must be a word or a number", key_node.start_mark)
        _refuse_decimal_comma(before, key_node, value_node)
        before = value_node
        key = "<<" if key_node.tag.endswith(":merge") else loader.construct_object(key_node, deep=True)
        if key in keys:
            raise _Refused(f"the key {cut(key)} is repeated", key_node.start_mark)
        keys.add(key)
    return dict(loader.construct_mapping(node, deep=True))


def _refuse_decimal_comma(before: yaml.Node | None, key: yaml.ScalarNode, value: yaml.Node) -> None:
    """Refuse `{lr: 0,0003}`, which YAML reads as `lr: 0` and a key 0003 without a value."""
    if not isinstance(before, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode) or value.value:
        return
    whole, fraction = str(before.value), str(key.value)
    adjacent = before.end_mark.index + 1 == key.start_mark.index
    if adjacent and re.fullmatch(r"[+-]?\d+", whole) and re.fullmatch(r"\d+(e[+-]?\d+)?", fraction, re.IGNORECASE):
        number = f"{whole},{fraction}"
        raise _Refused(
            f"{cut(number)} has a decimal comma; write {shortened(whole)}.{shortened(fraction)}", key.start_mark
        )


_Loader.yaml_constructors = {
    tag: function for tag, function in _SafeLoader.yaml_constructors.items() if tag is None or tag in _TAGS
}
_Loader.add_constructor("tag:yaml.org,2002:map", _unique_keys)
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag.rpartition(":")[2] not in ("bool", "timestamp", "int", "float")
    ]
    for first, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
}
_FRACTION = r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?"
for _name, _pattern, _first in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", rf"{_FRACTION}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+0123456789."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), list(_first))


def mapping(text: str, source: str) -> Values:
    """The keys and values of a YAML text; `source` names it in messages.

    Raises:
        StudyError: the text is not YAML, is not a mapping, exceeds a limit, or has a value that no setting can have.
    """
    try:
        _check_size(text)
        values = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read")
        raise StudyError(f"{source}{where}: {_remedy(text, mark) or f'not valid YAML: {problem}.'}") from None
    if not isinstance(values, dict):
        mismatch = "and this one is empty" if values is None else f"found {type(values).__name__}"
        raise StudyError(f"{source}: a study file is a list of 'key: value' lines, {mismatch}.")
    for path, value in _leaves(values, ""):
        if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
            raise StudyError(f"{source}: {path}: {cut(value)} contains a character that text cannot have.")
        if isinstance(value, int) and abs(value) >= LARGEST_NUMBER:
            raise StudyError(f"{source}: {path}: a number is at most {LARGEST_NUMBER - 1:,}; this one is larger.")
    return values if text.isascii() else _in_one_form(values)


def _in_one_form(value: Any) -> Any:
    """Keys and values with every text in one form, as tables are read."""
    if isinstance(value, dict):
        return {_in_one_form(key): _in_one_form(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_in_one_form(inner) for inner in value]
    return one_form(value) if isinstance(value, str) else value


def _remedy(text: str, mark: Any) -> str:
    """What to change in the line of an error, in words; '' for errors that are not frequent."""
    lines = text.splitlines()
    if not mark or not mark.line < len(lines):
        return ""
    line = lines[mark.line]
    if "\t" in line[: mark.column + 1] and not line[: mark.column].strip():
        return "a line begins with a tab. Replace the tab by spaces."
    # `name: Study: Cologne`: a second colon ends a text that has no quotes
    two_colons = re.fullmatch(
        r"\s*(?:- )?([\w.-]+): +([^\s\"'\[{#|>&*!][^#\"']*: .*|[^\s\"'\[{#|>&*!][^#\"']*:)\s*", line
    )
    if not two_colons:
        return ""
    value = re.sub(r"\s#.*", "", two_colons[2]).strip()
    return (
        f"{cut(line.strip())} has two colons, so that YAML does not read it as one text. Put the text in quotes: "
        f'{two_colons[1]}: "{shortened(value)}"'
    )


def _check_size(text: str) -> None:
    """Check nesting and the number of values before anything is built; an alias counts as all that it stands for.

    Raises:
        yaml.YAMLError: the text is not YAML, or exceeds a limit.
    """
    sizes: dict[str, int] = {}
    stack: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            stack.append((event.anchor, total))
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in stack):
                raise _Refused(f"*{cut(event.anchor)} stands for a value that contains it", event.start_mark)
            total += sizes.get(event.anchor or "", 0)
        elif isinstance(event, yaml.ScalarEvent) and event.anchor:
            sizes[event.anchor] = 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            anchor, before = stack.pop()
            if anchor:
                sizes[anchor] = total + 1 - before
        if isinstance(event, yaml.NodeEvent):
            total += 1
            if (tag := getattr(event, "tag", None)) not in (None, "!"):
                raise _Refused(f"{cut(tag)} is a tag, and settings have none", event.start_mark)
        if len(stack) > DEEPEST:
            raise _Refused(f"it is nested more than {DEEPEST} levels deep", event.start_mark)
        if total > MOST_VALUES:
            raise _Refused(f"it has more than {MOST_VALUES:,} values", event.start_mark)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every key and every single value, with the keys that lead to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield path or "the top level", key
            yield from _leaves(inner, f"{path}.{key}" if path else str(key) if isinstance(key, str) else "a number")
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    else:
        yield path, value
