"""casewise's side of the comparison of times: a whole recipe from image files to held-out predictions, in one process.

Nothing is prepared beforehand: images are decoded into a tile store, the compute plan is measured unless `memo` holds
it, and the network is trained as a job of a run trains it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from casewise.modalities.dataset import PanelData, open_tiles
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.store_builder import prepare
from casewise.models.build_model import load_first_weights, network_of
from casewise.models.forward import predict
from casewise.models.outputs import outputs_of
from casewise.study.loading import build_study
from casewise.training.compute_plan import choose
from casewise.training.cost import keep_memory
from casewise.training.loop import TrainingContext, standardise
from casewise.training.stages import learn


def train(
    task: dict[str, Any], train_rows: Any, held_out: Any, classes: list[str]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train by `task["recipe"]` and `task["panels"]`; return the held-out probabilities (P, K), and facts."""
    keep_memory()
    torch.set_num_threads(task["threads"])
    study = build_study(
        {
            "name": "time-to-accuracy",
            "cohort": "table",
            "images": {"size": task["side"]},
            "panels": {"by": "image", **task["panels"]},
            "targets": {"label": {"classes": classes}},
            "backbones": [task["network"]],
            "weights_dir": str(Path(task["weights"]).parent),
            "recipe": task["recipe"],
            "seed": task["seed"],
            "compute": task.get("compute", {}),
        },
        source=__file__,
        folder=Path(),
    )
    torch.manual_seed(task["seed"])
    network = network_of(study, task["network"])
    load_first_weights(network, study, task["network"], [])
    paths = [Path(task["data"]) / path for path in [*train_rows["path"], *held_out["path"]]]
    labels = [float(classes.index(label)) for label in [*train_rows["label"], *held_out["label"]]]
    truth, outputs, batch = torch.tensor(labels).unsqueeze(1), outputs_of(study), study.recipe.batch_size
    with tempfile.TemporaryDirectory() as temporary:
        # studies find their default in the same way: bars only where networks shall see the shape
        preparation = Preparation(size=task["side"], fit="stretch")
        store = prepare(paths, preparation, Path(temporary) / "tiles")
        tiles = open_tiles(Path(temporary) / "tiles", store.address)
        data = PanelData(tiles, [[row] for row in range(len(paths))], truth, study.panels)
        train_data = data.subset(range(len(train_rows)))
        memo = Path(task["memo"]) if task.get("memo") else None
        kept = study.recipe.keeps_statistics
        plan = choose(
            network, study.compute, side=task["side"], batch=batch, threads=task["threads"], memo=memo, kept=kept
        )
        torch.set_num_threads(plan.threads)
        standardise(network, train_data.truth, outputs)
        learned = learn(
            network,
            study.recipe,
            train_data,
            data.subset([0]),
            train_rows["subject"].astype(str).tolist(),
            TrainingContext(outputs, Path(temporary), task["seed"], plan, keep="last"),
        )
        values = predict(
            learned.network,
            data.subset(range(len(train_rows), len(paths))),
            outputs,
            batch=batch,
            channels_last=plan.channels_last,
            bf16=plan.precision == "bf16",
            flips=bool(task.get("mirrored")),
        )
    return values.numpy(), {"plan": plan.described(), "phases": [phase["way"] for phase in learned.phases]}
