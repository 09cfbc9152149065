"""What every back end does: it executes jobs somewhere, and says which of them failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from casewise.errors import RunError, TrainingError
from casewise.files import REMEDIES, check_anchors, make_folder

if TYPE_CHECKING:
    from casewise.jobs.plan import Job, JobInputs
    from casewise.run_folder import RunFolder
    from casewise.training.compute_plan import ComputePlan

LESS_MEMORY = "Lower `compute.jobs`, `recipe.batch_size` or `images.size`."
# How long, in seconds, a job waits for the process of an earlier run that is about to end.
PATIENCE = 30


@dataclass(frozen=True)
class Failure:
    """Why a job has no result.

    Attributes:
        message: the name of the job, a colon, and the reason.
        transient: whether another attempt may succeed. A training that diverged is repeated bit by bit, so it may not.
        memory: whether memory ran out, or the process was ended by the system, most often for this reason.
        folder: whether the run folder could not be written or read, so that the results of others are at risk, too.
    """

    message: str
    transient: bool
    memory: bool = False
    folder: bool = False


class Backend(Protocol):
    """Executes jobs; their results, checkpoints and progress are in the run folder.

    It is a context: it connects to other machines, if there are any, at its begin, and leaves them at its end.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    @property
    def notice(self) -> str:
        """Where jobs are executed, in words; empty for this machine."""
        ...

    def prepare(
        self, jobs: Sequence[Job], inputs: JobInputs, folder: RunFolder, threads: int
    ) -> dict[str, ComputePlan]:
        """Get ready to execute jobs of a run folder; return the compute plans of their networks.

        Plans are measured where the jobs are executed.

        Args:
            threads: those of a network. They are the same for every back end, because sums depend on them.

        Raises:
            CasewiseError: as `compute_plans`, or the machines cannot execute the jobs.
        """
        ...

    def execute(
        self,
        jobs: Sequence[Job],
        inputs: JobInputs,
        plans: Mapping[str, ComputePlan],
        workers: int,
        *,
        protected: bool = False,
    ) -> dict[str, Failure]:
        """Execute jobs, `workers` of them side by side; return the failures by the names of their jobs.

        A job whose process was ended by the system has a failure, too, and the others are executed nevertheless.

        Args:
            protected: never in this process, which would end with the job.
        """
        ...


def attempt(job: Job, inputs: JobInputs, plan: ComputePlan, workers: int) -> Failure | None:
    """Execute a job in this process; return its failure, so that the other jobs continue."""
    from filelock import FileLock, Timeout
    from threadpoolctl import threadpool_limits

    from casewise.jobs.job import run_job
    from casewise.training.cost import give_memory_back

    try:
        check_anchors(job.folder.path)
        make_folder(job.folder.path)
        with FileLock(job.folder.lock_path, timeout=PATIENCE):
            job.folder.sweep()
            # Sums over another number of threads differ in their last bits, and every kind of process has its own.
            with threadpool_limits(plan.threads, user_api="blas"):
                run_job(job, inputs, plan, side_by_side=workers)
        return None
    except TrainingError as error:
        reason = str(error).removeprefix(f"{job.model}: ")
        return failed(job, f"{job.name}: {reason}", transient=False)
    except Timeout:
        raise RunError(
            f"{job.folder.path} is in use by a process of an earlier run. Stop it, then run again."
        ) from None
    except OSError as error:
        where = error.filename or job.folder.path
        check_anchors(job.folder.path)
        message = f"{job.name}: {error.strerror or error} ({where}).{_remedy(error, where)}"
        return replace(failed(job, message, transient=True), folder=True)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = f"{job.name}: there was not enough memory. {LESS_MEMORY}"
        return replace(failed(job, message, transient=True), memory=True)
    finally:
        give_memory_back()


def _remedy(error: OSError, where: Path | str) -> str:
    """What to do about a failure of the disk; nothing for other errors."""
    remedy = REMEDIES.get(error.errno or 0)
    return f" {remedy.format(folder=Path(where).parent)}." if remedy else ""


def failed(job: Job, message: str, *, transient: bool) -> Failure:
    """The failure of a job, which is recorded in its folder, if it can be written, for other processes."""
    with suppress(OSError, RunError):  # the reason may be a full disk; the failure is reported all the same
        job.folder.write_failure(message, transient=transient)
    return Failure(message, transient)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, for which PyTorch has a class on GPUs and only a text on CPUs."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
