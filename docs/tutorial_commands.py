"""Executes the shell commands of a page in order, and compares what they print with what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

BLOCK = re.compile(r"^```(?P<language>sh|yaml|python|text)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
STUDY_FILE = "# study file: "
SERVE = "casewise serve "
NUMBER = re.compile(r"[−-]?\d+(?:[.,]\d+)*")
# What may stand in an interval of few subjects and not in that of another execution.
ROUGH = ", rough"
# Lines of a step that takes long, which a faster computer does not print.
PROGRESS = re.compile(r"^.*; \d+ (?:s|min)(?: in all|, about .* left)?\n(?:\s+\S+, fold \d+: .*\n)*", re.MULTILINE)
PATIENCE = 120


@dataclass
class Shell:
    """Runs the blocks of pages in one folder; a service that a block starts is stopped at the end.

    Attributes:
        folder: where commands run and files are written.
        port: the port of services, in place of 8000.
    """

    folder: Path
    port: int = 8000
    services: list[subprocess.Popen[str]] = field(default_factory=list)

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for service in self.services:
            service.terminate()
            service.communicate(timeout=PATIENCE)

    def execute(self, page: str, *, until: str = "") -> Iterator[tuple[str, str, str]]:
        """Run the blocks of a page: the commands, what the page shows below them, and what they print.

        Args:
            until: end before the block that contains this text.

        Raises:
            RuntimeError: a command ends with another status than 0, or than 2 where the page shows an `error`.
        """
        blocks = [(block["language"], block["text"]) for block in BLOCK.finditer(page)]
        for (language, text), (below, shown) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
            if until and until in text:
                return
            if language == "yaml" and text.startswith(STUDY_FILE):
                path = self.folder / text.splitlines()[0].removeprefix(STUDY_FILE)
                path.write_text(text, encoding="utf-8")
            elif language in ("sh", "python"):
                expected = shown if below == "text" else ""
                yield text, expected, self._run(language, text, status=2 if expected.startswith("error") else 0)

    def _run(self, language: str, text: str, *, status: int) -> str:
        here = {"cwd": self.folder, "env": self._environment(), "text": True, "stderr": subprocess.STDOUT}
        text = text.replace(":8000", f":{self.port}")
        if text.startswith(SERVE):
            words = ["bash", "-c", f"exec {text.strip()} --port {self.port}"]
            service = subprocess.Popen(words, stdout=subprocess.PIPE, **here)  # type: ignore[call-overload]
            self.services.append(service)
            line = service.stdout.readline()
            while line and "Ctrl-C" not in line:
                line += (more := service.stdout.readline())
                if not more:
                    raise RuntimeError(f"{text} ended: {line}")
            return str(line)
        words = ["bash", "-e", "-c", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(words, stdout=subprocess.PIPE, **here)  # type: ignore[call-overload]
        if done.returncode != status:
            raise RuntimeError(f"{text} ended with {done.returncode}, not {status}:\n{done.stdout}")
        return str(done.stdout)

    def _environment(self) -> dict[str, str]:
        """The variables of commands, with a `casewise` of this Python first on the path."""
        bin_folder = self.folder / ".bin"
        bin_folder.mkdir(exist_ok=True)
        command = bin_folder / "casewise"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m casewise.cli.main "$@"\n', encoding="utf-8")
        command.chmod(0o755)
        without = {"CASEWISE_WEIGHTS", "COLUMNS"}
        kept = {name: value for name, value in os.environ.items() if name not in without}
        return kept | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "MPLBACKEND": "Agg"}


def is_shown(expected: str, printed: str) -> bool:
    """Whether a page may show `expected` for `printed`: … stands for any text; numbers and progress may differ.

    >>> is_shown("fold 1  3 subjects …\\njobs 2 networks, …", "fold 1  12 subjects, 4 cases\\njobs 2 networks, 3 s")
    True
    >>> is_shown("fold 1     3 subjects", "fold 1     3 cases")
    False
    >>> is_shown("tiles 5 of 32 px\\njobs 2", "tiles 7 of 32 px\\njobs 1 of 2; 4 s\\n   cnn, fold 1: epoch 3\\njobs 2")
    True
    """

    def plain(text: str) -> str:
        return " ".join(NUMBER.sub("#", text.replace(ROUGH, "")).split())

    chunks = [re.escape(chunk.strip()) for chunk in plain(expected).split("…")]
    return re.search(r".*?".join(chunks), plain(PROGRESS.sub("", printed))) is not None
