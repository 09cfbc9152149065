"""How many jobs fit in the memory of this machine side by side."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from casewise.errors import CasewiseError, counted, gigabytes
from casewise.training.cost import PeakMemory, available_mb

if TYPE_CHECKING:
    from casewise.jobs.plan import Job
    from casewise.study.schema import Study
    from casewise.training.compute_plan import ComputePlan

log = logging.getLogger("casewise")


def jobs_that_fit(workers: int, waiting: Sequence[Job], plans: Mapping[str, ComputePlan], study: Study) -> int:
    """The number of jobs side by side, at most `workers`, whose measured peaks fit in the available memory.

    Jobs whose peak is not known count as nothing, as do those on a GPU. A recipe that trains only a part of the layers
    may need less than was measured for all, so it is never refused.

    Raises:
        CasewiseError: not even one job fits, or the study states a number of jobs that do not fit.
    """
    # The peak of a job that computes its batches in parts is not known either.
    descending = sorted((plans[job.model].peak_mb if job.parts() == 1 else 0.0 for job in waiting), reverse=True)
    if not any(descending):
        return workers
    available = available_mb()
    # A single job is executed in this process, which has a part of its memory already.
    for_one = available + PeakMemory.own_now()
    fitting = next((n for n in range(workers, 1, -1) if sum(descending[:n]) <= available), 0)
    fitting = fitting or int(descending[0] <= for_one)
    if fitting == workers:
        return workers
    needed = gigabytes(sum(descending[:workers]))
    largest = max((job.model for job in waiting), key=lambda model: plans[model].peak_mb)
    recipe = study.recipe
    partial = recipe.tuning == "head_only" or bool(recipe.phases)
    if study.compute.jobs != "auto" and workers > 1 and not partial:
        advice = (
            f"Write `compute: {{jobs: {fitting}}}`, or lower"
            if fitting
            else f"Take {largest} out of `backbones`, lower"
        )
        raise CasewiseError(
            f"compute.jobs: {counted(workers, 'network')} side by side need {needed} of memory (the largest, "
            f"{largest}, {gigabytes(descending[0])}), and {gigabytes(available)} are available. {advice} "
            f"recipe.batch_size (now {recipe.batch_size}) or images.size (now {study.images.size}), or close other "
            "programs."
        )
    if not fitting and not partial:
        raise CasewiseError(
            f"{largest}: training it takes {gigabytes(descending[0])} of memory, and {gigabytes(for_one)} "
            f"are available. Lower recipe.batch_size (now {recipe.batch_size}) or images.size (now "
            f"{study.images.size}), take {largest} out of `backbones`, or close other programs."
        )
    if workers > 1:
        log.warning(
            "compute.jobs: %s side by side would need %s of memory, and %s are available, so that %s trained at a "
            "time. The results are the same.",
            counted(workers, "network"),
            needed,
            gigabytes(available),
            "one is" if fitting < 2 else f"{fitting} are",
        )
    return max(1, fitting)
