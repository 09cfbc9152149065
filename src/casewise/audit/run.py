"""The whole audit of a study: twins, splits made elsewhere, shortcuts. Nothing is trained for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np

from casewise.audit.findings import Audit
from casewise.audit.predefined_splits import imported_findings
from casewise.audit.shortcuts import look_for_shortcuts
from casewise.audit.twin_findings import twin_findings
from casewise.audit.twins import find_twins

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.modalities.store.store import TileStore
    from casewise.study.schema import Study

__all__ = ["Progress", "audit"]

# About how much of the time each step takes.
TWINS = 0.5


class Progress(Protocol):
    """Told how far the audit is."""

    def __call__(self, done: float, total: float, text: str = "") -> None: ...


def audit(
    study: Study,
    cohort: Cohort,
    tiles: TileStore,
    sides: Mapping[str, int] | None,
    *,
    embed: Callable[[np.ndarray], np.ndarray] | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Look for the same picture twice, for subjects and pictures on both sides of a split, and for shortcuts.

    Args:
        tiles: the tile of image i is row i.
        sides: the side of the split on which each subject stands; None before there is one.
        embed: a network, from image numbers (n,) or tiles (n, C, H, W) `uint8` to features (n, d) of unit length.

    Returns:
        The findings. `facts` has what was examined, the figures of every question about shortcuts (`questions`), those
        that could not be asked (`not_asked`), and the `columns` that were looked at.

    Raises:
        CohortError: `audit.columns` or `audit.mask` name what is not there, or masks do not match their images.
    """
    tell = progress or (lambda done, total, text="": None)
    seconds: dict[str, float] = {}
    images = cohort.images
    with _timed(seconds, "twins"):
        twins = find_twins(
            tiles, images, embed=embed, progress=lambda done, total: tell(TWINS * done / total, 1.0, "twins")
        )
        targets, root = [name for name in study.outputs if name in study.targets], study.root or study.cohort.parent
        column = study.columns.get("path", "path")
        classes = {target: study.classes_of(target) for target in targets}
        found = twin_findings(twins, images, targets, sides, column=column, root=root.absolute(), classes=classes)
    with _timed(seconds, "splits made elsewhere"):
        known = {finding.id for finding in found}
        # A split column that is used is the split itself, whose twins are found already.
        found += [f for f in imported_findings(images, study, twins) if f.level != "error" or f.id not in known]
    with _timed(seconds, "shortcuts"):
        shortcuts = look_for_shortcuts(
            study, cohort, tiles, embed=embed, progress=lambda share, text: tell(TWINS + (1 - TWINS) * share, 1.0, text)
        )
    facts = {
        "subjects": int(images["subject"].nunique()),
        "images": len(images),
        "columns": shortcuts.columns,
        "questions": shortcuts.asked,
        "not_asked": shortcuts.not_asked,
    }
    return Audit([*found, *shortcuts.findings], seconds, facts)


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    seconds[step] = round(time.monotonic() - begun, 3)
