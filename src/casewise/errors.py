"""The errors that casewise raises for a mistake that a person can correct."""

from __future__ import annotations

import difflib
import os
import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Characters of a value that a message quotes, of one line of a message, and of a whole message on an input file.
QUOTED, LINE, MESSAGE = 80, 700, 2000


class CasewiseError(Exception):
    """A mistake in the input; the message is a sentence for the person who can correct it (exit code 2)."""


class InputError(CasewiseError):
    """A file that a person wrote has problems; whatever it contains, the message is short and printable."""

    def __init__(self, message: str = "") -> None:
        super().__init__(fitted(printable(message)))


class StudyError(InputError):
    """The study file states something impossible."""


class CohortError(InputError):
    """The cohort table has problems; the message has as many of them as fit, and counts the others."""


class ImageError(CasewiseError):
    """An image file cannot be read as the image it should be."""


class SplitError(CasewiseError):
    """A split cannot be made, or has a subject on both sides."""


class BothSidesError(SplitError):
    """A predefined split has subjects on several sides; the audit can still report it."""


class WeightsError(CasewiseError):
    """Pretrained weights are missing or belong to another network."""


class AuditError(CasewiseError):
    """The audit found an error that the study does not accept with a reason."""


class TrainingError(CasewiseError):
    """A network cannot be trained as the study states; the message names the network and what to change."""


class RunError(CasewiseError):
    """A run folder is in use, belongs to another study, or cannot be written."""


class DamagedError(RunError):
    """A file of a run folder is not what was written."""


def nearest(value: object, options: Iterable[str]) -> str:
    """Return a hint at the option most similar to `value`, or an empty string.

    >>> nearest("resnet43", ["resnet34", "alexnet"])
    " Did you mean 'resnet34'?"
    >>> nearest("resnet35", ["resnet50", "resnet34"])
    " Did you mean 'resnet34'?"
    >>> nearest("BEFUND", ["Befunde"])
    " Did you mean 'Befunde'?"
    >>> nearest("qqq", ["resnet34"])
    ''
    """
    match = _closest(str(value), options) if len(str(value)) <= QUOTED else None
    return f" Did you mean {cut(match)}?" if match else ""


class Suggesting:
    """An object that answers the name of a missing attribute with the nearest one."""

    if not TYPE_CHECKING:  # with it, a type checker would accept every name

        def __getattr__(self, name: str) -> Any:
            """Called where nothing has this name, or where a property of this name raised AttributeError."""
            if name.startswith("_") or hasattr(type(self), name):
                inherited = getattr(super(), "__getattr__", None)
                # else for the property's own message
                return inherited(name) if inherited else object.__getattribute__(self, name)
            raise AttributeError(unknown_attribute(type(self).__name__, name, dir(self)))


def unknown_attribute(owner: str, name: str, options: Iterable[str]) -> str:
    """The message for a missing attribute of an object or a module.

    >>> unknown_attribute("Run", "metric", ["metrics", "_rows"])
    "Run has no attribute 'metric'. Did you mean 'metrics'?"
    >>> unknown_attribute("Run", "auc", ["metrics", "rows"])
    "Run has no attribute 'auc'. It has metrics, rows."
    """
    public = [option for option in options if not option.startswith("_")]
    hint = nearest(name, public) or (f" It has {', '.join(public)}." if public else "")
    return f"{owner} has no attribute {cut(name)}.{hint}"


def _closest(text: str, options: Iterable[str]) -> str | None:
    by_plain = {name.casefold(): name for name in options}
    plain = text.casefold()
    matches = difflib.get_close_matches(plain, by_plain, n=5, cutoff=0.6)
    if not matches:
        return None
    # of equally similar ones that with the longest common beginning: resnet34 for resnet35, not resnet50
    ratio = difflib.SequenceMatcher(None, matches[0], plain).ratio()
    equal = [match for match in matches if difflib.SequenceMatcher(None, match, plain).ratio() == ratio]
    return by_plain[max(equal, key=lambda match: [a == b for a, b in zip(match, plain, strict=False)])]


def none_of(value: object, options: Iterable[str]) -> str:
    """The sentence about a name that does not exist, with those that do.

    >>> none_of("onx", ["onnx", "torchscript"])
    "'onx' is none of onnx, torchscript. Did you mean 'onnx'?"
    """
    options = list(options)
    return f"{cut(value)} is none of {', '.join(options)}.{nearest(value, options)}"


def nearest_folder(folder: Path, *, or_file: bool = False) -> str:
    """A hint at the folder, or file, next to a missing one whose name is most similar; '' if there is none.

    The first missing folder of the path counts: for a/b/c without a/b, the folders in a.
    """
    while not folder.parent.is_dir() and folder.parent != folder:
        folder = folder.parent
    try:
        names = [inner.name for inner in os.scandir(folder.parent) if or_file or inner.is_dir()]
    except (OSError, ValueError):
        return ""
    match = _closest(folder.name, names)
    return f" Did you mean {cut(str(folder.parent / match))}?" if match else ""


def plural(noun: str) -> str:
    """A plain plural.

    >>> plural("source"), plural("city")
    ('sources', 'cities')
    """
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"


def counted(count: int, noun: str, several: str = "") -> str:
    """A count with its noun.

    >>> counted(1, "visit"), counted(1200, "visit"), counted(2, "study", "studies")
    ('1 visit', '1,200 visits', '2 studies')
    """
    return f"{count:,} {noun if count == 1 else several or plural(noun)}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """A list of words within a sentence.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed([])
    ('a, b and c', 'a', '')
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def gigabytes(megabytes: float) -> str:
    """An amount of memory, of MB of 2^20 bytes.

    >>> gigabytes(2662.4)
    '2.6 GB'
    """
    return f"{megabytes / 1024:.1f} GB"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = QUOTED


def cut(value: object, limit: int = QUOTED) -> str:
    """A value as a message quotes it: its representation, with its middle left out where it is long.

    >>> cut("a" * 200, limit=12)
    "'aaa...aaaa'"
    >>> cut({"a": [1, 2]})
    "{'a': [1, 2]}"
    """
    return shortened(_SHORT.repr(value), limit)


def shortened(text: str, limit: int = QUOTED) -> str:
    """Text with its middle left out where it is longer than `limit`.

    >>> shortened("subject_of_the_second_hospital", 11)
    'subj...ital'
    """
    return text if len(text) <= limit else f"{text[: (limit - 3) // 2]}...{text[-((limit - 3) - (limit - 3) // 2) :]}"


def printable(text: str) -> str:
    """Text with control characters and halves of character pairs as escapes, so that every terminal shows it.

    >>> printable("a\\0b\\ud800")
    'a\\\\x00b\\\\ud800'
    """
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def fitted(text: str, limit: int = MESSAGE) -> str:
    """A message within `limit` characters: long lines lose their middle, and lines that do not fit are counted.

    >>> fitted("3 problems:\\n  one\\n  two\\n" + "three " * 9, limit=48)
    '3 problems:\\n  one\\n  and 2 more lines.'
    """
    if len(text) <= limit:
        return text
    lines = [shortened(line, LINE) for line in text.split("\n")]
    kept, room = [lines[0]], limit - len(lines[0]) - 30
    for line in lines[1:]:
        if len(line) + 1 > room:
            break
        kept.append(line)
        room -= len(line) + 1
    rest = len(lines) - len(kept)
    return "\n".join(kept) + (f"\n  and {rest:,} more {'line' if rest == 1 else 'lines'}." if rest else "")
