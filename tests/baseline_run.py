"""A run of baselines alone on chest phantoms, with a small encoder of random weights; it takes a few seconds."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from casewise.models.encoders import build_encoder
from casewise.plugins.phantoms.chest import make_chest
from casewise.run import Run, run
from casewise.study.loading import build_study
from casewise.study.weight_files import file_name
from tests.chest_study import SMALL, THREE

ENCODER = "timm:test_resnet"


def run_baselines(folder: Path) -> Run:
    """40 films of 64 pixels, a subject each, a quarter of them test; two folds and three learners, and their mean."""
    torch.manual_seed(5)
    state = build_encoder({"name": ENCODER}, 64).network.body.state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{file_name(ENCODER)}.safetensors")
    table = make_chest(folder / "films", subjects=40, size=(64, 64), seed=3)
    values = {key: value for key, value in SMALL.items() if key not in ("baselines", "recipe", "weights")}
    values |= {"cohort": table, "targets": {"label": THREE}, "backbones": [], "encoders": [ENCODER]}
    values |= {"weights_dir": str(folder), "stack": ["mean"], "stack_baselines": True}
    values["evaluation"] = {**SMALL["evaluation"], "counterfactual_cases": 6}
    study = build_study(values, source="the test's study", folder=table.parent)
    return run(study, folder / "run")
