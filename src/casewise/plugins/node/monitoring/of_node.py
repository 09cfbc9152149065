"""Monitoring of a node from its folder: what was recorded of its studies, outcomes, and pictures of unlike ones."""

from __future__ import annotations

from datetime import UTC, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.table import Problems, read_text_table
from casewise.errors import CasewiseError
from casewise.inference.model import load_bundle
from casewise.plugins.node.monitoring.observation import PAGE, PICTURES
from casewise.plugins.node.monitoring.outcomes import compared_outcomes, read_outcomes
from casewise.plugins.node.monitoring.page import Watched, WrittenMonitoring, write_monitoring
from casewise.plugins.node.queue.study_queue import StudyQueue
from casewise.run_folder import BundleFolder

if TYPE_CHECKING:
    from casewise.inference.model import TrainedModel
    from casewise.plugins.node.settings import NodeSettings


def monitor_node(settings: NodeSettings, path: Path | None = None) -> WrittenMonitoring:
    """Write the page of monitoring of a node, by default into its folder.

    Raises:
        CasewiseError: nothing was received yet, the bundle or the table of outcomes cannot be read, or the page cannot
            be written.
    """
    folder, outcomes, accepted = settings.folder, settings.monitor.outcomes, settings.monitor.since
    since = datetime.combine(accepted, time(), UTC).timestamp() if accepted else 0.0
    if not (folder / "queue.sqlite").exists():
        raise CasewiseError(f"{folder} has no queue. Start the node first: `casewise node start`.")
    model = load_bundle(settings.bundle, trust=settings.trust)
    queue = StudyQueue(folder)
    try:
        observations = queue.observations()
        compared = None
        if outcomes and outcomes.exists():
            cells, _ = read_text_table(outcomes, Problems())
            accessions = queue.accessions() if "accession" in cells else None
            rows = read_outcomes(outcomes, observations, accessions)
            compared = compared_outcomes(rows, observations, errors_of(model), since)
    finally:
        queue.close()
    title = str(model.about.get("title") or model.about.get("name") or "the model")
    watched = Watched(title, settings.monitor.baseline, since)
    pictures = {picture.stem: picture for picture in (folder / PICTURES).glob("*.png")}
    return write_monitoring(
        path or folder / PAGE, observations, model.limits, watched=watched, outcomes=compared, pictures=pictures
    )


def errors_of(model: TrainedModel) -> dict[str, float]:
    """By target the out-of-fold error of the reported learner: the mean absolute one, or the share of wrong classes."""
    folder = BundleFolder(Path(model.unpacked.name) if model.unpacked else model.folder)
    figures = folder.metrics.read().get("metrics", {}).get("oof", {}).get(model.headline, {})
    errors = {}
    for target, of_target in figures.items():
        mae, accuracy = (of_target.get(name, {}).get("value") for name in ("mae", "accuracy"))
        if accuracy is not None:
            errors[target] = 1 - float(accuracy)
        elif mae is not None:
            errors[target] = float(mae)
    return errors
