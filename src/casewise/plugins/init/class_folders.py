"""Folders beside the classes, such as hospitals, and people who are in several of these."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from casewise.cohort.folder_layout import are_batches
from casewise.cohort.table import names_text
from casewise.errors import CasewiseError
from casewise.plugins.init.word_forms import MIXED, are_classes, are_sides

# Words of classes, which hospitals, devices and parts of the body do not have.
_OUTCOME = re.compile(
    r"(^|[\W_])(no|non|not|normal\w*|neg\w*|pos\w*|benign\w*|malign\w*|healthy|ill|well|controls?|gesund|krank|sain|sano|"
    r"cancer|melanoma\w*|na?evus|\w*carcinoma|\w*tumou?r|covid\w*|pneumonia|mild|moderate|severe)($|[\W_])",
    re.IGNORECASE,
)


def levels_beside_classes(levels: Sequence[Sequence[str]]) -> list[int]:
    """The levels of folders that are like classes and are none, such as hospitals, where one level has the classes.

    Each class is in several folders of such a level, and each of these has several classes. People are not like this.

    >>> hospitals, findings = ["Ulm", "Ulm", "Kiel", "Kiel"], ["benign", "malignant"] * 2
    >>> levels_beside_classes([hospitals, findings]), levels_beside_classes([findings, ["ann", "bob", "eva", "jim"]])
    ([0], [])

    Raises:
        CasewiseError: several levels may have the classes.
    """
    like = [level for level, values in enumerate(levels) if are_classes(set(values)) and not are_sides(values)]
    crossed = sorted({
        level for a, b in itertools.combinations(like, 2) for level in (a, b)
        if _recurs(levels[a], levels[b]) and _recurs(levels[b], levels[a])
    })  # fmt: skip
    if not crossed:
        return []
    named = [level for level in crossed if any(map(_OUTCOME.search, levels[level]))]
    named = named or [level for level in crossed if not are_batches(set(levels[level]))]
    if len(named) != 1:
        shown = " or ".join(names_text(sorted(set(levels[level])), 3) for level in crossed)
        text = "/".join("{label}" if level == crossed[-1] else "*" for level in range(crossed[-1] + 1))
        raise CasewiseError(
            f"WHICH FOLDERS ARE THE CLASSES? They may be {shown}. Say so with --pattern, such as "
            f"'{text}/{{subject}}/*.jpg', in which each * is a folder that is not used."
        )
    return [level for level in crossed if level not in named]


def _recurs(names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether many names stand beside several others."""
    counts = Counter(name for name, _ in set(zip(names, others, strict=True)))
    return sum(count > 1 for count in counts.values()) > MIXED * len(counts)


def check_people(subjects: Sequence[str], places: Sequence[str], pattern: str) -> None:
    """Refuse people in several folders beside the classes: the same ones, or numbers that start again in each.

    Raises:
        CasewiseError: there are some.
    """
    if not _recurs(subjects, places):
        return
    of_name: dict[str, dict[str, None]] = defaultdict(dict)
    for name, place in zip(subjects, places, strict=True):
        of_name[name][place] = None
    name, several = next((name, own) for name, own in of_name.items() if len(own) > 1)
    texts = [pattern.replace("*", f"{{{field}}}", 1) for field in ("hospital", "place")]
    raise CasewiseError(
        f"ONE PERSON OR SEVERAL? {name} is in {names_text(list(several), 3)}. If numbers of people start again in "
        f"each, say so with --pattern '{texts[0]}'; if they are the same people, with --pattern '{texts[1]}'."
    )
