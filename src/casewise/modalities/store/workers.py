"""Work on many images: on all cores of this machine, after other machines have done what they can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from casewise.errors import ImageError

# Is told how many images of all are done.
Progress: TypeAlias = Callable[[int, int], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Work:
    """Work on many images that other machines can do for this one.

    Its results are files in `folder`; a killed process leaves no file that could be taken for a finished one.

    Attributes:
        function: of a list of items; one that other processes can import, or a `partial` of one.
        parts: the items; all items of one part stay together, such as the tiles of a slide.
        files: some of the files that it reads, which every machine must see.
    """

    function: Callable[[list[Any]], None]
    parts: Sequence[list[Any]]
    folder: Path
    files: Sequence[Path]


# Does work on the other machines of the present run, tells how many items are done, and returns whether it has any.
SPREAD: ContextVar[Callable[[Work, Callable[[int], None]], bool]] = ContextVar("spread", default=lambda *_: False)


def spread(work: Work, done: int, progress: Progress | None) -> bool:
    """Do work on other machines; return whether there are any. The caller does what is missing, and reports problems.

    Args:
        done: how many images need no work.
    """
    total = done + sum(map(len, work.parts))
    return SPREAD.get()(work, lambda more: progress(done + more, total) if progress else None)


def of_each_image(
    count: int, work: Callable[[int], Result], *, workers: int | None = None, progress: Progress | None = None
) -> tuple[dict[int, Result], dict[int, str]]:
    """The results of `work(row)` on all cores, and messages on the rows whose image cannot be read.

    `progress(done, total)` is called from this thread.
    """
    from joblib import cpu_count

    results: dict[int, Result] = {}
    problems: dict[int, str] = {}
    pool = ThreadPoolExecutor(workers or cpu_count(), thread_name_prefix="images")
    jobs, job = dict[Future[Result], int](), None
    try:
        jobs = {pool.submit(work, row): row for row in range(count)}
        for done, job in enumerate(as_completed(jobs), 1):
            try:
                results[jobs[job]] = job.result()
            except ImageError as error:
                problems[jobs[job]] = str(error)
            if progress:
                progress(done, count)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        # An error holds this frame; without its job it is released at once, with the images that were being read.
        jobs, job = {}, None
    return results, problems
