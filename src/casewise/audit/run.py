"""The audit of a study: duplicates, imported splits, shortcuts. Nothing is trained."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from casewise.audit.blank_images import blank_findings
from casewise.audit.columns import untested_numbers
from casewise.audit.findings import Audit
from casewise.audit.hashes import hash_store
from casewise.audit.sentences import fill
from casewise.audit.shortcuts import Shortcuts, find_shortcuts
from casewise.audit.subjects import guess_findings, imported_findings, name_findings, streak_findings, suffix_findings
from casewise.audit.twin_findings import twin_findings
from casewise.audit.twins import find_twins
from casewise.cohort.cohort import Cohort
from casewise.cohort.table import names_text
from casewise.modalities.store.store import TileStore
from casewise.study.schema import Study
from casewise.study.targets import own_heading

# The share of the time that the search for twins takes.
TWINS = 0.5
# In smaller tiles, small marks at the border are lost.
_SMALL_TILE = 128


# threads of BLAS wait for each other in vain where other programs use the processor, too
@threadpool_limits.wrap(limits=1, user_api="blas")
def audit(
    study: Study,
    cohort: Cohort,
    tiles: TileStore,
    sides: Mapping[str, int] | None,
    *,
    embed: Callable[[np.ndarray], np.ndarray] | None = None,
    progress: Callable[..., None] | None = None,
) -> Audit:
    """Search for duplicate pictures, for subjects and pictures on both sides of a split, and for shortcuts.

    Args:
        tiles: the tile of image i is row i.
        sides: the side of each subject in the split; None before there is one.
        progress: called with what is done of how much, and its name.
        embed: a network that maps image numbers (n,) or tiles (n, C, H, W) `uint8` to features (n, d) of unit length.

    Returns:
        The findings. `facts` has the numbers of subjects and images, the results of every test for shortcuts
        (`tests`), the tests that were not possible (`not_tested`), and the tested `columns`.

    Raises:
        CohortError: `audit.columns` or `audit.mask` name missing columns, or masks do not match their images.
    """
    report = progress or (lambda done, total, text: None)
    images, started = cohort.images, time.monotonic()
    hashes = hash_store(tiles)
    twins = find_twins(
        tiles, images, hashes=hashes, embed=embed,
        progress=lambda share: report(TWINS * share, 1.0, "looking for copies of images"),
    )  # fmt: skip
    streaks, not_tested = streak_findings(study, cohort)
    findings = [
        *twin_findings(twins, images, study, sides),
        *blank_findings(hashes.flat, images, study),
        *(suffix_findings(images["subject"].astype(str)) if study.subjects_known else []),
        *name_findings(images["subject"].astype(str), study, sides or {}),
        *streaks,
        *guess_findings(study),
        *imported_findings(images, study),
    ]
    searched = time.monotonic()
    shortcuts = find_shortcuts(
        study, cohort, tiles, embed=embed, progress=lambda share, text: report(TWINS + (1 - TWINS) * share, 1.0, text)
    )
    seconds = {"twins": round(searched - started, 3), "shortcuts": round(time.monotonic() - searched, 3)}
    facts = {
        "subjects": int(images["subject"].nunique()),
        "images": len(images),
        "columns": shortcuts.columns,
        "tests": shortcuts.tested,
        "not_tested": [*shortcuts.not_tested, *not_tested],
        "overlays": shortcuts.overlays,
        "not_examined": _not_examined(study, images, tiles, shortcuts, network=embed is not None),
    }
    return with_headings(Audit([*findings, *shortcuts.findings], seconds, facts), study)


def with_headings(audit: Audit, study: Study) -> Audit:
    """The audit whose sentences name targets by the headings of their columns, as reports do; code stays as it is."""
    headings = {name: heading for name, each in study.targets.items() if (heading := own_heading(each, name))}
    if not headings:
        return audit
    names = re.compile(rf"`[^`]*`|(?<![\w/])({'|'.join(map(re.escape, headings))})(?![\w/])")

    def written(text: str) -> str:
        return names.sub(lambda match: headings.get(match[1], match[0]), text)

    findings = [
        replace(finding, sentence=written(finding.sentence), remedy=written(finding.remedy))
        for finding in audit.findings
    ]
    not_tested = [written(text) for text in audit.facts["not_tested"]]
    return replace(audit, findings=findings, facts={**audit.facts, "not_tested": not_tested, "headings": headings})


def _not_examined(
    study: Study, images: pd.DataFrame, tiles: TileStore, shortcuts: Shortcuts, *, network: bool
) -> list[str]:
    """What a shortcut may hide in that no test of this audit looks at, as phrases."""
    size = tiles.preparation.size
    numbers = untested_numbers(study, images, shortcuts.columns)
    lacking = {
        "no network": not network,
        "moving marks": "marks" not in shortcuts.measured,
        "small tiles": size < _SMALL_TILE,
        "numbers": bool(numbers),
    }
    return [
        fill(f"not examined: {code}", size=size, names=names_text(numbers, 3))
        for code, holds in lacking.items()
        if holds
    ]
