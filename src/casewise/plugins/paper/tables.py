"""A table as CSV with its numbers as they were evaluated, and as LaTeX with the digits of the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

import pandas as pd

from casewise.files import guarded
from casewise.report.blocks import Cell

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "—": "---",
    "×": r"$\times$",
    "\N{NO-BREAK SPACE}": "~",
    "\N{NARROW NO-BREAK SPACE}": r"\,",
}
# Rows that fit on a page, and letters of a line with the room between columns: of usual size, of small print, of the
# smallest, and of small print along the height of a page.
PAGE_ROWS = 45
GAP, WIDTH, SMALL_WIDTH, TINY_WIDTH, SMALL_HEIGHT = 3, 75, 105, 140, 185


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its files.
        data: every number with all its digits, for the CSV.
        heads, rows: the text of the LaTeX table; a cell may be a figure with its interval (`Cell`).
    """

    name: str
    caption: str
    data: pd.DataFrame
    heads: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]

    def write(self, folder: Path) -> list[str]:
        """Write both files into `folder`; their names."""
        table = self.data.map(lambda value: guarded(value) if isinstance(value, str) else value)
        table.to_csv(folder / f"{self.name}.csv", index=False)
        rows, notes = marked(self.rows)
        text = latex(f"{self.caption}{notes}", self.heads, rows)
        (folder / f"{self.name}.tex").write_text(text, encoding="utf-8")
        return [f"{self.name}.csv", f"{self.name}.tex"]


def from_data(name: str, caption: str, data: pd.DataFrame) -> Table:
    """A table whose LaTeX has the cells of its CSV, without columns that are empty.

    >>> import pandas as pd
    >>> from_data("t", "T", pd.DataFrame({"a": [1.5, None], "b": ["x", "y"], "c": [None, None]})).rows
    [['1.5', 'x'], ['', 'y']]
    """
    import pandas as pd

    shown = data.replace("", None).dropna(axis="columns", how="all")
    rows = [["" if pd.isna(cell) else _text(cell) for cell in row] for row in shown.itertuples(index=False)]
    return Table(name, caption, data, [str(column).replace("_", " ") for column in shown], rows)


def marked(rows: Sequence[Sequence[str | Cell]]) -> tuple[list[list[str]], str]:
    """Cells as text, the reasons of figures without an interval as letters, and the sentences that explain these.

    >>> marked([["a", Cell("0.9", "[0.8, 1.0]")], ["b", Cell("1.0", "two subjects")]])
    ([['a', '0.9 [0.8, 1.0]'], ['b', '1.0 (a)']], ' (a): two subjects.')
    """
    reasons: dict[str, str] = {}

    def text(cell: str | Cell) -> str:
        if isinstance(cell, str):
            return cell
        small = cell.small
        if small and not small.startswith("["):
            small = f"({reasons.setdefault(small, ascii_lowercase[len(reasons) % 26])})"
        return f"{cell.text} {small}".strip()

    return [[text(cell) for cell in row] for row in rows], "".join(
        f" ({mark}): {why}." for why, mark in reasons.items()
    )


def _text(cell: object) -> str:
    return (
        f"{cell:,}"
        if isinstance(cell, int) and not isinstance(cell, bool)
        else f"{cell:.4g}"
        if isinstance(cell, float)
        else str(cell)
    )


def escaped(text: str) -> str:
    r"""Text for LaTeX: special characters escaped, control characters and line ends as spaces.

    >>> escaped("50 % of a_b & {c}\n")
    '50 \\% of a\\_b \\& \\{c\\} '
    """
    plain = re.sub(r"[\x00-\x1f\x7f]", " ", text)
    return "".join(SPECIAL.get(letter, letter) for letter in plain)


def latex(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as wide as a page at most; its first line names the packages that it needs.

    Columns that do not fit side by side are broken into lines of small print; if single words do not fit, a table is
    turned by 90 degrees, and one of several pages has the smallest print.

    Raises:
        ValueError: a row has another number of cells than the head.
    """
    if wrong := next((row for row in rows if len(row) != len(heads)), None):
        raise ValueError(f"a row has {len(wrong)} cells, the head {len(heads)}: {wrong}")
    long, cells = len(rows) > PAGE_ROWS, list(zip(heads, *rows, strict=True))
    widths = [max(map(len, column)) + GAP for column in cells]
    words = [max(len(word) for cell in column for word in cell.split(" ")) + GAP for column in cells]
    environment, packages, size, total = "table", ["booktabs", "array"], r"\scriptsize", SMALL_WIDTH
    if sum(widths) <= WIDTH:
        packages, size = ["booktabs"], ""
    elif sum(words) > SMALL_WIDTH and long:
        size, total = r"\tiny", TINY_WIDTH
    elif sum(words) > SMALL_WIDTH:
        environment, packages, total = "sidewaystable", ["booktabs", "array", "rotating"], SMALL_HEIGHT
    columns = "l" * len(heads)
    if size:
        fitted = broken(widths, words, total)
        shares = [rf"p{{\dimexpr {width / sum(fitted):.3f}\linewidth-2\tabcolsep}}" for width in fitted]
        columns = "".join(rf">{{\raggedright\arraybackslash}}{share}" for share in shares)
    head, *lines = (" & ".join(map(escaped, row)) + r" \\" for row in (heads, *rows))
    title = rf"\caption{{{escaped(caption)}}}"
    if long:
        packages.append("longtable")
        parts = [
            rf"{{{size}\begin{{longtable}}{{{columns}}}",
            title + r"\\",
            r"\toprule",
            head,
            r"\midrule",
            r"\endhead",
        ]
        parts += [*lines, r"\bottomrule", r"\end{longtable}}"]
    else:
        parts = [
            rf"\begin{{{environment}}}",
            title,
            rf"{size}\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head,
            r"\midrule",
        ]
        parts += [*lines, r"\bottomrule", r"\end{tabular}", rf"\end{{{environment}}}"]
    return "\n".join([rf"% needs \usepackage{{{','.join(packages)}}}", *parts, ""])


def broken(widths: Sequence[int], words: Sequence[int], total: int) -> list[int]:
    """Widths of columns in letters, the widest ones made narrower until all fit, but not below their longest word.

    >>> broken([10, 40, 60], [8, 12, 12], 70)
    [10, 30, 30]
    """
    most = max(widths)
    while most > 1 and sum(max(word, min(width, most)) for width, word in zip(widths, words, strict=True)) > total:
        most -= 1
    return [max(word, min(width, most)) for width, word in zip(widths, words, strict=True)]
