"""Tables of the report as LaTeX, and documents of all tables and of all figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_lowercase

from casewise.report.blocks import Cell, Table

SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL |= {letter: f"\\{letter}" for letter in "&%$#_{}"} | {"<": r"\textless{}", ">": r"\textgreater{}"}
SPECIAL |= {"≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\rightarrow$", "Δ": r"$\Delta$", "κ": r"$\kappa$"}
SPECIAL |= {"α": r"$\alpha$", "β": r"$\beta$", "µ": r"$\mu$", "μ": r"$\mu$", "°": r"$^\circ$", "√": r"$\surd$"}
SPECIAL |= {"²": r"$^2$", "³": r"$^3$"}
SPECIAL |= {"’": "'", "‘": "`", "“": "``", "”": "''", "…": r"\ldots{}", "·": r"$\cdot$", "⁻": r"$^-$", "¹": r"$^1$"}
SPECIAL |= {"±": r"$\pm$", "−": r"$-$", "×": r"$\times$", "–": "--", "—": "---", "\xa0": "~", "\u202f": r"\,"}
# Rows that fit on a page, and letters of a line with the room between columns: of usual size, of small print, of the
# smallest, and of small print along the height of a page.
PAGE_ROWS = 45
GAP, WIDTH, SMALL_WIDTH, TINY_WIDTH, SMALL_HEIGHT = 3, 75, 105, 140, 185


def latex(table: Table) -> str:
    """A table as wide as a page at most; its first line names the packages that it needs.

    Columns that do not fit side by side are broken into lines of small print; if single words do not fit, a table is
    turned by 90 degrees, and one of several pages has the smallest print. Letters mark reasons of figures without an
    interval, which the caption explains.
    """
    reasons: dict[str, str] = {}
    heads, rows = table.columns, [[row.name, *(_text(cell, reasons) for cell in row.cells)] for row in table.rows]
    caption = table.caption + "".join(f" ({mark}): {reason}." for reason, mark in reasons.items())
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
        fitted = _broken(widths, words, total)
        shares = [rf"p{{\dimexpr {width / sum(fitted):.3f}\linewidth-2\tabcolsep}}" for width in fitted]
        columns = "".join(rf">{{\raggedright\arraybackslash}}{share}" for share in shares)
    # a bracket after a line break would be read as its option
    head, *lines = (re.sub(r"^\[", "{[}", " & ".join(map(_escaped, row))) + r" \\" for row in (heads, *rows))
    title = rf"\caption{{{_escaped(caption)}}}"
    body = [r"\toprule", head, r"\midrule", *[r"\endhead"] * long, *lines, r"\bottomrule"]
    if long:
        packages.append("longtable")
        begin, end = [rf"{{{size}\begin{{longtable}}{{{columns}}}", title + r"\\"], [r"\end{longtable}}"]
    else:
        begin = [rf"\begin{{{environment}}}", title, rf"{size}\begin{{tabular}}{{{columns}}}"]
        end = [r"\end{tabular}", rf"\end{{{environment}}}"]
    return "\n".join([rf"% needs \usepackage{{{','.join(packages)}}}", *begin, *body, *end, ""])


PREAMBLE = r"""\documentclass[%s]{article}
\usepackage[a4paper,textwidth=178mm,textheight=250mm,columnsep=8mm]{geometry}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{%s}
\begin{document}
"""
# LaTeX holds few figures and tables that have no place yet.
PLACED_TOGETHER = 6


def tables_document(files: Sequence[str]) -> str:
    """A LaTeX document of all tables; `files` are their paths from it."""
    lines = []
    for number, file in enumerate(files, 1):
        lines += [rf"\input{{{file}}}", *[r"\clearpage"] * (number % PLACED_TOGETHER == 0)]
    begin = PREAMBLE % ("", "booktabs,array,longtable,rotating")
    return begin + "\n".join([*lines, r"\end{document}", ""])


def figures_document(figures: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A LaTeX document of two columns with all figures at their own size: the caption of each, and its PDF files."""
    lines, placed = [], 0
    for caption, files in figures:
        for number, file in enumerate(files, 1):
            part = f" (continued, {number} of {len(files)})" if number > 1 else ""
            label = file.removesuffix(".pdf").replace("/", ":")
            lines += [r"\begin{figure*}[p]", r"\centering", rf"\includegraphics{{{file}}}"]
            lines += [rf"\caption{{{_escaped(caption + part)}}}", rf"\label{{{label}}}", r"\end{figure*}"]
            placed += 1
            lines += [r"\clearpage"] * (placed % PLACED_TOGETHER == 0)
    return PREAMBLE % ("twocolumn", "graphicx") + "\n".join([*lines, r"\end{document}", ""])


def _broken(widths: Sequence[int], words: Sequence[int], total: int) -> list[int]:
    """Widths of columns in letters, the widest ones made narrower until all fit, but not below their longest word."""
    most = max(widths)
    while most > 1 and sum(max(word, min(width, most)) for width, word in zip(widths, words, strict=True)) > total:
        most -= 1
    return [max(word, min(width, most)) for width, word in zip(widths, words, strict=True)]


def _text(cell: Cell, reasons: dict[str, str]) -> str:
    """A figure with its interval, or with the letter of the reason why it has none; adds to the reasons."""
    small = cell.small
    if small and not small.startswith("["):
        small = f"({reasons.setdefault(small, ascii_lowercase[len(reasons) % 26])})"
    return f"{cell.text} {small}".strip()


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in re.sub(r"[\x00-\x1f\x7f]", " ", text))
