"""What the folders of all phantoms share: the marks that come first, and settings that are refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from casewise.errors import CasewiseError, nearest
from casewise.files import write_atomic, write_json


def read_note(folder: Path) -> dict[str, Any]:
    """Return what `phantom.json` says of a phantom's folder; nothing where there is no phantom."""
    try:
        note = json.loads((folder / "phantom.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and note.get("synthetic") else {}


def claim(folder: Path, note: dict[str, Any], readme: str) -> None:
    """Write the folder's marks first, so that even half a phantom says what it is; refuse what is not one.

    Args:
        note: what `phantom.json` is to say; its `kind` is that of the phantoms which may be drawn anew there.

    Raises:
        CasewiseError: the folder is a file, or holds something that is not a phantom of this kind.
    """
    if folder.exists() and not folder.is_dir():
        raise CasewiseError(f"{folder} is a file; the phantom needs a folder.")
    if folder.is_dir() and any(folder.iterdir()) and read_note(folder).get("kind") != note["kind"]:
        raise CasewiseError(
            f"{folder} already holds files that are not a {note['kind']} phantom; choose an empty or a new folder."
        )
    # An older table must not describe images that are being replaced.
    (folder / "cases.csv").unlink(missing_ok=True)
    write_json(folder / "phantom.json", note)
    write_atomic(folder / "README.txt", readme)


def check_least(values: Iterable[tuple[str, int, int]]) -> None:
    """Refuse a number (name, found, least) that is too small.

    Raises:
        CasewiseError: naming it.
    """
    for name, value, low in values:
        if value < low:
            raise CasewiseError(f"The phantom's {name} must be {low} or more; found {value}.")


def check_classes(classes: Sequence[str], known: Sequence[str]) -> None:
    """Refuse classes that cannot be drawn, stand twice, or are fewer than two.

    Raises:
        CasewiseError: naming them.
    """
    for name in classes:
        if name not in known:
            raise CasewiseError(
                f"The phantom's classes must be of {', '.join(known)}; found {name!r}.{nearest(name, known)}"
            )
    if len(set(classes)) != len(classes) or len(classes) < 2:
        raise CasewiseError(f"The phantom's classes must be two or more; found {', '.join(classes) or 'none'}.")
