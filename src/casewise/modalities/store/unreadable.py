"""Images that cannot be read: checking all images of a table, and one message on those that fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from casewise.errors import ImageError, RunError, counted
from casewise.files import write_atomic
from casewise.modalities.store.preparation import Channels
from casewise.modalities.store.readers import MEMORY, Budget, open_source, read_bytes
from casewise.modalities.store.store import ImageSource
from casewise.modalities.store.workers import Progress, of_each_image

# The file with all problems, in the folder of the tile store or, after a check, in the current folder.
PROBLEMS = "unreadable-images.txt"
# The number of problems that a message lists.
SHOWN = 10


def check_images(
    paths: Sequence[Path], size: int, channels: Channels, progress: Progress
) -> tuple[dict[int, str], dict[int, str]]:
    """By row, why images show nothing, and messages on those that cannot be read.

    Every image is decoded, reduced to `size` pixels.
    """
    budget = Budget(MEMORY)

    def check(row: int) -> str:
        source = open_source(paths[row], read_bytes(paths[row]))
        target = source.target(size)
        with budget.hold(source.memory(target)):
            pixels = source.read(target, channels)
        if pixels[..., 0].size == 1:
            return "1 x 1 pixel"
        return "" if np.ptp(pixels, axis=(0, 1)).any() else "all pixels are equal"

    reasons, problems = of_each_image(len(paths), check, progress=progress)
    return {row: reason for row, reason in sorted(reasons.items()) if reason}, problems


def not_read(
    problems: Mapping[int, str], paths: Sequence[ImageSource], file: Path, *, kept: bool = False
) -> ImageError:
    """The error of images that cannot be read: the first in the order of the rows, and a count of the others.

    Args:
        problems: a message for each row that failed.
        file: is written with all messages where the error does not list them all.
        kept: whether tiles of the other images are kept.
    """
    lines: list[str] = []
    first: dict[Path, int] = {}  # the line of each file of which regions are read
    more: Counter[Path] = Counter()
    for row in sorted(problems):
        source = paths[row]
        if not isinstance(source, Path):
            more[source.path] += 1
            if source.path in first:
                continue
            first[source.path] = len(lines)
        lines.append(f"  {problems[row]}")
    for path, line in first.items():
        if more[path] > 1:
            lines[line] += f" The same applies to {more[path] - 1:,} more of its tiles."
    listed, where = lines[:SHOWN], ""
    if len(lines) > SHOWN:
        with suppress(OSError, RunError):
            write_atomic(file, "\n".join(map(str.strip, lines)) + "\n")
            where = f"; {file} lists all {len(lines):,}"
        listed.append(f"  … and {len(lines) - SHOWN:,} more{where}.")
    suffix = " The other tiles are kept for the next run." if kept and len(problems) < len(paths) else ""
    noun = "image" if all(isinstance(path, Path) for path in paths) else "tile"
    return ImageError("\n".join([f"{len(problems):,} of {counted(len(paths), noun)} cannot be read.{suffix}", *listed]))
