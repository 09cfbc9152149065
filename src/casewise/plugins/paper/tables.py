"""A table as CSV with its numbers as they were evaluated, and as LaTeX with the digits of the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.files import guarded

if TYPE_CHECKING:
    import pandas as pd

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
# Rows that fit on a page; longer tables need the package longtable.
PAGE_ROWS = 45


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its files.
        data: every number with all its digits, for the CSV.
        heads, rows: the text of the LaTeX table.
    """

    name: str
    caption: str
    data: pd.DataFrame
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def write(self, folder: Path) -> list[str]:
        """Write both files into `folder`; their names."""
        table = self.data.map(lambda value: guarded(value) if isinstance(value, str) else value)
        table.to_csv(folder / f"{self.name}.csv", index=False)
        (folder / f"{self.name}.tex").write_text(latex(self.caption, self.heads, self.rows), encoding="utf-8")
        return [f"{self.name}.csv", f"{self.name}.tex"]


def from_data(name: str, caption: str, data: pd.DataFrame) -> Table:
    """A table whose LaTeX has the cells of its CSV.

    >>> import pandas as pd
    >>> from_data("t", "T", pd.DataFrame({"a": [1.5, None], "b": ["x", "y"]})).rows
    [['1.5', 'x'], ['', 'y']]
    """
    import pandas as pd

    rows = [["" if pd.isna(cell) else _text(cell) for cell in row] for row in data.itertuples(index=False)]
    return Table(name, caption, data, [str(column).replace("_", " ") for column in data], rows)


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
    """A `tabular` (or `longtable`) with its caption; it needs no package otherwise.

    Raises:
        ValueError: a row has another number of cells than the head.
    """
    if wrong := next((row for row in rows if len(row) != len(heads)), None):
        raise ValueError(f"a row has {len(wrong)} cells, the head {len(heads)}: {wrong}")
    lines = [" & ".join(map(escaped, row)) + r" \\" for row in rows]
    head, columns = " & ".join(map(escaped, heads)) + r" \\", "l" * len(heads)
    if len(rows) > PAGE_ROWS:
        body = [rf"\begin{{longtable}}{{{columns}}}", rf"\caption{{{escaped(caption)}}}\\", r"\hline", head]
        return "\n".join(
            [
                "% needs \\usepackage{longtable}",
                *body,
                r"\hline",
                r"\endhead",
                *lines,
                r"\hline",
                r"\end{longtable}",
                "",
            ]
        )
    body = [r"\begin{table}", rf"\caption{{{escaped(caption)}}}", rf"\begin{{tabular}}{{{columns}}}", r"\hline", head]
    return "\n".join([*body, r"\hline", *lines, r"\hline", r"\end{tabular}", r"\end{table}", ""])
