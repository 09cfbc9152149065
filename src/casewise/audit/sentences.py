"""Sentences of the audit: the wording of `wording.yaml`, filled in with names and numbers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from casewise.audit.probes import FEWEST
from casewise.errors import counted, listed

if TYPE_CHECKING:
    from casewise.audit.shortcuts import ShortcutTest

# Paths that a remedy names, at most; fewer where a command writes all of them.
PATHS_SHOWN, FEW_SHOWN = 40, 6


@cache
def _wording() -> Any:
    return yaml.safe_load(Path(__file__).with_name("wording.yaml").read_text(encoding="utf-8"))


def fill(code: str, **values: object) -> str:
    """The template of this code with its values.

    >>> fill("twins-within-subject remedy", exclusion="`where_not: {path: [a.png]}`")
    'Exclude the copies with `where_not: {path: [a.png]}`.'
    """
    template: str = _wording()["findings"][code]
    return template.format(**values)


def shortcut_sentence(answer: ShortcutTest, *, source: str = "", marks_source: bool = False, classes: int = 0) -> str:
    """One sentence on a shortcut with the number, and one with its meaning.

    Args:
        source: the column of the sources; `marks_source`: the evidence predicts by being filled in, and so does it.
        classes: the number of classes of the target; if fewer could be tested, they are named.
    """
    kind, name, how = answer.evidence.kind, answer.evidence.name, answer.evidence.how
    target, result, by_class = answer.target, answer.result, answer.result.by_class
    p = f"p = {answer.p:.3f}" if answer.p >= 0.0005 else "p < 0.001"
    predicted = source if kind == "source-from-image" else target
    value = value_text(result.value, by_class, predicted, f" (chance 0.50, {p})" if by_class else f" ({p})")
    texts, wording = {"name": name, "source": source, "target": target}, _wording()["evidence"][kind]
    meaning = fill("marks source", source=source) if marks_source else wording["meaning"].format(**texts)
    if kind == "source-from-image":
        return fill("source-predictable", **texts, within=answer.within, value=value, meaning=meaning)
    evidence = fill("filled", name=name) if answer.by_filling else wording["name"].format(name=name)
    evidence += f" ({how})" if how and not answer.by_filling else ""
    tested = f"{target} ({' versus '.join(by_class)})" if by_class and len(by_class) < classes else target
    among = f" among {counted(len(result.scores), 'image')} with a mask" if kind == "outside-anatomy" else ""
    sentence = fill("shortcut", evidence=evidence, target=tested, value=value, among=among, meaning=meaning)
    if answer.as_it_is:
        value = value_of(answer.as_it_is)
        measured = listed(answer.measures)
        explain = "explain" if len(answer.measures) > 1 else "explains"
        sentence += " " + fill("unaltered", target=target, value=value, measures=measured, explain=explain)
    if answer.strongest:
        sentence += " " + fill("strongest", area=answer.strongest.evidence.how, value=value_of(answer.strongest))
    if answer.of_content and answer.inside:
        sentence += " " + fill("of content", target=target, value=value_of(answer.inside))
    return sentence


def value_text(value: float, by_class: Mapping[str, float], target: str, beside: str = "") -> str:
    """How well something predicts a target: AUROC, with the best predicted class's if there are several, or r.

    Args:
        by_class: the AUROC of each class; empty for numbers.
        beside: text after the first figure.

    >>> value_text(0.56, {"a": 0.5, "b": 0.52, "c": 0.66}, "label"), value_text(0.3, {}, "score")
    ('AUROC 0.56, and 0.66 for c', 'r = 0.30')
    """
    text = f"{'AUROC' if by_class else 'r ='} {value:.2f}{beside}"
    if len(by_class) < 3:
        return text
    best = max(by_class, key=lambda label: by_class[label])
    return f"{text}, and {by_class[best]:.2f} for {f'{target} {best}' if best.isdecimal() else best}"


def value_of(answer: ShortcutTest) -> str:
    """How well the evidence of a test predicts its target."""
    return value_text(answer.result.value, answer.result.by_class, answer.target)


def remedy(
    kind: str,
    name: str,
    *,
    reading: str = "levels",
    source: str | None = None,
    mask: str | None = None,
    single: tuple[str, str] | None = None,
    several: bool = False,
) -> str:
    """What to do, naming the study's key or the table's column.

    Args:
        reading: the type of a column's cells: `levels`, `codes` (few different numbers), `numbers`, `dates`, `sizes`.
        several: whether a subject has several values of the column, so that none of them can be left out.
        single: a class that occurs in one source only, and that source, which cannot be left out and tested.

    >>> remedy("column", "site")
    'Cross-validate with `split: {leave_out: site}`, or restrict the study to one site (`where:`).'
    >>> remedy("column", "view", several=True)
    'Report results by view (`evaluation: {subgroups: [view]}`), or restrict the study to one view (`where:`).'
    """
    column = name if kind == "column" else source
    leave_out = f"cross-validate with `split: {{leave_out: {column}}}`"
    if single:
        label, only = single
        leave_out = (
            f"add {label} from another {column} (all {label} comes from {column} {only}, so `split.leave_out` cannot "
            "test it)"
        )
    elif several and column:
        leave_out = f"report results by {column} (`evaluation: {{subgroups: [{column}]}}`)"
    elif not column:
        leave_out = (
            "write the source, if there are several, into a column and cross-validate with `split.leave_out` on it"
        )
    text = _wording()["evidence"][kind]["remedy"]
    text = text[reading] if isinstance(text, Mapping) else text
    text = text.format(name=name, mask=mask, source=source, leave_out=leave_out)
    return f"{text[0].upper()}{text[1:]}."


def as_in_table(paths: Sequence[str], root: Path) -> list[str]:
    """Different paths as the table writes them: relative to `root` where possible.

    >>> as_in_table(["/data/a.png", "/data/b/c d.png", "/data/a.png"], Path("/data"))
    ['a.png', 'b/c d.png']
    """
    unique = dict.fromkeys(paths)
    return [os.path.relpath(path, root) if Path(path).is_relative_to(root) else path for path in unique]


def exclusion(
    written: Sequence[str], *, column: str = "path", most: int = PATHS_SHOWN, by_command: bool = False
) -> str:
    """The study key that excludes images by their paths, or the values of another `column`, as the table writes them.

    At most `most` are named, fewer if the command `casewise audit --resolve` leaves them out.

    >>> exclusion(["a.png", "b/c d.png"])
    '`where_not: {path: [a.png, "b/c d.png"]}`'
    """
    bare = re.compile(r"[^\W\d][\w./-]*|/[\w./-]+")
    quoted = [text if bare.fullmatch(text) else json.dumps(text, ensure_ascii=False) for text in written]
    most = FEW_SHOWN if by_command else most
    where = (
        "`casewise audit STUDY --resolve` does it" if by_command else "copy `where_not` of this finding from audit.json"
    )
    more = f" with the others ({len(quoted):,} in all: {where})" if len(quoted) > most else ""
    return f"`where_not: {{{column}: [{', '.join(quoted[:most])}]}}`{more}"


def untested(facts: Mapping[str, Any]) -> str:
    """Why shortcuts were not tested at all; empty if they were, or if nothing is recorded.

    >>> untested({"subjects": 12, "tests": []})
    'shortcuts were not tested: too few subjects (20 are needed)'
    >>> untested({"subjects": 40, "tests": []})
    'shortcuts were not tested: too few cases, or nothing varies'
    >>> untested({"subjects": 40, "tests": [{"value": 0.5}]}), untested({})
    ('', '')
    """
    if "tests" not in facts or facts["tests"]:
        return ""
    few = facts.get("subjects", FEWEST) < FEWEST
    reason = f"too few subjects ({FEWEST} are needed)" if few else "too few cases, or nothing varies"
    return f"shortcuts were not tested: {reason}"
