"""Images that cannot be read: checking all images of a table, and one message on those that fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from casewise.errors import ImageError, RunError, counted
from casewise.files import write_atomic
from casewise.modalities.store.preparation import Channels
from casewise.modalities.store.readers import MEMORY, Budget, open_source, read_bytes
from casewise.modalities.store.store import ImageSource

# The file with all problems, in the folder of the tile store or, after a check, in the current folder.
PROBLEMS = "unreadable-images.txt"
# The number of problems that a message lists.
SHOWN = 10


@dataclass
class ImageCheck:
    """What the check of all images shows, by row.

    Attributes:
        problems: messages on images that cannot be read.
        misnamed: the formats of images whose names end like those of another format.
    """

    problems: dict[int, str] = field(default_factory=dict)
    misnamed: dict[int, str] = field(default_factory=dict)


def check_images(
    paths: Sequence[Path], size: int, channels: Channels, *, progress: Callable[[int, int], None] | None = None
) -> ImageCheck:
    """Decode every image, reduced to `size` pixels, on all cores.

    `progress(done, total)` is called from this thread.
    """
    from joblib import cpu_count

    budget = Budget(MEMORY)

    def check(path: Path) -> str:
        source = open_source(path, read_bytes(path))
        target = source.target(size)
        with budget.hold(source.memory(target)):
            source.read(target, channels)
        return source.reader.name if source.misnamed else ""

    result = ImageCheck()
    with ThreadPoolExecutor(cpu_count(), thread_name_prefix="images") as pool:
        jobs = {pool.submit(check, path): row for row, path in enumerate(paths)}
        for done, job in enumerate(as_completed(jobs), 1):
            try:
                if name := job.result():
                    result.misnamed[jobs[job]] = name
            except ImageError as error:
                result.problems[jobs[job]] = str(error)
            if progress:
                progress(done, len(paths))
    return result


def not_read(
    problems: Mapping[int, str], paths: Sequence[ImageSource], file: Path, *, kept: bool = False
) -> ImageError:
    """The error of images that cannot be read: the first in the order of the rows, and a count of the others.

    Args:
        problems: a message for each row that failed.
        file: is written with all messages where the error does not list them all.
        kept: whether tiles of the other images are kept.
    """
    lines = _lines(problems, paths)
    listed = lines[:SHOWN]
    if len(lines) > SHOWN:
        listed.append(f"  … and {len(lines) - SHOWN:,} more{_written(lines, file)}.")
    suffix = " The other tiles are kept for the next run." if kept and len(problems) < len(paths) else ""
    noun = "image" if all(isinstance(path, Path) for path in paths) else "tile"
    return ImageError("\n".join([f"{len(problems):,} of {counted(len(paths), noun)} cannot be read.{suffix}", *listed]))


def _lines(problems: Mapping[int, str], paths: Sequence[ImageSource]) -> list[str]:
    """A line for each problem in the order of the rows; for regions of one file only the first is quoted."""
    lines: list[str] = []
    first: dict[Path, int] = {}
    more: Counter[Path] = Counter()
    for row in sorted(problems):
        source = paths[row]
        if not isinstance(source, Path):
            if source.path in first:
                more[source.path] += 1
                continue
            first[source.path] = len(lines)
        lines.append(f"  {problems[row]}")
    for path, count in more.items():
        lines[first[path]] += f" The same applies to {count:,} more of its tiles."
    return lines


def _written(lines: Sequence[str], file: Path) -> str:
    """Write all lines; return a clause that names the file, or nothing if it could not be written."""
    try:
        write_atomic(file, "\n".join(line.strip() for line in lines) + "\n")
    except (OSError, RunError):
        return ""
    return f"; {file} lists all {len(lines):,}"
