"""A study that is not written yet: its files, and how texts, paths and tables are written into them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from casewise.errors import CasewiseError
from casewise.files import guarded, write_atomic
from casewise.modalities.store.film import film_columns

TABLE, STUDY = "cohort.csv", "study.yaml"


@dataclass
class NewStudy:
    """A study that is not written yet: its files by name, what was understood, and what is doubtful.

    `left_out` is a sentence on rows whose target has no value; empty if all have one. `as_likely` are the columns that
    are as likely to be what is predicted as `target`.
    """

    folder: Path
    files: dict[str, bytes] = field(default_factory=dict)
    understood: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    left_out: str = ""
    target: str = ""
    as_likely: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The study file."""
        return self.files[STUDY].decode("utf-8")

    def write(self) -> list[Path]:
        """Write the files; return their paths.

        Raises:
            CasewiseError: one of them exists already, or the folder is a file; then none is written.
        """
        if self.folder.is_file():
            raise CasewiseError(f"--output: {self.folder} is a file. Name a folder.")
        for name in self.files:
            if (self.folder / name).exists() or (self.folder / name).is_symlink():
                raise CasewiseError(
                    f"{self.folder / name} exists already and is not overwritten. Move it, or name another folder with "
                    "--output."
                )
        return [write_atomic(self.folder / name, content) for name, content in self.files.items()]


def external_lines(folder: Path, images: Path, where: str = "") -> list[str]:
    """Comments of a study file: how its table becomes the external cohort of another study, with its line `where`."""
    table, root = (json.dumps(str(path.resolve()), ensure_ascii=False) for path in (folder / TABLE, images))
    name = quoted(folder.resolve().name.strip(". ") or "external")
    return [
        f"# To test the models of another study on {TABLE}, write this line into that study file:",
        f"# external: {{cohort: {table}, root: {root}, name: {name}{where and f', {where}'}}}",
    ]


def synthetic_lines(cells: Mapping[str, Sequence[str]]) -> list[str]:
    """The line of a study file on a table whose column `synthetic` marks all rows, as in tables of `casewise phantom`.

    >>> synthetic_lines({"synthetic": ["1", "1"]}), synthetic_lines({"synthetic": ["1", "0"]}), synthetic_lines({})
    (['synthetic: true  # as the table says'], [], [])
    """
    marked = set(cells.get("synthetic", ()))
    return ["synthetic: true  # as the table says"] * (bool(marked) and marked <= {"1", "yes", "true", "True"})


def applying(sentences: Mapping[str, object]) -> list[str]:
    """The sentences whose condition holds."""
    return [sentence for sentence, is_so in sentences.items() if is_so]


def quoted(text: str) -> str:
    """A text for a YAML file, with quotes where it would be read as something else.

    >>> quoted("no_finding"), quoted("1"), quoted("true"), quoted("a: b")
    ('no_finding', '"1"', '"true"', '"a: b"')
    """
    plain_text = re.fullmatch(r"[A-Za-z_][\w-]*( [A-Za-z][\w-]*)*|(\.\./|[A-Za-z_])[\w./-]*\w", text, re.ASCII)
    if plain_text and text.casefold() not in ("true", "false", "null", "yes", "no", "on", "off", "none", "nan"):
        return text
    return json.dumps(text, ensure_ascii=False)


def relative_path(path: Path, folder: Path) -> str:
    """A path from the folder of the study: relative if it is below it or next to it, else absolute."""
    target, home = path.resolve(), folder.resolve()
    text = os.path.relpath(target, home).replace(os.sep, "/")
    return text if text.count("..") <= 1 else str(target)


def table_bytes(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    """A cohort table as text that a spreadsheet reads and does not run."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in (heads, *rows):
        writer.writerow(map(guarded, row))
    text = buffer.getvalue()
    # without the mark, spreadsheets read the file in their own code page
    return text.encode("utf-8" if text.isascii() else "utf-8-sig")


def films_state(files: Sequence[Path | None]) -> list[dict[str, str]]:
    """What each DICOM film states on how it was taken; {} of other files."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda file: film_columns(file) if file else {}, files))
