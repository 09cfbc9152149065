"""Executes the code of a page in order and writes the output of each block below it, as a notebook does."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START, END = "<!-- output -->", "<!-- end of output -->"
CELL = re.compile(rf"^```python\n(?P<code>.*?)^```\n(\n{START}\n.*?{END}\n)?", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Output:
    """What a block shows: the text that it prints, and the value of its last expression as text or as a picture."""

    text: str = ""
    picture: bytes | None = None


def execute(page: str, folder: Path) -> Iterator[Output]:
    """Run the Python blocks of a page in one namespace, in `folder`."""
    names: dict[str, Any] = {}
    back = Path.cwd()
    os.chdir(folder)
    try:
        for cell in CELL.finditer(page):
            yield _run(cell["code"], names)
    finally:
        os.chdir(back)


def with_outputs(page: str, outputs: list[Output], images: Path) -> str:
    """The page with these outputs below its blocks; pictures are written into `images`, beside the page."""
    remaining = iter(outputs)
    for old in images.glob("notebook-*.png"):
        old.unlink()

    def block(cell: re.Match[str]) -> str:
        output, code = next(remaining), f"```python\n{cell['code']}```\n"
        shown = f"```text\n{output.text}\n```\n" if output.text else ""
        if output.picture:
            name = f"notebook-{len(list(images.glob('notebook-*.png'))) + 1}.png"
            (images / name).write_bytes(output.picture)
            shown += f"![The figure of {cell['code'].strip().splitlines()[-1]}]({images.name}/{name})\n"
        return f"{code}\n{START}\n{shown}{END}\n" if shown else code

    return CELL.sub(block, page)


def _run(code: str, names: dict[str, Any]) -> Output:
    """Execute a block; the value of a last expression is shown."""
    import pandas as pd

    tree, printed, value = ast.parse(code), io.StringIO(), None
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed), pd.option_context("display.width", 100, "display.max_columns", 20):
        exec(compile(tree, "page", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "page", "eval"), names)
        if hasattr(value, "_repr_png_"):
            return Output(printed.getvalue().strip("\n"), value._repr_png_()[0])
        text = printed.getvalue() + ("" if value is None else str(value) if isinstance(value, str) else repr(value))
    return Output(text.rstrip())
