"""Builds the documentation: the pages that are made from the source, then the site.

`build.py` writes the pages and the site; `--pages` writes the pages alone; `--check` reports whether they are current.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from casewise.metrics.registry import metric_names, metric_of
from casewise.study.loading import PRESETS, named_scores, preset_names, preset_text
from casewise.study.model import StudyModel, parse_fraction, parse_range, texts
from casewise.study.schema import Pretraining, Study

DOCS = Path(__file__).resolve().parent
MADE = "<!-- Made by docs/build.py; change the source, then `make docs`. -->\n"
LIMITS = {
    "minimum": "from {:g}",
    "exclusiveMinimum": "above {:g}",
    "maximum": "to {:g}",
    "exclusiveMaximum": "below {:g}",
}
# What a person may write, where a validator turns it into what the schema knows.
WRITTEN = {
    "Target.classes": "list of names, or name: spelling or list of spellings",
    "Phase.variations": "key of [`panels`](#panels): value",
    "Panels.rotate": "number from 0 to 180, or `any`",
    "Study.scores": "name of a score, or [`scores.NAME`](#scoresname)",
    "Study.backbones": "list of names, or `all29`",
}
EXTENDS = (
    "A preset's name (see [Presets](#presets)) or another study file, over which this one is merged key by key. "
    "`targets`, "
    "`scores`, `where`, `accept`, `pretrain`, `external`, `bands`, `readers`, `references` and `weights` are "
    "replaced whole."
)
STUDY_HEAD = """# The study file

A study file is YAML. It states what to predict from which images; nearly everything has a default. Relative paths start
at the file's own folder. An unknown key is an error that names the nearest key that exists. `on`, `off`, `yes` and `no`
are plain words; only `true` and `false` are truth values. Editors that understand JSON schemas complete and check keys
with `study.schema.json`, which lies beside this page's source: write
`# yaml-language-server: $schema=PATH/study.schema.json` as the first line.
"""
METRICS_HEAD = """# Metrics

Every metric is one record of the registry (`casewise.metrics.registry`). A metric of single classes has the name of the
class behind it, such as `recall[covid]`; without it, it is the plain mean over the classes. `NAME_calibrated` is the
metric after temperature scaling.
"""
COMMANDS_HEAD = """# The command line

`casewise COMMAND --help` says the same.
"""
COMMANDS_TAIL = """`casewise --version` shows the version.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | a fault of casewise itself, with a traceback: please report it |
| 2 | something in the input must be mended; the message says what, where and how |
| 130 | stopped by Ctrl-C; the same command continues |

## Environment

| variable | meaning |
|---|---|
| `CASEWISE_WEIGHTS` | a folder of `<backbone>.safetensors`, looked in after `--weights-dir` |
| `CASEWISE_CACHE` | where measurements of this machine are kept (default: `XDG_CACHE_HOME`, else `~/.cache`) |
"""


def study_page() -> str:
    """Every key of the study file: type, default and meaning, from the descriptions in the schema."""
    schema = Study.model_json_schema()
    lines = [MADE, STUDY_HEAD]
    undocumented: list[str] = []
    for model, place in _sections(Study, ""):
        own = schema if model is Study else schema["$defs"][model.__name__]
        lines += [
            f"## `{place}`" if place else "## The study",
            "",
            "| key | value | default | meaning |",
            "|---|---|---|---|",
        ]
        if model is Study:
            lines.append(f"| `extends` | text |  | {EXTENDS} |")
        for name, field in model.model_fields.items():
            undocumented += [] if field.description else [f"{model.__name__}.{name}"]
            kind = WRITTEN.get(f"{model.__name__}.{name}") or _kind(own["properties"][name], field, place, name)
            lines.append(f"| `{name}` | {kind} | {_default(field, name)} | {field.description} |")
        lines.append("")
    if undocumented:
        sys.exit(f"These keys of the study file have no description: {', '.join(undocumented)}.")
    return "\n".join([*lines, *_presets()])


def schema_file() -> str:
    """The JSON schema of the study file, for editors. It has what a person may write beside what the models hold."""
    schema = Study.model_json_schema()
    schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "casewise study file"}
    schema["properties"] = {"extends": {"type": "string", "description": EXTENDS}, **schema["properties"]}
    schema["required"] = []  # a preset may state what a study file leaves out
    _accept_written(schema)
    for name in ("targets", "scores", "backbones"):
        schema["properties"][name] = {
            "description": schema["properties"][name].pop("description", ""),
            "anyOf": [schema["properties"][name], {"type": "string"}],
        }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _accept_written(node: Any) -> None:
    """Let ranges and fractions be text, such as `0..4` and `10%`, and targets be ranges or lists of classes."""
    for value in list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []:
        _accept_written(value)
    if not isinstance(node, dict):
        return
    if "prefixItems" in node or (node.get("type") == "number" and "maximum" in node | {"exclusiveMaximum": 0}):
        kept = {key: node.pop(key) for key in list(node) if key not in ("description", "title", "default")}
        node["anyOf"] = [kept, {"type": "string"}]
    if node.get("additionalProperties") == {"$ref": "#/$defs/Target"}:
        node["additionalProperties"] = {
            "anyOf": [{"$ref": "#/$defs/Target"}, {"type": "string"}, {"type": "array", "items": {"type": "string"}}]
        }


def _sections(model: type[StudyModel], place: str) -> Iterator[tuple[type[StudyModel], str]]:
    """Every section of the study file with its place in it, outer ones first; each is shown once."""
    yield model, place
    for name, field in model.model_fields.items():
        for inner in _inner(field.annotation):
            if model is not Pretraining:
                yield from _sections(inner, _place(place, name))


def _place(above: str, name: str) -> str:
    if name in ("targets", "scores"):
        return f"{name}.NAME"
    return f"{above}.{name}" if above else name


def _inner(annotation: Any) -> list[type[StudyModel]]:
    options = [annotation, *get_args(annotation)]
    return [o for o in options if isinstance(o, type) and issubclass(o, StudyModel)]


def _kind(found: dict[str, Any], field: FieldInfo, place: str, name: str) -> str:
    """What may be written, in words."""
    readers = {getattr(m, "func", None) for m in field.metadata}
    if parse_range in readers:
        return "range, such as `0..4`"
    if parse_fraction in readers:
        return "fraction, such as `10%` or `0.1`"
    if texts in readers:
        return "column: text or list of texts"
    if _inner(field.annotation):
        below = _place(place, name)
        return f"[`{below}`](#{below.replace('.', '').lower()})"
    return _words(found)


def _words(found: dict[str, Any]) -> str:
    if "anyOf" in found:
        return " or ".join(_words(option) for option in found["anyOf"] if option.get("type") != "null")
    if "enum" in found or "const" in found:
        values = found.get("enum") or [found["const"]]
        return ", ".join(f"`{value}`" for value in values)
    kind = found.get("type")
    if kind == "array":
        return f"list of {_words(found['items'])}"
    if kind == "object":
        inner = found["additionalProperties"]
        return f"name: {_words(inner) if isinstance(inner, dict) else 'value'}"
    if kind in ("integer", "number"):
        limits = " ".join(text.format(found[key]) for key, text in LIMITS.items() if key in found)
        return f"{'whole number' if kind == 'integer' else 'number'} {limits}".strip()
    return {"boolean": "`true`, `false`", "string": "path" if found.get("format") == "path" else "text"}[str(kind)]


def _default(field: FieldInfo, name: str) -> str:
    if field.is_required():
        return "the file's name" if name == "name" else "needed"  # read_study fills it in
    value = field.default
    if value is None or value in ("", [], {}) or isinstance(value, StudyModel):
        return ""
    if parse_range in {getattr(m, "func", None) for m in field.metadata}:
        return f"`{value[0]:g}..{value[1]:g}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _presets() -> list[str]:
    lines = ["## Presets", ""]
    for name in preset_names():
        lines += [
            f"### {name}",
            "",
            f"`extends: {name}` is the same as writing:",
            "",
            "```text",
            preset_text(name).strip(),
            "```",
            "",
        ]
    lines += [
        "## Scores that come with casewise",
        "",
        "| `scores:` | score | level | range | formula |",
        "|---|---|---|---|---|",
    ]
    for file in sorted(item.name for item in (PRESETS / "scores").iterdir()):
        key = file.removesuffix(".yaml")
        for name, score in named_scores(key, file).items():
            lines.append(f"| `{key}` | `{name}` | {score['level']} | `{score['range']}` | `{score['formula']}` |")
    return [*lines, ""]


def metrics_page() -> str:
    """Every registered metric: what it is, the kinds of target it applies to, which direction is better."""
    heads = "| metric | title | kinds of target | better | meaning |"
    lines = [MADE, METRICS_HEAD, heads, "|---|---|---|---|---|"]
    better = {True: "larger", False: "smaller", None: "neither"}
    for name in metric_names():
        metric = metric_of(name)
        cells = [f"`{name}`", metric.title, ", ".join(metric.kinds), better[metric.larger_is_better], metric.glossary]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def commands_page() -> str:
    """Every command with its arguments and options."""
    import typer

    from casewise.cli.main import app

    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    below = {name: getattr(command, "commands", None) for name, command in commands.items()}
    told = [
        pair
        for name, command in commands.items()
        for pair in ([(f"{name} {n}", c) for n, c in below[name].items()] if below[name] else [(name, command)])
    ]
    lines = [MADE, COMMANDS_HEAD]
    for name, command in told:
        rows, words = [], [f"casewise {name}"]
        for given in command.params:
            option = given.opts[0].startswith("--")
            words += [] if option else [given.name.upper()]
            shown = given.opts[0] if option else given.name.upper()
            default = "needed" if given.required else "" if given.default in (None, (), []) else f"`{given.default}`"
            rows.append(f"| `{shown}` | {default} | {_plain(given.help)} |")
        lines += [f"## {' '.join(words)}", "", _plain(command.help), ""]
        lines += ["| | default | meaning |", "|---|---|---|", *rows, ""] if rows else []
    return "\n".join([*lines, COMMANDS_TAIL])


def _plain(text: str | None) -> str:
    return (text or "").replace("<", "&lt;").replace("|", "\\|")


PAGES = {
    "reference-study.md": study_page,
    "study.schema.json": schema_file,
    "reference-metrics.md": metrics_page,
    "reference-commands.md": commands_page,
}


def main(words: list[str]) -> int:
    """Check the made pages, or write them and build the site."""
    if unknown := [word for word in words if word not in ("--check", "--pages")]:
        print(f"build.py: there is no option {unknown[0]}; there are --check and --pages.", file=sys.stderr)
        return 2
    pages = {DOCS / name: make() for name, make in PAGES.items()}
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if "--check" in words:
        for path in stale:
            print(f"docs/{path.name} is not current: run `make docs`.", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages[path], encoding="utf-8")
        print(f"wrote docs/{path.name}")
    if "--pages" in words:
        return 0
    if importlib.util.find_spec("mkdocs") is None:
        print("The pages are current. The site needs mkdocs: pip install 'mkdocs>=1.6,<2'.", file=sys.stderr)
        return 2
    return subprocess.call([sys.executable, "-m", "mkdocs", "build", "--strict"], cwd=DOCS.parent)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
