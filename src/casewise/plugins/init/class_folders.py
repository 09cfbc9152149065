"""Folders beside the classes, such as hospitals, and people who are in several of these."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from casewise.cohort.folder_layout import are_batches
from casewise.cohort.table import names_text
from casewise.errors import CasewiseError
from casewise.plugins.init.word_forms import MIXED, are_classes, are_counted, are_splits

# Findings, after which neither hospitals nor devices are named.
_FINDINGS = re.compile(
    r"(^|[\W_])(benign\w*|malign\w*|cancer|melanoma\w*|na?ev(us|i)|\w*carcinoma|\w*tumou?r|covid\w*|pneumonia)($|[\W_])",
    re.IGNORECASE,
)


def levels_beside_classes(levels: Sequence[Sequence[str]]) -> list[int]:
    """The levels of folders that are like classes and are none, such as hospitals, where one level has the classes.

    Each class is in several folders of such a level, and each of these has several classes.

    >>> hospitals, findings = ["Ulm", "Ulm", "Kiel", "Kiel"], ["benign", "malignant"] * 2
    >>> levels_beside_classes([hospitals, findings]), levels_beside_classes([findings, ["ann", "bob", "eva", "jim"]])
    ([0], [])

    Raises:
        CasewiseError: several levels may have the classes.
    """
    like = [
        level for level, values in enumerate(levels)
        if (are_classes(set(values)) or are_counted(set(values))) and not are_splits(values)
    ]  # fmt: skip
    crossed = sorted({
        level for a, b in itertools.combinations(like, 2) for level in (a, b)
        if _recurs(levels[a], levels[b]) and _recurs(levels[b], levels[a])
    })  # fmt: skip
    if not crossed:
        return []
    named = [
        level
        for level in crossed
        if any(_FINDINGS.search(name) and not are_batches({name}) for name in set(levels[level]))
    ]
    named = named or [level for level in crossed if not are_batches(set(levels[level]))]
    if len(named) != 1:
        shown = " or ".join(names_text(sorted(set(levels[level])), 3) for level in crossed)
        text = "/".join("{label}" if level == crossed[-1] else "*" for level in range(len(levels)))
        raise CasewiseError(
            f"WHICH FOLDERS ARE THE CLASSES? They may be {shown}. Say so with --pattern, such as '{text}/*', in which "
            "each * is a folder or file that is not used; write {subject} in place of the * that names the person."
        )
    return [level for level in crossed if level not in named]


def _recurs(names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether many names stand beside several others."""
    counts = Counter(name for name, _ in set(zip(names, others, strict=True)))
    return sum(count > 1 for count in counts.values()) > MIXED * len(counts)


def check_divided(subjects: Sequence[str], places: Sequence[str], pattern: str, level: int) -> None:
    """Refuse people in several folders beside the classes: the same ones, or numbers that start again in each.

    Args:
        places: the folder of each image at this level of the pattern.

    Raises:
        CasewiseError: there are some.
    """
    if not _recurs(subjects, places):
        return
    of_name: dict[str, dict[str, None]] = defaultdict(dict)
    for name, folder in zip(subjects, places, strict=True):
        of_name[name][folder] = None
    name, several = next((name, own) for name, own in of_name.items() if len(own) > 1)
    texts = []
    for field in ("hospital", "place"):
        folders = pattern.split("/")
        folders[level] = f"{{{field}}}"
        texts.append("/".join(folders))
    raise CasewiseError(
        f"ONE PERSON OR SEVERAL? {name} is in {names_text(list(several), 3)}. If numbers of people start again in "
        f"each, say so with --pattern '{texts[0]}'; if they are the same people, with --pattern '{texts[1]}'."
    )


def check_beside(folders: Sequence[str], pattern: str, level: int) -> None:
    """Refuse folders beside the classes that may be people or hospitals, where nothing else states people.

    Raises:
        CasewiseError: nothing shows that these are batches of files, or places.
    """
    if are_batches(set(folders)):
        return
    shown = names_text(sorted(set(folders)), 3)
    levels = pattern.split("/")
    levels[level] = "{subject}"
    raise CasewiseError(
        f"PEOPLE OR HOSPITALS? The folders {shown} lie beside the classes. If they are people, repeat this with "
        f"--pattern '{'/'.join(levels)}'; if not, with --pattern {pattern!r}, and then no subject is known."
    )
