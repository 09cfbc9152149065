"""Monitoring of a node from its folder: what was recorded of its studies, outcomes, and pictures of unlike ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.table import Problems, read_text_table
from casewise.errors import CasewiseError
from casewise.inference.model import load_bundle
from casewise.plugins.node.monitoring.outcomes import compared_outcomes, read_outcomes
from casewise.plugins.node.monitoring.page import Watched, WrittenMonitoring, write_monitoring
from casewise.plugins.node.queue import StudyQueue, study_label
from casewise.plugins.node.worker import PICTURES

if TYPE_CHECKING:
    from casewise.plugins.node.settings import NodeSettings

PAGE, ACCESSION = "monitoring.html", "accession"


def monitor_node(settings: NodeSettings, path: Path | None = None) -> WrittenMonitoring:
    """Write the page of monitoring of a node, by default into its folder.

    Raises:
        CasewiseError: nothing was received yet, the bundle or the table of outcomes cannot be read, or the page cannot
            be written.
    """
    folder, outcomes = settings.folder, settings.monitor.outcomes
    if not (folder / "queue.sqlite").exists():
        raise CasewiseError(f"{folder} has no queue. Start the node first: `casewise node start`.")
    model = load_bundle(settings.bundle, trust=settings.trust)
    queue = StudyQueue(folder)
    try:
        observations = queue.observations()
        compared = None
        if outcomes and outcomes.exists():
            cells, _ = read_text_table(outcomes, Problems())
            accessions = accessions_of(queue) if ACCESSION in cells else None
            compared = compared_outcomes(read_outcomes(outcomes, observations, accessions), observations)
    finally:
        queue.close()
    watched = Watched(
        str(model.about.get("title") or model.about.get("name") or "the model"), settings.monitor.baseline
    )
    pictures = {picture.stem: picture for picture in (folder / PICTURES).glob("*.png")}
    return write_monitoring(
        path or folder / PAGE, observations, model.limits, watched=watched, outcomes=compared, pictures=pictures
    )


def accessions_of(queue: StudyQueue) -> dict[str, str]:
    """The label of each study by the hash of its accession number."""
    return {detail: study_label(uid) for _, uid, event, detail in queue.events() if event == ACCESSION}
