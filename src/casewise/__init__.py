"""casewise: honest image models for clinical studies, from a study file and a table of images.

```python
import casewise

run = casewise.fit(frame, "grades", target="grade")  # a study of a data frame; or, with a study file:
study = casewise.read_study("study.yaml")
run = casewise.run(study, "runs/grades")  # later: casewise.open_run("runs/grades")
run.metrics, run.predictions  # data frames
run.plot.roc()  # and other figures of the report
run.explain("P01/week4").figure()
run.predict("new-cases.csv")
casewise.compare(run, casewise.open_run("runs/other"))
```
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.analysis.comparison import compare
from casewise.analysis.run import Run
from casewise.errors import CasewiseError, unknown_attribute
from casewise.fit import fit
from casewise.run import reproduce, run
from casewise.version import __version__

if TYPE_CHECKING:
    from casewise.inference.model import TrainedModel
    from casewise.study.schema import Study

__all__ = ["CasewiseError", "Run", "__version__", "compare", "executing_on", "load_bundle", "open_run", "read_study"]
__all__ += ["fit", "reproduce", "run"]


def read_study(path: Path | str, **changes: Any) -> Study:
    """Read a study file with everything it extends; `changes` replace values of the file by key.

    Args:
        path: the study file; relative paths in it start at its folder.
        changes: values by key, such as `seed=1`, with whole sections as dictionaries or models.

    Raises:
        StudyError: listing every problem by key.
    """
    from casewise.study.loading import read_study as read

    return read(path, **changes)


def executing_on(backend: str, address: str | None = None) -> AbstractContextManager[Any]:
    """Train the networks of every run in a `with` block on other machines.

    Args:
        backend: `local`, this machine, or `ray`, a Ray cluster that shares the run folders.
        address: the cluster's address, `HOST:PORT` or `auto` for this machine's; by default Ray is started here.

    Raises:
        CasewiseError: there is no such back end, or the cluster cannot be reached.
    """
    from casewise.jobs.backends import executing_on as executing

    return executing(backend, address)


def open_run(folder: Path | str) -> Run:
    """Open a finished run.

    Args:
        folder: the run folder, such as `runs/grades`.

    Raises:
        RunError: the folder holds no finished run, or only the comparison by image of one, or a file of it is damaged.
    """
    return Run.open(folder)


def load_bundle(folder: Path | str, *, trust: Path | str | None = None) -> TrainedModel:
    """Load a bundle (a folder or zip file), the networks of a run folder, or one network's folder, for new cases.

    Args:
        trust: the file of a public key, with whose private key the bundle must be signed.

    Raises:
        RunError: there is no trained network, a file was changed, or the networks do not predict the same targets.
    """
    from casewise.inference.model import load_bundle as load

    return load(folder, trust=trust)


if not TYPE_CHECKING:  # with it, a type checker would accept every name

    def __getattr__(name: str) -> Any:
        """Answers a missing name with the nearest one."""
        raise AttributeError(unknown_attribute("casewise", name, () if name.startswith("_") else __all__))
