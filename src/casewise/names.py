"""Names by their meaning: one form of a text that computers store in several ways, and files whose names mean the same.

macOS stores `ü` as two characters, Windows as one; spreadsheets and web pages add spaces and characters that nobody
sees.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile
from pathlib import Path

# Characters without a width that belong to no letter: soft hyphen, zero-width space, direction marks, byte order mark.
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")


def one_form(text: str) -> str:
    """A text with composed letters (NFC) and plain spaces, without characters that have no width.

    >>> one_form("Mu\u0308ller\u200b\u00a07") == "Müller 7"
    True
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _SPACES.sub(" ", _INVISIBLE.sub("", text)))


def name_key(name: str) -> str:
    """A name of a file by its meaning: in one form, without case and without spaces at its ends.

    >>> name_key(" Mu\u0308ller.PNG ") == name_key("Müller.png")
    True
    """
    return one_form(one_form(name).strip().casefold())


class FileNames:
    """Files and folders by the meaning of their names; a folder is listed once, and only where a name needs it."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, list[str]]] = {}
        self._folders: dict[str, list[str]] = {}

    def find(self, path: str) -> list[str]:
        """The files or folders that a path may mean; a name as it is written wins, unless another has the same letters.

        Several are an ambiguity, and none means that there is no such file.
        """
        if path.isascii() and os.path.lexists(path):
            return [path]
        folder, name = os.path.split(path)
        if not name or folder == path:
            return [path] if os.path.isdir(path) else []
        if folder not in self._folders:
            self._folders[folder] = self.find(folder) if folder else [""]
        return [
            os.path.join(parent, match) for parent in self._folders[folder] for match in self._matches(parent, name)
        ]

    def below(self, folder: Path | str, text: str) -> list[str]:
        """The files or folders that a cell of a table may mean, as absolute paths.

        Args:
            folder: where relative paths start.
            text: a path, perhaps with spaces at its ends, or of Windows.
        """
        for written in dict.fromkeys((text, text.strip(), text.replace("\\", "/").strip())):
            try:
                if matches := self.find(os.path.abspath(os.path.join(folder, written))):
                    return matches
            except ValueError:  # no path can have such a character
                return []
        return []

    def _matches(self, folder: str, name: str) -> list[str]:
        if name in ("", ".", ".."):
            return [name]
        if folder not in self._names:
            by_key = self._names.setdefault(folder, {})
            try:
                for other in sorted(os.listdir(folder or ".")):
                    by_key.setdefault(name_key(other), []).append(other)
            except (OSError, ValueError):  # a folder that may be entered but not listed
                return [name] if _exists(os.path.join(folder, name)) else []
        matches = self._names[folder].get(name_key(name), [])
        # the same letters first, then the same letters in upper or lower case
        same = [other for other in matches if one_form(other) == one_form(name)]
        return same or matches


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def stand_ins(
    pairs: Iterable[tuple[tuple[str, ...], tuple[str, ...]]], root: Path, values: Collection[str]
) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The beginning of paths of another computer for which a folder here stands: one for all of them, or none.

    A folder that differs between paths, or is a value of the table, may tell one patient's image from another's.

    Args:
        pairs: of a path and a file, the folders of each before those at their ends that are equal, by `name_key`.
        root: the folder of the files. If paths begin in several ways, only one that ends as this folder's does counts.
        values: of the other columns of the table, by `name_key`.

    >>> pairs = [(("d:", "p1", "in"), ()), (("d:", "p3", "in"), ())]
    >>> stand_ins(pairs, Path("/data/p1/in"), []), stand_ins(pairs, Path("/data/in"), [])
    ({(('d:', 'p1', 'in'), ())}, set())
    """
    pairs = set(pairs)
    home = [name_key(folder) for folder in root.resolve().parts]
    moved = {pair for pair in pairs if pair[0]}
    if len(moved) > 1 or moved != pairs:
        ends = {pair: _equal_ends(pair[0], home) for pair in moved if not pair[1]}
        most = max(ends.values(), default=0)
        moved = {pair for pair, count in ends.items() if count == most}
    if len(moved) != 1:
        return set()
    ((of_path, of_file),) = moved
    is_value = bool({of_path[-1], *of_file[-1:]} & {*values})
    return set() if is_value and of_path[-1] != home[-1] else moved


def _equal_ends(first: Sequence[str], second: Sequence[str]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(reversed(first), reversed(second), strict=False))))


def on_disk(path: str) -> str:
    """The path as the disk spells it; unchanged if no file, or more than one, may be meant."""
    matches = FileNames().find(path)
    return matches[0] if len(matches) == 1 else path


def as_codes(names: Iterable[str]) -> str:
    """Names that may look equal, for a message: letters that English lacks are written as codes.

    >>> as_codes(["Mu\u0308ller.png", "M\u00fcller.png"])
    "'Mu\\\\u0308ller.png' and 'M\\\\xfcller.png'"
    """
    return " and ".join(map(ascii, names))


def heading_words(name: str) -> str:
    """A heading as words without case: `patientID` and `patient_id` are `patient id`."""
    spaced = re.sub(r"(?<=[a-zäöü])(?=[A-Z])", " ", name)
    return re.sub(r"[\W_]+", " ", spaced).strip().casefold()


def stored_path(path: Path) -> Path:
    """A path as the disk spells it, where only the composition of letters differs, as in `Köln` of another system."""
    if path.exists() or str(path).isascii() or path.parent == path:
        return path
    folder = stored_path(path.parent)
    if not folder.is_dir():
        return path
    return next((own for own in folder.iterdir() if one_form(own.name) == one_form(path.name)), path)
