"""MLflow: a run for the study with its settings and metrics, and a run below it for each network."""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from casewise.plugins.tracking.study_keys import without_secrets
from casewise.plugins.tracking.units import RESULTS, TrackerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from casewise.plugins.tracking.units import Unit
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study

# What MLflow takes at once, and the length of a value that every server takes.
METRICS, PARAMS, LENGTH = 1000, 100, 500
RUN, UNIT, CONTENT = "casewise.run", "casewise.unit", "casewise.content"
# MLflow refuses its file store unless this is set, and reports its use to its makers unless that is.
SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_FILE_STORE": "true"}
# Without these a server that is down stops a run for minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class MLflow:
    """Sends units to a server or a store.

    Args:
        address: of the server or store; empty: that of MLFLOW_TRACKING_URI, else the folder `mlruns` beside the run's.
        run: identifies the run, so that nothing is sent twice.
    """

    def __init__(self, address: str, folder: RunFolder, study: Study, run: str) -> None:
        for name, value in (SETTINGS | PATIENCE).items():
            os.environ.setdefault(name, value)
        beside = (folder.path.resolve().parent / "mlruns").as_uri()
        uri = address or os.environ.get("MLFLOW_TRACKING_URI") or beside
        self.address = without_secrets(uri)
        self._run, self._title = run, folder.path.resolve().name
        with _failures(self.address):
            from mlflow.tracking import MlflowClient

            self._client = MlflowClient(tracking_uri=uri)
            experiment = self._client.get_experiment_by_name(study.name)
            self._experiment = experiment.experiment_id if experiment else self._client.create_experiment(study.name)

    def send(self, unit: Unit) -> None:
        """See `Tracker.send`."""
        with _failures(self.address):
            if unit.name == RESULTS:
                self._log(self._study_run(), unit)
                return
            present = self._runs_of(unit.name)
            for run in present:
                complete = run.data.tags.get(CONTENT) == unit.sha256 and run.info.status == "FINISHED"
                if complete:
                    return
                self._client.delete_run(run.info.run_id)  # interrupted, or of a network that was trained again
            tags = {"mlflow.parentRunId": self._study_run(), CONTENT: unit.sha256}
            self._log(self._create_run(unit.name, unit.name, tags), unit)

    def _study_run(self) -> str:
        """The run of the study, which is created if there is none."""
        present = self._runs_of(RESULTS)
        tags = {"casewise.report": f"{self._title}/report.html"}
        return str(present[0].info.run_id) if present else self._create_run(RESULTS, self._title, tags)

    def _runs_of(self, unit: str) -> list[Any]:
        query = f"tags.`{RUN}` = '{self._run}' and tags.`{UNIT}` = '{unit}'"
        return list(self._client.search_runs([self._experiment], query))

    def _create_run(self, unit: str, title: str, tags: dict[str, str]) -> str:
        tags = {RUN: self._run, UNIT: unit, **tags}
        return str(self._client.create_run(self._experiment, tags=tags, run_name=title).info.run_id)

    def _log(self, run: str, unit: Unit) -> None:
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        # MLflow refuses another value of a parameter; of a study that was extended, the tags have the present ones
        before = self._client.get_run(run).data.params
        facts = {_named(name): value[:LENGTH] for name, value in unit.facts.items()}
        params = [Param(name, value) for name, value in facts.items() if name not in before]
        for name, value in facts.items():
            if before.get(name, value) != value:
                self._client.set_tag(run, name, value)
        metrics = [Metric(_named(name), value, now, step) for name, value, step in unit.values]
        for start in range(0, len(params), PARAMS):
            self._client.log_batch(run, params=params[start : start + PARAMS])
        for start in range(0, len(metrics), METRICS):
            self._client.log_batch(run, metrics=metrics[start : start + METRICS])
        self._client.set_terminated(run)


def _named(name: str) -> str:
    """A name with signs that MLflow takes.

    >>> _named("oof/timm:vit@late/size/mae")
    'oof/timm:vit_late/size/mae'
    """
    return re.sub(r"[^\w.:/ -]", "_", name)


@contextmanager
def _failures(address: str) -> Iterator[None]:
    """Turn what MLflow and the network raise into a `TrackerError` with the reason."""
    try:
        yield
    except Exception as error:  # errors of databases and their drivers have no base class in common
        reason = without_secrets(re.sub(r"\s+", " ", str(error)) or type(error).__name__)
        raise TrackerError(f"{address}: {reason[:300]}{'…' if len(reason) > 300 else ''}") from error
