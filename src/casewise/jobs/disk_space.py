"""Whether the disk of a run has room for the networks that it will write."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.errors import counted, gigabytes
from casewise.training.compute_plan import WEIGHT_COPIES

if TYPE_CHECKING:
    from casewise.jobs.plan import Job
    from casewise.study.schema import Study
    from casewise.training.compute_plan import ComputePlan

log = logging.getLogger("casewise")

# The states of a training that are on the disk: the last one, the one before it, and one that is being written.
STATES = 3


def space_needed(waiting: Sequence[Job], plans: Mapping[str, ComputePlan], workers: int, study: Study) -> float:
    """Megabytes that the networks of these jobs take on the disk, with the states of those in training at a time.

    The state of a training that changes all layers has the weights and their copies. That of another one is smaller,
    and not counted.
    """
    sizes = sorted((plans[job.model].weights_mb for job in waiting), reverse=True)
    partial = study.recipe.tuning == "head_only" or bool(study.recipe.phases)
    return sum(sizes) + (0.0 if partial else STATES * (1 + WEIGHT_COPIES) * sum(sizes[:workers]))


def warn_of_little_space(
    waiting: Sequence[Job], plans: Mapping[str, ComputePlan], workers: int, study: Study, folder: Path
) -> None:
    """Say before the training that the disk of the run folder is too small for its networks."""
    needed = space_needed(waiting, plans, workers, study)
    with suppress(OSError):  # some network file systems do not tell
        free = shutil.disk_usage(folder).free / 2**20
        if needed > free:
            log.warning(
                "%s: %s to be trained %s about %s on the disk, and %s are free. Make room, or choose another folder "
                "with --output. If the disk fills up, the run ends, keeps what is finished, and continues with the "
                "same command.",
                folder,
                counted(len(waiting), "network"),
                "needs" if len(waiting) == 1 else "need",
                gigabytes(needed),
                gigabytes(free),
            )
