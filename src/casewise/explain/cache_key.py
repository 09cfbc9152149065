"""What measured figures were made of, so that they are dropped where masks, their column or the intervals change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.modalities.volumes.case_table import text_of

if TYPE_CHECKING:
    import pandas as pd

# Raised where the figures come to mean something else.
FORM = 2


def made_of(study: Mapping[str, Any], images: pd.DataFrame) -> dict[str, Any]:
    """Of a study as `study.json` has it and its table of images: column, plan of the intervals, content of the masks.

    `masks` is None where no mask file is to be found (on another machine): then nothing is known of them.
    """
    column = str((study.get("volumes") or {}).get("lesion") or "")
    evaluation = study["evaluation"]
    folder = Path(study["root"] or Path(study["cohort"]).parent).absolute()
    named = zip(images["case"], images["path"], images[column], strict=True) if column in images else ()
    return {
        "form": FORM,
        "column": column,
        "resamples": evaluation["bootstrap_resamples"],
        "confidence": evaluation["confidence"],
        "seed": study["seed"],
        "masks": _hash((str(case), Path(str(path)).name, text_of(name), folder) for case, path, name in named),
    }


def still(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether figures made of the one may stand for the other.

    >>> before = {"form": 2, "masks": "a"}
    >>> still(before, {"form": 2, "masks": None}), still(before, {"form": 2, "masks": "b"})
    (True, False)
    """
    known = now["masks"] is not None
    return all(before.get(name) == value for name, value in now.items() if name != "masks" or known)


def _hash(named: Iterable[tuple[str, str, str, Path]]) -> str | None:
    found, there = hashlib.sha256(), False
    for case, slice_name, name, folder in sorted(named, key=lambda row: row[:3]):
        if not name:
            continue
        found.update(f"{case}|{slice_name}|{name}|".encode())
        if (folder / name).is_file():
            there = True
            with (folder / name).open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest() if there else None
