"""What a request prepared is released with its answer, without waiting for the garbage collector."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from casewise.plugins.serve.pool import answered
from casewise.plugins.serve.session import ModelSession
from casewise.plugins.serve.submission import Submission, UploadedFile, Visit, neutral_name
from casewise.run import Run

MAPS = Path("/proc/self/maps")
pytestmark = pytest.mark.skipif(not MAPS.exists(), reason="no list of what is mapped into memory")


def in_memory(folder: Path) -> list[str]:
    """Files below a folder that are mapped into memory or open."""
    lines = [line.split(maxsplit=5)[5] for line in MAPS.read_text().splitlines() if str(folder) in line]
    for handle in Path("/proc/self/fd").iterdir():
        try:
            lines.append(os.readlink(handle))
        except FileNotFoundError:
            continue
    return [line for line in lines if line.startswith(str(folder))]


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture
def session(chest_run: Run) -> ModelSession:
    return ModelSession(chest_run.folder / "bundle", "headline", max_pixels=10**8)


@pytest.fixture
def image(chests: Path) -> Path:
    return chests.parent / str(pd.read_csv(chests)["path"][0])


def request_of(folder: Path, *contents: bytes) -> Submission:
    folder.mkdir()
    files = [UploadedFile(f"{n}.png", neutral_name(n, "a.png"), "", n) for n in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        (folder / file.stored).write_bytes(content)
    return Submission([Visit(f"visit {n}") for n in range(len(contents))], files)


def test_tiles_of_a_request_are_released_with_its_answer(session: ModelSession, image: Path, tmp_path: Path) -> None:
    content = image.read_bytes()
    requests: dict[str, tuple[Any, tuple[bytes, ...]]] = {
        "predicted": (session.predict, (content,)),
        "two visits": (session.predict, (content, content)),
        "explained": (session.explain, (content,)),
        "one is damaged": (session.predict, (content, content[: len(content) // 2])),
        "all are damaged": (session.predict, (b"text",)),
        "a damaged one is explained": (session.explain, (content[:500],)),
    }
    with no_collector():
        for name, (task, contents) in requests.items():
            folder = tmp_path / name
            submission = request_of(folder, *contents)
            uploaded = {file.stored for file in submission.files}
            message = answered(task, submission, folder)
            assert ("answer" in message) is ("damaged" not in name), message
            assert in_memory(folder) == [], name
            assert {path.name for path in folder.iterdir()} == uploaded, name
