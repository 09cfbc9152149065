"""casewise: honest image models for clinical studies, from a study file and a table of images.

import casewise

study = casewise.read_study("study.yaml")
run = casewise.run(study, "runs/grades")
run.metrics, run.predictions          # data frames
run.report                            # the path of the report
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.run import Run, open_run, run

if TYPE_CHECKING:
    from casewise.study.schema import Study

__all__ = ["Run", "open_run", "read_study", "run"]
__version__ = "0.1.0"


def read_study(path: Path | str, **changes: Any) -> Study:
    """Read a study file with everything it extends; `changes` replace values of the file by key.

    Raises:
        StudyError: listing every problem by key.
    """
    from casewise.study.loading import read_study as read

    return read(path, **changes)
