"""Export a trained model: open it, take cases of its run for the check, and write graphs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.console import Show, Silent
from casewise.errors import CasewiseError
from casewise.export.formats import format_named
from casewise.export.parity import MOST_PANELS
from casewise.export.write import Export, RunFacts, export_model
from casewise.inference.model import load_bundle
from casewise.modalities.registry import modality_of
from casewise.pipeline.explain import open_finished
from casewise.run_folder import RunFolder

if TYPE_CHECKING:
    from casewise.export.learner import TrainedLearner
    from casewise.modalities.base import FittedPreprocessing, PanelDataset


def export(
    path: Path, output: Path, *, to: str = "onnx", learners: Sequence[str] = (), show: Show | None = None
) -> Export:
    """Export the learners of a run folder or a bundle; arguments as of `casewise.export.write.export_model`.

    Raises:
        CasewiseError: there is no trained model, or it cannot be exported.
    """
    show = show or Silent()
    format_named(to)
    model = load_bundle(path)
    folder = RunFolder(path)
    is_run = path.is_dir() and folder.study.exists() and folder.splits.exists()
    with folder.lock() if is_run else nullcontext():
        facts = _run_facts(folder) if is_run else RunFacts(why_random="a bundle holds no cases")
        return export_model(model, Path(output), to=to, learners=learners, facts=facts, show=show)


def _run_facts(folder: RunFolder) -> RunFacts:
    """Cases of the run for the check, spread over its table; without its table or images, the reason."""
    stackers = folder.stackers.read()
    try:
        prepared = open_finished(folder).prepared
    except CasewiseError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        return RunFacts(why_random=f"the cases of the run cannot be read ({reason})", stackers=stackers)
    panels = prepared.cohort.panels
    rows = np.unique(np.linspace(0, len(panels) - 1, min(MOST_PANELS, len(panels))).round().astype(int))

    def cases(learner: TrainedLearner, fitted: FittedPreprocessing) -> PanelDataset:
        study = prepared.study.of_learner(learner.name)
        return modality_of(study).dataset(prepared.store, study, panels.iloc[rows], None, fitted)

    return RunFacts(cases, stackers=stackers)
