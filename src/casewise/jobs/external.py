"""What the trained networks of a run predict on another cohort; nothing is learned from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from casewise.cohort.labels import label_table
from casewise.jobs.build_model import network_of
from casewise.jobs.fingerprint import table_hash
from casewise.jobs.to_table import predicted
from casewise.modalities.dataset import PanelData, open_tiles
from casewise.models.weights import read_tensors
from casewise.predictions.table import check
from casewise.training.compute_plan import ComputePlan

if TYPE_CHECKING:
    from pathlib import Path

    from casewise.cohort.cohort import Cohort
    from casewise.jobs.plan import Job
    from casewise.modalities.store.store import TileStore
    from casewise.study.schema import Study


def predict_elsewhere(
    jobs: Sequence[Job], study: Study, cohort: Cohort, tiles: Path, store: TileStore, *, tell: Callable[[int], None]
) -> pd.DataFrame:
    """Rows of the stage 'external', one set a network, as the jobs' own folders keep them; done ones are read."""
    made_from = hashlib.sha256(
        f"{table_hash(cohort, study)} {store.address} {study.test_time_augmentation}".encode()
    ).hexdigest()
    data: PanelData | None = None
    tables = []
    for done, job in enumerate(jobs, start=1):
        file, mark = job.folder.external_predictions, job.folder.external_mark
        expected = f"{made_from} {job.fingerprint}"
        if not (mark.read_or_none() == expected and file.intact()):
            data = data or _panels(study, cohort, open_tiles(tiles, store.address))
            mark.remove()
            file.write(check(_rows(job, study, cohort, data)))
            mark.write(expected)
        tables.append(check(file.read()))
        tell(done)
    return pd.concat(tables, ignore_index=True)


def _panels(study: Study, cohort: Cohort, store: torch.Tensor) -> PanelData:
    truth = torch.from_numpy(label_table(cohort.panels, study).astype(np.float32))
    return PanelData(store, [list(map(int, t)) for t in cohort.panels["tiles"]], truth, study.panels)


def _rows(job: Job, study: Study, cohort: Cohort, data: PanelData) -> pd.DataFrame:
    record = job.folder.record.read()
    known = {name: record[name] for name in asdict(ComputePlan()) if name in record}
    choice = ComputePlan(**{**known, "channels_last": record["memory_format"] == "channels-last"})
    network = network_of(study, job.model)
    network.load_state_dict(read_tensors(job.folder.weights.verified()))
    form = torch.channels_last if choice.channels_last else torch.contiguous_format
    # a folder may come from a machine with a GPU
    device = choice.device if choice.device == "cpu" or torch.cuda.is_available() else "cpu"
    network = network.to(device).to(memory_format=form)  # type: ignore[call-overload]
    return predicted(network, data, cohort.panels, study, choice, stage="external", model=job.model, fold=job.fold)
