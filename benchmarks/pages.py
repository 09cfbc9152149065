"""What scripts that write pages share: the options of simulations, Markdown tables, and where a page goes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser that shows the docstring of a script as it is."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def page_parser(doc: str | None, *, data: bool = False) -> argparse.ArgumentParser:
    """A parser of the options of a script that writes a page: `output`, and `data` if it reads packs."""
    parser = parser_of(doc)
    parser.add_argument("--output", type=Path, help="the page (Markdown); by default it is printed only")
    if data:
        parser.add_argument("--data", type=Path, default=DATA, help="the folder of the packs")
    return parser


def simulation_parser(doc: str | None, studies: int) -> argparse.ArgumentParser:
    """A parser of the options of a simulation: those of a page, and `studies`, this number by default."""
    parser = page_parser(doc)
    parser.add_argument("--studies", type=int, default=studies)
    return parser


def head_of(doc: str | None, **values: object) -> str:
    """The page in the docstring of a script, from its first heading on, with values in place of their names in braces.

    >>> head_of("A script.\\n\\n# Title\\n\\n{count} cases.\\n", count=3)
    '# Title\\n\\n3 cases.\\n'
    """
    return "#" + str(doc).partition("\n#")[2].format(**values)


def table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table.

    >>> table(["metric", "value"], [["MAE", 1.5]])
    ['| metric | value |', '|---|---|', '| MAE | 1.5 |']
    """
    head, *lines = (f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in (heads, *rows))
    return [head, "|---" * len(heads) + "|", *lines]


def publish(page: str, *files: Path | None) -> None:
    """Print a page, and write it to those files that are stated."""
    from casewise.files import write_atomic

    print(page)
    for file in filter(None, files):
        write_atomic(file, page)
        print(f"page: {file}")
