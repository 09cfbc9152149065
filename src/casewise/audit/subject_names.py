"""Names of subjects that differ only in an ending, such as `P7_v1` and `P7_v2`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from casewise.audit.findings import Finding
from casewise.audit.sentences import fill

# An ending: a word (`left`), a number, or both (`v2`) after a separator; a letter or `v2` after a digit.
_ENDING = re.compile(
    r"(.*\w)(?:[ _.(-]+([a-z]{0,10}[ _.-]?\d{1,2}|[a-z]{1,10}|(?:19|20)\d\d)|(?<=\d)([a-z]|v\d))\)?", re.IGNORECASE
)
# Endings that follow a system are few, and occur with more stems than numbers of subjects within a site do.
MOST_ENDINGS, FEWEST_STEMS, STEMS_PER_ENDING, SHARE = 6, 3, 2, 0.5


def suffix_findings(subjects: Iterable[str]) -> list[Finding]:
    """A warning where many names are made of few endings after stems that occur several times.

    >>> [finding.figures["subjects"] for finding in suffix_findings(f"P{n}_v{v}" for n in range(9) for v in (1, 2))]
    [18]
    >>> suffix_findings(f"B{n % 2}-{n}" for n in range(90))
    []
    """
    names = sorted(set(subjects))
    by_stem: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        match = _ENDING.fullmatch(name)
        ending = (match[2] or match[3]).casefold() if match else ""
        # numbers after a number are those of a site's subjects
        if match and not (ending.isdecimal() and len(ending) < 3 and match[1].isdecimal()):
            by_stem[match[1].casefold()][ending] = name
    several = {stem: endings for stem, endings in by_stem.items() if len(endings) > 1}
    endings = sorted({ending for of_stem in several.values() for ending in of_stem})
    affected = sum(map(len, several.values()))
    few = len(endings) <= min(MOST_ENDINGS, len(several) / STEMS_PER_ENDING)
    if not few or len(several) < FEWEST_STEMS or affected < SHARE * len(names):
        return []
    first = next(iter(several.values()))
    sentence = fill(
        "subject-suffixes",
        subjects=affected,
        total=len(names),
        endings=", ".join(endings),
        example=" and ".join(repr(name) for name in list(first.values())[:2]),
    )
    figures = {"subjects": affected, "stems": len(several), "endings": endings}
    return [Finding("subject-suffixes", "warning", sentence, figures, remedy=fill("subject-suffixes remedy"))]
