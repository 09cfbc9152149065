"""Monitoring of a node from its folder: what was recorded of its studies, outcomes, and pictures of unlike ones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.inference.model import load_bundle
from casewise.plugins.node.monitoring.observation import PAGE, PICTURES, salt_of
from casewise.plugins.node.monitoring.outcomes import OutcomeTable, Window, compared_outcomes, read_outcomes
from casewise.plugins.node.monitoring.page import WrittenMonitoring, write_monitoring
from casewise.plugins.node.monitoring.summary import Watched
from casewise.plugins.node.state import state_of
from casewise.run_folder import BundleFolder

if TYPE_CHECKING:
    from casewise.inference.model import TrainedModel
    from casewise.plugins.node.settings import NodeSettings


def monitor_node(settings: NodeSettings, path: Path | None = None) -> WrittenMonitoring:
    """Write the page of monitoring of a node, by default into its folder; studies of other bundles are left out.

    Raises:
        CasewiseError: nothing was received yet, the bundle or the table of outcomes cannot be read, or the page cannot
            be written.
    """
    folder, monitor = settings.folder, settings.monitor
    since = monitor.since_seconds
    state = state_of(folder)
    try:
        recorded, accessions = dict(state.observations()), state.accessions()
        model = load_bundle(settings.bundle, trust=settings.trust)
        recent = state.recent(model.checksum, since)
    finally:
        state.close()
    own = [(name, each) for name, each in recorded.items() if each.bundle == model.checksum]
    outcomes = None
    if monitor.outcomes:
        exists = monitor.outcomes.exists()  # a table that is still to come has no rows
        table = read_outcomes(monitor.outcomes, own, accessions, salt_of(folder)) if exists else OutcomeTable()
        outcomes = compared_outcomes(table, own, errors_of(model), Window(since, time.time(), monitor.outcomes_after))
    title = str(model.about.get("title") or model.about.get("name") or "the model")
    watched = Watched(title, monitor.baseline, since, len(recorded) - len(own), recent)
    pictures = {picture.stem: picture for picture in (folder / PICTURES).glob("*.png")}
    return write_monitoring(
        path or folder / PAGE, own, model.limits, watched=watched, outcomes=outcomes, pictures=pictures
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
